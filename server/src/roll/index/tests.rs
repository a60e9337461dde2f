use serde_json::{Value, json};

use super::*;

fn uid(n: u32) -> String {
    format!("00000000-0000-4000-8000-{n:012}")
}

fn pod(n: u32, namespace: &str, node: &str, label: &str) -> Whole<wire::Pod> {
    parse(json!({
        "metadata": {"name": format!("p{n}"), "namespace": namespace, "uid": uid(n), "labels": {"l": label}},
        "spec": {"nodeName": node, "serviceAccountName": "sa"},
    }))
}

fn bare(name: &str, n: u32, label: &str) -> Value {
    json!({"metadata": {"name": name, "uid": uid(n), "labels": {"l": label}}})
}

fn slice(name: &str, service: &str, pods: &[u32]) -> wire::Slice {
    let to = |n: &u32| json!({"targetRef": {"kind": "Pod", "namespace": "shop", "uid": uid(*n)}});
    let endpoints: Vec<_> = pods.iter().map(to).collect();
    parse(json!({
        "metadata": {"name": name, "namespace": "shop", "labels": {"kubernetes.io/service-name": service}},
        "endpoints": endpoints,
    }))
}

/// From text, as it comes: its bounds are what is kept of it.
fn parse<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_str(&value.to_string()).unwrap()
}

fn put<K: Kind>(index: &mut Index, kind: K, wire: K::Wire) -> Vec<u32> {
    let mut effect = Effect::default();
    kind.put(index, wire, None, &mut effect).unwrap();
    numbers(effect)
}

fn delete<K: Kind>(index: &mut Index, kind: K, wire: K::Wire) -> Vec<u32> {
    let mut effect = Effect::default();
    kind.delete(index, wire, &mut effect);
    numbers(effect)
}

fn numbers(effect: Effect) -> Vec<u32> {
    let text = effect.pods.iter().map(ToString::to_string);
    let mut numbers: Vec<u32> = text.map(|uid| uid[24..].parse().unwrap()).collect();
    numbers.sort_unstable();
    numbers
}

fn key(n: u32) -> Uid {
    Uid::parse(&uid(n)).unwrap()
}

#[test]
fn a_pod_is_news_when_it_comes_changes_and_goes_and_only_then() {
    let mut index = Index::default();
    assert_eq!(put(&mut index, Pods, pod(1, "shop", "", "a")), [1]);
    assert_eq!(put(&mut index, Pods, pod(1, "shop", "", "a")), [] as [u32; 0]);
    assert!(index.pods_on("n1").is_empty());
    assert_eq!(put(&mut index, Pods, pod(1, "shop", "n1", "a")), [1]);
    assert_eq!(put(&mut index, Pods, pod(1, "shop", "n1", "b")), [1]);
    assert_eq!(index.pods_on("n1").len(), 1);
    assert_eq!(index.pods_named("shop", "p1").len(), 1);
    assert_eq!(delete(&mut index, Pods, pod(1, "shop", "n1", "b")), [1]);
    assert_eq!(delete(&mut index, Pods, pod(1, "shop", "n1", "b")), [] as [u32; 0]);
    assert!(index.pods_on("n1").is_empty() && index.pods_named("shop", "p1").is_empty());
    assert!(index.by_node.is_empty() && index.by_namespace.is_empty());
}

#[test]
fn a_change_of_a_node_or_namespace_concerns_its_pods() {
    let mut index = Index::default();
    put(&mut index, Pods, pod(1, "shop", "n1", "a"));
    put(&mut index, Pods, pod(2, "shop", "n2", "a"));
    put(&mut index, Pods, pod(3, "bank", "n1", "a"));
    assert_eq!(put(&mut index, Nodes, parse(bare("n1", 10, "a"))), [1, 3]);
    // A heartbeat changes nothing that is kept.
    let mut heartbeat = bare("n1", 10, "a");
    heartbeat["status"] = json!({"conditions": [{"lastHeartbeatTime": "2026-11-24T10:00:00Z"}]});
    heartbeat["metadata"]["resourceVersion"] = json!("77");
    assert_eq!(put(&mut index, Nodes, parse(heartbeat)), [] as [u32; 0]);
    assert_eq!(put(&mut index, Namespaces, parse(bare("shop", 11, "a"))), [1, 2]);
    assert_eq!(put(&mut index, Namespaces, parse(bare("shop", 11, "b"))), [1, 2]);
    assert_eq!(delete(&mut index, Nodes, parse(bare("n1", 10, "a"))), [1, 3]);
}

#[test]
fn what_somebody_else_keeps_of_a_pod_makes_news_too() {
    let mut index = Index::default();
    let mut news = |kept: Option<Kept>| {
        let mut effect = Effect::default();
        Pods.put(&mut index, pod(1, "shop", "n1", "a"), kept, &mut effect)
            .unwrap();
        numbers(effect).len()
    };
    assert_eq!(news(None), 1);
    assert_eq!(news(Some(Kept::new("x"))), 1);
    assert_eq!(news(Some(Kept::new("x"))), 0);
    assert_eq!(news(Some(Kept::new("y"))), 1);
    assert_eq!(
        index.pods.get(&key(1)).unwrap().kept.as_ref().unwrap().get(),
        Some(&"y")
    );
}

#[test]
fn a_new_listing_takes_away_what_it_does_not_name() {
    let mut index = Index::default();
    for n in 1..=3 {
        put(&mut index, Pods, pod(n, "shop", "n1", "a"));
    }
    Pods.begin(&mut index);
    assert_eq!(put(&mut index, Pods, pod(2, "shop", "n1", "a")), [] as [u32; 0]);
    assert_eq!(put(&mut index, Pods, pod(4, "shop", "n1", "a")), [4]);
    // Until it is complete, nothing is gone.
    assert_eq!(Pods.count(&index), 4);
    let mut effect = Effect::default();
    Pods.end(&mut index, &mut effect);
    assert_eq!(numbers(effect), [1, 3]);
    assert_eq!(Pods.count(&index), 2);
    assert_eq!(index.pods_on("n1").len(), 2);
}

#[test]
fn a_pod_knows_the_services_that_it_stands_behind() {
    let mut index = Index::default();
    let services = |index: &Index, n| {
        index
            .services_of(key(n))
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
    };
    assert_eq!(put(&mut index, Slices, slice("web-4", "web", &[1, 2])), [1, 2]);
    // A service with two families of addresses has two slices.
    put(&mut index, Slices, slice("web-6", "web", &[1, 2]));
    put(&mut index, Slices, slice("api-4", "api", &[2]));
    assert_eq!(services(&index, 2), ["api", "web"]);
    assert_eq!(put(&mut index, Slices, slice("web-4", "web", &[2, 3])), [1, 3]);
    assert_eq!(
        (services(&index, 1), services(&index, 3)),
        (vec!["web".into()], vec!["web".to_owned()])
    );
    delete(&mut index, Slices, slice("web-6", "web", &[]));
    assert_eq!(services(&index, 1), [] as [&str; 0]);
    // A slice that is given to another service.
    assert_eq!(put(&mut index, Slices, slice("web-4", "shop", &[2, 3])), [2, 2, 3, 3]);
    assert_eq!(services(&index, 3), ["shop"]);
    delete(&mut index, Slices, slice("web-4", "shop", &[]));
    delete(&mut index, Slices, slice("api-4", "api", &[]));
    assert!(index.services.is_empty());
}

#[test]
fn an_object_is_news_when_its_spec_changes_and_not_when_its_status_does() {
    let mut index = Index::default();
    let object = |template: &str, version: &str| -> wire::Object {
        parse(json!({
            "metadata": {"name": "all", "uid": uid(20), "resourceVersion": version},
            "spec": {"spiffeIDTemplate": template}, "status": {"stats": {"podsSelected": version}},
        }))
    };
    let kind = ObjectKind::ClusterSpiffeId;
    let mut news = |wire| {
        let mut effect = Effect::default();
        kind.put(&mut index, wire, None, &mut effect).unwrap();
        effect.objects
    };
    assert!(news(object("a", "1")));
    assert!(!news(object("a", "2")));
    assert!(news(object("b", "3")));
    assert_eq!(
        index.objects[kind as usize].values().next().unwrap().spec,
        json!({"spiffeIDTemplate": "b"})
    );
}
