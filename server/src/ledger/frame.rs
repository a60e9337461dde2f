//! Frames: what one fsync wrote to a segment's file of leaves.
//!
//! A frame is a header of 32 bytes and the entries, each as C2SP `tlog-tiles` has it in an entry bundle: a length of 16 bits,
//! big-endian, and the leaf. The header, all numbers big-endian:
//!
//! | bytes | |
//! |---|---|
//! | 4 | magic and version, `MMF1` |
//! | 4 | CRC-32C of everything after this field, header and entries |
//! | 8 | index of the first leaf |
//! | 8 | when it was written, seconds since 1970 |
//! | 4 | number of leaves |
//! | 4 | bytes of entries |
//!
//! Frames follow each other without gaps. At most one write is under way at any time, so a crash leaves at most one torn frame, at
//! the end; a bad frame before a good one is damage.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use super::SEGMENT;
use super::error::{At as _, LedgerError};

/// Bytes of a header.
pub(super) const HEADER: usize = 32;
/// The largest leaf in bytes.
pub const MAX_LEAF: usize = 8 * 1024;
/// The most leaves that one call may append.
pub const MAX_LEAVES_PER_CALL: usize = 4096;
/// A batch takes callers until it has this many bytes.
pub(super) const BATCH_BYTES: usize = 4 << 20;
/// The most leaves of a batch.
pub(super) const BATCH_LEAVES: usize = 16 * 1024;
/// The most bytes of entries in a frame.
const MAX_BODY: usize = BATCH_BYTES + MAX_LEAVES_PER_CALL * (MAX_LEAF + 2);

const MAGIC: &[u8; 4] = b"MMF1";

/// The header of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    crc: u32,
    pub(super) first: u64,
    pub(super) time: u64,
    pub(super) count: u32,
    pub(super) len: u32,
}

impl Header {
    /// Parses a header; nothing about it is known to be true until [`Self::covers`] has seen the entries.
    pub(super) fn parse(bytes: &[u8; HEADER]) -> Option<Self> {
        let u32_at = |at: usize| bytes.get(at..at + 4)?.try_into().ok().map(u32::from_be_bytes);
        let u64_at = |at: usize| bytes.get(at..at + 8)?.try_into().ok().map(u64::from_be_bytes);
        let header = Self {
            crc: u32_at(4)?,
            first: u64_at(8)?,
            time: u64_at(16)?,
            count: u32_at(24)?,
            len: u32_at(28)?,
        };
        let least = u64::from(header.count) * 3;
        let fits = header.count > 0 && u64::from(header.count) <= SEGMENT && u64::from(header.len) >= least;
        (bytes.starts_with(MAGIC) && fits && header.body_len() <= MAX_BODY).then_some(header)
    }

    pub(super) fn body_len(&self) -> usize {
        usize::try_from(self.len).unwrap_or(usize::MAX)
    }

    /// Whether the checksum of the header is that of it and these entries.
    fn covers(&self, bytes: &[u8; HEADER], body: &[u8]) -> bool {
        crc32c::crc32c_append(crc32c::crc32c(&bytes[8..]), body) == self.crc
    }
}

/// Writes the header of a frame over its first [`HEADER`] bytes; the entries stand behind them.
pub(super) fn finish(frame: &mut [u8], first: u64, time: u64, count: u32) {
    let len = u32::try_from(frame.len() - HEADER).unwrap_or(u32::MAX);
    let (header, body) = frame.split_at_mut(HEADER);
    header[..4].copy_from_slice(MAGIC);
    header[8..16].copy_from_slice(&first.to_be_bytes());
    header[16..24].copy_from_slice(&time.to_be_bytes());
    header[24..28].copy_from_slice(&count.to_be_bytes());
    header[28..].copy_from_slice(&len.to_be_bytes());
    let crc = crc32c::crc32c_append(crc32c::crc32c(&header[8..]), body);
    header[4..8].copy_from_slice(&crc.to_be_bytes());
}

/// Appends one entry.
pub(super) fn push_entry(body: &mut Vec<u8>, leaf: &[u8]) {
    body.extend_from_slice(&u16::try_from(leaf.len()).unwrap_or(u16::MAX).to_be_bytes());
    body.extend_from_slice(leaf);
}

/// The leaves of `body`; it ends early where the entries are malformed.
pub(super) fn entries(mut body: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (len, rest) = body.split_first_chunk()?;
        let (leaf, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*len)))?;
        body = rest;
        Some(leaf)
    })
}

fn well_formed(header: &Header, body: &[u8]) -> bool {
    let (mut count, mut bytes) = (0_u64, 0);
    for leaf in entries(body) {
        if leaf.is_empty() || leaf.len() > MAX_LEAF {
            return false;
        }
        count += 1;
        bytes += leaf.len() + 2;
    }
    count == u64::from(header.count) && bytes == body.len()
}

/// A frame as it stands in a file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame<'a> {
    pub(super) header: Header,
    pub(super) offset: u64,
    pub(super) body: &'a [u8],
}

/// How a file of leaves ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tail {
    /// With its last frame.
    Clean,
    /// With this many zeros, which the next frames are to be written over.
    Prepared(u64),
    /// With this many bytes of a frame that was not written to its end.
    Torn(u64),
}

/// What [`scan`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Scanned {
    /// The index after the last leaf.
    pub(super) next: u64,
    /// The offset after the last frame.
    pub(super) end: u64,
    pub(super) tail: Tail,
}

/// Reads the file of segment number `segment` frame by frame.
pub(super) fn scan(
    file: &File,
    path: &Path,
    segment: u64,
    mut each: impl FnMut(Frame<'_>) -> Result<(), LedgerError>,
) -> Result<Scanned, LedgerError> {
    let size = file.metadata().at("read", path)?.len();
    let (mut next, mut offset, limit) = (segment * SEGMENT, 0, (segment + 1) * SEGMENT);
    let mut buffer = Vec::new();
    while offset < size {
        let Some((header, bytes)) = read_header(file, path, offset, size)? else {
            return unreadable(file, path, offset, size, next..limit, "no frame begins here");
        };
        let body_at = offset + HEADER as u64;
        if size - body_at < u64::from(header.len) {
            return unreadable(file, path, offset, size, next..limit, "the frame here is cut short");
        }
        buffer.resize(header.body_len(), 0);
        file.read_exact_at(&mut buffer, body_at).at("read", path)?;
        if !header.covers(&bytes, &buffer) {
            return unreadable(
                file,
                path,
                offset,
                size,
                next..limit,
                "the checksum of the frame here is wrong",
            );
        }
        if header.first != next || header.first + u64::from(header.count) > limit {
            let what = format!(
                "leaf {next} of this segment should stand here, not {} leaves from {} on",
                header.count, header.first
            );
            return Err(LedgerError::corrupt(path, offset, what));
        }
        if !well_formed(&header, &buffer) {
            return Err(LedgerError::corrupt(
                path,
                offset,
                "the entries of the frame here are malformed",
            ));
        }
        each(Frame {
            header,
            offset,
            body: &buffer,
        })?;
        next += u64::from(header.count);
        offset = body_at + u64::from(header.len);
    }
    Ok(Scanned {
        next,
        end: offset,
        tail: Tail::Clean,
    })
}

/// Reads the one frame that begins at `offset`, which is known to be whole.
pub(super) fn read_frame(file: &File, path: &Path, offset: u64) -> Result<(Header, Vec<u8>), LedgerError> {
    let size = file.metadata().at("read", path)?.len();
    let damaged = || LedgerError::corrupt(path, offset, "no whole frame begins here");
    let (header, bytes) = read_header(file, path, offset, size)?.ok_or_else(damaged)?;
    let body_at = offset + HEADER as u64;
    if size.saturating_sub(body_at) < u64::from(header.len) {
        return Err(damaged());
    }
    let mut body = vec![0; header.body_len()];
    file.read_exact_at(&mut body, body_at).at("read", path)?;
    if header.covers(&bytes, &body) && well_formed(&header, &body) {
        Ok((header, body))
    } else {
        Err(damaged())
    }
}

fn read_header(
    file: &File,
    path: &Path,
    offset: u64,
    size: u64,
) -> Result<Option<(Header, [u8; HEADER])>, LedgerError> {
    let mut bytes = [0; HEADER];
    if size.saturating_sub(offset) < HEADER as u64 {
        return Ok(None);
    }
    file.read_exact_at(&mut bytes, offset).at("read", path)?;
    Ok(Header::parse(&bytes).map(|header| (header, bytes)))
}

/// Decides between prepared space, a torn end and damage: a later frame of this segment that is whole can only follow damage.
fn unreadable(
    file: &File,
    path: &Path,
    offset: u64,
    size: u64,
    expected: std::ops::Range<u64>,
    what: &str,
) -> Result<Scanned, LedgerError> {
    let mut rest = vec![0; usize::try_from(size - offset).unwrap_or(usize::MAX)];
    file.read_exact_at(&mut rest, offset).at("read", path)?;
    let later = |at: &usize| {
        let Some((bytes, after)) = rest.get(*at..).and_then(|rest| rest.split_first_chunk::<HEADER>()) else {
            return false;
        };
        let Some(header) = Header::parse(bytes) else {
            return false;
        };
        expected.contains(&header.first)
            && after
                .get(..header.body_len())
                .is_some_and(|body| header.covers(bytes, body))
    };
    // From the second byte on: the frame at `offset` itself is not a good one.
    let found = magics(&rest).filter(|at| *at > 0).find(later);
    match found {
        Some(at) => {
            let at = offset + at as u64;
            Err(LedgerError::corrupt(
                path,
                offset,
                format!("{what}, and a whole frame follows at byte {at}: this is damage, not an unfinished write"),
            ))
        }
        None => {
            let bytes = size - offset;
            let tail = if rest.iter().all(|byte| *byte == 0) {
                Tail::Prepared(bytes)
            } else {
                Tail::Torn(bytes)
            };
            Ok(Scanned {
                next: expected.start,
                end: offset,
                tail,
            })
        }
    }
}

fn magics(bytes: &[u8]) -> impl Iterator<Item = usize> {
    bytes
        .windows(MAGIC.len())
        .enumerate()
        .filter(|(_, window)| window == MAGIC)
        .map(|(at, _)| at)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn frame(first: u64, leaves: &[&[u8]]) -> Vec<u8> {
        let mut frame = vec![0; HEADER];
        for leaf in leaves {
            push_entry(&mut frame, leaf);
        }
        finish(&mut frame, first, 1_700_000_000, u32::try_from(leaves.len()).unwrap());
        frame
    }

    fn scan_bytes(bytes: &[u8]) -> (Result<Scanned, LedgerError>, Vec<Vec<u8>>) {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        let mut leaves = Vec::new();
        let scanned = scan(file.as_file(), file.path(), 0, |frame| {
            leaves.extend(entries(frame.body).map(<[u8]>::to_vec));
            Ok(())
        });
        (scanned, leaves)
    }

    #[test]
    fn frames_read_back_as_they_were_written() {
        let file = [frame(0, &[b"a", b"bc"]), frame(2, &[b"def"])].concat();
        let (scanned, leaves) = scan_bytes(&file);
        assert_eq!(
            scanned.unwrap(),
            Scanned {
                next: 3,
                end: file.len() as u64,
                tail: Tail::Clean
            }
        );
        assert_eq!(leaves, [b"a".to_vec(), b"bc".to_vec(), b"def".to_vec()]);
    }

    #[test]
    fn a_file_cut_anywhere_in_its_last_frame_ends_with_the_frame_before() {
        let (first, last) = (frame(0, &[b"a", b"bc"]), frame(2, &[b"def", b"g"]));
        for cut in 1..last.len() {
            let (scanned, leaves) = scan_bytes(&[&first, &last[..cut]].concat());
            assert_eq!(
                scanned.unwrap(),
                Scanned {
                    next: 2,
                    end: first.len() as u64,
                    tail: Tail::Torn(cut as u64)
                }
            );
            assert_eq!(leaves.len(), 2);
        }
    }

    #[test]
    fn a_changed_byte_before_a_whole_frame_is_damage_at_that_frame() {
        let (first, last) = (frame(0, &[b"a", b"bc"]), frame(2, &[b"def", b"g"]));
        for at in 0..first.len() {
            let mut file = [first.clone(), last.clone()].concat();
            file[at] ^= 0x40;
            let (scanned, _) = scan_bytes(&file);
            assert!(
                matches!(scanned, Err(LedgerError::Corrupt { offset: 0, .. })),
                "byte {at}"
            );
        }
    }

    #[test]
    fn a_frame_of_another_place_is_not_taken() {
        let (scanned, leaves) = scan_bytes(&[frame(0, &[b"a"]), frame(5, &[b"b"])].concat());
        assert!(matches!(scanned, Err(LedgerError::Corrupt { .. })));
        assert_eq!(leaves.len(), 1);
    }
}
