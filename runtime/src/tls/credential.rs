//! The certificate and key that this side shows, changed while connections come and go.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::TlsError;
use crate::crypto::provider;

/// A certificate chain with its key. Clones share it: what is set on one is shown by all from the next handshake on.
#[derive(Clone, Debug, Default)]
pub struct Credential {
    current: Arc<ArcSwapOption<CertifiedKey>>,
}

impl Credential {
    /// Nothing to show yet: a server refuses handshakes, a client shows no certificate.
    pub fn empty() -> Self {
        Self::default()
    }

    /// Shows this chain, leaf first, from now on.
    ///
    /// # Errors
    /// When the key is not that of the leaf, or of no supported kind; what was shown before is then shown further.
    pub fn set(&self, chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Result<(), TlsError> {
        let certified = CertifiedKey::from_der(chain, key, &provider()).map_err(TlsError::Credential)?;
        self.current.store(Some(Arc::new(certified)));
        Ok(())
    }

    /// Shows nothing any more.
    pub fn clear(&self) {
        self.current.store(None);
    }

    /// The chain that is shown, leaf first.
    pub fn chain(&self) -> Option<Vec<CertificateDer<'static>>> {
        self.current.load().as_ref().map(|certified| certified.cert.clone())
    }
}

impl ResolvesServerCert for Credential {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.current.load_full()
    }
}

impl ResolvesClientCert for Credential {
    fn resolve(&self, _: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        // A key that cannot sign by any scheme that the server takes is not shown, as showing it would only break the handshake.
        self.current
            .load_full()
            .filter(|certified| certified.key.choose_scheme(schemes).is_some())
    }

    fn has_certs(&self) -> bool {
        self.current.load().is_some()
    }
}
