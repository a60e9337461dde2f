//! One writer a log.
//!
//! The lock lies on the file `log`, and on its open file description (`F_OFD_SETLK`), so that reading the file elsewhere in this process
//! does not drop it, and so that `verify` can ask who holds it without taking it.

use std::fs::{File, OpenOptions};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

use super::error::{At as _, LedgerError};
use super::files;

/// The right to append to a log.
#[derive(Debug)]
pub(super) struct Lock(File);

impl Lock {
    /// Takes the lock of the log in `dir`.
    pub(super) fn take(dir: &Path) -> Result<Self, LedgerError> {
        let path = dir.join(files::LOG);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&path)
            .at("open", &path)?;
        match fcntl(&file, FcntlArg::F_OFD_SETLK(&whole_file(libc::F_WRLCK))) {
            Ok(_) => Ok(Self(file)),
            Err(Errno::EAGAIN | Errno::EACCES) => Err(LedgerError::InUse(dir.to_owned())),
            Err(error) => Err(LedgerError::io("lock", &path, &error.into())),
        }
    }

    /// Whether somebody holds the lock of the log in `dir`.
    pub(super) fn is_taken(dir: &Path) -> bool {
        let mut lock = whole_file(libc::F_WRLCK);
        File::open(dir.join(files::LOG)).is_ok_and(|file| {
            fcntl(&file, FcntlArg::F_OFD_GETLK(&mut lock)).is_ok() && i32::from(lock.l_type) != libc::F_UNLCK
        })
    }
}

impl Drop for Lock {
    /// Closing the file would do, were there no copy of it in a process that is being started.
    fn drop(&mut self) {
        let _ = fcntl(&self.0, FcntlArg::F_OFD_SETLK(&whole_file(libc::F_UNLCK)));
    }
}

fn whole_file(kind: i32) -> libc::flock {
    // The constants are small; their types are C's.
    let short = |value: i32| i16::try_from(value).unwrap_or_default();
    libc::flock {
        l_type: short(kind),
        l_whence: short(libc::SEEK_SET),
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    }
}
