//! Bundles in JSON, as SPIFFE and OIDC have them.

use mintmark_identity::{Bundle, BundleError as E, BundleMap, X509Authority};
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyUsagePurpose};
use serde_json::{Value, json};

use crate::support::{Signer, jwt_bundle, trust_domain};

/// What makes a sound document unsound.
type Change = fn(&mut Value);

fn certificate(signer: &Signer) -> X509Authority {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let certificate = params.self_signed(signer.pair()).unwrap();
    X509Authority {
        der: certificate.der().to_vec().into(),
        tainted: false,
    }
}

fn full() -> Bundle {
    let mut bundle = jwt_bundle([
        Signer::p256().authority("ec"),
        Signer::p384().authority("ec384"),
        Signer::rsa().authority("rsa"),
    ]);
    bundle.x509 = vec![
        certificate(&Signer::p256()),
        certificate(&Signer::p384()),
        certificate(&Signer::rsa()),
    ];
    bundle.wit = vec![Signer::p256().authority("wit")];
    bundle.sequence = u64::MAX;
    bundle.refresh_hint = Some(300);
    bundle
}

fn value(json: &str) -> Value {
    serde_json::from_str(json).unwrap()
}

fn read(document: &Value) -> Result<Bundle, E> {
    Bundle::from_json(&trust_domain(), document.to_string().as_bytes())
}

#[test]
fn what_is_written_is_read_back() {
    let bundle = full();
    let json = bundle.to_json().unwrap();
    assert_eq!(Bundle::from_json(&trust_domain(), json.as_bytes()).unwrap(), bundle);
}

#[test]
fn the_spiffe_form_has_the_members_it_must_and_no_others() {
    let document = value(&full().to_json().unwrap());
    assert_eq!(document["spiffe_sequence"], json!(u64::MAX));
    assert_eq!(document["spiffe_refresh_hint"], json!(300));
    for key in document["keys"].as_array().unwrap() {
        let key = key.as_object().unwrap();
        let mut members: Vec<_> = key.keys().map(String::as_str).collect();
        members.sort_unstable();
        let expected: &[&str] = match (key["use"].as_str().unwrap(), key["kty"].as_str().unwrap()) {
            ("x509-svid", "EC") => &["crv", "kty", "use", "x", "x5c", "y"],
            ("x509-svid", "RSA") => &["e", "kty", "n", "use", "x5c"],
            ("jwt-svid" | "wit-svid", "EC") => &["crv", "kid", "kty", "use", "x", "y"],
            ("jwt-svid", "RSA") => &["e", "kid", "kty", "n", "use"],
            other => panic!("{other:?}"),
        };
        assert_eq!(members, expected);
    }
    assert_eq!(
        value(&Bundle::new(trust_domain()).to_json().unwrap()),
        json!({"keys": [], "spiffe_sequence": 0})
    );
}

#[test]
fn the_oidc_form_is_another_document() {
    let bundle = full();
    let document = value(&bundle.oidc_jwks().unwrap());
    let keys = document["keys"].as_array().unwrap();
    let told: Vec<_> = keys
        .iter()
        .map(|key| (key["kid"].as_str().unwrap(), key["alg"].as_str().unwrap(), &key["use"]))
        .collect();
    let sig = json!("sig");
    assert_eq!(
        told,
        [("ec", "ES256", &sig), ("ec384", "ES384", &sig), ("rsa", "RS256", &sig)]
    );
    assert_eq!(document.as_object().unwrap().len(), 1);

    let plain = value(&bundle.jwt_jwks().unwrap());
    assert!(
        plain["keys"]
            .as_array()
            .unwrap()
            .iter()
            .all(|key| key.get("use").is_none())
    );
    let wit = value(&bundle.wit_jwks().unwrap());
    assert_eq!(
        (&wit["keys"][0]["kid"], &wit["keys"][0]["use"]),
        (&"wit".into(), &"wit-svid".into())
    );
}

#[test]
fn unknown_entries_and_empty_certificates_are_ignored() {
    let mut document = value(&full().to_json().unwrap());
    let known = document["keys"].as_array().unwrap().len();
    let keys = document["keys"].as_array_mut().unwrap();
    keys.extend([
        json!({"kty": "EC", "use": "sig", "kid": 1}),
        json!({"kty": "oct", "use": "jwt-svid", "k": "AA"}),
        json!({"kty": "AKP", "use": "x509-svid", "x5c": "odd"}),
        json!({"kty": "EC", "use": "x509-svid", "x5c": []}),
        json!({"kty": "EC", "use": "x509-svid"}),
        json!({"use": "jwt-svid"}),
        json!({"kty": "EC"}),
    ]);
    let bundle = read(&document).unwrap();
    assert_eq!(bundle.x509.len() + bundle.jwt.len() + bundle.wit.len(), known);

    // Of several certificates in an entry the first one counts.
    let first = document["keys"][0]["x5c"][0].clone();
    document["keys"][0]["x5c"] = json!([first, "AAAA"]);
    assert_eq!(read(&document).unwrap(), bundle);
}

#[test]
fn what_is_not_sound_is_refused_with_its_place() {
    let good = value(
        &jwt_bundle([Signer::p256().authority("a"), Signer::rsa().authority("b")])
            .to_json()
            .unwrap(),
    );
    let table: Vec<(&str, Change)> = vec![
        ("missing field `keys`", |d| {
            drop(d.as_object_mut().unwrap().remove("keys"))
        }),
        ("key 0 of the bundle has no kid", |d| {
            drop(d["keys"][0].as_object_mut().unwrap().remove("kid"))
        }),
        ("key ID \"../a\"", |d| d["keys"][0]["kid"] = json!("../a")),
        ("key ID a more than once", |d| d["keys"][1]["kid"] = json!("a")),
        ("key ID a more than once", |d| {
            d["keys"][1] = d["keys"][0].clone();
            d["keys"][1]["use"] = json!("wit-svid");
        }),
        ("member x is missing", |d| {
            drop(d["keys"][0].as_object_mut().unwrap().remove("x"))
        }),
        ("member y is not canonical base64url", |d| {
            d["keys"][0]["y"] = json!("=")
        }),
        ("member y has 2 bytes", |d| d["keys"][0]["y"] = json!("AAA")),
        ("is not on the curve", |d| d["keys"][0]["y"] = d["keys"][0]["x"].clone()),
        ("modulus is even", |d| d["keys"][1]["n"] = json!("AgAA")),
        ("public exponent", |d| d["keys"][1]["e"] = json!("AQ")),
        ("has a private part", |d| d["keys"][0]["d"] = json!("AQ")),
        ("not an X.509 certificate", |d| {
            d["keys"][0] = json!({"kty": "EC", "use": "x509-svid", "x5c": ["MAA="]})
        }),
        ("x5c is not canonical base64", |d| {
            d["keys"][0] = json!({"kty": "EC", "use": "x509-svid", "x5c": ["_"]})
        }),
        ("invalid value: integer `-1`", |d| d["spiffe_sequence"] = json!(-1)),
    ];
    for (problem, change) in table {
        let mut document = good.clone();
        change(&mut document);
        let error = read(&document).expect_err(problem).to_string();
        assert!(error.contains(problem), "{problem}: {error}");
    }
    // The same key twice under one ID is one key.
    let mut document = good;
    document["keys"][1] = document["keys"][0].clone();
    assert_eq!(read(&document).unwrap().jwt.len(), 1);
}

#[test]
fn a_document_is_bounded() {
    let keys = vec![json!({"kty": "x"}); 1001];
    assert!(matches!(
        read(&json!({"keys": keys})),
        Err(E::TooManyKeys { count: 1001 })
    ));
    assert!(read(&json!({"keys": keys[1..]})).unwrap().is_empty());
    let long = json!({"keys": [], "x": " ".repeat(1 << 20)});
    assert!(matches!(read(&long), Err(E::TooLong { .. })));
}

#[test]
fn a_bundle_map_refuses_a_trust_domain_that_is_there_twice() {
    let bundle = full();
    let map: BundleMap = [bundle.clone()].into_iter().collect();
    let json = map.to_json().unwrap();
    assert!(!json.contains("spiffe_refresh_hint"));
    let back = BundleMap::from_json(json.as_bytes()).unwrap();
    let expected = Bundle {
        refresh_hint: None,
        ..bundle
    };
    assert_eq!(back.get(&trust_domain()), Some(&expected));

    let empty = r#"{"keys":[]}"#;
    let read = |members: &str| BundleMap::from_json(format!(r#"{{"trust_domains":{{{members}}}}}"#).as_bytes());
    assert_eq!(read(&format!(r#""a":{empty},"b":{empty}"#)).unwrap().len(), 2);
    assert!(matches!(
        read(&format!(r#""a":{empty},"a":{empty}"#)),
        Err(E::DuplicateTrustDomain { .. })
    ));
    assert!(matches!(
        read(&format!(r#""a":{empty},"A":{empty}"#)),
        Err(E::DuplicateTrustDomain { .. })
    ));
    assert!(matches!(
        read(&format!(r#""spiffe://a":{empty}"#)),
        Err(E::TrustDomain(_))
    ));
    assert!(matches!(BundleMap::from_json(b"{}"), Err(E::Json { .. })));
}
