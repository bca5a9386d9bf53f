//! What is there to know about the system at one moment?

use super::Takeover;
use crate::messages::Messages;

pub const WORKERS: usize = 2;
/// Sessions that anything still refers to, at the most. A slot is used again when nothing does.
pub const SESSIONS: usize = 6;

pub type WorkerIndex = usize;
/// A session's place in [`State::sessions`]; stands for `workers.id`, which is never used again.
pub type SessionIndex = usize;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    pub queued: Messages,
    pub ended: Ended,
    pub claim: Claim,
    /// Who has the destination's advisory lock.
    pub lock: Option<SessionIndex>,
    /// What a client asks of the holder: to delete this message.
    pub request: Option<u8>,
    pub sessions: [Option<Session>; SESSIONS],
    pub workers: [Worker; WORKERS],
    pub seen: Seen,
    pub left: Left,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Ended {
    pub delivered: Messages,
    pub deleted: Messages,
}

impl Ended {
    pub fn all(self) -> Messages {
        self.delivered.and(self.deleted)
    }
}

/// The destination's row in `claims`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Claim {
    pub owner: Option<SessionIndex>,
    pub epoch: u8,
    pub last_delivered: u8,
    /// The owner is of an earlier incarnation of Postgres, and the grace is not over.
    pub in_grace: bool,
}

/// What the server knows of a session, and the session's row in `workers`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Session {
    pub worker: WorkerIndex,
    pub backend: Backend,
    /// Its host is cut off: neither side hears the other.
    pub cut: bool,
    pub registered: bool,
    /// It holds the lock on its own id.
    pub locked: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Backend {
    Live,
    /// Ended by the server: the client's socket has a hang-up to read.
    Terminated,
    /// Gone without a word.
    Gone,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Worker {
    /// By a signal; the network and the receiver go on. (A process that was killed is one without a session,
    /// which may start again.)
    pub stopped: bool,
    /// The session it believes in.
    pub session: Option<SessionIndex>,
    /// The last answered question was sent on this session less than 8 s ago.
    pub fresh: bool,
    /// It takes something else for an answer of its session (a broken variant).
    pub deceived: bool,
    pub lane: Lane,
}

/// How far the worker is with the destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    None,
    /// The claim's first step found that it may be claimed.
    Chosen(Claim),
    /// The second step has the lock.
    Locked(Claim),
    Serving(Serving),
    /// The release is written, the lock still held.
    Released,
    /// The lock is given back, the release not yet written (a broken variant).
    Unlocked(Serving),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Serving {
    pub epoch: u8,
    /// What this worker takes for the last message delivered.
    pub previous: u8,
    pub ahead: Messages,
    pub step: Step,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step {
    Idle,
    InFlight(u8),
    Answered(u8),
    /// The acknowledgement is committed; its success waits in the worker's socket.
    Acknowledged(u8),
}

/// What an observer noted, to judge what comes later.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Seen {
    pub last_start: Option<Start>,
    pub breaches: Breaches,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Start {
    pub worker: WorkerIndex,
    pub sequence: u8,
    pub epoch: u8,
}

/// What a step did that it must not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Breaches {
    pub overtook: bool,
    pub overlapped: bool,
    pub repeated: bool,
    pub epoch_stood: bool,
    pub wrong_previous: bool,
    pub deleted_in_flight: bool,
    pub ended_by_another: bool,
    pub buried_alive: bool,
}

/// What may still happen from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Left {
    pub faults: u8,
    pub handovers: u8,
    pub deletes: u8,
}

/// The kinds of faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Faults {
    pub kill: bool,
    pub stop: bool,
    pub cut: bool,
    pub terminate: bool,
    pub restart: bool,
}

impl Faults {
    pub const ALL: Self = Self { kill: true, stop: true, cut: true, terminate: true, restart: true };
    pub const NONE: Self = Self { kill: false, stop: false, cut: false, terminate: false, restart: false };
}

impl State {
    pub fn first(model: &Takeover) -> Self {
        Self {
            queued: Messages::first(model.messages),
            ended: Ended::default(),
            claim: Claim::default(),
            lock: None,
            request: None,
            sessions: [None; SESSIONS],
            workers: [Worker { stopped: false, session: None, fresh: false, deceived: false, lane: Lane::None };
                WORKERS],
            seen: Seen::default(),
            left: Left { faults: model.faults, handovers: model.handovers, deletes: model.deletes },
        }
    }

    /// The session the worker believes in, if the server still has it and both hear each other.
    pub fn reached(&self, worker: WorkerIndex) -> Option<SessionIndex> {
        let index = self.workers[worker].session?;
        let session = self.session(index);
        (!self.workers[worker].stopped && session.backend == Backend::Live && !session.cut).then_some(index)
    }

    pub fn session(&self, index: SessionIndex) -> &Session {
        self.sessions[index].as_ref().expect("a slot that is referred to is not given away")
    }

    pub fn session_mut(&mut self, index: SessionIndex) -> &mut Session {
        self.sessions[index].as_mut().expect("a slot that is referred to is not given away")
    }

    pub fn serving(&self, worker: WorkerIndex) -> Option<Serving> {
        match self.workers[worker].lane {
            Lane::Serving(serving) => Some(serving),
            Lane::None | Lane::Chosen(_) | Lane::Locked(_) | Lane::Released | Lane::Unlocked(_) => None,
        }
    }

    pub fn in_flight(&self, worker: WorkerIndex) -> Option<u8> {
        match self.serving(worker)?.step {
            Step::InFlight(sequence) => Some(sequence),
            Step::Idle | Step::Answered(_) | Step::Acknowledged(_) => None,
        }
    }

    /// The server ends a session: its locks are free at once.
    pub fn end(&mut self, index: SessionIndex, how: Backend) {
        let session = self.session_mut(index);
        session.backend = how;
        session.locked = false;
        if self.lock == Some(index) {
            self.lock = None;
        }
    }

    /// What is in flight is closed, not answered.
    pub fn abort(&mut self, worker: WorkerIndex) {
        if let Lane::Serving(serving) = &mut self.workers[worker].lane
            && matches!(serving.step, Step::InFlight(_))
        {
            serving.step = Step::Idle;
        }
    }

    /// Nothing can be sent any more, ever.
    pub fn is_over(&self) -> bool {
        self.queued.is_empty() && self.workers.iter().all(|worker| worker.lane == Lane::None)
    }

    /// Forgets the sessions nothing refers to, and what no longer makes a difference.
    pub fn tidy(&mut self) {
        for index in 0..SESSIONS {
            let believed = self.workers.iter().any(|worker| worker.session == Some(index));
            if let Some(session) = &mut self.sessions[index]
                && session.backend != Backend::Live
            {
                session.cut = false;
                session.backend = if believed { session.backend } else { Backend::Gone };
            }
        }
        for index in 0..SESSIONS {
            let referred = self.claim.owner == Some(index)
                || self.workers.iter().any(|worker| worker.session == Some(index))
                || self.sessions[index].is_some_and(|session| session.registered || session.backend == Backend::Live);
            if !referred {
                self.sessions[index] = None;
            }
        }
    }

    /// One state for all that differ only in which worker is which, and which slot a session has.
    pub fn representative(&self) -> Self {
        let swapped = self.renamed(|worker| 1 - worker);
        let kept = self.renamed(|worker| worker);
        if swapped.key() < kept.key() { swapped } else { kept }
    }

    fn key(&self) -> ([Worker; WORKERS], [Option<Session>; SESSIONS], Option<SessionIndex>, Option<Start>) {
        (self.workers, self.sessions, self.lock, self.seen.last_start)
    }

    fn renamed(&self, name: fn(WorkerIndex) -> WorkerIndex) -> Self {
        let mut renamed = self.clone();
        for worker in 0..WORKERS {
            renamed.workers[name(worker)] = self.workers[worker];
        }
        for session in renamed.sessions.iter_mut().flatten() {
            session.worker = name(session.worker);
        }
        if let Some(start) = &mut renamed.seen.last_start {
            start.worker = name(start.worker);
        }
        // The slots in order of what they hold and who refers to them, empty ones last.
        let mut slots: [SessionIndex; SESSIONS] = std::array::from_fn(|index| index);
        slots.sort_by_key(|index| {
            let believed = renamed.workers.iter().any(|worker| worker.session == Some(*index));
            let session = renamed.sessions[*index];
            (session.is_none(), session, believed, renamed.claim.owner == Some(*index), renamed.lock == Some(*index))
        });
        let place = |index: SessionIndex| slots.iter().position(|slot| *slot == index).expect("each slot is there");
        renamed.sessions = slots.map(|index| renamed.sessions[index]);
        renamed.claim.owner = renamed.claim.owner.map(place);
        renamed.lock = renamed.lock.map(place);
        for worker in &mut renamed.workers {
            worker.session = worker.session.map(place);
        }
        renamed
    }
}
