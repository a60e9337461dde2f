//! Certificates as they come out of the Workload API: concatenated DER, read by `x509-parser`, verified by `webpki`.
//!
//! Comes in: bytes and the certificates that are to vouch for them. Goes out: certificates, or what is wrong in words.

use std::time::Duration;

use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};
use x509_parser::{
    der_parser::parse_der,
    extensions::GeneralSubtree,
    prelude::{FromDer, GeneralName, ParsedExtension, X509Certificate},
};

use crate::verified::Verified;

/// Splits concatenated DER into certificates.
pub(crate) fn split(bytes: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    if bytes.is_empty() {
        return Err("is empty".into());
    }
    if bytes.trim_ascii_start().starts_with(b"-----BEGIN") {
        return Err("is PEM, not DER".into());
    }
    let mut rest = bytes;
    let mut certificates = Vec::new();
    while !rest.is_empty() {
        let (after, _) = X509Certificate::from_der(rest).map_err(|e| {
            format!(
                "is no concatenated DER: certificate {} does not parse: {e}",
                certificates.len() + 1
            )
        })?;
        let length = rest.len() - after.len();
        certificates.push(CertificateDer::from(rest[..length].to_vec()));
        rest = after;
    }
    Ok(certificates)
}

/// One certificate, parsed.
pub(crate) fn parse(der: &[u8]) -> Result<X509Certificate<'_>, String> {
    X509Certificate::from_der(der)
        .map(|(_, certificate)| certificate)
        .map_err(|e| format!("does not parse: {e}"))
}

/// All URI names of the subject alternative names, in order.
pub(crate) fn uri_names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let mut names = Vec::new();
    for extension in certificate.extensions() {
        if let ParsedExtension::SubjectAlternativeName(san) = extension.parsed_extension() {
            names.extend(san.general_names.iter().filter_map(|name| match name {
                GeneralName::URI(uri) => Some((*uri).to_owned()),
                _ => None,
            }));
        }
    }
    names
}

/// Whether this is a certificate that signs others.
pub(crate) fn is_authority(certificate: &X509Certificate<'_>) -> bool {
    certificate
        .basic_constraints()
        .ok()
        .flatten()
        .is_some_and(|c| c.value.ca)
}

/// Verifies a chain, leaf first, up to one of `anchors`, by RFC 5280, for clients and for servers.
pub(crate) fn verify_svid(chain: &[CertificateDer<'_>], anchors: &[CertificateDer<'_>], now: u64) -> Verified {
    match verify(chain, anchors, now, KeyUsage::client_auth()) {
        Verified::Yes => match verify(chain, anchors, now, KeyUsage::server_auth()) {
            Verified::No(why) => Verified::No(format!("as a server {why}")),
            other => other,
        },
        Verified::No(why) => Verified::No(format!("as a client {why}")),
        other => other,
    }
}

/// Verifies a server's chain, leaf first, up to one of `anchors`, by RFC 5280.
pub(crate) fn verify_server(chain: &[CertificateDer<'_>], anchors: &[CertificateDer<'_>], now: u64) -> Verified {
    verify(chain, anchors, now, KeyUsage::server_auth())
}

/// Whether a certificate names a host: a DNS name or an IP address.
pub(crate) fn names_host(certificate: &CertificateDer<'_>, host: &str) -> Result<(), String> {
    let leaf = EndEntityCert::try_from(certificate).map_err(|e| format!("the certificate is unusable: {e}"))?;
    let name = ServerName::try_from(host).map_err(|e| format!("{host} is no host name: {e}"))?;
    leaf.verify_is_valid_for_subject_name(&name).map_err(|e| e.to_string())
}

fn verify(chain: &[CertificateDer<'_>], anchors: &[CertificateDer<'_>], now: u64, usage: KeyUsage) -> Verified {
    let (Some(leaf), intermediates) = (chain.first(), chain.get(1..).unwrap_or_default()) else {
        return Verified::No("cannot be verified: the chain is empty".into());
    };
    // One unusable anchor does not spoil the others.
    let trusted: Vec<_> = anchors
        .iter()
        .filter_map(|anchor| anchor_from_trusted_cert(anchor).ok())
        .collect();
    if trusted.is_empty() {
        return Verified::No("cannot be verified: there is no usable certificate to verify it with".into());
    }
    let leaf = match EndEntityCert::try_from(leaf) {
        Ok(leaf) => leaf,
        Err(e) => return Verified::No(format!("cannot be verified: the leaf is unusable: {e}")),
    };
    let time = UnixTime::since_unix_epoch(Duration::from_secs(now));
    match leaf.verify_for_usage(
        webpki::ALL_VERIFICATION_ALGS,
        &trusted,
        intermediates,
        time,
        usage,
        None,
        None,
    ) {
        Ok(_) => Verified::Yes,
        Err(
            e @ (webpki::Error::UnsupportedSignatureAlgorithmContext(_)
            | webpki::Error::UnsupportedSignatureAlgorithmForPublicKeyContext(_)),
        ) => Verified::Unknown(format!("webpki and ring do not verify this algorithm: {e}")),
        // It takes every URI constraint for a violation, also one that is kept (X5-6 looks at that).
        Err(webpki::Error::NameConstraintViolation)
            if intermediates.iter().chain(anchors).any(|c| constrains_uris(c)) =>
        {
            Verified::Unknown("webpki does not read URI name constraints".into())
        }
        Err(e) => Verified::No(format!("does not verify: {e}")),
    }
}

/// The URI name constraints of a certificate: what is permitted, and what is excluded.
pub(crate) fn uri_constraints(certificate: &X509Certificate<'_>) -> (Vec<String>, Vec<String>) {
    let uris = |subtrees: &Option<Vec<GeneralSubtree<'_>>>| -> Vec<String> {
        let names = subtrees.iter().flatten().map(|subtree| &subtree.base);
        names
            .filter_map(|name| {
                if let GeneralName::URI(uri) = name {
                    Some((*uri).to_owned())
                } else {
                    None
                }
            })
            .collect()
    };
    let constraints = certificate
        .extensions()
        .iter()
        .find_map(|extension| match extension.parsed_extension() {
            ParsedExtension::NameConstraints(constraints) => Some(constraints),
            _ => None,
        });
    match constraints {
        Some(constraints) => (
            uris(&constraints.permitted_subtrees),
            uris(&constraints.excluded_subtrees),
        ),
        None => (Vec::new(), Vec::new()),
    }
}

fn constrains_uris(der: &CertificateDer<'_>) -> bool {
    parse(der).is_ok_and(|certificate| uri_constraints(&certificate) != (Vec::new(), Vec::new()))
}

/// Whether these bytes are an unencrypted PKCS#8 key in DER (RFC 5208 §5), whatever the algorithm.
pub(crate) fn is_pkcs8(bytes: &[u8]) -> bool {
    let Ok((rest, key)) = parse_der(bytes) else {
        return false;
    };
    let Ok([version, algorithm, private, ..]) = key.as_sequence().map(Vec::as_slice) else {
        return false;
    };
    rest.is_empty() && version.as_u32().is_ok() && algorithm.as_sequence().is_ok() && private.as_slice().is_ok()
}
