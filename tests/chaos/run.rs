//! How does one run go? Start, post and break, heal, drain, stop, look, judge.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::cluster::{Cluster, Failure, Shape};
use super::dice::Dice;
use super::faults::{Faults, heal};
use super::judge::{Limits, Rule, Violation, judge, seconds};
use super::plan::{self, Size};
use super::producers::{Api, Producers, Reply, Targets};
use super::receiver::{Receiver, Temper};
use super::record::{FaultKind, Micros, Outcomes, Place, Recorder};
use super::{report, timeline};

const RETRIES: u32 = 3;
const RETRY_DELAY: Duration = Duration::from_millis(300);
const TIMEOUT: Duration = Duration::from_secs(30);
/// A queue that is not empty after this long, with nothing broken, is stuck.
const DRAIN: Duration = Duration::from_secs(120);

pub struct Settings {
    pub length: Duration,
    pub seed: u64,
    pub workers: usize,
    pub apis: usize,
    pub destinations: usize,
    pub pace: Duration,
    pub only: Vec<FaultKind>,
    pub slack: Duration,
    pub out: PathBuf,
    /// Ends at the first violation.
    pub broken: Option<String>,
    pub orderly: PathBuf,
}

/// The first violation.
pub async fn run(settings: Settings) -> Result<Option<Violation>, Failure> {
    let dice = Dice::new(settings.seed);
    let size =
        Size { workers: settings.workers, apis: settings.apis, length: settings.length, only: settings.only.clone() };
    let plan = plan::draw(settings.seed, &size);
    println!("seed {}: {} faults in {:.0} s", settings.seed, plan.len(), settings.length.as_secs_f64());

    let shape = Shape {
        workers: settings.workers,
        apis: settings.apis,
        broken: settings.broken.clone(),
        orderly: settings.orderly.clone(),
        retries: RETRIES,
        retry_delay: RETRY_DELAY,
    };
    let cluster = Arc::new(Cluster::start(&settings.out, &shape).await?);
    let recorder = Arc::new(Recorder::start());
    let tempers = tempers(settings.destinations);
    // Beyond what a worker may do without its database, where there is time for it.
    let slowest = if settings.length > Duration::from_secs(60) { 16_000 } else { 4_000 };
    let receiver = Receiver::start(recorder.clone(), tempers.clone(), slowest, dice.for_purpose(2)).await?;
    let api = Api::new(&cluster);
    let targets = make_destinations(&api, &receiver, &recorder, &tempers).await?;
    if let Some(broken) = &settings.broken {
        super::brokens::break_database(&cluster, broken).await?;
    }

    let stop = CancellationToken::new();
    let producers = Producers::new(cluster.clone(), recorder.clone(), api, dice.for_purpose(3), stop.clone());
    let mut posting = producers.start(&targets, settings.pace);
    let faults = Arc::new(Faults { cluster: cluster.clone(), recorder: recorder.clone() });
    let stop_faults = CancellationToken::new();
    let breaking = tokio::task::spawn_local(faults.run(plan, stop_faults.clone()));

    let limits =
        |now: Micros| Limits { slack: micros(settings.slack), retry_delay: micros(RETRY_DELAY), retries: RETRIES, now };
    let end = Instant::now() + settings.length;
    let mut early: Vec<Violation> = Vec::new();
    while Instant::now() < end && early.is_empty() {
        sleep((end - Instant::now()).min(Duration::from_secs(1))).await;
        for node in &cluster.nodes {
            node.supervise().await;
        }
        if settings.broken.is_some() {
            let so_far = recorder.lock().clone();
            early = judge(&so_far, &limits(recorder.now()));
            early.extend(find_acknowledged_twice(&cluster, &recorder).await);
        }
    }
    stop_faults.cancel();
    breaking.await?;
    stop.cancel();
    while posting.join_next().await.is_some() {}
    heal(&cluster).await?;

    if early.is_empty() {
        println!("draining");
        drain(&cluster).await?;
        let told = stop_gracefully(&cluster).await?;
        let outcomes = look(&cluster).await?;
        recorder.lock().outcomes = Some(outcomes);
        told.iter().for_each(|line| println!("  {line}"));
    }
    let limits = limits(recorder.now());
    let record = recorder.lock().clone();
    let mut violations = judge(&record, &limits);
    if violations.is_empty() {
        // What showed for a moment counts.
        violations = early;
    }
    let swept = count_swept(&settings.out.join("logs"));
    let summary = report::summarize(&record, &limits, swept, violations);
    println!("\n{}", report::table(&summary));
    for violation in summary.violations.iter().take(5) {
        println!("{}", report::explain(&record, &limits, violation));
    }
    std::fs::write(settings.out.join("report.json"), serde_json::to_vec_pretty(&summary)?)?;
    std::fs::write(settings.out.join("timeline.svg"), timeline::draw(&record, &summary.violations, limits.now))?;
    write_log(&settings.out, &record)?;
    println!("written: {}", settings.out.display());
    if let Some(first) = summary.violations.first() {
        println!("first violation: {:?} after {:.1} s", first.rule, seconds(first.at));
    }
    Ok(summary.violations.into_iter().next())
}

/// A quarter each of slow ones whose queues are kept filled, of rarely used ones, and of wild ones.
fn tempers(count: usize) -> Vec<Temper> {
    (0..count)
        .map(|path| match path % 8 {
            0 | 1 => Temper::Slow,
            6 => Temper::Tortoise,
            7 => Temper::Flaky,
            _ => Temper::Quick,
        })
        .collect()
}

async fn make_destinations(
    api: &Api,
    receiver: &Receiver,
    recorder: &Recorder,
    tempers: &[Temper],
) -> Result<Targets, Failure> {
    let mut targets = Targets { all: Vec::new(), pressed: Vec::new(), slowest: Vec::new(), teased: Vec::new() };
    for (path, temper) in (0_u32..).zip(tempers) {
        let url = format!("http://{}/d/{path}", receiver.address);
        let body = json!({ "url": url, "timeout_seconds": TIMEOUT.as_secs() });
        let until = Instant::now() + Duration::from_secs(20);
        let id = loop {
            match api.post(0, "/v1/destinations", &body, None).await {
                Reply::Told(status, body) if status == 201 => break body["id"].as_i64().ok_or("no id")?,
                Reply::Told(status, body) if Instant::now() > until => return Err(format!("{status}: {body}").into()),
                Reply::Unreached | Reply::Unknown if Instant::now() > until => return Err("no API".into()),
                _ => sleep(Duration::from_millis(100)).await,
            }
        };
        recorder.lock().places.push(Place { path, id, timeout: micros(TIMEOUT) });
        match temper {
            Temper::Slow => targets.pressed.push(id),
            Temper::Quick if path % 4 == 2 => targets.teased.push(id),
            Temper::Tortoise => targets.slowest.push(id),
            Temper::Quick | Temper::Flaky => targets.all.push(id),
        }
    }
    Ok(targets)
}

async fn drain(cluster: &Cluster) -> Result<(), Failure> {
    let until = Instant::now() + DRAIN;
    let connection = cluster.connect().await?;
    while Instant::now() < until {
        let row = connection.client.query_one("select count(*) from orderly.messages", &[]).await?;
        if row.get::<_, i64>(0) == 0 {
            return Ok(());
        }
        sleep(Duration::from_millis(200)).await;
    }
    println!("  messages are still queued after {} s", DRAIN.as_secs());
    Ok(())
}

/// Everything ends by itself, a last worker finds the queue empty. What went otherwise.
async fn stop_gracefully(cluster: &Cluster) -> Result<Vec<String>, Failure> {
    let mut told = Vec::new();
    for node in &cluster.nodes {
        node.keep_down();
        node.signal(Signal::TERM).await;
    }
    for node in &cluster.nodes {
        match node.wait(Duration::from_secs(60)).await {
            Some(status) if status.success() => {}
            Some(status) => told.push(format!("{} ended with {status}", node.name)),
            None => told.push(format!("{} did not end after SIGTERM", node.name)),
        }
    }
    let status = cluster.run(&["worker", "--allow-network", "127.0.0.0/8"], Duration::from_secs(120)).await?;
    if !status.success() {
        told.push(format!("the last worker ended with {status}"));
    }
    Ok(told)
}

async fn look(cluster: &Cluster) -> Result<Outcomes, Failure> {
    let connection = cluster.connect().await?;
    let client = &connection.client;
    let key = |row: &tokio_postgres::Row| (row.get::<_, i64>(0), row.get::<_, i64>(1));
    let ends = client.query("select destination_id, sequence, outcome from orderly.ends", &[]).await?;
    let delivered = "select destination_id, sequence from orderly.attempts where delivered";
    let mut times: BTreeMap<(i64, i64), u32> = BTreeMap::new();
    for row in client.query(delivered, &[]).await? {
        *times.entry(key(&row)).or_default() += 1;
    }
    let left = client.query("select destination_id, sequence from orderly.messages", &[]).await?;
    Ok(Outcomes {
        ends: ends.iter().map(|row| (key(row), row.get(2))).collect(),
        delivered: times,
        left: left.iter().map(key).collect(),
    })
}

/// The one rule that needs the database before the end; what cannot be asked now is asked in a second.
async fn find_acknowledged_twice(cluster: &Cluster, recorder: &Recorder) -> Vec<Violation> {
    let Ok(connection) = cluster.connect().await else { return Vec::new() };
    let sql = "select destination_id, sequence from orderly.attempts where delivered group by 1, 2 having count(*) > 1";
    let rows = connection.client.query(sql, &[]).await.unwrap_or_default();
    let twice = |row: &tokio_postgres::Row| Violation {
        rule: Rule::TwoEnds,
        at: recorder.now(),
        destination: row.get(0),
        text: format!("{} was acknowledged twice", row.get::<_, i64>(1)),
    };
    rows.iter().map(twice).collect()
}

/// What workers' logs tell of the sweep.
fn count_swept(logs: &std::path::Path) -> u64 {
    let Ok(files) = std::fs::read_dir(logs) else { return 0 };
    let texts = files.flatten().filter_map(|file| std::fs::read_to_string(file.path()).ok());
    let lines = |text: String| {
        let words = ["messages that no bell had told of", "served by nobody at two sweeps in a row"];
        text.lines().filter(|line| words.iter().any(|words| line.contains(words))).count() as u64
    };
    texts.map(lines).sum()
}

/// All events, one JSON object a line.
fn write_log(out: &std::path::Path, record: &super::record::Record) -> Result<(), Failure> {
    use std::io::Write;
    let mut file = std::io::BufWriter::new(std::fs::File::create(out.join("record.jsonl"))?);
    for place in &record.places {
        writeln!(file, "{}", json!({ "place": place }))?;
    }
    for fault in &record.faults {
        writeln!(file, "{}", json!({ "fault": fault }))?;
    }
    for post in &record.posts {
        writeln!(file, "{}", json!({ "post": post }))?;
    }
    for request in &record.requests {
        writeln!(file, "{}", json!({ "request": request }))?;
    }
    Ok(())
}

fn micros(duration: Duration) -> Micros {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
