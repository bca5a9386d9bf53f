//! Does the sealer open anything that it did not seal, or stumble over it?
#![no_main]

use libfuzzer_sys::fuzz_target;
use orderly::store::Sealer;

fuzz_target!(|bytes: &[u8]| {
    let keys = ["AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=".to_owned()];
    let sealer = Sealer::from_keys(&keys).expect("32 bytes");
    match sealer.open(bytes) {
        Ok(secret) => assert_eq!([&[0], &secret[..]].concat(), bytes, "only what is plain opens"),
        Err(_) => {
            let sealed = sealer.seal(bytes);
            assert_eq!(sealer.open(&sealed).as_deref(), Ok(bytes));
        }
    }
});
