//! A certificate that is accepted keeps the rules of a leaf or those of an authority, never both.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mintmark_identity::SpiffeId;
use mintmark_identity::svid::x509::{Authority, Leaf};

fuzz_target!(|der: &[u8]| {
    let (leaf, authority) = (Leaf::parse(der), Authority::parse(der));
    assert!(leaf.is_err() || authority.is_err());
    if let Ok(leaf) = leaf {
        assert!(!leaf.spiffe_id.is_root());
        assert!(der.len() > leaf.tbs_der.len() && leaf.tbs_der.len() > leaf.spki_der.len());
    }
    if let Ok(authority) = authority {
        assert!(authority.spiffe_id.as_ref().is_none_or(SpiffeId::is_root));
    }
});
