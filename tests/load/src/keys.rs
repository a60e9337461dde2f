//! Keys and signing requests, made before the clock starts: making one costs the load program more than signing it costs the server.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use anyhow::{Context as _, Result};
use mintmark_proto::Bytes;
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData as _};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

/// A key as a server gets to see it.
#[derive(Debug, Clone)]
pub(crate) struct Key {
    /// PKCS #10, DER.
    pub(crate) csr: Bytes,
    /// SubjectPublicKeyInfo, DER.
    pub(crate) public_key: Bytes,
}

/// A key of our own.
pub(crate) struct OwnKey {
    pub(crate) public: Key,
    pub(crate) private: PrivateKeyDer<'static>,
}

/// A fresh P-256 key with its signing request, which names nothing: the server decides what the certificate says.
pub(crate) fn generate() -> Result<OwnKey> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).context("make a key")?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let csr = params.serialize_request(&key).context("make a signing request")?;
    Ok(OwnKey {
        public: Key {
            csr: csr.der().to_vec().into(),
            public_key: key.subject_public_key_info().into(),
        },
        private: PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
    })
}

/// Keys that all workers take in turn, over and over.
#[derive(Clone)]
pub(crate) struct Ring {
    keys: Arc<Vec<Key>>,
    next: Arc<AtomicUsize>,
}

impl Ring {
    /// At least one key.
    pub(crate) fn generate(count: u32) -> Result<Self> {
        let keys = (0..count.max(1))
            .map(|_| Ok(generate()?.public))
            .collect::<Result<_>>()?;
        Ok(Self {
            keys: Arc::new(keys),
            next: Arc::default(),
        })
    }

    /// The next `count` keys.
    pub(crate) fn take(&self, count: usize) -> impl Iterator<Item = &Key> {
        let first = self.next.fetch_add(count, Ordering::Relaxed) % self.keys.len();
        self.keys.iter().cycle().skip(first).take(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_goes_round() {
        let ring = Ring::generate(3).unwrap();
        let first: Vec<Bytes> = ring.take(2).map(|key| key.public_key.clone()).collect();
        let then: Vec<Bytes> = ring.take(2).map(|key| key.public_key.clone()).collect();
        assert_ne!(first[0], first[1]);
        assert_eq!(first[0], then[1]);
    }
}
