//! Is the schema brought up to date exactly once, and is a strange one refused?

use orderly::store::migrate::{self, MigrateError};

use crate::support::posters::{assert_all_arrived, assert_told_in_time};
use crate::support::{Posters, Process, Queue, Receiver, Stage, TestDatabase};

#[tokio::test]
async fn two_migrators_at_once_both_succeed() {
    let database = TestDatabase::unmigrated().await;
    let environment = [database.env()];
    let (first, second) =
        tokio::join!(Process::run(&["migrate"], &environment), Process::run(&["migrate"], &environment));
    for ended in [first, second] {
        assert_eq!(ended.code(), 0, "{ended:?}");
        assert_eq!(ended.stdout, [format!("the schema is at version {}", migrate::known_version())]);
    }
    migrate::check(&database.store()).await.expect("it is up to date");
}

#[tokio::test]
async fn a_schema_newer_than_the_program_is_refused() {
    let database = TestDatabase::new().await;
    let sql = "insert into orderly.schema_history (version, name, applied_on, checksum)
               select 9999, 'from_the_future', applied_on, '0' from orderly.schema_history limit 1";
    database.connect().await.client.batch_execute(sql).await.expect("the history is there");
    assert!(matches!(migrate::check(&database.store()).await, Err(MigrateError::Newer { found: 9999, .. })));
    for command in ["migrate", "worker", "serve"] {
        let ended = Process::run(&[command], &[database.env()]).await;
        assert_eq!(ended.code(), 1, "{ended:?}");
        assert_eq!(ended.stderr.len(), 1, "{ended:?}");
        assert!(ended.stderr[0].contains("newer than this program"), "{ended:?}");
    }
}

#[tokio::test]
async fn workers_and_the_api_ask_for_a_migration_and_do_not_make_one() {
    let database = TestDatabase::unmigrated().await;
    for command in ["worker", "serve"] {
        let ended = Process::run(&[command], &[database.env()]).await;
        assert_eq!(ended.code(), 1, "{ended:?}");
        assert!(ended.stderr[0].contains("run `orderly migrate`"), "{ended:?}");
    }
    assert!(matches!(migrate::check(&database.store()).await, Err(MigrateError::Older { found: 0, .. })));
}

/// As a migration does it: columns with defaults, in one transaction.
const LATER: [&str; 5] = ["messages", "destinations", "claims", "workers", "attempts"];

/// The migrations there are, and one more, which changes these tables.
fn future(tables: &[&str]) -> refinery::Runner {
    let change = |table: &&str| format!("alter table orderly.{table} add column later text not null default 'x';");
    let sql: String = tables.iter().map(change).collect();
    let mut migrations = migrate::migrations();
    migrations.push(refinery::Migration::unapplied("V9999__from_the_future", &sql).expect("a name of that form"));
    refinery::Runner::new(&migrations)
}

const MIGRATIONS_WAITING: &str = "
    select count(*) from pg_locks join pg_database on pg_database.oid = database
     where datname = current_database() and mode = 'AccessExclusiveLock' and not granted";

/// What a running process does may lock the same tables the other way round.
#[tokio::test]
async fn in_a_deadlock_with_a_running_process_the_migration_gives_way_and_is_tried_again() {
    let database = TestDatabase::new().await;
    let process = Queue::on(&database).await;
    process.sql("begin; select from orderly.messages").await;
    let store = database.store();
    let other_half = async {
        Queue::on(&database).await.until(MIGRATIONS_WAITING, 1).await;
        process.sql("select from orderly.claims; commit").await;
    };
    let (applied, ()) = tokio::join!(migrate::apply(&store, future(&["claims", "messages"])), other_half);
    assert_eq!(applied.expect("it is applied"), 9999);
}

#[tokio::test]
async fn a_migration_that_waits_for_a_table_lets_posts_through() {
    let stage = Stage::new().await;
    let receiver = Receiver::start().await;
    let id = stage.api.post_destination(&receiver.url("/0")).await;
    let forgotten = Queue::on(&stage.database).await;
    forgotten.sql("begin; select from orderly.messages").await;
    let posters = Posters::start(&stage.api, &[id]);
    let store = stage.database.store();
    let others = async {
        let locks = Queue::on(&stage.database).await;
        // Each third try is a longer one.
        for waiting in [1, 0, 1, 0, 1] {
            locks.until(MIGRATIONS_WAITING, waiting).await;
        }
        posters.wait_for_each(1, |one| one.accepted()).await;
        forgotten.sql("rollback").await;
    };
    let (applied, ()) = tokio::join!(migrate::apply(&store, future(&["messages"])), others);
    assert_eq!(applied.expect("it is applied"), 9999);
    let posted = posters.stop().await;
    assert_told_in_time(&posted);
    assert!(posted.iter().all(|one| one.accepted()), "no post was refused");
}

#[tokio::test]
async fn processes_of_the_version_before_go_on_when_the_schema_gets_newer() {
    let stage = Stage::new().await;
    let receiver = Receiver::start().await;
    let mut ids = Vec::new();
    for path in ["/0", "/1"] {
        ids.push(stage.api.post_destination(&receiver.url(path)).await);
    }
    let worker = stage.worker(&[]).await;
    let posters = Posters::start(&stage.api, &ids);
    posters.wait_for_each(5, |one| one.accepted()).await;
    assert_eq!(migrate::apply(&stage.database.store(), future(&LATER)).await.expect("it is applied"), 9999);
    posters.wait_for_each(10, |one| one.accepted()).await;
    stage.api.steer(ids[0], "pause").await;
    stage.api.steer(ids[0], "resume").await;
    let posted = posters.stop().await;
    assert_told_in_time(&posted);
    assert!(posted.iter().all(|one| one.accepted()), "no post was refused");
    assert_all_arrived(&receiver, &posted, &["/0", "/1"], 0).await;
    assert!(!worker.stderr().iter().any(|line| line.contains("the session was lost")), "{:#?}", worker.stderr());
}
