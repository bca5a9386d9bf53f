//! Which destinations does this worker serve right now?
//!
//! One task holds the answer, and every piece of news goes through it: bells, changes of membership,
//! claims, lanes that end. So no edge between two of them is lost: news about a destination that is being
//! claimed or released is remembered, and looked at again afterwards.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::clerk::{Order, Report};
use super::context::Context;
use super::lane::{ASKED, BELL, End, Ended, Handle, LEAVE, Lane, UNREADABLE_PAUSE};
use super::membership::Kind;
use super::notice::Notice;
use super::obstacles::Obstacles;
use super::peers::Peers;
use super::survey::{News, Survey};
use super::watch::Pulse;
use crate::domain::{DestinationId, WorkerId};
use crate::store::session::{Claimed, LaneStart, Notifications, Release};

mod members;
mod room;

/// What a session came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// Stopped as asked, or (not persistent) nothing is left to do.
    Done,
    Lost,
}

enum Slot {
    Claiming(Claim),
    Serving { handle: Arc<Handle>, since: Instant },
    Releasing { news: bool, then: After },
}

/// What is known beside a claim that was asked for.
#[derive(Default)]
struct Claim {
    /// Heard since.
    news: bool,
    /// Among it: what stood in the way does so no longer.
    woken: bool,
    /// It is another worker's, which leaves it lying: nobody to leave it to.
    neglected: bool,
    /// The sweep told of it, and nothing had before.
    swept: bool,
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
    peers: Peers,
    survey: Survey,
    slots: HashMap<DestinationId, Slot>,
    lanes: JoinSet<(Ended, Arc<Handle>)>,
    obstacles: Obstacles,
    /// Wanted while at the cap.
    waiting: VecDeque<DestinationId>,
    waits: HashSet<DestinationId>,
    cap: usize,
    wiring: Wiring,
    /// Of a worker that runs once: a look at everything is under way.
    scanning: bool,
    standing_by: bool,
}

/// What the scheduler is connected to.
pub struct Wiring {
    pub orders: mpsc::UnboundedSender<Order>,
    pub reports: mpsc::UnboundedReceiver<Report>,
    pub news: mpsc::UnboundedReceiver<News>,
    pub lane_count: Arc<AtomicUsize>,
    pub pulse: Pulse,
}

impl Scheduler {
    pub fn new(context: Arc<Context>, peers: Peers, survey: Survey, wiring: Wiring) -> Scheduler {
        Scheduler {
            cap: context.session.lock_budget,
            context,
            peers,
            survey,
            slots: HashMap::new(),
            lanes: JoinSet::new(),
            obstacles: Obstacles::default(),
            waiting: VecDeque::new(),
            waits: HashSet::new(),
            wiring,
            scanning: false,
            standing_by: false,
        }
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
            if self.peers.is_stopping() && self.slots.is_empty() {
                return Finish::Done;
            }
            if self.peers.kind == Kind::Once && self.is_idle() && !self.scanning {
                // Its answer comes as news.
                self.survey.look_for_unserved();
                self.scanning = true;
            }
            let timer = self.obstacles.next_timer();
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
                Some(report) = self.wiring.reports.recv() => self.take_report(report),
                Some(ended) = self.lanes.join_next() => match ended {
                    Ok((ended, handle)) => self.end_lane(ended, &handle),
                    Err(error) => {
                        tracing::error!(%error, "a lane broke down; the session is given up");
                        lost.cancel();
                        return Finish::Lost;
                    }
                },
                Some(news) = self.wiring.news.recv() => {
                    if self.take_news(news) {
                        return Finish::Done;
                    }
                },
                () = sleep_until(timer.unwrap_or_else(Instant::now)), if timer.is_some() => self.fire_timers(),
                () = stop.cancelled(), if !self.peers.is_stopping() => {
                    self.begin_stop();
                    give_up_at = Some(Instant::now() + grace);
                }
                () = sleep_until(give_up_at.unwrap_or_else(Instant::now)), if give_up_at.is_some() => {
                    tracing::warn!("requests were still in flight after --grace; they are aborted");
                    return Finish::Done;
                }
            }
            self.wiring.lane_count.store(self.slots.len(), Ordering::Relaxed);
        }
    }

    fn is_idle(&self) -> bool {
        self.peers.has_joined()
            && !self.peers.is_stopping()
            && self.slots.is_empty()
            && self.obstacles.next_timer().is_none()
            && self.waiting.is_empty()
    }

    fn hear(&mut self, notice: Notice) {
        match notice {
            Notice::Bell(ids) => ids.into_iter().for_each(|id| self.ring(id)),
            Notice::Wake(ids) => ids.into_iter().for_each(|id| self.wake(id)),
            Notice::Swept(ids) => ids.into_iter().for_each(|id| self.hear_swept(id)),
            Notice::Asked(ids) => {
                for id in ids {
                    match self.slots.get_mut(&id) {
                        Some(Slot::Serving { handle, .. }) => handle.signal(ASKED),
                        // A claim tells of requests itself, but one may come right after it looked.
                        Some(Slot::Claiming(Claim { news, .. }) | Slot::Releasing { news, .. }) => *news = true,
                        None => {}
                    }
                }
            }
            Notice::Joined(worker, kind) => self.adopt_joined(worker, Kind::from_name(&kind)),
            Notice::Draining(worker) => self.adopt_draining(worker),
            Notice::Left(worker) => self.adopt_left(worker),
            Notice::Ping { to, .. } => {
                if to == self.peers.me {
                    self.wiring.pulse.answer();
                }
            }
            Notice::Pong { from } => self.wiring.pulse.heard(from),
            Notice::Missed { by, about, round } => self.wiring.pulse.missed(by, about, round),
            Notice::Unknown => {}
        }
    }

    /// There may be messages for a destination.
    fn ring(&mut self, id: DestinationId) {
        match self.slots.get_mut(&id) {
            Some(Slot::Serving { handle, .. }) => handle.signal(BELL),
            Some(Slot::Claiming(Claim { news, .. }) | Slot::Releasing { news, .. }) => *news = true,
            None => {
                if self.peers.is_mine(id) {
                    if !self.obstacles.has(id) {
                        self.want(id);
                    }
                } else if let Some(rank) = self.peers.rank(id) {
                    self.survey.doubt(id, rank);
                }
            }
        }
    }

    /// The same, and nothing stands in the way any more.
    fn wake(&mut self, id: DestinationId) {
        self.obstacles.wake(id);
        if let Some(Slot::Claiming(claim)) = self.slots.get_mut(&id) {
            claim.woken = true;
        }
        self.ring(id);
    }

    /// Messages have waited for seconds: no surprise where a claim is under way, or waits for room or for its next try.
    fn hear_swept(&mut self, id: DestinationId) {
        self.wake(id);
        if let Some(Slot::Claiming(claim)) = self.slots.get_mut(&id) {
            // Whatever told of it before has left its trace there.
            claim.swept = !claim.news;
        }
    }

    /// Claims it, at the cap when there is room.
    fn want(&mut self, id: DestinationId) {
        if self.peers.is_stopping() || self.slots.contains_key(&id) {
            return;
        }
        if self.slots.len() >= self.cap {
            if self.waits.insert(id) {
                self.waiting.push_back(id);
            }
            self.make_room();
            return;
        }
        self.claim(id, Claim::default());
    }

    fn claim(&mut self, id: DestinationId, claim: Claim) {
        self.slots.insert(id, Slot::Claiming(claim));
        let _ = self.wiring.orders.send(Order::Claim(id));
    }

    fn take_report(&mut self, report: Report) {
        match report {
            Report::Claimed(id, claimed) => {
                let claim = match self.slots.remove(&id) {
                    Some(Slot::Claiming(claim)) => claim,
                    Some(Slot::Serving { .. } | Slot::Releasing { .. }) | None => Claim::default(),
                };
                match claimed {
                    Claimed::Lane(start) => {
                        self.obstacles.settle(id);
                        // After the lock table was full, back to the whole share, step by step.
                        self.cap = (self.cap + 1).min(self.share());
                        self.start_lane(*start, &claim);
                        // Bells told of more at once than may be served, and nobody served had to make room yet. Where
                        // somebody does, each that has left makes room for the next: not more at a time than that.
                        if !self.waiting.is_empty() && self.leaving(false) == 0 {
                            self.make_room();
                        }
                        return;
                    }
                    Claimed::Owned(owner) => {
                        self.find_owned(id, owner);
                        if claim.news {
                            // Perhaps its holder's bell: given back since the claim looked.
                            self.ring(id);
                        }
                    }
                    Claimed::Dormant(wait) => {
                        self.obstacles.settle(id);
                        if claim.woken {
                            // What it says may be from before the wake.
                            self.want(id);
                        } else {
                            self.obstacles.sleep(id, wait);
                        }
                    }
                    Claimed::Busy => self.obstacles.meet_somebody(id),
                    Claimed::Gone => {
                        self.obstacles.settle(id);
                        self.obstacles.wake(id);
                    }
                    Claimed::Unreadable => {
                        self.obstacles.settle(id);
                        let then = After::Sleep(Some(UNREADABLE_PAUSE));
                        self.slots.insert(id, Slot::Releasing { news: false, then });
                        let _ = self.wiring.orders.send(Order::Release(Release::nothing(id)));
                    }
                }
                self.take_waiting();
            }
            Report::ClaimFailed(id) => {
                self.slots.remove(&id);
                self.obstacles.fail(id);
            }
            Report::OutOfLocks => self.give_back_half(),
            Report::Owned(ids) => {
                // Ours by the database, and not by us: a release that was never written. It has no lock.
                for id in ids {
                    if !self.slots.contains_key(&id) {
                        tracing::warn!(destination.id = id.0, "owned, and not served: claimed anew");
                        self.want(id);
                    }
                }
            }
            Report::Released(id) => {
                let Some(Slot::Releasing { news, then }) = self.slots.remove(&id) else { return };
                match then {
                    After::Sleep(wait) => {
                        self.obstacles.sleep(id, wait);
                        if news {
                            // A request came, or a wake: the sleep may be over.
                            self.obstacles.wake(id);
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

    /// Given back with something left, perhaps: claimed again, or left to whoever should have it.
    fn look_again(&mut self, id: DestinationId) {
        if self.peers.kind == Kind::Once && !self.peers.is_stopping() || self.peers.is_mine(id) {
            return if self.waiting.is_empty() {
                self.want(id);
            } else if self.waits.insert(id) {
                self.waiting.push_back(id);
            };
        }
        self.wiring.pulse.ring(id);
    }

    fn fire_timers(&mut self) {
        while let Some(id) = self.obstacles.pop_due() {
            if self.waits.contains(&id) {
                continue;
            }
            if self.peers.is_mine(id) || self.peers.kind == Kind::Once {
                self.want(id);
            } else {
                // Another one's by now, which may not know that there is something to do.
                self.obstacles.settle(id);
                self.wiring.pulse.ring(id);
            }
        }
        // Whoever the timer was for: one that waits no longer, perhaps, while others do.
        if !self.waiting.is_empty() {
            self.make_room();
        }
    }

    fn start_lane(&mut self, start: LaneStart, claim: &Claim) {
        let id = start.destination;
        let handle = Arc::new(Handle::default());
        if claim.news {
            handle.signal(BELL | ASKED);
        }
        if self.peers.is_stopping() || self.peers.is_anothers(id) && !claim.neglected {
            handle.signal(LEAVE);
        }
        if claim.neglected {
            tracing::info!(destination.id = id.0, "claimed: the worker whose it is has left it lying");
        }
        if self.standing_by {
            self.standing_by = false;
            tracing::info!(destination.id = id.0, "took the destination over");
        }
        let untold = claim.swept && !claim.news;
        self.spawn_lane(Lane::new(self.context.clone(), handle.clone(), start, untold), id, handle);
    }

    fn spawn_lane(&mut self, lane: Lane, id: DestinationId, handle: Arc<Handle>) {
        self.slots.insert(id, Slot::Serving { handle: handle.clone(), since: Instant::now() });
        let lane = Box::new(lane);
        self.lanes.spawn(async move { (lane.run().await, handle) });
    }

    fn end_lane(&mut self, ended: Ended, handle: &Handle) {
        let id = ended.release.destination;
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
        let _ = self.wiring.orders.send(Order::Release(ended.release));
    }

    fn find_owned(&mut self, id: DestinationId, owner: WorkerId) {
        self.obstacles.settle(id);
        if self.peers.kind == Kind::Pinned && !self.standing_by {
            self.standing_by = true;
            tracing::info!(
                destination.id = id.0,
                worker.id = owner.0,
                "standing by: another worker serves the destination"
            );
        }
        match self.peers.find_kind(owner) {
            Some(Kind::Pinned) if self.peers.kind == Kind::General => self.obstacles.leave_to(id, owner),
            Some(_) => {}
            // It has gone since: what it had is looked for when that is read, or right now.
            None => self.obstacles.fail(id),
        }
    }

    /// True: a worker that runs once found nothing left to do.
    fn take_news(&mut self, news: News) -> bool {
        match news {
            News::Unserved(found) => {
                if self.peers.kind == Kind::Once {
                    self.scanning = false;
                    let found: Vec<_> =
                        found.into_iter().filter(|(id, _)| self.peers.only.is_none_or(|only| only == *id)).collect();
                    if found.is_empty() && self.is_idle() {
                        return true;
                    }
                    for (id, wait) in found {
                        match wait {
                            Some(wait) => self.obstacles.sleep(id, Some(wait)),
                            None => self.want(id),
                        }
                    }
                    return false;
                }
                for (id, wait) in found {
                    match wait {
                        Some(wait) if self.peers.is_mine(id) && !self.slots.contains_key(&id) => {
                            self.obstacles.sleep(id, Some(wait))
                        }
                        Some(_) => {}
                        None => {
                            self.obstacles.wake(id);
                            self.ring(id);
                        }
                    }
                }
            }
            News::Orphaned(ids) => {
                let before = self.slots.len();
                for id in ids {
                    self.obstacles.wake(id);
                    self.obstacles.settle(id);
                    self.ring(id);
                }
                self.context.counters.count_takeover(self.slots.len() - before);
            }
            News::Neglected(ids) => {
                // None beyond the cap: here is enough to do, and the sweep tells of them again.
                let room = self.cap.saturating_sub(self.slots.len());
                let free = |id: &DestinationId| !self.slots.contains_key(id) && !self.obstacles.has(*id);
                let ids: Vec<_> = ids.into_iter().filter(free).take(room).collect();
                if !self.peers.is_stopping() {
                    ids.into_iter().for_each(|id| self.claim(id, Claim { neglected: true, ..Claim::default() }));
                }
            }
        }
        false
    }

    /// Says so first, so that bells from here on are for others; then every lane finishes what it has in
    /// flight and is given back.
    fn begin_stop(&mut self) {
        self.peers.begin_stop();
        self.wiring.pulse.say_draining();
        self.waiting.clear();
        self.waits.clear();
        self.obstacles.clear_timers();
        for slot in self.slots.values() {
            if let Slot::Serving { handle, .. } = slot {
                handle.signal(LEAVE);
            }
        }
    }
}
