//! Opening the directory: the journal is read and checked, the index brought up to it and held against it,
//! and made again when it does not hold.

use std::{io, path::Path, sync::Arc, time::Duration};

use mintmark_runtime::{
    clock::Clock,
    crypto,
    fs::{DirLock, LockError, ensure_dir},
};

use super::{
    Disk, Failure, Places, Settings,
    codec::Kind,
    file::{RecordReader, UNFINISHED, failed},
    journal::{self, Journal, Replayed},
    numbered,
    rebuild::{hold, rebuild, since},
    snapshot::{self, Snapshots},
};
use crate::store::{
    digest::Position,
    error::StoreError,
    index::{Index, IndexError, SledIndex},
    metrics::StoreMetrics,
    types::Revision,
};

/// What opening found and did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenReport {
    /// The last acknowledged revision.
    pub revision: Revision,
    /// How many keys there are.
    pub keys: u64,
    /// Transactions that were brought into the index from the journal.
    pub replayed: u64,
    /// Bytes of a transaction that a crash cut short before it was acknowledged, now cut off.
    pub torn: u64,
    /// Why the index was made again, if it was.
    pub rebuilt: Option<String>,
    /// How long it took.
    pub took: Duration,
}

/// An open directory.
pub(in crate::store) struct Opened {
    pub(in crate::store) disk: Disk,
    pub(in crate::store) index: Box<dyn Index>,
    pub(in crate::store) position: Position,
    pub(in crate::store) report: OpenReport,
}

/// Opens `directory`, or makes a store in it.
pub(in crate::store) fn open(
    directory: &Path,
    settings: Settings,
    metrics: StoreMetrics,
) -> Result<Opened, StoreError> {
    let clock = Clock::system();
    let started = clock.instant();
    let places = Places::new(directory);
    let lock = places.prepare()?;
    let (id, fresh) = places.identify(settings)?;
    let opening = Opening {
        places: &places,
        id,
        settings,
    };
    let (ready, rebuilt) = opening.index(fresh)?;
    if rebuilt.is_some() {
        metrics.rebuilds.inc();
    }
    let journal = match ready.journal {
        Some(journal) => journal,
        None => Journal::resume(&places.journal, id, &ready.replayed, settings.reserve)?,
    };
    let report = OpenReport {
        revision: ready.position.revision,
        keys: ready.position.digest.keys,
        replayed: ready.replayed.transactions,
        torn: ready.replayed.torn,
        rebuilt,
        took: clock.instant() - started,
    };
    if report.torn > 0 {
        let path = ready.replayed.last.path.display();
        tracing::warn!(%path, bytes = report.torn, "cut off what a crash left of a transaction that was not acknowledged");
    }
    let snapshots = Snapshots::new(&places, settings)?;
    let disk = Disk {
        places: places.clone(),
        id,
        journal,
        snapshots,
        files: Arc::default(),
        metrics,
        _lock: lock,
    };
    Ok(Opened {
        disk,
        index: ready.index,
        position: ready.position,
        report,
    })
}

impl Places {
    /// Makes the directories, takes the lock, and removes what was not finished.
    pub(super) fn prepare(&self) -> Result<DirLock, StoreError> {
        for directory in [&self.directory, &self.journal, &self.snapshots] {
            ensure_dir(directory, 0o700).map_err(|error| StoreError::Directory(Arc::new(error)))?;
        }
        let lock = DirLock::acquire(&self.directory).map_err(|error| match error {
            LockError::InUse { dir, pid } => StoreError::Locked { path: dir, pid },
            LockError::Io { dir, source } => failed("lock", &dir)(source),
        })?;
        for directory in [&self.journal, &self.snapshots] {
            for entry in std::fs::read_dir(directory).map_err(failed("list", directory))? {
                let path = entry.map_err(failed("list", directory))?.path();
                if path.extension().is_some_and(|extension| extension == UNFINISHED) {
                    std::fs::remove_file(&path).map_err(failed("remove", &path))?;
                }
            }
        }
        Ok(lock)
    }

    /// The store's id, and whether nothing was ever written to it; a new store gets its journal.
    fn identify(&self, settings: Settings) -> Result<([u8; 16], bool), StoreError> {
        let segments = journal::segments(&self.journal)?;
        let Some(last) = segments.last() else {
            if !numbered(&self.snapshots, snapshot::SUFFIX)?.is_empty() || self.index.exists() {
                let why = "there is a snapshot or an index, but no journal".to_owned();
                return Err(StoreError::Damaged {
                    path: self.journal.clone(),
                    offset: 0,
                    why,
                });
            }
            let id = crypto::random();
            Journal::create(&self.journal, id, &Position::default(), settings.reserve)?;
            return Ok((id, true));
        };
        let reader = RecordReader::open(&last.path, Kind::Journal)?;
        let untouched = segments.len() == 1 && reader.offset() == reader.length();
        Ok((reader.header().id, untouched && !self.index.exists()))
    }

    pub(super) fn snapshots(&self) -> Result<Vec<(Revision, std::path::PathBuf)>, StoreError> {
        numbered(&self.snapshots, snapshot::SUFFIX)
    }
}

/// An index that holds what the journal says.
struct Ready {
    index: Box<dyn Index>,
    position: Position,
    replayed: Replayed,
    /// A segment that was begun already.
    journal: Option<Journal>,
}

struct Opening<'a> {
    places: &'a Places,
    id: [u8; 16],
    settings: Settings,
}

impl Opening<'_> {
    /// The index, and why it was made again if it was.
    fn index(&self, fresh: bool) -> Result<(Ready, Option<String>), StoreError> {
        let why = if fresh {
            None
        } else {
            match self.existing() {
                Ok(ready) => return Ok((ready, None)),
                Err(Failure::Store(error)) => return Err(error),
                Err(Failure::Index(error)) => {
                    tracing::warn!(index = %self.places.index.display(), %error, "the store's index is damaged, making it again from snapshot and journal; nothing acknowledged is lost");
                    Some(error.0)
                }
            }
        };
        let (index, replayed) = rebuild(self.places, self.id)?;
        Ok((
            Ready {
                index,
                position: replayed.end,
                replayed,
                journal: None,
            },
            why,
        ))
    }

    /// The index that is there, if it can be brought up to the journal and holds what that says.
    fn existing(&self) -> Result<Ready, Failure> {
        let (mut index, at) = open_existing(self.places, self.id)?;
        let segments = journal::segments(&self.places.journal)?;
        // What is behind the newest snapshot is read too: damage there must not wait to be found.
        let covered = self.places.snapshots()?.last().map_or(0, |(revision, _)| *revision);
        let segments = since(&segments, at.revision.min(covered)).ok_or_else(|| {
            IndexError(format!(
                "it ends at revision {}, before the journal begins",
                at.revision
            ))
        })?;
        let replayed = journal::replay(segments, at.revision, |to, commits| {
            let events = commits.iter().flat_map(|committed| &committed.events);
            index.apply(Some(to), &mut events.map(|event| (&event.key, event.pair())))
        })?;
        if at.revision > replayed.end.revision {
            return self.ahead(index, at, replayed);
        }
        hold(&index, &replayed.end)?;
        Ok(Ready {
            index: Box::new(index),
            position: replayed.end,
            replayed,
            journal: None,
        })
    }

    /// The journal has lost its end, which only a disk that lies or a hand does; the index still has it.
    fn ahead(&self, index: SledIndex, at: Position, replayed: Replayed) -> Result<Ready, Failure> {
        let end = replayed.end.revision;
        let (path, offset) = (replayed.last.path.clone(), replayed.length);
        if let Err(error) = hold(&index, &at) {
            let why = format!(
                "the journal ends at revision {end}, but the index has seen {} and is damaged too ({error})",
                at.revision
            );
            return Err(StoreError::Damaged { path, offset, why }.into());
        }
        tracing::warn!(path = %path.display(), journal = end, index = at.revision, "the journal has lost its end; the index has it whole, and becomes the snapshot that the journal goes on from");
        snapshot::from_index(self.places, self.id, &index, &at)?;
        let journal = Journal::create(&self.places.journal, self.id, &at, self.settings.reserve)?;
        snapshot::cut(self.places, 1)?;
        Ok(Ready {
            index: Box::new(index),
            position: at,
            replayed,
            journal: Some(journal),
        })
    }
}

/// Opens sled, unless it shows that it was interrupted where it does not recover.
fn open_existing(places: &Places, id: [u8; 16]) -> Result<(SledIndex, Position), IndexError> {
    let entries = match std::fs::read_dir(&places.index) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(IndexError("it is missing".to_owned())),
        Err(error) => return Err(IndexError(format!("it cannot be listed: {error}"))),
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        if name.to_string_lossy().ends_with(".generating") {
            return Err(IndexError(format!("sled left {} behind", name.display())));
        }
    }
    let (index, at) = SledIndex::open(&places.index, id)?;
    let at = at.ok_or_else(|| IndexError("it was never finished".to_owned()))?;
    Ok((index, at))
}
