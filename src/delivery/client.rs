//! How is one message sent, and how did that end?
//!
//! One client for the process: connections are kept and shared, redirects are not followed, the
//! environment's proxies are ignored, nothing is sent twice.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::header::RETRY_AFTER;
use http::{HeaderValue, Method, StatusCode};
use rustls::pki_types::CertificateDer;
use url::Url;

use crate::domain::{Failure, FailureKind, Message, Outcome, Policy};

use super::failure::{classify, failure, forbidden, timeout};
use super::gate::{Aborted, Gate, GatedBody};
use super::guard::Guard;
use super::request::{Meta, Target};
use super::resolver::GuardedResolver;
use super::{SigningKeys, retry_after};

/// Lookup, TCP and TLS together. A destination's own timeout may end it earlier.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Below the five seconds after which the most common receivers (Node, uvicorn) close an idle connection:
/// a request sent into that close is a failed try, and its message may arrive twice.
const IDLE_TIMEOUT: Duration = Duration::from_secs(4);

/// A worker's default concurrency: all destinations may be on one host.
const IDLE_CONNECTIONS_PER_HOST: usize = 256;

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
    http: reqwest::Client,
    guard: Guard,
    keys: Arc<SigningKeys>,
    user_agent: HeaderValue,
}

impl DeliveryClient {
    pub fn new(settings: ClientSettings) -> Result<DeliveryClient, ClientError> {
        let setup = |error: reqwest::Error| ClientError::Setup(Box::new(error));
        let mut builder = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            // A request that was sent is the worker's to repeat, under its number and its epoch.
            .retry(reqwest::retry::never())
            .no_proxy()
            // HTTP/2 would put destinations on one host onto one connection, where one that stalls holds up
            // the others (G5), and would send a request's head before its gate is asked.
            .http1_only()
            .tls_backend_preconfigured(tls(settings.extra_roots)?)
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(IDLE_CONNECTIONS_PER_HOST);
        builder = match settings.egress_proxy {
            Some(url) if !matches!(url.scheme(), "http" | "https") => return Err(ClientError::Proxy),
            // The only name left to resolve is the proxy's own, which the operator chose.
            Some(url) => builder.proxy(reqwest::Proxy::all(url).map_err(setup)?),
            None => builder.dns_resolver(Arc::new(GuardedResolver(settings.guard.clone()))),
        };
        Ok(DeliveryClient {
            http: builder.build().map_err(setup)?,
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
        let request = self.request(target, message, meta, gate);
        let mut answer = Answer::default();
        let exchange = exchange(&self.http, request, &mut answer);
        let end = match tokio::time::timeout(target.timeout, exchange).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(classify(&error)?),
            Err(_) => Err(timeout(target.timeout)),
        };
        Ok(answer.outcome(started.elapsed(), end))
    }

    fn request<G: Gate>(&self, target: &Target, message: &Message, meta: &Meta, gate: G) -> reqwest::Request {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let mut request = reqwest::Request::new(Method::POST, target.url.clone());
        *request.headers_mut() = target.headers(&self.keys, message, meta, now.as_secs());
        *request.body_mut() = Some(reqwest::Body::wrap(GatedBody::new(message.payload.clone(), gate)));
        request
    }
}

/// What came before the end, whatever that was.
#[derive(Default)]
struct Answer {
    status: Option<StatusCode>,
    retry_after: Option<Duration>,
    body: Vec<u8>,
}

async fn exchange(http: &reqwest::Client, request: reqwest::Request, answer: &mut Answer) -> reqwest::Result<()> {
    let mut response = http.execute(request).await?;
    answer.status = Some(response.status());
    if matches!(response.status(), StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
        let value = response.headers().get(RETRY_AFTER);
        answer.retry_after = value.and_then(|value| retry_after::parse(value.as_bytes(), SystemTime::now()));
    }
    let mut read = 0;
    while let Some(chunk) = response.chunk().await? {
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

/// TLS 1.2 and 1.3 with the system's roots (`SSL_CERT_FILE` and `SSL_CERT_DIR` name others). Certificates
/// are always checked.
fn tls(extra_roots: Vec<CertificateDer<'static>>) -> Result<rustls::ClientConfig, ClientError> {
    let mut roots = rustls::RootCertStore::empty();
    let native = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(native.certs);
    roots.add_parsable_certificates(extra_roots);
    if roots.is_empty() {
        tracing::warn!("the system has no root certificates: no https destination can be reached");
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| ClientError::Setup(Box::new(error)))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(config)
}

#[cfg(test)]
mod tests;
