//! TLS as an agent of a SPIFFE server speaks it: the server is known by its SPIFFE ID under the trust bundle.

use std::sync::{Arc, OnceLock};

use anyhow::{Context as _, Result};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, OtherError, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

use crate::check::Anchors;

/// A client's certificate chain, leaf first, and its private key.
pub(crate) type Credential = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// A client that believes only the server of this trust domain, HTTP/2 only, with or without an SVID of its own.
pub(crate) fn client(anchors: Arc<Anchors>, credential: Option<Credential>) -> Result<Arc<ClientConfig>> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .context("configure TLS")?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Verifier { anchors }));
    let mut config = match credential {
        Some((chain, key)) => builder
            .with_client_auth_cert(chain, key)
            .context("use the agent's SVID")?,
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(config))
}

pub(crate) fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    Arc::clone(PROVIDER.get_or_init(|| Arc::new(ring::default_provider())))
}

#[derive(Debug)]
struct Verifier {
    anchors: Arc<Anchors>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let expected = self.anchors.server_id();
        let intermediates: Vec<&[u8]> = intermediates.iter().map(AsRef::as_ref).collect();
        self.anchors
            .verify(leaf, &intermediates, webpki::KeyUsage::server_auth(), now, &expected)
            .map(|()| ServerCertVerified::assertion())
            .map_err(|why| CertificateError::Other(OtherError(why.into_boxed_dyn_error().into())).into())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, signature, &provider().signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, signature, &provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}
