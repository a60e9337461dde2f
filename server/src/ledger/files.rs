//! The files of a ledger: their names, and writing them so that a crash leaves the old or the new.

use std::fmt::Debug;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use super::error::{At as _, LedgerError};

/// The verifier key of the log, one line.
pub(super) const LOG: &str = "log";
/// The private key of the log.
pub(super) const KEY: &str = "key";
/// The last signed checkpoint.
pub(super) const CHECKPOINT: &str = "checkpoint";
/// The signed minimum index.
pub(super) const MINIMUM: &str = "minimum";
/// The roots of all sealed segments, 32 bytes each.
pub(super) const ROOTS: &str = "roots";
const TEMPORARY: &str = ".tmp";

/// What a file in the directory of a log is, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Name {
    /// One of the files that each log has.
    Fixed,
    /// The leaves of a segment.
    Leaves(u64),
    /// The hashes of a sealed segment.
    Hashes(u64),
    /// What a crash left of a file that was being replaced.
    Temporary,
    Unknown,
}

impl Name {
    pub(super) fn of(name: &str) -> Self {
        if [LOG, KEY, CHECKPOINT, MINIMUM, ROOTS].contains(&name) {
            return Self::Fixed;
        }
        let number =
            |stem: &str, name: fn(u64) -> String, full: &str| stem.parse().ok().filter(|number| name(*number) == full);
        match name.rsplit_once('.') {
            Some((stem, "leaves")) => number(stem, leaves, name).map_or(Self::Unknown, Self::Leaves),
            Some((stem, "hashes")) => number(stem, hashes, name).map_or(Self::Unknown, Self::Hashes),
            Some((stem, "tmp")) if Self::of(stem) != Self::Unknown && Self::of(stem) != Self::Temporary => {
                Self::Temporary
            }
            _ => Self::Unknown,
        }
    }
}

/// The name of the leaves of segment `number`.
pub(super) fn leaves(number: u64) -> String {
    format!("{number:010}.leaves")
}

/// The name of the hashes of segment `number`.
pub(super) fn hashes(number: u64) -> String {
    format!("{number:010}.hashes")
}

/// The directory of log `number` under the ledger's `root`.
pub(super) fn log_dir(root: &Path, number: u16) -> PathBuf {
    root.join(number.to_string())
}

/// The log number that a directory's name says, in its one form.
pub(super) fn log_number(name: &str) -> Option<u16> {
    let number = name.parse::<u16>().ok()?;
    (number.to_string() == name).then_some(number)
}

/// Whether a directory of this name is a log that was being made.
pub(super) fn is_unfinished_log(name: &str) -> bool {
    name.strip_suffix(TEMPORARY)
        .is_some_and(|stem| log_number(stem).is_some())
}

/// Removes what a crash left of logs that were being made.
pub(super) fn remove_unfinished_logs(root: &Path) -> Result<(), LedgerError> {
    for name in list(root)?.iter().filter(|name| is_unfinished_log(name)) {
        let path = root.join(name);
        fs::remove_dir_all(&path).at("remove", &path)?;
    }
    Ok(())
}

/// The numbers of the logs under the ledger's `root`, ascending.
pub(super) fn log_numbers(root: &Path) -> Result<Vec<u16>, LedgerError> {
    let mut numbers: Vec<u16> = list(root)?.iter().filter_map(|name| log_number(name)).collect();
    numbers.sort_unstable();
    Ok(numbers)
}

/// The names in a directory, sorted; a name that is not UTF-8 comes out with replacement characters.
pub(super) fn list(dir: &Path) -> Result<Vec<String>, LedgerError> {
    let mut names = fs::read_dir(dir)
        .at("list", dir)?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<io::Result<Vec<_>>>()
        .at("list", dir)?;
    names.sort_unstable();
    Ok(names)
}

/// Reads a small text file that must be there.
pub(super) fn read_text(path: &Path) -> Result<String, LedgerError> {
    String::from_utf8(fs::read(path).at("read", path)?)
        .map_err(|error| LedgerError::corrupt(path, error.utf8_error().valid_up_to() as u64, "it is not UTF-8"))
}

/// How bytes get to the disk. Tests put a disk in its place that fills up or fails.
pub(super) trait Storage: Debug + Send + Sync {
    fn write_at(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        file.write_all_at(bytes, offset)
    }

    /// Makes what was written to the file durable, with its size.
    fn sync(&self, file: &File) -> io::Result<()> {
        file.sync_data()
    }

    fn truncate(&self, file: &File, size: u64) -> io::Result<()> {
        file.set_len(size)
    }

    /// Bytes that can still be written to the filesystem of `dir`, and its size.
    fn space(&self, dir: &Path) -> io::Result<(u64, u64)> {
        let stat = rustix::fs::statvfs(dir)?;
        Ok((
            stat.f_bavail.saturating_mul(stat.f_frsize),
            stat.f_blocks.saturating_mul(stat.f_frsize),
        ))
    }
}

/// The filesystem.
#[derive(Clone, Copy, Debug)]
pub(super) struct Disk;

impl Storage for Disk {}

/// Opens the leaves of a segment for writing, made when they are not there.
pub(super) fn open_leaves(path: &Path) -> Result<File, LedgerError> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .at("open", path)
}

/// Writes a file as a whole: a crash leaves the old one or the new one.
pub(super) fn replace(storage: &dyn Storage, path: &Path, bytes: &[u8]) -> Result<(), LedgerError> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(TEMPORARY);
    let temporary = PathBuf::from(temporary);
    let written = (|| {
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)?;
        storage.write_at(&file, bytes, 0)?;
        storage.sync(&file)?;
        fs::rename(&temporary, path)
    })();
    if let Err(error) = written {
        // Leaves nothing behind that `verify` would have to explain; what cannot be removed now is removed at the next start.
        let _ = fs::remove_file(&temporary);
        return Err(LedgerError::io("write", path, &error));
    }
    sync_dir(path.parent().unwrap_or(path))
}

/// Makes the names in a directory durable.
pub(super) fn sync_dir(dir: &Path) -> Result<(), LedgerError> {
    File::open(dir).and_then(|dir| dir.sync_all()).at("sync", dir)
}

/// Removes a file that may be gone already.
pub(super) fn remove(path: &Path) -> Result<(), LedgerError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(LedgerError::io("remove", path, &error)),
        _ => Ok(()),
    }
}
