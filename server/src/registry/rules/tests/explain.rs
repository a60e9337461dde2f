//! What people are told: per pod, and per rule.

use super::*;

#[test]
fn every_rule_says_in_words_why_it_does_or_does_not_give_an_identity() {
    let selects =
        |selector: &str, labels: Value| json!({"spiffeIDTemplate": at("/x"), selector: {"matchLabels": labels}});
    let objects = [
        cluster("given", 1, json!({"spiffeIDTemplate": at("/given")})),
        cluster("same", 2, json!({"spiffeIDTemplate": at("/given")})),
        cluster("pods", 3, selects("podSelector", json!({"app": "db"}))),
        cluster("namespaces", 4, selects("namespaceSelector", json!({"tier": "trial"}))),
        cluster("broken", 5, json!({"spiffeIDTemplate": "{{"})),
        cluster(
            "fails",
            6,
            json!({"spiffeIDTemplate": at("/{{ .PodMeta.Labels.nope }}")}),
        ),
        cluster(
            "fallback",
            7,
            json!({"spiffeIDTemplate": at("/fallback"), "fallback": true}),
        ),
        cluster("class", 8, json!({"spiffeIDTemplate": at("/x"), "className": "spire"})),
        tenant("test", "other", json!({"spiffeIDTemplate": at("/ns/test/x")})),
    ];
    let objects: Vec<_> = objects
        .into_iter()
        .map(|mut object| {
            if object.name.kind == RuleKind::ClusterSpiffeId && object.spec["className"].is_null() {
                object.spec["className"] = "mint".into();
            }
            object
        })
        .collect();
    let settings = settings().class_name("mint").default_identity(DEFAULT);
    let mut world = World::new(&settings, &objects);
    let pod = world.read(web());
    let told: Vec<_> = world
        .rules
        .explain(&world.subject(&pod))
        .into_iter()
        .map(|one| format!("{} {}", one.rule, one.outcome))
        .collect();
    let wanted = [
        "ClusterSPIFFEID given gives spiffe://example.org/given",
        "ClusterSPIFFEID same gives the same identity as ClusterSPIFFEID given",
        "ClusterSPIFFEID pods does not select the pod: its podSelector asks for app=db, which the pod's labels do not meet",
        "ClusterSPIFFEID namespaces does not select the pod: its namespaceSelector asks for tier=trial, which the labels of namespace prod do not meet",
        "ClusterSPIFFEID broken does not select the pod: it cannot be used: template: spiffeIDTemplate:1: unclosed action",
        "ClusterSPIFFEID fails selects the pod, but gives no identity: spiffeIDTemplate: ",
        "ClusterSPIFFEID class does not select the pod: its className \"spire\" is another server's",
        "WorkloadIdentity test/other does not select the pod: it is for pods of namespace test, not of prod",
        "ClusterSPIFFEID fallback is for pods without a rule, and ClusterSPIFFEID given is for this one",
        "kubernetes.default_identity is for pods without a rule, and ClusterSPIFFEID given is for this one",
    ];
    assert_eq!(told.len(), wanted.len());
    for (told, wanted) in told.iter().zip(wanted) {
        assert!(told.starts_with(wanted), "{told}\n{wanted}");
    }
    let ignored = world.read(pod_json("kube-system", "dns", json!({})));
    let told = world.rules.explain(&world.subject(&ignored));
    assert_eq!(
        told[0].outcome.to_string(),
        "does not select the pod: namespace kube-system is in kubernetes.ignore_namespaces"
    );
    let mut unknown = world.subject(&pod);
    unknown.namespace = None;
    let told = world.rules.explain(&unknown);
    assert_eq!(
        told[3].outcome.to_string(),
        "does not select the pod: namespace prod is not known"
    );
}

#[test]
fn a_status_counts_what_is_there_and_names_who_fails() {
    let objects = [
        cluster("all", 1, json!({"spiffeIDTemplate": at("/{{ .PodMeta.Labels.app }}")})),
        cluster(
            "same",
            2,
            json!({"spiffeIDTemplate": at("/web"), "namespaceSelector": {"matchLabels": {"tier": "live"}}}),
        ),
        tenant(
            "prod",
            "own",
            json!({"spiffeIDTemplate": at("/ns/prod/x"), "podSelector": {"matchLabels": {"app": "web"}}}),
        ),
        cluster("broken", 3, json!({"spiffeIDTemplate": "{{"})),
    ];
    let mut world = World::new(&settings(), &objects);
    let pods: Vec<_> = [
        web(),
        pod_json("prod", "db", json!({"app": "db"})),
        pod_json("test", "bare", json!({})),
        pod_json("kube-system", "dns", json!({"app": "dns"})),
    ]
    .into_iter()
    .map(|pod| world.read(pod))
    .collect();
    let mut tally = Tally::new(&world.rules);
    let name = |pod: &PodFacts| format!("{}/{}", pod.namespace, pod.name);
    for pod in &pods {
        tally.add(&name(pod), &world.judge_facts(pod));
    }
    let stats = |tally: &Tally, number: usize| {
        let status = tally.status(&world.rules, number, &world.namespaces);
        let RuleStats {
            namespaces_selected,
            namespaces_ignored,
            pods_selected,
            pod_entry_render_failures,
            entries_masked,
            entries_to_set,
            entry_failures,
        } = status.stats;
        assert_eq!(entry_failures, 0);
        [
            namespaces_selected,
            namespaces_ignored,
            pods_selected,
            pod_entry_render_failures,
            entries_masked,
            entries_to_set,
        ]
    };
    assert_eq!(stats(&tally, 0), [3, 1, 3, 1, 0, 2]);
    assert_eq!(stats(&tally, 1), [2, 1, 2, 0, 1, 1]);
    assert_eq!(stats(&tally, 2), [0; 6], "a rule that cannot be used");
    assert_eq!(stats(&tally, 3), [1, 0, 1, 0, 0, 1]);
    let status = tally.status(&world.rules, 0, &world.namespaces);
    assert_eq!(status.failures.len(), 1);
    assert_eq!(status.failures[0].pod, "test/bare");
    assert!(
        status.failures[0].reason.starts_with("spiffeIDTemplate: "),
        "{status:?}"
    );
    let broken = tally.status(&world.rules, 2, &world.namespaces);
    assert!(broken.error.contains("unclosed action"));
    for pod in &pods {
        tally.remove(&name(pod), &world.judge_facts(pod));
    }
    assert_eq!(stats(&tally, 0), [3, 1, 0, 0, 0, 0]);
    assert!(tally.status(&world.rules, 0, &world.namespaces).failures.is_empty());
}

#[test]
fn a_subject_that_some_api_would_refuse_is_warned_about_at_its_rule() {
    let id = |length: usize| {
        let text = "x".repeat(length - "spiffe://example.org/".len());
        cluster(
            "long",
            1,
            json!({"spiffeIDTemplate": format!("spiffe://example.org/{text}")}),
        )
    };
    for (length, count) in [(127, 0), (128, 1), (255, 1), (256, 2), (600, 2), (601, 3)] {
        let mut world = World::new(&settings(), &[id(length)]);
        let judged = world.judge(web());
        assert_eq!(judged.identities[0].long_for().count(), count, "{length}");
        let mut tally = Tally::new(&world.rules);
        tally.add("prod/web-0", &judged);
        let warnings = tally.status(&world.rules, 0, &world.namespaces).warnings;
        assert_eq!(warnings.len(), count, "{length}");
        if let Some(first) = warnings.first() {
            assert_eq!(
                first,
                "pods whose SPIFFE ID is longer than the 127 bytes that Google Cloud's workload identity federation takes as a subject: 1"
            );
        }
        tally.remove("prod/web-0", &judged);
        assert!(tally.status(&world.rules, 0, &world.namespaces).warnings.is_empty());
    }
}
