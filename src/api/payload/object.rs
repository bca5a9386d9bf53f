//! How is an array kept from passing for an object?
//!
//! A structure that serde derives reads from a JSON array, too, its members by their place: `["http://…"]`
//! would register a destination.

use std::fmt;
use std::marker::PhantomData;

use serde::Deserializer;
use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};

/// Gives a type, whose derive says `#[serde(remote = "Self")]`, its `Deserialize`: from objects alone.
macro_rules! only_an_object {
    ($($type:ident),+) => {$(
        impl $crate::api::payload::object::FromMembers for $type {
            fn from_members<'de, D: serde::Deserializer<'de>>(members: D) -> Result<Self, D::Error> {
                $type::deserialize(members)
            }
        }

        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                $crate::api::payload::object::from_object(deserializer)
            }
        }
    )+};
}
pub(crate) use only_an_object;

/// What the derive makes.
pub trait FromMembers: Sized {
    fn from_members<'de, D: Deserializer<'de>>(members: D) -> Result<Self, D::Error>;
}

pub fn from_object<'de, D: Deserializer<'de>, T: FromMembers>(deserializer: D) -> Result<T, D::Error> {
    struct Object<T>(PhantomData<T>);

    impl<'de, T: FromMembers> Visitor<'de> for Object<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, members: A) -> Result<T, A::Error> {
            T::from_members(MapAccessDeserializer::new(members))
        }
    }

    deserializer.deserialize_map(Object(PhantomData))
}
