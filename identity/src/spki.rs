//! Public keys as SubjectPublicKeyInfo (RFC 5280 §4.1.2.7).
//!
//! Comes in: DER from a caller. Goes out: a [`PublicKey`] that an SVID may be issued for: ECDSA on P-256 or
//! P-384, or RSA of 2048 to 4096 bits, in the one encoding that DER has for it. A P-256 key, which nearly
//! every workload has, is recognised by its constant prefix.

mod curve;
mod raw;

use std::fmt;
use std::sync::Arc;

use crate::KeyId;

pub(crate) use raw::{Curve, RawKey, ec_spki, rsa_spki};

/// The longest SubjectPublicKeyInfo that is looked at, in bytes.
pub const MAX_SPKI: usize = 4096;

const P256_PREFIX: &[u8] =
    b"\x30\x59\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07\x03\x42\x00\x04";
const P384_PREFIX: &[u8] =
    b"\x30\x76\x30\x10\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x05\x2b\x81\x04\x00\x22\x03\x62\x00\x04";

/// A public key that an SVID may be issued for. A clone is a reference count.
#[derive(Clone)]
pub struct PublicKey {
    der: Arc<[u8]>,
    kind: KeyKind,
    /// Where the content of subjectPublicKey starts in `der`, behind the count of unused bits.
    key_at: u16,
}

/// What a [`PublicKey`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KeyKind {
    /// ECDSA on P-256.
    P256,
    /// ECDSA on P-384.
    P384,
    /// RSA with a modulus of 2048 to 4096 bits.
    Rsa,
}

impl PublicKey {
    /// Takes the DER of a SubjectPublicKeyInfo; it must be canonical and without trailing bytes.
    pub fn from_spki_der(der: &[u8]) -> Result<Self, KeyError> {
        for (prefix, kind, curve) in [
            (P256_PREFIX, KeyKind::P256, Curve::P256),
            (P384_PREFIX, KeyKind::P384, Curve::P384),
        ] {
            let size = curve.coordinate();
            if der.len() == prefix.len() + 2 * size
                && let Some(point) = der.strip_prefix(prefix)
            {
                raw::check_point(curve, point)?;
                return Ok(Self::with_tail(der, kind, 2 * size + 1));
            }
        }
        let raw = RawKey::parse(der)?;
        match raw {
            RawKey::Rsa { modulus, key, .. } => match raw::bits(modulus) {
                2048..=4096 => Ok(Self::with_tail(der, KeyKind::Rsa, key.len())),
                bits => Err(KeyError::RsaSize { bits }),
            },
            RawKey::Ec { curve, .. } => Err(KeyError::Curve {
                name: curve.name().into(),
            }),
            RawKey::Ed25519 { .. } => Err(KeyError::Algorithm { name: "Ed25519".into() }),
        }
    }

    /// Takes the uncompressed point (SEC 1 §2.3.3) of a key on P-256.
    pub fn from_p256_point(point: &[u8]) -> Result<Self, KeyError> {
        Self::from_point(P256_PREFIX, point)
    }

    /// Takes the uncompressed point (SEC 1 §2.3.3) of a key on P-384.
    pub fn from_p384_point(point: &[u8]) -> Result<Self, KeyError> {
        Self::from_point(P384_PREFIX, point)
    }

    fn from_point(prefix: &[u8], point: &[u8]) -> Result<Self, KeyError> {
        // The prefix ends with the point's first byte, which says that it is not compressed.
        let head = prefix.strip_suffix(b"\x04").unwrap_or(prefix);
        Self::from_spki_der(&[head, point].concat())
    }

    /// The DER of the SubjectPublicKeyInfo.
    pub fn spki_der(&self) -> &[u8] {
        &self.der
    }

    /// What key it is.
    pub fn kind(&self) -> KeyKind {
        self.kind
    }

    /// The content of subjectPublicKey: an uncompressed point, or an RSAPublicKey in DER.
    pub fn key_bytes(&self) -> &[u8] {
        &self.der[usize::from(self.key_at)..]
    }

    /// The subject key identifier: SHA-1 of the subjectPublicKey bits (RFC 5280 §4.2.1.2, method 1).
    pub fn subject_key_id(&self) -> [u8; 20] {
        sha1(self.key_bytes())
    }

    /// The subject key identifier in lower-case hex, by which authorities are named.
    pub fn key_id(&self) -> KeyId {
        KeyId::from_hash(&self.subject_key_id())
    }

    fn with_tail(der: &[u8], kind: KeyKind, tail: usize) -> Self {
        Self {
            key_at: u16::try_from(der.len() - tail).expect("an accepted key has at most 4 KiB"),
            der: der.into(),
            kind,
        }
    }
}

pub(crate) fn sha1(bytes: &[u8]) -> [u8; 20] {
    ring::digest::digest(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY, bytes)
        .as_ref()
        .try_into()
        .expect("SHA-1 has 20 bytes")
}

/// Why a public key is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// Longer than any key that is accepted.
    #[error("a public key of {length} bytes is not accepted, at most {MAX_SPKI} are")]
    TooLong {
        /// How many bytes were given.
        length: usize,
    },
    /// Not a SubjectPublicKeyInfo in DER.
    #[error(
        "the public key is not a SubjectPublicKeyInfo in DER: {what}; send what `openssl pkey -pubout -outform DER` writes"
    )]
    Malformed {
        /// Which part is wrong.
        what: &'static str,
    },
    /// Another algorithm.
    #[error("{name} keys are not accepted: use ECDSA with P-256 or P-384, or RSA with 2048 to 4096 bits")]
    Algorithm {
        /// The algorithm's name, or its object identifier.
        name: String,
    },
    /// Another curve.
    #[error("curve {name} is not accepted: use P-256 or P-384")]
    Curve {
        /// The curve's name, or its object identifier.
        name: String,
    },
    /// A point that is not one of the curve, or not in the uncompressed form.
    #[error("the {curve} point {what}")]
    Point {
        /// The curve's name.
        curve: &'static str,
        /// What is wrong with it.
        what: &'static str,
    },
    /// An RSA modulus that is too small or too large.
    #[error("an RSA key of {bits} bits is not accepted: use 2048 to 4096")]
    RsaSize {
        /// The bits of the modulus.
        bits: usize,
    },
    /// An RSA exponent or modulus that no sound key has.
    #[error("the RSA key's {what}")]
    Rsa {
        /// What is wrong with it.
        what: &'static str,
    },
}

impl PartialEq for PublicKey {
    fn eq(&self, other: &Self) -> bool {
        self.der == other.der
    }
}

impl Eq for PublicKey {}

impl std::hash::Hash for PublicKey {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.der.hash(state);
    }
}

impl fmt::Display for KeyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::P256 => "P-256",
            Self::P384 => "P-384",
            Self::Rsa => "RSA",
        })
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({:?} {})", self.kind, self.key_id())
    }
}
