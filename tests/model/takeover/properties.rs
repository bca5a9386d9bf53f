//! What must always hold, and what should be able to happen?

use stateright::{Model, Property};

use super::state::{Backend, Lane, State};
use super::{Action, Takeover};
use crate::messages::Messages;

pub const LOSES_NOTHING: &str = "G1 each message is queued or ended one way";
pub const ORDER: &str = "G2 no request overtakes an older message";
pub const ONE_IN_FLIGHT: &str = "G3 never two requests in flight";
pub const NEVER_OLDER: &str = "G4 nothing that ended is sent again";
pub const EPOCHS_RISE: &str = "G4 another holder has a higher epoch";
pub const PREVIOUS: &str = "the previous sequence told is the one delivered before";
pub const DELETED: &str = "a message is not deleted in flight";
pub const ONE_WRITER: &str = "only the holder acknowledges";
pub const NOT_ALIVE: &str = "no living session is taken for dead";
pub const NAMED: &str = "who serves and lives is the owner of record";

impl Model for Takeover {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State::first(self)]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        self.possible(state, actions);
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let next = self.after(state, action);
        (next != *state).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(LOSES_NOTHING, |model: &Self, state: &State| {
                let (queued, ended) = (state.queued, state.ended);
                queued.and(ended.all()) == Messages::first(model.messages)
                    && !queued.overlaps(ended.all())
                    && !ended.delivered.overlaps(ended.deleted)
            }),
            Property::always(ORDER, |_, state: &State| !state.seen.breaches.overtook),
            Property::always(ONE_IN_FLIGHT, |_, state: &State| !state.seen.breaches.overlapped),
            Property::always(NEVER_OLDER, |_, state: &State| !state.seen.breaches.repeated),
            Property::always(EPOCHS_RISE, |_, state: &State| !state.seen.breaches.epoch_stood),
            Property::always(PREVIOUS, |_, state: &State| !state.seen.breaches.wrong_previous),
            Property::always(DELETED, |_, state: &State| !state.seen.breaches.deleted_in_flight),
            Property::always(ONE_WRITER, |_, state: &State| !state.seen.breaches.ended_by_another),
            Property::always(NOT_ALIVE, |_, state: &State| !state.seen.breaches.buried_alive),
            Property::always(NAMED, |_, state: &State| {
                (0..state.workers.len()).all(|worker| {
                    let lives = state.workers[worker].session.is_some_and(|index| {
                        state.session(index).backend == Backend::Live && state.claim.owner != Some(index)
                    });
                    state.serving(worker).is_none() || !lives
                })
            }),
            Property::sometimes("all is delivered", |model: &Self, state: &State| {
                state.ended.delivered == Messages::first(model.messages)
            }),
            Property::sometimes("a zombie believes it serves beside the holder", |_, state: &State| {
                state.left.faults == 0
                    && state.workers.iter().all(|worker| matches!(worker.lane, Lane::Serving(_)) && !worker.stopped)
            }),
        ]
    }
}
