//! Verification of X.509-SVIDs (X509-SVID §5).
//!
//! The chain is verified by webpki against the anchors of the leaf's own trust domain, the leaf by `mintmark_identity`. Names of hosts play no part.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use mintmark_identity::svid::x509::Leaf;
use mintmark_identity::{SpiffeId, TrustDomain};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use webpki::{EndEntityCert, KeyUsage};

use super::anchors::SharedAnchors;
use crate::crypto::provider;

/// Whom a client expects to find.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Exactly this SPIFFE ID.
    Id(SpiffeId),
    /// Any member of this trust domain.
    MemberOf(TrustDomain),
}

impl fmt::Display for Expect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => write!(f, "{id}"),
            Self::MemberOf(trust_domain) => write!(f, "a member of trust domain {trust_domain}"),
        }
    }
}

/// Believes a server that has an X.509-SVID of whom it expects.
#[derive(Debug)]
pub struct SpiffeServerVerifier {
    expect: Expect,
    rules: Rules,
}

impl SpiffeServerVerifier {
    /// A verifier with the anchors that are in force at each handshake.
    pub fn new(anchors: SharedAnchors, expect: Expect) -> Arc<Self> {
        Arc::new(Self {
            expect,
            rules: Rules::new(anchors),
        })
    }
}

impl ServerCertVerifier for SpiffeServerVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let found = self.rules.verify(leaf, intermediates, KeyUsage::server_auth(), now)?;
        let expected = match &self.expect {
            Expect::Id(id) => found == *id,
            Expect::MemberOf(trust_domain) => found.is_in(trust_domain),
        };
        if expected {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(refused(Unexpected {
                found,
                expected: self.expect.clone(),
            }))
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, signature, &self.rules.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, signature, &self.rules.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.rules.algorithms.supported_schemes()
    }
}

/// Believes a client that has an X.509-SVID of a trust domain whose anchors there are.
#[derive(Debug)]
pub(super) struct SpiffeClientVerifier {
    mandatory: bool,
    rules: Rules,
}

impl SpiffeClientVerifier {
    /// A verifier that lets clients without a certificate in, unless it is `mandatory`.
    pub(super) fn new(anchors: SharedAnchors, mandatory: bool) -> Arc<Self> {
        Arc::new(Self {
            mandatory,
            rules: Rules::new(anchors),
        })
    }
}

impl ClientCertVerifier for SpiffeClientVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // A client of a federated trust domain might withhold its certificate because of a hint.
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.rules.verify(leaf, intermediates, KeyUsage::client_auth(), now)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, signature, &self.rules.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, signature, &self.rules.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.rules.algorithms.supported_schemes()
    }
}

#[derive(Debug)]
struct Rules {
    anchors: SharedAnchors,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Rules {
    fn new(anchors: SharedAnchors) -> Self {
        Self {
            anchors,
            algorithms: provider().signature_verification_algorithms,
        }
    }

    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        usage: KeyUsage,
        now: UnixTime,
    ) -> Result<SpiffeId, Error> {
        let id = Leaf::parse(leaf).map_err(refused)?.spiffe_id;
        let trust_domain = id.trust_domain();
        for intermediate in intermediates {
            check_intermediate(intermediate, &trust_domain)?;
        }
        let anchors = self.anchors.load();
        let anchors = anchors
            .get(&trust_domain)
            .ok_or_else(|| refused(NotTrusted(trust_domain.clone())))?;
        EndEntityCert::try_from(leaf)
            .and_then(|cert| {
                cert.verify_for_usage(self.algorithms.all, anchors, intermediates, now, usage, None, None)
                    .map(drop)
            })
            .map_err(chain_error)?;
        Ok(id)
    }
}

/// A signing certificate that names a trust domain signs for that one only (X509-SVID §4.2).
fn check_intermediate(der: &CertificateDer<'_>, trust_domain: &TrustDomain) -> Result<(), Error> {
    let cert = EndEntityCert::try_from(der).map_err(chain_error)?;
    let mut spiffe = cert.valid_uri_names().filter(|uri| is_spiffe(uri));
    match spiffe.find(|uri| !SpiffeId::parse(uri).is_ok_and(|id| id.is_in(trust_domain))) {
        Some(_) => Err(refused(ForeignIntermediate(trust_domain.clone()))),
        None => Ok(()),
    }
}

fn is_spiffe(uri: &str) -> bool {
    uri.get(..9)
        .is_some_and(|scheme| scheme.eq_ignore_ascii_case("spiffe://"))
}

#[derive(Debug, thiserror::Error)]
#[error("there are no trust anchors for trust domain {0}")]
struct NotTrusted(TrustDomain);

#[derive(Debug, thiserror::Error)]
#[error("an intermediate certificate of another trust domain is in a chain of {0}")]
struct ForeignIntermediate(TrustDomain);

#[derive(Debug, thiserror::Error)]
#[error("it is that of {found}, expected was {expected}")]
struct Unexpected {
    found: SpiffeId,
    expected: Expect,
}

fn refused(why: impl std::error::Error + Send + Sync + 'static) -> Error {
    CertificateError::Other(OtherError(Arc::new(why))).into()
}

/// webpki's verdict in rustls' words, which decide the alert that the other side sees.
fn chain_error(error: webpki::Error) -> Error {
    use webpki::Error as E;
    match error {
        E::BadDer | E::BadDerTime | E::TrailingData(_) => CertificateError::BadEncoding.into(),
        E::CertExpired { .. } | E::InvalidCertValidity => CertificateError::Expired.into(),
        E::CertNotValidYet { .. } => CertificateError::NotValidYet.into(),
        E::UnknownIssuer => CertificateError::UnknownIssuer.into(),
        E::InvalidSignatureForPublicKey => CertificateError::BadSignature.into(),
        other => refused(other),
    }
}

/// The error of a handshake with our own verdict in words, which rustls shows only in its debug form.
pub(super) fn in_words(error: io::Error) -> io::Error {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    match tls {
        Some(Error::InvalidCertificate(CertificateError::Other(OtherError(why)))) => {
            io::Error::new(error.kind(), format!("the other side's certificate is refused: {why}"))
        }
        _ => error,
    }
}

/// Believes any server, and remembers what it showed: for the first contact of a node that was told to trust on first use.
///
/// That the other side holds the key of the certificate it shows is still verified.
#[derive(Debug)]
pub struct AcceptAny {
    presented: Mutex<Option<Vec<CertificateDer<'static>>>>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl AcceptAny {
    /// A verifier that has seen nothing yet.
    pub fn new() -> Arc<Self> {
        let algorithms = provider().signature_verification_algorithms;
        Arc::new(Self {
            presented: Mutex::default(),
            algorithms,
        })
    }

    /// The chain that the server of the last handshake showed, leaf first.
    pub fn presented(&self) -> Option<Vec<CertificateDer<'static>>> {
        self.presented.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl ServerCertVerifier for AcceptAny {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let chain = std::iter::once(leaf)
            .chain(intermediates)
            .map(|der| der.clone().into_owned())
            .collect();
        *self.presented.lock().unwrap_or_else(PoisonError::into_inner) = Some(chain);
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
