//! How do tests of the engine fill queues and look into them, past the API?

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::task::JoinHandle;
use tokio_postgres::types::ToSql;

use super::{PATIENCE, Process, Receiver, TestDatabase};
use orderly::store::connect::Dedicated;

/// A connection of the test's own.
pub struct Queue {
    pub connection: Dedicated,
}

impl Queue {
    pub async fn on(database: &TestDatabase) -> Queue {
        Queue { connection: database.connect().await }
    }

    /// A destination as the API makes it.
    pub async fn destination(&self, url: &str) -> i64 {
        self.number(
            "with made as (insert into orderly.destinations (url, headers) values ($1, '\\x007b7d') returning id),
                  queue as (insert into orderly.queues (destination_id) select id from made),
                  claim as (insert into orderly.claims (destination_id) select id from made)
             select id from made",
            &[&url],
        )
        .await
    }

    /// Its sequence.
    pub async fn enqueue(&self, destination: i64, payload: Value) -> i64 {
        let row = self
            .connection
            .client
            .query_one("select orderly.enqueue($1, $2)", &[&destination, &payload])
            .await
            .expect("it is queued");
        row.get::<_, String>(0).split_once('-').expect("an id").1.parse().expect("a sequence")
    }

    pub async fn number(&self, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> i64 {
        self.connection
            .client
            .query_one(sql, parameters)
            .await
            .unwrap_or_else(|error| panic!("{sql}: {error:?}"))
            .get(0)
    }

    pub async fn queued(&self) -> i64 {
        self.number("select count(*) from orderly.messages", &[]).await
    }

    /// Asks until the answer is this one: the database has no event for what a test waits for here.
    pub async fn until(&self, sql: &str, wanted: i64) {
        let begun = std::time::Instant::now();
        loop {
            let found = self.number(sql, &[]).await;
            if found == wanted {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "{sql}: {found}, not {wanted}");
        }
    }

    /// Until all that was queued has ended.
    pub async fn until_empty(&self) {
        self.until("select count(*) from orderly.messages", 0).await;
    }

    /// From now on commits wait for a standby that is not there, on a private Postgres. `sql` writes something, and is the
    /// first that waits: its server process, and its end.
    pub async fn make_commits_wait(&self, database: &TestDatabase, sql: &'static str) -> (Pid, JoinHandle<()>) {
        self.sql("alter system set synchronous_standby_names = 'nobody'").await;
        self.sql("select pg_reload_conf()").await;
        loop {
            let writer = Queue::on(database).await;
            let pid = writer.number("select pg_backend_pid()::bigint", &[]).await;
            let write = tokio::spawn(async move { writer.sql(sql).await });
            let waits = "select count(*) from pg_stat_activity where pid = $1::bigint and wait_event = 'SyncRep'";
            while !write.is_finished() {
                if self.number(waits, &[&pid]).await == 1 {
                    return (Pid::from_raw(i32::try_from(pid).expect("a pid")).expect("a process"), write);
                }
            }
            // The server has not read the setting yet.
        }
    }

    pub async fn let_commits_end(&self) {
        self.sql("alter system reset synchronous_standby_names").await;
        self.sql("select pg_reload_conf()").await;
    }

    pub async fn sql(&self, sql: &str) {
        self.connection.client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }
}

/// A server process that stands still; goes on when this is gone, lest a failed test leave it behind.
pub struct Stopped(Pid);

impl Stopped {
    pub fn by_pid(pid: Pid) -> Stopped {
        kill_process(pid, Signal::STOP).expect("it is stopped");
        Stopped(pid)
    }

    /// Whose number a query tells.
    pub async fn stop(queue: &Queue, sql: &str) -> Stopped {
        let pid = i32::try_from(queue.number(sql, &[]).await).expect("a pid");
        Stopped::by_pid(Pid::from_raw(pid).expect("a process"))
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = kill_process(self.0, Signal::CONT);
    }
}

/// `orderly worker` with what every test needs, and its own arguments; ready when this returns.
pub async fn worker(database: &TestDatabase, arguments: &[&str]) -> Process {
    let mut worker = start_worker(database, arguments);
    worker.stderr_line("worker ready").await;
    worker
}

pub fn start_worker(database: &TestDatabase, arguments: &[&str]) -> Process {
    let mut all = vec!["worker", "--allow-network", "127.0.0.0/8"];
    all.extend(arguments);
    Process::start(&all, &[database.env(), ("ORDERLY_LOG", "info,orderly=debug")])
}

/// Destinations on paths of their own of a receiver: `/0`, `/1`, …
pub async fn destinations(queue: &Queue, receiver: &Receiver, count: usize) -> Vec<i64> {
    let mut ids = Vec::new();
    for n in 0..count {
        ids.push(queue.destination(&receiver.url(&format!("/{n}"))).await);
    }
    ids
}
