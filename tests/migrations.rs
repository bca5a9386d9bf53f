//! Is the schema brought up to date exactly once, and is a strange one refused?

use orderly::store::migrate::{self, MigrateError};

use crate::support::posters::{assert_all_arrived, assert_told_in_time};
use crate::support::{Posters, Process, Receiver, Stage, TestDatabase};

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
    // As a migration does it: columns with defaults, in one transaction.
    stage
        .queue
        .sql(
            "begin;
             alter table orderly.messages add column later text not null default 'x';
             alter table orderly.destinations add column later text not null default 'x';
             alter table orderly.claims add column later text not null default 'x';
             alter table orderly.workers add column later text not null default 'x';
             alter table orderly.attempts add column later text not null default 'x';
             insert into orderly.schema_history (version, name, applied_on, checksum)
             select 9999, 'from_the_future', applied_on, '0' from orderly.schema_history limit 1;
             commit",
        )
        .await;
    posters.wait_for_each(10, |one| one.accepted()).await;
    stage.api.steer(ids[0], "pause").await;
    stage.api.steer(ids[0], "resume").await;
    let posted = posters.stop().await;
    assert_told_in_time(&posted);
    assert!(posted.iter().all(|one| one.accepted()), "no post was refused");
    assert_all_arrived(&receiver, &posted, &["/0", "/1"], 0).await;
    assert!(!worker.stderr().iter().any(|line| line.contains("the session was lost")), "{:#?}", worker.stderr());
}
