//! One link, from Hello to its end.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt as _};
use mintmark_identity::{Bundle, Selectors, SpiffeId};
use mintmark_proto::attestor::{Ack, FromNode, Hello, Sign, Signed, Status as Told, ToNode, from_node, to_node};
use mintmark_proto::spire::types::permission_denied_details::Reason;
use prost::Message as _;
use tokio::sync::watch;
use tonic::{Code, Status, Streaming};

use super::super::caller::Allowance;
use super::super::convert::bundle_message;
use super::super::status::{self, agent_denied, invalid};
use super::super::{RECEIVE_TIMEOUT, Rooms};
use super::LinkMetrics;
use super::held::{Held, MAX_BYTES, count};
use super::links::{Links, Place};
use super::pods::{self, Judging};
use super::sign::{MAX_KEYS, sign};
use crate::attest::nodes::NodeWatch;
use crate::attest::{Attested, NodeRecord};
use crate::registry::{Dirty, NodeFeed};

/// So many updates, of some kilobytes, may be on their way without being acknowledged.
pub(super) const WINDOW: u64 = 16;
/// So many messages of keys are signed at once; when that many are, nothing more is read from the node.
const MAX_SIGNING: usize = 4;
/// A version has no more bytes than this.
const MAX_VERSION: usize = 64;

/// The node at the other end.
pub(super) struct Node {
    pub(super) id: SpiffeId,
    pub(super) attested: Attested,
    /// By which aliases find it.
    pub(super) selectors: Selectors,
    /// The SVID that the link's connection was opened with.
    pub(super) serial: String,
    /// Until when that SVID is valid, Unix seconds.
    pub(super) not_after: i64,
    pub(super) allowance: Option<Allowance>,
}

type Work = Pin<Box<dyn Future<Output = Done> + Send>>;

/// What was worked on.
enum Done {
    Noted,
    Signed(Signed),
    Judged(pods::Judged),
}

/// One link.
pub(super) struct Session {
    rooms: Rooms,
    metrics: LinkMetrics,
    node: Arc<Node>,
    inbound: Streaming<FromNode>,
    place: Place,
    watch: NodeWatch,
    bundle: watch::Receiver<Arc<Bundle>>,
    /// Once Hello has come.
    feed: Option<NodeFeed>,
    held: Held,
    /// What is being signed, judged or noted down.
    work: FuturesUnordered<Work>,
    signing: usize,
    judging: Judging,
    /// A message has just been given out.
    has_sent: bool,
    /// Answers that wait to be sent.
    outbox: VecDeque<to_node::Message>,
    sent: u64,
    acknowledged: u64,
    told: Told,
    /// How much of the gauge of waiting items is this node's.
    waiting: i64,
}

impl Session {
    pub(super) fn new(
        rooms: Rooms,
        metrics: LinkMetrics,
        links: &Links,
        node: Node,
        inbound: Streaming<FromNode>,
    ) -> Result<Self, Status> {
        let watch = rooms.nodes.watch(&node.id).ok_or_else(|| gone(&node.id))?;
        let mut bundle = rooms.authorities.watch_bundle();
        bundle.mark_unchanged();
        let session = Self {
            place: links.enter(&node.id),
            node: Arc::new(node),
            rooms,
            metrics,
            inbound,
            watch,
            bundle,
            feed: None,
            held: Held::default(),
            work: FuturesUnordered::new(),
            signing: 0,
            judging: Judging::default(),
            has_sent: false,
            outbox: VecDeque::new(),
            sent: 0,
            acknowledged: 0,
            told: Told::default(),
            waiting: 0,
        };
        session.check_record(&session.watch.borrow())?;
        Ok(session)
    }

    /// The next message to the node; none when the node has ended the link.
    pub(super) async fn next(&mut self) -> Result<Option<ToNode>, Status> {
        if std::mem::take(&mut self.has_sent) {
            // So that the transport takes one message at a time: it keeps, for as long as the stream lives, the room that it needed for all that was ready at once.
            tokio::task::yield_now().await;
        }
        let message = self.message().await?;
        self.has_sent = message.is_some();
        Ok(message)
    }

    async fn message(&mut self) -> Result<Option<ToNode>, Status> {
        if self.feed.is_none() && !self.begin().await? {
            return Ok(None);
        }
        loop {
            if let Some(update) = self.next_update() {
                return Ok(Some(update));
            }
            if let Some(message) = self.outbox.pop_front() {
                return Ok(Some(ToNode { message: Some(message) }));
            }
            let has_room = self.has_room();
            let expires_in = Duration::from_secs((self.node.not_after - self.rooms.clock.unix()).max(0).unsigned_abs());
            let feed = self.feed.as_mut();
            let changed = async {
                match feed {
                    Some(feed) if has_room => feed.changed().await,
                    _ => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = self.place.superseded().cancelled() => {
                    return Err(status::refused(Code::Aborted, "ANOTHER_LINK", "this node has opened another link"));
                }
                () = self.rooms.stop.cancelled() => return Err(status::unavailable("the link ends", "the server is stopping")),
                changed = self.watch.changed() => match changed {
                    Ok(()) => self.check_record(&self.watch.borrow())?,
                    Err(_) => self.watch_again()?,
                },
                () = self.rooms.clock.sleep(expires_in) => {
                    return Err(agent_denied(Reason::AgentExpired, format!("agent {}: the SVID of this link has ended", self.node.id)));
                }
                changed = self.bundle.changed() => match changed {
                    Ok(()) => self.held.bundle_changed(),
                    Err(_) => return Err(status::unavailable("the link ends", "the server is stopping")),
                },
                () = changed => {}
                Some(done) = self.work.next(), if !self.work.is_empty() => self.done(done),
                message = self.inbound.message(), if self.signing < MAX_SIGNING && !self.judging.is_full() => match message? {
                    Some(message) => self.take(message)?,
                    None => return Ok(None),
                },
            }
        }
    }

    fn done(&mut self, done: Done) {
        match done {
            Done::Noted => {}
            Done::Signed(signed) => {
                self.signing -= 1;
                self.metrics.signing.dec();
                self.outbox
                    .extend(in_parts(signed).into_iter().map(to_node::Message::Signed));
            }
            Done::Judged(judged) => {
                let (answer, again) = self.judging.done(judged);
                // Behind the update that brings the pod's identities: both are ready, and updates go first.
                self.outbox.extend(answer.map(to_node::Message::PodJudged));
                if let Some(word) = again {
                    self.judge(word);
                }
            }
        }
    }

    fn judge(&mut self, word: pods::Word) {
        let judged = pods::judge(self.rooms.clone(), Arc::clone(&self.node), word);
        self.work.push(Box::pin(async move { Done::Judged(judged.await) }));
    }

    /// The link ends by our will.
    pub(super) fn log_end(&self, status: &Status) {
        tracing::info!(node = %self.node.id, code = ?status.code(), why = status.message(), "link ended");
    }

    /// Waits for Hello and works out the difference. False when the node ends the link at once.
    async fn begin(&mut self) -> Result<bool, Status> {
        let first = self.rooms.clock.timeout(RECEIVE_TIMEOUT, self.inbound.message()).await;
        let first = first.map_err(|late| Status::deadline_exceeded(format!("no Hello: {late}")))??;
        let Some(first) = first else { return Ok(false) };
        let Some(from_node::Message::Hello(hello)) = first.message else {
            return Err(invalid("a link begins with Hello"));
        };
        if hello.version.len() > MAX_VERSION {
            return Err(invalid(format!(
                "a version of {} bytes is longer than {MAX_VERSION}",
                hello.version.len()
            )));
        }
        tracing::info!(
            node = %self.node.id,
            version = ?hello.version,
            identities = hello.held_identities.len(),
            bundles = hello.held_bundles.len(),
            "link begun"
        );
        self.note_version(&hello);
        let mut hello = hello;
        let judged = pods::standing(&self.rooms, &self.node, std::mem::take(&mut hello.pods))?;
        self.outbox.extend(judged.into_iter().map(to_node::Message::PodJudged));
        // Subscribed first, so that no change falls in between.
        let mut feed = self.rooms.registry.subscribe(&self.node.id, &self.node.selectors);
        feed.take();
        let current = self.rooms.registry.authorized(&self.node.id, &self.node.selectors);
        let own = bundle_message(&self.bundle.borrow_and_update(), None);
        self.held = Held::begin(hello, &current, &own);
        self.feed = Some(feed);
        Ok(true)
    }

    fn note_version(&mut self, hello: &Hello) {
        let (nodes, id, version) = (self.rooms.nodes.clone(), self.node.id.clone(), hello.version.clone());
        if version.is_empty() {
            return;
        }
        self.work.push(Box::pin(async move {
            if let Err(error) = nodes.version(&id, &version).await {
                tracing::warn!(node = %id, %error, "the node's version was not noted");
            }
            Done::Noted
        }));
    }

    fn has_room(&self) -> bool {
        self.sent - self.acknowledged < WINDOW
    }

    /// The next update, if there is one and the node has room for it.
    fn next_update(&mut self) -> Option<ToNode> {
        if !self.has_room() {
            self.count_waiting();
            return None;
        }
        let feed = self.feed.as_mut()?;
        let (registry, node) = (&self.rooms.registry, &self.node);
        match feed.take() {
            Dirty::All => self.held.all_changed(&registry.authorized(&node.id, &node.selectors)),
            Dirty::Some(ids) => self.held.changed(ids),
        }
        let look_up =
            |ids: &[Arc<str>]| registry.authorized_entries(&node.id, &node.selectors, ids.iter().map(|id| &**id));
        let update = self.held.next(look_up, || bundle_message(&self.bundle.borrow(), None));
        self.count_waiting();
        let mut update = update?;
        self.sent += 1;
        update.sequence = self.sent;
        self.metrics.updates.inc();
        self.metrics.items.inc_by(count(&update) as u64);
        Some(ToNode {
            message: Some(to_node::Message::Update(update)),
        })
    }

    fn take(&mut self, message: FromNode) -> Result<(), Status> {
        match message.message {
            Some(from_node::Message::Sign(request)) => self.sign(request),
            Some(from_node::Message::Ack(Ack { sequence })) => {
                if sequence > self.sent {
                    return Err(invalid(format!(
                        "update {sequence} is acknowledged, and {} was the last",
                        self.sent
                    )));
                }
                self.acknowledged = self.acknowledged.max(sequence);
                Ok(())
            }
            Some(from_node::Message::Status(told)) => {
                self.tell(told);
                Ok(())
            }
            Some(from_node::Message::Hello(_)) => Err(invalid("Hello is the first message of a link only")),
            Some(from_node::Message::PodUp(up)) => {
                let word = self.judging.up(up);
                self.judge(word);
                Ok(())
            }
            Some(from_node::Message::PodDown(down)) => {
                self.judging.down(&self.rooms, &self.node, &down);
                Ok(())
            }
            // Of a newer node: what it says is not for us.
            None => Ok(()),
        }
    }

    fn sign(&mut self, request: Sign) -> Result<(), Status> {
        if request.keys.len() > MAX_KEYS {
            return Err(invalid(format!(
                "{} keys in one message are more than {MAX_KEYS}: send several",
                request.keys.len()
            )));
        }
        self.metrics.keys.inc_by(request.keys.len() as u64);
        self.metrics.signing.inc();
        self.signing += 1;
        let signed = sign(self.rooms.clone(), Arc::clone(&self.node), request);
        self.work.push(Box::pin(async move { Done::Signed(signed.await) }));
        Ok(())
    }

    /// The node's record has changed: is it still the node's link?
    fn check_record(&self, record: &NodeRecord) -> Result<(), Status> {
        let denied = |reason, why: &str| Err(agent_denied(reason, format!("agent {}: {why}", self.node.id)));
        if record.banned {
            return denied(Reason::AgentBanned, "the node is banned");
        }
        if record.serial != self.node.serial {
            return denied(
                Reason::AgentNotActive,
                "the node has a newer SVID than that of this link",
            );
        }
        Ok(())
    }

    /// The record is gone, or was read anew from the store.
    fn watch_again(&mut self) -> Result<(), Status> {
        self.watch = self
            .rooms
            .nodes
            .watch(&self.node.id)
            .ok_or_else(|| gone(&self.node.id))?;
        self.check_record(&self.watch.borrow())
    }

    fn tell(&mut self, told: Told) {
        let old = std::mem::replace(&mut self.told, told);
        let more = |new: u32, old: u32| i64::from(new) - i64::from(old);
        self.metrics.workloads.inc_by(more(told.workloads, old.workloads));
        self.metrics.svids.inc_by(more(told.svids, old.svids));
        self.metrics
            .overdue
            .inc_by(more(told.renewals_overdue, old.renewals_overdue));
    }

    fn count_waiting(&mut self) {
        let waiting = i64::try_from(self.held.waiting()).unwrap_or(i64::MAX);
        self.metrics.dirty.inc_by(waiting - self.waiting);
        self.waiting = waiting;
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.tell(Told::default());
        self.metrics.dirty.inc_by(-self.waiting);
        self.metrics
            .signing
            .inc_by(-i64::try_from(self.signing).unwrap_or_default());
    }
}

/// The answer in messages of some kilobytes each.
fn in_parts(signed: Signed) -> VecDeque<Signed> {
    let Signed { request_id, results } = signed;
    let mut parts = VecDeque::new();
    let mut part = Signed {
        request_id,
        results: Vec::new(),
    };
    let mut bytes = 0;
    for result in results {
        let length = result.encoded_len();
        if bytes + length > MAX_BYTES && !part.results.is_empty() {
            parts.push_back(std::mem::replace(
                &mut part,
                Signed {
                    request_id,
                    results: Vec::new(),
                },
            ));
            bytes = 0;
        }
        bytes += length;
        part.results.push(result);
    }
    parts.push_back(part);
    parts
}

fn gone(id: &SpiffeId) -> Status {
    agent_denied(
        Reason::AgentNotAttested,
        format!("agent {id}: the node is not attested: it was evicted"),
    )
}
