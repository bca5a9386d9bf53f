//! How is one claimed destination served?
//!
//! A lane reads a few messages ahead, sends one, waits for its committed acknowledgement, and sends the
//! next (G2, G3). Between two requests, and beside the one in flight, it does what clients ask of the
//! holder. It ends when there is nothing to do, when it is told to leave, or when something stands in the
//! way for longer than a few seconds: a wait keeps neither a task nor a lock.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

mod handle;
mod requests;

pub use self::handle::{ASKED, BELL, Handle, LEAVE};
use super::context::Context;
use super::feed::Ahead;
use super::pace::SLOW_AFTER;
use super::{Lost, policy};
use crate::broken::{self, Broken};
use crate::delivery::{Meta, Target};
use crate::domain::{DestinationId, DestinationState, FailureKind, MessageId, Outcome, Policy, Sequence};
use crate::store::session::{Acknowledgement, Ending, LaneStart, Release};

/// No pace makes a message wait for longer than it lives.
const LONGEST_INTERVAL: Duration = Duration::from_secs(86_400);
/// A wait longer than this gives the destination back.
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// A lane that is never given back looks so often, and once more after lingering, for what no bell told of: G7's 30 s.
const LOOK_AGAIN: Duration = Duration::from_secs(20);

/// A destination whose settings cannot be read (a secrets key that is missing) is looked at again after this.
pub const UNREADABLE_PAUSE: Duration = Duration::from_secs(60);

/// Why a lane ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The queue was empty for a while.
    Drained,
    /// It was told to leave; there may be more.
    Left,
    /// Nothing can be sent: for so long, or until somebody wakes it.
    Dormant(Option<Duration>),
    /// The destination is no more.
    Gone,
    Lost,
}

/// A lane's last words.
#[derive(Debug)]
pub struct Ended {
    pub end: End,
    pub release: Release,
}

pub struct Lane {
    context: Arc<Context>,
    handle: Arc<Handle>,
    destination: DestinationId,
    epoch: i64,
    policy: Policy,
    target: Arc<Target>,
    state: DestinationState,
    held: bool,
    floor: Sequence,
    last_delivered: Sequence,
    skips: Vec<(i64, i64)>,
    /// Of the head, when it failed before: which, how often, and when it may be tried again.
    failed: Option<(Sequence, u32, Instant)>,
    ahead: VecDeque<Ahead>,
    /// What was read last was all there was, and was something: what came since rings.
    read_all: bool,
    /// The floor that was written last, of a lane that is never given back.
    checkpointed: Option<Sequence>,
    /// When its last request started, as far as is known: for `max_per_second`.
    last_start: Option<Instant>,
    /// The last try timed out: the next starts in the second budget.
    suspect: bool,
    /// What is stored of it could not be read any more while a request was in flight.
    unreadable: bool,
    /// Only the sweep told of it: what the first look finds, no bell had told of.
    untold: bool,
}

impl Lane {
    pub fn new(context: Arc<Context>, handle: Arc<Handle>, start: LaneStart, untold: bool) -> Lane {
        let now = Instant::now();
        if start.asked {
            handle.signal(ASKED);
        }
        let target = Arc::new(context.client.target(&start.policy));
        Lane {
            context,
            handle,
            destination: start.destination,
            epoch: start.epoch,
            target,
            state: start.state,
            held: start.held,
            floor: start.floor,
            last_delivered: start.last_delivered,
            skips: start.skips,
            failed: start.head.map(|head| (head.sequence, head.attempts, now + head.wait)),
            ahead: VecDeque::new(),
            read_all: false,
            checkpointed: None,
            last_start: start.since_start.and_then(|since| now.checked_sub(since)),
            suspect: false,
            unreadable: false,
            untold,
            policy: start.policy,
        }
    }

    /// Ends only between two requests, or when the session is lost (then it is dropped).
    /// Boxed, since a future that takes its lane over keeps it twice.
    pub async fn run(mut self: Box<Self>) -> Ended {
        let end = match self.serve().await {
            Ok(end) => end,
            Err(Lost) => End::Lost,
        };
        Ended { end, release: self.release() }
    }

    fn release(&self) -> Release {
        Release {
            destination: self.destination,
            floor: self.floor,
            last_delivered: self.last_delivered,
            last_start: self.last_start,
        }
    }

    async fn serve(&mut self) -> Result<End, Lost> {
        loop {
            if self.handle.take(ASKED)
                && let Some(end) = self.answer_requests(None).await?
            {
                return Ok(end);
            }
            if self.unreadable {
                return Ok(End::Dormant(Some(UNREADABLE_PAUSE)));
            }
            if self.handle.has(LEAVE) {
                return Ok(if self.finds_nothing().await? { End::Drained } else { End::Left });
            }
            if self.state != DestinationState::Active || self.held {
                return Ok(End::Dormant(None));
            }
            let Some((sequence, expires_at)) = self.head().await? else {
                if self.linger().await && (!std::mem::take(&mut self.read_all) || self.head().await?.is_none()) {
                    return Ok(End::Drained);
                }
                continue;
            };
            if expires_at <= Instant::now() {
                self.expire().await?;
                continue;
            }
            if let Some(until) = self.wait_until(sequence) {
                // At its expiry it ends, whatever it waits for.
                let until = until.min(expires_at);
                let wait = until.saturating_duration_since(Instant::now());
                // A pace keeps its lane: its intervals are short as a rule, and claims look for retries alone.
                if wait > LONGEST_WAIT && self.is_far_off(sequence) && !self.context.stays {
                    return Ok(End::Dormant(Some(wait)));
                }
                tokio::select! {
                    () = sleep_until(until) => {}
                    () = self.handle.notified() => {}
                }
                continue;
            }
            if let Some(end) = self.send().await? {
                return Ok(end);
            }
        }
    }

    /// The oldest message that has not ended, and when it expires.
    async fn head(&mut self) -> Result<Option<(Sequence, Instant)>, Lost> {
        if broken::is(Broken::QuietAfterLook) && self.ahead.is_empty() {
            self.handle.take(BELL);
            let _ = futures_util::FutureExt::now_or_never(self.handle.notified());
        }
        // With all read and no bell since there is nothing: a look for each message would be every other one.
        if self.ahead.is_empty() && (!self.read_all || self.handle.has(BELL)) {
            // Forgotten before looking: a bell that comes while this reads is heard afterwards.
            self.handle.take(BELL);
            let reading = self.context.feed.read(self.destination, self.floor).await?;
            self.read_all = reading.complete && !reading.messages.is_empty();
            self.ahead.extend(reading.messages);
            if std::mem::take(&mut self.untold) && !self.ahead.is_empty() {
                self.context.counters.count_swept();
                tracing::warn!(destination.id = self.destination.0, "messages that no bell had told of were found");
            }
        }
        Ok(self.ahead.front().map(|head| (head.message.sequence, head.expires_at)))
    }

    /// Looks whatever is remembered. At the cap a quiet lane that left as if it had more would be claimed again, and
    /// push out the next quiet one, without end.
    async fn finds_nothing(&mut self) -> Result<bool, Lost> {
        self.read_all = false;
        Ok(self.head().await?.is_none() && !self.handle.has(BELL | ASKED))
    }

    /// Waits for news; true: there was none for long enough to give the destination back.
    async fn linger(&mut self) -> bool {
        if self.context.linger.is_zero() {
            return !self.handle.has(BELL | ASKED);
        }
        self.handle.begin_quiet(self.context.age_ms());
        let news = tokio::time::timeout(self.context.linger, self.handle.notified()).await.is_ok();
        self.handle.end_quiet();
        if news || self.handle.has(BELL | ASKED | LEAVE) {
            return false;
        }
        if self.context.stays {
            if std::mem::take(&mut self.read_all) {
                // A bell may have been lost: look before waiting for one without end.
                return false;
            }
            // Never given back: what a release would write is written, for whoever comes after a crash.
            if self.checkpointed.replace(self.floor) != Some(self.floor) {
                Box::pin(self.context.checkpoint(self.release())).await;
            }
            // Without end it would wait for a bell that died with an API process, and the sweep leaves alone what a
            // living worker owns (G7).
            let _ = tokio::time::timeout(LOOK_AGAIN, self.handle.notified()).await;
            return false;
        }
        true
    }

    /// Until when the head may not be sent.
    fn wait_until(&self, head: Sequence) -> Option<Instant> {
        let retry_at = self.failed.filter(|(sequence, _, _)| *sequence == head).map(|(_, _, at)| at);
        retry_at.max(self.next_start()).filter(|at| *at > Instant::now())
    }

    /// Whether it has to be tried again, and not soon.
    fn is_far_off(&self, head: Sequence) -> bool {
        self.failed.is_some_and(|(sequence, _, at)| sequence == head && at > Instant::now() + LONGEST_WAIT)
    }

    /// By `max_per_second`, from one start to the next; a message expires within a day.
    fn next_start(&self) -> Option<Instant> {
        let interval = Duration::try_from_secs_f64(1.0 / self.policy.max_per_second?).unwrap_or(Duration::MAX);
        Some(self.last_start? + interval.min(LONGEST_INTERVAL))
    }

    /// Sends the head once and writes what came of it.
    async fn send(&mut self) -> Result<Option<End>, Lost> {
        let context = self.context.clone();
        let mut permit = tokio::select! {
            permit = context.pace.enter(self.suspect) => permit,
            // Others may hang for long, and clients ask meanwhile.
            () = self.handle.notified() => return Ok(None),
        };
        if self.handle.has(ASKED | LEAVE) {
            // Came while it waited for its turn.
            return Ok(None);
        }
        context.ensure_answered().await?;
        let Some(head) = self.ahead.pop_front() else { return Ok(None) };
        let sequence = head.message.sequence;
        let number =
            self.failed.filter(|(failed, _, _)| *failed == sequence).map_or(0, |(_, attempts, _)| attempts) + 1;
        let meta = Meta {
            id: MessageId { destination: self.destination, sequence },
            attempt: number,
            epoch: self.epoch,
            previous: self.last_delivered,
            skipped: self
                .skips
                .iter()
                .filter(|(last, _)| *last > self.last_delivered.0 && *last < sequence.0)
                .map(|(_, n)| n)
                .sum(),
        };
        let started = Instant::now();
        self.last_start = Some(started);
        // The first byte may leave much later, when a connection has to be made: that is the start that is seen.
        let left_at = Arc::new(Mutex::new(started));
        let gate = {
            let (gate, left_at) = (context.gate(), left_at.clone());
            move || {
                *left_at.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
                gate()
            }
        };

        let target = self.target.clone();
        let delivered = {
            // Boxed: else each lane, and most are not sending, had room for it in its task.
            let mut request = Box::pin(context.client.deliver(&target, &head.message, &meta, gate));
            let mut slow = false;
            loop {
                tokio::select! {
                    biased;
                    outcome = &mut request => break outcome,
                    () = self.handle.notified() => {
                        if self.handle.take(ASKED)
                            && let Some(end) = self.answer_requests(Some(sequence)).await?
                        {
                            // Somebody wants the destination itself: what is in flight is aborted.
                            return Ok(Some(end));
                        }
                    }
                    () = sleep_until(started + SLOW_AFTER), if !slow => {
                        permit.slow_down();
                        self.handle.set_hangs(true);
                        slow = true;
                    }
                }
            }
        };
        drop(permit);
        self.handle.set_hangs(false);
        self.last_start = Some(*left_at.lock().unwrap_or_else(PoisonError::into_inner));
        let Ok(outcome) = delivered else {
            // The gate was closed at the last moment: nothing was sent. Ask, and try again.
            self.ahead.push_front(head);
            context.ensure_fresh().await?;
            return Ok(None);
        };
        self.finish(head, number, outcome).await
    }

    /// Writes the outcome of a try, waits for its commit, and takes over what follows from it.
    async fn finish(&mut self, head: Ahead, number: u32, outcome: Outcome) -> Result<Option<End>, Lost> {
        let ended_at = Instant::now();
        let sequence = head.message.sequence;
        let ending = policy::decide(
            &self.policy,
            &self.context.retry,
            number,
            &outcome,
            head.expires_at.saturating_duration_since(ended_at),
        );
        let failure = outcome.result.as_ref().err();
        // A name that nobody answers for takes as long as a receiver that does not.
        self.suspect = failure.is_some_and(|failure| matches!(failure.kind, FailureKind::Timeout | FailureKind::Dns));
        self.context.counters.count_try(self.destination, &outcome, ending);
        if let Some(failure) = failure {
            tracing::info!(
                destination.id = self.destination.0,
                message.id = %MessageId { destination: self.destination, sequence },
                attempt = number,
                duration_ms = u64::try_from(outcome.duration.as_millis()).unwrap_or(u64::MAX),
                error = failure.kind.as_str(),
                detail = failure.detail,
                next = ?ending,
                "a delivery failed"
            );
        }
        let gone = failure.is_some_and(|failure| failure.kind == FailureKind::Gone);
        let acknowledgement = Acknowledgement {
            destination: self.destination,
            sequence,
            place: head.place,
            number,
            ending,
            status_code: outcome.status_code,
            error: failure.map(|failure| failure.kind.as_str().to_owned()),
            duration: outcome.duration,
            response: outcome.response,
            prune_skips: self.skips.iter().any(|(last, _)| *last < sequence.0),
        };
        self.context.acknowledger.write(acknowledgement).await?;
        match ending {
            Ending::Delivered => {
                self.last_delivered = sequence;
                self.floor = sequence;
                self.skips.retain(|(last, _)| *last > sequence.0);
                self.failed = None;
            }
            Ending::Exhausted | Ending::Expired => {
                self.floor = sequence;
                self.skips.push((sequence.0, 1));
                self.failed = None;
            }
            Ending::Retry { after } => {
                self.failed = Some((sequence, number, ended_at + after));
                self.ahead.push_front(head);
            }
            Ending::Held => return Ok(Some(End::Dormant(None))),
        }
        if gone {
            tracing::warn!(
                destination.id = self.destination.0,
                "the receiver answered 410: the destination is disabled"
            );
            return Box::pin(self.disable(sequence)).await.map(Some);
        }
        Ok(None)
    }

    /// Until the 410 is written down nothing may be sent; the head counts as in flight to who asks meanwhile.
    async fn disable(&mut self, head: Sequence) -> Result<End, Lost> {
        let (context, destination) = (self.context.clone(), self.destination);
        let mut writing = tokio::spawn(async move { context.disable(destination).await });
        loop {
            tokio::select! {
                biased;
                _ = &mut writing => return Ok(End::Dormant(None)),
                () = self.handle.notified() => {
                    if self.handle.take(ASKED)
                        && let Some(end) = self.answer_requests(Some(head)).await?
                    {
                        return Ok(end);
                    }
                }
            }
        }
    }

    /// Ends the head, which nobody may want any more.
    async fn expire(&mut self) -> Result<(), Lost> {
        let Some(head) = self.ahead.pop_front() else { return Ok(()) };
        let sequence = head.message.sequence;
        let attempts = self.failed.filter(|(failed, _, _)| *failed == sequence).map_or(0, |(_, attempts, _)| attempts);
        let acknowledgement = Acknowledgement {
            destination: self.destination,
            sequence,
            place: head.place,
            number: attempts,
            ending: Ending::Expired,
            status_code: None,
            error: None,
            duration: Duration::ZERO,
            response: bytes::Bytes::new(),
            prune_skips: false,
        };
        self.context.acknowledger.write(acknowledgement).await?;
        self.context.counters.count_expired();
        self.floor = sequence;
        self.skips.push((sequence.0, 1));
        self.failed = None;
        Ok(())
    }
}
