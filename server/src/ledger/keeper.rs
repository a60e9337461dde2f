//! What happens behind the writer: full segments get their hashes, checkpoints are written, old segments are pruned.
//!
//! A checkpoint is written at most once a second after appends, when a segment is sealed, and on a clean stop. Nothing happens while
//! nothing is appended.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::error::LedgerError;
use super::files;
use super::log::Log;
use super::metrics;
use super::segment::HASHES_SIZE;
use super::{SEGMENT, minimum_text};

/// The least time between two checkpoints that are written only because leaves were appended.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(1);
/// What of a filesystem is left to others before old segments are pruned: this, or an eighth of a small one.
const RESERVE: u64 = 128 << 20;
/// Below this share of the maximum size a warning may be given again.
const WARN_AGAIN_PERCENT: u64 = 75;
const WARN_PERCENT: u64 = 80;

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
struct Kept {
    /// The size of the checkpoint on the disk.
    checkpoint: u64,
    warned: bool,
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

    fn files(&self) -> MutexGuard<'_, Kept> {
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
        if kept.as_ref().is_err_and(LedgerError::is_no_space) {
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
    let mut kept = log.keeper.files();
    let result = result.and(write_checkpoint(log, &mut kept));
    result.and(prune(log, &mut kept, sealed))
}

fn report(log: &Log, error: Option<&LedgerError>) {
    let was_failing = std::mem::replace(&mut log.keeper.files().failing, error.is_some());
    match error {
        Some(error) if !error.is_no_space() => {
            tracing::error!(%error, "the ledger stops: a file beside the leaves could not be written");
            log.queue.stop(&error.to_string());
        }
        Some(error) if !was_failing => {
            tracing::warn!(%error, "no space for the ledger's checkpoint or hashes; issuing goes on as long as leaves can be written");
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
    use super::error::At as _;
    let path = log.stored.path(files::ROOTS);
    let missing = || LedgerError::NotFound(format!("the root of segment {segment}"));
    let root = log.stored.tree().recent_root(segment).ok_or_else(missing)?;
    let file = files::open_leaves(&path)?;
    log.storage.write_at(&file, &root, segment * 32).at("write", &path)?;
    log.storage.sync(&file).at("sync", &path)
}

fn write_checkpoint(log: &Log, kept: &mut Kept) -> Result<(), LedgerError> {
    let (checkpoint, note) = log.sign_checkpoint();
    if checkpoint.size == kept.checkpoint {
        return Ok(());
    }
    files::replace(&*log.storage, &log.stored.path(files::CHECKPOINT), note.as_bytes())?;
    kept.checkpoint = checkpoint.size;
    Ok(())
}

/// Prunes what is too old or too much, and tells how much room there is. Where the filesystem has little room left, the ledger stops
/// growing: as many segments go as were just sealed. It never gives way to what others write.
fn prune(log: &Log, kept: &mut Kept, sealed: u64) -> Result<(), LedgerError> {
    let mut gone = 0;
    loop {
        let too_old = u64::try_from(log.clock.unix())
            .unwrap_or(0)
            .saturating_sub(log.retention_secs);
        let (oldest, used, open, several) = {
            let tree = log.stored.tree();
            (
                tree.sealed.front().copied(),
                tree.bytes(),
                tree.open.end,
                tree.sealed.len() > 1,
            )
        };
        let Some(oldest) = oldest else { break };
        // Room for the open segment to grow as large as a sealed one.
        let wanted = used.saturating_add(oldest.bytes.saturating_sub(open));
        let crowded = log
            .storage
            .space(&log.stored.dir)
            .is_ok_and(|(free, total)| free < RESERVE.min(total / 8));
        if !(oldest.newest < too_old || wanted > log.max_size || (crowded && several && gone < sealed)) {
            break;
        }
        prune_oldest(log, kept)?;
        gone += 1;
    }
    tell_room(log, kept);
    Ok(())
}

/// Removes the oldest sealed segment. First the new minimum index is published, then its files go.
fn prune_oldest(log: &Log, kept: &mut Kept) -> Result<(), LedgerError> {
    let Some(oldest) = log.stored.tree().sealed.front().copied() else {
        return Ok(());
    };
    let minimum = (oldest.number + 1) * SEGMENT;
    let hashes = log.stored.path(&files::hashes(oldest.number));
    // A checkpoint that is smaller than the minimum index would be of a tree that nobody could verify.
    if kept.checkpoint < minimum {
        give_way(write_checkpoint(log, kept), &hashes, || write_checkpoint(log, kept))?;
    }
    let note = log.signer.sign(&minimum_text(log.signer.verifier().name(), minimum));
    let write = || files::replace(&*log.storage, &log.stored.path(files::MINIMUM), note.as_bytes());
    give_way(write(), &hashes, write)?;
    {
        let mut tree = log.stored.tree_mut();
        tree.sealed.pop_front();
        tree.first_segment = oldest.number + 1;
    }
    files::remove(&log.stored.path(&files::leaves(oldest.number)))?;
    files::remove(&hashes)?;
    files::sync_dir(&log.stored.dir)?;
    tracing::info!(minimum_index = minimum, "pruned 65,536 leaves of the issuance log");
    log.metrics.minimum.set(metrics::count(minimum));
    Ok(())
}

/// On a full disk the hashes of the segment that is to be pruned go first, so that there is room to say so. They can be made again.
fn give_way(
    first: Result<(), LedgerError>,
    hashes: &std::path::Path,
    mut again: impl FnMut() -> Result<(), LedgerError>,
) -> Result<(), LedgerError> {
    match first {
        Err(error) if error.is_no_space() => {
            files::remove(hashes)?;
            again()
        }
        other => other,
    }
}

/// Makes room for `bytes` within the maximum size.
pub(super) fn make_room(log: &Log, bytes: u64) -> Result<(), LedgerError> {
    while log.stored.tree().bytes().saturating_add(bytes) > log.max_size {
        let stopped = |error| log.full_or_stopped(error);
        if log.stored.tree().sealed.is_empty() && !seal(log).map_err(stopped)? {
            return Err(log.full());
        }
        prune_oldest(log, &mut log.keeper.files()).map_err(stopped)?;
    }
    Ok(())
}

/// Makes room on a full disk, but keeps the newest sealed segment. Whether there is more room now.
pub(super) fn prune_for_space(log: &Log) -> Result<bool, LedgerError> {
    let mut kept = log.keeper.files();
    if log.stored.tree().sealed.len() < 2 {
        return Ok(false);
    }
    tracing::warn!(path = %log.stored.dir.display(), "the filesystem of the issuance log is full: its oldest leaves are pruned to make room");
    match prune_oldest(log, &mut kept) {
        Ok(()) => Ok(true),
        Err(error) if error.is_no_space() => Ok(false),
        Err(error) => Err(LedgerError::Stopped(error.to_string())),
    }
}

fn tell_room(log: &Log, kept: &mut Kept) {
    let (used, minimum) = {
        let tree = log.stored.tree();
        (tree.bytes(), tree.minimum())
    };
    log.metrics.used.set(metrics::count(used));
    log.metrics.minimum.set(metrics::count(minimum));
    log.metrics.free.set(metrics::count(log.free()));
    let capacity = used.saturating_add(log.free());
    let percent = used.saturating_mul(100) / capacity.max(1);
    if percent >= WARN_PERCENT && !kept.warned {
        kept.warned = true;
        tracing::warn!(
            used,
            capacity,
            max_size = log.max_size,
            "the issuance log has used {percent} % of the room it has (ledger.max_size, or its filesystem); when there is no more, its oldest leaves are pruned before ledger.retention is over"
        );
    } else if percent < WARN_AGAIN_PERCENT {
        kept.warned = false;
    }
}

/// The first look at the room, at start.
pub(super) fn start(log: &Log) {
    let size = log.stored.tree().size();
    log.metrics.size.set(metrics::count(size));
    let mut kept = log.keeper.files();
    tell_room(log, &mut kept);
    let behind = kept.checkpoint != size;
    drop(kept);
    let seal = !log.stored.tree().full.is_empty();
    if behind || seal || !log.stored.tree().sealed.is_empty() {
        log.keeper.touch(seal);
    }
}
