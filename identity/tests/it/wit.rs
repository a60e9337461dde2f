//! WIT-SVIDs are accepted and refused by the standard's rules.

use mintmark_identity::jwk::Jwk;
use mintmark_identity::svid::TokenError as E;
use mintmark_identity::svid::wit;
use mintmark_identity::{Bundle, JwsAlg};
use serde_json::{Value, json};

use crate::support::{NOW, Signer, claims, header, trust_domain, with};

/// Whether an error is the one that is due.
type Check = fn(&E) -> bool;

fn wit_header() -> Value {
    with(header(), json!({"typ": "wit+jwt"}))
}

fn wit_claims(holder: &Signer, alg: &str) -> Value {
    let jwk = Jwk::from_spki(&holder.spki_der()).unwrap();
    let jwk = with(serde_json::to_value(jwk).unwrap(), json!({"alg": alg}));
    with(claims(), json!({"aud": null, "iss": null, "cnf": {"jwk": jwk}}))
}

fn setup() -> (Signer, Signer, Bundle) {
    let (issuer, holder) = (Signer::p256(), Signer::p384());
    let mut bundle = Bundle::new(trust_domain());
    bundle.wit.push(issuer.authority("key-1"));
    (issuer, holder, bundle)
}

#[test]
fn a_token_is_verified_and_gives_the_key_it_is_bound_to() {
    let (issuer, holder, bundle) = setup();
    let token = issuer.token(
        JwsAlg::Es256,
        &wit_header().to_string(),
        &wit_claims(&holder, "ES384").to_string(),
    );
    let verified = wit::verify(&token, NOW, 0, |_| Some(&bundle)).unwrap();
    assert_eq!(verified.confirmation.spki_der, holder.spki_der());
    assert_eq!(verified.confirmation.algorithm, JwsAlg::Es384);
    assert_eq!(
        wit::verify(&token, NOW + 300, 0, |_| Some(&bundle)).err(),
        Some(E::Expired {
            expires_at: NOW + 300,
            now: NOW + 300
        })
    );
}

#[test]
fn what_the_standard_refuses_is_refused() {
    let (issuer, holder, mut bundle) = setup();
    let good = wit_claims(&holder, "ES384");
    let mut private = good.clone();
    private["cnf"]["jwk"]["d"] = json!("AA");
    let mut no_alg = good.clone();
    no_alg["cnf"]["jwk"].as_object_mut().unwrap().remove("alg");
    let refused: Vec<(Value, Value, Check)> = vec![
        (header(), good.clone(), |e| matches!(e, E::Type { .. })),
        (with(header(), json!({"typ": null})), good.clone(), |e| {
            matches!(e, E::Type { .. })
        }),
        (wit_header(), with(good.clone(), json!({"aud": "x"})), |e| {
            matches!(e, E::Forbidden { claim: "aud" })
        }),
        (wit_header(), with(good.clone(), json!({"cnf": null})), |e| {
            matches!(e, E::Missing { claim: "cnf" })
        }),
        (wit_header(), with(good.clone(), json!({"cnf": {}})), |e| {
            matches!(e, E::Missing { claim: "cnf.jwk" })
        }),
        (wit_header(), with(good.clone(), json!({"exp": null})), |e| {
            matches!(e, E::Missing { claim: "exp" })
        }),
        (wit_header(), wit_claims(&holder, "ES256"), |e| {
            matches!(e, E::Claim { claim: "cnf.jwk", .. })
        }),
        (wit_header(), wit_claims(&holder, "EdDSA"), |e| {
            matches!(e, E::Algorithm(_))
        }),
        (wit_header(), private, |e| matches!(e, E::Confirmation(_))),
        (wit_header(), no_alg, |e| matches!(e, E::Confirmation(_))),
    ];
    for (header, claims, check) in refused {
        let token = issuer.token(JwsAlg::Es256, &header.to_string(), &claims.to_string());
        let error = wit::verify(&token, NOW, 0, |_| Some(&bundle)).unwrap_err();
        assert!(check(&error), "{header} {claims}: {error:?}");
    }
    // A key for JWT-SVIDs does not vouch for a WIT-SVID.
    bundle.jwt = std::mem::take(&mut bundle.wit);
    let token = issuer.token(JwsAlg::Es256, &wit_header().to_string(), &good.to_string());
    assert!(matches!(
        wit::verify(&token, NOW, 0, |_| Some(&bundle)),
        Err(E::UnknownKey { .. })
    ));
}
