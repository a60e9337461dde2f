//! What JWT-SVIDs and WIT-SVIDs share: the compact form of JWS, its header, and the signature.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature as sig;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use crate::bundle::JwtAuthority;
use crate::jwk::JwkError;
use crate::jws_alg::JwsAlgError;
use crate::spki::{Curve, RawKey};
use crate::text::excerpt;
use crate::{Bundle, JwsAlg, KeyError, KeyId, KeyIdError, SpiffeId, SpiffeIdError, TrustDomain};

/// The longest token in bytes.
const MAX_TOKEN: usize = 64 << 10;

/// A token taken apart; nothing of it is verified yet.
pub(super) struct Parts<'a> {
    pub(super) algorithm: JwsAlg,
    pub(super) key_id: KeyId,
    pub(super) claims: Map<String, Value>,
    signed: &'a [u8],
    signature: Vec<u8>,
}

/// The claims that both kinds of token have.
pub(super) struct Registered {
    pub(super) subject: SpiffeId,
    pub(super) expires_at: i64,
    pub(super) issued_at: Option<i64>,
    pub(super) not_before: Option<i64>,
    pub(super) issuer: Option<String>,
    pub(super) jti: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    alg: String,
    kid: Option<String>,
    typ: Option<String>,
}

impl<'a> Parts<'a> {
    /// Takes a token of at most 64 KiB apart; `types` are the values that its `typ` may have.
    pub(super) fn parse(token: &'a str, types: &'static [Option<&'static str>]) -> Result<Self, TokenError> {
        if token.len() > MAX_TOKEN {
            return Err(TokenError::TooLong { length: token.len() });
        }
        let mut parts = token.split('.');
        let (Some(header), Some(payload), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(TokenError::Compact {
                what: "it does not have three parts separated by dots",
            });
        };
        let header = decode(header, "its header is not base64url without padding")?;
        let payload = decode(payload, "its payload is not base64url without padding")?;
        let signed = &token.as_bytes()[..token.len() - signature.len() - 1];
        let signature = decode(signature, "its signature is not base64url without padding")?;

        let header: Header = serde_json::from_slice(&header).map_err(|error| TokenError::Header {
            problem: problem(&error),
        })?;
        if !types.contains(&header.typ.as_deref()) {
            return Err(TokenError::Type {
                value: header.typ.as_deref().map_or_else(|| "missing".to_owned(), excerpt),
                expected: types.iter().flatten().next().copied().unwrap_or_default(),
            });
        }
        let Claims(claims) = serde_json::from_slice(&payload).map_err(|error| TokenError::Claims {
            problem: problem(&error),
        })?;
        Ok(Self {
            algorithm: JwsAlg::parse(&header.alg)?,
            key_id: KeyId::parse(header.kid.as_deref().ok_or(TokenError::NoKeyId)?)?,
            claims,
            signed,
            signature,
        })
    }

    /// The claims that both kinds of token must or may have.
    pub(super) fn registered(&self) -> Result<Registered, TokenError> {
        let subject = self.text("sub")?.ok_or(TokenError::Missing { claim: "sub" })?;
        Ok(Registered {
            subject: SpiffeId::parse(subject).map_err(TokenError::Subject)?,
            expires_at: self.time("exp")?.ok_or(TokenError::Missing { claim: "exp" })?,
            issued_at: self.time("iat")?,
            not_before: self.time("nbf")?,
            issuer: self.text("iss")?.map(str::to_owned),
            jti: self.text("jti")?.map(str::to_owned),
        })
    }

    /// Verifies the signature by the key of that ID, whose kind decides which algorithms may be.
    pub(super) fn verify(&self, keys: &[JwtAuthority], trust_domain: &TrustDomain) -> Result<(), TokenError> {
        let authority = keys
            .iter()
            .find(|authority| authority.key_id == self.key_id)
            .ok_or_else(|| TokenError::UnknownKey {
                key_id: self.key_id.clone(),
                trust_domain: trust_domain.clone(),
            })?;
        let mismatch = || TokenError::AlgorithmOfKey {
            algorithm: self.algorithm,
            key_id: self.key_id.clone(),
        };
        let (key, algorithm): (&[u8], &dyn sig::VerificationAlgorithm) = match RawKey::parse(&authority.spki_der)? {
            RawKey::Ec { curve, point } => match (curve, self.algorithm) {
                (Curve::P256, JwsAlg::Es256) => (point, &sig::ECDSA_P256_SHA256_FIXED),
                (Curve::P384, JwsAlg::Es384) => (point, &sig::ECDSA_P384_SHA384_FIXED),
                (Curve::P521, JwsAlg::Es512) => return Err(TokenError::Es512),
                _ => return Err(mismatch()),
            },
            RawKey::Rsa { modulus, .. } if modulus.len() < 256 => {
                return Err(KeyError::RsaSize {
                    bits: modulus.len() * 8,
                }
                .into());
            }
            RawKey::Rsa { key, .. } => match self.algorithm {
                JwsAlg::Rs256 => (key, &sig::RSA_PKCS1_2048_8192_SHA256),
                JwsAlg::Rs384 => (key, &sig::RSA_PKCS1_2048_8192_SHA384),
                JwsAlg::Rs512 => (key, &sig::RSA_PKCS1_2048_8192_SHA512),
                JwsAlg::Ps256 => (key, &sig::RSA_PSS_2048_8192_SHA256),
                JwsAlg::Ps384 => (key, &sig::RSA_PSS_2048_8192_SHA384),
                JwsAlg::Ps512 => (key, &sig::RSA_PSS_2048_8192_SHA512),
                _ => return Err(mismatch()),
            },
            RawKey::Ed25519 { .. } => return Err(mismatch()),
        };
        sig::UnparsedPublicKey::new(algorithm, key)
            .verify(self.signed, &self.signature)
            .map_err(|_| TokenError::Signature)
    }

    fn text(&self, claim: &'static str) -> Result<Option<&str>, TokenError> {
        match self.claims.get(claim) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(TokenError::Claim {
                claim,
                expected: "a string",
            }),
        }
    }

    /// A NumericDate in whole seconds (RFC 7519 §2); a fraction is cut off.
    fn time(&self, claim: &'static str) -> Result<Option<i64>, TokenError> {
        let Some(value) = self.claims.get(claim) else {
            return Ok(None);
        };
        let whole = value.as_i64().or_else(|| {
            // Exact up to 2^53, which is enough for any date.
            #[expect(clippy::cast_possible_truncation, reason = "checked to be within i64")]
            value
                .as_f64()
                .filter(|time| time.abs() < 9.0e15)
                .map(|time| time.floor() as i64)
        });
        match whole {
            Some(time) => Ok(Some(time)),
            None => Err(TokenError::Claim {
                claim,
                expected: "a time in seconds",
            }),
        }
    }
}

impl Registered {
    /// Whether `now` is before `exp` and not before `nbf`, each with `leeway` seconds.
    pub(super) fn check_time(&self, now: i64, leeway: u32) -> Result<(), TokenError> {
        if now >= self.expires_at.saturating_add(leeway.into()) {
            return Err(TokenError::Expired {
                expires_at: self.expires_at,
                now,
            });
        }
        match self.not_before {
            Some(not_before) if now.saturating_add(leeway.into()) < not_before => {
                Err(TokenError::NotYetValid { not_before, now })
            }
            _ => Ok(()),
        }
    }
}

/// The bundle must be that of the subject's trust domain.
pub(super) fn check_bundle(subject: &SpiffeId, bundle: &Bundle) -> Result<(), TokenError> {
    if subject.is_in(&bundle.trust_domain) {
        return Ok(());
    }
    Err(TokenError::NoBundle {
        trust_domain: subject.trust_domain(),
    })
}

/// Why a JWT-SVID or a WIT-SVID is refused. No message repeats the token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// Longer than any token that is read.
    #[error("a token of {length} bytes is not read, at most {MAX_TOKEN} are")]
    TooLong {
        /// How many bytes were given.
        length: usize,
    },
    /// Not the compact form of JWS.
    #[error("the token is not a JWS in compact form: {what} (JWT-SVID §1)")]
    Compact {
        /// What is wrong.
        what: &'static str,
    },
    /// A header that is not one, or has more than `alg`, `kid` and `typ`.
    #[error("the token's header is refused, it may have alg, kid and typ alone (JWT-SVID §2): {problem}")]
    Header {
        /// What is wrong.
        problem: String,
    },
    /// An algorithm that is not allowed.
    #[error("the token's {0}")]
    Algorithm(#[from] JwsAlgError),
    /// No `kid`.
    #[error("the token's header has no kid, without which its key cannot be found")]
    NoKeyId,
    /// A `kid` that no key has.
    #[error("the token's {0}")]
    KeyId(#[from] KeyIdError),
    /// Another type of token.
    #[error("the token's typ is {value}, it must be {expected}")]
    Type {
        /// What it is.
        value: String,
        /// What it should be.
        expected: &'static str,
    },
    /// Claims that are not a JSON object without duplicates.
    #[error("the token's claims cannot be read: {problem}")]
    Claims {
        /// What is wrong.
        problem: String,
    },
    /// A claim that must be there.
    #[error("the token has no {claim} claim")]
    Missing {
        /// Its name.
        claim: &'static str,
    },
    /// A claim that must not be there.
    #[error("the token has an {claim} claim, which a WIT-SVID must not have (WIT-SVID §3)")]
    Forbidden {
        /// Its name.
        claim: &'static str,
    },
    /// A claim of another type.
    #[error("the token's {claim} claim is not {expected}")]
    Claim {
        /// Its name.
        claim: &'static str,
        /// What it should be.
        expected: &'static str,
    },
    /// A subject that is not a SPIFFE ID.
    #[error("the token's subject: {0}")]
    Subject(SpiffeIdError),
    /// A confirmation key that cannot be used.
    #[error("the token's confirmation key: {0}")]
    Confirmation(JwkError),
    /// No bundle of the subject's trust domain.
    #[error("there is no bundle of trust domain {trust_domain}: is it federated with?")]
    NoBundle {
        /// The subject's trust domain.
        trust_domain: TrustDomain,
    },
    /// No key of that ID.
    #[error("key {key_id} is not in the bundle of trust domain {trust_domain}")]
    UnknownKey {
        /// The token's `kid`.
        key_id: KeyId,
        /// The subject's trust domain.
        trust_domain: TrustDomain,
    },
    /// A signature by P-521.
    #[error("ES512 is not verified here: have the token signed with ES256, ES384 or RSA")]
    Es512,
    /// An algorithm that the key does not have.
    #[error("the token says {algorithm}, which is not what key {key_id} signs with")]
    AlgorithmOfKey {
        /// The token's `alg`.
        algorithm: JwsAlg,
        /// The token's `kid`.
        key_id: KeyId,
    },
    /// A key of the bundle that cannot be used.
    #[error("the key in the bundle cannot be used: {0}")]
    Key(#[from] KeyError),
    /// A signature that the key did not make.
    #[error("the token's signature is wrong")]
    Signature,
    /// Past its end.
    #[error("the token expired at {expires_at}, it is {now} now")]
    Expired {
        /// Its `exp`.
        expires_at: i64,
        /// The time it was judged at.
        now: i64,
    },
    /// Before its beginning.
    #[error("the token is not valid before {not_before}, it is {now} now")]
    NotYetValid {
        /// Its `nbf`.
        not_before: i64,
        /// The time it was judged at.
        now: i64,
    },
    /// For somebody else.
    #[error("the token is for audience {audience}, not for {expected}")]
    Audience {
        /// Its audience.
        audience: String,
        /// Who asked.
        expected: String,
    },
    /// No audience to compare with.
    #[error("an audience must be given that the token is to be for")]
    NoAudience,
}

struct Claims(Map<String, Value>);

impl<'de> Deserialize<'de> for Claims {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;
        impl<'de> Visitor<'de> for Read {
            type Value = Map<String, Value>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of claims")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut claims = Map::new();
                while let Some((name, value)) = map.next_entry::<String, Value>()? {
                    if claims.insert(name, value).is_some() {
                        return Err(serde::de::Error::custom("a claim is there twice"));
                    }
                }
                Ok(claims)
            }
        }
        deserializer.deserialize_map(Read).map(Self)
    }
}

fn decode(part: &str, what: &'static str) -> Result<Vec<u8>, TokenError> {
    URL_SAFE_NO_PAD.decode(part).map_err(|_| TokenError::Compact { what })
}

fn problem(error: &serde_json::Error) -> String {
    excerpt(&error.to_string())
}
