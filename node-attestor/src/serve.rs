//! Workload API, health.
//!
//! In: connections with the process or pod behind them, from `peer`; what is held, from `keep`. Out: the SPIFFE Workload API with its seven methods, reflection and health, on Unix
//! sockets. Every call but those of health carries `workload.spiffe.io: true`.
//!
//! A caller is attested when it calls, and again before each later answer of a stream; a stream is told of changes, never polls, and ends when its process does.

mod admit;
mod caller;
mod limits;
mod metrics;
mod status;
mod tokens;
mod watch;
mod workload;
mod x509;

use std::io;

use futures::Stream;
use mintmark_proto::WORKLOAD_FILE_DESCRIPTOR_SET;
use mintmark_proto::workload::spiffe_workload_api_server::SpiffeWorkloadApiServer;
use mintmark_runtime::clock::Clock;
use mintmark_runtime::metrics::Metrics;
use tokio_util::sync::CancellationToken;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Server;
use tonic::{Request, Status};
use tonic_health::ServingStatus;

use crate::keep::{Keep, Readiness};
use crate::peer::{Peered, Unix};
use admit::Admission;
use metrics::ServeMetrics;
use workload::Workloads;

/// The name under which the health service says whether there is a link to the server.
pub const LINK: &str = "link";
/// The metadata that every call carries, so that a browser or a confused proxy cannot make one (SPIFFE Workload Endpoint §4).
const SECURITY_HEADER: &str = "workload.spiffe.io";
/// The largest message that a caller may send: a token to be validated has up to 64 KiB.
const MAX_MESSAGE: usize = 128 << 10;
/// As much of a question about the attestor itself, its methods and its health.
const MAX_QUESTION: usize = 4 << 10;
/// Headers of a call are no larger.
const MAX_HEADERS: u32 = 16 << 10;
/// So many bytes of a caller may wait to be looked at, on a connection as on each of its calls: what HTTP/2 begins with.
const WINDOW: u32 = 65_535;
/// Calls at once on one connection.
const STREAMS_PER_CONNECTION: u32 = 64;
/// What callers may take up.
#[derive(Clone, Copy, Debug)]
pub struct ServeLimits {
    /// Calls and streams at once.
    pub streams: usize,
    /// Calls and streams at once of one user, or of one pod.
    pub streams_per_user: usize,
}

/// The Workload API.
pub struct Serve {
    workloads: Workloads,
    admission: Admission,
    keep: Keep,
    shutdown: CancellationToken,
}

impl Serve {
    /// Serves what `keep` holds to whom `unix` knows, until shutdown.
    pub fn new(
        keep: Keep,
        unix: Unix,
        limits: ServeLimits,
        clock: Clock,
        metrics: &Metrics,
        shutdown: CancellationToken,
    ) -> Self {
        let metrics = ServeMetrics::register(metrics);
        let admission = Admission::new(limits, clock.clone(), metrics.clone());
        let workloads = Workloads {
            keep: keep.clone(),
            unix,
            clock,
            metrics,
            shutdown: shutdown.clone(),
        };
        Self {
            workloads,
            admission,
            keep,
            shutdown,
        }
    }

    /// Serves these connections until shutdown.
    ///
    /// # Errors
    /// When the transport fails as a whole.
    pub async fn run(
        self,
        connections: impl Stream<Item = io::Result<Peered>> + Send,
    ) -> Result<(), tonic::transport::Error> {
        let (reporter, health) = tonic_health::server::health_reporter();
        let (mut readiness, mut is_up) = (self.keep.readiness(), self.keep.is_up());
        let report = async {
            let serving = |is_well| match is_well {
                true => ServingStatus::Serving,
                false => ServingStatus::NotServing,
            };
            loop {
                let ready = serving(*readiness.borrow_and_update() > Readiness::Fresh);
                let link = serving(*is_up.borrow_and_update());
                for (service, status) in [("", ready), ("SpiffeWorkloadAPI", ready), (LINK, link)] {
                    reporter.set_service_status(service, status).await;
                }
                let changed = tokio::select! {
                    changed = readiness.changed() => changed,
                    changed = is_up.changed() => changed,
                };
                if changed.is_err() {
                    return std::future::pending::<()>().await;
                }
            }
        };

        let api = SpiffeWorkloadApiServer::new(self.workloads).max_decoding_message_size(MAX_MESSAGE);
        let mut server = Server::builder()
            .max_concurrent_streams(STREAMS_PER_CONNECTION)
            .initial_connection_window_size(WINDOW)
            .initial_stream_window_size(WINDOW)
            // Without keep-alive: of a local socket the kernel tells when the other end is gone, and an idle node does nothing.
            .http2_max_header_list_size(MAX_HEADERS)
            .layer(self.admission);
        let mut routes = server
            .add_service(InterceptedService::new(api, check_header))
            .add_service(health.max_decoding_message_size(MAX_QUESTION));
        // The descriptors are compiled into this program; a test holds that they decode.
        let reflection = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(WORKLOAD_FILE_DESCRIPTOR_SET)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        };
        if let (Ok(v1), Ok(v1alpha)) = (reflection().build_v1(), reflection().build_v1alpha()) {
            routes = routes
                .add_service(InterceptedService::new(
                    v1.max_decoding_message_size(MAX_QUESTION),
                    check_header,
                ))
                .add_service(InterceptedService::new(
                    v1alpha.max_decoding_message_size(MAX_QUESTION),
                    check_header,
                ));
        }
        let shutdown = self.shutdown.clone();
        tokio::select! {
            served = routes.serve_with_incoming_shutdown(connections, shutdown.cancelled_owned()) => served,
            () = report => Ok(()),
        }
    }
}

fn check_header(request: Request<()>) -> Result<Request<()>, Status> {
    match request.metadata().get(SECURITY_HEADER).map(|value| value.as_bytes()) {
        Some(b"true") => Ok(request),
        _ => Err(Status::invalid_argument(format!(
            "security header missing from request: send the metadata {SECURITY_HEADER}: true (SPIFFE Workload Endpoint §4)"
        ))),
    }
}

#[cfg(test)]
mod tests;
