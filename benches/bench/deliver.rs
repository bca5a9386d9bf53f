//! How fast is a full queue delivered to many destinations?

use std::time::Duration;

use super::bare::Took;
use super::child::Child;
use super::cluster::Cluster;
use super::measure::{Meter, Round};
use super::receiver::Receiver;
use super::report::{Report, Side};
use super::{Bench, Result};

const DESTINATIONS: u64 = 1_000;
const MESSAGES: u64 = 200_000;
/// A worker's default.
const CONCURRENCY: u64 = 256;

pub async fn run(bench: &Bench) -> Result<Report> {
    let each = bench.load(MESSAGES) / DESTINATIONS;
    let mut report = Report::new(
        bench,
        "deliver",
        format!("{} queued messages to {DESTINATIONS} destinations, {}", each * DESTINATIONS, bench.payloads.name),
        "the same requests by the same HTTP client, without a database",
    );
    report.reach(0.7);
    let mut cluster = bench.cluster().await?;
    report.postgres = cluster.version().await?;
    let (mut floor, mut ours) = (Side::new("floor"), Side::new("Orderly"));
    for _ in 0..bench.rounds() {
        floor.add(bare(bench, each).await?);
        ours.add(queued(bench, &mut cluster, each).await?);
    }
    report.compare(floor, ours);
    Ok(report)
}

pub async fn bare(bench: &Bench, each: u64) -> Result<Round> {
    let mut receiver = Receiver::start()?;
    receiver.expect(each * DESTINATIONS)?;
    let mut meter = Meter::start(None, &[&receiver.child]).await?;
    let mut arguments: Vec<String> = ["bare-deliver", "--base", &receiver.base].map(str::to_owned).to_vec();
    for (name, value) in [("--destinations", DESTINATIONS), ("--messages", each), ("--concurrency", CONCURRENCY)] {
        arguments.extend([name.to_owned(), value.to_string()]);
    }
    arguments.extend(bench.payloads.arguments());
    let mut sender = Child::part("sender", &arguments)?;
    meter.add(&sender);
    let stats = receiver.complete()?;
    let took: Took = sender.json()?;
    sender.ended()?;
    stats.check(each * DESTINATIONS)?;
    meter.stop(None, &[&receiver.child, &sender], stats.messages, Duration::from_secs_f64(took.seconds)).await
}

/// From the start of the worker's process to its end: connecting, claiming and releasing included.
async fn queued(bench: &Bench, cluster: &mut Cluster, each: u64) -> Result<Round> {
    let mut receiver = Receiver::start()?;
    cluster.fresh().await?;
    let first = cluster.add_destinations(&receiver.base, DESTINATIONS).await?;
    cluster.fill(first, DESTINATIONS, each, &bench.payloads).await?;
    cluster.settle().await?;
    receiver.expect(each * DESTINATIONS)?;
    let mut meter = Meter::start(Some(cluster), &[&receiver.child]).await?;
    let mut worker = Child::orderly("worker", &cluster.url(), &["worker", "--allow-network", "127.0.0.0/8"])?;
    meter.add(&worker);
    let stats = receiver.complete()?;
    worker.ended()?;
    let took = meter.elapsed();
    stats.check(each * DESTINATIONS)?;
    meter.stop(Some(cluster), &[&receiver.child, &worker], stats.messages, took).await
}
