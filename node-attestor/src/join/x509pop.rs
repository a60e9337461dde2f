//! `x509pop`: the node has a certificate of an authority that the server knows, and shows that it holds the key.
//!
//! Messages are those of SPIRE's plugin of this name: the node sends its chain, the server 32 random bytes, the node 32 of its own and a signature over the digest of both: by
//! SHA-256, or by SHA-384 where the key is on P-384, which ring signs with no other.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use mintmark_runtime::crypto::{provider, random};
use mintmark_runtime::fs::{FsError, read_limited};
use rustls::SignatureScheme;
use rustls::sign::SigningKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// Bytes that each side adds.
const NONCE: usize = 32;
/// The most that is read of a file.
const MAX_PEM: u64 = 256 << 10;
/// A larger challenge is none.
const MAX_CHALLENGE: usize = 4096;

/// The node's certificate with its key.
pub struct Certificate {
    chain: Vec<CertificateDer<'static>>,
    key: Arc<dyn SigningKey>,
}

/// Why the node cannot prove that it holds a certificate's key.
#[derive(Debug, thiserror::Error)]
pub enum PopError {
    /// A file.
    #[error("x509pop: {0}")]
    File(#[from] FsError),
    /// What is in a file.
    #[error("x509pop: {path} holds no {what} in PEM form: {why}")]
    Pem {
        /// The file.
        path: PathBuf,
        /// What it should hold.
        what: &'static str,
        /// What is wrong.
        why: String,
    },
    /// The key.
    #[error("x509pop: the key in {path} cannot be used: {why}")]
    Key {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The challenge.
    #[error("x509pop: the server's challenge makes no sense: {0}")]
    Challenge(String),
    /// The answer.
    #[error("x509pop: the challenge cannot be answered: {0}")]
    Sign(String),
}

impl Certificate {
    /// The chain, leaf first, in `certificate` and, where they are in a file of their own, the intermediates in `intermediates`; its key in `key`.
    ///
    /// # Errors
    /// When a file cannot be read or holds something else, or the key is of a kind that cannot sign.
    pub fn load(certificate: &Path, intermediates: Option<&Path>, key: &Path) -> Result<Self, PopError> {
        let mut chain = read_chain(certificate)?;
        if let Some(intermediates) = intermediates {
            chain.extend(read_chain(intermediates)?);
        }
        let pem = Zeroizing::new(read_limited(key, MAX_PEM)?);
        let private = PrivateKeyDer::from_pem_slice(&pem).map_err(|error| PopError::Pem {
            path: key.into(),
            what: "private key",
            why: error.to_string(),
        })?;
        let refused = |why: String| PopError::Key { path: key.into(), why };
        let signing = provider()
            .key_provider
            .load_private_key(private)
            .map_err(|error| refused(format!("{error}; {POSSIBLE}")))?;
        if signing.choose_scheme(&SCHEMES).is_none() {
            return Err(refused(POSSIBLE.into()));
        }
        let leaf = chain.first().ok_or_else(|| PopError::Pem {
            path: certificate.into(),
            what: "certificate",
            why: "it is empty".into(),
        })?;
        let theirs = x509_parser::parse_x509_certificate(leaf).map_err(|error| PopError::Pem {
            path: certificate.into(),
            what: "certificate",
            why: error.to_string(),
        })?;
        match signing.public_key() {
            Some(public) if *public != *theirs.1.public_key().raw => Err(refused(format!(
                "it is not that of the certificate in {}",
                certificate.display()
            ))),
            _ => Ok(Self { chain, key: signing }),
        }
    }

    /// What the node sends first.
    pub(super) fn payload(&self) -> Vec<u8> {
        let payload = Payload {
            certificates: self.chain.iter().map(|der| BASE64.encode(der)).collect(),
        };
        serde_json::to_vec(&payload).expect("a list of text is JSON")
    }
}

const POSSIBLE: &str = "use an RSA key, or one of ECDSA on P-256 or P-384";

/// The kinds of signature that a challenge asks for: of ECDSA, a key makes one of the two.
const SCHEMES: [SignatureScheme; 3] = [
    SignatureScheme::ECDSA_NISTP256_SHA256,
    SignatureScheme::ECDSA_NISTP384_SHA384,
    SignatureScheme::RSA_PSS_SHA256,
];

#[derive(Serialize)]
struct Payload {
    certificates: Vec<String>,
}

#[derive(Deserialize)]
struct Challenge {
    rsa_signature: Option<Nonce>,
    ecdsa_signature: Option<Nonce>,
}

#[derive(Deserialize)]
struct Nonce {
    nonce: String,
}

#[derive(Serialize)]
enum Answer {
    #[serde(rename = "rsa_signature")]
    Rsa { nonce: String, signature: String },
    #[serde(rename = "ecdsa_signature")]
    Ecdsa { nonce: String, r: String, s: String },
}

/// The answer to the server's challenge.
pub(super) fn answer(certificate: &Certificate, challenge: &[u8]) -> Result<Vec<u8>, PopError> {
    let nonsense = |why: &str| PopError::Challenge(why.to_owned());
    if challenge.len() > MAX_CHALLENGE {
        return Err(nonsense("it is too long"));
    }
    let challenge: Challenge = serde_json::from_slice(challenge).map_err(|error| nonsense(&error.to_string()))?;
    let (theirs, schemes) = match (challenge.rsa_signature, challenge.ecdsa_signature) {
        (Some(nonce), None) => (nonce, &SCHEMES[2..]),
        (None, Some(nonce)) => (nonce, &SCHEMES[..2]),
        _ => return Err(nonsense("it asks for none or both kinds of signature")),
    };
    let theirs = BASE64
        .decode(theirs.nonce)
        .map_err(|error| nonsense(&error.to_string()))?;
    if theirs.len() != NONCE {
        return Err(nonsense("its nonce has the wrong length"));
    }
    let ours = random::<NONCE>();
    let signer = certificate
        .key
        .choose_scheme(schemes)
        .ok_or_else(|| nonsense("it asks for a signature that the key does not make"))?;
    let signature = signer
        .sign(&[&theirs[..], &ours].concat())
        .map_err(|error| PopError::Sign(error.to_string()))?;
    let nonce = BASE64.encode(ours);
    let answer = match schemes {
        [SignatureScheme::RSA_PSS_SHA256] => Answer::Rsa {
            nonce,
            signature: BASE64.encode(signature),
        },
        _ => {
            let (r, s) =
                numbers(&signature).ok_or_else(|| PopError::Sign("the signature is not one of ECDSA".into()))?;
            Answer::Ecdsa {
                nonce,
                r: BASE64.encode(r),
                s: BASE64.encode(s),
            }
        }
    };
    serde_json::to_vec(&answer).map_err(|error| PopError::Sign(error.to_string()))
}

/// The two numbers of an ECDSA signature in DER, without leading zeros.
fn numbers(signature: &[u8]) -> Option<(&[u8], &[u8])> {
    fn number(der: &[u8]) -> Option<(&[u8], &[u8])> {
        let [0x02, length, rest @ ..] = der else { return None };
        let (number, rest) = rest.split_at_checked(usize::from(*length))?;
        Some((number.strip_prefix(&[0]).unwrap_or(number), rest))
    }
    let [0x30, length, body @ ..] = signature else {
        return None;
    };
    let (r, rest) = number(body).filter(|_| usize::from(*length) == body.len())?;
    let (s, rest) = number(rest)?;
    rest.is_empty().then_some((r, s))
}

fn read_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, PopError> {
    let refused = |why: String| PopError::Pem {
        path: path.into(),
        what: "certificate",
        why,
    };
    let pem = read_limited(path, MAX_PEM)?;
    let chain = CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>();
    match chain {
        Ok(chain) if chain.is_empty() => Err(refused("it holds none".into())),
        Ok(chain) => Ok(chain),
        Err(error) => Err(refused(error.to_string())),
    }
}
