//! How did one try end?

use std::time::Duration;

use bytes::Bytes;

use super::destination::names;

/// The end of one try. A failed delivery is an outcome, not an error.
#[derive(Debug, Clone)]
pub struct Outcome {
    pub duration: Duration,
    /// The receiver's answer, when there was one.
    pub status_code: Option<u16>,
    /// The first 1 KiB of the answer's body.
    pub response: Bytes,
    /// `Err`: the try failed. A 2xx is `Ok`.
    pub result: Result<(), Failure>,
}

#[derive(Debug, Clone)]
pub struct Failure {
    pub kind: FailureKind,
    /// For people: what went wrong, without secrets. At most a few hundred characters.
    pub detail: String,
    /// From a `Retry-After` on 429 or 503: wait at least so long.
    pub retry_after: Option<Duration>,
}

/// What a failure is counted as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FailureKind {
    /// An answer that is not 2xx, redirects included.
    Status,
    /// 410: the receiver wants nothing more.
    Gone,
    Timeout,
    Dns,
    Refused,
    Tls,
    /// The address guard said no.
    ForbiddenAddress,
    /// The answer's headers, not its body, are too large.
    TooLarge,
    /// The connection broke, or what came was not HTTP.
    Broken,
}

names!(FailureKind {
    Status = "status",
    Gone = "gone",
    Timeout = "timeout",
    Dns = "dns",
    Refused = "refused",
    Tls = "tls",
    ForbiddenAddress = "forbidden_address",
    TooLarge = "too_large",
    Broken = "broken",
});

impl Outcome {
    pub fn delivered(&self) -> bool {
        self.result.is_ok()
    }
}
