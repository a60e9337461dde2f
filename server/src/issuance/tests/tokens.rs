//! JWT-SVIDs and WIT-SVIDs, judged by the crate jsonwebtoken.

use jsonwebtoken::crypto::{CryptoProvider, JwtVerifier, KeyUtils};
use jsonwebtoken::errors::{Error, ErrorKind};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use mintmark_identity::JwsAlg;
use mintmark_identity::bundle::JwtAuthority;
use mintmark_proto::ledger::Kind as LeafKind;
use ring::signature::{ECDSA_P256_SHA256_FIXED, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey, VerificationAlgorithm};
use serde_json::{Value, json};

use super::*;
use crate::authority::Rs256;

/// jsonwebtoken verifies with ring.
static PROVIDER: CryptoProvider = CryptoProvider {
    signer_factory: |_, _| Err(ErrorKind::InvalidAlgorithm.into()),
    verifier_factory: verifier,
    key_utils: KeyUtils::new_unimplemented(),
};

struct RingVerifier {
    algorithm: Algorithm,
    verification: &'static dyn VerificationAlgorithm,
    key: Vec<u8>,
}

impl signature::Verifier<Vec<u8>> for RingVerifier {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> Result<(), signature::Error> {
        UnparsedPublicKey::new(self.verification, &self.key)
            .verify(message, signature)
            .map_err(|_| signature::Error::new())
    }
}

impl JwtVerifier for RingVerifier {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}

fn verifier(algorithm: &Algorithm, key: &DecodingKey) -> Result<Box<dyn JwtVerifier>, Error> {
    let verification: &'static dyn VerificationAlgorithm = match algorithm {
        Algorithm::ES256 => &ECDSA_P256_SHA256_FIXED,
        Algorithm::RS256 => &RSA_PKCS1_2048_8192_SHA256,
        _ => return Err(ErrorKind::InvalidAlgorithm.into()),
    };
    Ok(Box::new(RingVerifier {
        algorithm: *algorithm,
        verification,
        key: key.try_get_as_bytes()?.to_vec(),
    }))
}

/// The claims of a token that verifies with the key that the bundle has under its `kid`. Expiry is judged by the
/// caller, whose clock is not the machine's.
pub(super) fn verified(
    keys: &[JwtAuthority],
    algorithm: Algorithm,
    token: &str,
    audience: Option<&str>,
) -> Option<Value> {
    let _ = PROVIDER.install_default();
    let header = jsonwebtoken::decode_header(token).unwrap();
    let key = keys
        .iter()
        .find(|key| Some(key.key_id.as_str()) == header.kid.as_deref())?;
    let public = PublicKey::from_spki_der(&key.spki_der).unwrap();
    let decoding = match algorithm {
        Algorithm::RS256 => DecodingKey::from_rsa_der(public.key_bytes()),
        _ => DecodingKey::from_ec_der(public.key_bytes()),
    };
    let mut validation = Validation::new(algorithm);
    validation.validate_exp = false;
    match audience {
        Some(audience) => validation.set_audience(&[audience]),
        None => validation.validate_aud = false,
    }
    jsonwebtoken::decode::<Value>(token, &decoding, &validation)
        .ok()
        .map(|token| token.claims)
}

#[tokio::test]
async fn a_jwt_svid_is_in_the_ledger_and_verifies_by_the_bundle() {
    let house = House::new().await;
    let order = JwtOrder::new(id("/web"), vec!["api".into(), "db".into()]);
    let svid = house.issuer.jwt(&node(), order).await.unwrap();
    assert_eq!((svid.issued_at, svid.expires_at), (NOW, NOW + 300));
    let claims = verified(
        &house.authorities.bundle().jwt,
        Algorithm::ES256,
        &svid.token,
        Some("db"),
    )
    .unwrap();
    let expected = json!({
        "aud": ["api", "db"], "exp": NOW + 300, "iat": NOW, "iss": "https://issuer.test", "jti": svid.jti.jti(), "sub": "spiffe://example.org/web",
    });
    assert_eq!(claims, expected);
    assert_eq!(
        verified(
            &house.authorities.bundle().jwt,
            Algorithm::ES256,
            &svid.token,
            Some("other")
        ),
        None
    );
    assert_eq!(
        verified(
            &house.authorities.bundle().wit,
            Algorithm::ES256,
            &svid.token,
            Some("db")
        ),
        None
    );

    let leaf = house.leaf(svid.jti.index());
    let (signed, _) = svid.token.rsplit_once('.').unwrap();
    assert_eq!(leaf.kind(), LeafKind::JwtSvid);
    assert_eq!(
        leaf.content_sha256,
        ring::digest::digest(&ring::digest::SHA256, signed.as_bytes())
            .as_ref()
            .to_vec()
    );
    assert_eq!(
        (leaf.serial.to_vec(), leaf.public_key_sha256.len()),
        (svid.jti.as_bytes().to_vec(), 0)
    );
    assert_eq!(
        (leaf.audience, leaf.not_after),
        (vec!["api".to_owned(), "db".to_owned()], NOW + 300)
    );
    assert!(
        !format!(
            "{:?}",
            house
                .issuer
                .jwt(&node(), JwtOrder::new(id("/a"), vec!["b".into()]))
                .await
        )
        .contains("eyJ")
    );
}

#[tokio::test]
async fn a_wit_svid_is_in_the_ledger_and_binds_its_key() {
    let house = House::new().await;
    let public_key = key();
    let svid = house
        .issuer
        .wit(&node(), vec![WitOrder::new(id("/web"), public_key.clone())])
        .await
        .swap_remove(0)
        .unwrap();
    let claims = verified(&house.authorities.bundle().wit, Algorithm::ES256, &svid.token, None).unwrap();
    assert_eq!(
        (&claims["sub"], &claims["exp"]),
        (&json!("spiffe://example.org/web"), &json!(NOW + 3_600))
    );
    assert_eq!((claims.get("aud"), claims.get("iss")), (None, None));
    assert_eq!(claims["cnf"]["jwk"]["crv"], "P-256");
    assert_eq!(
        jsonwebtoken::decode_header(&svid.token).unwrap().typ.as_deref(),
        Some("wit+jwt")
    );
    let leaf = house.leaf(svid.jti.index());
    assert_eq!(leaf.kind(), LeafKind::WitSvid);
    assert_eq!(
        leaf.public_key_sha256,
        ring::digest::digest(&ring::digest::SHA256, public_key.spki_der())
            .as_ref()
            .to_vec()
    );
}

#[tokio::test]
async fn rs256_is_there_when_it_is_switched_on_with_a_key_of_ones_own_too() {
    let house = House::new().await;
    let rs256 = |house: &House| {
        let order = JwtOrder {
            algorithm: Some(JwsAlg::Rs256),
            ..JwtOrder::new(id("/web"), vec!["aws".into()])
        };
        let issuer = house.issuer.clone();
        async move { issuer.jwt(&node(), order).await }
    };
    assert_eq!(rs256(&house).await.unwrap_err().reason(), "algorithm");

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("rsa.pem");
    let genpkey = [
        "genpkey",
        "-quiet",
        "-algorithm",
        "RSA",
        "-pkeyopt",
        "rsa_keygen_bits:2048",
        "-out",
    ];
    assert!(
        std::process::Command::new("openssl")
            .args(genpkey)
            .arg(&path)
            .status()
            .unwrap()
            .success()
    );
    let house = House::with(AuthorityConfig {
        jwt_rs256: Rs256::Imported(path),
        ..AuthorityConfig::default()
    })
    .await;
    let bundle = house.authorities.bundle();
    assert_eq!(bundle.jwt.len(), 2);
    let svid = rs256(&house).await.unwrap();
    assert_eq!(
        verified(&bundle.jwt, Algorithm::RS256, &svid.token, Some("aws")).unwrap()["jti"],
        svid.jti.jti()
    );
    let svid = house
        .issuer
        .jwt(&node(), JwtOrder::new(id("/web"), vec!["aws".into()]))
        .await
        .unwrap();
    assert!(
        verified(&bundle.jwt, Algorithm::ES256, &svid.token, Some("aws")).is_some(),
        "ES256 stays the default"
    );
}
