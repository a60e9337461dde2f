//! Certificates: from the wire's DER to PEM and to words.

use mintmark_identity::svid::x509::Leaf;
use mintmark_proto::Bytes;
use x509_parser::oid_registry::{OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_NIST_EC_P384, OID_PKCS1_RSAENCRYPTION};
use x509_parser::prelude::{FromDer as _, ParsedExtension, X509Certificate};

/// The certificates of a concatenation in DER, as the Workload API has it.
///
/// # Errors
/// When it is not that.
pub fn split(ders: &Bytes) -> Result<Vec<Bytes>, String> {
    let mut all = Vec::new();
    let mut rest = &ders[..];
    while !rest.is_empty() {
        let (after, _) = X509Certificate::from_der(rest)
            .map_err(|error| format!("the answer holds no certificate where one should be: {error}"))?;
        let length = rest.len() - after.len();
        all.push(ders.slice_ref(&rest[..length]));
        rest = after;
    }
    Ok(all)
}

/// PEM of one kind, 64 characters a line.
pub fn pem(label: &str, der: &[u8]) -> String {
    let block = pem::Pem::new(label, der);
    pem::encode_config(&block, pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF))
}

/// Certificates as PEM, one after the other.
pub fn pems<'a>(ders: impl IntoIterator<Item = &'a Bytes>) -> String {
    ders.into_iter().map(|der| pem("CERTIFICATE", der)).collect()
}

/// What a person wants to know of a certificate.
pub struct Summary {
    /// The serial in hex, as openssl prints it.
    pub serial: String,
    /// The first second.
    pub not_before: i64,
    /// The last second.
    pub not_after: i64,
    /// The key's kind.
    pub key: String,
    /// The key identifier of the authority that signed it, in hex; empty when it does not say.
    pub authority: String,
    /// The DNS names.
    pub dns_names: Vec<String>,
}

impl Summary {
    /// Of a leaf that is an X.509-SVID.
    ///
    /// # Errors
    /// When it is none.
    pub fn of_svid(der: &[u8]) -> Result<Self, String> {
        Leaf::parse(der).map_err(|error| error.to_string())?;
        Self::of(der)
    }

    /// Of any certificate.
    ///
    /// # Errors
    /// When it is none.
    pub fn of(der: &[u8]) -> Result<Self, String> {
        let (_, certificate) =
            X509Certificate::from_der(der).map_err(|error| format!("it is no certificate: {error}"))?;
        let mut summary = Self {
            serial: hex::encode_upper(certificate.raw_serial()),
            not_before: certificate.validity().not_before.timestamp(),
            not_after: certificate.validity().not_after.timestamp(),
            key: key_kind(&certificate),
            authority: String::new(),
            dns_names: Vec::new(),
        };
        for extension in certificate.extensions() {
            match extension.parsed_extension() {
                ParsedExtension::AuthorityKeyIdentifier(identifier) => {
                    if let Some(key) = &identifier.key_identifier {
                        summary.authority = hex::encode(key.0);
                    }
                }
                ParsedExtension::SubjectAlternativeName(names) => {
                    summary
                        .dns_names
                        .extend(names.general_names.iter().filter_map(|name| match name {
                            x509_parser::extensions::GeneralName::DNSName(name) => Some((*name).to_owned()),
                            _ => None,
                        }));
                }
                _ => (),
            }
        }
        Ok(summary)
    }
}

fn key_kind(certificate: &X509Certificate<'_>) -> String {
    let algorithm = &certificate.public_key().algorithm;
    if algorithm.algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY {
        let curve = algorithm
            .parameters
            .as_ref()
            .and_then(|parameters| parameters.as_oid().ok());
        return match curve {
            Some(oid) if oid == OID_EC_P256 => "ECDSA P-256".to_owned(),
            Some(oid) if oid == OID_NIST_EC_P384 => "ECDSA P-384".to_owned(),
            _ => "ECDSA".to_owned(),
        };
    }
    if algorithm.algorithm == OID_PKCS1_RSAENCRYPTION {
        return "RSA".to_owned();
    }
    algorithm.algorithm.to_id_string()
}
