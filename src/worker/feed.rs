//! How do lanes get their messages?
//!
//! Each asks for a few at a time; what many ask for while a query runs is read by the next one.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::Lost;
use crate::domain::{DestinationId, Message, Sequence};
use crate::store::session::{BESIDE_PAYLOAD, Place, Session};

/// Messages a lane reads ahead, at most.
const MESSAGES: i64 = 32;
/// What all lanes together may have read ahead, and the bounds of each one's share of it.
const BYTES: usize = 24 << 20;
const SHARE: std::ops::RangeInclusive<usize> = 2 << 10..=1 << 20;
/// Wants in one query.
const WANTS: usize = 256;

pub struct Ahead {
    pub message: Message,
    pub expires_at: Instant,
    pub place: Place,
}

/// The oldest messages of a queue above a sequence.
#[derive(Default)]
pub struct Reading {
    pub messages: Vec<Ahead>,
    /// There were no others when this was read.
    pub complete: bool,
}

struct Want {
    destination: DestinationId,
    above: Sequence,
    answer: oneshot::Sender<Reading>,
}

#[derive(Clone)]
pub struct Feed(mpsc::UnboundedSender<Want>);

impl Feed {
    /// Ends with the last handle, or when the session does not answer.
    pub fn start(session: Arc<Session>, lanes: impl Fn() -> usize + Send + 'static) -> Feed {
        let (sender, mut wants) = mpsc::unbounded_channel::<Want>();
        tokio::spawn(async move {
            let mut batch = Vec::new();
            while wants.recv_many(&mut batch, WANTS).await > 0 {
                let asked: Vec<_> = batch.iter().map(|want| (want.destination, want.above)).collect();
                let share = (BYTES / lanes().max(1)).clamp(*SHARE.start(), *SHARE.end());
                let share_bytes = i64::try_from(share).unwrap_or(i64::MAX);
                let read = match session.patiently(|| session.read_ahead(&asked, MESSAGES, share_bytes)).await {
                    Ok(read) => read,
                    Err(error) => {
                        tracing::warn!(error = crate::store::chain(&error), "messages could not be read");
                        return;
                    }
                };
                let now = Instant::now();
                let mut answers: Vec<Vec<Ahead>> = batch.iter().map(|_| Vec::new()).collect();
                for row in read {
                    let left = std::time::Duration::from_millis(row.expires_in_ms.max(0).unsigned_abs());
                    answers[row.want].push(Ahead { message: row.message, expires_at: now + left, place: row.place });
                }
                for (want, mut messages) in batch.drain(..).zip(answers) {
                    // The join promises no order between rows.
                    messages.sort_by_key(|ahead| ahead.message.sequence);
                    // Whatever else there was would have been within both bounds.
                    let bytes: usize = messages.iter().map(|ahead| ahead.message.payload.len() + BESIDE_PAYLOAD).sum();
                    let complete = i64::try_from(messages.len()).is_ok_and(|count| count < MESSAGES) && bytes < share;
                    let _ = want.answer.send(Reading { messages, complete });
                }
            }
        });
        Feed(sender)
    }

    /// As of when this was asked, or later.
    pub async fn read(&self, destination: DestinationId, above: Sequence) -> Result<Reading, Lost> {
        let (answer, answered) = oneshot::channel();
        self.0.send(Want { destination, above, answer }).map_err(|_| Lost)?;
        answered.await.map_err(|_| Lost)
    }
}
