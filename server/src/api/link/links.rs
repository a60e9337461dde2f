//! Which nodes have a link: each has one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mintmark_identity::SpiffeId;
use mintmark_runtime::metrics::Gauge;
use tokio_util::sync::CancellationToken;

/// All links of this server. A handle.
#[derive(Clone)]
pub(super) struct Links(Arc<Inner>);

struct Inner {
    connected: Gauge,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    next: u64,
    by_node: HashMap<SpiffeId, (u64, CancellationToken)>,
}

/// A node's link; given up when dropped.
pub(super) struct Place {
    links: Links,
    node: SpiffeId,
    number: u64,
    superseded: CancellationToken,
}

impl Links {
    pub(super) fn new(connected: Gauge) -> Self {
        Self(Arc::new(Inner {
            connected,
            open: Mutex::default(),
        }))
    }

    /// The node's link is this one now: an older one is told to end.
    pub(super) fn enter(&self, node: &SpiffeId) -> Place {
        let mut open = self.open();
        let number = open.next;
        open.next += 1;
        let superseded = CancellationToken::new();
        if let Some((_, older)) = open.by_node.insert(node.clone(), (number, superseded.clone())) {
            older.cancel();
        }
        self.tell(&open);
        Place {
            links: self.clone(),
            node: node.clone(),
            number,
            superseded,
        }
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        // Whole whatever happened to the thread that held the lock.
        self.0.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, open: &Open) {
        self.0
            .connected
            .set(i64::try_from(open.by_node.len()).unwrap_or(i64::MAX));
    }
}

impl Place {
    /// Cancelled when the node has opened another link.
    pub(super) fn superseded(&self) -> &CancellationToken {
        &self.superseded
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.links.open();
        if open
            .by_node
            .get(&self.node)
            .is_some_and(|(number, _)| *number == self.number)
        {
            open.by_node.remove(&self.node);
        }
        self.links.tell(&open);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_link_of_a_node_ends_the_first_and_only_that() {
        let links = Links::new(Gauge::default());
        let node = |name: &str| SpiffeId::parse(&format!("spiffe://example.org/spire/agent/x/{name}")).unwrap();
        let (first, other) = (links.enter(&node("a")), links.enter(&node("b")));
        assert_eq!(links.0.connected.get(), 2);
        let second = links.enter(&node("a"));
        assert!(first.superseded().is_cancelled() && !other.superseded().is_cancelled());
        drop(first);
        assert!(!second.superseded().is_cancelled());
        assert_eq!(links.0.connected.get(), 2);
        drop((second, other));
        assert_eq!(links.0.connected.get(), 0);
    }
}
