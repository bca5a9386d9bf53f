//! What does each step change?

use super::actions::Action;
use super::state::{Backend, Claim, Lane, Serving, Session, SessionIndex, State, Step, WorkerIndex};
use super::{Takeover, Variant};
use crate::messages::Messages;

impl Takeover {
    /// The state after `action`, which is possible.
    pub fn after(&self, state: &State, action: Action) -> State {
        let mut next = state.clone();
        match action {
            Action::Connect(worker) => self.connect(&mut next, worker),
            Action::LockOwnId(worker) => {
                let index = reached(&next, worker);
                next.session_mut(index).locked = true;
            }
            Action::Ask(worker) => next.workers[worker].fresh = true,
            Action::Drop(worker) => forget(&mut next, worker),
            Action::Reap(_, index) => {
                let session = next.session_mut(index);
                session.registered = false;
                next.seen.breaches.buried_alive |= session.backend == Backend::Live;
            }
            Action::Choose(worker) => {
                let saw = if self.variant == Variant::TrustsWhatItSaw { next.claim } else { Claim::default() };
                next.workers[worker].lane = Lane::Chosen(saw);
            }
            Action::Lock(worker) => self.lock(&mut next, worker),
            Action::Update(worker) => self.update(&mut next, worker),
            Action::Read(worker) => self.read(&mut next, worker),
            Action::Start(worker) => self.start(&mut next, worker),
            Action::Answer(worker) => {
                step(&mut next, worker, Step::Answered);
            }
            Action::Fail(worker) => {
                step(&mut next, worker, |_| Step::Idle);
            }
            Action::Acknowledge(worker) => self.acknowledge(&mut next, worker),
            Action::ReadSuccess(worker) => {
                let sequence = step(&mut next, worker, |_| Step::Idle);
                let serving = serving(&mut next, worker);
                serving.previous = sequence;
                serving.ahead = serving.ahead.without(sequence);
            }
            Action::WriteRelease(worker) => self.write_release(&mut next, worker),
            Action::Unlock(worker) => self.unlock(&mut next, worker),
            Action::Delete(_) | Action::DeleteAsked | Action::Execute(_) | Action::Withdraw => {
                self.client_step(&mut next, action);
            }
            Action::GoStale(worker) => {
                next.workers[worker].fresh = false;
                if !next.workers[worker].stopped && !next.workers[worker].deceived {
                    next.abort(worker);
                }
            }
            Action::EndUnheard(index) => next.end(index, Backend::Gone),
            Action::Judge(worker) => {
                let index = believed(&next, worker);
                next.end(index, Backend::Terminated);
            }
            Action::EndGrace => next.claim.in_grace = false,
            Action::Continue(worker) => {
                next.workers[worker].stopped = false;
                // Its clock ran on: the first thing it does is to abort what it cannot vouch for.
                if !next.workers[worker].fresh {
                    next.abort(worker);
                }
            }
            Action::Kill(_) | Action::Stop(_) | Action::CutOff(_) | Action::Terminate(_) | Action::Restart => {
                self.fault(&mut next, action);
            }
        }
        next.tidy();
        if self.reduced { next.representative() } else { next }
    }

    fn connect(&self, state: &mut State, worker: WorkerIndex) {
        let free = state.sessions.iter().position(Option::is_none).expect("SESSIONS is enough for these faults");
        let locked = self.variant != Variant::RegistersBeforeLocking;
        state.sessions[free] = Some(Session { worker, backend: Backend::Live, cut: false, registered: true, locked });
        state.workers[worker].session = Some(free);
        state.workers[worker].fresh = true;
    }

    fn lock(&self, state: &mut State, worker: WorkerIndex) {
        let index = reached(state, worker);
        let Lane::Chosen(seen) = state.workers[worker].lane else { unreachable!("only what was chosen is locked") };
        let skips = self.variant == Variant::SkipsLockedMessages;
        if state.lock.is_none() || skips {
            state.lock = if skips { None } else { Some(index) };
            state.workers[worker].lane = Lane::Locked(seen);
        } else {
            state.workers[worker].lane = Lane::None;
        }
    }

    /// The claim's third step: what it returns is true, since nobody else writes the row now.
    fn update(&self, state: &mut State, worker: WorkerIndex) {
        let index = reached(state, worker);
        let Lane::Locked(seen) = state.workers[worker].lane else { unreachable!("only what is locked is updated") };
        let trusted = if self.variant == Variant::TrustsWhatItSaw { seen } else { state.claim };
        // Released in order, the row is exact; after a death the log is.
        let previous = if trusted.owner.is_none() { trusted.last_delivered } else { state.ended.delivered.last() };
        state.claim = Claim { owner: Some(index), epoch: trusted.epoch + 1, last_delivered: previous, in_grace: false };
        state.workers[worker].lane =
            Lane::Serving(Serving { epoch: trusted.epoch + 1, previous, ahead: Messages::default(), step: Step::Idle });
    }

    fn read(&self, state: &mut State, worker: WorkerIndex) {
        let ahead = if self.variant == Variant::SkipsLockedMessages {
            let locked_by_others = (0..state.workers.len())
                .filter(|other| *other != worker && state.reached(*other).is_some())
                .filter_map(|other| state.serving(other))
                .fold(Messages::default(), |locked, serving| locked.and(serving.ahead));
            let head = state.queued.less(locked_by_others).head();
            head.map_or(Messages::default(), |head| Messages::default().with(head))
        } else {
            state.queued
        };
        serving(state, worker).ahead = ahead;
    }

    /// Deletes the message and logs the attempt, in one transaction.
    fn acknowledge(&self, state: &mut State, worker: WorkerIndex) {
        let by_holder = state.reached(worker).is_some_and(|index| state.lock == Some(index));
        let sequence = step(state, worker, Step::Acknowledged);
        if state.queued.contains(sequence) {
            state.queued = state.queued.without(sequence);
            state.ended.delivered = state.ended.delivered.with(sequence);
            state.seen.breaches.ended_by_another |= !by_holder;
        }
        state.workers[worker].deceived = self.variant == Variant::AcknowledgesThroughPool;
    }

    fn write_release(&self, state: &mut State, worker: WorkerIndex) {
        let index = reached(state, worker);
        let after_unlock = matches!(state.workers[worker].lane, Lane::Unlocked(_));
        let (Lane::Serving(serving) | Lane::Unlocked(serving)) = state.workers[worker].lane else {
            unreachable!("only what is served is released")
        };
        let mine = state.claim.owner == Some(index) && state.claim.epoch == serving.epoch;
        if mine || self.variant == Variant::UnlocksBeforeBlindRelease {
            state.claim.owner = None;
            state.claim.in_grace = false;
            state.claim.last_delivered = serving.previous;
        }
        if after_unlock {
            state.workers[worker].lane = Lane::None;
        } else {
            hand_over(state);
            state.workers[worker].lane = Lane::Released;
        }
    }

    fn unlock(&self, state: &mut State, worker: WorkerIndex) {
        state.lock = None;
        state.workers[worker].lane = match state.workers[worker].lane {
            Lane::Serving(serving) => {
                hand_over(state);
                Lane::Unlocked(serving)
            }
            Lane::None | Lane::Chosen(_) | Lane::Locked(_) | Lane::Released | Lane::Unlocked(_) => Lane::None,
        };
    }

    fn client_step(&self, state: &mut State, action: Action) {
        match action {
            Action::Delete(sequence) => {
                state.left.deletes -= 1;
                if self.api_may_act(state) {
                    delete(state, sequence);
                } else {
                    state.request = Some(sequence);
                }
            }
            Action::DeleteAsked => {
                if let Some(sequence) = state.request.take() {
                    delete(state, sequence);
                }
            }
            Action::Execute(worker) => {
                let sequence = state.request.take().expect("only what is asked is carried out");
                if state.in_flight(worker) != Some(sequence) {
                    delete(state, sequence);
                    if self.variant != Variant::KeepsWhatItReadAhead {
                        serving(state, worker).ahead = Messages::default();
                    }
                }
            }
            _ => state.request = None,
        }
    }

    fn fault(&self, state: &mut State, action: Action) {
        state.left.faults -= 1;
        match action {
            // Its kernel closes all its connections, the one to the receiver too.
            Action::Kill(worker) => {
                forget(state, worker);
                state.workers[worker].stopped = false;
            }
            Action::Stop(worker) => state.workers[worker].stopped = true,
            Action::CutOff(worker) => {
                let index = reached(state, worker);
                state.session_mut(index).cut = true;
            }
            // The message that ends the session is sent before its locks are let go, and the process runs: it
            // aborts before a peer's claim, three statements later, leads to a request.
            Action::Terminate(worker) => {
                let index = reached(state, worker);
                state.end(index, Backend::Terminated);
                if self.variant != Variant::OutrunsHangUp {
                    state.abort(worker);
                }
            }
            _ => {
                for index in 0..state.sessions.len() {
                    if state.sessions[index].is_some_and(|session| session.backend == Backend::Live) {
                        state.end(index, Backend::Gone);
                    }
                }
                state.claim.in_grace = state.claim.owner.is_some();
            }
        }
    }
}

fn reached(state: &State, worker: WorkerIndex) -> SessionIndex {
    state.reached(worker).expect("only possible on a session that is reached")
}

fn believed(state: &State, worker: WorkerIndex) -> SessionIndex {
    state.workers[worker].session.expect("only possible with a session to end")
}

fn serving(state: &mut State, worker: WorkerIndex) -> &mut Serving {
    match &mut state.workers[worker].lane {
        Lane::Serving(serving) => serving,
        Lane::None | Lane::Chosen(_) | Lane::Locked(_) | Lane::Released | Lane::Unlocked(_) => {
            unreachable!("only possible while serving")
        }
    }
}

/// Goes on to another step with the same message.
fn step(state: &mut State, worker: WorkerIndex, to: impl Fn(u8) -> Step) -> u8 {
    let serving = serving(state, worker);
    let (Step::InFlight(sequence) | Step::Answered(sequence) | Step::Acknowledged(sequence)) = serving.step else {
        unreachable!("only possible with a message under way")
    };
    serving.step = to(sequence);
    sequence
}

/// The worker has no session and no lane any more.
fn forget(state: &mut State, worker: WorkerIndex) {
    let it = &mut state.workers[worker];
    it.session = None;
    it.fresh = false;
    it.deceived = false;
    it.lane = Lane::None;
}

fn hand_over(state: &mut State) {
    if !state.queued.is_empty() {
        state.left.handovers -= 1;
    }
}

/// Deleted by a client, and told so.
fn delete(state: &mut State, sequence: u8) {
    if !state.queued.contains(sequence) {
        return;
    }
    let in_flight = (0..state.workers.len()).any(|worker| state.in_flight(worker) == Some(sequence));
    state.queued = state.queued.without(sequence);
    state.ended.deleted = state.ended.deleted.with(sequence);
    state.seen.breaches.deleted_in_flight |= in_flight;
}
