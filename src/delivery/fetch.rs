//! How is a small JSON document had from a place the operator named?
//!
//! The address guard of deliveries does not apply: these URLs come from the settings, not from strangers,
//! and an identity provider often stands on a private address. What is fetched is bounded all the same.

use std::time::Duration;

use serde::de::DeserializeOwned;
use url::Url;

use super::transport;

/// From the look-up of the name to the last byte.
const TIMEOUT: Duration = Duration::from_secs(5);
/// A set of a hundred RSA keys takes a tenth of this.
const MAX_BYTES: usize = 512 * 1024;

#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error("cannot make an HTTP client")]
    Client(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("no answer")]
    Request(#[source] reqwest::Error),
    /// Redirects count here: they are not followed.
    #[error("it answered {0}")]
    Status(u16),
    #[error("it answered more than {MAX_BYTES} bytes")]
    TooLarge,
    #[error("it is not the JSON that was expected")]
    Json(#[source] serde_json::Error),
}

/// A client without redirects and without the environment's proxies.
#[derive(Clone)]
pub struct Fetcher(reqwest::Client);

impl Fetcher {
    pub fn new() -> Result<Fetcher, FetchError> {
        Ok(Fetcher(build_client(TIMEOUT)?))
    }

    pub async fn json<T: DeserializeOwned>(&self, url: &Url) -> Result<T, FetchError> {
        // `without_url`: a query may carry a secret, and errors are logged.
        let failed = |error: reqwest::Error| FetchError::Request(error.without_url());
        let mut response = self.0.get(url.clone()).header("accept", "application/json").send().await.map_err(failed)?;
        if response.status() != reqwest::StatusCode::OK {
            return Err(FetchError::Status(response.status().as_u16()));
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(failed)? {
            if body.len() + chunk.len() > MAX_BYTES {
                return Err(FetchError::TooLarge);
            }
            body.extend_from_slice(&chunk);
        }
        serde_json::from_slice(&body).map_err(FetchError::Json)
    }
}

/// For places the operator named; no redirects, no proxies of the environment.
pub(super) fn build_client(timeout: Duration) -> Result<reqwest::Client, FetchError> {
    let tls = transport::tls(Vec::new()).map_err(|error| FetchError::Client(Box::new(error)))?;
    reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .timeout(timeout)
        .user_agent(concat!("Orderly/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(|error| FetchError::Client(Box::new(error)))
}
