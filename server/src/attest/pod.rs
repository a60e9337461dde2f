//! A pod, by two witnesses: the node says that its kubelet has mounted a volume into it and hands on the pod's own token; TokenReview says whose token that is.
//!
//! ```text
//! kubelet ─▶ node (by its SVID) ── pod UID, names, token ──▶ here ──▶ TokenReview
//!                                                              └────▶ roll
//! ```
//! All must agree: the kubelet's word with the token's, the token's with the roll's, and the node of the pod with the node that asks. So a stolen node credential says nothing about a pod of another
//! node, and nothing about a pod that does not exist. Only this room makes a [`PodEvidence`].

use std::sync::Arc;
use std::time::Duration;

use mintmark_identity::SpiffeId;
use mintmark_runtime::crypto::SecretString;

use super::{Attested, By, Witness, Witnesses, k8s_psat};
use crate::roll::{Cluster, Pod, PodKey, ReviewError, Reviewed, Roll, Uid};

/// The audience of a pod's own token. A token for another door is refused here.
pub const AUDIENCE: &str = "mintmark";
/// The kubelet may hear of a pod's binding a moment before we do.
const NEWS: Duration = Duration::from_secs(5);
/// Names of Kubernetes are no longer.
const MAX_NAME: usize = 253;

/// What a node says of a pod that runs on it, in its kubelet's words.
#[derive(Debug)]
pub struct PodClaim {
    /// The pod's UID.
    pub pod_uid: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its service account.
    pub service_account: String,
    /// Its own token.
    pub token: SecretString,
}

/// A pod that both witnesses vouch for, on the node that asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodEvidence {
    node: SpiffeId,
    key: PodKey,
    namespace: Arc<str>,
    name: Arc<str>,
    service_account: Arc<str>,
    witnesses: Witnesses,
}

/// Why a pod gets no identity on this node's word.
#[derive(Debug, thiserror::Error)]
pub enum PodRefusal {
    /// Whoever asks is no node of a cluster that we watch.
    #[error(
        "{0} is not a node of a cluster that this server watches: pods are vouched for by nodes that joined by k8s_psat"
    )]
    NotANode(String),
    /// What it says is not in form.
    #[error("the word of the kubelet is malformed: {0}")]
    Malformed(&'static str),
    /// The second witness has nothing to say.
    #[error(transparent)]
    Review(#[from] ReviewError),
    /// The token is not bound to a pod.
    #[error("the token is not bound to a pod")]
    NotBound,
    /// The token is not bound to a node.
    #[error("the token is not bound to a node: this cluster's API server is older than 1.30")]
    NotBoundToNode,
    /// The witnesses do not agree with each other.
    #[error("the witnesses disagree: the {what} is {kubelet:?} by the kubelet and {token:?} by the pod's token")]
    KubeletDisagrees {
        /// What differs.
        what: &'static str,
        /// The kubelet's word.
        kubelet: String,
        /// TokenReview's.
        token: String,
    },
    /// The pod is on another node than the one that asks.
    #[error("pod {pod} is on node {on}, and node {asks} asks for it")]
    OtherNode {
        /// The pod's UID.
        pod: Uid,
        /// The UID of its node.
        on: Uid,
        /// The UID of the node that asks.
        asks: Uid,
    },
    /// The roll does not know the pod.
    #[error("there is no pod of UID {0}: it is gone, or too new")]
    NoPod(Uid),
    /// The roll does not know anything yet.
    #[error("cluster {0} is not listed yet: try again in a moment")]
    NotListed(Arc<str>),
    /// The roll knows the pod otherwise.
    #[error(
        "the witnesses disagree: the {what} is {roll:?} by the API server's watch and {token:?} by the pod's token"
    )]
    RollDisagrees {
        /// What differs.
        what: &'static str,
        /// The roll's word.
        roll: String,
        /// TokenReview's.
        token: String,
    },
    /// The roll knows the pod otherwise than the kubelet.
    #[error("the witnesses disagree: the {what} is {kubelet:?} by the kubelet and {roll:?} by the API server's watch")]
    KubeletAndRollDisagree {
        /// What differs.
        what: &'static str,
        /// The kubelet's word.
        kubelet: String,
        /// The roll's.
        roll: String,
    },
    /// The pod has ended.
    #[error("pod {0} has ended")]
    Over(Uid),
}

impl PodRefusal {
    /// A short name for metrics and logs.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NotANode(_) => "not_a_node_of_a_cluster",
            Self::Malformed(_) => "malformed",
            Self::Review(error) => error.reason(),
            Self::NotBound => "token_not_bound",
            Self::NotBoundToNode => "token_not_bound_to_a_node",
            Self::KubeletDisagrees { .. } => "kubelet_disagrees",
            Self::OtherNode { .. } => "other_node",
            Self::NoPod(_) => "no_pod",
            Self::NotListed(_) => "not_listed",
            Self::RollDisagrees { .. } | Self::KubeletAndRollDisagree { .. } => "roll_disagrees",
            Self::Over(_) => "pod_over",
        }
    }

    /// Whether the same may be granted in a moment, and is neither the node's nor the pod's fault.
    pub fn is_ours(&self) -> bool {
        match self {
            Self::Review(error) => error.is_ours(),
            Self::NotListed(_) => true,
            _ => false,
        }
    }
}

impl PodEvidence {
    /// Judges what a node that was authenticated by its SVID says of a pod.
    ///
    /// # Errors
    /// When the witnesses do not both vouch for the pod, on this node.
    pub async fn judge(roll: &Roll, asks: &Attested, claim: &PodClaim) -> Result<Self, PodRefusal> {
        let By::Node(node) = asks.by() else {
            return Err(PodRefusal::NotANode(asks.by().to_string()));
        };
        let (cluster, asking) = asking(roll, node)?;
        let uid = checked(claim)?;
        if claim.token.is_empty() {
            return Err(PodRefusal::Malformed("the pod's token is missing"));
        }
        let audiences = [AUDIENCE.to_owned()];
        let reviewed = cluster.review(claim.token.expose(), &audiences).await?;
        kubelet_agrees(claim, uid, &reviewed)?;
        let on = reviewed.node.as_ref().ok_or(PodRefusal::NotBoundToNode)?;
        if on.uid != asking {
            return Err(PodRefusal::OtherNode {
                pod: uid,
                on: on.uid,
                asks: asking,
            });
        }
        let pod = cluster.placed_within(uid, NEWS).await;
        let pod = pod.ok_or_else(|| unknown(cluster, uid))?;
        roll_agrees(cluster, &pod, &reviewed)?;
        Ok(Self::of(node, cluster, &pod, [Witness::Kubelet, Witness::TokenReview]))
    }

    /// Judges what such a node says of a pod that it has had for a while, and for which it has no token now. The second witness is what the API server says exists, by the roll. Waits a moment
    /// for a pod that is not known yet.
    ///
    /// # Errors
    /// As [`PodEvidence::judge`].
    pub async fn judge_standing(roll: &Roll, asks: &Attested, claim: &PodClaim) -> Result<Self, PodRefusal> {
        if let By::Node(node) = asks.by()
            && let (Ok((cluster, _)), Ok(uid)) = (asking(roll, node), Uid::parse(&claim.pod_uid))
        {
            cluster.placed_within(uid, NEWS).await;
        }
        Self::standing(roll, asks, claim)
    }

    /// As [`PodEvidence::judge_standing`], by what is known now.
    ///
    /// # Errors
    /// As [`PodEvidence::judge`].
    pub fn standing(roll: &Roll, asks: &Attested, claim: &PodClaim) -> Result<Self, PodRefusal> {
        let By::Node(node) = asks.by() else {
            return Err(PodRefusal::NotANode(asks.by().to_string()));
        };
        let (cluster, asking) = asking(roll, node)?;
        let uid = checked(claim)?;
        let pod = cluster.pod(uid).ok_or_else(|| unknown(cluster, uid))?;
        let on = cluster.node(&pod.node).ok_or_else(|| unknown(cluster, uid))?.meta.uid;
        if on != asking {
            return Err(PodRefusal::OtherNode {
                pod: uid,
                on,
                asks: asking,
            });
        }
        for (what, kubelet, roll) in [
            ("pod's name", &claim.name, &pod.meta.name),
            ("namespace", &claim.namespace, &pod.meta.namespace),
            ("service account", &claim.service_account, &pod.service_account),
        ] {
            if **kubelet != **roll {
                return Err(PodRefusal::KubeletAndRollDisagree {
                    what,
                    kubelet: kubelet.clone(),
                    roll: roll.to_string(),
                });
            }
        }
        if pod.is_over() {
            return Err(PodRefusal::Over(uid));
        }
        Ok(Self::of(node, cluster, &pod, [Witness::Kubelet, Witness::Roll]))
    }

    fn of(node: &SpiffeId, cluster: &Cluster, pod: &Pod, witnesses: [Witness; 2]) -> Self {
        Self {
            node: node.clone(),
            key: PodKey {
                cluster: Arc::clone(cluster.name()),
                uid: pod.meta.uid,
            },
            namespace: Arc::clone(&pod.meta.namespace),
            name: Arc::clone(&pod.meta.name),
            service_account: Arc::clone(&pod.service_account),
            witnesses: witnesses.into_iter().collect(),
        }
    }

    /// The node that asked, and on which the pod is.
    pub fn node(&self) -> &SpiffeId {
        &self.node
    }

    /// The pod.
    pub fn pod(&self) -> &PodKey {
        &self.key
    }

    /// Its namespace.
    pub fn namespace(&self) -> &Arc<str> {
        &self.namespace
    }

    /// Its name.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Its service account.
    pub fn service_account(&self) -> &Arc<str> {
        &self.service_account
    }

    /// Who vouched for it.
    pub fn witnesses(&self) -> Witnesses {
        self.witnesses
    }

    /// The node, asking for this pod: what `issuance` wants, so that the leaf names both witnesses.
    pub fn attested(&self) -> Attested {
        Attested::pod(self.node.clone(), self.witnesses)
    }
}

/// The cluster and the UID of the node that asks.
fn asking<'a>(roll: &'a Roll, node: &SpiffeId) -> Result<(&'a Cluster, Uid), PodRefusal> {
    let found = k8s_psat::node_of(node).and_then(|(cluster, uid)| Some((roll.cluster(cluster)?, uid)));
    found.ok_or_else(|| PodRefusal::NotANode(node.to_string()))
}

/// Why a pod is not in the roll.
fn unknown(cluster: &Cluster, uid: Uid) -> PodRefusal {
    match cluster.is_synced() {
        true => PodRefusal::NoPod(uid),
        false => PodRefusal::NotListed(Arc::clone(cluster.name())),
    }
}

fn checked(claim: &PodClaim) -> Result<Uid, PodRefusal> {
    for (name, why) in [
        (&claim.namespace, "the namespace is no name"),
        (&claim.name, "the pod's name is no name"),
        (&claim.service_account, "the service account is no name"),
    ] {
        let legal = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.');
        if name.is_empty() || name.len() > MAX_NAME || !name.bytes().all(legal) {
            return Err(PodRefusal::Malformed(why));
        }
    }
    Uid::parse(&claim.pod_uid).map_err(|_| PodRefusal::Malformed("the pod's UID is none"))
}

fn kubelet_agrees(claim: &PodClaim, uid: Uid, reviewed: &Reviewed) -> Result<(), PodRefusal> {
    let bound = reviewed.pod.as_ref().ok_or(PodRefusal::NotBound)?;
    let (kubelet, token) = (uid.to_string(), bound.uid.to_string());
    for (what, kubelet, token) in [
        ("pod's UID", &kubelet, &token),
        ("pod's name", &claim.name, &bound.name),
        ("namespace", &claim.namespace, &reviewed.namespace),
        ("service account", &claim.service_account, &reviewed.service_account),
    ] {
        if kubelet != token {
            return Err(PodRefusal::KubeletDisagrees {
                what,
                kubelet: kubelet.clone(),
                token: token.clone(),
            });
        }
    }
    Ok(())
}

fn roll_agrees(cluster: &Cluster, pod: &Pod, reviewed: &Reviewed) -> Result<(), PodRefusal> {
    let bound = |bound: &Option<crate::roll::Bound>| bound.as_ref().map_or(String::new(), |bound| bound.name.clone());
    let node = cluster.node(&pod.node).map(|node| node.meta.uid.to_string());
    let told = reviewed.node.as_ref().map(|node| node.uid.to_string());
    for (what, roll, token) in [
        ("pod's name", &*pod.meta.name, bound(&reviewed.pod)),
        ("namespace", &*pod.meta.namespace, reviewed.namespace.clone()),
        (
            "service account",
            &*pod.service_account,
            reviewed.service_account.clone(),
        ),
        ("node", &*pod.node, bound(&reviewed.node)),
        (
            "node's UID",
            node.as_deref().unwrap_or_default(),
            told.unwrap_or_default(),
        ),
    ] {
        if roll != token {
            let roll = roll.to_owned();
            return Err(PodRefusal::RollDisagrees { what, roll, token });
        }
    }
    // A service account that was deleted and made anew under its name is another one.
    let account = cluster.service_account(&pod.meta.namespace, &pod.service_account);
    if let (Some(account), Some(told)) = (account, reviewed.service_account_uid)
        && account.uid != told
    {
        return Err(PodRefusal::RollDisagrees {
            what: "service account's UID",
            roll: account.uid.to_string(),
            token: told.to_string(),
        });
    }
    match pod.is_over() {
        true => Err(PodRefusal::Over(pod.meta.uid)),
        false => Ok(()),
    }
}
