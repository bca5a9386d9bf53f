//! How are delivered messages, whose payloads were kept, queued again?

use tokio_postgres::types::Type;

use super::enqueue::Rejection;
use super::{Store, StoreError};
use crate::domain::{DestinationId, Sequence};

/// One transaction queues so many.
const PIECE: i32 = 500;

#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// Nothing more could be queued.
    #[error("{0:?}")]
    Rejected(Rejection),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Store {
    /// Queues what is kept from a sequence on at the tail, in order; how many. What is delivered meanwhile is
    /// not part of it. `committed` is called after each piece: the bell is the caller's to ring, also when a later one
    /// fails.
    pub async fn replay(
        &self,
        id: DestinationId,
        from: Sequence,
        committed: impl Fn() + Send,
    ) -> Result<i64, ReplayError> {
        let rows = self
            .query(
                "select coalesce(max(sequence), 0) from orderly.kept where destination_id = $1",
                &[(&id.0, Type::INT8)],
            )
            .await?;
        let through: i64 = rows.first().map_or(0, |row| row.get(0));
        let mut above = from.0 - 1;
        let mut queued = 0;
        loop {
            let rows = self
                .query(
                    "select status, last, queued from orderly.replay($1, $2, $3, $4)",
                    &[(&id.0, Type::INT8), (&above, Type::INT8), (&through, Type::INT8), (&PIECE, Type::INT4)],
                )
                .await?;
            let Some(row) = rows.first() else { return Ok(queued) };
            let reason = match row.get::<_, &str>(0) {
                "queued" => None,
                "disabled" => Some(Rejection::Disabled),
                "full" => Some(Rejection::Full),
                _ => Some(Rejection::UnknownDestination),
            };
            if let Some(reason) = reason {
                return Err(ReplayError::Rejected(reason));
            }
            match row.get::<_, Option<i64>>(1) {
                None => return Ok(queued),
                Some(last) => above = last,
            }
            queued += row.get::<_, i64>(2);
            committed();
        }
    }
}
