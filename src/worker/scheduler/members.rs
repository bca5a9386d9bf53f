//! What changes here when another worker comes, stops or is gone?

use super::{Scheduler, Slot};
use crate::domain::WorkerId;
use crate::worker::lane::LEAVE;
use crate::worker::membership::Kind;
use crate::worker::peers::Gone;

impl Scheduler {
    pub(super) fn adopt_joined(&mut self, worker: WorkerId, kind: Kind) {
        let me = self.peers.adopt_joined(worker, kind);
        self.take_share();
        if me {
            match self.peers.kind {
                Kind::Pinned => self.peers.only.into_iter().for_each(|id| self.want(id)),
                // It looks at everything when it has nothing to do.
                Kind::Once => {}
                Kind::General | Kind::Draining => self.survey.look_for_unserved(),
            }
        }
        if self.peers.is_stopping() && !me {
            // The joiner has not heard it, and would leave to this one what is its own by now.
            self.wiring.pulse.say_draining();
        }
        // A joiner gets its share: finish the request in flight, release, and ring for it.
        for (id, slot) in &self.slots {
            if let Slot::Serving { handle, .. } = slot
                && self.peers.is_anothers(*id)
            {
                handle.signal(LEAVE);
            }
        }
    }

    /// What it would have served is others', also what a bell told of before this was known.
    pub(super) fn adopt_draining(&mut self, worker: WorkerId) {
        if !self.peers.adopt_draining(worker) {
            return;
        }
        self.take_share();
        if self.peers.kind == Kind::General && self.peers.has_joined() && !self.peers.is_stopping() {
            self.survey.look_for_unserved();
        }
    }

    pub(super) fn adopt_left(&mut self, worker: WorkerId) {
        match self.peers.adopt_left(worker) {
            Gone::Me => {
                tracing::warn!("this worker was taken for dead; it starts anew");
                return self.context.lost.cancel();
            }
            Gone::Nobody => return,
            Gone::Peer => {}
        }
        self.take_share();
        self.obstacles.forget_owner(worker);
        self.survey.look_for_orphans(worker);
        match (self.peers.kind, self.peers.only) {
            (Kind::General, _) => self.survey.look_for_unserved(),
            (Kind::Pinned, Some(id)) => self.ring(id),
            (Kind::Pinned | Kind::Once | Kind::Draining, _) => {}
        }
    }
}
