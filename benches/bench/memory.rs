//! How much memory do a worker with thousands of busy lanes and an API that takes large bodies need?

use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::accept::serve;
use super::child::Child;
use super::cluster::Cluster;
use super::measure::{Meter, Round, resident_mb};
use super::payloads::Payloads;
use super::plot::Curve;
use super::poster::{Arguments, Posted};
use super::receiver::Receiver;
use super::report::{Report, Side, figure};
use super::through::WORKER;
use super::{Bench, Result};

/// The busy destinations, and `max_locks_per_transaction` where it is not Postgres' default: a worker uses
/// half of what the lock table holds.
const SETTINGS: [(u64, Option<&str>); 2] = [(4_000, None), (10_000, Some("256"))];
/// What the receiver takes for an answer: with 256 requests in flight the queues stay full for the whole time.
const DELAY_MS: u64 = 500;
const TIME: Duration = Duration::from_secs(600);
/// So many bodies of 1 MiB are posted at once, each to a destination of its own, so often in that time.
const LARGE: u64 = 64;
const LARGE_BYTES: usize = 1 << 20;
const BURSTS: u32 = 10;
const EVERY: Duration = Duration::from_secs(1);

const WORKER_MB: f64 = 200.0;
const API_MB: f64 = 150.0;
/// What a process may have grown by from the second quarter of the time to the last.
const GROWTH: f64 = 1.1;

pub async fn run(bench: &Bench) -> Result<Report> {
    let time = if bench.quick() { TIME / 20 } else { TIME };
    let mut report = Report::new(
        bench,
        "memory",
        format!(
            "4,000 busy destinations, and 10,000 with max_locks_per_transaction = 256, for {} s each; {BURSTS} times \
             {LARGE} posts of 1 MiB at once; {}",
            time.as_secs(),
            bench.payloads.name
        ),
        "none",
    );
    let large = LargeBody::write()?;
    for (destinations, locks) in SETTINGS {
        let settings: Vec<(&str, &str)> = locks.map(|locks| ("max_locks_per_transaction", locks)).into_iter().collect();
        let mut cluster = Cluster::start(&settings).await?;
        report.postgres = cluster.version().await?;
        let held = held(bench, &mut cluster, destinations, time, &large.payloads()?).await?;
        let of = |name: &str| held.round.rss.get(name).copied().unwrap_or(f64::NAN);
        report.at_most(&format!("most resident, worker, {destinations}, MB"), vec![of("worker")], WORKER_MB);
        report.at_most(&format!("most resident, API, {destinations}, MB"), vec![of("api")], API_MB);
        for (name, points) in [("worker", held.worker), ("API", held.api)] {
            let what = format!("{name}, {destinations}: last quarter, of the second");
            report.at_most(&what, vec![late_of_second(&points)], GROWTH);
            let sample: Vec<String> = tenths(&points).iter().map(|mb| format!("{mb:.0}")).collect();
            report.note(format!("{name}, {destinations}, MB over the time: {}", sample.join(" ")));
            report.curves.push(Curve { name: format!("{name}, {destinations} (MB)"), points });
        }
        report.note(format!(
            "{destinations}: {} lanes at a time; a post of 1 MiB beside {} others: p99 {} ms",
            held.lanes,
            LARGE - 1,
            held.round.p99_ms.map_or_else(|| "-".to_owned(), figure)
        ));
        let mut side = Side::new(&format!("{destinations} destinations"));
        side.add(held.round);
        report.sides.push(side);
    }
    Ok(report)
}

struct Held {
    round: Round,
    /// Served at once, halfway.
    lanes: i64,
    /// Seconds, MB.
    worker: Vec<(f64, f64)>,
    api: Vec<(f64, f64)>,
}

async fn held(
    bench: &Bench,
    cluster: &mut Cluster,
    destinations: u64,
    time: Duration,
    large: &Payloads,
) -> Result<Held> {
    let mut receiver = Receiver::start()?;
    receiver.child.say(&format!("delay {DELAY_MS}"))?;
    cluster.fresh().await?;
    let first = cluster.add_destinations(&receiver.base, destinations).await?;
    let roomy = cluster.add_destinations(&format!("{}/large", receiver.base), LARGE).await?;
    // Half as many again as can be delivered in that time.
    let each = (256 * 1_000 / DELAY_MS * time.as_secs() * 3 / 2).div_ceil(destinations);
    cluster.fill(first, destinations, each, &bench.payloads).await?;
    cluster.settle().await?;
    let (api, address) = serve(cluster)?;
    let worker = Child::orderly("worker", &cluster.url(), &WORKER)?;
    cluster.workers_ready(1).await?;
    receiver.expect(u64::MAX)?;

    let meter = Meter::start(Some(cluster), &[&api, &worker, &receiver.child]).await?;
    let (mut lanes, mut posts) = (0, super::histogram::Histogram::default());
    let (mut of_worker, mut of_api) = (Vec::new(), Vec::new());
    let mut poster: Option<Child> = None;
    let mut bursts = 0;
    let started = Instant::now();
    while started.elapsed() < time {
        if poster.is_none() && bursts < BURSTS && started.elapsed() >= time * bursts / BURSTS {
            poster = Some(burst(address.clone(), roomy).start(large)?);
            bursts += 1;
            if bursts == BURSTS / 2 {
                let owned = "select count(*) from orderly.claims where owner is not null";
                lanes = cluster.client()?.query_one(owned, &[]).await?.get(0);
            }
        }
        tokio::time::sleep(EVERY).await;
        let at = started.elapsed().as_secs_f64();
        of_worker.extend(resident_mb(worker.pid()).map(|mb| (at, mb)));
        of_api.extend(resident_mb(api.pid()).map(|mb| (at, mb)));
        // 64 posts have long been answered.
        if let Some(mut poster) = poster.take() {
            let posted: Posted = poster.json()?;
            poster.ended()?;
            posts.merge(&posted.latencies);
        }
    }
    let took = started.elapsed();
    let stats = receiver.stats()?;
    if stats.out_of_order > 0 || stats.messages == 0 {
        return Err(format!("{} messages came, {} out of order", stats.messages, stats.out_of_order).into());
    }
    let round = meter.stop(Some(cluster), &[&api, &worker, &receiver.child], stats.messages, took).await?;
    Ok(Held { round: round.with_latencies(&posts), lanes, worker: of_worker, api: of_api })
}

/// Each connection posts one.
fn burst(address: String, first: i64) -> Arguments {
    Arguments {
        address,
        first,
        destinations: LARGE,
        messages: LARGE,
        connections: LARGE,
        batch: 1,
        every_ms: None,
        seconds: None,
        payloads: None,
    }
}

fn late_of_second(points: &[(f64, f64)]) -> f64 {
    let quarter = (points.len() / 4).max(1);
    let sum = |part: &[(f64, f64)]| part.iter().map(|point| point.1).sum::<f64>();
    sum(&points[points.len() - quarter..]) / sum(points.get(quarter..2 * quarter).unwrap_or(points))
}

/// The most of each tenth.
fn tenths(points: &[(f64, f64)]) -> Vec<f64> {
    let most = |part: &[(f64, f64)]| part.iter().map(|point| point.1).fold(0.0, f64::max);
    points.chunks(points.len().div_ceil(10).max(1)).map(most).collect()
}

/// A file with one body, for the load generator; goes with this.
struct LargeBody(PathBuf);

impl LargeBody {
    fn write() -> Result<LargeBody> {
        let path = std::env::temp_dir().join(format!("orderly-bench-large-{}.ndjson", std::process::id()));
        let (head, tail) = (r#"{"note":""#, r#""}"#);
        let filling = "x".repeat(LARGE_BYTES - head.len() - tail.len());
        writeln!(std::fs::File::create(&path)?, "{head}{filling}{tail}")?;
        Ok(LargeBody(path))
    }

    fn payloads(&self) -> Result<Payloads> {
        Payloads::load(Some(&self.0))
    }
}

impl Drop for LargeBody {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}
