//! How is one connection to Postgres made, and what is known of its socket?
//!
//! A worker's session, its aide and its watch are connections of their own, outside the pool: the session
//! holds the locks, and its socket is asked, before each send, whether the server hung up.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::net::{TcpStream, UnixStream, lookup_host};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_postgres::config::{Host, SslMode, TargetSessionAttrs};
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::{AsyncMessage, Client, Config};
use tokio_postgres_rustls::MakeRustlsConnect;
use tokio_util::either::Either;

use super::StoreError;

/// One attempt at one address, log-in included; and to find the addresses of a name.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// A parsed `DATABASE_URL`.
#[derive(Clone)]
pub struct Connector {
    config: Config,
    tls: MakeRustlsConnect,
    /// Where the next one begins: at the address that let us in last, or after those that failed ([`Place`]). So whoever
    /// gives up in the midst of hosts that say nothing goes on where it was.
    first: Arc<AtomicUsize>,
}

/// A connection of one's own. Dropping its client ends the session, and with it its locks.
pub struct Dedicated {
    pub client: Client,
    /// Channel and payload of each notification; ends when the connection does.
    pub notifications: mpsc::UnboundedReceiver<(String, String)>,
    pub socket: Socket,
    pub(super) reader: ReaderGuard,
}

/// Reads a connection as long as this lives, and then closes it, also with a statement under way.
pub(super) struct ReaderGuard(JoinHandle<()>);

impl Drop for ReaderGuard {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A second handle on a connection's socket.
pub struct Socket(OwnedFd);

type Wire = Either<TcpStream, UnixStream>;

impl Connector {
    /// Takes libpq's `sslmode` (disable, prefer, require, verify-ca, verify-full) and `sslrootcert`; like
    /// libpq, certificates are checked only by the last two. With several hosts the one that accepts
    /// writes is taken.
    pub fn parse(url: &str) -> Result<Connector, StoreError> {
        let (url, tls) = take_tls_parameters(url)?;
        let mut config: Config =
            url.parse().map_err(|error: tokio_postgres::Error| StoreError::Settings(chain(&error)))?;
        config.ssl_mode(tls.mode);
        config.connect_timeout(CONNECT_TIMEOUT);
        config.keepalives_idle(Duration::from_secs(5));
        config.keepalives_interval(Duration::from_secs(1));
        config.keepalives_retries(3);
        config.tcp_user_timeout(Duration::from_secs(8));
        if config.get_hosts().len() > 1 {
            config.target_session_attrs(TargetSessionAttrs::ReadWrite);
        }
        if config.get_application_name().is_none() {
            config.application_name("orderly");
        }
        Ok(Connector { config, tls: MakeRustlsConnect::new(tls.client), first: Arc::default() })
    }

    /// The hosts in turn, and the addresses of each: the first that lets us in (and accepts writes, when there are
    /// several hosts or the URL wants it).
    pub async fn dedicated(&self) -> Result<Dedicated, StoreError> {
        let mut last = StoreError::Settings("it names no host".to_owned());
        let (hosts, ports) = (self.config.get_hosts(), self.config.get_ports());
        let begin = Place::unpack(self.first.load(Ordering::Relaxed));
        let go_on_at = |place: Place| self.first.store(place.pack(), Ordering::Relaxed);
        for turn in 0..hosts.len() {
            let host = (begin.host + turn) % hosts.len();
            let after = Place { host: (host + 1) % hosts.len(), address: 0 };
            let port = ports.get(host).or(ports.first()).copied().unwrap_or(5432);
            let addresses = match in_time(find_addresses(&hosts[host], port)).await {
                Ok(addresses) => addresses,
                Err(error) => {
                    last = error;
                    go_on_at(after);
                    continue;
                }
            };
            let first = if turn == 0 { begin.address } else { 0 };
            for nth in 0..addresses.len() {
                let address = (first + nth) % addresses.len();
                match in_time(self.connect_to(&hosts[host], &addresses[address])).await {
                    Ok(dedicated) => {
                        go_on_at(Place { host, address });
                        return Ok(dedicated);
                    }
                    Err(error) => last = error,
                }
                let more = nth + 1 < addresses.len();
                go_on_at(if more { Place { host, address: (address + 1) % addresses.len() } } else { after });
            }
        }
        Err(last)
    }

    async fn connect_to(&self, host: &Host, address: &Address) -> Result<Dedicated, StoreError> {
        let unreachable = |error: std::io::Error| StoreError::Unreachable(Box::new(error));
        let (wire, socket): (Wire, Socket) = match address {
            Address::Tcp(address) => {
                let stream = connect_tcp(*address).await.map_err(unreachable)?;
                let socket = Socket(stream.as_fd().try_clone_to_owned().map_err(unreachable)?);
                (Either::Left(stream), socket)
            }
            Address::Unix(path) => {
                let stream = UnixStream::connect(path).await.map_err(unreachable)?;
                let socket = Socket(stream.as_fd().try_clone_to_owned().map_err(unreachable)?);
                (Either::Right(stream), socket)
            }
        };
        let name = match host {
            Host::Tcp(name) => name,
            Host::Unix(_) => "localhost",
        };
        let tls = MakeTlsConnect::<Wire>::make_tls_connect(&mut self.tls.clone(), name)
            .map_err(|error| StoreError::Settings(error.to_string()))?;
        let mut config = self.config.clone();
        if matches!(host, Host::Unix(_)) {
            config.ssl_mode(SslMode::Disable);
        }
        let (client, mut connection) = config.connect_raw(wire, tls).await?;
        let (sender, notifications) = mpsc::unbounded_channel();
        // Reads and does nothing else, over a channel without a bound: a listener that is not read stops
        // vacuum, and a bell must never wait for a statement.
        let reader = ReaderGuard(tokio::spawn(async move {
            loop {
                match poll_fn(|cx| connection.poll_message(cx)).await {
                    Some(Ok(AsyncMessage::Notification(n))) => {
                        let _ = sender.send((n.channel().to_owned(), n.payload().to_owned()));
                    }
                    Some(Ok(AsyncMessage::Notice(notice))) => tracing::trace!(message = notice.message(), "notice"),
                    Some(Ok(_)) => {}
                    Some(Err(error)) => {
                        tracing::debug!(error = chain(&error), "connection to the database broke");
                        return;
                    }
                    None => return,
                }
            }
        }));
        let dedicated = Dedicated { client, notifications, socket, reader };
        if self.config.get_target_session_attrs() == TargetSessionAttrs::ReadWrite {
            // Unnamed: a transaction pooler may stand between.
            let sql = "select current_setting('transaction_read_only')::boolean";
            let rows = dedicated.client.query_typed(sql, &[]).await?;
            if rows.first().is_none_or(|row| row.get(0)) {
                return Err(StoreError::Unreachable("this server is a standby, or read-only".into()));
            }
        }
        Ok(dedicated)
    }
}

impl Socket {
    /// Whether the server's end is known to be closed, however little was read so far.
    pub fn hung_up(&self) -> bool {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        #[cfg(target_os = "linux")]
        let watched = PollFlags::RDHUP;
        #[cfg(not(target_os = "linux"))]
        let watched = PollFlags::empty();
        let mut set = [PollFd::new(&self.0, watched)];
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut set, Some(&at_once)).is_err()
            || set[0].revents().intersects(watched | PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL)
    }
}

/// One of a host's addresses.
#[derive(Debug, Clone, Copy)]
struct Place {
    host: usize,
    address: usize,
}

impl Place {
    const ADDRESSES: usize = 1 << 16;

    fn pack(self) -> usize {
        self.host * Place::ADDRESSES + self.address
    }

    fn unpack(packed: usize) -> Place {
        Place { host: packed / Place::ADDRESSES, address: packed % Place::ADDRESSES }
    }
}

enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

async fn in_time<T>(work: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    let done = tokio::time::timeout(CONNECT_TIMEOUT, work).await;
    done.unwrap_or_else(|elapsed| Err(StoreError::Unreachable(Box::new(elapsed))))
}

async fn find_addresses(host: &Host, port: u16) -> Result<Vec<Address>, StoreError> {
    match host {
        Host::Unix(folder) => Ok(vec![Address::Unix(folder.join(format!(".s.PGSQL.{port}")))]),
        Host::Tcp(name) => match lookup_host((name.as_str(), port)).await {
            Ok(found) => Ok(found.map(Address::Tcp).collect()),
            Err(error) => Err(StoreError::Unreachable(Box::new(error))),
        },
    }
}

/// Keepalives of our own: the worker must give up before the server lets its locks go (11 s).
async fn connect_tcp(address: SocketAddr) -> std::io::Result<TcpStream> {
    use rustix::net::sockopt;
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(&stream, true)?;
    sockopt::set_tcp_keepidle(&stream, Duration::from_secs(4))?;
    sockopt::set_tcp_keepintvl(&stream, Duration::from_secs(1))?;
    sockopt::set_tcp_keepcnt(&stream, 4)?;
    #[cfg(target_os = "linux")]
    sockopt::set_tcp_user_timeout(&stream, 8_000)?;
    Ok(stream)
}

struct Tls {
    mode: SslMode,
    client: rustls::ClientConfig,
}

/// Takes `sslmode` and `sslrootcert` out of the URL: tokio-postgres knows three of libpq's modes and leaves
/// certificates to the connector.
fn take_tls_parameters(text: &str) -> Result<(String, Tls), StoreError> {
    let (mut mode, mut root) = ("prefer".to_owned(), None);
    let mut kept = text.to_owned();
    if let Some((base, query)) = text.split_once('?') {
        let mut rest = Vec::new();
        for pair in query.split('&') {
            match pair.split_once('=') {
                Some(("sslmode", value)) => mode = value.to_owned(),
                Some(("sslrootcert", value)) => {
                    root = Some(
                        url::form_urlencoded::parse(value.as_bytes())
                            .map(|(key, _)| key.into_owned())
                            .collect::<String>(),
                    );
                }
                _ => rest.push(pair),
            }
        }
        kept = if rest.is_empty() { base.to_owned() } else { format!("{base}?{}", rest.join("&")) };
    }
    let (mode, checked) = match mode.as_str() {
        "disable" => (SslMode::Disable, false),
        "allow" | "prefer" => (SslMode::Prefer, false),
        "require" => (SslMode::Require, false),
        "verify-ca" | "verify-full" => (SslMode::Require, true),
        other => return Err(StoreError::Settings(format!("sslmode={other} is not known"))),
    };
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| StoreError::Settings(error.to_string()))?;
    let client = if checked {
        let mut roots = rustls::RootCertStore::empty();
        match root {
            Some(file) => {
                for certificate in
                    CertificateDer::pem_file_iter(&file).map_err(|e| StoreError::Settings(format!("{file}: {e}")))?
                {
                    let certificate = certificate.map_err(|e| StoreError::Settings(format!("{file}: {e}")))?;
                    roots.add(certificate).map_err(|e| StoreError::Settings(format!("{file}: {e}")))?;
                }
            }
            None => {
                roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            }
        }
        builder.with_root_certificates(roots).with_no_client_auth()
    } else {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(Unchecked(provider))).with_no_client_auth()
    };
    Ok((kept, Tls { mode, client }))
}

/// What libpq's `prefer` and `require` mean: encrypted, to whoever answers.
#[derive(Debug)]
struct Unchecked(Arc<rustls::crypto::CryptoProvider>);

impl rustls::client::danger::ServerCertVerifier for Unchecked {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &rustls::pki_types::ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// An error with its causes, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
