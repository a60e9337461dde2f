//! Any public key of a known kind, also those that no SVID is issued for but a foreign bundle may hold.

use crate::der::{self, Reader};

use super::{KeyError, MAX_SPKI, curve};
use crate::JwsAlg;

const EC_PUBLIC_KEY: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
const RSA_ENCRYPTION: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
const ED25519: &[u8] = &[0x2b, 0x65, 0x70];

/// Names for what is refused, so that an error can say it.
const ALGORITHMS: &[(&[u8], &str)] = &[
    (&[0x2b, 0x65, 0x6e], "X25519"),
    (&[0x2b, 0x65, 0x6f], "X448"),
    (&[0x2b, 0x65, 0x71], "Ed448"),
    (&[0x2a, 0x86, 0x48, 0xce, 0x38, 0x04, 0x01], "DSA"),
    (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0a], "RSASSA-PSS"),
    (&[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x03, 0x11], "ML-DSA-44"),
    (&[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x03, 0x12], "ML-DSA-65"),
    (&[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x03, 0x13], "ML-DSA-87"),
];
const CURVES: &[(&[u8], &str)] = &[
    (&[0x2b, 0x81, 0x04, 0x00, 0x0a], "secp256k1"),
    (&[0x2b, 0x81, 0x04, 0x00, 0x21], "P-224"),
    (&[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x01], "P-192"),
    (
        &[0x2b, 0x24, 0x03, 0x03, 0x02, 0x08, 0x01, 0x01, 0x07],
        "brainpoolP256r1",
    ),
    (
        &[0x2b, 0x24, 0x03, 0x03, 0x02, 0x08, 0x01, 0x01, 0x0b],
        "brainpoolP384r1",
    ),
    (
        &[0x2b, 0x24, 0x03, 0x03, 0x02, 0x08, 0x01, 0x01, 0x0d],
        "brainpoolP512r1",
    ),
];

/// A NIST curve that JWK has a name for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Curve {
    P256,
    P384,
    P521,
}

impl Curve {
    pub(crate) const ALL: [Self; 3] = [Self::P256, Self::P384, Self::P521];

    /// The name that JWK has for it, too (RFC 7518 §6.2.1.1).
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::P256 => "P-256",
            Self::P384 => "P-384",
            Self::P521 => "P-521",
        }
    }

    /// The bytes of one coordinate.
    pub(crate) fn coordinate(self) -> usize {
        match self {
            Self::P256 => 32,
            Self::P384 => 48,
            Self::P521 => 66,
        }
    }

    fn oid(self) -> &'static [u8] {
        match self {
            Self::P256 => &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07],
            Self::P384 => &[0x2b, 0x81, 0x04, 0x00, 0x22],
            Self::P521 => &[0x2b, 0x81, 0x04, 0x00, 0x23],
        }
    }
}

/// The parts of a public key.
#[derive(Debug, Clone, Copy)]
pub(crate) enum RawKey<'a> {
    /// An uncompressed point, starting with `04`.
    Ec { curve: Curve, point: &'a [u8] },
    /// Modulus and exponent without leading zeros, and the RSAPublicKey that holds both.
    Rsa {
        modulus: &'a [u8],
        exponent: &'a [u8],
        key: &'a [u8],
    },
    /// An Edwards point.
    Ed25519 { point: &'a [u8] },
}

impl<'a> RawKey<'a> {
    pub(crate) fn parse(spki: &'a [u8]) -> Result<Self, KeyError> {
        if spki.len() > MAX_SPKI {
            return Err(KeyError::TooLong { length: spki.len() });
        }
        let frame = Frame::parse(spki).ok_or(KeyError::Malformed {
            what: "it is not a sequence of an algorithm and a bit string",
        })?;
        match frame.algorithm {
            EC_PUBLIC_KEY => ec(frame.parameters, frame.key),
            RSA_ENCRYPTION => rsa(frame.parameters, frame.key),
            ED25519 if frame.parameters.is_empty() && frame.key.len() == 32 => Ok(Self::Ed25519 { point: frame.key }),
            other => Err(KeyError::Algorithm {
                name: named(ALGORITHMS, other),
            }),
        }
    }
}

impl RawKey<'_> {
    /// The algorithm that such a key signs with unless asked otherwise; none for what JWS has none for.
    pub(crate) fn default_alg(&self) -> Option<JwsAlg> {
        match self {
            Self::Ec { curve: Curve::P256, .. } => Some(JwsAlg::Es256),
            Self::Ec { curve: Curve::P384, .. } => Some(JwsAlg::Es384),
            Self::Ec { curve: Curve::P521, .. } => Some(JwsAlg::Es512),
            Self::Rsa { .. } => Some(JwsAlg::Rs256),
            Self::Ed25519 { .. } => None,
        }
    }

    /// Whether such a key makes signatures of that algorithm.
    pub(crate) fn signs(&self, algorithm: JwsAlg) -> bool {
        use JwsAlg::{Ps256, Ps384, Ps512, Rs256, Rs384, Rs512};
        match self {
            Self::Rsa { .. } => matches!(algorithm, Rs256 | Rs384 | Rs512 | Ps256 | Ps384 | Ps512),
            _ => self.default_alg() == Some(algorithm),
        }
    }
}

struct Frame<'a> {
    algorithm: &'a [u8],
    parameters: &'a [u8],
    key: &'a [u8],
}

impl<'a> Frame<'a> {
    fn parse(spki: &'a [u8]) -> Option<Self> {
        let mut outer = Reader::new(spki);
        let mut inner = Reader::new(outer.take(der::SEQUENCE)?);
        outer.end()?;
        let mut algorithm = Reader::new(inner.take(der::SEQUENCE)?);
        let (&unused, key) = inner.take(der::BIT_STRING)?.split_first()?;
        inner.end()?;
        (unused == 0).then_some(())?;
        Some(Self {
            algorithm: algorithm.take(der::OID)?,
            parameters: algorithm.rest(),
            key,
        })
    }
}

fn ec<'a>(parameters: &'a [u8], point: &'a [u8]) -> Result<RawKey<'a>, KeyError> {
    let mut reader = Reader::new(parameters);
    if reader.peek() == Some(der::SEQUENCE) {
        return Err(KeyError::Curve {
            name: "given by explicit parameters".into(),
        });
    }
    let oid = reader
        .take(der::OID)
        .filter(|_| reader.end().is_some())
        .ok_or(KeyError::Malformed {
            what: "the curve is not a single object identifier",
        })?;
    let curve = Curve::ALL
        .into_iter()
        .find(|curve| curve.oid() == oid)
        .ok_or_else(|| KeyError::Curve {
            name: named(CURVES, oid),
        })?;
    let refuse = |what| KeyError::Point {
        curve: curve.name(),
        what,
    };
    match point {
        [4, both @ ..] if both.len() == 2 * curve.coordinate() => {
            check_point(curve, both)?;
            Ok(RawKey::Ec { curve, point })
        }
        [2 | 3, ..] => Err(refuse("is compressed: send the uncompressed form")),
        [0] => Err(refuse("is the point at infinity")),
        _ => Err(refuse("has the wrong length")),
    }
}

/// Checks the two coordinates, one after the other.
pub(super) fn check_point(curve: Curve, both: &[u8]) -> Result<(), KeyError> {
    let (x, y) = both.split_at(both.len() / 2);
    if curve::contains(curve, x, y) {
        return Ok(());
    }
    Err(KeyError::Point {
        curve: curve.name(),
        what: "is not on the curve",
    })
}

fn rsa<'a>(parameters: &'a [u8], key: &'a [u8]) -> Result<RawKey<'a>, KeyError> {
    let mut outer = Reader::new(key);
    let mut parameters = Reader::new(parameters);
    let mut parts = || {
        (parameters.take(der::NULL)?.is_empty()).then_some(())?;
        parameters.end()?;
        let mut inner = Reader::new(outer.take(der::SEQUENCE)?);
        outer.end()?;
        let parts = (inner.take_unsigned()?, inner.take_unsigned()?);
        inner.end()?;
        Some(parts)
    };
    let (modulus, exponent) = parts().ok_or(KeyError::Malformed {
        what: "the RSA key is not a NULL parameter and a sequence of modulus and exponent",
    })?;
    if modulus.last().is_none_or(|byte| byte & 1 == 0) {
        return Err(KeyError::Rsa {
            what: "modulus is even",
        });
    }
    if exponent.len() > 4 || exponent.last().is_none_or(|byte| byte & 1 == 0) || *exponent == [1] {
        return Err(KeyError::Rsa {
            what: "public exponent is not an odd number from 3 to 2^32: use 65537",
        });
    }
    Ok(RawKey::Rsa { modulus, exponent, key })
}

/// The SubjectPublicKeyInfo of an elliptic curve point in uncompressed form.
pub(crate) fn ec_spki(curve: Curve, point: &[u8]) -> Vec<u8> {
    let mut algorithm = Vec::with_capacity(32);
    der::push(&mut algorithm, der::OID, EC_PUBLIC_KEY);
    der::push(&mut algorithm, der::OID, curve.oid());
    frame(&algorithm, point)
}

/// The SubjectPublicKeyInfo of an RSA key, from numbers without leading zeros.
pub(crate) fn rsa_spki(modulus: &[u8], exponent: &[u8]) -> Vec<u8> {
    let mut algorithm = Vec::with_capacity(16);
    der::push(&mut algorithm, der::OID, RSA_ENCRYPTION);
    der::push(&mut algorithm, der::NULL, &[]);
    let mut numbers = Vec::with_capacity(modulus.len() + exponent.len() + 8);
    der::push_unsigned(&mut numbers, modulus);
    der::push_unsigned(&mut numbers, exponent);
    let mut key = Vec::with_capacity(numbers.len() + 8);
    der::push(&mut key, der::SEQUENCE, &numbers);
    frame(&algorithm, &key)
}

fn frame(algorithm: &[u8], key: &[u8]) -> Vec<u8> {
    let mut bits = Vec::with_capacity(key.len() + 1);
    bits.push(0);
    bits.extend_from_slice(key);
    let mut inner = Vec::with_capacity(algorithm.len() + bits.len() + 8);
    der::push(&mut inner, der::SEQUENCE, algorithm);
    der::push(&mut inner, der::BIT_STRING, &bits);
    let mut spki = Vec::with_capacity(inner.len() + 8);
    der::push(&mut spki, der::SEQUENCE, &inner);
    spki
}

/// The bits of a number without leading zero bytes.
pub(crate) fn bits(number: &[u8]) -> usize {
    match number.first() {
        Some(first) => number.len() * 8 - first.leading_zeros() as usize,
        None => 0,
    }
}

fn named(names: &[(&[u8], &str)], oid: &[u8]) -> String {
    names
        .iter()
        .find(|(known, _)| *known == oid)
        .map_or_else(|| der::dotted(oid), |(_, name)| (*name).to_owned())
}
