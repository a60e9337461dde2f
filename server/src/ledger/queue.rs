//! The open batch: callers encode into it, the writer takes it.
//!
//! A caller holds the lock while it encodes its leaves, so that indices and bytes go in together. The writer takes the batch as it is
//! when the last fsync is done; there is no timer. All callers of a batch wait on one notification.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};

use tokio::sync::Notify;

use super::durable::{LeafBytes, Slot};
use super::error::LedgerError;
use super::frame::{BATCH_BYTES, BATCH_LEAVES, HEADER, MAX_LEAF, MAX_LEAVES_PER_CALL, push_entry};

/// Indices fit the 48 bits that a serial has for them.
const INDEX_LIMIT: u64 = 1 << 48;

/// What waits to be written.
#[derive(Debug)]
pub(super) struct Queue {
    log: u16,
    state: Mutex<State>,
    work: Condvar,
    room: Notify,
}

#[derive(Debug)]
struct State {
    open: Batch,
    phase: Phase,
    /// The buffer of a batch that was written, to be used again.
    spare: Vec<u8>,
}

#[derive(Debug)]
enum Phase {
    Running,
    Closing,
    Stopped(String),
}

/// Leaves that will be written with one fsync (two, where a segment ends in between).
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) first: u64,
    pub(super) count: u32,
    /// Room for a frame's header, and the entries.
    pub(super) frame: Vec<u8>,
    outcome: Arc<Outcome>,
}

/// What became of a batch.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    result: OnceLock<Result<(), LedgerError>>,
    told: Notify,
}

/// What a caller put into the batch.
pub(super) struct Placed<U> {
    pub(super) slot: Slot,
    pub(super) things: Vec<U>,
    pub(super) outcome: Arc<Outcome>,
}

impl Queue {
    pub(super) fn new(log: u16, next: u64) -> Self {
        let state = State {
            open: Batch::new(next, Vec::new()),
            phase: Phase::Running,
            spare: Vec::new(),
        };
        Self {
            log,
            state: Mutex::new(state),
            work: Condvar::new(),
            room: Notify::new(),
        }
    }

    /// Puts `count` leaves into the open batch, as soon as it has room.
    pub(super) async fn place<U>(
        &self,
        count: usize,
        encode: impl FnOnce(Slot) -> Vec<(LeafBytes, U)>,
    ) -> Result<Placed<U>, LedgerError> {
        if count > MAX_LEAVES_PER_CALL {
            return Err(LedgerError::TooMany {
                count,
                limit: MAX_LEAVES_PER_CALL,
            });
        }
        let mut encode = Some(encode);
        loop {
            if let Some(placed) = self.try_place(count, &mut encode)? {
                return Ok(placed);
            }
            let mut room = std::pin::pin!(self.room.notified());
            room.as_mut().enable();
            // The writer may have taken the batch before this waited.
            if let Some(placed) = self.try_place(count, &mut encode)? {
                return Ok(placed);
            }
            room.await;
        }
    }

    fn try_place<U, E>(&self, count: usize, encode: &mut Option<E>) -> Result<Option<Placed<U>>, LedgerError>
    where
        E: FnOnce(Slot) -> Vec<(LeafBytes, U)>,
    {
        let mut state = self.lock();
        match &state.phase {
            Phase::Running => (),
            Phase::Closing => return Err(LedgerError::Closed),
            Phase::Stopped(why) => return Err(LedgerError::Stopped(why.clone())),
        }
        let open = &mut state.open;
        if !open.has_room(count) {
            return Ok(None);
        }
        let slot = Slot {
            log: self.log,
            first: open.first + u64::from(open.count),
        };
        if slot.index(count) > INDEX_LIMIT {
            return Err(LedgerError::Exhausted(self.log));
        }
        let Some(encode) = encode.take() else { return Ok(None) };
        let encoded = encode(slot);
        if encoded.len() != count {
            return Err(LedgerError::Count {
                announced: count,
                got: encoded.len(),
            });
        }
        if let Some((leaf, _)) = encoded
            .iter()
            .find(|(leaf, _)| leaf.is_empty() || leaf.len() > MAX_LEAF)
        {
            return Err(LedgerError::LeafSize {
                size: leaf.len(),
                limit: MAX_LEAF,
            });
        }
        let mut things = Vec::with_capacity(count);
        for (leaf, thing) in encoded {
            push_entry(&mut open.frame, &leaf);
            things.push(thing);
        }
        let was_empty = open.count == 0;
        open.count += u32::try_from(count).unwrap_or(u32::MAX);
        let outcome = open.outcome.clone();
        drop(state);
        if was_empty && count > 0 {
            self.work.notify_one();
        }
        Ok(Some(Placed { slot, things, outcome }))
    }

    /// Waits for leaves and takes them; `None` when the queue is closed and empty.
    pub(super) fn take(&self) -> Option<Batch> {
        let mut state = self.lock();
        loop {
            if state.open.count > 0 {
                let next = state.open.first + u64::from(state.open.count);
                let spare = std::mem::take(&mut state.spare);
                let batch = std::mem::replace(&mut state.open, Batch::new(next, spare));
                drop(state);
                self.room.notify_waiters();
                return Some(batch);
            }
            if !matches!(state.phase, Phase::Running) {
                return None;
            }
            state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Tells the callers of `batch` that their leaves are durable.
    pub(super) fn done(&self, mut batch: Batch) {
        let spare = std::mem::take(&mut batch.frame);
        batch.outcome.tell(Ok(()));
        self.lock().spare = spare;
    }

    /// Tells the callers of `batch`, and those who came after, that their leaves were not written. Their indices are given out
    /// again, from `next` on. How many leaves were refused.
    pub(super) fn fail(&self, batch: Batch, error: &LedgerError, next: u64) -> u64 {
        let mut state = self.lock();
        let later = std::mem::replace(&mut state.open, Batch::new(next, Vec::new()));
        if let LedgerError::Stopped(why) = error {
            state.phase = Phase::Stopped(why.clone());
        }
        drop(state);
        batch.outcome.tell(Err(error.clone()));
        later.outcome.tell(Err(error.clone()));
        self.room.notify_waiters();
        u64::from(batch.count) + u64::from(later.count)
    }

    /// Takes no more leaves; those that are there are still written.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        if matches!(state.phase, Phase::Running) {
            state.phase = Phase::Closing;
        }
        drop(state);
        self.work.notify_one();
        self.room.notify_waiters();
    }

    /// Takes no more leaves, and answers those who wait with `why`.
    pub(super) fn stop(&self, why: &str) {
        let mut state = self.lock();
        state.phase = Phase::Stopped(why.to_owned());
        let first = state.open.first;
        let waiting = std::mem::replace(&mut state.open, Batch::new(first, Vec::new()));
        drop(state);
        waiting.outcome.tell(Err(LedgerError::Stopped(why.to_owned())));
        self.work.notify_one();
        self.room.notify_waiters();
    }

    /// Why nothing more is taken, if so.
    pub(super) fn stopped(&self) -> Option<LedgerError> {
        match &self.lock().phase {
            Phase::Running => None,
            Phase::Closing => Some(LedgerError::Closed),
            Phase::Stopped(why) => Some(LedgerError::Stopped(why.clone())),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // An encoder that panics has changed nothing: leaves go in after it has returned.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Batch {
    fn new(first: u64, mut frame: Vec<u8>) -> Self {
        frame.clear();
        frame.resize(HEADER, 0);
        Self {
            first,
            count: 0,
            frame,
            outcome: Arc::default(),
        }
    }

    fn has_room(&self, count: usize) -> bool {
        let leaves = usize::try_from(self.count).unwrap_or(usize::MAX);
        self.count == 0 || (leaves + count <= BATCH_LEAVES && self.frame.len() < BATCH_BYTES)
    }
}

impl Drop for Batch {
    /// A batch that is dropped without a word, because the writer panicked, must not leave its callers waiting.
    fn drop(&mut self) {
        self.outcome
            .tell(Err(LedgerError::Stopped("the ledger's writer has ended".to_owned())));
    }
}

impl Outcome {
    /// Only the first word counts.
    fn tell(&self, result: Result<(), LedgerError>) {
        if self.result.set(result).is_ok() {
            self.told.notify_waiters();
        }
    }

    pub(super) async fn wait(&self) -> Result<(), LedgerError> {
        let mut told = std::pin::pin!(self.told.notified());
        told.as_mut().enable();
        if self.result.get().is_none() {
            told.await;
        }
        self.result.get().cloned().unwrap_or(Err(LedgerError::Closed))
    }
}
