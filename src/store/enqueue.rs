//! How do the messages of concurrent requests get their places in few transactions?
//!
//! What comes while a transaction runs is written in the next one; a lone request is written at once. A
//! destination whose lock somebody else holds (an application's long transaction) is waited for apart, so that
//! it delays nobody else's posts (G5).

mod apart;
mod known;
mod line;
mod once;
mod verdict;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{mpsc, oneshot};
use tokio::time::error::Elapsed;
use tokio::time::{Instant, timeout_at};
use tokio_postgres::Row;
use tokio_postgres::types::Type;
use tokio_util::sync::CancellationToken;

use self::apart::{Apart, WaitingRoom};
use self::known::Known;
use self::line::Line;
use self::once::Twins;
use self::verdict::{Item, Verdict, judge};
use super::bell::Bell;
use super::pool::Parameter;
use super::{Store, StoreError};
use crate::broken::{self, Broken};
use crate::domain::{DestinationId, MessageId, NewMessage};

/// Transactions at once: one is written while the other's commit waits for the disk.
const WRITERS: usize = 2;
/// Requests that wait for a writer; past it, posting waits.
const BACKLOG: usize = 4_096;
/// What is larger takes so long that its bell need not hurry, and its connection, which keeps room for what was the
/// largest, is better free again soon.
const SMALL: usize = 64 << 10;
/// So long a request waits for its answer. One that arrived behind a transaction that hangs would otherwise
/// wait for that one and then for its own.
const ANSWER_WITHIN: Duration = Duration::from_millis(4_700);

/// A message with its place.
#[derive(Debug, Clone)]
pub struct Queued {
    pub id: MessageId,
    pub created_at: DateTime<Utc>,
    pub expires_at: DateTime<Utc>,
}

/// What makes two requests the same one.
#[derive(Debug, Clone)]
pub struct IdempotencyKey {
    pub path: String,
    pub key: String,
    /// SHA-256 of the request's body.
    pub body_hash: Vec<u8>,
}

#[derive(Debug, thiserror::Error)]
pub enum EnqueueError {
    /// Nothing was queued, because of the item with this index.
    #[error("message {index}: {reason:?}")]
    Rejected { index: usize, reason: Rejection },
    /// The idempotency key came with another body before.
    #[error("the idempotency key was used with another body")]
    KeyReused,
    /// With [`StoreError::Unreachable`] it is not known whether the messages were queued, or will be.
    #[error(transparent)]
    Store(#[from] StoreError),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rejection {
    UnknownDestination,
    Disabled,
    Full,
}

type Answer = Result<Vec<Queued>, EnqueueError>;

struct Post {
    since: Instant,
    tenant: Option<String>,
    messages: Vec<NewMessage>,
    /// Written by itself, once.
    key: Option<IdempotencyKey>,
    answer: oneshot::Sender<Answer>,
}

/// Queues messages for all handlers of a process. Cheap to clone.
#[derive(Clone)]
pub struct Enqueuer {
    posts: mpsc::Sender<Post>,
    writer: Arc<Writer>,
}

struct Writer {
    store: Store,
    accepted: AtomicU64,
    bell: Bell,
    twins: Twins,
    room: WaitingRoom,
    known: Known,
}

impl Enqueuer {
    /// Runs until `stop`, and answers what it has by then.
    pub fn start(store: Store, stop: CancellationToken) -> Enqueuer {
        let bell = Bell::start(store.clone(), stop.clone());
        let writer = Arc::new(Writer {
            store,
            bell,
            twins: Twins::default(),
            room: WaitingRoom::default(),
            known: Known::default(),
            accepted: AtomicU64::new(0),
        });
        let (posts, incoming) = mpsc::channel(64);
        tokio::spawn(write_posts(writer.clone(), incoming, stop));
        Enqueuer { posts, writer }
    }

    /// All of the messages or none, in their order. `tenant`: only its destinations are known.
    pub async fn enqueue(&self, tenant: Option<&str>, messages: Vec<NewMessage>) -> Answer {
        let (post, answered) = Post::new(tenant, None, messages);
        let until = post.since + ANSWER_WITHIN;
        // Two waits with one end, since a wait keeps room for all it waits for, in each request under way.
        timeout_at(until, self.posts.send(post)).await.map_err(too_late)?.map_err(|_| stopping())?;
        timeout_at(until, answered).await.map_err(too_late)?.map_err(|_| stopping())?
    }

    /// The same under an idempotency key: within 24 hours the same key and body get the first answer again.
    pub async fn enqueue_once(&self, tenant: Option<&str>, key: IdempotencyKey, messages: Vec<NewMessage>) -> Answer {
        let (post, answered) = Post::new(tenant, Some(key), messages);
        let until = post.since + ANSWER_WITHIN;
        self.writer.begin_once(post);
        timeout_at(until, answered).await.map_err(too_late)?.map_err(|_| stopping())?
    }

    /// After the token given at the start: returns when the last bell has been rung. Without it a process
    /// that ends may leave a message to the sweep.
    pub async fn stopped(&self) {
        self.writer.bell.stopped().await;
    }

    /// Messages that this process has queued.
    pub fn accepted(&self) -> u64 {
        self.writer.accepted.load(Ordering::Relaxed)
    }

    /// Wakes who serves these destinations, soon.
    pub fn ring(&self, destinations: impl IntoIterator<Item = DestinationId>) {
        self.writer.bell.ring(destinations.into_iter().map(|id| id.0));
    }

    /// The same after an error that leaves open whether something was committed, or will be.
    pub fn ring_in_doubt(&self, error: &StoreError, destination: DestinationId) {
        if matches!(error, StoreError::Unreachable(_)) {
            self.writer.bell.ring_for_a_while([destination.0]);
        }
    }
}

fn stopping() -> EnqueueError {
    EnqueueError::Store(StoreError::Unreachable("the process is stopping".into()))
}

fn too_late(elapsed: Elapsed) -> EnqueueError {
    StoreError::Unreachable(Box::new(elapsed)).into()
}

/// The writers' loop: each transaction takes all that came meanwhile.
async fn write_posts(writer: Arc<Writer>, mut incoming: mpsc::Receiver<Post>, stop: CancellationToken) {
    let mut line = Line::default();
    let mut running = FuturesUnordered::new();
    let mut in_flight = 0;
    let (mut open, mut stopping) = (true, false);
    while open || line.len() > 0 || !running.is_empty() {
        // A second transaction only with half as many posts as are under way: each costs as much as a dozen of them.
        while line.ready() > 0 && (running.is_empty() || running.len() < WRITERS && line.ready() * 2 >= in_flight) {
            let posts = line.take();
            if posts.is_empty() {
                break;
            }
            in_flight += posts.len();
            let writer = writer.clone();
            running.push(async move {
                let (count, destinations): (_, Vec<i64>) =
                    (posts.len(), posts.iter().flat_map(Post::destinations).collect());
                writer.write(posts, None).await;
                (count, destinations)
            });
        }
        tokio::select! {
            Some((count, destinations)) = running.next(), if !running.is_empty() => {
                in_flight -= count;
                line.done(&destinations);
            }
            post = incoming.recv(), if open && line.len() < BACKLOG => match post {
                Some(post) => {
                    line.push(post);
                    while line.len() < BACKLOG && let Ok(post) = incoming.try_recv() {
                        line.push(post);
                    }
                }
                None => open = false,
            },
            () = stop.cancelled(), if !stopping => {
                // What is in the channel is still answered; nothing new gets in.
                incoming.close();
                stopping = true;
            }
            // Nobody waits for what was left.
            else => {}
        }
    }
}

impl Post {
    fn new(
        tenant: Option<&str>,
        key: Option<IdempotencyKey>,
        messages: Vec<NewMessage>,
    ) -> (Post, oneshot::Receiver<Answer>) {
        let (answer, answered) = oneshot::channel();
        (Post { since: Instant::now(), tenant: tenant.map(str::to_owned), messages, key, answer }, answered)
    }

    fn destinations(&self) -> impl Iterator<Item = i64> {
        self.messages.iter().map(|message| message.destination.0)
    }

    /// Nobody there: the client hung up. What was queued stays queued.
    fn answer(self, answer: Answer) {
        let _ = self.answer.send(answer);
    }

    fn bytes(&self) -> usize {
        self.messages.iter().map(|message| message.payload.len()).sum()
    }
}

impl Writer {
    /// Writes posts in one transaction, rings, answers them. Those that met a locked destination go to the
    /// task that looks after it; on behalf of that task itself, they are given back.
    async fn write(self: &Arc<Self>, posts: Vec<Post>, apart: Option<Apart>) -> Vec<Post> {
        let mut still_locked = Vec::new();
        let mut rung = Vec::new();
        if broken::is(Broken::BellBeforeCommit) {
            self.bell.ring(posts.iter().flat_map(|post| &post.messages).map(|message| message.destination.0));
        }
        let judged = self.transact(posts, apart.and_then(Apart::wait_for), &mut rung).await;
        // Before the answers: a process that ends once it has them waits for the bells that are pending then.
        if !rung.is_empty() && !broken::is(Broken::BellBeforeCommit) {
            self.bell.ring(rung);
        }
        for (post, verdict) in judged {
            match verdict {
                Verdict::Ended(answer) => post.answer(answer),
                Verdict::Locked(destination) if Apart::is_about(apart, destination) => still_locked.push(post),
                Verdict::Locked(destination) => self.wait_apart(destination, post),
            }
        }
        still_locked
    }

    async fn transact(&self, posts: Vec<Post>, wait_for: Option<i64>, rung: &mut Vec<i64>) -> Vec<(Post, Verdict)> {
        match self.insert(&posts, wait_for).await {
            Ok((row, rings)) => {
                let statuses: Option<Vec<&str>> = row.get(0);
                let sequences: Vec<Option<i64>> = row.get(1);
                let at: DateTime<Utc> = row.get(2);
                let mut answered = 0;
                let mut judged = Vec::with_capacity(posts.len());
                for post in posts {
                    let first = answered;
                    answered += post.messages.len();
                    let items = post.messages.iter().enumerate().map(|(nth, message)| Item {
                        status: statuses.as_ref().map_or("queued", |all| all.get(first + nth).copied().unwrap_or("")),
                        sequence: sequences.get(first + nth).copied().flatten(),
                        created_at: Some(at),
                        expires_at: Some(at + TimeDelta::seconds(message.ttl_seconds.into())),
                    });
                    let verdict = judge(&post.messages, items);
                    let taken = matches!(verdict, Verdict::Ended(Ok(_)));
                    self.known.note(&post, taken);
                    if taken {
                        self.accepted.fetch_add(post.messages.len() as u64, Ordering::Relaxed);
                        if !rings {
                            rung.extend(post.destinations());
                        }
                    }
                    judged.push((post, verdict));
                }
                judged
            }
            // Perhaps one request's data: each alone then, so that it fails no other.
            Err(StoreError::Refused(error)) if posts.len() > 1 => {
                tracing::warn!(
                    error = super::connect::chain(&error),
                    requests = posts.len(),
                    "retrying each request alone"
                );
                let mut judged = Vec::with_capacity(posts.len());
                for post in posts {
                    judged.extend(Box::pin(self.transact(vec![post], wait_for, rung)).await);
                }
                judged
            }
            Err(StoreError::Busy(_)) if wait_for.is_some() => {
                posts.into_iter().map(|post| (post, Verdict::Locked(wait_for.unwrap_or_default()))).collect()
            }
            Err(error) => {
                // Perhaps it was committed, or will be.
                if matches!(error, StoreError::Unreachable(_)) {
                    let destinations =
                        posts.iter().flat_map(|post| &post.messages).map(|message| message.destination.0);
                    self.bell.ring_for_a_while(destinations);
                }
                let text = super::connect::chain(&error);
                let mut first = Some(error);
                posts
                    .into_iter()
                    .map(|post| {
                        let error = first.take().unwrap_or_else(|| StoreError::Unreachable(text.clone().into()));
                        (post, Verdict::Ended(Err(error.into())))
                    })
                    .collect()
            }
        }
    }

    /// The function's one row, and whether the bell is rung with it.
    async fn insert(&self, posts: &[Post], wait_for: Option<i64>) -> Result<(Row, bool), StoreError> {
        let columns = Columns::of(posts.iter().map(|post| post.messages.as_slice()));
        let tenants: Vec<Option<&str>> =
            posts.iter().flat_map(|post| std::iter::repeat_n(post.tenant.as_deref(), post.messages.len())).collect();
        // Each destination once, with the tenant whose it must be; `owners` stays out if two posts differ.
        let mut wanted: Vec<(i64, Option<&str>)> =
            columns.destinations.iter().copied().zip(tenants.iter().copied()).collect();
        wanted.sort_unstable();
        wanted.dedup();
        let agree = wanted.windows(2).all(|pair| pair[0].0 != pair[1].0);
        wanted.dedup_by_key(|(destination, _)| *destination);
        let (wanted, owners): (Vec<i64>, Vec<Option<&str>>) = wanted.into_iter().unzip();
        let owners = Some(owners).filter(|_| agree);
        let sql = "select statuses, sequences, at from orderly.enqueue_batch($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)";
        let parameters: [Parameter<'_>; 10] = [
            (&columns.groups, Type::INT4_ARRAY),
            (&columns.destinations, Type::INT8_ARRAY),
            (&tenants, Type::TEXT_ARRAY),
            (&columns.payloads, Type::BYTEA_ARRAY),
            (&columns.content_types, Type::TEXT_ARRAY),
            (&columns.headers, Type::TEXT_ARRAY),
            (&columns.ttls, Type::INT4_ARRAY),
            (&wanted, Type::INT8_ARRAY),
            (&owners, Type::TEXT_ARRAY),
            (&wait_for, Type::INT8),
        ];
        let small = posts.iter().map(Post::bytes).sum::<usize>() <= SMALL;
        let turn = if wait_for.is_none() && small && !broken::is(Broken::BellBeforeCommit) {
            self.bell.take_turn().filter(|_| self.known.takes_all(posts))
        } else {
            None
        };
        let rings = turn.is_some();
        let rows = match turn {
            Some(turn) => {
                let ring = |connection| turn.ring(connection, wanted.clone());
                self.store.query_and_then(sql, &parameters, ring).await?
            }
            None => self.store.query(sql, &parameters).await?,
        };
        let row = rows.into_iter().next().ok_or_else(|| StoreError::Corrupt("enqueue answered nothing".to_owned()))?;
        Ok((row, rings))
    }

    fn end(self: &Arc<Self>, post: Post, answer: Answer) {
        match post.key {
            Some(_) => self.end_once(post, answer),
            None => post.answer(answer),
        }
    }
}

/// Messages as the arrays that the functions take.
struct Columns<'a> {
    groups: Vec<i32>,
    destinations: Vec<i64>,
    payloads: Vec<&'a [u8]>,
    content_types: Vec<&'a str>,
    headers: Vec<Option<String>>,
    ttls: Vec<i32>,
}

impl<'a> Columns<'a> {
    fn of(requests: impl IntoIterator<Item = &'a [NewMessage]>) -> Columns<'a> {
        let mut columns = Columns {
            groups: Vec::new(),
            destinations: Vec::new(),
            payloads: Vec::new(),
            content_types: Vec::new(),
            headers: Vec::new(),
            ttls: Vec::new(),
        };
        for (group, messages) in (0..).zip(requests) {
            for message in messages {
                columns.groups.push(group);
                columns.destinations.push(message.destination.0);
                columns.payloads.push(&message.payload);
                columns.content_types.push(&message.content_type);
                columns.headers.push((!message.headers.is_empty()).then(|| message.headers.to_json()));
                columns.ttls.push(message.ttl_seconds);
            }
        }
        columns
    }
}
