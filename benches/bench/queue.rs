//! What do Orderly's queue statements do when nothing is sent over HTTP?
//!
//! For the comparison with other queues. Messages are queued by the same enqueuer as an API's; taken by a
//! worker's own statements on a worker's own session (claim, read ahead, acknowledge, release), in the same
//! batches; what would be the receiver's answer is made up here. The order of a destination is kept as a lane
//! keeps it: its next message comes after the commit of the last one's outcome.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use orderly::domain::{DestinationId, Headers, NewMessage, Sequence};
use orderly::store::Store;
use orderly::store::enqueue::Enqueuer;
use orderly::store::session::{Acknowledgement, Claimed, Ending, LaneStart, Place, Release, Session};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::Result;
use super::histogram::Histogram;
use super::payloads::Payloads;
use super::peers::Done;

/// A worker's: messages read ahead for a destination, wants of one reading, outcomes of one commit, claims
/// of one call; and the bytes that a lane may read ahead.
const AHEAD: i64 = 32;
const WANTS: usize = 256;
const OUTCOMES: usize = 500;
const CLAIMS: usize = 100;
const BYTES: i64 = 48 << 10;
const RETRY: Duration = Duration::from_secs(1);

#[derive(clap::Args)]
pub struct EnqueueArguments {
    #[arg(long)]
    first: i64,
    #[arg(long)]
    keys: u64,
    #[arg(long)]
    messages: u64,
    #[arg(long)]
    callers: u64,
    #[arg(long)]
    seconds: u64,
    #[arg(long)]
    payloads: Option<std::path::PathBuf>,
}

#[derive(clap::Args)]
pub struct WorkArguments {
    #[arg(long)]
    messages: u64,
    #[arg(long)]
    seconds: u64,
    /// Each such message fails once; 0: none.
    #[arg(long)]
    failing: u64,
}

/// Callers side by side, each waiting for its message to be there before the next.
pub fn enqueue(arguments: EnqueueArguments) -> Result<()> {
    let payloads = Payloads::load(arguments.payloads.as_deref())?;
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async {
        let store = Store::open(&std::env::var("DATABASE_URL")?, 16, Default::default())?;
        let stop = CancellationToken::new();
        let enqueuer = Enqueuer::start(store, stop.clone());
        let started = Instant::now();
        let limit = Duration::from_secs(arguments.seconds);
        let (keys, each) = (arguments.keys, arguments.messages / arguments.keys);
        let step = arguments.callers.min(keys);
        let mut callers = JoinSet::new();
        // Each has keys of its own, so that the order within a key is that of the calls.
        for own in 0..step {
            let (enqueuer, payloads, first) = (enqueuer.clone(), payloads.clone(), arguments.first);
            callers.spawn(async move {
                let mut latencies = Histogram::default();
                for n in 1..=each {
                    for key in (own..keys).step_by(usize::try_from(step)?) {
                        if started.elapsed() > limit {
                            return Result::Ok(latencies);
                        }
                        let asked = Instant::now();
                        enqueuer.enqueue(None, vec![message(first + key.cast_signed(), payloads.nth(n))]).await?;
                        latencies.record(u64::try_from(asked.elapsed().as_micros())?);
                    }
                }
                Ok(latencies)
            });
        }
        let mut latencies = Histogram::default();
        while let Some(done) = callers.join_next().await {
            latencies.merge(&done??);
        }
        let seconds = started.elapsed().as_secs_f64();
        stop.cancel();
        enqueuer.stopped().await;
        Done {
            messages: latencies.count(),
            seconds,
            p50_ms: latencies.quantile_ms(0.5),
            p99_ms: latencies.quantile_ms(0.99),
            out_of_turn: 0,
        }
        .tell()
    })
}

fn message(destination: i64, payload: Bytes) -> NewMessage {
    NewMessage {
        destination: DestinationId(destination),
        payload,
        content_type: "application/json".to_owned(),
        headers: Headers::from_stored(BTreeMap::new()),
        ttl_seconds: 86_400,
    }
}

struct Want {
    destination: DestinationId,
    above: Sequence,
    answer: oneshot::Sender<Vec<(Sequence, Place)>>,
}

struct Outcome {
    acknowledgement: Acknowledgement,
    committed: oneshot::Sender<()>,
}

struct Lanes {
    wants: mpsc::UnboundedSender<Want>,
    outcomes: mpsc::UnboundedSender<Outcome>,
    failing: u64,
    ended: AtomicU64,
    out_of_turn: AtomicU64,
}

/// Takes and acknowledges until so many messages have ended, or so long.
pub fn work(arguments: WorkArguments) -> Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async {
        let store = Store::open(&std::env::var("DATABASE_URL")?, 1, Default::default())?;
        let started = Instant::now();
        let (session, _notifications) = Session::open(store.connector(), Default::default()).await?;
        let session = Arc::new(session);
        session.join("bench", "bench", "once", None).await?;
        let (wants, wanted) = mpsc::unbounded_channel();
        let (outcomes, incoming) = mpsc::unbounded_channel();
        let lanes = Arc::new(Lanes {
            wants,
            outcomes,
            failing: arguments.failing,
            ended: AtomicU64::new(0),
            out_of_turn: AtomicU64::new(0),
        });
        tokio::spawn(feed(session.clone(), wanted));
        tokio::spawn(acknowledge(session.clone(), incoming));
        let found = store.list_unserved(session.me).await?;
        let serving = serve(&session, &lanes, found.into_iter().map(|(id, _)| id.0).collect());
        let complete = match tokio::time::timeout(Duration::from_secs(arguments.seconds), serving).await {
            Ok(served) => served.map(|()| true)?,
            Err(_) => false,
        };
        let (seconds, messages) = (started.elapsed().as_secs_f64(), lanes.ended.load(Ordering::Relaxed));
        if complete && messages != arguments.messages {
            return Err(format!("{messages} of {} messages ended", arguments.messages).into());
        }
        let out_of_turn = lanes.out_of_turn.load(Ordering::Relaxed);
        Done { messages, seconds, p50_ms: None, p99_ms: None, out_of_turn }.tell()
    })
}

/// As the clerk does: what is released and then claimed is so in this order, as many lanes as there may be locks.
async fn serve(session: &Arc<Session>, lanes: &Arc<Lanes>, mut waiting: VecDeque<i64>) -> Result<()> {
    let mut open: JoinSet<Result<Release>> = JoinSet::new();
    let mut left: Vec<Release> = Vec::new();
    loop {
        while let Some(ended) = open.try_join_next() {
            left.push(ended??);
        }
        if !left.is_empty() {
            session.release(&left, false).await?;
            let ids: Vec<i64> = left.drain(..).map(|lane| lane.destination.0).collect();
            session.unlock(&ids).await?;
        }
        let room = session.lock_budget.saturating_sub(open.len()).min(CLAIMS).min(waiting.len());
        if room > 0 {
            let ids: Vec<i64> = waiting.drain(..room).collect();
            for (id, outcome) in session.claim(&ids).await? {
                match outcome {
                    Claimed::Lane(start) => drop(open.spawn(lane(lanes.clone(), *start))),
                    other => return Err(format!("destination {id} could not be claimed: {other:?}").into()),
                }
            }
            continue;
        }
        match open.join_next().await {
            Some(ended) => left.push(ended??),
            None => return Ok(()),
        }
    }
}

async fn lane(lanes: Arc<Lanes>, start: LaneStart) -> Result<Release> {
    let (mut floor, mut delivered) = (start.floor, start.last_delivered);
    loop {
        let (answer, answered) = oneshot::channel();
        lanes.wants.send(Want { destination: start.destination, above: floor, answer })?;
        let ahead = answered.await?;
        if ahead.is_empty() {
            return Ok(Release { destination: start.destination, floor, last_delivered: delivered, last_start: None });
        }
        for (sequence, place) in ahead {
            if sequence <= floor {
                lanes.out_of_turn.fetch_add(1, Ordering::Relaxed);
            }
            if lanes.failing > 0 && sequence.0.unsigned_abs().is_multiple_of(lanes.failing) {
                lanes.write(start.destination, (sequence, place), 1, Ending::Retry { after: RETRY }).await?;
                tokio::time::sleep(RETRY).await;
                lanes.write(start.destination, (sequence, place), 2, Ending::Delivered).await?;
            } else {
                lanes.write(start.destination, (sequence, place), 1, Ending::Delivered).await?;
            }
            (floor, delivered) = (sequence, sequence);
            lanes.ended.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Lanes {
    /// Returns when it is committed.
    async fn write(
        &self,
        destination: DestinationId,
        (sequence, place): (Sequence, Place),
        number: u32,
        ending: Ending,
    ) -> Result<()> {
        let delivered = ending == Ending::Delivered;
        let acknowledgement = Acknowledgement {
            destination,
            sequence,
            place,
            number,
            ending,
            status_code: Some(if delivered { 200 } else { 500 }),
            error: None,
            duration: Duration::ZERO,
            response: Bytes::new(),
            prune_skips: false,
        };
        let (committed, done) = oneshot::channel();
        self.outcomes.send(Outcome { acknowledgement, committed })?;
        Ok(done.await?)
    }
}

/// What many lanes want while a reading runs is read by the next one.
async fn feed(session: Arc<Session>, mut wants: mpsc::UnboundedReceiver<Want>) -> Result<()> {
    let mut batch = Vec::new();
    while wants.recv_many(&mut batch, WANTS).await > 0 {
        let asked: Vec<_> = batch.iter().map(|want| (want.destination, want.above)).collect();
        let mut answers: Vec<Vec<(Sequence, Place)>> = batch.iter().map(|_| Vec::new()).collect();
        for row in session.read_ahead(&asked, AHEAD, BYTES).await? {
            answers[row.want].push((row.message.sequence, row.place));
        }
        for (want, mut answer) in batch.drain(..).zip(answers) {
            answer.sort_unstable_by_key(|(sequence, _)| *sequence);
            let _ = want.answer.send(answer);
        }
    }
    Ok(())
}

/// What came while a commit ran goes into the next one.
async fn acknowledge(session: Arc<Session>, mut outcomes: mpsc::UnboundedReceiver<Outcome>) -> Result<()> {
    let mut batch: Vec<Outcome> = Vec::new();
    while outcomes.recv_many(&mut batch, OUTCOMES).await > 0 {
        batch.sort_by_key(|outcome| outcome.acknowledgement.destination);
        let (items, committed): (Vec<_>, Vec<_>) =
            batch.drain(..).map(|outcome| (outcome.acknowledgement, outcome.committed)).unzip();
        session.acknowledge(&items, false, true).await?;
        for committed in committed {
            let _ = committed.send(());
        }
    }
    Ok(())
}
