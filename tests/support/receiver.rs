//! What do the tests' destinations look like from inside, and what did they get?

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::PATIENCE;

/// An HTTP server on 127.0.0.1 that remembers all it got, on any path, and answers as it is told.
pub struct Receiver {
    address: SocketAddr,
    shared: Arc<Shared>,
    _serving: DropGuard,
}

/// One request.
#[derive(Debug, Clone)]
pub struct Received {
    pub path: String,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// When its head had arrived.
    pub arrived_at: Instant,
    /// When it was answered, or given up on by the sender.
    pub ended_at: Option<Instant>,
    /// What it was answered with; None while it is not, and when the sender gave up.
    pub status: Option<u16>,
    /// Requests in flight on this path when it arrived, itself included: 1 as long as G3 holds.
    pub overlap: usize,
    /// How many came to this path so far, itself included.
    pub count: usize,
}

/// What a request is answered with.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: Bytes,
    pub delay: Duration,
    /// Never answers; the sender has to give up.
    pub hangs: bool,
}

type Program = Box<dyn Fn(&Received) -> Answer + Send + Sync>;

struct Shared {
    program: Mutex<Program>,
    received: watch::Sender<Vec<Received>>,
    paths: Mutex<HashMap<String, Path>>,
}

/// Requests on one path.
#[derive(Default, Clone, Copy)]
struct Path {
    in_flight: usize,
    so_far: usize,
}

impl Answer {
    pub fn status(status: u16) -> Answer {
        Answer { status, headers: Vec::new(), body: Bytes::new(), delay: Duration::ZERO, hangs: false }
    }

    pub fn ok() -> Answer {
        Answer::status(200)
    }

    pub fn hang() -> Answer {
        Answer { hangs: true, ..Answer::ok() }
    }

    pub fn after(self, delay: Duration) -> Answer {
        Answer { delay, ..self }
    }

    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Answer {
        self.headers.push((name, value.into()));
        self
    }

    pub fn body(self, body: impl Into<Bytes>) -> Answer {
        Answer { body: body.into(), ..self }
    }
}

impl Received {
    pub fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name).unwrap_or_else(|| panic!("a {name} header in {:?}", self.headers));
        value.to_str().expect("a header in ASCII")
    }

    pub fn number(&self, name: &str) -> i64 {
        self.header(name).parse().expect("a number")
    }

    /// `orderly-sequence`.
    pub fn sequence(&self) -> i64 {
        self.number("orderly-sequence")
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).expect("a body in JSON")
    }
}

impl Receiver {
    /// Answers 200 to everything.
    pub async fn start() -> Receiver {
        Receiver::answering(|_| Answer::ok()).await
    }

    pub async fn answering(program: impl Fn(&Received) -> Answer + Send + Sync + 'static) -> Receiver {
        Receiver::on("127.0.0.1:0".parse().expect("an address"), program).await
    }

    /// On an address that was in use before, for one that comes back.
    pub async fn on(address: SocketAddr, program: impl Fn(&Received) -> Answer + Send + Sync + 'static) -> Receiver {
        let listener = TcpListener::bind(address).await.expect("the address is free");
        let address = listener.local_addr().expect("it is bound");
        let shared = Arc::new(Shared {
            program: Mutex::new(Box::new(program)),
            received: watch::Sender::new(Vec::new()),
            paths: Mutex::default(),
        });
        let ended = CancellationToken::new();
        tokio::spawn(accept(listener, shared.clone(), ended.clone()));
        Receiver { address, shared, _serving: ended.drop_guard() }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `path` starts with a slash.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// From now on, other answers.
    pub fn answer(&self, program: impl Fn(&Received) -> Answer + Send + Sync + 'static) {
        *self.shared.program.lock().unwrap() = Box::new(program);
    }

    /// All requests so far, in order of arrival.
    pub fn received(&self) -> Vec<Received> {
        self.shared.received.borrow().clone()
    }

    pub fn received_on(&self, path: &str) -> Vec<Received> {
        self.received().into_iter().filter(|received| received.path == path).collect()
    }

    /// Waits until the requests so far are what the test wants, and gives them.
    pub async fn wait_for(&self, wanted: impl Fn(&[Received]) -> bool) -> Vec<Received> {
        self.wait_for_within(PATIENCE, wanted).await
    }

    pub async fn wait_for_within(&self, limit: Duration, wanted: impl Fn(&[Received]) -> bool) -> Vec<Received> {
        let mut changes = self.shared.received.subscribe();
        let found = tokio::time::timeout(limit, changes.wait_for(|received| wanted(received))).await;
        match found {
            Ok(received) => received.expect("the sender is in self").clone(),
            Err(_) => panic!("after {limit:?} only this had come: {:#?}", brief(&self.received())),
        }
    }

    /// Waits for this many requests, on all paths.
    pub async fn wait_for_count(&self, count: usize) -> Vec<Received> {
        self.wait_for(|received| received.len() >= count).await
    }

    /// Waits until this many were answered.
    pub async fn wait_for_ended(&self, count: usize) -> Vec<Received> {
        self.wait_for(|received| received.iter().filter(|one| one.ended_at.is_some()).count() >= count).await
    }

    /// G2 and G3 on a path: one at a time, sequences that never fall, and each names the one before it that was
    /// answered with success.
    pub fn assert_in_order(&self, path: &str) {
        let received = self.received_on(path);
        for pair in received.windows(2) {
            assert!(pair[0].sequence() <= pair[1].sequence(), "out of order: {:#?}", brief(&received));
        }
        let mut delivered = 0;
        for one in &received {
            assert_eq!(one.overlap, 1, "two at a time: {:#?}", brief(&received));
            // A success the sender never heard of comes again, with the same one before it.
            let before = if one.sequence() == delivered { one.number("orderly-previous-sequence") } else { delivered };
            assert_eq!(one.number("orderly-previous-sequence"), before, "a hole: {:#?}", brief(&received));
            if one.status.is_some_and(|status| (200..300).contains(&status)) {
                delivered = one.sequence();
            }
        }
    }
}

/// Of each request: path, sequence, attempt.
fn brief(received: &[Received]) -> Vec<String> {
    let text = |one: &Received, name: &str| {
        one.headers.get(name).map_or("-".to_owned(), |value| String::from_utf8_lossy(value.as_bytes()).into_owned())
    };
    let line = |one: &Received| {
        format!("{} {} attempt {}", one.path, text(one, "orderly-sequence"), text(one, "orderly-attempt"))
    };
    received.iter().map(line).collect()
}

async fn accept(listener: TcpListener, shared: Arc<Shared>, ended: CancellationToken) {
    let accepting = async {
        loop {
            if let Ok((stream, _)) = listener.accept().await {
                let serving = serve(stream, shared.clone());
                tokio::spawn(ended.child_token().run_until_cancelled_owned(serving));
            }
        }
    };
    ended.run_until_cancelled(accepting).await;
}

async fn serve(stream: TcpStream, shared: Arc<Shared>) {
    let service = service_fn(|request| answer(request, shared.clone()));
    // A sender that hangs up is what some tests are about.
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

/// Counts a request as in flight until its answer is made or its sender hangs up (hyper then drops the future).
struct InFlight {
    shared: Arc<Shared>,
    path: String,
    index: Option<usize>,
    status: Option<u16>,
}

impl InFlight {
    fn begin(shared: Arc<Shared>, path: &str) -> (InFlight, Path) {
        let now = {
            let mut paths = shared.paths.lock().unwrap();
            let counts = paths.entry(path.to_owned()).or_default();
            counts.in_flight += 1;
            counts.so_far += 1;
            *counts
        };
        (InFlight { shared, path: path.to_owned(), index: None, status: None }, now)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if let Some(counts) = self.shared.paths.lock().unwrap().get_mut(&self.path) {
            counts.in_flight -= 1;
        }
        if let Some(index) = self.index {
            self.shared.received.send_modify(|received| {
                received[index].ended_at = Some(Instant::now());
                received[index].status = self.status;
            });
        }
    }
}

async fn answer(request: Request<Incoming>, shared: Arc<Shared>) -> Result<Response<Full<Bytes>>, Infallible> {
    let arrived_at = Instant::now();
    let (head, body) = request.into_parts();
    let path = head.uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
    let (mut in_flight, counts) = InFlight::begin(shared.clone(), &path);
    let Ok(body) = body.collect().await else {
        return Ok(Response::new(Full::default()));
    };
    let body = body.to_bytes();
    let received = Received {
        path,
        headers: head.headers,
        body,
        arrived_at,
        ended_at: None,
        status: None,
        overlap: counts.in_flight,
        count: counts.so_far,
    };
    shared.received.send_modify(|all| {
        in_flight.index = Some(all.len());
        all.push(received.clone());
    });
    let answer = (shared.program.lock().unwrap())(&received);
    if answer.hangs {
        std::future::pending::<()>().await;
    }
    tokio::time::sleep(answer.delay).await;
    in_flight.status = Some(answer.status);
    let mut response = Response::builder().status(answer.status);
    for (name, value) in &answer.headers {
        response = response.header(*name, value);
    }
    Ok(response.body(Full::new(answer.body)).expect("a status and headers of the test's own"))
}
