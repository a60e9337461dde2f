//! What is held, behind one lock, and when what is due.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use mintmark_identity::{Selector, TrustDomain};

use super::bundles::HeldBundle;
use super::identity::Identity;
use super::slot::{Ends as _, Life, WitSvid, X509Svid};
use crate::peer::Needs;

/// What is renewed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// An X.509-SVID.
    X509,
    /// A WIT-SVID.
    Wit,
}

/// When it is a certain SVID's turn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Next {
    /// Nobody wants it.
    #[default]
    Idle,
    /// At this time, Unix milliseconds.
    At(i64),
    /// The server has been asked.
    Asked,
}

/// The renewal of one SVID.
#[derive(Debug, Default)]
pub(super) struct Turn {
    pub(super) next: Next,
    /// How often it failed since it last worked.
    pub(super) failures: u32,
    /// Why it last failed.
    pub(super) problem: Option<Arc<str>>,
    /// How many streams and calls want it.
    pub(super) demand: u32,
}

/// An identity with what is held for it.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) identity: Arc<Identity>,
    pub(super) x509: Option<Arc<X509Svid>>,
    pub(super) wit: Option<Arc<WitSvid>>,
    pub(super) prefetched: bool,
    x509_turn: Turn,
    wit_turn: Turn,
}

impl Item {
    pub(super) fn turn(&self, kind: Kind) -> &Turn {
        match kind {
            Kind::X509 => &self.x509_turn,
            Kind::Wit => &self.wit_turn,
        }
    }

    pub(super) fn turn_mut(&mut self, kind: Kind) -> &mut Turn {
        match kind {
            Kind::X509 => &mut self.x509_turn,
            Kind::Wit => &mut self.wit_turn,
        }
    }

    pub(super) fn is_wanted(&self, kind: Kind) -> bool {
        self.turn(kind).demand > 0 || (kind == Kind::X509 && self.prefetched)
    }

    pub(super) fn life(&self, kind: Kind) -> Option<Life> {
        match kind {
            Kind::X509 => self.x509.as_ref().map(|svid| svid.life()),
            Kind::Wit => self.wit.as_ref().map(|svid| svid.life()),
        }
    }
}

type Queue = BTreeSet<(i64, Kind, Arc<str>)>;

/// Everything.
#[derive(Debug)]
pub(super) struct State {
    items: HashMap<Arc<str>, Item>,
    /// By one of the selectors of each identity: whoever has the identity has that one.
    by_selector: HashMap<Selector, Vec<Arc<str>>>,
    pub(super) bundles: BTreeMap<TrustDomain, Arc<HeldBundle>>,
    /// What is to be renewed when.
    due: Queue,
    /// What ends when.
    ends: Queue,
    /// How many streams and calls want SVIDs of entries that are not here now, and may come back.
    absent: HashMap<(Arc<str>, Kind), u32>,
    prefetched: usize,
    prefetch_limit: usize,
    generation: u64,
    /// By how many steps of its life an SVID is renewed after half of it.
    pub(super) phase: i64,
    /// What has to be found out about callers, for the identities that there are.
    pub(super) needs: Needs,
}

impl State {
    pub(super) fn new(prefetch_limit: usize) -> Self {
        Self {
            items: HashMap::new(),
            by_selector: HashMap::new(),
            bundles: BTreeMap::new(),
            due: Queue::new(),
            ends: Queue::new(),
            absent: HashMap::new(),
            prefetched: 0,
            prefetch_limit,
            generation: 0,
            phase: 0,
            needs: Needs::default(),
        }
    }

    pub(super) fn items(&self) -> impl Iterator<Item = &Item> {
        self.items.values()
    }

    pub(super) fn get(&self, id: &str) -> Option<&Item> {
        self.items.get(id)
    }

    pub(super) fn get_mut(&mut self, id: &str) -> Option<&mut Item> {
        self.items.get_mut(id)
    }

    pub(super) fn with_selector(&self, selector: &Selector) -> impl Iterator<Item = &Item> {
        let ids = self.by_selector.get(selector).into_iter().flatten();
        ids.filter_map(|id| self.items.get(id))
    }

    /// Works out anew what has to be found out about callers: after identities have come or gone.
    pub(super) fn note_needs(&mut self) {
        let mut needs = Needs::default();
        for selector in self.items.values().flat_map(|item| item.identity.selectors.iter()) {
            let value = selector.value();
            needs.digests |= value.starts_with("sha256:");
            needs.names |= ["user:", "group:", "supplementary_group:"]
                .iter()
                .any(|what| value.starts_with(what));
        }
        self.needs = needs;
    }

    /// Puts an identity, new or changed, as of `now` in Unix milliseconds. Whether anything changed.
    pub(super) fn put(&mut self, identity: Identity, now: i64) -> bool {
        let identity = Arc::new(identity);
        let id = Arc::clone(&identity.id);
        let Some(old) = self.items.get(&id).map(|item| Arc::clone(&item.identity)) else {
            let prefetched = identity.prefetch && self.prefetched < self.prefetch_limit;
            self.prefetched += usize::from(prefetched);
            self.index(&identity);
            let item = Item {
                identity,
                x509: None,
                wit: None,
                prefetched,
                x509_turn: Turn::default(),
                wit_turn: Turn::default(),
            };
            self.items.insert(Arc::clone(&id), item);
            for kind in [Kind::X509, Kind::Wit] {
                let demand = self.absent.remove(&(Arc::clone(&id), kind)).unwrap_or_default();
                if let Some(item) = self.items.get_mut(&id) {
                    item.turn_mut(kind).demand = demand;
                }
                self.want(&id, kind, now);
            }
            return true;
        };
        if old.digest == identity.digest {
            return false;
        }
        self.unindex(&old);
        self.index(&identity);
        let (another, reshaped) = (old.spiffe_id != identity.spiffe_id, old.shape != identity.shape);
        if let Some(item) = self.items.get_mut(&id) {
            item.identity = identity;
        }
        for kind in [Kind::X509, Kind::Wit] {
            if another {
                self.drop_svid(&id, kind);
            }
            if reshaped {
                self.renew_now(&id, kind, now);
            }
        }
        true
    }

    /// Removes an identity and wipes its keys. Whether there was one. Who wants its SVIDs still does, should it come back.
    pub(super) fn remove(&mut self, id: &str) -> bool {
        let Some(id) = self.items.get(id).map(|item| Arc::clone(&item.identity.id)) else {
            return false;
        };
        for kind in [Kind::X509, Kind::Wit] {
            self.drop_svid(&id, kind);
            self.schedule(&id, kind, Next::Idle);
        }
        self.note_absent(&id);
        if let Some(item) = self.items.remove(&id) {
            self.prefetched -= usize::from(item.prefetched);
            self.unindex(&item.identity);
        }
        true
    }

    /// Removes everything.
    pub(super) fn clear(&mut self) {
        let ids: Vec<_> = self.items.keys().cloned().collect();
        ids.iter().for_each(|id| self.note_absent(id));
        *self = Self {
            phase: self.phase,
            generation: self.generation,
            absent: std::mem::take(&mut self.absent),
            ..Self::new(self.prefetch_limit)
        };
    }

    fn note_absent(&mut self, id: &Arc<str>) {
        let Some(item) = self.items.get(id) else { return };
        for kind in [Kind::X509, Kind::Wit] {
            let demand = item.turn(kind).demand;
            if demand > 0 {
                self.absent.insert((Arc::clone(id), kind), demand);
            }
        }
    }

    /// One more wants the SVID of this entry, which need not be here now.
    pub(super) fn add_demand(&mut self, id: &Arc<str>, kind: Kind, now: i64) {
        match self.items.get_mut(id) {
            Some(item) => item.turn_mut(kind).demand += 1,
            None => *self.absent.entry((Arc::clone(id), kind)).or_default() += 1,
        }
        self.want(id, kind, now);
    }

    /// One fewer wants it.
    pub(super) fn end_demand(&mut self, id: &Arc<str>, kind: Kind) {
        if let Some(item) = self.items.get_mut(id) {
            let turn = item.turn_mut(kind);
            turn.demand = turn.demand.saturating_sub(1);
            return;
        }
        let key = (Arc::clone(id), kind);
        match self.absent.get_mut(&key) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(self.absent.remove(&key)),
        }
    }

    /// Holds an SVID that just came, and says when it will be renewed.
    pub(super) fn hold_x509(&mut self, id: &Arc<str>, svid: X509Svid) {
        let (life, svid) = (svid.life(), svid.with_generation(self.next_generation()));
        self.hold(id, Kind::X509, life, |item| item.x509 = Some(svid));
    }

    /// As [`State::hold_x509`].
    pub(super) fn hold_wit(&mut self, id: &Arc<str>, svid: WitSvid) {
        let (life, svid) = (svid.life(), svid.with_generation(self.next_generation()));
        self.hold(id, Kind::Wit, life, |item| item.wit = Some(svid));
    }

    fn hold(&mut self, id: &Arc<str>, kind: Kind, life: Life, put: impl FnOnce(&mut Item)) {
        self.drop_svid(id, kind);
        let Some(item) = self.items.get_mut(id) else { return };
        put(item);
        let turn = item.turn_mut(kind);
        turn.failures = 0;
        turn.problem = None;
        self.ends.insert((life.until, kind, Arc::clone(id)));
        self.schedule(id, kind, Next::At(life.renewal()));
    }

    /// Lets go of an SVID. Whether there was one.
    pub(super) fn drop_svid(&mut self, id: &Arc<str>, kind: Kind) -> bool {
        let Some(item) = self.items.get_mut(id) else {
            return false;
        };
        let Some(life) = item.life(kind) else { return false };
        match kind {
            Kind::X509 => item.x509 = None,
            Kind::Wit => item.wit = None,
        }
        self.ends.remove(&(life.until, kind, Arc::clone(id)));
        true
    }

    /// Sees to it that an SVID comes, if one is wanted and none is held or on its way.
    pub(super) fn want(&mut self, id: &Arc<str>, kind: Kind, now: i64) {
        if let Some(item) = self.items.get(id)
            && item.is_wanted(kind)
            && item.turn(kind).next == Next::Idle
        {
            self.schedule(id, kind, Next::At(now));
        }
    }

    /// Brings a renewal forward to now, if the SVID is held or wanted. One that is on its way is for what was before: it is thrown away when it comes.
    pub(super) fn renew_now(&mut self, id: &Arc<str>, kind: Kind, now: i64) {
        let Some(item) = self.items.get_mut(id) else { return };
        if item.life(kind).is_some() || item.is_wanted(kind) {
            item.turn_mut(kind).failures = 0;
            self.schedule(id, kind, Next::At(now));
        }
    }

    pub(super) fn schedule(&mut self, id: &Arc<str>, kind: Kind, next: Next) {
        let Some(item) = self.items.get_mut(id) else { return };
        let old = std::mem::replace(&mut item.turn_mut(kind).next, next);
        if let Next::At(at) = old {
            self.due.remove(&(at, kind, Arc::clone(id)));
        }
        if let Next::At(at) = next {
            self.due.insert((at, kind, Arc::clone(id)));
        }
    }

    /// What is to be renewed, the earliest first.
    pub(super) fn due(&self) -> impl Iterator<Item = (i64, Kind, &Item)> {
        self.due
            .iter()
            .filter_map(|(at, kind, id)| Some((*at, *kind, self.items.get(id)?)))
    }

    /// When the next SVID ends.
    pub(super) fn next_end(&self) -> Option<i64> {
        self.ends.first().map(|(at, ..)| *at)
    }

    /// When the next one is to be renewed.
    pub(super) fn next_due(&self) -> Option<i64> {
        self.due.first().map(|(at, ..)| *at)
    }

    /// Lets go of what has ended. How many there were.
    pub(super) fn end(&mut self, now: i64) -> usize {
        let mut ended = 0;
        while let Some((_, kind, id)) = self.ends.first().filter(|(at, ..)| *at <= now).cloned() {
            // One that is listed and not held would be an error of ours; it must not keep the loop busy.
            if !self.drop_svid(&id, kind) {
                self.ends.pop_first();
            }
            ended += 1;
        }
        ended
    }

    fn next_generation(&mut self) -> u64 {
        self.generation += 1;
        self.generation
    }

    fn index(&mut self, identity: &Identity) {
        if let Some(selector) = identity.selectors.as_slice().last().filter(|_| identity.is_served) {
            self.by_selector
                .entry(selector.clone())
                .or_default()
                .push(Arc::clone(&identity.id));
        }
    }

    fn unindex(&mut self, identity: &Identity) {
        let Some(selector) = identity.selectors.as_slice().last() else {
            return;
        };
        if let Some(ids) = self.by_selector.get_mut(selector) {
            ids.retain(|id| *id != identity.id);
            if ids.is_empty() {
                self.by_selector.remove(selector);
            }
        }
    }
}
