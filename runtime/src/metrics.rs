//! Metrics: one registry a program, served as OpenMetrics text.
//!
//! In come counters, gauges and histograms that each room makes at start and keeps; out comes `/metrics`. No label holds a SPIFFE ID, a
//! pod or a serial: labels are for what has few values.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Router;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::{StatusCode, header};
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Metric, Registry};

pub use prometheus_client;
pub use prometheus_client::metrics::counter::Counter;
pub use prometheus_client::metrics::gauge::Gauge;

/// A family of histograms that share their buckets.
pub type HistogramFamily<L> = Family<L, Histogram, Buckets>;

/// Upper bounds of the buckets of a histogram.
#[derive(Clone, Copy, Debug)]
pub struct Buckets(pub &'static [f64]);

/// Seconds, from a signature (50 µs) to what should have timed out (10 s).
pub const SECONDS: Buckets = Buckets(&[
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
]);

/// What OpenMetrics text is served as.
const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// A program's metrics. Clones are handles on the same registry.
///
/// Names are given without the program's prefix, and counters without `_total`, which the text format adds.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Mutex<Registry>>,
}

impl Metrics {
    /// A registry whose metrics all begin with `prefix` and an underscore: `mintmark_server`.
    pub fn new(prefix: &str) -> Self {
        Self {
            registry: Arc::new(Mutex::new(Registry::with_prefix(prefix))),
        }
    }

    /// A count that only grows.
    pub fn counter(&self, name: &str, help: &str) -> Counter {
        self.register(name, help, Counter::default())
    }

    /// Counts by label.
    pub fn counters<L: Labels>(&self, name: &str, help: &str) -> Family<L, Counter> {
        self.register(name, help, Family::default())
    }

    /// A value that goes up and down.
    pub fn gauge(&self, name: &str, help: &str) -> Gauge {
        self.register(name, help, Gauge::default())
    }

    /// A distribution.
    pub fn histogram(&self, name: &str, help: &str, buckets: Buckets) -> Histogram {
        self.register(name, help, buckets.histogram())
    }

    /// Distributions by label.
    pub fn histograms<L: Labels>(&self, name: &str, help: &str, buckets: Buckets) -> HistogramFamily<L> {
        self.register(name, help, Family::new_with_constructor(buckets))
    }

    /// Registers a metric that was made elsewhere, and gives it back.
    pub fn register<M: Metric + Clone>(&self, name: &str, help: &str, metric: M) -> M {
        self.lock().register(name, help.trim_end_matches('.'), metric.clone());
        metric
    }

    /// The registry, for collectors and other special cases.
    pub fn with_registry<T>(&self, work: impl FnOnce(&mut Registry) -> T) -> T {
        work(&mut self.lock())
    }

    /// All metrics as OpenMetrics text.
    ///
    /// # Errors
    /// When a metric cannot be written as text, which no metric of this module does.
    pub fn encode(&self) -> Result<String, std::fmt::Error> {
        let mut out = String::new();
        text::encode(&mut out, &self.lock())?;
        Ok(out)
    }

    /// Serves `/metrics`.
    pub fn router(&self) -> Router {
        let metrics = self.clone();
        Router::new().route("/metrics", get(move || async move { metrics.answer() }))
    }

    fn answer(&self) -> Response {
        match self.encode() {
            Ok(text) => ([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response(),
            Err(error) => {
                tracing::error!(%error, "metrics cannot be written as text");
                StatusCode::INTERNAL_SERVER_ERROR.into_response()
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Registry> {
        // A registry is whole between its calls.
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A set of labels: a struct with `#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]`.
pub trait Labels: EncodeLabelSet + std::fmt::Debug + Clone + std::hash::Hash + Eq + Send + Sync + 'static {}

impl<L: EncodeLabelSet + std::fmt::Debug + Clone + std::hash::Hash + Eq + Send + Sync + 'static> Labels for L {}

impl Buckets {
    fn histogram(self) -> Histogram {
        Histogram::new(self.0.iter().copied())
    }
}

impl prometheus_client::metrics::family::MetricConstructor<Histogram> for Buckets {
    fn new_metric(&self) -> Histogram {
        self.histogram()
    }
}

#[cfg(test)]
mod tests {
    use axum::body::{Body, to_bytes};
    use prometheus_client::encoding::EncodeLabelSet;
    use tower::ServiceExt;

    use super::*;

    #[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
    struct Kind {
        kind: &'static str,
    }

    #[tokio::test]
    async fn metrics_are_served_as_open_metrics_text() {
        let metrics = Metrics::new("mintmark_test");
        metrics
            .counters("issuances", "Issued.")
            .get_or_create(&Kind { kind: "x509" })
            .inc();
        metrics.gauge("nodes_connected", "Nodes").set(3);
        metrics
            .histograms("issuance_seconds", "Time", SECONDS)
            .get_or_create(&Kind { kind: "jwt" })
            .observe(0.002);
        let request = http::Request::get("/metrics").body(Body::empty()).unwrap();
        let response = metrics.router().oneshot(request).await.unwrap();
        assert_eq!(response.headers()[header::CONTENT_TYPE], CONTENT_TYPE);
        let body = to_bytes(response.into_body(), 65536).await.unwrap();
        let text = String::from_utf8(body.to_vec()).unwrap();
        for line in [
            "# HELP mintmark_test_issuances Issued.",
            "mintmark_test_issuances_total{kind=\"x509\"} 1",
            "mintmark_test_nodes_connected 3",
            "mintmark_test_issuance_seconds_bucket{le=\"0.0025\",kind=\"jwt\"} 1",
            "# EOF",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }
}
