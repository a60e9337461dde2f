//! How a ledger is kept.

use std::sync::Arc;
use std::time::Duration;

use mintmark_runtime::clock::Clock;

use super::files::{Disk, Storage};
use super::metrics::Metrics;

/// How a ledger is kept: the configuration's `[ledger]`, and what it is given to work with.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Leaves older than this are pruned, a segment at a time. `Duration::MAX` keeps them.
    pub retention: Duration,
    /// Bytes that the ledger may use. A leaf of an X.509-SVID takes 330 bytes, and on the disk 366, or 400 where each has an fsync of
    /// its own: 3.4 GB a day at 100 a second, 32 GB at 1,000, 212 GB at 6,700. Before it refuses a leaf, it prunes the oldest segments.
    pub max_size: u64,
    /// The time.
    pub clock: Clock,
    /// Where it counts.
    pub metrics: Metrics,
    pub(super) storage: Arc<dyn Storage>,
}

impl Settings {
    /// The defaults: leaves are kept for 30 days, at most 50 GiB of them.
    pub fn new(clock: Clock) -> Self {
        Self {
            retention: Duration::from_secs(30 * 24 * 3600),
            max_size: 50 << 30,
            clock,
            metrics: Metrics::default(),
            storage: Arc::new(Disk),
        }
    }
}
