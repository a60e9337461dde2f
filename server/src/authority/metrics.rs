//! What authorities show: read when they are asked for, so that nothing has to keep them up to date.

use std::fmt;
use std::sync::{Arc, Weak};

use mintmark_runtime::metrics::Metrics;
use mintmark_runtime::metrics::prometheus_client::collector::Collector;
use mintmark_runtime::metrics::prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use mintmark_runtime::metrics::prometheus_client::metrics::MetricType;
use mintmark_runtime::metrics::prometheus_client::metrics::gauge::ConstGauge;

use super::snapshot::Shared;
use super::{Kind, Slot};

/// Registers what the authorities show.
pub(super) fn register(shared: &Arc<Shared>, metrics: &Metrics) {
    let collector = Box::new(Shown(Arc::downgrade(shared)));
    metrics.with_registry(|registry| registry.register_collector(collector));
}

struct Shown(Weak<Shared>);

impl Collector for Shown {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let Some(shared) = self.0.upgrade() else { return Ok(()) };
        let current = shared.current();
        let now = shared.clock.unix();
        let help = "Seconds until an authority ends; of old ones the last that ends";
        let mut expiry = encoder.encode_descriptor("authority_expiry_seconds", help, None, MetricType::Gauge)?;
        for kind in Kind::ALL {
            for slot in [Slot::Prepared, Slot::Active, Slot::Old] {
                let ends = current
                    .state
                    .of(kind)
                    .filter(|record| record.slot == slot)
                    .map(|record| record.not_after);
                if let Some(end) = ends.max() {
                    let labels = [("kind", kind.as_str()), ("state", slot.as_str())];
                    ConstGauge::new(end - now).encode(expiry.encode_family(&labels)?)?;
                }
            }
        }
        let sequence = i64::try_from(current.bundle.sequence).unwrap_or(i64::MAX);
        let help = "The number of the trust bundle, which grows with every change of it";
        let bundle = encoder.encode_descriptor("bundle_sequence", help, None, MetricType::Gauge)?;
        ConstGauge::new(sequence).encode(bundle)
    }
}

impl fmt::Debug for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("authority::Shown")
    }
}
