//! The thread that makes leaves durable: one write and one fsync for each batch.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use super::error::{At as _, LedgerError};
use super::files;
use super::frame::{self, HEADER};
use super::log::Log;
use super::merkle::{Hash, leaf_hash};
use super::metrics;
use super::queue::Batch;
use super::{SEGMENT, keeper, prune};

/// How many full segments may wait for their hashes to be written before the writer does it itself.
const MAX_UNSEALED: usize = 2;

/// Bytes that are prepared at a time.
const PREPARED: usize = 128 * 1024;
static ZEROS: [u8; PREPARED] = [0; PREPARED];
/// Bytes that must be free for that.
const PREPARE_ABOVE: u64 = 64 << 20;

/// Writes batches until the queue is closed.
pub(super) fn run(log: &Arc<Log>) {
    let mut writer = Writer { log, open: None };
    while let Some(mut batch) = log.queue.take() {
        let count = u64::from(batch.count);
        match writer.write(&mut batch) {
            Ok(()) => {
                // Noted before those who wait are woken: whoever was answered finds the state that goes with it.
                if log.note_refusal(None) {
                    tracing::info!(path = %log.stored.dir.display(), "the issuance log has room again");
                }
                log.queue.done(batch);
                log.metrics.queued.dec_by(metrics::count(count));
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
    if let Err(error) = writer.finish() {
        tracing::error!(%error, "the issuance log was not left as it should be; the next start mends it");
    }
}

struct Writer<'a> {
    log: &'a Arc<Log>,
    open: Option<OpenFile>,
}

/// The leaves of the open segment.
struct OpenFile {
    segment: u64,
    file: File,
    path: PathBuf,
    /// The size of the file. What lies between the last frame and this is zeros.
    prepared: u64,
    /// Whether space is prepared.
    prepare: bool,
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
            match self.write_and_sync(frame, first, count, offset, &mut hashes) {
                Ok(()) => break,
                Err(error) if error.is_no_space() => {
                    self.cut(offset)?;
                    // Older leaves make room for new ones before anything is refused.
                    if !prune::prune_for_space(self.log)? {
                        return Err(self.log.full());
                    }
                }
                Err(error) => return Err(error),
            }
        }
        let mut tree = self.log.stored.tree_mut();
        tree.push_frame(&hashes, offset, offset + bytes, time);
        drop(tree);
        self.log.keeper.touch((first + count).is_multiple_of(SEGMENT));
        Ok(())
    }

    fn write_and_sync(
        &mut self,
        frame: &[u8],
        first: u64,
        count: u64,
        offset: u64,
        hashes: &mut Vec<Hash>,
    ) -> Result<(), LedgerError> {
        let log = self.log;
        let open = self.open(first / SEGMENT)?;
        let end = offset + frame.len() as u64;
        let written = log.storage.write_at(&open.file, frame, offset).at("write", &open.path);
        written.map_err(space_or_stopped)?;
        open.prepared = open.prepared.max(end);
        if (first + count).is_multiple_of(SEGMENT) {
            // A full segment ends with its last frame.
            let cut = log.storage.truncate(&open.file, end).at("truncate", &open.path);
            cut.map_err(space_or_stopped)?;
        } else {
            open.prepare(log, end);
        }
        if hashes.is_empty() {
            hashes.extend(frame::entries(&frame[HEADER..]).map(leaf_hash));
        }
        let started = log.clock.instant();
        let synced = log.storage.sync(&open.file).at("sync", &open.path);
        synced.map_err(space_or_stopped)?;
        let took = log.clock.instant().saturating_duration_since(started);
        log.metrics.fsync.observe(took.as_secs_f64());
        #[expect(clippy::cast_precision_loss, reason = "a batch has far fewer than 2^52 leaves")]
        log.metrics.leaves_per_fsync.observe(hashes.len() as f64);
        Ok(())
    }

    /// Takes back everything from `offset` on: what a failed write left, or the space that was prepared. Only when that is certain may
    /// anything be written again.
    fn cut(&mut self, offset: u64) -> Result<(), LedgerError> {
        // Where the file could not even be made there is nothing.
        let Some(open) = &mut self.open else { return Ok(()) };
        let storage = &self.log.storage;
        let cut = storage
            .truncate(&open.file, offset)
            .and_then(|()| storage.sync(&open.file));
        open.prepared = offset;
        open.prepare = false;
        cut.at("truncate", &open.path)
            .map_err(|error| LedgerError::Stopped(error.to_string()))
    }

    /// Leaves the open segment with its last frame as its end.
    fn finish(&mut self) -> Result<(), LedgerError> {
        let end = self.log.stored.tree().open.end;
        let open = self.log.stored.tree().open.number;
        match &self.open {
            Some(file) if file.segment == open && file.prepared > end => self.cut(end),
            _ => Ok(()),
        }
    }

    fn open(&mut self, segment: u64) -> Result<&mut OpenFile, LedgerError> {
        let current = self.open.take().filter(|open| open.segment == segment);
        let open = match current {
            Some(open) => open,
            None => OpenFile::new(self.log, segment)?,
        };
        Ok(self.open.insert(open))
    }
}

impl OpenFile {
    fn new(log: &Log, segment: u64) -> Result<Self, LedgerError> {
        let path = log.stored.path(&files::leaves(segment));
        let file = files::open_leaves(&path)?;
        files::sync_dir(&log.stored.dir)?;
        let prepared = file.metadata().at("read", &path)?.len();
        Ok(Self {
            segment,
            file,
            path,
            prepared,
            prepare: true,
        })
    }

    /// Has zeros written behind `end`, when there are none: a frame that is written over them costs the filesystem no change of the
    /// file's size, and so half the fsync. Only where there is room enough, and no matter whether it can be done.
    fn prepare(&mut self, log: &Log, end: u64) {
        if !self.prepare || self.prepared > end {
            return;
        }
        if log.free() < PREPARE_ABOVE {
            self.prepare = false;
            return;
        }
        self.prepare = log.storage.write_at(&self.file, &ZEROS, end).is_ok();
        self.prepared = end + PREPARED as u64;
    }
}

/// "No space" can be mended; after any other failed write nothing is certain.
fn space_or_stopped(error: LedgerError) -> LedgerError {
    if error.is_no_space() {
        error
    } else {
        LedgerError::Stopped(error.to_string())
    }
}
