//! Reading and writing one of the store's files.

use std::{
    fs::File,
    io::{self, BufReader, Read, Write},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use rustix::fs::statvfs;

use super::codec::{self, FRAME_LEN, FRAME_MAGIC, HEADER_LEN, Header, Kind};
use crate::store::error::StoreError;

/// Turns an I/O error into one that says what was attempted on which file.
pub(in crate::store) fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    move |error| match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => StoreError::Full {
            path: path.into(),
            why: error.to_string(),
        },
        _ => StoreError::Io {
            what,
            path: path.into(),
            source: Arc::new(error),
        },
    }
}

/// Bytes that stay free on the file system: sled, which does not survive a full one, needs them.
pub(in crate::store) const RESERVE: u64 = 16 << 20;

/// That `needed` bytes are free on the file system of `directory`.
pub(in crate::store) fn check_space(directory: &Path, needed: u64) -> Result<(), StoreError> {
    // A file system that cannot say how much is free is found out by writing.
    let Ok(space) = statvfs(directory) else { return Ok(()) };
    let free = space.f_bavail.saturating_mul(space.f_frsize);
    if free >= needed {
        return Ok(());
    }
    let why = format!("{} KiB are free, {} KiB must be", free >> 10, needed >> 10);
    Err(StoreError::Full {
        path: directory.into(),
        why,
    })
}

/// Reads a file from its start, record by record.
pub(in crate::store) struct RecordReader {
    path: PathBuf,
    file: BufReader<File>,
    header: Header,
    length: u64,
    offset: u64,
}

/// What comes next in a file.
pub(in crate::store) enum Next {
    /// A whole record's payload, and where the record starts.
    Payload(u64, Bytes),
    /// The file ends where a record ends.
    End,
    /// What follows is not a whole record.
    Bad(&'static str),
}

impl RecordReader {
    pub(in crate::store) fn open(path: &Path, kind: Kind) -> Result<Self, StoreError> {
        let file = File::open(path).map_err(failed("open", path))?;
        let length = file.metadata().map_err(failed("look at", path))?.len();
        let mut file = BufReader::with_capacity(1 << 20, file);
        let damaged = |why: &str| StoreError::Damaged {
            path: path.into(),
            offset: 0,
            why: why.to_owned(),
        };
        if length < HEADER_LEN as u64 {
            return Err(damaged("it is shorter than its header"));
        }
        let mut header = [0; HEADER_LEN];
        file.read_exact(&mut header).map_err(failed("read", path))?;
        let header = Header::decode(&header).map_err(damaged)?;
        if header.kind != kind {
            return Err(damaged("it is another kind of file"));
        }
        Ok(Self {
            path: path.into(),
            file,
            header,
            length,
            offset: HEADER_LEN as u64,
        })
    }

    pub(in crate::store) fn header(&self) -> &Header {
        &self.header
    }

    /// Where the next record starts.
    pub(in crate::store) fn offset(&self) -> u64 {
        self.offset
    }

    /// The file's length when it was opened.
    pub(in crate::store) fn length(&self) -> u64 {
        self.length
    }

    pub(in crate::store) fn next(&mut self) -> Result<Next, StoreError> {
        let left = self.length - self.offset;
        if left == 0 {
            return Ok(Next::End);
        }
        if left < FRAME_LEN as u64 {
            return Ok(Next::Bad("the file ends within a record"));
        }
        let mut frame = [0; FRAME_LEN];
        self.file.read_exact(&mut frame).map_err(failed("read", &self.path))?;
        let length = match codec::announced(&frame) {
            Ok(length) if length as u64 <= left - FRAME_LEN as u64 => length,
            Ok(_) => return Ok(Next::Bad("the file ends within a record")),
            Err(why) => return Ok(Next::Bad(why)),
        };
        let mut payload = vec![0; length];
        self.file.read_exact(&mut payload).map_err(failed("read", &self.path))?;
        if !codec::matches(&self.header.salt, &frame, &payload) {
            return Ok(Next::Bad("a record does not match its checksum"));
        }
        let start = self.offset;
        self.offset += (FRAME_LEN + length) as u64;
        Ok(Next::Payload(start, payload.into()))
    }

    pub(in crate::store) fn damaged(&self, offset: u64, why: &str) -> StoreError {
        StoreError::Damaged {
            path: self.path.clone(),
            offset,
            why: why.to_owned(),
        }
    }

    /// Whether a whole record starts anywhere after `offset`.
    pub(in crate::store) fn record_after(&self, offset: u64) -> Result<bool, StoreError> {
        let file = self.file.get_ref();
        let mut rest = vec![0; usize::try_from(self.length - offset).unwrap_or(usize::MAX)];
        file.read_exact_at(&mut rest, offset)
            .map_err(failed("read", &self.path))?;
        let starts = rest
            .windows(FRAME_MAGIC.len())
            .enumerate()
            .filter(|(_, window)| *window == FRAME_MAGIC);
        for (start, _) in starts {
            let Some((frame, tail)) = rest.get(start..).and_then(|rest| rest.split_first_chunk::<FRAME_LEN>()) else {
                return Ok(false);
            };
            let payload = codec::announced(frame).ok().and_then(|length| tail.get(..length));
            if payload.is_some_and(|payload| codec::matches(&self.header.salt, frame, payload)) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Writes a new file under a temporary name, and renames it when it is whole and synced.
pub(in crate::store) struct RecordWriter {
    temporary: PathBuf,
    file: File,
    header: Header,
    length: u64,
    /// Bytes that the kernel was not yet asked to write out.
    unsynced: u64,
    /// The length up to which there was enough space when it was last looked at.
    room: u64,
}

/// A long file is synced in steps of this many bytes, so that a journal's sync beside it never waits for
/// all of it.
const SYNC_STEP: u64 = 8 << 20;

/// How much is written between two looks at the space that is left.
const SPACE_STEP: u64 = 1 << 20;

/// The end of a name that an unfinished file has.
pub(in crate::store) const UNFINISHED: &str = "unfinished";

impl RecordWriter {
    /// Starts a file at `temporary`, for its owner alone.
    pub(in crate::store) fn create(temporary: PathBuf, header: Header) -> Result<Self, StoreError> {
        let mut options = File::options();
        options.write(true).read(true).create(true).truncate(true).mode(0o600);
        let file = options.open(&temporary).map_err(failed("create", &temporary))?;
        let mut writer = Self {
            temporary,
            file,
            header,
            length: 0,
            unsynced: 0,
            room: 0,
        };
        writer.write(&header.encode())?;
        Ok(writer)
    }

    /// Appends a record; gives up rather than to leave less than [`RESERVE`] free.
    pub(in crate::store) fn append(&mut self, payload: &[u8]) -> Result<(), StoreError> {
        let longer = self.length + payload.len() as u64;
        if longer > self.room {
            check_space(parent(&self.temporary), RESERVE + SPACE_STEP + payload.len() as u64)?;
            self.room = longer + SPACE_STEP;
        }
        let frame = codec::frame(&self.header.salt, payload);
        self.write(&frame)?;
        self.write(payload)?;
        if self.unsynced >= SYNC_STEP {
            self.sync()?;
        }
        Ok(())
    }

    /// Makes the file durable as `path`, on the same file system, and gives it and its length.
    pub(in crate::store) fn finish(mut self, path: &Path) -> Result<(File, u64), StoreError> {
        self.sync()?;
        std::fs::rename(&self.temporary, path).map_err(failed("rename into place", path))?;
        sync_parent(path)?;
        let file = self.file.try_clone().map_err(failed("open", path))?;
        Ok((file, self.length))
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.file.write_all(bytes).map_err(failed("write", &self.temporary))?;
        self.length += bytes.len() as u64;
        self.unsynced += bytes.len() as u64;
        Ok(())
    }

    fn sync(&mut self) -> Result<(), StoreError> {
        self.file.sync_all().map_err(failed("sync", &self.temporary))?;
        self.unsynced = 0;
        Ok(())
    }
}

impl Drop for RecordWriter {
    fn drop(&mut self) {
        // Gone when it was finished; what cannot be removed now is removed by the next start.
        let _ = std::fs::remove_file(&self.temporary);
    }
}

/// Makes what was created, renamed or removed beside `path` survive a power loss.
pub(in crate::store) fn sync_parent(path: &Path) -> Result<(), StoreError> {
    let parent = parent(path);
    File::open(parent)
        .and_then(|dir| dir.sync_all())
        .map_err(failed("sync", parent))
}

fn parent(path: &Path) -> &Path {
    path.parent()
        .filter(|parent| *parent != Path::new(""))
        .unwrap_or(Path::new("."))
}
