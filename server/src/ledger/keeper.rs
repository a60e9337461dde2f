//! What happens behind the writer: full segments get their hashes, checkpoints are written, old segments are [pruned](super::prune).
//!
//! A checkpoint is written at most once a second after appends, when a segment is sealed, and on a clean stop. Nothing happens while
//! nothing is appended.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::error::{At as _, LedgerError};
use super::files;
use super::log::Log;
use super::metrics;
use super::prune;
use super::segment::HASHES_SIZE;

/// The least time between two checkpoints that are written only because leaves were appended.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(1);

/// The state of the keeper's thread, and the lock under which files other than the open segment are written.
#[derive(Debug)]
pub(super) struct Keeper {
    wanted: Mutex<Wanted>,
    wake: Condvar,
    files: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Wanted {
    checkpoint: bool,
    seal: bool,
    close: bool,
}

#[derive(Debug)]
pub(super) struct Kept {
    /// The size of the checkpoint on the disk.
    pub(super) checkpoint: u64,
    /// Whether a lack of room was told.
    pub(super) warned: bool,
    failing: bool,
}

impl Keeper {
    pub(super) fn new(checkpoint: u64) -> Self {
        Self {
            wanted: Mutex::default(),
            wake: Condvar::new(),
            files: Mutex::new(Kept {
                checkpoint,
                warned: false,
                failing: false,
            }),
        }
    }

    /// The size of the checkpoint on the disk.
    pub(super) fn checkpoint_size(&self) -> u64 {
        self.files().checkpoint
    }

    /// Hears that leaves were appended, and whether they filled a segment.
    pub(super) fn touch(&self, seal: bool) {
        let mut wanted = self.wanted();
        let news = !wanted.checkpoint || seal;
        wanted.checkpoint = true;
        wanted.seal |= seal;
        drop(wanted);
        if news {
            self.wake.notify_one();
        }
    }

    /// Ends the thread, after the last checkpoint.
    pub(super) fn close(&self) {
        self.wanted().close = true;
        self.wake.notify_one();
    }

    fn wanted(&self) -> MutexGuard<'_, Wanted> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn files(&self) -> MutexGuard<'_, Kept> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until there is something to do, and for a checkpoint until it is due. Whether this is the end.
    fn wait(&self, mut due: Option<Instant>, now: impl Fn() -> Instant) -> bool {
        let mut wanted = self.wanted();
        loop {
            if wanted.close || wanted.seal {
                break;
            }
            if !wanted.checkpoint {
                wanted = self.wake.wait(wanted).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let Some(left) = due
                .map(|due| due.saturating_duration_since(now()))
                .filter(|left| !left.is_zero())
            else {
                break;
            };
            let (again, waited) = self
                .wake
                .wait_timeout(wanted, left)
                .unwrap_or_else(PoisonError::into_inner);
            wanted = again;
            if waited.timed_out() {
                due = None;
            }
        }
        let close = wanted.close;
        *wanted = Wanted {
            close,
            ..Wanted::default()
        };
        close
    }
}

/// Keeps the log until it is closed. Whether the last checkpoint could be written.
pub(super) fn run(log: &Arc<Log>) -> Result<(), LedgerError> {
    let mut due = None;
    loop {
        let closing = log.keeper.wait(due, || log.clock.instant());
        let kept = keep(log);
        due = Some(log.clock.instant() + CHECKPOINT_EVERY);
        report(log, kept.as_ref().err());
        if closing {
            return kept;
        }
        if kept.as_ref().is_err_and(LedgerError::is_passing) {
            // Again in a second; there may be room by then.
            log.keeper.touch(false);
        }
    }
}

/// Everything that is to be done now. One thing that fails does not keep the others from being done.
fn keep(log: &Log) -> Result<(), LedgerError> {
    let (mut sealed, mut result) = (0, Ok(()));
    loop {
        match seal(log) {
            Ok(true) => sealed += 1,
            Ok(false) => break,
            Err(error) => {
                result = Err(error);
                break;
            }
        }
    }
    let result = result.and(write_checkpoint(log, &mut log.keeper.files()));
    result.and(prune::prune(log, sealed))
}

/// Brings an older log, to which nothing is appended any more, to the state of a clean stop.
pub(super) fn settle(log: &Log) -> Result<(), LedgerError> {
    while seal(log)? {}
    write_checkpoint(log, &mut log.keeper.files())
}

fn report(log: &Log, error: Option<&LedgerError>) {
    let was_failing = std::mem::replace(&mut log.keeper.files().failing, error.is_some());
    match error {
        Some(error) if !error.is_passing() => {
            tracing::error!(%error, "the ledger stops: a file beside the leaves could not be written");
            log.queue.stop(&error.to_string());
        }
        Some(error) if !was_failing => {
            tracing::warn!(%error, "the ledger's checkpoint or hashes could not be written; issuing goes on as long as leaves can be written");
        }
        None if was_failing => tracing::info!("the ledger's checkpoint and hashes are written again"),
        _ => (),
    }
}

/// Writes the hashes and the root of the oldest full segment. Whether there was one.
pub(super) fn seal(log: &Log) -> Result<bool, LedgerError> {
    let _kept = log.keeper.files();
    let Some(full) = log.stored.tree().full.front().cloned() else {
        return Ok(false);
    };
    let storage = &*log.storage;
    files::replace(
        storage,
        &log.stored.path(&files::hashes(full.number)),
        &full.to_hashes(),
    )?;
    write_root(log, full.number)?;
    log.stored.tree_mut().seal(full.end + HASHES_SIZE);
    Ok(true)
}

fn write_root(log: &Log, segment: u64) -> Result<(), LedgerError> {
    let path = log.stored.path(files::ROOTS);
    let missing = || LedgerError::NotFound(format!("the root of segment {segment}"));
    let root = log.stored.tree().recent_root(segment).ok_or_else(missing)?;
    let file = files::open_leaves(&path)?;
    log.storage.write_at(&file, &root, segment * 32).at("write", &path)?;
    log.storage.sync(&file).at("sync", &path)
}

/// Writes a checkpoint of what is durable, unless there is one.
pub(super) fn write_checkpoint(log: &Log, kept: &mut Kept) -> Result<(), LedgerError> {
    let (checkpoint, note) = log.sign_checkpoint();
    if checkpoint.size == kept.checkpoint {
        return Ok(());
    }
    files::replace(&*log.storage, &log.stored.path(files::CHECKPOINT), note.as_bytes())?;
    kept.checkpoint = checkpoint.size;
    Ok(())
}

/// The first look at the room, at start.
pub(super) fn start(log: &Log) {
    let size = log.stored.tree().size();
    log.metrics.size.set(metrics::count(size));
    prune::tell_room(log);
    let seal = !log.stored.tree().full.is_empty();
    if log.keeper.files().checkpoint != size || seal || log.has_sealed() {
        log.keeper.touch(seal);
    }
}
