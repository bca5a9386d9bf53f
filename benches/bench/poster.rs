//! What posts the messages?
//!
//! One thread; each connection posts, waits for its answer, and posts the next. With `every_ms` one
//! connection posts at that pace instead, and the body tells when.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;

use super::Result;
use super::child::Child;
use super::histogram::Histogram;
use super::measure::now_ns;
use super::payloads::Payloads;

#[derive(clap::Args, Clone)]
pub struct Arguments {
    /// host:port
    #[arg(long)]
    pub address: String,
    /// The first destination's id; the others follow.
    #[arg(long)]
    pub first: i64,
    #[arg(long)]
    pub destinations: u64,
    /// In all.
    #[arg(long)]
    pub messages: u64,
    #[arg(long)]
    pub connections: u64,
    /// Messages of one request.
    #[arg(long, default_value_t = 1)]
    pub batch: u64,
    #[arg(long)]
    pub every_ms: Option<u64>,
    /// Stops after so long, whatever is left.
    #[arg(long)]
    pub seconds: Option<u64>,
    #[arg(long)]
    pub payloads: Option<std::path::PathBuf>,
}

#[derive(Serialize, Deserialize)]
pub struct Posted {
    pub messages: u64,
    pub seconds: f64,
    /// From request to answer.
    pub latencies: Histogram,
}

impl Arguments {
    pub fn start(&self, payloads: &Payloads) -> Result<Child> {
        let mut arguments = vec!["post".to_owned()];
        let numbers = [
            ("--first", self.first.unsigned_abs()),
            ("--destinations", self.destinations),
            ("--messages", self.messages),
            ("--connections", self.connections),
            ("--batch", self.batch),
        ];
        arguments.extend(["--address".to_owned(), self.address.clone()]);
        let given = [self.every_ms.map(|ms| ("--every-ms", ms)), self.seconds.map(|seconds| ("--seconds", seconds))];
        for (name, value) in numbers.into_iter().chain(given.into_iter().flatten()) {
            arguments.extend([name.to_owned(), value.to_string()]);
        }
        arguments.extend(payloads.arguments());
        Child::part("poster", &arguments)
    }
}

struct Poster {
    arguments: Arguments,
    payloads: Payloads,
    next: Cell<u64>,
    latencies: RefCell<Histogram>,
}

pub fn main(arguments: Arguments) -> Result<()> {
    let payloads = Payloads::load(arguments.payloads.as_deref())?;
    let connections = arguments.connections;
    let poster = Rc::new(Poster { arguments, payloads, next: Cell::new(0), latencies: RefCell::default() });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let mut open = Vec::new();
        for _ in 0..connections {
            open.push(connect(&poster.arguments.address).await?);
        }
        let started = Instant::now();
        let tasks: Vec<_> =
            open.into_iter().map(|sender| tokio::task::spawn_local(post_on(poster.clone(), sender))).collect();
        for task in tasks {
            task.await??;
        }
        let posted = Posted {
            messages: poster.next.get(),
            seconds: started.elapsed().as_secs_f64(),
            latencies: poster.latencies.take(),
        };
        println!("{}", serde_json::to_string(&posted)?);
        Ok(())
    })
}

async fn connect(address: &str) -> Result<SendRequest<Full<Bytes>>> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::task::spawn_local(connection);
    Ok(sender)
}

async fn post_on(poster: Rc<Poster>, mut sender: SendRequest<Full<Bytes>>) -> Result<()> {
    let arguments = &poster.arguments;
    let mut pace = arguments.every_ms.map(|ms| tokio::time::interval(Duration::from_millis(ms)));
    let host = HeaderValue::try_from(&arguments.address)?;
    let path = if arguments.batch > 1 { "/v1/messages/batch" } else { "/v1/messages" };
    let started = Instant::now();
    loop {
        let first = poster.next.get();
        let over = arguments.seconds.is_some_and(|seconds| started.elapsed().as_secs() >= seconds);
        if over || first >= arguments.messages {
            return Ok(());
        }
        poster.next.set(first + arguments.batch);
        if let Some(pace) = &mut pace {
            pace.tick().await;
        }
        let mut request = Request::new(Full::new(poster.body(first)));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = path.parse()?;
        request.headers_mut().insert("host", host.clone());
        request.headers_mut().insert("content-type", HeaderValue::from_static("application/json"));
        sender.ready().await?;
        let asked = Instant::now();
        let response = sender.send_request(request).await?;
        let status = response.status();
        let answer = response.into_body().collect().await?.to_bytes();
        if status != StatusCode::CREATED {
            return Err(format!("{status}: {}", String::from_utf8_lossy(&answer)).into());
        }
        let took = u64::try_from(asked.elapsed().as_micros())?;
        poster.latencies.borrow_mut().record(took);
    }
}

impl Poster {
    fn body(&self, first: u64) -> Bytes {
        let mut body = Vec::with_capacity(700);
        if self.arguments.batch > 1 {
            body.extend_from_slice(br#"{"messages":["#);
            for n in first..first + self.arguments.batch {
                if n > first {
                    body.push(b',');
                }
                self.message(n, &mut body);
            }
            body.extend_from_slice(b"]}");
        } else {
            self.message(first, &mut body);
        }
        Bytes::from(body)
    }

    fn message(&self, n: u64, body: &mut Vec<u8>) {
        let destination = self.arguments.first.unsigned_abs() + n % self.arguments.destinations;
        body.extend_from_slice(format!(r#"{{"destination_id":{destination},"payload":"#).as_bytes());
        let payload = self.payloads.nth(n);
        if self.arguments.every_ms.is_some() {
            body.extend_from_slice(format!(r#"{{"at":{},"body":"#, now_ns()).as_bytes());
            body.extend_from_slice(&payload);
            body.push(b'}');
        } else {
            body.extend_from_slice(&payload);
        }
        body.push(b'}');
    }
}
