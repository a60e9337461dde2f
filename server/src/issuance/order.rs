//! What is asked for, and what is issued.

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use mintmark_identity::{JwsAlg, KeyId, PublicKey, Serial, SpiffeId, Ttl};

/// An order for an X.509-SVID.
#[derive(Clone, Debug)]
pub struct X509Order {
    /// Whose it shall be.
    pub spiffe_id: SpiffeId,
    /// The key that it shall be bound to.
    pub public_key: PublicKey,
    /// How long it shall live; the configured default if not said.
    pub ttl: Option<Ttl>,
    /// DNS names beside the SPIFFE ID.
    pub dns_names: Arc<[String]>,
    /// IP addresses beside the SPIFFE ID; only the server's own certificate may have them.
    pub ip_addresses: Vec<IpAddr>,
    /// The entry that it is for.
    pub entry_id: Option<Arc<str>>,
}

impl X509Order {
    /// An order with nothing but what must be there.
    pub fn new(spiffe_id: SpiffeId, public_key: PublicKey) -> Self {
        Self {
            spiffe_id,
            public_key,
            ttl: None,
            dns_names: Arc::default(),
            ip_addresses: Vec::new(),
            entry_id: None,
        }
    }
}

/// An X.509-SVID without its private key, which the server never saw.
#[derive(Clone, Debug)]
pub struct X509Svid {
    /// Whose it is.
    pub spiffe_id: SpiffeId,
    /// Certificates as DER, the leaf first, without the root.
    pub chain: Vec<Bytes>,
    /// The leaf's serial.
    pub serial: Serial,
    /// From when on it is valid, seconds since 1970.
    pub not_before: i64,
    /// Until when it is valid, seconds since 1970.
    pub not_after: i64,
    /// The authority that signed it.
    pub key_id: KeyId,
}

/// An order for a JWT-SVID.
#[derive(Clone, Debug)]
pub struct JwtOrder {
    /// Whose it shall be.
    pub spiffe_id: SpiffeId,
    /// For whom it shall be.
    pub audience: Vec<String>,
    /// How long it shall live; the configured default if not said.
    pub ttl: Option<Ttl>,
    /// With what it shall be signed; ES256 if not said.
    pub algorithm: Option<JwsAlg>,
    /// The entry that it is for.
    pub entry_id: Option<Arc<str>>,
}

impl JwtOrder {
    /// An order with nothing but what must be there.
    pub fn new(spiffe_id: SpiffeId, audience: Vec<String>) -> Self {
        Self {
            spiffe_id,
            audience,
            ttl: None,
            algorithm: None,
            entry_id: None,
        }
    }
}

/// A JWT-SVID. Its token is a secret and does not print.
#[derive(Clone)]
pub struct JwtSvid {
    /// Whose it is.
    pub spiffe_id: SpiffeId,
    /// The token.
    pub token: String,
    /// Its `jti`.
    pub jti: Serial,
    /// When it was made, seconds since 1970.
    pub issued_at: i64,
    /// From which second on it is no longer valid.
    pub expires_at: i64,
    /// The key that signed it.
    pub key_id: KeyId,
}

/// An order for a WIT-SVID.
#[derive(Clone, Debug)]
pub struct WitOrder {
    /// Whose it shall be.
    pub spiffe_id: SpiffeId,
    /// The key that its holder must prove to have.
    pub public_key: PublicKey,
    /// How long it shall live; the configured default if not said.
    pub ttl: Option<Ttl>,
    /// The entry that it is for.
    pub entry_id: Option<Arc<str>>,
}

impl WitOrder {
    /// An order with nothing but what must be there.
    pub fn new(spiffe_id: SpiffeId, public_key: PublicKey) -> Self {
        Self {
            spiffe_id,
            public_key,
            ttl: None,
            entry_id: None,
        }
    }
}

/// A WIT-SVID. Its token does not print.
#[derive(Clone)]
pub struct WitSvid {
    /// Whose it is.
    pub spiffe_id: SpiffeId,
    /// The token.
    pub token: String,
    /// Its `jti`.
    pub jti: Serial,
    /// When it was made, seconds since 1970.
    pub issued_at: i64,
    /// From which second on it is no longer valid.
    pub expires_at: i64,
    /// The key that signed it.
    pub key_id: KeyId,
}

impl std::fmt::Debug for JwtSvid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        print_token(f, "JwtSvid", &self.spiffe_id, self.jti, self.expires_at)
    }
}

impl std::fmt::Debug for WitSvid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        print_token(f, "WitSvid", &self.spiffe_id, self.jti, self.expires_at)
    }
}

fn print_token(
    f: &mut std::fmt::Formatter<'_>,
    name: &str,
    id: &SpiffeId,
    jti: Serial,
    expires_at: i64,
) -> std::fmt::Result {
    f.debug_struct(name)
        .field("spiffe_id", id)
        .field("jti", &jti)
        .field("expires_at", &expires_at)
        .finish_non_exhaustive()
}
