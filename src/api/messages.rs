//! How are messages queued, shown and taken back?

mod shapes;

use poem_openapi::OpenApi;
use poem_openapi::param::{Path, Query};

use super::auth::{Caller, Scope};
use super::document::Tag;
use super::idempotency::Idempotency;
use super::pagination::{List, Page, default_limit, page, parse_cursor};
use super::payload::{Created, Gone, JsonBody, Reply};
use super::problem::{Answers, Ending, Listing, Posting, Problem, Reading};
use super::routes::AppState;
use crate::domain::{MessageId, NewMessage};
use crate::store::control::Control;
use crate::store::enqueue::{IdempotencyKey, Queued};

pub use shapes::{MessageDocument, MessageIn, MessageQueued, MessagesIn, MessagesQueued, example_id, split};

pub struct MessagesApi {
    pub state: AppState,
}

#[OpenApi(prefix_path = "/v1", tag = "Tag::Messages")]
impl MessagesApi {
    /// Queue a message
    ///
    /// Once this is answered with 201 the message is safe: it will be delivered, or end in a way that can be
    /// seen.
    #[oai(path = "/messages", method = "post", operation_id = "postMessage")]
    async fn post(
        &self,
        #[oai(scope = "Scope::MessagesWrite")] caller: Caller,
        /// The same key with the same body within 24 hours answers the first answer again
        #[oai(name = "Idempotency-Key")]
        key: Idempotency,
        body: JsonBody<MessageIn>,
    ) -> Result<Created<MessageQueued>, Answers<Posting>> {
        let tenancy = caller.require(Scope::MessagesWrite)?;
        let message = body.value.check("")?;
        let queued = self
            .enqueue(tenancy.as_deref(), key.of(body.bytes), vec![message], |_| "/destination_id".to_owned())
            .await?;
        let queued = queued.into_iter().next().ok_or_else(|| Problem::unavailable("the message was not queued"))?;
        Ok(Created(queued.into()))
    }

    /// Queue up to 1000 messages, all or none
    ///
    /// They keep their order. One that is wrong is named by its index, and nothing is stored.
    #[oai(path = "/messages/batch", method = "post", operation_id = "postMessages")]
    async fn post_batch(
        &self,
        #[oai(scope = "Scope::MessagesWrite")] caller: Caller,
        /// The same key with the same body within 24 hours answers the first answer again
        #[oai(name = "Idempotency-Key")]
        key: Idempotency,
        body: JsonBody<MessagesIn>,
    ) -> Result<Created<MessagesQueued>, Answers<Posting>> {
        let tenancy = caller.require(Scope::MessagesWrite)?;
        let messages = body.value.check()?;
        let pointer = |index| format!("/messages/{index}/destination_id");
        let queued = self.enqueue(tenancy.as_deref(), key.of(body.bytes), messages, pointer).await?;
        Ok(Created(MessagesQueued { data: queued.into_iter().map(MessageQueued::from).collect() }))
    }

    /// List what is queued, by destination, then sequence
    ///
    /// Without payloads.
    #[oai(path = "/messages", method = "get", operation_id = "listMessages")]
    async fn list(
        &self,
        #[oai(scope = "Scope::MessagesRead")] caller: Caller,
        /// Only this destination's; none where there is no such destination
        destination_id: Query<Option<i64>>,
        #[oai(default = "default_limit", validator(minimum(value = "1"), maximum(value = "500")))] limit: Query<u16>,
        /// `next` of the page before
        after: Query<Option<String>>,
    ) -> Result<Reply<Page<MessageDocument>>, Answers<Listing>> {
        let tenancy = caller.require(Scope::MessagesRead)?;
        let [destination, sequence] = parse_cursor(List::Messages, after.0.as_deref())?;
        let most = i32::from(limit.0) + 1;
        let (store, tenant) = (&self.state.store, tenancy.as_deref());
        let rows = store.list_messages(tenant, destination_id.0, (destination, sequence), most).await?;
        let key = |row: &crate::store::messages::MessageView| [row.id.destination.0, row.id.sequence.0];
        Ok(Reply(page(List::Messages, rows, limit.0, key, MessageDocument::from)))
    }

    /// Show a message
    ///
    /// While it is queued, and as long as its outcome is kept.
    #[oai(path = "/messages/:id", method = "get", operation_id = "getMessage")]
    async fn get(
        &self,
        #[oai(scope = "Scope::MessagesRead")] caller: Caller,
        id: Path<MessageId>,
    ) -> Result<Reply<MessageDocument>, Answers<Reading>> {
        let tenancy = caller.require(Scope::MessagesRead)?;
        let found = self.state.store.find_message(id.0, tenancy.as_deref()).await?;
        Ok(Reply(found.ok_or_else(Problem::not_found)?.into()))
    }

    /// Take a message back
    ///
    /// It will never be delivered; 409 when it is in flight.
    #[oai(path = "/messages/:id", method = "delete", operation_id = "deleteMessage")]
    async fn delete(
        &self,
        #[oai(scope = "Scope::MessagesWrite")] caller: Caller,
        id: Path<MessageId>,
    ) -> Result<Gone, Answers<Ending>> {
        let tenancy = caller.require(Scope::MessagesWrite)?;
        let MessageId { destination, sequence } = id.0;
        self.state.check_visible(destination, tenancy.as_deref()).await?;
        self.state.store.control(destination, Control::DeleteMessage(sequence)).await?;
        Ok(Gone)
    }
}

impl MessagesApi {
    async fn enqueue(
        &self,
        tenant: Option<&str>,
        key: Option<IdempotencyKey>,
        messages: Vec<NewMessage>,
        pointer: impl Fn(usize) -> String,
    ) -> Result<Vec<Queued>, Problem> {
        let enqueuer = &self.state.enqueuer;
        let queued = match key {
            None => enqueuer.enqueue(tenant, messages).await,
            Some(key) => enqueuer.enqueue_once(tenant, key, messages).await,
        };
        queued.map_err(|error| Problem::of_enqueue(error, pointer))
    }
}
