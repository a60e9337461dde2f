//! A server's certificate and key from PEM files that someone else renews.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use zeroize::Zeroizing;

use super::{Credential, TlsError};
use crate::clock::Clock;
use crate::fs::read_limited;

/// The files are looked at again when a handshake comes this long after the last look.
const RECHECK: Duration = Duration::from_secs(5);
/// The most that is read of either file.
const MAX_PEM: u64 = 256 << 10;

/// A certificate and key in files. A handshake that comes 5 s or more after the last look at the files looks again, and reads them when they have
/// changed; files that do not fit together (a renewal under way, a mistake) are logged, and the old certificate is shown further.
#[derive(Debug)]
pub struct PemCredential {
    certificate: PathBuf,
    key: PathBuf,
    credential: Credential,
    clock: Clock,
    seen: Mutex<Seen>,
}

#[derive(Debug)]
struct Seen {
    looked: Instant,
    version: Version,
}

/// What tells a changed file: device, inode, size and time of change in nanoseconds, for both files.
type Version = Option<[(u64, u64, u64, i64, i64); 2]>;

impl PemCredential {
    /// Reads the certificate chain (leaf first) and its key (PKCS #8, SEC 1 or PKCS #1).
    ///
    /// # Errors
    /// When a file cannot be read, holds something else, or the two do not belong together.
    pub fn load(certificate: &Path, key: &Path, clock: Clock) -> Result<Arc<Self>, TlsError> {
        let version = version(certificate, key);
        let credential = Credential::empty();
        read(certificate, key, &credential)?;
        let seen = Mutex::new(Seen {
            looked: clock.instant(),
            version,
        });
        Ok(Arc::new(Self {
            certificate: certificate.into(),
            key: key.into(),
            credential,
            clock,
            seen,
        }))
    }

    fn refresh(&self) {
        // One handshake looks; those beside it show what there is.
        let Ok(mut seen) = self.seen.try_lock() else { return };
        let now = self.clock.instant();
        if now.saturating_duration_since(seen.looked) < RECHECK {
            return;
        }
        seen.looked = now;
        let version = version(&self.certificate, &self.key);
        if version == seen.version {
            return;
        }
        match read(&self.certificate, &self.key, &self.credential) {
            Ok(()) => tracing::info!(certificate = %self.certificate.display(), "certificate renewed from its files"),
            Err(error) => {
                tracing::warn!(%error, "the renewed certificate cannot be used; the old one is shown further")
            }
        }
        // Also after a failure: it is told once, and tried again when the files change.
        seen.version = version;
    }
}

impl ResolvesServerCert for PemCredential {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.refresh();
        ResolvesServerCert::resolve(&self.credential, hello)
    }
}

fn version(certificate: &Path, key: &Path) -> Version {
    let of = |path| {
        let meta = std::fs::metadata(path).ok()?;
        Some((meta.dev(), meta.ino(), meta.size(), meta.mtime(), meta.mtime_nsec()))
    };
    Some([of(certificate)?, of(key)?])
}

fn read(certificate: &Path, key: &Path, credential: &Credential) -> Result<(), TlsError> {
    let refused = |path: &Path, what| {
        let path = path.to_owned();
        move |error: rustls_pki_types::pem::Error| TlsError::Pem {
            path,
            what,
            why: error.to_string(),
        }
    };
    let pem = read_limited(certificate, MAX_PEM)?;
    let chain = CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>();
    let chain = chain.map_err(refused(certificate, "certificate"))?;
    if chain.is_empty() {
        return Err(refused(certificate, "certificate")(
            rustls_pki_types::pem::Error::NoItemsFound,
        ));
    }
    let pem = Zeroizing::new(read_limited(key, MAX_PEM)?);
    let private = PrivateKeyDer::from_pem_slice(&pem).map_err(refused(key, "private key"))?;
    credential.set(chain, private)
}
