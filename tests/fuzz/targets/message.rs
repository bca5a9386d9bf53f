//! Is a posted body either refused as it should be, or a message whose payload is what was sent?
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|body: &[u8]| {
    orderly::api::fuzzing::read_message(body);
});
