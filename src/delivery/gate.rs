//! May this request still be sent, now that its first byte would leave?
//!
//! Between the decision to send and the first byte lie a name lookup, a connection and a TLS handshake: up
//! to ten seconds, in which a worker may have lost the destination (G3, G4). The client asks for a
//! request's body in the same breath in which it hands the head to the socket, so that is where the gate
//! stands. Closed, nothing is sent, neither head nor body.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

/// Asked right before the first byte is sent; must not block.
pub trait Gate: Send + Sync + 'static {
    fn is_open(&self) -> bool;
}

impl<F: Fn() -> bool + Send + Sync + 'static> Gate for F {
    fn is_open(&self) -> bool {
        self()
    }
}

/// For requests that nobody can take back.
pub struct AlwaysOpen;

impl Gate for AlwaysOpen {
    fn is_open(&self) -> bool {
        true
    }
}

/// The gate was closed: nothing was sent, and this was no try.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("called off before the first byte")]
pub struct Aborted;

/// A body in one piece, behind a gate.
pub struct GatedBody {
    payload: Option<Bytes>,
    gate: Box<dyn Gate>,
}

impl GatedBody {
    pub fn new(payload: Bytes, gate: impl Gate) -> Self {
        GatedBody { payload: Some(payload), gate: Box::new(gate) }
    }
}

impl Body for GatedBody {
    type Data = Bytes;
    type Error = Aborted;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Aborted>>> {
        if self.payload.is_some() && !self.gate.is_open() {
            return Poll::Ready(Some(Err(Aborted)));
        }
        Poll::Ready(self.payload.take().filter(|payload| !payload.is_empty()).map(|payload| Ok(Frame::data(payload))))
    }

    fn is_end_stream(&self) -> bool {
        self.payload.is_none()
    }

    /// A body that is known to be empty is asked for its length and never polled: with a closed gate it
    /// claims a length unknown, so that the poll comes, and fails.
    fn size_hint(&self) -> SizeHint {
        match &self.payload {
            Some(payload) if payload.is_empty() && !self.gate.is_open() => SizeHint::new(),
            Some(payload) => SizeHint::with_exact(payload.len() as u64),
            None => SizeHint::with_exact(0),
        }
    }
}
