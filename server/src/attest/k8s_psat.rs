//! `k8s_psat`: the agent's pod shows its projected service account token, and is the node that it runs on.
//!
//! Message, rules and selectors are those of SPIRE's plugin of this name, so that its agents join too. Two witnesses: TokenReview says whose token it is and which pod it is bound to; the roll says that this
//! pod exists, with this service account, on a node of this UID. Whatever pod of an allowed service account runs on a node may join as it, as often as it likes; the last one is the node.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mintmark_identity::{Selector, SpiffeId, TrustDomain};
use mintmark_runtime::crypto::SecretString;
use serde::Deserialize;

use super::{NodeEvidence, NodeRecord};
use crate::roll::{About, Cluster, Event, MAX_TOKEN, Node, Pod, ReviewError, Reviewed, Roll, Uid, Write};

/// The method's name, in IDs, selectors and the API.
pub const METHOD: &str = "k8s_psat";
/// What a node sends has at most this many bytes.
pub const MAX_PAYLOAD: usize = MAX_TOKEN + 1_024;
/// The reason of the Event on a node that joins while it still has an SVID.
pub const REJOINED: &str = "NodeRejoined";
/// A pod that has only just begun may be known to its kubelet a moment before it is to us.
const NEWS: Duration = Duration::from_secs(5);

/// Who may join from one cluster.
#[derive(Clone, Debug, Default)]
pub struct Allowed {
    /// The service accounts that agents run as, each as namespace and name.
    pub service_accounts: BTreeSet<(String, String)>,
    /// The audiences of their tokens: one of them suffices.
    pub audiences: Vec<String>,
    /// The nodes' labels that become selectors.
    pub node_labels: BTreeSet<String>,
    /// The agents' pods' labels that become selectors.
    pub pod_labels: BTreeSet<String>,
}

/// The clusters whose nodes may join.
pub struct Clusters {
    roll: Roll,
    allowed: BTreeMap<String, Allowed>,
}

/// Why a token does not make a node.
#[derive(Debug, thiserror::Error)]
pub enum PsatError {
    /// No cluster is configured.
    #[error("k8s_psat is not configured: name the cluster in `[kubernetes.clusters.NAME]`")]
    NotConfigured,
    /// What the node sent is not in form.
    #[error("the k8s_psat payload is malformed: {0}")]
    Malformed(&'static str),
    /// It is of a cluster that we do not know.
    #[error("not configured for cluster {0:?}: see `[kubernetes.clusters]`")]
    UnknownCluster(String),
    /// The token is no good.
    #[error(transparent)]
    Review(#[from] ReviewError),
    /// It is that of a service account which agents do not run as.
    #[error("\"{0}\" is not an allowed service account: see `service_accounts` of the cluster")]
    NotAllowed(String),
    /// It is not bound to a pod, so that it proves no node.
    #[error("the token is not bound to a pod: it must be projected into one, or made with --bound-object-kind Pod")]
    NotBound,
    /// The roll does not know the pod.
    #[error("there is no pod {0} of UID {1}: the token is that of a pod that is gone, or too new")]
    NoPod(String, Uid),
    /// The roll does not know anything yet.
    #[error("cluster {0} is not listed yet: try again in a moment")]
    NotListed(String),
    /// The roll knows the pod otherwise.
    #[error("the token does not agree with pod {pod}: its {what} is {found:?} there and {told:?} in the token")]
    Disagrees {
        /// Namespace and name of the pod.
        pod: String,
        /// What differs.
        what: &'static str,
        /// What the API server's watch says.
        found: String,
        /// What TokenReview says.
        told: String,
    },
    /// The pod has ended.
    #[error("pod {0} has ended")]
    Over(String),
    /// The pod is not bound to a node that the roll knows.
    #[error("pod {0} is on no node that is known")]
    NoNode(String),
    /// Cluster and UID make no SPIFFE ID.
    #[error("cluster {0:?} cannot be part of a SPIFFE ID")]
    Id(String),
}

impl PsatError {
    /// A short name for metrics and logs.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NotConfigured => "not_configured",
            Self::Malformed(_) => "malformed",
            Self::UnknownCluster(_) => "unknown_cluster",
            Self::Review(error) => error.reason(),
            Self::NotAllowed(_) => "service_account_not_allowed",
            Self::NotBound => "token_not_bound",
            Self::NoPod(..) => "no_pod",
            Self::NotListed(_) => "not_listed",
            Self::Disagrees { .. } => "token_disagrees",
            Self::Over(_) => "pod_over",
            Self::NoNode(_) => "no_node",
            Self::Id(_) => "id",
        }
    }
}

/// As SPIRE's agents send it.
#[derive(Deserialize)]
struct Payload {
    #[serde(default)]
    cluster: String,
    #[serde(default)]
    token: SecretString,
}

impl Clusters {
    /// The clusters of this configuration, by the names that they have in the roll.
    pub fn new(roll: Roll, allowed: BTreeMap<String, Allowed>) -> Self {
        Self { roll, allowed }
    }

    /// What the payload that a node sent proves.
    ///
    /// # Errors
    /// When it proves nothing.
    pub async fn verify(&self, trust_domain: &TrustDomain, payload: &[u8]) -> Result<NodeEvidence, PsatError> {
        if self.allowed.is_empty() {
            return Err(PsatError::NotConfigured);
        }
        let Payload { cluster: name, token } = parse(payload)?;
        let unknown = || PsatError::UnknownCluster(name.chars().take(64).collect());
        let allowed = self.allowed.get(&name).ok_or_else(unknown)?;
        let cluster = self.roll.cluster(&name).ok_or_else(unknown)?;
        let reviewed = cluster.review(token.expose(), &allowed.audiences).await?;
        let account = (reviewed.namespace.clone(), reviewed.service_account.clone());
        if !allowed.service_accounts.contains(&account) {
            return Err(PsatError::NotAllowed(format!("{}:{}", account.0, account.1)));
        }
        let bound = reviewed.pod.as_ref().ok_or(PsatError::NotBound)?;
        let shown = format!("{}/{}", reviewed.namespace, bound.name);
        let pod = cluster.placed_within(bound.uid, NEWS).await;
        let pod = pod.ok_or_else(|| match cluster.is_synced() {
            true => PsatError::NoPod(shown.clone(), bound.uid),
            false => PsatError::NotListed(name.clone()),
        })?;
        agree(cluster, &pod, &shown, &reviewed)?;
        let node = cluster
            .node(&pod.node)
            .ok_or_else(|| PsatError::NoNode(shown.clone()))?;
        agree_on_node(&node, &shown, &reviewed)?;
        let id = node_id(trust_domain, &name, node.meta.uid)?;
        Ok(NodeEvidence {
            id,
            method: METHOD,
            selectors: selectors(&name, allowed, &pod, &node),
            can_reattest: true,
            consume: None,
        })
    }

    /// Tells a node's cluster that the node joined anew, by this evidence, while it still had an SVID, which is refused from then on. It is a warning when the pod that had the SVID is still there. Of nodes
    /// that joined in another way nothing is told.
    pub fn tell_rejoined(&self, evidence: &NodeEvidence, earlier: &NodeRecord) {
        let Some((cluster, uid)) = node_of(&evidence.id) else {
            return;
        };
        let Some(cluster) = self.roll.cluster(cluster) else {
            return;
        };
        let now: Vec<_> = evidence.selectors.iter().map(ToString::to_string).collect();
        let (Some(node), Some(now), Some(before)) = (
            value(&now, "agent_node_name"),
            Agent::of(&now),
            Agent::of(&earlier.selectors),
        ) else {
            return;
        };
        let is_there = cluster
            .pod(before.uid)
            .is_some_and(|pod| !pod.is_over() && !pod.meta.is_deleting);
        let why = match (is_there, now.uid == before.uid) {
            (false, _) => "",
            (true, true) => "; its container was restarted, or somebody else has its token",
            (true, false) => {
                "; that pod is still there: two attestors run on the node, or somebody has a token of theirs"
            }
        };
        let note = format!(
            "pod {} attested as this node, and the SVID that it had by pod {} is refused from now on{why}",
            now.name, before.name
        );
        let about = About {
            kind: "Node",
            namespace: "".into(),
            name: node.into(),
            uid,
        };
        cluster.tell(Write::News(Event {
            about,
            is_warning: is_there,
            reason: REJOINED,
            note,
        }));
    }
}

/// The pod by which a node joined.
struct Agent {
    /// Namespace and name.
    name: String,
    uid: Uid,
}

impl Agent {
    /// From the selectors that a node got.
    fn of(selectors: &[String]) -> Option<Self> {
        let name = format!(
            "{}/{}",
            value(selectors, "agent_ns")?,
            value(selectors, "agent_pod_name")?
        );
        let uid = Uid::parse(value(selectors, "agent_pod_uid")?).ok()?;
        Some(Self { name, uid })
    }
}

fn value<'a>(selectors: &'a [String], name: &str) -> Option<&'a str> {
    let mut rest = selectors
        .iter()
        .filter_map(|selector| selector.strip_prefix(METHOD)?.strip_prefix(':'));
    rest.find_map(|rest| rest.strip_prefix(name)?.strip_prefix(':'))
}

/// The ID of a node of a cluster.
///
/// # Errors
/// When the cluster's name cannot be part of one.
pub fn node_id(trust_domain: &TrustDomain, cluster: &str, node: Uid) -> Result<SpiffeId, PsatError> {
    let refused = || PsatError::Id(cluster.to_owned());
    if cluster.contains('/') {
        return Err(refused());
    }
    SpiffeId::agent(trust_domain, METHOD, &format!("{cluster}/{node}")).map_err(|_| refused())
}

/// Cluster and UID of a node that joined in this way, from its ID.
pub(crate) fn node_of(id: &SpiffeId) -> Option<(&str, Uid)> {
    let rest = id.path().strip_prefix("/spire/agent/k8s_psat/")?;
    let (cluster, uid) = rest.split_once('/')?;
    Some((cluster, Uid::parse(uid).ok()?))
}

fn parse(payload: &[u8]) -> Result<Payload, PsatError> {
    if payload.len() > MAX_PAYLOAD {
        return Err(PsatError::Malformed("it is too long"));
    }
    // serde's own words could quote the token.
    let payload: Payload = serde_json::from_slice(payload)
        .map_err(|_| PsatError::Malformed("it is not JSON with `cluster` and `token`"))?;
    match (payload.cluster.is_empty(), payload.token.is_empty()) {
        (true, _) => Err(PsatError::Malformed("missing cluster in attestation data")),
        (_, true) => Err(PsatError::Malformed("missing token in attestation data")),
        _ => Ok(payload),
    }
}

/// The roll's word on the pod against TokenReview's.
fn agree(cluster: &Cluster, pod: &Pod, shown: &str, reviewed: &Reviewed) -> Result<(), PsatError> {
    let bound = reviewed.pod.as_ref().map_or("", |bound| &bound.name);
    for (what, found, told) in [
        ("namespace", &*pod.meta.namespace, &*reviewed.namespace),
        ("name", &*pod.meta.name, bound),
        ("service account", &*pod.service_account, &*reviewed.service_account),
    ] {
        if found != told {
            return Err(disagrees(shown, what, found, told));
        }
    }
    // A service account that was deleted and made anew under its name is another one.
    let account = cluster.service_account(&pod.meta.namespace, &pod.service_account);
    if let (Some(account), Some(told)) = (account, reviewed.service_account_uid)
        && account.uid != told
    {
        let (found, told) = (account.uid.to_string(), told.to_string());
        return Err(disagrees(shown, "service account's UID", &found, &told));
    }
    match pod.is_over() {
        true => Err(PsatError::Over(shown.to_owned())),
        false => Ok(()),
    }
}

/// A token of a cluster that binds tokens to nodes names the node; else the pod's own is all there is.
fn agree_on_node(node: &Node, shown: &str, reviewed: &Reviewed) -> Result<(), PsatError> {
    let Some(told) = &reviewed.node else { return Ok(()) };
    if *told.name != *node.meta.name {
        return Err(disagrees(shown, "node", &node.meta.name, &told.name));
    }
    if told.uid != node.meta.uid {
        let (found, told) = (node.meta.uid.to_string(), told.uid.to_string());
        return Err(disagrees(shown, "node's UID", &found, &told));
    }
    Ok(())
}

fn disagrees(pod: &str, what: &'static str, found: &str, told: &str) -> PsatError {
    PsatError::Disagrees {
        pod: pod.to_owned(),
        what,
        found: found.to_owned(),
        told: told.to_owned(),
    }
}

fn selectors(cluster: &str, allowed: &Allowed, pod: &Pod, node: &Node) -> Vec<Selector> {
    let fixed = [
        format!("cluster:{cluster}"),
        format!("agent_ns:{}", pod.meta.namespace),
        format!("agent_sa:{}", pod.service_account),
        format!("agent_pod_name:{}", pod.meta.name),
        format!("agent_pod_uid:{}", pod.meta.uid),
        format!("agent_node_ip:{}", pod.host_ip),
        format!("agent_node_name:{}", node.meta.name),
        format!("agent_node_uid:{}", node.meta.uid),
    ];
    let labels = |kind: &'static str, of: &crate::roll::Meta, names: &BTreeSet<String>| {
        let labels = of.labels.iter().filter(|(name, _)| names.contains(*name));
        labels
            .map(|(name, value)| format!("{kind}:{name}:{value}"))
            .collect::<Vec<_>>()
    };
    let values = fixed
        .into_iter()
        .chain(labels("agent_node_label", &node.meta, &allowed.node_labels))
        .chain(labels("agent_pod_label", &pod.meta, &allowed.pod_labels));
    values.filter_map(|value| Selector::new(METHOD, &value).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_id_leads_back_to_cluster_and_node() {
        let td = TrustDomain::parse("example.org").unwrap();
        let uid = Uid::parse("1b4e28ba-2fa1-4d2a-883f-0016d3cca427").unwrap();
        let id = node_id(&td, "prod", uid).unwrap();
        assert_eq!(
            id.path(),
            "/spire/agent/k8s_psat/prod/1b4e28ba-2fa1-4d2a-883f-0016d3cca427"
        );
        assert_eq!(node_of(&id), Some(("prod", uid)));
        for cluster in ["", "a/b", "..", "a b"] {
            assert!(
                matches!(node_id(&td, cluster, uid), Err(PsatError::Id(_))),
                "{cluster:?}"
            );
        }
        for other in [
            "/spire/agent/join_token/x",
            "/spire/agent/k8s_psat/prod",
            "/spire/agent/k8s_psat/prod/x/y",
            "/spire/agent/x509pop/prod/1b4e28ba-2fa1-4d2a-883f-0016d3cca427",
        ] {
            assert_eq!(node_of(&SpiffeId::new(&td, other).unwrap()), None, "{other}");
        }
    }

    #[test]
    fn what_is_no_payload_is_told_without_its_words() {
        for (payload, words) in [
            (&b"secret"[..], "not JSON"),
            (b"{\"token\":\"secret\"}", "missing cluster"),
            (b"{\"cluster\":\"a\"}", "missing token"),
            (&[b' '; MAX_PAYLOAD + 1], "too long"),
            (b"{\"cluster\":1,\"token\":\"secret\"}", "not JSON"),
        ] {
            let error = parse(payload).err().unwrap().to_string();
            assert!(error.contains(words) && !error.contains("secret"), "{error}");
        }
    }
}
