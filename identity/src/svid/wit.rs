//! WIT-SVIDs (WIT-SVID.md, an incubating standard): tokens bound to a key of the workload.
//!
//! Comes in: a token, the time, and the bundle of the subject's trust domain. Goes out: its claims with the
//! confirmation key. Whoever accepts one must also see a proof that the other side holds that key (§5).

use std::fmt;
use std::ops::Deref;

use serde::Deserialize as _;
use serde_json::{Map, Value};

use super::TokenError;
use super::jws::{self, Parts, Registered};
use crate::jwk::{Jwk, JwkError};
use crate::spki::RawKey;
use crate::{Bundle, JwsAlg, KeyId, SpiffeId, TrustDomain};

/// A WIT-SVID that is well formed and not verified.
pub struct Token<'a> {
    parts: Parts<'a>,
    registered: Registered,
    confirmation: Confirmation,
}

/// What a WIT-SVID says.
#[derive(Clone, Debug, PartialEq)]
pub struct Claims {
    /// `sub`: whose token it is.
    pub subject: SpiffeId,
    /// `cnf.jwk`: the key its holder must prove to have.
    pub confirmation: Confirmation,
    /// `exp`: from when on it is not valid, in Unix seconds.
    pub expires_at: i64,
    /// `iat`, in Unix seconds.
    pub issued_at: Option<i64>,
    /// `nbf`, in Unix seconds.
    pub not_before: Option<i64>,
    /// `iss`.
    pub issuer: Option<String>,
    /// `jti`.
    pub jti: Option<String>,
    /// Every claim as it stands in the token.
    pub all: Map<String, Value>,
}

/// The key that a WIT-SVID is bound to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Confirmation {
    /// The public key as SubjectPublicKeyInfo.
    pub spki_der: Vec<u8>,
    /// What its proofs are signed with.
    pub algorithm: JwsAlg,
}

/// Verifies a WIT-SVID: form, signature and time (WIT-SVID §2 to §4).
///
/// `now` is in Unix seconds, `leeway` in seconds; with a leeway of 0 a token is refused from `exp` on.
/// `bundle_of` gives the bundle of the subject's trust domain. Tainted keys still verify.
pub fn verify<B: Deref<Target = Bundle>>(
    token: &str,
    now: i64,
    leeway: u32,
    bundle_of: impl FnOnce(&TrustDomain) -> Option<B>,
) -> Result<Claims, TokenError> {
    let token = Token::parse(token)?;
    let trust_domain = token.subject().trust_domain();
    let bundle = bundle_of(&trust_domain).ok_or(TokenError::NoBundle { trust_domain })?;
    token.verify(now, leeway, &bundle)
}

impl<'a> Token<'a> {
    /// Takes a token of at most 64 KiB apart and checks its form (WIT-SVID §2 and §3): header `alg`, `kid`
    /// and `typ` of `wit+jwt`, `sub` a SPIFFE ID, `cnf.jwk` with one of the nine algorithms, `exp`, no `aud`.
    pub fn parse(token: &'a str) -> Result<Self, TokenError> {
        let parts = Parts::parse(token, &[Some("wit+jwt")])?;
        if parts.claims.contains_key("aud") {
            return Err(TokenError::Forbidden { claim: "aud" });
        }
        Ok(Self {
            registered: parts.registered()?,
            confirmation: confirmation(&parts.claims)?,
            parts,
        })
    }

    /// Whose token it says it is.
    pub fn subject(&self) -> &SpiffeId {
        &self.registered.subject
    }

    /// When it says it ends, in Unix seconds.
    pub fn expires_at(&self) -> i64 {
        self.registered.expires_at
    }

    /// What it says it is signed with.
    pub fn algorithm(&self) -> JwsAlg {
        self.parts.algorithm
    }

    /// Which key it says it is signed by.
    pub fn key_id(&self) -> &KeyId {
        &self.parts.key_id
    }

    /// What it says, although nobody vouches for it: for the holder of a token, and for whoever made it.
    pub fn into_unverified_claims(self) -> Claims {
        Claims {
            subject: self.registered.subject,
            confirmation: self.confirmation,
            expires_at: self.registered.expires_at,
            issued_at: self.registered.issued_at,
            not_before: self.registered.not_before,
            issuer: self.registered.issuer,
            jti: self.registered.jti,
            all: self.parts.claims,
        }
    }

    /// Verifies signature and time, as [`verify`] does.
    pub fn verify(self, now: i64, leeway: u32, bundle: &Bundle) -> Result<Claims, TokenError> {
        jws::check_bundle(&self.registered.subject, bundle)?;
        self.parts.verify(&bundle.wit, &bundle.trust_domain)?;
        self.registered.check_time(now, leeway)?;
        Ok(self.into_unverified_claims())
    }
}

impl fmt::Debug for Token<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token")
            .field("subject", self.subject())
            .field("key_id", self.key_id())
            .field("expires_at", &self.expires_at())
            .finish_non_exhaustive()
    }
}

fn confirmation(claims: &Map<String, Value>) -> Result<Confirmation, TokenError> {
    let jwk = match claims.get("cnf") {
        None => return Err(TokenError::Missing { claim: "cnf" }),
        Some(confirmation) => confirmation
            .get("jwk")
            .ok_or(TokenError::Missing { claim: "cnf.jwk" })?,
    };
    let jwk = Jwk::deserialize(jwk).map_err(|_| TokenError::Claim {
        claim: "cnf.jwk",
        expected: "a JWK",
    })?;
    let algorithm = jwk
        .algorithm()
        .ok_or(TokenError::Confirmation(JwkError::Missing { member: "alg" }))
        .map(JwsAlg::parse)??;
    let spki_der = jwk.spki_der().map_err(TokenError::Confirmation)?;
    if !RawKey::parse(&spki_der)?.signs(algorithm) {
        return Err(TokenError::Claim {
            claim: "cnf.jwk",
            expected: "a key of the algorithm that its alg says",
        });
    }
    Ok(Confirmation { spki_der, algorithm })
}
