//! Where does the next page of a list begin?
//!
//! A cursor is the key of the last thing that was shown: whatever comes and goes meanwhile, nothing that
//! stays is shown twice or left out.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use poem_openapi::types::{ParseFromJSON, ToJSON, Type};
use poem_openapi::{Object, types::Example};
use serde::Serialize;

use super::problem::Problem;

pub const DEFAULT_LIMIT: u16 = 50;

/// The first byte of a cursor; another meaning of what follows gets another one.
const VERSION: u8 = 1;

pub fn default_limit() -> u16 {
    DEFAULT_LIMIT
}

/// A page of a list.
#[derive(Debug, Serialize, Object)]
#[oai(example)]
pub struct Page<T: Type + ParseFromJSON + ToJSON + Send + Sync + Example> {
    pub data: Vec<T>,
    /// For `after`; null on the last page
    #[oai(nullable)]
    pub next: Option<String>,
}

impl<T: Type + ParseFromJSON + ToJSON + Send + Sync + Example> Example for Page<T> {
    fn example() -> Self {
        Page { data: vec![T::example()], next: None }
    }
}

/// Which list a cursor belongs to: it means nothing to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum List {
    Destinations,
    Messages,
    DeadLetters,
    Attempts,
    Workers,
}

impl List {
    fn tag(self) -> u8 {
        match self {
            List::Destinations => b'd',
            List::Messages => b'm',
            List::DeadLetters => b'l',
            List::Attempts => b'a',
            List::Workers => b'w',
        }
    }
}

/// The keys after which a page begins: none is before everything.
pub fn parse_cursor<const N: usize>(list: List, after: Option<&str>) -> Result<[i64; N], Problem> {
    let Some(text) = after else { return Ok([0; N]) };
    decode(list, text).ok_or_else(|| {
        Problem::new(
            poem::http::StatusCode::UNPROCESSABLE_ENTITY,
            "`after` must be the `next` of an earlier page of this list",
        )
    })
}

fn decode<const N: usize>(list: List, text: &str) -> Option<[i64; N]> {
    if text.len() > 64 {
        return None;
    }
    let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
    let keys = bytes.strip_prefix(&[VERSION, list.tag()])?;
    if keys.len() != N * 8 {
        return None;
    }
    let mut decoded = [0; N];
    for (key, bytes) in decoded.iter_mut().zip(keys.as_chunks().0) {
        *key = i64::from_be_bytes(*bytes);
        if *key < 1 {
            return None;
        }
    }
    Some(decoded)
}

pub(super) fn encode(list: List, keys: &[i64]) -> String {
    let mut bytes = vec![VERSION, list.tag()];
    bytes.extend(keys.iter().flat_map(|key| key.to_be_bytes()));
    URL_SAFE_NO_PAD.encode(bytes)
}

/// One row more than `limit` was asked for: it tells whether there is another page, and is not shown.
pub fn page<R, T, const N: usize>(
    list: List,
    mut rows: Vec<R>,
    limit: u16,
    key: impl Fn(&R) -> [i64; N],
    show: impl Fn(R) -> T,
) -> Page<T>
where
    T: Type + ParseFromJSON + ToJSON + Send + Sync + Example,
{
    let more = rows.len() > usize::from(limit);
    rows.truncate(usize::from(limit));
    let next = rows.last().filter(|_| more).map(|row| encode(list, &key(row)));
    Page { data: rows.into_iter().map(show).collect(), next }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_the_key_it_was_made_of() {
        let text = encode(List::Messages, &[42, i64::MAX]);
        assert!(text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-'), "{text}");
        assert_eq!(decode(List::Messages, &text), Some([42, i64::MAX]));
    }

    #[test]
    fn what_was_made_up_is_no_cursor() {
        let good = encode(List::Messages, &[42, 1017]);
        for made_up in
            ["", "x", "null", "AAAA", "42-1017", "=", "ä", &good[1..], &format!("{good}A"), &"A".repeat(10_000)]
        {
            assert_eq!(decode::<2>(List::Messages, made_up), None, "{made_up}");
        }
        assert_eq!(decode::<2>(List::DeadLetters, &good), None, "another list's");
        assert_eq!(decode::<1>(List::Messages, &good), None, "another length");
        assert_eq!(decode::<2>(List::Messages, &encode(List::Messages, &[42, -1])), None);
        assert_eq!(parse_cursor::<2>(List::Messages, None).expect("the start"), [0, 0]);
    }
}
