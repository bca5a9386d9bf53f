//! What may a client choose for a destination?

mod merge;
mod view;

use std::time::Duration;

use poem_openapi::Object;
use poem_openapi::types::Example;
use serde::Deserialize;

pub use merge::DestinationPatch;
pub use view::DestinationView;

use super::entries::{Entries, MASK, parse_headers};
use super::payload::{RequestShape, given, only_an_object};
use super::problem::{Fault, Problem};
use crate::domain::{DestinationSettings, Headers, OnExhausted, RetryPolicy, parse_url};

const MAX_DESCRIPTION_CHARS: usize = 4096;
const DEFAULT_RETRY: RetryPolicy = RetryPolicy { max_retries: 3, delay: Duration::from_secs(1), backoff: 1.0 };

/// What a destination is made of, or replaced by
#[derive(Debug, Clone, Deserialize, Object)]
#[serde(remote = "Self", deny_unknown_fields)]
#[oai(rename = "DestinationSettings", deny_unknown_fields, example)]
pub struct DestinationBody {
    /// Where its messages go: http or https, without credentials
    #[oai(validator(max_length = 2048))]
    pub url: String,
    #[serde(default)]
    #[oai(nullable, validator(max_length = 4096))]
    pub description: Option<String>,
    /// Sent with every request; `***` keeps the stored value
    #[serde(default, deserialize_with = "given")]
    #[oai(skip_serializing_if_is_none)]
    pub headers: Option<Entries<String>>,
    /// When a message is out of tries: make a dead letter of it and go on, or hold the queue
    #[serde(default, deserialize_with = "given")]
    #[oai(default = "default_on_exhausted")]
    pub on_exhausted: Option<OnExhausted>,
    /// null: as the worker's flags say
    #[serde(default)]
    #[oai(nullable)]
    pub retry: Option<RetryBody>,
    /// From the start of a try to the end of its answer
    #[serde(default, deserialize_with = "given")]
    #[oai(default = "default_timeout", validator(minimum(value = "1"), maximum(value = "300")))]
    pub timeout_seconds: Option<f64>,
    /// Requests start at least 1/max seconds apart; null: no limit
    #[serde(default)]
    #[oai(nullable, validator(minimum(value = "0", exclusive), maximum(value = "10000")))]
    pub max_per_second: Option<f64>,
    /// Past so many queued messages another one is refused with 429; null: no limit
    #[serde(default)]
    #[oai(nullable, validator(minimum(value = "1")))]
    pub max_queue_depth: Option<i64>,
}

/// How often and how far apart a failing message is tried
#[derive(Debug, Clone, Default, Deserialize, Object)]
#[serde(remote = "Self", deny_unknown_fields)]
#[oai(rename = "RetrySettings", deny_unknown_fields)]
pub struct RetryBody {
    /// Tries after the first
    #[serde(default, deserialize_with = "given")]
    #[oai(default = "default_max_retries", validator(minimum(value = "0"), maximum(value = "100")))]
    pub max_retries: Option<i64>,
    /// From the end of one try to the start of the next
    #[serde(default, deserialize_with = "given")]
    #[oai(default = "default_delay", validator(minimum(value = "0"), maximum(value = "86400")))]
    pub delay_seconds: Option<f64>,
    /// Each wait is so many times the one before
    #[serde(default, deserialize_with = "given")]
    #[oai(default = "default_backoff", validator(minimum(value = "1"), maximum(value = "10")))]
    pub backoff: Option<f64>,
}

fn default_on_exhausted() -> Option<OnExhausted> {
    Some(OnExhausted::Discard)
}

fn default_timeout() -> Option<f64> {
    Some(DestinationSettings::DEFAULT_TIMEOUT.as_secs_f64())
}

fn default_max_retries() -> Option<i64> {
    Some(DEFAULT_RETRY.max_retries.into())
}

fn default_delay() -> Option<f64> {
    Some(DEFAULT_RETRY.delay.as_secs_f64())
}

fn default_backoff() -> Option<f64> {
    Some(DEFAULT_RETRY.backoff)
}

only_an_object!(DestinationBody, RetryBody);

impl RequestShape for DestinationBody {}

impl Example for DestinationBody {
    fn example() -> Self {
        DestinationBody {
            url: "https://example.com/hooks".to_owned(),
            description: Some("Orders of the shop".to_owned()),
            headers: Some(Entries(vec![("X-Key".to_owned(), "secret".to_owned())])),
            on_exhausted: Some(OnExhausted::Hold),
            retry: Some(RetryBody { max_retries: Some(5), delay_seconds: Some(2.0), backoff: Some(2.0) }),
            timeout_seconds: Some(30.0),
            max_per_second: None,
            max_queue_depth: None,
        }
    }
}

impl DestinationBody {
    /// Checks everything but where the URL leads. `stored`: the headers whose values `***` stands for.
    pub fn check(&self, stored: &Headers) -> Result<DestinationSettings, Problem> {
        let mut faults = Vec::new();
        let mut range = |ok: bool, pointer: &str, detail: &str| {
            if !ok {
                faults.push(Fault::new(pointer, detail));
            }
        };
        let timeout = self.timeout_seconds.unwrap_or(DestinationSettings::DEFAULT_TIMEOUT.as_secs_f64());
        range((1.0..=300.0).contains(&timeout), "/timeout_seconds", "it must be between 1 and 300");
        let rate_ok = self.max_per_second.is_none_or(|rate| rate > 0.0 && rate <= 10_000.0);
        range(rate_ok, "/max_per_second", "it must be above 0 and at most 10000");
        let depth_ok = self.max_queue_depth.is_none_or(|depth| depth >= 1);
        range(depth_ok, "/max_queue_depth", "it must be at least 1");
        let description_ok = self
            .description
            .as_ref()
            .is_none_or(|text| !text.contains('\0') && text.chars().count() <= MAX_DESCRIPTION_CHARS);
        range(description_ok, "/description", "it must have at most 4096 characters, none of them NUL");
        let mut retry = None;
        if let Some(body) = &self.retry {
            match body.check() {
                Ok(policy) => retry = Some(policy),
                Err(found) => faults.extend(found),
            }
        }
        if let Err(error) = parse_url(&self.url) {
            faults.push(Fault::new("/url", error.to_string()));
        }
        let headers = match check_headers(self.headers.as_ref(), stored) {
            Ok(headers) => headers,
            Err(fault) => {
                faults.push(fault);
                Headers::default()
            }
        };
        if !faults.is_empty() {
            return Err(Problem::wrong(faults));
        }
        Ok(DestinationSettings {
            url: self.url.split('#').next().unwrap_or_default().to_owned(),
            description: self.description.clone(),
            headers,
            on_exhausted: self.on_exhausted.unwrap_or(OnExhausted::Discard),
            retry,
            timeout: Duration::from_secs_f64(timeout),
            max_per_second: self.max_per_second,
            max_queue_depth: self.max_queue_depth,
        })
    }
}

fn check_headers(entries: Option<&Entries<String>>, stored: &Headers) -> Result<Headers, Fault> {
    let Some(Entries(entries)) = entries else { return Ok(Headers::default()) };
    let entries = entries.iter().map(|(name, value)| match (value.as_str(), stored.get(name)) {
        (MASK, Some(kept)) => Ok((name.clone(), kept.to_owned())),
        (MASK, None) => {
            let pointer = format!("/headers/{}", super::payload::escape(name));
            Err(Fault::new(pointer, "`***` keeps a stored value, and there is none"))
        }
        (value, _) => Ok((name.clone(), value.to_owned())),
    });
    parse_headers(entries.collect::<Result<_, _>>()?, "/headers")
}

impl RetryBody {
    fn check(&self) -> Result<RetryPolicy, Vec<Fault>> {
        let mut faults = Vec::new();
        let max_retries = match self.max_retries {
            None => DEFAULT_RETRY.max_retries,
            Some(given) => u32::try_from(given).ok().filter(|count| *count <= 100).unwrap_or_else(|| {
                faults.push(Fault::new("/retry/max_retries", "it must be between 0 and 100"));
                0
            }),
        };
        let delay = self.delay_seconds.unwrap_or(DEFAULT_RETRY.delay.as_secs_f64());
        if !(0.0..=86_400.0).contains(&delay) {
            faults.push(Fault::new("/retry/delay_seconds", "it must be between 0 and 86400"));
        }
        let backoff = self.backoff.unwrap_or(DEFAULT_RETRY.backoff);
        if !(1.0..=10.0).contains(&backoff) {
            faults.push(Fault::new("/retry/backoff", "it must be between 1 and 10"));
        }
        if faults.is_empty() {
            Ok(RetryPolicy { max_retries, delay: Duration::from_secs_f64(delay), backoff })
        } else {
            Err(faults)
        }
    }
}
