//! Does it stay as fast with a hundred times as many destinations and messages?

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use orderly::store::connect::Connector;
use orderly::store::session::{Claimed, Release, Session};

use super::accept::serve;
use super::child::Child;
use super::cluster::Cluster;
use super::histogram::Histogram;
use super::measure::{Meter, Round, now_ns};
use super::poster::{Arguments, Posted};
use super::receiver::Receiver;
use super::report::{Report, Side, figure, median};
use super::through::WORKER;
use super::{Bench, Result, bare};

const STAGES: [u64; 3] = [1_000, 50_000, 100_000];
/// Queued for each destination before anything is measured: 5 million in the last stage.
const DEPTH: u64 = 50;
/// Filled in so many statements.
const PARTS: u64 = 10;
const POSTED: u64 = 50_000;
const CONNECTIONS: u64 = 64;
const DELIVERED: u64 = 80_000;
const CALLS: u64 = 500;
const CLAIMS: u64 = 100;
/// As many destinations as a worker claims at once.
const CLAIMED_AT_ONCE: u64 = 100;
const REACH: f64 = 0.9;

/// What is measured at each stage, in this order: what changes nothing comes first. Calls, one after the other,
/// are compared by their median, loads by their rate.
const CALLED: [&str; 4] = ["list messages", "list destinations", "queue", "claim"];
const LOADS: [&str; 2] = ["accept", "deliver"];

pub async fn run(bench: &Bench) -> Result<Report> {
    let stages = STAGES.map(|stage| bench.load(stage).max(CLAIMED_AT_ONCE));
    let mut report = Report::new(
        bench,
        "scale",
        format!(
            "{} and {} destinations with {DEPTH} queued messages each, against {}; {}",
            stages[1], stages[2], stages[0], bench.payloads.name
        ),
        "the smallest stage",
    );
    let mut cluster = bench.cluster().await?;
    report.postgres = cluster.version().await?;
    let measures = || CALLED.iter().chain(&LOADS);
    let mut sides: Vec<Side> =
        measures().flat_map(|measure| stages.map(|stage| Side::new(&format!("{measure} {stage}")))).collect();
    // Each round takes minutes: one is enough unless more are asked for.
    for _ in 0..bench.rounds().div_ceil(3) {
        for (column, stage) in stages.into_iter().enumerate() {
            let measured = at(bench, &mut cluster, stage, &mut report).await?;
            for (row, measure) in measures().enumerate() {
                let round = measured.get(measure).cloned().ok_or("each is measured at each stage")?;
                sides[row * stages.len() + column].add(round);
            }
        }
    }
    for (row, measure) in measures().enumerate() {
        let row = &sides[row * stages.len()..][..stages.len()];
        for (side, stage) in row.iter().zip(stages).skip(1) {
            let pairs = row[0].rounds.iter().zip(&side.rounds);
            let (what, ratios): (&str, Vec<f64>) = if LOADS.contains(measure) {
                let cpu = |round: &Round| round.cpu.values().sum::<f64>();
                let costs: Vec<f64> = pairs.clone().map(|(small, large)| cpu(small) / cpu(large)).collect();
                report.note(format!("{measure} at {stage}, by CPU for a message: {}", figure(median(costs))));
                ("rate", pairs.map(|(small, large)| large.rate() / small.rate()).collect())
            } else {
                (
                    "speed by the median",
                    pairs.filter_map(|(small, large)| Some(small.p50_ms? / large.p50_ms?)).collect(),
                )
            };
            report.at_least(&format!("{measure} at {stage}, {what}, of that at {}", stages[0]), ratios, REACH);
        }
    }
    report.sides.extend(sides);
    Ok(report)
}

async fn at(
    bench: &Bench,
    cluster: &mut Cluster,
    destinations: u64,
    report: &mut Report,
) -> Result<BTreeMap<&'static str, Round>> {
    let mut receiver = Receiver::start()?;
    cluster.fresh().await?;
    let filling = Instant::now();
    let first = cluster.add_destinations(&receiver.base, destinations).await?;
    for _ in 0..PARTS {
        cluster.fill(first, destinations, DEPTH / PARTS, &bench.payloads).await?;
    }
    // So that autovacuum, which a bulk load wakes, does not do it beside the measurement.
    cluster.client()?.batch_execute("vacuum (analyze) orderly.messages, orderly.claims, orderly.destinations").await?;
    cluster.settle().await?;
    report.note(format!("{destinations}: filled in {} s", figure(filling.elapsed().as_secs_f64())));

    let mut measured = BTreeMap::new();
    let (api, address) = serve(cluster)?;
    let one = |n: u64| first.unsigned_abs() + scattered(n, destinations);
    let base = format!("http://{address}/v1");
    let messages = |n: u64| format!("{base}/messages?destination_id={}", one(n));
    let listed = |_| format!("{base}/destinations");
    let queue = |n: u64| format!("{base}/destinations/{}/queue", one(n));
    measured.insert("list messages", calls(bench, cluster, &api, messages).await?);
    measured.insert("list destinations", calls(bench, cluster, &api, listed).await?);
    measured.insert("queue", calls(bench, cluster, &api, queue).await?);
    measured.insert("claim", claims(bench, cluster, first, destinations).await?);
    measured.insert("accept", accepted(bench, cluster, &api, address.clone(), first, destinations).await?);
    drop(api);

    let wanted = bench.load(DELIVERED);
    receiver.expect(wanted)?;
    let mut meter = Meter::start(Some(cluster), &[&receiver.child]).await?;
    let started_ns = now_ns();
    let worker = Child::orderly("worker", &cluster.url(), &WORKER)?;
    meter.add(&worker);
    let stats = receiver.complete()?;
    stats.check(wanted)?;
    let round = meter
        .stop(
            Some(cluster),
            &[&receiver.child, &worker],
            stats.messages,
            Duration::from_nanos(stats.last_ns - stats.first_ns),
        )
        .await?;
    let start_ms = (stats.first_ns - started_ns) as f64 / 1e6;
    report.note(format!("{destinations}: a worker's first request {} ms after its start", figure(start_ms)));
    measured.insert("deliver", round);
    Ok(measured)
}

/// Not one after the other.
fn scattered(n: u64, destinations: u64) -> u64 {
    n.wrapping_mul(0x9e37_79b9_7f4a_7c15) % destinations
}

/// One after the other over one connection.
async fn calls(bench: &Bench, cluster: &Cluster, api: &Child, url: impl Fn(u64) -> String) -> Result<Round> {
    let client = bare::reqwest_client()?;
    let count = bench.load(CALLS);
    // The connection, and the plans of the API's own.
    for n in 0..20 {
        client.get(url(count + n)).send().await?.error_for_status()?.bytes().await?;
    }
    let meter = Meter::start(Some(cluster), &[api]).await?;
    let mut latencies = Histogram::default();
    let started = Instant::now();
    for n in 0..count {
        let asked = Instant::now();
        client.get(url(n)).send().await?.error_for_status()?.bytes().await?;
        latencies.record(u64::try_from(asked.elapsed().as_micros())?);
    }
    let took = started.elapsed();
    Ok(meter.stop(Some(cluster), &[api], count, took).await?.with_latencies(&latencies))
}

/// Claims and gives back, by the statements of a worker; only the claiming is timed.
async fn claims(bench: &Bench, cluster: &Cluster, first: i64, destinations: u64) -> Result<Round> {
    let connector = Connector::parse(&cluster.url())?;
    let (session, _notifications) = Session::open(&connector, Default::default()).await?;
    session.join("bench", "bench", "general", None).await?;
    let count = bench.load(CLAIMS);
    let meter = Meter::start(Some(cluster), &[]).await?;
    let mut latencies = Histogram::default();
    let mut took = Duration::ZERO;
    for turn in 0..count {
        // Evenly apart, from another place each time.
        let from = scattered(turn, destinations);
        let ids: Vec<i64> = (0..CLAIMED_AT_ONCE)
            .map(|n| first + ((from + n * (destinations / CLAIMED_AT_ONCE)) % destinations).cast_signed())
            .collect();
        let asked = Instant::now();
        let claimed = session.claim(&ids).await?;
        took += asked.elapsed();
        latencies.record(u64::try_from(asked.elapsed().as_micros())?);
        let mut lanes = Vec::with_capacity(claimed.len());
        for (id, outcome) in claimed {
            match outcome {
                Claimed::Lane(lane) => lanes.push(Release {
                    destination: id,
                    floor: lane.floor,
                    last_delivered: lane.last_delivered,
                    last_start: None,
                }),
                other => return Err(format!("destination {id} could not be claimed: {other:?}").into()),
            }
        }
        session.release(&lanes, false).await?;
        session.unlock(&ids).await?;
    }
    session.leave().await?;
    Ok(meter.stop(Some(cluster), &[], count, took).await?.with_latencies(&latencies))
}

async fn accepted(
    bench: &Bench,
    cluster: &Cluster,
    api: &Child,
    address: String,
    first: i64,
    destinations: u64,
) -> Result<Round> {
    let messages = bench.load(POSTED);
    let load = Arguments {
        address,
        first,
        destinations,
        messages,
        connections: CONNECTIONS,
        batch: 1,
        every_ms: None,
        seconds: None,
        payloads: None,
    };
    let mut meter = Meter::start(Some(cluster), &[api]).await?;
    let mut poster = load.start(&bench.payloads)?;
    meter.add(&poster);
    let posted: Posted = poster.json()?;
    poster.ended()?;
    let took = Duration::from_secs_f64(posted.seconds);
    let round = meter.stop(Some(cluster), &[api, &poster], messages, took).await?;
    Ok(round.with_latencies(&posted.latencies))
}
