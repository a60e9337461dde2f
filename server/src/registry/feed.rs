//! Push: per connected node, one set of what has changed since it last looked. Latest wins, so a slow node costs one set and nothing more.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mintmark_identity::{Selectors, SpiffeId};
use tokio::sync::Notify;

use super::index::{Effect, Index};

/// No entry has ended at this time: a node is told of what may have changed for it, and what is its own is decided when it looks.
pub(super) const ALL: i64 = i64::MIN;
/// A set that grows past this becomes [`Dirty::All`].
const MAX_DIRTY: usize = 10_000;

/// What a node must look at again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dirty {
    /// Everything: it is new here, or which entries are its own has changed.
    All,
    /// The entries with these IDs; one that is no longer the node's, or no longer there, is to be withdrawn.
    Some(HashSet<Arc<str>>),
}

impl Dirty {
    fn is_clean(&self) -> bool {
        matches!(self, Self::Some(ids) if ids.is_empty())
    }

    fn add(&mut self, id: &Arc<str>) {
        if let Self::Some(ids) = self {
            ids.insert(id.clone());
            if ids.len() > MAX_DIRTY {
                *self = Self::All;
            }
        }
    }
}

/// All nodes that listen. A handle.
#[derive(Clone, Default)]
pub(super) struct Feeds(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    next: u64,
    feeds: HashMap<u64, Feed>,
    by_reach: HashMap<SpiffeId, HashSet<u64>>,
}

struct Feed {
    node: SpiffeId,
    selectors: Selectors,
    reach: HashSet<SpiffeId>,
    dirty: Dirty,
    wake: Arc<Notify>,
}

impl Feeds {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn add(&self, node: SpiffeId, selectors: Selectors, reach: HashSet<SpiffeId>) -> NodeFeed {
        let mut state = self.state();
        let id = state.next;
        state.next += 1;
        for parent in &reach {
            state.by_reach.entry(parent.clone()).or_default().insert(id);
        }
        let wake = Arc::new(Notify::new());
        wake.notify_one();
        state.feeds.insert(
            id,
            Feed {
                node,
                selectors,
                reach,
                dirty: Dirty::All,
                wake: wake.clone(),
            },
        );
        NodeFeed {
            feeds: self.clone(),
            id,
            wake,
        }
    }

    /// Tells everybody to look at everything. `index` is a new memory.
    pub(super) fn look_again(&self, index: &Index) {
        let mut state = self.state();
        let all: Vec<u64> = state.feeds.keys().copied().collect();
        for id in all {
            state.reach_again(id, index);
            if let Some(feed) = state.feeds.get_mut(&id) {
                feed.dirty = Dirty::All;
                feed.wake.notify_one();
            }
        }
    }

    /// Tells those who are concerned by a change of the entry with this ID. `index` is the memory after it.
    pub(super) fn publish(&self, entry: &Arc<str>, effect: &Effect, index: &Index) {
        let mut state = self.state();
        let state = &mut *state;
        for listener in effect
            .parents
            .iter()
            .filter_map(|parent| state.by_reach.get(parent))
            .flatten()
        {
            if let Some(feed) = state.feeds.get_mut(listener) {
                feed.dirty.add(entry);
                feed.wake.notify_one();
            }
        }
        let reached = effect
            .reach
            .iter()
            .filter_map(|parent| state.by_reach.get(parent))
            .flatten()
            .copied();
        let matches = |feed: &Feed| effect.aliases.iter().any(|alias| alias.is_subset(&feed.selectors));
        let matched = state.feeds.iter().filter(|(_, feed)| matches(feed)).map(|(id, _)| *id);
        let moved: HashSet<u64> = match effect.aliases.is_empty() {
            true => reached.collect(),
            false => reached.chain(matched).collect(),
        };
        for id in moved {
            state.reach_again(id, index);
        }
    }
}

impl State {
    /// Works out a node's reach anew; when it has moved, everything is dirty.
    fn reach_again(&mut self, id: u64, index: &Index) {
        let Some(feed) = self.feeds.get_mut(&id) else { return };
        let reach = index.reach(&feed.node, &feed.selectors, ALL);
        if reach == feed.reach {
            return;
        }
        for gone in feed.reach.difference(&reach) {
            forget(&mut self.by_reach, gone, id);
        }
        for new in reach.difference(&feed.reach) {
            self.by_reach.entry(new.clone()).or_default().insert(id);
        }
        feed.reach = reach;
        feed.dirty = Dirty::All;
        feed.wake.notify_one();
    }
}

fn forget(by_reach: &mut HashMap<SpiffeId, HashSet<u64>>, parent: &SpiffeId, id: u64) {
    if let Some(listeners) = by_reach.get_mut(parent) {
        listeners.remove(&id);
        if listeners.is_empty() {
            by_reach.remove(parent);
        }
    }
}

/// What changes for one node. Ends when dropped.
pub struct NodeFeed {
    feeds: Feeds,
    id: u64,
    wake: Arc<Notify>,
}

impl NodeFeed {
    /// Waits until something is dirty. Cancel safe.
    pub async fn changed(&mut self) {
        loop {
            let dirty = self
                .feeds
                .state()
                .feeds
                .get(&self.id)
                .is_some_and(|feed| !feed.dirty.is_clean());
            if dirty {
                return;
            }
            self.wake.notified().await;
        }
    }

    /// What is dirty since the last call.
    pub fn take(&mut self) -> Dirty {
        let clean = Dirty::Some(HashSet::new());
        match self.feeds.state().feeds.get_mut(&self.id) {
            Some(feed) => std::mem::replace(&mut feed.dirty, clean),
            None => clean,
        }
    }
}

impl Drop for NodeFeed {
    fn drop(&mut self) {
        let mut state = self.feeds.state();
        let state = &mut *state;
        if let Some(feed) = state.feeds.remove(&self.id) {
            for parent in &feed.reach {
                forget(&mut state.by_reach, parent, self.id);
            }
        }
    }
}
