//! What was posted, accepted, received and broken, and when?
//!
//! One clock for all of it: microseconds since the run began, read in this process, where the producers,
//! the receiver and the faults are. Things are only ever added; a request's or a fault's end is filled in once.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;

/// Microseconds since the run began.
pub type Micros = u64;

pub const SECOND: Micros = 1_000_000;

/// What one producer sent, message by message.
#[derive(Debug, Clone, Serialize)]
pub struct Post {
    /// Names the message before it has an id; the receiver sees it in a header.
    pub token: u64,
    pub producer: u32,
    pub way: Way,
    pub destination: i64,
    pub sent_at: Micros,
    pub answered_at: Micros,
    pub answer: Answer,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Way {
    Api,
    /// With an idempotency key, and repeated until it is known what came of it.
    Keyed,
    Batch,
    Sql,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Answer {
    Accepted {
        sequence: i64,
    },
    /// Surely not queued: a 4xx, a rollback, a connection that never was.
    Refused,
    /// No answer, or one that does not tell.
    Unknown,
}

/// One request, as the receiver saw it.
#[derive(Debug, Clone, Serialize)]
pub struct Request {
    pub path: u32,
    /// By its `webhook-id`.
    pub destination: i64,
    pub sequence: i64,
    pub token: Option<u64>,
    pub previous: i64,
    pub skipped: i64,
    pub attempt: u32,
    pub epoch: i64,
    /// When its first byte had come.
    pub begun_at: Micros,
    pub ended_at: Option<Micros>,
    pub end: Option<End>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum End {
    /// Noted before the answer's first byte was written.
    Answered(u16),
    /// The sender closed the connection before it had an answer.
    Closed,
}

#[derive(Debug, Clone, Serialize)]
pub struct Fault {
    pub kind: FaultKind,
    pub target: String,
    pub from: Micros,
    /// When what was broken was whole again (a killed process: when it was started anew).
    pub until: Option<Micros>,
    /// Nothing else was broken 15 s before and after.
    pub isolated: bool,
    /// What the victim served, at that instant.
    pub victims: Vec<i64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum FaultKind {
    WorkerKill,
    WorkerTerm,
    WorkerPause,
    /// Longer than it takes until others take over.
    WorkerHang,
    /// Stopped, its session ended by the server meanwhile, and then resumed.
    Zombie,
    ApiKill,
    ApiPause,
    DatabaseFast,
    DatabaseImmediate,
    DatabaseKill,
    /// Restarted while a worker was cut off from it and could not know.
    RestartBehind,
    SessionEnd,
    AideEnd,
    WatchEnd,
    PoolEnd,
    /// `kill -9` of one backend: Postgres ends all sessions and recovers.
    BackendCrash,
    AllCut,
    LinkCut,
    LinkHole,
    LinkDelay,
    /// Somebody else locks the heads of some queues for a moment.
    RowLock,
}

/// One destination of the run.
#[derive(Debug, Clone, Serialize)]
pub struct Place {
    pub path: u32,
    pub id: i64,
    pub timeout: Micros,
}

/// What the database says in the end.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Outcomes {
    /// `orderly.ends`, by destination and sequence.
    pub ends: BTreeMap<(i64, i64), String>,
    /// How often the log of tries calls a message delivered.
    pub delivered: BTreeMap<(i64, i64), u32>,
    /// Still queued.
    pub left: Vec<(i64, i64)>,
}

#[derive(Debug, Clone, Default)]
pub struct Record {
    pub places: Vec<Place>,
    pub posts: Vec<Post>,
    pub requests: Vec<Request>,
    pub faults: Vec<Fault>,
    /// None as long as the run goes on.
    pub outcomes: Option<Outcomes>,
}

/// The record while it is written.
#[derive(Debug)]
pub struct Recorder {
    start: Instant,
    record: Mutex<Record>,
}

impl Recorder {
    pub fn start() -> Recorder {
        Recorder { start: Instant::now(), record: Mutex::default() }
    }

    pub fn now(&self) -> Micros {
        self.at(Instant::now())
    }

    pub fn at(&self, instant: Instant) -> Micros {
        u64::try_from(instant.saturating_duration_since(self.start).as_micros()).unwrap_or(u64::MAX)
    }

    pub fn instant(&self, at: Micros) -> Instant {
        self.start + Duration::from_micros(at)
    }

    pub fn lock(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn post(&self, post: Post) {
        self.lock().posts.push(post);
    }

    /// Its number, for [`Recorder::end_request`].
    pub fn begin_request(&self, request: Request) -> usize {
        let mut record = self.lock();
        record.requests.push(request);
        record.requests.len() - 1
    }

    /// The first end counts.
    pub fn end_request(&self, number: usize, at: Micros, end: End) {
        let request = &mut self.lock().requests[number];
        if request.end.is_none() {
            request.ended_at = Some(at.max(request.begun_at));
            request.end = Some(end);
        }
    }

    pub fn begin_fault(&self, fault: Fault) -> usize {
        let mut record = self.lock();
        record.faults.push(fault);
        record.faults.len() - 1
    }

    pub fn end_fault(&self, number: usize) {
        let now = self.now();
        self.lock().faults[number].until = Some(now);
    }
}
