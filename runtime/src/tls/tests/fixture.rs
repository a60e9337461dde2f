//! Authorities, servers and clients for the tests.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use futures::{Stream, StreamExt};
use mintmark_identity::{SpiffeId, TrustDomain};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
    SanType, SerialNumber,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::*;
use crate::clock::{Clock, from_unix_ms};
use crate::net::{ConnectError, ListenerStats, tcp_listener};

/// When the tests take place.
pub(super) const NOW: i64 = 1_800_000_000;

pub(super) struct Ca {
    pub(super) trust_domain: TrustDomain,
    pub(super) issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Ca {
    pub(super) fn new(trust_domain: &str) -> Self {
        let params = authority_params(&format!("spiffe://{trust_domain}"));
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        Self {
            trust_domain: TrustDomain::parse(trust_domain).unwrap(),
            issuer,
        }
    }

    pub(super) fn anchors(cas: &[&Self]) -> TrustAnchors {
        let mut anchors = TrustAnchors::default();
        for ca in cas {
            anchors.insert(ca.trust_domain.clone(), [ca.issuer.der().as_ref()]);
        }
        anchors
    }

    pub(super) fn id(&self, path: &str) -> SpiffeId {
        SpiffeId::new(&self.trust_domain, path).unwrap()
    }

    pub(super) fn issue(&self, path: &str) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        self.issue_as(params(self.id(path).as_str()))
    }

    pub(super) fn issue_as(&self, params: CertificateParams) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let key = KeyPair::generate().unwrap();
        let leaf = params.signed_by(&key, &self.issuer).unwrap();
        (
            vec![leaf.der().clone()],
            PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        )
    }

    pub(super) fn credential(&self, path: &str) -> Credential {
        let credential = Credential::empty();
        let (chain, key) = self.issue(path);
        credential.set(chain, key).unwrap();
        credential
    }
}

pub(super) fn params(uri: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::CommonName, uri);
    params.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())];
    params.serial_number = Some(SerialNumber::from_slice(&[1, 2, 3, 4]));
    params.not_before = from_unix_ms((NOW - 60) * 1000).into();
    params.not_after = from_unix_ms((NOW + 3600) * 1000).into();
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    params
}

pub(super) fn authority_params(uri: &str) -> CertificateParams {
    let mut params = params(uri);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.extended_key_usages.clear();
    params
}

/// A server that answers one byte to each connection and reports who came.
pub(super) struct Server {
    pub(super) addr: SocketAddr,
    pub(super) stats: ListenerStats,
    pub(super) conns: Pin<Box<dyn Stream<Item = io::Result<Conn>> + Send>>,
}

impl Server {
    pub(super) fn start(credential: &Credential, auth: ClientAuth, limits: TlsLimits, clock: &Clock) -> Self {
        let listener = tcp_listener(([127, 0, 0, 1], 0).into()).unwrap();
        let addr = listener.local_addr().unwrap();
        let stats = ListenerStats::default();
        let config = server_config(Arc::new(credential.clone()), auth, &[ALPN_H2], clock);
        let conns = Box::pin(incoming(listener, config, limits, stats.clone(), clock.clone()));
        Self { addr, stats, conns }
    }

    /// Serves one client that is served, while `client` runs.
    pub(super) async fn serve<T>(&mut self, client: impl Future<Output = T>) -> (Option<ConnectInfo>, T) {
        let mut client = std::pin::pin!(client);
        tokio::select! {
            conn = self.conns.next() => {
                let mut conn = conn.unwrap().unwrap();
                conn.write_all(b"!").await.unwrap();
                conn.flush().await.unwrap();
                let done = client.await;
                (Some(conn.info().clone()), done)
            }
            done = &mut client => (None, done),
        }
    }
}

/// Connects and waits for the server's byte: with TLS 1.3, only that says that the server took the client's certificate.
pub(super) async fn call(
    addr: SocketAddr,
    verifier: Arc<dyn rustls::client::danger::ServerCertVerifier>,
    credential: Option<Credential>,
    clock: &Clock,
) -> Result<TlsStream<TcpStream>, ConnectError> {
    let config = client_config(verifier, credential, &[ALPN_H2], clock);
    let connector = Connector::new(config, clock.clone());
    let mut io = connector.connect("127.0.0.1", addr.port()).await?;
    let target = addr.to_string();
    io.read_u8()
        .await
        .map_err(|source| ConnectError::Handshake { target, source })?;
    Ok(io)
}
