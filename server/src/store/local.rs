//! An engine inside this process: an index that everyone reads and one thread writes.

mod shared;
mod writer;

use std::{path::Path, sync::Arc};

use async_trait::async_trait;
use mintmark_runtime::task::BlockingPool;
use tokio::sync::{mpsc, oneshot};

pub(super) use self::shared::Shared;
use self::writer::{Request, Writer};
use super::{
    digest::Position,
    disk::{self, OpenReport, Settings},
    engine::{Engine, Watch},
    error::StoreError,
    history::Retention,
    index::{MemoryIndex, Page},
    metrics::StoreMetrics,
    txn::Txn,
    types::{KeyValue, Revision},
};

/// Requests that may wait for the writer; past it, callers wait to hand theirs over.
const QUEUE: usize = 1024;

/// A range of more keys than this leaves the async worker to others.
const LONG_RANGE: usize = 256;

/// Long ranges and backups at once.
const READERS: usize = 2;

/// Long ranges that may wait.
const LONG_RANGES: usize = 64;

/// An engine inside this process.
pub(super) struct Local {
    shared: Arc<Shared>,
    queue: mpsc::Sender<Request>,
    readers: BlockingPool,
    report: Option<OpenReport>,
    id: [u8; 16],
    #[cfg(test)]
    faults: Option<Arc<disk::faults::Faults>>,
}

impl Local {
    pub(super) fn memory(retention: Retention) -> Self {
        let shared = Shared::new(Box::new(MemoryIndex::default()), Position::default(), retention);
        let writer = Writer::new(Arc::clone(&shared), None, Position::default(), StoreMetrics::unread());
        Self::start(shared, writer, None, [0; 16])
    }

    pub(super) fn open(
        directory: &Path,
        settings: Settings,
        retention: Retention,
        metrics: StoreMetrics,
    ) -> Result<Self, StoreError> {
        let opened = disk::open(directory, settings, metrics.clone())?;
        let id = opened.disk.id();
        #[cfg(test)]
        let faults = opened.disk.faults();
        let shared = Shared::new(opened.index, opened.position, retention);
        let writer = Writer::new(Arc::clone(&shared), Some(opened.disk), opened.position, metrics);
        #[cfg_attr(not(test), expect(unused_mut, reason = "tests add to it"))]
        let mut local = Self::start(shared, writer, Some(opened.report), id);
        #[cfg(test)]
        local.faults.replace(faults);
        Ok(local)
    }

    fn start(shared: Arc<Shared>, writer: Writer, report: Option<OpenReport>, id: [u8; 16]) -> Self {
        let (queue, requests) = mpsc::channel(QUEUE);
        writer.spawn(requests);
        Self {
            shared,
            queue,
            readers: BlockingPool::new("store-read", READERS, LONG_RANGES),
            report,
            id,
            #[cfg(test)]
            faults: None,
        }
    }

    #[cfg(test)]
    pub(super) fn faults(&self) -> Arc<disk::faults::Faults> {
        Arc::clone(self.faults.as_ref().expect("an engine on disk"))
    }

    /// Asks the writer to look after an index that failed.
    fn tell<T>(&self, outcome: Result<T, StoreError>) -> Result<T, StoreError> {
        if let Err(StoreError::Index { .. }) = outcome {
            // When the queue is full, the writer looks after its next group.
            let _ = self.queue.try_send(Request::Mend);
        }
        outcome
    }
}

#[async_trait]
impl Engine for Local {
    async fn get(&self, key: &[u8]) -> Result<Option<KeyValue>, StoreError> {
        self.tell(self.shared.read(|index, _| index.get(key)))
    }

    async fn range(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<(Revision, Vec<KeyValue>), StoreError> {
        let page = Page {
            keys: limit,
            bytes: usize::MAX,
        };
        if limit <= LONG_RANGE {
            return self.tell(self.shared.range(prefix, after, page));
        }
        let (shared, prefix, after) = (Arc::clone(&self.shared), prefix.to_vec(), after.map(<[u8]>::to_vec));
        let range = move || shared.range(&prefix, after.as_deref(), page);
        let range = self.readers.run(range).await;
        self.tell(range.unwrap_or_else(|error| Err(StoreError::Interrupted { why: error.to_string() })))
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
        self.shared.revision()
    }

    fn report(&self) -> Option<&OpenReport> {
        self.report.as_ref()
    }

    async fn backup(&self, file: &Path) -> Result<Revision, StoreError> {
        let (shared, id, file) = (Arc::clone(&self.shared), self.id, file.to_path_buf());
        let backup = move || disk::backup::write(&shared, id, &file);
        let backup = self.readers.run(backup).await;
        backup.unwrap_or_else(|error| Err(StoreError::Interrupted { why: error.to_string() }))
    }

    async fn close(&self) {
        let (done, closed) = oneshot::channel();
        // Both fail only when the writer is gone, which is what is asked for.
        if self.queue.send(Request::Close { done }).await.is_ok() {
            let _ = closed.await;
        }
    }
}
