//! Tokens: read without trust, then verified by `jsonwebtoken` with keys from a JWK set.
//!
//! Comes in: a compact JWS and a JWK set, as the server sent them. Goes out: header and claims, and whether the
//! signature holds. `jsonwebtoken` 11 has no ring backend of its own; [`install`] gives it the verifying half of one.

mod ring_backend;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, jwk::Jwk};
use serde_json::{Map, Value};

pub(crate) use ring_backend::install;

use crate::verified::Verified;

/// The algorithms that JWT-SVID.md §2.1 and WIT-SVID.md §2.3 allow.
pub(crate) const ALGORITHMS: [&str; 9] = [
    "RS256", "RS384", "RS512", "ES256", "ES384", "ES512", "PS256", "PS384", "PS512",
];

/// A compact JWS, taken apart but not believed.
#[derive(Debug, Clone)]
pub(crate) struct Jws {
    /// The token itself.
    pub(crate) token: String,
    /// The JOSE header.
    pub(crate) header: Map<String, Value>,
    /// The claims.
    pub(crate) claims: Map<String, Value>,
}

impl Jws {
    /// Takes a token apart; the error says why it is no compact JWS.
    pub(crate) fn read(token: &str) -> Result<Self, String> {
        let parts: Vec<&str> = token.split('.').collect();
        let [header, claims, _signature] = parts[..] else {
            return Err(match parts.len() {
                5 => "five parts: a JWE".into(),
                _ if token.trim_start().starts_with('{') => "JSON serialization".into(),
                n => format!("{n} parts instead of three"),
            });
        };
        let object = |part: &str, name: &str| -> Result<Map<String, Value>, String> {
            let bytes = URL_SAFE_NO_PAD
                .decode(part)
                .map_err(|e| format!("the {name} is not base64url: {e}"))?;
            serde_json::from_slice(&bytes).map_err(|e| format!("the {name} is no JSON object: {e}"))
        };
        Ok(Self {
            header: object(header, "header")?,
            claims: object(claims, "payload")?,
            token: token.into(),
        })
    }

    /// A header parameter that is a string.
    pub(crate) fn header_text(&self, name: &str) -> Option<&str> {
        self.header.get(name)?.as_str()
    }

    /// A claim that is a string.
    pub(crate) fn claim_text(&self, name: &str) -> Option<&str> {
        self.claims.get(name)?.as_str()
    }

    /// The audiences; `None` when there is no `aud` or it is neither a string nor a list of strings.
    pub(crate) fn audiences(&self) -> Option<Vec<&str>> {
        match self.claims.get("aud")? {
            Value::String(one) => Some(vec![one]),
            Value::Array(many) => many.iter().map(Value::as_str).collect(),
            _ => None,
        }
    }
}

/// Verifies a token's signature alone, with the key its `kid` names (or any key, when it names none).
pub(crate) fn verify(jws: &Jws, keys: &[Value]) -> Verified {
    let Some(alg) = jws.header_text("alg") else {
        return Verified::No("no alg in the header".into());
    };
    if !ALGORITHMS.contains(&alg) {
        return Verified::No(format!("alg {alg} has no key in a bundle"));
    }
    let Ok(algorithm) = alg.parse::<Algorithm>() else {
        return Verified::Unknown(format!("the libraries used here do not verify {alg}"));
    };
    let kid = jws.header_text("kid");
    let mut candidates = keys
        .iter()
        .filter(|key| kid.is_none() || key["kid"].as_str() == kid)
        .peekable();
    if candidates.peek().is_none() {
        return Verified::No(match kid {
            Some(kid) => format!("no key with kid {:?} in the bundle", crate::report::shown(kid)),
            None => "no key in the bundle".into(),
        });
    }
    let mut validation = Validation::new(algorithm);
    validation.set_required_spec_claims::<&str>(&[]);
    validation.validate_aud = false;
    // Times are judged by themselves, against the moment at which the token was fetched.
    validation.validate_exp = false;
    let mut why = String::new();
    for key in candidates {
        match decoding_key(key)
            .and_then(|k| decode::<Map<String, Value>>(&jws.token, &k, &validation).map_err(|e| e.to_string()))
        {
            Ok(_) => return Verified::Yes,
            Err(e) => why = e,
        }
    }
    Verified::No(why)
}

fn decoding_key(key: &Value) -> Result<DecodingKey, String> {
    // `use` and `key_ops` have their own checks; what the SPIFFE standards write there is unknown to JOSE libraries.
    let mut key = key.clone();
    if let Some(members) = key.as_object_mut() {
        members.remove("use");
        members.remove("key_ops");
    }
    let jwk: Jwk = serde_json::from_value(key).map_err(|e| format!("the JWK does not parse: {e}"))?;
    DecodingKey::from_jwk(&jwk).map_err(|e| format!("the JWK is unusable: {e}"))
}

/// The keys of a JWK set; the error says why it is none.
pub(crate) fn key_set(bytes: &[u8]) -> Result<Vec<Value>, String> {
    let set: Value = serde_json::from_slice(bytes).map_err(|e| format!("is no JSON: {e}"))?;
    match set.get("keys") {
        Some(Value::Array(keys)) => Ok(keys.clone()),
        Some(_) => Err("has a keys member that is no array".into()),
        None => Err("has no keys member".into()),
    }
}

/// Encodes one part of a token.
pub(crate) fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Decodes one part of a token or JWK.
pub(crate) fn decode_part(text: &str) -> Result<Vec<u8>, String> {
    URL_SAFE_NO_PAD
        .decode(text)
        .map_err(|e| format!("is not base64url: {e}"))
}
