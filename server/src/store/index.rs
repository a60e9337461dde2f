//! The index: what every key holds now, in order. The journal is the truth; an index can be made again.

mod memory;
mod sled;

use bytes::Bytes;

pub(super) use self::{memory::MemoryIndex, sled::SledIndex};
use super::{
    digest::{Digest, Position},
    types::{Change, Event, KeyValue},
};

/// An index failed, and says how.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct IndexError(pub(super) String);

/// How much a page holds at most; the key that reaches the bytes is still in it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Page {
    pub(super) keys: usize,
    pub(super) bytes: usize,
}

/// What a key is to hold, `None` for nothing.
pub(super) type Assignment<'a> = (&'a Bytes, Option<&'a KeyValue>);

/// What every key holds now.
///
/// One thread applies; others read between applications, never during one.
pub(super) trait Index: Send + Sync {
    fn get(&self, key: &[u8]) -> Result<Option<KeyValue>, IndexError>;

    /// A page of the keys with `prefix` that sort after `after`, in order.
    fn scan(&self, prefix: &[u8], after: Option<&[u8]>, page: Page) -> Result<Vec<KeyValue>, IndexError>;

    /// Makes assignments, in order, that bring the index to a position; `None` while it is being built, and
    /// is of no use before it has one.
    fn apply(
        &mut self,
        to: Option<&Position>,
        assignments: &mut dyn Iterator<Item = Assignment<'_>>,
    ) -> Result<(), IndexError>;

    /// Reads everything, and says what is there.
    fn digest(&self) -> Result<Digest, IndexError>;

    /// What makes durable all that was applied before, to be run without a lock on the index.
    fn syncer(&self) -> Box<dyn FnOnce() -> Result<(), IndexError> + Send>;
}

impl Event {
    /// What the key holds after this event.
    pub(super) fn pair(&self) -> Option<&KeyValue> {
        match &self.change {
            Change::Put(pair) => Some(pair),
            Change::Delete => None,
        }
    }
}
