//! Key managers: they make, seal and open private keys.

use std::sync::Arc;

use mintmark_identity::{KeyId, KeyKind, PublicKey};
use mintmark_runtime::crypto::{Kek, SealError, SecretBytes, random};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair, KeyPair};
use rsa::pkcs1::DecodeRsaPrivateKey;
use rsa::pkcs8::{DecodePrivateKey, EncodePrivateKey, EncodePublicKey};
use rsa::traits::PublicKeyParts;
use zeroize::{Zeroize, Zeroizing};

use super::{AuthorityError, Kind};

const RSA_BITS: usize = 2_048;

/// Seals private keys for the store, and opens them again. Clones share one key.
#[derive(Clone, Debug)]
pub struct KeyManager {
    kek: Arc<Kek>,
    name: &'static str,
}

impl KeyManager {
    /// Keys that survive a restart: sealed under a key-encryption key that outlives the process.
    pub fn disk(kek: Kek) -> Self {
        Self {
            kek: Arc::new(kek),
            name: "disk",
        }
    }

    /// Keys that are forgotten: sealed under a key that only this process has. After a restart new authorities are
    /// made, and what the old ones signed is still verified.
    pub fn memory() -> Self {
        let mut bytes = random::<32>();
        let kek = Kek::from_bytes(&bytes);
        bytes.zeroize();
        Self {
            kek: Arc::new(kek),
            name: "memory",
        }
    }

    /// Its name in the configuration, which stands beside every key that it sealed.
    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    /// Whether a key that does not open was to be expected: this manager, or the one that sealed it, forgets.
    pub(super) fn forgets(&self, sealed_by: &str) -> bool {
        self.name == "memory" || sealed_by == "memory"
    }

    pub(super) fn seal(&self, kind: Kind, key_id: &KeyId, private: &PrivateKey) -> Result<Vec<u8>, AuthorityError> {
        self.kek
            .seal(&context(kind, key_id), private.pkcs8.expose())
            .map_err(|error| key_error("seal", error))
    }

    pub(super) fn open(&self, kind: Kind, key_id: &KeyId, sealed: &[u8]) -> Result<SecretBytes, SealError> {
        self.kek.open(&context(kind, key_id), sealed)
    }
}

fn context(kind: Kind, key_id: &KeyId) -> Vec<u8> {
    format!("authority/{kind}/{key_id}").into_bytes()
}

/// A private key as PKCS#8, and its public half.
pub(super) struct PrivateKey {
    pub(super) pkcs8: SecretBytes,
    pub(super) public: PublicKey,
}

impl PrivateKey {
    /// Makes a key for ECDSA on `curve`.
    pub(super) fn ecdsa(kind: KeyKind) -> Result<Self, AuthorityError> {
        let algorithm = match kind {
            KeyKind::P384 => &ECDSA_P384_SHA384_ASN1_SIGNING,
            KeyKind::P256 | KeyKind::Rsa => &ECDSA_P256_SHA256_ASN1_SIGNING,
        };
        let rng = SystemRandom::new();
        let document = EcdsaKeyPair::generate_pkcs8(algorithm, &rng).map_err(|error| key_error("make", error))?;
        let pkcs8 = SecretBytes::new(document.as_ref().to_vec());
        let pair =
            EcdsaKeyPair::from_pkcs8(algorithm, pkcs8.expose(), &rng).map_err(|error| key_error("load", error))?;
        let point = pair.public_key().as_ref();
        let public = match kind {
            KeyKind::P384 => PublicKey::from_p384_point(point),
            KeyKind::P256 | KeyKind::Rsa => PublicKey::from_p256_point(point),
        };
        let public = public.map_err(|error| key_error("load", error))?;
        Ok(Self { pkcs8, public })
    }

    /// Makes an RSA key of 2,048 bits. This takes a good part of a second: run it where blocking is allowed.
    pub(super) fn rsa() -> Result<Self, AuthorityError> {
        let key =
            rsa::RsaPrivateKey::new(&mut rand::rngs::OsRng, RSA_BITS).map_err(|error| key_error("make", error))?;
        Self::from_rsa(&key)
    }

    /// The RSA key in a PEM file: PKCS#8 (`PRIVATE KEY`) or PKCS#1 (`RSA PRIVATE KEY`).
    pub(super) fn rsa_from_pem(path: &str, pem: &str) -> Result<Self, AuthorityError> {
        let refuse = |why: String| AuthorityError::Import {
            path: path.to_owned(),
            why,
        };
        let key = rsa::RsaPrivateKey::from_pkcs8_pem(pem)
            .or_else(|_| rsa::RsaPrivateKey::from_pkcs1_pem(pem))
            .map_err(|error| refuse(error.to_string()))?;
        key.validate().map_err(|error| refuse(error.to_string()))?;
        let bits = key.n().bits();
        if !(2_048..=4_096).contains(&bits) {
            return Err(refuse(format!("it has {bits} bits")));
        }
        Self::from_rsa(&key)
    }

    fn from_rsa(key: &rsa::RsaPrivateKey) -> Result<Self, AuthorityError> {
        let document = key.to_pkcs8_der().map_err(|error| key_error("encode", error))?;
        let pkcs8 = SecretBytes::from(Zeroizing::new(document.as_bytes().to_vec()));
        let spki = key
            .to_public_key()
            .to_public_key_der()
            .map_err(|error| key_error("encode", error))?;
        let public = PublicKey::from_spki_der(spki.as_bytes()).map_err(|error| key_error("load", error))?;
        Ok(Self { pkcs8, public })
    }
}

pub(super) fn key_error(action: &'static str, error: impl std::fmt::Display) -> AuthorityError {
    AuthorityError::Key {
        action,
        why: error.to_string(),
    }
}
