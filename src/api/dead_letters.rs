//! How are the messages that were given up on seen, queued again, and thrown away?

use poem_openapi::param::{Path, Query};
use poem_openapi::types::Example;
use poem_openapi::{Object, OpenApi};
use serde::{Deserialize, Serialize};

use super::auth::{Caller, Scope};
use super::content::{RawJson, show};
use super::document::Tag;
use super::entries::Entries;
use super::messages::{MessageQueued, example_id, split};
use super::names::Timestamp;
use super::pagination::{List, Page, default_limit, page, parse_cursor};
use super::payload::{Created, Gone, JsonBody, Reply, RequestShape, only_an_object};
use super::problem::{Answers, Ending, Listing, Posting, Problem, Reading, Redriving};
use super::routes::AppState;
use crate::domain::{DestinationId, MessageId, MessageState};
use crate::store::dead_letters::{DeadLetter, RedriveError, Redriven};
use crate::store::enqueue::Rejection;

/// One transaction takes so many; the producers of that queue wait meanwhile.
const PIECE: i32 = 500;
/// One call takes so many.
const MOST: usize = 10_000;

pub struct DeadLettersApi {
    pub state: AppState,
}

/// A message that was given up on
#[derive(Debug, Serialize, Object)]
#[oai(rename = "DeadLetter", example)]
pub struct DeadLetterDocument {
    /// The message's
    pub id: MessageId,
    pub destination_id: DestinationId,
    pub sequence: i64,
    /// exhausted or expired
    pub state: MessageState,
    pub attempts: i32,
    #[oai(nullable)]
    pub last_error: Option<String>,
    pub created_at: Timestamp,
    pub expires_at: Timestamp,
    pub ended_at: Timestamp,
    pub content_type: String,
    pub headers: Entries<String>,
    /// JSON as it stands, or a text; not in lists
    #[serde(skip_serializing_if = "Option::is_none")]
    #[oai(skip_serializing_if_is_none)]
    pub payload: Option<RawJson>,
    /// Instead of `payload`, what that could not say exactly
    #[serde(skip_serializing_if = "Option::is_none")]
    #[oai(skip_serializing_if_is_none)]
    pub payload_base64: Option<String>,
}

/// Whose dead letters are queued again
#[derive(Debug, Deserialize, Object)]
#[serde(remote = "Self", deny_unknown_fields)]
#[oai(deny_unknown_fields, example)]
pub struct RedriveRequest {
    pub destination_id: DestinationId,
}

/// What was queued again, in the order in which it had been
#[derive(Debug, Serialize, Object)]
#[oai(example)]
pub struct RedrivenMessages {
    pub data: Vec<MessageQueued>,
    /// Whether there are more than one call takes (10000): call again
    pub more: bool,
}

#[OpenApi(prefix_path = "/v1", tag = "Tag::DeadLetters")]
impl DeadLettersApi {
    /// List dead letters, by destination, then sequence
    ///
    /// Without payloads.
    #[oai(path = "/dead-letters", method = "get", operation_id = "listDeadLetters")]
    async fn list(
        &self,
        #[oai(scope = "Scope::MessagesRead")] caller: Caller,
        /// Only this destination's; none where there is no such destination
        destination_id: Query<Option<i64>>,
        #[oai(default = "default_limit", validator(minimum(value = "1"), maximum(value = "500")))] limit: Query<u16>,
        /// `next` of the page before
        after: Query<Option<String>>,
    ) -> Result<Reply<Page<DeadLetterDocument>>, Answers<Listing>> {
        let tenancy = caller.require(Scope::MessagesRead)?;
        let [destination, sequence] = parse_cursor(List::DeadLetters, after.0.as_deref())?;
        let most = i32::from(limit.0) + 1;
        let (store, tenant) = (&self.state.store, tenancy.as_deref());
        let rows = store.list_dead_letters(tenant, destination_id.0, (destination, sequence), most).await?;
        let key = |row: &DeadLetter| [row.id.destination.0, row.id.sequence.0];
        Ok(Reply(page(List::DeadLetters, rows, limit.0, key, DeadLetterDocument::from)))
    }

    /// Show a dead letter
    #[oai(path = "/dead-letters/:id", method = "get", operation_id = "getDeadLetter")]
    async fn get(
        &self,
        #[oai(scope = "Scope::MessagesRead")] caller: Caller,
        id: Path<MessageId>,
    ) -> Result<Reply<DeadLetterDocument>, Answers<Reading>> {
        let tenancy = caller.require(Scope::MessagesRead)?;
        let found = self.state.store.find_dead_letter(id.0, tenancy.as_deref()).await?;
        Ok(Reply(found.ok_or_else(Problem::not_found)?.into()))
    }

    /// Throw a dead letter away
    #[oai(path = "/dead-letters/:id", method = "delete", operation_id = "deleteDeadLetter")]
    async fn delete(
        &self,
        #[oai(scope = "Scope::MessagesWrite")] caller: Caller,
        id: Path<MessageId>,
    ) -> Result<Gone, Answers<Ending>> {
        let tenancy = caller.require(Scope::MessagesWrite)?;
        if self.state.store.delete_dead_letter(id.0, tenancy.as_deref()).await? {
            Ok(Gone)
        } else {
            Err(Problem::not_found().into())
        }
    }

    /// Queue a dead letter again
    ///
    /// At the tail of its queue, under a new id, for a day anew.
    #[oai(path = "/dead-letters/:id/redrive", method = "post", operation_id = "redriveDeadLetter")]
    async fn redrive(
        &self,
        #[oai(scope = "Scope::MessagesWrite")] caller: Caller,
        id: Path<MessageId>,
    ) -> Result<Created<MessageQueued>, Answers<Redriving>> {
        let tenancy = caller.require(Scope::MessagesWrite)?;
        let MessageId { destination, sequence } = id.0;
        let AppState { store, enqueuer, .. } = &self.state;
        store.settle_expired(destination).await?;
        let redriven = store.redrive(destination, Some(sequence), tenancy.as_deref(), 1).await;
        if let Err(RedriveError::Store(error)) = &redriven {
            enqueuer.ring_in_doubt(error, destination);
        }
        let redriven = redriven?.into_iter().next().ok_or_else(Problem::not_found)?;
        enqueuer.ring([destination]);
        Ok(Created(redriven.into()))
    }

    /// Queue a destination's dead letters again
    ///
    /// At the tail of the queue, in the order in which they had been, each under a new id, for a day anew.
    #[oai(path = "/dead-letters/redrive", method = "post", operation_id = "redriveDeadLetters")]
    async fn redrive_all(
        &self,
        #[oai(scope = "Scope::MessagesWrite")] caller: Caller,
        body: JsonBody<RedriveRequest>,
    ) -> Result<Created<RedrivenMessages>, Answers<Posting>> {
        let tenancy = caller.require(Scope::MessagesWrite)?;
        let destination = body.value.destination_id;
        let AppState { store, enqueuer, .. } = &self.state;
        store.settle_expired(destination).await?;
        let mut data: Vec<MessageQueued> = Vec::new();
        loop {
            let piece = match store.redrive(destination, None, tenancy.as_deref(), PIECE).await {
                Ok(piece) => piece,
                // Its room is taken: what was queued is answered, and the rest stays a dead letter.
                Err(RedriveError::Rejected(Rejection::Full)) if !data.is_empty() => {
                    return Ok(Created(RedrivenMessages { data, more: true }));
                }
                Err(RedriveError::Rejected(reason)) => {
                    return Err(Problem::rejected(reason, "/destination_id".to_owned()).into());
                }
                Err(RedriveError::Store(error)) => {
                    enqueuer.ring_in_doubt(&error, destination);
                    return Err(error.into());
                }
            };
            if piece.is_empty() {
                return Ok(Created(RedrivenMessages { data, more: false }));
            }
            enqueuer.ring([destination]);
            data.extend(piece.into_iter().map(MessageQueued::from));
            if data.len() >= MOST {
                return Ok(Created(RedrivenMessages { data, more: true }));
            }
        }
    }
}

only_an_object!(RedriveRequest);

impl RequestShape for RedriveRequest {}

impl From<Redriven> for MessageQueued {
    fn from(redriven: Redriven) -> Self {
        MessageQueued { redriven_from: Some(redriven.from), ..redriven.queued.into() }
    }
}

impl From<DeadLetter> for DeadLetterDocument {
    fn from(letter: DeadLetter) -> Self {
        let (payload, payload_base64) = split(letter.payload.map(|bytes| show(&bytes, &letter.content_type)));
        DeadLetterDocument {
            id: letter.id,
            destination_id: letter.id.destination,
            sequence: letter.id.sequence.0,
            state: letter.state,
            attempts: letter.attempts,
            last_error: letter.last_error,
            created_at: letter.created_at.into(),
            expires_at: letter.expires_at.into(),
            ended_at: letter.ended_at.into(),
            headers: Entries::shown(&letter.headers),
            content_type: letter.content_type,
            payload,
            payload_base64,
        }
    }
}

impl Example for DeadLetterDocument {
    fn example() -> Self {
        let id = example_id();
        DeadLetterDocument {
            id,
            destination_id: id.destination,
            sequence: id.sequence.0,
            state: MessageState::Exhausted,
            attempts: 4,
            last_error: Some("status".to_owned()),
            created_at: Timestamp::example(0),
            expires_at: Timestamp::example(86_400),
            ended_at: Timestamp::example(10),
            content_type: "application/json".to_owned(),
            headers: Entries::default(),
            payload: serde_json::from_str(r#"{"order": 1017, "state": "paid"}"#).ok(),
            payload_base64: None,
        }
    }
}

impl Example for RedriveRequest {
    fn example() -> Self {
        RedriveRequest { destination_id: DestinationId(42) }
    }
}

impl Example for RedrivenMessages {
    fn example() -> Self {
        RedrivenMessages { data: vec![MessageQueued::example()], more: false }
    }
}
