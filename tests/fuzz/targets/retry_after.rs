//! Can a receiver's `Retry-After` stop a worker, or keep it away for more than a day?
#![no_main]

use std::time::{Duration, SystemTime};

use libfuzzer_sys::fuzz_target;
use orderly::delivery::parse_retry_after;

fuzz_target!(|value: &[u8]| {
    if let Some(wait) = parse_retry_after(value, SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)) {
        assert!(wait <= Duration::from_secs(86_400));
    }
});
