//! OIDC-*: what consumers of JWT-SVIDs find that know nothing of SPIFFE.

use serde_json::Value;

use super::{Finding, NotSeen, evidence::json, jwt, wit::PRIVATE};
use crate::{
    der,
    jws::{key_set, verify},
    observe::{NoPage, Oidc, Page, Roots, Seen},
    report::shown,
    verified::Verified,
};

fn oidc(seen: &Seen) -> Result<&Oidc, NotSeen> {
    seen.oidc.as_ref().ok_or_else(|| NotSeen::because("no --oidc"))
}

/// The discovery document.
fn discovery(seen: &Seen) -> Result<Value, NotSeen> {
    match document(&oidc(seen)?.discovery) {
        Ok(document) => Ok(document),
        Err(why) => Err(NotSeen::because(format!("no discovery document: {why}"))),
    }
}

fn document(page: &Result<Page, NoPage>) -> Result<Value, String> {
    match page {
        Err(why) => Err(why.to_string()),
        Ok(page) if page.status != 200 => Err(format!("HTTP status {}", page.status)),
        Ok(page) => json(&page.body).ok_or_else(|| "no JSON object".into()),
    }
}

/// The keys behind `jwks_uri`.
fn published(seen: &Seen) -> Result<Vec<Value>, NotSeen> {
    let page = oidc(seen)?
        .keys
        .as_ref()
        .map_err(|why| NotSeen::because(why.to_string()))?;
    key_set(&page.body).map_err(|why| NotSeen::because(format!("the document at jwks_uri {why}")))
}

pub(super) fn issuer(seen: &Seen) -> Finding {
    let oidc = oidc(seen)?;
    let mut findings = match document(&oidc.discovery) {
        Err(why) => vec![why],
        Ok(document) => match document["issuer"].as_str() {
            None => vec!["no issuer".into()],
            Some(issuer) if issuer == oidc.issuer || issuer == oidc.issuer.trim_end_matches('/') => Vec::new(),
            Some(issuer) => vec![format!("issuer is {}", shown(issuer))],
        },
    };
    findings.extend(oidc.discovery.iter().filter_map(|page| certificate_problem(seen, page)));
    Ok(findings)
}

pub(super) fn keys(seen: &Seen) -> Finding {
    let document = discovery(seen)?;
    match document["jwks_uri"].as_str() {
        None => return Ok(vec!["no jwks_uri".into()]),
        Some(uri) if !uri.starts_with("https://") => return Ok(vec![format!("jwks_uri is {}", shown(uri))]),
        Some(_) => {}
    }
    let page = match &oidc(seen)?.keys {
        Err(why) => return Ok(vec![why.to_string()]),
        Ok(page) if page.status != 200 => return Ok(vec![format!("HTTP status {}", page.status)]),
        Ok(page) => page,
    };
    let keys = match key_set(&page.body) {
        Err(why) => return Ok(vec![format!("the document {why}")]),
        Ok(keys) => keys,
    };
    let mut findings: Vec<String> = certificate_problem(seen, page).into_iter().collect();
    if keys.is_empty() {
        findings.push("no key".into());
    }
    for (i, key) in keys.iter().enumerate() {
        let private = PRIVATE.iter().filter(|member| key.get(**member).is_some());
        findings.extend(private.map(|member| format!("key {} has the private parameter {member}", i + 1)));
    }
    Ok(findings)
}

/// Why a page's server is not whom its URL names.
fn certificate_problem(seen: &Seen, page: &Page) -> Option<String> {
    page.hops.iter().find_map(|hop| {
        let path = match &seen.roots {
            Roots::Anyone => Verified::Yes,
            Roots::Certificates(roots) => der::verify_server(&hop.certificates, roots, seen.now),
        };
        let named = match (path, hop.certificates.first()) {
            (Verified::No(why), _) => Err(why),
            (_, Some(leaf)) => der::names_host(leaf, &hop.host),
            (_, None) => Err("no certificate".into()),
        };
        named
            .err()
            .map(|why| format!("the certificate of {}: {why}", shown(&hop.url)))
    })
}

pub(super) fn key_parameters(seen: &Seen) -> Finding {
    let mut findings = Vec::new();
    for (i, key) in published(seen)?.iter().enumerate() {
        for member in ["kid", "alg"] {
            if key[member].as_str().is_none_or(str::is_empty) {
                findings.push(format!("key {} has no {member}", i + 1));
            }
        }
        match key["use"].as_str() {
            Some("sig") => {}
            Some(other) => findings.push(format!("key {} has use {}", i + 1, shown(other))),
            None => findings.push(format!("key {} has no use", i + 1)),
        }
    }
    Ok(findings)
}

pub(super) fn members(seen: &Seen) -> Finding {
    let document = discovery(seen)?;
    let lists = [
        "response_types_supported",
        "subject_types_supported",
        "id_token_signing_alg_values_supported",
    ];
    let lacking = lists
        .into_iter()
        .filter(|name| document[*name].as_array().is_none_or(Vec::is_empty));
    let mut findings: Vec<String> = lacking.map(|name| format!("no {name}")).collect();
    let listed = document["id_token_signing_alg_values_supported"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    for token in seen.tokens().unwrap_or_default() {
        if let Some(alg) = token.jws.header_text("alg")
            && !listed.is_empty()
            && !listed.iter().any(|known| known.as_str() == Some(alg))
        {
            findings.push(format!("the JWT-SVID's alg {} is not listed", shown(alg)));
        }
    }
    findings.dedup();
    Ok(findings)
}

pub(super) fn verifies(seen: &Seen) -> Finding {
    let oidc = oidc(seen)?;
    let keys = published(seen)?;
    let mut findings = Vec::new();
    for token in seen.tokens()? {
        if jwt::algorithm_problem(&token.jws).is_some() {
            return Err(NotSeen::because("the JWT-SVID has no allowed alg"));
        }
        match verify(&token.jws, &keys) {
            Verified::Yes => {}
            Verified::No(why) => findings.push(format!("{}: {why}", token.name())),
            Verified::Unknown(why) => return Err(NotSeen::because(why)),
        }
        match token.jws.claim_text("iss") {
            Some(iss) if iss == oidc.issuer.trim_end_matches('/') || iss == oidc.issuer => {}
            Some(iss) => findings.push(format!("{}: iss is {}", token.name(), shown(iss))),
            None => findings.push(format!("{}: no iss", token.name())),
        }
    }
    Ok(findings)
}
