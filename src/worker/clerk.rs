//! Who takes and gives back destinations on the session?
//!
//! One task, one thing after the other: what is released and then claimed again is so in this order.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::domain::DestinationId;
use crate::store::session::{Claimed, Release, Session};

/// Locks survive an error; so many can be compared and undone.
const CLAIMS: usize = 100;

pub enum Order {
    Claim(DestinationId),
    Release(Release),
    /// Unlock all but these.
    UnlockStrays(Vec<DestinationId>),
}

pub enum Report {
    Claimed(DestinationId, Claimed),
    /// The statement failed on a session that lives: it is tried again.
    ClaimFailed(DestinationId),
    /// There is no room for more locks in the cluster: a part of ours must go.
    OutOfLocks,
    /// An error may have left locks behind that nobody knows of.
    Strays,
    Released(DestinationId),
}

pub async fn run(
    session: Arc<Session>,
    mut orders: mpsc::UnboundedReceiver<Order>,
    reports: mpsc::UnboundedSender<Report>,
    lost: CancellationToken,
) {
    let mut batch = Vec::new();
    while orders.recv_many(&mut batch, CLAIMS).await > 0 {
        let mut claims = Vec::new();
        let mut releases = Vec::new();
        let mut strays = None;
        for order in batch.drain(..) {
            match order {
                Order::Claim(id) => claims.push(id.0),
                Order::Release(release) => releases.push(release),
                Order::UnlockStrays(held) => strays = Some(held),
            }
        }
        if !releases.is_empty() && !release(&session, &releases, &reports).await {
            return lost.cancel();
        }
        if let Some(held) = strays {
            let held: Vec<i64> = held.iter().map(|id| id.0).collect();
            match session.unlock_strays(&held).await {
                Ok(freed) if freed.is_empty() => {}
                Ok(freed) => tracing::warn!(count = freed.len(), "unlocked what an error had left locked"),
                Err(_) => return lost.cancel(),
            }
        }
        if claims.is_empty() {
            continue;
        }
        match session.claim(&claims).await {
            Ok(outcomes) => {
                for (id, outcome) in outcomes {
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
                for id in claims {
                    let _ = reports.send(Report::ClaimFailed(DestinationId(id)));
                }
                // Also after another error locks may have been taken.
                let _ = reports.send(if error.is_out_of_locks() { Report::OutOfLocks } else { Report::Strays });
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
