//! No parser panics, and each reads back what it wrote.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use mintmark_identity::jwk::Jwk;
use mintmark_identity::svid::x509::{Authority, Leaf};
use mintmark_identity::svid::{jwt, wit};
use mintmark_identity::{
    Bundle, BundleMap, Csr, JwsAlg, JwtAuthority, KeyId, PublicKey, Selector, Selectors, Serial, SpiffeId, TrustDomain,
    Ttl,
};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select, subsequence};

use crate::support::{NOW, Signer, claims, header, jwt_bundle, trust_domain};
use crate::{csr, x509};

/// Text that is nearly a SPIFFE ID: each part is mostly right.
fn nearly_an_id() -> impl Strategy<Value = String> {
    let scheme = prop_oneof![8 => Just("spiffe://".to_owned()), 1 => "[sS][pP][iI]ffe://", 1 => "[a-z:/]{0,9}"];
    let domain = prop_oneof![8 => "[a-zA-Z0-9._-]{1,20}", 1 => "[ -~]{0,12}", 1 => "[a-z]{250,260}"];
    let segment = prop_oneof![8 => "[a-zA-Z0-9._-]{1,9}", 1 => "[ -~]{0,4}", 1 => "\\.{0,3}", 1 => "\\PC{0,3}"];
    (scheme, domain, vec(segment, 0..5), "/?").prop_map(|(scheme, domain, segments, end)| {
        let path: String = segments.iter().flat_map(|segment| ["/", segment]).collect();
        scheme + &domain + &path + &end
    })
}

/// The bytes with some of them changed, left out, put in or doubled.
fn mutated(bytes: Vec<u8>) -> impl Strategy<Value = Vec<u8>> {
    vec((any::<Index>(), 0..4_u8, any::<u8>()), 1..4).prop_map(move |changes| {
        let mut bytes = bytes.clone();
        for (at, what, byte) in changes {
            let at = at.index(bytes.len().max(1));
            match what {
                _ if bytes.is_empty() => bytes.push(byte),
                0 => drop(bytes.remove(at)),
                1 => bytes.insert(at, byte),
                2 => bytes[at] = byte,
                _ => bytes[at] ^= 1 << (byte % 8),
            }
        }
        bytes
    })
}

fn spki() -> impl Strategy<Value = Vec<u8>> {
    static KEYS: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
        let refused = include_str!("../data/refused_keys.txt").lines();
        let refused = refused.map(|line| hex::decode(line.split_once(' ').unwrap().1).unwrap());
        [Signer::p256(), Signer::p384(), Signer::rsa()]
            .iter()
            .map(Signer::spki_der)
            .chain(refused)
            .collect()
    });
    select(&**KEYS)
}

/// The keys that JWT and WIT authorities are made of.
static AUTHORITIES: LazyLock<Vec<JwtAuthority>> = LazyLock::new(|| {
    let signers = [Signer::p256(), Signer::p384(), Signer::rsa(), Signer::p256()];
    signers
        .iter()
        .enumerate()
        .map(|(index, signer)| signer.authority(&format!("key-{index}")))
        .collect()
});

fn bundle() -> impl Strategy<Value = Bundle> {
    let keys = subsequence(AUTHORITIES.clone(), 0..=AUTHORITIES.len());
    (keys, any::<Index>(), any::<u64>(), any::<Option<u32>>()).prop_map(|(mut keys, at, sequence, refresh_hint)| {
        let wit = keys.split_off(at.index(keys.len() + 1));
        Bundle {
            sequence,
            refresh_hint,
            wit,
            ..jwt_bundle(keys)
        }
    })
}

/// What is parsed from a mutated document and can be written is written so that it is read back.
fn check_bundle(json: &[u8]) {
    if let Ok(read) = Bundle::from_json(&trust_domain(), json)
        && let Ok(written) = read.to_json()
    {
        assert_eq!(Bundle::from_json(&trust_domain(), written.as_bytes()).unwrap(), read);
        drop((read.oidc_jwks(), read.jwt_jwks(), read.wit_jwks()));
    }
    if let Ok(read) = BundleMap::from_json(json)
        && let Ok(written) = read.to_json()
    {
        assert_eq!(BundleMap::from_json(written.as_bytes()).unwrap().len(), read.len());
    }
}

proptest! {
    #[test]
    fn an_id_is_one_where_the_crate_spiffe_says_so(text in prop_oneof![4 => nearly_an_id(), 1 => any::<String>()]) {
        let ours = SpiffeId::parse(&text);
        match spiffe::SpiffeId::new(&text) {
            Ok(theirs) => {
                let ours = ours.map_err(|error| TestCaseError::fail(format!("{text:?}: {error}")))?;
                prop_assert_eq!(ours.as_str(), theirs.to_string());
                prop_assert_eq!(ours.path(), theirs.path());
                prop_assert_eq!(ours.trust_domain_name(), theirs.trust_domain_name());
            }
            Err(theirs) => prop_assert!(ours.is_err(), "{:?}: {}", text, theirs),
        }
    }

    #[test]
    fn an_id_is_canonical_and_its_parts_make_it_again(text in nearly_an_id()) {
        if let Ok(id) = SpiffeId::parse(&text) {
            prop_assert_eq!(&SpiffeId::parse(id.as_str()).unwrap(), &id);
            prop_assert_eq!(&SpiffeId::new(&id.trust_domain(), id.path()).unwrap(), &id);
            prop_assert!(id.is_in(&id.trust_domain()));
            prop_assert_eq!(id.trust_domain().id() == id, id.is_root());
            let json = serde_json::to_string(&id).unwrap();
            prop_assert_eq!(serde_json::from_str::<SpiffeId>(&json).unwrap(), id.clone());
            prop_assert!(id.as_str().eq_ignore_ascii_case(&text));
            let name = id.trust_domain();
            prop_assert_eq!(TrustDomain::parse(&name.as_str().to_uppercase()).unwrap(), name);
        }
    }

    #[test]
    fn a_selector_is_read_back(kind in "[^:]{1,20}", value in ".{1,40}", any in any::<String>()) {
        let selector = Selector::new(&kind, &value).unwrap();
        prop_assert_eq!((selector.kind(), selector.value()), (&*kind, &*value));
        prop_assert_eq!(Selector::parse(&selector.to_string()).unwrap(), selector);
        if let Ok(selector) = Selector::parse(&any) {
            prop_assert_eq!(selector.as_str(), any);
        }
    }

    #[test]
    fn a_subset_is_what_sets_say(
        a in vec("[ab]:[a-d]", 0..6),
        b in vec("[ab]:[a-d]", 0..12),
    ) {
        let sets = (a.iter().collect::<BTreeSet<_>>(), b.iter().collect::<BTreeSet<_>>());
        let (a, b) = (Selectors::parse(&a).unwrap(), Selectors::parse(&b).unwrap());
        prop_assert_eq!(a.is_subset(&b), sets.0.is_subset(&sets.1));
        prop_assert_eq!(a.len(), sets.0.len());
        prop_assert!(a.iter().all(|one| b.contains(one) == sets.1.contains(&one.to_string())));
    }

    #[test]
    fn a_serial_keeps_its_parts(log: u16, index in 0..=Serial::MAX_INDEX, random: [u8; 11]) {
        let serial = Serial::new(log, index, random).unwrap();
        prop_assert_eq!((serial.log(), serial.index(), &serial.as_bytes()[9..]), (log, index, &random[..]));
        prop_assert_eq!(Serial::from_bytes(serial.as_bytes()).unwrap(), serial);
        prop_assert_eq!(Serial::parse(&serial.hex()).unwrap(), serial);
        prop_assert_eq!(Serial::parse(&serial.jti()).unwrap(), serial);
    }

    #[test]
    fn what_is_read_as_a_serial_was_printed_as_one(text in prop_oneof!["01[0-9a-fA-F:]{20,60}", "AQ[A-Za-z0-9_-]{25}", ".*"]) {
        if let Ok(serial) = Serial::parse(&text) {
            let plain = text.replace(':', "");
            prop_assert!(serial.jti() == text || serial.hex().eq_ignore_ascii_case(&plain));
        }
    }

    #[test]
    fn a_lifetime_is_read_back(secs in 1..=Ttl::MAX_SECS, text in "([0-9]{1,20}[smhd ]?){0,4}") {
        let ttl = Ttl::from_secs(secs.into()).unwrap();
        prop_assert_eq!(Ttl::parse(&ttl.to_string()).unwrap(), ttl);
        if let Ok(ttl) = Ttl::parse(&text) {
            prop_assert_eq!(Ttl::parse(&ttl.to_string()).unwrap(), ttl);
        }
    }

    #[test]
    fn a_key_id_is_read_back(text in "\\PC{0,70}") {
        if let Ok(id) = KeyId::parse(&text) {
            prop_assert_eq!(id.as_str(), text);
        }
    }

    #[test]
    fn an_accepted_key_has_one_encoding(der in spki().prop_flat_map(mutated)) {
        if let Ok(key) = PublicKey::from_spki_der(&der) {
            prop_assert_eq!(key.spki_der(), &*der);
        }
        if let Ok(jwk) = Jwk::from_spki(&der)
            && let Ok(back) = jwk.spki_der()
        {
            prop_assert_eq!(back, der);
        }
    }

    #[test]
    fn bytes_of_any_kind_are_refused_without_a_panic(bytes in vec(any::<u8>(), 0..200), text in any::<String>()) {
        prop_assert!(PublicKey::from_spki_der(&bytes).is_err());
        prop_assert!(Leaf::parse(&bytes).is_err() && Authority::parse(&bytes).is_err());
        prop_assert!(Csr::parse(&bytes).is_err());
        prop_assert!(Bundle::from_json(&trust_domain(), &bytes).is_err());
        prop_assert!(BundleMap::from_json(&bytes).is_err());
        prop_assert!(jwt::Token::parse(&text).is_err() && wit::Token::parse(&text).is_err());
    }

    #[test]
    fn a_changed_certificate_keeps_the_rules_or_is_refused(
        leaf in mutated(x509::der(&x509::leaf(), &Signer::p256())),
        authority in mutated(x509::der(&x509::authority(), &Signer::p256())),
    ) {
        for der in [leaf, authority] {
            if let Ok(leaf) = Leaf::parse(&der) {
                prop_assert!(!leaf.spiffe_id.is_root());
                prop_assert!(Authority::parse(&der).is_err());
            }
            if let Ok(authority) = Authority::parse(&der) {
                prop_assert!(authority.spiffe_id.as_ref().is_none_or(SpiffeId::is_root));
            }
        }
    }

    #[test]
    fn a_changed_request_does_not_panic(der in mutated(csr::request(&Signer::p256(), &["spiffe://example.org/a"]))) {
        if let Ok(csr) = Csr::parse(&der) {
            drop((csr.spiffe_id(), csr.verify_signature()));
        }
    }

    #[test]
    fn a_changed_token_is_refused(seed in any::<Index>(), what in 0..3_u8, byte in "[A-Za-z0-9_.-]") {
        static SIGNED: LazyLock<(Bundle, String)> = LazyLock::new(|| {
            let signer = Signer::p256();
            let token = signer.token(JwsAlg::Es256, &header().to_string(), &claims().to_string());
            (jwt_bundle([signer.authority("key-1")]), token)
        });
        let (bundle, original) = &*SIGNED;
        let at = seed.index(original.len());
        let mut token = original.clone();
        match what {
            0 => drop(token.remove(at)),
            1 => token.insert_str(at, &byte),
            _ => token.replace_range(at..=at, &byte),
        }
        let verified = jwt::verify(&token, "sts.amazonaws.com", NOW, 0, |_| Some(bundle));
        prop_assert_eq!(verified.is_ok(), token == *original);
    }

    #[test]
    fn a_bundle_is_read_back(bundle in bundle()) {
        let json = bundle.to_json().unwrap();
        prop_assert_eq!(&Bundle::from_json(&trust_domain(), json.as_bytes()).unwrap(), &bundle);
        let map: BundleMap = [bundle].into_iter().collect();
        check_bundle(map.to_json().unwrap().as_bytes());
    }

    #[test]
    fn a_changed_bundle_does_not_panic(
        json in bundle().prop_flat_map(|bundle| mutated(bundle.to_json().unwrap().into_bytes())),
        map in bundle().prop_flat_map(|bundle| {
            mutated(BundleMap::from_iter([bundle]).to_json().unwrap().into_bytes())
        }),
    ) {
        check_bundle(&json);
        check_bundle(&map);
    }
}

#[test]
fn the_key_sets_are_read_by_the_crate_spiffe() {
    let bundle = jwt_bundle(AUTHORITIES.clone());
    let td = spiffe::TrustDomain::new("example.org").unwrap();
    for document in [bundle.jwt_jwks().unwrap(), bundle.to_json().unwrap()] {
        let theirs = spiffe::JwtBundle::from_jwt_authorities(td.clone(), document.as_bytes()).unwrap();
        for authority in &bundle.jwt {
            assert!(
                theirs.find_jwt_authority(authority.key_id.as_str()).is_some(),
                "{document}"
            );
        }
    }
    let token = Signer::p256().token(JwsAlg::Es256, &header().to_string(), &claims().to_string());
    let theirs = spiffe::JwtSvid::parse_insecure(&token).unwrap();
    let ours = jwt::Token::parse(&token).unwrap();
    assert_eq!(theirs.spiffe_id().to_string(), ours.subject().as_str());
    assert_eq!(theirs.audience(), ours.audience());
}
