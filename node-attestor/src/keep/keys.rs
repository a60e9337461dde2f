//! Private keys: ECDSA on P-256, made here.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use mintmark_identity::PublicKey;
use mintmark_runtime::crypto::SecretBytes;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use zeroize::Zeroizing;

/// An uncompressed point.
const POINT: usize = 65;
/// A private number.
const SCALAR: usize = 32;

/// A key pair. The private part is wiped when the last that holds it is dropped.
pub struct NewKey {
    /// The private key, PKCS #8 in DER.
    pub pkcs8: Bytes,
    /// The public key, SubjectPublicKeyInfo in DER.
    pub spki: Bytes,
}

impl NewKey {
    /// Makes one.
    ///
    /// # Panics
    /// When the operating system has no randomness to give: nothing safe can be done then.
    pub fn generate() -> Self {
        let random = SystemRandom::new();
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random)
            .expect("the operating system gives random bytes");
        Self::from_pkcs8(document.as_ref()).expect("a key that was just made can be read")
    }

    /// Takes a private key as [`NewKey::generate`] made it.
    pub fn from_pkcs8(der: &[u8]) -> Option<Self> {
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der, &SystemRandom::new()).ok()?;
        let public = PublicKey::from_p256_point(pair.public_key().as_ref()).ok()?;
        Some(Self {
            pkcs8: secret(der),
            spki: Bytes::copy_from_slice(public.spki_der()),
        })
    }

    /// The private key as a JWK (RFC 7518 §6.2), for ES256.
    pub(super) fn private_jwk(&self) -> Option<SecretText> {
        let public = PublicKey::from_spki_der(&self.spki).ok()?;
        let (x, y) = public.key_bytes().get(1..POINT)?.split_at(SCALAR);
        let text = |bytes: &[u8]| Zeroizing::new(URL_SAFE_NO_PAD.encode(bytes));
        let d = text(scalar(&self.pkcs8)?);
        let (x, y) = (text(x), text(y));
        // Allocated once, so that no copy is left behind by growth.
        let mut jwk = Zeroizing::new(String::with_capacity(256));
        let parts = [
            r#"{"kty":"EC","crv":"P-256","alg":"ES256","x":""#,
            &x,
            r#"","y":""#,
            &y,
            r#"","d":""#,
            &d,
            r#""}"#,
        ];
        parts.iter().for_each(|part| jwk.push_str(part));
        Some(SecretText(jwk))
    }
}

impl std::fmt::Debug for NewKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("NewKey(redacted)")
    }
}

/// Text that is wiped when it is dropped and does not print.
pub struct SecretText(Zeroizing<String>);

impl SecretText {
    /// The text, for the one that uses it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<String> for SecretText {
    fn from(text: String) -> Self {
        Self(Zeroizing::new(text))
    }
}

impl std::fmt::Debug for SecretText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SecretText(redacted)")
    }
}

/// Bytes that are shared without copies, and wiped when the last that holds them is dropped.
pub(super) fn secret(bytes: &[u8]) -> Bytes {
    struct Owner(SecretBytes);
    impl AsRef<[u8]> for Owner {
        fn as_ref(&self) -> &[u8] {
            self.0.expose()
        }
    }
    Bytes::from_owner(Owner(SecretBytes::new(bytes.to_vec())))
}

/// The private number in ring's encoding (RFC 5208 with RFC 5915): the first octet string of 32 bytes.
fn scalar(pkcs8: &[u8]) -> Option<&[u8]> {
    // version INTEGER 1, privateKey OCTET STRING of 32 bytes.
    const BEFORE: &[u8] = b"\x02\x01\x01\x04\x20";
    let at = pkcs8.windows(BEFORE.len()).position(|window| window == BEFORE)? + BEFORE.len();
    pkcs8.get(at..at + SCALAR)
}

#[cfg(test)]
mod tests {
    use mintmark_identity::{KeyKind, PublicKey};

    use super::*;

    #[test]
    fn a_new_key_is_read_by_others_and_its_jwk_is_the_same_key() {
        let key = NewKey::generate();
        let public = PublicKey::from_spki_der(&key.spki).unwrap();
        assert_eq!(public.kind(), KeyKind::P256);
        let pair = rcgen::KeyPair::try_from(&key.pkcs8[..]).unwrap();
        assert_eq!(rcgen::PublicKeyData::subject_public_key_info(&pair), key.spki);
        assert_eq!(NewKey::from_pkcs8(&key.pkcs8).unwrap().spki, key.spki);
        assert_ne!(NewKey::generate().spki, key.spki);

        let jwk: serde_json::Value = serde_json::from_str(key.private_jwk().unwrap().expose()).unwrap();
        let part = |name: &str| URL_SAFE_NO_PAD.decode(jwk[name].as_str().unwrap()).unwrap();
        let point = [&[4][..], &part("x"), &part("y")].concat();
        assert_eq!(public.key_bytes(), point);
        let pair = EcdsaKeyPair::from_private_key_and_public_key(
            &ECDSA_P256_SHA256_FIXED_SIGNING,
            &part("d"),
            &point,
            &SystemRandom::new(),
        );
        assert_eq!(pair.unwrap().public_key().as_ref(), point);
        assert!(!format!("{key:?}").contains("pkcs8"));
    }
}
