//! What holds for all rules and pods.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn labels() -> impl Strategy<Value = BTreeMap<String, String>> {
    proptest::collection::btree_map("[a-c]", "[x-z]", 0..3)
}

fn path() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("/ns/{{ .PodMeta.Namespace }}/{{ .PodMeta.Name }}".to_owned()),
        Just("/ns/prod/{{ .PodMeta.Labels.a }}".to_owned()),
        Just("/{{ index .PodMeta.Labels \"b\" }}".to_owned()),
        Just("/ns/{{ .PodMeta.Labels.c }}/x".to_owned()),
        "/[a-z/.]{0,12}",
    ]
}

fn rule() -> impl Strategy<Value = RuleObject> {
    (any::<bool>(), 0..5_i64, path(), labels(), any::<bool>(), "[a-e]").prop_map(
        |(is_tenant, created, path, labels, is_fallback, name)| {
            let spec = json!({
                "spiffeIDTemplate": at(&path),
                "podSelector": {"matchLabels": labels},
                "fallback": is_fallback,
            });
            match is_tenant {
                true => tenant(if is_fallback { "prod" } else { "test" }, &format!("t{name}"), spec),
                false => cluster(&format!("c{name}"), created, spec),
            }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn identities_are_legal_confined_and_explained(
        objects in proptest::collection::vec(rule(), 0..8),
        labels in labels(),
        namespace in prop_oneof![Just("prod"), Just("test"), Just("kube-system")],
        with_default in any::<bool>(),
    ) {
        let settings = settings().default_identity(if with_default { DEFAULT } else { "" });
        let mut world = World::new(&settings, &objects);
        let pod = world.read(pod_json(namespace, "p", json!(labels)));
        let judged = world.judge_facts(&pod);
        for identity in &judged.identities {
            let entry = &identity.entry;
            prop_assert_eq!(entry.spiffe_id.trust_domain_name(), "example.org");
            prop_assert!(!entry.spiffe_id.is_reserved() && !entry.spiffe_id.is_root());
            let uid = mintmark_identity::Selector::new("k8s", &format!("pod-uid:{}", pod.uid)).unwrap();
            prop_assert!(entry.selectors.contains(&uid));
            prop_assert!(entry.parent_id.path().ends_with("/node-uid"));
            if identity.rule.kind == RuleKind::WorkloadIdentity {
                prop_assert_eq!(&*identity.rule.namespace, namespace);
                let below = format!("/ns/{namespace}/");
                prop_assert!(entry.spiffe_id.path().starts_with(&below) && entry.spiffe_id.path().len() > below.len());
            }
        }
        prop_assert!(namespace != "kube-system" || judged.identities.is_empty());
        // No two are the same, and a default is alone.
        for (at, one) in judged.identities.iter().enumerate() {
            let rest = &judged.identities[at + 1..];
            let is_same = |other: &Identity| (&other.entry.spiffe_id, &other.entry.selectors) == (&one.entry.spiffe_id, &one.entry.selectors);
            prop_assert!(!rest.iter().any(is_same));
            prop_assert!(one.rule.kind != RuleKind::Default || judged.outcomes.len() == 1);
        }
        // The explanation is of the same function.
        let explained = world.rules.explain(&world.subject(&pod));
        prop_assert_eq!(explained.len(), world.rules.all().len());
        let selected: Vec<_> = explained
            .iter()
            .enumerate()
            .filter(|(_, one)| !matches!(one.outcome, Outcome::NotSelected(_)))
            .map(|(number, one)| (number, one.outcome.clone()))
            .collect();
        prop_assert_eq!(&selected, &judged.outcomes);
        let given = selected.iter().filter(|(_, outcome)| matches!(outcome, Outcome::Given(_))).count();
        prop_assert_eq!(given, judged.identities.len());
    }

    #[test]
    fn the_order_in_which_objects_come_changes_nothing(
        (objects, shuffled) in proptest::collection::vec(rule(), 0..8).prop_flat_map(|objects| {
            let mut seen = std::collections::HashSet::new();
            let unique: Vec<_> = objects.into_iter().filter(|object| seen.insert(object.name.uid.clone())).collect();
            (Just(unique.clone()), Just(unique).prop_shuffle())
        }),
        labels in labels(),
    ) {
        let pod = || pod_json("prod", "p", json!(labels));
        let ids = |objects: &[RuleObject]| -> Vec<_> {
            let judged = World::new(&settings(), objects).judge(pod());
            judged.identities.iter().map(|one| one.entry.clone()).collect()
        };
        prop_assert_eq!(ids(&objects), ids(&shuffled));
    }
}
