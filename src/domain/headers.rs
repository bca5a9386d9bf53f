//! Which request headers may a client choose, and what makes a set of them valid?

use std::collections::BTreeMap;

use http::{HeaderName, HeaderValue};

/// Headers that are valid for HTTP and free to be chosen by clients. Names compare without case and come
/// back as they were written.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Headers(BTreeMap<String, Header>);

#[derive(Clone, PartialEq, Eq)]
struct Header {
    /// As the client wrote it; the key is the same in lower case.
    name: String,
    value: String,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    #[error("`{0}` is not a header name")]
    Name(String),
    #[error("`{0}` is set by Orderly or by the connection")]
    Reserved(String),
    #[error("`{0}` stands twice, in different case")]
    Twice(String),
    #[error("the value of `{0}` has characters that a header cannot carry")]
    Value(String),
    #[error("more than 64 headers, or more than 16 KiB of them")]
    TooMany,
}

/// Set by Orderly itself, or meaningful to one connection only (RFC 9110, section 7.6.1).
const RESERVED: [&str; 13] = [
    "host",
    "content-length",
    "content-type",
    "user-agent",
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

impl Headers {
    /// Checks names and values: at most 64 headers and 16 KiB, none that Orderly or the connection sets.
    pub fn parse(entries: impl IntoIterator<Item = (String, String)>) -> Result<Headers, HeaderError> {
        let mut headers = BTreeMap::new();
        let mut bytes = 0;
        for (name, value) in entries {
            let parsed = HeaderName::from_bytes(name.as_bytes()).map_err(|_| HeaderError::Name(name.clone()))?;
            let lower = parsed.as_str().to_owned();
            if RESERVED.contains(&lower.as_str()) || lower.starts_with("webhook-") || lower.starts_with("orderly-") {
                return Err(HeaderError::Reserved(name));
            }
            let plain = value.bytes().all(|b| b == b'\t' || (b' '..=b'~').contains(&b));
            if !plain || value.trim() != value || HeaderValue::from_str(&value).is_err() {
                return Err(HeaderError::Value(name));
            }
            bytes += lower.len() + value.len();
            if headers.len() >= 64 || bytes > 16 * 1024 {
                return Err(HeaderError::TooMany);
            }
            if headers.contains_key(&lower) {
                return Err(HeaderError::Twice(name));
            }
            headers.insert(lower, Header { name, value });
        }
        Ok(Headers(headers))
    }

    /// What was checked before it was stored: no rule that came later may stop a delivery.
    pub fn from_stored(entries: BTreeMap<String, String>) -> Headers {
        Headers(entries.into_iter().map(|(name, value)| (name.to_ascii_lowercase(), Header { name, value })).collect())
    }

    /// Names in lower case, as they are sent.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, header)| (name.as_str(), header.value.as_str()))
    }

    /// Names as they were written, as they are shown and stored.
    pub fn iter_as_written(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.values().map(|header| (header.name.as_str(), header.value.as_str()))
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(&name.to_ascii_lowercase()).map(|header| header.value.as_str())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// As JSON, for storage.
    pub fn to_json(&self) -> String {
        let entries: BTreeMap<&str, &str> = self.iter_as_written().collect();
        serde_json::to_string(&entries).expect("a map of strings is always JSON")
    }
}

/// Values are secrets: only names are shown.
impl std::fmt::Debug for Headers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(name: &str, value: &str) -> Result<Headers, HeaderError> {
        Headers::parse([(name.to_owned(), value.to_owned())])
    }

    #[test]
    fn clients_choose_only_what_is_theirs() {
        for name in ["X-Key", "authorization", "x-webhook-id", "Accept"] {
            assert!(parse(name, "v").is_ok(), "{name}");
        }
        for name in [
            "webhook-id",
            "Webhook-Anything",
            "orderly-epoch",
            "Host",
            "content-TYPE",
            "te",
            "upgrade",
            "Proxy-Authorization",
        ] {
            assert_eq!(parse(name, "v"), Err(HeaderError::Reserved(name.to_owned())));
        }
        for name in ["", "a b", "a:b", "ä", "x\n"] {
            assert_eq!(parse(name, "v"), Err(HeaderError::Name(name.to_owned())));
        }
        for value in ["a\r\nb", "\0", "ä", " a", "a ", "\u{7f}"] {
            assert_eq!(parse("x", value), Err(HeaderError::Value("x".to_owned())), "{value:?}");
        }
        let twice = [("X-A".to_owned(), "1".to_owned()), ("x-a".to_owned(), "2".to_owned())];
        assert_eq!(Headers::parse(twice), Err(HeaderError::Twice("x-a".to_owned())));
    }

    #[test]
    fn names_keep_their_spelling_and_compare_without_case() {
        let headers = parse("X-Key", "v").expect("valid");
        assert_eq!(headers.to_json(), r#"{"X-Key":"v"}"#);
        assert_eq!(headers.iter().next(), Some(("x-key", "v")));
        assert_eq!(headers.get("x-KEY"), Some("v"));
        let stored = serde_json::from_str(&headers.to_json()).expect("JSON");
        assert_eq!(Headers::from_stored(stored), headers);
    }

    #[test]
    fn values_are_not_shown_in_debug() {
        let headers = parse("authorization", "Bearer secret").expect("valid");
        assert!(!format!("{headers:?}").contains("secret"));
    }
}
