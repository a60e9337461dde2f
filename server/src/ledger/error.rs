//! What can go wrong in the ledger.

use std::io;
use std::path::{Path, PathBuf};

/// Why the ledger could not do what was asked. Cheap to clone: one failed batch answers many callers.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LedgerError {
    /// No room for the leaves, even after pruning. The next append tries again.
    #[error(
        "the issuance log at {} has no room left ({free} bytes free): nothing is issued until there is; free space on its filesystem, enlarge the volume, or raise ledger.max_size", path.display()
    )]
    Full {
        /// Bytes that could still be written: on the filesystem, or up to `ledger.max_size`.
        free: u64,
        /// The directory of the log.
        path: PathBuf,
    },
    /// An earlier write failed in a way that leaves it uncertain what is on the disk. Only a restart, which reads everything back, mends that.
    #[error(
        "the issuance log stopped after a failed write: {0}; nothing is issued until the server is restarted, check the disk first"
    )]
    Stopped(String),
    /// The ledger is closed or closing.
    #[error("the issuance log is closed: the server is stopping")]
    Closed,
    /// Too many leaves in one call.
    #[error("{count} leaves in one call, at most {limit} are taken: split the call")]
    TooMany {
        /// How many came.
        count: usize,
        /// How many are taken.
        limit: usize,
    },
    /// A leaf is empty or too large.
    #[error("a leaf of {size} bytes was refused, a leaf has 1 to {limit} bytes")]
    LeafSize {
        /// Its size in bytes.
        size: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// The encoder returned another number of leaves than was announced.
    #[error("{got} leaves were encoded where {announced} were announced")]
    Count {
        /// How many were announced.
        announced: usize,
        /// How many came.
        got: usize,
    },
    /// The log has used up its 2^48 indices.
    #[error("log {0} has used up its indices: start a log with a new number")]
    Exhausted(u16),
    /// There is no such entry, tile or tree.
    #[error("{0}")]
    NotFound(String),
    /// What was asked for lies before the minimum index.
    #[error(
        "entry {index} was pruned: the log begins at its minimum index {minimum}, see ledger.retention and ledger.max_size"
    )]
    Pruned {
        /// The index asked for.
        index: u64,
        /// The smallest index that is still there.
        minimum: u64,
    },
    /// What is on the disk is not what was written there.
    #[error("{} is damaged at byte {offset}: {what}", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Where in it.
        offset: u64,
        /// What was found.
        what: String,
    },
    /// The log on the disk is not the one that its own last checkpoint describes.
    #[error("the log at {} is not the one it was: {what}; if a backup was restored, restore it with `mintmark-server restore`, which starts a new log", path.display())]
    Forked {
        /// The directory of the log.
        path: PathBuf,
        /// What differs.
        what: String,
    },
    /// Another process has the log open.
    #[error("the log at {} is open in another process: stop that one first", .0.display())]
    InUse(PathBuf),
    /// The operating system said no.
    #[error("cannot {action} {}: {why}", path.display())]
    Io {
        /// What was attempted: "read", "write" …
        action: &'static str,
        /// With which file.
        path: PathBuf,
        /// The operating system's answer.
        why: String,
        /// Its kind, for those who have to tell them apart.
        kind: io::ErrorKind,
        /// Its number, where it has one.
        errno: Option<i32>,
    },
}

impl LedgerError {
    pub(super) fn io(action: &'static str, path: &Path, error: &io::Error) -> Self {
        Self::Io {
            action,
            path: path.to_owned(),
            why: error.to_string(),
            kind: error.kind(),
            errno: error.raw_os_error(),
        }
    }

    pub(super) fn corrupt(path: &Path, offset: u64, what: impl Into<String>) -> Self {
        Self::Corrupt {
            path: path.to_owned(),
            offset,
            what: what.into(),
        }
    }

    /// Whether this passes by itself: no space left, or no descriptors.
    pub(super) fn is_passing(&self) -> bool {
        const NO_DESCRIPTORS: [i32; 2] = [nix::libc::ENFILE, nix::libc::EMFILE];
        self.is_no_space() || matches!(self, Self::Io { errno: Some(errno), .. } if NO_DESCRIPTORS.contains(errno))
    }

    /// Whether this is the operating system's word for "no space left" or "over quota".
    pub(super) fn is_no_space(&self) -> bool {
        matches!(
            self,
            Self::Io {
                kind: io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded,
                ..
            }
        )
    }
}

/// `map_err` for a file operation.
pub(super) trait At<T> {
    fn at(self, action: &'static str, path: &Path) -> Result<T, LedgerError>;
}

impl<T> At<T> for io::Result<T> {
    fn at(self, action: &'static str, path: &Path) -> Result<T, LedgerError> {
        self.map_err(|error| LedgerError::io(action, path, &error))
    }
}
