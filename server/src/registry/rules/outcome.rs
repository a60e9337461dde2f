//! What a rule came to for a pod, in words; and the numbers of all pods, for its status.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use mintmark_identity::SpiffeId;

use super::super::computed::ComputedEntry;
use super::Rules;
use super::facts::NamespaceFacts;
use super::objects::{PodFailure, RuleName, RuleStats, RuleStatus};

/// So many failing pods are named in a status.
const MAX_FAILURES: usize = 10;

/// The longest subject that outside APIs accept, in bytes, and whose it is.
pub const SUBJECT_LIMITS: [(usize, &str); 3] = [
    (127, "Google Cloud's workload identity federation"),
    (255, "AWS STS"),
    (600, "Azure's federated credentials"),
];

/// An identity that a pod has.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The rule that gives it.
    pub rule: Arc<RuleName>,
    /// The identity, as a registration entry: its parent is the pod's node, its selectors begin with the pod's UID.
    pub entry: ComputedEntry,
}

impl Identity {
    /// Those of [`SUBJECT_LIMITS`] that the SPIFFE ID passes.
    pub fn long_for(&self) -> impl Iterator<Item = (usize, &'static str)> {
        let length = self.entry.spiffe_id.as_str().len();
        SUBJECT_LIMITS.into_iter().filter(move |(limit, _)| length > *limit)
    }
}

/// Why a selected pod has no identity for now, whatever the rules say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotNow {
    /// All its containers have ended.
    Over,
    /// It is bound to no node.
    NotBound,
    /// Its node is not known.
    NodeUnknown(Arc<str>),
}

impl fmt::Display for NotNow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Over => f.write_str("all containers of the pod have ended"),
            Self::NotBound => f.write_str("the pod is not bound to a node yet"),
            Self::NodeUnknown(name) => write!(f, "the pod's node {name} is not known"),
        }
    }
}

/// Why a rule could make no identity for a pod that it selects.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {why}")]
pub struct Failure {
    /// The field of the rule.
    pub field: &'static str,
    /// What is wrong.
    pub why: String,
}

/// What a rule came to for a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It does not select the pod: why.
    NotSelected(String),
    /// It selects the pod, which cannot have an identity now.
    NotNow(NotNow),
    /// It is for pods that no other rule is for, and this one is.
    NotNeeded(Arc<RuleName>),
    /// It could make no identity.
    Failed(Failure),
    /// This rule gives the same identity.
    Masked(Arc<RuleName>),
    /// It gives this identity.
    Given(SpiffeId),
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotSelected(why) => write!(f, "does not select the pod: {why}"),
            Self::NotNow(why) => write!(f, "selects the pod, but {why}"),
            Self::NotNeeded(by) => write!(f, "is for pods without a rule, and {by} is for this one"),
            Self::Failed(why) => write!(f, "selects the pod, but gives no identity: {why}"),
            Self::Masked(by) => write!(f, "gives the same identity as {by}"),
            Self::Given(id) => write!(f, "gives {id}"),
        }
    }
}

/// What the rules came to for a pod.
#[derive(Debug, Clone, Default)]
pub struct Judged {
    /// Its identities, in the order of the rules that give them.
    pub identities: Vec<Identity>,
    /// What each rule that selects the pod came to, by the rule's number.
    pub outcomes: Vec<(usize, Outcome)>,
}

/// What one rule came to for a pod.
#[derive(Debug, Clone)]
pub struct Explained {
    /// The rule.
    pub rule: Arc<RuleName>,
    /// What it came to.
    pub outcome: Outcome,
}

/// The numbers of one set of rules over many pods: what is added with a pod is taken away with it.
#[derive(Debug, Clone, Default)]
pub struct Tally(Vec<Counts>);

#[derive(Debug, Clone, Default)]
struct Counts {
    selected: usize,
    failed: usize,
    masked: usize,
    given: usize,
    long: [usize; SUBJECT_LIMITS.len()],
    /// Some of those that fail, by `namespace/name`.
    failures: BTreeMap<String, String>,
}

impl Tally {
    /// Nothing yet, for `rules`.
    pub fn new(rules: &Rules) -> Self {
        Self(vec![Counts::default(); rules.all().len()])
    }

    /// Counts what the rules came to for the pod `namespace/name`.
    pub fn add(&mut self, pod: &str, judged: &Judged) {
        for (number, outcome) in &judged.outcomes {
            let Some(counts) = self.0.get_mut(*number) else {
                continue;
            };
            counts.selected += 1;
            match outcome {
                Outcome::Failed(why) => {
                    counts.failed += 1;
                    if counts.failures.len() < MAX_FAILURES {
                        counts.failures.insert(pod.to_owned(), why.to_string());
                    }
                }
                Outcome::Masked(_) => counts.masked += 1,
                Outcome::Given(id) => {
                    counts.given += 1;
                    for (long, (limit, _)) in counts.long.iter_mut().zip(SUBJECT_LIMITS) {
                        *long += usize::from(id.as_str().len() > limit);
                    }
                }
                _ => {}
            }
        }
    }

    /// Takes away what was added for the pod.
    pub fn remove(&mut self, pod: &str, judged: &Judged) {
        for (number, outcome) in &judged.outcomes {
            let Some(counts) = self.0.get_mut(*number) else {
                continue;
            };
            let less = |count: &mut usize| *count = count.saturating_sub(1);
            less(&mut counts.selected);
            match outcome {
                Outcome::Failed(_) => {
                    less(&mut counts.failed);
                    counts.failures.remove(pod);
                }
                Outcome::Masked(_) => less(&mut counts.masked),
                Outcome::Given(id) => {
                    less(&mut counts.given);
                    for (long, (limit, _)) in counts.long.iter_mut().zip(SUBJECT_LIMITS) {
                        *long = long.saturating_sub(usize::from(id.as_str().len() > limit));
                    }
                }
                _ => {}
            }
        }
    }

    /// The status of the rule with this number, over these namespaces.
    pub fn status<'a>(
        &self,
        rules: &Rules,
        number: usize,
        namespaces: impl IntoIterator<Item = &'a NamespaceFacts>,
    ) -> RuleStatus {
        let none = Counts::default();
        let counts = self.0.get(number).unwrap_or(&none);
        let Some(rule) = rules.all().get(number) else {
            return RuleStatus::default();
        };
        let mut stats = RuleStats {
            pods_selected: counts.selected,
            pod_entry_render_failures: counts.failed,
            entries_masked: counts.masked,
            entries_to_set: counts.given,
            ..RuleStats::default()
        };
        for namespace in namespaces {
            if rules.selects_namespace(rule, namespace) {
                stats.namespaces_selected += 1;
                stats.namespaces_ignored += usize::from(rules.ignores(&namespace.name));
            }
        }
        let long = counts.long.iter().zip(SUBJECT_LIMITS).filter(|(count, _)| **count > 0);
        let warnings = long.map(|(count, (limit, whose))| {
            format!("pods whose SPIFFE ID is longer than the {limit} bytes that {whose} takes as a subject: {count}")
        });
        RuleStatus {
            stats,
            error: rule.error().unwrap_or_default().to_owned(),
            observed_generation: rule.generation(),
            failures: counts
                .failures
                .iter()
                .map(|(pod, reason)| PodFailure {
                    pod: pod.clone(),
                    reason: reason.clone(),
                })
                .collect(),
            warnings: warnings.collect(),
        }
    }
}
