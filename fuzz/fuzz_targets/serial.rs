//! A serial that is accepted, in any of its forms, is printed as it was.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mintmark_identity::{KeyId, Serial, Ttl};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(serial) = Serial::from_bytes(bytes) {
        assert_eq!(serial.as_bytes(), bytes);
        assert_eq!(Serial::parse(&serial.hex()), Ok(serial));
        assert_eq!(Serial::parse(&serial.jti()), Ok(serial));
        let random = bytes[9..].try_into().unwrap();
        assert_eq!(Serial::new(serial.log(), serial.index(), random), Ok(serial));
    }
    let Ok(text) = str::from_utf8(bytes) else { return };
    if let Ok(serial) = Serial::parse(text) {
        assert!(serial.jti() == text || serial.hex().eq_ignore_ascii_case(&text.replace(':', "")));
    }
    if let Ok(ttl) = Ttl::parse(text) {
        assert_eq!(Ttl::parse(&ttl.to_string()), Ok(ttl));
    }
    if let Ok(id) = KeyId::parse(text) {
        assert_eq!(id.as_str(), text);
    }
});
