//! Verifies what the server issued, by webpki, x509-parser and ring alone.

use anyhow::{Context as _, Result, bail, ensure};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use mintmark_proto::{Bytes, spire::types::Bundle};
use ring::signature;
use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};
use serde::Deserialize;
use webpki::{EndEntityCert, KeyUsage};
use x509_parser::prelude::{FromDer as _, SubjectPublicKeyInfo, X509Certificate};

use crate::tls;

/// The keys of one trust domain, from its bundle.
#[derive(Debug)]
pub(crate) struct Anchors {
    trust_domain: String,
    x509: Vec<TrustAnchor<'static>>,
    /// Key ID and SubjectPublicKeyInfo.
    jwt: Vec<(String, Bytes)>,
}

/// An X.509-SVID that came back, and what was asked for.
#[derive(Debug)]
pub(crate) struct X509Sample {
    pub(crate) spiffe_id: String,
    /// SubjectPublicKeyInfo, DER.
    pub(crate) public_key: Bytes,
    pub(crate) chain: Vec<Bytes>,
}

/// A JWT-SVID that came back, and what was asked for.
pub(crate) struct JwtSample {
    pub(crate) spiffe_id: String,
    pub(crate) audience: String,
    pub(crate) token: String,
}

impl Anchors {
    pub(crate) fn new(bundle: &Bundle) -> Result<Self> {
        let x509 = bundle
            .x509_authorities
            .iter()
            .map(|authority| {
                let der = CertificateDer::from(authority.asn1.as_ref());
                Ok(webpki::anchor_from_trusted_cert(&der)
                    .context("read an X.509 authority of the bundle")?
                    .to_owned())
            })
            .collect::<Result<Vec<_>>>()?;
        ensure!(!x509.is_empty(), "the bundle has no X.509 authority");
        let jwt = &bundle.jwt_authorities;
        Ok(Self {
            trust_domain: bundle.trust_domain.trim_start_matches("spiffe://").to_owned(),
            x509,
            jwt: jwt
                .iter()
                .map(|key| (key.key_id.clone(), key.public_key.clone()))
                .collect(),
        })
    }

    pub(crate) fn trust_domain(&self) -> &str {
        &self.trust_domain
    }

    /// What SPIRE's agents insist on.
    pub(crate) fn server_id(&self) -> String {
        format!("spiffe://{}/spire/server", self.trust_domain)
    }

    /// That the chain leads to an authority, and that its leaf names `expected` and nothing else.
    pub(crate) fn verify(
        &self,
        leaf: &[u8],
        intermediates: &[&[u8]],
        usage: KeyUsage,
        now: UnixTime,
        expected: &str,
    ) -> Result<()> {
        let der = CertificateDer::from(leaf);
        let cert = EndEntityCert::try_from(&der).context("read a certificate")?;
        let intermediates: Vec<CertificateDer<'_>> =
            intermediates.iter().map(|der| CertificateDer::from(*der)).collect();
        let algorithms = tls::provider().signature_verification_algorithms.all;
        cert.verify_for_usage(algorithms, &self.x509, &intermediates, now, usage, None, None)
            .map_err(|error| anyhow::anyhow!("the chain of {expected} does not lead to the bundle: {error}"))?;
        let names: Vec<&str> = cert.valid_uri_names().collect();
        ensure!(
            names == [expected],
            "a certificate for {names:?} came where {expected} was asked for"
        );
        Ok(())
    }

    /// That an X.509-SVID is what was asked for.
    pub(crate) fn x509(&self, sample: &X509Sample) -> Result<()> {
        let (leaf, intermediates) = sample.chain.split_first().context("an empty chain")?;
        let intermediates: Vec<&[u8]> = intermediates.iter().map(AsRef::as_ref).collect();
        self.verify(
            leaf,
            &intermediates,
            KeyUsage::client_auth(),
            UnixTime::now(),
            &sample.spiffe_id,
        )?;
        let (_, cert) = X509Certificate::from_der(leaf).context("read a certificate")?;
        ensure!(
            cert.public_key().raw == sample.public_key.as_ref(),
            "the certificate of {} is for another key than the one that was sent",
            sample.spiffe_id
        );
        Ok(())
    }

    /// That a JWT-SVID is what was asked for: signature, subject, audience, lifetime.
    pub(crate) fn jwt(&self, sample: &JwtSample) -> Result<()> {
        let (signed, signature) = sample.token.rsplit_once('.').context("a token without a signature")?;
        let (header, claims) = signed.split_once('.').context("a token without claims")?;
        let header: Header = parsed(header)?;
        let claims: Claims = parsed(claims)?;
        let (_, key) = self
            .jwt
            .iter()
            .find(|(id, _)| *id == header.kid)
            .with_context(|| format!("no key {:?} in the bundle", header.kid))?;
        let (_, key) = SubjectPublicKeyInfo::from_der(key).context("read a JWT authority of the bundle")?;
        let algorithm: &dyn signature::VerificationAlgorithm = match header.alg.as_str() {
            "ES256" => &signature::ECDSA_P256_SHA256_FIXED,
            "ES384" => &signature::ECDSA_P384_SHA384_FIXED,
            "RS256" => &signature::RSA_PKCS1_2048_8192_SHA256,
            other => bail!("a token is signed with {other:?}"),
        };
        let signature = URL_SAFE_NO_PAD.decode(signature).context("decode a signature")?;
        signature::UnparsedPublicKey::new(algorithm, key.subject_public_key.data.as_ref())
            .verify(signed.as_bytes(), &signature)
            .map_err(|_| anyhow::anyhow!("the signature of a token for {} does not hold", sample.spiffe_id))?;
        ensure!(
            claims.sub == sample.spiffe_id,
            "a token for {} came where {} was asked for",
            claims.sub,
            sample.spiffe_id
        );
        ensure!(
            claims.aud == [sample.audience.as_str()],
            "a token has audience {:?}, not {:?}",
            claims.aud,
            sample.audience
        );
        let now = UnixTime::now().as_secs();
        ensure!(
            claims.exp > now && claims.iat <= now + 5,
            "a token is valid from {} to {} at {now}",
            claims.iat,
            claims.exp
        );
        Ok(())
    }
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: String,
}

#[derive(Deserialize)]
struct Claims {
    sub: String,
    #[serde(deserialize_with = "one_or_many")]
    aud: Vec<String>,
    exp: u64,
    iat: u64,
}

/// RFC 7519 §4.1.3: an audience may be one string or an array.
fn one_or_many<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Audience {
        One(String),
        Many(Vec<String>),
    }
    Ok(match Audience::deserialize(deserializer)? {
        Audience::One(one) => vec![one],
        Audience::Many(many) => many,
    })
}

fn parsed<T: for<'de> Deserialize<'de>>(part: &str) -> Result<T> {
    let json = URL_SAFE_NO_PAD.decode(part).context("decode a token")?;
    serde_json::from_slice(&json).context("read a token")
}

#[cfg(test)]
mod tests {
    use mintmark_proto::spire::types::X509Certificate as Authority;
    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, PublicKeyData as _, SanType, string::Ia5String};

    use super::*;

    fn issued(spiffe_id: &str) -> (Anchors, X509Sample) {
        let ca_key = KeyPair::generate().unwrap();
        let mut ca = CertificateParams::default();
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root = ca.self_signed(&ca_key).unwrap();
        let issuer = rcgen::Issuer::new(ca, ca_key);
        let key = KeyPair::generate().unwrap();
        let mut leaf = CertificateParams::default();
        leaf.subject_alt_names = vec![SanType::URI(Ia5String::try_from(spiffe_id).unwrap())];
        let leaf = leaf.signed_by(&key, &issuer).unwrap();
        let bundle = Bundle {
            trust_domain: "bench.test".into(),
            x509_authorities: vec![Authority {
                asn1: root.der().to_vec().into(),
                tainted: false,
            }],
            ..Bundle::default()
        };
        let sample = X509Sample {
            spiffe_id: spiffe_id.into(),
            public_key: key.subject_public_key_info().into(),
            chain: vec![leaf.der().to_vec().into()],
        };
        (Anchors::new(&bundle).unwrap(), sample)
    }

    #[test]
    fn an_svid_that_is_what_was_asked_for_passes() {
        let (anchors, sample) = issued("spiffe://bench.test/a");
        anchors.x509(&sample).unwrap();
    }

    #[test]
    fn another_name_another_key_and_another_authority_are_found() {
        let (anchors, mut sample) = issued("spiffe://bench.test/a");
        let (strangers, _) = issued("spiffe://bench.test/a");
        assert!(
            strangers
                .x509(&sample)
                .unwrap_err()
                .to_string()
                .contains("does not lead to the bundle")
        );
        sample.public_key = KeyPair::generate().unwrap().subject_public_key_info().into();
        assert!(anchors.x509(&sample).unwrap_err().to_string().contains("another key"));
        sample.spiffe_id = "spiffe://bench.test/b".into();
        assert!(anchors.x509(&sample).unwrap_err().to_string().contains("was asked for"));
    }
}
