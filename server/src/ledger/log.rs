//! What the writer, the keeper and the callers of one open log share.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use mintmark_runtime::clock::Clock;

use super::error::LedgerError;
use super::files::Storage;
use super::keeper::Keeper;
use super::lock::Lock;
use super::metrics::Metrics;
use super::note::{Checkpoint, Signer};
use super::queue::Queue;
use super::settings::Settings;
use super::tree::Stored;

/// Of the retention, the clock may have been set ahead by this part.
const AHEAD: u64 = 16;

/// One log, open for appending.
#[derive(Debug)]
pub(super) struct Log {
    pub(super) signer: Signer,
    pub(super) stored: Arc<Stored>,
    pub(super) queue: Queue,
    pub(super) keeper: Keeper,
    pub(super) storage: Arc<dyn Storage>,
    pub(super) clock: Clock,
    pub(super) metrics: Metrics,
    pub(super) retention_secs: u64,
    pub(super) max_size: u64,
    /// When it was opened, by the clock that can be set and by the one that cannot.
    opened: (i64, Instant),
    /// Why the last batch was refused, where it was for want of room.
    refused: Mutex<Option<LedgerError>>,
    /// The logs of this ledger that are no longer appended to, oldest first.
    older: Vec<Self>,
    /// Held as long as this process may write.
    lock: Mutex<Option<Lock>>,
}

impl Log {
    pub(super) fn new(
        signer: Signer,
        stored: Arc<Stored>,
        lock: Lock,
        checkpoint_size: u64,
        older: Vec<Self>,
        settings: Settings,
    ) -> Self {
        let (size, number) = (stored.tree().size(), stored.number);
        let opened = (settings.clock.unix(), settings.clock.instant());
        Self {
            signer,
            stored,
            queue: Queue::new(number, size),
            keeper: Keeper::new(checkpoint_size),
            storage: settings.storage,
            clock: settings.clock,
            metrics: settings.metrics,
            retention_secs: settings.retention.as_secs(),
            max_size: settings.max_size,
            opened,
            refused: Mutex::default(),
            older,
            lock: Mutex::new(Some(lock)),
        }
    }

    /// A checkpoint of what is durable now, and its signed note.
    pub(super) fn sign_checkpoint(&self) -> (Checkpoint, String) {
        let origin = self.signer.verifier().name().to_owned();
        let tree = self.stored.tree();
        let checkpoint = Checkpoint {
            origin,
            size: tree.size(),
            root: tree.root(),
        };
        drop(tree);
        let note = self.signer.sign(&checkpoint.to_string());
        (checkpoint, note)
    }

    /// All logs of this ledger, oldest first.
    pub(super) fn all(&self) -> impl Iterator<Item = &Self> {
        self.older.iter().chain([self])
    }

    /// The log of this number.
    pub(super) fn of_number(&self, number: u16) -> Option<&Self> {
        self.all().find(|log| log.stored.number == number)
    }

    /// Whether there is something that could be pruned.
    pub(super) fn has_sealed(&self) -> bool {
        self.all().any(|log| !log.stored.tree().sealed.is_empty())
    }

    /// Bytes of leaves and hashes of all logs.
    pub(super) fn bytes(&self) -> u64 {
        self.all().map(|log| log.stored.tree().bytes()).sum()
    }

    /// The time by which leaves are too old, seconds since 1970. A clock that is set far ahead, if only for a moment, must not cost the record of a month: since
    /// the log was opened, no more time has passed than the steady clock says, but for a small part of the retention.
    pub(super) fn age_clock(&self) -> u64 {
        let (wall, steady) = self.opened;
        let passed = self.clock.instant().saturating_duration_since(steady).as_secs();
        let latest = wall.saturating_add_unsigned(passed.saturating_add(self.retention_secs / AHEAD));
        u64::try_from(self.clock.unix().min(latest)).unwrap_or(0)
    }

    /// Bytes left: on the filesystem, or up to the maximum size.
    pub(super) fn free(&self) -> u64 {
        let space = self.storage.space(&self.stored.dir).map_or(u64::MAX, |(free, _)| free);
        space.min(self.max_size.saturating_sub(self.bytes()))
    }

    pub(super) fn full(&self) -> LedgerError {
        LedgerError::Full {
            free: self.free(),
            path: self.stored.dir.clone(),
        }
    }

    /// What passes is what it is; after any other failed write nothing is certain.
    pub(super) fn full_or_stopped(&self, error: LedgerError) -> LedgerError {
        match error {
            error if error.is_no_space() => self.full(),
            error if error.is_passing() => error,
            LedgerError::Stopped(why) => LedgerError::Stopped(why),
            other => LedgerError::Stopped(other.to_string()),
        }
    }

    /// Notes how the last batch fared. Whether that is news.
    pub(super) fn note_refusal(&self, error: Option<LedgerError>) -> bool {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        let news = refused.is_some() != error.is_some();
        *refused = error;
        news
    }

    /// Why nothing can be appended, as far as the last batch showed.
    pub(super) fn halted(&self) -> Option<LedgerError> {
        let refused = || self.refused.lock().unwrap_or_else(PoisonError::into_inner).clone();
        self.queue.stopped().or_else(refused)
    }

    /// Lets another process open the log.
    pub(super) fn unlock(&self) {
        for log in self.all() {
            log.lock.lock().unwrap_or_else(PoisonError::into_inner).take();
        }
    }
}
