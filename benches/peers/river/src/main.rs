//! riverqueue. Modes, options and output as in ../common.mjs.
//!
//! River keeps no order within a key: for one key, one queue with one worker does; for many, all are worked
//! side by side.

use std::collections::{HashMap, HashSet};
use std::io::Read;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use riverqueue::migrate::PostgresMigrator;
use riverqueue::sqlx::postgres::PgPoolOptions;
use riverqueue::{Client, InsertOpts, Job, JobArgs, QueueConfig, WorkContext, WorkOutcome, Workers};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

type Failure = Box<dyn std::error::Error + Send + Sync>;

#[derive(Clone, Debug, Deserialize, JobArgs, Serialize)]
#[river(kind = "task")]
struct Task {
    key: u64,
    n: u64,
    body: String,
}

#[derive(Default)]
struct Turns {
    next: HashMap<u64, u64>,
    busy: HashSet<u64>,
    failed: HashSet<(u64, u64)>,
    out_of_turn: u64,
    ended: u64,
}

struct Handling {
    turns: Mutex<Turns>,
    messages: u64,
    failing: u64,
    finished: Notify,
}

impl Handling {
    async fn handle(&self, key: u64, n: u64) -> Result<(), Failure> {
        {
            let mut turns = self.turns.lock().map_err(|_| "poisoned")?;
            let next = *turns.next.get(&key).unwrap_or(&1);
            let alone = turns.busy.insert(key);
            if n != next || !alone {
                turns.out_of_turn += 1;
            }
        }
        tokio::task::yield_now().await;
        let mut turns = self.turns.lock().map_err(|_| "poisoned")?;
        turns.busy.remove(&key);
        if self.failing > 0 && (key + n) % self.failing == 0 && turns.failed.insert((key, n)) {
            return Err("fails once".into());
        }
        let next = turns.next.entry(key).or_insert(1);
        *next = (*next).max(n + 1);
        turns.ended += 1;
        if turns.ended == self.messages {
            self.finished.notify_one();
        }
        Ok(())
    }
}

fn option(name: &str) -> u64 {
    let arguments: Vec<String> = std::env::args().collect();
    let place = arguments.iter().position(|argument| argument == &format!("--{name}"));
    place.and_then(|place| arguments.get(place + 1)?.parse().ok()).unwrap_or(0)
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let mode = std::env::args().nth(1).ok_or("prepare, enqueue, work or idle?")?;
    let size = if mode == "enqueue" { 64 } else { 20 };
    let pool = PgPoolOptions::new().max_connections(size).connect(&std::env::var("DATABASE_URL")?).await?;
    match mode.as_str() {
        "prepare" => drop(PostgresMigrator::new(pool).migrate_up().await?),
        "enqueue" => enqueue(Client::builder(pool).build()?).await?,
        "work" => {
            let handling = Arc::new(Handling {
                turns: Mutex::default(),
                messages: option("messages"),
                failing: option("failing"),
                finished: Notify::new(),
            });
            let limit = Duration::from_secs(option("seconds"));
            let client = client(pool, handling.clone(), option("keys"))?;
            let started = Instant::now();
            let mut run = client.start()?;
            let complete = tokio::time::timeout(limit, handling.finished.notified()).await.is_ok();
            // It writes completions behind its workers: they are acknowledged when it has stopped.
            run.stop().await?;
            let took = if complete { started.elapsed() } else { limit };
            let turns = handling.turns.lock().map_err(|_| "poisoned")?;
            println!(
                r#"{{"messages":{},"seconds":{},"out_of_turn":{}}}"#,
                turns.ended,
                took.as_secs_f64(),
                turns.out_of_turn
            );
            std::process::exit(0);
        }
        "idle" => {
            let nothing = Handling { turns: Mutex::default(), messages: 0, failing: 0, finished: Notify::new() };
            let client = client(pool, Arc::new(nothing), 2)?;
            let _run = client.start()?;
            println!(r#"{{"ready":true}}"#);
            tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new())).await??;
            std::process::exit(0);
        }
        other => return Err(format!("no mode {other}").into()),
    }
    Ok(())
}

/// It looks as often as in River's own benchmark (its defaults are 100 ms and 1 s), but not when it is idle.
fn client(pool: riverqueue::sqlx::PgPool, handling: Arc<Handling>, keys: u64) -> Result<Client, Failure> {
    let mut workers = Workers::new();
    workers.add_fn(move |_: WorkContext, job: Job<Task>| {
        let handling = handling.clone();
        async move {
            handling.handle(job.args.key, job.args.n).await?;
            Ok::<_, Failure>(WorkOutcome::Complete)
        }
    })?;
    let side_by_side = if keys == 1 { 1 } else { 1_000 };
    let mut queue = QueueConfig::new(side_by_side);
    let mut builder = Client::builder(pool).workers(workers);
    if std::env::args().nth(1).as_deref() == Some("work") {
        queue = queue.with_fetch_poll_interval(Duration::from_millis(20));
        builder = builder.fetch_cooldown(Duration::from_millis(2));
    }
    Ok(builder.queue("default", queue).build()?)
}

async fn enqueue(client: Client) -> Result<(), Failure> {
    let (keys, messages, limit) = (option("keys"), option("messages"), Duration::from_secs(option("seconds")));
    let body = std::env::var("BODY")?;
    let started = Instant::now();
    let step = option("callers").min(keys);
    let mut callers = tokio::task::JoinSet::new();
    // Each has keys of its own, so that the order within a key is that of the calls.
    for first in 0..step {
        let (client, body) = (client.clone(), body.clone());
        callers.spawn(async move {
            let mut taken = Vec::new();
            for n in 1..=messages / keys {
                for key in (first..keys).step_by(step as usize) {
                    let asked = Instant::now();
                    if asked - started > limit {
                        return Ok::<_, Failure>(taken);
                    }
                    let task = Task { key, n, body: body.clone() };
                    client.insert(task).opts(InsertOpts::default()).await?;
                    taken.push(asked.elapsed().as_secs_f64() * 1e3);
                }
            }
            Ok(taken)
        });
    }
    let mut taken = Vec::new();
    while let Some(done) = callers.join_next().await {
        taken.extend(done??);
    }
    let took = started.elapsed().as_secs_f64();
    taken.sort_by(f64::total_cmp);
    let at = |share: f64| taken[((taken.len() as f64 * share) as usize).min(taken.len() - 1)];
    println!(r#"{{"messages":{},"seconds":{took},"p50_ms":{},"p99_ms":{}}}"#, taken.len(), at(0.5), at(0.99));
    Ok(())
}
