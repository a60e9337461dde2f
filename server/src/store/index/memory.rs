//! An index in memory.

use std::{collections::BTreeMap, ops::Bound};

use bytes::Bytes;

use super::{Assignment, Index, IndexError, Page};
use crate::store::{
    digest::{Digest, Position},
    types::KeyValue,
};

/// An index in memory.
#[derive(Default)]
pub(in crate::store) struct MemoryIndex {
    pairs: BTreeMap<Bytes, KeyValue>,
}

impl Index for MemoryIndex {
    fn get(&self, key: &[u8]) -> Result<Option<KeyValue>, IndexError> {
        Ok(self.pairs.get(key).cloned())
    }

    fn scan(&self, prefix: &[u8], after: Option<&[u8]>, page: Page) -> Result<Vec<KeyValue>, IndexError> {
        let start = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        let pairs = self
            .pairs
            .range::<[u8], _>((start, Bound::Unbounded))
            .map(|(_, pair)| pair.clone());
        let mut bytes = 0;
        let page = pairs
            .take_while(|pair| pair.key.starts_with(prefix))
            .take(page.keys)
            .take_while(|pair| {
                let begun = bytes < page.bytes;
                bytes += pair.key.len() + pair.value.len();
                begun
            });
        Ok(page.collect())
    }

    fn apply(
        &mut self,
        _to: Option<&Position>,
        assignments: &mut dyn Iterator<Item = Assignment<'_>>,
    ) -> Result<(), IndexError> {
        for (key, pair) in assignments {
            match pair {
                Some(pair) => self.pairs.insert(key.clone(), pair.clone()),
                None => self.pairs.remove(key),
            };
        }
        Ok(())
    }

    fn digest(&self) -> Result<Digest, IndexError> {
        let mut digest = Digest::default();
        self.pairs.values().for_each(|pair| digest.add(pair));
        Ok(digest)
    }

    fn syncer(&self) -> Box<dyn FnOnce() -> Result<(), IndexError> + Send> {
        Box::new(|| Ok(()))
    }
}
