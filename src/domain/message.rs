//! What is a message, before and after it has its place in the queue?

use bytes::Bytes;
use chrono::{DateTime, Utc};

use super::destination::names;
use super::{DestinationId, Headers, Sequence};

/// The longest a message may wait, and the default: one day.
pub const MAX_TTL_SECONDS: i32 = 86_400;

/// Checked, not yet queued.
#[derive(Debug, Clone)]
pub struct NewMessage {
    pub destination: DestinationId,
    /// The request body of the delivery, byte for byte; at most 1 MiB.
    pub payload: Bytes,
    pub content_type: String,
    pub headers: Headers,
    /// 1 to [`MAX_TTL_SECONDS`].
    pub ttl_seconds: i32,
}

/// Queued, and read by the destination's holder.
#[derive(Debug, Clone)]
pub struct Message {
    pub sequence: Sequence,
    pub payload: Bytes,
    pub content_type: String,
    pub headers: Headers,
    pub created_at: DateTime<Utc>,
    /// `Some` when this message repeats one that was delivered before.
    pub replay_of: Option<Sequence>,
}

/// Where a message is in its life. The first three are still queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MessageState {
    Queued,
    Delivering,
    Retrying,
    Delivered,
    Expired,
    Exhausted,
    Skipped,
}

names!(MessageState {
    Queued = "queued",
    Delivering = "delivering",
    Retrying = "retrying",
    Delivered = "delivered",
    Expired = "expired",
    Exhausted = "exhausted",
    Skipped = "skipped",
});
