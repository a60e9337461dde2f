//! What the store holds and says.

use bytes::Bytes;

/// The number of a transaction: 1 for a store's first, and one more for each after it.
pub type Revision = u64;

/// A key, its value, and the revisions that made it.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyValue {
    /// At most [`MAX_KEY`](super::MAX_KEY) bytes.
    pub key: Bytes,
    /// At most [`MAX_VALUE`](super::MAX_VALUE) bytes.
    pub value: Bytes,
    /// The revision that put the key when it was absent.
    pub created: Revision,
    /// The revision that last put the key; what [`Txn::expect_revision`](super::Txn::expect_revision) compares.
    pub modified: Revision,
}

// Values may be sealed keys or tokens: only their length is printed.
impl std::fmt::Debug for KeyValue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyValue")
            .field("key", &self.key)
            .field("value_len", &self.value.len())
            .field("created", &self.created)
            .field("modified", &self.modified)
            .finish()
    }
}

/// What a transaction did to one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The key.
    pub key: Bytes,
    /// What became of it.
    pub change: Change,
    /// The transaction.
    pub revision: Revision,
}

/// What became of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// It has this value now.
    Put(KeyValue),
    /// It is gone.
    Delete,
}

/// What a watch delivers at once: the events of one revision, or none as a sign of progress.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Nothing at or below this revision is still to come.
    pub revision: Revision,
    /// The events of exactly this revision under the watched prefix, in key order; empty when nothing
    /// under the prefix changed since the last batch.
    pub events: Vec<Event>,
}
