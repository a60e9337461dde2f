//! Files: written whole or not at all, in directories that are ours alone.
//!
//! In come paths and bytes; out come files that are old or new after a crash, never half, and a lock that keeps a second process
//! out of a data directory. Everyone writes through here, except the store and the ledger, whose files have their own rules.
#![allow(clippy::disallowed_methods, reason = "this is where files are written")]

mod lock;

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

pub use lock::{DirLock, LockError};

use crate::crypto::random;

/// Why a file or directory could not be made, written or read.
#[derive(Debug, thiserror::Error)]
pub enum FsError {
    /// The operating system refused.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// What was attempted.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A symbolic link where a directory of ours must be.
    #[error("{path} is a symbolic link, which whoever made it can point elsewhere; name the directory itself")]
    Symlink {
        /// The link.
        path: PathBuf,
    },
    /// Something else where a directory must be.
    #[error("{path} exists and is not a directory")]
    NotADirectory {
        /// What is there.
        path: PathBuf,
    },
    /// The path names no file, for instance `/` or `a/..`.
    #[error("{path} names no file")]
    NoName {
        /// The path.
        path: PathBuf,
    },
    /// More than the reader allows.
    #[error("{path} is larger than {limit} bytes")]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The most that is read.
        limit: u64,
    },
}

/// Writes a file so that after a crash it is either as it was or as it is now: a temporary file in the same directory, synced,
/// renamed over `path`, and the directory synced. The file gets exactly `mode`, whatever the umask.
///
/// # Errors
/// When a step fails; the file is then as it was, and the temporary file is gone.
pub fn write_atomic(path: &Path, bytes: &[u8], mode: u32) -> Result<(), FsError> {
    let temporary = Temporary::create(path, bytes, mode)?;
    std::fs::rename(&temporary.path, path).map_err(failed("replace", path))?;
    temporary.renamed();
    sync_dir(parent(path))
}

/// As [`write_atomic`], but only where no file is yet: of two who try, one succeeds.
///
/// # Errors
/// [`FsError::Io`] of kind `AlreadyExists` when there is one; otherwise as [`write_atomic`].
pub fn write_new(path: &Path, bytes: &[u8], mode: u32) -> Result<(), FsError> {
    let temporary = Temporary::create(path, bytes, mode)?;
    std::fs::hard_link(&temporary.path, path).map_err(failed("create", path))?;
    drop(temporary);
    sync_dir(parent(path))
}

/// Makes what was created, renamed or removed in `dir` survive a power loss.
///
/// # Errors
/// When the directory cannot be opened or synced.
pub fn sync_dir(dir: &Path) -> Result<(), FsError> {
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(failed("sync", dir))
}

/// Sees to it that `path` is a directory and not a symbolic link. Missing directories are made, the last one with exactly `mode`, those above it
/// with 0755. One that exists is left as it is; where it is open to more users than `mode` says, that is logged: a volume's permissions are its owner's.
///
/// # Errors
/// When something else is there, or it cannot be made.
pub fn ensure_dir(path: &Path, mode: u32) -> Result<(), FsError> {
    match std::fs::symlink_metadata(path) {
        Ok(meta) => check_dir(path, &meta, mode),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let above = parent(path);
            DirBuilder::new()
                .recursive(true)
                .mode(0o755)
                .create(above)
                .map_err(failed("create", above))?;
            match DirBuilder::new().mode(mode).create(path) {
                Ok(()) => {
                    let permissions = Permissions::from_mode(mode);
                    std::fs::set_permissions(path, permissions).map_err(failed("set the mode of", path))?;
                    sync_dir(above)
                }
                // Someone else made it in this moment.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    let meta = std::fs::symlink_metadata(path).map_err(failed("look at", path))?;
                    check_dir(path, &meta, mode)
                }
                Err(error) => Err(failed("create", path)(error)),
            }
        }
        Err(error) => Err(failed("look at", path)(error)),
    }
}

/// Reads a file of at most `limit` bytes.
///
/// # Errors
/// When it cannot be read, or is larger.
pub fn read_limited(path: &Path, limit: u64) -> Result<Vec<u8>, FsError> {
    let file = File::open(path).map_err(failed("open", path))?;
    let mut bytes = Vec::new();
    file.take(limit.saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(failed("read", path))?;
    if u64::try_from(bytes.len()).is_ok_and(|read| read <= limit) {
        Ok(bytes)
    } else {
        Err(FsError::TooLarge {
            path: path.into(),
            limit,
        })
    }
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FsError {
    move |source| FsError::Io {
        action,
        path: path.into(),
        source,
    }
}

/// The directory that `path` is in; `.` for a bare name.
fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

fn check_dir(path: &Path, meta: &std::fs::Metadata, mode: u32) -> Result<(), FsError> {
    if meta.is_symlink() {
        return Err(FsError::Symlink { path: path.into() });
    }
    if !meta.is_dir() {
        return Err(FsError::NotADirectory { path: path.into() });
    }
    let found = meta.mode() & 0o777;
    if found & !mode != 0 {
        let (found, wanted) = (format!("{found:04o}"), format!("{mode:04o}"));
        tracing::warn!(path = %path.display(), found, wanted, "directory is open to more users than it needs to be");
    }
    Ok(())
}

/// A finished file under a temporary name, removed unless it was renamed.
struct Temporary {
    path: PathBuf,
    renamed: bool,
}

impl Temporary {
    fn create(target: &Path, bytes: &[u8], mode: u32) -> Result<Self, FsError> {
        let name = target
            .file_name()
            .ok_or_else(|| FsError::NoName { path: target.into() })?;
        // Cut, so that the temporary name is not too long where the name just fits.
        let name = name.to_string_lossy().chars().take(40).collect::<String>();
        let unique = u64::from_ne_bytes(random());
        let path = parent(target).join(format!(".{name}.{unique:016x}.tmp"));
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .map_err(failed("create", &path))?;
        let temporary = Self { path, renamed: false };
        file.write_all(bytes)
            .and_then(|()| file.set_permissions(Permissions::from_mode(mode)))
            .and_then(|()| file.sync_all())
            .map_err(failed("write", &temporary.path))?;
        Ok(temporary)
    }

    fn renamed(mut self) {
        self.renamed = true;
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.renamed {
            // Nothing more can be done about a file that does not go away.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn mode_of(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().mode() & 0o7777
    }

    fn names(dir: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(dir).unwrap();
        entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    }

    #[test]
    fn a_file_is_replaced_whole_and_leaves_nothing_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        write_atomic(&path, b"one", 0o600).unwrap();
        write_atomic(&path, b"two", 0o644).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        assert_eq!(mode_of(&path), 0o644);
        assert_eq!(names(dir.path()), ["a"]);
    }

    #[test]
    fn a_failed_write_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("a");
        std::fs::create_dir_all(target.join("full")).unwrap();
        assert!(write_atomic(&target, b"x", 0o600).is_err());
        assert_eq!(names(dir.path()), ["a"]);
        assert!(matches!(
            write_atomic(Path::new("/"), b"x", 0o600),
            Err(FsError::NoName { .. })
        ));
    }

    #[test]
    fn a_new_file_never_replaces_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        write_new(&path, b"one", 0o600).unwrap();
        let error = write_new(&path, b"two", 0o600).unwrap_err();
        assert!(matches!(error, FsError::Io { source, .. } if source.kind() == io::ErrorKind::AlreadyExists));
        assert_eq!(std::fs::read(&path).unwrap(), b"one");
        assert_eq!(names(dir.path()), ["a"]);
    }

    #[test]
    fn a_directory_is_made_with_its_mode_and_links_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (path, link, file) = (dir.path().join("a/b"), dir.path().join("link"), dir.path().join("file"));
        ensure_dir(&path, 0o700).unwrap();
        ensure_dir(&path, 0o700).unwrap();
        assert_eq!((mode_of(&path), mode_of(&dir.path().join("a"))), (0o700, 0o755));
        symlink(&path, &link).unwrap();
        assert!(matches!(ensure_dir(&link, 0o700), Err(FsError::Symlink { .. })));
        write_new(&file, b"", 0o600).unwrap();
        assert!(matches!(ensure_dir(&file, 0o700), Err(FsError::NotADirectory { .. })));
    }

    #[test]
    fn reading_stops_at_the_limit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        write_new(&path, b"12345", 0o600).unwrap();
        assert_eq!(read_limited(&path, 5).unwrap(), b"12345");
        assert!(matches!(
            read_limited(&path, 4),
            Err(FsError::TooLarge { limit: 4, .. })
        ));
    }
}
