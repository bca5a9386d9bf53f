//! What does one worker do for all, now and then?

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::context::Context;
use super::membership::View;
use super::survey::News;
use super::watch::Pulse;
use crate::broken::{self, Broken};

const SWEEP_EVERY: Duration = Duration::from_secs(20);
/// Younger messages may have a bell under way.
const SWEEP_AGE: Duration = Duration::from_secs(4);
const COMPARE_EVERY: Duration = Duration::from_secs(60);
const PRUNE_EVERY: Duration = Duration::from_secs(600);

/// Long work goes in pieces, and leaves the database to others in between.
const BETWEEN_PIECES: Duration = Duration::from_millis(20);

/// How long things are kept.
#[derive(Debug, Clone, Copy)]
pub struct Keeping {
    pub attempt_days: u32,
    pub letter_days: u32,
    pub payload_hours: u32,
}

/// The lowest worker in the view looks for messages that no bell told of, ends what expired where nobody
/// serves, and prunes. Each compares what it owns by the database with what it serves.
pub async fn run(
    context: Arc<Context>,
    view: watch::Receiver<View>,
    pulse: Pulse,
    news: mpsc::UnboundedSender<News>,
    keeping: Keeping,
    lost: CancellationToken,
) {
    let later = |every| tokio::time::interval_at(tokio::time::Instant::now() + every, every);
    let (mut sweep, mut compare, mut prune) =
        (later(SWEEP_EVERY), later(COMPARE_EVERY), tokio::time::interval(PRUNE_EVERY));
    for tick in [&mut sweep, &mut compare, &mut prune] {
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    }
    // The first one fires at once; nobody is in the view yet, so it waits for the next.
    prune.tick().await;
    let lowest = || view.borrow().lowest() == Some(context.session.me);
    let mut pruned = false;
    loop {
        tokio::select! {
            _ = sweep.tick() => {
                if lowest() {
                    let view = view.borrow().clone();
                    sweep_once(&context, &pulse, &view).await;
                    if !pruned {
                        pruned = true;
                        prune_all(&context, keeping).await;
                    }
                }
            }
            _ = compare.tick() => {
                if let Ok(owned) = context.store.list_owned_by(context.session.me).await {
                    let _ = news.send(News::Owned(owned));
                }
            }
            _ = prune.tick() => {
                if lowest() {
                    prune_all(&context, keeping).await;
                }
            }
            () = lost.cancelled() => return,
        }
    }
}

/// Where nobody serves all, or whoever should serve a queue has as many as it may, it is no surprise that messages wait:
/// they are told of, and not counted.
async fn sweep_once(context: &Context, pulse: &Pulse, view: &View) {
    if broken::is(Broken::BellBeforeCommit) {
        return;
    }
    let work = async {
        let (found, mut more) = context.store.sweep(SWEEP_AGE).await?;
        if !found.is_empty() && view.serves_all() {
            let served = context.store.count_served().await?;
            // A little less: where queues take turns, some are always on their way.
            let full = view.share_of(context.session.lock_budget) * 9 / 10;
            let waits_for_room =
                |id| view.preferred(id).and_then(|worker| served.get(&worker)).is_some_and(|count| *count >= full);
            let untold = found.iter().filter(|id| !waits_for_room(**id)).count();
            if untold > 0 {
                tracing::warn!(count = untold, "messages that no bell had told of were found");
                context.counters.count_swept(untold);
            }
        }
        // The database is the truth: whatever a worker believes to stand in the way does not.
        found.into_iter().for_each(|id| pulse.wake(id));
        while more {
            tokio::time::sleep(BETWEEN_PIECES).await;
            more = context.store.expire_unserved().await?;
        }
        Ok::<(), crate::store::StoreError>(())
    };
    if let Err(error) = work.await {
        tracing::warn!(error = crate::store::chain(&error), "the sweep failed; it is tried again later");
    }
}

/// In pieces, so that no deletion is long.
async fn prune_all(context: &Context, keeping: Keeping) {
    let work = async {
        context.store.maintain_partitions(keeping.attempt_days).await?;
        while context.store.prune(keeping.attempt_days, keeping.letter_days, keeping.payload_hours).await? > 0 {
            tokio::time::sleep(BETWEEN_PIECES).await;
        }
        while context.store.remove_leftovers().await? > 0 {
            tokio::time::sleep(BETWEEN_PIECES).await;
        }
        Ok::<(), crate::store::StoreError>(())
    };
    if let Err(error) = work.await {
        tracing::warn!(error = crate::store::chain(&error), "pruning failed; it is tried again later");
    }
}
