//! The last transactions, for watches: a bounded ring that writers fill and watches read at their own pace.

use std::{
    collections::VecDeque,
    sync::{Arc, PoisonError, RwLock},
};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::watch;

use super::{
    engine::{Subscription, Watch},
    error::StoreError,
    types::{Batch, Change, Event, Revision},
};

/// How much history is kept for watches.
#[derive(Clone, Copy, Debug)]
pub(super) struct Retention {
    /// The most events.
    pub(super) events: usize,
    /// The most bytes of keys and values.
    pub(super) bytes: usize,
}

impl Default for Retention {
    fn default() -> Self {
        Self {
            events: 100_000,
            bytes: 16 << 20,
        }
    }
}

/// What one transaction did, in key order.
#[derive(Debug)]
pub(super) struct Committed {
    pub(super) revision: Revision,
    pub(super) events: Vec<Event>,
}

impl Committed {
    /// Bytes of its keys and values.
    pub(super) fn bytes(&self) -> usize {
        self.events
            .iter()
            .map(|event| {
                let value = match &event.change {
                    Change::Put(pair) => pair.value.len(),
                    Change::Delete => 0,
                };
                event.key.len() + value
            })
            .sum()
    }
}

/// The ring, and the bell that wakes its watches.
pub(super) struct History {
    ring: RwLock<Ring>,
    bell: watch::Sender<Revision>,
}

struct Ring {
    retention: Retention,
    commits: VecDeque<Arc<Committed>>,
    events: usize,
    bytes: usize,
    /// The last revision that is no longer, or was never, in the ring.
    before: Revision,
    closed: bool,
}

impl History {
    pub(super) fn new(retention: Retention, revision: Revision) -> Arc<Self> {
        let ring = Ring {
            retention,
            commits: VecDeque::new(),
            events: 0,
            bytes: 0,
            before: revision,
            closed: false,
        };
        Arc::new(Self {
            ring: RwLock::new(ring),
            bell: watch::Sender::new(revision),
        })
    }

    /// Takes what a group of transactions did, and wakes the watches.
    pub(super) fn push(&self, group: impl IntoIterator<Item = Committed>) {
        let latest = {
            let mut ring = self.ring.write().unwrap_or_else(PoisonError::into_inner);
            for committed in group {
                ring.push(committed);
            }
            ring.latest()
        };
        self.bell.send_replace(latest);
    }

    /// Forgets everything up to `revision`, some of which it was never told: every watch has to list again.
    pub(super) fn restart(&self, revision: Revision) {
        {
            let mut ring = self.ring.write().unwrap_or_else(PoisonError::into_inner);
            *ring = Ring {
                commits: VecDeque::new(),
                events: 0,
                bytes: 0,
                before: revision,
                ..*ring
            };
        }
        self.bell.send_replace(revision);
    }

    /// Every watch ends once it has delivered what is in the ring.
    pub(super) fn close(&self) {
        self.ring.write().unwrap_or_else(PoisonError::into_inner).closed = true;
        self.bell.send_modify(|_| {});
    }

    pub(super) fn watch(self: &Arc<Self>, prefix: &[u8], from: Revision) -> Watch {
        let place = Place {
            history: Arc::clone(self),
            bell: self.bell.subscribe(),
            prefix: Bytes::copy_from_slice(prefix),
            at: from,
        };
        Watch::new(place, from)
    }
}

impl Ring {
    fn push(&mut self, committed: Committed) {
        self.events += committed.events.len();
        self.bytes += committed.bytes();
        self.commits.push_back(Arc::new(committed));
        // The newest transaction stays, however large it is.
        while self.commits.len() > 1
            && (self.events > self.retention.events || self.bytes > self.retention.bytes)
            && let Some(oldest) = self.commits.pop_front()
        {
            self.events -= oldest.events.len();
            self.bytes -= oldest.bytes();
            self.before = oldest.revision;
        }
    }

    fn latest(&self) -> Revision {
        self.commits.back().map_or(self.before, |committed| committed.revision)
    }
}

/// One watch's place in the ring.
struct Place {
    history: Arc<History>,
    bell: watch::Receiver<Revision>,
    prefix: Bytes,
    at: Revision,
}

impl Place {
    /// The next batch that is there already.
    fn step(&mut self) -> Result<Option<Batch>, StoreError> {
        let ring = self.history.ring.read().unwrap_or_else(PoisonError::into_inner);
        if self.at < ring.before {
            return Err(StoreError::Compacted {
                from: self.at,
                oldest: ring.before,
            });
        }
        let start = ring.commits.partition_point(|committed| committed.revision <= self.at);
        for committed in ring.commits.range(start..) {
            let events: Vec<Event> = committed
                .events
                .iter()
                .filter(|event| event.key.starts_with(&self.prefix))
                .cloned()
                .collect();
            if !events.is_empty() {
                self.at = committed.revision;
                return Ok(Some(Batch {
                    revision: self.at,
                    events,
                }));
            }
        }
        let latest = ring.latest();
        if latest > self.at {
            self.at = latest;
            return Ok(Some(Batch {
                revision: latest,
                events: Vec::new(),
            }));
        }
        if ring.closed { Err(StoreError::Closed) } else { Ok(None) }
    }
}

#[async_trait]
impl Subscription for Place {
    async fn next(&mut self) -> Result<Batch, StoreError> {
        loop {
            // Seen before looking, so that what comes after the look rings again.
            self.bell.borrow_and_update();
            if let Some(batch) = self.step()? {
                return Ok(batch);
            }
            if self.bell.changed().await.is_err() {
                return Err(StoreError::Closed);
            }
        }
    }
}
