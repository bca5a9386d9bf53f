//! How is one message found, and what is queued?

use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde_json::Value;
use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::{Store, StoreError};
use crate::domain::{DestinationId, Headers, MessageId, MessageState, Sequence};

/// A message as clients see it. What the log alone remembers of a delivered one is less: no times, and its
/// content only where a worker was told to keep it.
#[derive(Debug, Clone)]
pub struct MessageView {
    pub id: MessageId,
    pub state: MessageState,
    pub attempts: i32,
    pub created_at: Option<DateTime<Utc>>,
    pub expires_at: Option<DateTime<Utc>>,
    pub content_type: Option<String>,
    pub headers: Option<Headers>,
    pub last_error: Option<String>,
    /// The message that this one repeats.
    pub replay_of: Option<Sequence>,
    /// Never in lists.
    pub payload: Option<Bytes>,
}

impl Store {
    /// Wherever it is in its life; `None` when it is unknown, deleted, or forgotten.
    pub async fn find_message(&self, id: MessageId, tenant: Option<&str>) -> Result<Option<MessageView>, StoreError> {
        let rows = self
            .query(
                "select state, attempts, created_at, expires_at, content_type, headers, payload, last_error, replay_of
                 from orderly.find_message($1, $2, $3)",
                &[(&id.destination.0, Type::INT8), (&id.sequence.0, Type::INT8), (&tenant, Type::TEXT)],
            )
            .await?;
        let Some(row) = rows.first() else { return Ok(None) };
        let content_type: Option<String> = row.try_get(4)?;
        Ok(Some(MessageView {
            id,
            state: read_state(row, 0)?,
            attempts: row.try_get(1)?,
            created_at: row.try_get(2)?,
            expires_at: row.try_get(3)?,
            headers: content_type.is_some().then(|| read_headers(row, 5)).transpose()?,
            content_type,
            payload: row.try_get::<_, Option<Vec<u8>>>(6)?.map(Bytes::from),
            last_error: row.try_get(7)?,
            replay_of: row.try_get::<_, Option<i64>>(8)?.map(Sequence),
        }))
    }

    /// What is queued after a place in the order of destination and sequence.
    pub async fn list_messages(
        &self,
        tenant: Option<&str>,
        destination: Option<i64>,
        after: (i64, i64),
        limit: i32,
    ) -> Result<Vec<MessageView>, StoreError> {
        let rows = self
            .query(
                "select destination_id, sequence, state, attempts, created_at, expires_at, content_type, headers, replay_of
                 from orderly.list_messages($1, $2, $3, $4, $5)",
                &[
                    (&tenant, Type::TEXT),
                    (&destination, Type::INT8),
                    (&after.0, Type::INT8),
                    (&after.1, Type::INT8),
                    (&limit, Type::INT4),
                ],
            )
            .await?;
        rows.iter()
            .map(|row| {
                Ok(MessageView {
                    id: read_id(row)?,
                    state: read_state(row, 2)?,
                    attempts: row.try_get(3)?,
                    created_at: row.try_get(4)?,
                    expires_at: row.try_get(5)?,
                    content_type: row.try_get(6)?,
                    headers: Some(read_headers(row, 7)?),
                    replay_of: row.try_get::<_, Option<i64>>(8)?.map(Sequence),
                    last_error: None,
                    payload: None,
                })
            })
            .collect()
    }
}

/// From the first two columns.
pub(super) fn read_id(row: &Row) -> Result<MessageId, StoreError> {
    Ok(MessageId { destination: DestinationId(row.try_get(0)?), sequence: Sequence(row.try_get(1)?) })
}

pub(super) fn read_state(row: &Row, column: usize) -> Result<MessageState, StoreError> {
    let name: &str = row.try_get(column)?;
    MessageState::from_name(name).ok_or_else(|| StoreError::Corrupt(format!("{name:?} is no state of a message")))
}

pub(super) fn read_headers(row: &Row, column: usize) -> Result<Headers, StoreError> {
    let Some(stored) = row.try_get::<_, Option<Value>>(column)? else { return Ok(Headers::default()) };
    let entries = serde_json::from_value(stored)
        .map_err(|_| StoreError::Corrupt("a message's headers are not strings".to_owned()))?;
    Ok(Headers::from_stored(entries))
}
