use std::io;
use std::net::IpAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use chrono::Utc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use super::super::{AlwaysOpen, Looking, Lookup, SigningKey};
use super::*;
use crate::domain::{DestinationId, Headers, MessageId, OnExhausted, Sequence};

/// A receiver that answers each connection's requests with the same bytes.
struct Receiver {
    port: u16,
    requests: mpsc::UnboundedReceiver<Vec<u8>>,
    connections: Arc<AtomicUsize>,
}

/// Reads one request; `None` at the end of the connection.
async fn read_request(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut request = Vec::new();
    let mut buffer = [0u8; 4096];
    loop {
        let read = stream.read(&mut buffer).await.ok().filter(|read| *read > 0)?;
        request.extend_from_slice(&buffer[..read]);
        let text = String::from_utf8_lossy(&request).to_ascii_lowercase();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.split("content-length: ").nth(1)?.split("\r\n").next()?.parse::<usize>().ok()?;
            if body.len() >= length {
                return Some(request);
            }
        }
    }
}

impl Receiver {
    async fn start(answer: impl Into<Vec<u8>>) -> Receiver {
        let answer = answer.into();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let (sender, requests) = mpsc::unbounded_channel();
        let connections = Arc::new(AtomicUsize::new(0));
        let counted = connections.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::SeqCst);
                let (sender, answer) = (sender.clone(), answer.clone());
                tokio::spawn(async move {
                    while let Some(request) = read_request(&mut stream).await {
                        let _ = sender.send(request);
                        // A client that has heard enough closes.
                        if stream.write_all(&answer).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        Receiver { port, requests, connections }
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}/hook?token=secret", self.port)
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

fn client() -> DeliveryClient {
    let loopback = vec!["127.0.0.0/8".parse().expect("a network"), "::1/128".parse().expect("a network")];
    client_with(Guard::new(loopback, Vec::new(), false))
}

fn client_with(guard: Guard) -> DeliveryClient {
    let keys = SigningKeys::new(vec![SigningKey::generate().expect("random")]).expect("one key");
    DeliveryClient::new(ClientSettings { guard, keys, egress_proxy: None, extra_roots: Vec::new() }).expect("a client")
}

fn policy(url: &str, timeout: Duration) -> Policy {
    Policy {
        url: Url::parse(url).expect("a URL"),
        headers: Headers::default(),
        on_exhausted: OnExhausted::Discard,
        retry: None,
        timeout,
        max_per_second: None,
        hmac_secret: None,
    }
}

fn message(payload: &'static [u8]) -> Message {
    Message {
        sequence: Sequence(7),
        payload: Bytes::from_static(payload),
        content_type: "application/json".to_owned(),
        headers: Headers::default(),
        created_at: Utc::now(),
        replay_of: None,
    }
}

const META: Meta = Meta {
    id: MessageId { destination: DestinationId(1), sequence: Sequence(7) },
    attempt: 1,
    epoch: 1,
    previous: Sequence(0),
    skipped: 0,
};

async fn deliver_to(client: &DeliveryClient, url: &str, timeout: Duration) -> Outcome {
    let target = client.target(&policy(url, timeout));
    let outcome = client.deliver(&target, &message(b"{}"), &META, AlwaysOpen).await.expect("the gate is open");
    if let Err(failure) = &outcome.result {
        assert!(!failure.detail.contains("secret"), "{}", failure.detail);
    }
    outcome
}

fn kind(outcome: &Outcome) -> Option<FailureKind> {
    outcome.result.as_ref().err().map(|failure| failure.kind)
}

const LONG: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(300);

#[tokio::test]
async fn a_request_is_as_the_contract_says_and_its_connection_is_kept() {
    let mut receiver = Receiver::start("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nthank").await;
    let client = client();
    for _ in 0..3 {
        let outcome = deliver_to(&client, &receiver.url(), LONG).await;
        assert!(outcome.delivered());
        assert_eq!((outcome.status_code, &outcome.response[..]), (Some(200), &b"thank"[..]));
    }
    assert_eq!(receiver.connections(), 1);
    let request = String::from_utf8(receiver.requests.recv().await.expect("a request")).expect("text");
    assert!(request.starts_with("POST /hook?token=secret HTTP/1.1\r\n"), "{request}");
    assert!(request.ends_with("\r\n\r\n{}"), "{request}");
    for line in [
        "webhook-id: 1-7",
        "webhook-signature: v1a,",
        "content-length: 2",
        "content-type: application/json",
        concat!("user-agent: Orderly/", env!("CARGO_PKG_VERSION")),
    ] {
        assert!(request.contains(&format!("\r\n{line}")), "{line} in {request}");
    }
    assert!(!request.contains("accept-encoding"), "{request}");
}

#[tokio::test]
async fn only_a_2xx_is_success_and_redirects_are_not_followed() {
    let elsewhere = Receiver::start("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    let client = client();
    for (line, expected) in [
        ("200 OK", None),
        ("204 No Content", None),
        ("299 Whatever", None),
        ("301 Moved", Some(FailureKind::Status)),
        ("307 Moved", Some(FailureKind::Status)),
        ("400 Bad", Some(FailureKind::Status)),
        ("410 Gone", Some(FailureKind::Gone)),
        ("500 Oops", Some(FailureKind::Status)),
    ] {
        let location = elsewhere.url();
        let length = if line.starts_with("204") { "" } else { "content-length: 0\r\n" };
        let receiver = Receiver::start(format!("HTTP/1.1 {line}\r\nlocation: {location}\r\n{length}\r\n")).await;
        let outcome = deliver_to(&client, &receiver.url(), LONG).await;
        assert_eq!(kind(&outcome), expected, "{line}");
        assert_eq!(outcome.status_code.map(|code| code.to_string()).as_deref(), line.get(..3));
        if let Err(failure) = outcome.result {
            assert_eq!(failure.detail, format!("HTTP {}", &line[..3]));
        }
    }
    assert_eq!(elsewhere.connections(), 0);
}

#[tokio::test]
async fn retry_after_counts_on_429_and_503_only() {
    let client = client();
    for (status, expected) in [(429, Some(7)), (503, Some(7)), (500, None), (200, None)] {
        let answer = format!("HTTP/1.1 {status} X\r\nretry-after: 7\r\ncontent-length: 0\r\n\r\n");
        let receiver = Receiver::start(answer).await;
        let outcome = deliver_to(&client, &receiver.url(), LONG).await;
        let retry_after = outcome.result.err().and_then(|failure| failure.retry_after);
        assert_eq!(retry_after, expected.map(Duration::from_secs), "{status}");
    }
}

#[tokio::test]
async fn an_answer_costs_bounded_memory_and_one_timeout_at_most() {
    let client = client();
    // Longer than what is read: the rest, and the connection, are given up at once.
    let body = "a".repeat(1_000_000);
    let receiver = Receiver::start(format!("HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n{body}")).await;
    let outcome = deliver_to(&client, &receiver.url(), LONG).await;
    assert!(outcome.delivered() && outcome.duration < LONG / 2);
    assert_eq!(outcome.response.len(), KEPT);
    // A body that never ends: the status stands.
    let receiver = Receiver::start("HTTP/1.1 500 X\r\ncontent-length: 10\r\n\r\nabc").await;
    let outcome = deliver_to(&client, &receiver.url(), SHORT).await;
    assert_eq!((kind(&outcome), &outcome.response[..]), (Some(FailureKind::Status), &b"abc"[..]));
    let receiver = Receiver::start("HTTP/1.1 200 X\r\ncontent-length: 10\r\n\r\nabc").await;
    assert!(deliver_to(&client, &receiver.url(), SHORT).await.delivered());
    // A head that never ends, or is never sent.
    for answer in ["HTTP/1.1 200 OK\r\nx: y\r\n", ""] {
        let receiver = Receiver::start(answer).await;
        let outcome = deliver_to(&client, &receiver.url(), SHORT).await;
        assert_eq!((kind(&outcome), outcome.status_code), (Some(FailureKind::Timeout), None));
        assert_eq!(outcome.result.expect_err("a timeout").detail, "timeout after 0.3 s");
    }
    // A compressed body stays compressed.
    let receiver = Receiver::start("HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 3\r\n\r\nabc").await;
    assert_eq!(&deliver_to(&client, &receiver.url(), LONG).await.response[..], b"abc");
}

#[tokio::test]
async fn failures_are_told_apart() {
    let client = client();
    for (answer, expected) in [
        (format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "y".repeat(1_000_000)), FailureKind::TooLarge),
        (format!("HTTP/1.1 200 OK\r\n{}\r\n", "x: y\r\n".repeat(1000)), FailureKind::TooLarge),
        ("SSH-2.0-OpenSSH_9.6\r\n".to_owned(), FailureKind::Broken),
        ("* OK IMAP4rev1 ready\r\n\r\n".to_owned(), FailureKind::Broken),
    ] {
        let receiver = Receiver::start(answer.clone()).await;
        let outcome = deliver_to(&client, &receiver.url(), LONG).await;
        assert_eq!(kind(&outcome), Some(expected), "{:?} to {:.40}", outcome.result, answer);
    }
    let closed = TcpListener::bind("127.0.0.1:0").await.expect("a port").local_addr().expect("bound").port();
    let outcome = deliver_to(&client, &format!("http://127.0.0.1:{closed}/"), LONG).await;
    let failure = outcome.result.expect_err("refused");
    assert_eq!((failure.kind, failure.detail.as_str()), (FailureKind::Refused, "connection refused"));
}

#[tokio::test]
async fn a_receiver_that_hangs_up_breaks_the_try_and_nothing_is_sent_twice() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let seen = Arc::new(AtomicUsize::new(0));
    let counted = seen.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            if read_request(&mut stream).await.is_some() {
                counted.fetch_add(1, Ordering::SeqCst);
            }
        }
    });
    let outcome = deliver_to(&client(), &format!("http://127.0.0.1:{port}/"), LONG).await;
    assert_eq!(kind(&outcome), Some(FailureKind::Broken), "{:?}", outcome.result);
    assert_eq!(seen.load(Ordering::SeqCst), 1);
}

/// Says something else each time it is asked, as a name server of an attacker's would.
struct Rebinding(Mutex<Vec<Vec<IpAddr>>>);

impl Lookup for Rebinding {
    fn lookup(&self, _: &str) -> Looking {
        let next = self.0.lock().expect("no test panics with it").pop();
        Box::pin(async move { next.ok_or_else(|| io::Error::other("asked too often")) })
    }
}

#[tokio::test]
async fn a_name_that_turns_to_a_forbidden_address_is_refused_when_it_is_dialled() {
    let receiver = Receiver::start("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    let local: IpAddr = "127.0.0.1".parse().expect("an address");
    let public: IpAddr = "93.184.215.14".parse().expect("an address");
    // Last first: public at registration, private at the connection, both at the next.
    let answers = vec![vec![public, local], vec![local], vec![public]];
    let guard = Guard::new(Vec::new(), Vec::new(), false).with_lookup(Arc::new(Rebinding(Mutex::new(answers))));
    let url = format!("http://rebinding.example:{}/?secret", receiver.port);
    let registered = guard.check_registration(&Url::parse(&url).expect("a URL")).await;
    assert_eq!(registered, Ok(()));
    let client = client_with(guard);
    for _ in 0..2 {
        let failure = deliver_to(&client, &url, LONG).await.result.expect_err("forbidden");
        assert_eq!(failure.kind, FailureKind::ForbiddenAddress);
        assert_eq!(failure.detail, "forbidden address 127.0.0.1 (loopback)");
    }
    let failure = deliver_to(&client, &url, LONG).await.result.expect_err("no more answers");
    assert_eq!((failure.kind, failure.detail.as_str()), (FailureKind::Dns, "asked too often"));
    assert_eq!(receiver.connections(), 0);
}

#[tokio::test]
async fn a_literal_address_is_checked_although_nothing_resolves_it() {
    let receiver = Receiver::start("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    let client = client_with(Guard::new(Vec::new(), Vec::new(), false));
    for host in ["127.0.0.1", "0x7f.1", "[::ffff:127.0.0.1]", "localhost", "a.localhost"] {
        let outcome = deliver_to(&client, &format!("http://{host}:{}/", receiver.port), LONG).await;
        assert_eq!(kind(&outcome), Some(FailureKind::ForbiddenAddress), "{host}");
    }
    assert_eq!(receiver.connections(), 0);
}

#[tokio::test]
async fn a_checked_name_is_dialled_where_it_was_checked() {
    let receiver = Receiver::start("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    let answers = vec![vec!["127.0.0.1".parse().expect("an address")]];
    let loopback = vec!["127.0.0.0/8".parse().expect("a network")];
    let guard = Guard::new(loopback, Vec::new(), false).with_lookup(Arc::new(Rebinding(Mutex::new(answers))));
    let outcome = deliver_to(&client_with(guard), &format!("http://some.example:{}/", receiver.port), LONG).await;
    assert!(outcome.delivered(), "{:?}", outcome.result);
    assert_eq!(receiver.connections(), 1);
}

#[tokio::test]
async fn a_closed_gate_lets_no_byte_out() {
    for payload in [&b"{}"[..], b"", &[b'x'; 300_000]] {
        let mut receiver = Receiver::start("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
        let client = client();
        let target = client.target(&policy(&receiver.url(), LONG));
        let asked = Arc::new(AtomicUsize::new(0));
        let counted = asked.clone();
        let gate = move || {
            counted.fetch_add(1, Ordering::SeqCst);
            false
        };
        assert_eq!(client.deliver(&target, &message(payload), &META, gate).await.err(), Some(Aborted));
        assert!(asked.load(Ordering::SeqCst) >= 1);
        // The receiver sees this one first, and no other.
        let open = client.deliver(&target, &message(payload), &META, || true).await.expect("open");
        assert!(open.delivered(), "{} bytes: {:?}", payload.len(), open.result);
        let request = receiver.requests.recv().await.expect("a request");
        assert!(request.starts_with(b"POST "));
        assert!(receiver.requests.try_recv().is_err(), "{} bytes", payload.len());
    }
}

#[tokio::test]
async fn a_gate_is_asked_after_the_connection_stands() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}/", listener.local_addr().expect("bound"));
    let accepted = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).await.expect("the end of it");
        bytes
    });
    let client = client();
    let target = client.target(&policy(&url, LONG));
    assert_eq!(client.deliver(&target, &message(b"{}"), &META, || false).await.err(), Some(Aborted));
    assert_eq!(accepted.await.expect("no panic"), b"");
}

#[tokio::test]
async fn a_certificate_counts_only_from_somebody_trusted_and_for_that_name() {
    // What answers is not TLS at all.
    let receiver = Receiver::start("HTTP/1.1 400 Bad Request\r\n\r\n").await;
    let url = receiver.url().replace("http:", "https:");
    assert!(!deliver_to(&client(), &url, SHORT).await.delivered());

    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let key = made.signing_key.serialize_der().try_into().expect("a key");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(vec![made.cert.der().clone()], key))
        .expect("a certificate with its key");
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("bound").port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            // A client that does not trust us hangs up.
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let _ = stream.read(&mut [0; 4096]).await;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
        }
    });
    let loopback = Guard::new(vec!["127.0.0.0/8".parse().expect("a network")], Vec::new(), true);
    let trusting = DeliveryClient::new(ClientSettings {
        guard: loopback.clone(),
        keys: SigningKeys::default(),
        egress_proxy: None,
        extra_roots: vec![made.cert.der().clone()],
    })
    .expect("a client");
    for (client, host, expected) in [
        (&trusting, "localhost", None),
        (&trusting, "127.0.0.1", Some("not valid for name")),
        (&client_with(loopback), "localhost", Some("UnknownIssuer")),
    ] {
        let outcome = deliver_to(client, &format!("https://{host}:{port}/?secret"), LONG).await;
        assert_eq!(kind(&outcome), expected.map(|_| FailureKind::Tls), "{host}: {:?}", outcome.result);
        let detail = outcome.result.err().map(|failure| failure.detail).unwrap_or_default();
        assert!(detail.contains(expected.unwrap_or_default()), "{host}: {detail}");
    }
}

#[tokio::test]
async fn with_an_egress_proxy_names_are_the_proxys_business_and_literals_are_not() {
    let mut proxy = Receiver::start("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    // It asks nobody: the list of answers is empty.
    let guard = Guard::new(Vec::new(), Vec::new(), false).with_lookup(Arc::new(Rebinding(Mutex::default())));
    let client = DeliveryClient::new(ClientSettings {
        guard,
        keys: SigningKeys::default(),
        egress_proxy: Some(format!("http://127.0.0.1:{}", proxy.port).parse().expect("a URL")),
        extra_roots: Vec::new(),
    })
    .expect("a client");
    assert!(deliver_to(&client, "http://some.example/hook", LONG).await.delivered());
    let request = String::from_utf8(proxy.requests.recv().await.expect("a request")).expect("text");
    assert!(request.starts_with("POST http://some.example/hook HTTP/1.1\r\n"), "{request}");
    for url in ["http://10.0.0.1/", "http://localhost/", "http://169.254.169.254/"] {
        assert_eq!(kind(&deliver_to(&client, url, LONG).await), Some(FailureKind::ForbiddenAddress), "{url}");
    }
}
