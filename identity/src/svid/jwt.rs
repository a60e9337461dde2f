//! JWT-SVIDs (JWT-SVID.md): one implementation of what a validator must do.
//!
//! Comes in: a token, the audience it should be for, the time, and the bundle of the subject's trust domain.
//! Goes out: its claims, or the first rule that does not hold. The signature is judged before time and
//! audience, so that who has no key learns nothing of what is expected.

use std::fmt;
use std::ops::Deref;

use serde_json::{Map, Value};

use super::TokenError;
use super::jws::{self, Parts, Registered};
use crate::text::excerpt;
use crate::{Bundle, JwsAlg, KeyId, SpiffeId, TrustDomain};

/// A JWT-SVID that is well formed and not verified.
pub struct Token<'a> {
    parts: Parts<'a>,
    registered: Registered,
    audience: Vec<String>,
}

/// What a JWT-SVID says.
#[derive(Clone, Debug, PartialEq)]
pub struct Claims {
    /// `sub`: whose token it is.
    pub subject: SpiffeId,
    /// `aud`: whom it is for; at least one.
    pub audience: Vec<String>,
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

/// Verifies a JWT-SVID: form, signature, time and audience (JWT-SVID §4).
///
/// `now` is in Unix seconds, `leeway` in seconds; with a leeway of 0 a token is refused from `exp` on.
/// `bundle_of` gives the bundle of the subject's trust domain. Tainted keys still verify: what they signed is
/// being replaced. `iat` is not judged.
pub fn verify<B: Deref<Target = Bundle>>(
    token: &str,
    audience: &str,
    now: i64,
    leeway: u32,
    bundle_of: impl FnOnce(&TrustDomain) -> Option<B>,
) -> Result<Claims, TokenError> {
    let token = Token::parse(token)?;
    let trust_domain = token.subject().trust_domain();
    let bundle = bundle_of(&trust_domain).ok_or(TokenError::NoBundle { trust_domain })?;
    token.verify(audience, now, leeway, &bundle)
}

impl<'a> Token<'a> {
    /// Takes a token of at most 64 KiB apart and checks its form (JWT-SVID §2 and §3): header `alg`, `kid`
    /// and `typ` alone, `sub` a SPIFFE ID, `aud` with at least one value, `exp`.
    pub fn parse(token: &'a str) -> Result<Self, TokenError> {
        let parts = Parts::parse(token, &[Some("JWT"), Some("JOSE"), None])?;
        Ok(Self {
            registered: parts.registered()?,
            audience: audience(&parts.claims)?,
            parts,
        })
    }

    /// Whose token it says it is.
    pub fn subject(&self) -> &SpiffeId {
        &self.registered.subject
    }

    /// Whom it says it is for.
    pub fn audience(&self) -> &[String] {
        &self.audience
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
            audience: self.audience,
            expires_at: self.registered.expires_at,
            issued_at: self.registered.issued_at,
            not_before: self.registered.not_before,
            issuer: self.registered.issuer,
            jti: self.registered.jti,
            all: self.parts.claims,
        }
    }

    /// Verifies signature, time and audience, as [`verify`] does.
    pub fn verify(self, audience: &str, now: i64, leeway: u32, bundle: &Bundle) -> Result<Claims, TokenError> {
        if audience.is_empty() {
            return Err(TokenError::NoAudience);
        }
        jws::check_bundle(&self.registered.subject, bundle)?;
        self.parts.verify(&bundle.jwt, &bundle.trust_domain)?;
        self.registered.check_time(now, leeway)?;
        if !self.audience.iter().any(|one| one == audience) {
            return Err(TokenError::Audience {
                audience: excerpt(&self.audience.join(", ")),
                expected: excerpt(audience),
            });
        }
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

/// `aud`, a string or an array of strings (RFC 7519 §4.1.3).
fn audience(claims: &Map<String, Value>) -> Result<Vec<String>, TokenError> {
    let expected = "a string or a list with at least one string";
    let audience = match claims.get("aud") {
        None => return Err(TokenError::Missing { claim: "aud" }),
        Some(Value::String(one)) => vec![one.clone()],
        Some(Value::Array(several)) => several
            .iter()
            .map(|one| one.as_str().map(str::to_owned))
            .collect::<Option<Vec<_>>>()
            .ok_or(TokenError::Claim { claim: "aud", expected })?,
        Some(_) => return Err(TokenError::Claim { claim: "aud", expected }),
    };
    if audience.is_empty() || audience.iter().all(String::is_empty) {
        return Err(TokenError::Claim { claim: "aud", expected });
    }
    Ok(audience)
}
