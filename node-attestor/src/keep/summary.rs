//! How this node is, in numbers.

use std::sync::atomic::Ordering;

use mintmark_runtime::metrics::Metrics;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::gauge::ConstGauge;

use super::state::{Kind, Next};
use super::{Keep, Readiness};

/// How this node is, in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Streams of workloads that are open.
    pub workloads: usize,
    /// Identities that apply to this node.
    pub identities: usize,
    /// Bundles held.
    pub bundles: usize,
    /// X.509-SVIDs held.
    pub x509_svids: usize,
    /// WIT-SVIDs held.
    pub wit_svids: usize,
    /// JWT-SVIDs remembered.
    pub jwt_svids: usize,
    /// X.509-SVIDs past the time at which they should have been renewed.
    pub renewals_overdue: usize,
    /// The least remaining life of an X.509-SVID that is held, seconds; none when none is held.
    pub min_remaining: Option<i64>,
    /// X.509-SVIDs that are wanted and not there.
    pub missing: usize,
}

impl Keep {
    /// How this node is now.
    pub fn summary(&self) -> Summary {
        let now = self.0.clock.unix_ms();
        let jwt_svids = self.0.jwt.len();
        let workloads = self.0.workloads.load(Ordering::Relaxed);
        let state = self.state();
        let mut summary = Summary {
            workloads,
            bundles: state.bundles.len(),
            jwt_svids,
            ..Summary::default()
        };
        for item in state.items() {
            summary.identities += 1;
            summary.wit_svids += usize::from(item.wit.is_some());
            match item.life(Kind::X509) {
                Some(life) => {
                    summary.x509_svids += 1;
                    let remaining = (life.until - now).max(0) / 1000;
                    summary.min_remaining = Some(summary.min_remaining.map_or(remaining, |least| least.min(remaining)));
                    // A step is what is waited for, so that more falls due together.
                    let late = now > life.renewal() + life.step();
                    summary.renewals_overdue += usize::from(late && item.turn(Kind::X509).next != Next::Idle);
                }
                None => summary.missing += usize::from(item.is_wanted(Kind::X509)),
            }
        }
        summary
    }
}

/// Registers the numbers, taken anew whenever somebody looks.
pub fn register(keep: &Keep, metrics: &Metrics) {
    metrics.with_registry(|registry| registry.register_collector(Box::new(Numbers(keep.clone()))));
}

struct Numbers(Keep);

impl std::fmt::Debug for Numbers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Numbers")
    }
}

impl Collector for Numbers {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let summary = self.0.summary();
        let count = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        let in_step = *self.0.readiness().borrow() == Readiness::InStep;
        for (name, help, value) in [
            (
                "workloads",
                "Streams of workloads that are open",
                count(summary.workloads),
            ),
            (
                "identities",
                "Identities that apply to this node",
                count(summary.identities),
            ),
            ("bundles", "Bundles held", count(summary.bundles)),
            ("x509_svids", "X.509-SVIDs held", count(summary.x509_svids)),
            ("wit_svids", "WIT-SVIDs held", count(summary.wit_svids)),
            ("jwt_svids", "JWT-SVIDs remembered", count(summary.jwt_svids)),
            (
                "x509_svids_missing",
                "X.509-SVIDs that are wanted and not there",
                count(summary.missing),
            ),
            (
                "renewals_overdue",
                "X.509-SVIDs past the time at which they should have been renewed",
                count(summary.renewals_overdue),
            ),
            (
                "svid_min_remaining_seconds",
                "Least remaining life of an X.509-SVID that is held; 0 when none is",
                summary.min_remaining.unwrap_or_default(),
            ),
            (
                "in_step",
                "1 when the server has said in this run what applies to this node",
                i64::from(in_step),
            ),
        ] {
            let gauge = ConstGauge::new(value);
            let metric = encoder.encode_descriptor(name, help, None, gauge.metric_type())?;
            gauge.encode(metric)?;
        }
        Ok(())
    }
}
