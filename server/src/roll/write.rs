//! What a cluster is told: Events, the status of objects, the trust bundle. One queue a cluster, with a bound and a pace, in which the latest word on a thing takes the place of an earlier one; whoever has something to
//! say never waits, and what cannot be said goes to the end of the queue. What is refused is left; but the trust bundle has to be there, and is offered again, ever less often.

use std::collections::{HashMap, HashSet, VecDeque};
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kube::Client;
use kube::client::Body;
use mintmark_runtime::clock::Clock;
use mintmark_runtime::task::Backoff;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::sync::Notify;

use super::facts::{Node, ObjectKind, Pod, Uid};
use super::metrics::RollMetrics;
use super::publish::{Place, Placed};
use super::watch::in_full;

/// So many words wait; further ones are dropped and counted.
const MAX_WAITING: usize = 1_000;
/// So many Events are remembered, so that none is told twice.
const MAX_TOLD: usize = 20_000;
/// A word is sent no sooner than this after the last.
const PACE: Duration = Duration::from_millis(50);
/// An answer is waited for no longer.
const DEADLINE: Duration = Duration::from_secs(10);
/// The first wait after a failure, and the longest.
pub(super) const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(60));
/// Kubernetes takes no longer note.
const MAX_NOTE: usize = 1_024;
/// Who says it.
pub(super) const COMPONENT: &str = "mintmark-server";

/// A word to a cluster.
#[derive(Clone, Debug, PartialEq)]
pub enum Write {
    /// Something is so with an object. Told once for each object and reason.
    Event(Event),
    /// Something happened to an object, and may happen again. Told each time.
    News(Event),
    /// What became of an object that says who gets which identity.
    Status {
        /// Its kind.
        kind: ObjectKind,
        /// Its namespace; empty for what has none.
        namespace: Arc<str>,
        /// Its name.
        name: Arc<str>,
        /// The status, whole.
        status: Value,
    },
    /// The trust bundle is to be in a place.
    Bundle(Placed),
}

/// What is to be read of an object.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// To which.
    pub about: About,
    /// Whether somebody should do something about it.
    pub is_warning: bool,
    /// `IdentityRefused`.
    pub reason: &'static str,
    /// For people; cut to 1024 bytes.
    pub note: String,
}

/// The object of an [`Event`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct About {
    /// `Pod` or `Node`.
    pub kind: &'static str,
    /// Its namespace; empty for what has none.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
    /// Its UID.
    pub uid: Uid,
}

impl From<&Pod> for About {
    fn from(pod: &Pod) -> Self {
        Self {
            kind: "Pod",
            namespace: Arc::clone(&pod.meta.namespace),
            name: Arc::clone(&pod.meta.name),
            uid: pod.meta.uid,
        }
    }
}

impl From<&Node> for About {
    fn from(node: &Node) -> Self {
        Self {
            kind: "Node",
            namespace: Arc::clone(&node.meta.namespace),
            name: Arc::clone(&node.meta.name),
            uid: node.meta.uid,
        }
    }
}

/// On what a word is.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Topic {
    Event(Uid, &'static str),
    News(Uid, &'static str),
    Status(ObjectKind, Arc<str>, Arc<str>),
    Bundle(Place),
}

impl Write {
    fn topic(&self) -> Topic {
        match self {
            Self::Event(event) => Topic::Event(event.about.uid, event.reason),
            Self::News(event) => Topic::News(event.about.uid, event.reason),
            Self::Status {
                kind, namespace, name, ..
            } => Topic::Status(*kind, Arc::clone(namespace), Arc::clone(name)),
            Self::Bundle(placed) => Topic::Bundle(placed.place().clone()),
        }
    }
}

#[derive(Default)]
struct Queue {
    /// In the order in which they came.
    order: VecDeque<Topic>,
    words: HashMap<Topic, Write>,
    told: HashSet<Topic>,
    /// What was refused and is said again.
    later: HashMap<Topic, Later>,
}

struct Later {
    backoff: Backoff,
    /// When its turn comes; none when it has come.
    due: Option<Instant>,
}

/// The queue of one cluster.
pub(super) struct Writer {
    cluster: String,
    client: Client,
    clock: Clock,
    metrics: RollMetrics,
    queue: Mutex<Queue>,
    wake: Notify,
}

enum Sent {
    Done,
    /// It will never be taken.
    Refused(String),
    /// It may be taken later.
    Failed(String),
}

impl Writer {
    pub(super) fn new(cluster: &str, client: Client, clock: Clock, metrics: RollMetrics) -> Self {
        Self {
            cluster: cluster.to_owned(),
            client,
            clock,
            metrics,
            queue: Mutex::default(),
            wake: Notify::new(),
        }
    }

    /// Takes a word. It does not wait.
    pub(super) fn tell(&self, write: Write) {
        let topic = write.topic();
        let mut queue = self.queue();
        if queue.told.contains(&topic) {
            return;
        }
        if !queue.words.contains_key(&topic) {
            if queue.words.len() >= MAX_WAITING {
                drop(queue);
                self.metrics.wrote(&self.cluster, "dropped");
                return;
            }
            queue.order.push_back(topic.clone());
        }
        queue.words.insert(topic, write);
        drop(queue);
        self.wake.notify_one();
    }

    /// Says what is to be said.
    pub(super) async fn run(&self) -> Infallible {
        let mut backoff = Backoff::new(RETRY.0, RETRY.1);
        loop {
            let Some((topic, write)) = self.next() else {
                self.something_to_say().await;
                continue;
            };
            let sent = self.clock.timeout(DEADLINE, self.send(&write)).await;
            let sent = sent.unwrap_or_else(|late| Sent::Failed(late.to_string()));
            let wait = match sent {
                Sent::Done => {
                    self.metrics.wrote(&self.cluster, "ok");
                    self.note(topic);
                    backoff.reset();
                    PACE
                }
                Sent::Refused(why) if matches!(write, Write::Bundle(_)) => {
                    self.metrics.wrote(&self.cluster, "refused");
                    self.put_off(topic, write, &why);
                    backoff.reset();
                    PACE
                }
                Sent::Refused(why) => {
                    self.metrics.wrote(&self.cluster, "refused");
                    tracing::warn!(
                        cluster = self.cluster,
                        ?write,
                        why,
                        "Kubernetes does not take what it is told"
                    );
                    backoff.reset();
                    PACE
                }
                Sent::Failed(why) => {
                    self.metrics.wrote(&self.cluster, "failed");
                    tracing::debug!(
                        cluster = self.cluster,
                        ?write,
                        why,
                        "Kubernetes cannot be told; again later"
                    );
                    self.put_back(topic, write);
                    backoff.next_wait()
                }
            };
            self.clock.sleep(wait).await;
        }
    }

    fn next(&self) -> Option<(Topic, Write)> {
        let mut guard = self.queue();
        let queue = &mut *guard;
        let now = self.clock.instant();
        for (topic, later) in &mut queue.later {
            if later.due.is_some_and(|due| due <= now) {
                later.due = None;
                queue.order.push_back(topic.clone());
            }
        }
        while let Some(topic) = queue.order.pop_front() {
            let write = queue.words.remove(&topic);
            // An Event may have been said again while it was being sent.
            if let Some(write) = write.filter(|_| !queue.told.contains(&topic)) {
                return Some((topic, write));
            }
        }
        None
    }

    /// Waits until somebody has something to say, or the turn of what was refused comes.
    async fn something_to_say(&self) {
        let next = {
            let queue = self.queue();
            queue.later.values().filter_map(|later| later.due).min()
        };
        match next {
            None => self.wake.notified().await,
            Some(due) => {
                let wait = due.saturating_duration_since(self.clock.instant());
                tokio::select! {
                    () = self.wake.notified() => {}
                    () = self.clock.sleep(wait) => {}
                }
            }
        }
    }

    /// An Event that was told is not told again.
    fn note(&self, topic: Topic) {
        if self.queue().later.remove(&topic).is_some() {
            tracing::info!(cluster = self.cluster, "Kubernetes has taken what it had refused");
        }
        if matches!(topic, Topic::Event(..)) {
            let mut queue = self.queue();
            if queue.told.len() >= MAX_TOLD {
                queue.told.clear();
            }
            queue.told.insert(topic);
        }
    }

    /// Unless something newer was said meanwhile. Behind the others, so that an object whose status can never be written does not keep them waiting.
    fn put_back(&self, topic: Topic, write: Write) {
        let mut queue = self.queue();
        if !queue.words.contains_key(&topic) {
            queue.order.push_back(topic.clone());
            queue.words.insert(topic, write);
        }
    }

    /// Until its turn comes again, unless something newer was said meanwhile, which is said at once. Others do not wait for it.
    fn put_off(&self, topic: Topic, write: Write, why: &str) {
        let what = match &write {
            Write::Bundle(placed) => placed.to_string(),
            other => format!("{other:?}"),
        };
        let mut queue = self.queue();
        let is_newer = queue.words.contains_key(&topic);
        let later = queue.later.entry(topic.clone()).or_insert_with(|| Later {
            backoff: Backoff::new(RETRY.0, RETRY.1),
            due: None,
        });
        let is_first = later.backoff.failures() == 0;
        let wait = later.backoff.next_wait();
        if !is_newer {
            later.due = Some(self.clock.instant() + wait);
            queue.words.insert(topic, write);
        }
        drop(queue);
        let cluster = &self.cluster;
        match is_first {
            true => tracing::warn!(cluster, what, why, "the trust bundle cannot be published; again later"),
            false => tracing::debug!(cluster, what, why, ?wait, "the trust bundle still cannot be published"),
        }
    }

    async fn send(&self, write: &Write) -> Sent {
        let (request, body) = match write {
            Write::Event(event) | Write::News(event) => self.event(event),
            Write::Status {
                kind,
                namespace,
                name,
                status,
            } => {
                let scope = match &**namespace {
                    "" => String::new(),
                    namespace => format!("/namespaces/{namespace}"),
                };
                let (group, plural) = (kind.group(), kind.plural());
                let path = format!("/apis/{group}/v1alpha1{scope}/{plural}/{name}/status?fieldManager={COMPONENT}");
                let request = http::Request::patch(path);
                let request = request.header(http::header::CONTENT_TYPE, "application/merge-patch+json");
                (request, json!({ "status": status }))
            }
            Write::Bundle(placed) => placed.request(),
        };
        let request = request.body(Body::from(body.to_string().into_bytes()));
        let request = match request {
            Ok(request) => request,
            Err(error) => return Sent::Refused(error.to_string()),
        };
        match self.client.send(request).await {
            Err(error) => Sent::Failed(in_full(&error)),
            Ok(response) => match response.status().as_u16() {
                200..=299 => Sent::Done,
                // A conflict over this one object says nothing of others.
                409 if matches!(write, Write::Bundle(_)) => Sent::Refused(answered(response).await),
                408 | 409 | 429 | 500.. => Sent::Failed(answered(response).await),
                _ => Sent::Refused(answered(response).await),
            },
        }
    }

    fn event(&self, event: &Event) -> (http::request::Builder, Value) {
        let About {
            kind,
            namespace,
            name,
            uid,
        } = &event.about;
        // Events of what has no namespace are kept in this one.
        let home = if namespace.is_empty() { "default" } else { namespace };
        let now = OffsetDateTime::from_unix_timestamp(self.clock.unix()).ok();
        let now = now.and_then(|now| now.format(&Rfc3339).ok());
        let end = (0..=event.note.len().min(MAX_NOTE)).rev();
        let end = end.into_iter().find(|end| event.note.is_char_boundary(*end));
        let body = json!({
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"generateName": "mintmark-", "namespace": home},
            "involvedObject": {"apiVersion": "v1", "kind": kind, "namespace": &**namespace, "name": &**name, "uid": uid.to_string()},
            "type": if event.is_warning { "Warning" } else { "Normal" },
            "reason": event.reason,
            "message": event.note[..end.unwrap_or_default()],
            "source": {"component": COMPONENT},
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        });
        let request = http::Request::post(format!("/api/v1/namespaces/{home}/events"));
        (request.header(http::header::CONTENT_TYPE, "application/json"), body)
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        // A word whose place in the order is lost is never said, and no more than that.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An answer in words, with what the API server says to it.
async fn answered(response: http::Response<Body>) -> String {
    let code = response.status().as_u16();
    let body = response.into_body().collect_bytes().await.unwrap_or_default();
    let said = serde_json::from_slice::<Value>(&body).ok();
    match said.as_ref().and_then(|status| status["message"].as_str()) {
        Some(message) => format!("it answered {code}: {message}"),
        None => format!("it answered {code}"),
    }
}
