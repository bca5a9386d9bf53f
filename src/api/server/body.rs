//! When has a request's body taken too long, or become too much?
//!
//! However the application reads it (and whatever it makes of an error while reading), the client is told 408
//! or 413. poem's own size limit refuses chunked bodies; this one counts them.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use poem::Response;
use poem::http::{HeaderValue, StatusCode, Version, header};
use tokio::time::{Instant, Sleep, sleep_until};

use super::ServerLimits;
use crate::api::refusal::refusal;

/// How reading went, known to whoever reads and whoever answers.
#[derive(Clone)]
pub struct Reading {
    state: Arc<AtomicU8>,
    version: Version,
}

const FINE: u8 = 0;
const TOO_SLOW: u8 = 1;
const TOO_LARGE: u8 = 2;

struct Bounded {
    inner: Incoming,
    left: u64,
    deadline: Instant,
    /// Made when bytes are late for the first time; most bodies come with their head.
    timer: Option<Pin<Box<Sleep>>>,
    reading: Reading,
}

/// The body for the application; None of the second where there is no body to read.
pub fn bound(incoming: Incoming, version: Version, limits: &ServerLimits) -> (poem::Body, Option<Reading>) {
    if incoming.is_end_stream() {
        return (poem::Body::empty(), None);
    }
    let reading = Reading { state: Arc::new(AtomicU8::new(FINE)), version };
    let bounded = Bounded {
        inner: incoming,
        left: limits.max_body_bytes,
        deadline: Instant::now() + limits.body_timeout,
        timer: None,
        reading: reading.clone(),
    };
    (poem::Body::from(bounded.boxed()), Some(reading))
}

/// What a body that is announced as too large is told, before any of it is read.
pub fn refuse_announced(incoming: &Incoming, version: Version, limits: &ServerLimits) -> Option<Response> {
    (incoming.size_hint().lower() > limits.max_body_bytes).then(|| too_large(version))
}

impl Reading {
    /// The answer to a body that was not read to its end, in place of whatever error the application made of it.
    pub fn settle(&self, response: Response) -> Response {
        let failed = response.status().is_client_error() || response.status().is_server_error();
        match self.state.load(Relaxed) {
            TOO_SLOW if failed => closing(refusal(StatusCode::REQUEST_TIMEOUT, "the body took too long"), self.version),
            TOO_LARGE if failed => too_large(self.version),
            _ => response,
        }
    }
}

fn too_large(version: Version) -> Response {
    closing(refusal(StatusCode::PAYLOAD_TOO_LARGE, "the body is too large"), version)
}

/// What is left of the body is not waited for. (HTTP/2 ends the stream and knows no such header.)
fn closing(mut response: Response, version: Version) -> Response {
    if version < Version::HTTP_2 {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

impl Bounded {
    fn give_up<T>(&self, why: u8, kind: io::ErrorKind) -> Poll<Option<Result<T, io::Error>>> {
        self.reading.state.store(why, Relaxed);
        Poll::Ready(Some(Err(kind.into())))
    }
}

impl Body for Bounded {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let Poll::Ready(frame) = Pin::new(&mut self.inner).poll_frame(cx) else {
            let deadline = self.deadline;
            ready!(self.timer.get_or_insert_with(|| Box::pin(sleep_until(deadline))).as_mut().poll(cx));
            return self.give_up(TOO_SLOW, io::ErrorKind::TimedOut);
        };
        let Some(frame) = frame.transpose().map_err(io::Error::other)? else { return Poll::Ready(None) };
        // Bytes that drip in time are too slow all the same.
        if self.timer.is_some() && Instant::now() >= self.deadline {
            return self.give_up(TOO_SLOW, io::ErrorKind::TimedOut);
        }
        let length = frame.data_ref().map_or(0, |data| data.len() as u64);
        match self.left.checked_sub(length) {
            Some(left) => self.left = left,
            None => return self.give_up(TOO_LARGE, io::ErrorKind::FileTooLarge),
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
