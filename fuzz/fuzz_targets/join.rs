//! The join secret: no bytes make the parser panic, what is taken comes back the same, and no error
//! quotes what it was given.

#![no_main]

use libfuzzer_sys::fuzz_target;
use node::join::Join;
use node::values::Digest;

/// Stands in every input; no error may hold it.
const WORD: &str = "s3cret-s3cret";

fuzz_target!(|data: &[u8]| {
    let _ = Join::decode(data);
    // Behind a true header the content is reached, which no mutation would get right.
    let body = [format!("{{\"token\":\"{WORD}\",").as_bytes(), data].concat();
    for body in [data, body.as_slice()] {
        let mut whole = format!("firstboot-join-1 {} {}\n", body.len(), Digest::of(body)).into_bytes();
        whole.extend_from_slice(body);
        match Join::decode(&whole) {
            Ok(join) => {
                let again = join.encode().expect("what was read can be written");
                assert_eq!(Join::decode(&again), Ok(join));
            }
            Err(error) => assert!(!error.to_string().contains(WORD)),
        }
    }
});
