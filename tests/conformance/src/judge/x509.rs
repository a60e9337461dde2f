//! X5-*: the certificates of the X.509-SVIDs and of their bundles.

use x509_parser::prelude::X509Certificate;

use super::{Finding, NotSeen, evidence::Chain};
use crate::{der, observe::Seen, report::shown, spiffe_id, verified::Verified};

/// Looks at each leaf.
fn leaves(seen: &Seen, problems: impl Fn(&X509Certificate<'_>) -> Vec<String>) -> Finding {
    let mut findings = Vec::new();
    for chain in seen.chains()? {
        if let Some(Ok(leaf)) = chain.certificates.first().map(|leaf| der::parse(leaf)) {
            findings.extend(
                problems(&leaf)
                    .into_iter()
                    .map(|why| format!("{}: {why}", chain.name())),
            );
        }
    }
    Ok(findings)
}

/// Looks at each signing certificate.
fn signers(seen: &Seen, problems: impl Fn(&X509Certificate<'_>) -> Vec<String>) -> Finding {
    let mut findings = Vec::new();
    for der in seen.signing_certificates()? {
        let Ok(certificate) = der::parse(&der) else { continue };
        let name = format!(
            "{} (serial {})",
            shown(&certificate.subject().to_string()),
            certificate.raw_serial_as_string()
        );
        findings.extend(problems(&certificate).into_iter().map(|why| format!("{name}: {why}")));
    }
    Ok(findings)
}

pub(super) fn one_uri(seen: &Seen) -> Finding {
    leaves(seen, |leaf| match der::uri_names(leaf) {
        names if names.len() == 1 => Vec::new(),
        names if names.is_empty() => vec!["no URI SAN".into()],
        names => vec![format!("{} URI SANs: {}", names.len(), shown(&names.join(", ")))],
    })
}

pub(super) fn leaf_path(seen: &Seen) -> Finding {
    leaves(seen, |leaf| {
        let rootless = |id: &String| spiffe_id::parts(id).is_some_and(|p| matches!(p.path, "" | "/"));
        der::uri_names(leaf)
            .iter()
            .filter(|id| rootless(id))
            .map(|id| format!("URI SAN {} has no path", shown(id)))
            .collect()
    })
}

pub(super) fn san_critical(seen: &Seen) -> Finding {
    leaves(seen, |leaf| {
        let empty = leaf.subject().iter().next().is_none();
        match leaf.subject_alternative_name() {
            Ok(Some(san)) if empty && !san.critical => vec!["the subject is empty and the SAN is not critical".into()],
            _ => Vec::new(),
        }
    })
}

pub(super) fn leaf_usage(seen: &Seen) -> Finding {
    leaves(seen, |leaf| {
        let mut problems = Vec::new();
        match leaf.basic_constraints() {
            Ok(Some(constraints)) if constraints.value.ca => problems.push("cA is true".to_owned()),
            Ok(_) => {}
            Err(e) => problems.push(format!("the basic constraints do not parse: {e}")),
        }
        match leaf.key_usage() {
            Ok(None) => problems.push("no key usage".into()),
            Ok(Some(usage)) => {
                for (wrong, why) in [
                    (!usage.critical, "the key usage is not critical"),
                    (!usage.value.digital_signature(), "the key usage lacks digitalSignature"),
                    (usage.value.key_cert_sign(), "the key usage has keyCertSign"),
                    (usage.value.crl_sign(), "the key usage has cRLSign"),
                ] {
                    if wrong {
                        problems.push(why.into());
                    }
                }
            }
            Err(e) => problems.push(format!("the key usage does not parse: {e}")),
        }
        problems
    })
}

pub(super) fn extended_usage(seen: &Seen) -> Finding {
    leaves(seen, |leaf| match leaf.extended_key_usage() {
        Ok(Some(usage)) if !(usage.value.server_auth && usage.value.client_auth) => {
            let lacks = if usage.value.server_auth {
                "clientAuth"
            } else {
                "serverAuth"
            };
            vec![format!("the extended key usage lacks {lacks}")]
        }
        Err(e) => vec![format!("the extended key usage does not parse: {e}")],
        _ => Vec::new(),
    })
}

pub(super) fn extended_usage_present(seen: &Seen) -> Finding {
    leaves(seen, |leaf| match leaf.extended_key_usage() {
        Ok(None) => vec!["no extended key usage".into()],
        _ => Vec::new(),
    })
}

pub(super) fn signing_usage(seen: &Seen) -> Finding {
    signers(seen, |certificate| {
        let mut problems = Vec::new();
        if !der::is_authority(certificate) {
            problems.push("cA is not true".to_owned());
        }
        match certificate.key_usage() {
            Ok(None) => problems.push("no key usage".into()),
            Ok(Some(usage)) => {
                if !usage.value.key_cert_sign() {
                    problems.push("the key usage lacks keyCertSign".into());
                }
                // §4.3 asks it of SVIDs; an authority without a SPIFFE ID is none.
                if !usage.critical && !der::uri_names(certificate).is_empty() {
                    problems.push("the key usage is not critical".into());
                }
            }
            Err(e) => problems.push(format!("the key usage does not parse: {e}")),
        }
        problems
    })
}

pub(super) fn signing_path(seen: &Seen) -> Finding {
    signers(seen, |certificate| {
        let names = der::uri_names(certificate);
        let with_path = names
            .iter()
            .filter(|id| spiffe_id::parts(id).is_some_and(|p| !p.path.is_empty()));
        with_path
            .map(|id| format!("URI SAN {} has a path", shown(id)))
            .collect()
    })
}

pub(super) fn name_constraints(seen: &Seen) -> Finding {
    let mut findings = Vec::new();
    let mut constrained = false;
    for der in seen.signing_certificates()? {
        let Ok(signer) = der::parse(&der) else { continue };
        let (permitted, excluded) = der::uri_constraints(&signer);
        if permitted.is_empty() && excluded.is_empty() {
            continue;
        }
        constrained = true;
        for chain in seen.chains()?.iter().filter(|chain| signs(&signer, chain)) {
            let Some(name) = spiffe_id::trust_domain(&chain.svid.spiffe_id) else {
                continue;
            };
            if !permitted.is_empty() && !permitted.iter().any(|c| within(name, c)) {
                findings.push(format!(
                    "{}: permitted is {}",
                    chain.name(),
                    shown(&permitted.join(", "))
                ));
            }
            if let Some(c) = excluded.iter().find(|c| within(name, c)) {
                findings.push(format!("{}: excluded is {}", chain.name(), shown(c)));
            }
        }
    }
    if constrained {
        Ok(findings)
    } else {
        Err(NotSeen::because("no signing certificate has URI name constraints"))
    }
}

/// Whether a signing certificate is on the path of a chain, as far as names tell.
fn signs(signer: &X509Certificate<'_>, chain: &Chain<'_>) -> bool {
    let issuers = chain.certificates.iter().filter_map(|c| der::parse(c).ok());
    issuers
        .into_iter()
        .any(|c| c.issuer().as_raw() == signer.subject().as_raw())
}

/// Whether a host lies within a URI constraint (RFC 5280 §4.2.1.10): itself, or below it when it begins with a dot.
fn within(host: &str, constraint: &str) -> bool {
    if constraint.starts_with('.') {
        host.ends_with(constraint)
    } else {
        host == constraint
    }
}

pub(super) fn verifies(seen: &Seen) -> Finding {
    let mut findings = Vec::new();
    let mut looked = false;
    let mut unknown = "no bundle is concatenated DER".to_owned();
    for chain in seen.chains()? {
        // A bundle that is no DER is another check's finding.
        let Ok(bundle) = der::split(&chain.svid.bundle) else {
            if chain.svid.bundle.is_empty() {
                looked = true;
                findings.push(format!("{}: its bundle is empty", chain.name()));
            }
            continue;
        };
        match der::verify_svid(&chain.certificates, &bundle, seen.now) {
            Verified::Yes => looked = true,
            Verified::No(why) => {
                looked = true;
                findings.push(format!("{}: {why}", chain.name()));
            }
            Verified::Unknown(why) => unknown = why,
        }
    }
    if looked {
        Ok(findings)
    } else {
        Err(NotSeen::because(unknown))
    }
}
