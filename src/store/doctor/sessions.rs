//! What do other sessions keep from being cleared away, and is it cleared?

use tokio_postgres::types::Type;

use super::Examiner;
use crate::store::StoreError;

/// A session, or a prepared transaction (then without a process).
#[derive(Debug, Clone)]
pub struct Session {
    pub pid: Option<i32>,
    pub who: String,
    pub state: String,
    pub age_seconds: f64,
}

#[derive(Debug, Clone)]
pub struct DeadTuples {
    pub table: String,
    pub live: i64,
    pub dead: i64,
}

#[derive(Debug, Clone)]
pub struct VacuumSettings {
    /// Tables of ours that autovacuum was told to leave alone.
    pub exempt: Vec<String>,
    pub worst: Option<DeadTuples>,
}

impl Examiner {
    /// The part of the notification queue that is in use, 0 to 1; at 1 a commit that notifies fails.
    pub async fn notification_queue_usage(&self) -> Result<f64, StoreError> {
        Ok(self.row("select pg_notification_queue_usage()").await?.try_get(0)?)
    }

    /// The session of this database with the oldest transaction, if it keeps rows or locks from others.
    pub async fn oldest_transaction(&self) -> Result<Option<Session>, StoreError> {
        let rows = self
            .rows(
                "select pid, coalesce(usename, '') || case when application_name <> '' then ' (' || application_name || ')' else '' end,
                        coalesce(state, ''), extract(epoch from clock_timestamp() - xact_start)::float8
                 from pg_stat_activity
                 where datname = current_database() and pid <> pg_backend_pid() and xact_start is not null
                   and backend_type in ('client backend', 'walsender', 'parallel worker')
                   and (backend_xmin is not null or backend_xid is not null or state like 'idle in transaction%')
                 order by xact_start limit 1",
                &[],
            )
            .await?;
        rows.first().map(|row| read_session(row, row.try_get(0)?)).transpose()
    }

    pub async fn oldest_prepared(&self) -> Result<Option<Session>, StoreError> {
        let rows = self
            .rows(
                "select null::int, gid || ' of ' || owner, 'prepared', extract(epoch from clock_timestamp() - prepared)::float8
                 from pg_prepared_xacts where database = current_database() order by prepared limit 1",
                &[],
            )
            .await?;
        rows.first().map(|row| read_session(row, None)).transpose()
    }

    pub async fn vacuum(&self) -> Result<VacuumSettings, StoreError> {
        let exempt = self
            .rows(
                "select c.relname::text from pg_class c
                 where c.relnamespace = to_regnamespace($1) and c.reloptions::text ~ 'autovacuum_enabled=(f|off|n|0)'
                 order by 1",
                &[(&"orderly", Type::TEXT)],
            )
            .await?;
        let worst = self
            .rows(
                "select relname::text, n_live_tup, n_dead_tup from pg_stat_all_tables
                 where schemaname = 'orderly' order by n_dead_tup desc, relname limit 1",
                &[],
            )
            .await?;
        let worst = worst
            .first()
            .map(|row| {
                Ok::<_, StoreError>(DeadTuples { table: row.try_get(0)?, live: row.try_get(1)?, dead: row.try_get(2)? })
            })
            .transpose()?;
        Ok(VacuumSettings { exempt: exempt.iter().map(|row| row.get(0)).collect(), worst })
    }
}

fn read_session(row: &tokio_postgres::Row, pid: Option<i32>) -> Result<Session, StoreError> {
    Ok(Session { pid, who: row.try_get(1)?, state: row.try_get(2)?, age_seconds: row.try_get(3)? })
}
