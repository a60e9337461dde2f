//! WA-*: the Workload API.

use std::collections::{BTreeMap, BTreeSet};

use mintmark_proto::workload as pb;
use rustls::{crypto::ring::sign::any_supported_type, sign::CertifiedKey};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tonic::Code;
use x509_parser::prelude::{CertificateRevocationList, FromDer};

use super::{
    Finding, NotSeen,
    evidence::{got, streams},
    jwt,
};
use crate::{
    der,
    jws::key_set,
    observe::{Doctored, JwtAsk, JwtAsked, Refusal, Seen, Validated},
    report::shown,
    spiffe_id,
};

pub(super) fn prompt(seen: &Seen) -> Finding {
    let workload = seen.workload()?;
    let mut findings = Vec::new();
    let mut looked = false;
    let openings = [
        ("FetchX509SVID", workload.x509.first.as_ref().err()),
        ("FetchX509Bundles", workload.x509_bundles.first.as_ref().err()),
        ("FetchJWTBundles", workload.jwt_bundles.first.as_ref().err()),
        ("FetchWITSVID", workload.wit.first.as_ref().err()),
        ("FetchWITBundles", workload.wit_bundles.first.as_ref().err()),
    ];
    for (rpc, refusal) in openings {
        match refusal {
            Some(Refusal::Status(..)) => {}
            Some(refusal) => {
                looked = true;
                findings.push(format!("{rpc}: {refusal}"));
            }
            None => looked = true,
        }
    }
    if looked {
        Ok(findings)
    } else {
        Err(NotSeen::because("every stream is refused"))
    }
}

pub(super) fn open(seen: &Seen) -> Finding {
    let streams = streams(seen.workload()?);
    if streams.iter().all(|(_, first, _)| first.is_err()) {
        return Err(NotSeen::because("no stream gave a message"));
    }
    let ended = streams.iter().filter(|(_, first, _)| first.is_ok());
    Ok(ended
        .filter_map(|(rpc, _, end)| end.map(|end| format!("{rpc} {end}")))
        .collect())
}

pub(super) fn full_set(seen: &Seen) -> Finding {
    let workload = seen.workload()?;
    let ids = |response: &pb::X509svidResponse| -> BTreeSet<String> {
        response.svids.iter().map(|svid| svid.spiffe_id.clone()).collect()
    };
    let first = ids(got("FetchX509SVID", &workload.x509.first)?);
    let mut findings = Vec::new();
    let again = workload
        .x509_again
        .first
        .iter()
        .map(|r| ("the first message of a second stream", r));
    let later = workload
        .x509
        .later
        .iter()
        .chain(&workload.x509_again.later)
        .map(|r| ("a later message", r));
    for (what, response) in again.chain(later) {
        let lacking: Vec<_> = first.difference(&ids(response)).cloned().collect();
        if !lacking.is_empty() {
            findings.push(format!("{what} lacks {}", shown(&lacking.join(", "))));
        }
    }
    Ok(findings)
}

pub(super) fn some_svid(seen: &Seen) -> Finding {
    let workload = seen.workload()?;
    let mut findings = Vec::new();
    for (rpc, count) in [
        ("FetchX509SVID", workload.x509.first.as_ref().map(|r| r.svids.len())),
        ("FetchJWTSVID", workload.jwt.as_ref().map(|r| r.svids.len())),
    ] {
        match count {
            Ok(0) => findings.push(format!("{rpc} gives an empty list")),
            Ok(_) => {}
            Err(refusal) => findings.push(format!("{rpc}: {refusal}")),
        }
    }
    Ok(findings)
}

pub(super) fn mandatory(seen: &Seen) -> Finding {
    let workload = seen.workload()?;
    let mut findings = Vec::new();
    let mut looked = false;
    let mut field = |what: &str, id: &str, name: &str, empty: bool| {
        looked = true;
        if empty {
            findings.push(format!("{what} {}: {name} is empty", shown(id)));
        }
    };
    for svid in workload.x509.first.iter().flat_map(|r| &r.svids) {
        let mut of = |name, empty| field("X509SVID", &svid.spiffe_id, name, empty);
        of("spiffe_id", svid.spiffe_id.is_empty());
        of("x509_svid", svid.x509_svid.is_empty());
        of("x509_svid_key", svid.x509_svid_key.is_empty());
        of("bundle", svid.bundle.is_empty());
    }
    for svid in workload.jwt.iter().flat_map(|r| &r.svids) {
        field("JWTSVID", &svid.spiffe_id, "spiffe_id", svid.spiffe_id.is_empty());
        field("JWTSVID", &svid.spiffe_id, "svid", svid.svid.is_empty());
    }
    for svid in workload.wit.first.iter().flat_map(|r| &r.svids) {
        field("WITSVID", &svid.spiffe_id, "spiffe_id", svid.spiffe_id.is_empty());
        field("WITSVID", &svid.spiffe_id, "wit_svid", svid.wit_svid.is_empty());
        field("WITSVID", &svid.spiffe_id, "wit_svid_key", svid.wit_svid_key.is_empty());
    }
    if looked {
        Ok(findings)
    } else {
        Err(NotSeen::because("no SVID"))
    }
}

pub(super) fn default_identity(seen: &Seen) -> Finding {
    let workload = seen.workload()?;
    let first = |response: &pb::X509svidResponse| {
        response
            .svids
            .first()
            .map(|svid| svid.spiffe_id.clone())
            .unwrap_or_default()
    };
    let one = first(got("FetchX509SVID", &workload.x509.first)?);
    let other = first(got("FetchX509SVID", &workload.x509_again.first)?);
    Ok(if one == other {
        Vec::new()
    } else {
        vec![format!("first {}, then {}", shown(&one), shown(&other))]
    })
}

/// The hints of each response.
fn all_hints(seen: &Seen) -> Result<Vec<(&'static str, Vec<String>)>, NotSeen> {
    let workload = seen.workload()?;
    let x509: Vec<_> = workload
        .x509
        .first
        .iter()
        .flat_map(|r| &r.svids)
        .map(|s| s.hint.clone())
        .collect();
    let jwt: Vec<_> = workload
        .jwt
        .iter()
        .flat_map(|r| &r.svids)
        .map(|s| s.hint.clone())
        .collect();
    let wit: Vec<_> = workload
        .wit
        .first
        .iter()
        .flat_map(|r| &r.svids)
        .map(|s| s.hint.clone())
        .collect();
    if x509.is_empty() && jwt.is_empty() && wit.is_empty() {
        return Err(NotSeen::because("no SVID"));
    }
    Ok(vec![
        ("FetchX509SVID", x509),
        ("FetchJWTSVID", jwt),
        ("FetchWITSVID", wit),
    ])
}

pub(super) fn hints(seen: &Seen) -> Finding {
    let mut findings = Vec::new();
    for (rpc, hints) in all_hints(seen)? {
        let mut count = BTreeMap::new();
        for hint in hints.iter().filter(|hint| !hint.is_empty()) {
            *count.entry(hint).or_insert(0) += 1;
        }
        let twice = count.into_iter().filter(|(_, n)| *n > 1);
        findings.extend(twice.map(|(hint, n)| format!("{rpc} gives hint {} {n} times", shown(hint))));
    }
    Ok(findings)
}

pub(super) fn hint_length(seen: &Seen) -> Finding {
    let mut findings = Vec::new();
    for (rpc, hints) in all_hints(seen)? {
        let long = hints.iter().filter(|hint| hint.len() > 1024);
        findings.extend(long.map(|hint| format!("{rpc} gives a hint of {} bytes", hint.len())));
    }
    Ok(findings)
}

/// The requests that lacked a mandatory field, and what came of them.
fn incomplete_requests(seen: &Seen) -> Result<Vec<(&'static str, Option<Refusal>)>, NotSeen> {
    let workload = seen.workload()?;
    let mut requests = Vec::new();
    for asked in workload
        .jwt_asked
        .iter()
        .filter(|asked| asked.what == JwtAsk::NoAudience)
    {
        requests.push(("FetchJWTSVID without audience", asked.answer.as_ref().err().cloned()));
    }
    for probe in &workload.validated {
        let what = match probe.what {
            Doctored::RequestWithoutAudience => "ValidateJWTSVID without audience",
            Doctored::RequestWithoutToken => "ValidateJWTSVID without svid",
            _ => continue,
        };
        requests.push((what, probe.answer.as_ref().err().cloned()));
    }
    requests.retain(|(_, refusal)| refusal.as_ref().and_then(Refusal::code) != Some(Code::Unimplemented));
    if requests.is_empty() {
        Err(NotSeen::because("the JWT profile is not offered"))
    } else {
        Ok(requests)
    }
}

pub(super) fn incomplete(seen: &Seen) -> Finding {
    let answered = incomplete_requests(seen)?
        .into_iter()
        .filter(|(_, refusal)| refusal.is_none());
    Ok(answered.map(|(what, _)| format!("{what} is answered")).collect())
}

pub(super) fn incomplete_code(seen: &Seen) -> Finding {
    let other = |(what, refusal): (&str, Option<Refusal>)| {
        let refusal = refusal.filter(|refusal| refusal.code() != Some(Code::InvalidArgument))?;
        Some(format!("{what}: {refusal}"))
    };
    Ok(incomplete_requests(seen)?.into_iter().filter_map(other).collect())
}

pub(super) fn x509_bundles(seen: &Seen) -> Finding {
    let workload = seen.workload()?;
    let response = got("FetchX509Bundles", &workload.x509_bundles.first)?;
    let id = format!("spiffe://{}", seen.trust_domain()?);
    let Some(bundle) = response.bundles.get(&id) else {
        return Ok(vec![format!("no bundle of {}", shown(&id))]);
    };
    let of_svid = seen
        .x509_svids()?
        .iter()
        .find(|svid| spiffe_id::trust_domain(&svid.spiffe_id) == id.strip_prefix("spiffe://"));
    let (Ok(one), Some(Ok(other))) = (der::split(bundle), of_svid.map(|svid| der::split(&svid.bundle))) else {
        return Ok(Vec::new());
    };
    let (one, other): (BTreeSet<_>, BTreeSet<_>) = (
        one.iter().map(|c| c.as_ref()).collect(),
        other.iter().map(|c| c.as_ref()).collect(),
    );
    Ok(if one == other {
        Vec::new()
    } else {
        vec![format!(
            "its bundle of {} has other certificates than the SVID's",
            shown(&id)
        )]
    })
}

pub(super) fn jwt_bundles(seen: &Seen) -> Finding {
    let response = got("FetchJWTBundles", &seen.workload()?.jwt_bundles.first)?;
    let id = format!("spiffe://{}", seen.trust_domain()?);
    Ok(if response.bundles.contains_key(&id) {
        Vec::new()
    } else {
        vec![format!("no bundle of {}", shown(&id))]
    })
}

pub(super) fn jwt_uses(seen: &Seen) -> Finding {
    let response = got("FetchJWTBundles", &seen.workload()?.jwt_bundles.first)?;
    let mut findings = Vec::new();
    for (id, set) in &response.bundles {
        let id = shown(id);
        match key_set(set) {
            Err(why) => findings.push(format!("{id} {why}")),
            Ok(keys) => {
                for (i, key) in keys.iter().enumerate() {
                    let place = format!("{id}: key {}", i + 1);
                    match key.get("use").map(|used| used.as_str()) {
                        // The response is a standard JWK set, so use may be left out.
                        None | Some(Some("jwt-svid")) => {}
                        Some(used) => findings.push(format!(
                            "{place} has use {}",
                            shown(used.unwrap_or("that is no string"))
                        )),
                    }
                    if key.get("x5c").is_some() {
                        findings.push(format!("{place} has x5c"));
                    }
                    for member in super::wit::PRIVATE.iter().filter(|member| key.get(**member).is_some()) {
                        findings.push(format!("{place} has the private parameter {member}"));
                    }
                }
            }
        }
    }
    Ok(findings)
}

pub(super) fn map_keys(seen: &Seen) -> Finding {
    let workload = seen.workload()?;
    let mut keys: Vec<(&str, &String)> = Vec::new();
    keys.extend(
        workload
            .x509_bundles
            .first
            .iter()
            .flat_map(|r| r.bundles.keys())
            .map(|k| ("FetchX509Bundles", k)),
    );
    keys.extend(
        workload
            .jwt_bundles
            .first
            .iter()
            .flat_map(|r| r.bundles.keys())
            .map(|k| ("FetchJWTBundles", k)),
    );
    keys.extend(
        workload
            .wit_bundles
            .first
            .iter()
            .flat_map(|r| r.bundles.keys())
            .map(|k| ("FetchWITBundles", k)),
    );
    let federated = workload.x509.first.iter().flat_map(|r| r.federated_bundles.keys());
    let federated: Vec<_> = federated.map(|k| ("federated_bundles", k)).collect();
    keys.extend(federated.iter().copied());
    if keys.is_empty() {
        return Err(NotSeen::because("no bundle map"));
    }
    let is_trust_domain = |id: &str| spiffe_id::is_valid(id) && spiffe_id::parts(id).is_some_and(|p| p.path.is_empty());
    let mut findings: Vec<String> = keys
        .iter()
        .filter(|(_, key)| !is_trust_domain(key))
        .map(|(rpc, key)| format!("{rpc} has key {}", shown(key)))
        .collect();
    if let Ok(own) = seen.trust_domain() {
        let own = format!("spiffe://{own}");
        if federated.iter().any(|(_, key)| **key == own) {
            findings.push(format!("federated_bundles has the own trust domain {}", shown(&own)));
        }
    }
    Ok(findings)
}

pub(super) fn all_tokens(seen: &Seen) -> Finding {
    let x509: BTreeSet<_> = seen.x509_svids()?.iter().map(|svid| svid.spiffe_id.as_str()).collect();
    let jwt: BTreeSet<_> = seen.jwt_svids()?.iter().map(|svid| svid.spiffe_id.as_str()).collect();
    let lacking: Vec<_> = x509.difference(&jwt).copied().collect();
    Ok(if lacking.is_empty() {
        Vec::new()
    } else {
        vec![format!("no token for {}", shown(&lacking.join(", ")))]
    })
}

pub(super) fn asked_token(seen: &Seen) -> Finding {
    seen.jwt_svids()?;
    let mut findings = Vec::new();
    let mut looked = false;
    for asked in asked(seen, &[JwtAsk::Own])? {
        looked = true;
        let id = shown(&asked.spiffe_id);
        match &asked.answer {
            Err(refusal) => findings.push(format!("{id}: {refusal}")),
            Ok(response) => {
                let other: BTreeSet<_> = response
                    .svids
                    .iter()
                    .filter(|s| s.spiffe_id != asked.spiffe_id)
                    .map(|s| shown(&s.spiffe_id))
                    .collect();
                if response.svids.is_empty() {
                    findings.push(format!("{id}: an empty list"));
                } else if !other.is_empty() {
                    findings.push(format!(
                        "{id}: also {}",
                        other.into_iter().collect::<Vec<_>>().join(", ")
                    ));
                }
            }
        }
    }
    if looked {
        Ok(findings)
    } else {
        Err(NotSeen::because("no identity to ask for"))
    }
}

pub(super) fn foreign_token(seen: &Seen) -> Finding {
    let mut findings = Vec::new();
    for asked in asked(seen, &[JwtAsk::NotMine, JwtAsk::Elsewhere])? {
        if asked.answer.is_ok() {
            findings.push(format!("{} is answered", shown(&asked.spiffe_id)));
        }
    }
    Ok(findings)
}

pub(super) fn foreign_code(seen: &Seen) -> Finding {
    let mut findings = Vec::new();
    for asked in asked(seen, &[JwtAsk::NotMine, JwtAsk::Elsewhere])? {
        match &asked.answer {
            Err(refusal) if refusal.code() != Some(Code::PermissionDenied) => {
                findings.push(format!("{}: {refusal}", shown(&asked.spiffe_id)));
            }
            _ => {}
        }
    }
    Ok(findings)
}

fn asked<'a>(seen: &'a Seen, which: &[JwtAsk]) -> Result<Vec<&'a JwtAsked>, NotSeen> {
    let asked: Vec<_> = seen
        .workload()?
        .jwt_asked
        .iter()
        .filter(|asked| which.contains(&asked.what))
        .collect();
    let unimplemented =
        |asked: &&JwtAsked| asked.answer.as_ref().err().and_then(Refusal::code) == Some(Code::Unimplemented);
    if asked.iter().any(unimplemented) {
        Err(NotSeen::because("the JWT profile is not offered"))
    } else {
        Ok(asked)
    }
}

/// What became of the server's own, unchanged token.
fn own(seen: &Seen) -> Result<&Validated, NotSeen> {
    let own = seen
        .workload()?
        .validated
        .iter()
        .find(|probe| probe.what == Doctored::Nothing);
    own.ok_or_else(|| NotSeen::because("no JWT-SVID to validate"))
}

pub(super) fn validates(seen: &Seen) -> Finding {
    let first = seen
        .jwt_svids()?
        .first()
        .map(|svid| svid.spiffe_id.as_str())
        .unwrap_or_default();
    Ok(match &own(seen)?.answer {
        Err(refusal) => vec![refusal.to_string()],
        Ok(response) if response.spiffe_id == first => Vec::new(),
        Ok(response) => vec![format!(
            "spiffe_id is {:?} instead of {}",
            shown(&response.spiffe_id),
            shown(first)
        )],
    })
}

pub(super) fn validated_claims(seen: &Seen) -> Finding {
    let response = got("ValidateJWTSVID", &own(seen)?.answer)?;
    let Some(claims) = &response.claims else {
        return Ok(vec!["no claims".into()]);
    };
    let lacking = ["sub", "aud", "exp"]
        .into_iter()
        .filter(|name| !claims.fields.contains_key(*name));
    Ok(lacking.map(|name| format!("no {name}")).collect())
}

pub(super) fn refuses_forged(seen: &Seen) -> Finding {
    jwt::refuses(
        seen,
        &[
            (Doctored::Subject, "the own token with another sub"),
            (
                Doctored::Signature,
                "the own token with one bit of the signature changed",
            ),
            (Doctored::ForeignKey, "a token of an unknown key under a known kid"),
            (Doctored::ForeignKid, "a token of an unknown key under its own kid"),
            (Doctored::OtherTrustDomain, "a token of a trust domain without a bundle"),
            (Doctored::Garbage, "text that is no token"),
        ],
    )
}

pub(super) fn wit_complete(seen: &Seen) -> Finding {
    let workload = seen.workload()?;
    let (svid, bundles) = (
        workload.wit.first.as_ref().err(),
        workload.wit_bundles.first.as_ref().err(),
    );
    let absent = |refusal: Option<&Refusal>| refusal.and_then(Refusal::code) == Some(Code::Unimplemented);
    if (svid.is_none() && bundles.is_none()) || (absent(svid) && absent(bundles)) {
        return Ok(Vec::new());
    }
    // A caller who has no identity at all has none here either.
    if !absent(svid) && !absent(bundles) {
        got("FetchX509SVID", &workload.x509.first)?;
    }
    let tell = |rpc: &str, refusal: Option<&Refusal>| match refusal {
        None => format!("{rpc} works"),
        Some(refusal) => format!("{rpc}: {refusal}"),
    };
    Ok(vec![tell("FetchWITSVID", svid), tell("FetchWITBundles", bundles)])
}

pub(super) fn der(seen: &Seen) -> Finding {
    let workload = seen.workload()?;
    let mut findings = Vec::new();
    for svid in seen.x509_svids()? {
        let name = shown(&svid.spiffe_id);
        for (field, bytes) in [("x509_svid", &svid.x509_svid), ("bundle", &svid.bundle)] {
            // An empty field is the finding of WA-3b.
            if let (false, Err(why)) = (bytes.is_empty(), der::split(bytes)) {
                findings.push(format!("{name}: {field} {why}"));
            }
        }
        if !svid.x509_svid_key.is_empty()
            && let Err(why) = private_key(&svid.x509_svid_key)
        {
            findings.push(format!("{name}: x509_svid_key {why}"));
        }
    }
    let bundles = workload.x509_bundles.first.iter().flat_map(|r| &r.bundles);
    let federated = workload.x509.first.iter().flat_map(|r| &r.federated_bundles);
    for (id, bytes) in bundles.chain(federated) {
        if let Err(why) = der::split(bytes) {
            findings.push(format!("the bundle of {} {why}", shown(id)));
        }
    }
    let crls = workload
        .x509
        .first
        .iter()
        .flat_map(|r| &r.crl)
        .chain(workload.x509_bundles.first.iter().flat_map(|r| &r.crl));
    for crl in crls {
        if !CertificateRevocationList::from_der(crl).is_ok_and(|(rest, _)| rest.is_empty()) {
            findings.push("a CRL is not DER".into());
        }
    }
    Ok(findings)
}

/// A private key as the Workload API must give it; the error never holds any of it.
fn private_key(bytes: &[u8]) -> Result<std::sync::Arc<dyn rustls::sign::SigningKey>, &'static str> {
    if bytes.trim_ascii_start().starts_with(b"-----BEGIN") {
        return Err("is PEM, not DER");
    }
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(bytes.to_vec()));
    any_supported_type(&key).map_err(|_| "is no unencrypted PKCS#8 key that the libraries here can load")
}

pub(super) fn key_fits(seen: &Seen) -> Finding {
    let mut findings = Vec::new();
    let mut looked = false;
    for chain in seen.chains()? {
        // A key that cannot be loaded is the finding of WA-10a.
        let Ok(key) = private_key(&chain.svid.x509_svid_key) else {
            continue;
        };
        looked = true;
        if CertifiedKey::new(chain.certificates.clone(), key).keys_match().is_err() {
            findings.push(format!("{}: the key is not the leaf's", chain.name()));
        }
    }
    if looked {
        Ok(findings)
    } else {
        Err(NotSeen::because("no key could be loaded"))
    }
}
