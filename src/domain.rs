//! What are the things Orderly speaks of, and which rules hold for them everywhere?
//!
//! The guarantees (G1 to G7, see `docs/GUARANTEES.md`) are called by name in the code:
//! G1 nothing accepted is lost; G2 order; G3 one consumer; G4 crash; G5 isolation; G6 silence; G7 wake-up.
//!
//! No I/O, no clock, no SQL, no HTTP here.

mod destination;
mod headers;
mod ids;
mod message;
mod outcome;
mod retry;

pub use destination::{
    Destination, DestinationSettings, DestinationState, HmacSecret, OnExhausted, Policy, QueueState, UrlError,
    parse_url,
};
pub use headers::{HeaderError, Headers};
pub use ids::{DestinationId, MessageId, ParseIdError, Sequence, WorkerId};
pub use message::{MAX_TTL_SECONDS, Message, MessageState, NewMessage};
pub use outcome::{Failure, FailureKind, Outcome};
pub use retry::RetryPolicy;
