//! The nine signature algorithms a JWT-SVID may have (JWT-SVID §2.1), and which key makes which.

use std::fmt;
use std::str::FromStr;

use crate::spki::KeyKind;
use crate::text::excerpt;

/// A signature algorithm of JWS (RFC 7518 §3.1) that the SPIFFE standards allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum JwsAlg {
    /// RSA PKCS #1 v1.5 with SHA-256.
    Rs256,
    /// RSA PKCS #1 v1.5 with SHA-384.
    Rs384,
    /// RSA PKCS #1 v1.5 with SHA-512.
    Rs512,
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// ECDSA on P-384 with SHA-384.
    Es384,
    /// ECDSA on P-521 with SHA-512: allowed by the standards, neither made nor verified here.
    Es512,
    /// RSA PSS with SHA-256.
    Ps256,
    /// RSA PSS with SHA-384.
    Ps384,
    /// RSA PSS with SHA-512.
    Ps512,
}

impl JwsAlg {
    /// All nine.
    pub const ALL: [Self; 9] = [
        Self::Rs256,
        Self::Rs384,
        Self::Rs512,
        Self::Es256,
        Self::Es384,
        Self::Es512,
        Self::Ps256,
        Self::Ps384,
        Self::Ps512,
    ];

    /// Parses the value of a header's `alg`, which is case-sensitive.
    pub fn parse(text: &str) -> Result<Self, JwsAlgError> {
        Self::ALL
            .into_iter()
            .find(|alg| alg.as_str() == text)
            .ok_or_else(|| JwsAlgError { value: excerpt(text) })
    }

    /// The value of a header's `alg`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Rs384 => "RS384",
            Self::Rs512 => "RS512",
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
            Self::Es512 => "ES512",
            Self::Ps256 => "PS256",
            Self::Ps384 => "PS384",
            Self::Ps512 => "PS512",
        }
    }

    /// The algorithm that a key signs with unless asked otherwise, and that OIDC consumers are told.
    pub fn of(kind: KeyKind) -> Self {
        match kind {
            KeyKind::P256 => Self::Es256,
            KeyKind::P384 => Self::Es384,
            KeyKind::Rsa => Self::Rs256,
        }
    }
}

/// Why an `alg` is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "algorithm {value} is not allowed: use RS256, RS384, RS512, ES256, ES384, ES512, PS256, PS384 or PS512 (JWT-SVID §2.1)"
)]
pub struct JwsAlgError {
    value: String,
}

impl fmt::Display for JwsAlg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for JwsAlg {
    type Err = JwsAlgError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nine_algorithms_are_read_by_their_exact_names() {
        for alg in JwsAlg::ALL {
            assert_eq!(JwsAlg::parse(alg.as_str()), Ok(alg));
        }
        for refused in ["none", "HS256", "EdDSA", "es256", ""] {
            assert!(JwsAlg::parse(refused).is_err(), "{refused}");
        }
    }
}
