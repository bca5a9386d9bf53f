//! What stands in the way of claiming a destination, and until when?

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::time::Duration;

use tokio::time::Instant;

use crate::domain::{DestinationId, WorkerId};

/// The first pause before a claim is tried again; doubles.
const BUSY_PAUSE: Duration = Duration::from_millis(10);
const BUSY_LIMIT: Duration = Duration::from_millis(500);

/// While something stands in the way of a destination, bells for it are not news.
#[derive(Default)]
pub struct Obstacles {
    /// Nothing to send there until a time, or until a wake.
    asleep: HashMap<DestinationId, Option<Instant>>,
    /// Claims that met somebody who owns nothing: how long to wait before the next try.
    busy: HashMap<DestinationId, Duration>,
    /// Served by a pinned worker: bells are its business.
    elsewhere: HashMap<DestinationId, WorkerId>,
    timers: BinaryHeap<Reverse<(Instant, DestinationId)>>,
}

impl Obstacles {
    pub fn has(&self, id: DestinationId) -> bool {
        self.asleep.contains_key(&id) || self.busy.contains_key(&id) || self.elsewhere.contains_key(&id)
    }

    /// Nothing can be sent there: for so long, or until a wake.
    pub fn sleep(&mut self, id: DestinationId, wait: Option<Duration>) {
        let until = wait.map(|wait| Instant::now() + wait);
        self.asleep.insert(id, until);
        if let Some(until) = until {
            self.timers.push(Reverse((until, id)));
        }
    }

    pub fn wake(&mut self, id: DestinationId) {
        self.asleep.remove(&id);
    }

    /// A claim met somebody who owns nothing: tried again soon, each time later.
    pub fn meet_somebody(&mut self, id: DestinationId) {
        let pause = self.busy.get(&id).map_or(BUSY_PAUSE, |pause| (*pause * 2).min(BUSY_LIMIT));
        self.pause(id, pause);
    }

    /// A claim came to nothing: tried again after the longest pause.
    pub fn fail(&mut self, id: DestinationId) {
        self.pause(id, BUSY_LIMIT);
    }

    fn pause(&mut self, id: DestinationId, pause: Duration) {
        self.busy.insert(id, pause);
        self.look_at(id, Instant::now() + pause);
    }

    /// A claim told something else than that it was busy: the next pause is the first one again.
    pub fn settle(&mut self, id: DestinationId) {
        self.busy.remove(&id);
    }

    /// Left to a pinned worker as long as that is there.
    pub fn leave_to(&mut self, id: DestinationId, owner: WorkerId) {
        self.elsewhere.insert(id, owner);
    }

    pub fn forget_owner(&mut self, owner: WorkerId) {
        self.elsewhere.retain(|_, other| *other != owner);
    }

    /// Has a timer fire for it, whether or not something stands in its way.
    pub fn look_at(&mut self, id: DestinationId, at: Instant) {
        self.timers.push(Reverse((at, id)));
    }

    pub fn next_timer(&self) -> Option<Instant> {
        self.timers.peek().map(|Reverse((at, _))| *at)
    }

    pub fn clear_timers(&mut self) {
        self.timers.clear();
    }

    /// One whose time has come, and that sleeps no longer. What made it busy stays: the pause doubles until a
    /// claim tells something else.
    pub fn pop_due(&mut self) -> Option<DestinationId> {
        let now = Instant::now();
        while let Some(Reverse((at, id))) = self.timers.peek().copied() {
            if at > now {
                return None;
            }
            self.timers.pop();
            if self.asleep.get(&id).is_none_or(|until| until.is_some_and(|until| until <= now)) {
                self.asleep.remove(&id);
                return Some(id);
            }
        }
        None
    }
}
