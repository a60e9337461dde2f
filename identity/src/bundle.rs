//! Trust bundles: the keys by which one trust domain's SVIDs are verified.
//!
//! Comes in: SPIFFE bundle JSON (SPIFFE_Trust_Domain_and_Bundle.md §4) of at most 1 MiB and 1,000 keys, and
//! bundle maps (§5). Goes out: a [`Bundle`], the same JSON, and a JWK set for OIDC consumers, which is
//! another document because they need `use: sig` and `alg`.

mod json;
mod map;

use std::fmt;
use std::sync::Arc;

use crate::jwk::JwkError;
use crate::svid::x509::X509SvidError;
use crate::{KeyId, KeyIdError, SpiffeIdError, TrustDomain};

pub use map::BundleMap;

/// The keys of one trust domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bundle {
    /// Whose keys these are.
    pub trust_domain: TrustDomain,
    /// Changes with every change of content (§4.1.1); 0 when the document had none.
    pub sequence: u64,
    /// How often a consumer should look for a newer one, in seconds (§4.1.2).
    pub refresh_hint: Option<u32>,
    /// What signs X.509-SVIDs.
    pub x509: Vec<X509Authority>,
    /// What signs JWT-SVIDs.
    pub jwt: Vec<JwtAuthority>,
    /// What signs WIT-SVIDs.
    pub wit: Vec<JwtAuthority>,
}

/// A certificate that signs X.509-SVIDs.
#[derive(Clone, PartialEq, Eq)]
pub struct X509Authority {
    /// The certificate.
    pub der: Arc<[u8]>,
    /// Whether its key is no longer trusted to sign, and what it signed is to be replaced. Not part of
    /// the JSON form.
    pub tainted: bool,
}

/// A key that signs JWT-SVIDs or WIT-SVIDs.
#[derive(Clone, PartialEq, Eq)]
pub struct JwtAuthority {
    /// The `kid` of the tokens it signs.
    pub key_id: KeyId,
    /// The public key as SubjectPublicKeyInfo.
    pub spki_der: Arc<[u8]>,
    /// When it ends, in Unix seconds; 0 when unknown. Not part of the JSON form.
    pub expires_at: i64,
    /// Whether it is no longer trusted to sign, and what it signed is to be replaced. Not part of the
    /// JSON form.
    pub tainted: bool,
}

impl Bundle {
    /// A bundle without keys, by which nothing is valid.
    pub fn new(trust_domain: TrustDomain) -> Self {
        Self {
            trust_domain,
            sequence: 0,
            refresh_hint: None,
            x509: Vec::new(),
            jwt: Vec::new(),
            wit: Vec::new(),
        }
    }

    /// Whether it has no key of any kind.
    pub fn is_empty(&self) -> bool {
        self.x509.is_empty() && self.jwt.is_empty() && self.wit.is_empty()
    }
}

/// Why a bundle cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BundleError {
    /// Larger than a document may be.
    #[error("a bundle of {length} bytes is not read, at most {} are", json::MAX_DOCUMENT)]
    TooLong {
        /// Its length in bytes.
        length: usize,
    },
    /// Larger than a bundle map may be.
    #[error("a bundle map of {length} bytes is not read, at most 16 MiB are")]
    MapTooLong {
        /// Its length in bytes.
        length: usize,
    },
    /// More keys than a document may have.
    #[error("a bundle of {count} keys is not read, at most {} are", json::MAX_KEYS)]
    TooManyKeys {
        /// How many it has.
        count: usize,
    },
    /// More trust domains than a bundle map may have.
    #[error("a bundle map of {count} trust domains is not read, at most 1000 are")]
    TooManyTrustDomains {
        /// How many it has.
        count: usize,
    },
    /// Not the JSON it should be.
    #[error("the bundle is not a SPIFFE bundle in JSON: {problem}")]
    Json {
        /// What the parser says.
        problem: String,
    },
    /// A JWT or WIT key without `kid`.
    #[error("key {index} of the bundle has no kid, which a JWT-SVID or WIT-SVID key must have (JWT-SVID §6.1)")]
    NoKeyId {
        /// Which key, counted from 0.
        index: usize,
    },
    /// A `kid` that cannot be used.
    #[error("key {index} of the bundle: {source}")]
    KeyId {
        /// Which key, counted from 0.
        index: usize,
        /// What is wrong with it.
        source: KeyIdError,
    },
    /// A `kid` that stands for two keys.
    #[error("the bundle has key ID {key_id} more than once (WIT-SVID §6.1)")]
    DuplicateKeyId {
        /// The key ID.
        key_id: KeyId,
    },
    /// An entry that is not a sound key.
    #[error("key {index} of the bundle: {source}")]
    Jwk {
        /// Which key, counted from 0.
        index: usize,
        /// What is wrong with it.
        source: JwkError,
    },
    /// An entry whose certificate is not one.
    #[error("key {index} of the bundle: {source}")]
    Certificate {
        /// Which key, counted from 0.
        index: usize,
        /// What is wrong with it.
        source: X509SvidError,
    },
    /// A trust domain that is not one.
    #[error("the bundle map has a key that is not a trust domain name: {0}")]
    TrustDomain(#[from] SpiffeIdError),
    /// A trust domain that is there twice.
    #[error("the bundle map has trust domain {name} more than once (SPIFFE_Trust_Domain_and_Bundle §5)")]
    DuplicateTrustDomain {
        /// Its name.
        name: String,
    },
}

impl From<serde_json::Error> for BundleError {
    fn from(error: serde_json::Error) -> Self {
        Self::Json {
            problem: json::json_error(&error),
        }
    }
}

impl fmt::Debug for X509Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("X509Authority")
            .field("der", &format_args!("{} bytes", self.der.len()))
            .field("tainted", &self.tainted)
            .finish()
    }
}

impl fmt::Debug for JwtAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JwtAuthority")
            .field("key_id", &self.key_id)
            .field("expires_at", &self.expires_at)
            .field("tainted", &self.tainted)
            .finish_non_exhaustive()
    }
}
