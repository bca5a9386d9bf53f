//! What does one worker do for all, now and then?

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::clerk::Order;
use super::context::Context;
use super::membership::View;
use super::watch::Pulse;
use crate::broken::{self, Broken};
use crate::domain::DestinationId;

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
    orders: mpsc::UnboundedSender<Order>,
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
    // Beside the rest: pruning may take minutes, and must not keep the sweep waiting (G7).
    let (mut pruning, mut expiring) = (Aside::default(), Aside::default());
    let lowest = || view.borrow().lowest() == Some(context.session.me);
    let (mut pruned, mut found, mut sweeps) = (false, HashSet::new(), 0_u64);
    loop {
        tokio::select! {
            _ = sweep.tick() => {
                let all_served = view.borrow().serves_all();
                sweeps += 1;
                if !lowest() {
                    // Another one sweeps: what was found here before is of no time that counts.
                    found.clear();
                }
                // A pinned worker looks into its own queue by itself: with a sweep each time it would say too much (G6).
                if lowest() && (all_served || sweeps % 2 == 1) {
                    if sweep_once(&context, &pulse, &mut found, all_served).await {
                        expiring.start(expire_all(context.clone()));
                    }
                    if !pruned {
                        pruned = true;
                        pruning.start(prune_all(context.clone(), keeping));
                    }
                }
            }
            _ = compare.tick() => {
                // Asked on the session, so that a worker with nothing to do finds out, too, that its line leads nowhere.
                let _ = orders.send(Order::List);
            }
            _ = prune.tick() => {
                if lowest() {
                    pruning.start(prune_all(context.clone(), keeping));
                }
            }
            () = lost.cancelled() => return,
        }
    }
}

/// Long work, at most once at a time; ends with this.
#[derive(Default)]
struct Aside(JoinSet<()>);

impl Aside {
    fn start(&mut self, work: impl Future<Output = ()> + Send + 'static) {
        while self.0.try_join_next().is_some() {}
        if self.0.is_empty() {
            self.0.spawn(work);
        }
    }
}

/// Tells of what waits and nobody serves: whoever should serve it knows whether that is news, and what was found before,
/// too, nobody has claimed. Whether there may be more that has expired.
async fn sweep_once(
    context: &Context,
    pulse: &Pulse,
    found_before: &mut HashSet<DestinationId>,
    all_served: bool,
) -> bool {
    if broken::is(Broken::BellBeforeCommit) {
        return false;
    }
    match context.store.sweep(SWEEP_AGE).await {
        Ok((found, more)) => {
            found.iter().for_each(|id| pulse.sweep(*id));
            let again = found.iter().filter(|id| found_before.contains(*id)).count();
            if again > 0 && all_served {
                tracing::warn!(count = again, "queues had messages and were served by nobody at two sweeps in a row");
            }
            *found_before = found.into_iter().collect();
            more
        }
        Err(error) => {
            tracing::warn!(error = crate::store::chain(&error), "the sweep failed; it is tried again later");
            false
        }
    }
}

/// In pieces, too.
async fn expire_all(context: Arc<Context>) {
    loop {
        tokio::time::sleep(BETWEEN_PIECES).await;
        match context.store.expire_unserved().await {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => {
                return tracing::warn!(error = crate::store::chain(&error), "what expired could not all be ended yet");
            }
        }
    }
}

/// In pieces, so that no deletion is long.
async fn prune_all(context: Arc<Context>, keeping: Keeping) {
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
