//! How fast is a full queue delivered to many destinations?

use std::time::Duration;

use super::bare::Took;
use super::child::Child;
use super::cluster::Cluster;
use super::measure::{Meter, Round};
use super::receiver::Receiver;
use super::report::{Report, Side, figure, median};
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
    let mut usual = Side::new("floor, reqwest");
    for _ in 0..bench.rounds() {
        floor.add(bare(bench, each, Sender::Plain).await?);
        usual.add(bare(bench, each, Sender::Reqwest).await?);
        ours.add(queued(bench, &mut cluster, each).await?);
    }
    let ratios = usual.rounds.iter().zip(&ours.rounds).map(|(usual, ours)| ours.rate() / usual.rate()).collect();
    report.compare(floor, ours);
    report.note(format!("rate, of bare reqwest's: {}", figure(median(ratios))));
    report.sides.push(usual);
    Ok(report)
}

/// What does the signature cost? A worker always signs, so it is not switched off in Orderly: the floor is
/// measured with it and without it, and the difference is taken off what Orderly needs.
pub async fn run_signed(bench: &Bench) -> Result<Report> {
    let each = bench.load(MESSAGES) / DESTINATIONS;
    let mut report = Report::new(
        bench,
        "signed",
        format!("{} queued messages to {DESTINATIONS} destinations, {}", each * DESTINATIONS, bench.payloads.name),
        "the requests of deliver's floor, and the same ones signed",
    );
    let mut cluster = bench.cluster().await?;
    report.postgres = cluster.version().await?;
    let (mut plain, mut signed, mut ours) = (Side::new("floor"), Side::new("floor, signing"), Side::new("Orderly"));
    for _ in 0..bench.rounds() {
        plain.add(bare(bench, each, Sender::Plain).await?);
        signed.add(bare(bench, each, Sender::Signing).await?);
        ours.add(queued(bench, &mut cluster, each).await?);
    }
    let of = |round: &Round, name: &str| round.cpu.get(name).copied().unwrap_or(0.0);
    let costs: Vec<f64> = plain
        .rounds
        .iter()
        .zip(&signed.rounds)
        .map(|(plain, signed)| of(signed, "sender") - of(plain, "sender"))
        .collect();
    let without = |spent: &dyn Fn(&Round) -> f64| -> Vec<f64> {
        ours.rounds.iter().zip(&costs).map(|(ours, cost)| 1.0 - cost / spent(ours)).collect()
    };
    let all = without(&|round| round.cpu.values().sum());
    let worker = without(&|round| of(round, "worker"));
    report.at_least("CPU without the signature, of that with it", all, 0.85);
    report.note(format!("the same of the worker's process alone: {}", figure(median(worker))));
    report.note(format!("a signature: {} µs", figure(median(costs) * 1_000.0)));
    report.sides.extend([plain, signed, ours]);
    Ok(report)
}

/// What the floor sends with: a worker's client, that and a worker's signature, or the client most people use.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Sender {
    Plain,
    Signing,
    Reqwest,
}

pub async fn bare(bench: &Bench, each: u64, by: Sender) -> Result<Round> {
    let mut receiver = Receiver::start()?;
    receiver.expect(each * DESTINATIONS)?;
    let mut meter = Meter::start(None, &[&receiver.child]).await?;
    let mut arguments: Vec<String> = ["bare-deliver", "--base", &receiver.base].map(str::to_owned).to_vec();
    for (name, value) in [("--destinations", DESTINATIONS), ("--messages", each), ("--concurrency", CONCURRENCY)] {
        arguments.extend([name.to_owned(), value.to_string()]);
    }
    match by {
        Sender::Plain => {}
        Sender::Signing => arguments.push("--sign".to_owned()),
        Sender::Reqwest => arguments.push("--reqwest".to_owned()),
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
