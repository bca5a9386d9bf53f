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

pub enum Order {
    Claim(DestinationId),
    Release(Release),
}

pub enum Report {
    Claimed(DestinationId, Claimed),
    /// The statement failed on a session that lives: it is tried again.
    ClaimFailed(DestinationId),
    /// There is no room for more locks in the cluster: a part of ours must go.
    OutOfLocks,
    Released(DestinationId),
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
        let mut claims = Vec::new();
        let mut releases = Vec::new();
        for order in batch.drain(..) {
            match order {
                Order::Claim(id) => claims.push(id.0),
                Order::Release(release) => releases.push(release),
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
        if claims.is_empty() {
            continue;
        }
        match session.claim(&claims).await {
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
                return lost.cancel();
            }
            Err(error) => {
                tracing::error!(
                    error = crate::store::chain(&error),
                    destinations = claims.len(),
                    "destinations could not be claimed"
                );
                // Locks survive an error: what it took before must not stay locked and served by nobody.
                match session.unlock_strays(&held.iter().copied().collect::<Vec<_>>()).await {
                    Ok(freed) if freed.is_empty() => {}
                    Ok(freed) => tracing::warn!(count = freed.len(), "unlocked what an error had left locked"),
                    Err(_) => return lost.cancel(),
                }
                if error.is_out_of_locks() {
                    let _ = reports.send(Report::OutOfLocks);
                }
                for id in claims {
                    let _ = reports.send(Report::ClaimFailed(DestinationId(id)));
                }
            }
        }
    }
}

/// Writes until it succeeded, and only then unlocks. False: the session is lost, and its locks with it.
async fn release(session: &Session, lanes: &[Release], reports: &mpsc::UnboundedSender<Report>) -> bool {
    let mut pause = Duration::from_millis(50);
    while let Err(error) = session.release(lanes, false).await {
        if session.is_closed() {
            return false;
        }
        tracing::warn!(error = crate::store::chain(&error), "a release could not be written yet");
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(2));
    }
    let ids: Vec<i64> = lanes.iter().map(|lane| lane.destination.0).collect();
    if session.unlock(&ids).await.is_err() {
        return false;
    }
    for lane in lanes {
        let _ = reports.send(Report::Released(lane.destination));
    }
    true
}
