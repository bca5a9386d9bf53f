//! In which condition are the server, its settings, and what other sessions do to it?

use std::collections::HashMap;

use super::Examiner;
use crate::store::StoreError;

/// Who answers, and how we are connected.
#[derive(Debug, Clone)]
pub struct Server {
    pub version: String,
    /// 150014 for 15.14.
    pub version_number: i32,
    pub address: Option<String>,
    pub database: String,
    pub role: String,
    pub encoding: String,
    pub is_standby: bool,
    pub is_read_only: bool,
    pub has_tls: bool,
    /// A socket or the loopback interface.
    pub is_local: bool,
    /// Whether the role may see what other roles' sessions do.
    pub sees_all: bool,
}

/// By name, in Postgres' own units.
#[derive(Debug, Clone, Default)]
pub struct Settings(HashMap<String, String>);

impl Settings {
    pub fn text(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }

    /// 0 where it does not exist.
    pub fn number(&self, name: &str) -> i64 {
        self.text(name).parse().unwrap_or(0)
    }

    /// What all locks that are not a transaction's first few share.
    pub fn lock_table_size(&self) -> i64 {
        self.number("max_locks_per_transaction")
            * (self.number("max_connections") + self.number("max_prepared_transactions"))
    }
}

impl<const N: usize> From<[(&str, &str); N]> for Settings {
    fn from(settings: [(&str, &str); N]) -> Self {
        Settings(settings.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
    }
}

#[derive(Debug, Clone, Copy)]
pub struct Locks {
    /// Entries of the lock table, all databases together.
    pub all: i64,
    /// Advisory ones, all databases together.
    pub advisory: i64,
    /// Client sessions, all databases together.
    pub sessions: i64,
}

#[derive(Debug, Clone)]
pub struct Standby {
    pub name: String,
    /// `sync`, `quorum`, `potential`, `async`; `None`: the role may not see it.
    pub sync_state: Option<String>,
}

#[derive(Debug, Clone)]
pub struct Slot {
    pub name: String,
    pub retained_bytes: i64,
}

#[derive(Debug, Clone)]
pub struct Replication {
    pub standbys: Vec<Standby>,
    /// Nobody uses them, and yet the WAL is kept for them.
    pub idle_slots: Vec<Slot>,
}

/// Commits that wait for a standby.
#[derive(Debug, Clone, Copy)]
pub struct StuckCommits {
    pub count: i64,
    pub longest_seconds: f64,
}

impl Examiner {
    pub async fn server(&self) -> Result<Server, StoreError> {
        let row = self
            .row(
                "select current_setting('server_version'), current_setting('server_version_num')::int,
                        host(inet_server_addr()) || ':' || inet_server_port(), current_database()::text,
                        current_user::text, current_setting('server_encoding'), pg_is_in_recovery(),
                        current_setting('transaction_read_only')::bool,
                        coalesce((select s.ssl from pg_stat_ssl s where s.pid = pg_backend_pid()), false),
                        inet_client_addr() is null or inet_client_addr() <<= '127.0.0.0/8' or inet_client_addr() = '::1',
                        pg_has_role(current_user, 'pg_read_all_stats', 'usage')",
            )
            .await?;
        Ok(Server {
            version: row.try_get(0)?,
            version_number: row.try_get(1)?,
            address: row.try_get(2)?,
            database: row.try_get(3)?,
            role: row.try_get(4)?,
            encoding: row.try_get(5)?,
            is_standby: row.try_get(6)?,
            is_read_only: row.try_get(7)?,
            has_tls: row.try_get(8)?,
            is_local: row.try_get(9)?,
            sees_all: row.try_get(10)?,
        })
    }

    pub async fn settings(&self) -> Result<Settings, StoreError> {
        let rows =
            self.rows("select name::text, setting::text from pg_settings where setting is not null", &[]).await?;
        Ok(Settings(rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect::<Result<_, StoreError>>()?))
    }

    pub async fn locks(&self) -> Result<Locks, StoreError> {
        let row = self
            .row(
                "select count(*) filter (where not l.fastpath), count(*) filter (where l.locktype = 'advisory'),
                        (select count(*) from pg_stat_activity a where a.backend_type = 'client backend')
                 from pg_locks l",
            )
            .await?;
        Ok(Locks { all: row.try_get(0)?, advisory: row.try_get(1)?, sessions: row.try_get(2)? })
    }

    /// Logical subscribers are none of those that a failover goes to.
    pub async fn replication(&self) -> Result<Replication, StoreError> {
        let standbys = self
            .rows(
                "select coalesce(r.application_name, ''), r.sync_state::text from pg_stat_replication r
                 where coalesce(r.state, 'streaming') in ('streaming', 'catchup')
                   and not exists (select from pg_replication_slots s where s.active_pid = r.pid and s.slot_type = 'logical')",
                &[],
            )
            .await?;
        let slots = self
            .rows(
                "select slot_name::text, coalesce(pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn), 0)::bigint
                 from pg_replication_slots where not active order by 2 desc",
                &[],
            )
            .await?;
        Ok(Replication {
            standbys: standbys
                .iter()
                .map(|row| Ok(Standby { name: row.try_get(0)?, sync_state: row.try_get(1)? }))
                .collect::<Result<_, StoreError>>()?,
            idle_slots: slots
                .iter()
                .map(|row| Ok(Slot { name: row.try_get(0)?, retained_bytes: row.try_get(1)? }))
                .collect::<Result<_, StoreError>>()?,
        })
    }

    pub async fn stuck_commits(&self) -> Result<StuckCommits, StoreError> {
        let row = self
            .row(
                "select count(*), coalesce(max(extract(epoch from clock_timestamp() - state_change)), 0)::float8
                 from pg_stat_activity where wait_event = 'SyncRep'
                   and coalesce(state_change, query_start) < clock_timestamp() - interval '2 s'",
            )
            .await?;
        Ok(StuckCommits { count: row.try_get(0)?, longest_seconds: row.try_get(1)? })
    }
}
