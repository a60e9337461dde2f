//! An index in memory.

use std::{collections::BTreeMap, ops::Bound};

use bytes::Bytes;

use super::{Index, IndexError, end_of};
use crate::store::types::{Event, KeyValue, Revision};

/// An index in memory.
#[derive(Default)]
pub(in crate::store) struct MemoryIndex {
    pairs: BTreeMap<Bytes, KeyValue>,
}

impl Index for MemoryIndex {
    fn get(&self, key: &[u8]) -> Result<Option<KeyValue>, IndexError> {
        Ok(self.pairs.get(key).cloned())
    }

    fn scan(&self, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Result<Vec<KeyValue>, IndexError> {
        let start = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        let pairs = self.pairs.range::<[u8], _>((start, Bound::Unbounded));
        let end = end_of(prefix);
        let within = |key: &Bytes| end.as_ref().is_none_or(|end| key < end);
        Ok(pairs
            .take_while(|(key, _)| within(key))
            .take(limit)
            .map(|(_, pair)| pair.clone())
            .collect())
    }

    fn apply(&mut self, _revision: Revision, events: &mut dyn Iterator<Item = &Event>) -> Result<(), IndexError> {
        for event in events {
            match event.pair() {
                Some(pair) => self.pairs.insert(event.key.clone(), pair.clone()),
                None => self.pairs.remove(&event.key),
            };
        }
        Ok(())
    }
}
