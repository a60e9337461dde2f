//! What survives a restart: identities, bundles and SVIDs with their keys, sealed in one file.
//!
//! It is written when something changed, and read at start, so that a node that restarts while the server cannot be reached serves what it had. The key that seals it is not in the
//! directory of the file.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mintmark_identity::SpiffeId;
use mintmark_identity::svid::x509;
use mintmark_proto::spire::types;
use mintmark_runtime::crypto::{Kek, SealError};
use mintmark_runtime::fs::{FsError, read_limited, write_atomic};
use prost::Message;
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use super::bundles::HeldBundle;
use super::identity::Identity;
use super::keys::NewKey;
use super::slot::{Life, X509Svid};
use super::{Keep, Readiness};

/// A larger file is none of ours: 10,000 identities take about 20 MB.
const MAX_FILE: u64 = 256 << 20;
/// Changes that come within this time are written together.
const GATHER: Duration = Duration::from_secs(2);
/// What the box is for.
const CONTEXT: &[u8] = b"mintmark attestor cache 1";

/// The key that seals what is kept on disk. A handle.
#[derive(Clone, Debug)]
pub struct Sealer {
    kek: Arc<Kek>,
    name: Arc<str>,
}

impl Sealer {
    /// The key in this file, which is made when it is missing.
    ///
    /// # Errors
    /// When it cannot be read or made, or others can read it.
    pub fn from_file(path: &Path) -> Result<Self, SealError> {
        let kek = Arc::new(Kek::load_or_create(path)?);
        Ok(Self {
            kek,
            name: format!("file {}", path.display()).into(),
        })
    }

    /// Which key it is, for people.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Seals a box for this context.
    ///
    /// # Errors
    /// When there is too much to seal.
    pub fn seal(&self, context: &[u8], plain: &[u8]) -> Result<Vec<u8>, SealError> {
        self.kek.seal(context, plain)
    }

    /// Opens a box that was sealed for this context.
    ///
    /// # Errors
    /// When it was changed, or sealed by another key or for another context.
    pub fn open(&self, context: &[u8], sealed: &[u8]) -> Result<mintmark_runtime::crypto::SecretBytes, SealError> {
        self.kek.open(context, sealed)
    }
}

/// The file.
#[derive(Clone, Debug)]
pub struct Cache {
    path: PathBuf,
    sealer: Sealer,
}

/// Why the cache was not read or written.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// The file.
    #[error(transparent)]
    File(#[from] FsError),
    /// The box.
    #[error("cache {path}: {source}")]
    Seal {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: SealError,
    },
    /// What is in it.
    #[error("cache {path} cannot be used: {why}")]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
}

#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
struct File {
    /// The node's own SPIFFE ID.
    #[prost(string, tag = "1")]
    node: String,
    /// Encoded entries.
    #[prost(bytes = "bytes", repeated, tag = "2")]
    entries: Vec<Bytes>,
    /// Encoded bundles.
    #[prost(bytes = "bytes", repeated, tag = "3")]
    bundles: Vec<Bytes>,
    #[prost(message, repeated, tag = "4")]
    svids: Vec<Svid>,
}

#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
struct Svid {
    #[prost(string, tag = "1")]
    entry_id: String,
    #[prost(bytes = "bytes", tag = "2")]
    chain: Bytes,
    #[prost(bytes = "bytes", tag = "3")]
    key: Bytes,
    /// When it came, Unix milliseconds.
    #[prost(int64, tag = "4")]
    from: i64,
    #[prost(bytes = "bytes", tag = "5")]
    authority: Bytes,
}

impl std::fmt::Debug for File {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("File").field("node", &self.node).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Svid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Svid")
            .field("entry_id", &self.entry_id)
            .finish_non_exhaustive()
    }
}

impl Cache {
    /// The cache in this file.
    pub fn new(path: PathBuf, sealer: Sealer) -> Self {
        Self { path, sealer }
    }

    fn read(&self) -> Result<Option<File>, CacheError> {
        let sealed = match read_limited(&self.path, MAX_FILE) {
            Ok(sealed) => sealed,
            Err(FsError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let plain = self.sealer.open(CONTEXT, &sealed).map_err(|source| CacheError::Seal {
            path: self.path.clone(),
            source,
        })?;
        let file = File::decode(plain.expose()).map_err(|error| self.unusable(error))?;
        Ok(Some(file))
    }

    fn write(&self, file: &File) -> Result<(), CacheError> {
        // Allocated once, so that no copy of a key is left behind by growth.
        let mut plain = Zeroizing::new(Vec::with_capacity(file.encoded_len()));
        file.encode(&mut *plain).map_err(|error| self.unusable(error))?;
        let sealed = self.sealer.seal(CONTEXT, &plain).map_err(|source| CacheError::Seal {
            path: self.path.clone(),
            source,
        })?;
        Ok(write_atomic(&self.path, &sealed, 0o600)?)
    }

    fn unusable(&self, why: impl ToString) -> CacheError {
        CacheError::Content {
            path: self.path.clone(),
            why: why.to_string(),
        }
    }
}

impl Keep {
    /// Holds what an earlier run of this node left, as far as it has not ended. How many X.509-SVIDs there were; none when there is no cache.
    ///
    /// # Errors
    /// When the cache cannot be read; nothing is held then.
    pub fn load(&self, cache: &Cache, node: &SpiffeId) -> Result<Option<usize>, CacheError> {
        let Some(file) = cache.read()? else { return Ok(None) };
        if file.node != node.as_str() {
            return Err(cache.unusable(format!("it is that of node {}, and this is {node}", file.node)));
        }
        let now = self.0.clock.unix_ms();
        let decode = |entry: &Bytes| {
            let entry = types::Entry::decode(entry.clone()).map_err(|error| cache.unusable(error))?;
            Identity::from_message(&entry, &self.0.trust_domain).map_err(|why| cache.unusable(why))
        };
        let identities = file.entries.iter().map(decode).collect::<Result<Vec<_>, _>>()?;
        let bundle = |bundle: &Bytes| {
            let bundle = types::Bundle::decode(bundle.clone()).map_err(|error| cache.unusable(error))?;
            HeldBundle::from_message(&bundle).map_err(|why| cache.unusable(why))
        };
        let bundles = file.bundles.iter().map(bundle).collect::<Result<Vec<_>, _>>()?;
        let mut state = self.state();
        for identity in identities {
            state.put(identity, now);
        }
        for bundle in bundles {
            state
                .bundles
                .insert(bundle.bundle.trust_domain.clone(), Arc::new(bundle));
        }
        state.note_needs();
        let mut count = 0;
        for svid in file.svids {
            let Some(item) = state.get(&svid.entry_id) else {
                continue;
            };
            let id = Arc::clone(&item.identity.id);
            if let Some(svid) = restore(svid, &item.identity.spiffe_id, now, state.phase) {
                state.hold_x509(&id, svid);
                count += 1;
            }
        }
        // The run before may have ended before it had replaced them.
        self.replace_unsound(&mut state, now);
        drop(state);
        self.changed();
        self.0.due.notify_one();
        self.0.readiness.send_if_modified(|readiness| {
            let better = *readiness < Readiness::Cached;
            *readiness = (*readiness).max(Readiness::Cached);
            better
        });
        Ok(Some(count))
    }

    /// Writes the cache now.
    ///
    /// # Errors
    /// When it cannot be written; it is then as it was.
    pub fn save(&self, cache: &Cache, node: &SpiffeId) -> Result<(), CacheError> {
        let file = {
            let state = self.state();
            let svids = state.items().filter_map(|item| {
                let svid = item.x509.as_ref()?;
                Some(Svid {
                    entry_id: item.identity.id.to_string(),
                    chain: svid.chain.clone(),
                    key: svid.key.clone(),
                    from: svid.life.from,
                    authority: svid.authority.clone().unwrap_or_default().into(),
                })
            });
            File {
                node: node.to_string(),
                svids: svids.collect(),
                entries: state.items().map(|item| item.identity.encoded.clone()).collect(),
                bundles: state.bundles.values().map(|held| held.encoded.clone()).collect(),
            }
        };
        cache.write(&file)
    }

    /// Writes the cache after every change, from when the server has said what applies until shutdown. `node` says which node this is by now.
    pub async fn run_cache(
        self,
        cache: Cache,
        node: impl Fn() -> Option<SpiffeId> + Send,
        shutdown: CancellationToken,
    ) {
        let mut changes = self.changes();
        let mut readiness = self.readiness();
        loop {
            let step = async {
                let _ = readiness.wait_for(|readiness| *readiness == Readiness::InStep).await;
                let _ = changes.changed().await;
                self.0.clock.sleep(GATHER).await;
            };
            let last = tokio::select! {
                () = step => false,
                () = shutdown.cancelled() => true,
            };
            let in_step = *readiness.borrow() == Readiness::InStep;
            changes.mark_unchanged();
            if let (true, Some(node)) = (in_step, node())
                && let Err(error) = self.save(&cache, &node)
            {
                tracing::warn!(%error, "what this node holds could not be kept for a restart");
            }
            if last {
                return;
            }
        }
    }
}

/// An SVID out of the file, if it is still one.
fn restore(svid: Svid, spiffe_id: &SpiffeId, now: i64, phase: i64) -> Option<X509Svid> {
    // The leaf is at the beginning of the chain, and says itself where it ends.
    let length = der_length(&svid.chain)?;
    let leaf = x509::Leaf::parse(svid.chain.get(..length)?).ok()?;
    let key = NewKey::from_pkcs8(&svid.key)?;
    let until = leaf.certificate.not_after.saturating_mul(1000);
    let sound = leaf.spiffe_id == *spiffe_id && leaf.certificate.spki_der == &key.spki[..] && until > now;
    sound.then(|| X509Svid {
        chain: Bytes::copy_from_slice(&svid.chain),
        key: key.pkcs8,
        not_after: leaf.certificate.not_after,
        generation: 0,
        life: Life {
            from: svid.from.min(now),
            until,
            phase,
        },
        authority: Some(svid.authority.to_vec()).filter(|authority| !authority.is_empty()),
    })
}

/// The length of the DER element at the beginning, with its header.
fn der_length(der: &[u8]) -> Option<usize> {
    match *der.get(1)? {
        short @ 0..=0x7f => Some(2 + usize::from(short)),
        long @ 0x81..=0x83 => {
            let count = usize::from(long & 0x7f);
            let digits = der.get(2..2 + count)?;
            Some(2 + count + digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit)))
        }
        _ => None,
    }
}
