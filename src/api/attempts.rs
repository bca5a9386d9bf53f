//! What came of each try of a message?

use poem_openapi::param::{Path, Query};
use poem_openapi::types::Example;
use poem_openapi::{Object, OpenApi};
use serde::Serialize;

use super::auth::{Caller, Scope};
use super::document::Tag;
use super::names::Timestamp;
use super::pagination::{List, Page, default_limit, page, parse_cursor};
use super::payload::Reply;
use super::problem::{Answers, Calling, Problem};
use super::routes::AppState;
use crate::domain::MessageId;
use crate::store::attempts::Attempt;

pub struct AttemptsApi {
    pub state: AppState,
}

/// One try to deliver a message
#[derive(Debug, Serialize, Object)]
#[oai(rename = "Attempt", example)]
pub struct AttemptDocument {
    /// From 1
    pub number: i32,
    pub at: Timestamp,
    /// The receiver's answer, if there was one
    #[oai(nullable)]
    pub status_code: Option<i16>,
    /// null when it was delivered
    #[oai(nullable)]
    pub error: Option<String>,
    pub duration_ms: i32,
    /// The start of the answer's body
    #[oai(nullable)]
    pub response: Option<String>,
}

#[OpenApi(prefix_path = "/v1", tag = "Tag::Messages")]
impl AttemptsApi {
    /// List a message's attempts, oldest first
    #[oai(path = "/messages/:id/attempts", method = "get", operation_id = "listAttempts")]
    async fn list(
        &self,
        #[oai(scope = "Scope::MessagesRead")] caller: Caller,
        id: Path<MessageId>,
        #[oai(default = "default_limit", validator(minimum(value = "1"), maximum(value = "500")))] limit: Query<u16>,
        /// `next` of the page before
        after: Query<Option<String>>,
    ) -> Result<Reply<Page<AttemptDocument>>, Answers<Calling>> {
        let tenancy = caller.require(Scope::MessagesRead)?;
        let [after] = parse_cursor(List::Attempts, after.0.as_deref())?;
        let after = i32::try_from(after).unwrap_or(i32::MAX);
        let store = &self.state.store;
        // What was deleted is gone with its attempts, though the log keeps them for a while.
        if store.find_message(id.0, tenancy.as_deref()).await?.is_none() {
            return Err(Problem::not_found().into());
        }
        let rows = store.list_attempts(id.0, after, i64::from(limit.0) + 1).await?;
        Ok(Reply(page(List::Attempts, rows, limit.0, |row| [i64::from(row.number)], AttemptDocument::from)))
    }
}

impl From<Attempt> for AttemptDocument {
    fn from(attempt: Attempt) -> Self {
        AttemptDocument {
            number: attempt.number,
            at: attempt.at.into(),
            status_code: attempt.status_code,
            error: attempt.error,
            duration_ms: attempt.duration_ms,
            response: attempt.response.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()),
        }
    }
}

impl Example for AttemptDocument {
    fn example() -> Self {
        AttemptDocument {
            number: 1,
            at: Timestamp::example(0),
            status_code: Some(500),
            error: Some("status".to_owned()),
            duration_ms: 12,
            response: Some("out of order".to_owned()),
        }
    }
}
