//! Whose certificates are believed.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use mintmark_identity::{Bundle, TrustDomain};
use rustls_pki_types::{CertificateDer, TrustAnchor};

/// The anchors in force: one store changes them for all handshakes that follow.
pub type SharedAnchors = Arc<ArcSwap<TrustAnchors>>;

/// Trust anchors by trust domain.
#[derive(Clone, Debug, Default)]
pub struct TrustAnchors {
    domains: HashMap<TrustDomain, Arc<[TrustAnchor<'static>]>>,
}

impl TrustAnchors {
    /// The X.509 authorities of these bundles, tainted ones too: what they signed is valid until they are revoked. A certificate that cannot be
    /// an anchor is logged and left out, as it must not take the others with it.
    pub fn from_bundles<'a>(bundles: impl IntoIterator<Item = &'a Bundle>) -> Self {
        let mut anchors = Self::default();
        for bundle in bundles {
            anchors.insert(
                bundle.trust_domain.clone(),
                bundle.x509.iter().map(|authority| &authority.der[..]),
            );
        }
        anchors
    }

    /// Sets the authorities of one trust domain, as certificates in DER.
    pub fn insert<'a>(&mut self, trust_domain: TrustDomain, authorities: impl IntoIterator<Item = &'a [u8]>) {
        let usable = authorities.into_iter().filter_map(|der| {
            let der = CertificateDer::from(der);
            let anchor = webpki::anchor_from_trusted_cert(&der).map(|anchor| anchor.to_owned());
            anchor
                .inspect_err(|error| {
                    tracing::error!(%trust_domain, %error, "an authority of a bundle cannot be a trust anchor and is left out");
                })
                .ok()
        });
        let usable: Arc<[_]> = usable.collect();
        self.domains.insert(trust_domain, usable);
    }

    /// These anchors, for sharing.
    pub fn shared(self) -> SharedAnchors {
        Arc::new(ArcSwap::from_pointee(self))
    }

    /// The trust domains whose members are believed.
    pub fn trust_domains(&self) -> impl Iterator<Item = &TrustDomain> {
        self.domains.keys()
    }

    pub(super) fn get(&self, trust_domain: &TrustDomain) -> Option<&[TrustAnchor<'static>]> {
        self.domains.get(trust_domain).map(|anchors| &**anchors)
    }
}
