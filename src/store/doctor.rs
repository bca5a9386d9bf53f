//! What does the database say of its own condition, for `orderly doctor`?
//!
//! Read only, save one message in the WAL that times a commit and one NOTIFY on a channel of its own. Each
//! question is asked by itself and without a named statement: it may go through a transaction pooler, and
//! one that the role may not ask must not hide the answers to the others.

mod engine;
mod server;
mod sessions;

use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use tokio_postgres::types::Type;
use tokio_postgres::{Row, SimpleQueryMessage};

use super::connect::{Connector, Dedicated};
use super::pool::Parameter;
use super::{StoreError, migrate};

pub use engine::{Blocked, Incarnation, Partitions, Registered, Sealed, Unserved};
pub use server::{Locks, Replication, Server, Settings, Slot, Standby, StuckCommits};
pub use sessions::{DeadTuples, Session, VacuumSettings};

/// A question that takes longer is told as unanswered.
const LIMIT: Duration = Duration::from_secs(10);
/// A notification comes back within milliseconds, or never.
const ECHO_LIMIT: Duration = Duration::from_secs(3);

/// Two connections of the doctor's own.
pub struct Examiner {
    /// Listens.
    first: Dedicated,
    second: Dedicated,
}

impl Examiner {
    pub async fn connect(connector: &Connector) -> Result<Examiner, StoreError> {
        Ok(Examiner { first: connector.dedicated().await?, second: connector.dedicated().await? })
    }

    async fn rows(&self, sql: &str, parameters: &[Parameter<'_>]) -> Result<Vec<Row>, StoreError> {
        match tokio::time::timeout(LIMIT, self.first.client.query_typed(sql, parameters)).await {
            Ok(rows) => Ok(rows?),
            Err(elapsed) => Err(StoreError::Unreachable(Box::new(elapsed))),
        }
    }

    async fn row(&self, sql: &str) -> Result<Row, StoreError> {
        let rows = self.rows(sql, &[]).await?;
        rows.into_iter().next().ok_or_else(|| StoreError::Corrupt(format!("no row came of {sql:?}")))
    }

    /// Of the schema; 0 when there is none.
    pub async fn schema_version(&self) -> Result<i32, StoreError> {
        migrate::current_version(&self.first.client).await
    }

    /// Whether a notification comes back to who listens; behind a transaction pooler it does not.
    pub async fn hears_itself(&mut self) -> Result<bool, StoreError> {
        let hello = format!("{:016x}", rand::random::<u64>());
        self.first.client.batch_execute("listen orderly_doctor").await?;
        // Does not wait for a standby, as the bell does not.
        let sql = "select set_config('synchronous_commit', 'off', true), pg_notify('orderly_doctor', $1)";
        let parameters: [Parameter<'_>; 1] = [(&hello, Type::TEXT)];
        let rung = self.second.client.query_typed(sql, &parameters);
        tokio::time::timeout(LIMIT, rung).await.map_err(|elapsed| StoreError::Unreachable(Box::new(elapsed)))??;
        let heard = async {
            while let Some((_, payload)) = self.first.notifications.recv().await {
                if payload == hello {
                    return true;
                }
            }
            false
        };
        let heard = tokio::time::timeout(ECHO_LIMIT, heard).await.unwrap_or(false);
        self.first.client.batch_execute("unlisten orderly_doctor").await?;
        Ok(heard)
    }

    /// How long a commit takes to be durable, by one small message in the WAL that nobody reads.
    pub async fn time_commit(&self) -> Result<Duration, StoreError> {
        let begun = Instant::now();
        self.row("select set_config('synchronous_commit', 'on', true), pg_logical_emit_message(true, 'orderly', 'doctor')::text")
            .await?;
        Ok(begun.elapsed())
    }

    /// What `tcp_user_timeout` is in force after a worker's setting of it, in milliseconds; 0 is none.
    pub async fn tcp_user_timeout_ms(&self) -> Result<i64, StoreError> {
        let sql = "begin; set local tcp_user_timeout = '11s'; select current_setting('tcp_user_timeout'); rollback";
        let answers = self.first.client.simple_query(sql).await?;
        let text = answers.iter().find_map(|answer| match answer {
            SimpleQueryMessage::Row(row) => row.get(0),
            _ => None,
        });
        let digits: String = text.unwrap_or_default().chars().take_while(char::is_ascii_digit).collect();
        let number = digits.parse().unwrap_or(0);
        // `11s` or `11000`, as the server likes.
        Ok(if text.is_some_and(|text| text.ends_with("ms") || text == digits) { number } else { number * 1_000 })
    }

    /// The database's clock, between two looks at this machine's.
    pub async fn clock(&self) -> Result<DateTime<Utc>, StoreError> {
        Ok(self.row("select clock_timestamp()").await?.try_get(0)?)
    }
}
