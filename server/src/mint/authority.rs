//! The certificates of authorities, which are SVIDs themselves (X509-SVID §3.2), built by rcgen.
//!
//! In come a trust domain, a public key and a lifetime; out goes an [`UnsignedX509`], signed on the same path as every
//! other certificate.

use std::cell::RefCell;

use mintmark_identity::{KeyKind, PublicKey, Serial, TrustDomain};
use rcgen::string::{Ia5String, PrintableString};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, DnValue, IsCa, KeyIdMethod, KeyUsagePurpose,
    PublicKeyData, SanType, SerialNumber, SigningKey,
};
use time::OffsetDateTime;

use super::Validity;
use super::x509::{ORGANIZATION_NAME, SignatureAlgorithm, UnsignedX509};

/// `serialNumber` in a name (RFC 5280 appendix A.1), which tells the subjects of successive authorities apart.
const OID_SERIAL_NUMBER: &[u64] = &[2, 5, 4, 5];

/// What one authority's certificate shall say.
#[derive(Clone, Copy, Debug)]
pub struct AuthoritySpec<'a> {
    /// For whom it signs; its SPIFFE ID is the authority's own.
    pub trust_domain: &'a TrustDomain,
    /// Its key.
    pub public_key: &'a PublicKey,
    /// How long it lives.
    pub validity: Validity,
}

impl AuthoritySpec<'_> {
    /// With what its key signs, itself included.
    pub fn algorithm(&self) -> SignatureAlgorithm {
        match self.public_key.kind() {
            KeyKind::P384 => SignatureAlgorithm::EcdsaP384,
            KeyKind::P256 | KeyKind::Rsa => SignatureAlgorithm::EcdsaP256,
        }
    }
}

/// Why rcgen could not write an authority's certificate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the authority's certificate could not be encoded: {0}")]
pub struct EncodeError(String);

impl From<rcgen::Error> for EncodeError {
    fn from(error: rcgen::Error) -> Self {
        Self(error.to_string())
    }
}

/// Writes the TBSCertificate of a self-signed authority.
///
/// # Errors
/// When rcgen refuses a part of it.
pub fn encode(spec: &AuthoritySpec<'_>, serial: Serial) -> Result<UnsignedX509, EncodeError> {
    let at = |unix| OffsetDateTime::from_unix_timestamp(unix).map_err(|error| EncodeError(error.to_string()));
    let mut params = CertificateParams::default();
    params.not_before = at(spec.validity.not_before)?;
    params.not_after = at(spec.validity.not_after)?;
    params.serial_number = Some(SerialNumber::from_slice(serial.as_bytes()));
    params.subject_alt_names = vec![SanType::URI(Ia5String::try_from(spec.trust_domain.id().as_str())?)];
    params.distinguished_name = subject(serial)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.key_identifier_method = KeyIdMethod::PreSpecified(spec.public_key.subject_key_id().to_vec());
    let recorder = Recorder {
        spec,
        tbs: RefCell::default(),
    };
    params.self_signed(&recorder)?;
    Ok(UnsignedX509 {
        tbs: recorder.tbs.into_inner(),
        serial,
    })
}

fn subject(serial: Serial) -> Result<DistinguishedName, EncodeError> {
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, ORGANIZATION_NAME);
    let number = PrintableString::try_from(serial.hex())?;
    name.push(
        DnType::CustomDnType(OID_SERIAL_NUMBER.to_vec()),
        DnValue::PrintableString(number),
    );
    Ok(name)
}

/// Stands where rcgen expects the key, and keeps what it is asked to sign: signing comes after logging.
struct Recorder<'a> {
    spec: &'a AuthoritySpec<'a>,
    tbs: RefCell<Vec<u8>>,
}

impl PublicKeyData for Recorder<'_> {
    fn der_bytes(&self) -> &[u8] {
        self.spec.public_key.key_bytes()
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        match self.spec.algorithm() {
            SignatureAlgorithm::EcdsaP256 => &rcgen::PKCS_ECDSA_P256_SHA256,
            SignatureAlgorithm::EcdsaP384 => &rcgen::PKCS_ECDSA_P384_SHA384,
        }
    }
}

impl SigningKey for Recorder<'_> {
    fn sign(&self, tbs: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.tbs.replace(tbs.to_vec());
        Ok(Vec::new())
    }
}
