//! Where do the public keys come from, and how do they stay fresh?
//!
//! One task fetches; callers read the last good set and never wait for it, save when a token names a key
//! that set lacks. That is how rotation is noticed at once. Strangers can make up key names, so it leads to
//! at most one fetch in [`Pace::min_gap`]. The task, not the caller, fetches: a client that hangs up in the middle
//! would otherwise cancel the one fetch that others wait for.

use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use url::Url;

use super::key::{JwksDocument, KeyError, KeySet};
use crate::delivery::fetch::{FetchError, Fetcher};
use crate::store::chain;

#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    #[error("cannot fetch {what} from {url}")]
    Fetch { what: &'static str, url: String, source: FetchError },
    #[error("the key set at {url} {source}")]
    Keys { url: String, source: KeyError },
    #[error("the metadata at {url} is of another issuer: {found}")]
    Issuer { url: String, found: String },
    #[error("the issuer's metadata names {0}, which is not an https URL")]
    NotHttps(&'static str),
    #[error("the issuer {0} is not a URL")]
    NotUrl(String),
}

/// Who is asked for keys.
pub enum Source {
    Jwks(Url),
    /// An OAuth issuer, exactly as its tokens spell it; RFC 8414 leads to its keys.
    Issuer(String),
}

/// How often and how patiently; a struct so that tests need not wait.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Keys that were withdrawn are good for this long at most while the source answers.
    pub max_age: Duration,
    /// Between two fetches, whatever the reason.
    pub min_gap: Duration,
    /// How long a call waits for a fetch that it caused: a little more than a fetch takes at most.
    pub patience: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Pace {
            max_age: Duration::from_secs(10 * 60),
            min_gap: Duration::from_secs(30),
            patience: Duration::from_secs(6),
        }
    }
}

/// What one round of fetching gave.
struct Loaded {
    keys: KeySet,
    token_endpoint: Option<String>,
}

/// The keys of one moment.
#[derive(Clone)]
pub struct Snapshot {
    pub keys: Arc<KeySet>,
    /// Rises with each set that was fetched.
    pub generation: u64,
    /// The last try, good or not.
    tried_at: Instant,
}

/// Keys that are fetched, and fetched again.
pub struct FetchedKeys {
    current: watch::Receiver<Snapshot>,
    wanted: Arc<Notify>,
    pace: Pace,
    pub token_endpoint: Option<String>,
}

impl FetchedKeys {
    /// Fails when the first fetch does: an API that can let nobody in should say so when it starts. The task
    /// ends with the token, or when the keys are dropped.
    pub async fn start(source: Source, pace: Pace, stop: CancellationToken) -> Result<FetchedKeys, SourceError> {
        let fetcher = Fetcher::new().map_err(|source| SourceError::Fetch { what: "keys", url: "-".into(), source })?;
        let first = source.load(&fetcher).await?;
        let snapshot = Snapshot { keys: Arc::new(first.keys), generation: 1, tried_at: Instant::now() };
        let (sender, current) = watch::channel(snapshot);
        let wanted = Arc::new(Notify::new());
        tokio::spawn(keep_fresh(source, fetcher, pace, sender, wanted.clone(), stop));
        Ok(FetchedKeys { current, wanted, pace, token_endpoint: first.token_endpoint })
    }

    pub fn current(&self) -> Snapshot {
        self.current.borrow().clone()
    }

    /// A set that was fetched after this call, if the pace allows one.
    pub async fn newer(&self) -> Option<Snapshot> {
        let mut updates = self.current.clone();
        let tried_at = updates.borrow_and_update().tried_at;
        if tried_at.elapsed() < self.pace.min_gap {
            return None;
        }
        self.wanted.notify_one();
        tokio::time::timeout(self.pace.patience, updates.changed()).await.ok()?.ok()?;
        Some(updates.borrow().clone())
    }
}

async fn keep_fresh(
    source: Source,
    fetcher: Fetcher,
    pace: Pace,
    sender: watch::Sender<Snapshot>,
    wanted: Arc<Notify>,
    stop: CancellationToken,
) {
    let mut failing = false;
    loop {
        let last = sender.borrow().tried_at;
        // A source that failed is asked again sooner than one that answered.
        let due = last + if failing { pace.min_gap.min(pace.max_age) } else { pace.max_age };
        tokio::select! {
            () = stop.cancelled() => return,
            () = sender.closed() => return,
            () = tokio::time::sleep_until(due) => {}
            () = wanted.notified() => if last.elapsed() < pace.min_gap { continue },
        }
        let loaded = source.load(&fetcher).await;
        match &loaded {
            Ok(_) if failing => tracing::info!("the keys for tokens could be fetched again"),
            Ok(_) => {}
            // `error` on the first failure only: somebody must act before the keys rotate.
            Err(error) if !failing => {
                tracing::error!(error = chain(error), "cannot fetch the keys for tokens; the last ones stay good");
            }
            Err(error) => tracing::debug!(error = chain(error), "still cannot fetch the keys for tokens"),
        }
        failing = loaded.is_err();
        sender.send_modify(|snapshot| {
            snapshot.tried_at = Instant::now();
            if let Ok(loaded) = loaded {
                snapshot.keys = Arc::new(loaded.keys);
                snapshot.generation += 1;
            }
        });
    }
}

/// RFC 8414 section 2, of which we need three.
#[derive(Deserialize)]
struct Metadata {
    issuer: String,
    jwks_uri: Url,
    token_endpoint: Option<Url>,
}

impl Source {
    async fn load(&self, fetcher: &Fetcher) -> Result<Loaded, SourceError> {
        match self {
            Source::Jwks(url) => Ok(Loaded { keys: fetch_keys(fetcher, url).await?, token_endpoint: None }),
            Source::Issuer(issuer) => {
                let metadata = find_metadata(fetcher, issuer).await?;
                // An issuer reached by https must not hand us over to plain http.
                if issuer.starts_with("https://") {
                    if metadata.jwks_uri.scheme() != "https" {
                        return Err(SourceError::NotHttps("jwks_uri"));
                    }
                    if metadata.token_endpoint.as_ref().is_some_and(|url| url.scheme() != "https") {
                        return Err(SourceError::NotHttps("token_endpoint"));
                    }
                }
                let keys = fetch_keys(fetcher, &metadata.jwks_uri).await?;
                Ok(Loaded { keys, token_endpoint: metadata.token_endpoint.map(String::from) })
            }
        }
    }
}

async fn fetch_keys(fetcher: &Fetcher, url: &Url) -> Result<KeySet, SourceError> {
    let document: JwksDocument = fetcher.json(url).await.map_err(|source| SourceError::Fetch {
        what: "the key set",
        url: shown(url),
        source,
    })?;
    KeySet::from_jwks(document).map_err(|source| SourceError::Keys { url: shown(url), source })
}

/// RFC 8414's place first; OpenID Connect's where there is none.
async fn find_metadata(fetcher: &Fetcher, issuer: &str) -> Result<Metadata, SourceError> {
    let [first, second] = metadata_urls(issuer)?;
    let (url, metadata) = match fetcher.json::<Metadata>(&first).await {
        Ok(metadata) => (first, metadata),
        Err(FetchError::Status(_) | FetchError::Json(_)) => match fetcher.json::<Metadata>(&second).await {
            Ok(metadata) => (second, metadata),
            Err(source) => {
                return Err(SourceError::Fetch { what: "the issuer's metadata", url: shown(&second), source });
            }
        },
        Err(source) => return Err(SourceError::Fetch { what: "the issuer's metadata", url: shown(&first), source }),
    };
    // RFC 8414 section 3.3: identical, or whoever serves that path passes for the issuer.
    if metadata.issuer != issuer {
        return Err(SourceError::Issuer { url: shown(&url), found: metadata.issuer });
    }
    Ok(metadata)
}

/// RFC 8414 puts its well-known part between host and path, OpenID Connect puts its own at the end.
fn metadata_urls(issuer: &str) -> Result<[Url; 2], SourceError> {
    let mut inserted = Url::parse(issuer).map_err(|_| SourceError::NotUrl(issuer.to_owned()))?;
    if inserted.cannot_be_a_base() || inserted.query().is_some() || inserted.fragment().is_some() {
        return Err(SourceError::NotUrl(issuer.to_owned()));
    }
    let path = inserted.path().trim_end_matches('/').to_owned();
    let mut appended = inserted.clone();
    inserted.set_path(&format!("/.well-known/oauth-authorization-server{path}"));
    appended.set_path(&format!("{path}/.well-known/openid-configuration"));
    Ok([inserted, appended])
}

/// A URL for messages: credentials and query stay out.
fn shown(url: &Url) -> String {
    format!("{}://{}{}", url.scheme(), url.host_str().unwrap_or_default(), url.path())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_stands_where_the_standards_say() {
        for (issuer, oauth, openid) in [
            (
                "https://idp.example",
                "https://idp.example/.well-known/oauth-authorization-server",
                "https://idp.example/.well-known/openid-configuration",
            ),
            (
                "https://idp.example/realms/one/",
                "https://idp.example/.well-known/oauth-authorization-server/realms/one",
                "https://idp.example/realms/one/.well-known/openid-configuration",
            ),
        ] {
            let [first, second] = metadata_urls(issuer).expect("an issuer");
            assert_eq!((first.as_str(), second.as_str()), (oauth, openid));
        }
        for wrong in ["idp.example", "https://idp.example/?x=1", "mailto:a@b", ""] {
            assert!(metadata_urls(wrong).is_err(), "{wrong:?}");
        }
    }
}
