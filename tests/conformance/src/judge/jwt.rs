//! JW-*: the JWT-SVIDs, the JWT bundles, and what ValidateJWTSVID refuses.

use serde_json::Value;
use tonic::Code;

use super::{
    Finding, NotSeen,
    evidence::{Token, got},
};
use crate::{
    jws::{ALGORITHMS, Jws, verify},
    observe::{Doctored, Seen},
    report::shown,
    spiffe_id,
    verified::Verified,
};

/// Looks at each token.
fn each(seen: &Seen, problems: impl Fn(&Token) -> Vec<String>) -> Finding {
    let tokens = seen.tokens()?;
    Ok(tokens
        .iter()
        .flat_map(|token| {
            problems(token)
                .into_iter()
                .map(|why| format!("{}: {why}", token.name()))
        })
        .collect())
}

pub(super) fn compact(seen: &Seen) -> Finding {
    let broken = |svid: &mintmark_proto::workload::Jwtsvid| {
        Jws::read(&svid.svid)
            .err()
            .map(|why| format!("{}: {}", shown(&svid.spiffe_id), shown(&why)))
    };
    Ok(seen.jwt_svids()?.iter().filter_map(broken).collect())
}

pub(super) fn refuses_json(seen: &Seen) -> Finding {
    refuses(
        seen,
        &[(Doctored::JsonSerialization, "the own token in JSON serialization")],
    )
}

pub(super) fn header(seen: &Seen) -> Finding {
    each(seen, |token| {
        let other = token
            .jws
            .header
            .keys()
            .filter(|name| !matches!(name.as_str(), "alg" | "kid" | "typ"));
        other.map(|name| format!("the header has {}", shown(name))).collect()
    })
}

pub(super) fn algorithm(seen: &Seen) -> Finding {
    each(seen, |token| algorithm_problem(&token.jws).into_iter().collect())
}

/// What is wrong with a token's `alg`.
pub(super) fn algorithm_problem(jws: &Jws) -> Option<String> {
    match jws.header.get("alg") {
        Some(Value::String(alg)) if ALGORITHMS.contains(&alg.as_str()) => None,
        Some(alg) => Some(format!("alg is {}", shown(&alg.to_string()))),
        None => Some("the header has no alg".into()),
    }
}

pub(super) fn verifies(seen: &Seen) -> Finding {
    let bundles = seen.jwt_bundles()?;
    let mut findings = Vec::new();
    let mut unknown = None;
    let mut looked = false;
    for token in seen.tokens()? {
        // A token that no key could have signed is the finding of the check of its alg.
        if algorithm_problem(&token.jws).is_some() {
            unknown.get_or_insert_with(|| "no JWT-SVID has an allowed alg".to_owned());
            continue;
        }
        let Some(trust_domain) = spiffe_id::trust_domain(&token.spiffe_id) else {
            continue;
        };
        // A bundle that is not there is the finding of WA-6b.
        let id = format!("spiffe://{trust_domain}");
        let Some((_, keys)) = bundles.iter().find(|(known, _)| *known == id) else {
            unknown = Some(format!("FetchJWTBundles has no bundle of {}", shown(&id)));
            continue;
        };
        match verify(&token.jws, keys) {
            Verified::Yes => looked = true,
            Verified::No(why) => {
                looked = true;
                findings.push(format!("{}: {why}", token.name()));
            }
            Verified::Unknown(why) => unknown = Some(why),
        }
    }
    match unknown {
        Some(why) if !looked => Err(NotSeen::because(why)),
        _ => Ok(findings),
    }
}

pub(super) fn kid(seen: &Seen) -> Finding {
    each(seen, |token| match token.jws.header.get("kid") {
        Some(Value::String(kid)) if !kid.is_empty() => Vec::new(),
        Some(_) => vec!["kid is no string, or empty".into()],
        None => vec!["the header has no kid".into()],
    })
}

pub(super) fn typ(seen: &Seen) -> Finding {
    each(seen, |token| match token.jws.header.get("typ") {
        None => Vec::new(),
        Some(Value::String(typ)) if matches!(typ.as_str(), "JWT" | "JOSE") => Vec::new(),
        Some(typ) => vec![format!("typ is {}", shown(&typ.to_string()))],
    })
}

pub(super) fn claims(seen: &Seen) -> Finding {
    each(seen, |token| {
        let mut problems = Vec::new();
        problems.extend(subject_problem(&token.jws));
        match token.jws.audiences() {
            None if token.jws.claims.contains_key("aud") => {
                problems.push("aud is neither a string nor a list of strings".into())
            }
            None => problems.push("no aud".into()),
            Some(audiences) if audiences != [seen.audience.as_str()] => {
                problems.push(format!(
                    "aud is {} where {} was asked for",
                    shown(&audiences.join(", ")),
                    shown(&seen.audience)
                ));
            }
            Some(_) => {}
        }
        problems.extend(time_problems(&token.jws, seen.now));
        problems
    })
}

/// What is wrong with a token's `sub`.
pub(super) fn subject_problem(jws: &Jws) -> Option<String> {
    match jws.claims.get("sub") {
        None => Some("no sub".into()),
        // The rules of the ID itself are the checks ID-1 to ID-3.
        Some(Value::String(sub)) if spiffe_id::parts(sub).is_some_and(|p| p.path.len() > 1) => None,
        Some(sub) => Some(format!("sub is {}", shown(&sub.to_string()))),
    }
}

/// What is wrong with a token's `exp` and, where it has one, `nbf`.
pub(super) fn time_problems(jws: &Jws, now: u64) -> Vec<String> {
    let mut problems = Vec::new();
    match jws.claims.get("exp").map(Value::as_f64) {
        None => problems.push("no exp".to_owned()),
        Some(None) => problems.push("exp is no number".into()),
        Some(Some(exp)) if exp <= seconds(now) => problems.push(format!("exp {exp} is past (now {now})")),
        Some(Some(_)) => {}
    }
    match jws.claims.get("nbf").map(Value::as_f64) {
        Some(None) => problems.push("nbf is no number".into()),
        Some(Some(nbf)) if nbf > seconds(now) => problems.push(format!("nbf {nbf} is to come (now {now})")),
        _ => {}
    }
    problems
}

/// NumericDate may have a fraction (RFC 7519 §2), so times are compared as such; 32 bits last until 2106.
fn seconds(now: u64) -> f64 {
    u32::try_from(now).map_or(f64::from(u32::MAX), f64::from)
}

pub(super) fn oidc_claims(seen: &Seen) -> Finding {
    let Some(oidc) = &seen.oidc else {
        return Err(NotSeen::because("no --oidc"));
    };
    each(seen, |token| {
        let mut problems = Vec::new();
        match token.jws.claim_text("iss") {
            Some(iss) if iss == oidc.issuer => {}
            Some(iss) => problems.push(format!("iss is {} instead of {}", shown(iss), shown(&oidc.issuer))),
            None => problems.push("no iss".to_owned()),
        }
        match token.jws.claims.get("iat") {
            None => problems.push("no iat".into()),
            Some(iat) if iat.as_u64().is_none_or(|iat| iat > seen.now) => {
                problems.push(format!("iat is {}", shown(&iat.to_string())))
            }
            Some(_) => {}
        }
        problems
    })
}

pub(super) fn bundle_kid(seen: &Seen) -> Finding {
    let mut findings = Vec::new();
    for (id, keys) in seen.jwt_bundles()? {
        let mut known = std::collections::BTreeSet::new();
        for (i, key) in keys.iter().enumerate() {
            match key["kid"].as_str() {
                None | Some("") => findings.push(format!("{}: key {} has no kid", shown(&id), i + 1)),
                Some(kid) if !known.insert(kid) => {
                    findings.push(format!("{}: two keys have kid {}", shown(&id), shown(kid)))
                }
                Some(_) => {}
            }
        }
    }
    Ok(findings)
}

pub(super) fn refuses_algorithms(seen: &Seen) -> Finding {
    refuses(
        seen,
        &[
            (Doctored::AlgNone, "alg none, no signature"),
            (Doctored::AlgHmac, "alg HS256, the public key as secret"),
        ],
    )
}

pub(super) fn refuses_audience(seen: &Seen) -> Finding {
    refuses(seen, &[(Doctored::OtherAudience, "a token for another audience")])
}

pub(super) fn refuses_expired(seen: &Seen) -> Finding {
    if let Some(why) = &seen.workload()?.no_expiry {
        return Err(NotSeen::because(why));
    }
    refuses(seen, &[(Doctored::Expired, "the own token after its exp")])
}

/// Which of these tokens ValidateJWTSVID did not refuse.
pub(super) fn refuses(seen: &Seen, tokens: &[(Doctored, &str)]) -> Finding {
    let validated = &seen.workload()?.validated;
    let mut findings = Vec::new();
    let mut looked = false;
    for (what, told) in tokens {
        let Some(probe) = validated.iter().find(|probe| probe.what == *what) else {
            continue;
        };
        match &probe.answer {
            Ok(_) => findings.push(format!("accepted: {told}")),
            Err(refusal) => match refusal.code() {
                Some(Code::Unimplemented) => return Err(NotSeen::because(format!("ValidateJWTSVID: {refusal}"))),
                Some(_) => {}
                None => findings.push(format!("{told}: {refusal}")),
            },
        }
        looked = true;
    }
    if !looked {
        got("FetchJWTSVID", &seen.workload()?.jwt)?;
        return Err(NotSeen::because("no token to make it from"));
    }
    Ok(findings)
}
