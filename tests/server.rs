//! Which connections does the API keep, and how does it stop?

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use orderly::api::server::{ServeError, ServerLimits, ServerOptions, TlsFiles, serve};
use poem::http::StatusCode;
use poem::{Endpoint, EndpointExt, IntoResponse, Request, Response, Route, get, handler, post};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

struct Running {
    address: SocketAddr,
    stop: CancellationToken,
    server: JoinHandle<Result<(), ServeError>>,
}

/// Requests that hang until they are let go, one by one.
#[derive(Clone)]
struct Gate {
    entered: watch::Sender<usize>,
    open: Arc<Semaphore>,
}

impl Default for Gate {
    fn default() -> Self {
        Gate { entered: watch::Sender::new(0), open: Arc::new(Semaphore::new(0)) }
    }
}

impl Gate {
    async fn call(self, _: Request) -> poem::Result<Response> {
        self.entered.send_modify(|entered| *entered += 1);
        self.open.acquire().await.expect("nobody closes it").forget();
        Ok("through".into_response())
    }

    async fn entered(&self, number: usize) {
        self.entered.subscribe().wait_for(|entered| *entered >= number).await.expect("the gate is here");
    }
}

#[handler]
async fn echo(body: poem::Body) -> poem::Result<Vec<u8>> {
    Ok(body.into_vec().await?)
}

#[handler]
fn panics() {
    panic!("as the test wants it")
}

#[handler]
fn large() -> Vec<u8> {
    vec![b'x'; 64 << 20]
}

fn app(gate: Gate) -> impl Endpoint + 'static {
    Route::new()
        .at("/echo", post(echo))
        .at("/large", get(large))
        .at("/panics", get(panics))
        .at("/gate", poem::endpoint::make(move |request| gate.clone().call(request)))
        .map_to_response()
}

async fn start_with(limits: ServerLimits, tls: Option<TlsFiles>, gate: Gate) -> Running {
    let stop = CancellationToken::new();
    let (told, address) = tokio::sync::oneshot::channel();
    let options = ServerOptions { listen: ([127, 0, 0, 1], 0).into(), tls, limits };
    let server = tokio::spawn(serve(app(gate), options, stop.clone(), |address| {
        let _ = told.send(address);
    }));
    Running { address: address.await.expect("it listens"), stop, server }
}

async fn start(limits: ServerLimits) -> Running {
    start_with(limits, None, Gate::default()).await
}

/// Short enough to wait for, long enough for a busy machine.
fn short() -> ServerLimits {
    ServerLimits {
        header_timeout: Duration::from_millis(400),
        body_timeout: Duration::from_millis(400),
        idle_timeout: Duration::from_millis(1200),
        stall_timeout: Duration::from_millis(400),
        handshake_timeout: Duration::from_millis(400),
        grace: Duration::from_millis(400),
        ..ServerLimits::default()
    }
}

/// Sends, then reads until the server hangs up.
async fn exchange(address: SocketAddr, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.expect("it accepts");
    stream.write_all(request).await.expect("it reads");
    rest(&mut stream).await
}

async fn rest(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    // A reset after the answer is as good as an end.
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

async fn head(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(stream.read_u8().await.expect("an answer"));
    }
    String::from_utf8_lossy(&answer).into_owned()
}

/// Writes a byte at a time until the server hangs up, for at most ten seconds.
async fn drip(stream: &mut TcpStream) -> (Duration, String) {
    let began = Instant::now();
    let (mut reader, mut writer) = stream.split();
    let mut answer = Vec::new();
    let write = async {
        while began.elapsed() < Duration::from_secs(10) {
            if writer.write_all(b"a").await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        () = write => {}
        _ = reader.read_to_end(&mut answer) => {}
    }
    (began.elapsed(), String::from_utf8_lossy(&answer).into_owned())
}

#[tokio::test]
async fn a_client_that_drips_its_headers_is_dropped() {
    let running = start(short()).await;
    for first in [&b""[..], b"GET /echo", b"POST /echo HTTP/1.1\r\nHost: a\r\nX: "] {
        let mut stream = TcpStream::connect(running.address).await.expect("it accepts");
        stream.write_all(first).await.expect("it reads");
        let (after, _) = drip(&mut stream).await;
        assert!(after >= Duration::from_millis(300) && after < Duration::from_secs(5), "{after:?}");
    }
    // One that says nothing at all, and one that begins a second request and never ends it.
    assert_eq!(exchange(running.address, b"").await, "");
    let mut stream = TcpStream::connect(running.address).await.expect("it accepts");
    stream.write_all(b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n").await.expect("it reads");
    assert!(head(&mut stream).await.starts_with("HTTP/1.1 200"));
    let (after, _) = drip(&mut stream).await;
    assert!(after < Duration::from_secs(5), "{after:?}");
}

#[tokio::test]
async fn a_client_that_drips_its_body_is_told_408() {
    let running = start(short()).await;
    for framing in ["Content-Length: 1000000\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\nfffff\r\n"] {
        let mut stream = TcpStream::connect(running.address).await.expect("it accepts");
        let request = format!("POST /echo HTTP/1.1\r\nHost: a\r\n{framing}");
        stream.write_all(request.as_bytes()).await.expect("it reads");
        let (after, answer) = drip(&mut stream).await;
        assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
        assert!(answer.contains("application/problem+json"), "{answer}");
        assert!(after >= Duration::from_millis(300) && after < Duration::from_secs(5), "{after:?}");
    }
}

#[tokio::test]
async fn headers_and_bodies_have_a_size() {
    let running = start(ServerLimits { max_body_bytes: 1000, ..short() }).await;
    let long = "a".repeat(33 * 1024);
    for request in [
        format!("GET /echo HTTP/1.1\r\nHost: a\r\nX-Long: {long}\r\n\r\n"),
        format!("GET /echo HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: a\r\n".repeat(200)),
    ] {
        let answer = exchange(running.address, request.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    }
    let body = "b".repeat(1001);
    let too_long = format!("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 1001\r\n\r\n{body}");
    let chunked =
        format!("POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3e9\r\n{body}\r\n0\r\n\r\n");
    for request in [too_long, chunked] {
        let answer = exchange(running.address, request.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    }
    let fits =
        format!("POST /echo HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 1000\r\n\r\n{}", &body[1..]);
    assert!(exchange(running.address, fits.as_bytes()).await.ends_with(&body[1..]));
}

#[tokio::test]
async fn two_lengths_are_one_too_many() {
    let running = start(short()).await;
    for smuggled in [
        "Content-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        "Content-Length: 1, 2\r\n\r\nab",
        "Content-Length: +1\r\n\r\na",
        "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    ] {
        let request = format!("POST /echo HTTP/1.1\r\nHost: a\r\n{smuggled}");
        let answer = exchange(running.address, request.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{smuggled:?}: {answer}");
    }
}

#[tokio::test]
async fn an_idle_connection_is_kept_for_longer_than_a_head_may_take() {
    let running = start(short()).await;
    let mut stream = TcpStream::connect(running.address).await.expect("it accepts");
    let request = b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n";
    stream.write_all(request).await.expect("it reads");
    head(&mut stream).await;
    tokio::time::sleep(Duration::from_millis(700)).await;
    stream.write_all(request).await.expect("it is still there");
    head(&mut stream).await;
    let began = Instant::now();
    assert_eq!(rest(&mut stream).await, "");
    assert!(began.elapsed() >= Duration::from_millis(1000), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_client_that_does_not_read_is_dropped() {
    let running = start(ServerLimits { max_connections: 1, ..short() }).await;
    let mut deaf = TcpStream::connect(running.address).await.expect("it accepts");
    deaf.write_all(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n").await.expect("it reads");
    // Served only once the other is gone, for there is one place.
    let next = exchange(running.address, b"POST /echo HTTP/1.1\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
    let next = tokio::time::timeout(Duration::from_secs(10), next).await.expect("the place is free again");
    assert!(next.starts_with("HTTP/1.1 200"), "{next}");
    drop(deaf);
}

#[tokio::test]
async fn connections_beyond_the_limit_wait() {
    let gate = Gate::default();
    let limits = ServerLimits { max_connections: 2, ..ServerLimits::default() };
    let running = start_with(limits, None, gate.clone()).await;
    let request = b"GET /gate HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let calls: Vec<_> = (0..3).map(|_| tokio::spawn(exchange(running.address, request))).collect();
    gate.entered(2).await;
    let third = tokio::time::timeout(Duration::from_millis(100), gate.entered(3)).await;
    assert!(third.is_err(), "there are two places");
    gate.open.add_permits(1);
    gate.entered(3).await;
    gate.open.add_permits(2);
    for call in calls {
        assert!(call.await.expect("no panic").ends_with("through"));
    }
}

#[tokio::test]
async fn a_stop_lets_requests_finish_and_takes_no_new_ones() {
    let gate = Gate::default();
    let running = start_with(ServerLimits::default(), None, gate.clone()).await;
    let mut idle = TcpStream::connect(running.address).await.expect("it accepts");
    let call = tokio::spawn(exchange(running.address, b"GET /gate HTTP/1.1\r\nHost: a\r\n\r\n"));
    gate.entered(1).await;
    running.stop.cancel();
    assert_eq!(rest(&mut idle).await, "");
    while TcpStream::connect(running.address).await.is_ok() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(!running.server.is_finished());
    gate.open.add_permits(1);
    let answer = call.await.expect("no panic");
    assert!(answer.ends_with("through"), "{answer}");
    let ended = tokio::time::timeout(Duration::from_secs(5), running.server).await.expect("it ends");
    assert!(ended.expect("no panic").is_ok());
}

#[tokio::test]
async fn a_stop_does_not_wait_for_ever() {
    let gate = Gate::default();
    let running = start_with(short(), None, gate.clone()).await;
    let call = tokio::spawn(exchange(running.address, b"GET /gate HTTP/1.1\r\nHost: a\r\n\r\n"));
    gate.entered(1).await;
    running.stop.cancel();
    let ended = tokio::time::timeout(Duration::from_secs(5), running.server).await.expect("it ends");
    assert!(ended.expect("no panic").is_ok());
    assert_eq!(call.await.expect("no panic"), "");
}

#[tokio::test]
async fn each_answer_has_an_id_of_our_own_and_a_panic_is_an_answer() {
    let running = start(ServerLimits::default()).await;
    let mut ids = Vec::new();
    for path in ["/echo", "/nowhere", "/panics"] {
        let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\nX-Request-Id: forged\r\nConnection: close\r\n\r\n");
        let answer = exchange(running.address, request.as_bytes()).await;
        let id = answer.lines().find_map(|line| line.strip_prefix("x-request-id: ")).expect("an id").to_owned();
        assert!(id.len() == 32 && !ids.contains(&id), "{answer}");
        ids.push(id);
        assert_eq!(answer.starts_with("HTTP/1.1 500"), path == "/panics", "{answer}");
    }
}

#[tokio::test]
async fn an_address_in_use_is_said_in_one_line() {
    let running = start(ServerLimits::default()).await;
    let options = ServerOptions { listen: running.address, tls: None, limits: ServerLimits::default() };
    let error = serve(app(Gate::default()), options, CancellationToken::new(), |_| {}).await.expect_err("it is taken");
    assert_eq!(error.to_string(), format!("cannot listen on {}: the address is in use", running.address));
}

/// A certificate of its own authority, written where the server reads it.
fn certify(folder: &Path) -> CertificateDer<'static> {
    let certified = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
    std::fs::write(folder.join("cert.pem"), certified.cert.pem()).expect("written");
    std::fs::write(folder.join("key.pem"), certified.signing_key.serialize_pem()).expect("written");
    CertificateDer::from_pem_slice(certified.cert.pem().as_bytes()).expect("a certificate")
}

fn client(trusted: &CertificateDer<'static>, address: SocketAddr, protocol: &[u8]) -> reqwest::Client {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(trusted.clone()).expect("a certificate");
    let mut tls = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = vec![protocol.to_vec()];
    let client = reqwest::Client::builder().tls_backend_preconfigured(tls).no_proxy().resolve("localhost", address);
    client.build().expect("a client")
}

async fn ask(trusted: &CertificateDer<'static>, address: SocketAddr, protocol: &[u8]) -> Option<reqwest::Response> {
    let url = format!("https://localhost:{}/echo", address.port());
    client(trusted, address, protocol).post(url).body("hello").send().await.ok()
}

#[tokio::test]
async fn tls_speaks_both_versions_and_takes_a_new_certificate_on_sighup() {
    let folder = std::env::temp_dir().join(format!("orderly-tls-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let old = certify(&folder);
    let files = TlsFiles { certificate: folder.join("cert.pem"), key: folder.join("key.pem") };
    let running = start_with(short(), Some(files), Gate::default()).await;
    for (protocol, version) in [(&b"h2"[..], reqwest::Version::HTTP_2), (b"http/1.1", reqwest::Version::HTTP_11)] {
        let answer = ask(&old, running.address, protocol).await.expect("an answer");
        assert_eq!((answer.version(), answer.status()), (version, StatusCode::OK));
        assert!(answer.headers().contains_key("x-request-id"));
        assert_eq!(answer.bytes().await.expect("a body"), "hello");
    }
    // Who speaks no TLS, or nothing, gets nothing and is let go.
    assert!(!exchange(running.address, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.contains("HTTP/1.1"));
    assert_eq!(exchange(running.address, b"").await, "");

    let hang_up = || {
        let process = rustix::process::getpid();
        rustix::process::kill_process(process, rustix::process::Signal::HUP).expect("a signal");
    };
    let new = certify(&folder);
    hang_up();
    while ask(&new, running.address, b"h2").await.is_none() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(ask(&old, running.address, b"h2").await.is_none());

    std::fs::write(folder.join("cert.pem"), "no certificate").expect("written");
    hang_up();
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(ask(&new, running.address, b"http/1.1").await.is_some(), "the last good one stays");
    running.stop.cancel();
    assert!(running.server.await.expect("no panic").is_ok());
    let _ = std::fs::remove_dir_all(folder);
}

#[tokio::test]
async fn a_key_of_another_certificate_is_refused_at_the_start() {
    let folder = std::env::temp_dir().join(format!("orderly-tls-pair-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    certify(&folder);
    let certificate = std::fs::read(folder.join("cert.pem")).expect("read");
    certify(&folder);
    std::fs::write(folder.join("cert.pem"), certificate).expect("written");
    let files = TlsFiles { certificate: folder.join("cert.pem"), key: folder.join("key.pem") };
    let options =
        ServerOptions { listen: ([127, 0, 0, 1], 0).into(), tls: Some(files), limits: ServerLimits::default() };
    let served = serve(app(Gate::default()), options, CancellationToken::new(), |_| {}).await;
    assert!(matches!(served, Err(ServeError::Tls(_))), "{served:?}");
    let _ = std::fs::remove_dir_all(folder);
}
