//! When is a failed try repeated?

use std::time::Duration;

/// No wait between two tries is longer than a day: the message would be gone by then.
const CEILING: Duration = Duration::from_secs(86_400);

/// How often and how far apart a failing message is tried.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RetryPolicy {
    /// Tries after the first.
    pub max_retries: u32,
    /// From the end of one try to the start of the next.
    pub delay: Duration,
    /// Each wait is this many times the one before; from 1.
    pub backoff: f64,
}

impl RetryPolicy {
    /// The wait after failed try number `attempt` (from 1); `None` when that was the last.
    ///
    /// `jitter` in 0..1 spreads growing waits by up to a tenth upwards, so that destinations that failed
    /// together do not come back together; a constant delay stays exact.
    pub fn delay_after(&self, attempt: u32, jitter: f64) -> Option<Duration> {
        if attempt > self.max_retries {
            return None;
        }
        if self.backoff <= 1.0 {
            return Some(self.delay.min(CEILING));
        }
        let grown = self.delay.as_secs_f64() * self.backoff.powf(f64::from(attempt - 1)) * (1.0 + jitter / 10.0);
        Some(Duration::from_secs_f64(grown.min(CEILING.as_secs_f64())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_to_a_ceiling_and_end() {
        let constant = RetryPolicy { max_retries: 2, delay: Duration::from_secs(1), backoff: 1.0 };
        assert_eq!(constant.delay_after(1, 0.9), Some(Duration::from_secs(1)));
        assert_eq!(constant.delay_after(2, 0.0), Some(Duration::from_secs(1)));
        assert_eq!(constant.delay_after(3, 0.0), None);
        let growing = RetryPolicy { max_retries: 100, delay: Duration::from_secs(2), backoff: 3.0 };
        assert_eq!(growing.delay_after(1, 0.0), Some(Duration::from_secs(2)));
        assert_eq!(growing.delay_after(3, 0.0), Some(Duration::from_secs(18)));
        assert_eq!(growing.delay_after(3, 1.0), Some(Duration::from_secs_f64(19.8)));
        assert_eq!(growing.delay_after(100, 1.0), Some(CEILING));
        let never = RetryPolicy { max_retries: 0, delay: Duration::ZERO, backoff: 1.0 };
        assert_eq!(never.delay_after(1, 0.0), None);
    }
}
