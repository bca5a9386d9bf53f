//! What does the holder of a destination do for clients that ask?

use std::sync::Arc;

use futures_util::future::BoxFuture;
use tokio::time::Instant;

use super::{End, Lane, UNREADABLE_PAUSE};
use crate::domain::Sequence;
use crate::store::StoreError;
use crate::worker::Lost;

/// What follows from what a client asked.
enum Asked {
    Done,
    /// It wants the destination itself.
    Yield,
}

impl Lane {
    /// Does what clients ask of the holder, and reads anew what that may have changed: what was read ahead
    /// may be gone.
    ///
    /// Boxed, as all of a lane is that happens seldom: each of ten thousand lanes had room for it.
    pub(super) fn answer_requests(&mut self, in_flight: Option<Sequence>) -> BoxFuture<'_, Result<Option<End>, Lost>> {
        Box::pin(self.answer_all(in_flight))
    }

    async fn answer_all(&mut self, in_flight: Option<Sequence>) -> Result<Option<End>, Lost> {
        let context = self.context.clone();
        let session = &context.session;
        for (request, kind) in session.patiently(|| session.pending_requests(self.destination)).await? {
            match self.answer(request, &kind, in_flight).await? {
                Asked::Done => {}
                Asked::Yield => return Ok(Some(End::Left)),
            }
        }
        let now = match session.patiently(|| session.find_lane(self.destination)).await {
            Ok(Some(now)) => now,
            Ok(None) => return Ok(Some(End::Gone)),
            Err(error @ StoreError::Corrupt(_)) => {
                tracing::error!(error = crate::store::chain(&error), "a destination cannot be served any more");
                if in_flight.is_some() {
                    // Once that has ended: it was sent while all could be read.
                    self.unreadable = true;
                    return Ok(None);
                }
                return Ok(Some(End::Dormant(Some(UNREADABLE_PAUSE))));
            }
            Err(error) => return Err(error.into()),
        };
        self.target = Arc::new(context.client.target(&now.policy));
        self.policy = now.policy;
        self.state = now.state;
        self.held = now.held;
        self.skips = now.skips;
        self.floor = self.floor.max(now.floor);
        self.failed = now.head.map(|head| (head.sequence, head.attempts, Instant::now() + head.wait));
        self.ahead.clear();
        self.read_all = false;
        if let Some(sequence) = in_flight {
            // It is not the head while it is in flight; it is put back if it has to be tried again, so what
            // is read next must come after it.
            self.ahead.extend(context.feed.read(self.destination, sequence).await?.messages);
        }
        Ok(None)
    }

    async fn answer(&self, request: i64, kind: &str, in_flight: Option<Sequence>) -> Result<Asked, Lost> {
        if kind == "yield" {
            return Ok(Asked::Yield);
        }
        loop {
            let session = &self.context.session;
            let answer = match session.execute_request(request, in_flight).await {
                Ok(answer) => answer,
                Err(error) if session.is_closed() => return Err(error.into()),
                // It must not stop the queue; its asker hears that it was not done.
                Err(error) => {
                    tracing::error!(
                        destination.id = self.destination.0,
                        kind,
                        error = crate::store::chain(&error),
                        "a request could not be carried out"
                    );
                    return Ok(Asked::Done);
                }
            };
            match answer.as_ref().and_then(|answer| answer.get("status")).and_then(serde_json::Value::as_str) {
                Some("more") => {}
                Some("lend") => return Ok(Asked::Yield),
                _ => return Ok(Asked::Done),
            }
        }
    }
}
