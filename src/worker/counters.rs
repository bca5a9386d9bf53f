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

    pub(super) fn count_swept(&self) {
        self.swept.fetch_add(1, Ordering::Relaxed);
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

    /// For metrics.
    pub fn list(&self) -> Vec<Sample> {
        let sample = |name, help, label, counter: &AtomicU64| Sample {
            name,
            help,
            label,
            value: counter.load(Ordering::Relaxed),
        };
        const ENDED: (&str, &str) = ("orderly_messages_ended_total", "Messages that ended here");
        let mut all = vec![
            sample(ENDED.0, ENDED.1, Some(("outcome", "delivered")), &self.delivered),
            sample(ENDED.0, ENDED.1, Some(("outcome", "exhausted")), &self.exhausted),
            sample(ENDED.0, ENDED.1, Some(("outcome", "expired")), &self.expired),
            sample("orderly_holds_total", "Times a queue was held for a person to decide", None, &self.held),
            sample("orderly_sweep_found_total", "Queues with messages that no bell had told of", None, &self.swept),
            sample(
                "orderly_takeovers_total",
                "Destinations taken over from workers that were gone",
                None,
                &self.takeovers,
            ),
        ];
        for (kind, counter) in KINDS.iter().zip(&self.failures) {
            all.push(sample(
                "orderly_tries_failed_total",
                "Tries that failed",
                Some(("error", kind.as_str())),
                counter,
            ));
        }
        all
    }
}

/// One number to show.
pub struct Sample {
    pub name: &'static str,
    pub help: &'static str,
    pub label: Option<(&'static str, &'static str)>,
    pub value: u64,
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
