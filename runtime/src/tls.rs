//! TLS by SPIFFE's rules, and plain HTTPS.
//!
//! In come trust bundles, credentials that change while connections come and go, and accepted sockets; out come connections whose other
//! end is known by its SPIFFE ID. Every TLS door of the server and the attestor's link stand on this, and all of rustls' types are configured here.
//!
//! - [`TrustAnchors`]: whose certificates are believed, by trust domain. A leaf is verified against the anchors of its own trust domain, never of another.
//! - [`Credential`], [`PemCredential`]: the certificate and key that this side shows; a new one is used from the next handshake on.
//! - [`server_config`], [`client_config`]: configurations without session resumption, so that every connection is verified anew.
//! - [`incoming`]: handshakes beside the accept loop, with a deadline and a bound; [`Connector`]: the client's side.

mod accept;
mod anchors;
mod config;
mod connect;
mod credential;
mod pem;
#[cfg(test)]
mod tests;
mod verify;
mod web;

use std::path::PathBuf;

use mintmark_identity::svid::x509::{Leaf, X509SvidError};
use mintmark_identity::{Serial, SerialError, SpiffeId};
use rustls_pki_types::CertificateDer;

use crate::fs::FsError;

pub use accept::{Conn, ConnectInfo, TlsLimits, incoming};
pub use anchors::{SharedAnchors, TrustAnchors};
pub use config::{ALPN_H2, ALPN_HTTP1, ClientAuth, client_config, server_config};
pub use connect::Connector;
pub use credential::Credential;
pub use pem::PemCredential;
pub use verify::{AcceptAny, Expect, SpiffeServerVerifier};
pub use web::web_verifier;

/// Who is at the other end of a connection: what its certificate, which was verified, says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerIdentity {
    /// Its SPIFFE ID.
    pub spiffe_id: SpiffeId,
    /// Its certificate, as it was verified.
    pub leaf: CertificateDer<'static>,
    /// The certificate's serial number, big-endian.
    pub serial: Box<[u8]>,
    /// The last second at which the certificate is valid, in Unix seconds. A connection may outlast it; who cares looks.
    pub not_after: i64,
}

impl PeerIdentity {
    /// The serial as one of ours.
    ///
    /// # Errors
    /// When another issuer made it.
    pub fn serial(&self) -> Result<Serial, SerialError> {
        Serial::from_bytes(&self.serial)
    }

    fn of(leaf: CertificateDer<'static>) -> Result<Self, X509SvidError> {
        let parsed = Leaf::parse(&leaf)?;
        let (serial, not_after) = (parsed.certificate.serial.into(), parsed.certificate.not_after);
        Ok(Self {
            spiffe_id: parsed.spiffe_id,
            serial,
            not_after,
            leaf,
        })
    }
}

/// Why a credential cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The key does not fit the certificate, or is of a kind that is not supported.
    #[error("the certificate and its key cannot be used for TLS: {0}")]
    Credential(rustls::Error),
    /// A file cannot be read.
    #[error(transparent)]
    File(#[from] FsError),
    /// A file does not hold what it should.
    #[error("{path} holds no {what} in PEM form: {why}")]
    Pem {
        /// The file.
        path: PathBuf,
        /// What it should hold.
        what: &'static str,
        /// What is wrong.
        why: String,
    },
}
