//! Does a message that is committed start without waiting for a timer?
//!
//! One destination, two workers, an API process that rings after it commits. A lane lingers, lets go, and is
//! woken in between; the bell may ring at any of its steps. Sends always succeed here.

use stateright::{Model, Property};

pub const PROMPT: &str = "G7 nobody sleeps over a message whose bell rang";

#[derive(Clone, Debug)]
pub struct WakeUp {
    pub posts: u8,
    /// How often the API process dies between its commit and its bell.
    pub api_deaths: u8,
    pub kills: u8,
    pub sweeps: bool,
    pub variant: Variant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    AsDesigned,
    BellBeforeCommit,
    /// A lane marks itself quiet after it looked a last time.
    QuietAfterLastLook,
    /// Bells that ring while a lane lets go are not remembered.
    ForgetsBells,
    /// Who unlocked does not look once more.
    LooksNoMore,
    /// Both of the above.
    ForgetsBellsAndLooksNoMore,
    /// A try to claim that found the lock taken is not repeated.
    TriesOnce,
    /// A worker looks around, then listens.
    LooksBeforeListening,
    /// Who buries a dead worker looks at what it owned, and no further.
    BuriesWithoutSweep,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    pub queued: u8,
    posts_left: u8,
    api: Api,
    /// A message was committed and its bell never rang.
    pub bell_lost: bool,
    api_deaths_left: u8,
    kills_left: u8,
    owner: Option<usize>,
    lock: Option<usize>,
    workers: [Worker; 2],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Api {
    Idle,
    Committed,
    /// The bell rang, and the commit is still to come (a broken variant).
    Rang,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Worker {
    alive: bool,
    /// It died and is still in `workers`.
    unburied: bool,
    listens: bool,
    /// It has still to look around after it connected.
    looks_around: bool,
    /// A bell is in its socket.
    bell: bool,
    /// It means to try and claim.
    wants: bool,
    /// A bell for its quiet lane.
    woken: bool,
    lane: Lane,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum Lane {
    #[default]
    None,
    Chosen,
    Locked,
    Looking,
    Sending,
    /// Found nothing and is not yet marked quiet (a broken variant).
    FoundNothing,
    /// Marked quiet, about to look a last time.
    LastLook,
    /// Marked quiet, lingers.
    Asleep,
    /// Marked released in memory.
    Releasing,
    /// The release is written.
    Written,
    Unlocked,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Commit,
    Ring,
    ApiDies,
    /// Reads the bell from its socket.
    Hear(usize),
    Choose(usize),
    Lock(usize),
    Update(usize),
    Look(usize),
    Send(usize),
    MarkQuiet(usize),
    LookLast(usize),
    Wake(usize),
    /// The lingering is over.
    StopLingering(usize),
    WriteRelease(usize),
    Unlock(usize),
    LookOnceMore(usize),
    Listen(usize),
    LookAround(usize),
    /// The first got the dead second one's lock: removes its row, looks through its claims.
    Bury(usize, usize),
    Sweep(usize),
    Kill(usize),
    Revive(usize),
}

impl Action {
    /// Comes about by itself, at once or by a timer.
    pub fn happens(&self) -> bool {
        !matches!(self, Self::Commit | Self::ApiDies | Self::Kill(_))
    }

    /// Comes about at once.
    pub fn is_prompt(&self) -> bool {
        self.happens() && !matches!(self, Self::StopLingering(_) | Self::Sweep(_) | Self::Revive(_))
    }
}

impl State {
    /// Whether G7 promises that the queue moves at once.
    pub fn must_move(&self) -> bool {
        self.queued > 0 && !self.bell_lost && self.workers.iter().any(|worker| worker.alive)
    }

    fn ring(&mut self) {
        for worker in &mut self.workers {
            worker.bell |= worker.listens;
        }
    }
}

impl WakeUp {
    fn forgets_bells(&self) -> bool {
        matches!(self.variant, Variant::ForgetsBells | Variant::ForgetsBellsAndLooksNoMore)
    }

    fn looks_no_more(&self) -> bool {
        matches!(self.variant, Variant::LooksNoMore | Variant::ForgetsBellsAndLooksNoMore)
    }

    fn api_actions(&self, state: &State, actions: &mut Vec<Action>) {
        let rings_first = self.variant == Variant::BellBeforeCommit;
        match state.api {
            Api::Idle if state.posts_left > 0 => actions.push(if rings_first { Action::Ring } else { Action::Commit }),
            Api::Idle => {}
            Api::Committed => {
                actions.push(Action::Ring);
                if state.api_deaths_left > 0 {
                    actions.push(Action::ApiDies);
                }
            }
            Api::Rang => actions.push(Action::Commit),
        }
    }

    fn worker_actions(&self, state: &State, who: usize, actions: &mut Vec<Action>) {
        let (worker, other) = (&state.workers[who], 1 - who);
        if !worker.alive {
            return actions.push(Action::Revive(who));
        }
        let listens_first = self.variant != Variant::LooksBeforeListening;
        if worker.looks_around && (worker.listens || !listens_first) {
            actions.push(Action::LookAround(who));
        }
        if !worker.listens && (listens_first || !worker.looks_around) {
            actions.push(Action::Listen(who));
        }
        if state.kills_left > 0 {
            actions.push(Action::Kill(who));
        }
        if !worker.listens || worker.looks_around {
            return;
        }
        if worker.bell {
            actions.push(Action::Hear(who));
        }
        if state.workers[other].unburied {
            actions.push(Action::Bury(who, other));
        }
        let lowest = who == 0 || !state.workers[other].alive;
        if self.sweeps && lowest && state.owner.is_none() && worker.lane == Lane::None && !worker.wants {
            actions.push(Action::Sweep(who));
        }
        match worker.lane {
            Lane::None if worker.wants => actions.push(Action::Choose(who)),
            Lane::None => {}
            Lane::Chosen => actions.push(Action::Lock(who)),
            Lane::Locked => actions.push(Action::Update(who)),
            Lane::Looking => actions.push(Action::Look(who)),
            Lane::Sending => actions.push(Action::Send(who)),
            Lane::FoundNothing => actions.push(Action::MarkQuiet(who)),
            Lane::LastLook => actions.push(Action::LookLast(who)),
            Lane::Asleep if worker.woken => actions.push(Action::Wake(who)),
            Lane::Asleep => actions.push(Action::StopLingering(who)),
            Lane::Releasing => actions.push(Action::WriteRelease(who)),
            Lane::Written => actions.push(Action::Unlock(who)),
            Lane::Unlocked => actions.push(Action::LookOnceMore(who)),
        }
    }

    fn hear(&self, worker: &mut Worker) {
        worker.bell = false;
        match worker.lane {
            Lane::None | Lane::Chosen => worker.wants = true,
            // It will look again before it is quiet.
            Lane::Locked | Lane::Looking | Lane::Sending | Lane::FoundNothing => {}
            Lane::LastLook | Lane::Asleep => worker.woken = true,
            Lane::Releasing | Lane::Written | Lane::Unlocked => worker.wants |= !self.forgets_bells(),
        }
    }

    fn claim_step(&self, state: &mut State, who: usize) {
        let worker = &mut state.workers[who];
        match worker.lane {
            Lane::None => {
                worker.wants = false;
                // Another owner that lives heard the bell too.
                if state.owner.is_none() {
                    worker.lane = Lane::Chosen;
                }
            }
            Lane::Chosen if state.lock.is_none() => {
                state.lock = Some(who);
                worker.lane = Lane::Locked;
            }
            Lane::Chosen => {
                worker.lane = Lane::None;
                worker.wants |= self.variant != Variant::TriesOnce;
            }
            _ => {
                state.owner = Some(who);
                worker.lane = Lane::Looking;
            }
        }
    }

    fn lane_step(&self, state: &mut State, action: Action, who: usize) {
        let queued = state.queued;
        let worker = &mut state.workers[who];
        worker.lane = match action {
            Action::Look(_) | Action::LookLast(_) if queued > 0 => Lane::Sending,
            Action::Look(_) if self.variant == Variant::QuietAfterLastLook => Lane::FoundNothing,
            Action::Look(_) => Lane::LastLook,
            Action::LookLast(_) | Action::MarkQuiet(_) => Lane::Asleep,
            Action::Send(_) => {
                state.queued -= 1;
                state.bell_lost &= state.queued > 0;
                Lane::Looking
            }
            Action::Wake(_) => {
                worker.woken = false;
                Lane::Looking
            }
            Action::StopLingering(_) => Lane::Releasing,
            Action::WriteRelease(_) => {
                state.owner = None;
                Lane::Written
            }
            Action::Unlock(_) => {
                state.lock = None;
                if self.looks_no_more() { Lane::None } else { Lane::Unlocked }
            }
            _ => {
                worker.wants |= queued > 0;
                Lane::None
            }
        };
        if worker.lane == Lane::Sending {
            worker.woken = false;
        }
    }

    fn bury(&self, state: &mut State, who: usize, dead: usize) {
        state.workers[dead].unburied = false;
        let owned = state.owner == Some(dead);
        if owned {
            state.owner = None;
        }
        let sweeps = self.variant != Variant::BuriesWithoutSweep && state.owner.is_none();
        state.workers[who].wants |= (owned || sweeps) && state.queued > 0 && state.workers[who].lane == Lane::None;
    }
}

impl Model for WakeUp {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let worker = Worker { alive: true, looks_around: true, ..Worker::default() };
        vec![State {
            queued: 0,
            posts_left: self.posts,
            api: Api::Idle,
            bell_lost: false,
            api_deaths_left: self.api_deaths,
            kills_left: self.kills,
            owner: None,
            lock: None,
            workers: [worker; 2],
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        self.api_actions(state, actions);
        self.worker_actions(state, 0, actions);
        self.worker_actions(state, 1, actions);
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut next = state.clone();
        match action {
            Action::Commit => {
                next.posts_left -= 1;
                next.queued += 1;
                next.api = if next.api == Api::Rang { Api::Idle } else { Api::Committed };
            }
            Action::Ring => {
                next.ring();
                next.api = if next.api == Api::Committed { Api::Idle } else { Api::Rang };
            }
            Action::ApiDies => {
                next.api_deaths_left -= 1;
                next.bell_lost = next.queued > 0;
                next.api = Api::Idle;
            }
            Action::Hear(who) => self.hear(&mut next.workers[who]),
            Action::Choose(who) | Action::Lock(who) | Action::Update(who) => self.claim_step(&mut next, who),
            Action::Look(who)
            | Action::Send(who)
            | Action::MarkQuiet(who)
            | Action::LookLast(who)
            | Action::Wake(who)
            | Action::StopLingering(who)
            | Action::WriteRelease(who)
            | Action::Unlock(who)
            | Action::LookOnceMore(who) => self.lane_step(&mut next, action, who),
            Action::Listen(who) => next.workers[who].listens = true,
            Action::LookAround(who) => {
                next.workers[who].looks_around = false;
                next.workers[who].wants |= next.queued > 0 && next.owner.is_none();
            }
            Action::Bury(who, dead) => self.bury(&mut next, who, dead),
            Action::Sweep(who) => next.workers[who].wants |= next.queued > 0,
            Action::Kill(who) => {
                next.kills_left -= 1;
                next.workers[who] = Worker { unburied: true, ..Worker::default() };
                if next.lock == Some(who) {
                    next.lock = None;
                }
            }
            // A starter looks for the dead first, itself of before among them.
            Action::Revive(who) => {
                if next.owner == Some(who) {
                    next.owner = None;
                }
                next.workers[who] = Worker { alive: true, looks_around: true, ..Worker::default() };
            }
        }
        (next != *state).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(PROMPT, |model: &Self, state: &State| {
                let mut actions = Vec::new();
                model.actions(state, &mut actions);
                !state.must_move() || actions.iter().any(Action::is_prompt)
            }),
            Property::sometimes("a bell rings while a lane lets go", |_, state: &State| {
                state.workers.iter().any(|worker| worker.bell && worker.lane == Lane::Written)
            }),
            Property::sometimes("a message waits for the sweep", |_, state: &State| {
                state.bell_lost && state.owner.is_none() && state.workers.iter().all(|worker| worker.lane == Lane::None)
            }),
        ]
    }
}
