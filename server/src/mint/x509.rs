//! X.509-SVIDs, as DER assembled around what never changes under one authority.
//!
//! In come a [`Template`], made once per authority, an [`X509Spec`] and a serial; out goes an [`UnsignedX509`]. The
//! order of the extensions is the one that rcgen writes, so that tests can compare byte by byte.

use std::net::IpAddr;

use mintmark_identity::{KeyKind, PublicKey, Serial, SpiffeId};
use x509_parser::prelude::{FromDer, ParsedExtension, X509Certificate};

use super::Validity;
use super::der;

/// `2 5 4 3` (common name) and `2 5 4 10` (organization).
const OID_COMMON_NAME: &[u8] = &[0x06, 0x03, 0x55, 0x04, 0x03];
const UTF8_STRING: u8 = 0x0c;
/// The longest common name (RFC 5280 appendix A.1, ub-common-name).
const MAX_COMMON_NAME: usize = 64;

/// `RDN { organizationName = UTF8String "Mintmark" }`.
const ORGANIZATION: &[u8] = b"\x31\x11\x30\x0f\x06\x03\x55\x04\x0a\x0c\x08Mintmark";
/// The organization in the subjects of credentials and authorities.
pub const ORGANIZATION_NAME: &str = "Mintmark";

const VERSION_3: &[u8] = &[0xa0, 0x03, 0x02, 0x01, 0x02];
/// `ecdsa-with-SHA256` and `ecdsa-with-SHA384` without parameters (RFC 5758 §3.2).
const ECDSA_SHA256: &[u8] = &[0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];
const ECDSA_SHA384: &[u8] = &[0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x03];

/// `keyUsage`, critical: digitalSignature.
const KEY_USAGE_SIGN: &[u8] = b"\x30\x0e\x06\x03\x55\x1d\x0f\x01\x01\xff\x04\x04\x03\x02\x07\x80";
/// `keyUsage`, critical: digitalSignature and keyEncipherment, for RSA keys, with which TLS 1.2 may also encrypt.
const KEY_USAGE_SIGN_ENCIPHER: &[u8] = b"\x30\x0e\x06\x03\x55\x1d\x0f\x01\x01\xff\x04\x04\x03\x02\x05\xa0";
/// `extKeyUsage`: serverAuth and clientAuth.
const EXTENDED_KEY_USAGE: &[u8] =
    b"\x30\x1d\x06\x03\x55\x1d\x25\x04\x16\x30\x14\x06\x08\x2b\x06\x01\x05\x05\x07\x03\x01\x06\x08\x2b\x06\x01\x05\x05\x07\x03\x02";
/// `subjectKeyIdentifier` up to its 20 bytes.
const SUBJECT_KEY_ID: &[u8] = b"\x30\x1d\x06\x03\x55\x1d\x0e\x04\x16\x04\x14";
/// `basicConstraints`, critical: cA is false.
const BASIC_CONSTRAINTS: &[u8] = b"\x30\x0c\x06\x03\x55\x1d\x13\x01\x01\xff\x04\x02\x30\x00";
/// `subjectAltName`'s object identifier; not critical, since the subject is not empty (RFC 5280 §4.2.1.6).
const OID_SUBJECT_ALT_NAME: &[u8] = &[0x06, 0x03, 0x55, 0x1d, 0x11];

/// With what an authority signs certificates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignatureAlgorithm {
    /// ECDSA on P-256 with SHA-256.
    EcdsaP256,
    /// ECDSA on P-384 with SHA-384.
    EcdsaP384,
}

impl SignatureAlgorithm {
    /// The DER of its AlgorithmIdentifier.
    pub fn identifier(self) -> &'static [u8] {
        match self {
            Self::EcdsaP256 => ECDSA_SHA256,
            Self::EcdsaP384 => ECDSA_SHA384,
        }
    }
}

/// What every X.509-SVID of one authority has in common.
#[derive(Clone, Debug)]
pub struct Template {
    /// The issuer's name as DER.
    pub(super) issuer: Box<[u8]>,
    pub(super) issuer_key_id: [u8; 20],
    pub(super) algorithm: SignatureAlgorithm,
    /// The authority's own validity.
    pub(super) bounds: Validity,
    /// Signature algorithm and issuer.
    after_serial: Box<[u8]>,
    authority_key_id: Box<[u8]>,
}

/// Why no template could be made of an authority's certificate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// It does not parse.
    #[error("the authority's certificate does not parse: {0}")]
    Malformed(String),
    /// It has no subject key identifier of 20 bytes.
    #[error("the authority's certificate has no subject key identifier of 20 bytes")]
    SubjectKeyId,
}

impl Template {
    /// The template for what the authority with this certificate signs.
    ///
    /// # Errors
    /// When the certificate does not parse or has no subject key identifier.
    pub fn new(authority: &[u8], algorithm: SignatureAlgorithm) -> Result<Self, TemplateError> {
        let (_, certificate) =
            X509Certificate::from_der(authority).map_err(|error| TemplateError::Malformed(error.to_string()))?;
        let issuer_key_id: [u8; 20] = certificate
            .iter_extensions()
            .find_map(|extension| match extension.parsed_extension() {
                ParsedExtension::SubjectKeyIdentifier(id) => id.0.try_into().ok(),
                _ => None,
            })
            .ok_or(TemplateError::SubjectKeyId)?;
        let issuer: Box<[u8]> = certificate.subject().as_raw().into();
        let validity = certificate.validity();
        let mut authority_key_id = b"\x30\x1f\x06\x03\x55\x1d\x23\x04\x18\x30\x16\x80\x14".to_vec();
        authority_key_id.extend_from_slice(&issuer_key_id);
        Ok(Self {
            after_serial: [algorithm.identifier(), &issuer].concat().into(),
            bounds: Validity {
                not_before: validity.not_before.timestamp(),
                not_after: validity.not_after.timestamp(),
            },
            authority_key_id: authority_key_id.into(),
            issuer,
            issuer_key_id,
            algorithm,
        })
    }

    /// The authority's own validity, which no credential exceeds.
    pub fn bounds(&self) -> Validity {
        self.bounds
    }

    /// With what the authority signs.
    pub fn algorithm(&self) -> SignatureAlgorithm {
        self.algorithm
    }

    /// The authority's subject key identifier.
    pub fn key_id(&self) -> [u8; 20] {
        self.issuer_key_id
    }
}

/// What one X.509-SVID shall say.
#[derive(Clone, Copy, Debug)]
pub struct X509Spec<'a> {
    /// Whose it is.
    pub spiffe_id: &'a SpiffeId,
    /// The key that it is bound to.
    pub public_key: &'a PublicKey,
    /// DNS names beside the SPIFFE ID; the first one, up to 64 characters, is also the subject's common name, as SPIRE
    /// does.
    pub dns_names: &'a [String],
    /// IP addresses beside the SPIFFE ID.
    pub ip_addresses: &'a [IpAddr],
    /// How long it lives.
    pub validity: Validity,
}

impl<'a> X509Spec<'a> {
    /// The subject's common name.
    pub(super) fn common_name(&self) -> Option<&'a str> {
        self.dns_names
            .first()
            .map(String::as_str)
            .filter(|name| name.len() <= MAX_COMMON_NAME)
    }

    pub(super) fn key_usage(&self) -> &'static [u8] {
        match self.public_key.kind() {
            KeyKind::Rsa => KEY_USAGE_SIGN_ENCIPHER,
            KeyKind::P256 | KeyKind::P384 => KEY_USAGE_SIGN,
        }
    }
}

/// The bytes of a certificate that will be signed.
#[derive(Clone, PartialEq, Eq)]
pub struct UnsignedX509 {
    pub(super) tbs: Vec<u8>,
    pub(super) serial: Serial,
}

impl UnsignedX509 {
    /// The DER of the TBSCertificate.
    pub fn tbs(&self) -> &[u8] {
        &self.tbs
    }

    /// Its serial.
    pub fn serial(&self) -> Serial {
        self.serial
    }
}

impl std::fmt::Debug for UnsignedX509 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UnsignedX509")
            .field("serial", &self.serial)
            .finish_non_exhaustive()
    }
}

/// Writes the TBSCertificate of an X.509-SVID.
pub fn encode(template: &Template, spec: &X509Spec<'_>, serial: Serial) -> UnsignedX509 {
    let spki = spec.public_key.spki_der();
    let Validity {
        not_before, not_after, ..
    } = spec.validity;
    let key_usage = spec.key_usage();

    let common_name = spec.common_name().map_or(0, common_name_size);
    let subject = ORGANIZATION.len() + common_name;
    let validity = der::time_size(not_before) + der::time_size(not_after);
    let names = names_size(spec);
    let alt_names = OID_SUBJECT_ALT_NAME.len() + der::size(der::size(names));
    let extensions = template.authority_key_id.len()
        + der::size(alt_names)
        + key_usage.len()
        + EXTENDED_KEY_USAGE.len()
        + SUBJECT_KEY_ID.len()
        + 20
        + BASIC_CONSTRAINTS.len();
    let content = VERSION_3.len()
        + der::size(20)
        + template.after_serial.len()
        + der::size(validity)
        + der::size(subject)
        + spki.len()
        + der::size(der::size(extensions));

    let mut tbs = Vec::with_capacity(der::size(content));
    der::header(&mut tbs, der::SEQUENCE, content);
    tbs.extend_from_slice(VERSION_3);
    der::element(&mut tbs, der::INTEGER, serial.as_bytes());
    tbs.extend_from_slice(&template.after_serial);
    der::header(&mut tbs, der::SEQUENCE, validity);
    der::time(&mut tbs, not_before);
    der::time(&mut tbs, not_after);
    der::header(&mut tbs, der::SEQUENCE, subject);
    tbs.extend_from_slice(ORGANIZATION);
    if let Some(name) = spec.common_name() {
        write_common_name(&mut tbs, name);
    }
    tbs.extend_from_slice(spki);
    der::header(&mut tbs, der::EXPLICIT_3, der::size(extensions));
    der::header(&mut tbs, der::SEQUENCE, extensions);
    tbs.extend_from_slice(&template.authority_key_id);
    der::header(&mut tbs, der::SEQUENCE, alt_names);
    tbs.extend_from_slice(OID_SUBJECT_ALT_NAME);
    der::header(&mut tbs, der::OCTET_STRING, der::size(names));
    der::header(&mut tbs, der::SEQUENCE, names);
    write_names(&mut tbs, spec);
    tbs.extend_from_slice(key_usage);
    tbs.extend_from_slice(EXTENDED_KEY_USAGE);
    tbs.extend_from_slice(SUBJECT_KEY_ID);
    tbs.extend_from_slice(&spec.public_key.subject_key_id());
    tbs.extend_from_slice(BASIC_CONSTRAINTS);
    debug_assert_eq!(
        tbs.len(),
        der::size(content),
        "the sizes were summed as they were written"
    );
    UnsignedX509 { tbs, serial }
}

/// Puts a signature behind the bytes that it signs: the DER of the whole certificate.
pub fn assemble(unsigned: &UnsignedX509, algorithm: SignatureAlgorithm, signature: &[u8]) -> Vec<u8> {
    let identifier = algorithm.identifier();
    let bits = 1 + signature.len();
    let content = unsigned.tbs.len() + identifier.len() + der::size(bits);
    let mut certificate = Vec::with_capacity(der::size(content));
    der::header(&mut certificate, der::SEQUENCE, content);
    certificate.extend_from_slice(&unsigned.tbs);
    certificate.extend_from_slice(identifier);
    der::header(&mut certificate, der::BIT_STRING, bits);
    certificate.push(0);
    certificate.extend_from_slice(signature);
    certificate
}

/// The size of `RDN { commonName = UTF8String name }`.
fn common_name_size(name: &str) -> usize {
    der::size(der::size(OID_COMMON_NAME.len() + der::size(name.len())))
}

fn write_common_name(out: &mut Vec<u8>, name: &str) {
    let attribute = OID_COMMON_NAME.len() + der::size(name.len());
    der::header(out, der::SET, der::size(attribute));
    der::header(out, der::SEQUENCE, attribute);
    out.extend_from_slice(OID_COMMON_NAME);
    der::element(out, UTF8_STRING, name.as_bytes());
}

fn names_size(spec: &X509Spec<'_>) -> usize {
    let dns: usize = spec.dns_names.iter().map(|name| der::size(name.len())).sum();
    let ip: usize = spec
        .ip_addresses
        .iter()
        .map(|ip| if ip.is_ipv4() { der::size(4) } else { der::size(16) })
        .sum();
    der::size(spec.spiffe_id.as_str().len()) + dns + ip
}

fn write_names(out: &mut Vec<u8>, spec: &X509Spec<'_>) {
    der::element(out, der::URI, spec.spiffe_id.as_str().as_bytes());
    for name in spec.dns_names {
        der::element(out, der::DNS_NAME, name.as_bytes());
    }
    for ip in spec.ip_addresses {
        match ip {
            IpAddr::V4(v4) => der::element(out, der::IP_ADDRESS, &v4.octets()),
            IpAddr::V6(v6) => der::element(out, der::IP_ADDRESS, &v6.octets()),
        }
    }
}
