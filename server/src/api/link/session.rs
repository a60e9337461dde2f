//! One node's stream, from Hello to its end.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use mintmark_identity::{Bundle, PublicKey, Selectors};
use mintmark_proto::attestor::{FromNode, Hello, Sign, SignResult, Signed, ToNode, Update, from_node, to_node};
use mintmark_proto::spire::types::permission_denied_details::Reason;
use tokio::sync::watch;
use tonic::{Code, Status, Streaming};

use super::Place;
use super::held::Held;
use crate::api::Rooms;
use crate::api::caller::{Agent, Allowance};
use crate::api::convert::bundle_message;
use crate::api::methods::Limit;
use crate::api::status;
use crate::attest::nodes::NodeWatch;
use crate::issuance::{X509Order, X509Svid};
use crate::registry::{Dirty, Entry, NodeFeed};

/// So many keys come in one Sign.
const MAX_KEYS: usize = 1_000;
/// A key has no more bytes.
const MAX_KEY: usize = 2_048;
/// So many Signs are worked on at once; the next waits in the connection.
const MAX_SIGNS: usize = 4;
/// So many Updates are on their way; what changes meanwhile waits in one set.
const WINDOW: u64 = 2;

type Signing = Pin<Box<dyn Future<Output = Signed> + Send>>;

/// What a session begins with.
pub(super) struct Opened {
    pub(super) agent: Agent,
    pub(super) allowance: Option<Allowance>,
    /// When the SVID that opened the stream ends.
    pub(super) not_after: i64,
    pub(super) hello: Hello,
    pub(super) receive: Streaming<FromNode>,
    pub(super) node: NodeWatch,
    pub(super) place: Place,
}

/// One node's stream.
pub(super) struct Session {
    rooms: Rooms,
    agent: Arc<Agent>,
    selectors: Selectors,
    allowance: Option<Allowance>,
    not_after: i64,
    receive: Streaming<FromNode>,
    node: NodeWatch,
    place: Place,
    feed: NodeFeed,
    bundle: watch::Receiver<Arc<Bundle>>,
    held: Held,
    updates: VecDeque<Update>,
    sent: u64,
    acknowledged: u64,
    signing: FuturesUnordered<Signing>,
    ended: bool,
}

impl Session {
    pub(super) fn new(rooms: Rooms, opened: Opened) -> Self {
        let Opened {
            agent,
            allowance,
            not_after,
            hello,
            receive,
            node,
            place,
        } = opened;
        let selectors = agent.record.alias_selectors();
        // Listened to first and read then: what changes in between is told.
        let mut feed = rooms.registry.subscribe(&agent.record.id, &selectors);
        feed.take();
        let entries = rooms.registry.authorized(&agent.record.id, &selectors);
        let mut bundle = rooms.authorities.watch_bundle();
        let own = bundle_message(&bundle.borrow_and_update(), None);
        let mut held = Held::default();
        let updates = held.begin(hello.held_identities, hello.held_bundles, &entries, own);
        tracing::info!(node = %agent.record.id, entries = entries.len(), "node linked");
        Self {
            rooms,
            agent: Arc::new(agent),
            selectors,
            allowance,
            not_after,
            receive,
            node,
            place,
            feed,
            bundle,
            held,
            updates,
            sent: 0,
            acknowledged: 0,
            signing: FuturesUnordered::new(),
            ended: false,
        }
    }

    /// The next message for the node; its stream ends after an error, and with `None`.
    pub(super) async fn next(&mut self) -> Option<Result<ToNode, Status>> {
        if self.ended {
            return None;
        }
        let step = self.step().await.transpose();
        self.ended = !matches!(step, Some(Ok(_)));
        if self.ended {
            let why = step.as_ref().and_then(|step| step.as_ref().err()).map(Status::message);
            tracing::info!(node = %self.agent.record.id, why = why.unwrap_or("the node ended it"), "node link ended");
        }
        step
    }

    async fn step(&mut self) -> Result<Option<ToNode>, Status> {
        loop {
            let may_send = self.sent - self.acknowledged < WINDOW;
            if may_send && let Some(mut update) = self.updates.pop_front() {
                self.sent += 1;
                update.sequence = self.sent;
                return Ok(Some(ToNode {
                    message: Some(to_node::Message::Update(update)),
                }));
            }
            tokio::select! {
                biased;
                () = self.rooms.stop.cancelled() => return Err(Status::unavailable("the server is stopping: connect again")),
                () = self.place.taken.cancelled() => {
                    return Err(Status::aborted("a newer link of this node has taken this one's place"));
                }
                known = self.node.changed() => self.check(known.is_ok())?,
                () = self.rooms.clock.sleep_until_unix(self.not_after) => {
                    return Err(status::agent_denied(Reason::AgentExpired, "the SVID that opened this link has ended"));
                }
                Some(signed) = self.signing.next(), if !self.signing.is_empty() => {
                    return Ok(Some(ToNode { message: Some(to_node::Message::Signed(signed)) }));
                }
                message = self.receive.message(), if self.signing.len() < MAX_SIGNS => match message? {
                    Some(message) => self.take(message)?,
                    None => return Ok(None),
                },
                () = self.feed.changed(), if may_send => self.collect(),
                changed = self.bundle.changed(), if may_send => {
                    if changed.is_err() {
                        return Err(Status::unavailable("the server is stopping: connect again"));
                    }
                    let bundle = bundle_message(&self.bundle.borrow_and_update(), None);
                    self.updates.extend(self.held.bundle(bundle));
                }
            }
        }
    }

    /// Is the node still who opened the stream?
    fn check(&mut self, known: bool) -> Result<(), Status> {
        let id = &self.agent.record.id;
        if !known {
            let text = format!("agent {id} was deleted: it has to attest again");
            return Err(status::agent_denied(Reason::AgentNotAttested, text));
        }
        let now = self.node.borrow_and_update();
        if now.banned {
            return Err(status::agent_denied(
                Reason::AgentBanned,
                format!("agent {id} is banned"),
            ));
        }
        if now.serial != self.agent.record.serial {
            let text = format!("agent {id} goes on with a newer SVID than the one that opened this link");
            return Err(status::agent_denied(Reason::AgentNotActive, text));
        }
        Ok(())
    }

    fn collect(&mut self) {
        let (registry, node) = (&self.rooms.registry, &self.agent.record.id);
        let updates = match self.feed.take() {
            Dirty::All => self.held.all(&registry.authorized(node, &self.selectors)),
            Dirty::Some(ids) => {
                let ids: Vec<_> = ids.into_iter().collect();
                let entries = registry.authorized_entries(node, &self.selectors, ids.iter().map(|id| &**id));
                self.held.some(ids.iter().cloned().zip(entries).collect())
            }
        };
        self.updates.extend(updates);
    }

    fn take(&mut self, message: FromNode) -> Result<(), Status> {
        match message.message {
            Some(from_node::Message::Ack(ack)) if ack.sequence > self.sent => {
                let text = format!(
                    "update {} is acknowledged, and only {} were sent",
                    ack.sequence, self.sent
                );
                Err(status::invalid(text))
            }
            Some(from_node::Message::Ack(ack)) => {
                self.acknowledged = self.acknowledged.max(ack.sequence);
                Ok(())
            }
            Some(from_node::Message::Sign(sign)) => {
                if sign.keys.len() > MAX_KEYS {
                    let count = sign.keys.len();
                    return Err(status::invalid(format!(
                        "{count} keys in one message are more than {MAX_KEYS}"
                    )));
                }
                let (rooms, agent) = (self.rooms.clone(), self.agent.clone());
                let (selectors, allowance) = (self.selectors.clone(), self.allowance.clone());
                self.signing
                    .push(Box::pin(signed(rooms, agent, selectors, allowance, sign)));
                Ok(())
            }
            Some(from_node::Message::Status(status)) => {
                tracing::debug!(node = %self.agent.record.id, ?status, "node reports");
                Ok(())
            }
            Some(from_node::Message::Hello(_)) => Err(status::invalid("Hello comes once, at the beginning")),
            // Of a newer node: what it says is not for us.
            None => Ok(()),
        }
    }
}

async fn signed(
    rooms: Rooms,
    agent: Arc<Agent>,
    selectors: Selectors,
    allowance: Option<Allowance>,
    sign: Sign,
) -> Signed {
    let Sign { request_id, keys } = sign;
    if let Some(allowance) = allowance
        && let Err(over) = allowance.limits.take(Limit::Sign, &allowance.key, keys.len()).await
    {
        let wait = over.retry_after.as_secs() + 1;
        let text = format!("more keys than this node may have signed now: come again in {wait} s");
        let over = Status::resource_exhausted(text);
        let results = keys.into_iter().map(|key| refused(key.entry_id, &over)).collect();
        return Signed { request_id, results };
    }
    let ids = keys.iter().map(|key| &*key.entry_id);
    let entries = rooms.registry.authorized_entries(&agent.record.id, &selectors, ids);
    let mut orders = Vec::with_capacity(keys.len());
    let checked: Vec<_> = keys
        .iter()
        .zip(entries)
        .map(|(key, entry)| order(&key.public_key, entry).map(|order| orders.push(order)))
        .collect();
    let mut svids = rooms.issuer.x509(&agent.attested, orders).await.into_iter();
    let results = keys.into_iter().zip(checked).map(|(key, checked)| {
        let svid = checked.and_then(|()| match svids.next() {
            Some(Ok(svid)) => Ok(svid),
            Some(Err(refusal)) => Err(status::refusal("failed to sign X509-SVID", &refusal)),
            None => Err(status::internal(
                "failed to sign X509-SVID",
                "there are fewer answers than orders",
            )),
        });
        match svid {
            Ok(svid) => granted(key.entry_id, svid),
            Err(why) => refused(key.entry_id, &why),
        }
    });
    Signed {
        request_id,
        results: results.collect(),
    }
}

fn order(public_key: &[u8], entry: Option<Arc<Entry>>) -> Result<X509Order, Status> {
    let entry = entry.ok_or_else(|| status::not_found("entry not found or not authorized"))?;
    if public_key.len() > MAX_KEY {
        let text = format!("{} bytes are more than {MAX_KEY}", public_key.len());
        return Err(status::malformed("malformed public key", text));
    }
    let key = PublicKey::from_spki_der(public_key).map_err(|error| status::malformed("malformed public key", error))?;
    let mut order = X509Order::new(entry.spiffe_id.clone(), key);
    order.ttl = entry.x509_ttl;
    order.dns_names = Arc::clone(&entry.dns_names);
    order.entry_id = Some(Arc::clone(&entry.id));
    Ok(order)
}

fn granted(entry_id: String, svid: X509Svid) -> SignResult {
    SignResult {
        entry_id,
        cert_chain: svid.chain,
        expires_at: svid.not_after,
        code: 0,
        message: String::new(),
    }
}

fn refused(entry_id: String, why: &Status) -> SignResult {
    SignResult {
        entry_id,
        cert_chain: Vec::new(),
        expires_at: 0,
        code: u32::try_from(i32::from(why.code())).unwrap_or(u32::try_from(i32::from(Code::Unknown)).unwrap_or(2)),
        message: why.message().to_owned(),
    }
}
