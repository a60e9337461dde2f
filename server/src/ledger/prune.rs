//! Retention: the oldest segments go, before anything is refused.
//!
//! Whole sealed segments of the oldest log that has some. First the new minimum index is published, then the files are removed; the
//! roots stay. Segments go when they are older than the retention, when the maximum size would be passed, and when the filesystem is
//! short of room: then as many as were written, so that the ledger stops growing but never gives way to what others write.

use std::path::Path;

use super::error::LedgerError;
use super::files;
use super::keeper::{seal, write_checkpoint};
use super::log::Log;
use super::metrics;
use super::tree::Sealed;
use super::{SEGMENT, minimum_text};

/// What of a filesystem is left to others: this, or an eighth of a small one.
const RESERVE: u64 = 128 << 20;
/// A warning is given at this share of the room that there is.
const WARN_PERCENT: u64 = 80;
/// Below this share it may be given again.
const WARN_AGAIN_PERCENT: u64 = 75;

/// Prunes what is too old or too much, after `sealed` segments were sealed, and tells how much room there is.
pub(super) fn prune(log: &Log, sealed: u64) -> Result<(), LedgerError> {
    let mut gone = 0;
    while let Some((owner, oldest)) = oldest(log) {
        let now = log.age_clock();
        // Room for the open segment to grow as large as a sealed one.
        let open = log.stored.tree().open.end;
        let wanted = log.bytes().saturating_add(oldest.bytes.saturating_sub(open));
        let space = log.storage.space(&log.stored.dir);
        let crowded = || space.is_ok_and(|(free, total)| free < RESERVE.min(total / 8));
        let goes = oldest.newest < now.saturating_sub(log.retention_secs)
            || wanted > log.max_size
            || (gone < sealed && !is_last(log) && crowded());
        if !goes {
            break;
        }
        prune_oldest(owner)?;
        gone += 1;
    }
    tell_room(log);
    Ok(())
}

/// Makes room for `bytes` within the maximum size.
pub(super) fn make_room(log: &Log, bytes: u64) -> Result<(), LedgerError> {
    while log.bytes().saturating_add(bytes) > log.max_size {
        let stopped = |error| log.full_or_stopped(error);
        if let Some((owner, _)) = oldest(log) {
            prune_oldest(owner).map_err(stopped)?;
        } else if !seal(log).map_err(stopped)? {
            return Err(log.full());
        }
    }
    Ok(())
}

/// Makes room on a full disk, but keeps the newest sealed segment. Whether there is more room now.
pub(super) fn prune_for_space(log: &Log) -> Result<bool, LedgerError> {
    let Some((owner, _)) = oldest(log).filter(|_| !is_last(log)) else {
        return Ok(false);
    };
    let path = log.stored.dir.display();
    tracing::warn!(%path, "the filesystem of the issuance log is full: its oldest leaves are pruned to make room");
    match prune_oldest(owner) {
        Ok(()) => Ok(true),
        Err(error) if error.is_no_space() => Ok(false),
        Err(error) => Err(log.full_or_stopped(error)),
    }
}

/// The oldest sealed segment that is there, and its log.
fn oldest(log: &Log) -> Option<(&Log, Sealed)> {
    log.all()
        .find_map(|log| Some((log, log.stored.tree().sealed.front().copied()?)))
}

/// Whether there is but one sealed segment.
fn is_last(log: &Log) -> bool {
    log.all().map(|log| log.stored.tree().sealed.len()).sum::<usize>() < 2
}

/// Removes the oldest sealed segment of this log.
fn prune_oldest(log: &Log) -> Result<(), LedgerError> {
    let mut kept = log.keeper.files();
    let Some(oldest) = log.stored.tree().sealed.front().copied() else {
        return Ok(());
    };
    let minimum = (oldest.number + 1) * SEGMENT;
    let hashes = log.stored.path(&files::hashes(oldest.number));
    // A checkpoint that is smaller than the minimum index would be of a tree that nobody could verify.
    if kept.checkpoint < minimum {
        give_way(&hashes, || write_checkpoint(log, &mut kept))?;
    }
    let note = log.signer.sign(&minimum_text(log.signer.verifier().name(), minimum));
    give_way(&hashes, || {
        files::replace(&*log.storage, &log.stored.path(files::MINIMUM), note.as_bytes())
    })?;
    {
        let mut tree = log.stored.tree_mut();
        tree.sealed.pop_front();
        tree.first_segment = oldest.number + 1;
    }
    files::remove(&log.stored.path(&files::leaves(oldest.number)))?;
    files::remove(&hashes)?;
    files::sync_dir(&log.stored.dir)?;
    tracing::info!(
        log = log.stored.number,
        minimum_index = minimum,
        "pruned 65,536 leaves of the issuance log"
    );
    Ok(())
}

/// On a full disk the hashes of the segment that is to be pruned go first, so that there is room to say so. They can be made again.
fn give_way(hashes: &Path, mut write: impl FnMut() -> Result<(), LedgerError>) -> Result<(), LedgerError> {
    match write() {
        Err(error) if error.is_no_space() => {
            files::remove(hashes)?;
            write()
        }
        other => other,
    }
}

/// Shows how much room there is, and warns when little is left.
pub(super) fn tell_room(log: &Log) {
    let (used, free) = (log.bytes(), log.free());
    log.metrics.used.set(metrics::count(used));
    log.metrics.free.set(metrics::count(free));
    log.metrics.minimum.set(metrics::count(log.stored.tree().minimum()));
    let capacity = used.saturating_add(free);
    let percent = used.saturating_mul(100) / capacity.max(1);
    let mut kept = log.keeper.files();
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
