//! Is a token that can be read three parts, the first two of them base64url, and does any other text do harm? (The
//! third is read when it is verified.)
#![no_main]

use libfuzzer_sys::fuzz_target;
use orderly::api::auth::{MAX_TOKEN_BYTES, parse_for_fuzzing};

fuzz_target!(|token: &str| {
    if parse_for_fuzzing(token) {
        assert!(token.len() <= MAX_TOKEN_BYTES);
        let parts: Vec<&str> = token.split('.').collect();
        assert_eq!(parts.len(), 3);
        for part in &parts[..2] {
            assert!(part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte)), "{token}");
        }
    }
});
