//! What does a receiver get to see of one try?
//!
//! What is the same for each request to a destination is made once, as a [`Target`].

use std::time::Duration;

use http::header::{CONTENT_TYPE, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue, Uri};

use crate::domain::{Headers, HmacSecret, Message, MessageId, Policy, Sequence};

use super::guard::{Guard, GuardError};
use super::{SigningKeys, signature};

const WEBHOOK_ID: HeaderName = HeaderName::from_static("webhook-id");
const WEBHOOK_TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
const WEBHOOK_SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");
const SEQUENCE: HeaderName = HeaderName::from_static("orderly-sequence");
const PREVIOUS_SEQUENCE: HeaderName = HeaderName::from_static("orderly-previous-sequence");
const SKIPPED: HeaderName = HeaderName::from_static("orderly-skipped");
const ATTEMPT: HeaderName = HeaderName::from_static("orderly-attempt");
const EPOCH: HeaderName = HeaderName::from_static("orderly-epoch");
const REPLAY_OF: HeaderName = HeaderName::from_static("orderly-replay-of");

/// Ours, with room for a message's own.
const HEADERS_PER_REQUEST: usize = 16;

/// A destination, made ready for many requests. Made anew when its policy changes.
pub struct Target {
    /// `None`: HTTP cannot carry the URL (it is too long).
    pub(super) uri: Option<Uri>,
    pub(super) timeout: Duration,
    /// `Err`: the URL itself is forbidden, and no request leaves.
    pub(super) verdict: Result<(), GuardError>,
    headers: HeaderMap,
    hmac_secret: Option<HmacSecret>,
}

/// What the holder knows of this try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Meta {
    pub id: MessageId,
    /// From 1.
    pub attempt: u32,
    pub epoch: i64,
    /// The message delivered to this destination right before; 0 at first.
    pub previous: Sequence,
    /// How many messages ended another way in between.
    pub skipped: i64,
}

impl Target {
    pub(super) fn new(policy: &Policy, guard: &Guard, user_agent: &HeaderValue) -> Target {
        let mut headers = HeaderMap::with_capacity(policy.headers.iter().count() + 1);
        put(&mut headers, &policy.headers);
        headers.insert(USER_AGENT, user_agent.clone());
        Target {
            uri: policy.url.as_str().parse().ok(),
            timeout: policy.timeout,
            verdict: guard.check_url(&policy.url),
            headers,
            hmac_secret: policy.hmac_secret.clone(),
        }
    }

    /// The headers of one try at `unix_seconds`. A message's win over its destination's, ours over both.
    pub(super) fn headers(&self, keys: &SigningKeys, message: &Message, meta: &Meta, unix_seconds: u64) -> HeaderMap {
        let mut headers = HeaderMap::with_capacity(self.headers.len() + HEADERS_PER_REQUEST);
        headers.extend(self.headers.iter().map(|(name, value)| (name.clone(), value.clone())));
        put(&mut headers, &message.headers);
        let (id, timestamp) = (meta.id.to_string(), unix_seconds.to_string());
        let signature = signature::sign(keys, self.hmac_secret.as_ref(), &id, &timestamp, &message.payload);
        headers.insert(CONTENT_TYPE, content_type(&message.content_type));
        headers.insert(WEBHOOK_ID, ascii(id));
        headers.insert(WEBHOOK_TIMESTAMP, ascii(timestamp));
        if !signature.is_empty() {
            headers.insert(WEBHOOK_SIGNATURE, ascii(signature));
        }
        headers.insert(SEQUENCE, meta.id.sequence.0.into());
        headers.insert(PREVIOUS_SEQUENCE, meta.previous.0.into());
        headers.insert(SKIPPED, meta.skipped.into());
        headers.insert(ATTEMPT, meta.attempt.into());
        headers.insert(EPOCH, meta.epoch.into());
        if let Some(original) = message.replay_of {
            headers.insert(REPLAY_OF, original.0.into());
        }
        headers
    }
}

/// What was stored was checked before; a rule that came later must not stop a delivery (G1), so that what
/// HTTP cannot carry is left out.
fn put(headers: &mut HeaderMap, chosen: &Headers) {
    for (name, value) in chosen.iter() {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            headers.insert(name, value);
        }
    }
}

fn content_type(text: &str) -> HeaderValue {
    match text {
        "application/json" => HeaderValue::from_static("application/json"),
        other => HeaderValue::from_str(other).unwrap_or(HeaderValue::from_static("application/octet-stream")),
    }
}

/// Digits, hyphens and base64.
fn ascii(text: String) -> HeaderValue {
    HeaderValue::try_from(text).expect("plain ASCII is a header value")
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use chrono::Utc;
    use url::Url;

    use super::*;
    use crate::domain::{DestinationId, OnExhausted};

    fn headers_of(entries: &[(&str, &str)]) -> Headers {
        Headers::parse(entries.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))).expect("valid")
    }

    #[test]
    fn the_headers_are_those_of_the_contract() {
        let policy = Policy {
            url: Url::parse("https://example.com/hook").expect("a URL"),
            headers: headers_of(&[("x-key", "destination"), ("x-only", "kept")]),
            on_exhausted: OnExhausted::Discard,
            retry: None,
            timeout: Duration::from_secs(30),
            max_per_second: None,
            hmac_secret: Some(HmacSecret(vec![1; 24])),
        };
        let message = Message {
            sequence: Sequence(1017),
            payload: Bytes::from_static(b"{}"),
            content_type: "application/json".to_owned(),
            headers: headers_of(&[("X-Key", "message")]),
            created_at: Utc::now(),
            replay_of: Some(Sequence(7)),
        };
        let meta = Meta {
            id: MessageId { destination: DestinationId(42), sequence: Sequence(1017) },
            attempt: 2,
            epoch: 3,
            previous: Sequence(1015),
            skipped: 1,
        };
        let guard = Guard::new(Vec::new(), Vec::new(), true);
        let target = Target::new(&policy, &guard, &HeaderValue::from_static("Orderly/0"));
        let headers = target.headers(&SigningKeys::default(), &message, &meta, 1_700_000_000);
        let mut seen: Vec<(&str, &str)> =
            headers.iter().map(|(name, value)| (name.as_str(), value.to_str().expect("ASCII"))).collect();
        seen.retain(|(name, _)| *name != "webhook-signature");
        seen.sort_unstable();
        assert_eq!(
            seen,
            [
                ("content-type", "application/json"),
                ("orderly-attempt", "2"),
                ("orderly-epoch", "3"),
                ("orderly-previous-sequence", "1015"),
                ("orderly-replay-of", "7"),
                ("orderly-sequence", "1017"),
                ("orderly-skipped", "1"),
                ("user-agent", "Orderly/0"),
                ("webhook-id", "42-1017"),
                ("webhook-timestamp", "1700000000"),
                ("x-key", "message"),
                ("x-only", "kept"),
            ]
        );
        assert!(headers["webhook-signature"].to_str().expect("ASCII").starts_with("v1,"));
    }
}
