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

use std::collections::{BTreeMap, HashMap, HashSet, hash_map};
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
    pub(super) fn put(&mut self, mut entry: Entry) -> (Arc<Entry>, Effect) {
        let mut effect = self.replaced(&entry.id);
        let (entry, first_child) = self.by_parent.add_with(entry.parent_id.clone(), |parent| {
            // Children share the text of their parent: a million entries need not hold a copy each.
            entry.parent_id = parent.clone();
            Arc::new(entry)
        });
        self.by_spiffe_id.add(entry.spiffe_id.clone(), entry.clone());
        if entry.parent_id == self.server
            && let Some(first) = entry.selectors.iter().next()
        {
            self.aliases.add(first.clone(), entry.clone());
        }
        self.entries.insert(entry.id.clone(), entry.clone());
        self.note(&entry, first_child, &mut effect);
        (entry, effect)
    }

    /// Takes out what an entry of this ID is to replace. A listing comes in the order of IDs: behind the last one there is nothing to look for.
    fn replaced(&mut self, id: &str) -> Effect {
        match self.entries.last_key_value() {
            Some((last, _)) if id <= &**last => self.remove(id),
            _ => Effect::default(),
        }
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

    /// The IDs whose children are the node's entries at the time `now`: what has ended by then leads nowhere.
    pub(super) fn reach(&self, node: &SpiffeId, selectors: &Selectors, now: i64) -> HashSet<SpiffeId> {
        let aliases = selectors
            .iter()
            .flat_map(|selector| self.aliases.get(selector))
            .filter(|alias| !alias.is_expired(now) && alias.selectors.is_subset(selectors))
            .map(|alias| alias.spiffe_id.clone());
        let mut open: Vec<SpiffeId> = aliases.chain([node.clone()]).collect();
        let mut reach = HashSet::new();
        while let Some(parent) = open.pop() {
            if reach.insert(parent.clone()) {
                let children = self.by_parent.get(&parent).filter(|child| !child.is_expired(now));
                let children = children.map(|child| &child.spiffe_id);
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

/// Entries in groups: most groups hold one or a node's hundred, some hold a million.
struct Groups<K>(HashMap<K, Group>);

#[expect(
    clippy::box_collection,
    reason = "most groups are of one, and there may be a million: the few large ones must not make them larger"
)]
enum Group {
    One(Arc<Entry>),
    Few(Vec<Arc<Entry>>),
    Many(Box<HashMap<Arc<str>, Arc<Entry>>>),
}

/// Up to this many entries a group is a list; few enough in tests that they see both.
const FEW: usize = if cfg!(test) { 3 } else { 128 };

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
            Some(Group::One(entry)) => (std::slice::from_ref(entry), None),
            Some(Group::Few(list)) => (list.as_slice(), None),
            Some(Group::Many(map)) => (&[][..], Some(map.values())),
            None => (&[][..], None),
        };
        few.iter().chain(many.into_iter().flatten())
    }

    /// Adds an entry that is not there; true when it is the first of its group.
    fn add(&mut self, key: K, entry: Arc<Entry>) -> bool {
        self.add_with(key, |_| entry).1
    }

    /// As [`Self::add`], for an entry that is made with the key of its group.
    fn add_with(&mut self, key: K, make: impl FnOnce(&K) -> Arc<Entry>) -> (Arc<Entry>, bool) {
        match self.0.entry(key) {
            hash_map::Entry::Vacant(place) => {
                let entry = make(place.key());
                place.insert(Group::One(entry.clone()));
                (entry, true)
            }
            hash_map::Entry::Occupied(mut group) => {
                let entry = make(group.key());
                group.get_mut().add(entry.clone());
                (entry, false)
            }
        }
    }

    /// Removes an entry; true when it was the last of its group.
    fn remove(&mut self, key: &K, id: &str) -> bool {
        let empty = self.0.get_mut(key).is_some_and(|group| group.remove(id));
        if empty {
            self.0.remove(key);
        }
        empty
    }
}

impl Group {
    fn add(&mut self, entry: Arc<Entry>) {
        match self {
            Self::One(first) => *self = Self::Few(vec![first.clone(), entry]),
            Self::Few(list) if list.len() < FEW => list.push(entry),
            Self::Few(list) => {
                let all = list.drain(..).chain([entry]).map(|entry| (entry.id.clone(), entry));
                *self = Self::Many(Box::new(all.collect()));
            }
            Self::Many(map) => {
                map.insert(entry.id.clone(), entry);
            }
        }
    }

    /// True when nothing is left.
    fn remove(&mut self, id: &str) -> bool {
        match self {
            Self::One(entry) => &*entry.id == id,
            Self::Few(list) => {
                list.retain(|entry| &*entry.id != id);
                list.is_empty()
            }
            Self::Many(map) => {
                map.remove(id);
                map.is_empty()
            }
        }
    }
}
