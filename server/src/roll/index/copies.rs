//! The published trust bundle, as it is found in each of its places.

use std::sync::Arc;

use super::super::facts::{Uid, UidError};
use super::super::kept::Kept;
use super::super::publish::{KEYS, Place};
use super::super::wire;
use super::{Effect, Index, Kind, Put};

/// What is found in a place.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::roll) struct Copy {
    /// Another one with each change, also of what is not ours.
    version: String,
    pub(in crate::roll) pem: String,
    pub(in crate::roll) json: String,
    /// What it goes with.
    pub(in crate::roll) owners: Vec<Uid>,
}

impl Kind for Place {
    type Wire = wire::Copy;

    fn meta(wire: &wire::Copy) -> &wire::Meta {
        &wire.metadata
    }

    fn put(&self, index: &mut Index, wire: wire::Copy, _: Option<Kept>, effect: &mut Effect) -> Result<(), UidError> {
        if wire.metadata.name != self.name() {
            return Ok(());
        }
        let owners = wire.metadata.owner_references.unwrap_or_default();
        let mut data = wire.data.unwrap_or_default();
        let mut value = |key| data.remove(key).unwrap_or_default();
        let copy = Copy {
            version: wire.metadata.resource_version,
            pem: match self {
                Self::Namespace(_) => value(KEYS.0),
                Self::Cluster(_) => wire.spec.trust_bundle,
            },
            json: value(KEYS.1),
            owners: owners.iter().filter_map(|owner| Uid::parse(&owner.uid).ok()).collect(),
        };
        let shelf = index.copies.entry(self.clone()).or_default();
        effect.copies |= !matches!(shelf.put((), copy), Put::Same);
        Ok(())
    }

    fn delete(&self, index: &mut Index, wire: wire::Copy, effect: &mut Effect) {
        if wire.metadata.name == self.name() {
            let shelf = index.copies.entry(self.clone()).or_default();
            effect.copies |= shelf.remove(&()).is_some();
        }
    }

    fn begin(&self, index: &mut Index) {
        index.copies.entry(self.clone()).or_default().listing += 1;
    }

    fn end(&self, index: &mut Index, effect: &mut Effect) {
        let shelf = index.copies.entry(self.clone()).or_default();
        for name in shelf.stale() {
            effect.copies |= shelf.remove(&name).is_some();
        }
    }

    fn count(&self, index: &Index) -> usize {
        let is_alike = |place: &Self| std::mem::discriminant(place) == std::mem::discriminant(self);
        let alike = index.copies.iter().filter(|(place, _)| is_alike(place));
        alike.map(|(_, shelf)| shelf.len()).sum()
    }
}

impl Index {
    /// What is found in a place.
    pub(in crate::roll) fn copy(&self, place: &Place) -> Option<Arc<Copy>> {
        self.copies.get(place)?.get(&()).cloned()
    }
}
