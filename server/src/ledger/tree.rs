//! The tree in memory: what of its hashes is there, and where the others lie.
//!
//! Level 0 and 1 of the open segment and of those whose hashes are not written yet; the roots of the segments of the level-3 hash
//! that is not complete; all level-3 hashes (one for 16.8 million leaves). The rest is read from the files.

use std::collections::VecDeque;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::error::{At as _, LedgerError};
use super::files;
use super::merkle::{Hash, Nodes, Range, fold, node_hash};
use super::note::VerifierKey;
use super::segment::{Hashes, Segment};
use super::{SEGMENT, SEGMENT_LEVEL, TILE, TILE_LEVEL};

/// The level of a level-3 tile's hashes in the binary tree.
const UPPER_LEVEL: u32 = SEGMENT_LEVEL + TILE_LEVEL;

/// A sealed segment that is still there.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sealed {
    pub(super) number: u64,
    /// Bytes of its files.
    pub(super) bytes: u64,
    /// When its newest frame was written, seconds since 1970.
    pub(super) newest: u64,
}

/// The durable leaves, as hashes.
#[derive(Debug)]
pub(super) struct Tree {
    range: Range,
    /// Segments before this one are pruned.
    pub(super) first_segment: u64,
    /// The sealed segments that are there, oldest first.
    pub(super) sealed: VecDeque<Sealed>,
    /// Full segments whose hashes are not written yet, oldest first.
    pub(super) full: VecDeque<Arc<Segment>>,
    pub(super) open: Segment,
    /// The roots of the segments from `recent_from` on.
    recent: Vec<Hash>,
    recent_from: u64,
    /// How many roots the file holds.
    pub(super) roots_written: u64,
    upper: Vec<Hash>,
}

impl Tree {
    pub(super) fn new(first_segment: u64) -> Self {
        Self {
            range: Range::default(),
            first_segment,
            sealed: VecDeque::new(),
            full: VecDeque::new(),
            open: Segment::new(0),
            recent: Vec::new(),
            recent_from: 0,
            roots_written: 0,
            upper: Vec::new(),
        }
    }

    /// The number of leaves.
    pub(super) fn size(&self) -> u64 {
        self.range.size()
    }

    pub(super) fn root(&self) -> Hash {
        self.range.root()
    }

    /// The root that the tree would have with these leaves, too.
    pub(super) fn root_after(&self, hashes: &[Hash]) -> Hash {
        let mut range = self.range.clone();
        for hash in hashes {
            range.push(*hash, |_, _, _| ());
        }
        range.root()
    }

    /// The minimum index.
    pub(super) fn minimum(&self) -> u64 {
        self.first_segment * SEGMENT
    }

    /// Bytes of leaves and hashes on the disk.
    pub(super) fn bytes(&self) -> u64 {
        let sealed: u64 = self.sealed.iter().map(|sealed| sealed.bytes).sum();
        let full: u64 = self.full.iter().map(|full| full.end).sum();
        sealed + full + self.open.end + self.roots_written * 32
    }

    /// Adds a sealed segment by its root, as read from the file of roots.
    pub(super) fn push_root(&mut self, root: Hash) {
        let Self {
            range, recent, upper, ..
        } = self;
        recent.push(root);
        range.push_subtree(SEGMENT_LEVEL, root, |level, _, hash| {
            if level == UPPER_LEVEL {
                upper.push(*hash);
            }
        });
        self.roots_written += 1;
        self.open = Segment::new(self.roots_written);
        self.forget_written_roots();
    }

    /// Adds the leaves of a frame that stands from `offset` to `end` in the file of the open segment. A segment that this fills is
    /// moved to `full`.
    pub(super) fn push_frame(&mut self, hashes: &[Hash], offset: u64, end: u64, time: u64) {
        let Self {
            range,
            open,
            recent,
            upper,
            ..
        } = self;
        open.note_frame(offset, end, time);
        for hash in hashes {
            range.push(*hash, |level, _, hash| match level {
                0 => open.level0.push(*hash),
                TILE_LEVEL => open.level1.push(*hash),
                SEGMENT_LEVEL => recent.push(*hash),
                UPPER_LEVEL => upper.push(*hash),
                _ => (),
            });
        }
        if open.is_full() {
            let next = Segment::new(open.number + 1);
            self.full.push_back(Arc::new(std::mem::replace(open, next)));
        }
    }

    /// Notes that the oldest full segment is sealed: its hashes and its root are on the disk.
    pub(super) fn seal(&mut self, bytes: u64) {
        if let Some(full) = self.full.pop_front() {
            self.sealed.push_back(Sealed {
                number: full.number,
                bytes,
                newest: full.newest,
            });
            self.roots_written = full.number + 1;
            self.forget_written_roots();
        }
    }

    /// The root of a segment that is not in the file of roots.
    pub(super) fn recent_root(&self, segment: u64) -> Option<Hash> {
        let place = segment.checked_sub(self.recent_from)?;
        self.recent.get(usize::try_from(place).ok()?).copied()
    }

    fn forget_written_roots(&mut self) {
        while self.roots_written - self.recent_from >= TILE {
            self.recent.drain(..256);
            self.recent_from += TILE;
        }
    }

    /// The offset of the frame that holds a leaf, where that is in memory.
    pub(super) fn frame_of(&self, index: u64) -> Option<u64> {
        self.in_memory(index / SEGMENT)
            .map(|segment| segment.frame_of(index % SEGMENT))
    }

    /// The segment `number`, if its hashes are in memory.
    fn in_memory(&self, number: u64) -> Option<&Segment> {
        if self.open.number == number {
            return Some(&self.open);
        }
        self.full.iter().find(|full| full.number == number).map(AsRef::as_ref)
    }
}

/// The tree with the directory that holds the rest of it.
#[derive(Debug)]
pub(super) struct Stored {
    pub(super) dir: PathBuf,
    pub(super) number: u16,
    pub(super) verifier: VerifierKey,
    tree: RwLock<Tree>,
}

impl Stored {
    pub(super) fn new(dir: &Path, number: u16, verifier: VerifierKey, tree: Tree) -> Self {
        Self {
            dir: dir.to_owned(),
            number,
            verifier,
            tree: RwLock::new(tree),
        }
    }

    pub(super) fn tree(&self) -> RwLockReadGuard<'_, Tree> {
        // A panic cannot leave the tree half-changed in a way that matters: its writer stops issuing.
        self.tree.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn tree_mut(&self) -> RwLockWriteGuard<'_, Tree> {
        self.tree.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    pub(super) fn check_kept(&self, index: u64) -> Result<(), LedgerError> {
        let minimum = self.tree().minimum();
        if index < minimum {
            Err(LedgerError::Pruned { index, minimum })
        } else {
            Ok(())
        }
    }

    /// `count` hashes of level 0 or 1 of a segment, from place `from` of that level on; all must be there.
    pub(super) fn level(&self, segment: u64, level: u32, from: u64, count: u64) -> Result<Vec<Hash>, LedgerError> {
        let (start, len) = (
            usize::try_from(from).unwrap_or(usize::MAX),
            usize::try_from(count).unwrap_or(usize::MAX),
        );
        if let Some(held) = self.tree().in_memory(segment) {
            let hashes = if level == 0 { &held.level0 } else { &held.level1 };
            let hashes = hashes.get(start..start.saturating_add(len)).map(<[Hash]>::to_vec);
            return hashes.ok_or_else(|| LedgerError::NotFound(format!("segment {segment} does not reach so far yet")));
        }
        self.check_kept(segment * SEGMENT)?;
        let path = self.path(&files::hashes(segment));
        match Hashes::open(&path, segment)? {
            Some(hashes) => hashes.level(level, from, len),
            None => Err(self
                .check_kept(segment * SEGMENT)
                .err()
                .unwrap_or_else(|| LedgerError::corrupt(&path, 0, "it is missing"))),
        }
    }

    /// The roots of `count` full segments.
    pub(super) fn roots(&self, from: u64, count: u64) -> Result<Vec<Hash>, LedgerError> {
        {
            let tree = self.tree();
            let recent: Option<Vec<Hash>> = (from..from + count).map(|segment| tree.recent_root(segment)).collect();
            if let Some(recent) = recent {
                return Ok(recent);
            }
        }
        let path = self.path(files::ROOTS);
        let mut bytes = vec![0; usize::try_from(count * 32).unwrap_or(usize::MAX)];
        File::open(&path)
            .and_then(|file| file.read_exact_at(&mut bytes, from * 32))
            .at("read", &path)?;
        Ok(bytes.as_chunks().0.to_vec())
    }

    fn upper(&self, level: u32, index: u64) -> Option<Hash> {
        let tree = self.tree();
        if level == UPPER_LEVEL {
            return tree.upper.get(usize::try_from(index).ok()?).copied();
        }
        drop(tree);
        Some(node_hash(
            &self.upper(level - 1, index * 2)?,
            &self.upper(level - 1, index * 2 + 1)?,
        ))
    }
}

impl Nodes for Stored {
    type Error = LedgerError;

    fn node(&self, level: u32, index: u64) -> Result<Hash, LedgerError> {
        if level >= UPPER_LEVEL {
            return self
                .upper(level, index)
                .ok_or_else(|| LedgerError::NotFound(format!("no subtree {index} of level {level}")));
        }
        if level >= SEGMENT_LEVEL {
            let count = 1 << (level - SEGMENT_LEVEL);
            return Ok(fold(&self.roots(index * count, count)?));
        }
        // Down to level 0 or 1 of the tiles, whichever is the next below.
        let (tile_level, height) = if level >= TILE_LEVEL {
            (1, level - TILE_LEVEL)
        } else {
            (0, level)
        };
        let per_segment = SEGMENT_LEVEL - level;
        let (segment, place) = (index >> per_segment, index & ((1 << per_segment) - 1));
        Ok(fold(&self.level(segment, tile_level, place << height, 1 << height)?))
    }
}
