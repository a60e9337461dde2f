//! The index: what every key holds now, in order. The journal is the truth; an index can be made again.

mod memory;

use bytes::Bytes;

pub(super) use self::memory::MemoryIndex;
use super::types::{Change, Event, KeyValue, Revision};

/// An index failed, and says how.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct IndexError(pub(super) String);

/// What every key holds now.
///
/// One thread applies; others read between applications, never during one.
pub(super) trait Index: Send + Sync {
    fn get(&self, key: &[u8]) -> Result<Option<KeyValue>, IndexError>;

    /// Up to `limit` keys with `prefix` that sort after `after`, in order.
    fn scan(&self, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Result<Vec<KeyValue>, IndexError>;

    /// Applies events, in order, that bring the index to `revision`.
    fn apply(&mut self, revision: Revision, events: &mut dyn Iterator<Item = &Event>) -> Result<(), IndexError>;
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

/// The least key that sorts after every key with `prefix`; `None` when there is none.
pub(super) fn end_of(prefix: &[u8]) -> Option<Bytes> {
    let cut = prefix.iter().rposition(|byte| *byte != u8::MAX)?;
    let mut end = prefix.get(..=cut)?.to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    Some(end.into())
}
