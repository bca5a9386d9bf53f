//! Is a connection worth keeping?
//!
//! Told of three things (bytes came, a request began, a request ended), it knows whether the client is sending
//! a head, waits for an answer, or is idle. hyper's own timeout for headers cannot tell the first from the
//! last: either a slow head gets a minute, or idle clients are cut off after ten seconds.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::time::Instant;

use super::ServerLimits;

pub struct Pulse {
    born: Instant,
    requests: AtomicU32,
    /// A head has begun. True from the start: who connects has something to say.
    in_head: AtomicBool,
    /// When the head began or the last request ended, in milliseconds from birth.
    since_ms: AtomicU64,
    heads: Heads,
}

/// Whether bytes between requests are the start of a head.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Heads {
    /// HTTP/1.
    AreAllThatComes,
    /// HTTP/2, with pings and window updates.
    AreMixedWithFrames,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing to hold against it before then.
    KeepUntil(Instant),
    /// It may finish, but gets no new request.
    Idle,
    /// It does not finish what it began to ask.
    Slow,
}

/// A request under way.
pub struct Busy<'a>(&'a Pulse);

impl Pulse {
    pub fn new(heads: Heads) -> Pulse {
        Pulse {
            born: Instant::now(),
            requests: AtomicU32::new(0),
            in_head: AtomicBool::new(true),
            since_ms: AtomicU64::new(0),
            heads,
        }
    }

    pub fn bytes_came(&self) {
        let begins = self.heads == Heads::AreAllThatComes && !self.in_head.load(Relaxed) && self.is_quiet();
        if begins {
            self.touch();
            self.in_head.store(true, Relaxed);
        }
    }

    pub fn request_begins(&self) -> Busy<'_> {
        self.requests.fetch_add(1, Relaxed);
        self.in_head.store(false, Relaxed);
        Busy(self)
    }

    fn is_quiet(&self) -> bool {
        self.requests.load(Relaxed) == 0
    }

    fn touch(&self) {
        let elapsed = u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.since_ms.store(elapsed, Relaxed);
    }

    pub fn judge(&self, limits: &ServerLimits) -> Verdict {
        let now = Instant::now();
        if !self.is_quiet() {
            return Verdict::KeepUntil(now + limits.header_timeout.min(limits.idle_timeout));
        }
        let since = self.born + Duration::from_millis(self.since_ms.load(Relaxed));
        let (patience, verdict) = if self.in_head.load(Relaxed) {
            (limits.header_timeout, Verdict::Slow)
        } else {
            (limits.idle_timeout, Verdict::Idle)
        };
        if now >= since + patience {
            return verdict;
        }
        // An idle client may begin a head at any time, which is to be noticed in time.
        Verdict::KeepUntil((since + patience).min(now + limits.header_timeout))
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        // The time first: a judge between the two must not see an old one.
        self.0.touch();
        self.0.requests.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> ServerLimits {
        ServerLimits {
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(75),
            ..ServerLimits::default()
        }
    }

    async fn after(seconds: u64) {
        tokio::time::advance(Duration::from_secs(seconds)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_has_ten_seconds_an_idle_client_more_and_a_request_all_it_takes() {
        let pulse = Pulse::new(Heads::AreAllThatComes);
        after(9).await;
        assert!(matches!(pulse.judge(&limits()), Verdict::KeepUntil(_)));
        after(1).await;
        assert_eq!(pulse.judge(&limits()), Verdict::Slow);

        let request = pulse.request_begins();
        after(1000).await;
        assert!(matches!(pulse.judge(&limits()), Verdict::KeepUntil(_)));
        pulse.bytes_came();
        drop(request);
        after(74).await;
        assert!(matches!(pulse.judge(&limits()), Verdict::KeepUntil(_)));
        after(1).await;
        assert_eq!(pulse.judge(&limits()), Verdict::Idle);

        // Bytes that drip do not begin a head anew.
        for _ in 0..10 {
            pulse.bytes_came();
            after(1).await;
        }
        assert_eq!(pulse.judge(&limits()), Verdict::Slow);
    }

    #[tokio::test(start_paused = true)]
    async fn frames_of_http2_are_no_heads() {
        let pulse = Pulse::new(Heads::AreMixedWithFrames);
        drop(pulse.request_begins());
        pulse.bytes_came();
        after(11).await;
        assert!(matches!(pulse.judge(&limits()), Verdict::KeepUntil(_)));
        after(64).await;
        assert_eq!(pulse.judge(&limits()), Verdict::Idle);
    }
}
