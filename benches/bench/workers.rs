//! Do more workers deliver more, and do they share evenly?

use super::child::Child;
use super::cluster::Cluster;
use super::measure::{Meter, Round};
use super::receiver::Receiver;
use super::report::{Report, Side};
use super::{Bench, Result};

const DESTINATIONS: u64 = 1_000;
/// What the receiver takes for an answer.
const DELAY_MS: u64 = 20;
/// Few enough that one process is far from filling a core.
const CONCURRENCY: &str = "16";
/// For each destination and worker.
const MESSAGES: u64 = 8;

pub async fn run(bench: &Bench) -> Result<Report> {
    let mut report = Report::new(
        bench,
        "workers",
        format!(
            "{DESTINATIONS} destinations that take {DELAY_MS} ms, 1 to 8 worker processes with --concurrency {CONCURRENCY}"
        ),
        "one process",
    );
    let mut cluster = bench.cluster().await?;
    report.postgres = cluster.version().await?;
    let each = if bench.quick() { 1 } else { MESSAGES };
    let mut alone = None;
    for count in [1_u64, 2, 4, 8] {
        let mut side = Side::new(&format!("{count} worker(s)"));
        let (round, widest) = together(bench, &mut cluster, count, each * count).await?;
        let alone = *alone.get_or_insert(round.rate());
        if count > 1 {
            let share = round.rate() / (alone * count as f64);
            report.at_least(&format!("rate of {count}, of {count} times one's"), vec![share], 0.9);
            report.at_most(&format!("claims of the busiest of {count}, of an even share"), vec![widest], 1.2);
        }
        side.add(round);
        report.sides.push(side);
    }
    Ok(report)
}

/// From the bell to the last delivery; and the largest share of the claims, of an even one.
async fn together(bench: &Bench, cluster: &mut Cluster, count: u64, each: u64) -> Result<(Round, f64)> {
    let mut receiver = Receiver::start()?;
    receiver.child.say(&format!("delay {DELAY_MS}"))?;
    cluster.fresh().await?;
    let first = cluster.add_destinations(&receiver.base, DESTINATIONS).await?;
    let arguments = ["worker", "--persistent", "--allow-network", "127.0.0.0/8", "--concurrency", CONCURRENCY];
    let workers: Vec<Child> =
        (0..count).map(|_| Child::orderly("worker", &cluster.url(), &arguments)).collect::<Result<_>>()?;
    cluster.workers_ready(usize::try_from(count)?).await?;
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    cluster.fill(first, DESTINATIONS, each, &bench.payloads).await?;
    cluster.settle().await?;
    receiver.expect(each * DESTINATIONS)?;
    let mut children: Vec<&Child> = workers.iter().collect();
    let meter = Meter::start(Some(cluster), &children).await?;
    cluster.ring(first, DESTINATIONS).await?;
    let stats = receiver.complete()?;
    let took = meter.elapsed();
    stats.check(each * DESTINATIONS)?;
    children.push(&receiver.child);
    let round = meter.stop(Some(cluster), &children[..workers.len()], stats.messages, took).await?;
    let most: i64 = cluster
        .client()?
        .query_one("select max(n) from (select count(*) as n from orderly.claims group by last_owner) x", &[])
        .await?
        .get(0);
    Ok((round, most as f64 * count as f64 / DESTINATIONS as f64))
}
