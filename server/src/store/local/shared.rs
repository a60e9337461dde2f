//! What readers and the writer share.

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use bytes::Bytes;

use crate::store::{
    digest::Position,
    disk::image::{self, Chunk},
    error::StoreError,
    history::{Committed, History, Retention},
    index::{Index, IndexError, Page},
    types::{KeyValue, Revision},
};

/// The most bytes of groups that may wait for an image to take them.
const CAPTURE: usize = 64 << 20;

/// What readers and the writer share.
pub(in crate::store) struct Shared {
    state: RwLock<State>,
    /// The state's revision, to be read without its lock.
    revision: AtomicU64,
    pub(in crate::store) history: Arc<History>,
    /// The index failed a reader or the writer, who has to look after it.
    pub(super) suspect: AtomicBool,
    /// Groups that an image has yet to take; changed under the state's lock.
    capture: Mutex<Option<Capture>>,
    /// Held by the one image that is being written.
    imaging: Mutex<()>,
}

struct State {
    /// `None` once the store is closed.
    index: Option<Box<dyn Index>>,
    position: Position,
}

#[derive(Default)]
struct Capture {
    groups: Vec<Bytes>,
    bytes: usize,
    overflowed: bool,
}

impl Shared {
    pub(super) fn new(index: Box<dyn Index>, position: Position, retention: Retention) -> Arc<Self> {
        Arc::new(Self {
            state: RwLock::new(State {
                index: Some(index),
                position,
            }),
            revision: AtomicU64::new(position.revision),
            history: History::new(retention, position.revision),
            suspect: AtomicBool::new(false),
            capture: Mutex::new(None),
            imaging: Mutex::new(()),
        })
    }

    pub(super) fn revision(&self) -> Revision {
        self.revision.load(Ordering::Acquire)
    }

    /// Runs `read` on the index, which stands still meanwhile at the position given.
    pub(super) fn read<T>(
        &self,
        read: impl FnOnce(&dyn Index, &Position) -> Result<T, IndexError>,
    ) -> Result<T, StoreError> {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        let Some(index) = state.index.as_deref() else {
            return Err(StoreError::Closed);
        };
        read(index, &state.position).map_err(|error| {
            self.suspect.store(true, Ordering::Release);
            StoreError::Index { why: error.0 }
        })
    }

    pub(super) fn range(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        page: Page,
    ) -> Result<(Revision, Vec<KeyValue>), StoreError> {
        self.read(|index, position| Ok((position.revision, index.scan(prefix, after, page)?)))
    }

    /// Brings the index to a position while nobody reads; `group` is what leads there.
    pub(super) fn apply(
        &self,
        to: &Position,
        commits: &[Committed],
        group: impl FnOnce() -> Bytes,
    ) -> Result<(), IndexError> {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let Some(index) = state.index.as_deref_mut() else {
            return Err(IndexError("it is closed".to_owned()));
        };
        let events = commits.iter().flat_map(|committed| &committed.events);
        index.apply(Some(to), &mut events.map(|event| (&event.key, event.pair())))?;
        state.position = *to;
        if let Some(capture) = &mut *lock(&self.capture) {
            capture.push(group());
        }
        self.revision.store(to.revision, Ordering::Release);
        Ok(())
    }

    /// Puts another index in the place of one that failed. An image that is being written starts over.
    pub(super) fn replace(&self, index: Box<dyn Index>, position: Position) {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let old = state.index.replace(index);
        state.position = position;
        if let Some(capture) = &mut *lock(&self.capture) {
            capture.overflowed = true;
        }
        self.revision.store(position.revision, Ordering::Release);
        drop(state);
        drop(old);
    }

    /// Writes an image of everything while transactions go on; gives its position and length.
    pub(in crate::store) fn image(
        &self,
        temporary: PathBuf,
        path: impl FnOnce(&Position) -> PathBuf,
        id: [u8; 16],
    ) -> Result<(Position, u64), StoreError> {
        let _imaging = lock(&self.imaging);
        let written = image::write(temporary, path, id, |after, page| self.chunk(after, page));
        *lock(&self.capture) = None;
        written
    }

    /// Makes the index durable as it is now.
    pub(in crate::store) fn sync(&self) -> Result<(), StoreError> {
        let sync = self.read(|index, _| Ok(index.syncer()))?;
        sync().map_err(|error| StoreError::Index { why: error.0 })
    }

    /// Takes the index away; readers find the store closed.
    pub(super) fn close(&self) {
        let index = self.state.write().unwrap_or_else(PoisonError::into_inner).index.take();
        drop(index);
        self.history.close();
    }

    fn chunk(&self, after: Option<&Bytes>, page: Page) -> Result<Chunk, StoreError> {
        let (chunk, overflowed) = self.read(|index, position| {
            // Groups are captured from the first page on: what came before is in the pages.
            let mut capture = lock(&self.capture);
            let capture = match after {
                None => capture.insert(Capture::default()),
                Some(_) => capture.get_or_insert_default(),
            };
            let Capture { groups, overflowed, .. } = std::mem::take(capture);
            let pairs = index.scan(b"", after.map(|after| &**after), page)?;
            Ok((
                Chunk {
                    groups,
                    pairs,
                    at: *position,
                },
                overflowed,
            ))
        })?;
        if overflowed {
            return Err(StoreError::Interrupted {
                why: "more was committed than an image could follow".to_owned(),
            });
        }
        Ok(chunk)
    }
}

impl Capture {
    fn push(&mut self, group: Bytes) {
        self.bytes += group.len();
        if self.bytes > CAPTURE {
            self.overflowed = true;
            self.groups = Vec::new();
        } else {
            self.groups.push(group);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
