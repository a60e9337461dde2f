//! What the roll knows of each thing: plain values, trimmed to what identity needs. Text that many things share is shared.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde_json::Value;

use super::kept::Kept;

/// The UID of a Kubernetes object: the API server makes a UUID for each. Two objects of one name have two UIDs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Uid(u128);

/// The text is not a UID.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a UID of Kubernetes, such as 1b4e28ba-2fa1-4d2a-883f-0016d3cca427")]
pub struct UidError(String);

/// Labels or annotations, in the order of their names.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Pairs(pub(super) Box<[(Arc<str>, Arc<str>)]>);

/// The metadata of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meta {
    /// The UID.
    pub uid: Uid,
    /// The namespace; empty for what has none.
    pub namespace: Arc<str>,
    /// The name.
    pub name: Arc<str>,
    /// What the name was made from, if it was made by the API server; else empty.
    pub generate_name: Arc<str>,
    /// Unix seconds.
    pub created: i64,
    /// It is being deleted.
    pub is_deleting: bool,
    /// The labels, all of them.
    pub labels: Pairs,
    /// The annotations, except those of [`Meta::left_out`].
    pub annotations: Pairs,
    /// The names of annotations that are too large to be kept.
    pub left_out: Box<[Arc<str>]>,
    /// What it belongs to.
    pub owners: Box<[Owner]>,
}

/// What an object belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// `apps/v1`.
    pub api_version: Arc<str>,
    /// `ReplicaSet`.
    pub kind: Arc<str>,
    /// The name.
    pub name: Arc<str>,
    /// The UID.
    pub uid: Uid,
    /// Whether it made the object.
    pub is_controller: bool,
}

/// A pod.
#[derive(Clone, Debug, PartialEq)]
pub struct Pod {
    /// The metadata.
    pub meta: Meta,
    /// The node that it is bound to; empty before that.
    pub node: Arc<str>,
    /// The service account.
    pub service_account: Arc<str>,
    /// Whether it is in the node's network namespace.
    pub host_network: bool,
    /// Whether it sees the node's processes.
    pub host_pid: bool,
    /// Whether it shares the node's IPC.
    pub host_ipc: bool,
    /// `spec.hostname`.
    pub hostname: Arc<str>,
    /// `spec.subdomain`.
    pub subdomain: Arc<str>,
    /// `spec.schedulerName`.
    pub scheduler: Arc<str>,
    /// `spec.priorityClassName`.
    pub priority_class: Arc<str>,
    /// `spec.runtimeClassName`.
    pub runtime_class: Arc<str>,
    /// `spec.restartPolicy`.
    pub restart_policy: Arc<str>,
    /// The containers: init containers, the pod's own, ephemeral ones.
    pub containers: Box<[Container]>,
    /// The CSI drivers of its inline volumes.
    pub csi_drivers: Box<[Arc<str>]>,
    /// How far it is.
    pub phase: Phase,
    /// The first of its addresses, once it has one.
    pub ip: Box<str>,
    /// The address of its node.
    pub host_ip: Arc<str>,
    /// What the [`Reader`](super::Reader) kept of it.
    pub kept: Option<Kept>,
}

/// A container of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    /// Which list of the pod it is in.
    pub role: Role,
    /// The name.
    pub name: Arc<str>,
    /// The image as the pod asks for it.
    pub image: Arc<str>,
    /// The image that runs, by digest; empty before it does.
    pub image_id: Arc<str>,
    /// The container's ID without the runtime's name before it; empty before it runs. A restarted container has a new one.
    pub id: Box<str>,
}

/// Which list of the pod a container is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// `initContainers`.
    Init,
    /// `containers`.
    Main,
    /// `ephemeralContainers`.
    Ephemeral,
}

/// How far a pod is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// Its containers have not all begun.
    Pending,
    /// At least one of its containers runs.
    Running,
    /// All have ended well.
    Succeeded,
    /// All have ended, at least one not well.
    Failed,
    /// Its node cannot be reached, or the phase is one that we do not know.
    #[default]
    Unknown,
}

/// A node.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// The metadata.
    pub meta: Meta,
    /// `spec.providerID`.
    pub provider_id: Arc<str>,
    /// `spec.podCIDR`.
    pub pod_cidr: Arc<str>,
    /// It is cordoned.
    pub is_unschedulable: bool,
    /// What the [`Reader`](super::Reader) kept of it.
    pub kept: Option<Kept>,
}

/// A namespace.
#[derive(Clone, Debug, PartialEq)]
pub struct Namespace {
    /// The metadata.
    pub meta: Meta,
    /// What the [`Reader`](super::Reader) kept of it.
    pub kept: Option<Kept>,
}

/// A service account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceAccount {
    /// The UID.
    pub uid: Uid,
}

/// An object that says who gets which identity. What it says is for the room `registry` to read.
#[derive(Clone, Debug, PartialEq)]
pub struct Object {
    /// Its kind.
    pub kind: ObjectKind,
    /// The metadata.
    pub meta: Meta,
    /// Grows with each change of the spec.
    pub generation: i64,
    /// The spec as it is.
    pub spec: Value,
}

/// The kinds of [`Object`]s.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectKind {
    /// `spire.spiffe.io/v1alpha1`.
    ClusterSpiffeId,
    /// `spire.spiffe.io/v1alpha1`.
    ClusterStaticEntry,
    /// `spire.spiffe.io/v1alpha1`.
    ClusterFederatedTrustDomain,
    /// `mintmark.dev/v1alpha1`.
    WorkloadIdentity,
}

/// The name of a pod for all clusters.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodKey {
    /// The cluster, by its name in the configuration.
    pub cluster: Arc<str>,
    /// The pod.
    pub uid: Uid,
}

/// A pod with all that decides which identities it has. One moment of one cluster.
#[derive(Clone, Debug)]
pub struct Subject {
    /// The cluster, by its name in the configuration.
    pub cluster: Arc<str>,
    /// The domain of its services' names, `cluster.local`.
    pub cluster_domain: Arc<str>,
    /// The pod.
    pub pod: Arc<Pod>,
    /// Its namespace, unless that is not known yet.
    pub namespace: Option<Arc<Namespace>>,
    /// Its node, if it is bound and the node is known.
    pub node: Option<Arc<Node>>,
    /// The services in its namespace that it stands behind, in order.
    pub services: Vec<Arc<str>>,
}

impl Pod {
    /// Whether all of its containers have ended for good.
    pub fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Succeeded | Phase::Failed)
    }
}

impl ObjectKind {
    /// All of them.
    pub const ALL: [Self; 4] = [
        Self::ClusterSpiffeId,
        Self::ClusterStaticEntry,
        Self::ClusterFederatedTrustDomain,
        Self::WorkloadIdentity,
    ];

    /// `ClusterSPIFFEID`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ClusterSpiffeId => "ClusterSPIFFEID",
            Self::ClusterStaticEntry => "ClusterStaticEntry",
            Self::ClusterFederatedTrustDomain => "ClusterFederatedTrustDomain",
            Self::WorkloadIdentity => "WorkloadIdentity",
        }
    }

    /// `spire.spiffe.io`; the version of each is `v1alpha1`.
    pub fn group(self) -> &'static str {
        match self {
            Self::WorkloadIdentity => "mintmark.dev",
            _ => "spire.spiffe.io",
        }
    }

    /// `clusterspiffeids`, as it stands in paths and in metrics.
    pub fn plural(self) -> &'static str {
        match self {
            Self::ClusterSpiffeId => "clusterspiffeids",
            Self::ClusterStaticEntry => "clusterstaticentries",
            Self::ClusterFederatedTrustDomain => "clusterfederatedtrustdomains",
            Self::WorkloadIdentity => "workloadidentities",
        }
    }

    /// The name of the definition, without which there are none: `clusterspiffeids.spire.spiffe.io`.
    pub(super) fn definition(self) -> String {
        format!("{}.{}", self.plural(), self.group())
    }

    /// Where the API server has them.
    pub(super) fn path(self) -> String {
        format!("/apis/{}/v1alpha1/{}", self.group(), self.plural())
    }
}

impl Phase {
    pub(super) fn parse(text: &str) -> Self {
        match text {
            "Pending" => Self::Pending,
            "Running" => Self::Running,
            "Succeeded" => Self::Succeeded,
            "Failed" => Self::Failed,
            _ => Self::Unknown,
        }
    }
}

impl Pairs {
    /// The value of `name`.
    pub fn get(&self, name: &str) -> Option<&Arc<str>> {
        let at = self.0.binary_search_by(|(key, _)| (**key).cmp(name)).ok()?;
        self.0.get(at).map(|(_, value)| value)
    }

    /// All, in the order of their names.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (&**name, &**value))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Pairs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl Uid {
    /// Where the dashes stand.
    const DASHES: [usize; 4] = [8, 13, 18, 23];

    /// Parses the one form that the API server writes: lower case, with dashes.
    ///
    /// # Errors
    /// When it is another.
    pub fn parse(text: &str) -> Result<Self, UidError> {
        let refused = || UidError(text.chars().take(64).collect());
        if text.len() != 36 {
            return Err(refused());
        }
        let digits = text.bytes().enumerate().map(|(at, byte)| match byte {
            b'-' if Self::DASHES.contains(&at) => Some(None),
            b'0'..=b'9' if !Self::DASHES.contains(&at) => Some(Some(byte - b'0')),
            b'a'..=b'f' if !Self::DASHES.contains(&at) => Some(Some(byte - b'a' + 10)),
            _ => None,
        });
        let mut value = 0u128;
        for digit in digits {
            if let Some(digit) = digit.ok_or_else(refused)? {
                value = (value << 4) | u128::from(digit);
            }
        }
        Ok(Self(value))
    }
}

impl FromStr for Uid {
    type Err = UidError;

    fn from_str(text: &str) -> Result<Self, UidError> {
        Self::parse(text)
    }
}

impl fmt::Display for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hex = format!("{:032x}", self.0);
        f.pad(&[&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-"))
    }
}

impl fmt::Debug for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for PodKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.cluster, self.uid)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_uid_is_the_text_that_it_was_made_from(bytes: [u8; 16]) {
            let text = uuid::Uuid::from_bytes(bytes).to_string();
            prop_assert_eq!(Uid::parse(&text).unwrap().to_string(), text);
        }

        #[test]
        fn whatever_is_no_uid_is_refused(text in "[0-9a-fA-F-]{30,38}") {
            let expected = uuid::Uuid::parse_str(&text).is_ok_and(|uuid| uuid.hyphenated().to_string() == text);
            prop_assert_eq!(Uid::parse(&text).is_ok(), expected);
        }
    }
}
