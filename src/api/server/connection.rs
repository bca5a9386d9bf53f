//! How is one connection served, and when is it let go?

use std::convert::Infallible;
use std::fmt::Write;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use futures_util::FutureExt;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use poem::http::{HeaderName, HeaderValue, StatusCode, uri::Scheme};
use poem::web::{LocalAddr, RemoteAddr};
use poem::{Addr, Endpoint, IntoResponse, Request, RequestParts, Response};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::ServerLimits;
use super::body;
use super::io::Watched;
use super::pulse::{Heads, Pulse, Verdict};
use crate::api::refusal::refusal;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// At most so much of a body is read at once.
const READ_BUFFER: usize = 64 << 10;

/// What all connections share.
pub struct Site<E> {
    endpoint: E,
    pub limits: ServerLimits,
    http1: http1::Builder,
    http2: http2::Builder<TokioExecutor>,
    ids: RequestIds,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    Http1,
    Http1OverTls,
    Http2OverTls,
}

#[derive(Clone, Copy)]
pub struct Peer {
    pub local: SocketAddr,
    pub remote: SocketAddr,
}

impl<E: Endpoint> Site<E> {
    pub fn new(endpoint: E, limits: ServerLimits) -> Site<E> {
        let mut http1 = http1::Builder::new();
        // The pulse sees to the time that a head takes.
        http1.timer(TokioTimer::new()).header_read_timeout(None);
        // No pipeline_flush: hyper 1.12 then keeps the 400 or 431 to a head it cannot read to itself.
        http1.max_header_size(limits.max_header_bytes as usize);
        // What each connection that sends a large body keeps beside it; hyper would let it grow to 400 KiB.
        http1.max_buf_size(READ_BUFFER.max(limits.max_header_bytes as usize));
        let mut http2 = http2::Builder::new(TokioExecutor::new());
        http2
            .timer(TokioTimer::new())
            .max_concurrent_streams(128)
            .max_header_list_size(limits.max_header_bytes)
            // Streams that are opened and reset at once (CVE-2023-44487) and errors provoked in ours.
            .max_pending_accept_reset_streams(20)
            .max_local_error_reset_streams(256)
            // What one connection can make us hold of bodies and answers.
            .initial_connection_window_size(1 << 20)
            .initial_stream_window_size(1 << 18)
            .max_send_buf_size(1 << 18)
            .keep_alive_interval(limits.idle_timeout / 2)
            .keep_alive_timeout(limits.header_timeout);
        Site { endpoint, limits, http1, http2, ids: RequestIds::new() }
    }
}

pub async fn run<E, S>(site: Arc<Site<E>>, stream: S, protocol: Protocol, peer: Peer, stop: CancellationToken)
where
    E: Endpoint + 'static,
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (heads, scheme) = match protocol {
        Protocol::Http1 => (Heads::AreAllThatComes, Scheme::HTTP),
        Protocol::Http1OverTls => (Heads::AreAllThatComes, Scheme::HTTPS),
        Protocol::Http2OverTls => (Heads::AreMixedWithFrames, Scheme::HTTPS),
    };
    let pulse = Arc::new(Pulse::new(heads));
    let io = TokioIo::new(Watched::new(stream, pulse.clone(), site.limits.stall_timeout));
    let service = service_fn({
        let (site, pulse) = (site.clone(), pulse.clone());
        move |request| {
            let (site, pulse, scheme) = (site.clone(), pulse.clone(), scheme.clone());
            // Boxed: hyper moves it about, and keeps room for it with each connection.
            Box::pin(async move { Ok::<_, Infallible>(answer(&site, &pulse, peer, scheme, request).await.into()) })
        }
    });
    match protocol {
        Protocol::Http1 | Protocol::Http1OverTls => {
            let connection = pin!(site.http1.serve_connection(io, service));
            see_through(connection, http1::Connection::graceful_shutdown, &pulse, &site.limits, stop).await;
        }
        Protocol::Http2OverTls => {
            let connection = pin!(site.http2.serve_connection(io, service));
            see_through(connection, http2::Connection::graceful_shutdown, &pulse, &site.limits, stop).await;
        }
    }
}

/// Until it ends by itself, or is slow, or has had its grace.
async fn see_through<C: Future<Output = hyper::Result<()>>>(
    mut connection: Pin<&mut C>,
    end_gracefully: impl Fn(Pin<&mut C>),
    pulse: &Pulse,
    limits: &ServerLimits,
    stop: CancellationToken,
) {
    let mut next_look = pin!(sleep_until(Instant::now() + limits.header_timeout));
    loop {
        tokio::select! {
            biased;
            ended = &mut connection => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "a connection broke");
                }
                return;
            }
            () = stop.cancelled() => break,
            () = &mut next_look => match pulse.judge(limits) {
                Verdict::KeepUntil(then) => next_look.as_mut().reset(then),
                Verdict::Idle => break,
                Verdict::Slow => {
                    tracing::debug!("a client took too long to send its headers");
                    return;
                }
            }
        }
    }
    end_gracefully(connection.as_mut());
    let _ = tokio::time::timeout(limits.grace, connection).await;
}

async fn answer<E: Endpoint>(
    site: &Site<E>,
    pulse: &Pulse,
    peer: Peer,
    scheme: Scheme,
    request: hyper::Request<Incoming>,
) -> Response {
    let _busy = pulse.request_begins();
    let id = site.ids.next();
    let span = tracing::info_span!("request", request.id = id.as_str());
    let (parts, incoming) = request.into_parts();
    let version = parts.version;
    let mut response = match body::refuse_announced(&incoming, version, &site.limits) {
        Some(refused) => refused,
        None => {
            let (body, reading) = body::bound(incoming, version, &site.limits);
            let addresses = (LocalAddr(Addr::SocketAddr(peer.local)), RemoteAddr(Addr::SocketAddr(peer.remote)));
            let parts = RequestParts::from((parts, addresses.0, addresses.1, scheme));
            let request = Request::from_parts(parts, body);
            let response = match AssertUnwindSafe(site.endpoint.call(request)).catch_unwind().instrument(span).await {
                Ok(Ok(response)) => response.into_response(),
                Ok(Err(error)) => error.into_response(),
                Err(_) => {
                    tracing::error!(request.id = id.as_str(), "a handler panicked");
                    refusal(StatusCode::INTERNAL_SERVER_ERROR, "something went wrong here; the log says what")
                }
            };
            match reading {
                Some(reading) => reading.settle(response),
                None => response,
            }
        }
    };
    // 32 hexadecimal digits always are a header's value.
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    response
}

/// Names for requests. None is taken from outside: what stands in our log is ours.
struct RequestIds {
    process: u64,
    last: AtomicU64,
}

impl RequestIds {
    fn new() -> RequestIds {
        RequestIds { process: rand::random(), last: AtomicU64::new(0) }
    }

    fn next(&self) -> String {
        let mut id = String::with_capacity(32);
        // Writing to a string does not fail.
        let _ = write!(id, "{:016x}{:016x}", self.process, self.last.fetch_add(1, Relaxed) + 1);
        id
    }
}
