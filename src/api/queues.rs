//! Why does a queue move or not, and how is it steered?

use poem_openapi::param::Path;
use poem_openapi::types::Example;
use poem_openapi::{Object, OpenApi};
use serde::{Deserialize, Serialize};

use super::auth::{Caller, Scope};
use super::document::Tag;
use super::names::Timestamp;
use super::payload::{JsonBody, Reply, RequestShape, only_an_object};
use super::problem::{Answers, Changing, Ending, Problem, Reading};
use super::routes::AppState;
use crate::domain::{DestinationId, MessageId, QueueState, Sequence, WorkerId};
use crate::store::control::Control;
use crate::store::queues::QueueView;

pub struct QueuesApi {
    pub state: AppState,
}

/// Which message must be the head
#[derive(Debug, Default, Deserialize, Object)]
#[serde(remote = "Self", deny_unknown_fields, default)]
#[oai(deny_unknown_fields, example)]
pub struct HeadChoice {
    /// 409 when another one is the head
    #[oai(nullable)]
    pub message_id: Option<MessageId>,
}

only_an_object!(HeadChoice);

impl RequestShape for HeadChoice {
    fn when_absent() -> Option<Self> {
        Some(HeadChoice::default())
    }
}

impl Example for HeadChoice {
    fn example() -> Self {
        HeadChoice { message_id: Some(super::messages::example_id()) }
    }
}

/// A queue at this moment
#[derive(Debug, Serialize, Object)]
#[oai(rename = "Queue", example)]
pub struct QueueDocument {
    /// Messages that wait, the head included
    pub depth: i64,
    #[oai(nullable)]
    pub oldest_created_at: Option<Timestamp>,
    pub state: QueueState,
    /// The message that is sent next, or right now
    #[oai(nullable)]
    pub head: Option<HeadDocument>,
    /// Who serves it
    #[oai(nullable)]
    pub worker: Option<HolderDocument>,
}

#[derive(Debug, Serialize, Object)]
#[oai(rename = "Head")]
pub struct HeadDocument {
    pub id: MessageId,
    pub attempts: i32,
    #[oai(nullable)]
    pub last_error: Option<String>,
    #[oai(nullable)]
    pub next_attempt_at: Option<Timestamp>,
}

#[derive(Debug, Serialize, Object)]
#[oai(rename = "Holder")]
pub struct HolderDocument {
    pub id: WorkerId,
    pub host: String,
    #[oai(nullable)]
    pub since: Option<Timestamp>,
}

#[OpenApi(prefix_path = "/v1", tag = "Tag::Queues")]
impl QueuesApi {
    /// Show why a queue moves or does not
    #[oai(path = "/destinations/:id/queue", method = "get", operation_id = "getQueue")]
    async fn get(
        &self,
        #[oai(scope = "Scope::DestinationsRead")] caller: Caller,
        id: Path<DestinationId>,
    ) -> Result<Reply<QueueDocument>, Answers<Reading>> {
        let tenancy = caller.require(Scope::DestinationsRead)?;
        Ok(Reply(self.show(id.0, tenancy.as_deref()).await?))
    }

    /// Stop a queue
    ///
    /// After the answer nothing is sent, save what was in flight. New messages are queued.
    #[oai(path = "/destinations/:id/pause", method = "post", operation_id = "pauseDestination")]
    async fn pause(
        &self,
        #[oai(scope = "Scope::DestinationsWrite")] caller: Caller,
        id: Path<DestinationId>,
    ) -> Result<Reply<QueueDocument>, Answers<Ending>> {
        Ok(self.steer(&caller, id.0, Control::Pause).await?)
    }

    /// Let a queue move again
    ///
    /// One that was paused, or disabled by its receiver's 410.
    #[oai(path = "/destinations/:id/resume", method = "post", operation_id = "resumeDestination")]
    async fn resume(
        &self,
        #[oai(scope = "Scope::DestinationsWrite")] caller: Caller,
        id: Path<DestinationId>,
    ) -> Result<Reply<QueueDocument>, Answers<Ending>> {
        Ok(self.steer(&caller, id.0, Control::Resume).await?)
    }

    /// Try the head again now
    ///
    /// 409 when another message is the head, the queue is empty, or the head is in flight.
    #[oai(path = "/destinations/:id/retry-now", method = "post", operation_id = "retryNow")]
    async fn retry_now(
        &self,
        #[oai(scope = "Scope::DestinationsWrite")] caller: Caller,
        id: Path<DestinationId>,
        body: JsonBody<HeadChoice>,
    ) -> Result<Reply<QueueDocument>, Answers<Changing>> {
        Ok(self.steer_head(&caller, id.0, &body.value, Control::RetryNow).await?)
    }

    /// Give up on the head
    ///
    /// It ends as skipped. 409 when another message is the head, the queue is empty, or the head is in
    /// flight.
    #[oai(path = "/destinations/:id/skip", method = "post", operation_id = "skipHead")]
    async fn skip(
        &self,
        #[oai(scope = "Scope::DestinationsWrite")] caller: Caller,
        id: Path<DestinationId>,
        body: JsonBody<HeadChoice>,
    ) -> Result<Reply<QueueDocument>, Answers<Changing>> {
        Ok(self.steer_head(&caller, id.0, &body.value, Control::Skip).await?)
    }

    /// Remove all that is queued and not in flight
    #[oai(path = "/destinations/:id/purge", method = "post", operation_id = "purgeQueue")]
    async fn purge(
        &self,
        #[oai(scope = "Scope::DestinationsWrite")] caller: Caller,
        id: Path<DestinationId>,
    ) -> Result<Reply<QueueDocument>, Answers<Ending>> {
        Ok(self.steer(&caller, id.0, Control::Purge).await?)
    }
}

impl QueuesApi {
    async fn show(&self, id: DestinationId, tenant: Option<&str>) -> Result<QueueDocument, Problem> {
        let view = self.state.store.queue_state(id, tenant).await?.ok_or_else(Problem::not_found)?;
        Ok(document(id, view))
    }

    async fn steer(
        &self,
        caller: &Caller,
        id: DestinationId,
        control: Control,
    ) -> Result<Reply<QueueDocument>, Problem> {
        let tenancy = caller.require(Scope::DestinationsWrite)?;
        self.state.check_visible(id, tenancy.as_deref()).await?;
        self.state.store.control(id, control).await?;
        Ok(Reply(self.show(id, tenancy.as_deref()).await?))
    }

    async fn steer_head(
        &self,
        caller: &Caller,
        id: DestinationId,
        choice: &HeadChoice,
        control: fn(Option<Sequence>) -> Control,
    ) -> Result<Reply<QueueDocument>, Problem> {
        if let Some(message) = choice.message_id.filter(|message| message.destination != id) {
            let tenancy = caller.require(Scope::DestinationsWrite)?;
            self.show(id, tenancy.as_deref()).await?;
            return Err(Problem::conflict(format!("{message} is in another destination's queue")));
        }
        self.steer(caller, id, control(choice.message_id.map(|message| message.sequence))).await
    }
}

fn document(destination: DestinationId, view: QueueView) -> QueueDocument {
    QueueDocument {
        depth: view.depth,
        oldest_created_at: view.oldest_created_at.map(Timestamp::from),
        state: view.state,
        head: view.head.map(|head| HeadDocument {
            id: MessageId { destination, sequence: head.sequence },
            attempts: head.attempts,
            last_error: head.last_error,
            next_attempt_at: head.next_attempt_at.map(Timestamp::from),
        }),
        worker: view.worker.map(|worker| HolderDocument {
            id: worker.id,
            host: worker.host,
            since: worker.since.map(Timestamp::from),
        }),
    }
}

impl Example for QueueDocument {
    fn example() -> Self {
        let at = Timestamp::example(0);
        QueueDocument {
            depth: 3,
            oldest_created_at: Some(at),
            state: QueueState::Backoff,
            head: Some(HeadDocument {
                id: super::messages::example_id(),
                attempts: 2,
                last_error: Some("status".to_owned()),
                next_attempt_at: Some(Timestamp::example(4)),
            }),
            worker: Some(HolderDocument { id: WorkerId(7), host: "worker-1".to_owned(), since: Some(at) }),
        }
    }
}
