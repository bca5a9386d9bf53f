//! What did a run cost: time, CPU by process, WAL, statements, memory?

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;

use super::Result;
use super::child::Child;
use super::cluster::Cluster;
use super::histogram::Histogram;

/// Of /proc, a second: part of Linux' contract with programs.
const TICKS: f64 = 100.0;

/// One side of one round.
#[derive(Clone, Default, Serialize)]
pub struct Round {
    pub messages: u64,
    pub seconds: f64,
    pub p50_ms: Option<f64>,
    pub p99_ms: Option<f64>,
    /// Seconds of CPU for each thousand messages, by process.
    pub cpu: BTreeMap<String, f64>,
    pub wal_bytes: Option<f64>,
    pub statements: Option<f64>,
    /// The most that was resident, in MB, by process.
    pub rss: BTreeMap<String, f64>,
}

impl Round {
    pub fn rate(&self) -> f64 {
        self.messages as f64 / self.seconds
    }

    pub fn with_latencies(mut self, histogram: &Histogram) -> Round {
        self.p50_ms = histogram.quantile_ms(0.5);
        self.p99_ms = histogram.quantile_ms(0.99);
        self
    }
}

/// Runs from [`Meter::start`] to [`Meter::stop`].
pub struct Meter {
    started: Instant,
    before: BTreeMap<&'static str, f64>,
    database: Option<(i64, i64, f64)>,
    sampler: Sampler,
}

/// Process, name, the most resident memory so far in MB.
type Peak = (u32, &'static str, f64);

struct Sampler {
    ended: Arc<AtomicBool>,
    most: Arc<Mutex<Vec<Peak>>>,
}

impl Meter {
    /// Children that start later are to be added with [`Meter::add`].
    pub async fn start(cluster: Option<&Cluster>, running: &[&Child]) -> Result<Meter> {
        let database = match cluster {
            Some(cluster) => {
                let (wal, statements) = cluster.counters().await?;
                Some((wal, statements, cluster.cpu()))
            }
            None => None,
        };
        let mut meter = Meter { started: Instant::now(), before: BTreeMap::new(), database, sampler: Sampler::start() };
        running.iter().for_each(|child| meter.add(child));
        meter.started = Instant::now();
        Ok(meter)
    }

    pub fn add(&mut self, child: &Child) {
        self.before.insert(child.name, self.before.get(child.name).copied().unwrap_or(0.0) + child.cpu());
        self.sampler.lock().push((child.pid(), child.name, 0.0));
    }

    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// `messages`: how many were dealt with in `took`. Children of one name are added up.
    pub async fn stop(
        self,
        cluster: Option<&Cluster>,
        children: &[&Child],
        messages: u64,
        took: Duration,
    ) -> Result<Round> {
        self.sampler.ended.store(true, Ordering::Relaxed);
        let thousands = messages as f64 / 1_000.0;
        let mut used: BTreeMap<String, f64> = BTreeMap::new();
        for child in children {
            *used.entry(child.name.to_owned()).or_default() += child.cpu();
        }
        for (name, cpu) in &mut used {
            *cpu = (*cpu - self.before.get(name.as_str()).copied().unwrap_or(0.0)) / thousands;
        }
        let mut round = Round { messages, seconds: took.as_secs_f64(), cpu: used, ..Round::default() };
        if let (Some(cluster), Some((wal, statements, cpu))) = (cluster, self.database) {
            round.cpu.insert("postgres".to_owned(), (cluster.cpu() - cpu) / thousands);
            let (wal_now, statements_now) = cluster.counters().await?;
            round.wal_bytes = Some((wal_now - wal) as f64 / messages as f64);
            round.statements = Some((statements_now - statements) as f64 / messages as f64);
        }
        for (_, name, most) in self.sampler.lock().iter() {
            let known = round.rss.entry((*name).to_owned()).or_default();
            *known = known.max(*most);
        }
        Ok(round)
    }
}

impl Sampler {
    fn start() -> Sampler {
        let sampler = Sampler { ended: Arc::default(), most: Arc::default() };
        let (ended, most) = (sampler.ended.clone(), sampler.most.clone());
        std::thread::spawn(move || {
            while !ended.load(Ordering::Relaxed) {
                for (pid, _, most) in most.lock().unwrap_or_else(PoisonError::into_inner).iter_mut() {
                    *most = most.max(resident_mb(*pid).unwrap_or(0.0));
                }
                std::thread::sleep(Duration::from_millis(200));
            }
        });
        sampler
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<(u32, &'static str, f64)>> {
        self.most.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
    }
}

/// Nanoseconds of a clock that all processes of this machine share.
pub fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs()
}

/// Seconds of CPU of a process.
pub fn cpu_of(pid: u32) -> Option<f64> {
    let fields = stat(pid)?;
    Some((fields[11] + fields[12]) as f64 / TICKS)
}

/// Of a process and all its children, those that have ended included. A child that ends between the two looks
/// would be in neither, or in both: so it is looked again until none did.
pub fn cpu_of_family(parent: u32) -> f64 {
    let own = || stat(parent).map_or([0; 4], |fields| [fields[11], fields[12], fields[13], fields[14]]);
    let ended = |own: &[u64; 4]| own[2] + own[3];
    let mut before = own();
    for _ in 0..100 {
        let of_living = children_of(parent).into_iter().filter_map(stat).map(|fields| fields[11] + fields[12]);
        let children: u64 = of_living.sum();
        let after = own();
        if ended(&before) == ended(&after) {
            return (after.iter().sum::<u64>() + children) as f64 / TICKS;
        }
        before = after;
    }
    before.iter().sum::<u64>() as f64 / TICKS
}

fn children_of(parent: u32) -> Vec<u32> {
    let Ok(processes) = std::fs::read_dir("/proc") else { return Vec::new() };
    let pids = processes.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| stat(*pid).is_some_and(|fields| fields[1] == u64::from(parent))).collect()
}

/// What stands behind the name in /proc/<pid>/stat: state (as 0), ppid, …, utime at 11, stime, cutime, cstime.
fn stat(pid: u32) -> Option<Vec<u64>> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields = text.rsplit_once(')')?.1.split_whitespace();
    Some(fields.map(|field| field.parse().unwrap_or(0)).collect())
}

/// Megabytes in memory now.
pub fn resident_mb(pid: u32) -> Option<f64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().trim_end_matches(" kB").parse::<f64>().ok()? / 1024.0)
}
