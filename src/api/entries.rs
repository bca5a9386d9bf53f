//! How does a set of headers come in, and how is it shown?

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use poem_openapi::registry::{MetaSchema, MetaSchemaRef, Registry};
use poem_openapi::types::{ParseError, ParseFromJSON, ParseResult, ToJSON, Type};
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use super::payload::escape;
use super::problem::Fault;
use crate::domain::{HeaderError, Headers};

/// Shown instead of a value that is a secret; and in a change: the value that is stored.
pub const MASK: &str = "***";

/// A JSON object's members in their order. A map would keep the last of two equal names and say nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Entries<V>(pub Vec<(String, V)>);

impl Entries<String> {
    /// With their values, in the order of their names.
    pub fn shown(headers: &Headers) -> Self {
        Entries(headers.iter_as_written().map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
    }

    /// With their names alone.
    pub fn masked(headers: &Headers) -> Self {
        Entries(headers.iter_as_written().map(|(name, _)| (name.to_owned(), MASK.to_owned())).collect())
    }
}

/// Checks a set of headers; `pointer` is to the object they came in.
pub fn parse_headers(entries: Vec<(String, String)>, pointer: &str) -> Result<Headers, Fault> {
    Headers::parse(entries).map_err(|error| {
        let name = match &error {
            HeaderError::Name(name)
            | HeaderError::Reserved(name)
            | HeaderError::Twice(name)
            | HeaderError::Value(name) => Some(name),
            HeaderError::TooMany => None,
        };
        let pointer = name.map_or(pointer.to_owned(), |name| format!("{pointer}/{}", escape(name)));
        Fault::new(pointer, error.to_string())
    })
}

impl<'de, V: Deserialize<'de>> Deserialize<'de> for Entries<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members<V>(PhantomData<V>);

        impl<'de, V: Deserialize<'de>> Visitor<'de> for Members<V> {
            type Value = Entries<V>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries<V>, A::Error> {
                let mut members: Vec<(String, V)> = Vec::new();
                while let Some((name, value)) = map.next_entry::<String, V>()? {
                    // As many as fit in 16 KiB of headers many times over: what comes is bounded here, so that
                    // looking for equal names is, too.
                    if members.len() >= 256 {
                        return Err(A::Error::custom("there are too many members"));
                    }
                    if members.iter().any(|(other, _)| other.eq_ignore_ascii_case(&name)) {
                        return Err(A::Error::custom(format_args!("`{name}` stands twice")));
                    }
                    members.push((name, value));
                }
                Ok(Entries(members))
            }
        }

        deserializer.deserialize_map(Members(PhantomData))
    }
}

impl<V: Serialize> Serialize for Entries<V> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

impl<V: Type> Type for Entries<V> {
    const IS_REQUIRED: bool = true;
    type RawValueType = Self;
    type RawElementValueType = V;

    fn name() -> Cow<'static, str> {
        format!("headers_{}", V::name()).into()
    }

    fn schema_ref() -> MetaSchemaRef {
        let nullable = MetaSchema { nullable: !V::IS_REQUIRED, ..MetaSchema::ANY };
        MetaSchemaRef::Inline(Box::new(MetaSchema {
            additional_properties: Some(Box::new(V::schema_ref().merge(nullable))),
            ..MetaSchema::new("object")
        }))
    }

    fn register(registry: &mut Registry) {
        V::register(registry);
    }

    fn as_raw_value(&self) -> Option<&Self> {
        Some(self)
    }

    fn raw_element_iter<'a>(&'a self) -> Box<dyn Iterator<Item = &'a V> + 'a> {
        Box::new(self.0.iter().map(|(_, value)| value))
    }
}

impl<V: ToJSON> ToJSON for Entries<V> {
    fn to_json(&self) -> Option<Value> {
        let members = self.0.iter().map(|(name, value)| (name.clone(), value.to_json().unwrap_or_default()));
        Some(Value::Object(members.collect()))
    }
}

impl<V: ParseFromJSON> ParseFromJSON for Entries<V> {
    fn parse_from_json(value: Option<Value>) -> ParseResult<Self> {
        let Some(Value::Object(members)) = value else { return Err(ParseError::expected_input()) };
        let mut entries = Vec::with_capacity(members.len());
        for (name, value) in members {
            entries.push((name, V::parse_from_json(Some(value)).map_err(ParseError::propagate)?));
        }
        Ok(Entries(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stand_once() {
        let read = |json: &str| serde_json::from_str::<Entries<String>>(json);
        assert_eq!(read(r#"{"b":"1","a":"2"}"#).expect("good").0[0].0, "b");
        for bad in [r#"{"a":"1","A":"2"}"#, r#"{"a":"1","a":"1"}"#, r#"{"a":1}"#, r#"{"a":null}"#, "[]", "null"] {
            assert!(read(bad).is_err(), "{bad}");
        }
        let many: Vec<String> = (0..300).map(|n| format!("\"n{n}\":\"\"")).collect();
        assert!(read(&format!("{{{}}}", many.join(","))).is_err());
    }

    #[test]
    fn a_wrong_header_is_pointed_at() {
        let fault = |name: &str, value: &str| {
            parse_headers(vec![(name.to_owned(), value.to_owned())], "/headers").expect_err(name).pointer
        };
        assert_eq!(fault("Webhook-Id", "x"), "/headers/Webhook-Id");
        assert_eq!(fault("a/b", "x"), "/headers/a~1b");
        assert_eq!(fault("x", "\0"), "/headers/x");
    }
}
