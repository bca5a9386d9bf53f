//! Do numbers rise in commit order, and does the floor never pass a message that is still queued?
//!
//! Two producers in transactions of several steps, one holder that may die. The second producer's messages
//! are brief: they may expire before older ones.

use stateright::{Model, Property};

use crate::messages::Messages;

pub const ORDER: &str = "G2 requests start in sequence order";
pub const REACHED: &str = "G1 no queued message is below the floor";
pub const NEVER_OLDER: &str = "G4 nothing that ended is sent again";

#[derive(Clone, Debug)]
pub struct Numbers {
    /// How many transactions each producer begins.
    pub posts: u8,
    pub crashes: u8,
    pub variant: Variant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    AsDesigned,
    /// The number is drawn, then the queue's row is locked.
    DrawsBeforeLocking,
    /// After a crash the floor is the largest sequence that ended, whichever way.
    CountsExpiredIntoFloor,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    counter: u8,
    row_lock: Option<usize>,
    producers: [Producer; 2],
    pub queued: Messages,
    brief: Messages,
    /// Ended by the holder in order, as the log of attempts and the dead letters tell.
    in_order: Messages,
    expired: Messages,
    /// The floor in `claims`.
    written_floor: u8,
    released: bool,
    holder: Option<Holder>,
    last_started: u8,
    overtook: bool,
    repeated: bool,
    crashes_left: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Producer {
    transaction: Transaction,
    left: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Transaction {
    None,
    Drawn(u8),
    Locked,
    Inserted(u8),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Holder {
    floor: u8,
    ahead: Messages,
    in_flight: Option<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Locks the queue's row, or waits for it.
    LockRow(usize),
    /// Draws from the counter (before the lock, in the broken variant).
    Draw(usize),
    Insert(usize),
    Commit(usize),
    RollBack(usize),
    Claim,
    Read,
    Start,
    Fail,
    Acknowledge,
    /// A brief message's time is over.
    Expire(u8),
    Release,
    Crash,
}

impl Action {
    pub fn happens(&self) -> bool {
        !matches!(self, Self::Crash | Self::LockRow(_) | Self::Draw(_) | Self::Expire(_))
    }
}

impl Numbers {
    fn producer_actions(&self, state: &State, who: usize, actions: &mut Vec<Action>) {
        let producer = &state.producers[who];
        let draws_first = self.variant == Variant::DrawsBeforeLocking;
        match producer.transaction {
            Transaction::None if producer.left > 0 => {
                if draws_first {
                    actions.push(Action::Draw(who));
                } else if state.row_lock.is_none() {
                    actions.push(Action::LockRow(who));
                }
            }
            Transaction::None => {}
            Transaction::Drawn(_) if draws_first && state.row_lock.is_none() => actions.push(Action::LockRow(who)),
            Transaction::Drawn(_) => {}
            Transaction::Locked => actions.push(Action::Insert(who)),
            Transaction::Inserted(_) => actions.extend([Action::Commit(who), Action::RollBack(who)]),
        }
    }

    fn holder_actions(&self, state: &State, actions: &mut Vec<Action>) {
        let Some(holder) = &state.holder else {
            if !state.queued.is_empty() {
                actions.push(Action::Claim);
            }
            return;
        };
        if holder.in_flight.is_some() {
            actions.extend([Action::Fail, Action::Acknowledge]);
        } else {
            if holder.ahead.is_empty() {
                actions.push(Action::Read);
            } else {
                actions.push(Action::Start);
            }
            if state.queued.above(holder.floor).is_empty() {
                actions.push(Action::Release);
            }
            let brief = state.queued.iter().filter(|sequence| state.brief.contains(*sequence));
            actions.extend(brief.map(Action::Expire));
        }
        if state.crashes_left > 0 {
            actions.push(Action::Crash);
        }
    }

    fn producer_step(&self, state: &mut State, action: Action) {
        match action {
            Action::LockRow(who) => {
                state.row_lock = Some(who);
                state.producers[who].transaction = match state.producers[who].transaction {
                    Transaction::Drawn(number) => Transaction::Inserted(number),
                    Transaction::None | Transaction::Locked | Transaction::Inserted(_) => Transaction::Locked,
                };
            }
            Action::Draw(who) => {
                state.counter += 1;
                state.producers[who].transaction = Transaction::Drawn(state.counter);
            }
            // `nextval` in the select list over the join with the rows just locked.
            Action::Insert(who) => {
                state.counter += 1;
                state.producers[who].transaction = Transaction::Inserted(state.counter);
            }
            Action::Commit(who) | Action::RollBack(who) => {
                if let (Transaction::Inserted(number), Action::Commit(_)) = (state.producers[who].transaction, action) {
                    state.queued = state.queued.with(number);
                    if who == 1 {
                        state.brief = state.brief.with(number);
                    }
                }
                state.row_lock = None;
                state.producers[who].transaction = Transaction::None;
                state.producers[who].left -= 1;
            }
            _ => unreachable!("a holder's step"),
        }
    }

    fn claim(&self, state: &mut State) {
        let logged = match self.variant {
            Variant::CountsExpiredIntoFloor => state.in_order.and(state.expired).last(),
            Variant::AsDesigned | Variant::DrawsBeforeLocking => state.in_order.last(),
        };
        let floor = if state.released { state.written_floor } else { logged.max(state.written_floor) };
        state.released = false;
        state.holder = Some(Holder { floor, ahead: Messages::default(), in_flight: None });
    }

    fn holder_step(&self, state: &mut State, action: Action) {
        let queued = state.queued;
        let Some(holder) = &mut state.holder else { return self.claim(state) };
        match action {
            Action::Read => holder.ahead = queued.above(holder.floor),
            Action::Start => {
                let sequence = holder.ahead.head().expect("only possible with a message read ahead");
                holder.ahead = holder.ahead.without(sequence);
                holder.in_flight = Some(sequence);
                state.overtook |= sequence < state.last_started || queued.head().is_some_and(|head| head < sequence);
                state.repeated |= state.in_order.and(state.expired).contains(sequence);
                state.last_started = sequence;
            }
            Action::Fail => {
                let sequence = holder.in_flight.take().expect("only possible with a message in flight");
                holder.ahead = holder.ahead.with(sequence);
            }
            Action::Acknowledge => {
                let sequence = holder.in_flight.take().expect("only possible with a message in flight");
                holder.floor = sequence;
                state.queued = queued.without(sequence);
                state.in_order = state.in_order.with(sequence);
            }
            Action::Expire(sequence) => {
                holder.ahead = holder.ahead.without(sequence);
                state.queued = queued.without(sequence);
                state.expired = state.expired.with(sequence);
            }
            Action::Release => {
                state.written_floor = holder.floor;
                state.released = true;
                state.holder = None;
            }
            Action::Crash => {
                state.crashes_left -= 1;
                state.holder = None;
            }
            _ => unreachable!("a producer's step"),
        }
    }
}

impl Model for Numbers {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let producer = Producer { transaction: Transaction::None, left: self.posts };
        vec![State {
            counter: 0,
            row_lock: None,
            producers: [producer.clone(), producer],
            queued: Messages::default(),
            brief: Messages::default(),
            in_order: Messages::default(),
            expired: Messages::default(),
            written_floor: 0,
            released: true,
            holder: None,
            last_started: 0,
            overtook: false,
            repeated: false,
            crashes_left: self.crashes,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        self.producer_actions(state, 0, actions);
        self.producer_actions(state, 1, actions);
        self.holder_actions(state, actions);
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut next = state.clone();
        match action {
            Action::LockRow(_) | Action::Draw(_) | Action::Insert(_) | Action::Commit(_) | Action::RollBack(_) => {
                self.producer_step(&mut next, action);
            }
            Action::Claim
            | Action::Read
            | Action::Start
            | Action::Fail
            | Action::Acknowledge
            | Action::Expire(_)
            | Action::Release
            | Action::Crash => self.holder_step(&mut next, action),
        }
        (next != *state).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(ORDER, |_, state: &State| !state.overtook),
            Property::always(NEVER_OLDER, |_, state: &State| !state.repeated),
            Property::always(REACHED, |_, state: &State| {
                state.holder.as_ref().is_none_or(|holder| state.queued.above(holder.floor) == state.queued)
            }),
            Property::sometimes("a brief message expires before an older one", |_, state: &State| {
                state.queued.head().is_some_and(|head| head < state.expired.last())
            }),
            Property::sometimes("all numbers are delivered", |model: &Self, state: &State| {
                state.in_order == Messages::first(2 * model.posts)
            }),
        ]
    }
}
