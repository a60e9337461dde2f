//! A bundle that is accepted and can be written is read back the same.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use mintmark_identity::{Bundle, TrustDomain};

static TRUST_DOMAIN: LazyLock<TrustDomain> = LazyLock::new(|| TrustDomain::parse("example.org").unwrap());

fuzz_target!(|json: &[u8]| {
    let Ok(bundle) = Bundle::from_json(&TRUST_DOMAIN, json) else {
        return;
    };
    let _ = (bundle.oidc_jwks(), bundle.jwt_jwks(), bundle.wit_jwks());
    if let Ok(written) = bundle.to_json() {
        assert_eq!(Bundle::from_json(&TRUST_DOMAIN, written.as_bytes()).unwrap(), bundle);
    }
});
