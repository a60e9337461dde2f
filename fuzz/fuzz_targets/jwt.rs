//! Tokens of both kinds: what is well formed keeps the rules, and nothing is verified that was not signed.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use mintmark_identity::svid::{jwt, wit};
use mintmark_identity::{Bundle, TrustDomain};

/// The bundle that the seeds' key is in; the seeds have expired.
static BUNDLE: LazyLock<Bundle> = LazyLock::new(|| {
    let trust_domain = TrustDomain::parse("example.org").unwrap();
    Bundle::from_json(&trust_domain, include_bytes!("../corpus/bundle_json/seed-all")).unwrap()
});

fuzz_target!(|token: &str| {
    if let Ok(token) = jwt::Token::parse(token) {
        assert!(!token.audience().is_empty());
        let expires_at = token.expires_at();
        let audience = token.audience()[0].clone();
        assert!(token.verify(&audience, expires_at, 0, &BUNDLE).is_err());
    }
    let _ = jwt::verify(token, "a", 0, 0, |_| Some(&*BUNDLE));
    if let Ok(token) = wit::Token::parse(token) {
        let expires_at = token.expires_at();
        assert!(token.verify(expires_at, 0, &BUNDLE).is_err());
    }
    let _ = wit::verify(token, 0, 0, |_| Some(&*BUNDLE));
});
