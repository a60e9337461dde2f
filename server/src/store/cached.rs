//! State in memory that follows a prefix of the store: what every request is answered from.
//!
//! What is in the store changes in memory only through the watch, the writer's own too. A writer that wants to read its own
//! write waits until its revision has come back:
//!
//! ```ignore
//! let revision = store.commit(txn).await?;
//! entries.wait_applied(revision).await?;
//! ```

use std::{
    sync::{Arc, PoisonError, RwLock, RwLockWriteGuard},
    time::Duration,
};

use bytes::Bytes;
use mintmark_runtime::clock::Clock;
use tokio::sync::watch;

use super::{
    Store,
    error::StoreError,
    feed::Step,
    types::{Batch, Change, KeyValue, Revision},
};

/// How long the follower waits before it asks a store that failed again.
const RETRY: Duration = Duration::from_millis(200);

/// State that is folded from the changes of a prefix.
pub trait Fold: Send + Sync + 'static {
    /// An empty state with the same settings, for a new listing.
    #[must_use]
    fn fresh(&self) -> Self;

    /// `pair.key` has this value now. It may have had it before: putting twice is as good as once.
    fn put(&mut self, pair: &KeyValue);

    /// `key` is gone. It may never have been put.
    fn delete(&mut self, key: &Bytes);

    /// This is the state from now on: a new listing is complete and has taken the old one's place.
    fn listed(&mut self) {}
}

/// State in memory that follows a prefix of the store. Clones share it.
pub struct Cached<T> {
    shared: Arc<Shared<T>>,
}

struct Shared<T> {
    state: RwLock<T>,
    /// The revision that the state has come to; `None` before the first listing is complete.
    applied: watch::Receiver<Option<Revision>>,
}

/// What keeps a [`Cached`] up to date, for as long as it runs.
#[must_use = "nothing follows until it runs"]
pub struct Follower<T> {
    store: Store,
    prefix: Bytes,
    shared: Arc<Shared<T>>,
    applied: watch::Sender<Option<Revision>>,
}

impl<T: Fold> Cached<T> {
    /// State that starts as `empty` and follows `prefix` once the follower is run (by a supervised task).
    pub fn new(store: &Store, prefix: impl Into<Bytes>, empty: T) -> (Self, Follower<T>) {
        let (applied, receiver) = watch::channel(None);
        let shared = Arc::new(Shared {
            state: RwLock::new(empty),
            applied: receiver,
        });
        let follower = Follower {
            store: store.clone(),
            prefix: prefix.into(),
            shared: Arc::clone(&shared),
            applied,
        };
        (Self { shared }, follower)
    }

    /// Reads the state, which stands still meanwhile: `read` must be short and must not call back.
    pub fn read<R>(&self, read: impl FnOnce(&T) -> R) -> R {
        read(&self.shared.state.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Changes what of the state is not in the store and does not come from it: `write` must be short and must not call back. A new listing begins with
    /// [`Fold::fresh`], which takes over what was changed so, or shares it.
    pub fn write<R>(&self, write: impl FnOnce(&mut T) -> R) -> R {
        write(&mut self.shared.state.write().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits until the state holds everything up to `revision`; 0 waits for the first listing.
    ///
    /// # Errors
    /// [`StoreError::Closed`] when the follower has ended before it came there.
    pub async fn wait_applied(&self, revision: Revision) -> Result<(), StoreError> {
        let mut applied = self.applied();
        let reached = |applied: &Option<Revision>| applied.is_some_and(|applied| applied >= revision);
        applied
            .wait_for(reached)
            .await
            .map(|_| ())
            .map_err(|_| StoreError::Closed)
    }

    /// The revision that the state has come to, to read or to wait for its changes; `None` before the
    /// first listing is complete. It closes when the follower ends.
    pub fn applied(&self) -> watch::Receiver<Option<Revision>> {
        self.shared.applied.clone()
    }
}

impl<T> Clone for Cached<T> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
        }
    }
}

impl<T> std::fmt::Debug for Cached<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cached")
            .field("applied", &*self.shared.applied.borrow())
            .finish_non_exhaustive()
    }
}

impl<T> std::fmt::Debug for Follower<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Follower")
            .field("prefix", &self.prefix)
            .finish_non_exhaustive()
    }
}

impl<T: Fold> Follower<T> {
    /// Follows the prefix until the store is closed. A failing store is asked again; meanwhile the state
    /// stays as it was.
    pub async fn run(self) {
        let mut feed = self.store.snapshot_then_watch(&self.prefix);
        // A listing is folded aside, so that readers never see half of one.
        let mut listing = None;
        loop {
            match feed.next().await {
                Ok(Step::Restart) => listing = Some(self.state().fresh()),
                Ok(Step::Pairs(pairs)) => {
                    if let Some(listing) = &mut listing {
                        pairs.iter().for_each(|pair| listing.put(pair));
                    }
                }
                Ok(Step::Changes(batch)) => match &mut listing {
                    Some(listing) => fold(listing, &batch),
                    None => {
                        if !batch.events.is_empty() {
                            fold(&mut *self.state(), &batch);
                        }
                        self.applied.send_replace(Some(batch.revision));
                    }
                },
                Ok(Step::Listed(revision)) => {
                    if let Some(listed) = listing.take() {
                        let mut state = self.state();
                        let old = std::mem::replace(&mut *state, listed);
                        state.listed();
                        drop(state);
                        drop(old);
                    }
                    self.applied.send_replace(Some(revision));
                }
                Err(StoreError::Closed) => return,
                Err(error) => {
                    let prefix = self.prefix.escape_ascii();
                    tracing::warn!(%error, %prefix, "cannot follow the store, trying again");
                    Clock::system().sleep(RETRY).await;
                }
            }
        }
    }

    fn state(&self) -> RwLockWriteGuard<'_, T> {
        self.shared.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

fn fold<T: Fold>(state: &mut T, batch: &Batch) {
    for event in &batch.events {
        match &event.change {
            Change::Put(pair) => state.put(pair),
            Change::Delete => state.delete(&event.key),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::store::Txn;

    #[derive(Default)]
    struct Map(BTreeMap<Bytes, Bytes>);

    impl Fold for Map {
        fn fresh(&self) -> Self {
            Self::default()
        }

        fn put(&mut self, pair: &KeyValue) {
            self.0.insert(pair.key.clone(), pair.value.clone());
        }

        fn delete(&mut self, key: &Bytes) {
            self.0.remove(key);
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_writer_reads_its_own_write_once_its_revision_came_back() {
        let store = Store::memory();
        for number in 0..2500 {
            store
                .commit(Txn::new().put(format!("a/{number:05}"), "old"))
                .await
                .unwrap();
        }
        let (cached, follower) = Cached::new(&store, "a/", Map::default());
        let follower = tokio::spawn(follower.run());
        for number in 0..100 {
            let key = format!("a/{:05}", number * 24);
            let revision = store
                .commit(Txn::new().put(key.clone(), "new").put("b", "x"))
                .await
                .unwrap();
            cached.wait_applied(revision).await.unwrap();
            cached.read(|map| {
                assert_eq!(map.0.len(), 2500);
                assert_eq!(map.0.get(key.as_bytes()).unwrap(), "new");
            });
        }
        let revision = store.commit(Txn::new().delete("a/00000")).await.unwrap();
        cached.wait_applied(revision).await.unwrap();
        assert_eq!(cached.read(|map| map.0.len()), 2499);
        store.close().await;
        follower.await.unwrap();
        assert!(matches!(
            cached.wait_applied(revision + 1).await,
            Err(StoreError::Closed)
        ));
    }
}
