//! How does a client have delivered messages sent again?

use poem_openapi::param::Path;
use poem_openapi::types::Example;
use poem_openapi::{Object, OpenApi};
use serde::{Deserialize, Serialize};

use super::auth::{Caller, Scope};
use super::document::Tag;
use super::payload::{JsonBody, Reply, RequestShape, only_an_object};
use super::problem::{Answers, Problem, Replaying};
use super::routes::AppState;
use crate::domain::{DestinationId, Sequence};
use crate::store::replay::ReplayError;

pub struct ReplaysApi {
    pub state: AppState,
}

/// From where on
#[derive(Debug, Deserialize, Object)]
#[serde(remote = "Self", deny_unknown_fields)]
#[oai(deny_unknown_fields, example)]
pub struct ReplayRequest {
    /// The first sequence to send again
    #[oai(validator(minimum(value = "1")))]
    pub from_sequence: i64,
}

only_an_object!(ReplayRequest);

impl RequestShape for ReplayRequest {}

impl Example for ReplayRequest {
    fn example() -> Self {
        ReplayRequest { from_sequence: 1017 }
    }
}

/// How much is sent again
#[derive(Debug, Serialize, Object)]
#[oai(example)]
pub struct ReplayAnswer {
    /// Messages queued again, in their order, at the tail
    pub queued: i64,
}

impl Example for ReplayAnswer {
    fn example() -> Self {
        ReplayAnswer { queued: 12 }
    }
}

#[OpenApi(prefix_path = "/v1", tag = "Tag::Messages")]
impl ReplaysApi {
    /// Send delivered messages again
    ///
    /// Those whose payloads are still kept (a worker's `--keep-payloads`), in order, at the tail of the queue,
    /// each under a new id, with an `orderly-replay-of` header.
    #[oai(path = "/destinations/:id/replay", method = "post", operation_id = "replayMessages")]
    async fn replay(
        &self,
        #[oai(scope = "Scope::MessagesWrite")] caller: Caller,
        id: Path<DestinationId>,
        body: JsonBody<ReplayRequest>,
    ) -> Result<Reply<ReplayAnswer>, Answers<Replaying>> {
        let tenancy = caller.require(Scope::MessagesWrite)?;
        let id = id.0;
        let AppState { store, enqueuer, .. } = &self.state;
        if !store.destination_is_visible(id, tenancy.as_deref()).await? {
            return Err(Problem::not_found().into());
        }
        if body.value.from_sequence < 1 {
            return Err(Problem::wrong_at("/from_sequence", "sequences begin at 1").into());
        }
        match store.replay(id, Sequence(body.value.from_sequence), || enqueuer.ring([id])).await {
            Ok(queued) => Ok(Reply(ReplayAnswer { queued })),
            Err(ReplayError::Rejected(reason)) => Err(Problem::rejected(reason, "/from_sequence".to_owned()).into()),
            Err(ReplayError::Store(error)) => {
                enqueuer.ring_in_doubt(&error, id);
                Err(error.into())
            }
        }
    }
}
