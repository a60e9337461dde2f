//! The registry's memory: every entry, found by ID, by parent and by SPIFFE ID, and the rule which of them are a node's.
//!
//! ```text
//!   node ──────────────┐
//!   alias of the node ─┼─ is the parent of ─▶ entry ─ whose SPIFFE ID is the parent of ─▶ entry …
//!   (parent = server,  ┘
//!    selectors ⊆ the node's)
//! ```
//!
//! The set of IDs on the left, and those of all entries reached from them that are parents themselves, is the node's *reach*: an entry is the node's exactly
//! when its parent is in it. Nothing here waits or does I/O.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use mintmark_identity::{Selector, Selectors, SpiffeId};

use super::entry::Entry;

/// All entries, indexed.
pub(super) struct Index {
    server: SpiffeId,
    entries: BTreeMap<Arc<str>, Arc<Entry>>,
    by_parent: Groups<SpiffeId>,
    by_spiffe_id: Groups<SpiffeId>,
    /// Aliases by the first of their selectors: an alias can only match a node that has that one.
    aliases: Groups<Selector>,
}

/// What a change of one entry means for those who watch.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Effect {
    /// Nodes whose reach holds one of these have a changed entry.
    pub(super) parents: Vec<SpiffeId>,
    /// Nodes whose reach holds one of these have another reach now.
    pub(super) reach: Vec<SpiffeId>,
    /// Nodes that have all of one of these sets of selectors have another reach now.
    pub(super) aliases: Vec<Selectors>,
}

impl Index {
    pub(super) fn new(server: SpiffeId) -> Self {
        Self {
            server,
            entries: BTreeMap::new(),
            by_parent: Groups::default(),
            by_spiffe_id: Groups::default(),
            aliases: Groups::default(),
        }
    }

    /// Puts an entry in, in place of an older one of the same ID.
    pub(super) fn put(&mut self, entry: Arc<Entry>) -> Effect {
        let mut effect = self.remove(&entry.id);
        let first_child = self.by_parent.add(entry.parent_id.clone(), entry.clone());
        self.by_spiffe_id.add(entry.spiffe_id.clone(), entry.clone());
        if entry.parent_id == self.server
            && let Some(first) = entry.selectors.iter().next()
        {
            self.aliases.add(first.clone(), entry.clone());
        }
        self.entries.insert(entry.id.clone(), entry.clone());
        self.note(&entry, first_child, &mut effect);
        effect
    }

    /// Takes an entry out; an ID that is not there changes nothing.
    pub(super) fn remove(&mut self, id: &str) -> Effect {
        let mut effect = Effect::default();
        let Some(entry) = self.entries.remove(id) else {
            return effect;
        };
        let last_child = self.by_parent.remove(&entry.parent_id, id);
        self.by_spiffe_id.remove(&entry.spiffe_id, id);
        if let Some(first) = entry.selectors.iter().next() {
            self.aliases.remove(first, id);
        }
        self.note(&entry, last_child, &mut effect);
        effect
    }

    fn note(&self, entry: &Entry, parenthood_changed: bool, effect: &mut Effect) {
        effect.parents.push(entry.parent_id.clone());
        if entry.parent_id == self.server {
            effect.aliases.push(entry.selectors.clone());
        }
        if self.by_parent.contains(&entry.spiffe_id) {
            effect.reach.push(entry.parent_id.clone());
        }
        if parenthood_changed {
            effect.reach.extend(
                self.by_spiffe_id
                    .get(&entry.parent_id)
                    .map(|parent| parent.parent_id.clone()),
            );
        }
    }

    pub(super) fn get(&self, id: &str) -> Option<&Arc<Entry>> {
        self.entries.get(id)
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Entries in the order of their IDs, from the first one behind `after`.
    pub(super) fn after(&self, after: Option<&str>) -> impl Iterator<Item = &Arc<Entry>> {
        use std::ops::Bound::{Excluded, Unbounded};
        let start = after.map_or(Unbounded, Excluded);
        self.entries.range::<str, _>((start, Unbounded)).map(|(_, entry)| entry)
    }

    pub(super) fn with_parent(&self, parent: &SpiffeId) -> impl Iterator<Item = &Arc<Entry>> {
        self.by_parent.get(parent)
    }

    pub(super) fn with_spiffe_id(&self, id: &SpiffeId) -> impl Iterator<Item = &Arc<Entry>> {
        self.by_spiffe_id.get(id)
    }

    /// The entry that stands for the same identity: same SPIFFE ID, parent and selectors.
    pub(super) fn twin(
        &self,
        spiffe_id: &SpiffeId,
        parent_id: &SpiffeId,
        selectors: &Selectors,
    ) -> Option<&Arc<Entry>> {
        self.with_spiffe_id(spiffe_id)
            .find(|entry| entry.parent_id == *parent_id && entry.selectors == *selectors)
    }

    /// The IDs whose children are the node's entries.
    pub(super) fn reach(&self, node: &SpiffeId, selectors: &Selectors) -> HashSet<SpiffeId> {
        let aliases = selectors
            .iter()
            .flat_map(|selector| self.aliases.get(selector))
            .filter(|alias| alias.selectors.is_subset(selectors))
            .map(|alias| alias.spiffe_id.clone());
        let mut open: Vec<SpiffeId> = aliases.chain([node.clone()]).collect();
        let mut reach = HashSet::new();
        while let Some(parent) = open.pop() {
            if reach.insert(parent.clone()) {
                let children = self.by_parent.get(&parent).map(|child| &child.spiffe_id);
                open.extend(
                    children
                        .filter(|id| self.by_parent.contains(id) && !reach.contains(*id))
                        .cloned(),
                );
            }
        }
        reach
    }

    /// The entries whose parent is in `reach`.
    pub(super) fn within<'a>(&'a self, reach: &'a HashSet<SpiffeId>) -> impl Iterator<Item = &'a Arc<Entry>> {
        reach.iter().flat_map(|parent| self.by_parent.get(parent))
    }
}

/// Entries in groups: most groups hold one or a few, some hold a million.
struct Groups<K>(HashMap<K, Group>);

enum Group {
    Few(Vec<Arc<Entry>>),
    Many(HashMap<Arc<str>, Arc<Entry>>),
}

/// Up to this many entries a group is a list.
const FEW: usize = 16;

impl<K> Default for Groups<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: std::hash::Hash + Eq> Groups<K> {
    fn contains(&self, key: &K) -> bool {
        self.0.contains_key(key)
    }

    fn get(&self, key: &K) -> impl Iterator<Item = &Arc<Entry>> {
        let (few, many) = match self.0.get(key) {
            Some(Group::Few(list)) => (list.as_slice(), None),
            Some(Group::Many(map)) => (&[][..], Some(map.values())),
            None => (&[][..], None),
        };
        few.iter().chain(many.into_iter().flatten())
    }

    /// Adds an entry that is not there; true when it is the first of its group.
    fn add(&mut self, key: K, entry: Arc<Entry>) -> bool {
        let group = self.0.entry(key).or_insert_with(|| Group::Few(Vec::with_capacity(1)));
        match group {
            Group::Few(list) if list.len() < FEW => {
                list.push(entry);
                list.len() == 1
            }
            Group::Few(list) => {
                let all = list.drain(..).chain([entry]).map(|entry| (entry.id.clone(), entry));
                *group = Group::Many(all.collect());
                false
            }
            Group::Many(map) => {
                map.insert(entry.id.clone(), entry);
                false
            }
        }
    }

    /// Removes an entry; true when it was the last of its group.
    fn remove(&mut self, key: &K, id: &str) -> bool {
        let empty = match self.0.get_mut(key) {
            Some(Group::Few(list)) => {
                list.retain(|entry| &*entry.id != id);
                list.is_empty()
            }
            Some(Group::Many(map)) => {
                map.remove(id);
                map.is_empty()
            }
            None => false,
        };
        if empty {
            self.0.remove(key);
        }
        empty
    }
}
