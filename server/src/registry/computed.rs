//! Entries that are computed and not stored: the identities of pods, and what objects in a cluster say.
//!
//! They stand in the index beside the stored ones, are the nodes' like any other and are pushed like any other, and go with the process. Whoever computes them sets
//! and removes them, by subject; the entry API shows them and changes none.
//!
//! Their IDs begin with `k8s:`. A stored entry's ID has no colon, so that the two never meet. An ID is made of what it stands for, and the revision of what the
//! entry says: both are the same on every server and after every restart, and nothing changes for who holds the entry.

mod live;

use mintmark_proto::digest;

use super::entry::Entry;
pub(super) use live::Computed;

const PREFIX: &str = "k8s:";

/// An entry that is computed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ComputedEntry(Entry);

impl ComputedEntry {
    /// The entry that `rule` gives to `subject`, each named by its UID; both decide its ID. What stands in its place of ID and revision does not matter.
    pub fn new(mut entry: Entry, subject: &str, rule: &str) -> Self {
        entry.id = [PREFIX, subject, ":", rule].concat().into();
        entry.revision = 0;
        // 53 bits: such a number survives every JSON.
        entry.revision = i64::try_from(digest::of(&entry.to_message()) >> 11).unwrap_or_default();
        Self(entry)
    }
}

impl std::ops::Deref for ComputedEntry {
    type Target = Entry;

    fn deref(&self) -> &Entry {
        &self.0
    }
}

/// What the computed entry with this ID is about; nothing for the ID of a stored entry.
pub(super) fn subject_of(id: &str) -> Option<&str> {
    let (subject, _) = id.strip_prefix(PREFIX)?.rsplit_once(':')?;
    Some(subject)
}

/// True for the ID of a computed entry.
pub(super) fn is_computed(id: &str) -> bool {
    id.starts_with(PREFIX)
}
