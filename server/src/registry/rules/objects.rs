//! The objects that say who gets which identity, field by field as they are.
//!
//! `spire.spiffe.io/v1alpha1` is SPIRE's controller manager's; `mintmark.dev/v1alpha1` is ours. What a field may hold is checked when an object is compiled, so
//! that one bad object is a rule with an error and not a list that cannot be read. The definitions (CRDs) in `deploy/chart` are made of these types by `tests/crds.rs`, the
//! descriptions of what the fields are by what is written at them here.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::labels::LabelSelector;

/// The metadata that matters here.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Metadata {
    /// The name.
    pub name: String,
    /// The namespace; empty for what has none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// The UID.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uid: String,
    /// RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub creation_timestamp: Option<String>,
    /// Grows with each change of the spec.
    #[serde(skip_serializing_if = "is_zero")]
    pub generation: i64,
}

/// An object of one of the kinds below.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Object<Spec, Status> {
    /// The metadata.
    pub metadata: Metadata,
    /// What is wanted.
    pub spec: Spec,
    /// What came of it.
    pub status: Status,
}

/// `ClusterSPIFFEID`: an identity for the pods of the cluster that it selects.
pub type ClusterSpiffeId = Object<ClusterSpiffeIdSpec, RuleStatus>;
/// `ClusterStaticEntry`: a registration entry.
pub type ClusterStaticEntry = Object<ClusterStaticEntrySpec, ClusterStaticEntryStatus>;
/// `ClusterFederatedTrustDomain`: a trust domain to federate with. Its status is empty.
pub type ClusterFederatedTrustDomain = Object<ClusterFederatedTrustDomainSpec, Empty>;
/// `WorkloadIdentity`: an identity for pods of its own namespace.
pub type WorkloadIdentity = Object<WorkloadIdentitySpec, RuleStatus>;

/// No fields.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Empty {}

/// What a `ClusterSPIFFEID` asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["spiffeIDTemplate"]))]
pub struct ClusterSpiffeIdSpec {
    /// The template of the SPIFFE ID: Go's text/template over `.TrustDomain`, `.ClusterName`, `.ClusterDomain`, `.PodMeta`, `.PodSpec`, `.NodeMeta` and
    /// `.NodeSpec`.
    #[serde(rename = "spiffeIDTemplate")]
    pub spiffe_id_template: String,
    /// The lifetime of X.509-SVIDs, such as 1h30m; the server's default when none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl: Option<String>,
    /// The lifetime of JWT-SVIDs, such as 5m; the server's default when none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jwt_ttl: Option<String>,
    /// Templates of DNS names.
    #[serde(rename = "dnsNameTemplates", skip_serializing_if = "Vec::is_empty")]
    pub dns_name_templates: Vec<String>,
    /// Templates of selectors that a workload must have beside the UID of its pod.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub workload_selector_templates: Vec<String>,
    /// Trust domains whose bundles the workload gets.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub federates_with: Vec<String>,
    /// The namespaces; all when none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace_selector: Option<LabelSelector>,
    /// The pods; all when none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod_selector: Option<LabelSelector>,
    /// The identity may administer the server.
    #[serde(skip_serializing_if = "is_false")]
    pub admin: bool,
    /// The identity is that of a server below this one.
    #[serde(skip_serializing_if = "is_false")]
    pub downstream: bool,
    /// DNS names of the services that the pod stands behind.
    #[serde(rename = "autoPopulateDNSNames", skip_serializing_if = "is_false")]
    pub auto_populate_dns_names: bool,
    /// Which server the object is for; a server with a class name of its own reads no others.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub class_name: String,
    /// Only for pods that no other `ClusterSPIFFEID` gives an identity.
    #[serde(skip_serializing_if = "is_false")]
    pub fallback: bool,
    /// Tells a workload with several identities what this one is for.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub hint: String,
}

/// What a `WorkloadIdentity` asks for: of a `ClusterSPIFFEID` what a tenant may decide. The SPIFFE ID's path is below `/ns/<namespace>/`; DNS names are those
/// of the namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["spiffeIDTemplate"]))]
pub struct WorkloadIdentitySpec {
    /// The pods of the namespace; all when none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod_selector: Option<LabelSelector>,
    /// The template of the SPIFFE ID: Go's text/template over `.TrustDomain`, `.ClusterName`, `.ClusterDomain`, `.PodMeta`, `.PodSpec`, `.NodeMeta` and
    /// `.NodeSpec`.
    #[serde(rename = "spiffeIDTemplate")]
    pub spiffe_id_template: String,
    /// The lifetime of X.509-SVIDs, such as 1h30m; the server's default when none.
    #[serde(rename = "x509TTL", skip_serializing_if = "Option::is_none")]
    pub x509_ttl: Option<String>,
    /// The lifetime of JWT-SVIDs, such as 5m; the server's default when none.
    #[serde(rename = "jwtTTL", skip_serializing_if = "Option::is_none")]
    pub jwt_ttl: Option<String>,
    /// Templates of DNS names.
    #[serde(rename = "dnsNameTemplates", skip_serializing_if = "Vec::is_empty")]
    pub dns_name_templates: Vec<String>,
    /// DNS names of the services that the pod stands behind.
    #[serde(rename = "autoPopulateDNSNames", skip_serializing_if = "is_false")]
    pub auto_populate_dns_names: bool,
    /// Templates of selectors that a workload must have beside the UID of its pod.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub workload_selector_templates: Vec<String>,
    /// Trust domains whose bundles the workload gets.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub federates_with: Vec<String>,
    /// Tells a workload with several identities what this one is for.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub hint: String,
}

/// What became of a `ClusterSPIFFEID` or a `WorkloadIdentity`: SPIRE's numbers, and beside them which pods fail and why.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RuleStatus {
    /// How many there are of what.
    pub stats: RuleStats,
    /// Why the object cannot be used at all; empty when it can.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub error: String,
    /// The generation that this is about.
    #[serde(skip_serializing_if = "is_zero")]
    pub observed_generation: i64,
    /// Some of the pods that are selected and get nothing, and why.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub failures: Vec<PodFailure>,
    /// What works and will not everywhere.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// How many there are of what, as SPIRE's controller manager counts them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RuleStats {
    /// Namespaces that are selected.
    pub namespaces_selected: usize,
    /// Of these, namespaces that are ignored because of the configuration.
    pub namespaces_ignored: usize,
    /// Pods that are selected in the rest.
    pub pods_selected: usize,
    /// Pods for which no identity could be made.
    pub pod_entry_render_failures: usize,
    /// Identities that another rule gives, too.
    pub entries_masked: usize,
    /// Identities that the rule gives.
    pub entries_to_set: usize,
    /// Identities that could not be set; none here, as they are computed.
    pub entry_failures: usize,
}

/// A pod that is selected and gets nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["pod", "reason"]))]
pub struct PodFailure {
    /// `namespace/name`
    pub pod: String,
    /// Why it gets nothing.
    pub reason: String,
}

/// What a `ClusterStaticEntry` asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["spiffeID", "parentID", "selectors"]))]
pub struct ClusterStaticEntrySpec {
    /// The identity.
    #[serde(rename = "spiffeID")]
    pub spiffe_id: String,
    /// The node, the alias of nodes, or (for an alias) the server itself.
    #[serde(rename = "parentID")]
    pub parent_id: String,
    /// What a process, or for an alias a node, must have.
    pub selectors: Vec<String>,
    /// Trust domains whose bundles the workload gets.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub federates_with: Vec<String>,
    /// The lifetime of X.509-SVIDs, such as 1h30m; the server's default when none.
    #[serde(rename = "x509SVIDTTL", skip_serializing_if = "Option::is_none")]
    pub x509_svid_ttl: Option<String>,
    /// The lifetime of JWT-SVIDs, such as 5m; the server's default when none.
    #[serde(rename = "jwtSVIDTTL", skip_serializing_if = "Option::is_none")]
    pub jwt_svid_ttl: Option<String>,
    /// DNS names.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub dns_names: Vec<String>,
    /// Tells a workload with several identities what this one is for.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub hint: String,
    /// The identity may administer the server.
    #[serde(skip_serializing_if = "is_false")]
    pub admin: bool,
    /// The identity is that of a server below this one.
    #[serde(skip_serializing_if = "is_false")]
    pub downstream: bool,
    /// The SVID is for a store of secrets.
    #[serde(rename = "storeSVID", skip_serializing_if = "is_false")]
    pub store_svid: bool,
    /// Which server the object is for; a server with a class name of its own reads no others.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub class_name: String,
}

/// What became of a `ClusterStaticEntry`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ClusterStaticEntryStatus {
    /// It says an entry that can be.
    pub rendered: bool,
    /// Another object says the same entry.
    pub masked: bool,
    /// It is there.
    pub set: bool,
}

/// What a `ClusterFederatedTrustDomain` asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["trustDomain", "bundleEndpointURL", "bundleEndpointProfile"]))]
pub struct ClusterFederatedTrustDomainSpec {
    /// The trust domain.
    pub trust_domain: String,
    /// Where its bundle is: `https`, without user information.
    #[serde(rename = "bundleEndpointURL")]
    pub bundle_endpoint_url: String,
    /// How its endpoint is authenticated.
    pub bundle_endpoint_profile: BundleEndpointProfile,
    /// The bundle to begin with.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub trust_domain_bundle: String,
    /// Which server the object is for; a server with a class name of its own reads no others.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub class_name: String,
}

/// How a bundle endpoint is authenticated.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["type"]))]
pub struct BundleEndpointProfile {
    /// `https_web` or `https_spiffe`.
    #[schemars(extend("enum" = ["https_spiffe", "https_web"]))]
    pub r#type: String,
    /// The SPIFFE ID of the endpoint, for `https_spiffe`.
    #[serde(rename = "endpointSPIFFEID", skip_serializing_if = "String::is_empty")]
    pub endpoint_spiffe_id: String,
}

/// Which kind of rule it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RuleKind {
    /// A `ClusterSPIFFEID`.
    ClusterSpiffeId,
    /// A `WorkloadIdentity`.
    WorkloadIdentity,
    /// `kubernetes.default_identity` of the configuration.
    Default,
}

/// A rule by its object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuleName {
    /// The kind.
    pub kind: RuleKind,
    /// The namespace; empty for what has none.
    pub namespace: Arc<str>,
    /// The name.
    pub name: Arc<str>,
    /// The UID.
    pub uid: Arc<str>,
}

impl std::fmt::Display for RuleName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { namespace, name, .. } = self;
        match self.kind {
            RuleKind::ClusterSpiffeId => write!(f, "ClusterSPIFFEID {name}"),
            RuleKind::WorkloadIdentity => write!(f, "WorkloadIdentity {namespace}/{name}"),
            RuleKind::Default => f.write_str("kubernetes.default_identity"),
        }
    }
}

/// An object that is to be a rule, before it is understood.
#[derive(Debug, Clone)]
pub struct RuleObject {
    /// Which one.
    pub name: RuleName,
    /// When it was made, in Unix seconds.
    pub created: i64,
    /// Grows with each change of the spec.
    pub generation: i64,
    /// The spec, as the API server has it.
    pub spec: serde_json::Value,
}

impl RuleObject {
    /// Of typed objects.
    pub fn new<Spec: Serialize, Status>(kind: RuleKind, object: &Object<Spec, Status>) -> Self {
        let meta = &object.metadata;
        Self {
            name: RuleName {
                kind,
                namespace: meta.namespace.as_str().into(),
                name: meta.name.as_str().into(),
                uid: meta.uid.as_str().into(),
            },
            created: meta.creation_timestamp.as_deref().map(unix).unwrap_or_default(),
            generation: meta.generation,
            spec: serde_json::to_value(&object.spec).unwrap_or_default(),
        }
    }
}

/// RFC 3339 as Unix seconds, 0 for what is none.
pub(super) fn unix(text: &str) -> i64 {
    let format = time::format_description::well_known::Rfc3339;
    time::OffsetDateTime::parse(text, &format).map_or(0, time::OffsetDateTime::unix_timestamp)
}

fn is_false(value: &bool) -> bool {
    !value
}

fn is_zero(value: &i64) -> bool {
    *value == 0
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn objects_keep_the_names_that_spire_gave_their_fields() {
        let spec = json!({
            "spiffeIDTemplate": "spiffe://{{ .TrustDomain }}/x",
            "ttl": "1h0m0s",
            "jwtTtl": "5m0s",
            "dnsNameTemplates": ["a"],
            "workloadSelectorTemplates": ["k8s:a:b"],
            "federatesWith": ["other.test"],
            "namespaceSelector": {"matchLabels": {"a": "b"}},
            "podSelector": {"matchExpressions": [{"key": "a", "operator": "In", "values": ["b"]}]},
            "admin": true,
            "downstream": true,
            "autoPopulateDNSNames": true,
            "className": "c",
            "fallback": true,
            "hint": "h",
        });
        let read: ClusterSpiffeIdSpec = serde_json::from_value(spec.clone()).unwrap();
        assert_eq!(serde_json::to_value(read).unwrap(), spec);
        let spec = json!({
            "spiffeID": "spiffe://example.org/a",
            "parentID": "spiffe://example.org/b",
            "selectors": ["unix:uid:1"],
            "federatesWith": ["other.test"],
            "x509SVIDTTL": "1h",
            "jwtSVIDTTL": "5m",
            "dnsNames": ["a"],
            "hint": "h",
            "admin": true,
            "downstream": true,
            "storeSVID": true,
            "className": "c",
        });
        let read: ClusterStaticEntrySpec = serde_json::from_value(spec.clone()).unwrap();
        assert_eq!(serde_json::to_value(read).unwrap(), spec);
        let spec = json!({
            "trustDomain": "other.test",
            "bundleEndpointURL": "https://other.test/bundle",
            "bundleEndpointProfile": {"type": "https_spiffe", "endpointSPIFFEID": "spiffe://other.test/e"},
            "trustDomainBundle": "{}",
            "className": "c",
        });
        let read: ClusterFederatedTrustDomainSpec = serde_json::from_value(spec.clone()).unwrap();
        assert_eq!(serde_json::to_value(read).unwrap(), spec);
        let stats = json!({
            "namespacesSelected": 1, "namespacesIgnored": 2, "podsSelected": 3, "podEntryRenderFailures": 4,
            "entriesMasked": 5, "entriesToSet": 6, "entryFailures": 7,
        });
        let read: RuleStatus = serde_json::from_value(json!({"stats": stats})).unwrap();
        assert_eq!(serde_json::to_value(read).unwrap(), json!({"stats": stats}));
    }
}
