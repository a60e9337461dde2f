//! The roll call of one cluster: what its watches have told, by UID and by what is asked for. Only they change it.
//!
//! ```text
//! pods ── by UID ──┬── by node ─────── a change of the node concerns its pods
//!                  ├── by namespace ── a change of its labels concerns its pods
//!                  └── services ────── which slices of EndpointSlices name the pod
//! ```
//! A new listing is folded over what is held, and what it did not name is gone at its end: nothing is held twice, and nobody sees an empty roll meanwhile.

mod copies;

use std::borrow::Borrow;
use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::sync::Arc;

use super::facts::{Namespace, Node, Object, ObjectKind, Pod, ServiceAccount, Uid, UidError};
use super::intern::Interner;
use super::kept::{Kept, Reader};
use super::publish::Place;
use super::wire::Whole;
use super::{trim, wire};

pub(super) use copies::Copy;

/// What a change concerns.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Effect {
    /// These pods: they came, went, or something that identity is made of has changed.
    pub(super) pods: Vec<Uid>,
    /// The objects that say who gets which identity.
    pub(super) objects: bool,
    /// Which kinds of them are defined.
    pub(super) definitions: bool,
    /// What is found where the trust bundle is published.
    pub(super) copies: bool,
}

impl Effect {
    pub(super) fn is_something(&self) -> bool {
        !self.pods.is_empty() || self.objects || self.definitions || self.copies
    }
}

/// Things of one kind.
pub(super) struct Shelf<K, V> {
    held: HashMap<K, (Arc<V>, u32)>,
    /// The number of the listing that is under way or was the last.
    listing: u32,
}

impl<K, V> Default for Shelf<K, V> {
    fn default() -> Self {
        Self {
            held: HashMap::new(),
            listing: 0,
        }
    }
}

/// What a put did.
enum Put<V> {
    New,
    Same,
    Instead(Arc<V>),
}

impl<K: Eq + Hash + Clone, V: PartialEq> Shelf<K, V> {
    fn put(&mut self, key: K, value: V) -> Put<V> {
        match self.held.get_mut(&key) {
            Some((old, seen)) => {
                *seen = self.listing;
                if **old == value {
                    return Put::Same;
                }
                Put::Instead(std::mem::replace(old, Arc::new(value)))
            }
            None => {
                self.held.insert(key, (Arc::new(value), self.listing));
                Put::New
            }
        }
    }

    fn remove<Q: Eq + Hash + ?Sized>(&mut self, key: &Q) -> Option<Arc<V>>
    where
        K: Borrow<Q>,
    {
        self.held.remove(key).map(|(value, _)| value)
    }

    /// What the listing that ends did not name.
    fn stale(&self) -> Vec<K> {
        let stale = self.held.iter().filter(|(_, (_, seen))| *seen != self.listing);
        stale.map(|(key, _)| key.clone()).collect()
    }

    pub(super) fn get<Q: Eq + Hash + ?Sized>(&self, key: &Q) -> Option<&Arc<V>>
    where
        K: Borrow<Q>,
    {
        self.held.get(key).map(|(value, _)| value)
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &Arc<V>> {
        self.held.values().map(|(value, _)| value)
    }

    pub(super) fn len(&self) -> usize {
        self.held.len()
    }
}

/// Namespace and name.
pub(super) type Name = (Arc<str>, Arc<str>);

/// The pods behind a service, as far as one slice names them.
#[derive(PartialEq, Eq)]
pub(super) struct Slice {
    service: Arc<str>,
    pods: Box<[Uid]>,
}

/// See the module.
#[derive(Default)]
pub(super) struct Index {
    interner: Interner,
    pub(super) pods: Shelf<Uid, Pod>,
    pub(super) nodes: Shelf<Arc<str>, Node>,
    pub(super) namespaces: Shelf<Arc<str>, Namespace>,
    pub(super) accounts: Shelf<Name, ServiceAccount>,
    pub(super) slices: Shelf<Name, Slice>,
    pub(super) objects: [Shelf<Name, Object>; 4],
    definitions: Shelf<String, ()>,
    copies: HashMap<Place, Shelf<(), Copy>>,
    by_node: HashMap<Arc<str>, HashSet<Uid>>,
    by_namespace: HashMap<Arc<str>, HashSet<Uid>>,
    /// The service of each slice that names the pod: of two slices of one service, it stands there twice.
    services: HashMap<Uid, Vec<Arc<str>>>,
}

/// A kind of things that is watched: how it is folded.
pub(super) trait Kind: Send + Sync + 'static {
    /// As the API server sends it.
    type Wire: serde::de::DeserializeOwned + Clone + Send + 'static;
    /// Whether a [`Reader`] reads it too, so that all must be read again when that wants more of them.
    const IS_READ: bool = false;

    fn meta(wire: &Self::Wire) -> &wire::Meta;
    /// What the reader keeps of it.
    fn read(_reader: &dyn Reader, _cluster: &str, _wire: &Self::Wire) -> Option<Result<Kept, String>> {
        None
    }
    fn put(&self, index: &mut Index, wire: Self::Wire, kept: Option<Kept>, effect: &mut Effect)
    -> Result<(), UidError>;
    fn delete(&self, index: &mut Index, wire: Self::Wire, effect: &mut Effect);
    /// A listing begins.
    fn begin(&self, index: &mut Index);
    /// It is complete.
    fn end(&self, index: &mut Index, effect: &mut Effect);
    fn count(&self, index: &Index) -> usize;
}

pub(super) struct Pods;
pub(super) struct Nodes;
pub(super) struct Namespaces;
pub(super) struct Accounts;
pub(super) struct Slices;
/// The definitions of the kinds of [`Object`]s; others are not kept.
pub(super) struct Definitions;

impl Kind for Pods {
    type Wire = Whole<wire::Pod>;
    const IS_READ: bool = true;

    fn meta(wire: &Whole<wire::Pod>) -> &wire::Meta {
        &wire.object.metadata
    }

    fn read(reader: &dyn Reader, cluster: &str, wire: &Whole<wire::Pod>) -> Option<Result<Kept, String>> {
        Some(reader.pod(cluster, wire.text.get()))
    }

    fn put(
        &self,
        index: &mut Index,
        wire: Whole<wire::Pod>,
        kept: Option<Kept>,
        effect: &mut Effect,
    ) -> Result<(), UidError> {
        let mut pod = trim::pod(&mut index.interner, wire.object)?;
        pod.kept = kept;
        let (uid, node, namespace) = (pod.meta.uid, Arc::clone(&pod.node), Arc::clone(&pod.meta.namespace));
        match index.pods.put(uid, pod) {
            Put::Same => return Ok(()),
            Put::New => {
                index.by_namespace.entry(namespace).or_default().insert(uid);
            }
            // A pod is bound once, so this is the moment of its binding.
            Put::Instead(old) if old.node != node => forget(&mut index.by_node, &old.node, uid),
            Put::Instead(_) => {}
        }
        if !node.is_empty() {
            index.by_node.entry(node).or_default().insert(uid);
        }
        effect.pods.push(uid);
        Ok(())
    }

    fn delete(&self, index: &mut Index, wire: Whole<wire::Pod>, effect: &mut Effect) {
        if let Ok(uid) = Uid::parse(&wire.object.metadata.uid) {
            index.remove_pod(uid, effect);
        }
    }

    fn begin(&self, index: &mut Index) {
        index.pods.listing += 1;
    }

    fn end(&self, index: &mut Index, effect: &mut Effect) {
        for uid in index.pods.stale() {
            index.remove_pod(uid, effect);
        }
    }

    fn count(&self, index: &Index) -> usize {
        index.pods.len()
    }
}

impl Kind for Nodes {
    type Wire = Whole<wire::Node>;
    const IS_READ: bool = true;

    fn meta(wire: &Whole<wire::Node>) -> &wire::Meta {
        &wire.object.metadata
    }

    fn read(reader: &dyn Reader, cluster: &str, wire: &Whole<wire::Node>) -> Option<Result<Kept, String>> {
        Some(reader.node(cluster, wire.text.get()))
    }

    fn put(
        &self,
        index: &mut Index,
        wire: Whole<wire::Node>,
        kept: Option<Kept>,
        effect: &mut Effect,
    ) -> Result<(), UidError> {
        let mut node = trim::node(&mut index.interner, wire.object)?;
        node.kept = kept;
        let name = index.interner.get(&node.meta.name);
        if !matches!(index.nodes.put(Arc::clone(&name), node), Put::Same) {
            effect.pods.extend(members(&index.by_node, &name));
        }
        Ok(())
    }

    fn delete(&self, index: &mut Index, wire: Whole<wire::Node>, effect: &mut Effect) {
        let name = &*wire.object.metadata.name;
        if index.nodes.remove(name).is_some() {
            effect.pods.extend(members(&index.by_node, name));
        }
    }

    fn begin(&self, index: &mut Index) {
        index.nodes.listing += 1;
    }

    fn end(&self, index: &mut Index, effect: &mut Effect) {
        for name in index.nodes.stale() {
            index.nodes.remove(&name);
            effect.pods.extend(members(&index.by_node, &name));
        }
    }

    fn count(&self, index: &Index) -> usize {
        index.nodes.len()
    }
}

impl Kind for Namespaces {
    type Wire = Whole<wire::Bare>;
    const IS_READ: bool = true;

    fn meta(wire: &Whole<wire::Bare>) -> &wire::Meta {
        &wire.object.metadata
    }

    fn read(reader: &dyn Reader, cluster: &str, wire: &Whole<wire::Bare>) -> Option<Result<Kept, String>> {
        Some(reader.namespace(cluster, wire.text.get()))
    }

    fn put(
        &self,
        index: &mut Index,
        wire: Whole<wire::Bare>,
        kept: Option<Kept>,
        effect: &mut Effect,
    ) -> Result<(), UidError> {
        let meta = trim::meta(&mut index.interner, wire.object.metadata)?;
        let name = index.interner.get(&meta.name);
        if !matches!(
            index.namespaces.put(Arc::clone(&name), Namespace { meta, kept }),
            Put::Same
        ) {
            effect.pods.extend(members(&index.by_namespace, &name));
        }
        Ok(())
    }

    fn delete(&self, index: &mut Index, wire: Whole<wire::Bare>, effect: &mut Effect) {
        let name = &*wire.object.metadata.name;
        if index.namespaces.remove(name).is_some() {
            effect.pods.extend(members(&index.by_namespace, name));
        }
    }

    fn begin(&self, index: &mut Index) {
        index.namespaces.listing += 1;
    }

    fn end(&self, index: &mut Index, effect: &mut Effect) {
        for name in index.namespaces.stale() {
            index.namespaces.remove(&name);
            effect.pods.extend(members(&index.by_namespace, &name));
        }
    }

    fn count(&self, index: &Index) -> usize {
        index.namespaces.len()
    }
}

impl Kind for Accounts {
    type Wire = wire::Bare;

    fn meta(wire: &wire::Bare) -> &wire::Meta {
        &wire.metadata
    }

    fn put(&self, index: &mut Index, wire: wire::Bare, _: Option<Kept>, _: &mut Effect) -> Result<(), UidError> {
        let uid = Uid::parse(&wire.metadata.uid)?;
        let name = index.name(&wire.metadata);
        index.accounts.put(name, ServiceAccount { uid });
        Ok(())
    }

    fn delete(&self, index: &mut Index, wire: wire::Bare, _: &mut Effect) {
        let name = index.name(&wire.metadata);
        index.accounts.remove(&name);
    }

    fn begin(&self, index: &mut Index) {
        index.accounts.listing += 1;
    }

    fn end(&self, index: &mut Index, _: &mut Effect) {
        for name in index.accounts.stale() {
            index.accounts.remove(&name);
        }
    }

    fn count(&self, index: &Index) -> usize {
        index.accounts.len()
    }
}

impl Kind for Slices {
    type Wire = wire::Slice;

    fn meta(wire: &wire::Slice) -> &wire::Meta {
        &wire.metadata
    }

    fn put(&self, index: &mut Index, wire: wire::Slice, _: Option<Kept>, effect: &mut Effect) -> Result<(), UidError> {
        let name = index.name(&wire.metadata);
        let (service, pods) = trim::slice(&mut index.interner, wire);
        let old = match index.slices.put(name.clone(), Slice { service, pods }) {
            Put::Same => return Ok(()),
            Put::New => None,
            Put::Instead(old) => Some(old),
        };
        let new = index.slices.get(&name).cloned();
        index.behind(old.as_deref(), new.as_deref(), effect);
        Ok(())
    }

    fn delete(&self, index: &mut Index, wire: wire::Slice, effect: &mut Effect) {
        let name = index.name(&wire.metadata);
        let old = index.slices.remove(&name);
        index.behind(old.as_deref(), None, effect);
    }

    fn begin(&self, index: &mut Index) {
        index.slices.listing += 1;
    }

    fn end(&self, index: &mut Index, effect: &mut Effect) {
        for name in index.slices.stale() {
            let old = index.slices.remove(&name);
            index.behind(old.as_deref(), None, effect);
        }
    }

    fn count(&self, index: &Index) -> usize {
        index.slices.len()
    }
}

impl Kind for Definitions {
    type Wire = wire::Bare;

    fn meta(wire: &wire::Bare) -> &wire::Meta {
        &wire.metadata
    }

    fn put(&self, index: &mut Index, wire: wire::Bare, _: Option<Kept>, effect: &mut Effect) -> Result<(), UidError> {
        let name = wire.metadata.name;
        if ObjectKind::ALL.iter().any(|kind| kind.definition() == name) {
            effect.definitions |= !matches!(index.definitions.put(name, ()), Put::Same);
        }
        Ok(())
    }

    fn delete(&self, index: &mut Index, wire: wire::Bare, effect: &mut Effect) {
        effect.definitions |= index.definitions.remove(&wire.metadata.name).is_some();
    }

    fn begin(&self, index: &mut Index) {
        index.definitions.listing += 1;
    }

    fn end(&self, index: &mut Index, effect: &mut Effect) {
        for name in index.definitions.stale() {
            effect.definitions |= index.definitions.remove(&name).is_some();
        }
    }

    fn count(&self, index: &Index) -> usize {
        index.definitions.len()
    }
}

impl Kind for ObjectKind {
    type Wire = wire::Object;

    fn meta(wire: &wire::Object) -> &wire::Meta {
        &wire.metadata
    }

    fn put(&self, index: &mut Index, wire: wire::Object, _: Option<Kept>, effect: &mut Effect) -> Result<(), UidError> {
        let name = index.name(&wire.metadata);
        let object = trim::object(&mut index.interner, *self, wire)?;
        effect.objects |= !matches!(index.shelf(*self).put(name, object), Put::Same);
        Ok(())
    }

    fn delete(&self, index: &mut Index, wire: wire::Object, effect: &mut Effect) {
        let name = index.name(&wire.metadata);
        effect.objects |= index.shelf(*self).remove(&name).is_some();
    }

    fn begin(&self, index: &mut Index) {
        index.shelf(*self).listing += 1;
    }

    fn end(&self, index: &mut Index, effect: &mut Effect) {
        let shelf = index.shelf(*self);
        for name in shelf.stale() {
            effect.objects |= shelf.remove(&name).is_some();
        }
    }

    fn count(&self, index: &Index) -> usize {
        index.objects[*self as usize].len()
    }
}

impl Index {
    fn shelf(&mut self, kind: ObjectKind) -> &mut Shelf<Name, Object> {
        &mut self.objects[kind as usize]
    }

    pub(super) fn is_defined(&self, kind: ObjectKind) -> bool {
        self.definitions.get(&kind.definition()).is_some()
    }

    fn name(&mut self, meta: &wire::Meta) -> Name {
        (self.interner.get(&meta.namespace), Arc::from(&*meta.name))
    }

    fn remove_pod(&mut self, uid: Uid, effect: &mut Effect) {
        if let Some(pod) = self.pods.remove(&uid) {
            forget(&mut self.by_node, &pod.node, uid);
            forget(&mut self.by_namespace, &pod.meta.namespace, uid);
            effect.pods.push(uid);
        }
    }

    /// A slice named these pods and names those.
    fn behind(&mut self, old: Option<&Slice>, new: Option<&Slice>, effect: &mut Effect) {
        let has = |slice: Option<&Slice>, service: &str, pod: &Uid| {
            slice.is_some_and(|slice| &*slice.service == service && slice.pods.binary_search(pod).is_ok())
        };
        for (slice, other, gone) in [(old, new, true), (new, old, false)] {
            let Some(slice) = slice.filter(|slice| !slice.service.is_empty()) else {
                continue;
            };
            for pod in slice.pods.iter().filter(|pod| !has(other, &slice.service, pod)) {
                let services = self.services.entry(*pod).or_default();
                if gone {
                    if let Some(at) = services.iter().position(|service| *service == slice.service) {
                        services.swap_remove(at);
                    }
                    if services.is_empty() {
                        self.services.remove(pod);
                    }
                } else {
                    services.push(Arc::clone(&slice.service));
                }
                effect.pods.push(*pod);
            }
        }
    }

    /// The services that a pod stands behind, in order.
    pub(super) fn services_of(&self, pod: Uid) -> Vec<Arc<str>> {
        let mut services = self.services.get(&pod).cloned().unwrap_or_default();
        services.sort_unstable();
        services.dedup();
        services
    }

    /// The pods that are bound to a node.
    pub(super) fn pods_on(&self, node: &str) -> Vec<Arc<Pod>> {
        let pods = members(&self.by_node, node);
        pods.filter_map(|uid| self.pods.get(&uid).cloned()).collect()
    }

    /// The pods of this name: one, or for a moment the one that goes and the one that comes.
    pub(super) fn pods_named(&self, namespace: &str, name: &str) -> Vec<Arc<Pod>> {
        let pods = members(&self.by_namespace, namespace).filter_map(|uid| self.pods.get(&uid));
        pods.filter(|pod| &*pod.meta.name == name).cloned().collect()
    }
}

fn members<'a>(groups: &'a HashMap<Arc<str>, HashSet<Uid>>, of: &str) -> impl Iterator<Item = Uid> + use<'a> {
    groups.get(of).into_iter().flatten().copied()
}

fn forget(groups: &mut HashMap<Arc<str>, HashSet<Uid>>, of: &str, uid: Uid) {
    if let Some(group) = groups.get_mut(of) {
        group.remove(&uid);
        if group.is_empty() {
            groups.remove(of);
        }
    }
}

#[cfg(test)]
mod tests;
