//! rustls configurations.

use std::sync::Arc;

use rustls::client::danger::ServerCertVerifier;
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::server::{NoServerSessionStorage, ResolvesServerCert};
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, ServerConfig};
use rustls_pki_types::UnixTime;

use super::anchors::SharedAnchors;
use super::credential::Credential;
use super::verify::SpiffeClientVerifier;
use crate::clock::Clock;
use crate::crypto::provider;

/// HTTP/2, which gRPC needs.
pub const ALPN_H2: &[u8] = b"h2";
/// HTTP/1.1.
pub const ALPN_HTTP1: &[u8] = b"http/1.1";

/// What a server asks its clients for.
#[derive(Clone, Debug)]
pub enum ClientAuth {
    /// No certificate.
    None,
    /// An X.509-SVID if the client has one. A client whose certificate is not believed is refused, not let in without a name.
    Optional(SharedAnchors),
    /// An X.509-SVID.
    Required(SharedAnchors),
}

/// A server's configuration: TLS 1.2 and 1.3, the certificate that `credential` has at each handshake, and these application protocols.
///
/// Sessions are never resumed, as a resumed session would carry on what was believed at an earlier time.
pub fn server_config(
    credential: Arc<dyn ResolvesServerCert>,
    auth: ClientAuth,
    alpn: &[&[u8]],
    clock: &Clock,
) -> Arc<ServerConfig> {
    let builder = ServerConfig::builder_with_details(provider(), Arc::new(clock.clone()))
        .with_safe_default_protocol_versions()
        .expect("ring has suites for TLS 1.2 and 1.3");
    let builder = match auth {
        ClientAuth::None => builder.with_no_client_auth(),
        ClientAuth::Optional(anchors) => builder.with_client_cert_verifier(SpiffeClientVerifier::new(anchors, false)),
        ClientAuth::Required(anchors) => builder.with_client_cert_verifier(SpiffeClientVerifier::new(anchors, true)),
    };
    let mut config = builder.with_cert_resolver(credential);
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    Arc::new(config)
}

/// A client's configuration: TLS 1.2 and 1.3, `verifier` for whom it finds, the certificate that `credential` has at each handshake, and these
/// application protocols. Sessions are never resumed.
pub fn client_config(
    verifier: Arc<dyn ServerCertVerifier>,
    credential: Option<Credential>,
    alpn: &[&[u8]],
    clock: &Clock,
) -> Arc<ClientConfig> {
    let builder = ClientConfig::builder_with_details(provider(), Arc::new(clock.clone()))
        .with_safe_default_protocol_versions()
        .expect("ring has suites for TLS 1.2 and 1.3")
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match credential {
        Some(credential) => builder.with_client_cert_resolver(Arc::new(credential) as Arc<dyn ResolvesClientCert>),
        None => builder.with_no_client_auth(),
    };
    config.resumption = Resumption::disabled();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    Arc::new(config)
}

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        // A clock before 1970 is no time to believe certificates at.
        let now = self.now().duration_since(std::time::UNIX_EPOCH).ok()?;
        Some(UnixTime::since_unix_epoch(now))
    }
}
