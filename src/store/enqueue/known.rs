//! Which destinations may be expected to take a post?
//!
//! A bell that is sent right behind a statement that queues is sent before that is judged. Rung for all that a post names,
//! it would let anybody wake workers for queues that are not theirs, or are full.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use super::Post;

/// Destinations that are remembered; past it all are forgotten.
const MOST: usize = 10_000;

/// Destinations that took the last post, and from which tenant.
#[derive(Default)]
pub(super) struct Known(Mutex<HashMap<i64, Option<String>>>);

impl Known {
    pub fn takes_all(&self, posts: &[Post]) -> bool {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let takes = |post: &Post, id: i64| known.get(&id).is_some_and(|tenant| *tenant == post.tenant);
        posts.iter().all(|post| post.destinations().all(|id| takes(post, id)))
    }

    pub fn note(&self, post: &Post, taken: bool) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for id in post.destinations() {
            if !taken {
                known.remove(&id);
            } else if known.get(&id).is_none_or(|tenant| *tenant != post.tenant) {
                if known.len() >= MOST {
                    known.clear();
                }
                known.insert(id, post.tenant.clone());
            }
        }
    }
}
