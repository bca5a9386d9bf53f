//! How much comes through, posted and delivered at once, and how soon is one message there?

use std::time::Duration;

use super::accept::{self, serve};
use super::child::Child;
use super::cluster::Cluster;
use super::measure::{Meter, Round};
use super::plot::Curve;
use super::poster::{Arguments, Posted};
use super::receiver::Receiver;
use super::report::{Report, Side};
use super::{Bench, Result, deliver};

const DESTINATIONS: u64 = 1_000;
const CONNECTIONS: u64 = 64;
const MESSAGES: u64 = 200_000;
const EVERY_MS: u64 = 20;
const PINGS: u64 = 1_000;

pub const WORKER: [&str; 4] = ["worker", "--persistent", "--allow-network", "127.0.0.0/8"];

pub async fn run(bench: &Bench) -> Result<Report> {
    let messages = bench.load(MESSAGES);
    let mut report = Report::new(
        bench,
        "through",
        format!(
            "{messages} messages posted over {CONNECTIONS} connections and delivered to {DESTINATIONS} destinations at once, {}",
            bench.payloads.name
        ),
        "what the floors of accept and of deliver cost together, in CPU",
    );
    let mut cluster = bench.cluster().await?;
    report.postgres = cluster.version().await?;
    let (mut accepting, mut delivering, mut ours) =
        (Side::new("floor of accept"), Side::new("floor of deliver"), Side::new("Orderly"));
    for _ in 0..bench.rounds() {
        accepting.add(accept::handler(bench, messages).await?);
        delivering.add(deliver::bare(bench, messages / DESTINATIONS, deliver::Sender::Plain).await?);
        ours.add(at_once(bench, &mut cluster, messages).await?);
    }
    let cpu = |round: &Round| round.cpu.values().sum::<f64>();
    let floors = accepting.rounds.iter().zip(&delivering.rounds).map(|(a, d)| cpu(a) + cpu(d));
    let ratios = floors.zip(&ours.rounds).map(|(floor, ours)| floor / cpu(ours)).collect();
    let rates = ours.rounds.iter().map(Round::rate).collect();
    report.at_least("CPU of both floors, of Orderly's", ratios, 0.6);
    report.at_least("messages a second", rates, 15_000.0);
    report.sides.extend([accepting, delivering, ours]);
    Ok(report)
}

/// From the first POST to the last delivery.
async fn at_once(bench: &Bench, cluster: &mut Cluster, messages: u64) -> Result<Round> {
    let mut receiver = Receiver::start()?;
    cluster.fresh().await?;
    let first = cluster.add_destinations(&receiver.base, DESTINATIONS).await?;
    let (api, address) = serve(cluster)?;
    let worker = Child::orderly("worker", &cluster.url(), &WORKER)?;
    cluster.workers_ready(1).await?;
    cluster.settle().await?;
    receiver.expect(messages)?;
    let mut meter = Meter::start(Some(cluster), &[&receiver.child, &api, &worker]).await?;
    let load = load(address, first, messages, CONNECTIONS);
    let mut poster = load.start(&bench.payloads)?;
    meter.add(&poster);
    let posted: Posted = poster.json()?;
    poster.ended()?;
    let stats = receiver.complete()?;
    let took = meter.elapsed();
    stats.check(messages)?;
    let round = meter.stop(Some(cluster), &[&receiver.child, &api, &worker, &poster], messages, took).await?;
    Ok(round.with_latencies(&posted.latencies))
}

fn load(address: String, first: i64, messages: u64, connections: u64) -> Arguments {
    let destinations = DESTINATIONS;
    Arguments {
        address,
        first,
        destinations,
        messages,
        connections,
        batch: 1,
        every_ms: None,
        seconds: None,
        payloads: None,
    }
}

/// One connection, one message at a time.
fn ping(address: String, first: i64, destinations: u64, messages: u64) -> Arguments {
    Arguments { destinations, every_ms: Some(EVERY_MS), ..load(address, first, messages, 1) }
}

pub async fn run_latency(bench: &Bench) -> Result<Report> {
    let messages = bench.load(PINGS);
    let mut report = Report::new(
        bench,
        "latency",
        format!("one message every {EVERY_MS} ms, {messages} in all, from POST to receiver, {}", bench.payloads.name),
        "POST, commit, NOTIFY, POST by bare code",
    );
    let mut cluster = bench.cluster().await?;
    report.postgres = cluster.version().await?;
    let (mut floor, mut ours) = (Side::new("floor"), Side::new("Orderly"));
    let mut anew = Side::new("claimed anew");
    for _ in 0..bench.rounds() {
        floor.add(relayed(bench, &mut cluster, messages).await?);
        ours.add(one_by_one(bench, &mut cluster, 1, messages).await?);
        // So many in turn that each has been given back when its next message comes.
        anew.add(one_by_one(bench, &mut cluster, DESTINATIONS, messages).await?);
    }
    let medians = |side: &Side| side.rounds.iter().filter_map(|round| round.p50_ms).collect::<Vec<_>>();
    let ratios = medians(&floor).into_iter().zip(medians(&ours)).map(|(floor, ours)| ours / floor).collect();
    let slowest = ours.rounds.iter().filter_map(|round| round.p99_ms).collect();
    report.at_most("median, of the floor's", ratios, 1.5);
    report.at_most("median, ms", medians(&ours), 2.0);
    report.at_most("p99, ms", slowest, 5.0);
    report.sides.extend([floor, ours, anew]);
    Ok(report)
}

async fn relayed(bench: &Bench, cluster: &mut Cluster, messages: u64) -> Result<Round> {
    let receiver = Receiver::start()?;
    cluster.fresh().await?;
    let target = format!("{}/d/1", receiver.base);
    let mut relay =
        Child::part_on("relay", &["floor-relay".to_owned(), "--target".to_owned(), target], &cluster.url())?;
    let address = relay.line()?;
    let meter = Meter::start(Some(cluster), &[&receiver.child, &relay]).await?;
    one_at_a_time(bench, cluster, receiver, meter, ping(address, 1, 1, messages), &[&relay]).await
}

async fn one_by_one(bench: &Bench, cluster: &mut Cluster, destinations: u64, messages: u64) -> Result<Round> {
    let receiver = Receiver::start()?;
    cluster.fresh().await?;
    let first = cluster.add_destinations(&receiver.base, destinations).await?;
    let (api, address) = serve(cluster)?;
    let worker = Child::orderly("worker", &cluster.url(), &WORKER)?;
    cluster.workers_ready(1).await?;
    let meter = Meter::start(Some(cluster), &[&receiver.child, &api, &worker]).await?;
    one_at_a_time(bench, cluster, receiver, meter, ping(address, first, destinations, messages), &[&api, &worker]).await
}

async fn one_at_a_time(
    bench: &Bench,
    cluster: &Cluster,
    mut receiver: Receiver,
    mut meter: Meter,
    load: Arguments,
    processes: &[&Child],
) -> Result<Round> {
    receiver.expect(load.messages)?;
    let mut poster = load.start(&bench.payloads)?;
    meter.add(&poster);
    let _: Posted = poster.json()?;
    poster.ended()?;
    let stats = receiver.complete()?;
    let took = Duration::from_nanos(stats.last_ns - stats.first_ns);
    let children = [processes, &[&receiver.child, &poster]].concat();
    Ok(meter.stop(Some(cluster), &children, load.messages, took).await?.with_latencies(&stats.latencies))
}

const SNAPSHOT_SECONDS: u64 = 300;

/// The load of `through`, with and without a transaction elsewhere that keeps its snapshot.
pub async fn run_snapshot(bench: &Bench) -> Result<Report> {
    let seconds = bench.load(SNAPSHOT_SECONDS);
    let mut report = Report::new(
        bench,
        "old-snapshot",
        format!("posted and delivered at once for {seconds} s beside an open transaction, {}", bench.payloads.name),
        "the same without that transaction",
    );
    let mut cluster = bench.cluster().await?;
    report.postgres = cluster.version().await?;
    let (mut floor, mut ours) = (Side::new("without"), Side::new("Orderly"));
    let (mut ratios, mut slopes) = (Vec::new(), Vec::new());
    // At load, each round takes minutes: one is enough unless more are asked for.
    for round in 0..bench.rounds().div_ceil(3) {
        let (without, curve) = for_seconds(bench, &mut cluster, seconds, false).await?;
        let (with, held) = for_seconds(bench, &mut cluster, seconds, true).await?;
        ratios.push(with.rate() / without.rate());
        slopes.push(late_of_early(&held) / late_of_early(&curve));
        for (name, points) in [("without", &curve), ("beside an open transaction", &held)] {
            report.note(format!("{name}: {:+.2} % a minute, by a straight line through all of it", slope(points)));
        }
        floor.add(without);
        ours.add(with);
        if round == 0 {
            report.curves.push(Curve { name: "without".to_owned(), points: curve });
            report.curves.push(Curve { name: "beside an open transaction".to_owned(), points: held });
        }
    }
    report.at_least("rate, of that without", ratios, 0.9);
    report.at_least("last quarter of the first, of that without", slopes, 0.9);
    report.sides.extend([floor, ours]);
    Ok(report)
}

fn late_of_early(points: &[(f64, f64)]) -> f64 {
    let quarter = (points.len() / 4).max(1);
    let sum = |part: &[(f64, f64)]| part.iter().map(|point| point.1).sum::<f64>();
    sum(&points[points.len() - quarter..]) / sum(&points[..quarter])
}

/// Of the line of least squares, for each minute, in percent of the mean.
fn slope(points: &[(f64, f64)]) -> f64 {
    let count = points.len() as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / count;
    let (x, y) = (mean(|point| point.0), mean(|point| point.1));
    let rise = points.iter().map(|point| (point.0 - x) * (point.1 - y)).sum::<f64>();
    let run = points.iter().map(|point| (point.0 - x).powi(2)).sum::<f64>();
    100.0 * 60.0 * rise / run / y
}

async fn for_seconds(
    bench: &Bench,
    cluster: &mut Cluster,
    seconds: u64,
    held: bool,
) -> Result<(Round, Vec<(f64, f64)>)> {
    let mut receiver = Receiver::start()?;
    cluster.fresh().await?;
    let first = cluster.add_destinations(&receiver.base, DESTINATIONS).await?;
    let (api, address) = serve(cluster)?;
    let worker = Child::orderly("worker", &cluster.url(), &WORKER)?;
    cluster.workers_ready(1).await?;
    let onlooker = super::cluster::connect(&cluster.url()).await?;
    if held {
        onlooker
            .client
            .batch_execute("begin isolation level repeatable read; select count(*) from orderly.messages")
            .await?;
    }
    let mut meter = Meter::start(Some(cluster), &[&receiver.child, &api, &worker]).await?;
    let load = Arguments { seconds: Some(seconds), ..load(address, first, u64::MAX >> 8, CONNECTIONS) };
    let mut poster = load.start(&bench.payloads)?;
    meter.add(&poster);
    let posted: Posted = poster.json()?;
    poster.ended()?;
    let stats = receiver.until(posted.messages).await?;
    let took = Duration::from_nanos(stats.last_ns - stats.first_ns);
    stats.check(posted.messages)?;
    let round = meter.stop(Some(cluster), &[&receiver.child, &api, &worker, &poster], stats.messages, took).await?;
    let fives = stats.each_second.chunks_exact(5).enumerate();
    let points = fives.map(|(n, five)| (5.0 * n as f64, five.iter().sum::<u64>() as f64 / 5.0)).collect();
    Ok((round.with_latencies(&posted.latencies), points))
}
