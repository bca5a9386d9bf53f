//! What do workers ask through the pool: who is there, who has died, what fell through?

use std::time::Duration;

use tokio_postgres::types::Type;

use super::{Store, StoreError};
use crate::domain::{DestinationId, WorkerId};

/// Messages that are ended in one transaction.
const EXPIRED_AT_ONCE: i32 = 2_000;

/// A worker as the others see it.
#[derive(Debug, Clone)]
pub struct Member {
    pub id: WorkerId,
    pub kind: String,
    pub host: String,
}

impl Store {
    pub async fn list_members(&self) -> Result<Vec<Member>, StoreError> {
        let rows = self.query("select id, kind, host from orderly.workers order by id", &[]).await?;
        Ok(rows.iter().map(|row| Member { id: WorkerId(row.get(0)), kind: row.get(1), host: row.get(2) }).collect())
    }

    /// Takes the rows of the dead away, and says so to all; who it was. Those from before a restart of
    /// Postgres are given `grace` to come back.
    pub async fn reap(&self, grace: Duration) -> Result<Vec<WorkerId>, StoreError> {
        let rows = self.query("select orderly.reap($1)", &[(&grace.as_secs_f64(), Type::FLOAT8)]).await?;
        Ok(rows.iter().map(|row| WorkerId(row.get(0))).collect())
    }

    /// How long some worker from before a restart of Postgres may still be sending.
    pub async fn grace_left(&self, grace: Duration) -> Result<Option<Duration>, StoreError> {
        let rows = self.query("select orderly.grace_left_ms($1)", &[(&grace.as_secs_f64(), Type::FLOAT8)]).await?;
        let left = rows.first().and_then(|row| row.get::<_, Option<i64>>(0));
        Ok(left.map(|ms| Duration::from_millis(u64::try_from(ms).unwrap_or(0))))
    }

    /// Destinations that nobody serves and that have messages: ready, or after a wait.
    pub async fn list_unserved(&self, me: WorkerId) -> Result<Vec<(DestinationId, Option<Duration>)>, StoreError> {
        // Reads each claim once; at 100,000 destinations 0.3 s.
        let rows = self
            .query_within(
                Duration::from_secs(30),
                "select destination_id, wait_ms from orderly.unserved($1)",
                &[(&me.0, Type::INT8)],
            )
            .await?;
        Ok(rows
            .iter()
            .map(|row| {
                let wait = row.get::<_, Option<i64>>(1).map(|ms| Duration::from_millis(u64::try_from(ms).unwrap_or(0)));
                (DestinationId(row.get(0)), wait)
            })
            .collect())
    }

    /// Of these, what nobody serves though its head could have been sent for so long.
    pub async fn list_neglected(
        &self,
        ids: &[DestinationId],
        after: Duration,
    ) -> Result<Vec<DestinationId>, StoreError> {
        let ids: Vec<i64> = ids.iter().map(|id| id.0).collect();
        let rows = self
            .query(
                "select orderly.neglected($1, $2)",
                &[(&ids, Type::INT8_ARRAY), (&after.as_secs_f64(), Type::FLOAT8)],
            )
            .await?;
        Ok(rows.iter().map(|row| DestinationId(row.get(0))).collect())
    }

    pub async fn list_owned_by(&self, worker: WorkerId) -> Result<Vec<DestinationId>, StoreError> {
        let rows = self.query("select orderly.owned_by($1)", &[(&worker.0, Type::INT8)]).await?;
        Ok(rows.iter().map(|row| DestinationId(row.get(0))).collect())
    }

    /// Messages that no bell told of. Ends a piece of what expired where nobody serves (true: there may be more), and
    /// asks workers to do so where they do.
    pub async fn sweep(&self, after: Duration) -> Result<(Vec<DestinationId>, bool), StoreError> {
        let rows = self
            .query_within(
                Duration::from_secs(30),
                "select array(select orderly.sweep($1)), orderly.expire_unserved($2), orderly.expire_served()",
                &[(&after.as_secs_f64(), Type::FLOAT8), (&EXPIRED_AT_ONCE, Type::INT4)],
            )
            .await?;
        let Some(row) = rows.first() else { return Ok((Vec::new(), false)) };
        let found = row.get::<_, Vec<i64>>(0).into_iter().map(DestinationId).collect();
        Ok((found, row.get(1)))
    }

    /// A further piece of what expired where nobody serves; whether there may be more.
    pub async fn expire_unserved(&self) -> Result<bool, StoreError> {
        let rows = self
            .query_within(
                Duration::from_secs(30),
                "select orderly.expire_unserved($1)",
                &[(&EXPIRED_AT_ONCE, Type::INT4)],
            )
            .await?;
        Ok(rows.first().is_some_and(|row| row.get(0)))
    }

    pub async fn end_session(&self, worker: WorkerId) -> Result<bool, StoreError> {
        let rows = self.query("select orderly.end_session($1)", &[(&worker.0, Type::INT8)]).await?;
        Ok(rows.first().is_some_and(|row| row.get(0)))
    }

    pub async fn maintain_partitions(&self, keep_days: u32) -> Result<(), StoreError> {
        let days = i32::try_from(keep_days).unwrap_or(i32::MAX);
        self.query("select orderly.maintain_partitions($1)", &[(&days, Type::INT4)]).await.map(drop)
    }

    /// A piece of what is past its time; how many rows went.
    pub async fn prune(&self, attempt_days: u32, letter_days: u32, payload_hours: u32) -> Result<i64, StoreError> {
        let [attempts, letters, payloads] =
            [attempt_days, letter_days, payload_hours].map(|n| i32::try_from(n).unwrap_or(i32::MAX));
        let rows = self
            .query(
                "select orderly.prune($1, $2, $3, 2000)",
                &[(&attempts, Type::INT4), (&letters, Type::INT4), (&payloads, Type::INT4)],
            )
            .await?;
        Ok(rows.first().map_or(0, |row| row.get(0)))
    }

    pub async fn destination_exists(&self, id: DestinationId) -> Result<bool, StoreError> {
        let rows = self.query("select 1 from orderly.destinations where id = $1", &[(&id.0, Type::INT8)]).await?;
        Ok(!rows.is_empty())
    }

    /// After a receiver's 410: nothing more is queued for it until it is resumed. Fails while somebody holds its
    /// queue's lock.
    pub async fn disable_destination(&self, id: DestinationId) -> Result<(), StoreError> {
        self.query("select orderly.disable($1)", &[(&id.0, Type::INT8)]).await.map(drop)
    }

    /// Destinations with messages that workers alive serve.
    pub async fn count_served_elsewhere(&self, only: Option<DestinationId>) -> Result<u64, StoreError> {
        let only = only.map(|id| id.0);
        let rows = self
            .query(
                "select count(*) from orderly.claims c join orderly.workers w on w.id = c.owner
                 where ($1::bigint is null or c.destination_id = $1)
                   and exists (select from orderly.messages m where m.destination_id = c.destination_id and m.sequence > c.floor)",
                &[(&only, Type::INT8)],
            )
            .await?;
        Ok(rows.first().map_or(0, |row| row.get::<_, i64>(0).unsigned_abs()))
    }

    /// How many messages are queued, for a progress bar; counts at most `most`.
    pub async fn count_queued(&self, destination: Option<DestinationId>, most: i64) -> Result<i64, StoreError> {
        let id = destination.map(|id| id.0);
        let rows = self
            .query(
                "select count(*) from (select from orderly.messages where $1::bigint is null or destination_id = $1 limit $2) m",
                &[(&id, Type::INT8), (&most, Type::INT8)],
            )
            .await?;
        Ok(rows.first().map_or(0, |row| row.get(0)))
    }
}
