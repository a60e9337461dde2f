//! The Workload API in numbers.

use mintmark_runtime::metrics::{Counter, Metrics};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use tonic::{Code, Status};

/// The Workload API in numbers.
#[derive(Clone)]
pub(super) struct ServeMetrics {
    calls: Family<Call, Counter>,
    pushes: Family<Method, Counter>,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Call {
    method: &'static str,
    code: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Method {
    method: &'static str,
}

/// The method that a path names, as it is counted.
pub(super) fn method_of(path: &str) -> &'static str {
    const METHODS: [&str; 7] = [
        "FetchX509SVID",
        "FetchX509Bundles",
        "FetchJWTSVID",
        "FetchJWTBundles",
        "ValidateJWTSVID",
        "FetchWITSVID",
        "FetchWITBundles",
    ];
    let name = path.strip_prefix("/SpiffeWorkloadAPI/").unwrap_or_default();
    METHODS.into_iter().find(|method| *method == name).unwrap_or("other")
}

impl ServeMetrics {
    pub(super) fn register(metrics: &Metrics) -> Self {
        Self {
            calls: metrics.counters(
                "workload_calls",
                "Calls of the Workload API by method and outcome; streams count when they end",
            ),
            pushes: metrics.counters("workload_answers", "Answers sent on streams of the Workload API"),
        }
    }

    /// A call has ended.
    pub(super) fn ended(&self, method: &'static str, outcome: Result<(), &Status>) {
        let code = match outcome.map_err(Status::code) {
            Ok(()) | Err(Code::Ok) => "ok",
            Err(Code::InvalidArgument) => "invalid_argument",
            Err(Code::PermissionDenied) => "permission_denied",
            Err(Code::Unavailable) => "unavailable",
            Err(_) => "other",
        };
        self.calls.get_or_create(&Call { method, code }).inc();
    }

    /// An answer was sent on a stream.
    pub(super) fn answered(&self, method: &'static str) {
        self.pushes.get_or_create(&Method { method }).inc();
    }
}
