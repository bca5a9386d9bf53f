//! When the database goes, in whatever way, are clients told in time, and does all go on by itself?

use std::time::{Duration, Instant};

use orderly::embedded::{EmbeddedPostgres, StopMode};
use orderly::store::Store;
use rustix::process::{Pid, Signal, kill_process};
use tokio::net::TcpListener;

use crate::chaos::proxy::{Mode, Proxy};
use crate::support::posters::{assert_all_arrived, assert_told_in_time};
use crate::support::{
    Answer, Api, PATIENCE, Posters, Queue, Receiver, TestDatabase, destinations, private_postgres, worker,
};

const PATHS: [&str; 4] = ["/0", "/1", "/2", "/3"];

/// How the database goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Loss {
    /// Stopped in this way and started again.
    Stopped(StopMode),
    /// `kill -9` of the server process, and started again.
    Killed,
    /// `kill -9` of one session's process: Postgres ends all sessions and recovers.
    BackendKilled,
    /// All sessions of the API and of the worker are ended.
    SessionsEnded,
    /// All connections are reset, and new ones can be made at once.
    Cut,
    /// Nothing passes any more, and nothing is closed.
    BlackHole,
}

/// A server, and a line to it that can be broken.
struct Line {
    postgres: EmbeddedPostgres,
    proxy: Proxy,
    /// Past the proxy.
    direct: TestDatabase,
}

impl Line {
    async fn new() -> Line {
        let postgres = private_postgres().await;
        let direct = TestDatabase::on(&postgres).await;
        let proxy = Proxy::start(postgres.port()).await.expect("a port");
        Line { postgres, proxy, direct }
    }

    /// Until the posters have heard that it is gone, where it stays away.
    async fn lose(&mut self, loss: Loss, posters: &Posters) {
        let refused = || posters.wait_for_each(2, |one| !one.accepted());
        match loss {
            Loss::Stopped(mode) => {
                self.postgres.stop(mode).await.expect("it stops");
                refused().await;
                self.postgres.launch().await.expect("it starts again");
            }
            Loss::Killed => {
                self.postgres.kill().await.expect("it is killed");
                refused().await;
                self.postgres.launch().await.expect("it starts again");
            }
            Loss::BackendKilled => {
                let queue = Queue::on(&self.direct).await;
                let pid = queue
                    .number(
                        // What the API said last on it may be a bell.
                        "select pid::bigint from pg_stat_activity
                         where (query like '%enqueue_batch%' or query like '%orderly.ring%') and pid <> pg_backend_pid() limit 1",
                        &[],
                    )
                    .await;
                let pid = Pid::from_raw(i32::try_from(pid).expect("a process id")).expect("a process id");
                kill_process(pid, Signal::KILL).expect("it is there");
            }
            Loss::SessionsEnded => {
                let queue = Queue::on(&self.direct).await;
                let ended = queue
                    .number(
                        "select count(pg_terminate_backend(pid)) from pg_stat_activity
                         where application_name = 'orderly' and pid <> pg_backend_pid()",
                        &[],
                    )
                    .await;
                assert!(ended > 3, "the worker's three and the API's: {ended}");
            }
            Loss::Cut => self.proxy.cut(),
            Loss::BlackHole => {
                self.proxy.set(Mode::Hole);
                refused().await;
                self.proxy.set(Mode::Pass);
            }
        }
    }
}

async fn survive(loss: Loss) {
    let mut line = Line::new().await;
    let database = line.direct.through(line.proxy.port);
    let receiver = Receiver::answering(|_| Answer::ok().after(Duration::from_millis(5))).await;
    let ids = destinations(&Queue::on(&line.direct).await, &receiver, PATHS.len()).await;
    let (_serving, api) = Api::serve(&database).await;
    let mut worker = worker(&database, &["--persistent"]).await;
    // Two for each destination, so that some wait behind others.
    let posters = Posters::start(&api, &[ids.clone(), ids].concat());
    posters.wait_for_each(5, |one| one.accepted()).await;
    receiver.wait_for_ended(20).await;

    line.lose(loss, &posters).await;
    let back = Instant::now();
    if loss != Loss::BlackHole {
        // A hole that ends soon breaks nothing.
        worker.stderr_line("the session was lost").await;
    }
    posters.wait_for_each(5, |one| one.accepted()).await;
    let health = api.get("/health/ready").await;
    let posted = posters.stop().await;

    let slowest = assert_told_in_time(&posted);
    health.expect(200);
    let received = assert_all_arrived(&receiver, &posted, &PATHS, 1).await;
    Queue::on(&line.direct).await.until_empty().await;
    let first = |at: Option<Instant>| at.map(|at| at.saturating_duration_since(back));
    let accepted = first(
        posted.iter().filter(|one| one.accepted() && one.began_at > back).map(|one| one.began_at + one.took).min(),
    );
    let delivered = first(received.iter().map(|one| one.arrived_at).filter(|at| *at > back).min());
    println!(
        "{loss:?}: {} accepted, {} told 503, the slowest after {slowest:?}; after it was back the first was accepted \
         after {accepted:?}, and the first delivered after {delivered:?}",
        posted.iter().filter(|one| one.accepted()).count(),
        posted.iter().filter(|one| !one.accepted()).count(),
    );
    assert!(accepted.is_some_and(|after| after < PATIENCE) && delivered.is_some_and(|after| after < PATIENCE));
}

#[tokio::test]
async fn a_fast_restart_is_told_in_time_and_survived() {
    survive(Loss::Stopped(StopMode::Fast)).await;
}

#[tokio::test]
async fn an_immediate_restart_is_told_in_time_and_survived() {
    survive(Loss::Stopped(StopMode::Immediate)).await;
}

#[tokio::test]
async fn a_killed_server_is_told_in_time_and_survived() {
    survive(Loss::Killed).await;
}

#[tokio::test]
async fn a_killed_backend_is_told_in_time_and_survived() {
    survive(Loss::BackendKilled).await;
}

#[tokio::test]
async fn ended_sessions_are_told_in_time_and_survived() {
    survive(Loss::SessionsEnded).await;
}

#[tokio::test]
async fn cut_connections_are_told_in_time_and_survived() {
    survive(Loss::Cut).await;
}

#[tokio::test]
async fn a_black_hole_is_told_in_time_and_survived() {
    survive(Loss::BlackHole).await;
}

/// Frozen servers, or a proxy before a host that is gone.
#[tokio::test]
async fn hosts_that_take_connections_and_say_nothing_keep_nobody_from_the_next() {
    let database = TestDatabase::new().await;
    let silent = [TcpListener::bind("127.0.0.1:0").await.unwrap(), TcpListener::bind("127.0.0.1:0").await.unwrap()];
    let hosts: String = silent.iter().map(|one| format!("{},", one.local_addr().unwrap())).collect();
    let (user, rest) = database.url().split_once('@').expect("a user");
    let store = Store::open(&format!("{user}@{hosts}{rest}"), 4, Default::default()).expect("a URL");
    let begun = Instant::now();
    while let Err(error) = store.ping().await {
        assert!(begun.elapsed() < PATIENCE, "{error:?}");
    }
    // And it is remembered which host it was.
    let again = Instant::now();
    let all = tokio::join!(store.ping(), store.ping(), store.ping(), store.connector().dedicated());
    assert!(all.0.is_ok() && all.1.is_ok() && all.2.is_ok() && all.3.is_ok());
    assert!(again.elapsed() < Duration::from_secs(2), "{:?}", again.elapsed());
}
