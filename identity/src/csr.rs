//! Certificate signing requests (RFC 2986), as the APIs that have them bring them.
//!
//! Comes in: DER of at most 16 KiB. Goes out: the public key, the check that the caller holds its private
//! half, and the names that were asked for, which decide nothing: an identity comes from attestation, and a
//! caller may only compare. Attributes and extensions that are not known are ignored.

use std::fmt;

use ring::signature as sig;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer as _;
use x509_parser::signature_algorithm::SignatureAlgorithm;

use crate::spki::KeyKind;
use crate::{KeyError, PublicKey, SpiffeId, SpiffeIdError, der};

/// The longest request in bytes.
const MAX_CSR: usize = 16 << 10;
/// The most names in a request.
const MAX_NAMES: usize = 1000;

/// A parsed request. Its signature is not checked until [`Csr::verify_signature`].
#[derive(Clone, Debug)]
pub struct Csr {
    public_key: PublicKey,
    uris: Vec<String>,
    dns_names: Vec<String>,
    signed: Box<[u8]>,
    signature: Box<[u8]>,
    algorithm: Result<Algorithm, String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Algorithm {
    Ecdsa(Hash),
    Pkcs1(Hash),
    Pss(Hash),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hash {
    Sha256,
    Sha384,
    Sha512,
}

impl Csr {
    /// Parses the DER of a request, without trailing bytes.
    pub fn parse(der: &[u8]) -> Result<Self, CsrError> {
        if der.len() > MAX_CSR {
            return Err(CsrError::TooLong { length: der.len() });
        }
        let malformed = |what| CsrError::Malformed { what };
        let (rest, request) =
            X509CertificationRequest::from_der(der).map_err(|_| malformed("it is not a PKCS #10 request"))?;
        if !rest.is_empty() {
            return Err(malformed("bytes follow it"));
        }
        let info = &request.certification_request_info;
        let public_key = PublicKey::from_spki_der(info.subject_pki.raw)?;
        let (mut uris, mut dns_names) = (Vec::new(), Vec::new());
        for extension in request.requested_extensions().into_iter().flatten() {
            let ParsedExtension::SubjectAlternativeName(names) = extension else {
                continue;
            };
            for name in &names.general_names {
                match name {
                    GeneralName::URI(uri) => uris.push((*uri).to_owned()),
                    GeneralName::DNSName(name) => dns_names.push((*name).to_owned()),
                    GeneralName::Invalid(..) => return Err(malformed("a subject alternative name is not text")),
                    _ => {}
                }
            }
        }
        if uris.len() + dns_names.len() > MAX_NAMES {
            return Err(malformed("it has more than 1000 names"));
        }
        let signature = &request.signature_value;
        if signature.unused_bits != 0 {
            return Err(malformed("its signature is not whole bytes"));
        }
        Ok(Self {
            algorithm: algorithm(&request.signature_algorithm),
            public_key,
            uris,
            dns_names,
            signed: info.raw.into(),
            signature: (&*signature.data).into(),
        })
    }

    /// The key a certificate is asked for.
    pub fn public_key(&self) -> &PublicKey {
        &self.public_key
    }

    /// The URIs that were asked for as subject alternative names.
    pub fn uris(&self) -> &[String] {
        &self.uris
    }

    /// The DNS names that were asked for as subject alternative names.
    pub fn dns_names(&self) -> &[String] {
        &self.dns_names
    }

    /// The SPIFFE ID that was asked for, if any, for the caller to compare.
    pub fn spiffe_id(&self) -> Result<Option<SpiffeId>, CsrError> {
        match &*self.uris {
            [] => Ok(None),
            [uri] => Ok(Some(SpiffeId::parse(uri)?)),
            more => Err(CsrError::SeveralUris { count: more.len() }),
        }
    }

    /// Checks that whoever made the request holds the private key. It costs three P-256 signatures.
    pub fn verify_signature(&self) -> Result<(), CsrError> {
        let algorithm = self
            .algorithm
            .as_ref()
            .map_err(|name| CsrError::Algorithm { name: name.clone() })?;
        let verification: &dyn sig::VerificationAlgorithm = match (self.public_key.kind(), algorithm) {
            (KeyKind::P256, Algorithm::Ecdsa(Hash::Sha256)) => &sig::ECDSA_P256_SHA256_ASN1,
            (KeyKind::P256, Algorithm::Ecdsa(Hash::Sha384)) => &sig::ECDSA_P256_SHA384_ASN1,
            (KeyKind::P384, Algorithm::Ecdsa(Hash::Sha256)) => &sig::ECDSA_P384_SHA256_ASN1,
            (KeyKind::P384, Algorithm::Ecdsa(Hash::Sha384)) => &sig::ECDSA_P384_SHA384_ASN1,
            (KeyKind::Rsa, Algorithm::Pkcs1(Hash::Sha256)) => &sig::RSA_PKCS1_2048_8192_SHA256,
            (KeyKind::Rsa, Algorithm::Pkcs1(Hash::Sha384)) => &sig::RSA_PKCS1_2048_8192_SHA384,
            (KeyKind::Rsa, Algorithm::Pkcs1(Hash::Sha512)) => &sig::RSA_PKCS1_2048_8192_SHA512,
            (KeyKind::Rsa, Algorithm::Pss(Hash::Sha256)) => &sig::RSA_PSS_2048_8192_SHA256,
            (KeyKind::Rsa, Algorithm::Pss(Hash::Sha384)) => &sig::RSA_PSS_2048_8192_SHA384,
            (KeyKind::Rsa, Algorithm::Pss(Hash::Sha512)) => &sig::RSA_PSS_2048_8192_SHA512,
            (kind, algorithm) => {
                return Err(CsrError::Algorithm {
                    name: format!("{algorithm} and a {kind} key"),
                });
            }
        };
        sig::UnparsedPublicKey::new(verification, self.public_key.key_bytes())
            .verify(&self.signed, &self.signature)
            .map_err(|_| CsrError::Signature)
    }
}

/// Why a signing request is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CsrError {
    /// Longer than any request that is read.
    #[error("a signing request of {length} bytes is not read, at most {MAX_CSR} are")]
    TooLong {
        /// How many bytes were given.
        length: usize,
    },
    /// Not a request in DER.
    #[error("the signing request cannot be read: {what}; send PKCS #10 in DER, not PEM")]
    Malformed {
        /// What is wrong.
        what: &'static str,
    },
    /// A key that no SVID is issued for.
    #[error("the signing request's key: {0}")]
    Key(#[from] KeyError),
    /// A signature that is made in another way.
    #[error(
        "the signing request is signed with {name}, which is not accepted: use ECDSA with SHA-256 or SHA-384, or RSA with SHA-256, SHA-384 or SHA-512"
    )]
    Algorithm {
        /// Its name, or its object identifier.
        name: String,
    },
    /// A signature that the key did not make.
    #[error("the signing request's signature was not made by the key in it")]
    Signature,
    /// A URI that is not a SPIFFE ID.
    #[error("the signing request's URI: {0}")]
    SpiffeId(#[from] SpiffeIdError),
    /// More than one URI.
    #[error("the signing request asks for {count} URIs, an SVID has one")]
    SeveralUris {
        /// How many there are.
        count: usize,
    },
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, hash) = match self {
            Self::Ecdsa(hash) => ("ECDSA", hash),
            Self::Pkcs1(hash) => ("RSA", hash),
            Self::Pss(hash) => ("RSASSA-PSS", hash),
        };
        let bits = match hash {
            Hash::Sha256 => 256,
            Hash::Sha384 => 384,
            Hash::Sha512 => 512,
        };
        write!(f, "{name} with SHA-{bits}")
    }
}

fn algorithm(identifier: &x509_parser::x509::AlgorithmIdentifier<'_>) -> Result<Algorithm, String> {
    const ECDSA_WITH: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03];
    const PKCS1_WITH: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01];
    let oid = identifier.algorithm.as_bytes();
    let name = || match oid {
        [0x2b, 0x65, 0x70] => "Ed25519".to_owned(),
        [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x05] => "RSA with SHA-1".to_owned(),
        [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x01] => "ECDSA with SHA-1".to_owned(),
        _ => der::dotted(oid),
    };
    if let Some(hash) = oid.strip_prefix(ECDSA_WITH) {
        return match hash {
            [2] => Ok(Algorithm::Ecdsa(Hash::Sha256)),
            [3] => Ok(Algorithm::Ecdsa(Hash::Sha384)),
            [4] => Ok(Algorithm::Ecdsa(Hash::Sha512)),
            _ => Err(name()),
        };
    }
    match oid.strip_prefix(PKCS1_WITH) {
        Some([0x0b]) => Ok(Algorithm::Pkcs1(Hash::Sha256)),
        Some([0x0c]) => Ok(Algorithm::Pkcs1(Hash::Sha384)),
        Some([0x0d]) => Ok(Algorithm::Pkcs1(Hash::Sha512)),
        Some([0x0a]) => {
            const SHA2: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02];
            let Ok(SignatureAlgorithm::RSASSA_PSS(parameters)) = SignatureAlgorithm::try_from(identifier) else {
                return Err("RSASSA-PSS with parameters that cannot be read".to_owned());
            };
            match parameters.hash_algorithm_oid().as_bytes().strip_prefix(SHA2) {
                Some([1]) => Ok(Algorithm::Pss(Hash::Sha256)),
                Some([2]) => Ok(Algorithm::Pss(Hash::Sha384)),
                Some([3]) => Ok(Algorithm::Pss(Hash::Sha512)),
                _ => Err("RSASSA-PSS with another hash than SHA-2".to_owned()),
            }
        }
        _ => Err(name()),
    }
}
