//! A bundle map that is accepted and can be written is read back the same, but for refresh hints.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mintmark_identity::{Bundle, BundleMap};

fuzz_target!(|json: &[u8]| {
    let Ok(map) = BundleMap::from_json(json) else { return };
    if let Ok(written) = map.to_json() {
        let expected: BundleMap = map
            .iter()
            .map(|bundle| Bundle {
                refresh_hint: None,
                ..bundle.clone()
            })
            .collect();
        assert_eq!(BundleMap::from_json(written.as_bytes()).unwrap(), expected);
    }
});
