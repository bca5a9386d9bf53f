//! How is a request under an idempotency key carried out once?
//!
//! Twins at the same moment share one answer: within a process the first is written and the others wait for it,
//! without a connection; from another process a twin finds the key's lock taken, and is tried again.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio_postgres::types::Type;

use super::apart::{Apart, FIRST_PAUSE, LONGEST_PAUSE};
use super::verdict::{Item, Verdict, judge};
use super::{Answer, Columns, EnqueueError, Post, Writer};
use crate::store::StoreError;

/// A client hears within 5 s that its twin in another process has not ended.
const TWIN_PATIENCE: Duration = Duration::from_secs(4);

/// Tenant, path and key.
type Name = (Option<String>, String, String);

/// The requests under way, each with its twins that came meanwhile.
#[derive(Default)]
pub(super) struct Twins(Mutex<HashMap<Name, Vec<Post>>>);

impl Twins {
    /// The post, if it is the first under its key.
    fn begin(&self, post: Post) -> Option<Post> {
        let name = name_of(&post)?;
        match self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(name) {
            Entry::Occupied(mut twins) => {
                twins.get_mut().push(post);
                None
            }
            Entry::Vacant(entry) => {
                entry.insert(Vec::new());
                Some(post)
            }
        }
    }

    fn end(&self, post: &Post) -> Vec<Post> {
        let mut twins = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        name_of(post).and_then(|name| twins.remove(&name)).unwrap_or_default()
    }
}

fn name_of(post: &Post) -> Option<Name> {
    post.key.as_ref().map(|key| (post.tenant.clone(), key.path.clone(), key.key.clone()))
}

fn hash_of(post: &Post) -> Option<&[u8]> {
    post.key.as_ref().map(|key| key.body_hash.as_slice())
}

/// How one try of a request went.
enum Try {
    Judged(Verdict),
    /// A twin in another process is at it.
    Twin,
}

impl Writer {
    /// Answers it, when it has ended.
    pub(super) fn begin_once(self: &Arc<Self>, post: Post) {
        if let Some(first) = self.twins.begin(post) {
            tokio::spawn(carry_out(self.clone(), first));
        }
    }

    /// Writes it on behalf of the task that looks after a destination; gives it back if that is still locked.
    pub(super) async fn write_once(self: &Arc<Self>, post: Post, apart: Option<Apart>) -> Option<Post> {
        match self.try_once(&post, apart.and_then(Apart::wait_for)).await {
            Try::Twin => drop(tokio::spawn(carry_out(self.clone(), post))),
            Try::Judged(Verdict::Ended(answer)) => self.end_once(post, answer),
            Try::Judged(Verdict::Locked(destination)) if Apart::is_about(apart, destination) => return Some(post),
            Try::Judged(Verdict::Locked(destination)) => self.wait_apart(destination, post),
        }
        None
    }

    /// Rings, and answers it and its twins. Those with another body are carried out after it.
    pub(super) fn end_once(self: &Arc<Self>, post: Post, answer: Answer) {
        let destinations = || post.destinations();
        match &answer {
            Ok(queued) => {
                self.accepted.fetch_add(queued.len() as u64, Ordering::Relaxed);
                self.bell.ring(destinations());
            }
            // Perhaps it was committed.
            Err(EnqueueError::Store(StoreError::Unreachable(_))) => self.bell.ring_for_a_while(destinations()),
            Err(_) => {}
        }
        for twin in self.twins.end(&post) {
            if hash_of(&twin) == hash_of(&post) {
                twin.answer(share(&answer));
            } else {
                self.begin_once(twin);
            }
        }
        post.answer(answer);
    }

    async fn try_once(&self, post: &Post, wait_for: Option<i64>) -> Try {
        let key = post.key.as_ref().expect("only posts with a key come here");
        let columns = Columns::of([post.messages.as_slice()]);
        let rows = self
            .store
            .query(
                "select status, sequence, created_at, expires_at
                 from orderly.enqueue_once($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
                &[
                    (&post.tenant, Type::TEXT),
                    (&key.path, Type::TEXT),
                    (&key.key, Type::TEXT),
                    (&key.body_hash, Type::BYTEA),
                    (&columns.destinations, Type::INT8_ARRAY),
                    (&columns.payloads, Type::BYTEA_ARRAY),
                    (&columns.content_types, Type::TEXT_ARRAY),
                    (&columns.headers, Type::TEXT_ARRAY),
                    (&columns.ttls, Type::INT4_ARRAY),
                    (&wait_for, Type::INT8),
                ],
            )
            .await;
        match (rows, wait_for) {
            (Ok(rows), _) if rows.first().is_some_and(|row| row.get::<_, &str>(0) == "twin") => Try::Twin,
            (Ok(rows), _) => Try::Judged(judge(
                &post.messages,
                rows.iter().map(|row| Item {
                    status: row.get(0),
                    sequence: row.get(1),
                    created_at: row.get(2),
                    expires_at: row.get(3),
                }),
            )),
            (Err(StoreError::Busy(_)), Some(destination)) => Try::Judged(Verdict::Locked(destination)),
            (Err(error), _) => Try::Judged(Verdict::Ended(Err(error.into()))),
        }
    }
}

async fn carry_out(writer: Arc<Writer>, post: Post) {
    let mut pause = FIRST_PAUSE;
    loop {
        match writer.try_once(&post, None).await {
            Try::Judged(Verdict::Ended(answer)) => return writer.end_once(post, answer),
            Try::Judged(Verdict::Locked(destination)) => return writer.wait_apart(destination, post),
            Try::Twin if post.since.elapsed() >= TWIN_PATIENCE => {
                let held = StoreError::Held("the same request, under the same Idempotency-Key, is still under way");
                return writer.end_once(post, Err(held.into()));
            }
            Try::Twin => {}
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// What a twin hears. Where the database failed the first, the other may try again.
fn share(answer: &Answer) -> Answer {
    match answer {
        Ok(queued) => Ok(queued.clone()),
        Err(EnqueueError::Rejected { index, reason }) => Err(EnqueueError::Rejected { index: *index, reason: *reason }),
        Err(EnqueueError::KeyReused) => Err(EnqueueError::KeyReused),
        Err(EnqueueError::Store(StoreError::Held(by))) => Err(EnqueueError::Store(StoreError::Held(by))),
        Err(EnqueueError::Store(error)) => {
            Err(EnqueueError::Store(StoreError::Unreachable(crate::store::chain(error).into())))
        }
    }
}
