//! On which connection does a request travel?
//!
//! hyper's own pooled client: what a general-purpose one adds (redirects, retries, its own timeouts) costs
//! a quarter of a worker's CPU (docs/PERFORMANCE.md) and is not wanted here. Only through `--egress-proxy` reqwest does
//! it, which knows proxies.

use std::error::Error;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Request, Response, Uri};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Either};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::dns::Name;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tower_service::Service;
use url::Url;

use super::gate::GatedBody;
use super::guard::Guard;
use super::resolver::ResolveError;

/// Lookup, TCP and TLS together. A destination's own timeout may end it earlier.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Below the five seconds after which the most common receivers (Node, uvicorn) close an idle connection:
/// a request sent into that close is a failed try, and its message may arrive twice.
const IDLE_TIMEOUT: Duration = Duration::from_secs(4);

/// A worker's default concurrency: all destinations may be on one host.
const IDLE_CONNECTIONS_PER_HOST: usize = 256;

/// What is said on a connection that says nothing else.
const KEEPALIVE: Duration = Duration::from_secs(15);
/// A receiver's host that confirms nothing for so long is gone.
const UNCONFIRMED: Duration = Duration::from_secs(30);

pub type BoxError = Box<dyn Error + Send + Sync>;
type Waiting<T> = Pin<Box<dyn Future<Output = Result<T, BoxError>> + Send>>;

/// Cheap to clone.
#[derive(Clone)]
pub enum Transport {
    Direct(Arc<Client<Patient<HttpsConnector<HttpConnector<GuardedResolver>>>, GatedBody>>),
    Proxied(reqwest::Client),
}

/// Nothing is decoded or followed.
pub type Received = Response<Either<Incoming, BoxBody<bytes::Bytes, BoxError>>>;

#[derive(Debug, thiserror::Error)]
#[error("timeout while connecting")]
pub struct ConnectTimeout;

impl Transport {
    /// Names are resolved, and addresses checked, by `guard`.
    ///
    /// HTTP/1.1 alone: HTTP/2 would put destinations on one host onto one connection, where one that stalls
    /// holds up the others (G5), and would send a request's head before its gate is asked. A request that
    /// was sent is the worker's to repeat, under its number and its epoch; one of which nothing has left, on
    /// a connection that was closed meanwhile, takes another one.
    pub fn direct(guard: Guard, tls: rustls::ClientConfig) -> Transport {
        let mut tcp = HttpConnector::new_with_resolver(GuardedResolver(guard));
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
        tcp.set_keepalive(Some(KEEPALIVE));
        tcp.set_keepalive_interval(Some(KEEPALIVE));
        tcp.set_keepalive_retries(Some(3));
        #[cfg(target_os = "linux")]
        tcp.set_tcp_user_timeout(Some(UNCONFIRMED));
        let https =
            HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().wrap_connector(tcp);
        let client = Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(IDLE_CONNECTIONS_PER_HOST)
            .build(Patient(https));
        Transport::Direct(Arc::new(client))
    }

    /// The only name left to resolve is the proxy's own, which the operator chose.
    pub fn proxied(proxy: Url, tls: rustls::ClientConfig) -> reqwest::Result<Transport> {
        let client = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .retry(reqwest::retry::never())
            .no_proxy()
            .http1_only()
            .tls_backend_preconfigured(tls)
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(IDLE_CONNECTIONS_PER_HOST)
            .proxy(reqwest::Proxy::all(proxy)?)
            .build()?;
        Ok(Transport::Proxied(client))
    }

    pub async fn send(&self, request: Request<GatedBody>) -> Result<Received, BoxError> {
        match self {
            Transport::Direct(client) => Ok(client.request(request).await?.map(Either::Left)),
            Transport::Proxied(client) => {
                let request = reqwest::Request::try_from(request.map(reqwest::Body::wrap))?;
                let answer = Response::from(client.execute(request).await?);
                Ok(answer.map(|body| Either::Right(body.map_err(BoxError::from).boxed())))
            }
        }
    }
}

/// The guard in the client's place for a resolver.
#[derive(Clone)]
pub struct GuardedResolver(Guard);

impl Service<Name> for GuardedResolver {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = ResolveError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, ResolveError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ResolveError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let guard = self.0.clone();
        Box::pin(async move {
            // Port 0: the client puts the URL's in.
            let sockets = guard.resolve(name.as_str()).await?.into_iter().map(|address| SocketAddr::new(address, 0));
            Ok(sockets.collect::<Vec<_>>().into_iter())
        })
    }
}

/// A connector that gives up after [`CONNECT_TIMEOUT`].
#[derive(Clone)]
pub struct Patient<C>(C);

impl<C> Service<Uri> for Patient<C>
where
    C: Service<Uri, Error = BoxError>,
    C::Response: Send + 'static,
    C::Future: Send + 'static,
{
    type Response = C::Response;
    type Error = BoxError;
    type Future = Waiting<C::Response>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connecting = self.0.call(uri);
        Box::pin(async move {
            match tokio::time::timeout(CONNECT_TIMEOUT, connecting).await {
                Ok(connected) => connected,
                Err(_) => Err(ConnectTimeout.into()),
            }
        })
    }
}

/// What TLS is set up with: 1.2 and 1.3, the system's roots (`SSL_CERT_FILE` and `SSL_CERT_DIR` name others)
/// and `extra_roots`. Certificates are always checked.
pub fn tls(
    extra_roots: Vec<rustls::pki_types::CertificateDer<'static>>,
) -> Result<rustls::ClientConfig, rustls::Error> {
    let mut roots = rustls::RootCertStore::empty();
    let native = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(native.certs);
    roots.add_parsable_certificates(extra_roots);
    if roots.is_empty() {
        tracing::warn!("the system has no root certificates: no https destination can be reached");
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    Ok(rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth())
}
