//! Which bytes does a message carry, and how are they shown again?

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use poem_openapi::registry::MetaSchema;
use poem_openapi::types::{ParseError, ParseFromJSON, ParseResult, ToJSON};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use super::names::simple_type;
use super::problem::{Fault, Problem};

/// The largest payload, decoded.
pub const MAX_PAYLOAD_BYTES: usize = 1 << 20;
pub const DEFAULT_CONTENT_TYPE: &str = "application/json";

/// A JSON value as it stood, byte for byte: key order, duplicate keys, big numbers, `1e400`, spaces.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RawJson(Box<RawValue>);

simple_type!(RawJson, "AnyJson", MetaSchema { description: Some("Any JSON value"), ..MetaSchema::ANY });

impl ToJSON for RawJson {
    fn to_json(&self) -> Option<Value> {
        serde_json::from_str(self.0.get()).ok()
    }
}

impl ParseFromJSON for RawJson {
    fn parse_from_json(value: Option<Value>) -> ParseResult<Self> {
        RawValue::from_string(value.unwrap_or_default().to_string()).map(RawJson).map_err(ParseError::custom)
    }
}

impl RawJson {
    fn into_bytes(self) -> Bytes {
        let text: Box<str> = self.0.into();
        Bytes::from(String::from(text))
    }
}

/// Why a message's content is refused; the pointer is within the message.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ContentError {
    #[error("either `payload` or `payload_base64` is required")]
    Neither,
    #[error("`payload` and `payload_base64` exclude each other")]
    Both,
    #[error("it is not a media type")]
    ContentType,
    #[error("with a content type that is not JSON it must be a string")]
    NotText,
    #[error("it is not base64: {0}")]
    NotBase64(String),
    #[error("it is larger than 1 MiB")]
    TooLarge { pointer: &'static str },
}

impl ContentError {
    /// `within` is the pointer to the message.
    pub fn into_problem(self, within: &str) -> Problem {
        let at = |pointer: &str| vec![Fault::new(format!("{within}{pointer}"), self.to_string())];
        match &self {
            ContentError::Neither | ContentError::NotText => Problem::wrong(at("/payload")),
            ContentError::Both | ContentError::NotBase64(_) => Problem::wrong(at("/payload_base64")),
            ContentError::ContentType => Problem::wrong(at("/content_type")),
            ContentError::TooLarge { pointer } => {
                Problem::too_large("a payload is larger than 1 MiB").with_errors(at(pointer))
            }
        }
    }
}

/// The bytes that the receiver gets.
pub fn encode(payload: Option<RawJson>, base64: Option<&str>, content_type: &str) -> Result<Bytes, ContentError> {
    if !is_media_type(content_type) {
        return Err(ContentError::ContentType);
    }
    let (bytes, pointer) = match (payload, base64) {
        (None, None) => return Err(ContentError::Neither),
        (Some(_), Some(_)) => return Err(ContentError::Both),
        (Some(payload), None) if is_json(content_type) => (payload.into_bytes(), "/payload"),
        (Some(payload), None) => {
            let text: String = serde_json::from_str(payload.0.get()).map_err(|_| ContentError::NotText)?;
            (Bytes::from(text), "/payload")
        }
        (None, Some(text)) => {
            let bytes = STANDARD.decode(text).map_err(|error| ContentError::NotBase64(error.to_string()))?;
            (Bytes::from(bytes), "/payload_base64")
        }
    };
    if bytes.len() > MAX_PAYLOAD_BYTES { Err(ContentError::TooLarge { pointer }) } else { Ok(bytes) }
}

/// A payload in an answer: as `payload` where that says exactly what it is, else as `payload_base64`.
#[derive(Debug)]
pub enum Shown {
    Payload(RawJson),
    Base64(String),
}

pub fn show(bytes: &[u8], content_type: &str) -> Shown {
    let base64 = || Shown::Base64(STANDARD.encode(bytes));
    let Ok(text) = std::str::from_utf8(bytes) else { return base64() };
    if !is_json(content_type) {
        let quoted = serde_json::to_string(text).and_then(RawValue::from_string);
        return quoted.map_or_else(|_| base64(), |json| Shown::Payload(RawJson(json)));
    }
    // Spaces around the value would be lost, and not every body of a JSON type is JSON.
    match RawValue::from_string(text.to_owned()) {
        Ok(json) if json.get().len() == text.len() => Shown::Payload(RawJson(json)),
        _ => base64(),
    }
}

/// application/json, text/json and everything that ends in +json, whatever its parameters.
fn is_json(content_type: &str) -> bool {
    if content_type == DEFAULT_CONTENT_TYPE {
        return true;
    }
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    matches!(essence.as_str(), "application/json" | "text/json") || essence.ends_with("+json")
}

/// What `orderly.enqueue_bytes` takes, too.
fn is_media_type(content_type: &str) -> bool {
    if content_type == DEFAULT_CONTENT_TYPE {
        return true;
    }
    let token =
        |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$&^_.+-".contains(&b));
    let (essence, parameters) = match content_type.split_once(';') {
        Some((essence, parameters)) => (essence.trim_end_matches(' '), parameters),
        None => (content_type, ""),
    };
    content_type.len() <= 255
        && essence.split_once('/').is_some_and(|(kind, subtype)| token(kind) && token(subtype))
        && parameters.bytes().all(|b| (b' '..=b'~').contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(json: &str) -> Option<RawJson> {
        Some(serde_json::from_str(json).expect("JSON"))
    }

    #[test]
    fn json_goes_out_as_it_stood() {
        for json in [
            r#"{"b":1,"a":2}"#,
            r#"{"a":1,"a":2}"#,
            "1e400",
            "123456789012345678901234567890.10",
            "-0",
            "null",
            r#"{ "a" : [1,  2 ] }"#,
            r#""\u0000 \ud800 \/""#,
        ] {
            for content_type in ["application/json", "text/json", "Application/Vnd.API+JSON; charset=utf-8"] {
                let bytes = encode(raw(json), None, content_type).expect(json);
                assert_eq!(bytes, json, "{content_type}");
                let Shown::Payload(shown) = show(&bytes, content_type) else { panic!("{json} is JSON") };
                assert_eq!(shown.0.get(), json);
            }
        }
        let deep = "[".repeat(300_000) + &"]".repeat(300_000);
        assert_eq!(encode(raw(&deep), None, "application/json").expect("deep"), deep);
    }

    #[test]
    fn other_types_are_text_or_bytes() {
        assert_eq!(encode(raw(r#""<a>\n\u00e4</a>""#), None, "text/xml"), Ok(Bytes::from("<a>\nä</a>")));
        assert_eq!(encode(raw("{}"), None, "text/plain"), Err(ContentError::NotText));
        assert_eq!(encode(raw("null"), None, "text/plain"), Err(ContentError::NotText));
        assert_eq!(encode(raw(r#""\ud800""#), None, "text/plain"), Err(ContentError::NotText));
        assert_eq!(encode(None, Some("AP8="), "image/png"), Ok(Bytes::from_static(b"\0\xff")));
        assert_eq!(encode(None, Some(""), "application/json"), Ok(Bytes::new()));
        for wrong in ["AP8", "AP8=\n", "_-8=", "AP9=", "ä", "===="] {
            assert!(matches!(encode(None, Some(wrong), "image/png"), Err(ContentError::NotBase64(_))), "{wrong}");
        }
        assert_eq!(encode(None, None, "application/json"), Err(ContentError::Neither));
        assert_eq!(encode(raw("null"), Some(""), "application/json"), Err(ContentError::Both));
    }

    #[test]
    fn a_payload_has_its_limit() {
        let text = |length: usize| format!("\"{}\"", "x".repeat(length - 2));
        assert!(encode(raw(&text(MAX_PAYLOAD_BYTES)), None, "application/json").is_ok());
        let too_large = Err(ContentError::TooLarge { pointer: "/payload" });
        assert_eq!(encode(raw(&text(MAX_PAYLOAD_BYTES + 1)), None, "application/json"), too_large);
        assert!(encode(raw(&text(MAX_PAYLOAD_BYTES + 2)), None, "text/plain").is_ok());
        assert_eq!(encode(raw(&text(MAX_PAYLOAD_BYTES + 3)), None, "text/plain"), too_large);
    }

    #[test]
    fn what_payload_cannot_say_exactly_is_shown_as_base64() {
        for (bytes, content_type) in [
            (&b"\xff"[..], "text/plain"),
            (b"\xff", "application/json"),
            (b" 1", "application/json"),
            (b"1\n", "application/json"),
            (b"{", "application/json"),
            (b"", "application/json"),
        ] {
            assert!(matches!(show(bytes, content_type), Shown::Base64(_)), "{bytes:?}");
        }
        let Shown::Payload(text) = show(b"a\0\"b", "text/plain") else { panic!("it is text") };
        assert_eq!(text.0.get(), r#""a\u0000\"b""#);
    }

    #[test]
    fn content_types_are_media_types() {
        for good in ["application/json", "text/plain;charset=utf-8", "text/plain ; a=\"b c\"", "application/x.y+z-1"] {
            assert!(is_media_type(good), "{good}");
        }
        for bad in [
            "",
            "json",
            "/",
            "a/",
            "/b",
            "a/b/c",
            "a b/c",
            "a/b\r\nx: y",
            "a/b;\0",
            "ä/b",
            &format!("a/{}", "b".repeat(255)),
        ] {
            assert!(!is_media_type(bad), "{bad}");
        }
    }
}
