//! Who takes and gives back destinations on the session?
//!
//! One task, one thing after the other: what is released and then claimed again is so in this order.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::domain::DestinationId;
use crate::store::session::{Claimed, Release, Session};

/// In one statement: a failed one is undone lock by lock.
const CLAIMS: usize = 100;

/// The session answers within so long, or leads nowhere: two statements that the server ends after 20 s each.
const ANSWER_WITHIN: Duration = Duration::from_secs(45);

pub enum Order {
    Claim(DestinationId),
    Release(Release),
    /// To list what the database says that this worker owns.
    List,
}

pub enum Report {
    Claimed(DestinationId, Claimed),
    /// The statement failed on a session that lives: it is tried again.
    ClaimFailed(DestinationId),
    /// There is no room for more locks in the cluster: a part of ours must go.
    OutOfLocks,
    Released(DestinationId),
    /// What this worker owns by the database. The claims and releases before it have been reported, and none is
    /// under way.
    Owned(Vec<DestinationId>),
}

pub async fn run(
    session: Arc<Session>,
    mut orders: mpsc::UnboundedReceiver<Order>,
    reports: mpsc::UnboundedSender<Report>,
    lost: CancellationToken,
) {
    let mut batch = Vec::new();
    // What is locked: all locks of destinations are taken and let go here.
    let mut held = HashSet::new();
    while orders.recv_many(&mut batch, CLAIMS).await > 0 {
        let (mut claims, mut releases, mut list) = (Vec::new(), Vec::new(), false);
        for order in batch.drain(..) {
            match order {
                Order::Claim(id) => claims.push(id.0),
                Order::Release(release) => releases.push(release),
                Order::List => list = true,
            }
        }
        if !releases.is_empty() {
            if !release(&session, &releases, &reports).await {
                return lost.cancel();
            }
            for release in &releases {
                held.remove(&release.destination.0);
            }
        }
        if !claims.is_empty() && !claim(&session, &claims, &mut held, &reports).await {
            return lost.cancel();
        }
        if list {
            match in_time(session.list_owned()).await {
                Some(Ok(owned)) => drop(reports.send(Report::Owned(owned))),
                Some(Err(error)) => {
                    tracing::debug!(error = crate::store::chain(&error), "could not list what is owned")
                }
                None => return lost.cancel(),
            }
        }
    }
}

/// A line that leads nowhere ends no statement: nothing else may be asked of it, and nobody else waits for it.
async fn in_time<T>(question: impl Future<Output = T>) -> Option<T> {
    let answer = tokio::time::timeout(ANSWER_WITHIN, question).await;
    answer.inspect_err(|_| tracing::warn!("the database does not answer: the session is given up")).ok()
}

/// All in one statement. False: the session is lost.
async fn claim(
    session: &Session,
    claims: &[i64],
    held: &mut HashSet<i64>,
    reports: &mpsc::UnboundedSender<Report>,
) -> bool {
    let Some(outcomes) = in_time(session.claim(claims)).await else { return false };
    match outcomes {
        Ok(outcomes) => {
            for (id, outcome) in outcomes {
                if matches!(outcome, Claimed::Lane(_) | Claimed::Unreadable) {
                    held.insert(id.0);
                }
                let _ = reports.send(Report::Claimed(id, outcome));
            }
        }
        Err(error) if session.is_closed() => {
            tracing::debug!(error = crate::store::chain(&error), "claiming on a broken session");
            return false;
        }
        Err(error) => {
            tracing::error!(
                error = crate::store::chain(&error),
                destinations = claims.len(),
                "destinations could not be claimed"
            );
            // Perhaps they were claimed, and only then was there an error: what is owned, others leave alone.
            let claimed: Vec<_> = claims.iter().map(|id| Release::nothing(DestinationId(*id))).collect();
            if in_time(session.release(&claimed, false)).await.is_none() {
                return false;
            }
            // Locks survive an error: what it took before must not stay locked and served by nobody.
            match in_time(session.unlock_strays(&held.iter().copied().collect::<Vec<_>>())).await {
                Some(Ok(freed)) if freed.is_empty() => {}
                Some(Ok(freed)) => tracing::warn!(count = freed.len(), "unlocked what an error had left locked"),
                Some(Err(_)) | None => return false,
            }
            if error.is_out_of_locks() {
                let _ = reports.send(Report::OutOfLocks);
            }
            for id in claims {
                let _ = reports.send(Report::ClaimFailed(DestinationId(*id)));
            }
        }
    }
    true
}

/// Writes until it succeeded, and only then unlocks. False: the session is lost, and its locks with it.
async fn release(session: &Session, lanes: &[Release], reports: &mpsc::UnboundedSender<Report>) -> bool {
    let mut pause = Duration::from_millis(50);
    loop {
        let error = match in_time(session.release(lanes, false)).await {
            Some(Ok(())) => break,
            Some(Err(error)) if !session.is_closed() => error,
            Some(Err(_)) | None => return false,
        };
        tracing::warn!(error = crate::store::chain(&error), "a release could not be written yet");
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(2));
    }
    let ids: Vec<i64> = lanes.iter().map(|lane| lane.destination.0).collect();
    if !matches!(in_time(session.unlock(&ids)).await, Some(Ok(()))) {
        return false;
    }
    for lane in lanes {
        let _ = reports.send(Report::Released(lane.destination));
    }
    true
}
