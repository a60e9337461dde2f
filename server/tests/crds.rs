//! The definitions of the identity rules' objects in `deploy/chart/templates` are those of the server's types.
//!
//! `UPDATE_DOCS=1 cargo test --release -p mintmark-server --test crds` writes them anew.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests own their files")]

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;

use mintmark_server::registry::rules::{
    ClusterFederatedTrustDomainSpec, ClusterSpiffeIdSpec, ClusterStaticEntrySpec, ClusterStaticEntryStatus, RuleStatus,
    WorkloadIdentitySpec,
};
use schemars::transform::{RecursiveTransform, Transform as _};
use schemars::{JsonSchema, Schema};
use serde_json::{Value, json};

const GENERATED: &str = "\
{{- /*
Generated from the server's types: `UPDATE_DOCS=1 cargo test --release -p mintmark-server --test crds` writes it anew.
*/ -}}
";

/// Helm would say that a field conflicts; this says what to do.
const OWNED_BY_OTHERS: &str = r#"{{- range $name := list "clusterspiffeids" "clusterstaticentries" "clusterfederatedtrustdomains" }}
{{- with lookup "apiextensions.k8s.io/v1" "CustomResourceDefinition" "" (printf "%s.spire.spiffe.io" $name) }}
{{- $owner := dig "metadata" "annotations" "meta.helm.sh/release-name" "" . }}
{{- $namespace := dig "metadata" "annotations" "meta.helm.sh/release-namespace" "" . }}
{{- if or (ne $owner $.Release.Name) (ne $namespace $.Release.Namespace) }}
{{- fail (printf "the definition %s.spire.spiffe.io is here already and belongs to %s: install with --set spire.crds=false, and leave it to its owner" $name (ternary "no Helm release" (printf "release %s in namespace %s" $owner $namespace) (eq $owner ""))) }}
{{- end }}
{{- end }}
{{- end }}
"#;

struct Definition {
    group: &'static str,
    kind: &'static str,
    plural: &'static str,
    scope: &'static str,
    description: &'static str,
    spec: Schema,
    status: Schema,
    /// What `kubectl get` shows between name and age.
    columns: Value,
}

fn column(name: &str, kind: &str, path: &str) -> Value {
    json!({"name": name, "type": kind, "jsonPath": path})
}

fn columns_of_rules() -> Value {
    json!([
        column("SPIFFE ID", "string", ".spec.spiffeIDTemplate"),
        column("Pods", "integer", ".status.stats.podsSelected"),
        column("Identities", "integer", ".status.stats.entriesToSet"),
        column("Failures", "integer", ".status.stats.podEntryRenderFailures"),
        column("Error", "string", ".status.error"),
    ])
}

fn workload_identity() -> Definition {
    Definition {
        group: "mintmark.dev",
        kind: "WorkloadIdentity",
        plural: "workloadidentities",
        scope: "Namespaced",
        description: "An identity for pods of its own namespace.",
        spec: schema::<WorkloadIdentitySpec>(),
        status: schema::<RuleStatus>(),
        columns: columns_of_rules(),
    }
}

fn cluster_spiffe_id() -> Definition {
    Definition {
        group: "spire.spiffe.io",
        kind: "ClusterSPIFFEID",
        plural: "clusterspiffeids",
        scope: "Cluster",
        description: "An identity for the pods of the cluster that it selects.",
        spec: schema::<ClusterSpiffeIdSpec>(),
        status: schema::<RuleStatus>(),
        columns: columns_of_rules(),
    }
}

fn cluster_static_entry() -> Definition {
    Definition {
        group: "spire.spiffe.io",
        kind: "ClusterStaticEntry",
        plural: "clusterstaticentries",
        scope: "Cluster",
        description: "A registration entry.",
        spec: schema::<ClusterStaticEntrySpec>(),
        status: schema::<ClusterStaticEntryStatus>(),
        columns: json!([
            column("SPIFFE ID", "string", ".spec.spiffeID"),
            column("Set", "boolean", ".status.set"),
            column("Parent", "string", ".spec.parentID"),
        ]),
    }
}

fn cluster_federated_trust_domain() -> Definition {
    Definition {
        group: "spire.spiffe.io",
        kind: "ClusterFederatedTrustDomain",
        plural: "clusterfederatedtrustdomains",
        scope: "Cluster",
        description: "A trust domain to federate with.",
        spec: schema::<ClusterFederatedTrustDomainSpec>(),
        status: json!({"type": "object"}).try_into().unwrap(),
        columns: json!([
            column("Trust Domain", "string", ".spec.trustDomain"),
            column("Endpoint URL", "string", ".spec.bundleEndpointURL"),
        ]),
    }
}

impl Definition {
    /// Everything below `spec` of the definition.
    fn spec(&self) -> Value {
        let mut columns = self.columns.clone();
        let age = column("Age", "date", ".metadata.creationTimestamp");
        columns.as_array_mut().unwrap().push(age);
        json!({
            "group": self.group,
            "names": {
                "kind": self.kind,
                "listKind": format!("{}List", self.kind),
                "plural": self.plural,
                "singular": self.kind.to_lowercase(),
            },
            "scope": self.scope,
            "versions": [{
                "name": "v1alpha1",
                "served": true,
                "storage": true,
                "subresources": {"status": {}},
                "additionalPrinterColumns": columns,
                "schema": {"openAPIV3Schema": {
                    "type": "object",
                    "description": self.description,
                    "required": ["spec"],
                    "properties": {
                        "apiVersion": {"type": "string"},
                        "kind": {"type": "string"},
                        "metadata": {"type": "object"},
                        "spec": self.spec,
                        "status": self.status,
                    },
                }},
            }],
        })
    }

    /// The definition as a part of the chart.
    fn part(&self) -> String {
        let mut part = format!(
            "---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata:
  name: {}.{}
  labels:
    app.kubernetes.io/part-of: mintmark
    app.kubernetes.io/managed-by: {{{{ .Release.Service }}}}
  {{{{- if .Values.crds.keep }}}}
  annotations:
    helm.sh/resource-policy: keep
  {{{{- end }}}}
spec:
",
            self.plural, self.group
        );
        let mut spec = String::new();
        yaml(&mut spec, 2, &self.spec());
        assert!(
            !spec.contains("{{"),
            "Helm would take a part of it for its own:\n{spec}"
        );
        part.push_str(&spec);
        part
    }
}

/// The type's schema in the form that the API server asks for ("structural"), with every type where it is used.
fn schema<T: JsonSchema>() -> Schema {
    let settings = schemars::generate::SchemaSettings::openapi3().with(|settings| {
        settings.inline_subschemas = true;
        settings.meta_schema = None;
    });
    let mut schema = settings.into_generator().into_root_schema_for::<T>();
    RecursiveTransform(|schema: &mut Schema| {
        // Defaults would be written into every object; what is null is left out before it is checked.
        for left_out in ["default", "nullable", "title"] {
            schema.remove(left_out);
        }
        if schema.get("type") == Some(&json!("integer")) {
            schema.insert("format".into(), json!("int64"));
        }
        if let Some(Value::String(text)) = schema.get_mut("description") {
            assert!(!text.contains("[`"), "no link works in a definition: {text}");
            *text = text.replace('\n', " ").replace('`', "");
        }
    })
    .transform(&mut schema);
    schema
}

/// Block style, keys sorted, texts as JSON has them (which is YAML).
fn yaml(out: &mut String, indent: usize, value: &Value) {
    let pad = " ".repeat(indent);
    let is_block = |value: &Value| match value {
        Value::Object(map) => !map.is_empty(),
        Value::Array(list) => !list.is_empty(),
        _ => false,
    };
    match value {
        Value::Object(map) => {
            for key in map.keys().collect::<BTreeSet<_>>() {
                match &map[key] {
                    value if is_block(value) => {
                        let _ = writeln!(out, "{pad}{key}:");
                        yaml(out, indent + 2, value);
                    }
                    value => {
                        let _ = writeln!(out, "{pad}{key}: {value}");
                    }
                }
            }
        }
        Value::Array(list) => {
            for value in list {
                let mut item = String::new();
                match is_block(value) {
                    true => yaml(&mut item, indent + 2, value),
                    false => item = format!("{pad}  {value}\n"),
                }
                item.replace_range(indent..indent + 2, "- ");
                out.push_str(&item);
            }
        }
        scalar => panic!("{scalar} is no block"),
    }
}

fn is_committed(file: &str, guard: &str, before: &str, definitions: &[Definition]) {
    let parts: String = definitions.iter().map(Definition::part).collect();
    let expected = format!("{GENERATED}{{{{- if {guard} }}}}\n{before}{parts}{{{{- end }}}}\n");
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../deploy/chart/templates")
        .join(file);
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, &expected).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == expected,
        "deploy/chart/templates/{file} is not what the types say: UPDATE_DOCS=1 cargo test --release -p mintmark-server --test crds writes it anew"
    );
}

#[test]
fn the_charts_definition_of_our_own_kind_is_that_of_the_type() {
    is_committed("crds-mintmark.yaml", ".Values.crds.enabled", "", &[workload_identity()]);
}

#[test]
fn the_charts_definitions_of_spires_kinds_are_those_of_the_types() {
    let definitions = [
        cluster_spiffe_id(),
        cluster_static_entry(),
        cluster_federated_trust_domain(),
    ];
    is_committed("crds-spire.yaml", ".Values.spire.crds", OWNED_BY_OTHERS, &definitions);
}

/// What the API server does not find in a definition it drops from the object.
#[test]
fn no_field_that_spire_knows_is_dropped() {
    let names = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<BTreeSet<_>>();
    for (definition, fields, required) in [
        (
            cluster_spiffe_id(),
            "admin autoPopulateDNSNames className dnsNameTemplates downstream fallback federatesWith hint jwtTtl \
             namespaceSelector podSelector spiffeIDTemplate ttl workloadSelectorTemplates",
            "spiffeIDTemplate",
        ),
        (
            cluster_static_entry(),
            "admin className dnsNames downstream federatesWith hint jwtSVIDTTL parentID selectors spiffeID storeSVID \
             x509SVIDTTL",
            "parentID selectors spiffeID",
        ),
        (
            cluster_federated_trust_domain(),
            "bundleEndpointProfile bundleEndpointURL className trustDomain trustDomainBundle",
            "bundleEndpointProfile bundleEndpointURL trustDomain",
        ),
    ] {
        let spec = Value::from(definition.spec.clone());
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<BTreeSet<_>>();
        assert_eq!(names(&spec["properties"]), words(fields), "{}", definition.kind);
        let found: BTreeSet<String> = serde_json::from_value(spec["required"].clone()).unwrap();
        assert_eq!(found, words(required), "{}", definition.kind);
    }
}

#[test]
fn every_schema_is_one_that_the_api_server_takes() {
    fn check(at: &str, schema: &Value) {
        const KNOWN: [&str; 13] = [
            "additionalProperties",
            "description",
            "enum",
            "format",
            "items",
            "maxItems",
            "minItems",
            "minLength",
            "minimum",
            "pattern",
            "properties",
            "required",
            "type",
        ];
        let map = schema.as_object().unwrap_or_else(|| panic!("{at}: {schema}"));
        for key in map.keys() {
            let is_known = KNOWN.contains(&&**key) || key.starts_with("x-kubernetes-");
            assert!(is_known, "{at}: {key}");
        }
        assert!(schema["type"].is_string(), "{at} has no type: {schema}");
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            check(&format!("{at}.{name}"), property);
        }
        for below in ["items", "additionalProperties"] {
            if let Some(below) = map.get(below) {
                check(&format!("{at}.*"), below);
            }
        }
    }
    for definition in [
        workload_identity(),
        cluster_spiffe_id(),
        cluster_static_entry(),
        cluster_federated_trust_domain(),
    ] {
        let spec = definition.spec();
        check(definition.kind, &spec["versions"][0]["schema"]["openAPIV3Schema"]);
    }
}
