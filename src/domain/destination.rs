//! What is a destination, and what may its URL be?

use std::time::Duration;

use chrono::{DateTime, Utc};
use url::Url;

use super::{DestinationId, Headers, RetryPolicy};

/// A registered URL and how to deliver to it.
#[derive(Debug, Clone)]
pub struct Destination {
    pub id: DestinationId,
    pub tenant: Option<String>,
    pub state: DestinationState,
    pub settings: DestinationSettings,
    /// Whether its requests carry a `v1` (HMAC) signature, too.
    pub has_hmac_secret: bool,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
}

/// What a client chooses when it registers or changes a destination.
#[derive(Debug, Clone, PartialEq)]
pub struct DestinationSettings {
    /// As the client wrote it, without a fragment; [`parse_url`] tells what is requested.
    pub url: String,
    pub description: Option<String>,
    pub headers: Headers,
    pub on_exhausted: OnExhausted,
    /// `None`: the worker's `--retry` and `--retry-delay`.
    pub retry: Option<RetryPolicy>,
    /// From the start of a try to the end of its answer.
    pub timeout: Duration,
    /// Starts of requests are at least 1/max seconds apart.
    pub max_per_second: Option<f64>,
    /// Past this many queued messages a new one is refused.
    pub max_queue_depth: Option<i64>,
}

impl DestinationSettings {
    pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);

    /// Everything at its default.
    pub fn new(url: String) -> DestinationSettings {
        DestinationSettings {
            url,
            description: None,
            headers: Headers::default(),
            on_exhausted: OnExhausted::Discard,
            retry: None,
            timeout: Self::DEFAULT_TIMEOUT,
            max_per_second: None,
            max_queue_depth: None,
        }
    }
}

/// What a worker needs to know to deliver.
#[derive(Debug, Clone)]
pub struct Policy {
    pub url: Url,
    pub headers: Headers,
    pub on_exhausted: OnExhausted,
    /// `None`: the worker's `--retry` and `--retry-delay`.
    pub retry: Option<RetryPolicy>,
    /// From the start of a try to the end of its answer.
    pub timeout: Duration,
    /// Starts of requests are at least 1/max seconds apart.
    pub max_per_second: Option<f64>,
    /// For the optional `v1` (HMAC) signature beside `v1a`.
    pub hmac_secret: Option<HmacSecret>,
}

/// Shown once, to whoever asked for it.
#[derive(Clone, PartialEq, Eq)]
pub struct HmacSecret(pub Vec<u8>);

impl std::fmt::Debug for HmacSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HmacSecret(***)")
    }
}

/// What a client last asked for, or a receiver's 410.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DestinationState {
    Active,
    Paused,
    Disabled,
}

/// What becomes of the queue when its head is out of tries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnExhausted {
    /// A dead letter, and on with the next.
    Discard,
    /// Stop until a person decides.
    Hold,
}

/// Why a queue moves or does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueueState {
    Idle,
    Delivering,
    Backoff,
    Held,
    Paused,
    Disabled,
}

macro_rules! names {
    ($type:ident { $($variant:ident = $name:literal),+ $(,)? }) => {
        impl $type {
            /// Its name in JSON and SQL.
            pub fn as_str(self) -> &'static str {
                match self { $($type::$variant => $name),+ }
            }

            /// The other way; `None` for another text.
            pub fn from_name(name: &str) -> Option<Self> {
                match name { $($name => Some($type::$variant),)+ _ => None }
            }
        }
    };
}
pub(super) use names;

names!(DestinationState { Active = "active", Paused = "paused", Disabled = "disabled" });
names!(OnExhausted { Discard = "discard", Hold = "hold" });
names!(QueueState {
    Idle = "idle",
    Delivering = "delivering",
    Backoff = "backoff",
    Held = "held",
    Paused = "paused",
    Disabled = "disabled",
});

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    #[error("not an absolute URL: {0}")]
    Syntax(String),
    #[error("the scheme must be http or https")]
    Scheme,
    #[error("the URL has no host")]
    Host,
    #[error("the URL carries credentials; put them into a header instead")]
    Credentials,
    #[error("the URL is longer than 2048 characters")]
    Length,
}

/// Checks what can be told from the text alone; where it leads is the address guard's question.
pub fn parse_url(text: &str) -> Result<Url, UrlError> {
    if text.len() > 2048 {
        return Err(UrlError::Length);
    }
    // The URL standard trims spaces and drops tabs and newlines; a client who sends them made a mistake.
    if text.chars().any(|c| c.is_ascii_control() || c == ' ') {
        return Err(UrlError::Syntax("it has spaces or control characters".to_owned()));
    }
    let mut url = Url::parse(text).map_err(|error| match error {
        url::ParseError::EmptyHost => UrlError::Host,
        other => UrlError::Syntax(other.to_string()),
    })?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(UrlError::Scheme);
    }
    if url.host_str().is_none_or(str::is_empty) {
        return Err(UrlError::Host);
    }
    if !url.username().is_empty() || url.password().is_some() || has_userinfo(text) {
        return Err(UrlError::Credentials);
    }
    // Never sent, and must not make two URLs of one.
    url.set_fragment(None);
    Ok(url)
}

/// `http://@host/` parses to an empty user name: still a userinfo part, and a trick more often than not.
fn has_userinfo(text: &str) -> bool {
    text.split_once(':')
        .map(|(_, rest)| rest.trim_start_matches(['/', '\\']))
        .and_then(|rest| rest.split(['/', '\\', '?', '#']).next())
        .is_some_and(|authority| authority.contains('@'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_http_with_a_host_and_nothing_secret() {
        for good in
            ["http://example.com", "https://example.com:8443/a?b=c", "http://[::1]:9000/x", "https://münchen.example/"]
        {
            assert!(parse_url(good).is_ok(), "{good}");
        }
        for (bad, expected) in [
            ("ftp://example.com", UrlError::Scheme),
            ("javascript:alert(1)", UrlError::Scheme),
            ("file:///etc/passwd", UrlError::Scheme),
            ("http://", UrlError::Host),
            ("http://user@example.com", UrlError::Credentials),
            ("http://user:pw@example.com", UrlError::Credentials),
            ("http://@example.com", UrlError::Credentials),
            ("http:\\\\@example.com", UrlError::Credentials),
        ] {
            assert_eq!(parse_url(bad), Err(expected), "{bad}");
        }
        for bad in [
            "",
            "example.com",
            "/x",
            "http://a b/",
            "http://exa\nmple.com",
            "http://:80",
            "http://[::1",
            "http://x:99999",
        ] {
            assert!(parse_url(bad).is_err(), "{bad}");
        }
        assert_eq!(parse_url(&format!("http://example.com/{}", "a".repeat(2048))), Err(UrlError::Length));
    }

    #[test]
    fn an_at_sign_in_the_path_is_not_a_credential() {
        assert!(parse_url("https://example.com/@someone?x=a@b").is_ok());
    }
}
