//! Can a notification of somebody else's, on the same channel, stop a worker?
#![no_main]

use libfuzzer_sys::fuzz_target;
use orderly::worker::notice::Notice;

fuzz_target!(|payload: &str| {
    match Notice::parse(payload) {
        Notice::Bell(ids) | Notice::Wake(ids) | Notice::Swept(ids) | Notice::Asked(ids) => {
            assert_eq!(ids.len(), payload.split(',').count());
        }
        Notice::Joined(_, kind) => assert!(payload.ends_with(&kind)),
        Notice::Left(_)
        | Notice::Draining(_)
        | Notice::Ping { .. }
        | Notice::Pong { .. }
        | Notice::Missed { .. }
        | Notice::Unknown => {}
    }
});
