//! The thread that makes leaves durable: one write and one fsync for each batch.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use super::error::{At as _, LedgerError};
use super::files;
use super::frame::{self, HEADER};
use super::log::Log;
use super::merkle::leaf_hash;
use super::metrics;
use super::queue::Batch;
use super::{SEGMENT, keeper, prune};

/// How many full segments may wait for their hashes to be written before the writer does it itself.
const MAX_UNSEALED: usize = 2;

/// Writes batches until the queue is closed.
pub(super) fn run(log: &Arc<Log>) {
    let mut writer = Writer { log, file: None };
    while let Some(mut batch) = log.queue.take() {
        let count = u64::from(batch.count);
        match writer.write(&mut batch) {
            Ok(()) => {
                log.queue.done(batch);
                log.metrics.queued.dec_by(metrics::count(count));
                if log.note_refusal(None) {
                    tracing::info!(path = %log.stored.dir.display(), "the issuance log has room again");
                }
            }
            Err(error) => {
                if log.note_refusal(Some(error.clone())) {
                    tracing::error!(%error, "leaves were not written, and what they describe was not issued");
                }
                let refused = log.queue.fail(batch, &error, log.stored.tree().size());
                log.metrics.queued.dec_by(metrics::count(refused));
            }
        }
        log.metrics.size.set(metrics::count(log.stored.tree().size()));
    }
}

struct Writer<'a> {
    log: &'a Arc<Log>,
    /// The leaves of the open segment.
    file: Option<(u64, File, PathBuf)>,
}

impl Writer<'_> {
    /// Writes a batch as one frame, or as two where a segment ends in it.
    fn write(&mut self, batch: &mut Batch) -> Result<(), LedgerError> {
        let (mut first, mut left) = (batch.first, u64::from(batch.count));
        let mut frame = std::mem::take(&mut batch.frame);
        loop {
            let room = SEGMENT - first % SEGMENT;
            if left <= room {
                self.write_frame(&mut frame, first, left)?;
                batch.frame = frame;
                return Ok(());
            }
            let taken = usize::try_from(room).unwrap_or(usize::MAX);
            let cut = HEADER
                + frame::entries(&frame[HEADER..])
                    .take(taken)
                    .map(|leaf| leaf.len() + 2)
                    .sum::<usize>();
            let rest = [&[0; HEADER], &frame[cut..]].concat();
            frame.truncate(cut);
            self.write_frame(&mut frame, first, room)?;
            first += room;
            left -= room;
            frame = rest;
        }
    }

    fn write_frame(&mut self, frame: &mut [u8], first: u64, count: u64) -> Result<(), LedgerError> {
        let bytes = frame.len() as u64;
        prune::make_room(self.log, bytes)?;
        while self.log.stored.tree().full.len() > MAX_UNSEALED {
            keeper::seal(self.log).map_err(|error| self.log.full_or_stopped(error))?;
        }
        let offset = self.log.stored.tree().open.end;
        let time = u64::try_from(self.log.clock.unix()).unwrap_or(0);
        frame::finish(frame, first, time, u32::try_from(count).unwrap_or(u32::MAX));
        let mut hashes = Vec::with_capacity(usize::try_from(count).unwrap_or(0));
        loop {
            match self.write_and_sync(frame, first / SEGMENT, offset, &mut hashes) {
                Ok(()) => break,
                Err(error) if error.is_no_space() => {
                    self.undo(first / SEGMENT, offset)?;
                    // Older leaves make room for new ones before anything is refused.
                    if !prune::prune_for_space(self.log)? {
                        return Err(self.log.full());
                    }
                }
                Err(error) => return Err(LedgerError::Stopped(error.to_string())),
            }
        }
        self.log
            .stored
            .tree_mut()
            .push_frame(&hashes, offset, offset + bytes, time);
        let sealable = (first + count).is_multiple_of(SEGMENT);
        self.log.keeper.touch(sealable);
        Ok(())
    }

    fn write_and_sync(
        &mut self,
        frame: &[u8],
        segment: u64,
        offset: u64,
        hashes: &mut Vec<[u8; 32]>,
    ) -> Result<(), LedgerError> {
        let log = self.log;
        let (file, path) = self.open(segment)?;
        log.storage.write_at(file, frame, offset).at("write", path)?;
        if hashes.is_empty() {
            hashes.extend(frame::entries(&frame[HEADER..]).map(leaf_hash));
        }
        let started = log.clock.instant();
        log.storage.sync(file).at("sync", path)?;
        log.metrics
            .fsync
            .observe(log.clock.instant().saturating_duration_since(started).as_secs_f64());
        #[expect(clippy::cast_precision_loss, reason = "a batch has far fewer than 2^52 leaves")]
        log.metrics.leaves_per_fsync.observe(hashes.len() as f64);
        Ok(())
    }

    /// Takes back what a failed write left. Only when that is certain may anything be written again.
    fn undo(&mut self, segment: u64, offset: u64) -> Result<(), LedgerError> {
        let log = self.log;
        if self.file.as_ref().is_none_or(|(number, _, _)| *number != segment) {
            // The file could not even be made.
            return Ok(());
        }
        let (file, path) = self.open(segment)?;
        let undone = log
            .storage
            .truncate(file, offset)
            .and_then(|()| log.storage.sync(file))
            .at("truncate", path);
        undone.map_err(|error| LedgerError::Stopped(error.to_string()))
    }

    fn open(&mut self, segment: u64) -> Result<(&File, &PathBuf), LedgerError> {
        if self.file.as_ref().is_none_or(|(number, _, _)| *number != segment) {
            let path = self.log.stored.path(&files::leaves(segment));
            let file = files::open_leaves(&path)?;
            files::sync_dir(&self.log.stored.dir)?;
            self.file = Some((segment, file, path));
        }
        match &self.file {
            Some((_, file, path)) => Ok((file, path)),
            None => Err(LedgerError::Closed),
        }
    }
}
