//! The identities of pods as they are now: rules, applied to what the roll knows of each pod, for the pods that two witnesses vouch for.
//!
//! In: what changes on the [`Roll`], and the [`PodEvidence`] that `attest` found ([`PodIdentities::vouch`]). Out: computed entries in the [`Registry`], which its feeds push to the pod's node; who vouches
//! for an entry, for the ledger's leaf ([`PodIdentities::voucher`]); the status of each rule. Every pod is judged, for the status; a pod that nobody vouches for has no entry.
//!
//! ```text
//! roll ── pod, rule ──▶ judge ── vouched? ──▶ registry ═▶ node
//!                         └───── tally ─────▶ status of the rule
//! attest ── evidence ─▶ vouch
//! ```

mod facts;
mod statics;
mod status;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mintmark_identity::SpiffeId;
use mintmark_runtime::clock::Clock;

use super::computed::subject_of;
use super::rules::{
    ClusterStaticEntryStatus, Judged, NamespaceFacts, NodeFacts, PodFacts, RuleKind, RuleName, RuleObject, Rules,
    Settings, Subject, Tally,
};
use super::{Entry, Registry};
use crate::attest::{Attested, PodEvidence, k8s_psat};
use crate::roll::{self, Cluster, Dirty, Object, ObjectKind, PodKey, Pods, Roll, RollFeed, Uid};
pub use facts::FactsReader;
use status::Statuses;

/// So many pods are judged before others get a turn.
const TURN: usize = 500;

/// What the rooms know of the pods' identities. A handle.
#[derive(Clone)]
pub struct PodIdentities(Arc<Inner>);

struct Inner {
    registry: Registry,
    roll: Roll,
    reader: Arc<FactsReader>,
    clock: Clock,
    tells_status: bool,
    clusters: BTreeMap<Arc<str>, Mutex<State>>,
}

/// What is known of one cluster.
struct State {
    settings: Settings,
    rules: Arc<Rules>,
    /// Rules that look at more than was kept of pods and nodes: in force once all are read again, and until then the earlier ones are.
    next: Option<Arc<Rules>>,
    vouched: HashMap<Uid, PodEvidence>,
    /// What the rules came to for each pod, to be taken away from the tally when it comes to something else.
    judged: HashMap<Uid, (Box<str>, Judged)>,
    tally: Tally,
    statuses: Statuses,
    /// What was told of static entries.
    statics: HashMap<Uid, ClusterStaticEntryStatus>,
}

/// An entry of a pod that nobody vouches for now.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("entry {0} is a pod's, and no two witnesses vouch for that pod on this node")]
pub struct NotVouched(Arc<str>);

/// The identities that a pod has now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Given {
    /// Its SPIFFE IDs, in the order of the rules that give them.
    pub ids: Vec<SpiffeId>,
    /// Why there is none, when there is none.
    pub why_none: Option<String>,
}

impl PodIdentities {
    /// For the clusters of `settings`, by name. `tells_status`: whether what became of each rule is written into its status.
    pub fn new(
        registry: Registry,
        roll: Roll,
        reader: Arc<FactsReader>,
        clock: Clock,
        settings: BTreeMap<Arc<str>, Settings>,
        tells_status: bool,
    ) -> Self {
        let clusters = settings.into_iter().map(|(name, settings)| {
            let rules = Arc::new(Rules::compile(&settings, []));
            let state = State {
                tally: Tally::new(&rules),
                rules,
                next: None,
                settings,
                vouched: HashMap::new(),
                judged: HashMap::new(),
                statuses: Statuses::default(),
                statics: HashMap::new(),
            };
            (name, Mutex::new(state))
        });
        Self(Arc::new(Inner {
            clusters: clusters.collect(),
            registry,
            roll,
            reader,
            clock,
            tells_status,
        }))
    }

    /// Two witnesses vouch for a pod, until it is gone. Its identities are its node's when this returns.
    pub fn vouch(&self, evidence: PodEvidence) -> Given {
        let key = evidence.pod().clone();
        let Some((cluster, mut state)) = self.0.state(&key.cluster) else {
            return Given::default();
        };
        state.vouched.insert(key.uid, evidence);
        state.look(&self.0, cluster, key.uid);
        state.given(cluster, key.uid)
    }

    /// The node says that the pod is gone from it. Only the node that vouched is heard.
    pub fn withdraw(&self, node: &SpiffeId, uid: Uid) {
        let Some((cluster, _)) = self.cluster_of(node) else {
            return;
        };
        let Some((cluster, mut state)) = self.0.state(cluster.name()) else {
            return;
        };
        if state.vouched.get(&uid).is_some_and(|evidence| evidence.node() == node) {
            state.vouched.remove(&uid);
            state.look(&self.0, cluster, uid);
        }
    }

    /// Who vouches for the subject of an entry that the node `asks` for: two witnesses when it is a pod's; none beside the node otherwise.
    ///
    /// # Errors
    /// When it is a pod's that no two witnesses vouch for on this node.
    pub fn voucher(&self, asks: &Attested, entry: &Entry) -> Result<Option<Attested>, NotVouched> {
        let Some(key) = subject_of(&entry.id).and_then(pod_key) else {
            return Ok(None);
        };
        let attested = self.0.state(&key.cluster).and_then(|(_, state)| {
            let attested = state.vouched.get(&key.uid)?.attested();
            (attested.by() == asks.by()).then_some(attested)
        });
        attested.map(Some).ok_or_else(|| NotVouched(Arc::clone(&entry.id)))
    }

    /// What a pod has that is vouched for on this node; nothing when it is not.
    pub fn given(&self, node: &SpiffeId, uid: Uid) -> Option<Given> {
        let (cluster, _) = self.cluster_of(node)?;
        let (cluster, state) = self.0.state(cluster.name())?;
        let evidence = state.vouched.get(&uid)?;
        (evidence.node() == node).then(|| state.given(cluster, uid))
    }

    /// The cluster of a node, and its UID there.
    pub fn cluster_of(&self, node: &SpiffeId) -> Option<(&Cluster, Uid)> {
        let (cluster, uid) = k8s_psat::node_of(node)?;
        Some((self.0.roll.cluster(cluster)?, uid))
    }

    /// How many pods are vouched for.
    pub fn vouched(&self) -> usize {
        let of = |name: &Arc<str>| self.0.state(name).map_or(0, |(_, state)| state.vouched.len());
        self.0.clusters.keys().map(of).sum()
    }

    /// Follows the roll, for as long as it runs.
    pub async fn run(self) {
        let mut feed = self.0.roll.subscribe();
        let mut late = false;
        loop {
            tokio::select! {
                () = feed.changed() => self.follow(&mut feed).await,
                () = self.0.clock.sleep(status::PACE), if late => {}
            }
            late = self.tell();
        }
    }

    async fn follow(&self, feed: &mut RollFeed) {
        let Dirty { pods, objects } = feed.take();
        let is_new = |name: &&Arc<str>| match objects {
            true => self.compile(name),
            false => {
                let state = self.0.state(name);
                state.is_some_and(|(cluster, mut state)| state.advance(cluster))
            }
        };
        let changed: HashSet<Arc<str>> = self.0.clusters.keys().filter(is_new).cloned().collect();
        let mut dirty: Vec<PodKey> = match &pods {
            Pods::Some(keys) => keys
                .iter()
                .filter(|key| !changed.contains(&key.cluster))
                .cloned()
                .collect(),
            Pods::All => Vec::new(),
        };
        for cluster in self.0.roll.clusters() {
            if pods == Pods::All || changed.contains(cluster.name()) {
                dirty.extend(self.all(cluster));
            }
        }
        for (at, key) in dirty.into_iter().enumerate() {
            if at > 0 && at % TURN == 0 {
                tokio::task::yield_now().await;
            }
            if let Some((cluster, mut state)) = self.0.state(&key.cluster) {
                state.look(&self.0, cluster, key.uid);
            }
        }
    }

    /// Every pod that is there, and every one that was.
    fn all(&self, cluster: &Cluster) -> Vec<PodKey> {
        let mut uids: HashSet<Uid> = cluster.pods().iter().map(|pod| pod.meta.uid).collect();
        if let Some((_, state)) = self.0.state(cluster.name()) {
            uids.extend(state.judged.keys().chain(state.vouched.keys()));
        }
        let key = |uid| PodKey {
            cluster: Arc::clone(cluster.name()),
            uid,
        };
        uids.into_iter().map(key).collect()
    }

    /// Compiles the objects of a cluster. True when its pods are to be judged anew.
    fn compile(&self, name: &Arc<str>) -> bool {
        let Some((cluster, mut state)) = self.0.state(name) else {
            return false;
        };
        statics::set(&self.0.registry, cluster, &mut state, self.0.tells_status);
        let kinds = [ObjectKind::ClusterSpiffeId, ObjectKind::WorkloadIdentity];
        let objects: Vec<_> = kinds
            .into_iter()
            .flat_map(|kind| cluster.objects(kind))
            .filter_map(|object| rule_object(&object))
            .collect();
        let rules = Arc::new(Rules::compile(&state.settings, &objects));
        if self.0.reader.wants(name, &rules) {
            cluster.read_again();
        }
        state.next = Some(rules);
        state.advance(cluster)
    }

    /// Writes what has become of rules. True when there is more to say soon.
    fn tell(&self) -> bool {
        let mut late = false;
        for name in self.0.clusters.keys().filter(|_| self.0.tells_status) {
            let Some((cluster, mut state)) = self.0.state(name) else {
                continue;
            };
            let State {
                rules, tally, statuses, ..
            } = &mut *state;
            late |= statuses.tell(cluster, rules, tally, self.0.clock.instant());
        }
        late
    }
}

impl Inner {
    fn state(&self, cluster: &str) -> Option<(&Cluster, MutexGuard<'_, State>)> {
        let state = self.clusters.get(cluster)?;
        let state = state.lock().unwrap_or_else(PoisonError::into_inner);
        Some((self.roll.cluster(cluster)?, state))
    }
}

impl State {
    /// Puts the next rules in force, if there are any and everything that they look at was kept of every pod and its node. True when it has.
    fn advance(&mut self, cluster: &Cluster) -> bool {
        let Some(next) = &self.next else {
            return false;
        };
        let is_read = |uid| {
            let Some(subject) = cluster.subject(uid) else {
                return true;
            };
            let node = subject.node.as_ref().and_then(|node| node.kept.as_ref());
            let node = node.and_then(|kept| kept.get::<NodeFacts>()).map(|facts| &facts.kept);
            let pod = subject.pod.kept.as_ref();
            let pod = pod.and_then(|kept| kept.get::<PodFacts>()).map(|facts| &facts.kept);
            // Of what could not be read, nothing more is to be had.
            [pod, node]
                .into_iter()
                .flatten()
                .all(|kept| kept.covers(next.mentions()))
        };
        if !cluster.pods().iter().all(|pod| is_read(pod.meta.uid)) {
            return false;
        }
        self.tally = Tally::new(next);
        self.judged.clear();
        self.statuses.all_changed();
        self.rules = Arc::clone(next);
        self.next = None;
        true
    }

    /// Judges a pod, and gives it what it is to have.
    fn look(&mut self, inner: &Inner, cluster: &Cluster, uid: Uid) {
        let key = PodKey {
            cluster: Arc::clone(cluster.name()),
            uid,
        };
        if let Some((pod, judged)) = self.judged.remove(&uid) {
            self.statuses.changed(&judged);
            self.tally.remove(&pod, &judged);
        }
        let Some(subject) = cluster.subject(uid) else {
            // Not while the roll is being read: evidence outlives a moment in which the pod is not known.
            if cluster.is_synced() {
                self.vouched.remove(&uid);
                inner.registry.remove_computed(&key.to_string());
            }
            return;
        };
        let judged = self.judge(&subject);
        let entries = match self.vouched.contains_key(&uid) {
            true => judged
                .identities
                .iter()
                .map(|identity| identity.entry.clone())
                .collect(),
            false => Vec::new(),
        };
        inner.registry.set_computed(&key.to_string(), entries);
        if judged.outcomes.is_empty() {
            return;
        }
        let pod: Box<str> = format!("{}/{}", subject.pod.meta.namespace, subject.pod.meta.name).into();
        self.statuses.changed(&judged);
        self.tally.add(&pod, &judged);
        let outcomes = judged.outcomes;
        let identities = Vec::new();
        self.judged.insert(uid, (pod, Judged { identities, outcomes }));
    }

    fn judge(&self, subject: &roll::Subject) -> Judged {
        facts_of(subject, |facts| self.rules.judge(facts)).unwrap_or_default()
    }

    /// What the pod has now, or why it has nothing.
    fn given(&self, cluster: &Cluster, uid: Uid) -> Given {
        let Some(subject) = cluster.subject(uid) else {
            return Given::default();
        };
        let identities = self.judge(&subject).identities;
        let ids: Vec<_> = identities.iter().map(|one| one.entry.spiffe_id.clone()).collect();
        let why_none = ids.is_empty().then(|| self.why_none(&subject));
        Given { ids, why_none }
    }

    /// Why a pod has no identity, in the words of the rules that come nearest to giving one.
    fn why_none(&self, subject: &roll::Subject) -> String {
        let namespace = &subject.pod.meta.namespace;
        if self.rules.ignores(namespace) {
            return format!("namespace {namespace} is in kubernetes.ignore_namespaces");
        }
        let Some(explained) = facts_of(subject, |facts| self.rules.explain(facts)) else {
            return "the server could not read the pod".into();
        };
        if explained.is_empty() {
            return "there is no identity rule, and kubernetes.default_identity is empty".into();
        }
        let told = explained.iter().map(|one| format!("{} {}", one.rule, one.outcome));
        told.collect::<Vec<_>>().join("; ")
    }
}

/// What the rules look at.
fn facts_of<T>(subject: &roll::Subject, judge: impl FnOnce(&Subject<'_>) -> T) -> Option<T> {
    let kept = subject.pod.kept.as_ref()?;
    Some(judge(&Subject {
        pod: kept.get::<PodFacts>()?,
        namespace: subject
            .namespace
            .as_ref()
            .and_then(|one| one.kept.as_ref()?.get::<NamespaceFacts>()),
        node: subject
            .node
            .as_ref()
            .and_then(|one| one.kept.as_ref()?.get::<NodeFacts>()),
        services: &subject.services,
    }))
}

fn rule_object(object: &Object) -> Option<RuleObject> {
    let kind = match object.kind {
        ObjectKind::ClusterSpiffeId => RuleKind::ClusterSpiffeId,
        ObjectKind::WorkloadIdentity => RuleKind::WorkloadIdentity,
        _ => return None,
    };
    Some(RuleObject {
        name: RuleName {
            kind,
            namespace: Arc::clone(&object.meta.namespace),
            name: Arc::clone(&object.meta.name),
            uid: object.meta.uid.to_string().into(),
        },
        created: object.meta.created,
        generation: object.generation,
        spec: object.spec.clone(),
    })
}

/// The pod that computed entries are about, by their subject.
fn pod_key(subject: &str) -> Option<PodKey> {
    let (cluster, uid) = subject.rsplit_once('/')?;
    Some(PodKey {
        cluster: cluster.into(),
        uid: Uid::parse(uid).ok()?,
    })
}
