//! Keys, certificates and tokens for tests.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use mintmark_identity::{Bundle, JwsAlg, JwtAuthority, KeyId, PublicKey, TrustDomain};
use rcgen::PublicKeyData as _;
use ring::rand::SystemRandom;
use ring::signature::{
    self, ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, RsaKeyPair,
};
use serde_json::{Value, json};

/// A time at which the tests' tokens are valid, in Unix seconds.
pub(crate) const NOW: i64 = 1_700_000_000;

/// A 2048-bit RSA key made by openssl for these tests alone.
const RSA: &[u8] = include_bytes!("../data/rsa2048.pk8");

pub(crate) enum Signer {
    P256(EcdsaKeyPair, rcgen::KeyPair),
    P384(EcdsaKeyPair, rcgen::KeyPair),
    Rsa(RsaKeyPair, rcgen::KeyPair),
}

impl Signer {
    pub(crate) fn p256() -> Self {
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let key = EcdsaKeyPair::from_pkcs8(
            &ECDSA_P256_SHA256_FIXED_SIGNING,
            &pair.serialize_der(),
            &SystemRandom::new(),
        );
        Self::P256(key.unwrap(), pair)
    }

    pub(crate) fn p384() -> Self {
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
        let key = EcdsaKeyPair::from_pkcs8(
            &ECDSA_P384_SHA384_FIXED_SIGNING,
            &pair.serialize_der(),
            &SystemRandom::new(),
        );
        Self::P384(key.unwrap(), pair)
    }

    pub(crate) fn rsa() -> Self {
        let der = rustls_pki_types::PrivatePkcs8KeyDer::from(RSA);
        let pair = rcgen::KeyPair::from_pkcs8_der_and_sign_algo(&der, &rcgen::PKCS_RSA_SHA256).unwrap();
        Self::Rsa(RsaKeyPair::from_pkcs8(RSA).unwrap(), pair)
    }

    pub(crate) fn pair(&self) -> &rcgen::KeyPair {
        match self {
            Self::P256(_, pair) | Self::P384(_, pair) | Self::Rsa(_, pair) => pair,
        }
    }

    pub(crate) fn spki_der(&self) -> Vec<u8> {
        self.pair().subject_public_key_info()
    }

    pub(crate) fn public_key(&self) -> PublicKey {
        PublicKey::from_spki_der(&self.spki_der()).unwrap()
    }

    pub(crate) fn authority(&self, key_id: &str) -> JwtAuthority {
        JwtAuthority {
            key_id: KeyId::parse(key_id).unwrap(),
            spki_der: self.spki_der().into(),
            expires_at: 0,
            tainted: false,
        }
    }

    fn sign(&self, algorithm: JwsAlg, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match self {
            Self::P256(key, _) | Self::P384(key, _) => key.sign(&random, message).unwrap().as_ref().to_vec(),
            Self::Rsa(key, _) => {
                let padding: &dyn signature::RsaEncoding = match algorithm {
                    JwsAlg::Rs256 => &signature::RSA_PKCS1_SHA256,
                    JwsAlg::Rs384 => &signature::RSA_PKCS1_SHA384,
                    JwsAlg::Rs512 => &signature::RSA_PKCS1_SHA512,
                    JwsAlg::Ps256 => &signature::RSA_PSS_SHA256,
                    JwsAlg::Ps384 => &signature::RSA_PSS_SHA384,
                    _ => &signature::RSA_PSS_SHA512,
                };
                let mut out = vec![0; key.public().modulus_len()];
                key.sign(padding, &random, message, &mut out).unwrap();
                out
            }
        }
    }

    /// A token with just this header and these claims, whatever they are.
    pub(crate) fn token(&self, algorithm: JwsAlg, header: &str, claims: &str) -> String {
        let mut token = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
        let signature = self.sign(algorithm, token.as_bytes());
        token.push('.');
        token.push_str(&URL_SAFE_NO_PAD.encode(signature));
        token
    }
}

pub(crate) fn trust_domain() -> TrustDomain {
    TrustDomain::parse("example.org").unwrap()
}

pub(crate) fn jwt_bundle(authorities: impl IntoIterator<Item = JwtAuthority>) -> Bundle {
    let mut bundle = Bundle::new(trust_domain());
    bundle.jwt.extend(authorities);
    bundle
}

/// `base` with members replaced; null takes one away.
pub(crate) fn with(mut base: Value, changes: Value) -> Value {
    let members = base.as_object_mut().unwrap();
    for (name, value) in changes.as_object().unwrap() {
        if value.is_null() {
            members.remove(name);
        } else {
            members.insert(name.clone(), value.clone());
        }
    }
    base
}

pub(crate) fn header() -> Value {
    json!({"alg": "ES256", "kid": "key-1", "typ": "JWT"})
}

pub(crate) fn claims() -> Value {
    json!({
        "sub": "spiffe://example.org/ns/a/sa/b",
        "aud": ["sts.amazonaws.com"],
        "exp": NOW + 300,
        "iat": NOW,
        "iss": "https://issuer.example.org",
        "jti": "AQAAAAAAAAAAKgAAAAAAAAAAAAAAAAA",
    })
}
