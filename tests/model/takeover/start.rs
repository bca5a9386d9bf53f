//! What must be true when a request starts?

use super::Takeover;
use super::state::{Lane, Start, State, Step, WorkerIndex};

impl Takeover {
    /// Starts the request for the first message read ahead, and notes what it breaks.
    pub fn start(&self, state: &mut State, worker: WorkerIndex) {
        let Lane::Serving(serving) = &mut state.workers[worker].lane else {
            unreachable!("only possible while serving")
        };
        let sequence = serving.ahead.head().expect("only possible with a message read ahead");
        serving.step = Step::InFlight(sequence);
        let serving = *serving;
        let start = Start { worker, sequence, epoch: serving.epoch };

        let older_left = state.queued.head().is_some_and(|head| head < sequence);
        let overlaps = (0..state.workers.len()).any(|other| other != worker && state.in_flight(other).is_some());
        let last = state.seen.last_start;
        let breaches = &mut state.seen.breaches;
        breaches.overtook |= older_left || last.is_some_and(|last| last.sequence > sequence);
        breaches.overlapped |= overlaps;
        breaches.repeated |= state.ended.all().contains(sequence);
        breaches.epoch_stood |= last
            .is_some_and(|last| last.epoch > start.epoch || (last.epoch == start.epoch && last.worker != start.worker));
        breaches.wrong_previous |= serving.previous != state.ended.delivered.last();
        state.seen.last_start = Some(start);
    }
}
