//! Gives ValidateJWTSVID the server's own token, and doctored copies of it that no validator may accept.

use std::time::Duration;

use mintmark_proto::workload as pb;
use ring::{
    hmac,
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair},
};
use serde_json::{Map, Value, json};

use super::{
    Answer, Doctored, Opening, Validated,
    api::{Api, request},
    now, workload,
};
use crate::{
    Options,
    jws::{Jws, decode_part, encode, key_set},
    spiffe_id,
};

/// Probes ValidateJWTSVID with everything but an expired token.
pub(super) async fn validate(
    api: &Api,
    own: &Answer<pb::JwtsvidResponse>,
    bundles: &Opening<pb::JwtBundlesResponse>,
    options: &Options,
) -> Vec<Validated> {
    let audience = options.audience.as_str();
    let mut validated = Vec::new();
    for (what, audience, token) in [
        (Doctored::Garbage, audience, "this is no token"),
        (Doctored::RequestWithoutToken, audience, ""),
    ] {
        validated.push(ask(api, what, audience, token).await);
    }
    let Some(token) = own
        .as_ref()
        .ok()
        .and_then(|response| response.svids.first())
        .map(|svid| svid.svid.as_str())
    else {
        return validated;
    };
    validated.push(ask(api, Doctored::Nothing, audience, token).await);
    validated.push(ask(api, Doctored::OtherAudience, "spiffe-conformance-somebody-else", token).await);
    validated.push(ask(api, Doctored::RequestWithoutAudience, "", token).await);
    let Ok(jws) = Jws::read(token) else {
        return validated;
    };
    for (what, token) in doctored(&jws, bundles, audience) {
        validated.push(ask(api, what, audience, &token).await);
    }
    validated
}

async fn ask(api: &Api, what: Doctored, audience: &str, token: &str) -> Validated {
    let message = pb::ValidateJwtsvidRequest {
        audience: audience.into(),
        svid: token.into(),
    };
    Validated {
        what,
        answer: api.unary(api.client().validate_jwtsvid(request(message))).await,
    }
}

/// Copies of a token that no validator may accept.
fn doctored(jws: &Jws, bundles: &Opening<pb::JwtBundlesResponse>, audience: &str) -> Vec<(Doctored, String)> {
    let parts: Vec<&str> = jws.token.split('.').collect();
    let [header, payload, signature] = parts[..] else {
        return Vec::new();
    };
    let mut tokens = Vec::new();

    let mut claims = jws.claims.clone();
    let sub = jws.claim_text("sub").unwrap_or("spiffe://spiffe-conformance.test/x");
    claims.insert("sub".into(), json!(format!("{sub}-somebody-else")));
    tokens.push((
        Doctored::Subject,
        format!("{header}.{}.{signature}", encode(to_json(&claims))),
    ));

    if let Ok(mut bytes) = decode_part(signature)
        && let Some(byte) = bytes.first_mut()
    {
        *byte ^= 1;
        tokens.push((Doctored::Signature, format!("{header}.{payload}.{}", encode(bytes))));
    }

    let mut none = jws.header.clone();
    none.insert("alg".into(), json!("none"));
    tokens.push((Doctored::AlgNone, format!("{}.{payload}.", encode(to_json(&none)))));

    if let Some(secret) = public_key_bytes(jws, bundles) {
        let mut header = jws.header.clone();
        header.insert("alg".into(), json!("HS256"));
        let message = format!("{}.{payload}", encode(to_json(&header)));
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &secret), message.as_bytes());
        tokens.push((Doctored::AlgHmac, format!("{message}.{}", encode(tag.as_ref()))));
    }

    let mut es256 = jws.header.clone();
    es256.insert("alg".into(), json!("ES256"));
    tokens.extend(sign(&es256, &jws.claims).map(|token| (Doctored::ForeignKey, token)));
    es256.insert("kid".into(), json!("spiffe-conformance-unknown"));
    tokens.extend(sign(&es256, &jws.claims).map(|token| (Doctored::ForeignKid, token)));
    let elsewhere = json!({
        "sub": "spiffe://spiffe-conformance.test/x", "aud": [audience], "iat": now(), "exp": now() + 300,
    });
    if let Value::Object(claims) = elsewhere {
        tokens.extend(sign(&es256, &claims).map(|token| (Doctored::OtherTrustDomain, token)));
    }

    let flattened = json!({ "protected": header, "payload": payload, "signature": signature });
    tokens.push((Doctored::JsonSerialization, flattened.to_string()));
    tokens
}

fn to_json(object: &Map<String, Value>) -> String {
    Value::Object(object.clone()).to_string()
}

/// The public key of the token's `kid`, as the bytes a confused validator would take for an HMAC secret.
fn public_key_bytes(jws: &Jws, bundles: &Opening<pb::JwtBundlesResponse>) -> Option<Vec<u8>> {
    let trust_domain = spiffe_id::trust_domain(jws.claim_text("sub")?)?;
    let bundle = bundles
        .first
        .as_ref()
        .ok()?
        .bundles
        .get(&format!("spiffe://{trust_domain}"))?;
    let keys = key_set(bundle).ok()?;
    let key = keys.iter().find(|key| key["kid"].as_str() == jws.header_text("kid"))?;
    match key["kty"].as_str()? {
        "EC" => {
            let mut point = vec![4];
            point.extend(decode_part(key["x"].as_str()?).ok()?);
            point.extend(decode_part(key["y"].as_str()?).ok()?);
            Some(point)
        }
        _ => decode_part(key["n"].as_str()?).ok(),
    }
}

/// A token signed with a key that nobody published.
fn sign(header: &Map<String, Value>, claims: &Map<String, Value>) -> Option<String> {
    let random = SystemRandom::new();
    let key = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).ok()?;
    let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, key.as_ref(), &random).ok()?;
    let message = format!("{}.{}", encode(to_json(header)), encode(to_json(claims)));
    let signature = key.sign(&random, message.as_bytes()).ok()?;
    Some(format!("{message}.{}", encode(signature.as_ref())))
}

/// Waits until a token has expired, when that is soon enough, and validates it; the error says why not.
pub(super) async fn expired(api: &Api, options: &Options) -> Result<Validated, String> {
    let fresh = workload::fetch_jwt(api, vec![options.audience.clone()], "")
        .await
        .map_err(|e| e.to_string())?;
    let token = fresh
        .svids
        .first()
        .map(|svid| svid.svid.clone())
        .ok_or("there is no JWT-SVID to wait for")?;
    let jws = Jws::read(&token).map_err(|_| "the JWT-SVID cannot be read")?;
    let exp = jws
        .claims
        .get("exp")
        .and_then(Value::as_u64)
        .ok_or("the JWT-SVID has no exp")?;
    // Validators may allow a small leeway (JWT-SVID.md App. A); go-jose's is a minute.
    let wait = Duration::from_secs(exp.saturating_sub(now()) + 1) + options.expiry_leeway;
    if wait > options.wait_for_expiry {
        return Err(format!(
            "the JWT-SVID may be accepted for {wait:?} more: give --wait-for-expiry {}s",
            wait.as_secs()
        ));
    }
    tokio::time::sleep(wait).await;
    Ok(ask(api, Doctored::Expired, &options.audience, &token).await)
}
