//! Counts calls: how many, with which status, how long they took.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use http::{HeaderMap, Response};
use http_body::{Frame, SizeHint};
use mintmark_runtime::clock::Clock;
use mintmark_runtime::metrics::prometheus_client::encoding::EncodeLabelSet;
use mintmark_runtime::metrics::prometheus_client::metrics::family::Family;
use mintmark_runtime::metrics::{Counter, Gauge, HistogramFamily, Metrics, SECONDS};
use tonic::body::Body;
use tonic::{Code, Status};

/// The metrics of calls.
#[derive(Clone)]
pub(super) struct RpcMetrics {
    calls: Family<Outcome, Counter>,
    seconds: HistogramFamily<Called>,
    running: Gauge,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Outcome {
    method: &'static str,
    code: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Called {
    method: &'static str,
}

impl RpcMetrics {
    pub(super) fn register(metrics: &Metrics) -> Self {
        Self {
            calls: metrics.counters("rpc", "Calls of the API by method and gRPC status"),
            seconds: metrics.histograms("rpc_seconds", "How long calls took, streams until their end", SECONDS),
            running: metrics.gauge(
                "rpc_running",
                "Calls that are being answered now, open streams included",
            ),
        }
    }

    pub(super) fn begin(&self, method: &'static str, clock: Clock) -> Call {
        self.running.inc();
        Call {
            metrics: self.clone(),
            method,
            started: clock.instant(),
            clock,
            is_done: false,
        }
    }
}

/// How nodes come in.
#[derive(Clone)]
pub(super) struct Attestations(Family<Attested, Counter>);

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Attested {
    method: &'static str,
    result: &'static str,
}

impl Attestations {
    pub(super) fn register(metrics: &Metrics) -> Self {
        let help = "Attestations of nodes: joined, rejoined (an earlier SVID is refused from then on) or refused";
        Self(metrics.counters("attestations", help))
    }

    /// One more, of a method whose name is one of ours.
    pub(super) fn count(&self, method: &'static str, result: &'static str) {
        self.0.get_or_create(&Attested { method, result }).inc();
    }
}

/// A call under way. One that is dropped was cancelled.
pub(super) struct Call {
    metrics: RpcMetrics,
    method: &'static str,
    started: Instant,
    clock: Clock,
    is_done: bool,
}

impl Call {
    pub(super) fn done(mut self, code: Code) {
        self.count(code);
    }

    fn count(&mut self, code: Code) {
        if std::mem::replace(&mut self.is_done, true) {
            return;
        }
        let took = self.clock.instant().saturating_duration_since(self.started);
        let metrics = &self.metrics;
        metrics.running.dec();
        metrics
            .calls
            .get_or_create(&Outcome {
                method: self.method,
                code: name(code),
            })
            .inc();
        metrics
            .seconds
            .get_or_create(&Called { method: self.method })
            .observe(took.as_secs_f64());
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.count(Code::Cancelled);
    }
}

/// A response's body, which tells the call's status when it ends.
pub(super) struct Observed {
    body: Body,
    call: Call,
}

impl Observed {
    pub(super) fn wrap(response: Response<Body>, call: Call) -> Response<Body> {
        // A status in the headers comes without a body.
        match Status::from_header_map(response.headers()) {
            Some(status) => {
                call.done(status.code());
                response
            }
            None => response.map(|body| Body::new(Self { body, call })),
        }
    }
}

impl http_body::Body for Observed {
    type Data = <Body as http_body::Body>::Data;
    type Error = <Body as http_body::Body>::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(trailers) = frame.trailers_ref() {
                    self.call.count(code_in(trailers));
                }
            }
            Poll::Ready(Some(Err(_)) | None) => self.call.count(Code::Unknown),
            Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

fn code_in(trailers: &HeaderMap) -> Code {
    trailers
        .get("grpc-status")
        .map_or(Code::Unknown, |code| Code::from_bytes(code.as_bytes()))
}

/// The code's name in the gRPC specification.
fn name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}
