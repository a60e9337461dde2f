//! Store: where does state live?
//!
//! One interface, shaped like etcd, over ordered byte keys: every transaction that changes something
//! gets the next revision, conditions compare and swap, and a watch delivers every change after a
//! revision, in order and without a gap.
//!
//! - Comes in: [`Txn`]s of puts and deletes with conditions; prefixes to list and to watch.
//! - Goes out: [`KeyValue`]s, [`Event`]s and revisions. A commit is answered when it is durable and
//!   visible to every read and watch of this process.
//! - Who may call it: every room that keeps state. Rooms that answer from memory fold a prefix with
//!   [`Cached`]; no read on the path of an issuance comes here.
//!
//! Two engines run here, [`Store::memory`] (forgets; for tests) and [`Store::open_sled`] (one machine);
//! both must pass `conformance`. The sled engine's truth is its own journal and snapshots:
//!
//! ```text
//! commit ─► writer thread ─► journal (one fsync a group) ─► index (sled) ─► history ─► watches
//!                              │ cut behind                    ▲
//!                              └──── snapshot ─────────────────┘ rebuilt from, when damaged
//! ```

#![allow(
    clippy::disallowed_methods,
    reason = "the store is one of the rooms that own files: it writes, syncs and renames them itself"
)]

mod cached;
mod digest;
mod disk;
mod engine;
mod error;
mod feed;
mod history;
mod index;
mod lease;
mod local;
mod metrics;
mod txn;
mod types;

use std::{path::Path, sync::Arc};

use mintmark_runtime::metrics::Metrics;

pub use self::{
    cached::{Cached, Fold, Follower},
    disk::{
        OpenReport,
        backup::{backup, restore},
    },
    engine::Watch,
    error::{Expectation, StoreError},
    feed::{Feed, Step},
    lease::{Held, Lease, Taken},
    txn::{MAX_KEY, MAX_OPERATIONS, MAX_TXN, MAX_VALUE, Txn},
    types::{Batch, Change, Event, KeyValue, Revision},
};
use self::{disk::Settings, engine::Engine, history::Retention, local::Local, metrics::StoreMetrics};

/// A handle on one store; clones share it.
#[derive(Clone)]
pub struct Store {
    engine: Arc<dyn Engine>,
}

impl Store {
    /// An empty store that lives in memory and forgets everything when its last handle is dropped.
    pub fn memory() -> Self {
        Self {
            engine: Arc::new(Local::memory(Retention::default())),
        }
    }

    /// Opens the store in `directory` (`<data_dir>/store`), or makes one there. Blocks for as long as it takes
    /// to check everything, about two seconds for a million entries. What it found and did is in
    /// [`open_report`](Self::open_report); a damaged index is made again, with a warning and a count in
    /// `store_rebuilds`.
    ///
    /// # Errors
    /// [`StoreError::Locked`] when another process has it open; [`StoreError::Damaged`] when a file that
    /// holds acknowledged writes is damaged; otherwise what the file system answers.
    pub fn open_sled(directory: &Path, metrics: &Metrics) -> Result<Self, StoreError> {
        let metrics = StoreMetrics::new(metrics);
        let local = Local::open(directory, Settings::default(), Retention::default(), metrics)?;
        Ok(Self {
            engine: Arc::new(local),
        })
    }

    /// What opening found and did; `None` for a store in memory.
    pub fn open_report(&self) -> Option<&OpenReport> {
        self.engine.report()
    }

    /// The value under `key`, or `None`.
    pub async fn get(&self, key: &[u8]) -> Result<Option<KeyValue>, StoreError> {
        self.engine.get(key).await
    }

    /// Up to `limit` keys that start with `prefix` and sort after `after`, in order, and the revision
    /// at which this is exactly what the store held.
    ///
    /// Fewer than `limit` means that there are no more. Two pages may come from two revisions; what
    /// happened between them is what a watch from the first page's revision says, so that a listing
    /// over several pages followed by that watch is complete. [`Cached`] does that.
    pub async fn range(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<(Revision, Vec<KeyValue>), StoreError> {
        self.engine.range(prefix, after, limit).await
    }

    /// Applies all of `txn`, or nothing, and answers once it is durable and visible.
    ///
    /// The revision is the transaction's own; a transaction that changes nothing (conditions only, or
    /// deletes of absent keys) gets none and is answered with the current one.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when a condition fails; [`StoreError::Full`] when the disk is, which
    /// leaves everything as it was and ends when there is space again; [`StoreError::Index`] when it may have
    /// happened but cannot be shown yet.
    pub async fn commit(&self, txn: Txn) -> Result<Revision, StoreError> {
        txn.check()?;
        self.engine.commit(txn).await
    }

    /// Every event with a revision above `from` on a key that starts with `prefix`, in order.
    pub fn watch(&self, prefix: &[u8], from: Revision) -> Watch {
        self.engine.watch(prefix, from)
    }

    /// What `prefix` holds, and then every change to it, without a gap between the two.
    pub fn snapshot_then_watch(&self, prefix: &[u8]) -> Feed {
        Feed::new(self.clone(), prefix)
    }

    /// The revision of the last visible transaction; 0 in a new store.
    pub fn revision(&self) -> Revision {
        self.engine.revision()
    }

    /// Writes everything, as of one revision, to the new file `file`, while transactions go on; gives that
    /// revision. [`restore`] makes a store from it, and [`backup()`] does the same from a store's directory.
    pub async fn backup(&self, file: &Path) -> Result<Revision, StoreError> {
        self.engine.backup(file).await
    }

    /// Finishes what was accepted, makes it durable, and releases the store's files; every handle
    /// answers [`StoreError::Closed`] from then on.
    pub async fn close(&self) {
        self.engine.close().await;
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store")
            .field("revision", &self.revision())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod conformance;
#[cfg(test)]
mod tests;
