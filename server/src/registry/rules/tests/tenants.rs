//! What a tenant may give itself, and names.

use super::*;

#[test]
fn a_tenant_gives_identities_below_its_namespace_to_its_own_pods_only() {
    let own = |path: &str| tenant("prod", "own", json!({"spiffeIDTemplate": at(path)}));
    assert_eq!(paths(&[own("/ns/prod/a/b")], web()), ["/ns/prod/a/b"]);
    assert_eq!(
        paths(&[own("/ns/prod/a")], pod_json("test", "web-0", json!({}))),
        Vec::<String>::new()
    );
    for path in [
        "/ns/test/a",
        "/ns/prod",
        "/ns/production/a",
        "/ns/prod-2/a",
        "/NS/prod/a",
        "/a/ns/prod/b",
        "/ns/{{ .PodMeta.Labels.app }}/x",
    ] {
        let why = failure(own(path), web());
        assert!(why.contains("is not below /ns/prod/"), "{why}");
    }
    // What a ClusterSPIFFEID may do, and a tenant may not, is not in its spec.
    let more =
        json!({"spiffeIDTemplate": at("/ns/prod/a"), "admin": true, "downstream": true, "namespaceSelector": {}});
    let judged = World::new(&settings(), &[tenant("prod", "more", more)]).judge(web());
    assert!(!judged.identities[0].entry.admin && !judged.identities[0].entry.downstream);
}

#[test]
fn a_tenant_gives_names_of_its_namespace_only() {
    let own = |name: &str| {
        tenant(
            "prod",
            "own",
            json!({"spiffeIDTemplate": at("/ns/prod/a"), "dnsNameTemplates": [name]}),
        )
    };
    for name in [
        "web.prod.svc",
        "a.web.prod.svc.cluster.local",
        "10-0-0-1.prod.pod.cluster.local",
        "*.web.prod.svc",
    ] {
        let judged = World::new(&settings(), &[own(name)]).judge(web());
        assert_eq!(*judged.identities[0].entry.dns_names, [name]);
    }
    for name in [
        "web",
        "web.prod",
        "web.test.svc",
        "prod.svc",
        ".prod.svc",
        "bank.example",
        "web.prod.svc.example",
        "xprod.svc",
    ] {
        let why = failure(own(name), web());
        assert!(
            why.contains("is no name of a service or pod of namespace prod"),
            "{why}"
        );
    }
}

#[test]
fn the_names_of_a_pods_services_come_behind_those_of_the_templates_without_doubles() {
    let spec = json!({
        "spiffeIDTemplate": at("/ns/prod/a"),
        "dnsNameTemplates": ["{{ .PodMeta.Name }}.prod.svc", "b.prod.svc"],
        "autoPopulateDNSNames": true,
    });
    let names = |object: RuleObject| {
        let mut world = World::new(&settings(), &[object]);
        world.services = vec!["b".into(), "a".into()];
        let judged = world.judge(web());
        judged.identities[0].entry.dns_names.to_vec()
    };
    assert_eq!(
        names(cluster("all", 1, spec.clone())),
        [
            "web-0.prod.svc",
            "b.prod.svc",
            "a",
            "a.prod",
            "a.prod.svc",
            "a.prod.svc.cluster.local",
            "b",
            "b.prod",
            "b.prod.svc.cluster.local"
        ]
    );
    assert_eq!(
        names(tenant("prod", "own", spec)),
        [
            "web-0.prod.svc",
            "b.prod.svc",
            "a.prod.svc",
            "a.prod.svc.cluster.local",
            "b.prod.svc.cluster.local"
        ]
    );
}
