//! How does Orderly's queue compare with other queues on Postgres?
//!
//! The queue itself is measured: enqueue, take, acknowledge; nothing is sent over HTTP, except in the rows that
//! say so. Each of the others is a program of its own in benches/peers, in its own language and set up as its
//! own pages say, on the same server with the same load. It counts itself what started out of turn.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::accept::serve;
use super::child::Child;
use super::cluster::Cluster;
use super::measure::{Meter, Round};
use super::poster::{Arguments, Posted};
use super::receiver::Receiver;
use super::report::{Report, Side, figure};
use super::through::WORKER;
use super::{Bench, Result};

pub const NAMES: [&str; 4] = ["peers-one", "peers-many", "peers-failing", "peers-idle"];

const CALLERS: u64 = 64;
/// Whoever has not done all by then is measured by what it has done.
const LIMIT: Duration = Duration::from_secs(60);
const IDLE: Duration = Duration::from_secs(60);
const AHEAD: f64 = 10.0;

struct Case {
    name: &'static str,
    keys: u64,
    messages: u64,
    /// Of so many messages one fails once, and is to be tried again after a second; 0: none.
    failing: u64,
}

const CASES: [Case; 3] = [
    Case { name: "peers-one", keys: 1, messages: 5_000, failing: 0 },
    Case { name: "peers-many", keys: 1_000, messages: 50_000, failing: 0 },
    Case { name: "peers-failing", keys: 10_000, messages: 50_000, failing: 100 },
];

struct Peer {
    name: &'static str,
    /// Below the folder that scripts/bench-peers made.
    program: &'static str,
    script: Option<&'static str>,
    /// Whether it claims to keep the order of a key among many.
    ordered: bool,
}

const PEERS: [Peer; 4] = [
    Peer { name: "graphile-worker", program: "node_modules/.bin/node", script: Some("graphile.mjs"), ordered: true },
    Peer { name: "pg-boss", program: "node_modules/.bin/node", script: Some("pgboss.mjs"), ordered: true },
    Peer { name: "procrastinate", program: "venv/bin/python", script: Some("procrastinate_peer.py"), ordered: true },
    Peer { name: "riverqueue", program: "river/target/release/river-peer", script: None, ordered: false },
];

/// What enqueuing or working came to.
#[derive(Serialize, Deserialize)]
pub struct Done {
    pub messages: u64,
    pub seconds: f64,
    pub p50_ms: Option<f64>,
    pub p99_ms: Option<f64>,
    /// Started beside or before an older one of its key.
    #[serde(default)]
    pub out_of_turn: u64,
}

impl Done {
    pub fn tell(&self) -> Result<()> {
        println!("{}", serde_json::to_string(self)?);
        Ok(())
    }
}

pub async fn run(bench: &Bench, name: &str) -> Result<Report> {
    let case = CASES.iter().find(|case| case.name == name).ok_or("no such case")?;
    let (keys, messages) = (bench.load(case.keys), bench.load(case.messages));
    let failing = if case.failing > 0 { format!(", one of {} fails once", case.failing) } else { String::new() };
    let mut report = Report::new(
        bench,
        case.name,
        format!(
            "{messages} messages of {keys} key(s){failing}: enqueued by {} caller(s), then taken and acknowledged",
            CALLERS.min(keys)
        ),
        "other queues on the same server",
    );
    let folder = folder(bench)?;
    report.note(versions(&folder)?);
    let mut cluster = bench.cluster().await?;
    report.postgres = cluster.version().await?;

    let load = Load { keys, messages, failing: case.failing };
    let (enqueues, works) = queue(bench, &mut cluster, &load).await?;
    let ours = (enqueues.rate(), works.rate());
    add(&mut report, "Orderly", enqueues, works);
    let (posts, delivers) = over_http(bench, &mut cluster, &load).await?;
    add(&mut report, "Orderly over HTTP", posts, delivers);
    for peer in &PEERS {
        let (enqueues, works, out_of_turn) = measure(bench, &mut cluster, &folder, peer, &load).await?;
        let ratios = (ours.0 / enqueues.rate(), ours.1 / works.rate());
        let in_order = peer.ordered || keys == 1;
        report.note(format!(
            "{}: {} of {} worked, {out_of_turn} out of turn{}; Orderly enqueues {} times and takes {} times as fast",
            peer.name,
            works.messages,
            enqueues.messages,
            if in_order { "" } else { " (it promises no order)" },
            figure(ratios.0),
            figure(ratios.1)
        ));
        if in_order {
            report.at_least(&format!("taken and acknowledged, of {}'s rate", peer.name), vec![ratios.1], AHEAD);
        }
        add(&mut report, peer.name, enqueues, works);
    }
    Ok(report)
}

struct Load {
    keys: u64,
    messages: u64,
    failing: u64,
}

fn add(report: &mut Report, name: &str, enqueues: Round, works: Round) {
    for (what, round) in [("enqueue", enqueues), ("take", works)] {
        let mut side = Side::new(&format!("{name}, {what}"));
        side.add(round);
        report.sides.push(side);
    }
}

fn folder(bench: &Bench) -> Result<PathBuf> {
    bench.options.peers.clone().ok_or_else(|| "the other queues are installed by scripts/bench-peers".into())
}

fn versions(folder: &Path) -> Result<String> {
    let file = folder.join("versions");
    let text = std::fs::read_to_string(&file).map_err(|error| format!("{}: {error}", file.display()))?;
    Ok(text.lines().collect::<Vec<_>>().join(", "))
}

/// Orderly's statements, without HTTP.
async fn queue(bench: &Bench, cluster: &mut Cluster, load: &Load) -> Result<(Round, Round)> {
    cluster.fresh().await?;
    let first = cluster.add_destinations("http://127.0.0.1:9", load.keys).await?;
    cluster.settle().await?;
    let numbers = [
        ("--first", first.unsigned_abs()),
        ("--keys", load.keys),
        ("--messages", load.messages),
        ("--callers", CALLERS),
        ("--seconds", LIMIT.as_secs()),
    ];
    let mut arguments = vec!["queue-enqueue".to_owned()];
    arguments.extend(numbers.iter().flat_map(|(name, value)| [(*name).to_owned(), value.to_string()]));
    arguments.extend(bench.payloads.arguments());
    let (enqueues, done) = timed(cluster, || Child::part_on("process", &arguments, &cluster.url())).await?;
    cluster.settle().await?;
    let numbers = [("--messages", done.messages), ("--seconds", LIMIT.as_secs()), ("--failing", load.failing)];
    let mut arguments = vec!["queue-work".to_owned()];
    arguments.extend(numbers.iter().flat_map(|(name, value)| [(*name).to_owned(), value.to_string()]));
    let (works, done) = timed(cluster, || Child::part_on("process", &arguments, &cluster.url())).await?;
    if done.out_of_turn > 0 {
        return Err(format!("{} messages were taken out of turn", done.out_of_turn).into());
    }
    Ok((enqueues, works))
}

/// A process from its start, by what it says of itself.
async fn timed(cluster: &Cluster, start: impl FnOnce() -> Result<Child>) -> Result<(Round, Done)> {
    let mut meter = Meter::start(Some(cluster), &[]).await?;
    let mut process = start()?;
    meter.add(&process);
    let done: Done = process.json()?;
    process.ended()?;
    if done.messages == 0 {
        return Err("nothing was done".into());
    }
    let took = Duration::from_secs_f64(done.seconds);
    let round = meter.stop(Some(cluster), &[&process], done.messages, took).await?;
    Ok((Round { p50_ms: done.p50_ms, p99_ms: done.p99_ms, ..round }, done))
}

/// Orderly as it is used: posted to its API, delivered to a receiver on this machine.
async fn over_http(bench: &Bench, cluster: &mut Cluster, load: &Load) -> Result<(Round, Round)> {
    let mut receiver = Receiver::start()?;
    receiver.child.say(&format!("failing {}", load.failing))?;
    cluster.fresh().await?;
    let first = cluster.add_destinations(&receiver.base, load.keys).await?;
    cluster.settle().await?;
    let (api, address) = serve(cluster)?;
    let posts = Arguments {
        address,
        first,
        destinations: load.keys,
        messages: load.messages,
        connections: CALLERS.min(load.keys),
        batch: 1,
        every_ms: None,
        seconds: None,
        payloads: None,
    };
    let mut meter = Meter::start(Some(cluster), &[&api]).await?;
    let mut poster = posts.start(&bench.payloads)?;
    meter.add(&poster);
    let posted: Posted = poster.json()?;
    poster.ended()?;
    let took = Duration::from_secs_f64(posted.seconds);
    let enqueues = meter.stop(Some(cluster), &[&api, &poster], posted.messages, took).await?;
    drop(api);
    cluster.settle().await?;

    receiver.expect(load.messages)?;
    let mut meter = Meter::start(Some(cluster), &[&receiver.child]).await?;
    let mut worker = Child::orderly("worker", &cluster.url(), &["worker", "--allow-network", "127.0.0.0/8"])?;
    meter.add(&worker);
    let stats = receiver.complete()?;
    let took = meter.elapsed();
    worker.ended()?;
    stats.check(load.messages)?;
    let works = meter.stop(Some(cluster), &[&receiver.child, &worker], load.messages, took).await?;
    Ok((enqueues.with_latencies(&posted.latencies), works))
}

async fn measure(
    bench: &Bench,
    cluster: &mut Cluster,
    folder: &Path,
    peer: &Peer,
    load: &Load,
) -> Result<(Round, Round, u64)> {
    cluster.fresh().await?;
    let url = cluster.url();
    start(bench, folder, peer, "prepare", &[], &url)?.ended()?;
    cluster.settle().await?;
    let numbers =
        [("--keys", load.keys), ("--messages", load.messages), ("--callers", CALLERS), ("--seconds", LIMIT.as_secs())];
    let (enqueues, done) = timed(cluster, || start(bench, folder, peer, "enqueue", &numbers, &url)).await?;
    cluster.settle().await?;
    let numbers = [
        ("--keys", load.keys),
        ("--messages", done.messages),
        ("--seconds", LIMIT.as_secs()),
        ("--failing", load.failing),
    ];
    let (works, done) = timed(cluster, || start(bench, folder, peer, "work", &numbers, &url)).await?;
    Ok((enqueues, works, done.out_of_turn))
}

fn start(bench: &Bench, folder: &Path, peer: &Peer, mode: &str, numbers: &[(&str, u64)], url: &str) -> Result<Child> {
    let mut command = Command::new(folder.join(peer.program));
    command.args(peer.script.map(|script| folder.join(script)));
    command.arg(mode).env("DATABASE_URL", url);
    command.env("BODY", String::from_utf8_lossy(&bench.payloads.nth(0)).into_owned());
    for (name, value) in numbers {
        command.arg(name).arg(value.to_string());
    }
    Child::program("process", command)
}

/// Statements a minute of one worker that has nothing to do.
pub async fn run_idle(bench: &Bench) -> Result<Report> {
    let time = if bench.quick() { IDLE / 3 } else { IDLE };
    let what = format!("one worker process of each with nothing to do, for {} s", time.as_secs());
    let mut report = Report::new(bench, "peers-idle", what, "other queues on the same server");
    let folder = folder(bench)?;
    report.note(versions(&folder)?);
    let mut cluster = Cluster::start(&[("shared_preload_libraries", "pg_stat_statements")]).await?;
    report.postgres = cluster.version().await?;
    for peer in std::iter::once(None).chain(PEERS.iter().map(Some)) {
        cluster.fresh().await?;
        cluster.client()?.batch_execute("create extension pg_stat_statements schema public").await?;
        let mut process = match peer {
            None => {
                cluster.add_destinations("http://127.0.0.1:9", 1_000).await?;
                let worker = Child::orderly("process", &cluster.url(), &WORKER)?;
                cluster.workers_ready(1).await?;
                worker
            }
            Some(peer) => {
                start(bench, &folder, peer, "prepare", &[], &cluster.url())?.ended()?;
                let mut process = start(bench, &folder, peer, "idle", &[], &cluster.url())?;
                process.line()?;
                process
            }
        };
        // What a start brings has passed.
        tokio::time::sleep(Duration::from_secs(25)).await;
        let meter = Meter::start(Some(&cluster), &[&process]).await?;
        let before = cluster.statements().await?;
        tokio::time::sleep(time).await;
        let statements = cluster.statements().await? - before;
        let name = peer.map_or("Orderly", |peer| peer.name);
        let a_minute = statements as f64 / (time.as_secs_f64() / 60.0);
        report.note(format!("{name}: {} statements a minute", figure(a_minute)));
        if peer.is_none() {
            report.at_most("statements a minute of Orderly's worker", vec![a_minute], 12.0);
        }
        // With 1,000 "messages" every figure is for the whole time.
        let round = meter.stop(Some(&cluster), &[&process], 1_000, time).await?;
        report.sides.push(Side { name: name.to_owned(), rounds: vec![Round { messages: 0, ..round }] });
        process.hang_up();
    }
    Ok(report)
}
