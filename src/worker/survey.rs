//! What does the database say that nobody serves?
//!
//! Each look is a task of its own, so that the scheduler waits for none; what it finds comes back as news.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::context::Context;
use crate::domain::{DestinationId, WorkerId};

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// News that does not come by NOTIFY.
pub enum News {
    /// Destinations with messages that nobody serves: ready, or after a wait.
    Unserved(Vec<(DestinationId, Option<Duration>)>),
    /// What a worker that is gone had.
    Orphaned(Vec<DestinationId>),
    /// What the database says that this worker owns.
    Owned(Vec<DestinationId>),
}

pub struct Survey {
    context: Arc<Context>,
    news: mpsc::UnboundedSender<News>,
}

impl Survey {
    pub fn new(context: Arc<Context>, news: mpsc::UnboundedSender<News>) -> Survey {
        Survey { context, news }
    }

    /// Looks for everything that nobody serves, once; until it was answered.
    pub fn look_for_unserved(&self) {
        let (context, news) = (self.context.clone(), self.news.clone());
        tokio::spawn(async move {
            let mut pause = FIRST_PAUSE;
            while !context.lost.is_cancelled() {
                match context.store.list_unserved(context.session.me).await {
                    Ok(found) => return drop(news.send(News::Unserved(found))),
                    Err(error) => {
                        tracing::warn!(error = crate::store::chain(&error), "could not look for what nobody serves")
                    }
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        });
    }

    /// Looks for what a worker had that is gone.
    pub fn look_for_orphans(&self, worker: WorkerId) {
        let (context, news) = (self.context.clone(), self.news.clone());
        tokio::spawn(async move {
            match context.store.list_owned_by(worker).await {
                Ok(ids) if ids.is_empty() => {}
                Ok(ids) => drop(news.send(News::Orphaned(ids))),
                Err(error) => {
                    tracing::warn!(error = crate::store::chain(&error), "could not look for what a worker left")
                }
            }
        });
    }
}
