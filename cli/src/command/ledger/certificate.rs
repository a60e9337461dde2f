//! Certificates of a file, to be found in the log.

use std::path::Path;

use mintmark_identity::Serial;
use mintmark_proto::Bytes;
use ring::digest::{SHA256, digest};
use serde::Serialize;
use x509_parser::prelude::{FromDer as _, ParsedExtension, X509Certificate};

use crate::command::files::read_input;
use crate::failure::Failure;
use crate::output::certificates::split;

/// A certificate that is to be in the log.
pub struct Certificate {
    /// The file that it is from.
    pub file: String,
    /// The certificate.
    pub der: Bytes,
    /// Its serial in hex, whosever it is.
    pub serial_text: String,
    /// Its serial, if it is one of ours.
    pub serial: Result<Serial, String>,
    /// What it names: a SPIFFE ID, or the subject.
    pub name: String,
    /// What was signed.
    pub content_sha256: [u8; 32],
    /// The key identifier of its authority.
    authority: Vec<u8>,
    /// The key identifier of its own key.
    own: Vec<u8>,
    is_authority: bool,
}

/// What was found of one.
#[derive(Debug, Serialize)]
pub struct Found {
    pub file: String,
    pub serial: String,
    pub spiffe_id: String,
    pub logged: bool,
    pub index: Option<u64>,
    pub log: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// The certificates of a PEM file; at least one.
pub fn read(path: &Path) -> Result<Vec<Certificate>, Failure> {
    let file = path.display().to_string();
    let bytes = read_input(path)?;
    let wrong = |why: String| Failure::Refused(format!("cannot read certificates from {file}: {why}"));
    let blocks = pem::parse_many(&bytes).map_err(|error| wrong(error.to_string()))?;
    let mut certificates = Vec::new();
    for block in blocks.into_iter().filter(|block| block.tag() == "CERTIFICATE") {
        for der in split(&block.into_contents().into()).map_err(wrong)? {
            certificates.push(Certificate::parse(&file, der).map_err(wrong)?);
        }
    }
    if certificates.is_empty() {
        return Err(wrong("it holds no PEM block CERTIFICATE".to_owned()));
    }
    Ok(certificates)
}

impl Certificate {
    fn parse(file: &str, der: Bytes) -> Result<Self, String> {
        let (_, parsed) = X509Certificate::from_der(&der).map_err(|error| error.to_string())?;
        let (mut authority, mut own, mut uri) = (Vec::new(), Vec::new(), None);
        for extension in parsed.extensions() {
            match extension.parsed_extension() {
                ParsedExtension::AuthorityKeyIdentifier(identifier) => {
                    authority = identifier
                        .key_identifier
                        .as_ref()
                        .map(|key| key.0.to_vec())
                        .unwrap_or_default();
                }
                ParsedExtension::SubjectKeyIdentifier(identifier) => own = identifier.0.to_vec(),
                ParsedExtension::SubjectAlternativeName(names) => {
                    uri = names.general_names.iter().find_map(|name| match name {
                        x509_parser::extensions::GeneralName::URI(uri) => Some((*uri).to_owned()),
                        _ => None,
                    });
                }
                _ => (),
            }
        }
        let content = digest(&SHA256, parsed.tbs_certificate.as_ref());
        Ok(Self {
            file: file.to_owned(),
            serial_text: hex::encode_upper(parsed.raw_serial()),
            serial: Serial::from_bytes(parsed.raw_serial()).map_err(|error| error.to_string()),
            name: uri.unwrap_or_else(|| parsed.subject().to_string()),
            content_sha256: content
                .as_ref()
                .try_into()
                .map_err(|_| "SHA-256 has 32 bytes".to_owned())?,
            is_authority: parsed.is_ca(),
            authority,
            own,
            der: der.clone(),
        })
    }

    /// Whether its signature is that of one of these authorities, where its own is among them. The log has what was signed; this is for the signature.
    pub fn check_signature(&self, authorities: &[Self]) -> Result<(), String> {
        let signers: Vec<_> = authorities
            .iter()
            .filter(|signer| signer.is_authority && !signer.own.is_empty() && signer.own == self.authority)
            .collect();
        if signers.is_empty() {
            return Ok(());
        }
        let (_, parsed) = X509Certificate::from_der(&self.der).map_err(|error| error.to_string())?;
        let signed = signers.iter().any(|signer| {
            X509Certificate::from_der(&signer.der)
                .is_ok_and(|(_, signer)| parsed.verify_signature(Some(signer.public_key())).is_ok())
        });
        match signed {
            true => Ok(()),
            false => Err(format!(
                "its signature is not that of authority {}",
                hex::encode(&self.authority)
            )),
        }
    }

    /// An authority of the bundle.
    pub fn of_bundle(der: Bytes) -> Option<Self> {
        Self::parse("the bundle", der).ok()
    }

    /// With what was found.
    pub fn found(&self, outcome: Result<(), String>) -> Found {
        let serial = self.serial.as_ref().ok();
        Found {
            file: self.file.clone(),
            serial: self.serial_text.clone(),
            spiffe_id: self.name.clone(),
            logged: outcome.is_ok(),
            index: serial.map(Serial::index),
            log: serial.map(Serial::log),
            problem: outcome.err(),
        }
    }
}
