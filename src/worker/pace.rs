//! How many requests may be in flight?
//!
//! `--concurrency` bounds those of all lanes together, first come, first served. A request that is older
//! than a second moves to a second, larger budget, and a destination whose last try timed out starts
//! there, so that 256 receivers that hang do not stop the 257th (G5).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// From this age a request counts as slow.
pub const SLOW_AFTER: Duration = Duration::from_secs(1);
/// The second budget, as a multiple of `--concurrency`.
const SLOW_FACTOR: usize = 16;

pub struct Pace {
    quick: Arc<Semaphore>,
    slow: Arc<Semaphore>,
    in_flight: AtomicUsize,
}

/// The right to have one request in flight.
pub struct Permit<'a> {
    pace: &'a Pace,
    held: OwnedSemaphorePermit,
    slow: bool,
}

impl Pace {
    pub fn new(concurrency: u32) -> Pace {
        let quick = concurrency as usize;
        Pace {
            quick: Arc::new(Semaphore::new(quick)),
            slow: Arc::new(Semaphore::new(quick * SLOW_FACTOR)),
            in_flight: AtomicUsize::new(0),
        }
    }

    /// Waits for its turn. `suspect`: the last try timed out.
    pub async fn enter(&self, suspect: bool) -> Permit<'_> {
        let budget = if suspect { &self.slow } else { &self.quick };
        let held = budget.clone().acquire_owned().await.expect("the semaphores are never closed");
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        Permit { pace: self, held, slow: suspect }
    }

    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }
}

impl Permit<'_> {
    /// Moves to the larger budget, if that has room.
    pub fn slow_down(&mut self) {
        if !self.slow
            && let Ok(held) = self.pace.slow.clone().try_acquire_owned()
        {
            self.held = held;
            self.slow = true;
        }
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        self.pace.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}
