//! What is told of one queue?

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::domain::{DestinationId, MessageId};
use crate::store::queues::QueueView;

/// As `GET /v1/destinations/{id}/queue` has it, with whose it is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct QueueRow {
    #[serde(default)]
    pub destination_id: i64,
    #[serde(default)]
    pub url: String,
    pub depth: i64,
    pub oldest_created_at: Option<DateTime<Utc>>,
    pub state: String,
    pub head: Option<HeadCells>,
    pub worker: Option<WorkerCells>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct HeadCells {
    pub id: String,
    pub attempts: i32,
    pub last_error: Option<String>,
    pub next_attempt_at: Option<DateTime<Utc>>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct WorkerCells {
    pub id: i64,
    pub host: String,
    pub since: Option<DateTime<Utc>>,
}

impl QueueRow {
    /// Empty, and would move if it were not.
    pub fn is_idle(&self) -> bool {
        self.depth == 0 && !self.is_stopped()
    }

    fn is_stopped(&self) -> bool {
        matches!(self.state.as_str(), "paused" | "disabled" | "held")
    }

    /// `idle` with messages: nobody serves it.
    pub fn is_blocked(&self) -> bool {
        self.is_stopped() || self.state == "backoff" || (self.state == "idle" && self.depth > 0)
    }

    /// The state as people read it.
    pub fn why(&self) -> &str {
        if self.state == "idle" && self.depth > 0 { "unserved" } else { &self.state }
    }
}

impl From<(DestinationId, String, QueueView)> for QueueRow {
    fn from((destination, url, view): (DestinationId, String, QueueView)) -> Self {
        QueueRow {
            destination_id: destination.0,
            url,
            depth: view.depth,
            oldest_created_at: view.oldest_created_at,
            state: view.state.as_str().to_owned(),
            head: view.head.map(|head| HeadCells {
                id: MessageId { destination, sequence: head.sequence }.to_string(),
                attempts: head.attempts,
                last_error: head.last_error,
                next_attempt_at: head.next_attempt_at,
            }),
            worker: view.worker.map(|worker| WorkerCells { id: worker.id.0, host: worker.host, since: worker.since }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_is_blocked_when_it_should_move_and_does_not() {
        for (state, depth, idle, blocked) in [
            ("idle", 0, true, false),
            ("idle", 3, false, true),
            ("delivering", 3, false, false),
            ("backoff", 1, false, true),
            ("held", 1, false, true),
            ("paused", 0, false, true),
            ("disabled", 0, false, true),
        ] {
            let json = serde_json::json!({ "depth": depth, "oldest_created_at": null, "state": state, "head": null, "worker": null });
            let row: QueueRow = serde_json::from_value(json).expect("a queue");
            assert_eq!((row.is_idle(), row.is_blocked()), (idle, blocked), "{state} {depth}");
        }
    }
}
