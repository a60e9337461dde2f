//! What a restart of this node needs: its SVID with the key, and the bundle.

use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use mintmark_identity::svid::x509::Leaf;
use mintmark_identity::{Bundle, SpiffeId, TrustDomain};
use mintmark_runtime::fs::{FsError, read_limited, write_atomic};
use prost::Message;
use zeroize::Zeroizing;

use super::JoinError;
use crate::keep::{NewKey, Sealer};

const OWN: &str = "node";
const BUNDLE: &str = "bundle.json";
const MAX_FILE: u64 = 1 << 20;
/// What the box is for.
const CONTEXT: &[u8] = b"mintmark attestor node 1";
/// How a sealed box begins.
const SEALED: &[u8] = b"MMSB";

/// The node's SVID with what belongs to it.
pub(super) struct Own {
    pub(super) id: SpiffeId,
    /// DER, the SVID first.
    pub(super) chain: Vec<Vec<u8>>,
    /// PKCS #8 in DER.
    pub(super) key: Bytes,
    /// When it came, Unix seconds.
    pub(super) from: i64,
    pub(super) not_after: i64,
    pub(super) reattests: bool,
    /// The digest of the join token that it came by.
    pub(super) token: Option<Vec<u8>>,
}

#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
struct File {
    #[prost(bytes = "vec", repeated, tag = "1")]
    chain: Vec<Vec<u8>>,
    #[prost(bytes = "bytes", tag = "2")]
    key: Bytes,
    #[prost(int64, tag = "3")]
    from: i64,
    #[prost(bool, tag = "4")]
    reattests: bool,
    #[prost(bytes = "vec", optional, tag = "5")]
    token: Option<Vec<u8>>,
}

impl std::fmt::Debug for File {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("File(redacted)")
    }
}

pub(super) struct Files {
    own: PathBuf,
    bundle: PathBuf,
    sealer: Option<Sealer>,
}

impl Files {
    pub(super) fn new(dir: &Path, sealer: Option<Sealer>) -> Self {
        Self {
            own: dir.join(OWN),
            bundle: dir.join(BUNDLE),
            sealer,
        }
    }

    pub(super) fn read_own(&self, trust_domain: &TrustDomain) -> Result<Option<Own>, JoinError> {
        let Some(bytes) = read(&self.own)? else { return Ok(None) };
        let bytes = Zeroizing::new(bytes);
        let unusable = |why: String| JoinError::State {
            path: self.own.clone(),
            why: format!("{why}; remove it to join as a new node"),
        };
        let decoded = match (bytes.starts_with(SEALED), &self.sealer) {
            (true, Some(sealer)) => {
                let opened = sealer
                    .open(CONTEXT, &bytes)
                    .map_err(|error| unusable(error.to_string()))?;
                File::decode(opened.expose())
            }
            (true, None) => return Err(unusable("it is sealed, and `keep.sealed` is not set".into())),
            (false, _) => File::decode(&bytes[..]),
        };
        let file = decoded.map_err(|error| unusable(error.to_string()))?;
        let first = file
            .chain
            .first()
            .ok_or_else(|| unusable("it holds no certificate".into()))?;
        let leaf = Leaf::parse(first).map_err(|error| unusable(error.to_string()))?;
        let key = NewKey::from_pkcs8(&file.key).ok_or_else(|| unusable("its key cannot be read".into()))?;
        if leaf.certificate.spki_der != &key.spki[..] {
            return Err(unusable("its key is not that of its certificate".into()));
        }
        if !leaf.spiffe_id.is_in(trust_domain) {
            return Err(unusable(format!(
                "it is that of {}, and the trust domain is {trust_domain}",
                leaf.spiffe_id
            )));
        }
        Ok(Some(Own {
            id: leaf.spiffe_id.clone(),
            not_after: leaf.certificate.not_after,
            key: key.pkcs8,
            from: file.from,
            reattests: file.reattests,
            token: file.token,
            chain: file.chain,
        }))
    }

    pub(super) fn write_own(&self, own: &Own) -> Result<(), JoinError> {
        let file = File {
            chain: own.chain.clone(),
            key: own.key.clone(),
            from: own.from,
            reattests: own.reattests,
            token: own.token.clone(),
        };
        // Allocated once, so that no copy of the key is left behind by growth.
        let mut plain = Zeroizing::new(Vec::with_capacity(file.encoded_len()));
        let failed = |why: String| JoinError::State {
            path: self.own.clone(),
            why,
        };
        file.encode(&mut *plain).map_err(|error| failed(error.to_string()))?;
        match &self.sealer {
            Some(sealer) => {
                let sealed = sealer
                    .seal(CONTEXT, &plain)
                    .map_err(|error| failed(error.to_string()))?;
                Ok(write_atomic(&self.own, &sealed, 0o600)?)
            }
            None => Ok(write_atomic(&self.own, &plain, 0o600)?),
        }
    }

    pub(super) fn read_bundle(&self, trust_domain: &TrustDomain) -> Result<Option<Bundle>, JoinError> {
        let Some(bytes) = read(&self.bundle)? else {
            return Ok(None);
        };
        let bundle = Bundle::from_json(trust_domain, &bytes).map_err(|error| JoinError::State {
            path: self.bundle.clone(),
            why: format!("{error}; remove it to begin with the configured trust_bundle again"),
        })?;
        Ok(Some(bundle).filter(|bundle| !bundle.x509.is_empty()))
    }

    pub(super) fn write_bundle(&self, bundle: &Bundle) -> Result<(), JoinError> {
        let failed = |why: String| JoinError::State {
            path: self.bundle.clone(),
            why,
        };
        let json = bundle.to_json().map_err(|error| failed(error.to_string()))?;
        Ok(write_atomic(&self.bundle, json.as_bytes(), 0o644)?)
    }
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, JoinError> {
    match read_limited(path, MAX_FILE) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(FsError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}
