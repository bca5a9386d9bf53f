//! What does the database say that nobody serves?
//!
//! Each look is a task of its own, so that the scheduler waits for none; what it finds comes back as news.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;

use super::context::Context;
use crate::domain::{DestinationId, WorkerId};

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// So long, and up to twice that, those that should claim a destination have for it before the second claims it, and
/// before the third does: both before the sweep would look at it. (DESIGN: anybody after 1 s; all at once would only
/// be in each other's way.)
const PATIENCE: [Duration; 2] = [Duration::from_secs(1), Duration::from_millis(1_500)];

/// News that does not come by NOTIFY.
pub enum News {
    /// Destinations with messages that nobody serves: ready, or after a wait.
    Unserved(Vec<(DestinationId, Option<Duration>)>),
    /// What a worker that is gone had.
    Orphaned(Vec<DestinationId>),
    /// What the worker that should serve it left lying.
    Neglected(Vec<DestinationId>),
}

pub struct Survey {
    context: Arc<Context>,
    news: mpsc::UnboundedSender<News>,
    /// By how many stand in before this worker.
    doubts: [Arc<Mutex<Doubts>>; 2],
}

/// Destinations that a bell told of, and that another worker should claim.
#[derive(Default)]
struct Doubts {
    noted: BTreeSet<i64>,
    /// A task looks after them.
    tended: bool,
}

impl Survey {
    pub fn new(context: Arc<Context>, news: mpsc::UnboundedSender<News>) -> Survey {
        Survey { context, news, doubts: Default::default() }
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

    /// A bell rang for what another worker should claim, and this one of `rank` only in its stead. A look in a second or
    /// two shows whether it did; a worker that hangs, or is cut off, is known to be so only after half a minute.
    pub fn doubt(&self, id: DestinationId, rank: usize) {
        let stand_in = rank.checked_sub(1).and_then(|place| self.doubts.get(place).zip(PATIENCE.get(place)));
        let Some((doubts, patience)) = stand_in else { return };
        let mut noted = lock(doubts);
        noted.noted.insert(id.0);
        if !std::mem::replace(&mut noted.tended, true) {
            tokio::spawn(resolve_doubts(self.context.clone(), self.news.clone(), doubts.clone(), *patience));
        }
    }
}

/// One statement for each time of patience at most, as long as bells ring; then it ends.
async fn resolve_doubts(
    context: Arc<Context>,
    news: mpsc::UnboundedSender<News>,
    doubts: Arc<Mutex<Doubts>>,
    patience: Duration,
) {
    let mut ripe: Vec<DestinationId> = Vec::new();
    loop {
        tokio::select! {
            () = tokio::time::sleep(patience) => {}
            () = context.lost.cancelled() => return,
        }
        if !ripe.is_empty() {
            match context.store.list_neglected(&ripe, patience).await {
                Ok(found) if found.is_empty() => {}
                Ok(found) => drop(news.send(News::Neglected(found))),
                // The sweep looks at everything.
                Err(error) => {
                    tracing::debug!(error = crate::store::chain(&error), "could not look for what was left lying")
                }
            }
        }
        let mut doubts = lock(&doubts);
        ripe = std::mem::take(&mut doubts.noted).into_iter().map(DestinationId).collect();
        doubts.tended = !ripe.is_empty();
        if !doubts.tended {
            return;
        }
    }
}

fn lock(doubts: &Mutex<Doubts>) -> MutexGuard<'_, Doubts> {
    doubts.lock().unwrap_or_else(PoisonError::into_inner)
}
