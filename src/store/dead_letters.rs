//! Which messages were given up on, and how are they queued again?

use bytes::Bytes;
use chrono::{DateTime, Utc};
use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::enqueue::{Queued, Rejection};
use super::messages::{read_headers, read_id, read_state};
use super::{Store, StoreError};
use crate::domain::{DestinationId, Headers, MessageId, MessageState, Sequence};

/// A message that ended as exhausted or expired.
#[derive(Debug, Clone)]
pub struct DeadLetter {
    pub id: MessageId,
    pub state: MessageState,
    pub ended_at: DateTime<Utc>,
    pub created_at: DateTime<Utc>,
    pub expires_at: DateTime<Utc>,
    pub attempts: i32,
    pub last_error: Option<String>,
    pub content_type: String,
    pub headers: Headers,
    /// Never in lists.
    pub payload: Option<Bytes>,
}

/// A dead letter's second life.
#[derive(Debug, Clone)]
pub struct Redriven {
    pub from: MessageId,
    pub queued: Queued,
}

#[derive(Debug, thiserror::Error)]
pub enum RedriveError {
    #[error("{0:?}")]
    Rejected(Rejection),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Store {
    /// After a place in the order of destination and sequence. What has expired in a queue that is named
    /// and that nobody serves counts at once.
    pub async fn list_dead_letters(
        &self,
        tenant: Option<&str>,
        destination: Option<i64>,
        after: (i64, i64),
        limit: i32,
    ) -> Result<Vec<DeadLetter>, StoreError> {
        if let Some(id) = destination {
            self.settle_expired(DestinationId(id)).await?;
        }
        let rows = self
            .query(
                "select destination_id, sequence, outcome, ended_at, created_at, expires_at, attempts, last_error,
                        content_type, headers
                 from orderly.list_dead_letters($1, $2, $3, $4, $5)",
                &[
                    (&tenant, Type::TEXT),
                    (&destination, Type::INT8),
                    (&after.0, Type::INT8),
                    (&after.1, Type::INT8),
                    (&limit, Type::INT4),
                ],
            )
            .await?;
        rows.iter().map(|row| read_letter(row, None)).collect()
    }

    /// By the primary key of ends.
    pub async fn find_dead_letter(
        &self,
        id: MessageId,
        tenant: Option<&str>,
    ) -> Result<Option<DeadLetter>, StoreError> {
        self.settle_expired(id.destination).await?;
        let rows = self
            .query(
                "select e.destination_id, e.sequence, e.outcome, e.ended_at, e.created_at, e.expires_at, e.attempts,
                        e.last_error, e.content_type, e.headers, e.payload
                 from orderly.ends e join orderly.destinations d on d.id = e.destination_id
                 where e.destination_id = $1 and e.sequence = $2 and e.outcome <> 'skipped'
                   and ($3::text is null or d.tenant = $3)",
                &[(&id.destination.0, Type::INT8), (&id.sequence.0, Type::INT8), (&tenant, Type::TEXT)],
            )
            .await?;
        rows.first().map(|row| read_letter(row, Some(Bytes::from(row.try_get::<_, Vec<u8>>(10)?)))).transpose()
    }

    /// Whether there was one. Locks its row alone.
    pub async fn delete_dead_letter(&self, id: MessageId, tenant: Option<&str>) -> Result<bool, StoreError> {
        self.settle_expired(id.destination).await?;
        let rows = self
            .query(
                "delete from orderly.ends e using orderly.destinations d
                 where e.destination_id = $1 and e.sequence = $2 and e.outcome <> 'skipped'
                   and d.id = e.destination_id and ($3::text is null or d.tenant = $3)
                 returning e.sequence",
                &[(&id.destination.0, Type::INT8), (&id.sequence.0, Type::INT8), (&tenant, Type::TEXT)],
            )
            .await?;
        Ok(!rows.is_empty())
    }

    /// Queues one dead letter again, or, without a sequence, the oldest of a destination: at most `most`
    /// and 32 MiB at once, in their order. Empty: there is none. The bell is the caller's to ring.
    pub async fn redrive(
        &self,
        destination: DestinationId,
        sequence: Option<Sequence>,
        tenant: Option<&str>,
        most: i32,
    ) -> Result<Vec<Redriven>, RedriveError> {
        let one = sequence.map(|sequence| sequence.0);
        let rows = self
            .query(
                "select status, redriven_from, sequence, created_at, expires_at from orderly.redrive($1, $2, $3, $4)",
                &[(&destination.0, Type::INT8), (&tenant, Type::TEXT), (&one, Type::INT8), (&most, Type::INT4)],
            )
            .await?;
        rows.iter()
            .map(|row| match row.try_get(0).map_err(StoreError::from)? {
                "queued" => Ok(read_redriven(destination, row)?),
                "unknown" => Err(RedriveError::Rejected(Rejection::UnknownDestination)),
                "disabled" => Err(RedriveError::Rejected(Rejection::Disabled)),
                "full" => Err(RedriveError::Rejected(Rejection::Full)),
                other => Err(StoreError::Corrupt(format!("redrive answered {other:?}")).into()),
            })
            .collect()
    }

    /// Makes dead letters of what has expired in a queue that nobody serves.
    pub async fn settle_expired(&self, destination: DestinationId) -> Result<(), StoreError> {
        self.query("select orderly.settle_expired($1)", &[(&destination.0, Type::INT8)]).await.map(drop)
    }
}

fn read_letter(row: &Row, payload: Option<Bytes>) -> Result<DeadLetter, StoreError> {
    Ok(DeadLetter {
        id: read_id(row)?,
        state: read_state(row, 2)?,
        ended_at: row.try_get(3)?,
        created_at: row.try_get(4)?,
        expires_at: row.try_get(5)?,
        attempts: row.try_get(6)?,
        last_error: row.try_get(7)?,
        content_type: row.try_get(8)?,
        headers: read_headers(row, 9)?,
        payload,
    })
}

fn read_redriven(destination: DestinationId, row: &Row) -> Result<Redriven, StoreError> {
    let id = |column| -> Result<MessageId, StoreError> {
        Ok(MessageId { destination, sequence: Sequence(row.try_get(column)?) })
    };
    Ok(Redriven {
        from: id(1)?,
        queued: Queued { id: id(2)?, created_at: row.try_get(3)?, expires_at: row.try_get(4)? },
    })
}
