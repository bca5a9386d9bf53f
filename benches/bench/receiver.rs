//! What do the messages arrive at?
//!
//! One thread, hyper's server, an empty 200 at once (or after `delay`). It checks what it counts: within a
//! destination, sequences must rise. Commands come on stdin, answers go to stdout, a line each:
//!
//! ```text
//! expect <n>        forgets everything; tells (as `stats`) when n new messages have come
//! delay <ms>        answers so much later from now on
//! failing <n>       refuses the first try of each message whose sequence n divides; 0: none
//! stats             tells
//! ```

use std::cell::RefCell;
use std::collections::HashMap;
use std::io::Write;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpListener;

use super::Result;
use super::child::Child;
use super::histogram::Histogram;
use super::measure::now_ns;

/// A run that has not got all its messages after this long has lost some.
const LONGEST_RUN: Duration = Duration::from_secs(600);

#[derive(clap::Args)]
pub struct Arguments {}

/// What came since `expect`.
#[derive(Default, Clone, Serialize, Deserialize)]
pub struct Stats {
    /// Without those that came again.
    pub messages: u64,
    pub again: u64,
    /// Sequences that came after a higher one.
    pub out_of_order: u64,
    /// Of the first and the last one, on the clock that all processes share.
    pub first_ns: u64,
    pub last_ns: u64,
    /// Of each second since the first.
    pub each_second: Vec<u64>,
    /// From `"at"` in the body to here, for bodies that have it.
    pub latencies: Histogram,
}

impl Stats {
    /// A run that lost or reordered something is no measurement.
    pub fn check(&self, expected: u64) -> Result<()> {
        if self.messages == expected && self.out_of_order == 0 {
            return Ok(());
        }
        Err(format!("{} of {expected} messages came, {} out of order", self.messages, self.out_of_order).into())
    }
}

/// The receiver of a benchmark, in a process of its own.
pub struct Receiver {
    pub child: Child,
    /// `http://127.0.0.1:<port>`
    pub base: String,
}

impl Receiver {
    pub fn start() -> Result<Receiver> {
        let mut child = Child::part("receiver", &["receiver".to_owned()])?;
        let base = child.line()?;
        Ok(Receiver { child, base })
    }

    /// Counts from now on. Returns when it does: what was sent before would be counted and forgotten.
    pub fn expect(&mut self, messages: u64) -> Result<()> {
        self.child.say(&format!("expect {messages}"))?;
        self.child.line().map(drop)
    }

    pub fn stats(&mut self) -> Result<Stats> {
        self.child.say("stats")?;
        self.child.json()
    }

    /// Polls until so many have come, at most two minutes.
    pub async fn until(&mut self, messages: u64) -> Result<Stats> {
        for _ in 0..600 {
            let stats = self.stats()?;
            if stats.messages >= messages {
                return Ok(stats);
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        let came = self.stats()?.messages;
        Err(format!("only {came} of {messages} messages came").into())
    }

    /// When all that was expected has come; an error after ten minutes.
    pub fn complete(&mut self) -> Result<Stats> {
        let process = rustix::process::Pid::from_raw(self.child.pid().cast_signed()).ok_or("it has a pid")?;
        let (over, ends) = std::sync::mpsc::channel::<()>();
        std::thread::spawn(move || {
            if ends.recv_timeout(LONGEST_RUN) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                // What is read from it then ends.
                let _ = rustix::process::kill_process(process, rustix::process::Signal::KILL);
            }
        });
        let stats = self.child.json();
        drop(over);
        stats
    }
}

#[derive(Default)]
struct State {
    expected: u64,
    delay: Duration,
    failing: u64,
    last: HashMap<String, u64>,
    stats: Stats,
}

pub fn main(_: Arguments) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let state = Rc::new(RefCell::new(State::default()));
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        say(&format!("http://{}", listener.local_addr()?));
        tokio::task::spawn_local(accept(listener, state.clone()));
        let mut commands = BufReader::new(tokio::io::stdin()).lines();
        while let Some(command) = commands.next_line().await? {
            let mut state = state.borrow_mut();
            match command.split_once(' ') {
                Some(("expect", n)) => {
                    *state =
                        State { expected: n.parse()?, delay: state.delay, failing: state.failing, ..State::default() };
                    say("expecting");
                }
                Some(("failing", n)) => state.failing = n.parse()?,
                Some(("delay", ms)) => state.delay = Duration::from_millis(ms.parse()?),
                _ => say(&serde_json::to_string(&state.stats)?),
            }
        }
        Ok(())
    })
}

fn say(line: &str) {
    let mut stdout = std::io::stdout().lock();
    // Nobody listens any more: stdin ends as well.
    let _ = writeln!(stdout, "{line}").and_then(|()| stdout.flush());
}

async fn accept(listener: TcpListener, state: Rc<RefCell<State>>) {
    while let Ok((stream, _)) = listener.accept().await {
        let _ = stream.set_nodelay(true);
        let state = state.clone();
        tokio::task::spawn_local(async move {
            let service = service_fn(move |request| answer(request, state.clone()));
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(
    request: Request<Incoming>,
    state: Rc<RefCell<State>>,
) -> std::result::Result<Response<Empty<Bytes>>, hyper::Error> {
    let (head, mut body) = request.into_parts();
    let mut sent_ns = None;
    let mut first = true;
    while let Some(frame) = body.frame().await {
        if let Some(data) = frame?.data_ref()
            && std::mem::take(&mut first)
        {
            sent_ns = sent_at(data);
        }
    }
    let path = head.uri.path();
    if path.starts_with("/hang") {
        std::future::pending::<()>().await;
    }
    let number = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    let sequence = number("orderly-sequence").unwrap_or(0);
    let failing = state.borrow().failing;
    if failing > 0 && sequence.is_multiple_of(failing) && number("orderly-attempt") == Some(1) {
        let mut response = Response::new(Empty::new());
        *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        return Ok(response);
    }
    let delay = state.borrow_mut().note(path, sequence, sent_ns);
    if !delay.is_zero() {
        tokio::time::sleep(delay).await;
    }
    Ok(Response::new(Empty::new()))
}

impl State {
    fn note(&mut self, path: &str, sequence: u64, sent_ns: Option<u64>) -> Duration {
        let now = now_ns();
        match self.last.get_mut(path) {
            Some(last) if *last == sequence => {
                self.stats.again += 1;
                return self.delay;
            }
            Some(last) if *last > sequence => self.stats.out_of_order += 1,
            Some(last) => *last = sequence,
            None => drop(self.last.insert(path.to_owned(), sequence)),
        }
        if self.stats.messages == 0 {
            self.stats.first_ns = now;
        }
        self.stats.messages += 1;
        self.stats.last_ns = now;
        let second = ((now - self.stats.first_ns) / 1_000_000_000) as usize;
        if self.stats.each_second.len() <= second {
            self.stats.each_second.resize(second + 1, 0);
        }
        self.stats.each_second[second] += 1;
        if let Some(sent) = sent_ns {
            self.stats.latencies.record(now.saturating_sub(sent) / 1_000);
        }
        if self.stats.messages == self.expected {
            match serde_json::to_string(&self.stats) {
                Ok(line) => say(&line),
                Err(error) => say(&error.to_string()),
            }
        }
        self.delay
    }
}

/// The number behind `{"at":`.
fn sent_at(data: &[u8]) -> Option<u64> {
    let digits = data.strip_prefix(br#"{"at":"#)?;
    let end = digits.iter().position(|byte| !byte.is_ascii_digit())?;
    std::str::from_utf8(&digits[..end]).ok()?.parse().ok()
}
