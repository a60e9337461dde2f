//! The lock that gives one process a data directory.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

/// The name of the lock file in a locked directory.
const LOCK_FILE: &str = "lock";

/// A directory that this process alone uses, until this is dropped or the process ends in whatever way. The file stays; the lock on it is what counts.
#[derive(Debug)]
pub struct DirLock {
    _file: Flock<File>,
}

/// Why a directory could not be locked.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process has it.
    #[error("data directory {dir} is in use by process {pid}; stop that process, or use another directory")]
    InUse {
        /// The directory.
        dir: PathBuf,
        /// The holder's pid, as it wrote it.
        pid: String,
    },
    /// The lock file cannot be opened, locked or written.
    #[error("cannot lock data directory {dir}: {source}")]
    Io {
        /// The directory.
        dir: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

impl DirLock {
    /// Takes `dir`, which must exist, for this process.
    ///
    /// # Errors
    /// [`LockError::InUse`] with the holder's pid when another process, or this one, has it already.
    pub fn acquire(dir: &Path) -> Result<Self, LockError> {
        let failed = |source| LockError::Io {
            dir: dir.into(),
            source,
        };
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o644)
            .custom_flags(nix::libc::O_NOFOLLOW)
            .open(dir.join(LOCK_FILE))
            .map_err(failed)?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(mut file) => {
                write_pid(&mut file).map_err(failed)?;
                Ok(Self { _file: file })
            }
            Err((file, Errno::EWOULDBLOCK)) => Err(LockError::InUse {
                dir: dir.into(),
                pid: read_pid(file),
            }),
            Err((_, errno)) => Err(failed(errno.into())),
        }
    }
}

fn write_pid(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())
}

fn read_pid(file: File) -> String {
    let mut text = String::new();
    // What cannot be read is not known; the refusal stands anyway.
    let _ = file.take(32).read_to_string(&mut text);
    match text.trim().parse::<u32>() {
        Ok(pid) => pid.to_string(),
        Err(_) => "(pid not known)".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_holder_is_refused_with_the_pid_of_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let first = DirLock::acquire(dir.path()).unwrap();
        let error = DirLock::acquire(dir.path()).unwrap_err().to_string();
        let expected = format!("{} is in use by process {};", dir.path().display(), std::process::id());
        assert!(error.contains(&expected), "{error}");
        drop(first);
        DirLock::acquire(dir.path()).unwrap();
    }

    #[test]
    fn another_process_is_named_and_the_lock_ends_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let mut holder = std::process::Command::new("flock")
            .arg(dir.path().join(LOCK_FILE))
            .args(["sh", "-c", "echo $$ > \"$0\"; echo ready; read end"])
            .arg(dir.path().join(LOCK_FILE))
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("util-linux flock is installed");
        let mut ready = [0; 6];
        holder.stdout.as_mut().unwrap().read_exact(&mut ready).unwrap();
        let pid = std::fs::read_to_string(dir.path().join(LOCK_FILE)).unwrap();
        let error = DirLock::acquire(dir.path()).unwrap_err().to_string();
        assert!(error.contains(&format!("by process {};", pid.trim())), "{error}");
        drop(holder.stdin.take());
        holder.wait().unwrap();
        DirLock::acquire(dir.path()).unwrap();
    }
}
