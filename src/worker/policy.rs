//! What follows from the outcome of a try?

use std::time::Duration;

use crate::domain::{FailureKind, OnExhausted, Outcome, Policy, RetryPolicy};
use crate::store::session::Ending;

/// `number` from 1; `left` until the message expires: a wait ends there at the latest.
pub fn decide(policy: &Policy, fallback: &RetryPolicy, number: u32, outcome: &Outcome, left: Duration) -> Ending {
    let Err(failure) = &outcome.result else { return Ending::Delivered };
    if failure.kind == FailureKind::Gone {
        // The destination is disabled; the message waits for a person, not for a time.
        return Ending::Retry { after: Duration::ZERO };
    }
    let retry = policy.retry.as_ref().unwrap_or(fallback);
    match retry.delay_after(number, rand::random::<f64>()) {
        Some(delay) => Ending::Retry { after: delay.max(failure.retry_after.unwrap_or_default()).min(left) },
        None => match policy.on_exhausted {
            OnExhausted::Discard => Ending::Exhausted,
            OnExhausted::Hold => Ending::Held,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Failure, Headers};

    fn outcome(kind: FailureKind, retry_after: Option<u64>) -> Outcome {
        Outcome {
            duration: Duration::ZERO,
            status_code: None,
            response: bytes::Bytes::new(),
            result: Err(Failure { kind, detail: String::new(), retry_after: retry_after.map(Duration::from_secs) }),
        }
    }

    #[test]
    fn a_failure_is_retried_then_ends_as_the_policy_says() {
        let fallback = RetryPolicy { max_retries: 1, delay: Duration::from_secs(2), backoff: 1.0 };
        let mut policy = Policy {
            url: "http://x/".parse().expect("a URL"),
            headers: Headers::default(),
            on_exhausted: OnExhausted::Discard,
            retry: None,
            timeout: Duration::from_secs(30),
            max_per_second: None,
            hmac_secret: None,
        };
        let hour = Duration::from_secs(3_600);
        let status = outcome(FailureKind::Status, None);
        assert_eq!(decide(&policy, &fallback, 1, &status, hour), Ending::Retry { after: Duration::from_secs(2) });
        assert_eq!(decide(&policy, &fallback, 2, &status, hour), Ending::Exhausted);
        policy.on_exhausted = OnExhausted::Hold;
        assert_eq!(decide(&policy, &fallback, 2, &status, hour), Ending::Held);
        // Retry-After: never earlier than the policy, bounded by the expiry.
        let asked = |seconds| decide(&policy, &fallback, 1, &outcome(FailureKind::Status, Some(seconds)), hour);
        assert_eq!(asked(1), Ending::Retry { after: Duration::from_secs(2) });
        assert_eq!(asked(9), Ending::Retry { after: Duration::from_secs(9) });
        assert_eq!(asked(9_999), Ending::Retry { after: hour });
        assert_eq!(
            decide(&policy, &fallback, 9, &outcome(FailureKind::Gone, None), hour),
            Ending::Retry { after: Duration::ZERO }
        );
        let none = RetryPolicy { max_retries: 0, ..fallback };
        policy.retry = Some(none);
        assert_eq!(decide(&policy, &fallback, 1, &status, hour), Ending::Held);
    }
}
