//! Who does the work?

use poem_openapi::param::Query;
use poem_openapi::types::Example;
use poem_openapi::{Object, OpenApi};
use serde::Serialize;

use super::auth::{Caller, Scope};
use super::document::Tag;
use super::names::Timestamp;
use super::pagination::{List, Page, default_limit, page, parse_cursor};
use super::payload::Reply;
use super::problem::{Answers, Listing};
use super::routes::AppState;
use crate::domain::{DestinationId, WorkerId};
use crate::store::queues::WorkerView;

pub struct WorkersApi {
    pub state: AppState,
}

/// A worker that is alive
#[derive(Debug, Serialize, Object)]
#[oai(rename = "Worker", example)]
pub struct WorkerDocument {
    pub id: WorkerId,
    pub host: String,
    pub pid: i32,
    /// general; pinned to one destination; or once, until what is queued is delivered
    pub kind: String,
    /// The one it is pinned to
    #[oai(nullable)]
    pub destination_id: Option<DestinationId>,
    pub since: Timestamp,
    /// How many it serves right now
    pub destinations: i64,
}

#[OpenApi(prefix_path = "/v1", tag = "Tag::Workers")]
impl WorkersApi {
    /// List workers
    #[oai(path = "/workers", method = "get", operation_id = "listWorkers")]
    async fn list(
        &self,
        #[oai(scope = "Scope::DestinationsRead")] caller: Caller,
        #[oai(default = "default_limit", validator(minimum(value = "1"), maximum(value = "500")))] limit: Query<u16>,
        /// `next` of the page before
        after: Query<Option<String>>,
    ) -> Result<Reply<Page<WorkerDocument>>, Answers<Listing>> {
        caller.require_operator(Scope::DestinationsRead)?;
        let [after] = parse_cursor(List::Workers, after.0.as_deref())?;
        let rows = self.state.store.list_workers(after, i64::from(limit.0) + 1).await?;
        Ok(Reply(page(List::Workers, rows, limit.0, |row| [row.id.0], WorkerDocument::from)))
    }
}

impl From<WorkerView> for WorkerDocument {
    fn from(view: WorkerView) -> Self {
        WorkerDocument {
            id: view.id,
            host: view.host,
            pid: view.pid,
            kind: view.kind,
            destination_id: view.destination,
            since: view.since.into(),
            destinations: view.destinations,
        }
    }
}

impl Example for WorkerDocument {
    fn example() -> Self {
        WorkerDocument {
            id: WorkerId(7),
            host: "worker-1".to_owned(),
            pid: 4711,
            kind: "general".to_owned(),
            destination_id: None,
            since: Timestamp::example(0),
            destinations: 120,
        }
    }
}
