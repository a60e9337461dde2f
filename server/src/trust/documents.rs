//! The documents on the `https` listener: the SPIFFE bundle, OIDC discovery, and the keys for OIDC consumers.
//!
//! | path | what | for whom |
//! |---|---|---|
//! | `/` | the SPIFFE bundle (SPIFFE Federation §5.2) | other trust domains |
//! | `/.well-known/openid-configuration` | OIDC Discovery 1.0 §4 | whoever takes JWT-SVIDs as OIDC tokens |
//! | `/keys` | its JWK set, with `use`, `alg` and `kid` (RFC 7517) | the same |
//!
//! Anyone may read them. They are made once for each bundle, not once for each request.

use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use http::{HeaderMap, HeaderValue, StatusCode};
use mintmark_identity::{Bundle, BundleError, JwsAlg, PublicKey};
use ring::digest::{Context, SHA256};
use serde::Serialize;

use crate::authority::Authorities;

/// What consumers are told to keep a document for when the bundle says nothing, in seconds.
const DEFAULT_MAX_AGE: u32 = 300;

/// The documents of one issuer.
///
/// `issuer` is the `iss` of its JWT-SVIDs, an https URL without a slash at its end; a path in it is served too.
pub fn router(authorities: Authorities, issuer: &str) -> Router {
    let documents = Arc::new(Documents {
        authorities,
        issuer: issuer.to_owned(),
        made: Mutex::new(None),
    });
    let discovery = "/.well-known/openid-configuration";
    let mut router = Router::new()
        .route("/", get(bundle))
        .route(discovery, get(openid_configuration))
        .route("/keys", get(keys));
    if let Some(path) = path_of(issuer) {
        router = router
            .route(&format!("{path}{discovery}"), get(openid_configuration))
            .route(&format!("{path}/keys"), get(keys));
    }
    router.with_state(documents)
}

struct Documents {
    authorities: Authorities,
    issuer: String,
    made: Mutex<Option<Arc<Made>>>,
}

/// The documents of one bundle.
struct Made {
    of: Arc<Bundle>,
    bundle: String,
    configuration: String,
    keys: String,
    etag: HeaderValue,
    cache: HeaderValue,
}

#[derive(Serialize)]
struct Configuration<'a> {
    issuer: &'a str,
    jwks_uri: String,
    /// There is no such endpoint, but some consumers insist on the member; SPIRE's provider has it empty too.
    authorization_endpoint: &'a str,
    response_types_supported: [&'a str; 1],
    subject_types_supported: [&'a str; 1],
    id_token_signing_alg_values_supported: Vec<&'a str>,
    claims_supported: [&'a str; 6],
}

impl Documents {
    fn current(&self) -> Result<Arc<Made>, BundleError> {
        let bundle = self.authorities.bundle();
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        match &*made {
            Some(made) if Arc::ptr_eq(&made.of, &bundle) => Ok(Arc::clone(made)),
            _ => {
                let fresh = Arc::new(make(bundle, &self.issuer)?);
                *made = Some(Arc::clone(&fresh));
                Ok(fresh)
            }
        }
    }
}

fn make(bundle: Arc<Bundle>, issuer: &str) -> Result<Made, BundleError> {
    let mut algorithms: Vec<_> = bundle
        .jwt
        .iter()
        .filter_map(|key| PublicKey::from_spki_der(&key.spki_der).ok())
        .map(|key| JwsAlg::of(key.kind()).as_str())
        .collect();
    algorithms.sort_unstable();
    algorithms.dedup();
    let configuration = Configuration {
        issuer,
        jwks_uri: format!("{issuer}/keys"),
        authorization_endpoint: "",
        response_types_supported: ["id_token"],
        subject_types_supported: ["public"],
        id_token_signing_alg_values_supported: algorithms,
        claims_supported: ["sub", "aud", "exp", "iat", "iss", "jti"],
    };
    let max_age = bundle.refresh_hint.unwrap_or(DEFAULT_MAX_AGE);
    let ascii = |text: String| HeaderValue::from_str(&text).expect("digits and letters are a header's value");
    let (json, configuration, keys) = (
        bundle.to_json()?,
        serde_json::to_string(&configuration)?,
        bundle.oidc_jwks()?,
    );
    // Of the content, not the bundle's number: another configuration, or a restored backup, has other documents under the same one.
    let mut digest = Context::new(&SHA256);
    for document in [&json, &configuration, &keys] {
        digest.update(document.as_bytes());
    }
    Ok(Made {
        bundle: json,
        configuration,
        keys,
        etag: ascii(format!("\"{}\"", hex::encode(&digest.finish().as_ref()[..16]))),
        cache: ascii(format!("public, max-age={max_age}")),
        of: bundle,
    })
}

async fn bundle(State(documents): State<Arc<Documents>>, request: Request) -> Response {
    answer(&documents, request.headers(), |made| &made.bundle)
}

async fn openid_configuration(State(documents): State<Arc<Documents>>, request: Request) -> Response {
    answer(&documents, request.headers(), |made| &made.configuration)
}

async fn keys(State(documents): State<Arc<Documents>>, request: Request) -> Response {
    answer(&documents, request.headers(), |made| &made.keys)
}

fn answer(documents: &Documents, headers: &HeaderMap, which: impl Fn(&Made) -> &String) -> Response {
    let made = match documents.current() {
        Ok(made) => made,
        Err(error) => {
            tracing::error!(%error, "the bundle cannot be written as a document");
            return StatusCode::INTERNAL_SERVER_ERROR.into_response();
        }
    };
    let same = headers.get(IF_NONE_MATCH).is_some_and(|known| *known == made.etag);
    let head = [(ETAG, made.etag.clone()), (CACHE_CONTROL, made.cache.clone())];
    match same {
        true => (StatusCode::NOT_MODIFIED, head).into_response(),
        false => {
            let kind = [(CONTENT_TYPE, HeaderValue::from_static("application/json"))];
            (kind, head, which(&made).clone()).into_response()
        }
    }
}

/// The path in an issuer's URL, if it has one that a route can be.
fn path_of(issuer: &str) -> Option<&str> {
    let (_, rest) = issuer.split_once("://")?;
    let path = &rest[rest.find('/')?..];
    (path.len() > 1 && !path.contains(['{', '}', '*', ':'])).then_some(path)
}

#[cfg(test)]
mod tests {
    use mintmark_identity::TrustDomain;

    use super::*;

    #[test]
    fn documents_that_differ_are_not_taken_for_each_other() {
        let of = |change: &dyn Fn(&mut Bundle), issuer: &str| {
            let mut bundle = Bundle::new(TrustDomain::parse("example.org").unwrap());
            bundle.sequence = 7;
            change(&mut bundle);
            make(Arc::new(bundle), issuer).unwrap().etag
        };
        let one = of(&|_| {}, "https://a.example");
        assert_eq!(one, of(&|_| {}, "https://a.example"));
        assert_ne!(one, of(&|bundle| bundle.refresh_hint = Some(5), "https://a.example"));
        assert_ne!(one, of(&|_| {}, "https://b.example"));
    }

    #[test]
    fn an_issuers_path_is_served_too() {
        assert_eq!(path_of("https://a.example"), None);
        assert_eq!(path_of("https://a.example:8443/x/y"), Some("/x/y"));
        assert_eq!(path_of("https://a.example/{x}"), None);
    }
}
