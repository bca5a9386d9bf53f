//! How do the domain's names stand in JSON, in parameters and in the document?

use std::borrow::Cow;

use chrono::{DateTime, Utc};
use poem_openapi::registry::MetaSchema;
use poem_openapi::types::{ParseError, ParseFromJSON, ParseFromParameter, ParseResult, ToJSON};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use crate::domain::{DestinationId, DestinationState, MessageId, MessageState, OnExhausted, QueueState, WorkerId};

/// What poem-openapi asks of every type alike.
macro_rules! simple_type {
    ($type:ty, $name:expr, $schema:expr) => {
        impl poem_openapi::types::Type for $type {
            const IS_REQUIRED: bool = true;
            type RawValueType = Self;
            type RawElementValueType = Self;

            fn name() -> std::borrow::Cow<'static, str> {
                $name.into()
            }

            fn schema_ref() -> poem_openapi::registry::MetaSchemaRef {
                poem_openapi::registry::MetaSchemaRef::Inline(Box::new($schema))
            }

            fn as_raw_value(&self) -> Option<&Self> {
                Some(self)
            }

            fn raw_element_iter<'a>(&'a self) -> Box<dyn Iterator<Item = &'a Self> + 'a> {
                Box::new(std::iter::once(self))
            }
        }
    };
}
pub(super) use simple_type;

macro_rules! named {
    ($type:ident: $($name:literal),+) => {
        simple_type!($type, stringify!($type), MetaSchema {
            enum_items: vec![$(Value::from($name)),+],
            ..MetaSchema::new("string")
        });

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let name = Cow::<'de, str>::deserialize(deserializer)?;
                $type::from_name(&name).ok_or_else(|| D::Error::unknown_variant(&name, &[$($name),+]))
            }
        }

        impl ToJSON for $type {
            fn to_json(&self) -> Option<Value> {
                Some(Value::from(self.as_str()))
            }
        }

        impl ParseFromJSON for $type {
            fn parse_from_json(value: Option<Value>) -> ParseResult<Self> {
                let value = value.unwrap_or_default();
                let found = value.as_str().and_then($type::from_name);
                found.ok_or_else(|| ParseError::expected_type(value))
            }
        }

        impl ParseFromParameter for $type {
            fn parse_from_parameter(value: &str) -> ParseResult<Self> {
                $type::from_name(value).ok_or_else(|| ParseError::custom(concat!("must be one of: ", $($name, " "),+).trim_end()))
            }
        }
    };
}

named!(DestinationState: "active", "paused", "disabled");
named!(OnExhausted: "discard", "hold");
named!(QueueState: "idle", "delivering", "backoff", "held", "paused", "disabled");
named!(MessageState: "queued", "delivering", "retrying", "delivered", "expired", "exhausted", "skipped");

macro_rules! numbered {
    ($type:ident) => {
        simple_type!($type, stringify!($type), MetaSchema::new_with_format("integer", "int64"));

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_i64(self.0)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                i64::deserialize(deserializer).map($type)
            }
        }

        impl ToJSON for $type {
            fn to_json(&self) -> Option<Value> {
                Some(Value::from(self.0))
            }
        }

        impl ParseFromJSON for $type {
            fn parse_from_json(value: Option<Value>) -> ParseResult<Self> {
                i64::parse_from_json(value).map($type).map_err(ParseError::propagate)
            }
        }
    };
}

numbered!(DestinationId);
numbered!(WorkerId);

impl ParseFromParameter for DestinationId {
    fn parse_from_parameter(value: &str) -> ParseResult<Self> {
        value.parse().map_err(ParseError::custom)
    }
}

simple_type!(
    MessageId,
    "MessageId",
    MetaSchema { pattern: Some("^[1-9][0-9]*-[1-9][0-9]*$".to_owned()), ..MetaSchema::new("string") }
);

impl Serialize for MessageId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for MessageId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Cow::<'de, str>::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

impl ToJSON for MessageId {
    fn to_json(&self) -> Option<Value> {
        Some(Value::from(self.to_string()))
    }
}

impl ParseFromJSON for MessageId {
    fn parse_from_json(value: Option<Value>) -> ParseResult<Self> {
        String::parse_from_json(value).map_err(ParseError::propagate)?.parse().map_err(ParseError::custom)
    }
}

impl ParseFromParameter for MessageId {
    fn parse_from_parameter(value: &str) -> ParseResult<Self> {
        value.parse().map_err(ParseError::custom)
    }
}

/// RFC 3339 in UTC, with a Z. (poem-openapi's own form of a DateTime ends in +00:00.)
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(DateTime<Utc>);

simple_type!(Timestamp, "Timestamp", MetaSchema::new_with_format("string", "date-time"));

impl From<DateTime<Utc>> for Timestamp {
    fn from(at: DateTime<Utc>) -> Self {
        Timestamp(at)
    }
}

impl Timestamp {
    /// For the document.
    pub fn example(seconds: i64) -> Timestamp {
        let noon = DateTime::from_timestamp(1_767_268_800, 0).unwrap_or_default();
        Timestamp(noon + chrono::TimeDelta::seconds(seconds))
    }
}

impl ToJSON for Timestamp {
    fn to_json(&self) -> Option<Value> {
        serde_json::to_value(self.0).ok()
    }
}

impl ParseFromJSON for Timestamp {
    fn parse_from_json(value: Option<Value>) -> ParseResult<Self> {
        DateTime::parse_from_json(value).map(Timestamp).map_err(ParseError::propagate)
    }
}
