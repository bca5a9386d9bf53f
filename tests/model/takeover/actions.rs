//! What can happen next?

use super::state::{Backend, Lane, SESSIONS, Serving, SessionIndex, State, Step, WORKERS, WorkerIndex};
use super::{Takeover, Variant};

/// One step. What a worker does is one statement of its session, or one thing inside its process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Opens a session: lock on its id, then its row in `workers`.
    Connect(WorkerIndex),
    /// Takes the lock on its id after its row appeared (a broken variant).
    LockOwnId(WorkerIndex),
    /// Asks on its session, and hears.
    Ask(WorkerIndex),
    /// Notices that its session is over or in doubt: aborts, forgets its lane.
    Drop(WorkerIndex),
    /// Got the lock of a dead session: removes its row.
    Reap(WorkerIndex, SessionIndex),

    Choose(WorkerIndex),
    Lock(WorkerIndex),
    Update(WorkerIndex),

    Read(WorkerIndex),
    Start(WorkerIndex),
    /// The receiver answers with success.
    Answer(WorkerIndex),
    /// The request's timeout is over, or the receiver refuses: the try failed.
    Fail(WorkerIndex),
    Acknowledge(WorkerIndex),
    ReadSuccess(WorkerIndex),
    WriteRelease(WorkerIndex),
    Unlock(WorkerIndex),

    /// A client wants this message deleted: done by the API if the lock is free, else asked of the holder.
    Delete(u8),
    /// The API finds the lock free at last and acts itself.
    DeleteAsked,
    /// The holder carries out what is asked.
    Execute(WorkerIndex),
    /// The deadline of what was asked is over.
    Withdraw,

    /// 8 s since the last answered question; what is in flight is aborted a second later.
    GoStale(WorkerIndex),
    /// The server finds that nobody is at the other end.
    EndUnheard(SessionIndex),
    /// A peer judges that the process hangs, and ends its session.
    Judge(WorkerIndex),
    /// 15 s since Postgres started.
    EndGrace,
    Continue(WorkerIndex),

    Kill(WorkerIndex),
    Stop(WorkerIndex),
    CutOff(WorkerIndex),
    /// Somebody ends the session on the server; its process runs.
    Terminate(WorkerIndex),
    Restart,
}

impl Action {
    /// Whether it comes about by itself.
    pub fn happens(&self) -> bool {
        match self {
            Self::Kill(_) | Self::Stop(_) | Self::CutOff(_) | Self::Terminate(_) | Self::Restart => false,
            // A client's wish.
            Self::Delete(_) => false,
            Self::Connect(_)
            | Self::LockOwnId(_)
            | Self::Ask(_)
            | Self::Drop(_)
            | Self::Reap(..)
            | Self::Choose(_)
            | Self::Lock(_)
            | Self::Update(_)
            | Self::Read(_)
            | Self::Start(_)
            | Self::Answer(_)
            | Self::Fail(_)
            | Self::Acknowledge(_)
            | Self::ReadSuccess(_)
            | Self::WriteRelease(_)
            | Self::Unlock(_)
            | Self::DeleteAsked
            | Self::Execute(_)
            | Self::Withdraw
            | Self::GoStale(_)
            | Self::EndUnheard(_)
            | Self::Judge(_)
            | Self::EndGrace
            | Self::Continue(_) => true,
        }
    }
}

impl Takeover {
    /// Everything that can happen in this state.
    pub fn possible(&self, state: &State, actions: &mut Vec<Action>) {
        if state.is_over() {
            return;
        }
        for worker in 0..WORKERS {
            self.session_actions(state, worker, actions);
            self.lane_actions(state, worker, actions);
            self.fault_actions(state, worker, actions);
        }
        self.server_actions(state, actions);
        self.client_actions(state, actions);
    }

    fn session_actions(&self, state: &State, worker: WorkerIndex, actions: &mut Vec<Action>) {
        let it = &state.workers[worker];
        if it.stopped {
            return actions.push(Action::Continue(worker));
        }
        let Some(index) = it.session else { return actions.push(Action::Connect(worker)) };
        if state.reached(worker).is_none() {
            actions.push(Action::Drop(worker));
            return;
        }
        if !state.session(index).locked {
            actions.push(Action::LockOwnId(worker));
        }
        if !it.fresh {
            actions.push(Action::Ask(worker));
        }
        for other in 0..SESSIONS {
            if state.sessions[other].is_some_and(|session| session.registered && !session.locked) && other != index {
                actions.push(Action::Reap(worker, other));
            }
        }
    }

    fn lane_actions(&self, state: &State, worker: WorkerIndex, actions: &mut Vec<Action>) {
        let it = &state.workers[worker];
        // The network and the receiver go on while a process is stopped.
        if state.in_flight(worker).is_some() {
            actions.extend([Action::Answer(worker), Action::Fail(worker)]);
        }
        if it.stopped {
            return;
        }
        let reached = state.reached(worker).is_some();
        match it.lane {
            Lane::Serving(serving) => self.serving_actions(state, worker, serving, actions),
            _ if !reached => {}
            Lane::None if !state.queued.is_empty() && self.may_claim(state) => actions.push(Action::Choose(worker)),
            Lane::None => {}
            Lane::Chosen(_) => actions.push(Action::Lock(worker)),
            Lane::Locked(_) => actions.push(Action::Update(worker)),
            Lane::Released => actions.push(Action::Unlock(worker)),
            Lane::Unlocked(_) => actions.push(Action::WriteRelease(worker)),
        }
    }

    fn serving_actions(&self, state: &State, worker: WorkerIndex, serving: Serving, actions: &mut Vec<Action>) {
        let reached = state.reached(worker).is_some();
        match serving.step {
            Step::Idle => {
                if !serving.ahead.is_empty() && self.may_start(state, worker) {
                    actions.push(Action::Start(worker));
                }
                if !reached {
                    return;
                }
                if serving.ahead.is_empty() {
                    actions.push(Action::Read(worker));
                }
                if state.queued.is_empty() || state.left.handovers > 0 {
                    let first = if self.unlocks_first() { Action::Unlock } else { Action::WriteRelease };
                    actions.push(first(worker));
                }
                if state.request.is_some() {
                    actions.push(Action::Execute(worker));
                }
            }
            Step::InFlight(sequence) if reached && state.request == Some(sequence) => {
                actions.push(Action::Execute(worker));
            }
            Step::InFlight(_) => {}
            Step::Answered(_) => {
                if reached || self.variant == Variant::AcknowledgesThroughPool {
                    actions.push(Action::Acknowledge(worker));
                }
            }
            // Also from a session that is over: what arrived before can still be read.
            Step::Acknowledged(_) => actions.push(Action::ReadSuccess(worker)),
        }
    }

    /// The claim's first step: nobody owns it, or an owner who is not in `workers`. After a restart of
    /// Postgres, an owner of before may still be sending: only after the grace, or once its process has
    /// registered again (it aborted first).
    pub fn may_claim(&self, state: &State) -> bool {
        if self.variant == Variant::SkipsLockedMessages {
            return true;
        }
        let Some(owner) = state.claim.owner else { return true };
        if state.claim.in_grace && self.variant != Variant::WaitsNoGrace {
            let process = state.session(owner).worker;
            return (0..SESSIONS).any(|other| {
                other != owner
                    && state.sessions[other].is_some_and(|session| {
                        session.worker == process && session.registered && session.backend == Backend::Live
                    })
            });
        }
        !state.session(owner).registered
    }

    /// A request starts only on a session that was heard of less than 8 s ago and has no hang-up to read.
    pub fn may_start(&self, state: &State, worker: WorkerIndex) -> bool {
        let it = &state.workers[worker];
        let hung_up = it.session.is_some_and(|index| state.session(index).backend == Backend::Terminated);
        let fresh = it.fresh || it.deceived || self.variant == Variant::ChecksNoFreshness;
        fresh && (!hung_up || self.variant == Variant::OverlooksHangUp)
    }

    pub fn unlocks_first(&self) -> bool {
        matches!(self.variant, Variant::UnlocksBeforeRelease | Variant::UnlocksBeforeBlindRelease)
    }

    fn fault_actions(&self, state: &State, worker: WorkerIndex, actions: &mut Vec<Action>) {
        let it = &state.workers[worker];
        if it.fresh {
            actions.push(Action::GoStale(worker));
        }
        if state.left.faults == 0 || it.session.is_none() {
            return;
        }
        if self.kinds.kill {
            actions.push(Action::Kill(worker));
        }
        if self.kinds.stop && !it.stopped {
            actions.push(Action::Stop(worker));
        }
        if self.kinds.cut && state.reached(worker).is_some() {
            actions.push(Action::CutOff(worker));
        }
        if self.kinds.terminate && state.reached(worker).is_some() {
            actions.push(Action::Terminate(worker));
        }
    }

    fn server_actions(&self, state: &State, actions: &mut Vec<Action>) {
        for index in 0..SESSIONS {
            let Some(session) = state.sessions[index] else { continue };
            if session.backend != Backend::Live {
                continue;
            }
            let it = &state.workers[session.worker];
            let believed = it.session == Some(index);
            let in_flight = state.in_flight(session.worker).is_some();
            // Closed by its process; or keepalives (11 s) found nobody, later than the worker went stale (8 s) and
            // aborted what was in flight (9 s).
            let gave_up = (!it.fresh && !in_flight) || self.variant == Variant::GivesUpBeforeAbort;
            if !believed || (session.cut && gave_up) {
                actions.push(Action::EndUnheard(index));
            }
            // What a stopped process has in flight ends by its timeout, and the judge waits for that.
            if believed && !session.cut && it.stopped && (!in_flight || self.variant == Variant::JudgesBeforeTimeout) {
                actions.push(Action::Judge(session.worker));
            }
        }
        if state.claim.in_grace && self.grace_may_end(state) {
            actions.push(Action::EndGrace);
        }
        if self.kinds.restart && state.left.faults > 0 {
            actions.push(Action::Restart);
        }
    }

    /// The grace (15 s) is longer than freshness (8 s), and the timeout of what a stopped process sent.
    fn grace_may_end(&self, state: &State) -> bool {
        (0..WORKERS).all(|worker| {
            let it = &state.workers[worker];
            let ended = it.session.is_some_and(|index| state.session(index).backend != Backend::Live);
            let in_flight = state.in_flight(worker).is_some() && self.variant != Variant::GraceBeforeTimeout;
            !ended || !(it.fresh || in_flight)
        })
    }

    fn client_actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.left.deletes > 0 && state.request.is_none() {
            actions.extend(state.queued.iter().map(Action::Delete));
        }
        if state.request.is_some() {
            actions.push(Action::Withdraw);
            if self.api_may_act(state) {
                actions.push(Action::DeleteAsked);
            }
        }
    }

    /// Nobody has the lock, and nobody who lost it in a restart may still be sending.
    pub fn api_may_act(&self, state: &State) -> bool {
        state.lock.is_none() && (!state.claim.in_grace || self.variant == Variant::ActsDuringGrace)
    }
}
