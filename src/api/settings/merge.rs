//! What becomes of a destination's settings when a merge patch (RFC 7396) is applied?

use poem_openapi::Object;
use poem_openapi::types::{Example, MaybeUndefined};
use serde::Deserialize;

use super::{DestinationBody, RetryBody};
use crate::api::entries::{Entries, MASK};
use crate::api::payload::{RequestShape, given, only_an_object};
use crate::domain::{DestinationSettings, OnExhausted, RetryPolicy};

/// A JSON merge patch: what is left out stays, null goes back to the default
#[derive(Debug, Clone, Default, Deserialize, Object)]
#[serde(remote = "Self", deny_unknown_fields, default)]
#[oai(deny_unknown_fields, example)]
pub struct DestinationPatch {
    #[serde(deserialize_with = "given")]
    #[oai(skip_serializing_if_is_none, validator(max_length = 2048))]
    pub url: Option<String>,
    #[oai(nullable, validator(max_length = 4096))]
    pub description: MaybeUndefined<String>,
    /// Merged by name; null removes one, `***` keeps its stored value
    #[oai(nullable)]
    pub headers: MaybeUndefined<Entries<Option<String>>>,
    #[oai(nullable)]
    pub on_exhausted: MaybeUndefined<OnExhausted>,
    #[oai(nullable)]
    pub retry: MaybeUndefined<RetryPatch>,
    #[oai(nullable, validator(minimum(value = "1"), maximum(value = "300")))]
    pub timeout_seconds: MaybeUndefined<f64>,
    #[oai(nullable, validator(minimum(value = "0", exclusive), maximum(value = "10000")))]
    pub max_per_second: MaybeUndefined<f64>,
    #[oai(nullable, validator(minimum(value = "1")))]
    pub max_queue_depth: MaybeUndefined<i64>,
}

/// Merged member by member; onto null it starts from the defaults
#[derive(Debug, Clone, Default, Deserialize, Object)]
#[serde(remote = "Self", deny_unknown_fields, default)]
#[oai(deny_unknown_fields)]
pub struct RetryPatch {
    #[oai(nullable, validator(minimum(value = "0"), maximum(value = "100")))]
    pub max_retries: MaybeUndefined<i64>,
    #[oai(nullable, validator(minimum(value = "0"), maximum(value = "86400")))]
    pub delay_seconds: MaybeUndefined<f64>,
    #[oai(nullable, validator(minimum(value = "1"), maximum(value = "10")))]
    pub backoff: MaybeUndefined<f64>,
}

only_an_object!(DestinationPatch, RetryPatch);

impl RequestShape for DestinationPatch {
    const MERGE_PATCH: bool = true;
}

impl Example for DestinationPatch {
    fn example() -> Self {
        DestinationPatch {
            description: MaybeUndefined::Value("Orders of the new shop".to_owned()),
            headers: MaybeUndefined::Value(Entries(vec![("X-Key".to_owned(), None)])),
            ..DestinationPatch::default()
        }
    }
}

fn merged<T>(stored: Option<T>, patch: &MaybeUndefined<T>) -> Option<T>
where
    T: Clone,
{
    match patch {
        MaybeUndefined::Undefined => stored,
        MaybeUndefined::Null => None,
        MaybeUndefined::Value(value) => Some(value.clone()),
    }
}

impl DestinationPatch {
    /// The settings as a client would have to PUT them; still to be checked, against the same stored headers.
    pub fn apply(&self, stored: &DestinationSettings) -> DestinationBody {
        DestinationBody {
            url: self.url.clone().unwrap_or_else(|| stored.url.clone()),
            description: merged(stored.description.clone(), &self.description),
            headers: Some(merge_headers(stored, &self.headers)),
            on_exhausted: merged(Some(stored.on_exhausted), &self.on_exhausted),
            retry: match &self.retry {
                MaybeUndefined::Undefined => stored.retry.map(RetryBody::from),
                MaybeUndefined::Null => None,
                MaybeUndefined::Value(patch) => {
                    Some(patch.apply(stored.retry.map(RetryBody::from).unwrap_or_default()))
                }
            },
            timeout_seconds: merged(Some(stored.timeout.as_secs_f64()), &self.timeout_seconds),
            max_per_second: merged(stored.max_per_second, &self.max_per_second),
            max_queue_depth: merged(stored.max_queue_depth, &self.max_queue_depth),
        }
    }
}

fn merge_headers(stored: &DestinationSettings, patch: &MaybeUndefined<Entries<Option<String>>>) -> Entries<String> {
    // Their values stay out of it: `***` brings them back.
    let mut entries = Entries::masked(&stored.headers).0;
    match patch {
        MaybeUndefined::Undefined => {}
        MaybeUndefined::Null => entries.clear(),
        MaybeUndefined::Value(Entries(members)) => {
            for (name, value) in members {
                let place = entries.iter().position(|(known, _)| known.eq_ignore_ascii_case(name));
                match (value.as_deref(), place) {
                    (Some(MASK), Some(_)) | (None, None) => {}
                    (Some(value), Some(place)) => entries[place] = (name.clone(), value.to_owned()),
                    (Some(value), None) => entries.push((name.clone(), value.to_owned())),
                    (None, Some(place)) => drop(entries.remove(place)),
                }
            }
        }
    }
    Entries(entries)
}

impl RetryPatch {
    fn apply(&self, stored: RetryBody) -> RetryBody {
        RetryBody {
            max_retries: merged(stored.max_retries, &self.max_retries),
            delay_seconds: merged(stored.delay_seconds, &self.delay_seconds),
            backoff: merged(stored.backoff, &self.backoff),
        }
    }
}

impl From<RetryPolicy> for RetryBody {
    fn from(policy: RetryPolicy) -> Self {
        RetryBody {
            max_retries: Some(policy.max_retries.into()),
            delay_seconds: Some(policy.delay.as_secs_f64()),
            backoff: Some(policy.backoff),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use poem::error::ResponseError;

    use super::*;
    use crate::domain::Headers;

    fn stored() -> DestinationSettings {
        let headers = [("X-A".to_owned(), "1".to_owned()), ("x-b".to_owned(), "2".to_owned())];
        DestinationSettings {
            description: Some("old".to_owned()),
            headers: Headers::parse(headers).expect("valid"),
            on_exhausted: OnExhausted::Hold,
            timeout: Duration::from_secs(5),
            max_per_second: Some(2.5),
            max_queue_depth: Some(10),
            ..DestinationSettings::new("http://example.com/a".to_owned())
        }
    }

    fn patched(patch: &str, stored: &DestinationSettings) -> DestinationSettings {
        let patch: DestinationPatch = serde_json::from_str(patch).expect(patch);
        patch.apply(stored).check(&stored.headers).expect("valid")
    }

    #[test]
    fn what_is_left_out_stays_and_null_resets() {
        let before = stored();
        assert_eq!(patched("{}", &before), before);
        let reset = r#"{"description":null,"headers":null,"on_exhausted":null,"retry":null,"timeout_seconds":null,
                        "max_per_second":null,"max_queue_depth":null}"#;
        assert_eq!(patched(reset, &before), DestinationSettings::new("http://example.com/a".to_owned()));
        assert!(serde_json::from_str::<DestinationPatch>(r#"{"url":null}"#).is_err());
    }

    #[test]
    fn headers_merge_by_name() {
        let before = stored();
        let after = patched(r#"{"headers":{"x-a":null,"X-B":"***","X-C":"3","x-absent":null}}"#, &before);
        let shown: Vec<_> = after.headers.iter().collect();
        assert_eq!(shown, [("x-b", "2"), ("x-c", "3")]);
        let after = patched(r#"{"headers":{"X-B":"new"}}"#, &before);
        let shown: Vec<_> = after.headers.iter_as_written().collect();
        assert_eq!(shown, [("X-A", "1"), ("X-B", "new")]);
        let keep_nothing: DestinationPatch = serde_json::from_str(r#"{"headers":{"x-n":"***"}}"#).expect("JSON");
        let problem = keep_nothing.apply(&before).check(&before.headers).expect_err("nothing is stored");
        assert_eq!((problem.status().as_u16(), problem.errors()[0].pointer.as_str()), (422, "/headers/x-n"));
    }

    #[test]
    fn retry_merges_member_by_member() {
        let mut before = stored();
        let first = patched(r#"{"retry":{"max_retries":7}}"#, &before).retry.expect("a policy");
        assert_eq!(first, RetryPolicy { max_retries: 7, delay: Duration::from_secs(1), backoff: 1.0 });
        before.retry = Some(RetryPolicy { max_retries: 7, delay: Duration::from_secs(9), backoff: 2.0 });
        let second = patched(r#"{"retry":{"max_retries":null,"backoff":3}}"#, &before).retry.expect("a policy");
        assert_eq!(second, RetryPolicy { max_retries: 3, delay: Duration::from_secs(9), backoff: 3.0 });
    }

    #[test]
    fn everything_that_is_wrong_is_told_at_once() {
        let body = r#"{"url":"ftp://x","description":"a\u0000","headers":{"host":"x"},"timeout_seconds":0.5,
            "retry":{"max_retries":101,"delay_seconds":-1,"backoff":0.9},"max_per_second":0,"max_queue_depth":0}"#;
        let body: DestinationBody = serde_json::from_str(body).expect("JSON");
        let problem = body.check(&Headers::default()).expect_err("all wrong");
        let mut pointers: Vec<&str> = problem.errors().iter().map(|fault| fault.pointer.as_str()).collect();
        pointers.sort_unstable();
        assert_eq!(
            pointers,
            [
                "/description",
                "/headers/host",
                "/max_per_second",
                "/max_queue_depth",
                "/retry/backoff",
                "/retry/delay_seconds",
                "/retry/max_retries",
                "/timeout_seconds",
                "/url"
            ]
        );
    }
}
