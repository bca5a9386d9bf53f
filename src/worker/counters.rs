//! What has this process done so far?

use std::sync::atomic::{AtomicU64, Ordering};

use crate::domain::{DestinationId, FailureKind, Outcome};
use crate::store::session::Ending;

/// Since the process started.
#[derive(Debug, Default)]
pub struct Counters {
    delivered: AtomicU64,
    failed_tries: AtomicU64,
    exhausted: AtomicU64,
    held: AtomicU64,
    expired: AtomicU64,
    swept: AtomicU64,
    takeovers: AtomicU64,
    failures: [AtomicU64; KINDS.len()],
}

const KINDS: [FailureKind; 9] = [
    FailureKind::Status,
    FailureKind::Gone,
    FailureKind::Timeout,
    FailureKind::Dns,
    FailureKind::Refused,
    FailureKind::Tls,
    FailureKind::ForbiddenAddress,
    FailureKind::TooLarge,
    FailureKind::Broken,
];

/// One line for the end of a worker that is not persistent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Summary {
    pub delivered: u64,
    pub failed_tries: u64,
    pub exhausted: u64,
    pub held: u64,
    pub expired: u64,
    /// Destinations with messages that other workers serve.
    pub served_elsewhere: u64,
}

impl Counters {
    pub(super) fn count_try(&self, _: DestinationId, outcome: &Outcome, ending: Ending) {
        let add = |counter: &AtomicU64| counter.fetch_add(1, Ordering::Relaxed);
        if let Err(failure) = &outcome.result {
            add(&self.failed_tries);
            if let Some(index) = KINDS.iter().position(|kind| *kind == failure.kind) {
                add(&self.failures[index]);
            }
        }
        match ending {
            Ending::Delivered => add(&self.delivered),
            Ending::Exhausted => add(&self.exhausted),
            Ending::Held => add(&self.held),
            Ending::Expired => add(&self.expired),
            Ending::Retry { .. } => 0,
        };
    }

    pub(super) fn count_expired(&self) {
        self.expired.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count_swept(&self, found: usize) {
        self.swept.fetch_add(found as u64, Ordering::Relaxed);
    }

    pub(super) fn count_takeover(&self, destinations: usize) {
        self.takeovers.fetch_add(destinations as u64, Ordering::Relaxed);
    }

    /// Messages that ended here.
    pub fn ended(&self) -> u64 {
        [&self.delivered, &self.exhausted, &self.expired].iter().map(|counter| counter.load(Ordering::Relaxed)).sum()
    }

    pub fn summary(&self) -> Summary {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Summary {
            delivered: get(&self.delivered),
            failed_tries: get(&self.failed_tries),
            exhausted: get(&self.exhausted),
            held: get(&self.held),
            expired: get(&self.expired),
            served_elsewhere: 0,
        }
    }

    /// Names (with a label) and values, for metrics.
    pub fn list(&self) -> Vec<(&'static str, Option<(&'static str, &'static str)>, u64)> {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let mut all = vec![
            ("orderly_messages_ended_total", Some(("outcome", "delivered")), get(&self.delivered)),
            ("orderly_messages_ended_total", Some(("outcome", "exhausted")), get(&self.exhausted)),
            ("orderly_messages_ended_total", Some(("outcome", "expired")), get(&self.expired)),
            ("orderly_queues_held_total", None, get(&self.held)),
            ("orderly_sweep_found_total", None, get(&self.swept)),
            ("orderly_takeovers_total", None, get(&self.takeovers)),
        ];
        for (kind, counter) in KINDS.iter().zip(&self.failures) {
            all.push(("orderly_tries_failed_total", Some(("error", kind.as_str())), get(counter)));
        }
        all
    }
}

impl std::fmt::Display for Summary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "delivered {}, failed tries {}, given up {}, expired {}",
            self.delivered, self.failed_tries, self.exhausted, self.expired
        )?;
        if self.held > 0 {
            write!(f, ", queues held {}", self.held)?;
        }
        if self.served_elsewhere > 0 {
            write!(f, "; left {} destinations that other workers serve", self.served_elsewhere)?;
        }
        Ok(())
    }
}
