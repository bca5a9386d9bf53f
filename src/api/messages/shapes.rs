//! What does a message look like when it comes in, when it is queued, and when it is shown?

use std::fmt;

use poem_openapi::Object;
use poem_openapi::types::Example;
use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::api::content::{DEFAULT_CONTENT_TYPE, RawJson, Shown, encode, show};
use crate::api::entries::{Entries, parse_headers};
use crate::api::names::Timestamp;
use crate::api::payload::{RequestShape, given, only_an_object};
use crate::api::problem::Problem;
use crate::domain::{DestinationId, Headers, MAX_TTL_SECONDS, MessageId, MessageState, NewMessage, Sequence};
use crate::store::enqueue::Queued;
use crate::store::messages::MessageView;

const MAX_BATCH: usize = 1000;

/// A message to be queued. Either `payload` or `payload_base64` is required.
#[derive(Debug, Deserialize, Object)]
#[serde(remote = "Self", deny_unknown_fields)]
#[oai(rename = "NewMessage", deny_unknown_fields, example)]
pub struct MessageIn {
    pub destination_id: i64,
    /// Any JSON value. With a JSON content type the receiver gets it byte for byte as it stands here; with any
    /// other it is a string, sent as UTF-8. At most 1 MiB.
    #[serde(default, deserialize_with = "given")]
    #[oai(skip_serializing_if_is_none)]
    pub payload: Option<RawJson>,
    /// Instead of `payload`: bytes, in standard base64. At most 1 MiB of them.
    #[serde(default, deserialize_with = "given")]
    #[oai(skip_serializing_if_is_none)]
    pub payload_base64: Option<String>,
    #[serde(default, deserialize_with = "given")]
    #[oai(default = "default_content_type", validator(max_length = 255))]
    pub content_type: Option<String>,
    /// Sent with it; they win over the destination's
    #[serde(default, deserialize_with = "given")]
    #[oai(skip_serializing_if_is_none)]
    pub headers: Option<Entries<String>>,
    /// Undelivered for so long, it ends as expired
    #[serde(default, deserialize_with = "given")]
    #[oai(default = "default_ttl", validator(minimum(value = "1"), maximum(value = "86400")))]
    pub ttl_seconds: Option<i64>,
}

/// Messages to be queued, all or none
#[derive(Debug, Deserialize, Object)]
#[serde(remote = "Self", deny_unknown_fields)]
#[oai(rename = "NewMessages", deny_unknown_fields, example)]
pub struct MessagesIn {
    #[serde(deserialize_with = "at_most_a_batch")]
    #[oai(validator(min_items = 1, max_items = 1000))]
    pub messages: Vec<MessageIn>,
}

fn default_content_type() -> Option<String> {
    Some(DEFAULT_CONTENT_TYPE.to_owned())
}

fn default_ttl() -> Option<i64> {
    Some(MAX_TTL_SECONDS.into())
}

only_an_object!(MessageIn, MessagesIn);

impl RequestShape for MessageIn {}
impl RequestShape for MessagesIn {}

impl Example for MessageIn {
    fn example() -> Self {
        MessageIn {
            destination_id: 42,
            payload: serde_json::from_str(r#"{"order": 1017, "state": "paid"}"#).ok(),
            payload_base64: None,
            content_type: default_content_type(),
            headers: None,
            ttl_seconds: default_ttl(),
        }
    }
}

impl Example for MessagesIn {
    fn example() -> Self {
        MessagesIn { messages: vec![MessageIn::example()] }
    }
}

impl MessageIn {
    /// What can be told without the database. `within` is the pointer to it.
    pub fn check(self, within: &str) -> Result<NewMessage, Problem> {
        let content_type = self.content_type.unwrap_or_else(|| DEFAULT_CONTENT_TYPE.to_owned());
        let headers = match self.headers {
            None => Headers::default(),
            Some(Entries(entries)) => {
                parse_headers(entries, &format!("{within}/headers")).map_err(|fault| Problem::wrong(vec![fault]))?
            }
        };
        let ttl_seconds = match self.ttl_seconds {
            None => MAX_TTL_SECONDS,
            Some(given) => i32::try_from(given)
                .ok()
                .filter(|ttl| (1..=MAX_TTL_SECONDS).contains(ttl))
                .ok_or_else(|| Problem::wrong_at(format!("{within}/ttl_seconds"), "it must be between 1 and 86400"))?,
        };
        let payload = encode(self.payload, self.payload_base64.as_deref(), &content_type)
            .map_err(|error| error.into_problem(within))?;
        Ok(NewMessage { destination: DestinationId(self.destination_id), payload, content_type, headers, ttl_seconds })
    }
}

impl MessagesIn {
    pub fn check(self) -> Result<Vec<NewMessage>, Problem> {
        if self.messages.is_empty() {
            return Err(Problem::wrong_at("/messages", "there must be at least one"));
        }
        (0..).zip(self.messages).map(|(index, message)| message.check(&format!("/messages/{index}"))).collect()
    }
}

/// Stops at the first message too many: 16 MiB hold half a million small ones.
fn at_most_a_batch<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<MessageIn>, D::Error> {
    struct Batch;

    impl<'de> Visitor<'de> for Batch {
        type Value = Vec<MessageIn>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an array of 1 to 1000 messages")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
            let mut messages = Vec::new();
            while let Some(message) = items.next_element()? {
                if messages.len() == MAX_BATCH {
                    return Err(A::Error::custom("there must be at most 1000"));
                }
                messages.push(message);
            }
            Ok(messages)
        }
    }

    deserializer.deserialize_seq(Batch)
}

/// A message's place in its queue
#[derive(Debug, Serialize, Object)]
#[oai(rename = "QueuedMessage", example)]
pub struct MessageQueued {
    /// `<destination_id>-<sequence>`, the same on every try
    pub id: MessageId,
    pub destination_id: DestinationId,
    /// Rises within a destination in the order in which messages were accepted, with gaps
    pub sequence: i64,
    pub created_at: Timestamp,
    /// Undelivered by then, it ends as expired
    pub expires_at: Timestamp,
    /// The dead letter that it was made of
    #[serde(skip_serializing_if = "Option::is_none")]
    #[oai(skip_serializing_if_is_none)]
    pub redriven_from: Option<MessageId>,
}

/// In the order in which they were given
#[derive(Debug, Serialize, Object)]
#[oai(rename = "QueuedMessages", example)]
pub struct MessagesQueued {
    pub data: Vec<MessageQueued>,
}

impl From<Queued> for MessageQueued {
    fn from(queued: Queued) -> Self {
        MessageQueued {
            id: queued.id,
            destination_id: queued.id.destination,
            sequence: queued.id.sequence.0,
            created_at: queued.created_at.into(),
            expires_at: queued.expires_at.into(),
            redriven_from: None,
        }
    }
}

impl Example for MessageQueued {
    fn example() -> Self {
        let id = example_id();
        MessageQueued {
            id,
            destination_id: id.destination,
            sequence: id.sequence.0,
            created_at: Timestamp::example(0),
            expires_at: Timestamp::example(86_400),
            redriven_from: None,
        }
    }
}

impl Example for MessagesQueued {
    fn example() -> Self {
        MessagesQueued { data: vec![MessageQueued::example()] }
    }
}

pub fn example_id() -> MessageId {
    MessageId { destination: DestinationId(42), sequence: Sequence(1017) }
}

/// A message, where it is in its life, and what it carries
#[derive(Debug, Serialize, Object)]
#[oai(rename = "Message", example)]
pub struct MessageDocument {
    pub id: MessageId,
    pub destination_id: DestinationId,
    pub sequence: i64,
    pub state: MessageState,
    /// Tries so far
    pub attempts: i32,
    /// What went wrong last, while it is retried or was given up on
    #[oai(nullable)]
    pub last_error: Option<String>,
    /// null, as what it carries is left out, once it is delivered and only its attempts are kept
    #[oai(nullable)]
    pub created_at: Option<Timestamp>,
    #[oai(nullable)]
    pub expires_at: Option<Timestamp>,
    #[oai(nullable)]
    pub content_type: Option<String>,
    #[oai(nullable)]
    pub headers: Option<Entries<String>>,
    /// The message that this one repeats
    #[serde(skip_serializing_if = "Option::is_none")]
    #[oai(skip_serializing_if_is_none)]
    pub replay_of: Option<MessageId>,
    /// JSON as it stands, or a text; not in lists
    #[serde(skip_serializing_if = "Option::is_none")]
    #[oai(skip_serializing_if_is_none)]
    pub payload: Option<RawJson>,
    /// Instead of `payload`, what that could not say exactly
    #[serde(skip_serializing_if = "Option::is_none")]
    #[oai(skip_serializing_if_is_none)]
    pub payload_base64: Option<String>,
}

impl From<MessageView> for MessageDocument {
    fn from(view: MessageView) -> Self {
        let shown = match (&view.payload, &view.content_type) {
            (Some(bytes), Some(content_type)) => Some(show(bytes, content_type)),
            _ => None,
        };
        let (payload, payload_base64) = split(shown);
        MessageDocument {
            id: view.id,
            destination_id: view.id.destination,
            sequence: view.id.sequence.0,
            state: view.state,
            attempts: view.attempts,
            last_error: view.last_error,
            created_at: view.created_at.map(Timestamp::from),
            expires_at: view.expires_at.map(Timestamp::from),
            content_type: view.content_type,
            headers: view.headers.as_ref().map(Entries::shown),
            replay_of: view.replay_of.map(|sequence| MessageId { sequence, ..view.id }),
            payload,
            payload_base64,
        }
    }
}

/// Into the two fields, one of which is left out.
pub fn split(shown: Option<Shown>) -> (Option<RawJson>, Option<String>) {
    match shown {
        None => (None, None),
        Some(Shown::Payload(json)) => (Some(json), None),
        Some(Shown::Base64(text)) => (None, Some(text)),
    }
}

impl Example for MessageDocument {
    fn example() -> Self {
        let id = example_id();
        MessageDocument {
            id,
            destination_id: id.destination,
            sequence: id.sequence.0,
            state: MessageState::Queued,
            attempts: 0,
            last_error: None,
            created_at: Some(Timestamp::example(0)),
            expires_at: Some(Timestamp::example(86_400)),
            content_type: default_content_type(),
            headers: Some(Entries::default()),
            replay_of: None,
            payload: serde_json::from_str(r#"{"order": 1017, "state": "paid"}"#).ok(),
            payload_base64: None,
        }
    }
}
