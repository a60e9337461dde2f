//! Push: for each listener one set of the pods that have changed since it last looked. Latest wins, so that a slow listener costs one set and nothing more.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::Notify;

use super::facts::PodKey;
use super::index::Effect;

/// A set that grows past this becomes [`Pods::All`].
const MAX_DIRTY: usize = 50_000;

/// What a listener must look at again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dirty {
    /// Pods: one that is no longer there is gone.
    pub pods: Pods,
    /// The objects that say who gets which identity.
    pub objects: bool,
}

/// Some or all pods.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pods {
    /// Every pod of every cluster.
    All,
    /// These.
    Some(HashSet<PodKey>),
}

impl Dirty {
    fn clean() -> Self {
        Self {
            pods: Pods::Some(HashSet::new()),
            objects: false,
        }
    }

    fn is_clean(&self) -> bool {
        !self.objects && matches!(&self.pods, Pods::Some(pods) if pods.is_empty())
    }
}

/// All who listen. A handle.
#[derive(Clone, Default)]
pub(super) struct Feeds(Arc<Mutex<Vec<Weak<Listener>>>>);

struct Listener {
    dirty: Mutex<Dirty>,
    wake: Notify,
}

/// What changes, for one listener. Ends when dropped.
pub struct RollFeed(Arc<Listener>);

impl Feeds {
    /// A listener, to whom everything is new.
    pub(super) fn add(&self) -> RollFeed {
        let listener = Arc::new(Listener {
            dirty: Mutex::new(Dirty {
                pods: Pods::All,
                objects: true,
            }),
            wake: Notify::new(),
        });
        lock(&self.0).push(Arc::downgrade(&listener));
        RollFeed(listener)
    }

    /// Tells everybody what a change of one cluster concerns.
    pub(super) fn publish(&self, cluster: &Arc<str>, effect: &Effect) {
        if effect.pods.is_empty() && !effect.objects {
            return;
        }
        lock(&self.0).retain(|listener| {
            let Some(listener) = listener.upgrade() else {
                return false;
            };
            lock(&listener.dirty).add(cluster, effect);
            listener.wake.notify_one();
            true
        });
    }
}

impl Dirty {
    fn add(&mut self, cluster: &Arc<str>, effect: &Effect) {
        self.objects |= effect.objects;
        let Pods::Some(pods) = &mut self.pods else { return };
        pods.extend(effect.pods.iter().map(|uid| PodKey {
            cluster: Arc::clone(cluster),
            uid: *uid,
        }));
        if pods.len() > MAX_DIRTY {
            self.pods = Pods::All;
        }
    }
}

impl RollFeed {
    /// Waits until something is dirty. Cancel safe.
    pub async fn changed(&mut self) {
        while lock(&self.0.dirty).is_clean() {
            self.0.wake.notified().await;
        }
    }

    /// What is dirty since the last call.
    pub fn take(&mut self) -> Dirty {
        std::mem::replace(&mut lock(&self.0.dirty), Dirty::clean())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is under it is changed in single steps.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::super::facts::Uid;
    use super::*;

    fn effect(numbers: std::ops::Range<u32>) -> Effect {
        let uid = |n| Uid::parse(&format!("00000000-0000-4000-8000-{n:012}")).unwrap();
        Effect {
            pods: numbers.map(uid).collect(),
            ..Effect::default()
        }
    }

    #[test]
    fn a_slow_listener_learns_each_pod_once_and_at_last_that_all_are_to_be_looked_at() {
        let (feeds, cluster) = (Feeds::default(), Arc::from("a"));
        let mut feed = feeds.add();
        assert_eq!(feed.take().pods, Pods::All);
        assert!(feed.changed().now_or_never().is_none());
        for _ in 0..3 {
            feeds.publish(&cluster, &effect(0..2));
        }
        assert!(feed.changed().now_or_never().is_some());
        let Pods::Some(pods) = feed.take().pods else {
            panic!("all")
        };
        assert_eq!(pods.len(), 2);
        assert!(feed.changed().now_or_never().is_none());
        for at in 0..=50 {
            feeds.publish(&cluster, &effect(at * 1_000..(at + 1) * 1_000));
        }
        assert_eq!(feed.take().pods, Pods::All);
        drop(feed);
        feeds.publish(&cluster, &effect(0..1));
        assert!(lock(&feeds.0).is_empty());
    }
}
