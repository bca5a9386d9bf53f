//! How fast is one destination's queue delivered, where nothing can go side by side?

use std::time::Duration;

use super::bare::Took;
use super::child::Child;
use super::cluster::Cluster;
use super::measure::{Meter, Round};
use super::receiver::Receiver;
use super::report::{Report, Side};
use super::{Bench, Result};

const MESSAGES: u64 = 20_000;

pub async fn run(bench: &Bench) -> Result<Report> {
    let messages = bench.load(MESSAGES);
    let mut report = Report::new(
        bench,
        "single",
        format!("{messages} queued messages to one destination, {}", bench.payloads.name),
        "one request after the other, each followed by one commit that deletes its row",
    );
    report.reach(0.7);
    let mut cluster = bench.cluster().await?;
    report.postgres = cluster.version().await?;
    let (mut floor, mut ours) = (Side::new("floor"), Side::new("Orderly"));
    for _ in 0..bench.rounds() {
        floor.add(bare(bench, &mut cluster, messages).await?);
        ours.add(queued(bench, &mut cluster, messages).await?);
    }
    report.compare(floor, ours);
    Ok(report)
}

async fn bare(bench: &Bench, cluster: &mut Cluster, messages: u64) -> Result<Round> {
    let mut receiver = Receiver::start()?;
    cluster.fresh().await?;
    let bodies: Vec<&[u8]> = bench.payloads.bodies.iter().map(AsRef::as_ref).collect();
    cluster.client()?.batch_execute("create table floor (sequence bigint primary key, payload bytea)").await?;
    let fill = "insert into floor select n, ($2::bytea[])[1 + n % cardinality($2::bytea[])] from generate_series(1, $1::bigint) n";
    cluster.client()?.execute(fill, &[&messages.cast_signed(), &bodies]).await?;
    cluster.settle().await?;
    receiver.expect(messages)?;
    let mut meter = Meter::start(Some(cluster), &[&receiver.child]).await?;
    let mut arguments: Vec<String> =
        ["bare-single", "--url", &receiver.base, "--messages", &messages.to_string()].map(str::to_owned).to_vec();
    arguments.extend(bench.payloads.arguments());
    let mut sender = Child::part_on("sender", &arguments, &cluster.url())?;
    meter.add(&sender);
    let stats = receiver.complete()?;
    let took: Took = sender.json()?;
    sender.ended()?;
    stats.check(messages)?;
    meter.stop(Some(cluster), &[&receiver.child, &sender], messages, Duration::from_secs_f64(took.seconds)).await
}

async fn queued(bench: &Bench, cluster: &mut Cluster, messages: u64) -> Result<Round> {
    let mut receiver = Receiver::start()?;
    cluster.fresh().await?;
    let first = cluster.add_destinations(&receiver.base, 1).await?;
    cluster.fill(first, 1, messages, &bench.payloads).await?;
    cluster.settle().await?;
    receiver.expect(messages)?;
    let mut meter = Meter::start(Some(cluster), &[&receiver.child]).await?;
    let mut worker = Child::orderly("worker", &cluster.url(), &["worker", "--allow-network", "127.0.0.0/8"])?;
    meter.add(&worker);
    let stats = receiver.complete()?;
    worker.ended()?;
    let took = meter.elapsed();
    stats.check(messages)?;
    meter.stop(Some(cluster), &[&receiver.child, &worker], messages, took).await
}
