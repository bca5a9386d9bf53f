//! Do receivers that hang, refuse or are flooded delay the others?

use std::time::Duration;

use super::accept::serve;
use super::child::Child;
use super::cluster::Cluster;
use super::measure::{Meter, Round};
use super::poster::{Arguments, Posted};
use super::receiver::Receiver;
use super::report::{Report, Side};
use super::through::WORKER;
use super::{Bench, Result};

const HEALTHY: u64 = 900;
const HANGING: u64 = 100;
const REFUSING: u64 = 100;
const FLOOD: u64 = 1_000_000;
/// What is posted to the healthy ones: 20 connections, each every 20 ms.
const CONNECTIONS: u64 = 20;
const EVERY_MS: u64 = 20;
const SECONDS: u64 = 40;

pub async fn run(bench: &Bench) -> Result<Report> {
    let mut report = Report::new(
        bench,
        "isolation",
        format!(
            "{HEALTHY} healthy destinations, 1,000 messages a second to them, beside {HANGING} that hang, {REFUSING} that refuse and one with {} messages",
            bench.load(FLOOD)
        ),
        "the healthy ones alone",
    );
    let mut cluster = bench.cluster().await?;
    report.postgres = cluster.version().await?;
    let (mut floor, mut ours) = (Side::new("alone"), Side::new("beside"));
    for _ in 0..bench.rounds() {
        floor.add(healthy(bench, &mut cluster, false).await?);
        ours.add(healthy(bench, &mut cluster, true).await?);
    }
    let pairs = || floor.rounds.iter().zip(&ours.rounds);
    let rates = pairs().map(|(alone, beside)| beside.rate() / alone.rate()).collect();
    let slowest = pairs().filter_map(|(alone, beside)| Some(beside.p99_ms? / alone.p99_ms?)).collect();
    report.at_least("rate of the healthy ones, of that alone", rates, 0.9);
    report.at_most("p99 from POST to receiver, of that alone", slowest, 2.0);
    report.sides.extend([floor, ours]);
    Ok(report)
}

async fn healthy(bench: &Bench, cluster: &mut Cluster, beside: bool) -> Result<Round> {
    let mut receiver = Receiver::start()?;
    let mut flooded = Receiver::start()?;
    cluster.fresh().await?;
    let first = cluster.add_destinations(&receiver.base, HEALTHY).await?;
    let hanging = cluster.add_destinations(&format!("{}/hang", flooded.base), HANGING).await?;
    // Nothing listens on the discard port.
    let refusing = cluster.add_destinations("http://127.0.0.1:9", REFUSING).await?;
    let flood = cluster.add_destinations(&flooded.base, 1).await?;
    if beside {
        cluster.fill(hanging, HANGING, 20, &bench.payloads).await?;
        cluster.fill(refusing, REFUSING, 20, &bench.payloads).await?;
        cluster.fill(flood, 1, bench.load(FLOOD), &bench.payloads).await?;
    }
    cluster.settle().await?;
    let (api, address) = serve(cluster)?;
    let worker = Child::orderly("worker", &cluster.url(), &WORKER)?;
    cluster.workers_ready(1).await?;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let seconds = if bench.quick() { SECONDS / 4 } else { SECONDS };
    let load = Arguments {
        address,
        first,
        destinations: HEALTHY,
        messages: u64::MAX >> 8,
        connections: CONNECTIONS,
        batch: 1,
        every_ms: Some(EVERY_MS),
        seconds: Some(seconds),
        payloads: None,
    };
    let mut meter = Meter::start(Some(cluster), &[&api, &worker, &receiver.child]).await?;
    let mut poster = load.start(&bench.payloads)?;
    meter.add(&poster);
    let posted: Posted = poster.json()?;
    poster.ended()?;
    let stats = receiver.until(posted.messages).await?;
    stats.check(posted.messages)?;
    let took = Duration::from_nanos(stats.last_ns - stats.first_ns);
    let _ = flooded.stats()?;
    let round = meter.stop(Some(cluster), &[&api, &worker, &receiver.child, &poster], stats.messages, took).await?;
    Ok(round.with_latencies(&stats.latencies))
}
