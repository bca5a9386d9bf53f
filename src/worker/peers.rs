//! Who else works, and what is this worker's to serve?

use tokio::sync::watch;

use super::membership::{Kind, View};
use crate::domain::{DestinationId, WorkerId};

/// What this worker has read of the others. It adopts each change on reading it, its own included.
pub struct Peers {
    pub me: WorkerId,
    pub kind: Kind,
    /// For a pinned worker, and for one that runs once: the only destination.
    pub only: Option<DestinationId>,
    view: View,
    changed: watch::Sender<View>,
    /// It has read that it joined: from here on its view is that of the others.
    joined: bool,
    stopping: bool,
}

/// Who has gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gone {
    /// This worker was taken for dead.
    Me,
    Peer,
    /// Nobody that was known, or this worker by its own word.
    Nobody,
}

impl Peers {
    pub fn new(
        me: WorkerId,
        kind: Kind,
        only: Option<DestinationId>,
        view: View,
        changed: watch::Sender<View>,
    ) -> Peers {
        Peers { me, kind, only, view, changed, joined: false, stopping: false }
    }

    /// True: it is this worker itself.
    pub fn adopt_joined(&mut self, worker: WorkerId, kind: Kind) -> bool {
        self.view.insert(worker, kind);
        self.publish();
        self.joined |= worker == self.me;
        worker == self.me
    }

    /// True: this is news. A worker may say it again, or have left since.
    pub fn adopt_draining(&mut self, worker: WorkerId) -> bool {
        if self.view.kind(worker).is_none_or(|kind| kind == Kind::Draining) {
            return false;
        }
        self.view.insert(worker, Kind::Draining);
        self.publish();
        true
    }

    pub fn adopt_left(&mut self, worker: WorkerId) -> Gone {
        if worker == self.me && !self.stopping {
            return Gone::Me;
        }
        if self.view.remove(worker).is_none() {
            return Gone::Nobody;
        }
        self.publish();
        Gone::Peer
    }

    /// From here on nothing is this worker's any more.
    pub fn begin_stop(&mut self) {
        self.stopping = true;
    }

    pub fn is_stopping(&self) -> bool {
        self.stopping
    }

    pub fn has_joined(&self) -> bool {
        self.joined
    }

    /// Whether this worker should serve it, when nobody does.
    pub fn is_mine(&self, id: DestinationId) -> bool {
        match self.kind {
            Kind::General => self.rank(id) == Some(0),
            Kind::Pinned => !self.stopping && self.only == Some(id),
            Kind::Once | Kind::Draining => false,
        }
    }

    /// The how many-th this worker is to serve it, when nobody does: the first should, others stand in for those
    /// before them. `None`: it is not there to serve any.
    pub fn rank(&self, id: DestinationId) -> Option<usize> {
        let serves = self.kind == Kind::General && !self.stopping && self.joined;
        self.view.rank(self.me, id).filter(|_| serves)
    }

    /// Whether it serves what another one should: the request in flight is finished, and the rest left to it.
    pub fn is_anothers(&self, id: DestinationId) -> bool {
        self.kind == Kind::General && self.view.preferred(id).is_some_and(|worker| worker != self.me)
    }

    /// What kind of worker it is, if it is there.
    pub fn find_kind(&self, worker: WorkerId) -> Option<Kind> {
        self.view.kind(worker)
    }

    /// This worker's part of what all together may have.
    pub fn share_of(&self, budget: usize) -> usize {
        self.view.share_of(budget)
    }

    fn publish(&self) {
        self.changed.send_replace(self.view.clone());
    }
}
