//! Snapshots: when one is due, a thread writes an image while transactions go on, and what the journal
//! holds behind the snapshot before it is cut.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
};

use super::{
    Places, Settings,
    file::{UNFINISHED, failed, sync_parent},
    image::{self, Chunk},
    journal,
};
use crate::store::{
    digest::Position,
    error::StoreError,
    index::{Index, Page},
    local::Shared,
    types::Revision,
};

/// The end of a snapshot's name.
pub(super) const SUFFIX: &str = "snapshot";

/// How many are kept.
const KEPT: usize = 2;

/// When the next snapshot is due, and the one that is being taken.
pub(super) struct Snapshots {
    after: u64,
    /// Bytes in the journal that the last snapshot does not cover.
    pub(super) uncovered: u64,
    /// The length of the last snapshot.
    last: u64,
    running: Option<JoinHandle<Result<u64, StoreError>>>,
}

impl Snapshots {
    pub(super) fn new(places: &Places, settings: Settings) -> Result<Self, StoreError> {
        let length = |path: &PathBuf| Ok(path.metadata().map_err(failed("look at", path))?.len());
        let (covered, last) = match places.snapshots()?.last() {
            Some((revision, path)) => (*revision, length(path)?),
            None => (0, 0),
        };
        let mut uncovered = 0;
        for segment in journal::segments(&places.journal)? {
            if segment.base >= covered {
                uncovered += length(&segment.path)?;
            }
        }
        Ok(Self {
            after: settings.snapshot_after,
            uncovered,
            last,
            running: None,
        })
    }

    pub(super) fn is_due(&self) -> bool {
        self.running.is_none() && self.uncovered >= self.after.max(self.last)
    }

    /// Starts one in its own thread; the journal has just begun a new segment.
    pub(super) fn start(&mut self, places: &Places, id: [u8; 16], shared: Arc<Shared>, files: Arc<Mutex<()>>) {
        self.uncovered = 0;
        let places = places.clone();
        let take = move || take(&places, id, &shared, &files);
        match thread::Builder::new().name("store-snapshot".to_owned()).spawn(take) {
            Ok(running) => self.running = Some(running),
            Err(error) => tracing::warn!(%error, "no thread for a snapshot, trying again later"),
        }
    }

    /// The outcome of the one that was being taken, once it has one.
    pub(super) fn outcome(&mut self) -> Option<Result<u64, StoreError>> {
        self.running.as_ref().filter(|running| running.is_finished())?;
        self.wait()
    }

    /// Waits for the one that is being taken.
    pub(super) fn wait(&mut self) -> Option<Result<u64, StoreError>> {
        let outcome = self.running.take()?.join().unwrap_or_else(|_| {
            Err(StoreError::Interrupted {
                why: "the snapshot's thread panicked".to_owned(),
            })
        });
        if let Ok(length) = &outcome {
            self.last = *length;
        }
        Some(outcome)
    }
}

/// Takes a snapshot, and cuts the journal behind the one before it.
fn take(places: &Places, id: [u8; 16], shared: &Shared, files: &Mutex<()>) -> Result<u64, StoreError> {
    let (_, length) = shared.image(places.next(), |at| places.snapshot(at.revision), id)?;
    // The index must not fall behind the journal's beginning when the machine loses power. One that is being
    // closed is made durable by that.
    match shared.sync() {
        Ok(()) | Err(StoreError::Closed) => {}
        Err(error) => return Err(error),
    }
    let _files = lock(files);
    cut(places, KEPT)?;
    Ok(length)
}

/// Writes a snapshot of an index that nobody else has.
pub(super) fn from_index(places: &Places, id: [u8; 16], index: &dyn Index, at: &Position) -> Result<(), StoreError> {
    let step = |after: Option<&bytes::Bytes>, page: Page| {
        let pairs = index.scan(b"", after.map(|after| &**after), page);
        let pairs = pairs.map_err(|error| StoreError::Index { why: error.0 })?;
        Ok(Chunk {
            groups: Vec::new(),
            pairs,
            at: *at,
        })
    };
    image::write(places.next(), |at| places.snapshot(at.revision), id, step).map(|_| ())
}

/// Removes all but the newest `kept` snapshots and, when there are that many, what the journal holds behind
/// them.
pub(super) fn cut(places: &Places, kept: usize) -> Result<(), StoreError> {
    let mut removed = places.snapshots()?;
    let left = removed.split_off(removed.len().saturating_sub(kept));
    for (_, path) in &removed {
        std::fs::remove_file(path).map_err(failed("remove", path))?;
    }
    sync_parent(&places.next())?;
    match left.first() {
        Some((oldest, _)) if left.len() == kept => journal::cut_behind(&places.journal, *oldest),
        _ => Ok(()),
    }
}

pub(super) fn lock(files: &Mutex<()>) -> MutexGuard<'_, ()> {
    files.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Places {
    pub(super) fn next(&self) -> PathBuf {
        self.snapshots.join(format!("next.{UNFINISHED}"))
    }

    pub(super) fn snapshot(&self, revision: Revision) -> PathBuf {
        self.snapshots.join(format!("{revision:020}.{SUFFIX}"))
    }
}
