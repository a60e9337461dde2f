//! Many rules, many pods.

use super::*;

/// Every tenth rule selects a tenth of the pods.
fn rules(count: usize) -> Vec<RuleObject> {
    (0..count)
        .map(|number| {
            let spec = json!({
                "spiffeIDTemplate": at(&format!("/rule-{number}/{{{{ .PodMeta.Namespace }}}}/{{{{ .PodMeta.Name }}}}")),
                "podSelector": {"matchExpressions": [
                    {"key": "app", "operator": "In", "values": [format!("app-{}", number % 100)]},
                    {"key": "canary", "operator": "DoesNotExist"},
                ]},
                "namespaceSelector": {"matchLabels": {"tier": "live"}},
            });
            cluster(&format!("rule-{number:04}"), i64::try_from(number).unwrap(), spec)
        })
        .collect()
}

#[test]
fn of_two_hundred_rules_a_pod_gets_those_that_select_it() {
    let mut world = World::new(&settings(), &rules(200));
    for number in 0..100 {
        let pod = pod_json("prod", &format!("p-{number}"), json!({"app": format!("app-{number}")}));
        let wanted = [number, number + 100].map(|rule| format!("/rule-{rule}/prod/p-{number}"));
        assert_eq!(world.paths(pod), wanted);
    }
    assert_eq!(
        world.paths(pod_json("test", "p", json!({"app": "app-1"}))),
        Vec::<String>::new()
    );
    assert_eq!(
        world.paths(pod_json("prod", "p", json!({"app": "app-1", "canary": "yes"}))),
        Vec::<String>::new()
    );
}

#[test]
fn no_pod_has_more_identities_than_its_workload_could_hold() {
    let objects: Vec<_> = (0..40)
        .map(|number| {
            cluster(
                &format!("r{number:02}"),
                number,
                json!({"spiffeIDTemplate": at(&format!("/r{number}"))}),
            )
        })
        .collect();
    let judged = World::new(&settings(), &objects).judge(web());
    assert_eq!(judged.identities.len(), 32);
    let refused = judged
        .outcomes
        .iter()
        .filter(|(_, outcome)| matches!(outcome, Outcome::Failed(_)))
        .count();
    assert_eq!(refused, 8);
}

#[test]
fn of_many_tenants_a_pod_is_given_those_of_its_own() {
    let own = |namespace: usize, created| {
        let namespace = format!("namespace-{namespace}");
        let spec = json!({"spiffeIDTemplate": at(&format!("/ns/{namespace}/{created}"))});
        object(
            RuleKind::WorkloadIdentity,
            &namespace,
            &format!("{namespace}-{created}"),
            created,
            spec,
        )
    };
    let mut objects: Vec<_> = (0..1_000).flat_map(|number| [own(number, 2), own(number, 1)]).collect();
    objects.push(cluster("all", 9, json!({"spiffeIDTemplate": at("/all")})));
    let mut world = World::new(&settings(), &objects);
    for number in [0, 7, 999] {
        let namespace = format!("namespace-{number}");
        let paths = world.paths(pod_json(&namespace, "p", json!({})));
        assert_eq!(
            paths,
            [
                "/all".to_owned(),
                format!("/ns/{namespace}/1"),
                format!("/ns/{namespace}/2")
            ]
        );
    }
    assert_eq!(world.paths(pod_json("namespace-", "p", json!({}))), ["/all"]);
}

#[test]
fn pods_of_one_template_share_what_they_have_in_common() {
    let mut world = World::new(&settings(), &rules(10));
    let pods: Vec<_> = (0..50)
        .map(|number| {
            world.read(pod_json(
                "prod",
                &format!("p-{number}"),
                json!({"app": "web", "hash": "abc"}),
            ))
        })
        .collect();
    let spec = |pod: &PodFacts| match &pod.spec {
        crate::registry::template::Data::Struct(fields) => Arc::clone(fields),
        other => panic!("{other:?}"),
    };
    assert!(pods.iter().all(|pod| Arc::ptr_eq(&spec(pod), &spec(&pods[0]))));
    assert!(pods.iter().all(|pod| Arc::ptr_eq(&pod.node, &pods[0].node)));
    assert!(pods.iter().all(|pod| Arc::ptr_eq(&pod.namespace, &pods[0].namespace)));
}
