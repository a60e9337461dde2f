//! The link in numbers.

use mintmark_runtime::metrics::{Counter, Gauge, Metrics};

/// The link in numbers.
#[derive(Clone)]
pub struct LinkMetrics {
    /// 1 while there is a stream.
    pub(super) up: Gauge,
    /// Streams begun.
    pub(super) connects: Counter,
    /// Streams and attempts that failed.
    pub(super) failures: Counter,
    /// Updates applied.
    pub(super) updates: Counter,
    /// Keys sent to be signed.
    pub(super) keys: Counter,
    /// Times at which the node got an SVID of its own.
    pub(super) node_svids: Counter,
    /// When the node's own SVID ends, Unix seconds.
    pub(super) node_not_after: Gauge,
}

impl LinkMetrics {
    /// Registers them.
    pub(super) fn register(metrics: &Metrics) -> Self {
        Self {
            up: metrics.gauge("link_up", "1 while there is a stream to the server"),
            connects: metrics.counter("link_connects", "Streams to the server begun"),
            failures: metrics.counter("link_failures", "Streams and attempts at one that failed"),
            updates: metrics.counter("link_updates", "Updates from the server applied"),
            keys: metrics.counter("link_keys", "Public keys sent to be signed"),
            node_svids: metrics.counter("node_svids", "SVIDs of its own that the node was given"),
            node_not_after: metrics.gauge(
                "node_svid_expiry_timestamp_seconds",
                "When the node's own SVID ends, Unix seconds",
            ),
        }
    }
}
