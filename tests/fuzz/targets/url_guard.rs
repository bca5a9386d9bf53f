//! Does any text get past the guard that names a local host or a forbidden address?
#![no_main]

use std::net::IpAddr;

use libfuzzer_sys::fuzz_target;
use orderly::delivery::Guard;
use orderly::domain::parse_url;
use url::Host;

fuzz_target!(|text: &str| {
    let guard = Guard::new(Vec::new(), Vec::new(), false);
    let Ok(url) = parse_url(text) else { return };
    if guard.check_url(&url).is_err() {
        return;
    }
    // What is let through means the same once it is stored and read again.
    let again = parse_url(url.as_str()).expect("its own form");
    assert_eq!(again.host(), url.host());
    assert!(guard.check_url(&again).is_ok());
    match url.host().expect("it has one") {
        Host::Ipv4(address) => assert!(guard.check_address(IpAddr::V4(address)).is_ok()),
        Host::Ipv6(address) => assert!(guard.check_address(IpAddr::V6(address)).is_ok()),
        Host::Domain(name) => {
            let name = name.to_lowercase();
            let bare = name.trim_end_matches('.');
            assert!(bare != "localhost" && !bare.ends_with(".localhost") && !bare.ends_with(".internal"));
            // The client dials what parses as an address without asking the resolver.
            assert!(name.parse::<IpAddr>().is_err() && bare.parse::<IpAddr>().is_err(), "{name}");
        }
    }
});
