//! How do fuzz targets reach what takes strangers' texts apart?
//!
//! Each does what the handlers do before they ask the database, and checks what must hold of it; see tests/fuzz.

use poem::error::ResponseError;

use super::content::{Shown, encode, show};
use super::messages::{MessageIn, MessagesIn};
use super::pagination::{List, encode as encode_cursor, parse_cursor};
use super::payload::parse;
use super::problem::Problem;
use crate::domain::NewMessage;

/// A body of `POST /v1/messages`; whether it would be queued.
pub fn read_message(body: &[u8]) -> bool {
    judge(body, parse::<MessageIn>(body).and_then(|message| message.check("")).map(|message| vec![message]))
}

/// A body of `POST /v1/messages/batch`.
pub fn read_batch(body: &[u8]) -> bool {
    judge(body, parse::<MessagesIn>(body).and_then(MessagesIn::check))
}

/// `after` of a list; whether it is a place in it.
pub fn read_cursor(text: &str) -> bool {
    let [one] = match parse_cursor(List::Destinations, Some(text)) {
        Ok(keys) => keys,
        Err(problem) => {
            assert_eq!(problem.status().as_u16(), 422);
            return parse_cursor::<2>(List::Messages, Some(text)).is_ok();
        }
    };
    assert!(one >= 1);
    assert_eq!(encode_cursor(List::Destinations, &[one]), text, "a place has one name");
    assert!(parse_cursor::<1>(List::Workers, Some(text)).is_err(), "another list's");
    true
}

fn judge(body: &[u8], outcome: Result<Vec<NewMessage>, Problem>) -> bool {
    let messages = match outcome {
        Ok(messages) => messages,
        Err(problem) => {
            assert!([400, 413, 422].contains(&problem.status().as_u16()), "{problem}");
            assert!(problem.errors().iter().all(|fault| fault.pointer.is_empty() || fault.pointer.starts_with('/')));
            return false;
        }
    };
    for message in messages {
        assert!((1..=86_400).contains(&message.ttl_seconds));
        // What is shown of it later means the same bytes.
        let (payload, base64) = match show(&message.payload, &message.content_type) {
            Shown::Payload(json) => {
                // A JSON payload goes out as it stood.
                let json_type =
                    encode(Some(json.clone()), None, "application/json").is_ok_and(|b| b == message.payload);
                assert!(!json_type || contains(body, &message.payload));
                (Some(json), None)
            }
            Shown::Base64(text) => (None, Some(text)),
        };
        let again = encode(payload, base64.as_deref(), &message.content_type).ok();
        assert_eq!(again.as_ref(), Some(&message.payload));
    }
    true
}

fn contains(body: &[u8], part: &[u8]) -> bool {
    part.is_empty() || body.windows(part.len()).any(|window| window == part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_targets_check_holds_of_plain_examples() {
        assert!(read_message(br#"{"destination_id": 1, "payload": {"b": 1e400, "a": "\u00e9"}}"#));
        assert!(read_message(br#"{"destination_id": 1, "payload_base64": "AP8=", "content_type": "text/plain"}"#));
        assert!(!read_message(br#"{"destination_id": 1, "payload": 1, "id": 2}"#));
        assert!(!read_message(b"["));
        assert!(read_batch(br#"{"messages": [{"destination_id": 1, "payload": null}]}"#));
        assert!(!read_batch(br#"{"messages": []}"#));
        assert!(read_cursor(&encode_cursor(List::Destinations, &[42])));
        assert!(read_cursor(&encode_cursor(List::Messages, &[42, 1017])));
        assert!(!read_cursor("AAAA"));
    }
}
