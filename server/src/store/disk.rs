//! The store's directory: what is acknowledged is in the journal, and the journal begins behind a snapshot.
//!
//! ```text
//! lock                             held by the process that has the store open
//! journal/<revision>.journal       transactions after that revision; see `codec`
//! snapshots/<revision>.snapshot    the newest image, and the one before it
//! index/                           sled, made again from the others when it is damaged
//! index.damaged/                   the last one that was, for whoever wants to know why
//! ```

pub(super) mod backup;
pub(super) mod codec;
#[cfg(test)]
pub(super) mod faults;
pub(super) mod file;
pub(super) mod image;
pub(super) mod journal;
mod open;
mod rebuild;
mod snapshot;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use mintmark_runtime::{clock::Clock, fs::DirLock};

pub use self::open::OpenReport;
pub(super) use self::open::open;
use self::{
    file::{RESERVE, failed},
    journal::Journal,
    snapshot::Snapshots,
};
use super::{
    digest::Position,
    error::StoreError,
    index::{Index, IndexError},
    local::Shared,
    metrics::StoreMetrics,
    types::Revision,
};

/// How the directory is kept; other than default in tests.
#[derive(Clone, Copy, Debug)]
pub(super) struct Settings {
    /// A snapshot is due when the journal after the last one is longer than this, and than that one.
    pub(super) snapshot_after: u64,
    /// Bytes that must stay free on the file system.
    pub(super) reserve: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            snapshot_after: 32 << 20,
            reserve: RESERVE,
        }
    }
}

/// The places in the directory.
#[derive(Clone, Debug)]
pub(super) struct Places {
    pub(super) directory: PathBuf,
    pub(super) journal: PathBuf,
    pub(super) snapshots: PathBuf,
    pub(super) index: PathBuf,
    pub(super) damaged: PathBuf,
}

impl Places {
    pub(super) fn new(directory: &Path) -> Self {
        Self {
            directory: directory.into(),
            journal: directory.join("journal"),
            snapshots: directory.join("snapshots"),
            index: directory.join("index"),
            damaged: directory.join("index.damaged"),
        }
    }
}

/// The directory of an open store, in the hands of its writer.
pub(super) struct Disk {
    places: Places,
    id: [u8; 16],
    journal: Journal,
    snapshots: Snapshots,
    /// Held while files are removed, and while they are read to make an index again.
    files: Arc<Mutex<()>>,
    metrics: StoreMetrics,
    _lock: DirLock,
}

impl Disk {
    /// Makes one group of transactions durable; when it fails, nothing of it stays.
    pub(super) fn append(&mut self, payload: &Bytes) -> Result<(), StoreError> {
        let clock = Clock::system();
        let started = clock.instant();
        let appended = self.journal.append(payload);
        self.metrics.sync.observe((clock.instant() - started).as_secs_f64());
        match appended {
            Ok(length) => {
                self.snapshots.uncovered += length;
                Ok(())
            }
            Err(error) => {
                self.metrics.failures.inc();
                Err(error)
            }
        }
    }

    /// What is due after a group: a new segment, a snapshot, the outcome of one.
    pub(super) fn tend(&mut self, position: &Position, shared: &Arc<Shared>) {
        self.note(|snapshots| snapshots.outcome());
        self.metrics
            .journal
            .set(i64::try_from(self.snapshots.uncovered).unwrap_or(i64::MAX));
        let due = self.snapshots.is_due();
        if !due && !self.journal.is_long() {
            return;
        }
        if let Err(error) = self.journal.rotate(position) {
            tracing::warn!(%error, "cannot begin a new journal segment, trying again later");
            return;
        }
        if due {
            self.snapshots
                .start(&self.places, self.id, Arc::clone(shared), Arc::clone(&self.files));
        }
    }

    /// Makes the index again from snapshot and journal.
    pub(super) fn rebuild(&self) -> Result<(Box<dyn Index>, Position), StoreError> {
        self.metrics.rebuilds.inc();
        let _files = snapshot::lock(&self.files);
        let (index, replayed) = rebuild::rebuild(&self.places, self.id)?;
        Ok((index, replayed.end))
    }

    /// That the journal is not what was written to it.
    pub(super) fn damaged(&self, why: String) -> StoreError {
        StoreError::Damaged {
            path: self.places.journal.clone(),
            offset: 0,
            why,
        }
    }

    /// Says in the journal that it ends in order. The index is gone by then, so that a snapshot that is
    /// being taken ends by itself.
    pub(super) fn close(mut self, revision: Revision) {
        self.note(Snapshots::wait);
        if let Err(error) = self.journal.append(&codec::encode_closed(revision)) {
            tracing::warn!(%error, "cannot mark the journal as closed");
        }
    }

    #[cfg(test)]
    pub(super) fn faults(&self) -> Arc<faults::Faults> {
        Arc::clone(&self.journal.faults)
    }

    pub(super) fn id(&self) -> [u8; 16] {
        self.id
    }

    fn note(&mut self, outcome: impl FnOnce(&mut Snapshots) -> Option<Result<u64, StoreError>>) {
        match outcome(&mut self.snapshots) {
            None | Some(Err(StoreError::Closed)) => {}
            Some(Ok(bytes)) => {
                self.metrics.snapshots.inc();
                tracing::debug!(bytes, "took a snapshot of the store");
            }
            Some(Err(error)) => {
                self.metrics.snapshot_failures.inc();
                tracing::warn!(%error, "cannot take a snapshot of the store; the journal grows until one succeeds");
            }
        }
    }
}

/// What went wrong: a file of the store's, or the index.
#[derive(Debug)]
pub(super) enum Failure {
    Store(StoreError),
    Index(IndexError),
}

impl Failure {
    fn into_store(self) -> StoreError {
        match self {
            Self::Store(error) => error,
            Self::Index(error) => StoreError::Index { why: error.0 },
        }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<IndexError> for Failure {
    fn from(error: IndexError) -> Self {
        Self::Index(error)
    }
}

/// The files in `directory` that are named for a revision, the lowest first.
fn numbered(directory: &Path, suffix: &str) -> Result<Vec<(Revision, PathBuf)>, StoreError> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(failed("list", directory))? {
        let path = entry.map_err(failed("list", directory))?.path();
        let number = path
            .file_stem()
            .and_then(|stem| stem.to_str())
            .and_then(|stem| stem.parse().ok());
        if let Some(number) = number
            && path.extension().is_some_and(|extension| extension == suffix)
        {
            found.push((number, path));
        }
    }
    found.sort();
    Ok(found)
}
