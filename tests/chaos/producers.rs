//! Who posts, how, and what do they get to hear?
//!
//! Wanderers post to any destination over REST: single messages, batches, and messages under an idempotency
//! key that they repeat until they know. Pressers keep some queues from running empty, so that every fault
//! meets waiting messages. Teasers post into the instants in which a worker looks for the last time, and in
//! which an idle destination is given back. Bookers
//! use SQL, in transactions of their own that wait, and sometimes roll back.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::cluster::{Cluster, Failure};
use super::dice::Dice;
use super::record::{Answer, Post, Recorder, SECOND, Way};

/// Longer than the API takes to say 503.
const PATIENCE: Duration = Duration::from_secs(8);
/// How long a worker keeps a destination that has nothing to do.
const LINGER: Duration = Duration::from_secs(5);

#[derive(Clone)]
pub struct Api {
    bases: Vec<String>,
    client: Client<HttpConnector, Full<Bytes>>,
}

pub enum Reply {
    Told(StatusCode, Value),
    /// No connection: nothing was sent.
    Unreached,
    Unknown,
}

impl Api {
    pub fn new(cluster: &Cluster) -> Api {
        let bases = cluster.apis().iter().filter_map(|node| node.base.clone()).collect();
        Api { bases, client: Client::builder(TokioExecutor::new()).build_http() }
    }

    pub async fn post(&self, which: usize, path: &str, body: &Value, key: Option<&str>) -> Reply {
        let base = &self.bases[which % self.bases.len()];
        let mut request = Request::builder().method(Method::POST).uri(format!("{base}{path}"));
        request = request.header("content-type", "application/json");
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        let Ok(request) = request.body(Full::new(Bytes::from(body.to_string()))) else { return Reply::Unreached };
        let asked = async {
            let response = match self.client.request(request).await {
                Ok(response) => response,
                Err(error) if error.is_connect() => return Reply::Unreached,
                Err(_) => return Reply::Unknown,
            };
            let status = response.status();
            match response.into_body().collect().await {
                Ok(body) => Reply::Told(status, serde_json::from_slice(&body.to_bytes()).unwrap_or(Value::Null)),
                Err(_) => Reply::Unknown,
            }
        };
        tokio::time::timeout(PATIENCE, asked).await.unwrap_or(Reply::Unknown)
    }
}

#[derive(Clone)]
pub struct Producers {
    pub cluster: Arc<Cluster>,
    pub recorder: Arc<Recorder>,
    pub api: Api,
    pub dice: Dice,
    pub stop: CancellationToken,
    tokens: Arc<AtomicU64>,
}

/// Which destinations each kind posts to.
pub struct Targets {
    pub all: Vec<i64>,
    pub pressed: Vec<i64>,
    pub slowest: Vec<i64>,
    pub teased: Vec<i64>,
}

impl Producers {
    pub fn new(
        cluster: Arc<Cluster>,
        recorder: Arc<Recorder>,
        api: Api,
        dice: Dice,
        stop: CancellationToken,
    ) -> Producers {
        Producers { cluster, recorder, api, dice, stop, tokens: Arc::new(AtomicU64::new(1)) }
    }

    pub fn start(&self, targets: &Targets, pace: Duration) -> JoinSet<()> {
        let mut tasks = JoinSet::new();
        let dice = |number: u64| self.dice.for_purpose(100 + number);
        let mut number = 0;
        let mut next = || {
            number += 1;
            number
        };
        for _ in 0..3 {
            let n = next();
            tasks.spawn_local(self.clone().wander(n, targets.all.clone(), dice(n.into()), pace));
        }
        let pressed = targets.pressed.iter().map(|destination| (*destination, 5));
        for (destination, depth) in pressed.chain(targets.slowest.iter().map(|destination| (*destination, 2))) {
            let n = next();
            tasks.spawn_local(self.clone().press(n, destination, depth, dice(n.into())));
        }
        for destination in &targets.teased {
            let n = next();
            tasks.spawn_local(self.clone().tease(n, *destination, dice(n.into())));
        }
        for _ in 0..2 {
            let n = next();
            tasks.spawn_local(self.clone().book(n, targets.all.clone(), dice(n.into()), pace));
        }
        tasks
    }

    fn token(&self) -> u64 {
        self.tokens.fetch_add(1, Ordering::Relaxed)
    }

    /// False: time to stop.
    async fn rest(&self, pause: Duration) -> bool {
        self.stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_some()
    }

    async fn wander(self, producer: u32, destinations: Vec<i64>, mut dice: Dice, pace: Duration) {
        let step = u64::try_from(pace.as_millis()).unwrap_or(50);
        while self.rest(dice.millis(0, 2 * step)).await {
            let destination = *dice.pick(&destinations);
            let understood = match dice.below(10) {
                0 => {
                    let more = [*dice.pick(&destinations), destination];
                    self.post_batch(producer, &[destination, more[0], more[1]], &mut dice).await
                }
                1 | 2 => self.post_keyed(producer, destination, &mut dice).await,
                _ => self.post_one(producer, destination, &mut dice).await,
            };
            if !understood {
                self.rest(Duration::from_millis(100)).await;
            }
        }
    }

    async fn press(self, producer: u32, destination: i64, depth: usize, mut dice: Dice) {
        while self.rest(dice.millis(20, 60)).await {
            let queued = {
                let record = self.recorder.lock();
                let posted = record.posts.iter().rev().take(2_000).filter(|post| post.destination == destination);
                let newest = record.requests.iter().rev().find(|request| request.destination == destination);
                let above = newest.map_or(0, |request| request.sequence);
                posted.filter(|post| matches!(post.answer, Answer::Accepted { sequence } if sequence > above)).count()
            };
            if queued < depth && !self.post_one(producer, destination, &mut dice).await {
                self.rest(Duration::from_millis(100)).await;
            }
        }
    }

    async fn tease(self, producer: u32, destination: i64, mut dice: Dice) {
        while self.rest(Duration::from_millis(100)).await {
            if !self.post_one(producer, destination, &mut dice).await {
                continue;
            }
            // Into the instant of the last look after the one before: nothing else wakes the lane for it.
            let twice = dice.percent(80);
            if twice {
                self.rest(dice.millis(0, 40)).await;
                self.post_one(producer, destination, &mut dice).await;
            }
            let posted_at = self.recorder.now();
            let ended_at = loop {
                if !self.rest(Duration::from_millis(25)).await {
                    return;
                }
                let record = self.recorder.lock();
                let newest = record.requests.iter().rev().find(|request| request.destination == destination);
                let waiting = record.posts.iter().rev().take(2_000).any(|post| {
                    post.destination == destination
                        && matches!(post.answer, Answer::Accepted { sequence } if newest.is_none_or(|r| r.sequence < sequence))
                });
                let ended = newest.filter(|r| r.succeeded() && !waiting).and_then(|r| r.ended_at);
                match ended {
                    Some(at) => break at,
                    None if self.recorder.now() > posted_at + 40 * SECOND => break self.recorder.now(),
                    None => {}
                }
            };
            if twice {
                continue;
            }
            let at = self.recorder.instant(ended_at) + LINGER + dice.millis(0, 60);
            let wait = (at - Duration::from_millis(20)).saturating_duration_since(Instant::now());
            self.rest(wait).await;
        }
    }

    fn message(&self, token: u64, destination: i64) -> Value {
        json!({ "destination_id": destination, "payload": { "token": token }, "headers": { "x-token": token.to_string() } })
    }

    async fn post_one(&self, producer: u32, destination: i64, dice: &mut Dice) -> bool {
        let token = self.token();
        let sent_at = self.recorder.now();
        let reply = self.api.post(dice.index(64), "/v1/messages", &self.message(token, destination), None).await;
        let answer = read_answer(&reply, |body| body["sequence"].as_i64());
        let answered_at = self.recorder.now();
        self.recorder.post(Post { token, producer, way: Way::Api, destination, sent_at, answered_at, answer });
        matches!(answer, Answer::Accepted { .. })
    }

    /// Repeats the same key and body, at any process, until the answer is known.
    async fn post_keyed(&self, producer: u32, destination: i64, dice: &mut Dice) -> bool {
        let token = self.token();
        let body = self.message(token, destination);
        let key = format!("chaos-{token}");
        let sent_at = self.recorder.now();
        let mut answer = Answer::Refused;
        for _ in 0..50 {
            let reply = self.api.post(dice.index(64), "/v1/messages", &body, Some(&key)).await;
            match read_answer(&reply, |body| body["sequence"].as_i64()) {
                accepted @ Answer::Accepted { .. } => {
                    answer = accepted;
                    break;
                }
                Answer::Unknown => answer = Answer::Unknown,
                Answer::Refused => {}
            }
            if !self.rest(Duration::from_millis(200)).await {
                break;
            }
        }
        let answered_at = self.recorder.now();
        self.recorder.post(Post { token, producer, way: Way::Keyed, destination, sent_at, answered_at, answer });
        matches!(answer, Answer::Accepted { .. })
    }

    async fn post_batch(&self, producer: u32, destinations: &[i64], dice: &mut Dice) -> bool {
        let tokens: Vec<(u64, i64)> = destinations.iter().map(|destination| (self.token(), *destination)).collect();
        let messages: Vec<Value> = tokens.iter().map(|(token, to)| self.message(*token, *to)).collect();
        let sent_at = self.recorder.now();
        let reply = self.api.post(dice.index(64), "/v1/messages/batch", &json!({ "messages": messages }), None).await;
        let answered_at = self.recorder.now();
        let mut accepted = true;
        for (index, (token, destination)) in tokens.into_iter().enumerate() {
            let answer = read_answer(&reply, |body| body["data"][index]["sequence"].as_i64());
            accepted &= matches!(answer, Answer::Accepted { .. });
            self.recorder.post(Post { token, producer, way: Way::Batch, destination, sent_at, answered_at, answer });
        }
        accepted
    }

    async fn book(self, producer: u32, destinations: Vec<i64>, mut dice: Dice, pace: Duration) {
        let step = u64::try_from(pace.as_millis()).unwrap_or(50);
        while self.rest(dice.millis(0, 200)).await {
            let Ok(connection) = self.cluster.connect().await else { continue };
            while self.rest(dice.millis(0, 4 * step)).await {
                if self.book_once(producer, &connection.client, &destinations, &mut dice).await.is_err() {
                    break;
                }
            }
        }
    }

    /// One transaction with up to three messages; it may wait before its end, and it may roll back.
    async fn book_once(
        &self,
        producer: u32,
        client: &tokio_postgres::Client,
        destinations: &[i64],
        dice: &mut Dice,
    ) -> Result<(), Failure> {
        let mut to: Vec<i64> = (0..=dice.below(3)).map(|_| *dice.pick(destinations)).collect();
        to.sort_unstable();
        let sent_at = self.recorder.now();
        let messages: Vec<(u64, i64)> = to.into_iter().map(|destination| (self.token(), destination)).collect();
        let (commits, wait) =
            (dice.percent(80), if dice.percent(20) { dice.millis(50, 1_000) } else { Duration::ZERO });
        let filled = fill(client, &messages).await;
        tokio::time::sleep(wait).await;
        let (sequences, ended) = match filled {
            Ok(sequences) => (sequences, Ok(commits)),
            Err(error) => (Vec::new(), Err(error)),
        };
        let (answered, outcome) = match ended {
            Ok(true) => match client.batch_execute("commit").await {
                Ok(()) => (None, Ok(())),
                Err(error) => (Some(Answer::Unknown), Err(error)),
            },
            Ok(false) => (Some(Answer::Refused), client.batch_execute("rollback").await),
            // It never came to a commit.
            Err(error) => {
                let _ = client.batch_execute("rollback").await;
                (Some(Answer::Refused), if client.is_closed() { Err(error) } else { Ok(()) })
            }
        };
        let answered_at = self.recorder.now();
        for (index, (token, destination)) in messages.into_iter().enumerate() {
            let known = || Answer::Accepted { sequence: sequences.get(index).copied().unwrap_or(0) };
            let answer = answered.unwrap_or_else(known);
            self.recorder.post(Post { token, producer, way: Way::Sql, destination, sent_at, answered_at, answer });
        }
        Ok(outcome?)
    }
}

/// Begins a transaction and queues messages in it; their sequences.
async fn fill(client: &tokio_postgres::Client, messages: &[(u64, i64)]) -> Result<Vec<i64>, tokio_postgres::Error> {
    client.batch_execute("begin").await?;
    let mut sequences = Vec::new();
    for (token, destination) in messages {
        let sql = format!(
            "select orderly.enqueue({destination}, '{{\"token\": {token}}}', 'application/json', '{{\"x-token\": \"{token}\"}}')"
        );
        let id: String = client.query_one(&sql, &[]).await?.get(0);
        sequences.push(id.split_once('-').and_then(|(_, sequence)| sequence.parse().ok()).unwrap_or(0));
    }
    Ok(sequences)
}

/// A 5xx does not tell whether it was queued.
fn read_answer(reply: &Reply, sequence: impl FnOnce(&Value) -> Option<i64>) -> Answer {
    match reply {
        Reply::Told(status, body) if *status == StatusCode::CREATED => match sequence(body) {
            Some(sequence) => Answer::Accepted { sequence },
            None => Answer::Unknown,
        },
        Reply::Told(status, _) if status.is_client_error() => Answer::Refused,
        Reply::Told(..) | Reply::Unknown => Answer::Unknown,
        Reply::Unreached => Answer::Refused,
    }
}
