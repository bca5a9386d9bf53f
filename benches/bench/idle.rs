//! What does silence cost?

use std::time::{Duration, Instant};

use super::child::Child;
use super::cluster::Cluster;
use super::measure::{Meter, Round};
use super::receiver::Receiver;
use super::report::{Report, Side, figure};
use super::through::WORKER;
use super::{Bench, Result, accept};

const DESTINATIONS: u64 = 1_000;
const WORKERS: usize = 4;
const TIME: Duration = Duration::from_secs(300);
/// G6, for each idle worker.
const STATEMENTS: f64 = 12.0;

pub async fn run(bench: &Bench) -> Result<Report> {
    let time = if bench.quick() { TIME / 10 } else { TIME };
    let mut report = Report::new(
        bench,
        "idle",
        format!("{DESTINATIONS} quiet destinations, {WORKERS} workers and an API for {} s", time.as_secs()),
        "none",
    );
    // The one benchmark that needs it: transactions would count each second of the watch's one statement.
    let mut cluster = Cluster::start(&[("shared_preload_libraries", "pg_stat_statements")]).await?;
    report.postgres = cluster.version().await?;
    let receiver = Receiver::start()?;
    cluster.fresh().await?;
    cluster.client()?.batch_execute("create extension pg_stat_statements schema public").await?;
    cluster.add_destinations(&receiver.base, DESTINATIONS).await?;
    let (api, _) = accept::serve(&cluster)?;
    let workers: Vec<Child> =
        (0..WORKERS).map(|_| Child::orderly("worker", &cluster.url(), &WORKER)).collect::<Result<_>>()?;
    cluster.workers_ready(WORKERS).await?;
    // What a start brings has passed.
    tokio::time::sleep(Duration::from_secs(25)).await;
    let mut children: Vec<&Child> = workers.iter().collect();
    children.push(&api);
    let meter = Meter::start(Some(&cluster), &children).await?;
    let before = cluster.statements().await?;
    let started = Instant::now();
    tokio::time::sleep(time).await;
    let took = started.elapsed();
    let statements = cluster.statements().await? - before;
    // With 1,000 "messages" every figure is for the whole time.
    let round = meter.stop(Some(&cluster), &children, 1_000, took).await?;
    let a_minute = statements as f64 / (took.as_secs_f64() / 60.0) / WORKERS as f64;
    report.at_most("statements a minute for each worker", vec![a_minute], STATEMENTS);
    for (name, cpu) in &round.cpu {
        let share = cpu * 100.0 / took.as_secs_f64();
        report.note(format!("CPU of {name}, all of them: {} % of a core", figure(share)));
    }
    report.sides.push(Side { name: "Orderly".to_owned(), rounds: vec![Round { messages: 0, ..round }] });
    Ok(report)
}
