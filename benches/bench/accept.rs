//! How fast are messages accepted, one by one and in batches?

use std::time::Duration;

use super::child::Child;
use super::cluster::Cluster;
use super::measure::{Meter, Round};
use super::poster::{Arguments, Posted};
use super::report::{Report, Side};
use super::{Bench, Result};

const DESTINATIONS: u64 = 1_000;
const CONNECTIONS: u64 = 64;
const MESSAGES: u64 = 200_000;
const BATCHED: u64 = 500_000;
const BATCH: u64 = 100;
/// As many as one of Orderly's transactions takes.
const ROWS: u64 = 1_000;

pub async fn run(bench: &Bench) -> Result<Report> {
    let messages = bench.load(MESSAGES);
    let mut report = Report::new(
        bench,
        "accept",
        format!(
            "{messages} single POSTs over {CONNECTIONS} connections to {DESTINATIONS} destinations, {}",
            bench.payloads.name
        ),
        "a poem-openapi handler that parses the same body and answers the same, no database",
    );
    report.reach(0.45);
    let mut cluster = bench.cluster().await?;
    report.postgres = cluster.version().await?;
    let (mut floor, mut ours) = (Side::new("floor"), Side::new("Orderly"));
    for _ in 0..bench.rounds() {
        floor.add(handler(bench, messages).await?);
        ours.add(posted(bench, &mut cluster, messages, 1).await?);
    }
    let slowest: Vec<f64> = ours.rounds.iter().filter_map(|round| round.p99_ms).collect();
    report.compare(floor, ours);
    report.at_most("p99 of a POST, ms", slowest, 6.0);
    Ok(report)
}

pub async fn run_batch(bench: &Bench) -> Result<Report> {
    let messages = bench.load(BATCHED);
    let mut report = Report::new(
        bench,
        "batch",
        format!("{messages} messages in POSTs of {BATCH} over {CONNECTIONS} connections, {}", bench.payloads.name),
        "the same rows by one connection with insert … select unnest alone, 1,000 a commit",
    );
    report.reach(0.6);
    let mut cluster = bench.cluster().await?;
    report.postgres = cluster.version().await?;
    let (mut floor, mut ours) = (Side::new("floor"), Side::new("Orderly"));
    for _ in 0..bench.rounds() {
        floor.add(inserted(bench, &mut cluster, messages).await?);
        ours.add(posted(bench, &mut cluster, messages, BATCH).await?);
    }
    report.compare(floor, ours);
    Ok(report)
}

/// The floor of accepting.
pub async fn handler(bench: &Bench, messages: u64) -> Result<Round> {
    let mut api = Child::part("api", &["floor-handler".to_owned()])?;
    let address = api.line()?;
    let load = Arguments { address, messages, ..load(1, 1) };
    let meter = Meter::start(None, &[&api]).await?;
    measure(bench, None, meter, &load, &api).await
}

/// Orderly's own, without a worker.
async fn posted(bench: &Bench, cluster: &mut Cluster, messages: u64, batch: u64) -> Result<Round> {
    cluster.fresh().await?;
    let first = cluster.add_destinations("http://127.0.0.1:9", DESTINATIONS).await?;
    cluster.settle().await?;
    let (api, address) = serve(cluster)?;
    let load = Arguments { address, messages, ..load(first, batch) };
    let meter = Meter::start(Some(cluster), &[&api]).await?;
    let round = measure(bench, Some(cluster), meter, &load, &api).await?;
    let stored: i64 = cluster.client()?.query_one("select count(*) from orderly.messages", &[]).await?.get(0);
    if stored.unsigned_abs() != messages {
        return Err(format!("{stored} of {messages} accepted messages are stored").into());
    }
    Ok(round)
}

fn load(first: i64, batch: u64) -> Arguments {
    Arguments {
        address: String::new(),
        first,
        destinations: DESTINATIONS,
        messages: 0,
        connections: CONNECTIONS,
        batch,
        every_ms: None,
        seconds: None,
        payloads: None,
    }
}

async fn measure(
    bench: &Bench,
    cluster: Option<&Cluster>,
    mut meter: Meter,
    load: &Arguments,
    api: &Child,
) -> Result<Round> {
    let mut poster = load.start(&bench.payloads)?;
    meter.add(&poster);
    let posted: Posted = poster.json()?;
    poster.ended()?;
    let took = Duration::from_secs_f64(posted.seconds);
    let round = meter.stop(cluster, &[api, &poster], load.messages, took).await?;
    Ok(round.with_latencies(&posted.latencies))
}

/// An API on the cluster's database, and its host:port.
pub fn serve(cluster: &Cluster) -> Result<(Child, String)> {
    let arguments = ["serve", "--listen", "127.0.0.1:0", "--allow-network", "127.0.0.0/8"];
    let mut api = Child::orderly("api", &cluster.url(), &arguments)?;
    let line = api.line()?;
    let address = line.split_once("http://").and_then(|(_, rest)| rest.split([',', '/', ' ']).next());
    let address = address.ok_or_else(|| format!("no address in: {line}"))?.to_owned();
    Ok((api, address))
}

async fn inserted(bench: &Bench, cluster: &mut Cluster, messages: u64) -> Result<Round> {
    cluster.fresh().await?;
    cluster.settle().await?;
    let mut meter = Meter::start(Some(cluster), &[]).await?;
    let mut arguments: Vec<String> =
        ["bare-insert", "--messages", &messages.to_string(), "--rows", &ROWS.to_string()].map(str::to_owned).to_vec();
    arguments.extend(["--destinations".to_owned(), DESTINATIONS.to_string()]);
    arguments.extend(bench.payloads.arguments());
    let mut writer = Child::part_on("writer", &arguments, &cluster.url())?;
    meter.add(&writer);
    let took: super::bare::Took = writer.json()?;
    writer.ended()?;
    meter.stop(Some(cluster), &[&writer], messages, Duration::from_secs_f64(took.seconds)).await
}
