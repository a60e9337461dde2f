//! A transaction: conditions and changes, all or nothing.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{
    error::{Expectation, StoreError},
    types::Revision,
};

/// The longest key, in bytes.
pub const MAX_KEY: usize = 1024;
/// The longest value, in bytes.
pub const MAX_VALUE: usize = 1 << 20;
/// The most conditions and changes in one transaction, together.
pub const MAX_OPERATIONS: usize = 8192;
/// The most bytes of keys and values in one transaction.
pub const MAX_TXN: usize = 8 << 20;

/// Conditions and changes that are applied together or not at all.
///
/// Each key may have one condition and one change.
#[derive(Clone, Debug, Default)]
pub struct Txn {
    pub(super) conditions: BTreeMap<Bytes, Expectation>,
    pub(super) changes: BTreeMap<Bytes, Option<Bytes>>,
    duplicate: Option<(&'static str, Bytes)>,
}

impl Txn {
    /// A transaction that does nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Expects that `key` does not exist.
    #[must_use]
    pub fn expect_absent(self, key: impl Into<Bytes>) -> Self {
        self.expect(key.into(), Expectation::Absent)
    }

    /// Expects that `key` exists.
    #[must_use]
    pub fn expect_present(self, key: impl Into<Bytes>) -> Self {
        self.expect(key.into(), Expectation::Present)
    }

    /// Expects that `key` was last put at `revision` ([`KeyValue::modified`](super::KeyValue::modified)).
    #[must_use]
    pub fn expect_revision(self, key: impl Into<Bytes>, revision: Revision) -> Self {
        self.expect(key.into(), Expectation::At(revision))
    }

    /// Puts `value` under `key`.
    #[must_use]
    pub fn put(self, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        self.change(key.into(), Some(value.into()))
    }

    /// Deletes `key`; an absent key stays absent without an event.
    #[must_use]
    pub fn delete(self, key: impl Into<Bytes>) -> Self {
        self.change(key.into(), None)
    }

    fn expect(mut self, key: Bytes, expectation: Expectation) -> Self {
        if self
            .conditions
            .insert(key.clone(), expectation)
            .is_some_and(|old| old != expectation)
        {
            self.duplicate.get_or_insert(("condition", key));
        }
        self
    }

    fn change(mut self, key: Bytes, value: Option<Bytes>) -> Self {
        if self.changes.insert(key.clone(), value).is_some() {
            self.duplicate.get_or_insert(("change", key));
        }
        self
    }

    /// Bytes of keys and values, a measure of what it costs to hold and write.
    pub(super) fn size(&self) -> usize {
        let conditions: usize = self.conditions.keys().map(Bytes::len).sum();
        let changes: usize = self
            .changes
            .iter()
            .map(|(key, value)| key.len() + value.as_ref().map_or(0, Bytes::len))
            .sum();
        conditions + changes
    }

    /// Holds the transaction against the limits.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        if let Some((what, key)) = &self.duplicate {
            return Err(invalid("transaction", key, format!("the key has more than one {what}")));
        }
        let operations = self.conditions.len() + self.changes.len();
        if operations > MAX_OPERATIONS {
            let why = format!("{operations} conditions and changes, at most {MAX_OPERATIONS} go in one transaction");
            return Err(invalid("transaction", &Bytes::new(), why));
        }
        for key in self.conditions.keys().chain(self.changes.keys()) {
            if key.is_empty() || key.len() > MAX_KEY {
                return Err(invalid(
                    "key",
                    key,
                    format!("{} bytes long, it must be 1 to {MAX_KEY}", key.len()),
                ));
            }
        }
        for (key, value) in &self.changes {
            let length = value.as_ref().map_or(0, Bytes::len);
            if length > MAX_VALUE {
                return Err(invalid(
                    "value",
                    key,
                    format!("{length} bytes long, at most {MAX_VALUE} are stored"),
                ));
            }
        }
        let size = self.size();
        if size > MAX_TXN {
            let why = format!("{size} bytes of keys and values, at most {MAX_TXN} go in one transaction");
            return Err(invalid("transaction", &Bytes::new(), why));
        }
        Ok(())
    }
}

fn invalid(what: &'static str, key: &Bytes, why: String) -> StoreError {
    StoreError::Invalid {
        what,
        key: key.slice(..key.len().min(64)),
        why,
    }
}
