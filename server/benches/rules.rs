//! How fast pods are judged by rules, and what they need in memory: 200,000 pods of 4,000 workloads, 200 rules.
//!
//! `cargo bench -p mintmark-server --bench rules [-- PODS RULES]`
#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::cast_precision_loss,
    reason = "a measurement"
)]

use std::sync::Arc;
use std::time::Instant;

use mintmark_identity::TrustDomain;
use mintmark_server::registry::rules::{
    NamespaceFacts, NodeFacts, PodFacts, RuleKind, RuleName, RuleObject, Rules, Settings, Subject, Tally,
};
use mintmark_server::registry::template::Interner;
use serde_json::{Value, json};

const NAMESPACES: usize = 400;
const WORKLOADS: usize = 4_000;
const NODES: usize = 2_000;

fn pod(number: usize) -> String {
    let workload = number % WORKLOADS;
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": format!("workload-{workload}-{number:08x}"),
            "generateName": format!("workload-{workload}-"),
            "namespace": format!("namespace-{}", workload % NAMESPACES),
            "uid": format!("{number:08x}-0000-4000-8000-000000000000"),
            "resourceVersion": number.to_string(),
            "creationTimestamp": "2026-11-25T00:00:00Z",
            "labels": {
                "app": format!("app-{workload}"),
                "group": format!("group-{}", workload % 100),
                "pod-template-hash": format!("{workload:x}"),
                "version": "v1",
                "team": format!("team-{}", workload % 40),
            },
            "annotations": {"prometheus.io/scrape": "true", "checksum/config": format!("{workload:064x}")},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": format!("workload-{workload}"), "uid": "u", "controller": true}],
            "managedFields": [{"manager": "kubelet", "fieldsV1": {"f:status": {"f:conditions": {}}}}],
        },
        "spec": {
            "serviceAccountName": format!("sa-{workload}"),
            "nodeName": format!("node-{}", number % NODES),
            "containers": [{
                "name": "main",
                "image": format!("registry.test/app-{workload}:1"),
                "env": [{"name": "A", "value": "1"}],
                "volumeMounts": [{"name": format!("kube-api-access-{number}"), "mountPath": "/var/run/secrets"}],
                "resources": {"limits": {"cpu": "1", "memory": "1Gi"}},
            }],
            "volumes": [{"name": format!("kube-api-access-{number}"), "projected": {"sources": []}}],
            "tolerations": [{"key": "node.kubernetes.io/not-ready", "operator": "Exists"}],
        },
        "status": {"phase": "Running", "podIP": "10.0.0.1", "conditions": [{"type": "Ready", "status": "True"}]},
    })
    .to_string()
}

/// Each pod is selected by a hundredth of them.
fn rules(count: usize) -> Vec<RuleObject> {
    let rule = |number: usize| RuleObject {
        name: RuleName {
            kind: RuleKind::ClusterSpiffeId,
            namespace: "".into(),
            name: format!("rule-{number}").into(),
            uid: format!("rule-uid-{number}").into(),
        },
        created: i64::try_from(number).unwrap(),
        generation: 1,
        spec: json!({
            "spiffeIDTemplate": format!("spiffe://{{{{ .TrustDomain }}}}/{number}/ns/{{{{ .PodMeta.Namespace }}}}/sa/{{{{ .PodSpec.ServiceAccountName }}}}"),
            "podSelector": {"matchLabels": {"group": format!("group-{}", number % 100)}},
            "namespaceSelector": {"matchExpressions": [{"key": "tier", "operator": "NotIn", "values": ["trial"]}]},
        }),
    };
    (0..count).map(rule).collect()
}

fn resident_mib() -> f64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: f64 = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096.0 / f64::from(1 << 20)
}

fn main() {
    // Cargo adds `--bench`.
    let numbers: Vec<usize> = std::env::args()
        .skip(1)
        .filter(|argument| !argument.starts_with('-'))
        .map(|argument| argument.parse().expect("a number"))
        .collect();
    let (pods, count) = match numbers[..] {
        [] => (200_000, 200),
        [pods, count] => (pods, count),
        _ => panic!("two numbers, or none: PODS RULES"),
    };
    let trust_domain = TrustDomain::parse("example.org").unwrap();
    let settings = Settings::new(&trust_domain, "one", "cluster.local").default_identity(
        "spiffe://{{ .TrustDomain }}/ns/{{ .PodMeta.Namespace }}/sa/{{ .PodSpec.ServiceAccountName }}",
    );
    let rules = Rules::compile(&settings, &rules(count));
    let (mentions, mut interner) = (Arc::clone(rules.mentions()), Interner::default());
    let mut read = |value: Value| NodeFacts::read(value, &mentions, &mut interner).unwrap();
    let nodes: Vec<_> = (0..NODES)
        .map(|number| {
            read(json!({"metadata": {"name": format!("node-{number}"), "uid": format!("node-uid-{number}")}}))
        })
        .collect();
    let namespaces: Vec<_> = (0..NAMESPACES)
        .map(|number| {
            let value = json!({"metadata": {"name": format!("namespace-{number}"), "labels": {"tier": "live"}}});
            NamespaceFacts::read(value, &mentions, &mut interner).unwrap()
        })
        .collect();
    let before = resident_mib();
    let (mut facts, mut reading) = (Vec::with_capacity(pods), std::time::Duration::ZERO);
    for number in 0..pods {
        let json = pod(number);
        let start = Instant::now();
        let mut json = serde_json::Deserializer::from_str(&json);
        facts.push(PodFacts::read(&mut json, &mentions, &mut interner).unwrap());
        interner.sweep();
        reading += start.elapsed();
    }
    println!(
        "{pods} pods read in {:.2} s, {:.0} MiB, {:.0} bytes each",
        reading.as_secs_f64(),
        resident_mib() - before,
        (resident_mib() - before) * f64::from(1 << 20) / pods as f64
    );
    let start = Instant::now();
    let (mut identities, mut tally) = (0, Tally::new(&rules));
    for (number, pod) in facts.iter().enumerate() {
        let judged = rules.judge(&Subject {
            pod,
            namespace: Some(&namespaces[number % WORKLOADS % NAMESPACES]),
            node: Some(&nodes[number % NODES]),
            services: &[],
        });
        identities += judged.identities.len();
        tally.add(&pod.name, &judged);
    }
    let seconds = start.elapsed().as_secs_f64();
    println!(
        "{pods} pods judged by {count} rules in {seconds:.2} s, {:.1} us each: {identities} identities",
        seconds * 1e6 / pods as f64
    );
}
