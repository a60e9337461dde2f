//! By what the server is recognised at the first contact.

use std::path::{Path, PathBuf};

use mintmark_identity::svid::x509::{Authority, X509SvidError};
use mintmark_identity::{Bundle, BundleError, TrustDomain, X509Authority};
use mintmark_runtime::fs::{FsError, read_limited};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

/// The most that is read of a bundle's file.
const MAX_BUNDLE: u64 = 1 << 20;

/// By what the server is recognised at the first contact.
#[derive(Clone, Debug)]
pub enum Trust {
    /// By this bundle.
    Bundle(Box<Bundle>),
    /// Whoever answers first is believed.
    FirstUse,
    /// Not at all: an earlier run must have left a bundle.
    Nobody,
}

/// Why a trust bundle cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    /// The file.
    #[error("trust_bundle: {0}")]
    File(#[from] FsError),
    /// SPIFFE bundle JSON.
    #[error("trust_bundle {path}: {source}")]
    Json {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: BundleError,
    },
    /// PEM.
    #[error("trust_bundle {path} is neither PEM certificates nor a SPIFFE bundle in JSON: {why}")]
    Pem {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A certificate in it.
    #[error("trust_bundle {path}: certificate {number} is not that of an authority: {source}")]
    Authority {
        /// The file.
        path: PathBuf,
        /// Which, counted from 1.
        number: usize,
        /// What is wrong.
        source: X509SvidError,
    },
    /// There is nothing in it.
    #[error("trust_bundle {0} holds no authority")]
    Empty(PathBuf),
}

impl Trust {
    /// The bundle in a file: PEM certificates, or a SPIFFE bundle in JSON.
    ///
    /// # Errors
    /// When it cannot be read, is neither, or holds no authority.
    pub fn from_file(path: &Path, trust_domain: &TrustDomain) -> Result<Self, BootstrapError> {
        let bytes = read_limited(path, MAX_BUNDLE)?;
        let is_json = bytes.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{');
        let bundle = match is_json {
            true => Bundle::from_json(trust_domain, &bytes).map_err(|source| BootstrapError::Json {
                path: path.into(),
                source,
            })?,
            false => pem(path, &bytes, trust_domain)?,
        };
        match bundle.x509.is_empty() {
            true => Err(BootstrapError::Empty(path.into())),
            false => Ok(Self::Bundle(Box::new(bundle))),
        }
    }
}

fn pem(path: &Path, bytes: &[u8], trust_domain: &TrustDomain) -> Result<Bundle, BootstrapError> {
    let certificates = CertificateDer::pem_slice_iter(bytes).collect::<Result<Vec<_>, _>>();
    let certificates = certificates.map_err(|error| BootstrapError::Pem {
        path: path.into(),
        why: error.to_string(),
    })?;
    let mut bundle = Bundle::new(trust_domain.clone());
    for (at, der) in certificates.iter().enumerate() {
        Authority::parse(der).map_err(|source| BootstrapError::Authority {
            path: path.into(),
            number: at + 1,
            source,
        })?;
        bundle.x509.push(X509Authority {
            der: der.as_ref().into(),
            tainted: false,
        });
    }
    Ok(bundle)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Trust, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("b");
        mintmark_runtime::fs::write_new(&path, text.as_bytes(), 0o600).unwrap();
        Trust::from_file(&path, &TrustDomain::parse("example.org").unwrap()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_bundle_is_read_from_pem_and_from_json() {
        let authority = crate::testing::Authority::new("example.org");
        let Trust::Bundle(pem) = read(&authority.pem()).unwrap() else {
            panic!("no bundle")
        };
        let Trust::Bundle(json) = read(&pem.to_json().unwrap()).unwrap() else {
            panic!("no bundle")
        };
        assert_eq!((pem.x509.len(), &pem.x509), (1, &json.x509));
    }

    #[test]
    fn what_is_no_bundle_is_said_so() {
        let leaf = crate::testing::Authority::new("example.org").leaf_pem("/workload");
        for (text, expected) in [
            ("", "holds no authority"),
            ("hello", "holds no authority"),
            ("{\"keys\":[]}", "holds no authority"),
            ("{", "not a SPIFFE bundle in JSON"),
            ("-----BEGIN CERTIFICATE-----\nx\n", "neither PEM certificates nor"),
            (&leaf, "certificate 1 is not that of an authority"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(expected), "{text:?}: {error}");
        }
    }
}
