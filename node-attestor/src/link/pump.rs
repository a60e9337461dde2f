//! One stream to the server, from Hello to its end.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use mintmark_proto::attestor::attestor_client::AttestorClient;
use mintmark_proto::attestor::{
    Ack, FromNode, Hello, KeyBinding, Sign, SignResult, Status as NodeStatus, ToNode, from_node, to_node,
};
use mintmark_runtime::clock::Clock;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};

use super::LinkMetrics;
use crate::join::{Join, MAX_MESSAGE};
use crate::keep::Keep;
use crate::mount::Pods;

/// How long the server may take to answer Hello, and to say all that applies.
const BEGIN: Duration = Duration::from_secs(60);
/// The node's state is reported at most this often.
const REPORT: Duration = Duration::from_secs(10);
/// So many messages wait for the connection.
const QUEUE: usize = 16;
/// So many messages of keys wait for their turn.
const ORDERS: usize = 8;

/// An answer that comes in.
struct Pending {
    wanted: usize,
    results: Vec<SignResult>,
    answer: oneshot::Sender<Vec<SignResult>>,
}

/// Keys to be signed.
pub(super) struct Order {
    pub(super) keys: Vec<KeyBinding>,
    pub(super) answer: oneshot::Sender<Vec<SignResult>>,
}

/// A stream that is up. A handle.
#[derive(Clone)]
pub(super) struct Connection {
    pub(super) channel: Channel,
    pub(super) orders: mpsc::Sender<Order>,
}

/// One stream.
pub(super) struct Pump {
    keep: Keep,
    join: Join,
    pods: Pods,
    clock: Clock,
    metrics: LinkMetrics,
    send: mpsc::Sender<FromNode>,
    receive: Streaming<ToNode>,
    orders: mpsc::Receiver<Order>,
    pending: HashMap<u64, Pending>,
    next_request: u64,
    last_sequence: u64,
    /// Digests that no longer apply, until all that applies has been said.
    withdrawn: Vec<u64>,
    reported: Option<NodeStatus>,
    report_due: Instant,
}

impl Pump {
    /// Opens a stream and says what is held.
    pub(super) async fn open(
        channel: Channel,
        keep: Keep,
        join: Join,
        pods: Pods,
        clock: Clock,
        metrics: LinkMetrics,
    ) -> Result<(Self, Connection), Status> {
        let (send, requests) = mpsc::channel(QUEUE);
        let (held_identities, held_bundles) = keep.held();
        let hello = Hello {
            version: env!("CARGO_PKG_VERSION").into(),
            held_identities,
            held_bundles,
            pods: pods.standing(),
        };
        let hello = FromNode {
            message: Some(from_node::Message::Hello(hello)),
        };
        send.send(hello).await.map_err(|_| gone())?;
        let mut client = AttestorClient::new(channel.clone()).max_decoding_message_size(MAX_MESSAGE);
        let opened = clock.timeout(BEGIN, client.link(ReceiverStream::new(requests))).await;
        let receive =
            opened.map_err(|late| Status::deadline_exceeded(format!("the server did not take the link: {late}")))??;
        let (order, orders) = mpsc::channel(ORDERS);
        let pump = Self {
            report_due: clock.instant(),
            keep,
            join,
            pods,
            clock,
            metrics,
            send,
            receive: receive.into_inner(),
            orders,
            pending: HashMap::new(),
            next_request: 1,
            last_sequence: 0,
            withdrawn: Vec::new(),
            reported: None,
        };
        Ok((pump, Connection { channel, orders: order }))
    }

    /// Serves the stream until it ends, and says why; `in_step` is told once the server has said all that applies.
    pub(super) async fn run(mut self, in_step: CancellationToken, stop: CancellationToken) -> Status {
        let mut changes = self.keep.changes();
        let pods = self.pods.clone();
        let mut report_waits = true;
        let began = self.clock.instant();
        loop {
            let overdue = async {
                match in_step.is_cancelled() {
                    true => std::future::pending().await,
                    false => self.clock.sleep_until(began + BEGIN).await,
                }
            };
            let done = tokio::select! {
                biased;
                () = stop.cancelled() => return Status::cancelled("this side ended the link"),
                message = self.receive.message() => match message {
                    Ok(Some(message)) => self.take(message, &in_step).await,
                    Ok(None) => return Status::unavailable("the server ended the link"),
                    Err(status) => return status,
                },
                Some(order) = self.orders.recv() => self.sign(order).await,
                news = pods.news() => self.send(news).await,
                () = overdue => return Status::deadline_exceeded(format!("the server did not say within {BEGIN:?} what applies to this node")),
                changed = changes.changed(), if !report_waits => {
                    // It ends with this node's keep only.
                    report_waits = changed.is_ok();
                    Ok(())
                }
                () = self.clock.sleep_until(self.report_due), if report_waits => {
                    report_waits = false;
                    self.report().await
                }
            };
            if let Err(status) = done {
                return status;
            }
        }
    }

    async fn take(&mut self, message: ToNode, in_step: &CancellationToken) -> Result<(), Status> {
        match message.message {
            Some(to_node::Message::Update(mut update)) => {
                if update.sequence != self.last_sequence + 1 {
                    let text = format!("update {} after update {}", update.sequence, self.last_sequence);
                    return Err(Status::new(Code::DataLoss, text));
                }
                self.last_sequence = update.sequence;
                // The digest of an entry that has changed is gone like that of one that no longer applies, and in which update its new state comes is not
                // known: dropped at once, a workload would be told that it has no identity any more.
                self.withdrawn.append(&mut update.removed);
                if update.complete || in_step.is_cancelled() {
                    update.removed = std::mem::take(&mut self.withdrawn);
                }
                for refused in self.keep.apply(&update) {
                    tracing::warn!(%refused, "an update of the server was not taken whole");
                }
                if !update.bundles.is_empty()
                    && let Some(own) = self.keep.own_bundle()
                {
                    self.join.learn(&own);
                }
                self.metrics.updates.inc();
                tracing::debug!(
                    sequence = update.sequence,
                    upserts = update.upserts.len(),
                    removed = update.removed_ids.len() + update.removed.len(),
                    bundles = update.bundles.len(),
                    complete = update.complete,
                    "update applied"
                );
                if update.complete {
                    in_step.cancel();
                }
                self.send(from_node::Message::Ack(Ack {
                    sequence: update.sequence,
                }))
                .await
            }
            Some(to_node::Message::Signed(signed)) => {
                // Who asked may have given up meanwhile.
                let Some(pending) = self.pending.get_mut(&signed.request_id) else {
                    return Ok(());
                };
                pending.results.extend(signed.results);
                if pending.results.len() >= pending.wanted
                    && let Some(pending) = self.pending.remove(&signed.request_id)
                {
                    let _ = pending.answer.send(pending.results);
                }
                Ok(())
            }
            Some(to_node::Message::PodJudged(judged)) => {
                self.pods.judged(judged);
                Ok(())
            }
            // Of a newer server: what it says is not for us.
            None => Ok(()),
        }
    }

    async fn sign(&mut self, order: Order) -> Result<(), Status> {
        self.pending.retain(|_, pending| !pending.answer.is_closed());
        let request_id = self.next_request;
        self.next_request += 1;
        let pending = Pending {
            wanted: order.keys.len(),
            results: Vec::with_capacity(order.keys.len()),
            answer: order.answer,
        };
        self.pending.insert(request_id, pending);
        self.send(from_node::Message::Sign(Sign {
            request_id,
            keys: order.keys,
        }))
        .await
    }

    async fn report(&mut self) -> Result<(), Status> {
        self.report_due = self.clock.instant() + REPORT;
        let summary = self.keep.summary();
        let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let status = NodeStatus {
            workloads: count(summary.workloads),
            svids: count(summary.x509_svids),
            renewals_overdue: count(summary.renewals_overdue),
            min_remaining_seconds: u32::try_from(summary.min_remaining.unwrap_or_default()).unwrap_or(u32::MAX),
        };
        // The remaining life alone changes all the time.
        let told = |status: NodeStatus| (status.workloads, status.svids, status.renewals_overdue);
        if self.reported.is_some_and(|reported| told(reported) == told(status)) {
            return Ok(());
        }
        self.reported = Some(status);
        self.send(from_node::Message::Status(status)).await
    }

    async fn send(&self, message: from_node::Message) -> Result<(), Status> {
        self.send
            .send(FromNode { message: Some(message) })
            .await
            .map_err(|_| gone())
    }
}

fn gone() -> Status {
    Status::unavailable("the connection is gone")
}
