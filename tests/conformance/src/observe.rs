//! Talks to the server under test and writes down what it said.
//!
//! Comes in: addresses. Goes out: [`Seen`], which holds every answer as it came, so that what it means is decided in
//! one place (`judge`) and needs no server to be tested. Nothing here passes or fails anything.

mod api;
mod denied;
mod jwt;
mod legacy_tls;
mod reflection;
mod web;
mod workload;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use mintmark_proto::workload as pb;
use rustls_pki_types::CertificateDer;

pub(crate) use api::{Answer, Opening, Refusal};
pub use denied::{PROBE, probe};
pub(crate) use reflection::SERVICE;
pub(crate) use web::{Hop, NoPage, Page};
pub(crate) use workload::RPCS;

use crate::{Options, jws, options::Address};

/// Everything that was seen in one run.
#[derive(Debug)]
pub(crate) struct Seen {
    /// When the SVIDs were fetched, in seconds since 1970.
    pub(crate) now: u64,
    /// The audience that tokens were asked for.
    pub(crate) audience: String,
    /// What the Workload API said; `None` without `--socket`.
    pub(crate) workload: Option<Workload>,
    /// What a caller without identity got.
    pub(crate) denied: Option<Denied>,
    /// What the bundle endpoint said; `None` without `--bundle-endpoint`.
    pub(crate) bundle: Option<BundleEndpoint>,
    /// The text of `--bundle-map`.
    pub(crate) bundle_map: Option<Vec<u8>>,
    /// What the OIDC issuer said; `None` without `--oidc`.
    pub(crate) oidc: Option<Oidc>,
    /// Whom certificates of the web are verified with.
    pub(crate) roots: Roots,
}

/// What the Workload API said.
#[derive(Debug)]
pub(crate) struct Workload {
    pub(crate) x509: Opening<pb::X509svidResponse>,
    /// A second stream, opened while the first was open.
    pub(crate) x509_again: Opening<pb::X509svidResponse>,
    pub(crate) x509_bundles: Opening<pb::X509BundlesResponse>,
    pub(crate) jwt_bundles: Opening<pb::JwtBundlesResponse>,
    pub(crate) wit: Opening<pb::WitsvidResponse>,
    pub(crate) wit_bundles: Opening<pb::WitBundlesResponse>,
    /// One audience, no SPIFFE ID.
    pub(crate) jwt: Answer<pb::JwtsvidResponse>,
    pub(crate) jwt_asked: Vec<JwtAsked>,
    /// Refusal of a SPIFFE ID of the longest allowed length, and of a short one.
    pub(crate) longest_id: Option<(Answer<pb::JwtsvidResponse>, Answer<pb::JwtsvidResponse>)>,
    pub(crate) validated: Vec<Validated>,
    /// Why there is no probe of an expired token.
    pub(crate) no_expiry: Option<String>,
    pub(crate) headers: Vec<HeaderProbe>,
    /// Calling a method that the service does not have.
    pub(crate) unknown_method: Answer<()>,
    pub(crate) reflection: Reflection,
}

/// A request for JWT-SVIDs and what came of it.
#[derive(Debug)]
pub(crate) struct JwtAsked {
    pub(crate) what: JwtAsk,
    pub(crate) spiffe_id: String,
    pub(crate) answer: Answer<pb::JwtsvidResponse>,
}

/// What a request for JWT-SVIDs was about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum JwtAsk {
    /// One of the caller's own identities, by name.
    Own,
    /// The caller's first identity, with scheme and trust domain in upper case.
    OwnUpperCase,
    /// An identity of the own trust domain that is not the caller's.
    NotMine,
    /// An identity of another trust domain.
    Elsewhere,
    /// No audience at all.
    NoAudience,
}

/// A token given to ValidateJWTSVID and what came of it.
#[derive(Debug)]
pub(crate) struct Validated {
    pub(crate) what: Doctored,
    pub(crate) answer: Answer<pb::ValidateJwtsvidResponse>,
}

/// What was done to the token before it was validated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Doctored {
    /// Nothing: the server's own token and its audience.
    Nothing,
    /// Validated for another audience.
    OtherAudience,
    /// The subject was changed, the signature kept.
    Subject,
    /// One bit of the signature was changed.
    Signature,
    /// `alg` is `none`, without a signature.
    AlgNone,
    /// `alg` is `HS256`, signed with the public key as the secret.
    AlgHmac,
    /// Signed with a key that nobody published, under the right `kid`.
    ForeignKey,
    /// Signed with a key that nobody published, under a `kid` of its own.
    ForeignKid,
    /// Signed for a trust domain whose bundle is not there.
    OtherTrustDomain,
    /// The own token in JSON serialization.
    JsonSerialization,
    /// Not a token.
    Garbage,
    /// No audience in the request.
    RequestWithoutAudience,
    /// No token in the request.
    RequestWithoutToken,
    /// The own token after its `exp`.
    Expired,
}

/// A call with a security header other than the one that is asked for.
#[derive(Debug)]
pub(crate) struct HeaderProbe {
    pub(crate) rpc: &'static str,
    /// `None`: no header at all.
    pub(crate) value: Option<&'static str>,
    pub(crate) answer: Answer<()>,
}

/// What server reflection said.
#[derive(Debug)]
pub(crate) struct Reflection {
    /// Full names of the services.
    pub(crate) services: Answer<Vec<String>>,
    /// The methods of `SpiffeWorkloadAPI`.
    pub(crate) methods: Answer<Vec<String>>,
    /// Listing services without the security header.
    pub(crate) without_header: Answer<Vec<String>>,
}

/// What a caller without identity got: the RPC, and how many documents came or how it was refused.
#[derive(Debug)]
pub(crate) struct Denied {
    pub(crate) answers: Vec<(String, Answer<usize>)>,
}

/// What the bundle endpoint said.
#[derive(Debug)]
pub(crate) struct BundleEndpoint {
    pub(crate) url: String,
    pub(crate) spiffe_id: Option<String>,
    pub(crate) first: Result<Page, NoPage>,
    pub(crate) second: Result<Page, NoPage>,
    /// The answers to hellos that offer at most this version of TLS.
    pub(crate) legacy: Vec<(&'static str, Result<bool, String>)>,
}

/// What the OIDC issuer said.
#[derive(Debug)]
pub(crate) struct Oidc {
    pub(crate) issuer: String,
    pub(crate) discovery: Result<Page, NoPage>,
    /// The document behind `jwks_uri`.
    pub(crate) keys: Result<Page, NoPage>,
}

/// Whom certificates of the web are verified with.
#[derive(Debug)]
pub(crate) enum Roots {
    /// These.
    Certificates(Vec<CertificateDer<'static>>),
    /// Nobody asked.
    Anyone,
}

/// Looks at everything that `options` names.
pub(crate) async fn observe(options: &Options) -> Result<Seen> {
    jws::install();
    let _ = rustls::crypto::ring::default_provider().install_default();

    let roots = web::roots(options)?;
    let bundle_map = match &options.bundle_map {
        Some(path) => Some(std::fs::read(path).with_context(|| format!("read the bundle map {}", path.display()))?),
        None => None,
    };
    let api = match &options.socket {
        Some(address) => Some(connect(address, options.timeout).await?),
        None => None,
    };
    let mut workload = match &api {
        Some(api) => {
            workload::await_identity(api, options.wait).await;
            Some(workload::observe(api, options).await)
        }
        None => None,
    };
    let now = now();
    let mut denied = match &options.expect_no_identity_socket {
        Some(address) => Some(denied::observe(&connect(address, options.timeout).await?).await),
        None => None,
    };
    if let (Some(uid), Some(address)) = (options.expect_no_identity_uid, &options.socket) {
        let other = denied::observe_as(uid, address, options.timeout).await?;
        denied
            .get_or_insert_with(|| Denied { answers: Vec::new() })
            .answers
            .extend(other.answers);
    }
    let bundle = match &options.bundle_endpoint {
        Some(url) => Some(web::bundle_endpoint(url, options).await),
        None => None,
    };
    let oidc = match &options.oidc {
        Some(issuer) => Some(web::oidc(issuer, options.timeout).await),
        None => None,
    };
    if let (Some(api), Some(workload)) = (&api, &mut workload) {
        workload::observe_expiry(api, workload, options).await;
    }
    Ok(Seen {
        now,
        audience: options.audience.clone(),
        workload,
        denied,
        bundle,
        bundle_map,
        oidc,
        roots,
    })
}

async fn connect(address: &Address, timeout: Duration) -> Result<api::Api> {
    api::Api::connect(address, timeout)
        .await
        .with_context(|| format!("connect to {address}"))
}

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
