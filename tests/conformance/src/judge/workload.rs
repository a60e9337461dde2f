//! WA-1 to WA-4, WA-6, WA-9, WA-10: streams, SVIDs and bundles of the Workload API.

use std::collections::{BTreeMap, BTreeSet};

use mintmark_proto::workload as pb;
use rustls::{crypto::ring::sign::any_supported_type, sign::CertifiedKey};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tonic::Code;
use x509_parser::prelude::{CertificateRevocationList, FromDer};

use super::{
    Finding, NotSeen,
    evidence::{got, streams},
};
use crate::{
    der,
    jws::key_set,
    observe::{Refusal, Seen},
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
        if !svid.x509_svid_key.is_empty() && !der::is_pkcs8(&svid.x509_svid_key) {
            let pem = svid.x509_svid_key.trim_ascii_start().starts_with(b"-----BEGIN");
            let why = if pem {
                "is PEM, not DER"
            } else {
                "is no unencrypted PKCS#8"
            };
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

pub(super) fn key_fits(seen: &Seen) -> Finding {
    let mut findings = Vec::new();
    let mut looked = false;
    let mut unknown = "no key is unencrypted PKCS#8";
    for chain in seen.chains()? {
        // What is no PKCS#8 is the finding of WA-10a.
        if !der::is_pkcs8(&chain.svid.x509_svid_key) {
            continue;
        }
        if chain.svid.x509_svid_key.windows(P521.len()).any(|w| w == P521) {
            unknown = "the libraries used here do not load P-521 keys";
            continue;
        }
        looked = true;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(chain.svid.x509_svid_key.to_vec()));
        match any_supported_type(&key) {
            Ok(key)
                if CertifiedKey::new(chain.certificates.clone(), key.clone())
                    .keys_match()
                    .is_ok() => {}
            Ok(_) => findings.push(format!("{}: the key is not the leaf's", chain.name())),
            // The error is not told: it could hold bytes of the key.
            Err(_) => findings.push(format!("{}: the key cannot be loaded", chain.name())),
        }
    }
    if looked {
        Ok(findings)
    } else {
        Err(NotSeen::because(unknown))
    }
}

/// The object identifier of the curve P-521, as it stands in a key (RFC 5480 §2.1.1.1).
const P521: [u8; 7] = [0x06, 0x05, 0x2B, 0x81, 0x04, 0x00, 0x23];
