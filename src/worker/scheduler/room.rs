//! Who makes room for whom when a worker serves as many destinations as it may?

use std::time::Duration;

use tokio::time::Instant;

use super::{Scheduler, Slot};
use crate::worker::lane::LEAVE;
use crate::worker::pace::SLOW_AFTER;

/// At the cap, a busy lane may be asked to make room after so long.
const TURN: Duration = Duration::from_secs(1);

impl Scheduler {
    /// Slots that will be free soon; with those of receivers that hang, at some time.
    pub(super) fn leaving(&self, hanging_too: bool) -> usize {
        let leaving = self.slots.values().filter(|slot| match slot {
            Slot::Serving { handle, .. } => handle.has(LEAVE) && (hanging_too || !handle.hangs()),
            Slot::Releasing { .. } => true,
            Slot::Claiming(_) => false,
        });
        leaving.count()
    }

    /// At the cap: the lane that has lingered longest goes first, then one that had its turn; one whose receiver hangs
    /// only when there is no other, since it does not go soon (G5).
    pub(super) fn make_room(&mut self) {
        if self.leaving(false) >= self.waiting.len() {
            return;
        }
        let serving = || {
            self.slots.iter().filter_map(|(id, slot)| match slot {
                Slot::Serving { handle, since } if !handle.has(LEAVE) => Some((*id, handle, *since)),
                Slot::Serving { .. } | Slot::Claiming(_) | Slot::Releasing { .. } => None,
            })
        };
        let quiet = serving()
            .filter_map(|(_, handle, _)| handle.quiet_since_ms().map(|since| (since, handle)))
            .min_by_key(|(since, _)| *since);
        if let Some((_, handle)) = quiet {
            return handle.signal(LEAVE);
        }
        let Some(first) = self.waiting.front().copied() else { return };
        let oldest = serving().filter(|(_, handle, _)| !handle.hangs()).min_by_key(|(_, _, since)| *since);
        let oldest = oldest.or_else(|| {
            let wanted = self.leaving(true) < self.waiting.len();
            serving().min_by_key(|(_, _, since)| *since).filter(|_| wanted)
        });
        match oldest {
            Some((_, handle, since)) if since.elapsed() >= TURN => {
                handle.signal(LEAVE);
                // If its receiver hangs after all, that is known by then.
                self.obstacles.look_at(first, Instant::now() + SLOW_AFTER + SLOW_AFTER / 10);
            }
            // Nobody had a turn yet: look again when the first one has.
            Some((_, _, since)) => self.obstacles.look_at(first, since + TURN),
            None => {}
        }
    }

    pub(super) fn take_waiting(&mut self) {
        while self.slots.len() < self.cap {
            let Some(id) = self.waiting.pop_front() else { return };
            self.waits.remove(&id);
            self.want(id);
        }
        if !self.waiting.is_empty() {
            self.make_room();
        }
    }

    /// Of the locks that all workers together may hold.
    pub(super) fn share(&self) -> usize {
        self.peers.share_of(self.context.session.lock_budget)
    }

    pub(super) fn take_share(&mut self) {
        self.cap = self.share();
    }

    /// The lock table is full: less than the share, for a while.
    pub(super) fn give_back_half(&mut self) {
        let serving = || {
            self.slots.values().filter_map(|slot| match slot {
                Slot::Serving { handle, .. } => Some(handle),
                Slot::Claiming(_) | Slot::Releasing { .. } => None,
            })
        };
        let half = serving().count() / 2;
        tracing::error!(
            served = serving().count(),
            "the cluster's lock table is full: half of the destinations are given back"
        );
        serving().take(half).for_each(|handle| handle.signal(LEAVE));
        self.cap = half.max(1);
    }
}
