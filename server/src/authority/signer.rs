//! The keys that sign, loaded.

use bytes::Bytes;
use mintmark_identity::{JwsAlg, KeyId, KeyKind, PublicKey};
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING,
    ECDSA_P384_SHA384_ASN1, ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_SHA256,
    RsaKeyPair, UnparsedPublicKey, VerificationAlgorithm,
};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::keys::key_error;
use super::{AuthorityError, SignError};
use crate::ledger::Durable;
use crate::mint::check::Checked;
use crate::mint::jws::{JwsTemplate, TokenType, UnsignedJws};
use crate::mint::x509::{self, SignatureAlgorithm, Template, UnsignedX509};

/// An X.509 authority that signs.
pub struct X509Authority {
    key_id: KeyId,
    certificate: Bytes,
    public: PublicKey,
    template: Template,
    key: EcdsaKeyPair,
    random: SystemRandom,
}

impl X509Authority {
    /// Loads a key, signs something with it and verifies the signature.
    pub(super) fn load(certificate: &[u8], public: &PublicKey, pkcs8: &[u8]) -> Result<Self, AuthorityError> {
        let random = SystemRandom::new();
        let (algorithm, key) = load_ca_key(public, pkcs8, &random)?;
        let template = Template::new(certificate, algorithm)?;
        let authority = Self {
            key_id: public.key_id(),
            certificate: Bytes::copy_from_slice(certificate),
            public: public.clone(),
            template,
            key,
            random,
        };
        authority.prove()?;
        Ok(authority)
    }

    /// Its name: the subject key identifier in hex.
    pub fn key_id(&self) -> &KeyId {
        &self.key_id
    }

    /// Its certificate, self-signed, as DER.
    pub fn certificate(&self) -> &Bytes {
        &self.certificate
    }

    /// From when on it is valid, seconds since 1970.
    pub fn not_before(&self) -> i64 {
        self.template.bounds().not_before
    }

    /// Until when it is valid, seconds since 1970.
    pub fn not_after(&self) -> i64 {
        self.template.bounds().not_after
    }

    /// What all that it signs has in common.
    pub fn template(&self) -> &Template {
        &self.template
    }

    /// Signs a certificate that is written down and was checked. The DER of the whole certificate.
    ///
    /// # Errors
    /// When the check is another certificate's, or the key fails.
    #[expect(clippy::needless_pass_by_value, reason = "a durable credential is signed once")]
    pub fn sign(&self, unsigned: Durable<UnsignedX509>, checked: Checked) -> Result<Bytes, SignError> {
        let algorithm = self.template.algorithm();
        sign_x509(
            &self.key_id,
            algorithm,
            &self.key,
            &self.random,
            unsigned.get(),
            &checked,
        )
        .map(Bytes::from)
    }

    /// Verifies a certificate that this authority has signed, on its final bytes and with somebody else's parser.
    ///
    /// # Errors
    /// When it does not parse or its signature is wrong.
    pub fn verify(&self, certificate: &[u8]) -> Result<(), SignError> {
        let wrong = |why: String| SignError::Wrong {
            key_id: self.key_id.clone(),
            why,
        };
        let (_, issuer) = X509Certificate::from_der(&self.certificate).map_err(|error| wrong(error.to_string()))?;
        let (_, leaf) = X509Certificate::from_der(certificate).map_err(|error| wrong(error.to_string()))?;
        leaf.verify_signature(Some(issuer.public_key()))
            .map_err(|error| wrong(error.to_string()))
    }

    fn prove(&self) -> Result<(), SignError> {
        let verification: &dyn VerificationAlgorithm = match self.template.algorithm() {
            SignatureAlgorithm::EcdsaP256 => &ECDSA_P256_SHA256_ASN1,
            SignatureAlgorithm::EcdsaP384 => &ECDSA_P384_SHA384_ASN1,
        };
        let signature = self
            .key
            .sign(&self.random, PROOF)
            .map_err(|_| SignError::Failed(self.key_id.clone()))?;
        verify(&self.key_id, verification, &self.public, PROOF, signature.as_ref())?;
        self.verify(&self.certificate)
    }
}

/// Signs an authority's own certificate, which is written down and was checked, with its own key.
pub(super) fn sign_authority(
    public: &PublicKey,
    pkcs8: &[u8],
    unsigned: Durable<UnsignedX509>,
    checked: Checked,
) -> Result<Vec<u8>, AuthorityError> {
    let random = SystemRandom::new();
    let (algorithm, key) = load_ca_key(public, pkcs8, &random)?;
    sign_x509(&public.key_id(), algorithm, &key, &random, unsigned.get(), &checked).map_err(AuthorityError::from)
}

fn load_ca_key(
    public: &PublicKey,
    pkcs8: &[u8],
    random: &SystemRandom,
) -> Result<(SignatureAlgorithm, EcdsaKeyPair), AuthorityError> {
    let (algorithm, signing) = match public.kind() {
        KeyKind::P384 => (SignatureAlgorithm::EcdsaP384, &ECDSA_P384_SHA384_ASN1_SIGNING),
        KeyKind::P256 | KeyKind::Rsa => (SignatureAlgorithm::EcdsaP256, &ECDSA_P256_SHA256_ASN1_SIGNING),
    };
    let key = EcdsaKeyPair::from_pkcs8(signing, pkcs8, random).map_err(|error| key_error("load", error))?;
    Ok((algorithm, key))
}

fn sign_x509(
    key_id: &KeyId,
    algorithm: SignatureAlgorithm,
    key: &EcdsaKeyPair,
    random: &SystemRandom,
    unsigned: &UnsignedX509,
    checked: &Checked,
) -> Result<Vec<u8>, SignError> {
    if unsigned.serial() != checked.serial() {
        return Err(SignError::Unchecked {
            signed: unsigned.serial(),
            checked: checked.serial(),
        });
    }
    let signature = key
        .sign(random, unsigned.tbs())
        .map_err(|_| SignError::Failed(key_id.clone()))?;
    Ok(x509::assemble(unsigned, algorithm, signature.as_ref()))
}

/// What a key signs to show that it can.
const PROOF: &[u8] = b"mintmark: this key signs, and its signatures verify";

/// A key that signs tokens.
pub struct JwsAuthority {
    template: JwsTemplate,
    not_before: i64,
    not_after: i64,
    public: PublicKey,
    key: JwsKey,
    random: SystemRandom,
}

enum JwsKey {
    Es256(EcdsaKeyPair),
    Rs256(RsaKeyPair),
}

impl JwsAuthority {
    /// Loads a key, signs something with it and verifies the signature.
    pub(super) fn load(
        token_type: TokenType,
        (not_before, not_after): (i64, i64),
        public: &PublicKey,
        pkcs8: &[u8],
    ) -> Result<Self, AuthorityError> {
        let random = SystemRandom::new();
        let key = match public.kind() {
            KeyKind::Rsa => JwsKey::Rs256(RsaKeyPair::from_pkcs8(pkcs8).map_err(|error| key_error("load", error))?),
            KeyKind::P256 | KeyKind::P384 => {
                let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8, &random);
                JwsKey::Es256(pair.map_err(|error| key_error("load", error))?)
            }
        };
        let template = JwsTemplate::new(token_type, key.algorithm(), public.key_id());
        let authority = Self {
            template,
            not_before,
            not_after,
            public: public.clone(),
            key,
            random,
        };
        let signature = authority.sign_bytes(PROOF)?;
        authority.verify_bytes(PROOF, &signature)?;
        Ok(authority)
    }

    /// Its `kid`.
    pub fn key_id(&self) -> &KeyId {
        self.template.key_id()
    }

    /// With what it signs.
    pub fn algorithm(&self) -> JwsAlg {
        self.key.algorithm()
    }

    /// From when on it is valid, seconds since 1970.
    pub fn not_before(&self) -> i64 {
        self.not_before
    }

    /// Until when it is valid, seconds since 1970.
    pub fn not_after(&self) -> i64 {
        self.not_after
    }

    /// What all that it signs has in common.
    pub fn template(&self) -> &JwsTemplate {
        &self.template
    }

    /// Signs a token that is written down and was checked. The whole token.
    ///
    /// # Errors
    /// When the check is another token's, or the key fails.
    #[expect(clippy::needless_pass_by_value, reason = "a durable credential is signed once")]
    pub fn sign(&self, unsigned: Durable<UnsignedJws>, checked: Checked) -> Result<String, SignError> {
        let unsigned = unsigned.get();
        if unsigned.jti() != checked.serial() {
            return Err(SignError::Unchecked {
                signed: unsigned.jti(),
                checked: checked.serial(),
            });
        }
        Ok(unsigned.assemble(&self.sign_bytes(unsigned.signing_input())?))
    }

    /// Verifies a token that this key has signed.
    ///
    /// # Errors
    /// When its signature is wrong.
    pub fn verify(&self, token: &str) -> Result<(), SignError> {
        use base64::Engine as _;
        let (input, signature) = token.rsplit_once('.').unwrap_or_default();
        let signature = base64::engine::general_purpose::URL_SAFE_NO_PAD
            .decode(signature)
            .unwrap_or_default();
        self.verify_bytes(input.as_bytes(), &signature)
    }

    fn sign_bytes(&self, message: &[u8]) -> Result<Vec<u8>, SignError> {
        let failed = |_| SignError::Failed(self.key_id().clone());
        match &self.key {
            JwsKey::Es256(key) => Ok(key.sign(&self.random, message).map_err(failed)?.as_ref().to_vec()),
            JwsKey::Rs256(key) => {
                let mut out = vec![0; key.public().modulus_len()];
                key.sign(&RSA_PKCS1_SHA256, &self.random, message, &mut out)
                    .map_err(failed)?;
                Ok(out)
            }
        }
    }

    fn verify_bytes(&self, message: &[u8], signature: &[u8]) -> Result<(), SignError> {
        let algorithm: &dyn VerificationAlgorithm = match &self.key {
            JwsKey::Es256(_) => &ECDSA_P256_SHA256_FIXED,
            JwsKey::Rs256(_) => &RSA_PKCS1_2048_8192_SHA256,
        };
        verify(self.key_id(), algorithm, &self.public, message, signature)
    }
}

impl JwsKey {
    fn algorithm(&self) -> JwsAlg {
        match self {
            Self::Es256(_) => JwsAlg::Es256,
            Self::Rs256(_) => JwsAlg::Rs256,
        }
    }
}

/// Verifies with the public key as it is published, not with what ring derived from the private one.
fn verify(
    key_id: &KeyId,
    algorithm: &'static dyn VerificationAlgorithm,
    public: &PublicKey,
    message: &[u8],
    signature: &[u8],
) -> Result<(), SignError> {
    UnparsedPublicKey::new(algorithm, public.key_bytes())
        .verify(message, signature)
        .map_err(|_| SignError::Wrong {
            key_id: key_id.clone(),
            why: "ring refuses it".to_owned(),
        })
}

impl std::fmt::Debug for X509Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("X509Authority")
            .field("key_id", &self.key_id)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for JwsAuthority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JwsAuthority")
            .field("key_id", self.key_id())
            .field("algorithm", &self.algorithm())
            .finish_non_exhaustive()
    }
}
