//! How is each fault done to the cluster, and undone?
//!
//! Each runs as a task of its own, so that they overlap as the plan has it. What it aims at may be down
//! already; then nothing is done and nothing is noted.

use std::sync::Arc;
use std::time::Duration;

use orderly::embedded::StopMode;
use rustix::process::{Pid, Signal, kill_process};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::cluster::{Cluster, Failure, Node};
use super::plan::Planned;
use super::proxy::Mode;
use super::record::{Fault, FaultKind, Recorder};

/// A look behind the scenes before a fault must not hold it up.
const GLANCE: Duration = Duration::from_millis(500);

pub struct Faults {
    pub cluster: Arc<Cluster>,
    pub recorder: Arc<Recorder>,
}

impl Faults {
    /// Carries the plan out, until `stop`; then waits until everything is whole again.
    pub async fn run(self: Arc<Self>, plan: Vec<Planned>, stop: CancellationToken) {
        let start = Instant::now();
        let mut running = JoinSet::new();
        for planned in plan {
            if stop.run_until_cancelled(sleep_until(start + planned.at)).await.is_none() {
                break;
            }
            let faults = self.clone();
            running.spawn_local(async move {
                if let Err(error) = faults.inflict(&planned).await {
                    eprintln!("  {:?} could not be done: {error}", planned.kind);
                }
            });
        }
        while running.join_next().await.is_some() {}
    }

    async fn inflict(&self, planned: &Planned) -> Result<(), Failure> {
        let node = &self.cluster.nodes[planned.target];
        let lasts = planned.lasts;
        match planned.kind {
            FaultKind::WorkerKill | FaultKind::ApiKill => {
                let victims = self.owned_by(node).await;
                let fault = self.begin(planned, &node.name, victims);
                node.keep_down();
                node.signal(Signal::KILL).await;
                node.wait(Duration::from_secs(10)).await;
                sleep(lasts).await;
                node.start().await?;
                drop(fault);
            }
            FaultKind::WorkerTerm => {
                let victims = self.owned_by(node).await;
                let fault = self.begin(planned, &node.name, victims);
                node.keep_down();
                if node.signal(Signal::TERM).await
                    && let Some(status) = node.wait(Duration::from_secs(60)).await
                    && !status.success()
                {
                    eprintln!("  {} ended with {status} after SIGTERM", node.name);
                }
                sleep(lasts).await;
                node.start().await?;
                drop(fault);
            }
            FaultKind::WorkerPause | FaultKind::WorkerHang | FaultKind::ApiPause => {
                let victims = self.owned_by(node).await;
                if node.signal(Signal::STOP).await {
                    let fault = self.begin(planned, &node.name, victims);
                    sleep(lasts).await;
                    node.signal(Signal::CONT).await;
                    drop(fault);
                }
            }
            FaultKind::Zombie => {
                let victims = self.owned_by(node).await;
                let fault = self.begin(planned, &node.name, victims);
                if node.signal(Signal::STOP).await {
                    let ended = self.end_backends(node, SESSION).await;
                    sleep(lasts).await;
                    node.signal(Signal::CONT).await;
                    ended?;
                }
                drop(fault);
            }
            FaultKind::SessionEnd | FaultKind::AideEnd | FaultKind::WatchEnd | FaultKind::PoolEnd => {
                let which = match planned.kind {
                    FaultKind::SessionEnd => SESSION,
                    FaultKind::WatchEnd => WATCH,
                    FaultKind::AideEnd => AIDE,
                    _ => OTHER,
                };
                let victims = self.owned_by(node).await;
                let fault = self.begin(planned, &node.name, victims);
                self.end_backends(node, which).await?;
                drop(fault);
            }
            FaultKind::DatabaseFast => self.restart(planned, Some(StopMode::Fast)).await?,
            FaultKind::DatabaseImmediate => self.restart(planned, Some(StopMode::Immediate)).await?,
            FaultKind::DatabaseKill => self.restart(planned, None).await?,
            FaultKind::RestartBehind => {
                let victims = self.owned_by(node).await;
                let fault = self.begin(planned, &node.name, victims);
                node.proxy.set(Mode::Hole);
                self.cluster.postgres.lock().await.restart(StopMode::Fast).await?;
                sleep(lasts).await;
                node.proxy.set(Mode::Pass);
                drop(fault);
            }
            FaultKind::BackendCrash => {
                let fault = self.begin(planned, &node.name, Vec::new());
                let ports = ports(node);
                let connection = self.cluster.connect().await?;
                let sql = format!(
                    "select pid from pg_stat_activity
                           where client_port = any ('{{{ports}}}') and application_name = 'orderly' limit 1"
                );
                let row = connection.client.query_opt(&sql, &[]).await?;
                if let Some(pid) = row.and_then(|row| Pid::from_raw(row.get(0))) {
                    kill_process(pid, Signal::KILL)?;
                }
                sleep(Duration::from_millis(300)).await;
                // Recovered when it lets us in.
                while self.cluster.connect().await.is_err() {
                    sleep(Duration::from_millis(50)).await;
                }
                drop(fault);
            }
            FaultKind::AllCut => {
                let fault = self.begin(planned, "all", Vec::new());
                self.cluster.nodes.iter().for_each(|node| node.proxy.cut());
                drop(fault);
            }
            FaultKind::LinkCut => {
                let victims = self.owned_by(node).await;
                let fault = self.begin(planned, &node.name, victims);
                node.proxy.cut();
                drop(fault);
            }
            FaultKind::LinkHole | FaultKind::LinkDelay => {
                let victims = self.owned_by(node).await;
                let fault = self.begin(planned, &node.name, victims);
                let delay = Mode::Delay(Duration::from_millis(150));
                node.proxy.set(if planned.kind == FaultKind::LinkHole { Mode::Hole } else { delay });
                sleep(lasts).await;
                node.proxy.set(Mode::Pass);
                drop(fault);
            }
            FaultKind::RowLock => {
                let connection = self.cluster.connect().await?;
                let fault = self.begin(planned, "heads", Vec::new());
                let lock = "begin; select from orderly.messages m where m.sequence = (select min(q.sequence) from \
                     orderly.messages q where q.destination_id = m.destination_id) for update skip locked";
                let locked = connection.client.batch_execute(lock).await;
                sleep(lasts).await;
                let _ = connection.client.batch_execute("rollback").await;
                drop(fault);
                locked?;
            }
        }
        Ok(())
    }

    fn begin(&self, planned: &Planned, target: &str, victims: Vec<i64>) -> Begun {
        let from = self.recorder.now();
        let (kind, isolated) = (planned.kind, planned.isolated);
        let fault = Fault { kind, target: target.to_owned(), from, until: None, isolated, victims };
        Begun { recorder: self.recorder.clone(), number: self.recorder.begin_fault(fault) }
    }

    /// `None`: kill -9 of the postmaster.
    async fn restart(&self, planned: &Planned, mode: Option<StopMode>) -> Result<(), Failure> {
        let mut postgres = self.cluster.postgres.lock().await;
        let fault = self.begin(planned, "postgres", Vec::new());
        match mode {
            Some(mode) => postgres.stop(mode).await?,
            None => postgres.kill().await?,
        }
        sleep(planned.lasts).await;
        postgres.launch().await?;
        drop(fault);
        Ok(())
    }

    /// What a worker serves right now; nothing when that cannot be found out quickly.
    async fn owned_by(&self, node: &Node) -> Vec<i64> {
        let Some(pid) = node.pid().await else { return Vec::new() };
        let looked = tokio::time::timeout(GLANCE, look_for_owned(self.cluster.clone(), pid.as_raw_nonzero().get()));
        looked.await.ok().and_then(Result::ok).unwrap_or_default()
    }

    /// `pg_terminate_backend` of one of a process' connections.
    async fn end_backends(&self, node: &Node, which: &str) -> Result<(), Failure> {
        let connection = self.cluster.connect().await?;
        let sql = format!(
            "select pg_terminate_backend(a.pid) from pg_stat_activity a
             where a.client_port = any ('{{{}}}') and a.application_name = 'orderly' and {which} order by random() limit 1",
            ports(node)
        );
        connection.client.batch_execute(&sql).await?;
        Ok(())
    }
}

async fn look_for_owned(cluster: Arc<Cluster>, pid: i32) -> Result<Vec<i64>, Failure> {
    let connection = cluster.connect().await?;
    let sql = "select c.destination_id from orderly.claims c join orderly.workers w on w.id = c.owner
               where w.pid = $1";
    let rows = connection.client.query(sql, &[&pid]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// A fault under way. It ends with this, also when it could not be done to its end.
struct Begun {
    recorder: Arc<Recorder>,
    number: usize,
}

impl Drop for Begun {
    fn drop(&mut self) {
        self.recorder.end_fault(self.number);
    }
}

/// The session holds its worker's lock; the watch waits for another's; the aide reads ahead and rings.
const SESSION: &str = "exists (select from pg_locks l where l.pid = a.pid and l.locktype = 'advisory' \
     and l.mode = 'ExclusiveLock' and l.granted and l.classid::bigint >> 24 = 80)";
const WATCH: &str = "a.query like 'call orderly.watch%'";
const AIDE: &str = "(a.query like '%orderly.ring%' or a.query like '%sum(octet_length(f.payload))%')";
const OTHER: &str = "a.query not like 'call orderly.watch%' and a.query not like '%octet_length(f.payload)%' \
     and not exists (select from pg_locks l where l.pid = a.pid and l.locktype = 'advisory' and l.granted)";

fn ports(node: &Node) -> String {
    let ports: Vec<String> = node.proxy.ports().iter().map(u16::to_string).collect();
    ports.join(",")
}

/// Everything whole, whatever was under way: all lines pass, all processes run.
pub async fn heal(cluster: &Cluster) -> Result<(), Failure> {
    cluster.postgres.lock().await.launch().await?;
    for node in &cluster.nodes {
        node.proxy.set(Mode::Pass);
        node.signal(Signal::CONT).await;
        node.start().await?;
    }
    Ok(())
}
