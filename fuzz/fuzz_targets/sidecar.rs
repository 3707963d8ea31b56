//! The sidecar of a snapshot: no bytes make the parser panic, and none are believed that were not
//! written with the key.

#![no_main]
#![allow(dead_code, reason = "firstboot is no library, and uses more of this file")]

use libfuzzer_sys::fuzz_target;

#[path = "../../firstboot/src/snapshot/sidecar.rs"]
mod sidecar;

fuzz_target!(|data: &[u8]| {
    let key = sidecar::Key::parse(&"ab".repeat(32)).expect("64 digits");
    let cluster = "home-1".parse().expect("a name");
    assert!(sidecar::Sidecar::open(data, &cluster, &key).is_err());
});
