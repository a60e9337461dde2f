//! Public keys as JSON Web Keys (RFC 7517, RFC 7518 §6).
//!
//! Comes in: a SubjectPublicKeyInfo, or a JWK out of JSON. Goes out: the other one. Symmetric and private
//! keys are refused. Used by bundles, by the OIDC key set and by a WIT-SVID's `cnf` claim.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};

use crate::spki::{Curve, KeyError, RawKey, ec_spki, rsa_spki};
use crate::text::excerpt;
use crate::{JwsAlg, KeyId};

/// A public key as JWK, with the members that the SPIFFE standards and OIDC use.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Jwk {
    #[serde(default)]
    kty: String,
    #[serde(rename = "use", skip_serializing_if = "Option::is_none")]
    usage: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kid: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    alg: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    crv: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    x: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    y: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    n: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    e: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    x5c: Option<Vec<String>>,
    /// Whether there is a private part; its value is not kept.
    #[serde(default, rename = "d", skip_serializing, deserialize_with = "present")]
    private: bool,
}

impl Jwk {
    /// The key type and its parameters of a SubjectPublicKeyInfo: ECDSA on P-256, P-384 or P-521, RSA of
    /// any size, or Ed25519.
    pub fn from_spki(spki_der: &[u8]) -> Result<Self, KeyError> {
        let text = |bytes| Some(URL_SAFE_NO_PAD.encode(bytes));
        Ok(match RawKey::parse(spki_der)? {
            RawKey::Ec { curve, point } => {
                let (x, y) = point[1..].split_at(curve.coordinate());
                Self {
                    kty: "EC".into(),
                    crv: Some(curve.name().into()),
                    x: text(x),
                    y: text(y),
                    ..Self::default()
                }
            }
            RawKey::Rsa { modulus, exponent, .. } => Self {
                kty: "RSA".into(),
                n: text(modulus),
                e: text(exponent),
                ..Self::default()
            },
            RawKey::Ed25519 { point } => Self {
                kty: "OKP".into(),
                crv: Some("Ed25519".into()),
                x: text(point),
                ..Self::default()
            },
        })
    }

    /// With `use`.
    #[must_use]
    pub fn with_use(mut self, usage: &str) -> Self {
        self.usage = Some(usage.into());
        self
    }

    /// With `kid`.
    #[must_use]
    pub fn with_key_id(mut self, key_id: &KeyId) -> Self {
        self.kid = Some(key_id.as_str().into());
        self
    }

    /// With `alg`.
    #[must_use]
    pub fn with_algorithm(mut self, algorithm: JwsAlg) -> Self {
        self.alg = Some(algorithm.as_str().into());
        self
    }

    /// With `x5c` of one certificate.
    #[must_use]
    pub fn with_certificate(mut self, der: &[u8]) -> Self {
        self.x5c = Some(vec![STANDARD.encode(der)]);
        self
    }

    /// `use`.
    pub fn usage(&self) -> Option<&str> {
        self.usage.as_deref()
    }

    /// `kid`.
    pub fn key_id(&self) -> Option<&str> {
        self.kid.as_deref()
    }

    /// `alg`.
    pub fn algorithm(&self) -> Option<&str> {
        self.alg.as_deref()
    }

    /// The first certificate of `x5c`, if there is one (X509-SVID §6.2).
    pub fn certificate(&self) -> Result<Option<Vec<u8>>, JwkError> {
        match self.x5c.as_deref() {
            None | Some([]) => Ok(None),
            Some([first, ..]) => match STANDARD.decode(first) {
                Ok(der) => Ok(Some(der)),
                Err(_) => Err(JwkError::Base64 { member: "x5c" }),
            },
        }
    }

    /// The SubjectPublicKeyInfo of an EC or RSA key.
    pub fn spki_der(&self) -> Result<Vec<u8>, JwkError> {
        if self.private {
            return Err(JwkError::Private);
        }
        let spki = match &*self.kty {
            "EC" => {
                let name = self.crv.as_deref().ok_or(JwkError::Missing { member: "crv" })?;
                let curve = Curve::ALL
                    .into_iter()
                    .find(|curve| curve.name() == name)
                    .ok_or_else(|| JwkError::Curve { name: excerpt(name) })?;
                let mut point = vec![4];
                for (member, value) in [("x", &self.x), ("y", &self.y)] {
                    let coordinate = decode(member, value.as_deref())?;
                    if coordinate.len() != curve.coordinate() {
                        return Err(JwkError::Length {
                            member,
                            length: coordinate.len(),
                            curve: curve.name(),
                            right: curve.coordinate(),
                        });
                    }
                    point.extend_from_slice(&coordinate);
                }
                ec_spki(curve, &point)
            }
            "RSA" => {
                let modulus = decode("n", self.n.as_deref())?;
                let exponent = decode("e", self.e.as_deref())?;
                rsa_spki(unpadded(&modulus), unpadded(&exponent))
            }
            other => return Err(JwkError::Type { value: excerpt(other) }),
        };
        RawKey::parse(&spki)?;
        Ok(spki)
    }
}

/// Why a JWK is not a public key that can be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JwkError {
    /// Neither EC nor RSA.
    #[error("key type {value} is neither EC nor RSA")]
    Type {
        /// The value of `kty`.
        value: String,
    },
    /// Another curve than the three of RFC 7518.
    #[error("curve {name} is not P-256, P-384 or P-521")]
    Curve {
        /// The value of `crv`.
        name: String,
    },
    /// A member that the key type needs is not there.
    #[error("member {member} is missing")]
    Missing {
        /// Its name.
        member: &'static str,
    },
    /// A member that is not the base64 it should be.
    #[error(
        "member {member} is not canonical {}",
        if *.member == "x5c" { "base64" } else { "base64url without padding" }
    )]
    Base64 {
        /// Its name.
        member: &'static str,
    },
    /// A coordinate of the wrong length.
    #[error("member {member} has {length} bytes, a coordinate of {curve} has {right}")]
    Length {
        /// Its name.
        member: &'static str,
        /// The bytes it has.
        length: usize,
        /// The curve.
        curve: &'static str,
        /// The bytes it should have.
        right: usize,
    },
    /// The private part is there, too.
    #[error("the key has a private part (`d`), which must not be given away: replace this key")]
    Private,
    /// The key itself is not sound.
    #[error(transparent)]
    Key(#[from] KeyError),
}

fn decode(member: &'static str, value: Option<&str>) -> Result<Vec<u8>, JwkError> {
    let text = value.ok_or(JwkError::Missing { member })?;
    URL_SAFE_NO_PAD.decode(text).map_err(|_| JwkError::Base64 { member })
}

fn unpadded(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    &number[zeros..]
}

fn present<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    serde::de::IgnoredAny::deserialize(deserializer).map(|_| true)
}
