//! How is one message sent, and how did that end?
//!
//! One client for the process: connections are kept and shared, redirects are not followed, the
//! environment's proxies are ignored, nothing is sent twice.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::header::RETRY_AFTER;
use http::{HeaderValue, Method, Request, StatusCode};
use http_body_util::BodyExt;
use rustls::pki_types::CertificateDer;
use url::Url;

use crate::domain::{Failure, FailureKind, Message, Outcome, Policy};

use super::failure::{classify, failure, forbidden, timeout};
use super::gate::{Aborted, Gate, GatedBody};
use super::guard::Guard;
use super::request::{Meta, Target};
use super::transport::{self, BoxError, Transport};
use super::{SigningKeys, retry_after};

/// What is read of an answer's body, so that its connection can be used again; what is longer costs the
/// connection.
const READ_LIMIT: usize = 64 * 1024;

/// What is kept of an answer's body.
const KEPT: usize = 1024;

pub struct ClientSettings {
    pub guard: Guard,
    /// All of them sign.
    pub keys: SigningKeys,
    /// All deliveries go through it; it, not Orderly, then resolves names.
    pub egress_proxy: Option<Url>,
    /// Trusted beside the system's roots; for tests.
    pub extra_roots: Vec<CertificateDer<'static>>,
}

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("the HTTP client cannot be set up")]
    Setup(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("--egress-proxy must be an http or https URL")]
    Proxy,
}

/// Cheap to clone.
#[derive(Clone)]
pub struct DeliveryClient {
    transport: Transport,
    guard: Guard,
    keys: Arc<SigningKeys>,
    user_agent: HeaderValue,
}

impl DeliveryClient {
    pub fn new(settings: ClientSettings) -> Result<DeliveryClient, ClientError> {
        let tls = transport::tls(settings.extra_roots).map_err(|error| ClientError::Setup(error.into()))?;
        let transport = match settings.egress_proxy {
            Some(url) if !matches!(url.scheme(), "http" | "https") => return Err(ClientError::Proxy),
            Some(url) => Transport::proxied(url, tls).map_err(|error| ClientError::Setup(error.into()))?,
            None => Transport::direct(settings.guard.clone(), tls),
        };
        Ok(DeliveryClient {
            transport,
            guard: settings.guard,
            keys: Arc::new(settings.keys),
            user_agent: HeaderValue::from_static(concat!("Orderly/", env!("CARGO_PKG_VERSION"))),
        })
    }

    /// Makes a destination ready for many requests.
    pub fn target(&self, policy: &Policy) -> Target {
        Target::new(policy, &self.guard, &self.user_agent)
    }

    /// Signs and sends one message, and reads the answer. `Err`: the gate was closed when the first byte
    /// would have left; nothing was sent, and this was no try.
    ///
    /// The answer's status decides; a body that breaks off, drips or does not end changes nothing but how
    /// long the try takes, which is never longer than the destination's timeout. Dropping the future closes
    /// the connection.
    pub async fn deliver<G: Gate>(
        &self,
        target: &Target,
        message: &Message,
        meta: &Meta,
        gate: G,
    ) -> Result<Outcome, Aborted> {
        let started = Instant::now();
        if let Err(error) = &target.verdict {
            return Ok(Answer::default().outcome(started.elapsed(), Err(forbidden(error))));
        }
        let Some(uri) = &target.uri else {
            let failure = failure(FailureKind::Broken, "no request can be made of this URL");
            return Ok(Answer::default().outcome(started.elapsed(), Err(failure)));
        };
        let mut request = Request::new(GatedBody::new(message.payload.clone(), gate));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = uri.clone();
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        *request.headers_mut() = target.headers(&self.keys, message, meta, now.as_secs());
        let mut answer = Answer::default();
        let exchange = exchange(&self.transport, request, &mut answer);
        let end = match tokio::time::timeout(target.timeout, exchange).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(classify(error.as_ref())?),
            Err(_) => Err(timeout(target.timeout)),
        };
        Ok(answer.outcome(started.elapsed(), end))
    }
}

/// What came before the end, whatever that was.
#[derive(Default)]
struct Answer {
    status: Option<StatusCode>,
    retry_after: Option<Duration>,
    body: Vec<u8>,
}

async fn exchange(transport: &Transport, request: Request<GatedBody>, answer: &mut Answer) -> Result<(), BoxError> {
    let mut response = transport.send(request).await?;
    answer.status = Some(response.status());
    if matches!(response.status(), StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
        let value = response.headers().get(RETRY_AFTER);
        answer.retry_after = value.and_then(|value| retry_after::parse(value.as_bytes(), SystemTime::now()));
    }
    let mut read = 0;
    while let Some(frame) = response.frame().await {
        let Ok(chunk) = frame?.into_data() else { continue };
        read += chunk.len();
        answer.body.extend_from_slice(&chunk[..chunk.len().min(KEPT - answer.body.len())]);
        if read >= READ_LIMIT {
            break;
        }
    }
    Ok(())
}

impl Answer {
    fn outcome(self, duration: Duration, end: Result<(), Failure>) -> Outcome {
        let result = match self.status {
            Some(status) if status.is_success() => Ok(()),
            Some(status) => {
                let kind = if status == StatusCode::GONE { FailureKind::Gone } else { FailureKind::Status };
                Err(Failure { retry_after: self.retry_after, ..failure(kind, format!("HTTP {}", status.as_u16())) })
            }
            None => Err(end.err().unwrap_or_else(|| failure(FailureKind::Broken, "no answer"))),
        };
        let status_code = self.status.map(|status| status.as_u16());
        Outcome { duration, status_code, response: Bytes::from(self.body), result }
    }
}

#[cfg(test)]
mod tests;
