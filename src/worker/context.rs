//! What do the lanes of one session share?

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::Lost;
use super::acknowledge::Acknowledger;
use super::counters::Counters;
use super::feed::Feed;
use super::pace::Pace;
use crate::broken::{self, Broken};
use crate::delivery::DeliveryClient;
use crate::domain::{DestinationId, RetryPolicy};
use crate::store::Store;
use crate::store::session::{Release, Session};

/// Before a send, the last answered question must have been asked less than this ago. The server lets the
/// locks of a host that is gone go after 11 s, and no peer is judged dead sooner.
const FRESH_MS: i64 = 8_000;
/// With requests in flight, so often the session is asked …
const ASK_EVERY_MS: i64 = 3_000;
/// … and without an answer for so long they are aborted: before the server lets go.
const DOUBT_AFTER_MS: i64 = 9_000;

pub struct Context {
    pub session: Arc<Session>,
    pub store: Store,
    pub client: DeliveryClient,
    pub pace: Pace,
    pub feed: Feed,
    pub acknowledger: Acknowledger,
    pub counters: Arc<Counters>,
    pub retry: RetryPolicy,
    /// How long a lane with nothing to do keeps its destination.
    pub linger: Duration,
    /// A lane that never gives its destination back (`--destination`).
    pub stays: bool,
    pub started: Instant,
    pub lost: CancellationToken,
}

impl Context {
    /// Before a request is made ready: its gate, which looks at the socket too, would find too old an answer.
    pub async fn ensure_answered(&self) -> Result<(), Lost> {
        if self.session.stale_ms() < FRESH_MS { Ok(()) } else { self.ensure_fresh().await }
    }

    /// The session lives and its locks are held, as far as can be known: it answered a question that was
    /// asked less than [`FRESH_MS`] ago and its socket shows no end. Else it is asked.
    pub async fn ensure_fresh(&self) -> Result<(), Lost> {
        if broken::is(Broken::NoFreshness) {
            return Ok(());
        }
        if self.lost.is_cancelled() || self.session.socket.hung_up() {
            self.lost.cancel();
            return Err(Lost);
        }
        if self.session.stale_ms() < FRESH_MS {
            return Ok(());
        }
        match Box::pin(tokio::time::timeout(Duration::from_secs(5), self.session.ask_alive())).await {
            Ok(Ok(())) if !self.session.socket.hung_up() && self.session.stale_ms() < FRESH_MS => Ok(()),
            _ => {
                self.lost.cancel();
                Err(Lost)
            }
        }
    }

    /// The same without asking, for the moment in which the first byte would leave.
    pub fn gate(&self) -> impl Fn() -> bool + Send + Sync + 'static {
        let (session, lost) = (self.session.clone(), self.lost.clone());
        move || {
            broken::is(Broken::NoFreshness)
                || !lost.is_cancelled() && session.stale_ms() < FRESH_MS && !session.socket.hung_up()
        }
    }

    pub fn age_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// What a release would write, while the destination is kept.
    pub async fn checkpoint(&self, release: Release) {
        if let Err(error) = self.session.release(&[release], true).await {
            tracing::debug!(error = crate::store::chain(&error), "no checkpoint written");
        }
    }

    /// Through the pool, since the producers' lock may have to be waited for; until it is done, since nothing
    /// may be sent before.
    pub async fn disable(&self, destination: DestinationId) {
        while let Err(error) = self.store.disable_destination(destination).await {
            tracing::warn!(
                destination.id = destination.0,
                error = crate::store::chain(&error),
                "a 410 could not be written down yet"
            );
            tokio::select! {
                () = tokio::time::sleep(Duration::from_millis(200)) => {}
                () = self.lost.cancelled() => return,
            }
        }
    }
}

/// Keeps the session's freshness known while requests are in flight, and gives it up when in doubt.
pub async fn stay_fresh(context: Arc<Context>) {
    let mut tick = tokio::time::interval(Duration::from_millis(500));
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut asking: Option<tokio::task::JoinHandle<()>> = None;
    loop {
        tick.tick().await;
        if context.session.is_closed() {
            return context.lost.cancel();
        }
        if context.pace.in_flight() == 0 {
            continue;
        }
        let stale = context.session.stale_ms();
        if stale >= DOUBT_AFTER_MS {
            tracing::warn!(stale_ms = stale, "the database does not answer: requests in flight are aborted");
            return context.lost.cancel();
        }
        if stale >= ASK_EVERY_MS && asking.as_ref().is_none_or(tokio::task::JoinHandle::is_finished) {
            let session = context.session.clone();
            asking = Some(tokio::spawn(async move {
                let _ = session.ask_alive().await;
            }));
        }
    }
}
