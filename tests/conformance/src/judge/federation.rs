//! FD-*: the bundle endpoint as a server.

use rustls_pki_types::CertificateDer;

use super::{Finding, NotSeen, bundle, evidence::json, jwt};
use crate::{
    der,
    jws::{Jws, verify},
    observe::{Hop, Roots, Seen},
    report::shown,
    spiffe_id,
    verified::Verified,
};

pub(super) fn answers(seen: &Seen) -> Finding {
    Ok(match &seen.endpoint()?.first {
        Err(why) => vec![why.to_string()],
        Ok(page) if page.status == 200 => Vec::new(),
        Ok(page) => vec![format!("HTTP status {}", page.status)],
    })
}

pub(super) fn tls(seen: &Seen) -> Finding {
    let endpoint = seen.endpoint()?;
    let mut findings: Vec<String> = url_problem(&endpoint.url).into_iter().collect();
    match &endpoint.first {
        Ok(page) => findings.extend(page.hops.iter().filter_map(|hop| suite_problem(&hop.negotiated))),
        Err(why) if findings.is_empty() => return Err(NotSeen::because(why.to_string())),
        Err(_) => {}
    }
    Ok(findings)
}

/// What is wrong with an endpoint's URL.
fn url_problem(url: &str) -> Option<String> {
    let Some(rest) = url.strip_prefix("https://") else {
        return Some(format!("{} is not an https URL", shown(url)));
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    authority
        .contains('@')
        .then(|| format!("{} has user information", shown(url)))
}

/// `rustls` offers no suite that Mozilla's intermediate list lacks; what it took is checked all the same.
fn suite_problem(negotiated: &str) -> Option<String> {
    let modern =
        negotiated.starts_with("TLSv1_3 ") || (negotiated.starts_with("TLSv1_2 ") && negotiated.contains("ECDHE"));
    (!modern).then(|| format!("negotiated {negotiated}"))
}

pub(super) fn legacy_tls(seen: &Seen) -> Finding {
    let endpoint = seen.endpoint()?;
    if let Err(why) = &endpoint.first {
        return Err(NotSeen::because(why.to_string()));
    }
    let mut findings = Vec::new();
    for (version, accepted) in &endpoint.legacy {
        match accepted {
            Ok(true) => findings.push(format!("{version} is accepted")),
            Ok(false) => {}
            Err(why) => return Err(NotSeen::because(why)),
        }
    }
    Ok(findings)
}

pub(super) fn document(seen: &Seen) -> Finding {
    let page = seen.bundle_page()?;
    Ok(match std::str::from_utf8(&page.body) {
        Err(e) => vec![format!("not UTF-8: {e}")],
        Ok(_) if json(&page.body).is_none() => vec!["no JSON object".into()],
        Ok(_) => Vec::new(),
    })
}

pub(super) fn content_type(seen: &Seen) -> Finding {
    let page = seen.bundle_page()?;
    Ok(match &page.content_type {
        None => vec!["no Content-Type".into()],
        Some(kind)
            if kind
                .split(';')
                .next()
                .unwrap_or_default()
                .trim()
                .eq_ignore_ascii_case("application/json") =>
        {
            Vec::new()
        }
        Some(kind) => vec![format!("Content-Type is {}", shown(kind))],
    })
}

pub(super) fn no_authentication(seen: &Seen) -> Finding {
    match &seen.endpoint()?.first {
        Ok(page) if matches!(page.status, 401 | 403 | 407) => Ok(vec![format!("HTTP status {}", page.status)]),
        Ok(_) => Ok(Vec::new()),
        Err(why) if why.certificate_asked => Ok(vec![format!("asked for a client certificate, then: {why}")]),
        Err(why) => Err(NotSeen::because(why.to_string())),
    }
}

pub(super) fn certificate(seen: &Seen) -> Finding {
    let endpoint = seen.endpoint()?;
    let page = seen.bundle_answer()?;
    let mut findings = Vec::new();
    for hop in &page.hops {
        let problem = match (&endpoint.spiffe_id, &seen.roots) {
            (Some(id), _) => svid_problem(seen, hop, id)?,
            (None, Roots::Anyone) => name_problem(hop),
            (None, Roots::Certificates(roots)) => web_problem(seen, hop, roots)?,
        };
        findings.extend(problem.map(|why| format!("{}: {why}", shown(&hop.host))));
    }
    Ok(findings)
}

/// Profile https_web: a name for the host, and a path to whom the caller trusts.
fn web_problem(seen: &Seen, hop: &Hop, roots: &[CertificateDer<'_>]) -> Result<Option<String>, NotSeen> {
    if roots.is_empty() {
        return Err(NotSeen::because(
            "this system has no list of authorities: give --bundle-ca or --insecure",
        ));
    }
    match der::verify_server(&hop.certificates, roots, seen.now) {
        Verified::Yes => Ok(name_problem(hop)),
        Verified::No(why) => Ok(Some(why)),
        Verified::Unknown(why) => Err(NotSeen::because(why)),
    }
}

/// The standard still allows the common name, which webpki does not read.
fn name_problem(hop: &Hop) -> Option<String> {
    let Some(leaf) = hop.certificates.first() else {
        return Some("no certificate".into());
    };
    let why = der::names_host(leaf, &hop.host).err()?;
    let common_name = der::parse(leaf)
        .ok()
        .and_then(|c| c.subject().iter_common_name().next()?.as_str().ok().map(str::to_owned));
    (common_name.as_deref() != Some(hop.host.as_str())).then_some(why)
}

/// Profile https_spiffe: a valid X509-SVID with the endpoint's ID.
fn svid_problem(seen: &Seen, hop: &Hop, id: &str) -> Result<Option<String>, NotSeen> {
    let Some(leaf) = hop.certificates.first() else {
        return Ok(Some("no certificate".into()));
    };
    let parsed = match der::parse(leaf) {
        Ok(parsed) => parsed,
        Err(why) => return Ok(Some(why)),
    };
    let names = der::uri_names(&parsed);
    if names != [id] {
        return Ok(Some(format!(
            "the certificate's URI SANs are {} instead of {}",
            shown(&names.join(", ")),
            shown(id)
        )));
    }
    if der::is_authority(&parsed) {
        return Ok(Some("the certificate is a signing certificate".into()));
    }
    let trust_domain = format!("spiffe://{}", spiffe_id::trust_domain(id).unwrap_or_default());
    let bundles = seen.workload.as_ref().and_then(|w| w.x509_bundles.first.as_ref().ok());
    let Some(bundle) = bundles
        .and_then(|b| b.bundles.get(&trust_domain))
        .and_then(|b| der::split(b).ok())
    else {
        return Err(NotSeen::because(format!(
            "no bundle of {} to verify it with: give --socket",
            shown(&trust_domain)
        )));
    };
    match der::verify_server(&hop.certificates, &bundle, seen.now) {
        Verified::Yes => Ok(None),
        Verified::No(why) => Ok(Some(why)),
        Verified::Unknown(why) => Err(NotSeen::because(why)),
    }
}

fn redirects(seen: &Seen) -> Result<Vec<(u16, &str)>, NotSeen> {
    let page = seen.bundle_answer()?;
    let redirects: Vec<_> = page
        .hops
        .iter()
        .filter_map(|hop| hop.redirect.as_ref())
        .map(|(s, t)| (*s, t.as_str()))
        .collect();
    if redirects.is_empty() {
        Err(NotSeen::because("no redirect"))
    } else {
        Ok(redirects)
    }
}

pub(super) fn redirect_target(seen: &Seen) -> Finding {
    Ok(redirects(seen)?
        .into_iter()
        .filter_map(|(_, target)| url_problem(target))
        .collect())
}

pub(super) fn redirect_kind(seen: &Seen) -> Finding {
    let permanent = |(status, target)| match status {
        301 | 308 => Some(format!("status {status} to {}", shown(target))),
        _ => None,
    };
    Ok(redirects(seen)?.into_iter().filter_map(permanent).collect())
}

pub(super) fn published(seen: &Seen) -> Finding {
    let keys = seen.bundle_keys()?;
    seen.workload()?;
    let mut findings = Vec::new();
    let mut looked = false;

    let authorities: Vec<_> = bundle::certificates(&keys)
        .into_iter()
        .map(CertificateDer::from)
        .collect();
    for chain in seen.chains().unwrap_or_default() {
        // A chain that its own bundle does not verify either is the finding of X5-7.
        let own = der::split(&chain.svid.bundle).unwrap_or_default();
        if der::verify_svid(&chain.certificates, &own, seen.now) != Verified::Yes {
            continue;
        }
        looked = true;
        if let Verified::No(why) = der::verify_svid(&chain.certificates, &authorities, seen.now) {
            findings.push(format!("X.509-SVID {}: {why}", chain.name()));
        }
    }
    let mut token = |kind: &str, id: &str, jws: &Jws, used: &str| {
        if jwt::algorithm_problem(jws).is_some() {
            return;
        }
        looked = true;
        let keys: Vec<_> = keys
            .iter()
            .filter(|key| key["use"].as_str() == Some(used))
            .cloned()
            .collect();
        if let Verified::No(why) = verify(jws, &keys) {
            findings.push(format!("{kind} {}: {why}", shown(id)));
        }
    };
    for each in seen.tokens().unwrap_or_default() {
        token("JWT-SVID", &each.spiffe_id, &each.jws, "jwt-svid");
    }
    for (svid, jws) in seen.wits().unwrap_or_default() {
        token("WIT-SVID", &svid.spiffe_id, &jws, "wit-svid");
    }
    if looked {
        Ok(findings)
    } else {
        Err(NotSeen::because("no SVID to look up"))
    }
}
