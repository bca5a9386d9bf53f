//! What do all the destinations look like from inside?
//!
//! HTTP by hand, one task for each connection, so that the instant of a request's first byte is known, and
//! whether its sender has hung up can be asked of the kernel at the very moment another request begins.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::dice::Dice;
use super::record::{End, Recorder, Request};

/// How a destination behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Temper {
    Quick,
    Slow,
    /// Some answers take longer than a worker may go without its database.
    Tortoise,
    /// Fails so often that messages are given up on.
    Flaky,
}

pub struct Receiver {
    pub address: SocketAddr,
}

/// The number of a request, and its socket.
type InFlight = (usize, Arc<OwnedFd>);

struct Shared {
    recorder: Arc<Recorder>,
    tempers: Vec<Temper>,
    /// The longest answer of the slowest, in milliseconds.
    slowest: u64,
    dice: Dice,
    /// By path: what is in flight, with its socket.
    in_flight: Mutex<HashMap<u32, Vec<InFlight>>>,
}

impl Receiver {
    /// `tempers` by path: `/d/<index>`.
    pub async fn start(
        recorder: Arc<Recorder>,
        tempers: Vec<Temper>,
        slowest: u64,
        dice: Dice,
    ) -> io::Result<Receiver> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared { recorder, tempers, slowest, dice, in_flight: Mutex::default() });
        tokio::spawn(async move {
            loop {
                match listener.accept().await {
                    Ok((stream, _)) => {
                        let shared = shared.clone();
                        tokio::spawn(async move {
                            let _ = serve(stream, shared).await;
                        });
                    }
                    Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
                }
            }
        });
        Ok(Receiver { address })
    }
}

impl Shared {
    /// Others of this path whose sender has hung up, whatever their tasks know, have ended.
    fn begin(&self, request: Request, socket: &Arc<OwnedFd>) -> usize {
        let (path, begun_at) = (request.path, request.begun_at);
        let mut in_flight = self.in_flight.lock().unwrap_or_else(PoisonError::into_inner);
        let others = in_flight.entry(path).or_default();
        others.retain(|(number, socket)| {
            let gone = hung_up(socket);
            if gone {
                self.recorder.end_request(*number, begun_at, End::Closed);
            }
            !gone
        });
        let number = self.recorder.begin_request(request);
        others.push((number, socket.clone()));
        number
    }

    fn end(&self, path: u32, number: usize, end: End) {
        self.recorder.end_request(number, self.recorder.now(), end);
        let mut in_flight = self.in_flight.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(others) = in_flight.get_mut(&path) {
            others.retain(|(other, _)| *other != number);
        }
    }

    /// Status and delay, by the seed, the message and the try.
    fn decide(&self, request: &Request, count: u64) -> (u16, Duration) {
        let temper = self.tempers.get(request.path as usize).copied().unwrap_or(Temper::Quick);
        let mut dice = self.dice.for_purpose(request.token.unwrap_or(0) << 20 ^ u64::from(request.path) << 8 ^ count);
        let (failing, delay) = match temper {
            Temper::Quick => (2, dice.millis(0, 3)),
            Temper::Slow => (3, dice.millis(20, 300)),
            Temper::Tortoise => {
                (2, if dice.percent(25) { dice.millis(self.slowest / 4, self.slowest) } else { dice.millis(50, 500) })
            }
            Temper::Flaky => (40, dice.millis(0, 10)),
        };
        (if dice.percent(failing) { 500 } else { 200 }, delay)
    }
}

fn hung_up(socket: &OwnedFd) -> bool {
    let watched = PollFlags::RDHUP;
    let mut set = [PollFd::new(socket, watched)];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut set, Some(&at_once)).is_err()
        || set[0].revents().intersects(watched | PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL)
}

async fn serve(mut stream: TcpStream, shared: Arc<Shared>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = Arc::new(stream.as_fd().try_clone_to_owned()?);
    let mut buffer: Vec<u8> = Vec::new();
    let mut count = 0;
    loop {
        let mut begun: Option<Instant> = (!buffer.is_empty()).then(Instant::now);
        let (head, length) = loop {
            if let Some(end) = find(&buffer, b"\r\n\r\n") {
                let head = String::from_utf8_lossy(&buffer[..end]).into_owned();
                let body = header(&head, "content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
                if buffer.len() >= end + 4 + body {
                    break (head, end + 4 + body);
                }
            }
            let mut piece = [0; 4096];
            let read = stream.read(&mut piece).await?;
            if read == 0 {
                return Ok(());
            }
            begun.get_or_insert_with(Instant::now);
            buffer.extend_from_slice(&piece[..read]);
        };
        buffer.drain(..length);
        let begun_at = shared.recorder.at(begun.unwrap_or_else(Instant::now));
        let Some(request) = read_request(&head, begun_at) else {
            stream.write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n").await?;
            continue;
        };
        let path = request.path;
        count += 1;
        let (status, delay) = shared.decide(&request, count);
        let number = shared.begin(request, &socket);
        let mut piece = [0; 1024];
        tokio::select! {
            biased;
            read = stream.read(&mut piece) => match read {
                Ok(read) if read > 0 => buffer.extend_from_slice(&piece[..read]),
                _ => {
                    shared.end(path, number, End::Closed);
                    return Ok(());
                }
            },
            () = tokio::time::sleep(delay) => {}
        }
        if hung_up(&socket) {
            shared.end(path, number, End::Closed);
            return Ok(());
        }
        // Noted first: the next request may begin as soon as the sender has the answer.
        shared.end(path, number, End::Answered(status));
        let answer = format!("HTTP/1.1 {status} X\r\ncontent-length: 2\r\n\r\nok");
        stream.write_all(answer.as_bytes()).await?;
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().skip(1).find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then_some(value.trim())
    })
}

fn read_request(head: &str, begun_at: u64) -> Option<Request> {
    let number = |name| header(head, name).and_then(|text| text.parse::<i64>().ok());
    let path = head.split_whitespace().nth(1)?.strip_prefix("/d/")?.parse().ok()?;
    let (destination, sequence) = header(head, "webhook-id")?.split_once('-')?;
    let sequence: i64 = sequence.parse().ok()?;
    if number("orderly-sequence")? != sequence {
        return None;
    }
    Some(Request {
        path,
        destination: destination.parse().ok()?,
        sequence,
        token: header(head, "x-token").and_then(|text| text.parse().ok()),
        previous: number("orderly-previous-sequence")?,
        skipped: number("orderly-skipped")?,
        attempt: u32::try_from(number("orderly-attempt")?).ok()?,
        epoch: number("orderly-epoch")?,
        begun_at,
        ended_at: None,
        end: None,
    })
}
