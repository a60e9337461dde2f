//! The journal: every acknowledged transaction, in segments that start from a position.
//!
//! A group of transactions is one record and one sync. What a crash leaves of an unfinished group is one
//! torn record at the very end, which was never acknowledged.

use std::{
    fs::File,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use mintmark_runtime::crypto;

use super::{
    Failure,
    codec::{self, Header, Kind, Record},
    file::{Next, RecordReader, RecordWriter, UNFINISHED, check_space, failed, sync_parent},
};
use crate::store::{digest::Position, error::StoreError, history::Committed, index::IndexError, types::Revision};

/// A segment that has grown past this is followed by a new one.
const SEGMENT: u64 = 64 << 20;

/// For every byte in the journal, so many are wanted free for what sled makes of it.
const INDEX_SHARE: u64 = 4;

/// The end of a segment's name.
const SUFFIX: &str = "journal";

/// A segment on disk, by the revision that it starts from.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    pub(super) base: Revision,
    pub(super) path: PathBuf,
}

/// The journal's last segment, open to be written.
pub(super) struct Journal {
    directory: PathBuf,
    id: [u8; 16],
    segment: Tail,
    /// What a failed write left behind the last whole record, to be cut off before the next.
    dirty: bool,
    /// Bytes that must stay free on the file system.
    pub(super) reserve: u64,
    #[cfg(test)]
    pub(super) faults: std::sync::Arc<super::faults::Faults>,
}

/// Where the next record goes.
pub(super) struct Tail {
    path: PathBuf,
    file: File,
    salt: [u8; 8],
    length: u64,
}

impl Journal {
    /// A segment that starts from `base`, durable when this returns.
    pub(super) fn create(directory: &Path, id: [u8; 16], base: &Position, reserve: u64) -> Result<Self, StoreError> {
        let segment = Tail::create(directory, id, base)?;
        Ok(Self::on(directory, id, segment, reserve))
    }

    fn on(directory: &Path, id: [u8; 16], segment: Tail, reserve: u64) -> Self {
        Self {
            directory: directory.into(),
            id,
            segment,
            dirty: false,
            reserve,
            #[cfg(test)]
            faults: std::sync::Arc::default(),
        }
    }

    /// Goes on where `replayed` found the last whole record, after cutting off a torn one.
    pub(super) fn resume(
        directory: &Path,
        id: [u8; 16],
        replayed: &Replayed,
        reserve: u64,
    ) -> Result<Self, StoreError> {
        let path = &replayed.last.path;
        let file = File::options().write(true).open(path).map_err(failed("open", path))?;
        if replayed.torn > 0 {
            file.set_len(replayed.length)
                .map_err(failed("cut the torn end off", path))?;
            file.sync_all().map_err(failed("sync", path))?;
        }
        let segment = Tail {
            path: path.clone(),
            file,
            salt: replayed.salt,
            length: replayed.length,
        };
        Ok(Self::on(directory, id, segment, reserve))
    }

    /// Makes one group of transactions durable. When it fails, nothing of it stays.
    pub(super) fn append(&mut self, payload: &[u8]) -> Result<u64, StoreError> {
        // The index takes more than the journal, and does not survive a full disk.
        check_space(
            &self.directory,
            self.reserve.saturating_add(INDEX_SHARE * payload.len() as u64),
        )?;
        if self.dirty {
            self.cut()?;
        }
        let mut record = Vec::with_capacity(codec::FRAME_LEN + payload.len());
        record.extend_from_slice(&codec::frame(&self.segment.salt, payload));
        record.extend_from_slice(payload);
        self.dirty = true;
        let written = self.write(&record);
        if let Err(error) = written {
            // Cut off now, so that a full disk gets its bytes back; if that fails, it is tried again
            // before the next record.
            let _ = self.cut();
            return Err(error);
        }
        self.dirty = false;
        self.segment.length += record.len() as u64;
        Ok(record.len() as u64)
    }

    /// Starts a new segment at `base`; the next record goes there.
    pub(super) fn rotate(&mut self, base: &Position) -> Result<(), StoreError> {
        self.segment = Tail::create(&self.directory, self.id, base)?;
        self.dirty = false;
        Ok(())
    }

    pub(super) fn is_long(&self) -> bool {
        self.segment.length >= SEGMENT
    }

    fn write(&self, record: &[u8]) -> Result<(), StoreError> {
        let segment = &self.segment;
        #[cfg(test)]
        self.faults
            .before_write(&segment.file, record, segment.length)
            .map_err(failed("write", &segment.path))?;
        segment
            .file
            .write_all_at(record, segment.length)
            .map_err(failed("write", &segment.path))?;
        segment.file.sync_data().map_err(failed("sync", &segment.path))
    }

    fn cut(&mut self) -> Result<(), StoreError> {
        let segment = &self.segment;
        let cut = segment
            .file
            .set_len(segment.length)
            .and_then(|()| segment.file.sync_all());
        cut.map_err(failed("cut the failed record off", &segment.path))?;
        self.dirty = false;
        Ok(())
    }
}

impl Tail {
    fn create(directory: &Path, id: [u8; 16], base: &Position) -> Result<Self, StoreError> {
        let path = directory.join(format!("{:020}.{SUFFIX}", base.revision));
        let salt = crypto::random();
        let header = Header {
            kind: Kind::Journal,
            id,
            salt,
            base: *base,
        };
        let (file, length) = RecordWriter::create(path.with_extension(UNFINISHED), header)?.finish(&path)?;
        Ok(Self {
            path,
            file,
            salt,
            length,
        })
    }
}

/// The segments in `directory`, the oldest first.
pub(super) fn segments(directory: &Path) -> Result<Vec<Segment>, StoreError> {
    Ok(super::numbered(directory, SUFFIX)?
        .into_iter()
        .map(|(base, path)| Segment { base, path })
        .collect())
}

/// Where a replay came to.
pub(super) struct Replayed {
    pub(super) id: [u8; 16],
    /// The last transaction, and what the store holds at it.
    pub(super) end: Position,
    /// The last segment, its length up to its last whole record, and the bytes of a torn one after that.
    pub(super) last: Segment,
    pub(super) length: u64,
    pub(super) torn: u64,
    salt: [u8; 8],
    /// Transactions that were visited.
    pub(super) transactions: u64,
}

/// What takes the groups of a replay.
type Visit<'a> = &'a mut dyn FnMut(&Position, Vec<Committed>) -> Result<(), IndexError>;

/// Reads `segments`, which follow each other, checks every record, and visits the groups that lead past
/// `after`. A torn record at the very end is left out; every other damage is an error.
pub(super) fn replay(
    segments: &[Segment],
    after: Revision,
    mut visit: impl FnMut(&Position, Vec<Committed>) -> Result<(), IndexError>,
) -> Result<Replayed, Failure> {
    let mut state = None;
    let (last, before) = segments.split_last().expect("a journal that is replayed has a segment");
    for segment in before {
        state = Some(replay_segment(segment, false, after, state.as_ref(), &mut visit)?);
    }
    replay_segment(last, true, after, state.as_ref(), &mut visit)
}

fn replay_segment(
    segment: &Segment,
    is_last: bool,
    after: Revision,
    before: Option<&Replayed>,
    visit: Visit<'_>,
) -> Result<Replayed, Failure> {
    let mut reader = RecordReader::open(&segment.path, Kind::Journal)?;
    let mut replayed = Replayed::start(segment, &reader, before).map_err(|why| reader.damaged(0, &why))?;
    loop {
        let (offset, payload) = match reader.next()? {
            Next::Payload(offset, payload) => (offset, payload),
            Next::End => return Ok(replayed),
            Next::Bad(_) if is_last && !reader.record_after(reader.offset())? => {
                replayed.torn = reader.length() - reader.offset();
                return Ok(replayed);
            }
            Next::Bad(why) => return Err(reader.damaged(reader.offset(), why).into()),
        };
        if let Some((to, commits)) = replayed
            .take(payload, after)
            .map_err(|why| reader.damaged(offset, &why))?
        {
            visit(&to, commits)?;
        }
        replayed.length = reader.offset();
    }
}

impl Replayed {
    fn start(segment: &Segment, reader: &RecordReader, before: Option<&Self>) -> Result<Self, String> {
        let header = reader.header();
        if header.base.revision != segment.base {
            return Err("its name is not the revision that it starts from".to_owned());
        }
        if before.is_some_and(|before| before.id != header.id) {
            return Err("it belongs to another store than the segment before it".to_owned());
        }
        if let Some(before) = before
            && before.end != header.base
        {
            let (starts, ends) = (header.base.revision, before.end.revision);
            return Err(format!(
                "it starts from revision {starts}, the segment before it ends at {ends}"
            ));
        }
        Ok(Self {
            id: header.id,
            end: header.base,
            last: segment.clone(),
            length: reader.offset(),
            torn: 0,
            salt: header.salt,
            transactions: before.map_or(0, |before| before.transactions),
        })
    }

    /// Follows one record; gives its group if that leads past `after`.
    fn take(&mut self, payload: Bytes, after: Revision) -> Result<Option<(Position, Vec<Committed>)>, String> {
        let ends = self.end.revision;
        let Some((from, to)) = codec::span(&payload) else {
            return match Record::decode(payload)? {
                Record::Closed(revision) if revision == ends => Ok(None),
                _ => Err("a record does not belong in a journal here".to_owned()),
            };
        };
        if from != ends || to.revision == from {
            return Err(format!(
                "a group goes from revision {from} to {}, but the one before it ends at {ends}",
                to.revision
            ));
        }
        self.end = to;
        if to.revision <= after {
            return Ok(None);
        }
        match Record::decode(payload)? {
            Record::Group { to, commits } => {
                self.transactions += commits.len() as u64;
                Ok(Some((to, commits)))
            }
            _ => Err("a group is not what its first bytes say".to_owned()),
        }
    }
}

/// Removes the segments of which nothing above `keep_after` is left.
pub(super) fn cut_behind(directory: &Path, keep_after: Revision) -> Result<(), StoreError> {
    let segments = segments(directory)?;
    for pair in segments.windows(2) {
        let [old, next] = pair else { continue };
        if next.base <= keep_after {
            std::fs::remove_file(&old.path).map_err(failed("remove", &old.path))?;
        }
    }
    segments.first().map_or(Ok(()), |segment| sync_parent(&segment.path))
}
