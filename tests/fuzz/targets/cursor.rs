//! Does a made-up cursor name a place that no page could have named?
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    orderly::api::fuzzing::read_cursor(text);
});
