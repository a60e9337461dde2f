//! `mintmark.attestor.v1.Attestor`: the server's end of the node link.
//!
//! One stream for each node. Down go the entries that are the node's and the trust bundle: after Hello the exact difference to what the node holds, from then on what
//! changes, latest first and never more than the node keeps up with. Up come public keys, and down their X.509-SVIDs. A stream ends at once when its node is banned,
//! deleted, attested anew or linked a second time, and when the SVID that opened it ends.

mod held;
mod session;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mintmark_identity::SpiffeId;
use mintmark_proto::attestor::{FromNode, ToNode, attestor_server, from_node};
use mintmark_runtime::metrics::Gauge;
use mintmark_runtime::tls::ConnectInfo;
use tokio_util::sync::CancellationToken;
use tonic::codegen::BoxStream;
use tonic::{Request, Response, Status};

use self::session::{Opened, Session};
use super::Rooms;
use super::caller::{Allowance, Caller};
use super::status::{internal, invalid};

/// A stream opens with Hello within this time.
const HELLO: Duration = Duration::from_secs(30);

/// The service.
pub(super) struct LinkService {
    rooms: Rooms,
    links: Links,
}

impl LinkService {
    pub(super) fn new(rooms: Rooms) -> Self {
        let links = Links {
            connected: rooms.connected.clone(),
            open: Arc::default(),
        };
        Self { rooms, links }
    }
}

#[tonic::async_trait]
impl attestor_server::Attestor for LinkService {
    async fn link(&self, request: Request<tonic::Streaming<FromNode>>) -> Result<Response<BoxStream<ToNode>>, Status> {
        let agent = Caller::agent(request.extensions())?.clone();
        let allowance = request.extensions().get::<Allowance>().cloned();
        let peer = request
            .extensions()
            .get::<ConnectInfo>()
            .and_then(|info| info.peer.clone());
        let not_after = peer.map(|peer| peer.not_after).unwrap_or_default();
        let mut receive = request.into_inner();
        let first = self.rooms.clock.timeout(HELLO, receive.message()).await;
        let first = first.map_err(|late| Status::deadline_exceeded(format!("no Hello: {late}")))??;
        let Some(from_node::Message::Hello(hello)) = first.and_then(|message| message.message) else {
            return Err(invalid("a link opens with Hello"));
        };
        if let Err(error) = self.rooms.nodes.version(&agent.record.id, &hello.version).await {
            tracing::warn!(node = %agent.record.id, %error, "the version of a node's attestor was not noted");
        }
        let node = self.rooms.nodes.watch(&agent.record.id);
        let node = node.ok_or_else(|| internal("unable to follow the node", "it is gone"))?;
        let place = self.links.open(&agent.record.id);
        let opened = Opened {
            agent,
            allowance,
            not_after,
            hello,
            receive,
            node,
            place,
        };
        let session = Session::new(self.rooms.clone(), opened);
        let messages = futures::stream::unfold(session, |mut session| async move {
            let message = session.next().await?;
            Some((message, session))
        });
        Ok(Response::new(Box::pin(messages)))
    }
}

/// The links that are open, one for each node. A handle.
#[derive(Clone)]
struct Links {
    connected: Gauge,
    open: Arc<Mutex<Open>>,
}

#[derive(Default)]
struct Open {
    next: u64,
    by_node: HashMap<SpiffeId, (u64, CancellationToken)>,
}

impl Links {
    /// Takes the node's place; whoever had it is told to go.
    fn open(&self, node: &SpiffeId) -> Place {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let (number, taken) = (open.next, CancellationToken::new());
        open.next += 1;
        match open.by_node.insert(node.clone(), (number, taken.clone())) {
            Some((_, older)) => older.cancel(),
            None => {
                self.connected.inc();
            }
        }
        Place {
            links: self.clone(),
            node: node.clone(),
            number,
            taken,
        }
    }
}

/// A node's place among the links, until dropped.
struct Place {
    links: Links,
    node: SpiffeId,
    number: u64,
    /// Cancelled when a newer link of the node has come.
    taken: CancellationToken,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.links.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open
            .by_node
            .get(&self.node)
            .is_some_and(|(number, _)| *number == self.number)
        {
            open.by_node.remove(&self.node);
            self.links.connected.dec();
        }
    }
}
