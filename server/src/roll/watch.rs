//! One kind of things of one cluster, listed and then followed, for as long as the server runs.
//!
//! ```text
//!          ┌──────────── too old to go on (410) ───────────┐
//!          ▼                                               │
//! list (one stream, or pages where the server has none) ─► follow ◄─┐
//!                                                          │  ended or failed: from the same version on
//!                                                          └────────┘
//! ```
//! Written on kube's requests and not on its watcher, for three things: a new listing is never older than what was seen (`resourceVersion` with `NotOlderThan`), so that of several API servers
//! a slow one cannot bring a deleted pod back; bookmarks are signs of life that the metrics show; and the clock is ours.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::TryStreamExt as _;
use kube::Client;
use kube::core::params::{ListParams, WatchParams};
use kube::core::{Request, Status, WatchEvent};
use mintmark_runtime::clock::Clock;
use mintmark_runtime::task::Backoff;

use super::Inner;
use super::index::{Effect, Index, Kind};
use super::kept::Kept;
use super::metrics::KindMetrics;
use super::wire;

/// How long the API server may take to begin its answer.
const START: Duration = Duration::from_secs(60);
/// It sends a bookmark each minute; a watch that says nothing for so long is dead.
const SILENCE: Duration = Duration::from_secs(150);
/// It ends a watch after so many seconds, so that watches spread over its replicas.
const LIFE: u32 = 600;
/// Objects on a page.
const PAGE: u32 = 500;
/// The first wait after a failure, and the longest.
const RETRY: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(30));
/// A watch that ends sooner than this has failed, however politely.
const TOO_SOON: Duration = Duration::from_secs(1);

/// Where the things are.
pub(super) struct Source {
    /// As in metrics and in the log: `pods`.
    pub(super) name: &'static str,
    /// `/api/v1/pods`.
    pub(super) path: String,
    /// Only their metadata is asked for.
    pub(super) is_metadata: bool,
    /// Only the thing of this name is.
    pub(super) only: Option<String>,
}

/// How the watch of one kind is.
pub(super) struct Standing {
    pub(super) name: &'static str,
    synced: AtomicBool,
    state: Mutex<State>,
}

struct State {
    /// When the API server was last heard of.
    heard: Instant,
    /// Why it is not heard of now.
    failing: Option<String>,
}

/// The watch of one kind in one cluster.
pub(super) struct Watch<K> {
    pub(super) kind: K,
    pub(super) source: Source,
    pub(super) client: Client,
    pub(super) clock: Clock,
    pub(super) cluster: Arc<Inner>,
    pub(super) standing: Arc<Standing>,
    pub(super) metrics: KindMetrics,
}

/// How far a watch is.
struct At {
    /// The newest version up to which the index is known to be complete; empty at first.
    version: String,
    /// Whether one may go on from there.
    is_complete: bool,
    /// Whether lists come as a stream.
    is_streaming: bool,
    /// Something came since this was last set to false.
    has_moved: bool,
    /// With which wishes of the reader everything is read.
    reading: u64,
}

/// Why a turn ended that should not have.
enum Fault {
    /// The version is too old: everything must be listed anew.
    Gone,
    /// The version is newer than the server's: it was restored from a backup.
    Ahead,
    /// The server does not stream lists.
    NoStreams,
    /// The reader wants more of what was read.
    Again,
    Failed(String),
}

impl Fault {
    fn of_status(status: &Status) -> Self {
        let says = |words: &str| status.message.contains(words);
        match status.code {
            410 => Self::Gone,
            _ if says("Too large resource version") => Self::Ahead,
            400 | 403 | 422 if says("sendInitialEvents") => Self::NoStreams,
            code => Self::Failed(format!("{code} {}: {}", status.reason, status.message)),
        }
    }

    fn of(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => Self::of_status(&status),
            error => Self::Failed(in_full(&error)),
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Gone => "gone",
            Self::Ahead => "ahead",
            Self::NoStreams => "no_streams",
            Self::Again => "again",
            Self::Failed(_) => "failed",
        }
    }
}

impl Source {
    fn fields(&self) -> Option<String> {
        self.only.as_ref().map(|name| format!("metadata.name={name}"))
    }
}

impl Standing {
    pub(super) fn new(name: &'static str, clock: &Clock) -> Self {
        Self {
            name,
            synced: AtomicBool::new(false),
            state: Mutex::new(State {
                heard: clock.instant(),
                failing: None,
            }),
        }
    }

    /// Whether everything was listed once.
    pub(super) fn is_synced(&self) -> bool {
        self.synced.load(Ordering::Acquire)
    }

    /// There is nothing to list.
    pub(super) fn set_synced(&self) {
        self.synced.store(true, Ordering::Release);
    }

    pub(super) fn failing(&self) -> Option<String> {
        self.state().failing.clone()
    }

    pub(super) fn silent_for(&self, clock: &Clock) -> Duration {
        clock.instant().saturating_duration_since(self.state().heard)
    }

    /// The API server was heard of; gives whether it had not been before.
    fn heard(&self, clock: &Clock) -> bool {
        let mut state = self.state();
        state.heard = clock.instant();
        state.failing.take().is_some()
    }

    /// It was not; gives whether that is news.
    fn failed(&self, why: &str) -> bool {
        self.state().failing.replace(why.to_owned()).is_none()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Changed by single assignments only.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Kind> Watch<K> {
    /// Lists and follows.
    pub(super) async fn keep(&self) -> Infallible {
        let mut backoff = Backoff::new(RETRY.0, RETRY.1);
        let mut at = At {
            version: String::new(),
            is_complete: false,
            is_streaming: true,
            has_moved: false,
            reading: *self.cluster.again.borrow(),
        };
        loop {
            let began = self.clock.instant();
            at.has_moved = false;
            let turn = match (at.is_complete, at.is_streaming) {
                (true, _) | (false, true) => self.stream(&mut at).await.map(|()| true),
                (false, false) => self.pages(&mut at).await.map(|()| false),
            };
            let lasted = self.clock.instant().saturating_duration_since(began);
            if at.has_moved {
                backoff.reset();
            }
            match turn {
                Ok(has_ended) => {
                    if has_ended {
                        self.metrics.restarted("ended");
                    }
                    if !has_ended || lasted >= TOO_SOON {
                        continue;
                    }
                }
                Err(fault) => {
                    self.metrics.restarted(fault.reason());
                    match fault {
                        Fault::NoStreams => {
                            at.is_streaming = false;
                            continue;
                        }
                        Fault::Again => {
                            at.is_complete = false;
                            at.reading = *self.cluster.again.borrow();
                            continue;
                        }
                        Fault::Gone => at.is_complete = false,
                        Fault::Ahead => (at.is_complete, at.version) = (false, String::new()),
                        Fault::Failed(why) => self.note(&why),
                    }
                }
            }
            self.clock.sleep(backoff.next_wait()).await;
        }
    }

    /// Forgets all things of this kind: there are none any more.
    pub(super) fn clear(&self) {
        self.apply(|index, effect| {
            self.kind.begin(index);
            self.kind.end(index, effect);
        });
        self.standing.heard(&self.clock);
    }

    /// Follows from the version that the index has come to or, where it has to be listed first, lists and follows; until the stream ends.
    async fn stream(&self, at: &mut At) -> Result<(), Fault> {
        let params = WatchParams {
            timeout: Some(LIFE),
            bookmarks: true,
            send_initial_events: !at.is_complete,
            field_selector: self.source.fields(),
            ..WatchParams::default()
        };
        let request = Request::new(&*self.source.path);
        let request = match self.source.is_metadata {
            true => request.watch_metadata(&params, &at.version),
            false => request.watch(&params, &at.version),
        };
        let request = request.map_err(|error| Fault::Failed(error.to_string()))?;
        let mut again = self.cluster.again.subscribe();
        if K::IS_READ && *again.borrow_and_update() != at.reading {
            // Asked for between two streams.
            return Err(Fault::Again);
        }
        if !at.is_complete {
            self.apply(|index, _| self.kind.begin(index));
        }
        let started = self
            .clock
            .timeout(START, self.client.request_events::<K::Wire>(request));
        let stream = started.await.map_err(late)?.map_err(Fault::of)?;
        // Where nothing changes the first event is a minute away.
        self.answered();
        let mut stream = pin!(stream);
        loop {
            let next = tokio::select! {
                next = self.clock.timeout(SILENCE, stream.try_next()) => next.map_err(late)?,
                Ok(()) = again.changed(), if K::IS_READ => return Err(Fault::Again),
            };
            let event = match next {
                Ok(Some(event)) => event,
                Ok(None) => return Ok(()),
                Err(kube::Error::SerdeError(error)) => {
                    self.metrics.unreadable.inc();
                    tracing::error!(cluster = %self.cluster.name, kind = self.source.name, %error, "an event of Kubernetes cannot be read and is left out");
                    continue;
                }
                Err(error) => return Err(Fault::of(error)),
            };
            let version = match event {
                WatchEvent::Added(wire) | WatchEvent::Modified(wire) => {
                    let version = K::meta(&wire).resource_version.clone();
                    self.put(wire);
                    version
                }
                WatchEvent::Deleted(wire) => {
                    let version = K::meta(&wire).resource_version.clone();
                    self.apply(|index, effect| self.kind.delete(index, wire, effect));
                    version
                }
                WatchEvent::Bookmark(bookmark) => {
                    if !at.is_complete && bookmark.metadata.annotations.contains_key("k8s.io/initial-events-end") {
                        self.complete(at);
                    }
                    bookmark.metadata.resource_version
                }
                WatchEvent::Error(status) => return Err(Fault::of_status(&status)),
            };
            self.heard(at);
            if at.is_complete && !version.is_empty() {
                at.version = version;
            }
        }
    }

    /// Lists by pages; what is listed is as new as it can be.
    async fn pages(&self, at: &mut At) -> Result<(), Fault> {
        self.apply(|index, _| self.kind.begin(index));
        let mut params = ListParams {
            field_selector: self.source.fields(),
            ..ListParams::default().limit(PAGE)
        };
        loop {
            let request = Request::new(&*self.source.path);
            let request = match self.source.is_metadata {
                true => request.list_metadata(&params),
                false => request.list(&params),
            };
            let request = request.map_err(|error| Fault::Failed(error.to_string()))?;
            let page = self
                .clock
                .timeout(START, self.client.request::<wire::List<K::Wire>>(request));
            let page = page.await.map_err(late)?.map_err(Fault::of)?;
            for wire in page.items.unwrap_or_default() {
                self.put(wire);
            }
            self.heard(at);
            if page.metadata.next.is_empty() {
                at.version = page.metadata.resource_version;
                self.complete(at);
                return Ok(());
            }
            params.continue_token = Some(page.metadata.next);
        }
    }

    fn put(&self, wire: K::Wire) {
        let kept = self.read(&wire);
        self.apply(|index, effect| {
            let meta = K::meta(&wire);
            let (namespace, name) = (meta.namespace.clone(), meta.name.clone());
            if let Err(error) = self.kind.put(index, wire, kept, effect) {
                self.metrics.unreadable.inc();
                tracing::error!(cluster = %self.cluster.name, kind = self.source.name, namespace, name, %error, "an object of Kubernetes is left out");
            }
        });
    }

    /// What the reader keeps of it. That something cannot be read does not hide that it exists.
    fn read(&self, wire: &K::Wire) -> Option<Kept> {
        let reader = self.cluster.reader.as_deref()?;
        match K::read(reader, &self.cluster.name, wire)? {
            Ok(kept) => Some(kept),
            Err(error) => {
                let (cluster, kind, name) = (&self.cluster.name, self.source.name, &K::meta(wire).name);
                self.metrics.unreadable.inc();
                tracing::error!(%cluster, kind, name, error, "an object of Kubernetes cannot be read in full");
                None
            }
        }
    }

    /// Everything is listed.
    fn complete(&self, at: &mut At) {
        self.apply(|index, effect| self.kind.end(index, effect));
        at.is_complete = true;
        if !self.standing.synced.swap(true, Ordering::AcqRel) {
            let objects = self.cluster.read(|index| self.kind.count(index));
            tracing::info!(cluster = %self.cluster.name, kind = self.source.name, objects, "listed");
            self.cluster.moved();
        }
    }

    fn apply(&self, change: impl FnOnce(&mut Index, &mut Effect)) {
        let mut effect = Effect::default();
        let count = self.cluster.write(|index| {
            change(index, &mut effect);
            self.kind.count(index)
        });
        self.metrics.objects.set(i64::try_from(count).unwrap_or(i64::MAX));
        self.cluster.publish(&effect);
    }

    fn heard(&self, at: &mut At) {
        at.has_moved = true;
        self.answered();
    }

    fn answered(&self) {
        if self.standing.heard(&self.clock) {
            tracing::info!(cluster = %self.cluster.name, kind = self.source.name, "Kubernetes is heard of again");
        }
    }

    fn note(&self, why: &str) {
        let (cluster, kind) = (&self.cluster.name, self.source.name);
        if self.standing.failed(why) {
            tracing::warn!(%cluster, kind, why, "Kubernetes cannot be watched; what is known stays as it is meanwhile");
            self.cluster.moved();
        } else {
            tracing::debug!(%cluster, kind, why, "Kubernetes still cannot be watched");
        }
    }
}

fn late(late: mintmark_runtime::clock::TimedOut) -> Fault {
    Fault::Failed(format!("nothing came within {:?}", late.0))
}

/// An error with all its causes.
pub(super) fn in_full(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}
