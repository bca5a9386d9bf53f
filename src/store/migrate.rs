//! How is the schema brought up to date, also by several hosts at once?

use std::time::Duration;

use refinery::Runner;
use tokio::time::{Instant, sleep};

use super::{Store, StoreError};

mod embedded {
    refinery::embed_migrations!("migrations");
}

/// Tag 0x51 of the one bigint space of advisory locks; see `orderly.lock_key` in the migrations.
const MIGRATION_LOCK: i64 = 0x51 << 56;

/// How long a migration waits for one table. Whoever comes later waits behind it, so it is short; and shorter than
/// Postgres' `deadlock_timeout` (1 s by default), so that in a deadlock with a statement of a running process it is
/// the migration that gives way.
const LOCK_TIMEOUT: Duration = Duration::from_millis(500);
/// Only a wait of more than `deadlock_timeout` makes Postgres cancel an autovacuum that stands in the way: so one of so
/// many tries is that long.
const LONG_TRY: u32 = 3;
const LONG_LOCK_TIMEOUT: &str = "
    select set_config('lock_timeout', (200 + extract(epoch from current_setting('deadlock_timeout')::interval) * 1000)::int::text, false)";
/// Between two tries: what had waited behind the migration goes on.
const PAUSE: Duration = Duration::from_millis(500);
/// In all. A dump or a forgotten transaction may hold a table for hours.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the schema is newer than this program (it has {found}, this program knows {known}); run a newer orderly")]
    Newer { found: i32, known: i32 },
    #[error("the schema is not up to date (it has {found}, this program needs {known}); run `orderly migrate`")]
    Older { found: i32, known: i32 },
    #[error(
        "another transaction holds a table that the migration needs (a dump? a vacuum? a forgotten session?); the schema is as it was \
         or between two versions, which is safe: end that transaction and run `orderly migrate` again"
    )]
    InUse(#[source] refinery::Error),
    #[error("a migration failed")]
    Failed(#[source] refinery::Error),
}

/// The newest version this program knows.
pub fn known_version() -> i32 {
    newest(&embedded::migrations::runner())
}

/// Applies what is missing; the version reached.
pub async fn migrate(store: &Store) -> Result<i32, MigrateError> {
    apply(store, embedded::migrations::runner()).await
}

/// The migrations that [`migrate`] applies.
pub fn migrations() -> Vec<refinery::Migration> {
    embedded::migrations::runner().get_migrations().clone()
}

/// Applies those of the runner that are missing, each in a transaction of its own; the version reached.
///
/// refinery takes no lock between two migrators, so one is held on the same session around it. The tables may be in
/// use: a migration that cannot have one soon is rolled back and tried again, for a minute.
pub async fn apply(store: &Store, mut runner: Runner) -> Result<i32, MigrateError> {
    let known = newest(&runner);
    let mut connection = store.connector().dedicated().await?;
    connection.client.query("select pg_advisory_lock($1)", &[&MIGRATION_LOCK]).await.map_err(StoreError::from)?;
    let found = current_version(&connection.client).await?;
    if found > known {
        return Err(MigrateError::Newer { found, known });
    }
    // The history stands in our own schema, beside an application's.
    connection.client.batch_execute("create schema if not exists orderly").await.map_err(StoreError::from)?;
    runner.set_migration_table_name("orderly.schema_history");
    let short = format!("set lock_timeout = {}", LOCK_TIMEOUT.as_millis());
    let until = Instant::now() + PATIENCE;
    let mut nth = 0_u32;
    loop {
        nth += 1;
        let limit = if nth.is_multiple_of(LONG_TRY) { LONG_LOCK_TIMEOUT } else { short.as_str() };
        connection.client.batch_execute(limit).await.map_err(StoreError::from)?;
        match runner.run_async(&mut connection.client).await {
            Ok(_) => return Ok(known),
            Err(error) if !in_use(&error) => return Err(MigrateError::Failed(error)),
            Err(error) if Instant::now() >= until => return Err(MigrateError::InUse(error)),
            Err(error) => {
                tracing::warn!(%error, "a table is in use; the migration is tried again");
                sleep(PAUSE).await;
            }
        }
    }
}

fn newest(runner: &Runner) -> i32 {
    runner.get_migrations().iter().map(refinery::Migration::version).max().unwrap_or(0)
}

/// Whether it failed only because others use the tables.
fn in_use(error: &refinery::Error) -> bool {
    use tokio_postgres::error::SqlState;
    let cause = std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<tokio_postgres::Error>());
    cause
        .and_then(tokio_postgres::Error::code)
        .is_some_and(|code| [SqlState::LOCK_NOT_AVAILABLE, SqlState::T_R_DEADLOCK_DETECTED].contains(code))
}

/// Whether the schema is the one this program was built for.
pub async fn check(store: &Store) -> Result<(), MigrateError> {
    let client = store.client().await?;
    let known = known_version();
    match current_version(&client).await? {
        found if found > known => Err(MigrateError::Newer { found, known }),
        found if found < known => Err(MigrateError::Older { found, known }),
        _ => Ok(()),
    }
}

/// 0 when there is none.
pub(super) async fn current_version(client: &tokio_postgres::Client) -> Result<i32, StoreError> {
    let exists = client
        .query_typed("select to_regclass('orderly.schema_history') is not null", &[])
        .await?
        .first()
        .is_some_and(|row| row.get(0));
    if !exists {
        return Ok(0);
    }
    let rows = client.query_typed("select coalesce(max(version), 0) from orderly.schema_history", &[]).await?;
    Ok(rows.first().map_or(0, |row| row.get(0)))
}
