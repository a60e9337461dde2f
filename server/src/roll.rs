//! What exists? The roll call of each Kubernetes cluster, in memory.
//!
//! In: watches of pods, nodes, namespaces, service accounts, EndpointSlices and of the objects that say who gets which identity. Out: what there is, by UID, at once
//! ([`Cluster`]); what changes, by push ([`Roll::subscribe`]); and the API server's word on a token ([`Cluster::review`]). It also writes, what others give it to write: Events, statuses, the trust bundle. What rules need beyond that, a [`Reader`] keeps beside each object. `attest` asks it whether a witness's word agrees with what exists, `registry`
//! who is there to be given an identity.
//!
//! ```text
//! API server ══ watch ══▶ watch ─▶ trim ─▶ index ─▶ feed ─▶ who listens
//!            ◀═ TokenReview ═ review ◀─ attest
//!            ◀═ Events, status ═ write ◀─ one queue, with a bound
//!            ◀═ trust bundle ═══════╝ ◀─ publish ◀─ trust
//! ```
//!
//! This is the only room that has a Kubernetes client.

mod client;
mod facts;
mod feed;
mod index;
mod intern;
mod kept;
mod metrics;
mod mounts;
mod publish;
mod review;
mod trim;
mod watch;
mod wire;
mod write;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use kube::Client;
use mintmark_runtime::clock::Clock;
use mintmark_runtime::metrics::Metrics;
use mintmark_runtime::task::Supervisor;
use tokio::sync::watch as channel;

pub use facts::{
    Container, Meta, Namespace, Node, Object, ObjectKind, Owner, Pairs, Phase, Pod, PodKey, Role, ServiceAccount,
    Subject, Uid, UidError,
};
pub use feed::{Dirty, Pods, RollFeed};
pub use kept::{Kept, Reader};
pub use mounts::{Mounting, MountingError, mounting};
pub use publish::{BundleText, Placed, Publishing};
pub use review::{Bound, MAX_TOKEN, ReviewError, Reviewed};
pub use write::{About, Event, Write};

use feed::Feeds;
use index::{Accounts, Definitions, Effect, Index, Kind, Namespaces, Nodes, Slices};
use metrics::{Ages, RollMetrics};
use publish::Keeper;
use review::Reviewer;
use watch::{Source, Standing, Watch};
use write::Writer;

/// A cluster to watch.
#[derive(Clone, Debug)]
pub struct ClusterSettings {
    /// Its name, as it stands in its nodes' SPIFFE IDs.
    pub name: String,
    /// How its API server is reached; as a pod of it when there is none.
    pub kubeconfig: Option<PathBuf>,
    /// The domain of its services' names.
    pub domain: String,
    /// Where the trust bundle is published.
    pub publish: Publishing,
}

/// Why a cluster cannot be watched. That its API server does not answer is no reason.
#[derive(Debug, thiserror::Error)]
pub enum RollError {
    /// There is nothing to call it with.
    #[error(
        "cannot make a client for the API server of cluster {cluster:?} from {from}: {why}; see kubernetes.clusters.{cluster}.kubeconfig"
    )]
    Client {
        /// The cluster.
        cluster: String,
        /// The kubeconfig.
        from: String,
        /// What is wrong.
        why: String,
    },
}

/// All clusters. A handle.
#[derive(Clone, Default)]
pub struct Roll {
    clusters: Arc<BTreeMap<Arc<str>, Cluster>>,
    feeds: Feeds,
}

/// One cluster. A handle.
#[derive(Clone)]
pub struct Cluster(Arc<Inner>);

struct Inner {
    name: Arc<str>,
    domain: Arc<str>,
    clock: Clock,
    index: RwLock<Index>,
    /// Grows with each change, for whoever waits for one.
    version: channel::Sender<u64>,
    feeds: Feeds,
    reader: Option<Arc<dyn Reader>>,
    /// Grows when the reader wants more of what was read.
    again: channel::Sender<u64>,
    standings: Vec<Arc<Standing>>,
    reviewer: Reviewer,
    writer: Writer,
    /// The trust bundle, once it is known.
    bundle: channel::Sender<Option<Arc<BundleText>>>,
}

/// A watch that fails is told, with the reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failing {
    /// What is watched, `pods`.
    pub kind: &'static str,
    /// Why it is not.
    pub why: String,
}

impl Roll {
    /// Begins to watch the clusters, under `supervisor`, with `reader` to keep what it needs of pods, nodes and namespaces. It does not wait for them: see
    /// [`Roll::not_synced`].
    ///
    /// # Errors
    /// When a cluster's API server cannot be called, because of what is configured.
    pub async fn start(
        settings: Vec<ClusterSettings>,
        reader: Option<Arc<dyn Reader>>,
        clock: &Clock,
        metrics: &Metrics,
        supervisor: &Supervisor,
    ) -> Result<Self, RollError> {
        if settings.is_empty() {
            return Ok(Self::default());
        }
        let feeds = Feeds::default();
        let numbers = RollMetrics::register(metrics);
        let mut clusters = BTreeMap::new();
        for settings in settings {
            let client = client::connect(&settings).await?;
            let cluster = Cluster::start(&settings, client, reader.clone(), clock, &numbers, &feeds, supervisor);
            clusters.insert(Arc::clone(&cluster.0.name), cluster);
        }
        let all = clusters.values().cloned().collect();
        metrics.with_registry(|registry| registry.register_collector(Box::new(Ages(all))));
        Ok(Self {
            clusters: Arc::new(clusters),
            feeds,
        })
    }

    /// The cluster of this name.
    pub fn cluster(&self, name: &str) -> Option<&Cluster> {
        self.clusters.get(name)
    }

    /// All of them, by name.
    pub fn clusters(&self) -> impl Iterator<Item = &Cluster> {
        self.clusters.values()
    }

    /// From now on, what changes. At first everything is new.
    pub fn subscribe(&self) -> RollFeed {
        self.feeds.add()
    }

    /// The trust bundle, for every place in which it is published; from now on it is kept there, until there is another.
    pub fn publish(&self, bundle: BundleText) {
        let bundle = Arc::new(bundle);
        for cluster in self.clusters() {
            let known = &cluster.0.bundle;
            known.send_if_modified(|known| {
                let is_new = known.as_ref() != Some(&bundle);
                *known = Some(Arc::clone(&bundle));
                is_new
            });
        }
    }

    /// A pod with all that decides which identities it has, if it exists.
    pub fn subject(&self, key: &PodKey) -> Option<Subject> {
        self.cluster(&key.cluster)?.subject(key.uid)
    }

    /// What was not yet listed once, in words; nothing when the whole roll is known.
    pub fn not_synced(&self) -> Option<String> {
        let missing = self.clusters().filter_map(|cluster| {
            let inner = &cluster.0;
            let open = inner.standings.iter().filter(|standing| !standing.is_synced());
            let open: Vec<_> = open
                .map(|standing| match standing.failing() {
                    Some(why) => format!("{} ({why})", standing.name),
                    None => standing.name.to_owned(),
                })
                .collect();
            (!open.is_empty()).then(|| format!("cluster {} is not listed yet: {}", inner.name, open.join(", ")))
        });
        Some(missing.collect::<Vec<_>>().join("; ")).filter(|text| !text.is_empty())
    }
}

impl Cluster {
    fn start(
        settings: &ClusterSettings,
        client: Client,
        reader: Option<Arc<dyn Reader>>,
        clock: &Clock,
        metrics: &RollMetrics,
        feeds: &Feeds,
        supervisor: &Supervisor,
    ) -> Self {
        let names = KINDS.into_iter().chain(ObjectKind::ALL.map(ObjectKind::plural));
        let standings: Vec<_> = names.map(|name| Arc::new(Standing::new(name, clock))).collect();
        let inner = Arc::new(Inner {
            name: settings.name.as_str().into(),
            domain: settings.domain.as_str().into(),
            clock: clock.clone(),
            index: RwLock::default(),
            version: channel::Sender::new(0),
            feeds: feeds.clone(),
            reader,
            again: channel::Sender::new(0),
            standings,
            reviewer: Reviewer::new(&settings.name, client.clone(), clock.clone(), metrics.clone()),
            writer: Writer::new(&settings.name, client.clone(), clock.clone(), metrics.clone()),
            bundle: channel::Sender::new(None),
        });
        metrics.begin(&settings.name);
        let tasks = Tasks {
            inner: &inner,
            client: &client,
            metrics,
            supervisor,
        };
        let plain = |path: &str| (path.to_owned(), false);
        let metadata = |path: &str| (path.to_owned(), true);
        tasks.watch(index::Pods, PODS, plain("/api/v1/pods"));
        tasks.watch(Nodes, NODES, plain("/api/v1/nodes"));
        tasks.watch(Namespaces, NAMESPACES, metadata("/api/v1/namespaces"));
        tasks.watch(Accounts, ACCOUNTS, metadata("/api/v1/serviceaccounts"));
        tasks.watch(Slices, SLICES, plain("/apis/discovery.k8s.io/v1/endpointslices"));
        let definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
        tasks.watch(Definitions, DEFINITIONS, metadata(definitions));
        for kind in ObjectKind::ALL {
            tasks.watch_defined(kind);
        }
        let told = Arc::clone(&inner);
        tasks.spawn("writes", async move { match told.writer.run().await {} });
        // A kubeconfig's namespace is for people.
        let own = settings.kubeconfig.is_none().then(|| client.default_namespace());
        for place in publish::places(&settings.publish, own) {
            let keeper = Keeper {
                place,
                cluster: Arc::clone(&inner),
                client: client.clone(),
                metrics: metrics.clone(),
            };
            tasks.spawn("bundle", async move { match keeper.run().await {} });
        }
        Self(inner)
    }

    /// Its name in the configuration and in its nodes' SPIFFE IDs.
    pub fn name(&self) -> &Arc<str> {
        &self.0.name
    }

    /// The domain of its services' names.
    pub fn domain(&self) -> &Arc<str> {
        &self.0.domain
    }

    /// The pod of this UID.
    pub fn pod(&self, uid: Uid) -> Option<Arc<Pod>> {
        self.0.read(|index| index.pods.get(&uid).cloned())
    }

    /// The pod of this UID, for which is waited: others may have heard of a new one a moment earlier. While the cluster is not listed yet, nobody waits.
    pub async fn pod_within(&self, uid: Uid, limit: Duration) -> Option<Arc<Pod>> {
        if !self.is_synced() {
            return self.pod(uid);
        }
        let known = self.0.until(|index| index.pods.get(&uid).is_some());
        let _ = self.0.clock.timeout(limit, known).await;
        self.pod(uid)
    }

    /// As [`Cluster::pod_within`], and waits until the pod is bound to a node that is known too; the kubelet acts on a binding as soon as it hears of it. A pod that is not is given as it is at last.
    pub async fn placed_within(&self, uid: Uid, limit: Duration) -> Option<Arc<Pod>> {
        if !self.is_synced() {
            return self.pod(uid);
        }
        let is_placed = |index: &Index| {
            let pod = index.pods.get(&uid);
            pod.is_some_and(|pod| index.nodes.get(&pod.node).is_some())
        };
        let _ = self.0.clock.timeout(limit, self.0.until(is_placed)).await;
        self.pod(uid)
    }

    /// The pods of this name: one, or for a moment the one that goes and the one that comes.
    pub fn pods_named(&self, namespace: &str, name: &str) -> Vec<Arc<Pod>> {
        self.0.read(|index| index.pods_named(namespace, name))
    }

    /// The pods that are bound to this node.
    pub fn pods_on(&self, node: &str) -> Vec<Arc<Pod>> {
        self.0.read(|index| index.pods_on(node))
    }

    /// All pods.
    pub fn pods(&self) -> Vec<Arc<Pod>> {
        self.0.read(|index| index.pods.values().cloned().collect())
    }

    /// The node of this name.
    pub fn node(&self, name: &str) -> Option<Arc<Node>> {
        self.0.read(|index| index.nodes.get(name).cloned())
    }

    /// The namespace of this name.
    pub fn namespace(&self, name: &str) -> Option<Arc<Namespace>> {
        self.0.read(|index| index.namespaces.get(name).cloned())
    }

    /// All namespaces.
    pub fn namespaces(&self) -> Vec<Arc<Namespace>> {
        self.0.read(|index| index.namespaces.values().cloned().collect())
    }

    /// The service account of this name.
    pub fn service_account(&self, namespace: &str, name: &str) -> Option<Arc<ServiceAccount>> {
        let key: index::Name = (namespace.into(), name.into());
        self.0.read(|index| index.accounts.get(&key).cloned())
    }

    /// The objects of this kind, in the order of their namespaces and names.
    pub fn objects(&self, kind: ObjectKind) -> Vec<Arc<Object>> {
        let all = |index: &Index| index.objects[kind as usize].values().cloned().collect();
        let mut objects: Vec<Arc<Object>> = self.0.read(all);
        objects.sort_by(|a, b| (&a.meta.namespace, &a.meta.name).cmp(&(&b.meta.namespace, &b.meta.name)));
        objects
    }

    /// A pod with all that decides which identities it has, if it exists.
    pub fn subject(&self, uid: Uid) -> Option<Subject> {
        self.0.read(|index| {
            let pod = Arc::clone(index.pods.get(&uid)?);
            Some(Subject {
                cluster: Arc::clone(&self.0.name),
                cluster_domain: Arc::clone(&self.0.domain),
                namespace: index.namespaces.get(&pod.meta.namespace).cloned(),
                node: index.nodes.get(&pod.node).cloned(),
                services: index.services_of(uid),
                pod,
            })
        })
    }

    /// Whether everything was listed once.
    pub fn is_synced(&self) -> bool {
        self.0.standings.iter().all(|standing| standing.is_synced())
    }

    /// Waits until everything was listed once.
    pub async fn synced(&self) {
        self.0.until(|_| self.is_synced()).await;
    }

    /// Tells the cluster something, soon; the latest word on a thing takes the place of an earlier one that still waits. When too many wait it is dropped, and counted.
    pub fn tell(&self, write: Write) {
        self.0.writer.tell(write);
    }

    /// Has pods, nodes and namespaces read anew, because the reader wants more of them than when they came. Nobody disappears meanwhile.
    pub fn read_again(&self) {
        self.0.again.send_modify(|again| *again += 1);
    }

    /// The watches that there are: none of what is not defined.
    fn watched(&self) -> Vec<&Standing> {
        let is_undefined = |index: &Index, name| {
            let mut kinds = ObjectKind::ALL.into_iter();
            kinds.any(|kind| kind.plural() == name && !index.is_defined(kind))
        };
        let standings = self.0.standings.iter().map(|standing| &**standing);
        self.0.read(|index| {
            standings
                .filter(|standing| !is_undefined(index, standing.name))
                .collect()
        })
    }

    /// What cannot be watched now.
    pub fn failing(&self) -> Vec<Failing> {
        let failing = self.0.standings.iter().filter_map(|standing| {
            let kind = standing.name;
            standing.failing().map(|why| Failing { kind, why })
        });
        failing.collect()
    }

    /// Whose token this is, if it is one for any of `audiences`; by the API server's word, or what it said of the same token within the last minute.
    ///
    /// # Errors
    /// When it is not, or the API server does not say.
    pub async fn review(&self, token: &str, audiences: &[String]) -> Result<Arc<Reviewed>, ReviewError> {
        self.0.reviewer.review(token, audiences).await
    }
}

const PODS: &str = "pods";
const NODES: &str = "nodes";
const NAMESPACES: &str = "namespaces";
const ACCOUNTS: &str = "serviceaccounts";
const SLICES: &str = "endpointslices";
const DEFINITIONS: &str = "customresourcedefinitions";
const KINDS: [&str; 6] = [PODS, NODES, NAMESPACES, ACCOUNTS, SLICES, DEFINITIONS];

struct Tasks<'a> {
    inner: &'a Arc<Inner>,
    client: &'a Client,
    metrics: &'a RollMetrics,
    supervisor: &'a Supervisor,
}

impl Tasks<'_> {
    fn make<K: Kind>(&self, kind: K, name: &'static str, (path, is_metadata): (String, bool)) -> Watch<K> {
        Watch {
            kind,
            source: Source {
                name,
                path,
                is_metadata,
                only: None,
            },
            client: self.client.clone(),
            clock: self.inner.clock.clone(),
            cluster: Arc::clone(self.inner),
            standing: self.inner.standing(name),
            metrics: self.metrics.kind(&self.inner.name, name),
        }
    }

    fn spawn(&self, name: &str, work: impl Future<Output = ()> + Send + 'static) {
        let stop = self.supervisor.token();
        let name = format!("roll-{}-{name}", self.inner.name);
        self.supervisor.spawn_critical(name, async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = work => {}
            }
        });
    }

    fn watch<K: Kind>(&self, kind: K, name: &'static str, source: (String, bool)) {
        let watch = self.make(kind, name, source);
        self.spawn(name, async move { match watch.keep().await {} });
    }

    /// Watches what may be defined, or not, or later.
    fn watch_defined(&self, kind: ObjectKind) {
        let watch = self.make(kind, kind.plural(), (kind.path(), false));
        let definitions = self.inner.standing(DEFINITIONS);
        self.spawn(kind.plural(), async move {
            let cluster = &watch.cluster;
            cluster.until(|_| definitions.is_synced()).await;
            loop {
                if !cluster.read(|index| index.is_defined(kind)) {
                    watch.standing.set_synced();
                    cluster.moved();
                    cluster.until(|index| index.is_defined(kind)).await;
                }
                tokio::select! {
                    never = watch.keep() => match never {},
                    () = cluster.until(|index| !index.is_defined(kind)) => watch.clear(),
                }
            }
        });
    }
}

impl Inner {
    fn standing(&self, name: &str) -> Arc<Standing> {
        let found = self.standings.iter().find(|standing| standing.name == name);
        Arc::clone(found.expect("each kind has one"))
    }

    /// Reads the index, which stands still meanwhile: `read` must be short and must not call back.
    fn read<T>(&self, read: impl FnOnce(&Index) -> T) -> T {
        read(&self.index.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn write<T>(&self, write: impl FnOnce(&mut Index) -> T) -> T {
        write(&mut self.index.write().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits until the index is as `holds` says.
    async fn until(&self, mut holds: impl FnMut(&Index) -> bool) {
        let mut version = self.version.subscribe();
        while !self.read(&mut holds) {
            // The sender lives in `self`, so the channel cannot close while this waits.
            let _ = version.changed().await;
        }
    }

    fn publish(&self, effect: &Effect) {
        self.feeds.publish(&self.name, effect);
        if effect.is_something() {
            self.moved();
        }
    }

    /// Whoever waits shall look again.
    fn moved(&self) {
        self.version.send_modify(|version| *version += 1);
    }
}
