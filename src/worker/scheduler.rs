//! Which destinations does this worker serve right now?
//!
//! One task holds the answer, and every piece of news goes through it: bells, changes of membership,
//! claims, lanes that end. So no edge between two of them is lost: news about a destination that is being
//! claimed or released is remembered, and looked at again afterwards.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::clerk::{Order, Report};
use super::context::Context;
use super::lane::{ASKED, BELL, End, Ended, Handle, LEAVE, Lane, UNREADABLE_PAUSE};
use super::membership::{Kind, View};
use super::notice::Notice;
use super::watch::Pulse;
use crate::domain::{DestinationId, Sequence, WorkerId};
use crate::store::session::{Claimed, LaneStart, Notifications};

/// The first pause before a claim is tried again; doubles.
const BUSY_PAUSE: Duration = Duration::from_millis(10);
const BUSY_LIMIT: Duration = Duration::from_millis(500);
/// At the cap, a busy lane may be asked to make room after so long.
const TURN: Duration = Duration::from_secs(1);

/// What a session came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// Stopped as asked, or (not persistent) nothing is left to do.
    Done,
    Lost,
}

/// News that does not come by NOTIFY.
pub enum News {
    /// Destinations with messages that nobody serves: ready, or after a wait.
    Unserved(Vec<(DestinationId, Option<Duration>)>),
    /// What a worker that is gone had.
    Orphaned(Vec<DestinationId>),
    /// What the database says that this worker owns.
    Owned(Vec<DestinationId>),
}

enum Slot {
    /// `news`: heard since it was asked for; `woken`: among it that what stood in the way is no longer.
    Claiming {
        news: bool,
        woken: bool,
    },
    Serving {
        handle: Arc<Handle>,
        since: Instant,
    },
    Releasing {
        news: bool,
        then: After,
    },
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum After {
    /// Look again only if there was news.
    Rest,
    /// There may be more: it is somebody's turn.
    Pass,
    Sleep(Option<Duration>),
}

pub struct Scheduler {
    context: Arc<Context>,
    kind: Kind,
    /// For a pinned worker, and for one that runs once: the only destination.
    only: Option<DestinationId>,
    view: View,
    slots: HashMap<DestinationId, Slot>,
    lanes: JoinSet<(Ended, Arc<Handle>)>,
    /// Nothing to send there until a time, or until a wake: bells are not news.
    asleep: HashMap<DestinationId, Option<Instant>>,
    timers: BinaryHeap<Reverse<(Instant, DestinationId)>>,
    /// Claims that met somebody who owns nothing: how long to wait before the next try.
    busy: HashMap<DestinationId, Duration>,
    /// Served by a pinned worker: bells are its business.
    elsewhere: HashMap<DestinationId, WorkerId>,
    /// Wanted while at the cap.
    waiting: VecDeque<DestinationId>,
    waits: HashSet<DestinationId>,
    cap: usize,
    lock_budget: usize,
    orders: mpsc::UnboundedSender<Order>,
    reports: mpsc::UnboundedReceiver<Report>,
    news: mpsc::UnboundedReceiver<News>,
    news_sender: mpsc::UnboundedSender<News>,
    pulse: Pulse,
    view_changed: watch::Sender<View>,
    lane_count: Arc<AtomicUsize>,
    joined: bool,
    stopping: bool,
    /// Of a worker that runs once: a look at everything is under way, and how many it found.
    scanning: bool,
    standing_by: bool,
}

/// What the scheduler is connected to.
pub struct Wiring {
    pub orders: mpsc::UnboundedSender<Order>,
    pub reports: mpsc::UnboundedReceiver<Report>,
    pub news: mpsc::UnboundedReceiver<News>,
    pub news_sender: mpsc::UnboundedSender<News>,
    pub view_changed: watch::Sender<View>,
    pub lane_count: Arc<AtomicUsize>,
    pub pulse: Pulse,
}

impl Scheduler {
    pub fn new(
        context: Arc<Context>,
        kind: Kind,
        only: Option<DestinationId>,
        members: View,
        wiring: Wiring,
    ) -> Scheduler {
        let lock_budget = context.session.lock_budget;
        Scheduler {
            context,
            kind,
            only,
            view: members,
            slots: HashMap::new(),
            lanes: JoinSet::new(),
            asleep: HashMap::new(),
            timers: BinaryHeap::new(),
            busy: HashMap::new(),
            elsewhere: HashMap::new(),
            waiting: VecDeque::new(),
            waits: HashSet::new(),
            cap: lock_budget,
            lock_budget,
            orders: wiring.orders,
            reports: wiring.reports,
            news: wiring.news,
            news_sender: wiring.news_sender,
            pulse: wiring.pulse,
            view_changed: wiring.view_changed,
            lane_count: wiring.lane_count,
            joined: false,
            stopping: false,
            scanning: false,
            standing_by: false,
        }
    }

    fn me(&self) -> WorkerId {
        self.context.session.me
    }

    /// Until `stop` (and `grace` after it), until nothing is left (not persistent), or until the session is
    /// lost. What is still in flight then is aborted: a lane that is dropped closes its connection.
    pub async fn run(mut self, notifications: Notifications, stop: CancellationToken, grace: Duration) -> Finish {
        let finish = self.schedule(notifications, stop, grace).await;
        // Waited for: nothing of this session is in flight when the next one begins.
        self.lanes.shutdown().await;
        finish
    }

    async fn schedule(&mut self, mut notifications: Notifications, stop: CancellationToken, grace: Duration) -> Finish {
        let lost = self.context.lost.clone();
        let mut give_up_at = None;
        loop {
            if self.stopping && self.slots.is_empty() {
                return Finish::Done;
            }
            if self.kind == Kind::Once && self.idle() {
                if self.scanning {
                    // Its answer comes as news.
                } else {
                    self.scan();
                    self.scanning = true;
                }
            }
            let timer = self.timers.peek().map(|Reverse((at, _))| *at);
            tokio::select! {
                biased;
                () = lost.cancelled() => return Finish::Lost,
                notification = notifications.recv() => match notification {
                    Some((_, payload)) => self.hear(Notice::parse(&payload)),
                    None => {
                        lost.cancel();
                        return Finish::Lost;
                    }
                },
                Some(report) = self.reports.recv() => self.take_report(report),
                Some(ended) = self.lanes.join_next() => match ended {
                    Ok((ended, handle)) => self.end_lane(ended, &handle),
                    Err(error) => {
                        tracing::error!(%error, "a lane broke down; the session is given up");
                        lost.cancel();
                        return Finish::Lost;
                    }
                },
                Some(news) = self.news.recv() => {
                    if self.take_news(news) {
                        return Finish::Done;
                    }
                },
                () = sleep_until(timer.unwrap_or_else(Instant::now)), if timer.is_some() => self.fire_timers(),
                () = stop.cancelled(), if !self.stopping => {
                    self.begin_stop();
                    give_up_at = Some(Instant::now() + grace);
                }
                () = sleep_until(give_up_at.unwrap_or_else(Instant::now)), if give_up_at.is_some() => {
                    tracing::warn!("requests were still in flight after --grace; they are aborted");
                    return Finish::Done;
                }
            }
            self.lane_count.store(self.slots.len(), Ordering::Relaxed);
        }
    }

    fn idle(&self) -> bool {
        self.joined && !self.stopping && self.slots.is_empty() && self.timers.is_empty() && self.waiting.is_empty()
    }

    fn hear(&mut self, notice: Notice) {
        match notice {
            Notice::Bell(ids) => ids.into_iter().for_each(|id| self.ring(id)),
            Notice::Wake(ids) => {
                for id in ids {
                    self.asleep.remove(&id);
                    if let Some(Slot::Claiming { woken, .. }) = self.slots.get_mut(&id) {
                        *woken = true;
                    }
                    self.ring(id);
                }
            }
            Notice::Asked(ids) => {
                for id in ids {
                    match self.slots.get_mut(&id) {
                        Some(Slot::Serving { handle, .. }) => handle.signal(ASKED),
                        // A claim tells of requests itself, but one may come right after it looked.
                        Some(Slot::Claiming { news, .. } | Slot::Releasing { news, .. }) => *news = true,
                        None => {}
                    }
                }
            }
            Notice::Joined(worker, kind) => self.adopt_joined(worker, Kind::from_name(&kind)),
            Notice::Draining(worker) => self.adopt_draining(worker),
            Notice::Left(worker) => self.adopt_left(worker),
            Notice::Ping { to, .. } => {
                if to == self.me() {
                    self.pulse.answer();
                }
            }
            Notice::Pong { from } => self.pulse.heard(from),
            Notice::Missed { by, about, round } => self.pulse.missed(by, about, round),
            Notice::Unknown => {}
        }
    }

    /// There may be messages for a destination.
    fn ring(&mut self, id: DestinationId) {
        match self.slots.get_mut(&id) {
            Some(Slot::Serving { handle, .. }) => handle.signal(BELL),
            Some(Slot::Claiming { news, .. } | Slot::Releasing { news, .. }) => *news = true,
            None => {
                if self.is_ours(id)
                    && !self.asleep.contains_key(&id)
                    && !self.busy.contains_key(&id)
                    && !self.elsewhere.contains_key(&id)
                {
                    self.want(id);
                }
            }
        }
    }

    /// Whether this worker should serve it, when nobody does.
    fn is_ours(&self, id: DestinationId) -> bool {
        match self.kind {
            Kind::General => !self.stopping && self.joined && self.view.preferred(id) == Some(self.me()),
            Kind::Pinned => !self.stopping && self.only == Some(id),
            Kind::Once | Kind::Draining => false,
        }
    }

    /// Claims it, at the cap when there is room.
    fn want(&mut self, id: DestinationId) {
        if self.stopping || self.slots.contains_key(&id) {
            return;
        }
        if self.slots.len() >= self.cap {
            if self.waits.insert(id) {
                self.waiting.push_back(id);
            }
            self.make_room();
            return;
        }
        self.slots.insert(id, Slot::Claiming { news: false, woken: false });
        let _ = self.orders.send(Order::Claim(id));
    }

    /// At the cap: the lane that has lingered longest goes first, then one that had its turn.
    fn make_room(&mut self) {
        let leaving = self.slots.values().filter(|slot| match slot {
            Slot::Serving { handle, .. } => handle.has(LEAVE),
            Slot::Releasing { .. } => true,
            Slot::Claiming { .. } => false,
        });
        if leaving.count() >= self.waiting.len() {
            return;
        }
        let serving = || {
            self.slots.iter().filter_map(|(id, slot)| match slot {
                Slot::Serving { handle, since } if !handle.has(LEAVE) => Some((*id, handle, *since)),
                Slot::Serving { .. } | Slot::Claiming { .. } | Slot::Releasing { .. } => None,
            })
        };
        let quiet = serving()
            .filter_map(|(_, handle, _)| handle.quiet_since_ms().map(|since| (since, handle)))
            .min_by_key(|(since, _)| *since);
        if let Some((_, handle)) = quiet {
            return handle.signal(LEAVE);
        }
        match serving().min_by_key(|(_, _, since)| *since) {
            Some((_, handle, since)) if since.elapsed() >= TURN => handle.signal(LEAVE),
            Some((_, _, since)) => {
                // Nobody had a turn yet: look again when the first one has.
                if let Some(first) = self.waiting.front() {
                    self.timers.push(Reverse((since + TURN, *first)));
                }
            }
            None => {}
        }
    }

    fn take_waiting(&mut self) {
        while self.slots.len() < self.cap {
            let Some(id) = self.waiting.pop_front() else { return };
            self.waits.remove(&id);
            self.want(id);
        }
        if !self.waiting.is_empty() {
            self.make_room();
        }
    }

    fn take_report(&mut self, report: Report) {
        match report {
            Report::Claimed(id, claimed) => {
                let (news, woken) = match self.slots.remove(&id) {
                    Some(Slot::Claiming { news, woken }) => (news, woken),
                    Some(Slot::Serving { .. } | Slot::Releasing { .. }) | None => (false, false),
                };
                match claimed {
                    Claimed::Lane(start) => {
                        self.busy.remove(&id);
                        // After the lock table was full, back to the whole share, step by step.
                        self.cap = (self.cap + 1).min(self.share());
                        self.start_lane(*start, news);
                        return;
                    }
                    Claimed::Owned(owner) => {
                        self.find_owned(id, owner);
                        if news {
                            // Perhaps its holder's bell: given back since the claim looked.
                            self.ring(id);
                        }
                    }
                    Claimed::Dormant(wait) => {
                        self.busy.remove(&id);
                        if woken {
                            // What it says may be from before the wake.
                            self.want(id);
                        } else {
                            self.sleep(id, wait);
                        }
                    }
                    Claimed::Busy => {
                        let pause = self.busy.get(&id).map_or(BUSY_PAUSE, |pause| (*pause * 2).min(BUSY_LIMIT));
                        self.busy.insert(id, pause);
                        self.timers.push(Reverse((Instant::now() + pause, id)));
                    }
                    Claimed::Gone => {
                        self.busy.remove(&id);
                        self.asleep.remove(&id);
                    }
                    Claimed::Unreadable => {
                        self.busy.remove(&id);
                        let then = After::Sleep(Some(UNREADABLE_PAUSE));
                        self.slots.insert(id, Slot::Releasing { news: false, then });
                        let _ = self.orders.send(Order::Release(id, Sequence(0), Sequence(0)));
                    }
                }
                self.take_waiting();
            }
            Report::ClaimFailed(id) => {
                self.slots.remove(&id);
                self.busy.insert(id, BUSY_LIMIT);
                self.timers.push(Reverse((Instant::now() + BUSY_LIMIT, id)));
            }
            Report::OutOfLocks => {
                let held = self.held();
                tracing::error!(
                    held = held.len(),
                    "the cluster's lock table is full: half of the destinations are given back"
                );
                self.cap = (held.len() / 2).max(1);
                for id in held.iter().take(held.len() / 2) {
                    if let Some(Slot::Serving { handle, .. }) = self.slots.get(id) {
                        handle.signal(LEAVE);
                    }
                }
                let _ = self.orders.send(Order::UnlockStrays(held));
            }
            Report::Strays => {
                let _ = self.orders.send(Order::UnlockStrays(self.held()));
            }
            Report::Released(id) => {
                let Some(Slot::Releasing { news, then }) = self.slots.remove(&id) else { return };
                match then {
                    After::Sleep(wait) => {
                        self.sleep(id, wait);
                        if news {
                            // A request came, or a wake: the sleep may be over.
                            self.asleep.remove(&id);
                            self.look_again(id);
                        }
                    }
                    After::Pass => self.look_again(id),
                    After::Rest if news => self.look_again(id),
                    After::Rest => {}
                }
                self.take_waiting();
            }
        }
    }

    /// What is locked, as far as reports have come: the clerk works in order, so what it is told to spare
    /// contains all it has reported.
    fn held(&self) -> Vec<DestinationId> {
        let held = self.slots.iter().filter(|(_, slot)| !matches!(slot, Slot::Claiming { .. }));
        held.map(|(id, _)| *id).collect()
    }

    /// Given back with something left, perhaps: claimed again, or left to whoever should have it.
    fn look_again(&mut self, id: DestinationId) {
        if self.kind == Kind::Once && !self.stopping || self.is_ours(id) {
            return if self.waiting.is_empty() {
                self.want(id);
            } else if self.waits.insert(id) {
                self.waiting.push_back(id);
            };
        }
        self.pulse.ring(id);
    }

    fn sleep(&mut self, id: DestinationId, wait: Option<Duration>) {
        let until = wait.map(|wait| Instant::now() + wait);
        self.asleep.insert(id, until);
        if let Some(until) = until {
            self.timers.push(Reverse((until, id)));
        }
    }

    fn fire_timers(&mut self) {
        let now = Instant::now();
        while let Some(Reverse((at, id))) = self.timers.peek().copied() {
            if at > now {
                return;
            }
            self.timers.pop();
            if self.asleep.get(&id).is_some_and(|until| until.is_none_or(|until| until > now)) {
                continue;
            }
            self.asleep.remove(&id);
            let ours = self.is_ours(id) || self.kind == Kind::Once;
            if self.waits.contains(&id) {
                self.make_room();
            } else if ours {
                // `busy` stays: the pause doubles until a claim tells something else.
                self.want(id);
            } else {
                self.busy.remove(&id);
            }
        }
    }

    fn start_lane(&mut self, start: LaneStart, news: bool) {
        let id = start.destination;
        let handle = Arc::new(Handle::default());
        if news {
            handle.signal(BELL | ASKED);
        }
        if self.stopping {
            handle.signal(LEAVE);
        }
        let preferred = self.view.preferred(id);
        if self.kind == Kind::General && preferred.is_some_and(|worker| worker != self.me()) {
            handle.signal(LEAVE);
        }
        if self.standing_by {
            self.standing_by = false;
            tracing::info!(destination.id = id.0, "took the destination over");
        }
        self.spawn_lane(Lane::new(self.context.clone(), handle.clone(), start), id, handle);
    }

    fn spawn_lane(&mut self, lane: Lane, id: DestinationId, handle: Arc<Handle>) {
        self.slots.insert(id, Slot::Serving { handle: handle.clone(), since: Instant::now() });
        self.lanes.spawn(async move { (lane.run().await, handle) });
    }

    fn end_lane(&mut self, ended: Ended, handle: &Handle) {
        let id = ended.destination;
        // What came after the lane's last look is news for after the release.
        let heard = handle.has(BELL | ASKED);
        let (then, news) = match ended.end {
            End::Lost => {
                self.context.lost.cancel();
                return;
            }
            End::Drained => (After::Rest, heard),
            End::Gone => (After::Rest, false),
            End::Left => (After::Pass, true),
            End::Dormant(wait) => (After::Sleep(wait), handle.has(ASKED)),
        };
        self.slots.insert(id, Slot::Releasing { news, then });
        let _ = self.orders.send(Order::Release(id, ended.floor, ended.last_delivered));
    }

    fn find_owned(&mut self, id: DestinationId, owner: WorkerId) {
        self.busy.remove(&id);
        if self.kind == Kind::Pinned && !self.standing_by {
            self.standing_by = true;
            tracing::info!(
                destination.id = id.0,
                worker.id = owner.0,
                "standing by: another worker serves the destination"
            );
        }
        match self.view.kind(owner) {
            Some(Kind::Pinned) if self.kind == Kind::General => {
                self.elsewhere.insert(id, owner);
            }
            Some(_) => {}
            // It has gone since: what it had is looked for when that is read, or right now.
            None => {
                self.busy.insert(id, BUSY_LIMIT);
                self.timers.push(Reverse((Instant::now() + BUSY_LIMIT, id)));
            }
        }
    }

    fn adopt_joined(&mut self, worker: WorkerId, kind: Kind) {
        self.view.insert(worker, kind);
        self.publish_view();
        if worker == self.me() {
            self.joined = true;
            match self.kind {
                Kind::Pinned => self.only.into_iter().for_each(|id| self.want(id)),
                // It looks at everything when it has nothing to do.
                Kind::Once => {}
                Kind::General | Kind::Draining => self.scan(),
            }
        }
        if self.stopping && worker != self.me() {
            // The joiner has not heard it, and would leave to this one what is its own by now.
            self.pulse.say_draining();
        }
        if self.kind == Kind::General {
            // A joiner gets its share: finish the request in flight, release, and ring for it.
            for (id, slot) in &self.slots {
                if let Slot::Serving { handle, .. } = slot
                    && self.view.preferred(*id) != Some(self.me())
                {
                    handle.signal(LEAVE);
                }
            }
        }
    }

    /// What it would have served is others', also what a bell told of before this was known.
    fn adopt_draining(&mut self, worker: WorkerId) {
        // Not there: it has left since it said so.
        if self.view.kind(worker).is_none_or(|kind| kind == Kind::Draining) {
            return;
        }
        self.view.insert(worker, Kind::Draining);
        self.publish_view();
        if self.kind == Kind::General && self.joined && !self.stopping {
            self.scan();
        }
    }

    fn adopt_left(&mut self, worker: WorkerId) {
        if worker == self.me() && !self.stopping {
            tracing::warn!("this worker was taken for dead; it starts anew");
            self.context.lost.cancel();
            return;
        }
        if self.view.remove(worker).is_none() {
            return;
        }
        self.publish_view();
        self.elsewhere.retain(|_, owner| *owner != worker);
        let (context, news) = (self.context.clone(), self.news_sender.clone());
        tokio::spawn(async move {
            match context.store.list_owned_by(worker).await {
                Ok(ids) if ids.is_empty() => {}
                Ok(ids) => drop(news.send(News::Orphaned(ids))),
                Err(error) => {
                    tracing::warn!(error = crate::store::chain(&error), "could not look for what a worker left")
                }
            }
        });
        if self.kind == Kind::General {
            self.scan();
        } else if let (Kind::Pinned, Some(id)) = (self.kind, self.only) {
            self.ring(id);
        }
    }

    /// Of the locks that all workers together may hold.
    fn share(&self) -> usize {
        (self.lock_budget / self.view.len().max(1)).max(1)
    }

    fn publish_view(&mut self) {
        self.cap = self.share();
        self.view_changed.send_replace(self.view.clone());
    }

    /// Looks for everything that nobody serves, once.
    fn scan(&self) {
        let (context, news) = (self.context.clone(), self.news_sender.clone());
        tokio::spawn(async move {
            let mut pause = Duration::from_millis(100);
            while !context.lost.is_cancelled() {
                match context.store.list_unserved(context.session.me).await {
                    Ok(found) => return drop(news.send(News::Unserved(found))),
                    Err(error) => {
                        tracing::warn!(error = crate::store::chain(&error), "could not look for what nobody serves")
                    }
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_secs(5));
            }
        });
    }

    /// True: a worker that runs once found nothing left to do.
    fn take_news(&mut self, news: News) -> bool {
        match news {
            News::Unserved(found) => {
                if self.kind == Kind::Once {
                    self.scanning = false;
                    let found: Vec<_> =
                        found.into_iter().filter(|(id, _)| self.only.is_none_or(|only| only == *id)).collect();
                    if found.is_empty() && self.idle() {
                        return true;
                    }
                    for (id, wait) in found {
                        match wait {
                            Some(wait) => self.sleep(id, Some(wait)),
                            None => self.want(id),
                        }
                    }
                    return false;
                }
                for (id, wait) in found {
                    match wait {
                        Some(wait) if self.is_ours(id) && !self.slots.contains_key(&id) => self.sleep(id, Some(wait)),
                        Some(_) => {}
                        None => {
                            self.asleep.remove(&id);
                            self.ring(id);
                        }
                    }
                }
            }
            News::Orphaned(ids) => {
                let before = self.slots.len();
                for id in ids {
                    self.asleep.remove(&id);
                    self.busy.remove(&id);
                    self.ring(id);
                }
                self.context.counters.count_takeover(self.slots.len() - before);
            }
            News::Owned(ids) => {
                // Ours by the database, and not by us: a release that was never written. It has no lock.
                for id in ids {
                    if !self.slots.contains_key(&id) {
                        tracing::warn!(destination.id = id.0, "owned, and not served: claimed anew");
                        self.want(id);
                    }
                }
            }
        }
        false
    }

    /// Says so first, so that bells from here on are for others; then every lane finishes what it has in
    /// flight and is given back.
    fn begin_stop(&mut self) {
        self.stopping = true;
        self.pulse.say_draining();
        self.waiting.clear();
        self.waits.clear();
        self.timers.clear();
        for slot in self.slots.values() {
            if let Slot::Serving { handle, .. } = slot {
                handle.signal(LEAVE);
            }
        }
    }
}
