//! Volumes in numbers.

use mintmark_runtime::metrics::{Counter, Gauge, Metrics};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use tonic::Code;

/// Volumes in numbers.
#[derive(Clone)]
pub(super) struct MountMetrics {
    /// Volumes that pods see.
    pub(super) volumes: Gauge,
    /// Sets of files written.
    pub(super) sets: Counter,
    calls: Family<Call, Counter>,
    registered: Family<Driver, Gauge>,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Call {
    method: &'static str,
    code: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Driver {
    driver: String,
}

impl MountMetrics {
    pub(super) fn register(metrics: &Metrics) -> Self {
        Self {
            volumes: metrics.gauge("volumes", "Volumes that are mounted into pods"),
            sets: metrics.counter("volume_file_sets", "Sets of files written into volumes"),
            calls: metrics.counters("csi_calls", "Calls of the kubelet by method and outcome"),
            registered: metrics.register(
                "csi_registered",
                "1 when the kubelet has taken the driver",
                Family::default(),
            ),
        }
    }

    /// The kubelet has been answered.
    pub(super) fn called(&self, method: &'static str, code: Code) {
        let code = match code {
            Code::Ok => "ok",
            Code::InvalidArgument => "invalid_argument",
            Code::FailedPrecondition => "failed_precondition",
            Code::PermissionDenied => "permission_denied",
            Code::Unavailable => "unavailable",
            Code::Aborted => "aborted",
            _ => "other",
        };
        self.calls.get_or_create(&Call { method, code }).inc();
    }

    /// Whether the kubelet has taken the driver.
    pub(super) fn registered(&self, driver: &str, is_registered: bool) {
        let driver = driver.to_owned();
        self.registered
            .get_or_create(&Driver { driver })
            .set(i64::from(is_registered));
    }
}
