//! X.509-SVIDs (X509-SVID.md): leaves, and the certificates of signing authorities.
//!
//! The rules are those for an issuer (§2 to §4) and for a validator (§5.2); the certificate's signature,
//! its chain and its time are not judged here. Everything borrows from the DER that was given.

use std::ops::Deref;

use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{GeneralName, KeyUsage, ParsedExtension, X509Extension};
use x509_parser::prelude::FromDer as _;
use x509_parser::x509::X509Version;

use crate::{Serial, SpiffeId, SpiffeIdError, der};

/// The largest certificate in bytes.
const MAX_CERTIFICATE: usize = 64 << 10;

/// A leaf: the certificate of a workload, a node or a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaf<'a> {
    /// Whose certificate it is; the path is not empty.
    pub spiffe_id: SpiffeId,
    /// The DNS names beside it.
    pub dns_names: Vec<&'a str>,
    /// The fields that leaves and authorities have alike; they are reached directly, too.
    pub certificate: Certificate<'a>,
}

/// The certificate of a signing authority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authority<'a> {
    /// The trust domain's ID, if it has one.
    pub spiffe_id: Option<SpiffeId>,
    /// The number of authorities that may stand between it and a leaf, if that is limited.
    pub path_len: Option<u32>,
    /// The fields that leaves and authorities have alike; they are reached directly, too.
    pub certificate: Certificate<'a>,
}

/// The fields that leaves and authorities have alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate<'a> {
    /// The content of the serial number's DER, big-endian.
    pub serial: &'a [u8],
    /// The first second at which it is valid, in Unix seconds.
    pub not_before: i64,
    /// The last second at which it is valid, in Unix seconds.
    pub not_after: i64,
    /// The subject key identifier, if there is one.
    pub subject_key_id: Option<&'a [u8]>,
    /// The key identifier of the issuer, if there is one.
    pub authority_key_id: Option<&'a [u8]>,
    /// The SubjectPublicKeyInfo.
    pub spki_der: &'a [u8],
    /// The subject's name in DER.
    pub subject_der: &'a [u8],
    /// The issuer's name in DER.
    pub issuer_der: &'a [u8],
    /// What is signed, in DER.
    pub tbs_der: &'a [u8],
}

impl<'a> Leaf<'a> {
    /// Parses a leaf and checks it against X509-SVID §2 to §5.2.
    pub fn parse(der: &'a [u8]) -> Result<Self, X509SvidError> {
        let certificate = certificate(der)?;
        let facts = Facts::gather(&certificate, der)?;
        if facts.is_ca {
            return Err(X509SvidError::Rule {
                rule: "a leaf must not be a CA (X509-SVID §4.1)",
            });
        }
        let (usage, critical) = facts.key_usage.ok_or(X509SvidError::Rule {
            rule: "the key usage extension must be there (X509-SVID §4.3)",
        })?;
        let rules = [
            (critical, "the key usage extension must be critical (X509-SVID §4.3)"),
            (
                usage.digital_signature(),
                "key usage digitalSignature must be set (X509-SVID §4.3)",
            ),
            (
                !usage.key_cert_sign(),
                "key usage keyCertSign must not be set on a leaf (X509-SVID §4.3)",
            ),
            (
                !usage.crl_sign(),
                "key usage cRLSign must not be set on a leaf (X509-SVID §4.3)",
            ),
            (
                facts.extended.is_none_or(|(server, client)| server && client),
                "extended key usage must have both serverAuth and clientAuth (X509-SVID §4.4)",
            ),
            (
                facts.names_critical || !facts.subject_empty,
                "the subject alternative name must be critical when the subject is empty (RFC 5280 §4.2.1.6)",
            ),
        ];
        for (holds, rule) in rules {
            if !holds {
                return Err(X509SvidError::Rule { rule });
            }
        }
        let [uri] = *facts.uris else {
            return Err(X509SvidError::Uris {
                count: facts.uris.len(),
            });
        };
        let spiffe_id = SpiffeId::parse(uri)?;
        if spiffe_id.is_root() {
            return Err(X509SvidError::Rule {
                rule: "a leaf's SPIFFE ID must have a path (X509-SVID §3.1)",
            });
        }
        Ok(Self {
            spiffe_id,
            dns_names: facts.dns_names,
            certificate: facts.certificate,
        })
    }

    /// The serial as one of ours, or why it is not.
    pub fn serial(&self) -> Result<Serial, crate::SerialError> {
        Serial::from_bytes(self.certificate.serial)
    }
}

impl<'a> Authority<'a> {
    /// Parses the certificate of a signing authority and checks it against X509-SVID §3.2 to §4.3.
    pub fn parse(der: &'a [u8]) -> Result<Self, X509SvidError> {
        let certificate = certificate(der)?;
        let facts = Facts::gather(&certificate, der)?;
        if !facts.is_ca {
            return Err(X509SvidError::Rule {
                rule: "a signing certificate must be a CA (X509-SVID §4.1)",
            });
        }
        if !facts.key_usage.is_some_and(|(usage, _)| usage.key_cert_sign()) {
            return Err(X509SvidError::Rule {
                rule: "key usage keyCertSign must be set on a signing certificate (X509-SVID §4.3)",
            });
        }
        let spiffe_id = match *facts.uris {
            [] => None,
            [uri] => Some(SpiffeId::parse(uri)?),
            _ => {
                return Err(X509SvidError::Uris {
                    count: facts.uris.len(),
                });
            }
        };
        if spiffe_id.as_ref().is_some_and(|id| !id.is_root()) {
            return Err(X509SvidError::Rule {
                rule: "a signing certificate's SPIFFE ID must not have a path (X509-SVID §3.2)",
            });
        }
        Ok(Self {
            spiffe_id,
            path_len: facts.path_len,
            certificate: facts.certificate,
        })
    }
}

impl<'a> Deref for Leaf<'a> {
    type Target = Certificate<'a>;
    fn deref(&self) -> &Certificate<'a> {
        &self.certificate
    }
}

impl<'a> Deref for Authority<'a> {
    type Target = Certificate<'a>;
    fn deref(&self) -> &Certificate<'a> {
        &self.certificate
    }
}

/// Why a certificate is not an X.509-SVID.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum X509SvidError {
    /// Longer than any certificate that is read.
    #[error("a certificate of {length} bytes is not read, at most {MAX_CERTIFICATE} are")]
    TooLong {
        /// How many bytes were given.
        length: usize,
    },
    /// Not a certificate in DER.
    #[error("the certificate cannot be read: {what}")]
    Malformed {
        /// What is wrong.
        what: &'static str,
    },
    /// An extension that is critical and not known.
    #[error("the certificate has a critical extension {oid} that is not known here (RFC 5280 §4.2)")]
    CriticalExtension {
        /// Its object identifier.
        oid: String,
    },
    /// An extension that is there twice.
    #[error("the certificate has extension {oid} more than once (RFC 5280 §4.2)")]
    DuplicateExtension {
        /// Its object identifier.
        oid: String,
    },
    /// No URI, or several.
    #[error("the certificate has {count} URI names, an X.509-SVID has exactly one (X509-SVID §2)")]
    Uris {
        /// How many there are.
        count: usize,
    },
    /// A URI that is not a SPIFFE ID.
    #[error("the certificate's URI name: {0}")]
    SpiffeId(#[from] SpiffeIdError),
    /// A rule of the standard that does not hold.
    #[error("not an X.509-SVID: {rule}")]
    Rule {
        /// The rule and where it is written.
        rule: &'static str,
    },
}

/// Parses one certificate, without trailing bytes and within the limit.
pub(crate) fn certificate(der: &[u8]) -> Result<X509Certificate<'_>, X509SvidError> {
    if der.len() > MAX_CERTIFICATE {
        return Err(X509SvidError::TooLong { length: der.len() });
    }
    let (rest, certificate) = X509Certificate::from_der(der).map_err(|_| X509SvidError::Malformed {
        what: "it is not an X.509 certificate in DER",
    })?;
    if !rest.is_empty() {
        return Err(X509SvidError::Malformed {
            what: "bytes follow it",
        });
    }
    Ok(certificate)
}

/// What the extensions say, before it is judged.
struct Facts<'a> {
    is_ca: bool,
    path_len: Option<u32>,
    key_usage: Option<(KeyUsage, bool)>,
    /// serverAuth and clientAuth.
    extended: Option<(bool, bool)>,
    uris: Vec<&'a str>,
    dns_names: Vec<&'a str>,
    names_critical: bool,
    subject_empty: bool,
    certificate: Certificate<'a>,
}

impl<'a> Facts<'a> {
    fn gather(parsed: &X509Certificate<'a>, der: &'a [u8]) -> Result<Self, X509SvidError> {
        let malformed = |what| X509SvidError::Malformed { what };
        let fields = &parsed.tbs_certificate;
        if fields.version() != X509Version::V3 {
            return Err(malformed("it is not of version 3"));
        }
        let mut facts = Self {
            is_ca: false,
            path_len: None,
            key_usage: None,
            extended: None,
            uris: Vec::new(),
            dns_names: Vec::new(),
            names_critical: false,
            subject_empty: fields.subject.iter().next().is_none(),
            certificate: Certificate {
                serial: fields.raw_serial(),
                not_before: fields.validity().not_before.timestamp(),
                not_after: fields.validity().not_after.timestamp(),
                subject_key_id: None,
                authority_key_id: None,
                spki_der: fields.subject_pki.raw,
                subject_der: fields.subject.as_raw(),
                issuer_der: fields.issuer.as_raw(),
                tbs_der: tbs(der).ok_or(malformed("its encoding is not DER"))?,
            },
        };
        let extensions = fields.extensions();
        for (index, extension) in extensions.iter().enumerate() {
            let oid = || der::dotted(extension.oid.as_bytes());
            if extensions[..index].iter().any(|earlier| earlier.oid == extension.oid) {
                return Err(X509SvidError::DuplicateExtension { oid: oid() });
            }
            facts.take(extension, oid)?;
        }
        Ok(facts)
    }

    fn take(&mut self, extension: &X509Extension<'a>, oid: impl Fn() -> String) -> Result<(), X509SvidError> {
        let malformed = |what| X509SvidError::Malformed { what };
        match extension.parsed_extension() {
            ParsedExtension::BasicConstraints(basic) => {
                self.is_ca = basic.ca;
                self.path_len = basic.path_len_constraint;
            }
            ParsedExtension::KeyUsage(usage) => self.key_usage = Some((*usage, extension.critical)),
            ParsedExtension::ExtendedKeyUsage(usage) => {
                self.extended = Some((usage.server_auth, usage.client_auth));
            }
            ParsedExtension::SubjectAlternativeName(names) => {
                self.names_critical = extension.critical;
                for name in &names.general_names {
                    match name {
                        GeneralName::URI(uri) if uri.is_ascii() => self.uris.push(uri),
                        GeneralName::DNSName(name) if name.is_ascii() => self.dns_names.push(name),
                        GeneralName::URI(_) | GeneralName::DNSName(_) | GeneralName::Invalid(..) => {
                            return Err(malformed("a subject alternative name is not an IA5String"));
                        }
                        _ => {}
                    }
                }
            }
            ParsedExtension::SubjectKeyIdentifier(id) => self.certificate.subject_key_id = Some(id.0),
            ParsedExtension::AuthorityKeyIdentifier(id) => {
                self.certificate.authority_key_id = id.key_identifier.as_ref().map(|id| id.0);
            }
            ParsedExtension::ParseError { .. } => return Err(malformed("an extension is not what its name says")),
            ParsedExtension::UnsupportedExtension { .. } | ParsedExtension::Unparsed if extension.critical => {
                return Err(X509SvidError::CriticalExtension { oid: oid() });
            }
            _ => {}
        }
        Ok(())
    }
}

/// What is signed, out of a whole certificate.
fn tbs(certificate: &[u8]) -> Option<&[u8]> {
    let mut outer = der::Reader::new(certificate);
    der::Reader::new(outer.take(der::SEQUENCE)?).take_whole(der::SEQUENCE)
}
