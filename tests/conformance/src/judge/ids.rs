//! ID-*: every SPIFFE ID that appears anywhere in what was seen.

use super::{
    Finding, NotSeen,
    evidence::{Token, got},
};
use crate::{
    der,
    observe::{JwtAsk, Seen},
    report::shown,
    spiffe_id,
};

/// Every SPIFFE ID, and where it stood.
fn all(seen: &Seen) -> Result<Vec<(String, String)>, NotSeen> {
    let workload = seen.workload()?;
    let mut ids = Vec::new();
    for svid in workload.x509.first.iter().flat_map(|r| &r.svids) {
        ids.push(("X509SVID.spiffe_id".to_owned(), svid.spiffe_id.clone()));
    }
    for chain in seen.chains().unwrap_or_default() {
        for certificate in &chain.certificates {
            let names = der::parse(certificate).map(|c| der::uri_names(&c)).unwrap_or_default();
            ids.extend(names.into_iter().map(|id| ("URI SAN".to_owned(), id)));
        }
    }
    for certificate in seen.signing_certificates().unwrap_or_default() {
        let names = der::parse(&certificate).map(|c| der::uri_names(&c)).unwrap_or_default();
        ids.extend(
            names
                .into_iter()
                .map(|id| ("URI SAN of a signing certificate".to_owned(), id)),
        );
    }
    for svid in workload.jwt.iter().flat_map(|r| &r.svids) {
        ids.push(("JWTSVID.spiffe_id".to_owned(), svid.spiffe_id.clone()));
    }
    for Token { jws, .. } in seen.tokens().unwrap_or_default() {
        ids.extend(jws.claim_text("sub").map(|id| ("JWT sub".to_owned(), id.to_owned())));
    }
    for (svid, jws) in seen.wits().unwrap_or_default() {
        ids.push(("WITSVID.spiffe_id".to_owned(), svid.spiffe_id.clone()));
        ids.extend(jws.claim_text("sub").map(|id| ("WIT sub".to_owned(), id.to_owned())));
    }
    ids.retain(|(_, id)| !id.is_empty());
    let mut known = std::collections::BTreeSet::new();
    ids.retain(|(_, id)| known.insert(id.clone()));
    if ids.is_empty() {
        Err(NotSeen::because("no SPIFFE ID was seen"))
    } else {
        Ok(ids)
    }
}

fn each(seen: &Seen, problem: impl Fn(&str) -> Option<String>) -> Finding {
    let found = |(place, id): (String, String)| problem(&id).map(|why| format!("{place} {}: {why}", shown(&id)));
    Ok(all(seen)?.into_iter().filter_map(found).collect())
}

pub(super) fn form(seen: &Seen) -> Finding {
    each(seen, |id| spiffe_id::form_problem(id).map(Into::into))
}

pub(super) fn trust_domain(seen: &Seen) -> Finding {
    each(seen, |id| {
        spiffe_id::trust_domain_problem(spiffe_id::parts(id)?.trust_domain).map(Into::into)
    })
}

pub(super) fn path(seen: &Seen) -> Finding {
    each(seen, |id| {
        spiffe_id::path_problem(spiffe_id::parts(id)?.path).map(Into::into)
    })
}

pub(super) fn trust_domain_length(seen: &Seen) -> Finding {
    each(seen, |id| {
        let length = spiffe_id::parts(id)?.trust_domain.len();
        (length > spiffe_id::MAX_TRUST_DOMAIN).then(|| format!("the trust domain name has {length} bytes"))
    })
}

pub(super) fn length(seen: &Seen) -> Finding {
    each(seen, |id| {
        (id.len() > spiffe_id::MAX_ID).then(|| format!("has {} bytes", id.len()))
    })
}

pub(super) fn longest(seen: &Seen) -> Finding {
    let Some((long, short)) = &seen.workload()?.longest_id else {
        return Err(NotSeen::because("no identity to ask beside"));
    };
    let tell = |answer: &Result<_, crate::observe::Refusal>| match answer {
        Ok(_) => "a token".to_owned(),
        Err(refusal) => refusal.to_string(),
    };
    let code = |answer: &Result<_, crate::observe::Refusal>| answer.as_ref().err().map(crate::observe::Refusal::code);
    if code(long) == code(short) {
        return Ok(Vec::new());
    }
    Ok(vec![format!(
        "an ID of 2048 bytes gives {}, a short one {}",
        tell(long),
        tell(short)
    )])
}

pub(super) fn upper_case(seen: &Seen) -> Finding {
    let asked = seen
        .workload()?
        .jwt_asked
        .iter()
        .find(|asked| asked.what == JwtAsk::OwnUpperCase);
    let Some(asked) = asked else {
        return Err(NotSeen::because("no identity to ask for"));
    };
    // Where the own identity is not given under its own name, case is not what is wrong.
    seen.jwt_svids()?;
    Ok(match &asked.answer {
        Ok(_) => Vec::new(),
        Err(refusal) => vec![format!("{}: {refusal}", shown(&asked.spiffe_id))],
    })
}

pub(super) fn authority(seen: &Seen) -> Finding {
    let mut findings = Vec::new();
    let mut looked = false;
    for svid in seen.x509_svids()? {
        let Some(trust_domain) = spiffe_id::trust_domain(&svid.spiffe_id) else {
            continue;
        };
        let Ok(certificates) = der::split(&svid.bundle) else {
            continue;
        };
        looked = true;
        let id = format!("spiffe://{trust_domain}");
        let names = certificates
            .iter()
            .filter_map(|c| der::parse(c).ok().map(|c| der::uri_names(&c)));
        let names: Vec<String> = names.flatten().collect();
        if !names.contains(&id) {
            let has = if names.is_empty() {
                "none".to_owned()
            } else {
                shown(&names.join(", "))
            };
            findings.push(format!(
                "no certificate of the bundle has the URI SAN {}: it has {has}",
                shown(&id)
            ));
        }
    }
    findings.dedup();
    if looked {
        Ok(findings)
    } else {
        Err(NotSeen::because("no bundle is concatenated DER"))
    }
}

pub(super) fn signed(seen: &Seen) -> Finding {
    let workload = seen.workload()?;
    let mut findings = Vec::new();
    let mut looked = false;
    for chain in seen.chains().unwrap_or_default() {
        let Some(Ok(leaf)) = chain.certificates.first().map(|leaf| der::parse(leaf)) else {
            continue;
        };
        let names = der::uri_names(&leaf);
        looked = true;
        if !names.contains(&chain.svid.spiffe_id) {
            findings.push(format!(
                "X.509-SVID called {} has URI SAN {}",
                chain.name(),
                shown(&names.join(", "))
            ));
        }
    }
    for token in seen.tokens().unwrap_or_default() {
        looked = true;
        findings.extend(differs("JWT-SVID", &token.spiffe_id, token.jws.claim_text("sub")));
    }
    for (svid, jws) in seen.wits().unwrap_or_default() {
        looked = true;
        findings.extend(differs("WIT-SVID", &svid.spiffe_id, jws.claim_text("sub")));
    }
    if !looked {
        got("FetchX509SVID", &workload.x509.first)?;
        return Err(NotSeen::because("no SVID could be read"));
    }
    Ok(findings)
}

fn differs(kind: &str, field: &str, sub: Option<&str>) -> Option<String> {
    // A token without a subject is another check's finding.
    let sub = sub?;
    (sub != field).then(|| format!("{kind} called {} has sub {}", shown(field), shown(sub)))
}
