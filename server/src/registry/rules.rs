//! Who is given which identity on Kubernetes: rules in place of entries.
//!
//! `ClusterSPIFFEID` and `WorkloadIdentity` objects are compiled once ([`Rules::compile`]); the identities of a pod are then a pure function of the pod, its
//! namespace, its node, the services that it stands behind, and the rules ([`Rules::judge`]). Nothing is written anywhere for a pod. The same function, asked for
//! all its reasons, explains itself ([`Rules::explain`]), and its outcomes add up to the status of each rule ([`Tally`]).
//!
//! In: objects and settings of one cluster; facts that whoever watches the cluster has read with [`PodFacts::read`] and its siblings, keeping what
//! [`Rules::mentions`] names. Out: [`Identity`], each a registration entry whose parent is the pod's node and whose first selector is the pod's UID, for
//! [`Registry::set_computed`](super::Registry::set_computed). Nothing here waits or does I/O.
//!
//! ```text
//!  in order:  ClusterSPIFFEID, oldest first
//!             WorkloadIdentity of the pod's namespace, oldest first
//!             ClusterSPIFFEID with fallback    unless one above that is no fallback gave an identity
//!             kubernetes.default_identity      unless a rule selects the pod
//! ```

mod compile;
mod duration;
mod entries;
mod facts;
mod judge;
mod labels;
mod objects;
mod outcome;

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use mintmark_identity::TrustDomain;

use super::template::Mentions;
pub use compile::Rule;
pub use entries::{EndpointProfile, FederatedTrustDomain, federated_trust_domain, static_entry};
pub use facts::{FactsError, NamespaceFacts, NodeFacts, PodFacts};
pub use judge::Subject;
pub use labels::{LabelExpression, LabelSelector, Labels};
pub use objects::{
    BundleEndpointProfile, ClusterFederatedTrustDomain, ClusterFederatedTrustDomainSpec, ClusterSpiffeId,
    ClusterSpiffeIdSpec, ClusterStaticEntry, ClusterStaticEntrySpec, ClusterStaticEntryStatus, Metadata, Object,
    PodFailure, RuleKind, RuleName, RuleObject, RuleStats, RuleStatus, WorkloadIdentity, WorkloadIdentitySpec,
};
pub use outcome::{Explained, Failure, Identity, Judged, NotNow, Outcome, SUBJECT_LIMITS, Tally};

/// What the rules of one cluster stand on.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The server's trust domain.
    trust_domain: TrustDomain,
    trust_domain_name: Arc<str>,
    /// The cluster's name in the configuration, which is in its nodes' IDs.
    cluster: Arc<str>,
    /// The domain of its services' names, such as `cluster.local`; empty when none is known.
    cluster_domain: Arc<str>,
    default_identity: String,
    ignore_namespaces: BTreeSet<Box<str>>,
    class_name: String,
}

impl Settings {
    /// Settings with no default identity, no ignored namespaces, and rules of every class.
    pub fn new(trust_domain: &TrustDomain, cluster: &str, cluster_domain: &str) -> Self {
        Self {
            trust_domain: trust_domain.clone(),
            trust_domain_name: trust_domain.as_str().into(),
            cluster: cluster.into(),
            cluster_domain: cluster_domain.into(),
            default_identity: String::new(),
            ignore_namespaces: BTreeSet::new(),
            class_name: String::new(),
        }
    }

    /// The template of the identity of pods that no rule selects; none when empty.
    #[must_use]
    pub fn default_identity(mut self, template: &str) -> Self {
        template.clone_into(&mut self.default_identity);
        self
    }

    /// Namespaces whose pods get no identity, by their names.
    #[must_use]
    pub fn ignore_namespaces<T: AsRef<str>>(mut self, names: impl IntoIterator<Item = T>) -> Self {
        self.ignore_namespaces = names.into_iter().map(|name| name.as_ref().into()).collect();
        self
    }

    /// Only objects of SPIRE's kinds with this `className`; all of them when empty.
    #[must_use]
    pub fn class_name(mut self, name: &str) -> Self {
        name.clone_into(&mut self.class_name);
        self
    }

    fn is_other_class(&self, class: &str) -> bool {
        !self.class_name.is_empty() && class != self.class_name
    }
}

/// The compiled rules of one cluster.
#[derive(Debug)]
pub struct Rules {
    settings: Settings,
    /// In the order in which they are asked.
    rules: Vec<Rule>,
    /// Where the tenants' rules are among them: those of one namespace stand together.
    tenants: Range<usize>,
    mentions: Arc<Mentions>,
}

impl Rules {
    /// Compiles objects. One that is wrong is a rule with an error, and selects nothing.
    pub fn compile<'a>(settings: &Settings, objects: impl IntoIterator<Item = &'a RuleObject>) -> Self {
        let objects = objects.into_iter().map(|object| compile::rule(settings, object));
        let mut rules: Vec<_> = objects.chain(compile::default(settings)).collect();
        rules.sort_by(|a, b| {
            let key = |rule: &Rule| {
                let is_late = rule.is_fallback() && rule.name.kind == RuleKind::ClusterSpiffeId;
                (rule.name.kind == RuleKind::Default, is_late, rule.name.kind)
            };
            let by_namespace = a.name.namespace.cmp(&b.name.namespace);
            let by_age = a.created.cmp(&b.created).then_with(|| a.name.uid.cmp(&b.name.uid));
            key(a).cmp(&key(b)).then(by_namespace).then(by_age)
        });
        let is_before = |rule: &Rule| rule.name.kind == RuleKind::ClusterSpiffeId && !rule.is_fallback();
        let first = rules.partition_point(is_before);
        let is_tenant = |rule: &&Rule| rule.name.kind == RuleKind::WorkloadIdentity;
        let count = rules.iter().filter(is_tenant).count();
        let mut mentions = Mentions::default();
        for body in rules.iter().filter_map(|rule| rule.body.as_ref().ok()) {
            mentions.add(&body.mentions);
        }
        Self {
            settings: settings.clone(),
            rules,
            tenants: first..first + count,
            mentions: Arc::new(mentions),
        }
    }

    /// The rules, in the order in which they are asked. A rule's place is its number.
    pub fn all(&self) -> &[Rule] {
        &self.rules
    }

    /// The numbers of the rules that could select pods of a namespace.
    fn of_namespace(&self, namespace: &str) -> impl Iterator<Item = usize> {
        let tenants = self.rules.get(self.tenants.clone()).unwrap_or_default();
        let from = tenants.partition_point(|rule| *rule.name.namespace < *namespace);
        let to = tenants.partition_point(|rule| *rule.name.namespace <= *namespace);
        let first = self.tenants.start;
        (0..first)
            .chain(first + from..first + to)
            .chain(self.tenants.end..self.rules.len())
    }

    /// What must be kept of pods and nodes that these rules judge. Pods that were read before a rule mentioned something must be read again; until they are,
    /// that rule fails for them.
    pub fn mentions(&self) -> &Arc<Mentions> {
        &self.mentions
    }

    /// What is kept, when pods were read with `before`: that, if it is enough, so that they need not be read again; else both together.
    pub fn mentions_after(&self, before: &Arc<Mentions>) -> Arc<Mentions> {
        if before.covers(&self.mentions) {
            return Arc::clone(before);
        }
        let mut both = (**before).clone();
        both.add(&self.mentions);
        Arc::new(both)
    }

    /// True when pods of this namespace get no identity.
    pub fn ignores(&self, namespace: &str) -> bool {
        self.settings.ignore_namespaces.contains(namespace)
    }

    fn selects_namespace(&self, rule: &Rule, namespace: &NamespaceFacts) -> bool {
        let Ok(body) = &rule.body else {
            return false;
        };
        let is_here = rule.name.kind != RuleKind::WorkloadIdentity || rule.name.namespace == namespace.name;
        let selector = body.namespaces.as_ref();
        is_here
            && body.other_class.is_none()
            && selector.is_none_or(|selector| selector.unmet(namespace.labels()).is_none())
    }
}

#[cfg(test)]
mod tests;
