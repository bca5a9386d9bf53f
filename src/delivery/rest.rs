//! How does a command of this program call an API elsewhere?
//!
//! Like [`fetch`](super::fetch) it goes where the operator says, past the guard of deliveries.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, header};
use url::Url;

use super::fetch::{FetchError, build_client};

/// A purge of millions takes up to a minute.
const TIMEOUT: Duration = Duration::from_secs(90);
/// A payload of 1 MiB, escaped, many times over.
const MAX_BYTES: usize = 64 << 20;

#[derive(Debug, thiserror::Error)]
pub enum RestError {
    #[error(transparent)]
    Client(#[from] FetchError),
    #[error("the token is not one line of printable text")]
    Token,
    #[error("{0} is no address of an API")]
    Address(String),
    #[error("the API at {base} does not answer")]
    Request { base: String, source: reqwest::Error },
    #[error("the API at {base} answered more than {MAX_BYTES} bytes")]
    TooLarge { base: String },
}

/// Calls one API as one bearer.
pub struct RestClient {
    client: reqwest::Client,
    base: String,
    authorization: Option<HeaderValue>,
}

impl RestClient {
    /// `base` is all before `/v1`; it may end with it.
    pub fn new(base: &Url, token: Option<&str>) -> Result<RestClient, RestError> {
        let base = base.as_str().trim_end_matches('/');
        let authorization = match token {
            None => None,
            Some(token) => {
                let mut value =
                    HeaderValue::try_from(format!("Bearer {}", token.trim())).map_err(|_| RestError::Token)?;
                value.set_sensitive(true);
                Some(value)
            }
        };
        let base = base.strip_suffix("/v1").unwrap_or(base).to_owned();
        Ok(RestClient { client: build_client(TIMEOUT)?, base, authorization })
    }

    /// The request's URI has a path and a query alone. Every answer is one, whatever its status.
    pub async fn call(&self, request: Request<Bytes>) -> Result<Response<Bytes>, RestError> {
        let (mut parts, body) = request.into_parts();
        let address = format!("{}{}", self.base, parts.uri);
        parts.uri = address.parse().map_err(|_| RestError::Address(address))?;
        if let Some(authorization) = &self.authorization {
            parts.headers.insert(header::AUTHORIZATION, authorization.clone());
        }
        let failed =
            |error: reqwest::Error| RestError::Request { base: self.base.clone(), source: error.without_url() };
        let request = reqwest::Request::try_from(Request::from_parts(parts, body)).map_err(failed)?;
        let mut answer = self.client.execute(request).await.map_err(failed)?;
        let mut bytes = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(failed)? {
            if bytes.len() + chunk.len() > MAX_BYTES {
                return Err(RestError::TooLarge { base: self.base.clone() });
            }
            bytes.extend_from_slice(&chunk);
        }
        let mut response = Response::new(Bytes::from(bytes));
        *response.status_mut() = answer.status();
        *response.headers_mut() = std::mem::take(answer.headers_mut());
        Ok(response)
    }
}
