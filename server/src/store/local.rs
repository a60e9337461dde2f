//! An engine inside this process: an index that everyone reads and one thread writes.

use std::sync::{
    Arc, PoisonError, RwLock,
    atomic::{AtomicU64, Ordering},
};

use async_trait::async_trait;
use tokio::sync::{mpsc, oneshot};

use super::{
    engine::{Engine, Watch},
    error::StoreError,
    history::{History, Retention},
    index::{Index, IndexError, MemoryIndex},
    txn::Txn,
    types::{KeyValue, Revision},
    writer::{Request, Writer},
};

/// Requests that may wait for the writer; past it, callers wait to hand theirs over.
const QUEUE: usize = 1024;

/// A range of more keys than this leaves the async worker to others.
const LONG_RANGE: usize = 256;

/// An engine inside this process.
pub(super) struct Local {
    shared: Arc<Shared>,
    queue: mpsc::Sender<Request>,
}

/// What readers and the writer share.
pub(super) struct Shared {
    index: RwLock<Option<Box<dyn Index>>>,
    /// Changed under the index's write lock only, so that a reader's lock holds it still.
    revision: AtomicU64,
    pub(super) history: Arc<History>,
}

impl Local {
    pub(super) fn memory() -> Self {
        Self::start(Box::new(MemoryIndex::default()), 0, Retention::default())
    }

    pub(super) fn start(index: Box<dyn Index>, revision: Revision, retention: Retention) -> Self {
        let shared = Arc::new(Shared {
            index: RwLock::new(Some(index)),
            revision: AtomicU64::new(revision),
            history: History::new(retention, revision),
        });
        let (queue, requests) = mpsc::channel(QUEUE);
        Writer::new(Arc::clone(&shared), revision).spawn(requests);
        Self { shared, queue }
    }
}

#[async_trait]
impl Engine for Local {
    async fn get(&self, key: &[u8]) -> Result<Option<KeyValue>, StoreError> {
        self.shared.read(|index, _| index.get(key))
    }

    async fn range(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<(Revision, Vec<KeyValue>), StoreError> {
        if limit <= LONG_RANGE {
            return self.shared.range(prefix, after, limit);
        }
        let (shared, prefix, after) = (Arc::clone(&self.shared), prefix.to_vec(), after.map(<[u8]>::to_vec));
        let range = move || shared.range(&prefix, after.as_deref(), limit);
        tokio::task::spawn_blocking(range)
            .await
            .unwrap_or(Err(StoreError::Closed))
    }

    async fn commit(&self, txn: Txn) -> Result<Revision, StoreError> {
        let (reply, answer) = oneshot::channel();
        self.queue
            .send(Request::Commit { txn, reply })
            .await
            .map_err(|_| StoreError::Closed)?;
        answer.await.unwrap_or(Err(StoreError::Closed))
    }

    fn watch(&self, prefix: &[u8], from: Revision) -> Watch {
        self.shared.history.watch(prefix, from)
    }

    fn revision(&self) -> Revision {
        self.shared.revision.load(Ordering::Acquire)
    }

    async fn close(&self) {
        let (done, closed) = oneshot::channel();
        // Both fail only when the writer is gone, which is what is asked for.
        if self.queue.send(Request::Close { done }).await.is_ok() {
            let _ = closed.await;
        }
    }
}

impl Shared {
    /// Runs `read` on the index, which stands still meanwhile at the revision given.
    pub(super) fn read<T>(
        &self,
        read: impl FnOnce(&dyn Index, Revision) -> Result<T, IndexError>,
    ) -> Result<T, StoreError> {
        let index = self.index.read().unwrap_or_else(PoisonError::into_inner);
        let Some(index) = index.as_deref() else {
            return Err(StoreError::Closed);
        };
        read(index, self.revision.load(Ordering::Acquire)).map_err(|error| StoreError::Index { why: error.0 })
    }

    fn range(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<(Revision, Vec<KeyValue>), StoreError> {
        self.read(|index, revision| Ok((revision, index.scan(prefix, after, limit)?)))
    }

    /// Runs `write` on the index while nobody reads, and moves the revision when it succeeds.
    pub(super) fn write(
        &self,
        revision: Revision,
        write: impl FnOnce(&mut dyn Index) -> Result<(), IndexError>,
    ) -> Result<(), IndexError> {
        let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
        let Some(index) = index.as_deref_mut() else {
            return Err(IndexError("it is closed".to_owned()));
        };
        write(index)?;
        self.revision.store(revision, Ordering::Release);
        Ok(())
    }

    /// Takes the index away; readers find the store closed.
    pub(super) fn close(&self) {
        let index = self.index.write().unwrap_or_else(PoisonError::into_inner).take();
        drop(index);
        self.history.close();
    }
}
