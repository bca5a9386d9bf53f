//! Is the schema brought up to date exactly once, and is a strange one refused?

use orderly::store::migrate::{self, MigrateError};

use crate::support::{Process, TestDatabase};

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
