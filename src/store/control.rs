//! How does an API process ask of a queue what only its holder may do?
//!
//! It takes the destination's lock for one transaction and acts, or, when somebody holds it, leaves a
//! request for the holder and looks for the answer, trying the lock again meanwhile: the holder may go.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, timeout_at};
use tokio_postgres::types::Type;

use super::pool::PATIENCE;
use super::{Store, StoreError};
use crate::domain::{DestinationId, Sequence};

/// A look at the answer that began in time may end after it.
const LAST_LOOK: Duration = Duration::from_millis(300);
/// A removal may then have to wait for the queue's lock for up to 2 s.
const REMOVAL_PATIENCE: Duration = Duration::from_millis(2_500);
/// A purge of millions goes in pieces.
const PURGE_PATIENCE: Duration = Duration::from_secs(60);
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(160);

/// What a client may ask of a queue. `Some` names the message that must be the head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Control {
    Pause,
    Resume,
    Skip(Option<Sequence>),
    RetryNow(Option<Sequence>),
    Purge,
    DeleteMessage(Sequence),
    /// The destination was changed: it applies from the next try on.
    Reload,
}

#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    #[error("no such thing")]
    NotFound,
    /// The state does not allow it.
    #[error("{0}")]
    Conflict(String),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Control {
    fn kind(self) -> &'static str {
        match self {
            Control::Pause => "pause",
            Control::Resume => "resume",
            Control::Skip(_) => "skip",
            Control::RetryNow(_) => "retry_now",
            Control::Purge => "purge",
            Control::DeleteMessage(_) => "delete_message",
            Control::Reload => "reload",
        }
    }

    fn arguments(self) -> Value {
        match self {
            Control::Skip(Some(sequence)) | Control::RetryNow(Some(sequence)) | Control::DeleteMessage(sequence) => {
                json!({ "sequence": sequence.0 })
            }
            Control::Pause
            | Control::Resume
            | Control::Skip(None)
            | Control::RetryNow(None)
            | Control::Purge
            | Control::Reload => json!({}),
        }
    }

    fn patience(self) -> Duration {
        match self {
            Control::Purge => PURGE_PATIENCE,
            Control::Pause
            | Control::Resume
            | Control::Skip(_)
            | Control::RetryNow(_)
            | Control::DeleteMessage(_)
            | Control::Reload => PATIENCE,
        }
    }
}

enum Progress {
    Done(Result<(), ControlError>),
    /// Somebody else has the lock.
    Busy,
    /// A piece was done.
    More,
}

fn read_answer(answer: &Value) -> Progress {
    match answer.get("status").and_then(Value::as_str) {
        Some("ok") => Progress::Done(Ok(())),
        Some("not_found") => Progress::Done(Err(ControlError::NotFound)),
        Some("conflict") => {
            let detail = answer.get("detail").and_then(Value::as_str).unwrap_or("the state does not allow it");
            Progress::Done(Err(ControlError::Conflict(detail.to_owned())))
        }
        Some("busy" | "refused") => Progress::Busy,
        Some("more") => Progress::More,
        _ => Progress::Done(Err(StoreError::Corrupt(format!("control answered {answer}")).into())),
    }
}

impl Store {
    /// Done when this returns: by this process or by the holder. An `Err` of the store's means that it was
    /// not done, or (database lost meanwhile) that this is not known.
    pub async fn control(&self, id: DestinationId, control: Control) -> Result<(), ControlError> {
        self.control_since(Instant::now(), id, control).await
    }

    /// The same for a client that has waited since then.
    pub async fn control_since(&self, since: Instant, id: DestinationId, control: Control) -> Result<(), ControlError> {
        let deadline = since + control.patience();
        give_up(deadline, self.control_until(deadline, id, control)).await
    }

    async fn control_until(&self, deadline: Instant, id: DestinationId, control: Control) -> Result<(), ControlError> {
        let (kind, mut arguments) = (control.kind(), control.arguments());
        if control == Control::Purge {
            // Not what comes while it goes on, in pieces.
            let rows = self.query("select last_value from orderly.message_sequence", &[]).await?;
            arguments = json!({ "through": rows.first().map(|row| row.get::<_, i64>(0)) });
        }
        let mut request: Option<i64> = None;
        let mut pause = FIRST_PAUSE;
        loop {
            match self.try_control(id, kind, &arguments, request).await? {
                Progress::Done(result) => return result,
                Progress::More => {
                    request = None;
                    continue;
                }
                Progress::Busy => {}
            }
            match request {
                None => request = Some(self.ask(id, kind, &arguments, control.patience()).await?),
                Some(request) => {
                    if let Some(answer) = self.collect_answer(request, false).await? {
                        return finish(&answer);
                    }
                }
            }
            if Instant::now() >= deadline {
                if let Some(answer) = match request {
                    Some(request) => self.collect_answer(request, true).await?,
                    None => None,
                } {
                    return finish(&answer);
                }
                return Err(StoreError::Held("the worker that serves the destination did not answer").into());
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Ends a destination; its messages are out of reach when this returns, and removed in pieces after it.
    ///
    /// Whoever serves it is asked to give it away (what it has in flight is aborted).
    pub async fn remove_destination(&self, id: DestinationId, tenant: Option<&str>) -> Result<(), ControlError> {
        let now = Instant::now();
        let mut asked = None;
        let removed = give_up(now + PATIENCE, self.remove_until(now + REMOVAL_PATIENCE, id, tenant, &mut asked)).await;
        if let (Err(_), Some(request)) = (&removed, asked) {
            // Not wanted any more: else what is in flight were aborted for nothing, after this was answered.
            let store = self.clone();
            tokio::spawn(async move { store.collect_answer(request, true).await });
        }
        removed
    }

    async fn remove_until(
        &self,
        deadline: Instant,
        id: DestinationId,
        tenant: Option<&str>,
        asked: &mut Option<i64>,
    ) -> Result<(), ControlError> {
        let mut pause = FIRST_PAUSE;
        loop {
            let rows = self
                .query("select orderly.remove_destination($1, $2)", &[(&id.0, Type::INT8), (&tenant, Type::TEXT)])
                .await?;
            match rows.first().map(|row| row.get::<_, &str>(0)) {
                Some("ok") => {
                    let store = self.clone();
                    // If this process dies first, a worker's maintenance goes on with it.
                    tokio::spawn(async move { while let Ok(1..) = store.remove_leftovers().await {} });
                    return Ok(());
                }
                Some("not_found") => return Err(ControlError::NotFound),
                Some("busy") => {}
                other => return Err(StoreError::Corrupt(format!("remove_destination answered {other:?}")).into()),
            }
            if asked.is_none() {
                *asked = Some(self.ask(id, "yield", &json!({}), PATIENCE).await?);
            }
            if Instant::now() >= deadline {
                return Err(StoreError::Held("the worker that serves the destination did not give it away").into());
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Removes a piece of what removed destinations left; how many rows went.
    pub async fn remove_leftovers(&self) -> Result<i64, StoreError> {
        let rows = self.query("select orderly.remove_leftovers(2000)", &[]).await?;
        Ok(rows.first().map_or(0, |row| row.get(0)))
    }

    async fn try_control(
        &self,
        id: DestinationId,
        kind: &str,
        arguments: &Value,
        request: Option<i64>,
    ) -> Result<Progress, StoreError> {
        let rows = self
            .query(
                "select orderly.try_control($1, $2, $3, $4)",
                &[(&id.0, Type::INT8), (&kind, Type::TEXT), (arguments, Type::JSONB), (&request, Type::INT8)],
            )
            .await?;
        Ok(rows.first().map_or(Progress::Busy, |row| read_answer(&row.get::<_, Value>(0))))
    }

    pub(super) async fn ask(
        &self,
        id: DestinationId,
        kind: &str,
        arguments: &Value,
        within: Duration,
    ) -> Result<i64, StoreError> {
        let within_ms = i64::try_from(within.as_millis()).unwrap_or(i64::MAX);
        let rows = self
            .query(
                "select orderly.ask($1, $2, $3, $4)",
                &[(&id.0, Type::INT8), (&kind, Type::TEXT), (arguments, Type::JSONB), (&within_ms, Type::INT8)],
            )
            .await?;
        rows.first().map(|row| row.get(0)).ok_or_else(|| StoreError::Corrupt("ask gave no id".to_owned()))
    }

    pub(super) async fn collect_answer(&self, request: i64, withdraw: bool) -> Result<Option<Value>, StoreError> {
        let rows = self
            .query("select orderly.collect_answer($1, $2)", &[(&request, Type::INT8), (&withdraw, Type::BOOL)])
            .await?;
        Ok(rows.first().and_then(|row| row.get::<_, Option<Value>>(0)))
    }
}

/// Ends `work` a last look after its deadline, when the database stopped answering in the midst of it.
pub(super) async fn give_up<T>(
    deadline: Instant,
    work: impl Future<Output = Result<T, ControlError>>,
) -> Result<T, ControlError> {
    match timeout_at(deadline + LAST_LOOK, work).await {
        Ok(ended) => ended,
        Err(elapsed) => Err(StoreError::Unreachable(Box::new(elapsed)).into()),
    }
}

pub(super) fn finish(answer: &Value) -> Result<(), ControlError> {
    match read_answer(answer) {
        Progress::Done(result) => result,
        Progress::Busy | Progress::More => Err(StoreError::Corrupt(format!("a holder answered {answer}")).into()),
    }
}
