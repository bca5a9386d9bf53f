//! Why does a queue move or not, and who are the workers?

use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::{Store, StoreError};
use crate::domain::{DestinationId, QueueState, Sequence, WorkerId};

/// A queue at one moment.
#[derive(Debug, Clone)]
pub struct QueueView {
    /// What is queued, the head included.
    pub depth: i64,
    pub oldest_created_at: Option<DateTime<Utc>>,
    pub state: QueueState,
    pub head: Option<HeadView>,
    pub worker: Option<HolderView>,
}

#[derive(Debug, Clone)]
pub struct HeadView {
    pub sequence: Sequence,
    pub attempts: i32,
    pub last_error: Option<String>,
    pub next_attempt_at: Option<DateTime<Utc>>,
}

/// The worker that serves a queue.
#[derive(Debug, Clone)]
pub struct HolderView {
    pub id: WorkerId,
    pub host: String,
    pub since: Option<DateTime<Utc>>,
}

/// A worker that is registered.
#[derive(Debug, Clone)]
pub struct WorkerView {
    pub id: WorkerId,
    pub host: String,
    pub pid: i32,
    pub kind: String,
    pub destination: Option<DestinationId>,
    pub since: DateTime<Utc>,
    /// How many it serves right now.
    pub destinations: i64,
}

impl Store {
    /// `None`: no such destination. Counts, so in proportion to the depth.
    pub async fn queue_state(&self, id: DestinationId, tenant: Option<&str>) -> Result<Option<QueueView>, StoreError> {
        let rows = self
            .query(
                "select depth, oldest_created_at, state, head, attempts, last_error, next_attempt_at, worker_id,
                        worker_host, worker_since
                 from orderly.queue_state($1, $2)",
                &[(&id.0, Type::INT8), (&tenant, Type::TEXT)],
            )
            .await?;
        rows.first().map(read_queue).transpose()
    }

    /// Queues that hold something or were stopped, those that wait longest first; without `all`, the empty
    /// ones that may move are left out. One look by primary key for each destination, then a count for each
    /// that is left.
    pub async fn list_queues(&self, all: bool) -> Result<Vec<(DestinationId, String, QueueView)>, StoreError> {
        let rows = self
            .query_within(
                Duration::from_secs(30),
                "select q.depth, q.oldest_created_at, q.state, q.head, q.attempts, q.last_error, q.next_attempt_at,
                        q.worker_id, q.worker_host, q.worker_since, d.id, d.url
                 from orderly.destinations d
                 left join orderly.claims c on c.destination_id = d.id
                 cross join lateral orderly.queue_state(d.id, null) q
                 where $1 or d.state <> 'active'
                    or exists (select from orderly.messages m where m.destination_id = d.id and m.sequence > c.floor)
                 order by q.oldest_created_at nulls last, d.id",
                &[(&all, Type::BOOL)],
            )
            .await?;
        rows.iter().map(|row| Ok((DestinationId(row.try_get(10)?), row.try_get(11)?, read_queue(row)?))).collect()
    }

    /// Those that live, by id; what each serves is counted by `claims_by_owner`.
    pub async fn list_workers(&self, after: i64, limit: i64) -> Result<Vec<WorkerView>, StoreError> {
        let rows = self
            .query(
                "select w.id, w.host, w.pid, w.kind, w.destination_id, w.since,
                        (select count(*) from orderly.claims c where c.owner = w.id)
                 from orderly.workers w where w.id > $1 and orderly.is_alive(w.id) order by w.id limit $2",
                &[(&after, Type::INT8), (&limit, Type::INT8)],
            )
            .await?;
        rows.iter()
            .map(|row| {
                Ok(WorkerView {
                    id: WorkerId(row.try_get(0)?),
                    host: row.try_get(1)?,
                    pid: row.try_get(2)?,
                    kind: row.try_get(3)?,
                    destination: row.try_get::<_, Option<i64>>(4)?.map(DestinationId),
                    since: row.try_get(5)?,
                    destinations: row.try_get(6)?,
                })
            })
            .collect()
    }
}

/// From the columns of `queue_state`, which come first.
fn read_queue(row: &Row) -> Result<QueueView, StoreError> {
    let state: &str = row.try_get(2)?;
    let head = match row.try_get::<_, Option<i64>>(3)? {
        Some(sequence) => Some(HeadView {
            sequence: Sequence(sequence),
            attempts: row.try_get(4)?,
            last_error: row.try_get(5)?,
            next_attempt_at: row.try_get(6)?,
        }),
        None => None,
    };
    let worker = match row.try_get::<_, Option<i64>>(7)? {
        Some(worker) => Some(HolderView { id: WorkerId(worker), host: row.try_get(8)?, since: row.try_get(9)? }),
        None => None,
    };
    Ok(QueueView {
        depth: row.try_get(0)?,
        oldest_created_at: row.try_get(1)?,
        state: QueueState::from_name(state)
            .ok_or_else(|| StoreError::Corrupt(format!("{state:?} is no state of a queue")))?,
        head,
        worker,
    })
}

/// What the database says of all.
#[derive(Debug, Clone)]
pub struct Totals {
    pub workers: i64,
    pub served: i64,
    pub held: i64,
    pub backing_off: i64,
    /// By state.
    pub destinations: Vec<(String, i64)>,
}

impl Store {
    /// Reads each destination once: at 100,000 some 30 ms.
    pub async fn count_totals(&self) -> Result<Totals, StoreError> {
        let rows = self
            .query(
                "select (select count(*) from orderly.workers w where orderly.is_alive(w.id)),
                        (select count(*) from orderly.claims where owner is not null),
                        (select count(*) from orderly.claims where held),
                        (select count(*) from orderly.claims where next_attempt_at > clock_timestamp())",
                &[],
            )
            .await?;
        let states = self.query("select state, count(*) from orderly.destinations group by state", &[]).await?;
        let number = |index| rows.first().map_or(0, |row| row.get(index));
        Ok(Totals {
            workers: number(0),
            served: number(1),
            held: number(2),
            backing_off: number(3),
            destinations: states.iter().map(|row| (row.get(0), row.get(1))).collect(),
        })
    }
}
