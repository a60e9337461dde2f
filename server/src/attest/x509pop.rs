//! `x509pop`: a node that already has an X.509 certificate of a known authority proves that it holds the key.
//!
//! Messages and rules are those of SPIRE's plugin of this name, so that its agents join too: the node sends its chain, we send 32 random bytes, the node answers
//! with 32 of its own and a signature over the SHA-256 of both. Where the key is on P-384, it may be the SHA-384 of both: ring, with which our attestors sign,
//! makes no other signature with such a key. A key on P-521, which SPIRE takes too, is refused: ring does not know the curve.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use mintmark_identity::{Selector, SpiffeId, TrustDomain};
use mintmark_runtime::clock::Clock;
use ring::{digest, signature};
use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};
use serde::{Deserialize, Serialize};
use x509_parser::prelude::{FromDer as _, X509Certificate};
use x509_parser::public_key::PublicKey;

use super::NodeEvidence;

/// The method's name, in IDs, selectors and the API.
pub const METHOD: &str = "x509pop";
/// A node sends at most this many certificates.
pub const MAX_CHAIN: usize = 8;
/// A node's certificate has at most this many bytes.
pub const MAX_CERTIFICATE: usize = 16 * 1024;
/// What a node sends has at most this many bytes.
pub const MAX_PAYLOAD: usize = 192 * 1024;

const NONCE: usize = 32;
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=4096;

/// Why a certificate does not make a node.
#[derive(Debug, thiserror::Error)]
pub enum PopError {
    /// No authority is configured.
    #[error("x509pop is not configured: name the nodes' authorities in `[attest] x509pop_authorities`")]
    NotConfigured,
    /// What the node sent is not in form.
    #[error("the x509pop {what} is malformed: {why}")]
    Malformed {
        /// Which of its messages.
        what: &'static str,
        /// What is wrong.
        why: String,
    },
    /// The chain does not lead to a configured authority, or is not valid now.
    #[error("the node's certificate is not accepted: {0}")]
    Untrusted(String),
    /// The certificate must not sign, or its key is of a kind that we do not check.
    #[error("the node's key is not accepted: {0}")]
    Key(String),
    /// The signature is wrong.
    #[error("the answer to the challenge is wrong: the node does not hold the certificate's key")]
    WrongAnswer,
}

fn malformed(what: &'static str, why: impl ToString) -> PopError {
    PopError::Malformed {
        what,
        why: why.to_string(),
    }
}

/// The authorities whose certificates make a node.
pub struct Authorities(Vec<TrustAnchor<'static>>, Vec<CertificateDer<'static>>);

impl Authorities {
    /// Reads them from certificates.
    ///
    /// # Errors
    /// When one is no certificate.
    pub fn new(certificates: Vec<CertificateDer<'static>>) -> Result<Self, PopError> {
        let anchors = certificates.iter().map(|certificate| {
            let anchor = webpki::anchor_from_trusted_cert(certificate);
            anchor
                .map(|anchor| anchor.to_owned())
                .map_err(|error| malformed("authority", error))
        });
        Ok(Self(anchors.collect::<Result<_, _>>()?, certificates))
    }
}

#[derive(Deserialize)]
struct Payload {
    certificates: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct Nonce {
    nonce: String,
}

#[derive(Serialize, Deserialize)]
struct Challenge {
    rsa_signature: Option<Nonce>,
    ecdsa_signature: Option<Nonce>,
}

#[derive(Deserialize)]
struct Answer {
    rsa_signature: Option<RsaAnswer>,
    ecdsa_signature: Option<EcdsaAnswer>,
}

#[derive(Deserialize)]
struct RsaAnswer {
    nonce: String,
    signature: String,
}

#[derive(Deserialize)]
struct EcdsaAnswer {
    nonce: String,
    r: String,
    s: String,
}

/// One attestation under way: the chain is verified, the key is not yet.
pub struct Attempt {
    evidence: NodeEvidence,
    key: Key,
    nonce: [u8; NONCE],
}

enum Key {
    P256(Vec<u8>),
    P384(Vec<u8>),
    Rsa { public: rsa::RsaPublicKey },
}

impl Attempt {
    /// Verifies the chain that a node sent, as of now.
    ///
    /// # Errors
    /// The chain is malformed, untrusted, or its key cannot prove anything.
    pub fn begin(
        authorities: Option<&Authorities>,
        clock: &Clock,
        trust_domain: &TrustDomain,
        payload: &[u8],
    ) -> Result<Self, PopError> {
        let authorities = authorities.ok_or(PopError::NotConfigured)?;
        let chain = parse_payload(payload)?;
        let (leaf_der, intermediates) = chain
            .split_first()
            .ok_or_else(|| malformed("payload", "no certificate"))?;
        let issuers = verify(authorities, leaf_der, intermediates, clock)?;
        let (_, leaf) = X509Certificate::from_der(leaf_der).map_err(|error| malformed("certificate", error))?;
        let fingerprint = sha1_hex(leaf_der);
        let id =
            SpiffeId::agent(trust_domain, METHOD, &fingerprint).map_err(|error| malformed("fingerprint", error))?;
        let key = key(&leaf)?;
        let selectors = selectors(&leaf, &issuers, trust_domain);
        let evidence = NodeEvidence {
            id,
            method: METHOD,
            selectors,
            can_reattest: true,
            consume: None,
        };
        Ok(Self {
            evidence,
            key,
            nonce: mintmark_runtime::crypto::random(),
        })
    }

    /// What the node must sign.
    pub fn challenge(&self) -> Vec<u8> {
        let nonce = Some(Nonce {
            nonce: BASE64.encode(self.nonce),
        });
        let challenge = match self.key {
            Key::Rsa { .. } => Challenge {
                rsa_signature: nonce,
                ecdsa_signature: None,
            },
            Key::P256(_) | Key::P384(_) => Challenge {
                rsa_signature: None,
                ecdsa_signature: nonce,
            },
        };
        serde_json::to_vec(&challenge).expect("a string is JSON")
    }

    /// Checks the node's answer; on success the evidence is good.
    ///
    /// # Errors
    /// The answer is malformed or wrong.
    pub fn finish(self, answer: &[u8]) -> Result<NodeEvidence, PopError> {
        let answer: Answer = serde_json::from_slice(answer).map_err(|error| malformed("answer", error))?;
        let holds = match (&self.key, answer.rsa_signature, answer.ecdsa_signature) {
            (Key::Rsa { public }, Some(answer), _) => {
                let hashed = digest::digest(&digest::SHA256, &self.both(&answer.nonce)?);
                verify_pss(public, hashed.as_ref(), &decode("signature", &answer.signature)?)
            }
            (Key::P256(point), _, Some(answer)) => {
                let (message, der) = (self.both(&answer.nonce)?, ecdsa_der(&answer)?);
                signature::UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_ASN1, point)
                    .verify(&message, &der)
                    .is_ok()
            }
            (Key::P384(point), _, Some(answer)) => {
                let (message, der) = (self.both(&answer.nonce)?, ecdsa_der(&answer)?);
                [&signature::ECDSA_P384_SHA256_ASN1, &signature::ECDSA_P384_SHA384_ASN1]
                    .into_iter()
                    .any(|algorithm| {
                        signature::UnparsedPublicKey::new(algorithm, point)
                            .verify(&message, &der)
                            .is_ok()
                    })
            }
            _ => return Err(malformed("answer", "it answers another kind of challenge")),
        };
        if holds {
            Ok(self.evidence)
        } else {
            Err(PopError::WrongAnswer)
        }
    }

    fn both(&self, theirs: &str) -> Result<Vec<u8>, PopError> {
        let theirs = decode("nonce", theirs)?;
        if theirs.len() != NONCE {
            return Err(malformed("nonce", format!("{} bytes are not {NONCE}", theirs.len())));
        }
        Ok([self.nonce.as_slice(), &theirs].concat())
    }
}

fn parse_payload(payload: &[u8]) -> Result<Vec<CertificateDer<'static>>, PopError> {
    if payload.len() > MAX_PAYLOAD {
        return Err(malformed(
            "payload",
            format!("{} bytes are more than {MAX_PAYLOAD}", payload.len()),
        ));
    }
    let payload: Payload = serde_json::from_slice(payload).map_err(|error| malformed("payload", error))?;
    if payload.certificates.len() > MAX_CHAIN {
        let count = payload.certificates.len();
        return Err(malformed(
            "payload",
            format!("{count} certificates are more than {MAX_CHAIN}"),
        ));
    }
    let certificates = payload.certificates.iter().map(|text| {
        let der = decode("certificate", text)?;
        if der.len() > MAX_CERTIFICATE {
            return Err(malformed(
                "certificate",
                format!("{} bytes are more than {MAX_CERTIFICATE}", der.len()),
            ));
        }
        Ok(CertificateDer::from(der))
    });
    certificates.collect()
}

fn decode(what: &'static str, text: &str) -> Result<Vec<u8>, PopError> {
    BASE64.decode(text).map_err(|error| malformed(what, error))
}

/// Nodes' certificates come from all kinds of authorities: which extended key usage they were made for says nothing here.
struct AnyUsage;

impl webpki::ExtendedKeyUsageValidator for AnyUsage {
    fn validate(&self, _: webpki::KeyPurposeIdIter<'_, '_>) -> Result<(), webpki::Error> {
        Ok(())
    }
}

/// Verifies the chain; gives the certificates that lead from the leaf to an authority, which is the last. What else the node sent proves nothing.
fn verify(
    authorities: &Authorities,
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    clock: &Clock,
) -> Result<Vec<CertificateDer<'static>>, PopError> {
    let untrusted = |error: webpki::Error| PopError::Untrusted(error.to_string());
    let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(clock.unix().unsigned_abs()));
    let end_entity = webpki::EndEntityCert::try_from(leaf).map_err(untrusted)?;
    let algorithms = mintmark_runtime::crypto::provider()
        .signature_verification_algorithms
        .all;
    let path = end_entity
        .verify_for_usage(algorithms, &authorities.0, intermediates, now, AnyUsage, None, None)
        .map_err(untrusted)?;
    let anchor = path.anchor();
    let found = authorities
        .0
        .iter()
        .position(|one| one.subject == anchor.subject && one.subject_public_key_info == anchor.subject_public_key_info);
    let authority = found.and_then(|at| authorities.1.get(at)).cloned();
    let between = path
        .intermediate_certificates()
        .map(|certificate| certificate.der().into_owned());
    Ok(between.chain(authority).collect())
}

fn key(leaf: &X509Certificate<'_>) -> Result<Key, PopError> {
    let signs = leaf
        .key_usage()
        .ok()
        .flatten()
        .is_some_and(|usage| usage.value.digital_signature());
    if !signs {
        return Err(PopError::Key(
            "the certificate is not made for digital signatures (key usage)".into(),
        ));
    }
    let spki = leaf.public_key();
    match spki.parsed().map_err(|error| PopError::Key(error.to_string()))? {
        PublicKey::EC(point) => {
            let bytes = point.data().to_vec();
            match bytes.len() {
                65 => Ok(Key::P256(bytes)),
                97 => Ok(Key::P384(bytes)),
                _ => Err(PopError::Key("its curve is neither P-256 nor P-384".into())),
            }
        }
        PublicKey::RSA(parts) => {
            let integer = rsa::BigUint::from_bytes_be;
            let bits = integer(parts.modulus).bits();
            if !RSA_BITS.contains(&bits) {
                return Err(PopError::Key(format!(
                    "an RSA key of {bits} bits is not between 2048 and 4096"
                )));
            }
            let public = rsa::RsaPublicKey::new(integer(parts.modulus), integer(parts.exponent));
            Ok(Key::Rsa {
                public: public.map_err(|error| PopError::Key(error.to_string()))?,
            })
        }
        _ => Err(PopError::Key("it is neither EC nor RSA".into())),
    }
}

/// SPIRE's agents sign with the longest salt that fits; others with one as long as the digest.
fn verify_pss(public: &rsa::RsaPublicKey, hashed: &[u8], signature: &[u8]) -> bool {
    use rsa::traits::PublicKeyParts as _;
    let encoded = (public.n().bits() - 1).div_ceil(8);
    let salts = [encoded.saturating_sub(hashed.len() + 2), hashed.len()];
    salts.iter().any(|salt| {
        let scheme = rsa::Pss::new_with_salt::<rsa::sha2::Sha256>(*salt);
        public.verify(scheme, hashed, signature).is_ok()
    })
}

/// `SEQUENCE { INTEGER r, INTEGER s }` from two big-endian numbers.
fn ecdsa_der(answer: &EcdsaAnswer) -> Result<Vec<u8>, PopError> {
    let integer = |name: &'static str, text: &str| {
        let bytes = decode(name, text)?;
        let digits = &bytes[bytes.iter().take_while(|byte| **byte == 0).count()..];
        let pad = digits.first().is_none_or(|first| *first >= 0x80);
        match u8::try_from(digits.len() + usize::from(pad)) {
            Ok(length @ 1..=49) => Ok([&[0x02, length][..], if pad { &[0] } else { &[] }, digits].concat()),
            _ => Err(malformed(name, "it is longer than the curve's order")),
        }
    };
    let body = [integer("r", &answer.r)?, integer("s", &answer.s)?].concat();
    let length = u8::try_from(body.len()).map_err(|_| malformed("signature", "it is too long"))?;
    Ok([&[0x30, length][..], &body].concat())
}

fn selectors(leaf: &X509Certificate<'_>, issuers: &[CertificateDer<'_>], trust_domain: &TrustDomain) -> Vec<Selector> {
    let name = leaf.subject().iter_common_name().find_map(|name| name.as_str().ok());
    let issuers = issuers.iter().map(|der| format!("ca:fingerprint:{}", sha1_hex(der)));
    let serial = hex::encode(leaf.raw_serial());
    let serial = serial
        .strip_prefix("00")
        .filter(|rest| !rest.is_empty())
        .unwrap_or(&serial)
        .to_owned();
    let values = name
        .map(|name| format!("subject:cn:{name}"))
        .into_iter()
        .chain(issuers)
        .chain([format!("serialnumber:{serial}")])
        .chain(san_values(leaf, trust_domain));
    let mut selectors: Vec<Selector> = values.filter_map(|value| Selector::new(METHOD, &value).ok()).collect();
    selectors.dedup();
    selectors
}

/// `x509pop://<trust domain>/<key>/<value>` among the URI SANs is the selector `x509pop:san:<key>:<value>`.
fn san_values(leaf: &X509Certificate<'_>, trust_domain: &TrustDomain) -> Vec<String> {
    use x509_parser::extensions::GeneralName;
    let prefix = format!("x509pop://{trust_domain}/");
    let names = leaf
        .subject_alternative_name()
        .ok()
        .flatten()
        .map(|names| &names.value.general_names);
    let uris = names.into_iter().flatten().filter_map(|name| match name {
        GeneralName::URI(uri) => uri.strip_prefix(&prefix),
        _ => None,
    });
    uris.filter_map(|rest| rest.trim_matches('/').split_once('/'))
        .map(|(key, value)| format!("san:{key}:{value}"))
        .collect()
}

fn sha1_hex(der: &[u8]) -> String {
    hex::encode(digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, der))
}

#[cfg(test)]
mod tests;
