//! What do processes tell each other by NOTIFY?

use crate::domain::{DestinationId, WorkerId};

/// One payload on the channel `orderly`. What does not parse is somebody else's, or from a newer version.
#[derive(Debug, PartialEq, Eq)]
pub enum Notice {
    /// Messages were queued.
    Bell(Vec<DestinationId>),
    /// The same, and what was known to stand in the way (a pause, a wait) is no longer.
    Wake(Vec<DestinationId>),
    /// The same, from the sweep: whoever should serve them and had not heard of it says so.
    Swept(Vec<DestinationId>),
    /// Clients ask something of the holder.
    Asked(Vec<DestinationId>),
    Joined(WorkerId, String),
    Left(WorkerId),
    /// Stops soon: claims nothing more, and hands over what it serves.
    Draining(WorkerId),
    Ping {
        to: WorkerId,
        round: u64,
    },
    Pong {
        from: WorkerId,
    },
    /// A watcher's word, sent after the time for an answer was over, that `about` had not answered.
    Missed {
        by: WorkerId,
        about: WorkerId,
        round: u64,
    },
    Unknown,
}

impl Notice {
    pub fn parse(payload: &str) -> Notice {
        let Some(kind) = payload.chars().next().filter(char::is_ascii) else { return Notice::Unknown };
        let rest = &payload[1..];
        let mut fields = rest.split(':');
        let mut number = || fields.next().and_then(|field| field.parse::<i64>().ok());
        let parsed = match kind {
            'b' => ids(rest).map(Notice::Bell),
            'w' => ids(rest).map(Notice::Wake),
            's' => ids(rest).map(Notice::Swept),
            'r' => ids(rest).map(Notice::Asked),
            'j' => rest
                .split_once(':')
                .and_then(|(id, kind)| Some(Notice::Joined(WorkerId(id.parse().ok()?), kind.to_owned()))),
            'l' => number().map(|id| Notice::Left(WorkerId(id))),
            'd' => number().map(|id| Notice::Draining(WorkerId(id))),
            'p' => {
                number().zip(number()).map(|(to, round)| Notice::Ping { to: WorkerId(to), round: round.unsigned_abs() })
            }
            'o' => number().map(|id| Notice::Pong { from: WorkerId(id) }),
            'm' => match (number(), number(), number()) {
                (Some(by), Some(about), Some(round)) => {
                    Some(Notice::Missed { by: WorkerId(by), about: WorkerId(about), round: round.unsigned_abs() })
                }
                _ => None,
            },
            _ => None,
        };
        parsed.unwrap_or(Notice::Unknown)
    }
}

fn ids(text: &str) -> Option<Vec<DestinationId>> {
    text.split(',').map(|id| id.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_are_read_and_strangers_are_ignored() {
        assert_eq!(Notice::parse("b1,22"), Notice::Bell(vec![DestinationId(1), DestinationId(22)]));
        assert_eq!(Notice::parse("s1"), Notice::Swept(vec![DestinationId(1)]));
        assert_eq!(Notice::parse("j7:general"), Notice::Joined(WorkerId(7), "general".to_owned()));
        assert_eq!(Notice::parse("p7:3"), Notice::Ping { to: WorkerId(7), round: 3 });
        assert_eq!(Notice::parse("m7:8:3"), Notice::Missed { by: WorkerId(7), about: WorkerId(8), round: 3 });
        for stranger in ["", "b", "b,", "b1,x", "é", "x1", "j7", "p7", "m7:8", "l", "hello", "b99999999999999999999"] {
            assert_eq!(Notice::parse(stranger), Notice::Unknown, "{stranger:?}");
        }
    }
}
