//! When a standby takes the primary's place, does all go on, is nothing lost, and is no id given twice?

use std::collections::HashSet;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use orderly::embedded::{EmbeddedPostgres, StopMode};
use serde_json::json;

use crate::support::posters::{assert_all_arrived, assert_told_in_time};
use crate::support::{
    Answer, Api, Posters, Process, Queue, Receiver, TestDatabase, destinations, postgres_in, private_postgres,
    scratch_folder, start_worker, worker,
};

const PATHS: [&str; 3] = ["/0", "/1", "/2"];

/// A primary, a standby that follows it, and the URL that names both.
struct Pair {
    primary: EmbeddedPostgres,
    standby: EmbeddedPostgres,
    both: TestDatabase,
}

impl Pair {
    async fn new() -> Pair {
        let mut primary = private_postgres().await;
        TestDatabase::on(&primary).await;
        // A copy of the stopped server's data, which needs none of Postgres' further programs.
        primary.stop(StopMode::Fast).await.expect("it stops");
        let folder = scratch_folder();
        std::fs::create_dir(&folder).expect("a folder");
        for part in ["postgres", "password"] {
            let copied = std::process::Command::new("cp").arg("-a").arg(primary.dir().join(part)).arg(&folder).status();
            assert!(copied.expect("cp runs").success());
        }
        let (data, signal) = (folder.join("postgres"), folder.join("postgres/standby.signal"));
        std::fs::write(&signal, "").expect("the data is ours");
        let owner = data.metadata().expect("it was copied");
        std::os::unix::fs::chown(&signal, Some(owner.uid()), Some(owner.gid())).expect("as its owner or as root");
        primary.launch().await.expect("it starts again");
        let url = url::Url::parse(&primary.url()).expect("the URL is ours");
        let conninfo = format!(
            "host=127.0.0.1 port={} user={} password={}",
            primary.port(),
            url.username(),
            url.password().expect("a password")
        );
        let standby =
            postgres_in(&folder, &[("primary_conninfo", &conninfo), ("wal_retrieve_retry_interval", "200ms")]).await;
        let both = format!("127.0.0.1:{},127.0.0.1:{}", primary.port(), standby.port());
        let both = primary.url().replace(&format!("127.0.0.1:{}", primary.port()), &both);
        let both = TestDatabase::at(format!("{both}?target_session_attrs=read-write"));
        let pair = Pair { primary, standby, both };
        pair.on_primary().await.until("select count(*) from pg_stat_replication where state = 'streaming'", 1).await;
        pair
    }

    async fn on_primary(&self) -> Queue {
        Queue::on(&TestDatabase::at(self.primary.url())).await
    }

    async fn on_standby(&self) -> Queue {
        Queue::on(&TestDatabase::at(self.standby.url())).await
    }

    /// From now on a commit waits for the standby.
    async fn be_synchronous(&self) {
        let queue = self.on_primary().await;
        queue.sql("alter system set synchronous_standby_names = '*'").await;
        queue.sql("select pg_reload_conf()").await;
        queue.until("select count(*) from pg_stat_replication where sync_state = 'sync'", 1).await;
    }

    /// The primary dies, and the standby takes its place.
    async fn fail_over(&mut self) {
        self.primary.kill().await.expect("it is killed");
        self.promote().await;
    }

    async fn promote(&self) {
        let queue = self.on_standby().await;
        queue.until("select case when pg_promote(true, 60) then 1 else 0 end::bigint", 1).await;
    }
}

/// The number in `<destination>-<sequence>`.
fn sequence(id: &str) -> i64 {
    id.split_once('-').expect("an id").1.parse().expect("a number")
}

#[tokio::test]
async fn with_a_synchronous_standby_a_failover_loses_nothing_and_gives_no_id_twice() {
    let mut pair = Pair::new().await;
    pair.be_synchronous().await;
    let receiver = Receiver::answering(|_| Answer::ok().after(Duration::from_millis(5))).await;
    let ids = destinations(&pair.on_primary().await, &receiver, PATHS.len()).await;
    let (_serving, api) = Api::serve(&pair.both).await;
    let mut first = worker(&pair.both, &["--persistent"]).await;
    let mut second = worker(&pair.both, &["--persistent"]).await;
    let posters = Posters::start(&api, &ids);
    posters.wait_for_each(10, |one| one.accepted()).await;
    receiver.wait_for_ended(20).await;

    pair.fail_over().await;
    for worker in [&mut first, &mut second] {
        worker.stderr_line("the session was lost").await;
    }
    posters.wait_for_each(10, |one| one.accepted()).await;
    let posted = posters.stop().await;
    let slowest = assert_told_in_time(&posted);
    let received = assert_all_arrived(&receiver, &posted, &PATHS, 1).await;
    pair.on_standby().await.until_empty().await;

    let accepted: Vec<i64> = posted.iter().filter_map(|one| one.id.as_deref()).map(sequence).collect();
    let after: Vec<i64> = accepted.iter().copied().filter(|sequence| *sequence > 1_000_000_000_000_000).collect();
    let before = accepted.iter().copied().filter(|sequence| !after.contains(sequence)).max().expect("some came before");
    assert!(before < 100_000 && after.len() >= 30, "the sequence jumped: {before}, {after:?}");
    assert_eq!(accepted.iter().collect::<HashSet<_>>().len(), accepted.len());
    for path in PATHS {
        let epochs: Vec<i64> = receiver.received_on(path).iter().map(|one| one.number("orderly-epoch")).collect();
        assert!(epochs.is_sorted(), "{epochs:?}");
        assert!(epochs[0] < 1_000 && epochs[epochs.len() - 1] > 1_000_000, "{epochs:?}");
    }
    println!("{} accepted, {} delivered, the slowest 503 after {slowest:?}", accepted.len(), received.len());
}

#[tokio::test]
async fn what_an_asynchronous_standby_had_not_got_is_lost_and_its_ids_are_not_given_again() {
    let mut pair = Pair::new().await;
    let receiver = Receiver::start().await;
    let ids = destinations(&pair.on_primary().await, &receiver, 1).await;
    let (_serving, api) = Api::serve(&pair.both).await;
    let kept = api.post_message(ids[0], json!("replicated")).await;
    let position = "select (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::bigint";
    let position = pair.on_primary().await.number(position, &[]).await;
    let standby = pair.on_standby().await;
    let replayed = format!("select count(*) where pg_last_wal_replay_lsn() - '0/0'::pg_lsn >= {position}");
    standby.until(&replayed, 1).await;
    // From here on nothing reaches it any more.
    standby.sql("alter system set primary_conninfo = ''").await;
    pair.standby.stop(StopMode::Fast).await.expect("it stops");
    let mut lost = Vec::new();
    for n in 0..40 {
        lost.push(api.post_message(ids[0], json!({ "lost": n })).await);
    }
    pair.primary.kill().await.expect("it is killed");
    pair.standby.launch().await.expect("it starts");
    pair.promote().await;
    let mut posted = Vec::new();
    while posted.len() < 40 {
        let body = json!({ "destination_id": ids[0], "payload": { "new": posted.len() } });
        let reply = api.post("/v1/messages", body).await;
        if reply.status == 201 {
            posted.push(reply.json()["id"].as_str().expect("an id").to_owned());
        }
    }
    assert!(lost.iter().all(|id| !posted.contains(id)), "an id was given twice");
    assert!(lost.iter().map(|id| sequence(id)).max() < posted.iter().map(|id| sequence(id)).min());
    let _worker = worker(&pair.both, &["--persistent"]).await;
    let received = receiver.wait_for_ended(41).await;
    let arrived: Vec<&str> = received.iter().map(|one| one.header("webhook-id")).collect();
    assert_eq!(arrived[0], kept);
    assert_eq!(arrived[1..], posted[..]);
    receiver.assert_in_order("/0");
}

#[tokio::test]
async fn of_a_standby_alone_a_process_says_what_it_is_and_a_worker_goes_on_once_it_is_promoted() {
    let mut pair = Pair::new().await;
    let receiver = Receiver::start().await;
    let ids = destinations(&pair.on_primary().await, &receiver, 1).await;
    let standby = TestDatabase::at(pair.standby.url());
    for arguments in [&["serve", "--listen", "127.0.0.1:0"][..], &["worker"], &["migrate"]] {
        let ended = Process::run(arguments, &[standby.env()]).await;
        assert_eq!(ended.code(), 1, "{arguments:?}: {ended:?}");
        assert_eq!(ended.stderr.len(), 1, "{arguments:?}: {ended:#?}");
        assert!(ended.stderr[0].contains("standby"), "{arguments:?}: {ended:#?}");
    }
    // Once a process has stored the key of development, a worker only reads before its session.
    let _ = Process::run(&["worker"], &[("DATABASE_URL", &pair.primary.url())]).await;
    let shared = "select count(*) from orderly.signing_keys";
    pair.on_standby().await.until(shared, 1).await;
    let (_serving, api) = Api::serve(&standby).await;
    let refused = api.post("/v1/messages", json!({ "destination_id": ids[0], "payload": 0 })).await.expect(503);
    assert!(refused.headers.contains_key("retry-after"), "{refused:?}");
    api.get("/v1/destinations").await.expect(200);
    let mut waiting = start_worker(&standby, &["--persistent"]);
    let line = waiting.stderr_line("no session yet").await;
    assert!(line.contains("standby"), "{line}");
    pair.fail_over().await;
    waiting.stderr_line("worker ready").await;
    api.post_message(ids[0], json!(1)).await;
    receiver.wait_for_ended(1).await;
    let said = waiting.stderr();
    let told = said.iter().filter(|line| line.contains(" WARN ") && line.contains("no session yet")).count();
    assert!(told <= 3, "once for each reason: {said:#?}");
}
