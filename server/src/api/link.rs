//! `mintmark.attestor.v1.Attestor`: the server's end of the node link.
//!
//! One state machine for each connected node, which is the answer's stream itself: it is worked on only when something comes in, something of the node's has changed, or a message can go
//! out, so that an idle node costs a keep-alive and a slow one its set of changed items. The wire's rules are in `mintmark/attestor/v1/attestor.proto`.
//!
//! - In: Hello with what the node holds; public keys; pods that its kubelet mounts; acknowledgements; changes from `registry`, `authority` and `attest`.
//! - Out: the difference, then changes, latest wins; X.509-SVIDs; what the witnesses of a pod say together.

mod held;
mod links;
mod pods;
mod session;
mod sign;

use futures::stream;
use mintmark_proto::attestor::{FromNode, ToNode, attestor_server};
use mintmark_runtime::metrics::{Counter, Gauge, Metrics};
use mintmark_runtime::tls::ConnectInfo;
use tonic::codegen::BoxStream;
use tonic::{Request, Response, Status, Streaming};

use super::Rooms;
use super::caller::{Allowance, Caller};
use super::status;
use links::Links;
use session::{Node, Session};

/// The service. A handle.
#[derive(Clone)]
pub(super) struct LinkService {
    rooms: Rooms,
    links: Links,
    metrics: LinkMetrics,
}

/// The links in numbers.
#[derive(Clone)]
struct LinkMetrics {
    updates: Counter,
    items: Counter,
    keys: Counter,
    signing: Gauge,
    dirty: Gauge,
    workloads: Gauge,
    svids: Gauge,
    overdue: Gauge,
}

impl LinkMetrics {
    fn register(metrics: &Metrics) -> Self {
        Self {
            updates: metrics.counter("link_updates", "Updates sent to nodes"),
            items: metrics.counter(
                "link_items",
                "Entries, bundles and removals in the updates sent to nodes",
            ),
            keys: metrics.counter("link_keys", "Public keys that nodes sent to be signed"),
            signing: metrics.gauge("link_signing", "Messages of public keys that are being signed"),
            dirty: metrics.gauge("link_dirty", "Changed items that wait until their nodes take them"),
            workloads: metrics.gauge(
                "nodes_workloads",
                "Open streams of workloads, as the connected nodes tell",
            ),
            svids: metrics.gauge("nodes_svids", "X.509-SVIDs held, as the connected nodes tell"),
            overdue: metrics.gauge(
                "nodes_renewals_overdue",
                "X.509-SVIDs overdue for renewal, as the connected nodes tell",
            ),
        }
    }
}

impl LinkService {
    pub(super) fn new(rooms: Rooms, metrics: &Metrics) -> Self {
        let links = Links::new(rooms.connected.clone());
        Self {
            rooms,
            links,
            metrics: LinkMetrics::register(metrics),
        }
    }
}

#[tonic::async_trait]
impl attestor_server::Attestor for LinkService {
    async fn link(&self, request: Request<Streaming<FromNode>>) -> Result<Response<BoxStream<ToNode>>, Status> {
        let (_, extensions, inbound) = request.into_parts();
        let agent = Caller::agent(&extensions)?;
        let peer = extensions.get::<ConnectInfo>().and_then(|info| info.peer.clone());
        let peer = peer.ok_or_else(|| status::internal("unknown caller", "a node without a certificate"))?;
        let node = Node {
            id: agent.record.id.clone(),
            attested: agent.attested.clone(),
            selectors: agent.record.alias_selectors(),
            serial: peer.serial().map(|serial| serial.hex()).unwrap_or_default(),
            // As the gate has it: whatever the certificate says, none that the node was given lives longer.
            not_after: peer.not_after.min(agent.record.not_after),
            allowance: extensions.get::<Allowance>().cloned(),
        };
        let session = Session::new(self.rooms.clone(), self.metrics.clone(), &self.links, node, inbound)?;
        Ok(Response::new(Box::pin(stream::unfold(
            Some(session),
            |session| async move {
                let mut session = session?;
                match session.next().await {
                    Ok(Some(message)) => Some((Ok(message), Some(session))),
                    Ok(None) => None,
                    Err(status) => {
                        session.log_end(&status);
                        Some((Err(status), None))
                    }
                }
            },
        ))))
    }
}
