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

#[cfg(test)]
mod tests {
    use super::*;

    /// Tokens that openssl signed, one an algorithm, with the public keys.
    fn vectors() -> (Vec<Value>, Map<String, Value>) {
        install();
        let vectors: Value = serde_json::from_str(include_str!("jws/vectors.json")).unwrap();
        (
            vectors["keys"].as_array().unwrap().clone(),
            vectors["tokens"].as_object().unwrap().clone(),
        )
    }

    #[test]
    fn tokens_that_openssl_signed_verify_and_altered_ones_do_not() {
        let (keys, tokens) = vectors();
        assert_eq!(tokens.len(), ALGORITHMS.len());
        for (alg, token) in tokens {
            let token = token.as_str().unwrap();
            let verified = verify(&Jws::read(token).unwrap(), &keys);
            if alg == "ES512" {
                assert!(matches!(verified, Verified::Unknown(_)), "{alg}: {verified:?}");
                continue;
            }
            assert_eq!(verified, Verified::Yes, "{alg}");
            let (message, signature) = token.rsplit_once('.').unwrap();
            let mut bytes = decode_part(signature).unwrap();
            bytes[7] ^= 1;
            let altered = format!("{message}.{}", encode(bytes));
            assert!(
                matches!(verify(&Jws::read(&altered).unwrap(), &keys), Verified::No(_)),
                "{alg}"
            );
        }
    }

    #[test]
    fn a_token_is_held_against_the_key_it_names_alone() {
        let (keys, tokens) = vectors();
        let jws = Jws::read(tokens["ES256"].as_str().unwrap()).unwrap();
        let mut others = keys.clone();
        others.retain(|key| key["kid"] != "P-256");
        assert!(matches!(verify(&jws, &others), Verified::No(why) if why.contains("P-256")));
        let mut nameless = jws;
        nameless.header.remove("kid");
        assert_eq!(verify(&nameless, &keys), Verified::Yes);
    }

    #[test]
    fn what_is_no_compact_jws_is_told_apart() {
        for (token, why) in [
            ("a.b.c.d.e", "JWE"),
            ("{\"payload\": \"\"}", "JSON"),
            ("a.b", "2 parts"),
            ("", "1 parts"),
            ("!.e30.", "header is not base64url"),
            ("e30.W10.", "payload is no JSON object"),
        ] {
            assert!(Jws::read(token).unwrap_err().contains(why), "{token}");
        }
    }

    #[test]
    fn an_audience_is_a_string_or_a_list_of_strings() {
        let audiences = |aud: Value| {
            let claims = serde_json::json!({ "aud": aud }).to_string();
            let jws = Jws::read(&format!("e30.{}.", encode(claims))).unwrap();
            jws.audiences()
                .map(|all| all.into_iter().map(str::to_owned).collect::<Vec<_>>())
        };
        assert_eq!(audiences("a".into()), Some(vec!["a".into()]));
        assert_eq!(audiences(vec!["a", "b"].into()), Some(vec!["a".into(), "b".into()]));
        assert_eq!(audiences(1.into()), None);
        assert_eq!(audiences(vec![Value::from("a"), 1.into()].into()), None);
    }
}
