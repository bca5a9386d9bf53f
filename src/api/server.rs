//! How does a connection become requests, and how does it all stop?
//!
//! An accept loop on hyper instead of poem's own server: that one has no timeout for headers or bodies, no cap
//! of connections, and reads its certificate once. The limits here are the ones that must hold before
//! anything of a request is understood.

mod body;
mod connection;
mod io;
mod pulse;
mod tls;

use std::future::pending;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use poem::Endpoint;
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use connection::{Peer, Protocol, Site};
pub use tls::TlsError;

/// How long the loop rests when the system has no socket for it.
const ACCEPT_REST: Duration = Duration::from_millis(100);

#[derive(Debug, Clone)]
pub struct ServerOptions {
    pub listen: SocketAddr,
    pub tls: Option<TlsFiles>,
    pub limits: ServerLimits,
}

/// PEM files, read at the start and again on SIGHUP.
#[derive(Debug, Clone)]
pub struct TlsFiles {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

#[derive(Debug, Clone)]
pub struct ServerLimits {
    /// Beyond it, accepting waits.
    pub max_connections: usize,
    /// The request line and all headers; 431 beyond.
    pub max_header_bytes: u32,
    /// 413 beyond.
    pub max_body_bytes: u64,
    pub handshake_timeout: Duration,
    /// From a head's first byte (or the connection's start) to its last; then the connection is dropped.
    pub header_timeout: Duration,
    /// From a head's end to the body's last byte; then 408.
    pub body_timeout: Duration,
    /// Without a request.
    pub idle_timeout: Duration,
    /// Without the client taking a byte of an answer.
    pub stall_timeout: Duration,
    /// What a stop leaves to requests that are under way.
    pub grace: Duration,
}

impl Default for ServerLimits {
    fn default() -> Self {
        ServerLimits {
            max_connections: 4096,
            max_header_bytes: 32 * 1024,
            max_body_bytes: 16 * 1024 * 1024,
            handshake_timeout: Duration::from_secs(10),
            header_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(75),
            stall_timeout: Duration::from_secs(30),
            grace: Duration::from_secs(10),
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("cannot listen on {address}: {}", bind_reason(source))]
    Bind { address: SocketAddr, source: std::io::Error },
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("cannot watch for SIGHUP")]
    Signal(#[source] std::io::Error),
}

fn bind_reason(error: &std::io::Error) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::AddrInUse => "the address is in use",
        std::io::ErrorKind::AddrNotAvailable => "the address is not one of this host",
        std::io::ErrorKind::PermissionDenied => "permission denied",
        _ => "the system refused",
    }
}

/// Serves until `stop`, then ends what is under way within the grace. `on_listening` is told the address, whose
/// port matters where 0 was asked for.
pub async fn serve(
    endpoint: impl Endpoint + 'static,
    options: ServerOptions,
    stop: CancellationToken,
    on_listening: impl FnOnce(SocketAddr),
) -> Result<(), ServeError> {
    let mut acceptor = options.tls.as_ref().map(tls::load).transpose()?;
    let mut hangup = match options.tls {
        Some(_) => Some(signal(SignalKind::hangup()).map_err(ServeError::Signal)?),
        None => None,
    };
    let refused = |source| ServeError::Bind { address: options.listen, source };
    let listener = TcpListener::bind(options.listen).await.map_err(refused)?;
    let local = listener.local_addr().map_err(refused)?;
    let slots = Arc::new(Semaphore::new(options.limits.max_connections));
    let site = Arc::new(Site::new(endpoint, options.limits));
    let connections = TaskTracker::new();
    on_listening(local);

    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            () = hung_up(&mut hangup) => reload(&mut acceptor, options.tls.as_ref()).await,
            (stream, remote, slot) = accept(&listener, &slots) => {
                let peer = Peer { local, remote };
                // A token of its own: otherwise all connections take one lock each time they are polled.
                let connection = start(site.clone(), stream, peer, acceptor.clone(), stop.child_token());
                connections.spawn(async move {
                    connection.await;
                    drop(slot);
                });
            }
        }
    }
    drop(listener);
    connections.close();
    // Each connection keeps to the grace by itself.
    connections.wait().await;
    Ok(())
}

async fn start<E: Endpoint + 'static>(
    site: Arc<Site<E>>,
    stream: TcpStream,
    peer: Peer,
    acceptor: Option<TlsAcceptor>,
    stop: CancellationToken,
) {
    // An answer is written whole; waiting for more to fill a packet only delays it.
    let _ = stream.set_nodelay(true);
    let Some(acceptor) = acceptor else {
        return connection::run(site, stream, Protocol::Http1, peer, stop).await;
    };
    let handshake = tokio::select! {
        () = stop.cancelled() => return,
        handshake = tokio::time::timeout(site.limits.handshake_timeout, acceptor.accept(stream)) => handshake,
    };
    match handshake {
        Ok(Ok(stream)) => {
            let protocol = match stream.get_ref().1.alpn_protocol() {
                Some(b"h2") => Protocol::Http2OverTls,
                _ => Protocol::Http1OverTls,
            };
            connection::run(site, stream, protocol, peer, stop).await;
        }
        Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
        Err(_) => tracing::debug!("a TLS handshake took too long"),
    }
}

/// Safe to cancel: a slot that was taken comes back, and no connection is lost.
async fn accept(listener: &TcpListener, slots: &Arc<Semaphore>) -> (TcpStream, SocketAddr, OwnedSemaphorePermit) {
    let Ok(slot) = slots.clone().acquire_owned().await else {
        // Nobody closes the semaphore; if somebody did, there would be no more connections.
        return pending().await;
    };
    if slots.available_permits() == 0 {
        tracing::debug!("no more connections are accepted until one ends");
    }
    loop {
        match listener.accept().await {
            Ok((stream, remote)) => return (stream, remote, slot),
            // The client has gone already; the next may be there.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                tracing::error!(%error, "cannot accept connections");
                tokio::time::sleep(ACCEPT_REST).await;
            }
        }
    }
}

async fn hung_up(hangup: &mut Option<Signal>) {
    let signalled = match hangup {
        Some(signal) => signal.recv().await,
        None => None,
    };
    if signalled.is_none() {
        pending().await
    }
}

/// New connections get the new certificate; files that are no good change nothing.
async fn reload(acceptor: &mut Option<TlsAcceptor>, files: Option<&TlsFiles>) {
    let Some(files) = files.cloned() else { return };
    match tokio::task::spawn_blocking(move || tls::load(&files)).await {
        Ok(Ok(new)) => {
            *acceptor = Some(new);
            tracing::info!("the certificate was read again");
        }
        Ok(Err(error)) => tracing::error!(%error, "the certificate cannot be read again; the old one stays"),
        Err(error) => tracing::error!(%error, "the certificate was not read again"),
    }
}
