//! Who asks too often?
//!
//! Token buckets of one second's worth, for all callers together and for each tenant. They count the calls to
//! this process: two behind a balancer let through twice as much.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultDirectRateLimiter, DefaultKeyedRateLimiter, Quota, RateLimiter};
use poem::error::ResponseError;
use poem::http::{HeaderValue, StatusCode, header};
use poem::{Request, Response};

use super::refusal::refusal;

/// After so many calls the buckets of tenants that are silent again are thrown away.
const SWEEP_EVERY: u32 = 4096;

/// A caller is above its rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many requests; try again in {retry_after_seconds} s")]
pub struct TooMany {
    pub retry_after_seconds: u64,
}

impl ResponseError for TooMany {
    fn status(&self) -> StatusCode {
        StatusCode::TOO_MANY_REQUESTS
    }

    fn as_response(&self) -> Response {
        let mut response = refusal(self.status(), &self.to_string());
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(self.retry_after_seconds));
        response
    }
}

impl TooMany {
    fn wait(wait: Duration) -> TooMany {
        TooMany { retry_after_seconds: wait.as_secs() + u64::from(wait.subsec_nanos() > 0) }
    }
}

/// The front checks the rate of all; [`Caller`](super::auth::Caller), which finds this in the request's
/// data, checks its tenant's.
#[derive(Clone)]
pub struct RateLimits(Arc<Buckets>);

struct Buckets {
    all: Option<DefaultDirectRateLimiter>,
    tenants: Option<DefaultKeyedRateLimiter<String>>,
    calls: AtomicU32,
    clock: DefaultClock,
}

impl RateLimits {
    /// Requests a second; None is no limit.
    pub fn new(all: Option<NonZeroU32>, each_tenant: Option<NonZeroU32>) -> RateLimits {
        RateLimits(Arc::new(Buckets {
            all: all.map(|rate| RateLimiter::direct(Quota::per_second(rate))),
            tenants: each_tenant.map(|rate| RateLimiter::keyed(Quota::per_second(rate))),
            calls: AtomicU32::new(0),
            clock: DefaultClock::default(),
        }))
    }

    /// Counts a request, and lets the caller's tenant be counted once it is known.
    pub fn admit(&self, request: &mut Request) -> Result<(), TooMany> {
        self.check()?;
        if self.0.tenants.is_some() {
            request.set_data(self.clone());
        }
        Ok(())
    }

    pub fn check(&self) -> Result<(), TooMany> {
        let Some(bucket) = &self.0.all else { return Ok(()) };
        bucket.check().map_err(|full| TooMany::wait(full.wait_time_from(self.0.clock.now())))
    }

    pub fn check_tenant(&self, tenant: &str) -> Result<(), TooMany> {
        let Some(buckets) = &self.0.tenants else { return Ok(()) };
        if self.0.calls.fetch_add(1, Relaxed) % SWEEP_EVERY == SWEEP_EVERY - 1 {
            buckets.retain_recent();
        }
        buckets.check_key(&tenant.to_owned()).map_err(|full| TooMany::wait(full.wait_time_from(self.0.clock.now())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_tenant_has_a_bucket_of_its_own() {
        let limits = RateLimits::new(None, NonZeroU32::new(2));
        for tenant in ["a", "b"] {
            assert_eq!(limits.check_tenant(tenant), Ok(()));
            assert_eq!(limits.check_tenant(tenant), Ok(()));
            assert_eq!(limits.check_tenant(tenant), Err(TooMany { retry_after_seconds: 1 }));
        }
        assert_eq!(limits.check(), Ok(()));
    }

    #[test]
    fn no_limit_is_no_limit() {
        let limits = RateLimits::new(None, None);
        assert!((0..100_000).all(|_| limits.check().is_ok() && limits.check_tenant("a").is_ok()));
    }

    #[test]
    fn the_wait_is_rounded_up() {
        for (millis, seconds) in [(0, 0), (1, 1), (1000, 1), (1001, 2)] {
            assert_eq!(TooMany::wait(Duration::from_millis(millis)).retry_after_seconds, seconds);
        }
    }
}
