//! A SPIFFE ID that is accepted is canonical and made of its parts.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mintmark_identity::{SpiffeId, TrustDomain};

fuzz_target!(|text: &str| {
    if let Ok(name) = TrustDomain::parse(text) {
        assert_eq!(TrustDomain::parse(name.as_str()).as_ref(), Ok(&name));
        assert!(name.id().is_root());
    }
    let Ok(id) = SpiffeId::parse(text) else { return };
    assert!(id.as_str().eq_ignore_ascii_case(text));
    assert!(id.as_str().len() <= 2048 && id.trust_domain_name().len() <= 255);
    assert_eq!(SpiffeId::parse(id.as_str()).as_ref(), Ok(&id));
    assert_eq!(SpiffeId::new(&id.trust_domain(), id.path()).as_ref(), Ok(&id));
    for byte in id.path().bytes() {
        assert!(byte.is_ascii_alphanumeric() || b"/.-_".contains(&byte));
    }
    for segment in id.path().split('/').skip(1) {
        assert!(!matches!(segment, "" | "." | ".."));
    }
});
