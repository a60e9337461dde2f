//! Reading a log: leaves, proofs, and the resources of C2SP `tlog-tiles`.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;

use super::durable::LeafBytes;
use super::error::{At as _, LedgerError};
use super::files;
use super::frame;
use super::merkle::{self, Hash, Nodes as _, leaf_hash};
use super::note::{Checkpoint, VerifierKey};
use super::open::{self, Mend};
use super::path::Resource;
use super::segment::{self, Hashes};
use super::tree::Stored;
use super::{SEGMENT, SEGMENT_LEVEL, TILE, TILE_LEVEL};

/// Reads a log, while it is appended to or long after. Everything here reads files and blocks: call it where blocking is allowed.
#[derive(Clone, Debug)]
pub struct Reader(pub(super) Arc<Stored>);

impl Reader {
    /// Opens log `number` under the ledger's directory for reading only, as it stands now.
    ///
    /// # Errors
    /// [`LedgerError`] when it is not there, or damaged where it had to be read.
    pub fn open(root: &Path, number: u16) -> Result<Self, LedgerError> {
        let loaded = open::load(&files::log_dir(root, number), number, Mend::No)?;
        Ok(Self(Arc::new(loaded.stored)))
    }

    /// The log's number.
    pub fn number(&self) -> u16 {
        self.0.number
    }

    /// The public key of the log, under the origin of its checkpoints.
    pub fn verifier(&self) -> &VerifierKey {
        &self.0.verifier
    }

    /// The number of leaves, pruned ones included.
    pub fn size(&self) -> u64 {
        self.0.tree().size()
    }

    /// The index of the first leaf that is still there.
    pub fn minimum(&self) -> u64 {
        self.0.tree().minimum()
    }

    /// The last checkpoint that was written, and its signed note.
    ///
    /// # Errors
    /// [`LedgerError`] when the file cannot be read or is damaged.
    pub fn checkpoint(&self) -> Result<(Checkpoint, String), LedgerError> {
        let path = self.0.path(files::CHECKPOINT);
        let note = files::read_text(&path)?;
        let checkpoint = self
            .0
            .verifier
            .open_checkpoint(&note)
            .map_err(|error| LedgerError::corrupt(&path, 0, error.to_string()))?;
        Ok((checkpoint, note))
    }

    /// The leaf of this index.
    ///
    /// # Errors
    /// [`LedgerError::NotFound`], [`LedgerError::Pruned`], or whatever keeps it from being read; a leaf that is not the one that was
    /// hashed is [`LedgerError::Corrupt`].
    pub fn leaf(&self, index: u64) -> Result<LeafBytes, LedgerError> {
        let mut leaves = self.leaves(index, 1)?;
        leaves
            .pop()
            .ok_or_else(|| LedgerError::NotFound(format!("no leaf {index}")))
    }

    /// The leaves from `first` on, at most `count` and at most 65,536, less at the end of the log.
    ///
    /// # Errors
    /// As [`Self::leaf`].
    pub fn leaves(&self, first: u64, count: u64) -> Result<Vec<LeafBytes>, LedgerError> {
        let size = self.size();
        if first >= size {
            return Err(LedgerError::NotFound(format!(
                "no leaf {first}: the log has {size} leaves"
            )));
        }
        self.0.check_kept(first)?;
        let end = first.saturating_add(count.min(SEGMENT)).min(size);
        let (mut at, mut leaves) = (first, Vec::new());
        while at < end {
            // A bundle at a time: what is read is checked against its level-0 tile.
            let upto = end.min((at / TILE + 1) * TILE);
            let hashes = self.0.level(at / SEGMENT, 0, at % SEGMENT, upto - at)?;
            let entries = self.entries_of(at, upto - at)?;
            for (leaf, hash) in frame::entries(&entries).zip(&hashes) {
                if leaf_hash(leaf) != *hash {
                    let path = self.0.path(&files::leaves(at / SEGMENT));
                    return Err(LedgerError::corrupt(
                        &path,
                        0,
                        "a leaf is not the one that was hashed; `mintmark ledger verify` tells more",
                    ));
                }
                leaves.push(leaf.to_vec());
            }
            at = upto;
        }
        Ok(leaves)
    }

    /// The last `count` leaves that are there, at most 65,536, oldest first, with the index of the first.
    ///
    /// # Errors
    /// As [`Self::leaf`].
    pub fn last(&self, count: u64) -> Result<(u64, Vec<LeafBytes>), LedgerError> {
        let (size, minimum) = (self.size(), self.minimum());
        let first = size.saturating_sub(count.min(SEGMENT)).max(minimum);
        if first == size {
            Ok((first, Vec::new()))
        } else {
            Ok((first, self.leaves(first, size - first)?))
        }
    }

    /// The root of the tree of the first `size` leaves.
    ///
    /// # Errors
    /// [`LedgerError::NotFound`] for more leaves than there are, [`LedgerError::Pruned`] for a size below the minimum index that is
    /// not a multiple of 65,536.
    pub fn root(&self, size: u64) -> Result<Hash, LedgerError> {
        self.check_size(size)?;
        merkle::root(&*self.0, size)
    }

    /// The inclusion proof of leaf `index` in the tree of `size` leaves, for [`verify_inclusion`](merkle::verify_inclusion).
    ///
    /// # Errors
    /// As [`Self::leaf`] and [`Self::root`]. A proof that does not verify is not handed out: that is [`LedgerError::Corrupt`].
    pub fn prove(&self, index: u64, size: u64) -> Result<Vec<Hash>, LedgerError> {
        self.check_size(size)?;
        if index >= size {
            return Err(LedgerError::NotFound(format!(
                "no leaf {index} in a tree of {size} leaves"
            )));
        }
        self.0.check_kept(index)?;
        let proof = merkle::inclusion(&*self.0, index, size)?;
        let (leaf, root) = (self.0.node(0, index)?, merkle::root(&*self.0, size)?);
        merkle::verify_inclusion(&leaf, index, size, &proof, &root).map_err(|error| self.bad_hashes(&error))?;
        Ok(proof)
    }

    /// The proof that the tree of `old` leaves is a prefix of the tree of `new`, for
    /// [`verify_consistency`](merkle::verify_consistency).
    ///
    /// # Errors
    /// As [`Self::root`]; a proof that does not verify is not handed out.
    pub fn prove_consistency(&self, old: u64, new: u64) -> Result<Vec<Hash>, LedgerError> {
        self.check_size(new)?;
        if old > new {
            return Err(LedgerError::NotFound(format!(
                "a tree of {old} leaves is no prefix of one of {new}"
            )));
        }
        let proof = merkle::consistency(&*self.0, old, new)?;
        let (old_root, new_root) = (merkle::root(&*self.0, old)?, merkle::root(&*self.0, new)?);
        merkle::verify_consistency(old, &old_root, new, &new_root, &proof).map_err(|error| self.bad_hashes(&error))?;
        Ok(proof)
    }

    /// The tile of C2SP `tlog-tiles` at `level` with this index, of `width` hashes (1 to 256).
    ///
    /// # Errors
    /// [`LedgerError::NotFound`] when the log does not reach so far, [`LedgerError::Pruned`] when it is gone.
    pub fn tile(&self, level: u8, index: u64, width: u16) -> Result<Vec<u8>, LedgerError> {
        let none = || LedgerError::NotFound(format!("no tile {index} of width {width} at level {level}"));
        let bits = TILE_LEVEL * u32::from(level);
        let available = self.size().checked_shr(bits).unwrap_or(0);
        let first = index.checked_mul(TILE).ok_or_else(none)?;
        let width = u64::from(width);
        if width == 0 || width > TILE || first.checked_add(width).is_none_or(|end| end > available) {
            return Err(none());
        }
        let hashes = match level {
            0 => self.0.level(first / SEGMENT, 0, first % SEGMENT, width)?,
            1 => self.0.level(index, 1, 0, width)?,
            2 => self.0.roots(first, width)?,
            _ => (first..first + width)
                .map(|at| self.0.node(bits, at))
                .collect::<Result<_, _>>()?,
        };
        Ok(hashes.concat())
    }

    /// The entry bundle of C2SP `tlog-tiles` with this index, of `width` entries (1 to 256).
    ///
    /// # Errors
    /// As [`Self::tile`].
    pub fn entries(&self, index: u64, width: u16) -> Result<Vec<u8>, LedgerError> {
        let none = || LedgerError::NotFound(format!("no entry bundle {index} of width {width}"));
        let first = index.checked_mul(TILE).ok_or_else(none)?;
        let width = u64::from(width);
        if width == 0 || width > TILE || first.checked_add(width).is_none_or(|end| end > self.size()) {
            return Err(none());
        }
        self.entries_of(first, width)
    }

    /// The resource of C2SP `tlog-tiles` at this path below the log's prefix: `checkpoint`, `tile/0/x001/234`,
    /// `tile/entries/000.p/12`.
    ///
    /// # Errors
    /// As [`Self::tile`]; also when the path is not one of these.
    pub fn resource(&self, path: &str) -> Result<Vec<u8>, LedgerError> {
        match path.parse::<Resource>() {
            Ok(Resource::Checkpoint) => Ok(self.checkpoint()?.1.into_bytes()),
            Ok(Resource::Tile { level, index, width }) => self.tile(level, index, width),
            Ok(Resource::Entries { index, width }) => self.entries(index, width),
            Err(()) => Err(LedgerError::NotFound(format!(
                "no resource of a tiled log has the path {path:?}"
            ))),
        }
    }

    /// Writes the log as a directory of files in the layout of C2SP `tlog-tiles`, as of its last checkpoint.
    ///
    /// # Errors
    /// [`LedgerError`] when something cannot be read or written.
    pub fn export(&self, dir: &Path) -> Result<(), LedgerError> {
        let (checkpoint, note) = self.checkpoint()?;
        let minimum = self.minimum();
        let write = |resource: Resource| {
            let path = dir.join(resource.to_string());
            let parent = path.parent().unwrap_or(dir);
            fs::create_dir_all(parent).at("make", parent)?;
            write_file(&path, &self.resource(&resource.to_string())?).at("write", &path)
        };
        for level in 0..8_u8 {
            let hashes = checkpoint.size.checked_shr(TILE_LEVEL * u32::from(level)).unwrap_or(0);
            let first = if level < 2 {
                minimum >> (TILE_LEVEL * (u32::from(level) + 1))
            } else {
                0
            };
            for index in first..hashes.div_ceil(TILE) {
                let width = u16::try_from((hashes - index * TILE).min(TILE)).unwrap_or(256);
                write(Resource::Tile { level, index, width })?;
                if level == 0 {
                    write(Resource::Entries { index, width })?;
                }
            }
        }
        let path = dir.join(files::CHECKPOINT);
        write_file(&path, note.as_bytes()).at("write", &path)
    }

    fn check_size(&self, size: u64) -> Result<(), LedgerError> {
        let have = self.size();
        if size <= have {
            Ok(())
        } else {
            Err(LedgerError::NotFound(format!(
                "no tree of {size} leaves: the log has {have}"
            )))
        }
    }

    fn bad_hashes(&self, error: &merkle::ProofError) -> LedgerError {
        LedgerError::corrupt(
            &self.0.dir,
            0,
            format!("{error}: a hash on the disk is wrong; `mintmark ledger verify` tells which"),
        )
    }

    /// Entries within one segment that are all there.
    fn entries_of(&self, first: u64, count: u64) -> Result<Vec<u8>, LedgerError> {
        debug_assert_eq!(
            first >> SEGMENT_LEVEL,
            (first + count - 1) >> SEGMENT_LEVEL,
            "a bundle is within a segment"
        );
        let number = first / SEGMENT;
        self.0.check_kept(first)?;
        let path = self.0.path(&files::leaves(number));
        let offset = self.0.tree().frame_of(first);
        let gone = |error| self.0.check_kept(first).err().unwrap_or(error);
        let offset = match offset {
            Some(offset) => offset,
            None => {
                let hashes_path = self.0.path(&files::hashes(number));
                let hashes = Hashes::open(&hashes_path, number).map_err(gone)?;
                let hashes = hashes.ok_or_else(|| gone(LedgerError::corrupt(&hashes_path, 0, "it is missing")))?;
                hashes.frame_of_bundle(first % SEGMENT / TILE)?
            }
        };
        let file = File::open(&path).at("open", &path).map_err(gone)?;
        segment::read_entries(&file, &path, offset, first, count)
    }
}

/// An export that is interrupted is made again.
fn write_file(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    File::create(path)?.write_all(bytes)
}
