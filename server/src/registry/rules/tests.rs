//! What rules promise, on objects as the API server has them.

mod entries;
mod explain;
mod properties;
mod scale;
mod tenants;

use serde_json::{Value, json};

use super::*;
use crate::registry::template::Interner;

const DEFAULT: &str = "spiffe://{{ .TrustDomain }}/ns/{{ .PodMeta.Namespace }}/sa/{{ .PodSpec.ServiceAccountName }}";

fn settings() -> Settings {
    let trust_domain = TrustDomain::parse("example.org").unwrap();
    Settings::new(&trust_domain, "one", "cluster.local").ignore_namespaces(["kube-system"])
}

/// An object; `created` decides the order, and makes the UID.
fn object(kind: RuleKind, namespace: &str, name: &str, created: i64, spec: Value) -> RuleObject {
    RuleObject {
        name: RuleName {
            kind,
            namespace: namespace.into(),
            name: name.into(),
            uid: format!("uid-{name}").into(),
        },
        created,
        generation: 1,
        spec,
    }
}

fn cluster(name: &str, created: i64, spec: Value) -> RuleObject {
    object(RuleKind::ClusterSpiffeId, "", name, created, spec)
}

fn tenant(namespace: &str, name: &str, spec: Value) -> RuleObject {
    object(RuleKind::WorkloadIdentity, namespace, name, 1, spec)
}

/// The path of a SPIFFE ID in the trust domain.
fn at(path: &str) -> Value {
    json!(format!("spiffe://{{{{ .TrustDomain }}}}{path}"))
}

fn pod_json(namespace: &str, name: &str, labels: Value) -> Value {
    json!({
        "metadata": {
            "name": name,
            "namespace": namespace,
            "uid": format!("uid-{namespace}-{name}"),
            "labels": labels,
            "annotations": {"path": "from-annotation"},
            "creationTimestamp": "2026-11-25T00:00:00Z",
        },
        "spec": {
            "serviceAccountName": "web",
            "nodeName": "node-1",
            "containers": [{"name": "main", "image": "registry.test/web:1"}],
        },
        "status": {"phase": "Running"},
    })
}

/// One cluster: what is judged, and by what.
struct World {
    rules: Rules,
    interner: Interner,
    namespaces: Vec<NamespaceFacts>,
    node: NodeFacts,
    services: Vec<Arc<str>>,
}

impl World {
    fn new(settings: &Settings, objects: &[RuleObject]) -> Self {
        let rules = Rules::compile(settings, objects);
        let mut interner = Interner::default();
        let node = json!({
            "metadata": {"name": "node-1", "uid": "node-uid", "labels": {"zone": "eu-1"}},
            "spec": {"providerID": "kind://x"},
        });
        let node = NodeFacts::read(node, rules.mentions(), &mut interner).unwrap();
        let mut world = Self {
            rules,
            interner,
            namespaces: Vec::new(),
            node,
            services: Vec::new(),
        };
        for (name, tier) in [("prod", "live"), ("test", "trial"), ("kube-system", "live")] {
            let namespace = json!({"metadata": {"name": name, "labels": {"tier": tier}}});
            let facts = NamespaceFacts::read(namespace, world.rules.mentions(), &mut world.interner).unwrap();
            world.namespaces.push(facts);
        }
        world
    }

    fn read(&mut self, pod: Value) -> PodFacts {
        PodFacts::read(pod, self.rules.mentions(), &mut self.interner).unwrap()
    }

    fn judge(&mut self, pod: Value) -> Judged {
        let pod = self.read(pod);
        self.judge_facts(&pod)
    }

    fn subject<'a>(&'a self, pod: &'a PodFacts) -> Subject<'a> {
        Subject {
            pod,
            namespace: self.namespaces.iter().find(|namespace| namespace.name == pod.namespace),
            node: Some(&self.node),
            services: &self.services,
        }
    }

    fn judge_facts(&self, pod: &PodFacts) -> Judged {
        self.rules.judge(&self.subject(pod))
    }

    /// The paths of the identities, in their order.
    fn paths(&mut self, pod: Value) -> Vec<String> {
        let judged = self.judge(pod);
        let paths = judged
            .identities
            .iter()
            .map(|one| one.entry.spiffe_id.path().to_owned());
        paths.collect()
    }
}

fn paths(objects: &[RuleObject], pod: Value) -> Vec<String> {
    World::new(&settings(), objects).paths(pod)
}

/// Why the one rule that there is fails for a pod.
fn failure(object: RuleObject, pod: Value) -> String {
    let judged = World::new(&settings(), &[object]).judge(pod);
    match &judged.outcomes[..] {
        [(0, Outcome::Failed(why))] => why.to_string(),
        other => panic!("{other:?}"),
    }
}

fn web() -> Value {
    pod_json("prod", "web-0", json!({"app": "web"}))
}

#[test]
fn an_identity_says_all_that_its_rule_says() {
    let spec = json!({
        "spiffeIDTemplate": at("/ns/{{ .PodMeta.Namespace }}/pod/{{ .PodMeta.Name }}"),
        "ttl": "1h0m0s",
        "jwtTtl": "5m",
        "dnsNameTemplates": ["{{ .PodMeta.Name }}.{{ .ClusterDomain }}"],
        "workloadSelectorTemplates": ["k8s:container-name:{{ (index .PodSpec.Containers 0).Name }}"],
        "federatesWith": ["other.test"],
        "podSelector": {"matchLabels": {"app": "web"}},
        "namespaceSelector": {"matchLabels": {"tier": "live"}},
        "admin": true,
        "downstream": true,
        "hint": "main",
    });
    let mut world = World::new(&settings(), &[cluster("all", 100, spec)]);
    let judged = world.judge(web());
    let [Identity { rule, entry }] = &judged.identities[..] else {
        panic!("{judged:?}");
    };
    assert_eq!(rule.to_string(), "ClusterSPIFFEID all");
    assert_eq!(&*entry.id, "k8s:one/uid-prod-web-0:uid-all");
    assert_eq!(entry.spiffe_id.as_str(), "spiffe://example.org/ns/prod/pod/web-0");
    assert_eq!(
        entry.parent_id.as_str(),
        "spiffe://example.org/spire/agent/k8s_psat/one/node-uid"
    );
    let selectors: Vec<_> = entry.selectors.iter().map(|one| one.as_str()).collect();
    assert_eq!(selectors, ["k8s:container-name:main", "k8s:pod-uid:uid-prod-web-0"]);
    assert_eq!(entry.x509_ttl.map(|ttl| ttl.as_secs()), Some(3_600));
    assert_eq!(entry.jwt_ttl.map(|ttl| ttl.as_secs()), Some(300));
    assert_eq!(*entry.dns_names, ["web-0.cluster.local"]);
    assert_eq!(entry.federates_with[0].as_str(), "other.test");
    assert!(entry.admin && entry.downstream && !entry.store_svid);
    assert_eq!((&*entry.hint, entry.created_at), ("main", 100));
    assert!(entry.revision > 0);
    assert_eq!(judged.outcomes, [(0, Outcome::Given(entry.spiffe_id.clone()))]);
    assert_eq!(world.judge(pod_json("prod", "web-0", json!({}))).identities.len(), 0);
    assert_eq!(
        world
            .judge(pod_json("test", "web-0", json!({"app": "web"})))
            .identities
            .len(),
        0
    );
}

#[test]
fn the_same_pod_and_rules_always_give_the_same_entry_and_a_change_gives_another_revision() {
    let spec = |hint: &str| json!({"spiffeIDTemplate": at("/a/{{ .PodMeta.Labels.app }}"), "hint": hint});
    let entry = |hint: &str, app: &str| {
        let mut world = World::new(&settings(), &[cluster("all", 100, spec(hint))]);
        let judged = world.judge(pod_json("prod", "web-0", json!({"app": app})));
        judged.identities[0].entry.clone()
    };
    assert_eq!(entry("h", "web"), entry("h", "web"));
    for changed in [entry("i", "web"), entry("h", "db")] {
        assert_eq!(changed.id, entry("h", "web").id);
        assert_ne!(changed.revision, entry("h", "web").revision);
    }
}

#[test]
fn all_rules_that_select_a_pod_give_it_an_identity_the_oldest_first() {
    let objects = [
        tenant("prod", "own", json!({"spiffeIDTemplate": at("/ns/prod/own")})),
        cluster("young", 200, json!({"spiffeIDTemplate": at("/young")})),
        cluster("old", 100, json!({"spiffeIDTemplate": at("/old")})),
    ];
    assert_eq!(paths(&objects, web()), ["/old", "/young", "/ns/prod/own"]);
}

#[test]
fn of_two_rules_that_give_the_same_the_older_one_does() {
    let same = json!({"spiffeIDTemplate": at("/same"), "hint": "x"});
    let objects = [
        cluster("young", 200, same.clone()),
        cluster("old", 100, same),
        cluster(
            "selective",
            150,
            json!({"spiffeIDTemplate": at("/same"), "workloadSelectorTemplates": ["k8s:sa:x"]}),
        ),
    ];
    let judged = World::new(&settings(), &objects).judge(web());
    assert_eq!(paths(&objects, web()), ["/same", "/same"]);
    let outcomes: Vec<_> = judged
        .outcomes
        .iter()
        .map(|(number, outcome)| (*number, outcome.to_string()))
        .collect();
    assert_eq!(
        outcomes,
        [
            (0, "gives spiffe://example.org/same".to_owned()),
            (1, "gives spiffe://example.org/same".to_owned()),
            (2, "gives the same identity as ClusterSPIFFEID old".to_owned()),
        ]
    );
}

#[test]
fn a_fallback_is_for_pods_that_no_other_cluster_rule_gives_an_identity() {
    let fallback = cluster(
        "fallback",
        1,
        json!({"spiffeIDTemplate": at("/fallback"), "fallback": true}),
    );
    let own = tenant("prod", "own", json!({"spiffeIDTemplate": at("/ns/prod/own")}));
    let web_only = |template: Value| {
        let spec = json!({"spiffeIDTemplate": template, "podSelector": {"matchLabels": {"app": "web"}}});
        cluster("web", 2, spec)
    };
    let db = || pod_json("prod", "db-0", json!({"app": "db"}));
    let objects = [fallback.clone(), web_only(at("/web")), own];
    assert_eq!(paths(&objects, web()), ["/web", "/ns/prod/own"]);
    assert_eq!(paths(&objects, db()), ["/ns/prod/own", "/fallback"]);
    // As SPIRE has it, a rule that selects the pod and fails does not count.
    assert_eq!(paths(&[fallback, web_only(json!("broken"))], web()), ["/fallback"]);
}

#[test]
fn the_default_identity_is_for_pods_that_no_rule_selects() {
    let settings = settings().default_identity(DEFAULT);
    let with = |objects: &[RuleObject], pod: Value| World::new(&settings, objects).paths(pod);
    assert_eq!(with(&[], web()), ["/ns/prod/sa/web"]);
    let own = tenant("prod", "own", json!({"spiffeIDTemplate": at("/ns/prod/own")}));
    assert_eq!(with(std::slice::from_ref(&own), web()), ["/ns/prod/own"]);
    assert_eq!(with(&[own], pod_json("test", "web-0", json!({}))), ["/ns/test/sa/web"]);
    // A rule that fails is not made up for: it would be another identity than was meant.
    let fails = cluster(
        "fails",
        1,
        json!({"spiffeIDTemplate": at("/{{ .PodMeta.Labels.nope }}")}),
    );
    assert_eq!(with(&[fails], web()), Vec::<String>::new());
    // A rule that cannot be used selects nothing.
    let broken = cluster("broken", 1, json!({"spiffeIDTemplate": "{{"}));
    assert_eq!(with(&[broken], web()), ["/ns/prod/sa/web"]);
    assert_eq!(paths(&[], web()), Vec::<String>::new());
    let judged = World::new(&settings, &[]).judge(web());
    assert_eq!(&*judged.identities[0].entry.id, "k8s:one/uid-prod-web-0:default");
    assert_eq!(judged.identities[0].entry.created_at, 1_795_564_800);
}

#[test]
fn pods_of_ignored_namespaces_get_nothing() {
    let objects = [
        cluster("all", 1, json!({"spiffeIDTemplate": at("/all")})),
        tenant(
            "kube-system",
            "own",
            json!({"spiffeIDTemplate": at("/ns/kube-system/own")}),
        ),
    ];
    let mut world = World::new(&settings().default_identity(DEFAULT), &objects);
    let judged = world.judge(pod_json("kube-system", "dns", json!({})));
    assert!(judged.identities.is_empty() && judged.outcomes.is_empty());
}

#[test]
fn a_pod_has_identities_from_its_binding_to_its_end() {
    let objects = [cluster("all", 1, json!({"spiffeIDTemplate": at("/all")}))];
    let mut world = World::new(&settings(), &objects);
    let with = |change: fn(&mut Value)| {
        let mut pod = web();
        change(&mut pod);
        pod
    };
    for (pod, why) in [
        (with(|pod| pod["spec"]["nodeName"] = Value::Null), "not bound"),
        (
            with(|pod| pod["spec"]["nodeName"] = "other".into()),
            "node other is not known",
        ),
        (with(|pod| pod["status"]["phase"] = "Succeeded".into()), "ended"),
        (with(|pod| pod["status"]["phase"] = "Failed".into()), "ended"),
    ] {
        let judged = world.judge(pod);
        assert!(judged.identities.is_empty());
        assert!(judged.outcomes[0].1.to_string().contains(why), "{judged:?}");
    }
    for phase in ["Pending", "Running", "Unknown"] {
        let mut pod = web();
        pod["status"]["phase"] = phase.into();
        assert_eq!(world.paths(pod), ["/all"]);
    }
}

#[test]
fn what_does_not_render_to_something_legal_is_a_failure_that_says_where() {
    let spec = |field: &str, value: Value| {
        let mut spec = json!({"spiffeIDTemplate": at("/a")});
        spec[field] = value;
        cluster("all", 1, spec)
    };
    for (object, why) in [
        (
            spec("spiffeIDTemplate", at("/{{ .PodMeta.Labels.nope }}")),
            "spiffeIDTemplate: ",
        ),
        (spec("spiffeIDTemplate", at("/a b")), "spiffeIDTemplate: "),
        (spec("spiffeIDTemplate", at("/a/../b")), "spiffeIDTemplate: "),
        (spec("spiffeIDTemplate", at("")), "has no path"),
        (
            spec("spiffeIDTemplate", at("/spire/server")),
            "reserved namespace /spire",
        ),
        (
            spec("spiffeIDTemplate", json!("spiffe://other.test/a")),
            "is not in the trust domain example.org",
        ),
        (
            spec("spiffeIDTemplate", at("/{{ .PodMeta.Nmae }}")),
            "can't evaluate field Nmae in type *v1.ObjectMeta",
        ),
        (
            spec("spiffeIDTemplate", at("/{{ .PodSpec.SecurityContext.RunAsUser }}")),
            "nil pointer evaluating",
        ),
        (
            spec("dnsNameTemplates", json!(["a", "{{ .PodMeta.Labels.nope }}"])),
            "dnsNameTemplates: DNS name \"<no value>\"",
        ),
        (spec("dnsNameTemplates", json!([""])), "dnsNameTemplates: "),
        (
            spec("workloadSelectorTemplates", json!(["nonsense"])),
            "workloadSelectorTemplates: ",
        ),
        (
            spec("workloadSelectorTemplates", json!(["k8s:"])),
            "workloadSelectorTemplates: ",
        ),
    ] {
        let failed = failure(object, web());
        assert!(failed.contains(why), "{failed}");
    }
}

#[test]
fn a_bad_object_is_a_rule_with_an_error_and_harms_no_other() {
    let good = cluster("good", 9, json!({"spiffeIDTemplate": at("/good")}));
    let spec = |field: &str, value: Value| {
        let mut spec = json!({"spiffeIDTemplate": at("/a")});
        spec[field] = value;
        cluster("bad", 1, spec)
    };
    for (object, why) in [
        (cluster("bad", 1, json!({})), "spiffeIDTemplate: it is empty"),
        (cluster("bad", 1, json!("text")), "the spec cannot be read"),
        (
            spec("spiffeIDTemplate", json!("{{ .PodMeta")),
            "template: spiffeIDTemplate:1: unclosed action",
        ),
        (
            spec("spiffeIDTemplate", json!("{{ env \"A\" }}")),
            "function \"env\" not defined",
        ),
        (
            spec("dnsNameTemplates", json!(["a", "{{"])),
            "template: dnsNameTemplates[1]:1",
        ),
        (
            spec("workloadSelectorTemplates", json!(["{{ if }}"])),
            "workloadSelectorTemplates[0]:1",
        ),
        (
            spec("podSelector", json!({"matchLabels": {"a b": "c"}})),
            "podSelector: \"a b\" is no label",
        ),
        (
            spec(
                "namespaceSelector",
                json!({"matchExpressions": [{"key": "a", "operator": "Is"}]}),
            ),
            "namespaceSelector: \"Is\" for \"a\" is no operator",
        ),
        (spec("ttl", json!("soon")), "ttl: \"soon\" is no duration"),
        (spec("jwtTtl", json!("-5m")), "jwtTtl: \"-5m\" is negative"),
        (spec("federatesWith", json!(["Not A Domain"])), "federatesWith: "),
        (spec("federatesWith", json!(["example.org"])), "own trust domain"),
        (spec("hint", json!("x".repeat(2_000))), "hint: "),
        (spec("dnsNameTemplates", json!(vec!["a"; 65])), "65 are more than 64"),
        (spec("admin", json!("yes")), "the spec cannot be read"),
    ] {
        let mut world = World::new(&settings(), &[object, good.clone()]);
        let error = world.rules.all()[0].error().expect(why).to_owned();
        assert!(error.contains(why), "{error}");
        assert_eq!(world.paths(web()), ["/good"]);
    }
}

#[test]
fn with_a_class_name_only_objects_of_that_class_count() {
    let objects = [
        cluster("ours", 1, json!({"spiffeIDTemplate": at("/ours"), "className": "mint"})),
        cluster(
            "theirs",
            2,
            json!({"spiffeIDTemplate": at("/theirs"), "className": "spire"}),
        ),
        cluster("nobodys", 3, json!({"spiffeIDTemplate": at("/nobodys")})),
    ];
    let with = |class: &str| World::new(&settings().class_name(class), &objects).paths(web());
    assert_eq!(with(""), ["/ours", "/theirs", "/nobodys"]);
    assert_eq!(with("mint"), ["/ours"]);
}

#[test]
fn what_was_not_kept_of_a_pod_is_a_failure_and_never_an_empty_value() {
    let base = Rules::compile(&settings(), &[]);
    let spec = json!({"spiffeIDTemplate": at("/{{ index .PodMeta.Annotations \"path\" }}")});
    let mut world = World::new(&settings(), &[cluster("all", 1, spec)]);
    let old = PodFacts::read(web(), base.mentions(), &mut world.interner).unwrap();
    let judged = world.judge_facts(&old);
    assert!(judged.identities.is_empty());
    assert!(
        judged.outcomes[0]
            .1
            .to_string()
            .contains("it looks at Annotations, which was not kept"),
        "{judged:?}"
    );
    assert_eq!(world.paths(web()), ["/from-annotation"]);
    let both = world.rules.mentions_after(base.mentions());
    assert!(both.covers(world.rules.mentions()));
    assert!(
        Arc::ptr_eq(&world.rules.mentions_after(&both), &both),
        "enough is left as it is"
    );
    let wider = PodFacts::read(web(), &both, &mut world.interner).unwrap();
    assert_eq!(world.judge_facts(&wider).identities.len(), 1);
    world.node.kept = Arc::clone(base.mentions());
    let judged = world.judge_facts(&wider);
    assert!(
        judged.outcomes[0].1.to_string().contains("not kept of the node"),
        "{judged:?}"
    );
}
