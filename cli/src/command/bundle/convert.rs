//! Bundles between the wire's message, PEM and the SPIFFE bundle document.

use std::path::Path;

use mintmark_identity::{Bundle, JwtAuthority, KeyId, TrustDomain, X509Authority};
use mintmark_proto::spire::types;

use super::BundleFormat;
use crate::command::files::read_input;
use crate::failure::{Failure, refused};
use crate::output::certificates::{pem, split};

/// A bundle of `trust_domain` from a file, or from standard input for `-`.
pub fn from_file(path: &Path, format: BundleFormat, trust_domain: &TrustDomain) -> Result<types::Bundle, Failure> {
    let bundle = from_bytes(&read_input(path)?, format, trust_domain);
    let name = match path == Path::new("-") {
        true => "standard input".to_owned(),
        false => path.display().to_string(),
    };
    bundle.map_err(|why| Failure::Refused(format!("{name} {why}")))
}

/// What is wrong completes "FILE …".
fn from_bytes(bytes: &[u8], format: BundleFormat, trust_domain: &TrustDomain) -> Result<types::Bundle, String> {
    match format {
        BundleFormat::Pem => from_pem(bytes, trust_domain),
        BundleFormat::Spiffe => {
            let bundle = Bundle::from_json(trust_domain, bytes)
                .map_err(|error| format!("is no SPIFFE bundle document of {trust_domain}: {error}"))?;
            Ok(message(&bundle))
        }
    }
}

fn from_pem(bytes: &[u8], trust_domain: &TrustDomain) -> Result<types::Bundle, String> {
    let blocks = pem::parse_many(bytes).map_err(|error| format!("is not PEM: {error}"))?;
    let mut bundle = types::Bundle {
        trust_domain: trust_domain.to_string(),
        ..types::Bundle::default()
    };
    for block in blocks.into_iter().filter(|block| block.tag() == "CERTIFICATE") {
        let whole = block.into_contents().into();
        for asn1 in split(&whole).map_err(|_| "holds a PEM block CERTIFICATE that is no certificate")? {
            bundle
                .x509_authorities
                .push(types::X509Certificate { asn1, tainted: false });
        }
    }
    if bundle.x509_authorities.is_empty() {
        return Err("holds no PEM block CERTIFICATE; for the SPIFFE bundle document say --format spiffe".to_owned());
    }
    Ok(bundle)
}

fn message(bundle: &Bundle) -> types::Bundle {
    types::Bundle {
        trust_domain: bundle.trust_domain.to_string(),
        x509_authorities: bundle
            .x509
            .iter()
            .map(|authority| types::X509Certificate {
                asn1: authority.der.to_vec().into(),
                tainted: authority.tainted,
            })
            .collect(),
        jwt_authorities: bundle
            .jwt
            .iter()
            .map(|key| types::JwtKey {
                public_key: key.spki_der.to_vec().into(),
                key_id: key.key_id.to_string(),
                expires_at: key.expires_at,
                tainted: key.tainted,
            })
            .collect(),
        wit_authorities: bundle
            .wit
            .iter()
            .map(|key| types::WitKey {
                public_key: key.spki_der.to_vec().into(),
                key_id: key.key_id.to_string(),
                expires_at: key.expires_at,
                tainted: key.tainted,
            })
            .collect(),
        refresh_hint: bundle.refresh_hint.unwrap_or_default().into(),
        sequence_number: bundle.sequence,
    }
}

/// The X.509 authorities as PEM.
pub fn to_pem(bundle: &types::Bundle) -> String {
    let authorities = bundle.x509_authorities.iter();
    authorities
        .map(|authority| pem("CERTIFICATE", &authority.asn1))
        .collect()
}

/// The SPIFFE bundle document.
pub fn to_document(message: &types::Bundle) -> Result<String, Failure> {
    let trust_domain = TrustDomain::parse_name_or_id(&message.trust_domain).map_err(refused)?;
    let mut bundle = Bundle::new(trust_domain);
    bundle.sequence = message.sequence_number;
    bundle.refresh_hint = u32::try_from(message.refresh_hint).ok().filter(|hint| *hint > 0);
    for authority in &message.x509_authorities {
        bundle.x509.push(X509Authority {
            der: (&authority.asn1[..]).into(),
            tainted: authority.tainted,
        });
    }
    let key = |key_id: &str, public_key: &[u8], expires_at, tainted| {
        KeyId::parse(key_id).map(|key_id| JwtAuthority {
            key_id,
            spki_der: public_key.into(),
            expires_at,
            tainted,
        })
    };
    for jwt in &message.jwt_authorities {
        let key = key(&jwt.key_id, &jwt.public_key, jwt.expires_at, jwt.tainted);
        bundle.jwt.push(key.map_err(refused)?);
    }
    for wit in &message.wit_authorities {
        let key = key(&wit.key_id, &wit.public_key, wit.expires_at, wit.tainted);
        bundle.wit.push(key.map_err(refused)?);
    }
    let document: serde_json::Value = serde_json::from_str(&bundle.to_json().map_err(refused)?).map_err(refused)?;
    serde_json::to_string_pretty(&document).map_err(refused)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_holds_no_bundle_is_named_with_what_it_holds() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bundle.pem");
        let trust_domain = TrustDomain::parse("example.org").unwrap();
        for (text, format, why) in [
            ("nothing", BundleFormat::Pem, "no PEM block CERTIFICATE"),
            (
                "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
                BundleFormat::Pem,
                "is no certificate",
            ),
            ("{}", BundleFormat::Spiffe, "SPIFFE bundle document of example.org"),
        ] {
            mintmark_runtime::fs::write_atomic(&path, text.as_bytes(), 0o600).unwrap();
            let error = from_file(&path, format, &trust_domain).unwrap_err().to_string();
            assert!(error.contains("bundle.pem ") && error.contains(why), "{error}");
        }
        let error = from_file(Path::new("/nonexistent"), BundleFormat::Pem, &trust_domain).unwrap_err();
        assert!(error.to_string().contains("/nonexistent"), "{error}");
    }
}
