//! WT-*: the WIT-SVIDs, their keys and their bundles.

use mintmark_proto::workload as pb;
use ring::{
    rand::SystemRandom,
    rsa,
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm,
    },
};
use serde_json::Value;

use super::{Finding, NotSeen, jwt};
use crate::{
    jws::{ALGORITHMS, Jws, decode_part, verify},
    observe::Seen,
    report::shown,
    spiffe_id,
    verified::Verified,
};

/// The members of a JWK that hold a private key (RFC 7518 §6).
pub(super) const PRIVATE: [&str; 8] = ["d", "p", "q", "dp", "dq", "qi", "oth", "k"];

/// Looks at each token.
fn each(seen: &Seen, problems: impl Fn(&pb::Witsvid, &Jws) -> Vec<String>) -> Finding {
    let mut findings = Vec::new();
    for (svid, jws) in seen.wits()? {
        let name = shown(&svid.spiffe_id);
        findings.extend(problems(svid, &jws).into_iter().map(|why| format!("{name}: {why}")));
    }
    Ok(findings)
}

pub(super) fn header(seen: &Seen) -> Finding {
    let mut findings = Vec::new();
    for svid in seen.wit_svids()? {
        let name = shown(&svid.spiffe_id);
        let jws = match Jws::read(&svid.wit_svid) {
            Ok(jws) => jws,
            Err(why) => {
                findings.push(format!("{name}: is no compact JWS: {}", shown(&why)));
                continue;
            }
        };
        if jws.header_text("kid").is_none_or(str::is_empty) {
            findings.push(format!("{name}: the header has no kid"));
        }
        match jws.header_text("typ") {
            Some("wit+jwt") => {}
            Some(typ) => findings.push(format!("{name}: typ is {}", shown(typ))),
            None => findings.push(format!("{name}: the header has no typ")),
        }
        findings.extend(jwt::algorithm_problem(&jws).map(|why| format!("{name}: {why}")));
    }
    Ok(findings)
}

pub(super) fn only_header(seen: &Seen) -> Finding {
    each(seen, |_, jws| {
        let other = jws
            .header
            .keys()
            .filter(|name| !matches!(name.as_str(), "alg" | "kid" | "typ"));
        other.map(|name| format!("the header has {}", shown(name))).collect()
    })
}

pub(super) fn verifies(seen: &Seen) -> Finding {
    let tokens = seen.wits()?;
    let bundles = seen.wit_bundles()?;
    let mut findings = Vec::new();
    for (svid, jws) in tokens {
        let name = shown(&svid.spiffe_id);
        let Some(trust_domain) = spiffe_id::trust_domain(&svid.spiffe_id) else {
            continue;
        };
        let id = format!("spiffe://{trust_domain}");
        let Some((_, keys)) = bundles.iter().find(|(known, _)| *known == id) else {
            findings.push(format!("{name}: FetchWITBundles has no bundle of {}", shown(&id)));
            continue;
        };
        match verify(&jws, keys) {
            Verified::Yes => {}
            Verified::No(why) => findings.push(format!("{name}: {why}")),
            Verified::Unknown(why) => return Err(NotSeen::because(why)),
        }
    }
    Ok(findings)
}

pub(super) fn claims(seen: &Seen) -> Finding {
    each(seen, |_, jws| {
        let mut problems = Vec::new();
        problems.extend(jwt::subject_problem(jws));
        problems.extend(jwt::time_problems(jws, seen.now));
        match jws.claims.get("cnf").map(|cnf| &cnf["jwk"]) {
            None => problems.push("no cnf".to_owned()),
            Some(Value::Object(jwk)) => match jwk.get("alg").and_then(Value::as_str) {
                Some(alg) if ALGORITHMS.contains(&alg) => {}
                Some(alg) => problems.push(format!("cnf.jwk.alg is {}", shown(alg))),
                None => problems.push("cnf.jwk has no alg".into()),
            },
            Some(_) => problems.push("cnf has no jwk".into()),
        }
        problems
    })
}

pub(super) fn no_audience(seen: &Seen) -> Finding {
    each(seen, |_, jws| match jws.claims.get("aud") {
        None => Vec::new(),
        Some(aud) => vec![format!("aud is {}", shown(&aud.to_string()))],
    })
}

pub(super) fn key(seen: &Seen) -> Finding {
    each(seen, |svid, jws| {
        // A token without cnf.jwk is another check's finding.
        let Some(public) = jws
            .claims
            .get("cnf")
            .map(|cnf| &cnf["jwk"])
            .filter(|jwk| jwk.is_object())
        else {
            return Vec::new();
        };
        let mut problems = Vec::new();
        for member in PRIVATE.iter().filter(|member| public.get(**member).is_some()) {
            problems.push(format!("cnf.jwk holds the private member {member}"));
        }
        match serde_json::from_str::<Value>(&svid.wit_svid_key) {
            Ok(private) if private.is_object() => problems.extend(private_key_problem(&private, public)),
            _ => problems.push("wit_svid_key is no JSON object".into()),
        }
        problems
    })
}

/// Why a private JWK is not the one for a public JWK. Names members, never their values.
fn private_key_problem(private: &Value, public: &Value) -> Option<String> {
    let part = |jwk: &Value, name: &str| -> Result<Vec<u8>, String> {
        let text = jwk[name].as_str().ok_or_else(|| format!("{name} is not there"))?;
        decode_part(text).map_err(|why| format!("{name} {why}"))
    };
    let kty = public["kty"].as_str().unwrap_or_default();
    if private["kty"].as_str() != Some(kty) {
        return Some(format!("wit_svid_key is not of kty {}, which cnf.jwk has", shown(kty)));
    }
    let check = match kty {
        "EC" => ec_problem(private, public, part),
        "RSA" => rsa_problem(private, public, part),
        _ => Ok(Some(format!(
            "cnf.jwk is of kty {}, for which there is no allowed alg",
            shown(kty)
        ))),
    };
    match check {
        Ok(problem) => problem,
        Err(why) => Some(format!("wit_svid_key or cnf.jwk: {why}")),
    }
}

fn ec_problem(
    private: &Value,
    public: &Value,
    part: impl Fn(&Value, &str) -> Result<Vec<u8>, String>,
) -> Result<Option<String>, String> {
    for member in ["crv", "x", "y"] {
        if private[member] != public[member] {
            return Ok(Some(format!("wit_svid_key and cnf.jwk differ in {member}")));
        }
    }
    let d = part(private, "d")?;
    let point = [vec![4], part(public, "x")?, part(public, "y")?].concat();
    let algorithm: &EcdsaSigningAlgorithm = match public["crv"].as_str() {
        Some("P-256") => &ECDSA_P256_SHA256_FIXED_SIGNING,
        Some("P-384") => &ECDSA_P384_SHA384_FIXED_SIGNING,
        // ring has no P-521: that the public halves agree has to do.
        _ => return Ok(None),
    };
    let fits = EcdsaKeyPair::from_private_key_and_public_key(algorithm, &d, &point, &SystemRandom::new());
    Ok(fits.err().map(|e| format!("wit_svid_key does not fit cnf.jwk: {e}")))
}

fn rsa_problem(
    private: &Value,
    public: &Value,
    part: impl Fn(&Value, &str) -> Result<Vec<u8>, String>,
) -> Result<Option<String>, String> {
    for member in ["n", "e"] {
        if private[member] != public[member] {
            return Ok(Some(format!("wit_svid_key and cnf.jwk differ in {member}")));
        }
    }
    // RFC 7518 §6.3.2: only d is required, and ring needs all of them.
    if ["p", "q", "dp", "dq", "qi"]
        .iter()
        .any(|member| private.get(*member).is_none())
    {
        return part(private, "d").map(|_| None);
    }
    let [n, e, d] = [part(public, "n")?, part(public, "e")?, part(private, "d")?];
    let [p, q] = [part(private, "p")?, part(private, "q")?];
    let [dp, dq, qi] = [part(private, "dp")?, part(private, "dq")?, part(private, "qi")?];
    let components = rsa::KeyPairComponents {
        public_key: rsa::PublicKeyComponents { n: &n, e: &e },
        d: &d,
        p: &p,
        q: &q,
        dP: &dp,
        dQ: &dq,
        qInv: &qi,
    };
    Ok(rsa::KeyPair::from_components(&components)
        .err()
        .map(|e| format!("wit_svid_key does not fit cnf.jwk: {e}")))
}

pub(super) fn issuer(seen: &Seen) -> Finding {
    each(seen, |_, jws| match jws.claim_text("iss") {
        Some(iss) if iss.starts_with("https://") => vec![format!("iss is {}", shown(iss))],
        _ => Vec::new(),
    })
}

pub(super) fn bundle(seen: &Seen) -> Finding {
    let mut findings = Vec::new();
    for (id, keys) in seen.wit_bundles()? {
        let mut known = std::collections::BTreeSet::new();
        for (i, key) in keys.iter().enumerate() {
            let name = format!("{}: key {}", shown(&id), i + 1);
            match key["use"].as_str() {
                Some("wit-svid") => {}
                Some(other) => findings.push(format!("{name} has use {}", shown(other))),
                None => findings.push(format!("{name} has no use")),
            }
            match key["kid"].as_str() {
                None | Some("") => findings.push(format!("{name} has no kid")),
                Some(kid) if !known.insert(kid) => findings.push(format!("{name} has a kid twice: {}", shown(kid))),
                Some(_) => {}
            }
        }
    }
    Ok(findings)
}
