//! JWT-SVIDs are accepted and refused by the standard's rules.

use std::sync::Arc;

use mintmark_identity::svid::TokenError as E;
use mintmark_identity::svid::jwt::{self, Token};
use mintmark_identity::{Bundle, JwsAlg, JwtAuthority};
use serde_json::json;

use crate::support::{NOW, Signer, claims, header, jwt_bundle, trust_domain, with};

/// Whether an error is the one that is due.
type Check = fn(&E) -> bool;

const AUDIENCE: &str = "sts.amazonaws.com";

fn verify(token: &str, bundle: &Bundle) -> Result<jwt::Claims, E> {
    jwt::verify(token, AUDIENCE, NOW, 0, |_| Some(bundle))
}

#[test]
fn a_token_of_each_key_and_algorithm_is_verified() {
    let (p256, p384, rsa) = (Signer::p256(), Signer::p384(), Signer::rsa());
    let bundle = Arc::new(jwt_bundle([
        p256.authority("key-1"),
        p384.authority("key-2"),
        rsa.authority("key-3"),
    ]));
    for algorithm in JwsAlg::ALL {
        let (signer, kid) = match algorithm {
            JwsAlg::Es256 => (&p256, "key-1"),
            JwsAlg::Es384 => (&p384, "key-2"),
            JwsAlg::Es512 => continue,
            _ => (&rsa, "key-3"),
        };
        for typ in [json!("JWT"), json!("JOSE"), json!(null)] {
            let header = with(header(), json!({"alg": algorithm.as_str(), "kid": kid, "typ": typ}));
            let token = signer.token(algorithm, &header.to_string(), &claims().to_string());
            let verified = jwt::verify(&token, AUDIENCE, NOW, 0, |td| {
                assert_eq!(*td, trust_domain());
                Some(Arc::clone(&bundle))
            })
            .unwrap();
            assert_eq!(verified.subject.as_str(), "spiffe://example.org/ns/a/sa/b");
            assert_eq!((verified.expires_at, verified.issued_at), (NOW + 300, Some(NOW)));
            assert_eq!(verified.all["iss"], "https://issuer.example.org");
        }
    }
}

#[test]
fn a_changed_token_and_one_by_another_key_are_refused() {
    let (signer, other) = (Signer::p256(), Signer::p256());
    let bundle = jwt_bundle([signer.authority("key-1"), other.authority("key-2")]);
    let token = signer.token(JwsAlg::Es256, &header().to_string(), &claims().to_string());
    let changed = with(claims(), json!({"sub": "spiffe://example.org/admin"}));
    let elsewhere = signer.token(JwsAlg::Es256, &header().to_string(), &changed.to_string());
    let mut spliced: Vec<_> = token.split('.').collect();
    spliced[1] = elsewhere.split('.').nth(1).unwrap();
    assert_eq!(verify(&spliced.join("."), &bundle), Err(E::Signature));

    let wrong_key = with(header(), json!({"kid": "key-2"}));
    let token = signer.token(JwsAlg::Es256, &wrong_key.to_string(), &claims().to_string());
    assert_eq!(verify(&token, &bundle), Err(E::Signature));

    let unknown = with(header(), json!({"kid": "key-3"}));
    let token = signer.token(JwsAlg::Es256, &unknown.to_string(), &claims().to_string());
    assert!(matches!(verify(&token, &bundle), Err(E::UnknownKey { .. })));
}

#[test]
fn the_key_decides_which_algorithms_may_be() {
    let (p256, rsa) = (Signer::p256(), Signer::rsa());
    let bundle = jwt_bundle([p256.authority("key-1"), rsa.authority("key-3")]);
    for (alg, kid) in [
        ("RS256", "key-1"),
        ("ES384", "key-1"),
        ("ES512", "key-1"),
        ("ES256", "key-3"),
    ] {
        let header = with(header(), json!({"alg": alg, "kid": kid}));
        let token = p256.token(JwsAlg::Es256, &header.to_string(), &claims().to_string());
        assert!(
            matches!(verify(&token, &bundle), Err(E::AlgorithmOfKey { .. })),
            "{alg} {kid}"
        );
    }
    for alg in ["none", "HS256", "EdDSA", "es256", ""] {
        let header = with(header(), json!({"alg": alg}));
        let token = p256.token(JwsAlg::Es256, &header.to_string(), &claims().to_string());
        assert!(matches!(verify(&token, &bundle), Err(E::Algorithm(_))), "{alg}");
    }
}

#[test]
fn a_header_may_have_alg_kid_and_typ_alone() {
    let signer = Signer::p256();
    let bundle = jwt_bundle([signer.authority("key-1")]);
    let refused: &[(String, Check)] = &[
        (with(header(), json!({"kid": null})).to_string(), |e| {
            matches!(e, E::NoKeyId)
        }),
        (with(header(), json!({"kid": "../x"})).to_string(), |e| {
            matches!(e, E::KeyId(_))
        }),
        (with(header(), json!({"alg": null})).to_string(), |e| {
            matches!(e, E::Header { .. })
        }),
        (with(header(), json!({"crit": []})).to_string(), |e| {
            matches!(e, E::Header { .. })
        }),
        (with(header(), json!({"jwk": {}})).to_string(), |e| {
            matches!(e, E::Header { .. })
        }),
        (with(header(), json!({"typ": "at+jwt"})).to_string(), |e| {
            matches!(e, E::Type { .. })
        }),
        (with(header(), json!({"typ": "wit+jwt"})).to_string(), |e| {
            matches!(e, E::Type { .. })
        }),
        (r#"{"alg":"ES256","alg":"ES256","kid":"key-1"}"#.into(), |e| {
            matches!(e, E::Header { .. })
        }),
        ("[]".into(), |e| matches!(e, E::Header { .. })),
    ];
    for (header, check) in refused {
        let token = signer.token(JwsAlg::Es256, header, &claims().to_string());
        let error = verify(&token, &bundle).unwrap_err();
        assert!(check(&error), "{header}: {error:?}");
    }
}

#[test]
fn claims_that_are_missing_or_of_another_type_are_refused() {
    let signer = Signer::p256();
    let bundle = jwt_bundle([signer.authority("key-1")]);
    let refused: &[(serde_json::Value, Check)] = &[
        (json!({"sub": null}), |e| matches!(e, E::Missing { claim: "sub" })),
        (json!({"sub": 1}), |e| matches!(e, E::Claim { claim: "sub", .. })),
        (json!({"sub": "someone"}), |e| matches!(e, E::Subject(_))),
        (json!({"aud": null}), |e| matches!(e, E::Missing { claim: "aud" })),
        (json!({"aud": []}), |e| matches!(e, E::Claim { claim: "aud", .. })),
        (json!({"aud": ""}), |e| matches!(e, E::Claim { claim: "aud", .. })),
        (json!({"aud": [AUDIENCE, 1]}), |e| {
            matches!(e, E::Claim { claim: "aud", .. })
        }),
        (json!({"aud": "other"}), |e| matches!(e, E::Audience { .. })),
        (json!({"exp": null}), |e| matches!(e, E::Missing { claim: "exp" })),
        (json!({"exp": "soon"}), |e| matches!(e, E::Claim { claim: "exp", .. })),
        (json!({"exp": 1e300}), |e| matches!(e, E::Claim { claim: "exp", .. })),
        (json!({"exp": NOW}), |e| matches!(e, E::Expired { .. })),
        (json!({"exp": NOW - 1}), |e| matches!(e, E::Expired { .. })),
        (json!({"nbf": NOW + 1}), |e| matches!(e, E::NotYetValid { .. })),
        (json!({"sub": "spiffe://other.org/a"}), |e| {
            matches!(e, E::NoBundle { .. })
        }),
    ];
    for (change, check) in refused {
        let token = signer.token(
            JwsAlg::Es256,
            &header().to_string(),
            &with(claims(), change.clone()).to_string(),
        );
        let error = verify(&token, &bundle).unwrap_err();
        assert!(check(&error), "{change}: {error:?}");
    }
    for change in [
        json!({"aud": AUDIENCE}),
        json!({"aud": ["other", AUDIENCE, AUDIENCE]}),
        json!({"exp": NOW + 1}),
        json!({"nbf": NOW}),
        json!({"iat": NOW + 5}),
        json!({"exp": 1_700_000_300.75}),
    ] {
        let token = signer.token(
            JwsAlg::Es256,
            &header().to_string(),
            &with(claims(), change.clone()).to_string(),
        );
        verify(&token, &bundle).unwrap_or_else(|error| panic!("{change}: {error}"));
    }
    let twice = format!(r#"{{"sub":"spiffe://example.org/x",{}"#, &claims().to_string()[1..]);
    let token = signer.token(JwsAlg::Es256, &header().to_string(), &twice);
    assert!(matches!(verify(&token, &bundle), Err(E::Claims { .. })));
}

#[test]
fn leeway_moves_both_ends() {
    let signer = Signer::p256();
    let bundle = jwt_bundle([signer.authority("key-1")]);
    let token = |change| {
        signer.token(
            JwsAlg::Es256,
            &header().to_string(),
            &with(claims(), change).to_string(),
        )
    };
    let late = token(json!({"exp": NOW - 4}));
    assert!(jwt::verify(&late, AUDIENCE, NOW, 5, |_| Some(&bundle)).is_ok());
    assert!(jwt::verify(&late, AUDIENCE, NOW, 4, |_| Some(&bundle)).is_err());
    let early = token(json!({"nbf": NOW + 5}));
    assert!(jwt::verify(&early, AUDIENCE, NOW, 5, |_| Some(&bundle)).is_ok());
    assert!(jwt::verify(&early, AUDIENCE, NOW, 4, |_| Some(&bundle)).is_err());
    let extreme = token(json!({"exp": i64::MAX, "nbf": i64::MIN}));
    assert!(jwt::verify(&extreme, AUDIENCE, i64::MAX, u32::MAX, |_| Some(&bundle)).is_err());
    assert!(jwt::verify(&extreme, AUDIENCE, i64::MIN, u32::MAX, |_| Some(&bundle)).is_ok());
}

#[test]
fn only_a_bounded_compact_form_is_read() {
    let signer = Signer::p256();
    let bundle = jwt_bundle([signer.authority("key-1")]);
    let good = signer.token(JwsAlg::Es256, &header().to_string(), &claims().to_string());
    let long = format!("{good}{}", "A".repeat(64 << 10));
    assert!(matches!(verify(&long, &bundle), Err(E::TooLong { .. })));
    for token in [
        String::new(),
        "a.b".into(),
        "..".into(),
        format!("{good}.{good}"),
        format!("{good}="),
        format!(" {good}"),
        good.replace('.', ":"),
        r#"{"payload":"","signatures":[]}"#.into(),
    ] {
        let error = verify(&token, &bundle).unwrap_err();
        assert!(
            matches!(error, E::Compact { .. } | E::Header { .. }),
            "{token}: {error:?}"
        );
    }
    assert!(verify(&good, &bundle).is_ok());
    assert_eq!(jwt::verify(&good, "", NOW, 0, |_| Some(&bundle)), Err(E::NoAudience));
    assert!(matches!(
        jwt::verify(&good, AUDIENCE, NOW, 0, |_| None::<&Bundle>),
        Err(E::NoBundle { .. })
    ));
}

#[test]
fn a_tainted_key_still_verifies_and_a_wit_key_never_does() {
    let signer = Signer::p256();
    let token = signer.token(JwsAlg::Es256, &header().to_string(), &claims().to_string());
    let mut bundle = jwt_bundle([signer.authority("key-1")]);
    bundle.jwt[0].tainted = true;
    assert!(verify(&token, &bundle).is_ok());
    bundle.wit = std::mem::take(&mut bundle.jwt);
    assert!(matches!(verify(&token, &bundle), Err(E::UnknownKey { .. })));
}

#[test]
fn what_a_token_says_can_be_read_unverified_and_is_not_printed() {
    let signer = Signer::p256();
    let text = signer.token(JwsAlg::Es256, &header().to_string(), &claims().to_string());
    let token = Token::parse(&text).unwrap();
    assert_eq!(token.key_id().as_str(), "key-1");
    assert_eq!(token.algorithm(), JwsAlg::Es256);
    assert_eq!(token.audience(), [AUDIENCE]);
    let shown = format!("{token:?}");
    assert!(!shown.contains(text.split('.').nth(2).unwrap()), "{shown}");
    assert_eq!(
        token.into_unverified_claims().issuer.as_deref(),
        Some("https://issuer.example.org")
    );
}

#[test]
fn keys_that_a_foreign_bundle_may_hold_but_nothing_is_verified_by_say_so() {
    let refused = include_str!("../data/refused_keys.txt");
    let key = |name: &str| {
        let line = refused.lines().find(|line| line.starts_with(name)).unwrap();
        let spki_der = hex::decode(line.split_once(' ').unwrap().1).unwrap().into();
        JwtAuthority {
            spki_der,
            ..Signer::p256().authority("key-1")
        }
    };
    for (name, alg, problem) in [
        ("secp521r1", "ES512", "ES512 is not verified here"),
        ("secp521r1", "ES256", "not what key key-1 signs with"),
        ("rsa1024", "RS256", "an RSA key of 1024 bits"),
        ("ED25519", "ES256", "not what key key-1 signs with"),
        ("secp256k1", "ES256", "curve secp256k1 is not accepted"),
    ] {
        let header = with(header(), json!({"alg": alg}));
        let token = Signer::p256().token(JwsAlg::Es256, &header.to_string(), &claims().to_string());
        let error = verify(&token, &jwt_bundle([key(name)])).unwrap_err().to_string();
        assert!(error.contains(problem), "{name} {alg}: {error}");
    }
    // Such a key is kept for workloads that can use it.
    let bundle = jwt_bundle([key("secp521r1")]);
    let json = bundle.to_json().unwrap();
    assert_eq!(Bundle::from_json(&trust_domain(), json.as_bytes()).unwrap(), bundle);
    assert!(bundle.oidc_jwks().unwrap().contains("ES512"));
}
