//! What became of each rule, told to the cluster when it has changed, and not more often than its reader could follow.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::rules::{Judged, NamespaceFacts, RuleKind, RuleName, RuleStatus, Rules, Tally};
use crate::roll::{Cluster, ObjectKind, Write};

/// No rule's status is written sooner than this after the last.
pub(super) const PACE: Duration = Duration::from_secs(1);

/// The statuses of one cluster.
#[derive(Default)]
pub(super) struct Statuses {
    told: HashMap<Arc<str>, RuleStatus>,
    changed: BTreeSet<usize>,
    all: bool,
    told_at: Option<Instant>,
}

impl Statuses {
    /// The rules that this is about have other numbers now.
    pub(super) fn changed(&mut self, judged: &Judged) {
        self.changed.extend(judged.outcomes.iter().map(|(number, _)| *number));
    }

    /// The rules are others.
    pub(super) fn all_changed(&mut self) {
        self.changed.clear();
        self.all = true;
    }

    /// Tells what has changed. True when there is something that is to be told later.
    pub(super) fn tell(&mut self, cluster: &Cluster, rules: &Rules, tally: &Tally, now: Instant) -> bool {
        if !self.all && self.changed.is_empty() {
            return false;
        }
        let is_early = self
            .told_at
            .is_some_and(|told| now.saturating_duration_since(told) < PACE);
        if is_early || !cluster.is_synced() {
            return true;
        }
        self.told_at = Some(now);
        let namespaces = cluster.namespaces();
        let facts = || {
            namespaces
                .iter()
                .filter_map(|one| one.kept.as_ref()?.get::<NamespaceFacts>())
        };
        let numbers: Vec<usize> = match std::mem::take(&mut self.all) {
            true => (0..rules.all().len()).collect(),
            false => std::mem::take(&mut self.changed).into_iter().collect(),
        };
        self.changed.clear();
        for number in numbers {
            let Some(rule) = rules.all().get(number) else {
                continue;
            };
            let RuleName {
                kind,
                namespace,
                name,
                uid,
            } = &**rule.name();
            let kind = match kind {
                RuleKind::ClusterSpiffeId => ObjectKind::ClusterSpiffeId,
                RuleKind::WorkloadIdentity => ObjectKind::WorkloadIdentity,
                RuleKind::Default => continue,
            };
            let status = tally.status(rules, number, facts());
            if rule.is_other_class() || self.told.get(uid) == Some(&status) {
                continue;
            }
            cluster.tell(Write::Status {
                kind,
                namespace: Arc::clone(namespace),
                name: Arc::clone(name),
                status: serde_json::to_value(&status).unwrap_or_default(),
            });
            self.told.insert(Arc::clone(uid), status);
        }
        let live: BTreeSet<_> = rules.all().iter().map(|rule| Arc::clone(&rule.name().uid)).collect();
        self.told.retain(|uid, _| live.contains(uid));
        false
    }
}
