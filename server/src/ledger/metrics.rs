//! What the ledger tells about itself.

use mintmark_runtime::metrics::prometheus_client::metrics::histogram::Histogram;
use mintmark_runtime::metrics::{self, Buckets, Gauge, SECONDS};

/// Leaves of a batch.
const LEAVES: Buckets = Buckets(&[
    1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0,
]);

/// The ledger's metrics.
#[derive(Clone, Debug)]
pub struct Metrics {
    pub(super) leaves_per_fsync: Histogram,
    pub(super) fsync: Histogram,
    pub(super) queued: Gauge,
    pub(super) size: Gauge,
    pub(super) minimum: Gauge,
    pub(super) used: Gauge,
    pub(super) free: Gauge,
}

impl Metrics {
    /// The ledger's metrics among those of the server.
    pub fn register(registry: &metrics::Metrics) -> Self {
        let leaves = "Leaves that one fsync made durable.";
        let free = "Bytes left for the ledger: on its filesystem, or up to ledger.max_size, whichever is less.";
        Self {
            leaves_per_fsync: registry.histogram("ledger_leaves_per_fsync", leaves, LEAVES),
            fsync: registry.histogram("ledger_fsync_seconds", "Duration of an fsync of leaves.", SECONDS),
            queued: registry.gauge("ledger_queued_leaves", "Leaves that wait to be durable."),
            size: registry.gauge("ledger_leaves", "Leaves of the log, pruned ones included."),
            minimum: registry.gauge("ledger_minimum_index", "Index of the first leaf that was not pruned."),
            used: registry.gauge("ledger_used_bytes", "Bytes of leaves and hashes on the disk."),
            free: registry.gauge("ledger_free_bytes", free),
        }
    }
}

impl Default for Metrics {
    /// Metrics that nobody reads.
    fn default() -> Self {
        Self::register(&metrics::Metrics::new("unregistered"))
    }
}

/// A count as a gauge takes it.
pub(super) fn count(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
