//! How does the scheduler speak to a lane?

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

use tokio::sync::Notify;

/// How the scheduler speaks to a lane.
#[derive(Debug, Default)]
pub struct Handle {
    signals: AtomicU8,
    wake: Notify,
    /// Since when it has had nothing to do, in milliseconds of the session; 0: it has.
    quiet_since_ms: AtomicU64,
    /// Its request is in flight for long.
    hangs: AtomicBool,
}

/// There may be new messages.
pub const BELL: u8 = 1;
/// Clients ask something.
pub const ASKED: u8 = 2;
/// Finish what is in flight, and end.
pub const LEAVE: u8 = 4;

impl Handle {
    pub fn signal(&self, signal: u8) {
        // Wakes once for each kind of news: a storm of bells must not wake a lane that has not looked yet.
        if self.signals.fetch_or(signal, Ordering::AcqRel) & signal == 0 {
            self.wake.notify_one();
        }
    }

    pub fn has(&self, signal: u8) -> bool {
        self.signals.load(Ordering::Acquire) & signal != 0
    }

    pub(super) fn take(&self, signal: u8) -> bool {
        self.signals.fetch_and(!signal, Ordering::AcqRel) & signal != 0
    }

    /// At the next signal, also one given before and not waited for.
    pub(super) async fn notified(&self) {
        self.wake.notified().await;
    }

    /// There is nothing to do, at this age of the session.
    pub(super) fn begin_quiet(&self, age_ms: u64) {
        self.quiet_since_ms.store(age_ms.max(1), Ordering::Relaxed);
    }

    pub(super) fn end_quiet(&self) {
        self.quiet_since_ms.store(0, Ordering::Relaxed);
    }

    pub(super) fn set_hangs(&self, hangs: bool) {
        self.hangs.store(hangs, Ordering::Relaxed);
    }

    /// Whether its receiver takes long: told to leave, it will not for up to `timeout_seconds`.
    pub fn hangs(&self) -> bool {
        self.hangs.load(Ordering::Relaxed)
    }

    /// Since when the lane lingers, if it does.
    pub fn quiet_since_ms(&self) -> Option<u64> {
        Some(self.quiet_since_ms.load(Ordering::Relaxed)).filter(|since| *since != 0)
    }
}
