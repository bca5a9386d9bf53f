//! What becomes of posts to a destination whose lock somebody else holds?
//!
//! An application's transaction that has called `orderly.enqueue` and is still open, for one. They are waited for
//! apart, so that they delay nobody else's posts (G5).

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout_at};

use super::{Post, Writer};
use crate::store::StoreError;

/// A client hears within 5 s that a destination's lock was not to be had: after so long nobody waits for it
/// once more, which takes up to 2 s (`lock_timeout` in `enqueue_batch`, twice behind another waiter).
const PATIENCE: Duration = Duration::from_millis(2_000);
/// Between two tries of a lock that is not waited for; doubles.
pub(super) const FIRST_PAUSE: Duration = Duration::from_millis(5);
pub(super) const LONGEST_PAUSE: Duration = Duration::from_millis(80);
/// So many connections may wait for locks that others hold; the rest of the pool is for who need not wait (G5).
const WAITERS: usize = 4;

/// On whose behalf posts are written: of the one task that looks after a locked destination.
#[derive(Clone, Copy)]
pub(super) struct Apart {
    pub destination: i64,
    /// It may wait for the lock.
    pub waits: bool,
}

impl Apart {
    /// What the functions are told to wait for.
    pub fn wait_for(self) -> Option<i64> {
        self.waits.then_some(self.destination)
    }

    pub fn is_about(apart: Option<Apart>, destination: i64) -> bool {
        apart.is_some_and(|apart| apart.destination == destination)
    }
}

/// Posts that wait for a destination that somebody locks, each destination's for the one task that waits for it.
pub(super) struct WaitingRoom {
    waiting: Mutex<HashMap<i64, Vec<Post>>>,
    waiters: Semaphore,
}

impl Default for WaitingRoom {
    fn default() -> WaitingRoom {
        WaitingRoom { waiting: Mutex::default(), waiters: Semaphore::new(WAITERS) }
    }
}

impl WaitingRoom {
    fn lock(&self) -> MutexGuard<'_, HashMap<i64, Vec<Post>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The right to wait for a lock on a connection; `None`: it was not to be had by then.
    async fn waiter(&self, by: Instant) -> Option<SemaphorePermit<'_>> {
        timeout_at(by, self.waiters.acquire()).await.ok()?.ok()
    }

    fn take(&self, destination: i64) -> Vec<Post> {
        let mut waiting = self.lock();
        waiting.get_mut(&destination).map(std::mem::take).unwrap_or_default()
    }

    /// Whether nobody waits; then the next one that comes starts a task of its own.
    fn nobody_waits(&self, destination: i64) -> bool {
        let mut waiting = self.lock();
        let none = waiting.get(&destination).is_none_or(Vec::is_empty);
        if none {
            waiting.remove(&destination);
        }
        none
    }
}

impl Writer {
    /// Writes what waits for one destination; gives back what still does. What has a key goes one by one.
    async fn write_apart(self: &Arc<Self>, posts: Vec<Post>, apart: Apart) -> Vec<Post> {
        let (keyed, plain): (Vec<_>, Vec<_>) = posts.into_iter().partition(|post| post.key.is_some());
        let mut locked = if plain.is_empty() { Vec::new() } else { self.write(plain, Some(apart)).await };
        for post in keyed {
            if locked.is_empty() {
                locked.extend(self.write_once(post, Some(apart)).await);
            } else {
                locked.push(post);
            }
        }
        locked
    }

    /// One task and at most one connection for each locked destination, carrying all its waiting posts.
    pub(super) fn wait_apart(self: &Arc<Self>, destination: i64, post: Post) {
        let mut waiting = self.room.lock();
        match waiting.entry(destination) {
            Entry::Occupied(mut posts) => posts.get_mut().push(post),
            Entry::Vacant(entry) => {
                entry.insert(vec![post]);
                tokio::spawn(wait_for_lock(self.clone(), destination));
            }
        }
    }
}

async fn wait_for_lock(writer: Arc<Writer>, destination: i64) {
    let mut held: Vec<Post> = Vec::new();
    let mut pause = FIRST_PAUSE;
    loop {
        held.extend(writer.room.take(destination));
        let (due, rest): (Vec<_>, Vec<_>) = held.into_iter().partition(|post| post.since.elapsed() >= PATIENCE);
        for post in due {
            writer.end(post, Err(StoreError::Held("another transaction holds the destination's queue").into()));
        }
        held = rest;
        let Some(oldest) = held.iter().map(|post| post.since).min() else {
            if writer.room.nobody_waits(destination) {
                return;
            }
            continue;
        };
        // A lock held for an instant must not be waited for behind those held for long: as long as nobody else may
        // wait, it is tried again and again.
        let waiter = writer.room.waiter((Instant::now() + pause).min(oldest + PATIENCE)).await;
        pause = if waiter.is_some() { FIRST_PAUSE } else { (pause * 2).min(LONGEST_PAUSE) };
        held = Box::pin(writer.write_apart(held, Apart { destination, waits: waiter.is_some() })).await;
    }
}
