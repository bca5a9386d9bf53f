//! What does the store tell a lane, and what does a lane tell the store?

use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;
use tokio_postgres::Row;
use url::Url;

use super::place::Place;
use crate::domain::{
    DestinationId, DestinationState, Headers, HmacSecret, Message, OnExhausted, Policy, RetryPolicy, Sequence, WorkerId,
};
use crate::store::{Sealer, StoreError};

/// What came of asking for one destination.
#[derive(Debug)]
pub enum Claimed {
    Lane(Box<LaneStart>),
    /// Served by another worker.
    Owned(WorkerId),
    /// Paused, held or disabled (`None`), or waiting for a retry.
    Dormant(Option<Duration>),
    /// Locked for an instant by somebody who owns nothing.
    Busy,
    Gone,
    /// Claimed, and then of no use: what is stored of it cannot be read. It is to be released.
    Unreadable,
}

/// What a lane knows of its destination, for whoever has it next.
#[derive(Debug, Clone)]
pub struct Release {
    pub destination: DestinationId,
    pub floor: Sequence,
    pub last_delivered: Sequence,
    /// Of its last request.
    pub last_start: Option<Instant>,
}

impl Release {
    /// Nothing was done there.
    pub fn nothing(destination: DestinationId) -> Release {
        Release { destination, floor: Sequence(0), last_delivered: Sequence(0), last_start: None }
    }
}

/// What a lane must know of its destination.
#[derive(Debug)]
pub struct LaneStart {
    pub destination: DestinationId,
    pub epoch: i64,
    pub floor: Sequence,
    pub last_delivered: Sequence,
    /// Ended other than by delivery: the last sequence of each run, and how many.
    pub skips: Vec<(i64, i64)>,
    pub head: Option<HeadState>,
    pub held: bool,
    pub state: DestinationState,
    pub policy: Policy,
    /// How long ago the last request started, or may have.
    pub since_start: Option<Duration>,
    /// A client's request waits for the holder.
    pub asked: bool,
}

#[derive(Debug, Clone)]
pub struct HeadState {
    pub sequence: Sequence,
    /// Failed tries so far.
    pub attempts: u32,
    pub wait: Duration,
}

/// One message read ahead.
#[derive(Debug)]
pub struct Read {
    /// Which of the wants it answers, from 0.
    pub want: usize,
    pub message: Message,
    /// Negative: it has expired.
    pub expires_in_ms: i64,
    pub place: Place,
}

/// The end of one try, or of a message that was not tried.
#[derive(Debug, Clone)]
pub struct Acknowledgement {
    pub destination: DestinationId,
    pub sequence: Sequence,
    /// Where it was read.
    pub place: Place,
    pub number: u32,
    pub ending: Ending,
    pub status_code: Option<u16>,
    pub error: Option<String>,
    pub duration: Duration,
    pub response: Bytes,
    /// Entries of `skips` below it are to go.
    pub prune_skips: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    Delivered,
    Retry { after: Duration },
    Exhausted,
    Held,
    Expired,
}

impl Acknowledgement {
    /// Delivered at the first try, and nothing else to write.
    pub fn is_plain(&self) -> bool {
        self.ending == Ending::Delivered && self.number == 1 && !self.prune_skips
    }
}

/// A row of `orderly.lanes`.
pub fn read_lane(sealer: &Sealer, row: &Row) -> Result<LaneStart, StoreError> {
    let destination = DestinationId(row.get("destination_id"));
    let corrupt = |what: &str, why: String| StoreError::Corrupt(format!("destination {destination}: {what}: {why}"));
    let url = Url::parse(row.get("url")).map_err(|error| corrupt("url", error.to_string()))?;
    let headers = sealer.open(row.get("headers")).map_err(|error| corrupt("headers", error.to_string()))?;
    let headers = serde_json::from_slice(&headers).map_err(|error| corrupt("headers", error.to_string()))?;
    let hmac_secret = match row.get::<_, Option<&[u8]>>("hmac_secret") {
        Some(sealed) => {
            Some(HmacSecret(sealer.open(sealed).map_err(|error| corrupt("hmac secret", error.to_string()))?))
        }
        None => None,
    };
    let retry = row.get::<_, Option<i32>>("max_retries").map(|max_retries| RetryPolicy {
        max_retries: max_retries.unsigned_abs(),
        delay: Duration::try_from_secs_f64(row.get("delay_seconds")).unwrap_or_default(),
        backoff: row.get("backoff"),
    });
    let sequences: Vec<i64> = row.get("skip_sequences");
    let counts: Vec<i64> = row.get("skip_counts");
    Ok(LaneStart {
        destination,
        epoch: row.get("epoch"),
        floor: Sequence(row.get("floor")),
        last_delivered: Sequence(row.get("last_delivered")),
        skips: sequences.into_iter().zip(counts).collect(),
        head: row.get::<_, Option<i64>>("head_sequence").map(|sequence| HeadState {
            sequence: Sequence(sequence),
            attempts: row.get::<_, i32>("head_attempts").unsigned_abs(),
            wait: millis(row.get::<_, Option<i64>>("head_wait_ms").unwrap_or(0)),
        }),
        held: row.get("held"),
        state: DestinationState::from_name(row.get("state")).ok_or_else(|| corrupt("state", "unknown".to_owned()))?,
        policy: Policy {
            url,
            headers: Headers::from_stored(headers),
            on_exhausted: OnExhausted::from_name(row.get("on_exhausted"))
                .ok_or_else(|| corrupt("on_exhausted", "unknown".to_owned()))?,
            retry,
            timeout: Duration::try_from_secs_f64(row.get("timeout_seconds")).unwrap_or(Duration::from_secs(30)),
            max_per_second: row.get("max_per_second"),
            hmac_secret,
        },
        since_start: row.get::<_, Option<i64>>("since_start_ms").map(millis),
        asked: row.get("asked"),
    })
}

pub fn millis(ms: i64) -> Duration {
    Duration::from_millis(u64::try_from(ms).unwrap_or(0))
}
