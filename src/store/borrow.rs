//! How does an API process send one request itself, beside the queue and yet alone (G3)?
//!
//! It holds the destination's lock in an explicit transaction while it sends. Whoever serves the
//! destination is asked to lend it, which it does between two requests; claims keep away meanwhile.

use std::time::Duration;

use deadpool_postgres::Object;
use serde_json::json;
use tokio::time::Instant;
use tokio_postgres::types::Type;

use super::control::ControlError;
use super::session::LaneStart;
use super::{Store, StoreError};
use crate::domain::DestinationId;

const PATIENCE: Duration = Duration::from_millis(4_500);
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(160);

/// A destination that nobody else may send to. Dropping it closes the connection, and so ends the loan.
pub struct Borrowed {
    client: Option<Object>,
    request: Option<i64>,
    store: Store,
    pub start: LaneStart,
}

impl Store {
    /// For one request that takes at most `within`. 409 while the head is in flight.
    pub async fn borrow(&self, id: DestinationId, within: Duration) -> Result<Borrowed, ControlError> {
        let deadline = Instant::now() + PATIENCE;
        let mut pause = FIRST_PAUSE;
        let mut request = None;
        loop {
            if let Some(client) = self.try_borrow(id, within).await? {
                let rows = client
                    .query_typed("select * from orderly.lanes(array[$1::bigint])", &[(&id.0, Type::INT8)])
                    .await
                    .map_err(StoreError::from)?;
                let start = rows.first().map(|row| super::session::read_lane(&self.sealer, row)).transpose()?;
                let start = start.ok_or(ControlError::NotFound)?;
                return Ok(Borrowed { client: Some(client), request, store: self.clone(), start });
            }
            match request {
                // It outlives this wait: claims keep away while the request is pending.
                None => request = Some(self.ask(id, "lend", &json!({}), PATIENCE + within).await?),
                Some(request) => {
                    if let Some(answer) = self.collect_answer(request, false).await? {
                        super::control::finish(&answer)?;
                    }
                }
            }
            if Instant::now() >= deadline {
                if let Some(request) = request {
                    self.collect_answer(request, true).await?;
                }
                return Err(
                    StoreError::Unreachable("the worker that serves the destination did not lend it".into()).into()
                );
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn try_borrow(&self, id: DestinationId, within: Duration) -> Result<Option<Object>, ControlError> {
        let client = self.client().await?;
        client.batch_execute("begin").await.map_err(StoreError::from)?;
        let seconds = within.as_secs_f64() + 5.0;
        let rows =
            client.query_typed("select orderly.borrow($1, $2)", &[(&id.0, Type::INT8), (&seconds, Type::FLOAT8)]).await;
        let verdict = match &rows {
            Ok(rows) => rows.first().map_or("busy", |row| row.get::<_, &str>(0)),
            Err(_) => {
                // In what state the transaction is, is not known.
                drop(Object::take(client));
                rows.map_err(StoreError::from)?;
                return Ok(None);
            }
        };
        match verdict {
            "ok" => Ok(Some(client)),
            other => {
                let missing = other == "not_found";
                client.batch_execute("rollback").await.map_err(StoreError::from)?;
                if missing { Err(ControlError::NotFound) } else { Ok(None) }
            }
        }
    }
}

impl Borrowed {
    /// Gives it back, and keeps what was sent for `max_per_second`; whoever should serve it hears of it.
    pub async fn give_back(mut self, id: DestinationId) {
        let note =
            format!("update orderly.claims set last_start_at = clock_timestamp() where destination_id = {id}; commit");
        if let Some(client) = self.client.take()
            && client.batch_execute(&note).await.is_err()
        {
            drop(Object::take(client));
        }
        if let Some(request) = self.request {
            let _ = self.store.collect_answer(request, true).await;
        }
        let _ = self.store.query("select orderly.ring($1)", &[(&format!("w{id}"), Type::TEXT)]).await;
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        if let Some(client) = self.client.take() {
            drop(Object::take(client));
        }
    }
}
