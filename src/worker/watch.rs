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
/// A ping waits so long for its answer; then as long nobody is asked, so that it is one in 20 s.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// A peer that has been silent for so long since it was first asked in vain has its session ended: at the second ping that
/// it does not answer, at worst 50 s after it hung. (30 s, and a little less for timers.)
const SILENCE: Duration = Duration::from_secs(29);
/// So many more are asked when the next one does not answer: those that watch each other may hang together, on one host,
/// and one after the other would take 40 s each. They are found out within 60 s.
const NEIGHBOURS: usize = 8;

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
            // Somebody has a table of ours, for a change of the schema, say.
            Err(error) if error.is_passing() && !session.is_closed() => {
                tracing::warn!(error = crate::store::chain(&error), "the next worker cannot be watched yet");
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
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
    Sweep(DestinationId),
    Draining,
}

/// Speaks for the scheduler, and remembers who answered.
#[derive(Clone)]
pub struct Pulse {
    me: WorkerId,
    words: mpsc::UnboundedSender<Word>,
    heard: Arc<Mutex<Heard>>,
}

#[derive(Default)]
struct Heard {
    /// When each worker's last pong came.
    pongs: HashMap<WorkerId, Instant>,
    /// When a watcher first said that a worker had not answered its ping, and none since.
    silent: HashMap<WorkerId, Instant>,
    /// The newest of our own words that came back.
    echoed: u64,
}

impl Pulse {
    pub fn start(session: Arc<Session>, lost: CancellationToken) -> Pulse {
        let (words, mut spoken) = mpsc::unbounded_channel();
        let heard = Arc::new(Mutex::new(Heard::default()));
        let me = session.me;
        tokio::spawn(async move {
            let mut batch = Vec::new();
            while spoken.recv_many(&mut batch, 4_096).await > 0 {
                let (mut rung, mut swept) = (Vec::new(), Vec::new());
                let mut payloads = Vec::new();
                for word in batch.drain(..) {
                    match word {
                        Word::Pong => payloads.push(format!("o{}", session.me)),
                        Word::Draining => payloads.push(format!("d{}", session.me)),
                        Word::Ring(id) => rung.push(id.0),
                        Word::Sweep(id) => swept.push(id.0),
                    }
                }
                // After what was said before: a bell must find the others knowing that this one drains.
                payloads.extend(crate::store::bell::payloads('b', &rung));
                payloads.extend(crate::store::bell::payloads('s', &swept));
                for payload in payloads {
                    if !say(&session, &lost, &payload).await {
                        return lost.cancel();
                    }
                }
            }
        });
        Pulse { me, words, heard }
    }

    pub fn answer(&self) {
        let _ = self.words.send(Word::Pong);
    }

    /// Passes a destination on to whoever should have it.
    pub fn ring(&self, id: DestinationId) {
        let _ = self.words.send(Word::Ring(id));
    }

    /// The same for what the sweep found, whatever stood in the way before.
    pub fn sweep(&self, id: DestinationId) {
        let _ = self.words.send(Word::Sweep(id));
    }

    pub fn say_draining(&self) {
        let _ = self.words.send(Word::Draining);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answered_since(&self, peer: WorkerId, since: Instant) -> bool {
        self.lock().pongs.get(&peer).is_some_and(|at| *at >= since)
    }

    /// Since the first ping that it did not answer.
    fn silence(&self, peer: WorkerId) -> Duration {
        self.lock().silent.get(&peer).map_or(Duration::ZERO, |missed_at| missed_at.elapsed() + ANSWER_WITHIN)
    }

    pub fn heard(&self, from: WorkerId) {
        let mut heard = self.lock();
        heard.pongs.insert(from, Instant::now());
        heard.silent.remove(&from);
    }

    /// Everybody remembers what watchers say, so that a successor goes on from there.
    pub fn missed(&self, by: WorkerId, about: WorkerId, round: u64) {
        let mut heard = self.lock();
        heard.silent.entry(about).or_insert_with(Instant::now);
        if by == self.me {
            heard.echoed = heard.echoed.max(round);
        }
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
    let asker = Asker { session, view: view.clone(), pulse: pulse.clone(), lost: lost.clone() };
    let mut round = boottime_ms().unsigned_abs();
    let mut neighbours = Vec::new();
    while !lost.is_cancelled() {
        let mut peers = asker.ask(&neighbours, &mut round).await;
        judge(&store, &pulse, &peers).await;
        let Some(next) = view.borrow().successor(me) else {
            neighbours.clear();
            continue;
        };
        if !peers.contains(&next) {
            peers.push(next);
        }
        let silent = asker.ask(&peers, &mut round).await;
        neighbours = if silent.contains(&next) { view.borrow().successors(next, NEIGHBOURS) } else { Vec::new() };
        neighbours.retain(|peer| *peer != me);
        judge(&store, &pulse, &silent).await;
    }
}

/// Ends the sessions of those that have been silent for too long.
async fn judge(store: &Store, pulse: &Pulse, silent: &[WorkerId]) {
    for peer in silent {
        let silence = pulse.silence(*peer);
        tracing::warn!(worker.id = peer.0, silent_seconds = silence.as_secs(), "a worker does not answer");
        if silence >= SILENCE {
            match store.end_session(*peer).await {
                Ok(ended) => tracing::warn!(worker.id = peer.0, ended, "its session was ended"),
                Err(error) => tracing::warn!(error = crate::store::chain(&error), "its session could not be ended"),
            }
        }
    }
}

struct Asker {
    session: Arc<Session>,
    view: watch::Receiver<View>,
    pulse: Pulse,
    lost: CancellationToken,
}

impl Asker {
    /// Pings these, waits for as long as they may take (also with nobody to ask), and says who did not answer.
    async fn ask(&self, peers: &[WorkerId], round: &mut u64) -> Vec<WorkerId> {
        let begun = boottime_ms();
        let asked_at = Instant::now();
        for peer in peers {
            *round += 1;
            if !self.say(&format!("p{peer}:{round}")).await {
                return Vec::new();
            }
        }
        tokio::select! {
            () = tokio::time::sleep(ANSWER_WITHIN) => {}
            () = self.lost.cancelled() => return Vec::new(),
        }
        let answered = |peer: WorkerId| self.pulse.answered_since(peer, asked_at);
        let mut silent: Vec<WorkerId> =
            peers.iter().copied().filter(|peer| !answered(*peer) && self.view.borrow().kind(*peer).is_some()).collect();
        if silent.is_empty() {
            return silent;
        }
        if boottime_ms() - begun > 15_000 {
            // This loop itself was held up: it cannot tell who was late.
            return Vec::new();
        }
        // Said after the time was over. Only when this has come back is it known that notifications flow:
        // one NOTIFY whose commit hangs stops them all, in the whole cluster.
        for peer in &silent {
            *round += 1;
            if !self.say(&format!("m{}:{peer}:{round}", self.session.me)).await {
                return Vec::new();
            }
        }
        let came_back = async {
            while self.pulse.lock().echoed < *round {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        if tokio::time::timeout(Duration::from_secs(2), came_back).await.is_err() {
            return Vec::new();
        }
        silent.retain(|peer| !answered(*peer));
        silent
    }

    /// False: the session is lost.
    async fn say(&self, payload: &str) -> bool {
        let said = say(&self.session, &self.lost, payload).await;
        if !said {
            self.lost.cancel();
        }
        said
    }
}
