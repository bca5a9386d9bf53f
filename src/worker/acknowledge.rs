//! How do outcomes become final?
//!
//! All that came while a commit ran go into the next one, on the session whose locks make them valid. A
//! lane sends its next message only after its acknowledgement has committed (G2).

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::Lost;
use crate::store::StoreError;
use crate::store::session::{Acknowledgement, Session};

/// One commit takes at most so many: 2,400/s one by one, 18,000, 90,000 and 170,000 by 10, 100 and 500.
const BATCH: usize = 500;

struct Item {
    acknowledgement: Acknowledgement,
    committed: oneshot::Sender<()>,
}

#[derive(Clone)]
pub struct Acknowledger(mpsc::UnboundedSender<Item>);

impl Acknowledger {
    /// Ends when the last handle is gone and all is written, or when the session is lost.
    pub fn start(session: Arc<Session>, keep_payloads: bool, lost: CancellationToken) -> Acknowledger {
        let (sender, mut items) = mpsc::unbounded_channel::<Item>();
        tokio::spawn(async move {
            let mut batch = Vec::with_capacity(BATCH);
            while items.recv_many(&mut batch, BATCH).await > 0 {
                // Neighbours in the index of the log come one after the other; a lane has at most one outcome under way.
                batch.sort_by_key(|item| item.acknowledgement.destination);
                let (outcomes, waiting): (Vec<_>, Vec<_>) =
                    batch.drain(..).map(|item| (item.acknowledgement, item.committed)).unzip();
                let committed = tokio::select! {
                    committed = commit(&session, &outcomes, keep_payloads) => committed,
                    // Its locks go with it, and nobody may hold on to it.
                    () = lost.cancelled() => return,
                };
                if let Err(error) = committed {
                    tracing::warn!(
                        error = crate::store::chain(&error),
                        "outcomes could not be written; the session is given up"
                    );
                    lost.cancel();
                    return;
                }
                for committed in waiting {
                    let _ = committed.send(());
                }
            }
        });
        Acknowledger(sender)
    }

    /// Returns when it is committed. [`Lost`]: it is not known whether it was.
    pub async fn write(&self, acknowledgement: Acknowledgement) -> Result<(), Lost> {
        let (committed, done) = oneshot::channel();
        self.0.send(Item { acknowledgement, committed }).map_err(|_| Lost)?;
        done.await.map_err(|_| Lost)
    }
}

/// All at once; halves of what takes too long; else one by one, so that one that fails does not fail the others; that one
/// without the receiver's answer, so that nothing a receiver says can stop its queue. What passes (a full disk) is
/// waited out: the requests were made, and giving up would make them again.
async fn commit(session: &Session, items: &[Acknowledgement], keep: bool) -> Result<(), StoreError> {
    let Err(error) = patiently(session, items, keep, true).await else { return Ok(()) };
    if session.is_closed() {
        return Err(error);
    }
    if error.took_too_long() {
        tracing::warn!(outcomes = items.len(), "writing outcomes takes too long: half of them at a time");
        let (first, second) = items.split_at(items.len() / 2);
        Box::pin(commit(session, first, keep)).await?;
        return Box::pin(commit(session, second, keep)).await;
    }
    tracing::warn!(error = crate::store::chain(&error), outcomes = items.len(), "writing outcomes one by one");
    for item in items {
        let one = std::slice::from_ref(item);
        if patiently(session, one, keep, true).await.is_err() {
            patiently(session, one, keep, false).await?;
        }
    }
    Ok(())
}

async fn patiently(session: &Session, items: &[Acknowledgement], keep: bool, details: bool) -> Result<(), StoreError> {
    let mut pause = Duration::from_millis(20);
    loop {
        match session.acknowledge(items, keep, details).await {
            // One that takes too long may yet be written when there is less to do.
            Err(error) if error.took_too_long() && items.len() > 1 => return Err(error),
            Err(error) if error.is_passing() && !session.is_closed() => {
                tracing::warn!(error = crate::store::chain(&error), "outcomes cannot be written yet");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_secs(1));
            }
            other => return other,
        }
    }
}
