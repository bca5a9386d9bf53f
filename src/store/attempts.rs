//! What came of each try of a message?

use chrono::{DateTime, Utc};
use tokio_postgres::types::Type;

use super::{Store, StoreError};
use crate::domain::MessageId;

/// One try, as the log has it.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// From 1.
    pub number: i32,
    pub at: DateTime<Utc>,
    pub status_code: Option<i16>,
    pub error: Option<String>,
    pub duration_ms: i32,
    /// The start of the answer's body, which may be anything.
    pub response: Option<Vec<u8>>,
}

impl Store {
    /// The tries of one message after number `after`, oldest first: one look into each day's index.
    pub async fn list_attempts(&self, id: MessageId, after: i32, limit: i64) -> Result<Vec<Attempt>, StoreError> {
        let rows = self
            .query(
                "select number, at, status_code, error, duration_ms, response from orderly.attempts
                 where destination_id = $1 and sequence = $2 and number > $3
                 order by number limit $4",
                &[
                    (&id.destination.0, Type::INT8),
                    (&id.sequence.0, Type::INT8),
                    (&after, Type::INT4),
                    (&limit, Type::INT8),
                ],
            )
            .await?;
        rows.iter()
            .map(|row| {
                Ok(Attempt {
                    number: row.try_get(0)?,
                    at: row.try_get(1)?,
                    status_code: row.try_get(2)?,
                    error: row.try_get(3)?,
                    duration_ms: row.try_get(4)?,
                    response: row.try_get(5)?,
                })
            })
            .collect()
    }
}
