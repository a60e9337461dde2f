//! A segment: 65,536 leaves in one file, one leaf of a level-2 tile; and the file of its hashes, written when it is full.
//!
//! The file of hashes, all numbers big-endian: magic and version `MMH1`, a CRC-32C of everything after it, the segment's number (8),
//! when its newest frame was written (8), for each of its 256 entry bundles the offset of the frame that holds the bundle's first
//! leaf (4), the level-1 tile (256 hashes) and the 256 level-0 tiles (65,536 hashes).

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use super::error::{At as _, LedgerError};
use super::frame::{self, Frame};
use super::merkle::Hash;
use super::{SEGMENT, TILE};

const MAGIC: &[u8; 4] = b"MMH1";
const OFFSETS_AT: u64 = 24;
const LEVEL1_AT: u64 = OFFSETS_AT + TILE * 4;
const LEVEL0_AT: u64 = LEVEL1_AT + TILE * 32;
/// Bytes of a file of hashes.
pub(super) const HASHES_SIZE: u64 = LEVEL0_AT + SEGMENT * 32;

/// What is known of a segment whose hashes are not on the disk yet.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    pub(super) number: u64,
    /// The hashes of its leaves.
    pub(super) level0: Vec<Hash>,
    /// The roots of its full level-0 tiles.
    pub(super) level1: Vec<Hash>,
    /// For each frame: the place of its first leaf in the segment, and its offset in the file.
    frames: Vec<(u32, u32)>,
    /// The offset after the last frame.
    pub(super) end: u64,
    /// When the newest frame was written, seconds since 1970.
    pub(super) newest: u64,
}

impl Segment {
    pub(super) fn new(number: u64) -> Self {
        Self {
            number,
            level0: Vec::new(),
            level1: Vec::new(),
            frames: Vec::new(),
            end: 0,
            newest: 0,
        }
    }

    pub(super) fn is_full(&self) -> bool {
        self.level0.len() as u64 == SEGMENT
    }

    /// Notes a frame that was written at the end; its hashes are pushed to `level0` and `level1` by the tree.
    pub(super) fn note_frame(&mut self, offset: u64, end: u64, time: u64) {
        let first = u32::try_from(self.level0.len()).unwrap_or(u32::MAX);
        self.frames.push((first, u32::try_from(offset).unwrap_or(u32::MAX)));
        self.end = end;
        self.newest = self.newest.max(time);
    }

    /// The offset of the frame that holds the leaf at `place` of the segment.
    pub(super) fn frame_of(&self, place: u64) -> u64 {
        let after = self.frames.partition_point(|(first, _)| u64::from(*first) <= place);
        self.frames
            .get(after.saturating_sub(1))
            .map_or(0, |(_, offset)| u64::from(*offset))
    }

    /// The content of the file of hashes of this segment, which is full.
    pub(super) fn to_hashes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(usize::try_from(HASHES_SIZE).unwrap_or(0));
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&self.number.to_be_bytes());
        bytes.extend_from_slice(&self.newest.to_be_bytes());
        for bundle in 0..TILE {
            let offset = u32::try_from(self.frame_of(bundle * TILE)).unwrap_or(u32::MAX);
            bytes.extend_from_slice(&offset.to_be_bytes());
        }
        bytes.extend(self.level1.iter().chain(&self.level0).flatten());
        let crc = crc32c::crc32c(&bytes[8..]);
        bytes[4..8].copy_from_slice(&crc.to_be_bytes());
        bytes
    }
}

/// The file of hashes of a sealed segment.
#[derive(Debug)]
pub(super) struct Hashes<'a> {
    file: File,
    path: &'a Path,
}

impl<'a> Hashes<'a> {
    /// Opens the file of hashes of segment `number` and looks at its head and size; `None` when it is not there.
    pub(super) fn open(path: &'a Path, number: u64) -> Result<Option<Self>, LedgerError> {
        let file = match File::open(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            other => other.at("open", path)?,
        };
        let hashes = Self { file, path };
        let size = hashes.file.metadata().at("read", path)?.len();
        if size != HASHES_SIZE {
            return Err(LedgerError::corrupt(
                path,
                size.min(HASHES_SIZE),
                format!("it has {size} bytes, not {HASHES_SIZE}"),
            ));
        }
        let head: [u8; 24] = hashes.bytes(0)?;
        if !head.starts_with(MAGIC) || head[8..16] != number.to_be_bytes() {
            return Err(LedgerError::corrupt(
                path,
                0,
                format!("it is not the file of hashes of segment {number}"),
            ));
        }
        Ok(Some(hashes))
    }

    /// When the segment's newest frame was written, seconds since 1970.
    pub(super) fn newest(&self) -> Result<u64, LedgerError> {
        self.bytes(16).map(u64::from_be_bytes)
    }

    /// The offset of the frame that holds the first leaf of entry bundle `bundle` of the segment.
    pub(super) fn frame_of_bundle(&self, bundle: u64) -> Result<u64, LedgerError> {
        self.bytes(OFFSETS_AT + bundle * 4)
            .map(|bytes| u64::from(u32::from_be_bytes(bytes)))
    }

    /// `count` hashes of level 0 or 1 from place `from` of the segment on.
    pub(super) fn level(&self, level: u32, from: u64, count: usize) -> Result<Vec<Hash>, LedgerError> {
        let at = if level == 0 { LEVEL0_AT } else { LEVEL1_AT } + from * 32;
        let mut bytes = vec![0; count * 32];
        self.file.read_exact_at(&mut bytes, at).at("read", self.path)?;
        Ok(bytes.as_chunks().0.to_vec())
    }

    fn bytes<const N: usize>(&self, at: u64) -> Result<[u8; N], LedgerError> {
        let mut bytes = [0; N];
        self.file.read_exact_at(&mut bytes, at).at("read", self.path)?;
        Ok(bytes)
    }
}

/// The leaves `from..from + count` of a segment as entries, from the file of its leaves; the frame at `offset` holds the leaf `from`
/// or one before it.
pub(super) fn read_entries(
    file: &File,
    path: &Path,
    mut offset: u64,
    from: u64,
    count: u64,
) -> Result<Vec<u8>, LedgerError> {
    let (mut out, mut wanted) = (Vec::new(), from..from + count);
    while !wanted.is_empty() {
        let (header, body) = frame::read_frame(file, path, offset)?;
        let held = header.first..header.first + u64::from(header.count);
        offset += (frame::HEADER + body.len()) as u64;
        if held.end <= wanted.start {
            continue;
        }
        if held.start > wanted.start {
            return Err(LedgerError::corrupt(
                path,
                offset,
                format!("leaf {} is not in the frame before this place", wanted.start),
            ));
        }
        let skip = usize::try_from(wanted.start - header.first).unwrap_or(usize::MAX);
        let take = wanted.end.min(held.end) - wanted.start;
        for leaf in frame::entries(&body)
            .skip(skip)
            .take(usize::try_from(take).unwrap_or(usize::MAX))
        {
            frame::push_entry(&mut out, leaf);
        }
        wanted.start += take;
    }
    Ok(out)
}

/// The frame as the tree takes it: the hashes of its leaves.
pub(super) fn leaf_hashes(frame: &Frame<'_>) -> Vec<Hash> {
    frame::entries(frame.body).map(super::merkle::leaf_hash).collect()
}
