//! How do workers hear of what was committed?
//!
//! Outside the transaction that queued: at most one NOTIFY in flight, what comes meanwhile goes into the
//! next one; beside it at most one right behind a statement that queues, when there was none for a while. A bell is a
//! hint: if this process dies before it rang, the sweep finds the message.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_postgres::types::Type;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::pool::{Lent, PATIENCE};
use super::{Store, StoreError};

/// From one bell to the next, at least: under load it then tells of several transactions; a lone message's is at once.
const SPACING: Duration = Duration::from_millis(2);
/// Where bells take long, since the cores are busy or the host is far, they take a fifth of the time at most, …
const PAUSE_FOR_EACH: u32 = 4;
/// … but nobody waits for longer than this.
const LONGEST_SPACING: Duration = Duration::from_millis(10);

/// The pauses of [`Bell::ring_for_a_while`], doubling.
const FIRST_AGAIN: Duration = Duration::from_secs(1);
const LAST_AGAIN: Duration = Duration::from_secs(32);

const RING: &str = "select orderly.ring($1)";

/// Postgres refuses a payload of 8,000 bytes and more.
const MAX_PAYLOAD: usize = 7_900;

/// After a NOTIFY that was refused. A full queue of notifications stays full when the session that did not read it has
/// gone: the next NOTIFY would make room, and that is refused. Asking how full it is makes room too.
pub(super) const MOVE_NOTIFICATIONS: &str = "select pg_notification_queue_usage()";

#[derive(Clone)]
pub struct Bell(Arc<Shared>);

struct Shared {
    pending: Mutex<BTreeSet<i64>>,
    wake: Notify,
    ringer: TaskTracker,
    /// When the last bell was begun, in milliseconds since `started`.
    begun_ms: AtomicU64,
    /// One is under way behind a statement, and has not been answered.
    behind: AtomicBool,
    /// The last one that was rung by itself failed, or has not been answered.
    doubtful: AtomicBool,
    started: Instant,
}

impl Bell {
    pub fn start(store: Store, stop: CancellationToken) -> Bell {
        let shared = Arc::new(Shared {
            pending: Mutex::default(),
            wake: Notify::new(),
            ringer: TaskTracker::new(),
            begun_ms: AtomicU64::new(0),
            behind: AtomicBool::new(false),
            doubtful: AtomicBool::new(false),
            started: Instant::now(),
        });
        shared.ringer.spawn(ring_on(shared.clone(), store, stop));
        shared.ringer.close();
        Bell(shared)
    }

    pub fn ring(&self, destinations: impl IntoIterator<Item = i64>) {
        self.0.pending.lock().unwrap_or_else(PoisonError::into_inner).extend(destinations);
        self.0.wake.notify_one();
    }

    /// The turn to ring behind the statement that queues, on its connection: sooner than after its answer. Only when there
    /// was no bell for a while (under load each tells of many) and none is in doubt: where NOTIFY hangs, only one
    /// connection may hang with it.
    pub fn take_turn(&self) -> Option<Turn> {
        let shared = &self.0;
        let now = shared.age_ms();
        let quiet = now.saturating_sub(shared.begun_ms.load(Ordering::Relaxed)) > LONGEST_SPACING.as_millis() as u64;
        if !quiet || shared.doubtful.load(Ordering::Relaxed) || shared.behind.swap(true, Ordering::Relaxed) {
            return None;
        }
        shared.begun_ms.store(now, Ordering::Relaxed);
        Some(Turn(self.clone()))
    }

    /// For what may be committed later, by a statement that nobody waits for any more: now, and for a minute again.
    pub fn ring_for_a_while(&self, destinations: impl IntoIterator<Item = i64>) {
        let (bell, ids) = (self.clone(), destinations.into_iter().collect::<BTreeSet<i64>>());
        tokio::spawn(async move {
            let mut pause = FIRST_AGAIN;
            while pause <= LAST_AGAIN {
                bell.ring(ids.iter().copied());
                tokio::time::sleep(pause).await;
                pause *= 2;
            }
            bell.ring(ids);
        });
    }

    /// After the token given at the start: returns when what was pending then has been rung.
    pub async fn stopped(&self) {
        self.0.ringer.wait().await;
    }
}

impl Shared {
    fn age_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// The right to ring behind a statement; another one may when this is gone.
pub struct Turn(Bell);

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.0.behind.store(false, Ordering::Relaxed);
    }
}

impl Turn {
    pub fn ring(self, connection: Arc<Lent>, destinations: Vec<i64>) {
        let ringer = self.0.0.ringer.clone();
        ringer.spawn(async move {
            let until = Instant::now() + PATIENCE;
            for payload in payloads('b', &destinations) {
                if connection.query(until, RING, &[(&payload, Type::TEXT)]).await.is_err() {
                    return self.0.ring(destinations);
                }
            }
        });
    }
}

async fn ring_on(shared: Arc<Shared>, store: Store, stop: CancellationToken) {
    let mut pause = SPACING;
    loop {
        let stopping = tokio::select! {
            () = shared.wake.notified() => false,
            () = stop.cancelled() => true,
        };
        let ids = std::mem::take(&mut *shared.pending.lock().unwrap_or_else(PoisonError::into_inner));
        let begun = Instant::now();
        shared.begun_ms.store(shared.age_ms(), Ordering::Relaxed);
        shared.doubtful.store(true, Ordering::Relaxed);
        let rung = ring_all(&store, &ids).await;
        shared.doubtful.store(rung.is_err(), Ordering::Relaxed);
        match rung {
            Ok(()) => pause = (begun.elapsed() * PAUSE_FOR_EACH).clamp(SPACING, LONGEST_SPACING),
            Err(error) => {
                pause = (pause * 2).clamp(Duration::from_millis(50), Duration::from_secs(2));
                tracing::warn!(error = super::connect::chain(&error), "the bell could not be rung; it will be");
                // If this fails, so will the next attempt, which says why.
                let _ = store.query(MOVE_NOTIFICATIONS, &[]).await;
                shared.pending.lock().unwrap_or_else(PoisonError::into_inner).extend(ids);
                shared.wake.notify_one();
            }
        }
        if stopping {
            return;
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stop.cancelled() => {}
        }
    }
}

async fn ring_all(store: &Store, ids: &BTreeSet<i64>) -> Result<(), StoreError> {
    for payload in payloads('b', ids) {
        store.query(RING, &[(&payload, Type::TEXT)]).await?;
    }
    Ok(())
}

/// `kind` and ids separated by commas, in as many payloads as Postgres' limit needs.
pub(crate) fn payloads<'a>(kind: char, ids: impl IntoIterator<Item = &'a i64>) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    for id in ids {
        let digits = id.to_string();
        match all.last_mut() {
            Some(last) if last.len() + 1 + digits.len() <= MAX_PAYLOAD => {
                last.push(',');
                last.push_str(&digits);
            }
            _ => all.push(format!("{kind}{digits}")),
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_stay_below_the_limit_and_lose_no_id() {
        let ids: BTreeSet<i64> = (1..5_000).map(|n| n * 1_000_003).collect();
        let all = payloads('b', &ids);
        assert!(all.len() > 1 && all.iter().all(|payload| payload.len() < 8_000 && payload.starts_with('b')));
        let back: BTreeSet<i64> =
            all.iter().flat_map(|payload| payload[1..].split(',')).map(|id| id.parse().expect("digits")).collect();
        assert_eq!(back, ids);
        assert!(payloads('b', &BTreeSet::new()).is_empty());
    }
}
