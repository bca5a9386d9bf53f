//! How does a client try a destination out?

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use chrono::Utc;
use poem_openapi::param::Path;
use poem_openapi::types::Example;
use poem_openapi::{Object, OpenApi};
use serde::Serialize;
use tracing::Instrument;

use super::auth::{Caller, Scope};
use super::document::Tag;
use super::payload::Reply;
use super::problem::{Answers, Ending, Problem};
use super::routes::AppState;
use crate::delivery::{AlwaysOpen, DeliveryClient, Meta};
use crate::domain::{DestinationId, Headers, Message, MessageId, Outcome, Sequence};
use crate::store::Store;

/// A test is waited for by a person.
const LONGEST: Duration = Duration::from_secs(15);

pub struct TrialsApi {
    pub state: AppState,
}

/// What came of one test request
#[derive(Debug, Serialize, Object)]
#[oai(example)]
pub struct TestOutcome {
    /// Whether the receiver answered 2xx
    pub delivered: bool,
    #[oai(nullable)]
    pub status_code: Option<u16>,
    /// What kind of failure it was; null when it was delivered
    #[oai(nullable)]
    pub error: Option<String>,
    /// The same for people
    #[oai(nullable)]
    pub detail: Option<String>,
    pub duration_ms: u64,
    /// The start of the answer's body
    #[oai(nullable)]
    pub response: Option<String>,
}

impl Example for TestOutcome {
    fn example() -> Self {
        TestOutcome {
            delivered: false,
            status_code: Some(500),
            error: Some("status".to_owned()),
            detail: Some("HTTP 500".to_owned()),
            duration_ms: 12,
            response: Some("oops".to_owned()),
        }
    }
}

#[OpenApi(prefix_path = "/v1", tag = "Tag::Queues")]
impl TrialsApi {
    /// Send one signed test request
    ///
    /// Beside the queue, whatever its state; 409 while a message is in flight. Its sequence is 0, it has an
    /// `orderly-test` header, and it takes at most 15 seconds.
    #[oai(path = "/destinations/:id/test", method = "post", operation_id = "testDestination")]
    async fn test(
        &self,
        #[oai(scope = "Scope::DestinationsWrite")] caller: Caller,
        id: Path<DestinationId>,
    ) -> Result<Reply<TestOutcome>, Answers<Ending>> {
        let tenancy = caller.require(Scope::DestinationsWrite)?;
        let id = id.0;
        self.state.check_visible(id, tenancy.as_deref()).await?;
        let Some(client) = &self.state.client else {
            return Err(Problem::unavailable("this process does not deliver").into());
        };
        // In a task of its own: a client that hangs up must not leave the destination lent.
        let sending = tokio::spawn(send(self.state.store.clone(), client.clone(), id).in_current_span());
        let outcome = match sending.await {
            Ok(sent) => sent?,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => return Err(Problem::unavailable("the request was not sent").into()),
        };
        let failure = outcome.result.as_ref().err();
        Ok(Reply(TestOutcome {
            delivered: outcome.delivered(),
            status_code: outcome.status_code,
            error: failure.map(|failure| failure.kind.as_str().to_owned()),
            detail: failure.map(|failure| failure.detail.clone()),
            duration_ms: u64::try_from(outcome.duration.as_millis()).unwrap_or(u64::MAX),
            response: Some(String::from_utf8_lossy(&outcome.response).into_owned()).filter(|text| !text.is_empty()),
        }))
    }
}

async fn send(store: Store, client: DeliveryClient, id: DestinationId) -> Result<Outcome, Problem> {
    let borrowed = store.borrow(id, LONGEST).await?;
    let mut policy = borrowed.start.policy.clone();
    policy.timeout = policy.timeout.min(LONGEST);
    let sequence = Sequence(0);
    let message = Message {
        sequence,
        payload: Bytes::from(format!(r#"{{"type":"orderly.test","destination_id":{id}}}"#)),
        content_type: "application/json".to_owned(),
        headers: Headers::from_stored(BTreeMap::from([("orderly-test".to_owned(), "1".to_owned())])),
        created_at: Utc::now(),
        replay_of: None,
    };
    let meta = Meta {
        id: MessageId { destination: id, sequence },
        attempt: 1,
        epoch: borrowed.start.epoch,
        previous: borrowed.start.last_delivered,
        skipped: 0,
    };
    let outcome = client.deliver(&client.target(&policy), &message, &meta, AlwaysOpen).await;
    borrowed.give_back(id).await;
    outcome.map_err(|_| Problem::unavailable("the request was not sent"))
}
