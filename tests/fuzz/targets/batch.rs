//! The same for batches.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|body: &[u8]| {
    orderly::api::fuzzing::read_batch(body);
});
