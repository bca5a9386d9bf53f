//! How are destinations, messages and workers named?

use std::fmt;
use std::str::FromStr;

/// A destination's number, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DestinationId(pub i64);

/// A message's number: rises in commit order within a destination, with gaps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sequence(pub i64);

/// One session of a worker process; a process that reconnects gets a new one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkerId(pub i64);

/// `<destination>-<sequence>`, the name clients and receivers see; the same on every try.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageId {
    pub destination: DestinationId,
    pub sequence: Sequence,
}

/// The text names no thing of this kind; to a client that is a 404.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an id")]
pub struct ParseIdError;

/// Canonical decimal digits of 1 to 2^63 - 1: no sign, no leading zero, so that a thing has one name.
fn parse_positive(text: &str) -> Result<i64, ParseIdError> {
    let canonical = !text.starts_with('0') && !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if !canonical {
        return Err(ParseIdError);
    }
    text.parse().map_err(|_| ParseIdError)
}

impl FromStr for DestinationId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        parse_positive(text).map(DestinationId)
    }
}

impl FromStr for MessageId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let (destination, sequence) = text.split_once('-').ok_or(ParseIdError)?;
        Ok(MessageId { destination: destination.parse()?, sequence: Sequence(parse_positive(sequence)?) })
    }
}

impl fmt::Display for DestinationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Sequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.destination, self.sequence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn message_ids_have_one_spelling() {
        let id: MessageId = "42-1017".parse().expect("a plain id");
        assert_eq!(id, MessageId { destination: DestinationId(42), sequence: Sequence(1017) });
        assert_eq!(id.to_string(), "42-1017");
        for wrong in [
            "",
            "-",
            "42",
            "42-",
            "-7",
            "042-1",
            "42-01",
            "+4-1",
            "4-1-1",
            "4-9223372036854775808",
            "٤-١",
            "a-b",
            "0-1",
        ] {
            assert_eq!(wrong.parse::<MessageId>(), Err(ParseIdError), "{wrong:?}");
        }
    }
}
