//! How is a destination shown?

use poem_openapi::Object;
use poem_openapi::registry::MetaSchema;
use poem_openapi::types::{Example, ParseError, ParseFromJSON, ParseResult, ToJSON};
use serde::{Serialize, Serializer};
use serde_json::Value;

use crate::api::entries::{Entries, MASK};
use crate::api::names::{Timestamp, simple_type};
use crate::domain::{Destination, DestinationId, DestinationState, OnExhausted};

/// A registered URL and how it is delivered to
#[derive(Debug, Serialize, Object)]
#[oai(rename = "Destination", example)]
pub struct DestinationView {
    pub id: DestinationId,
    pub url: String,
    #[oai(nullable)]
    pub description: Option<String>,
    /// Their values are secrets, so all of them are `***`
    pub headers: Entries<String>,
    /// Changes by pause, resume, and a receiver's 410
    pub state: DestinationState,
    pub on_exhausted: OnExhausted,
    #[oai(nullable)]
    pub retry: Option<RetryView>,
    pub timeout_seconds: Number,
    #[oai(nullable)]
    pub max_per_second: Option<Number>,
    #[oai(nullable)]
    pub max_queue_depth: Option<i64>,
    /// Whether its requests carry a `v1` (HMAC) signature, too; the secret is shown when it is made, never again
    pub has_hmac_secret: bool,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

/// How often and how far apart a failing message is tried
#[derive(Debug, Serialize, Object)]
#[oai(rename = "Retry")]
pub struct RetryView {
    pub max_retries: u32,
    pub delay_seconds: Number,
    pub backoff: Number,
}

/// A number that shows without a fraction when it has none.
#[derive(Debug, Clone, Copy)]
pub struct Number(pub f64);

simple_type!(Number, "Number", MetaSchema::new_with_format("number", "double"));

impl Serialize for Number {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[expect(clippy::cast_possible_truncation, reason = "whole, and small enough to be exact")]
        if self.0.fract() == 0.0 && self.0.abs() < 9e15 {
            serializer.serialize_i64(self.0 as i64)
        } else {
            serializer.serialize_f64(self.0)
        }
    }
}

impl ToJSON for Number {
    fn to_json(&self) -> Option<Value> {
        serde_json::to_value(self).ok()
    }
}

impl ParseFromJSON for Number {
    fn parse_from_json(value: Option<Value>) -> ParseResult<Self> {
        f64::parse_from_json(value).map(Number).map_err(ParseError::propagate)
    }
}

impl From<Destination> for DestinationView {
    fn from(destination: Destination) -> Self {
        let settings = destination.settings;
        DestinationView {
            id: destination.id,
            url: settings.url,
            description: settings.description,
            headers: Entries::masked(&settings.headers),
            state: destination.state,
            on_exhausted: settings.on_exhausted,
            retry: settings.retry.map(|retry| RetryView {
                max_retries: retry.max_retries,
                delay_seconds: Number(retry.delay.as_secs_f64()),
                backoff: Number(retry.backoff),
            }),
            timeout_seconds: Number(settings.timeout.as_secs_f64()),
            max_per_second: settings.max_per_second.map(Number),
            max_queue_depth: settings.max_queue_depth,
            has_hmac_secret: destination.has_hmac_secret,
            created_at: destination.created_at.into(),
            updated_at: destination.updated_at.into(),
        }
    }
}

impl Example for DestinationView {
    fn example() -> Self {
        DestinationView {
            id: DestinationId(42),
            url: "https://example.com/hooks".to_owned(),
            description: Some("Orders of the shop".to_owned()),
            headers: Entries(vec![("X-Key".to_owned(), MASK.to_owned())]),
            state: DestinationState::Active,
            on_exhausted: OnExhausted::Hold,
            retry: Some(RetryView { max_retries: 5, delay_seconds: Number(2.0), backoff: Number(2.0) }),
            timeout_seconds: Number(30.0),
            max_per_second: None,
            max_queue_depth: None,
            has_hmac_secret: false,
            created_at: Timestamp::example(0),
            updated_at: Timestamp::example(0),
        }
    }
}
