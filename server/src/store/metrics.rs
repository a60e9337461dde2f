//! What the store tells about itself.

use mintmark_runtime::metrics::{
    Buckets, Counter, Gauge, Metrics, SECONDS, prometheus_client::metrics::histogram::Histogram,
};

/// Transactions in a group.
const GROUPS: Buckets = Buckets(&[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0]);

/// What the store tells about itself; handles on the same values when cloned.
#[derive(Clone)]
pub(super) struct StoreMetrics {
    pub(super) rebuilds: Counter,
    pub(super) transactions: Counter,
    pub(super) conflicts: Counter,
    pub(super) failures: Counter,
    pub(super) group: Histogram,
    pub(super) sync: Histogram,
    pub(super) queue: Gauge,
    pub(super) revision: Gauge,
    pub(super) keys: Gauge,
    pub(super) journal: Gauge,
    pub(super) snapshots: Counter,
    pub(super) snapshot_failures: Counter,
}

impl StoreMetrics {
    pub(super) fn new(metrics: &Metrics) -> Self {
        Self {
            rebuilds: metrics.counter(
                "store_rebuilds",
                "Times the index was damaged and made again from snapshot and journal",
            ),
            transactions: metrics.counter("store_transactions", "Transactions that changed something"),
            conflicts: metrics.counter(
                "store_conflicts",
                "Transactions that were refused because a condition did not hold",
            ),
            failures: metrics.counter(
                "store_write_failures",
                "Groups of transactions that could not be made durable, for instance on a full disk",
            ),
            group: metrics.histogram(
                "store_group_transactions",
                "Transactions that were made durable by one sync",
                GROUPS,
            ),
            sync: metrics.histogram(
                "store_sync_seconds",
                "How long it took to make a group of transactions durable",
                SECONDS,
            ),
            queue: metrics.gauge("store_queue", "Transactions that wait for the writer"),
            revision: metrics.gauge("store_revision", "The last revision"),
            keys: metrics.gauge("store_keys", "Keys in the store"),
            journal: metrics.gauge("store_journal_bytes", "Bytes in the journal since the last snapshot"),
            snapshots: metrics.counter("store_snapshots", "Snapshots that were taken"),
            snapshot_failures: metrics.counter(
                "store_snapshot_failures",
                "Snapshots that failed; the journal grows until one succeeds",
            ),
        }
    }

    /// Values that nobody reads.
    pub(super) fn unread() -> Self {
        Self::new(&Metrics::new("unread"))
    }
}
