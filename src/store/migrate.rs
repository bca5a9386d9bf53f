//! How is the schema brought up to date, also by several hosts at once?

use super::{Store, StoreError};

mod embedded {
    refinery::embed_migrations!("migrations");
}

/// Tag 0x51 of the one bigint space of advisory locks; see `orderly.lock_key` in the migrations.
const MIGRATION_LOCK: i64 = 0x51 << 56;

#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the schema is newer than this program (it has {found}, this program knows {known}); run a newer orderly")]
    Newer { found: i32, known: i32 },
    #[error("the schema is not up to date (it has {found}, this program needs {known}); run `orderly migrate`")]
    Older { found: i32, known: i32 },
    #[error("a migration failed")]
    Failed(#[source] refinery::Error),
}

/// The newest version this program knows.
pub fn known_version() -> i32 {
    embedded::migrations::runner().get_migrations().iter().map(refinery::Migration::version).max().unwrap_or(0)
}

/// Applies what is missing; the version reached.
///
/// refinery takes no lock between two migrators, so one is held on the same session around it.
pub async fn migrate(store: &Store) -> Result<i32, MigrateError> {
    let mut connection = store.connector().dedicated().await?;
    connection.client.query("select pg_advisory_lock($1)", &[&MIGRATION_LOCK]).await.map_err(StoreError::from)?;
    let known = known_version();
    let found = current_version(&connection.client).await?;
    if found > known {
        return Err(MigrateError::Newer { found, known });
    }
    // The history stands in our own schema, beside an application's.
    connection.client.batch_execute("create schema if not exists orderly").await.map_err(StoreError::from)?;
    let mut runner = embedded::migrations::runner();
    runner.set_migration_table_name("orderly.schema_history");
    runner.run_async(&mut connection.client).await.map_err(MigrateError::Failed)?;
    Ok(known)
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
