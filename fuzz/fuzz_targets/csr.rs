//! Signing requests and public keys: what is accepted keeps its encoding.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mintmark_identity::jwk::Jwk;
use mintmark_identity::{Csr, PublicKey};

fuzz_target!(|der: &[u8]| {
    if let Ok(csr) = Csr::parse(der) {
        let _ = (csr.verify_signature(), csr.spiffe_id());
        check(csr.public_key().spki_der());
    }
    check(der);
});

fn check(spki: &[u8]) {
    let Ok(key) = PublicKey::from_spki_der(spki) else {
        return;
    };
    assert_eq!(key.spki_der(), spki);
    assert_eq!(Jwk::from_spki(spki).unwrap().spki_der().unwrap(), spki);
}
