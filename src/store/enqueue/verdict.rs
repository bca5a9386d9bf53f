//! What became of a request, by what the database answers of its messages?

use chrono::{DateTime, Utc};

use super::{Answer, EnqueueError, Queued, Rejection};
use crate::domain::{MessageId, NewMessage, Sequence};
use crate::store::StoreError;

/// A request's end, or the destination whose lock it has to wait for.
pub(super) enum Verdict {
    Ended(Answer),
    Locked(i64),
}

/// One item's part of what the functions answer; the place is there if it was queued.
pub(super) struct Item<'a> {
    pub status: &'a str,
    pub sequence: Option<i64>,
    pub created_at: Option<DateTime<Utc>>,
    pub expires_at: Option<DateTime<Utc>>,
}

/// What became of one request's items.
pub(super) fn judge<'a>(messages: &[NewMessage], items: impl Iterator<Item = Item<'a>>) -> Verdict {
    let rejected = |index, reason| Verdict::Ended(Err(EnqueueError::Rejected { index, reason }));
    let corrupt = |text: String| Verdict::Ended(Err(StoreError::Corrupt(text).into()));
    let mut queued = Vec::with_capacity(messages.len());
    let mut locked = None;
    for (index, item) in items.enumerate() {
        match item.status {
            "queued" => {
                let (Some(message), Some(sequence), Some(created_at), Some(expires_at)) =
                    (messages.get(index), item.sequence, item.created_at, item.expires_at)
                else {
                    return corrupt("a message was queued nowhere".to_owned());
                };
                let id = MessageId { destination: message.destination, sequence: Sequence(sequence) };
                queued.push(Queued { id, created_at, expires_at });
            }
            "unknown" => return rejected(index, Rejection::UnknownDestination),
            "disabled" => return rejected(index, Rejection::Disabled),
            "full" => return rejected(index, Rejection::Full),
            "reused" => return Verdict::Ended(Err(EnqueueError::KeyReused)),
            "locked" => locked = locked.or(messages.get(index).map(|message| message.destination.0)),
            "withheld" => {}
            other => return corrupt(format!("enqueue answered {other:?}")),
        }
    }
    match locked {
        Some(destination) => Verdict::Locked(destination),
        None if queued.len() == messages.len() => Verdict::Ended(Ok(queued)),
        None => corrupt(format!("{} of {} messages were answered", queued.len(), messages.len())),
    }
}
