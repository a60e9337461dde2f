//! What the roll counts.

use std::fmt;
use std::time::Instant;

use mintmark_runtime::clock::Clock;
use mintmark_runtime::metrics::prometheus_client::collector::Collector;
use mintmark_runtime::metrics::prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric as _};
use mintmark_runtime::metrics::prometheus_client::metrics::MetricType;
use mintmark_runtime::metrics::prometheus_client::metrics::family::Family;
use mintmark_runtime::metrics::prometheus_client::metrics::gauge::ConstGauge;
use mintmark_runtime::metrics::{Counter, Gauge, HistogramFamily, Metrics, SECONDS};

use super::Cluster;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Watched {
    cluster: String,
    kind: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Restarted {
    cluster: String,
    kind: &'static str,
    reason: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Outcome {
    cluster: String,
    result: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Asked {
    cluster: String,
}

/// The metrics of all clusters.
#[derive(Clone)]
pub(super) struct RollMetrics {
    objects: Family<Watched, Gauge>,
    unreadable: Family<Watched, Counter>,
    restarts: Family<Restarted, Counter>,
    reviews: Family<Outcome, Counter>,
    review_seconds: HistogramFamily<Asked>,
    writes: Family<Outcome, Counter>,
}

/// The metrics of one kind in one cluster.
pub(super) struct KindMetrics {
    pub(super) objects: Gauge,
    pub(super) unreadable: Counter,
    restarts: Family<Restarted, Counter>,
    labels: Watched,
}

impl RollMetrics {
    pub(super) fn register(metrics: &Metrics) -> Self {
        Self {
            objects: metrics.register(
                "kubernetes_objects",
                "Objects of Kubernetes in memory",
                Family::default(),
            ),
            unreadable: metrics.counters(
                "kubernetes_unreadable",
                "Objects of Kubernetes that could not be read, or not in full",
            ),
            restarts: metrics.counters(
                "kubernetes_watch_restarts",
                "Watches of Kubernetes that began again: ended in good order, failed, or too old to go on",
            ),
            reviews: metrics.counters("token_reviews", "Tokens that were shown, by what became of it"),
            writes: metrics.counters(
                "kubernetes_writes",
                "Events, statuses and trust bundles that Kubernetes was told, by what became of it",
            ),
            review_seconds: metrics.histograms("token_review_seconds", "How long TokenReviews took", SECONDS),
        }
    }

    pub(super) fn kind(&self, cluster: &str, kind: &'static str) -> KindMetrics {
        let labels = Watched {
            cluster: cluster.to_owned(),
            kind,
        };
        let metrics = KindMetrics {
            objects: self.objects.get_or_create(&labels).clone(),
            unreadable: self.unreadable.get_or_create(&labels).clone(),
            restarts: self.restarts.clone(),
            labels,
        };
        drop(metrics.restarts.get_or_create(&metrics.restart("ended")));
        metrics
    }

    /// Shows, for a new cluster, that nothing was counted yet.
    pub(super) fn begin(&self, cluster: &str) {
        let outcome = Outcome {
            cluster: cluster.to_owned(),
            result: "ok",
        };
        drop(self.reviews.get_or_create(&outcome));
        drop(self.writes.get_or_create(&outcome));
        let cluster = cluster.to_owned();
        drop(self.review_seconds.get_or_create(&Asked { cluster }));
    }

    pub(super) fn reviewed(&self, cluster: &str, result: &'static str) {
        let cluster = cluster.to_owned();
        self.reviews.get_or_create(&Outcome { cluster, result }).inc();
    }

    pub(super) fn wrote(&self, cluster: &str, result: &'static str) {
        let cluster = cluster.to_owned();
        self.writes.get_or_create(&Outcome { cluster, result }).inc();
    }

    pub(super) fn review_took(&self, cluster: &str, clock: &Clock, since: Instant) {
        let cluster = cluster.to_owned();
        let took = clock.instant().saturating_duration_since(since);
        self.review_seconds
            .get_or_create(&Asked { cluster })
            .observe(took.as_secs_f64());
    }
}

impl KindMetrics {
    pub(super) fn restarted(&self, reason: &'static str) {
        self.restarts.get_or_create(&self.restart(reason)).inc();
    }

    fn restart(&self, reason: &'static str) -> Restarted {
        Restarted {
            cluster: self.labels.cluster.clone(),
            kind: self.labels.kind,
            reason,
        }
    }
}

/// How long ago each watch heard of its API server: asked for when somebody asks for the metrics.
pub(super) struct Ages(pub(super) Vec<Cluster>);

impl fmt::Debug for Ages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ages").finish_non_exhaustive()
    }
}

impl Collector for Ages {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let name = "kubernetes_sync_age_seconds";
        let help =
            "Seconds since a watch of Kubernetes last heard of its API server, which speaks at least once a minute";
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for cluster in &self.0 {
            for standing in cluster.watched() {
                let labels = Watched {
                    cluster: cluster.0.name.to_string(),
                    kind: standing.name,
                };
                let age = standing.silent_for(&cluster.0.clock).as_secs();
                let age = i64::try_from(age).unwrap_or(i64::MAX);
                ConstGauge::new(age).encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}
