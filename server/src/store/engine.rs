//! What an engine must do to be a [`Store`](super::Store).

use std::path::Path;

use async_trait::async_trait;

use super::{
    disk::OpenReport,
    error::StoreError,
    txn::Txn,
    types::{Batch, KeyValue, Revision},
};

/// One way to keep a store's state; the promises are [`Store`](super::Store)'s.
#[async_trait]
pub(super) trait Engine: Send + Sync {
    async fn get(&self, key: &[u8]) -> Result<Option<KeyValue>, StoreError>;
    async fn range(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<(Revision, Vec<KeyValue>), StoreError>;
    async fn commit(&self, txn: Txn) -> Result<Revision, StoreError>;
    fn watch(&self, prefix: &[u8], from: Revision) -> Watch;
    fn revision(&self) -> Revision;
    /// What opening found and did, for an engine that opens files.
    fn report(&self) -> Option<&OpenReport>;
    async fn backup(&self, file: &Path) -> Result<Revision, StoreError>;
    async fn close(&self);
}

/// One watch's place in an engine's history.
#[async_trait]
pub(super) trait Subscription: Send {
    async fn next(&mut self) -> Result<Batch, StoreError>;
}

/// A place in the history of a prefix; [`next`](Self::next) moves it forward.
pub struct Watch {
    subscription: Box<dyn Subscription>,
    position: Revision,
}

impl Watch {
    pub(super) fn new(subscription: impl Subscription + 'static, from: Revision) -> Self {
        Self {
            subscription: Box::new(subscription),
            position: from,
        }
    }

    /// Waits for what comes after the last batch. Safe to drop and call again.
    ///
    /// # Errors
    /// [`StoreError::Compacted`] when the history no longer reaches back to this place (it started too
    /// far back, or its reader was too slow): list again, and watch from there.
    pub async fn next(&mut self) -> Result<Batch, StoreError> {
        let batch = self.subscription.next().await?;
        self.position = batch.revision;
        Ok(batch)
    }

    /// The revision of the last batch; nothing at or below it is still to come.
    pub fn position(&self) -> Revision {
        self.position
    }
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch")
            .field("position", &self.position)
            .finish_non_exhaustive()
    }
}
