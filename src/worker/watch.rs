//! How is a dead or hung worker noticed?
//!
//! A dead session sends nothing. Each worker holds a lock on its own id, and the one before it in the ring
//! waits for that lock: it has it milliseconds after the session is gone. A process that hangs keeps its
//! session, so each watcher also pings; a pong comes from the task that schedules lanes, and all hear it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::membership::View;
use crate::domain::{DestinationId, WorkerId};
use crate::store::Store;
use crate::store::session::{Session, Watched, boottime_ms};

/// One statement on the watch's connection lasts so long.
const WATCH_SECONDS: i32 = 60;
const PING_EVERY: Duration = Duration::from_secs(20);
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// A peer that has not answered so many pings in a row has its session ended: at worst 50 s after it hung.
const MISSES: u32 = 2;

/// Waits for the next worker's end; says it to all when it comes. Ends with the session.
pub async fn watch_peer(
    session: Arc<Session>,
    store: Store,
    mut view: watch::Receiver<View>,
    grace: Duration,
    lost: CancellationToken,
) {
    loop {
        let watched = tokio::select! {
            watched = session.watch(WATCH_SECONDS, grace) => watched,
            () = lost.cancelled() => return,
        };
        match watched {
            Ok(Watched::Alive) => {}
            Ok(Watched::Alone) => {
                tokio::select! {
                    changed = view.changed() => if changed.is_err() { return },
                    () = lost.cancelled() => return,
                }
            }
            Ok(Watched::Gone(peer, true)) => tell_of(peer),
            Ok(Watched::Gone(peer, false)) => match store.reap(grace).await {
                Ok(dead) if dead.contains(&peer) => tell_of(peer),
                // It left by itself, or it may still come back after a restart of Postgres.
                Ok(_) => match store.grace_left(grace).await {
                    Ok(Some(left)) => {
                        tokio::time::sleep(left.min(Duration::from_secs(1)) + Duration::from_millis(10)).await
                    }
                    Ok(None) => {}
                    Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
                },
                Err(error) => {
                    tracing::warn!(error = crate::store::chain(&error), "the dead could not be looked for");
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
            },
            Err(error) => {
                if !lost.is_cancelled() {
                    tracing::debug!(error = crate::store::chain(&error), "the watch broke");
                }
                return lost.cancel();
            }
        }
    }
}

fn tell_of(dead: WorkerId) {
    tracing::warn!(worker.id = dead.0, "a worker died; what it served is taken over");
}

/// What is said by NOTIFY without an answer, in order, by a task of its own.
enum Word {
    Pong,
    Ring(DestinationId),
    Wake(DestinationId),
    Draining,
}

/// Speaks for the scheduler, and remembers who answered.
#[derive(Clone)]
pub struct Pulse {
    words: mpsc::UnboundedSender<Word>,
    heard: Arc<Mutex<Heard>>,
}

#[derive(Default)]
struct Heard {
    /// When each worker's last pong came.
    pongs: HashMap<WorkerId, Instant>,
    /// How many pings in a row somebody said it had missed.
    misses: HashMap<WorkerId, u32>,
    /// The newest of our own words that came back.
    echoed: u64,
}

impl Pulse {
    pub fn start(session: Arc<Session>, lost: CancellationToken) -> Pulse {
        let (words, mut spoken) = mpsc::unbounded_channel();
        let heard = Arc::new(Mutex::new(Heard::default()));
        tokio::spawn(async move {
            let mut batch = Vec::new();
            while spoken.recv_many(&mut batch, 4_096).await > 0 {
                let (mut rung, mut woken) = (Vec::new(), Vec::new());
                let mut payloads = Vec::new();
                for word in batch.drain(..) {
                    match word {
                        Word::Pong => payloads.push(format!("o{}", session.me)),
                        Word::Draining => payloads.push(format!("d{}", session.me)),
                        Word::Ring(id) => rung.push(id.0),
                        Word::Wake(id) => woken.push(id.0),
                    }
                }
                // After what was said before: a bell must find the others knowing that this one drains.
                payloads.extend(crate::store::bell::payloads('b', &rung));
                payloads.extend(crate::store::bell::payloads('w', &woken));
                for payload in payloads {
                    if !say(&session, &lost, &payload).await {
                        return lost.cancel();
                    }
                }
            }
        });
        Pulse { words, heard }
    }

    pub fn answer(&self) {
        let _ = self.words.send(Word::Pong);
    }

    /// Passes a destination on to whoever should have it.
    pub fn ring(&self, id: DestinationId) {
        let _ = self.words.send(Word::Ring(id));
    }

    /// The same, whatever stood in the way before.
    pub fn wake(&self, id: DestinationId) {
        let _ = self.words.send(Word::Wake(id));
    }

    pub fn say_draining(&self) {
        let _ = self.words.send(Word::Draining);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn heard(&self, from: WorkerId) {
        let mut heard = self.lock();
        heard.pongs.insert(from, Instant::now());
        heard.misses.remove(&from);
    }

    /// Everybody counts what watchers say, so that a successor inherits the count.
    pub fn missed(&self, by: WorkerId, about: WorkerId, round: u64) {
        let mut heard = self.lock();
        *heard.misses.entry(about).or_insert(0) += 1;
        let _ = by;
        heard.echoed = heard.echoed.max(round);
    }
}

/// NOTIFY, again and again until it is taken: Postgres refuses it while the queue of notifications is full, and a
/// worker that gave its session up for that could not join anew, since that is said by NOTIFY as well. False: the
/// session is lost.
async fn say(session: &Session, lost: &CancellationToken, payload: &str) -> bool {
    let mut pause = Duration::from_millis(100);
    while let Err(error) = session.notify(payload).await {
        if session.is_closed() || lost.is_cancelled() {
            return false;
        }
        tracing::warn!(error = crate::store::chain(&error), "a notification could not be sent; it will be");
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(5));
    }
    true
}

/// Pings the next worker in the ring, and ends its session when it does not answer.
pub async fn ping_peer(
    session: Arc<Session>,
    store: Store,
    view: watch::Receiver<View>,
    pulse: Pulse,
    lost: CancellationToken,
) {
    let me = session.me;
    let mut round = boottime_ms().unsigned_abs();
    loop {
        let slept_from = boottime_ms();
        tokio::select! {
            () = tokio::time::sleep(PING_EVERY - ANSWER_WITHIN) => {}
            () = lost.cancelled() => return,
        }
        let Some(peer) = view.borrow().successor(me) else { continue };
        round += 1;
        let asked_at = Instant::now();
        if !say(&session, &lost, &format!("p{peer}:{round}")).await {
            return lost.cancel();
        }
        tokio::select! {
            () = tokio::time::sleep(ANSWER_WITHIN) => {}
            () = lost.cancelled() => return,
        }
        let answered = || pulse.lock().pongs.get(&peer).is_some_and(|at| *at >= asked_at);
        if answered() || view.borrow().successor(me) != Some(peer) {
            continue;
        }
        if boottime_ms() - slept_from > 25_000 {
            // This loop itself was held up: it cannot tell who was late.
            continue;
        }
        // Said after the time was over. Only when this has come back is it known that notifications flow:
        // one NOTIFY whose commit hangs stops them all, in the whole cluster.
        round += 1;
        if !say(&session, &lost, &format!("m{me}:{peer}:{round}")).await {
            return lost.cancel();
        }
        let came_back = async {
            while pulse.lock().echoed < round {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        if tokio::time::timeout(Duration::from_secs(2), came_back).await.is_err() || answered() {
            continue;
        }
        let misses = pulse.lock().misses.get(&peer).copied().unwrap_or(0);
        tracing::warn!(worker.id = peer.0, misses, "a worker does not answer");
        if misses >= MISSES {
            match store.end_session(peer).await {
                Ok(ended) => tracing::warn!(worker.id = peer.0, ended, "its session was ended"),
                Err(error) => tracing::warn!(error = crate::store::chain(&error), "its session could not be ended"),
            }
        }
    }
}
