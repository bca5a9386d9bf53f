//! How are messages processed?
//!
//! A worker process holds one session at a time: connect, listen, join, serve until the session is lost or
//! the process is told to stop. `scheduler` decides which destinations it serves (whose they are: `peers`;
//! what stands in the way: `obstacles`; what nobody serves: `survey`), a `lane` serves each, `clerk` claims and
//! releases, `feed` reads ahead, `acknowledge` commits outcomes, `watch` notices the death of others, `upkeep`
//! does what one does for all.

mod acknowledge;
mod clerk;
mod context;
mod counters;
mod feed;
mod lane;
mod membership;
#[doc(hidden)]
pub mod notice;
mod obstacles;
mod pace;
mod peers;
mod policy;
mod scheduler;
mod survey;
mod upkeep;
mod watch;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

pub use counters::{Counters, Sample, Summary};

use crate::broken::{self, Broken};
use crate::config::WorkerSettings;
use crate::delivery::DeliveryClient;
use crate::domain::DestinationId;
use crate::store::session::{Session, SessionError};
use crate::store::{Store, StoreError};
use context::Context;
use membership::{Kind, View};
use peers::Peers;
use scheduler::{Finish, Scheduler, Wiring};
use survey::Survey;
use upkeep::Keeping;

/// How long workers from before a restart of Postgres may still be sending: they abort after 9 s without
/// an answer.
const GRACE: Duration = Duration::from_secs(15);
/// How long a lane with nothing to do keeps its destination: its next message needs no claim.
const LINGER: Duration = Duration::from_secs(5);

/// Between two sessions; doubles, unless the last one lasted for some time.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const STEADY: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    #[error("there is no destination {0}")]
    UnknownDestination(i64),
    #[error(transparent)]
    Session(#[from] SessionError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The session is gone, or cannot be trusted: nothing may be sent or written any more.
#[derive(Debug, Clone, Copy)]
pub struct Lost;

impl From<StoreError> for Lost {
    fn from(error: StoreError) -> Lost {
        tracing::debug!(error = crate::store::chain(&error), "a statement of a lane failed");
        Lost
    }
}

/// One worker process.
pub struct Worker {
    store: Store,
    client: DeliveryClient,
    settings: WorkerSettings,
    counters: Arc<Counters>,
    /// Stays when the session is made anew.
    process: String,
    host: String,
    grace: Duration,
}

impl Worker {
    /// `host` is shown to others.
    pub fn new(store: Store, client: DeliveryClient, settings: WorkerSettings, host: String) -> Worker {
        let grace = if broken::is(Broken::NoGrace) { Duration::ZERO } else { GRACE };
        let process = format!("{}-{}-{:016x}", host, std::process::id(), rand::random::<u64>());
        Worker { store, client, settings, counters: Arc::default(), process, host, grace }
    }

    /// Whoever owns its Postgres knows that no other worker can be sending after a restart.
    pub fn without_grace(mut self) -> Worker {
        self.grace = Duration::ZERO;
        self
    }

    pub fn counters(&self) -> Arc<Counters> {
        self.counters.clone()
    }

    /// Until `stop`, or, if not persistent, until nothing is left to do. A persistent one connects until it
    /// succeeds; one that is not fails if it cannot at first.
    pub async fn run(self, stop: CancellationToken) -> Result<Summary, WorkerError> {
        let only = self.settings.destination.map(DestinationId);
        if let Some(id) = only
            && !self.store.destination_exists(id).await?
        {
            return Err(WorkerError::UnknownDestination(id.0));
        }
        let mut first = true;
        let mut had_one = false;
        let mut told = String::new();
        let mut pause = FIRST_PAUSE;
        while !stop.is_cancelled() {
            let begun = Instant::now();
            let served = self.serve(&stop).await;
            if begun.elapsed() > STEADY {
                pause = FIRST_PAUSE;
            }
            had_one |= served.is_ok();
            let reason = served.as_ref().err().map(|error| crate::store::chain(error)).unwrap_or_default();
            let again = std::mem::replace(&mut told, reason);
            match served {
                Ok(Finish::Done) => break,
                Ok(Finish::Lost) => tracing::warn!("the session was lost; connecting anew"),
                Err(error @ SessionError::Pooler) if !had_one => return Err(error.into()),
                Err(error) if first && !self.settings.persistent => return Err(error.into()),
                // Once for each reason, not each time: it may take hours.
                Err(_) if told == again => tracing::debug!(error = told, "no session yet"),
                Err(_) => tracing::warn!(error = told, "no session yet; trying again until there is one"),
            }
            first = false;
            tokio::select! {
                () = tokio::time::sleep(pause.mul_f64(0.5 + rand::random::<f64>())) => {}
                () = stop.cancelled() => break,
            }
            pause = (pause * 2).min(Duration::from_secs(2));
        }
        let mut summary = self.counters.summary();
        if !self.settings.persistent {
            summary.served_elsewhere = self.store.count_served_elsewhere(only).await.unwrap_or(0);
        }
        Ok(summary)
    }

    /// One session, from its connection to its end.
    async fn serve(&self, stop: &CancellationToken) -> Result<Finish, SessionError> {
        let (session, notifications) = Session::open(self.store.connector(), self.store.sealer.clone()).await?;
        let session = Arc::new(session);
        let lost = CancellationToken::new();
        let _end_with_session = lost.clone().drop_guard();
        let only = self.settings.destination.map(DestinationId);
        let kind = match (self.settings.persistent, only) {
            (false, _) => Kind::Once,
            (true, Some(_)) => Kind::Pinned,
            (true, None) => Kind::General,
        };

        let lane_count = Arc::new(AtomicUsize::new(0));
        let counted = lane_count.clone();
        let context = Arc::new(Context {
            feed: feed::Feed::start(session.clone(), move || counted.load(Ordering::Relaxed)),
            acknowledger: acknowledge::Acknowledger::start(
                session.clone(),
                self.settings.keep_payloads > 0,
                lost.clone(),
            ),
            session: session.clone(),
            store: self.store.clone(),
            client: self.client.clone(),
            pace: pace::Pace::new(self.settings.concurrency),
            counters: self.counters.clone(),
            retry: self.settings.retry_policy(),
            linger: if kind == Kind::Once { Duration::ZERO } else { LINGER },
            stays: kind == Kind::Pinned,
            started: Instant::now(),
            lost: lost.clone(),
        });

        let (orders, incoming_orders) = mpsc::unbounded_channel();
        let (report_sender, reports) = mpsc::unbounded_channel();
        let (news_sender, news) = mpsc::unbounded_channel();
        let (view_changed, view) = tokio::sync::watch::channel(View::default());
        let pulse = watch::Pulse::start(session.clone(), lost.clone());
        let keeping = Keeping {
            attempt_days: self.settings.keep_attempts,
            letter_days: self.settings.keep_dead_letters,
            payload_hours: self.settings.keep_payloads,
        };

        // Listening since open(). The row appears; everything follows from reading that it did. A process
        // that comes back takes its old row away with it, and first whoever died meanwhile goes.
        let host = &self.host;
        session.join(&self.process, host, kind.as_str(), only).await?;
        self.store.reap(self.grace).await?;
        let mut members = View::default();
        for member in self.store.list_members().await? {
            if member.id != session.me {
                members.insert(member.id, Kind::from_name(&member.kind));
            }
        }
        tracing::info!(worker.id = session.me.0, kind = kind.as_str(), "worker ready");

        let tasks = [
            tokio::spawn(clerk::run(session.clone(), incoming_orders, report_sender, lost.clone())),
            tokio::spawn(context::stay_fresh(context.clone())),
            tokio::spawn(watch::watch_peer(
                session.clone(),
                self.store.clone(),
                view.clone(),
                self.grace,
                lost.clone(),
            )),
            tokio::spawn(watch::ping_peer(
                session.clone(),
                self.store.clone(),
                view.clone(),
                pulse.clone(),
                lost.clone(),
            )),
            tokio::spawn(upkeep::run(context.clone(), view, pulse.clone(), orders.clone(), keeping, lost.clone())),
        ];
        let peers = Peers::new(session.me, kind, only, members, view_changed);
        let survey = Survey::new(context.clone(), news_sender);
        let wiring = Wiring { orders, reports, news, lane_count, pulse };
        let scheduler = Scheduler::new(context.clone(), peers, survey, wiring);
        let finish = scheduler.run(notifications, stop.clone(), self.settings.grace).await;
        if finish == Finish::Done {
            let _ = tokio::time::timeout(Duration::from_secs(5), session.leave()).await;
        }
        for task in tasks {
            task.abort();
        }
        Ok(finish)
    }
}
