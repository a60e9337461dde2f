//! Servers that are known by their host's name: federated bundle endpoints of the profile `https_web`, Kubernetes' API server, the kubelet.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use super::TlsError;
use crate::crypto::provider;
use crate::fs::read_limited;

/// Where distributions keep the authorities of the web.
const SYSTEM: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
];
/// The most that is read of a file of authorities.
const MAX_ROOTS: u64 = 4 << 20;

/// Believes a server whose certificate has the name that was called and an authority in `roots`, a PEM file; without one, an authority that the system
/// trusts.
///
/// # Errors
/// When the file cannot be read or holds no authority that can be used.
pub fn web_verifier(roots: Option<&Path>) -> Result<Arc<dyn ServerCertVerifier>, TlsError> {
    let path = match roots {
        Some(path) => path.to_owned(),
        None => {
            let found = SYSTEM.iter().map(PathBuf::from).find(|path| path.exists());
            found.unwrap_or_else(|| SYSTEM[0].into())
        }
    };
    let refused = |why| TlsError::Pem {
        path: path.clone(),
        what: "certificate authority",
        why,
    };
    let pem = read_limited(&path, MAX_ROOTS)?;
    let certs = CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>();
    let certs = certs.map_err(|error| refused(error.to_string()))?;
    let mut store = RootCertStore::empty();
    let (added, unusable) = store.add_parsable_certificates(certs);
    if added == 0 {
        return Err(refused(format!("of its {unusable} certificates none can be used")));
    }
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(store), provider()).build();
    Ok(verifier.map_err(|error| refused(error.to_string()))?)
}
