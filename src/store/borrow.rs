//! How does an API process send one request itself, beside the queue and yet alone (G3)?
//!
//! It asks for the destination, and holds its lock in an explicit transaction while it sends. Whoever serves it
//! lends it between two requests. As long as what was asked is pending, claims keep away, also when the connection
//! is lost, and the lock with it, while the request is in flight.

use std::time::Duration;

use serde_json::json;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, timeout_at};
use tokio_postgres::types::Type;

use super::control::{ControlError, give_up};
use super::pool::{Object, PATIENCE};
use super::session::LaneStart;
use super::{Store, StoreError};
use crate::domain::DestinationId;

/// Each keeps one of the pool's connections for as long as its receiver takes: the others are for everybody else (G5).
pub(super) const LOANS: usize = 4;
/// What was asked outlasts the request that is sent in the last moment, and what comes before and after it.
const SPARE: Duration = Duration::from_secs(2);
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(160);

/// A destination that nobody else may send to. Dropping it closes the connection, and so ends the loan.
pub struct Borrowed {
    loan: Loan,
    request: i64,
    store: Store,
    _permit: OwnedSemaphorePermit,
    pub start: LaneStart,
}

/// A connection in a transaction. Never given back to the pool in it, also when whoever began it was dropped.
struct Loan(Option<Object>);

impl Store {
    /// For one request that takes at most `within`. 409 while the head is in flight. Whoever calls this must not be
    /// dropped half-way: what was asked would keep claims away until its deadline.
    pub async fn borrow(&self, id: DestinationId, within: Duration) -> Result<Borrowed, ControlError> {
        let deadline = Instant::now() + PATIENCE;
        let mut asked = None;
        let work = async {
            let Ok(Ok(permit)) = timeout_at(deadline, self.loans.clone().acquire_owned()).await else {
                return Err(StoreError::Held("as many test requests as may be are under way").into());
            };
            let request = self.ask(id, "lend", &json!({}), PATIENCE + within + SPARE).await?;
            asked = Some(request);
            let (loan, start) = self.borrow_until(deadline, id, within, request).await?;
            Ok(Borrowed { loan, request, store: self.clone(), _permit: permit, start })
        };
        let borrowed = give_up(deadline, work).await;
        if borrowed.is_err()
            && let Some(request) = asked
        {
            let store = self.clone();
            // Whoever waits for the answer has waited long enough.
            tokio::spawn(async move { store.withdraw(id, request).await });
        }
        borrowed
    }

    /// Whoever should serve it hears that it is free.
    async fn withdraw(&self, id: DestinationId, request: i64) {
        let _ = self.collect_answer(request, true).await;
        let _ = self.query("select orderly.ring($1)", &[(&format!("w{id}"), Type::TEXT)]).await;
    }

    async fn borrow_until(
        &self,
        deadline: Instant,
        id: DestinationId,
        within: Duration,
        request: i64,
    ) -> Result<(Loan, LaneStart), ControlError> {
        let mut pause = FIRST_PAUSE;
        loop {
            if let Some(loan) = self.try_borrow(id, within, request).await? {
                let rows = loan
                    .client()?
                    .query_typed("select * from orderly.lanes(array[$1::bigint])", &[(&id.0, Type::INT8)])
                    .await
                    .map_err(StoreError::from)?;
                let start = rows.first().map(|row| super::session::read_lane(&self.sealer, row)).transpose()?;
                return Ok((loan, start.ok_or(ControlError::NotFound)?));
            }
            if let Some(answer) = self.collect_answer(request, false).await? {
                super::control::finish(&answer)?;
            }
            if Instant::now() >= deadline {
                return Err(StoreError::Held("the worker that serves the destination did not lend it").into());
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn try_borrow(
        &self,
        id: DestinationId,
        within: Duration,
        request: i64,
    ) -> Result<Option<Loan>, ControlError> {
        let mut loan = Loan(Some(self.client().await?));
        let client = loan.client()?;
        client.batch_execute("begin").await.map_err(StoreError::from)?;
        let seconds = within.as_secs_f64() + 5.0;
        let rows = client
            .query_typed(
                "select orderly.borrow($1, $2, $3)",
                &[(&id.0, Type::INT8), (&seconds, Type::FLOAT8), (&request, Type::INT8)],
            )
            .await
            .map_err(StoreError::from)?;
        match rows.first().map_or("busy", |row| row.get::<_, &str>(0)) {
            "ok" => Ok(Some(loan)),
            other => {
                let missing = other == "not_found";
                loan.end("rollback").await?;
                if missing { Err(ControlError::NotFound) } else { Ok(None) }
            }
        }
    }
}

impl Loan {
    fn client(&self) -> Result<&Object, StoreError> {
        self.0.as_ref().ok_or_else(|| StoreError::Corrupt("a loan was ended twice".to_owned()))
    }

    /// Ends the transaction; only then the connection is the pool's again.
    async fn end(&mut self, how: &str) -> Result<(), StoreError> {
        self.client()?.batch_execute(how).await?;
        drop(self.0.take());
        Ok(())
    }
}

impl Drop for Loan {
    /// In what state the transaction is, is not known.
    fn drop(&mut self) {
        if let Some(client) = self.0.take() {
            drop(Object::take(client));
        }
    }
}

impl Borrowed {
    /// Gives it back, and keeps what was sent for `max_per_second`; whoever should serve it hears of it.
    pub async fn give_back(mut self, id: DestinationId) {
        let note =
            format!("update orderly.claims set last_start_at = clock_timestamp() where destination_id = {id}; commit");
        // If it cannot be ended, it ends with its connection.
        let _ = tokio::time::timeout(PATIENCE, self.loan.end(&note)).await;
        drop(self.loan);
        self.store.withdraw(id, self.request).await;
    }
}
