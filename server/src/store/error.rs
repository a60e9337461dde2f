//! Why the store refused or failed.

use std::{fmt, io, path::PathBuf, sync::Arc};

use bytes::Bytes;
use mintmark_runtime::fs::FsError;

use super::types::Revision;

/// Why the store refused or failed.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// A condition of a transaction does not hold; nothing was changed.
    #[error(
        "the transaction expected key {} to be {expected}, but it is {}; read it again and retry",
        key.escape_ascii(),
        Found(*found)
    )]
    Conflict {
        /// The key whose condition failed.
        key: Bytes,
        /// What the transaction expected.
        expected: Expectation,
        /// The key's revision, `None` when it is absent.
        found: Option<Revision>,
    },

    /// A key, value or transaction is malformed or too large; nothing was changed.
    #[error("{what} (key {}): {why}", key.escape_ascii())]
    Invalid {
        /// The part that is wrong.
        what: &'static str,
        /// The key, cut to its first 64 bytes.
        key: Bytes,
        /// What is wrong, with the value and the limit.
        why: String,
    },

    /// The history no longer reaches back to where a watch stands; list again and watch from there.
    #[error("events after revision {from} were asked for, but only those after {oldest} are kept; list again")]
    Compacted {
        /// Where the watch stood.
        from: Revision,
        /// The oldest revision a watch may start from.
        oldest: Revision,
    },

    /// There is not enough space to write; nothing was changed, and commits resume by themselves.
    #[error("no space in {}: {why}; free or add space, commits then resume by themselves", path.display())]
    Full {
        /// The directory on the full file system.
        path: PathBuf,
        /// What was found.
        why: String,
    },

    /// A file that holds acknowledged writes is damaged.
    #[error("{} is damaged at byte {offset}: {why}; restore from a backup (mintmark-server restore)", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where in it.
        offset: u64,
        /// What is wrong there.
        why: String,
    },

    /// An operation on a file failed.
    #[error("cannot {what} {}: {source}", path.display())]
    Io {
        /// What was attempted.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why it failed.
        source: Arc<io::Error>,
    },

    /// The index failed while serving; it is being rebuilt from the journal. A commit that is answered so may
    /// have happened: read to find out.
    #[error("the index failed ({why}) and is being rebuilt from snapshot and journal; try again")]
    Index {
        /// What failed.
        why: String,
    },

    /// Something long was given up, and left no trace.
    #[error("{why}; try again")]
    Interrupted {
        /// What, and why.
        why: String,
    },

    /// A directory of the store cannot be made or used.
    #[error("cannot prepare the store's directory: {0}")]
    Directory(Arc<FsError>),

    /// Another process has the store open.
    #[error("store {} is in use by process {pid}; stop that process first", path.display())]
    Locked {
        /// The store's directory.
        path: PathBuf,
        /// The process, as it wrote it.
        pid: String,
    },

    /// A backup would have been restored over existing state.
    #[error("{} is not empty; restore into a new or empty directory", path.display())]
    NotEmpty {
        /// The directory.
        path: PathBuf,
    },

    /// The store was closed.
    #[error("the store is closed")]
    Closed,
}

/// What a transaction expects of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expectation {
    /// That it does not exist.
    Absent,
    /// That it exists.
    Present,
    /// That its last put was at this revision.
    At(Revision),
}

impl fmt::Display for Expectation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent => f.write_str("absent"),
            Self::Present => f.write_str("present"),
            Self::At(revision) => write!(f, "at revision {revision}"),
        }
    }
}

struct Found(Option<Revision>);

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            None => f.write_str("absent"),
            Some(revision) => write!(f, "at revision {revision}"),
        }
    }
}
