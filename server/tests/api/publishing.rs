//! The trust bundle in Kubernetes: written to every place that is asked for, kept there, and offered again where it is refused.

use std::collections::BTreeMap;

use mintmark_runtime::clock::Clock;
use mintmark_server::authority::Kind;
use mintmark_server::config::{ClusterSection, Config};
use mintmark_server::roll::{About, BundleText, Event, Publishing, Write};
use serde_json::{Value, json};

use crate::kubernetes::{ACCOUNTS, Kubernetes, NODES, named, uid};
use crate::roll::{Watching, settings};
use crate::world::{World, trust_domain, while_time_passes};

const MINTMARK: &str = "/api/v1/namespaces/mintmark/configmaps";
const SHOP: &str = "/api/v1/namespaces/shop/configmaps";
const CLUSTER: &str = "/apis/certificates.k8s.io/v1/clustertrustbundles";
const NAME: &str = "mintmark.dev:spiffe:example.org";

fn text(n: u32) -> BundleText {
    BundleText {
        pem: format!("pem {n}"),
        json: format!("json {n}"),
    }
}

/// A cluster in whose namespaces, and as a whole if asked, the bundle is published.
async fn publishing(kubernetes: &Kubernetes, namespaces: &[&str], in_cluster: bool) -> Watching {
    let mut settings = settings(kubernetes);
    settings.publish = Publishing {
        namespaces: namespaces.iter().map(|name| (*name).to_owned()).collect(),
        trust_bundle: in_cluster.then(trust_domain),
    };
    Watching::of(settings, None, &Clock::system()).await
}

fn patch(collection: &str) -> String {
    format!("PATCH {}", object(collection))
}

fn object(collection: &str) -> String {
    let name = if collection == CLUSTER { NAME } else { "mintmark-bundle" };
    format!("{collection}/{name}")
}

/// What was told, each place's in order.
fn by_place(told: Vec<(String, Value)>) -> BTreeMap<String, Vec<Value>> {
    let mut places: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for (path, body) in told {
        places.entry(path).or_default().push(body);
    }
    places
}

fn is_of(n: u32, object: &Value) -> bool {
    object["data"] == json!({"bundle.pem": format!("pem {n}"), "bundle.json": format!("json {n}")})
}

#[tokio::test]
async fn the_bundle_is_written_once_to_each_place_and_again_when_it_is_another() {
    let kubernetes = Kubernetes::start().await;
    kubernetes.put(ACCOUNTS, named("mintmark", "mintmark-server", 70));
    kubernetes.put(ACCOUNTS, named("shop", "default", 71));
    kubernetes.has(
        "certificates.k8s.io/v1",
        &["certificatesigningrequests", "clustertrustbundles"],
    );
    let watching = publishing(&kubernetes, &["mintmark", "shop"], true).await;
    watching.roll.publish(text(1));
    kubernetes.told(3).await;
    // The same is no news.
    watching.roll.publish(text(1));
    watching.roll.publish(text(2));
    let told = kubernetes.told(6).await;
    assert_eq!(told.len(), 6, "{told:?}");
    let places = by_place(told);
    let places: Vec<_> = [MINTMARK, SHOP, CLUSTER]
        .map(|place| places[&patch(place)].clone())
        .into();
    for (n, at) in [(1, 0), (2, 1)] {
        assert!(is_of(n, &places[0][at]) && is_of(n, &places[1][at]), "{places:?}");
        let spec = json!({"signerName": "mintmark.dev/spiffe", "trustBundle": format!("pem {n}")});
        assert_eq!(places[2][at]["spec"], spec);
    }
    let (config_map, bundle) = (&places[0][0], &places[2][0]);
    assert_eq!(
        (&config_map["apiVersion"], &config_map["kind"]),
        (&json!("v1"), &json!("ConfigMap"))
    );
    assert_eq!(bundle["apiVersion"], "certificates.k8s.io/v1");
    assert_eq!(
        (&bundle["kind"], &bundle["metadata"]["name"]),
        (&json!("ClusterTrustBundle"), &json!(NAME))
    );
    // It goes with the chart's service account; an owner in another namespace would be taken for one that is gone.
    let owner = json!([{"apiVersion": "v1", "kind": "ServiceAccount", "name": "mintmark-server", "uid": uid(70)}]);
    assert_eq!(config_map["metadata"]["ownerReferences"], owner);
    assert!(places[1][0]["metadata"].get("ownerReferences").is_none());
    assert!(bundle["metadata"].get("ownerReferences").is_none());
    for place in [MINTMARK, SHOP, CLUSTER] {
        for asked in kubernetes.asked(&object(place)) {
            assert_eq!(
                (&*asked.query["fieldManager"], &*asked.query["force"]),
                ("mintmark-server", "true")
            );
        }
        // Nobody reads what else there is.
        let name = object(place).rsplit_once('/').unwrap().1.to_owned();
        for asked in kubernetes.asked(place) {
            assert_eq!(asked.query["fieldSelector"], format!("metadata.name={name}"));
        }
    }
    let text = watching.metrics.encode().unwrap();
    for line in [
        "test_kubernetes_objects{cluster=\"prod\",kind=\"configmaps\"} 2",
        "test_kubernetes_objects{cluster=\"prod\",kind=\"clustertrustbundles\"} 1",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
}

#[tokio::test]
async fn what_somebody_changes_or_deletes_is_put_right_and_what_is_not_ours_is_left() {
    let kubernetes = Kubernetes::start().await;
    let watching = publishing(&kubernetes, &["mintmark"], false).await;
    watching.roll.publish(text(1));
    kubernetes.told(1).await;
    let ours = kubernetes.objects(MINTMARK).remove(0);
    let mut changed = ours.clone();
    changed["data"]["bundle.pem"] = json!("mine");
    kubernetes.put(MINTMARK, changed);
    assert!(is_of(1, &kubernetes.told(2).await[1].1));
    let mut labelled = ours.clone();
    labelled["metadata"]["labels"]["team"] = json!("a");
    labelled["data"]["other"] = json!("b");
    kubernetes.put(MINTMARK, labelled);
    kubernetes.put(MINTMARK, named("mintmark", "another", 5));
    kubernetes.delete(MINTMARK, &ours);
    let told = kubernetes.told(3).await;
    assert!(told.len() == 3 && is_of(1, &told[2].1), "{told:?}");
    // An account that comes with a new installation is the owner from then on; the garbage collector deletes what went with the old one.
    kubernetes.put(ACCOUNTS, named("mintmark", "mintmark-server", 71));
    let cluster = watching.synced().await;
    crate::world::in_time(async {
        while cluster.service_account("mintmark", "mintmark-server").is_none() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    kubernetes.delete(MINTMARK, &ours);
    let told = kubernetes.told(4).await;
    assert_eq!(told[3].1["metadata"]["ownerReferences"][0]["uid"], uid(71));
}

#[tokio::test]
async fn what_is_there_already_and_as_it_should_be_is_not_written() {
    let kubernetes = Kubernetes::start().await;
    let mut found = named("mintmark", "mintmark-bundle", 5);
    found["data"] = json!({"bundle.pem": "pem 1", "bundle.json": "json 1"});
    kubernetes.put(MINTMARK, found);
    let watching = publishing(&kubernetes, &["mintmark"], false).await;
    watching.roll.publish(text(1));
    kubernetes.asked_times(MINTMARK, 1).await;
    watching.synced().await;
    watching.roll.publish(text(2));
    let told = kubernetes.told(1).await;
    assert!(told.len() == 1 && is_of(2, &told[0].1), "{told:?}");
}

#[tokio::test]
async fn without_the_api_there_is_no_cluster_trust_bundle_and_nothing_else_is_missing() {
    let kubernetes = Kubernetes::start().await;
    kubernetes.has("certificates.k8s.io/v1", &["certificatesigningrequests"]);
    let watching = publishing(&kubernetes, &["mintmark"], true).await;
    watching.roll.publish(text(1));
    kubernetes.told(1).await;
    kubernetes.asked_times("/apis/certificates.k8s.io/v1beta1", 1).await;
    watching.synced().await;
    // A newer API server has it, in an older version.
    kubernetes.has("certificates.k8s.io/v1beta1", &["clustertrustbundles"]);
    watching.roll.publish(text(2));
    let places = by_place(kubernetes.told(3).await);
    let cluster = CLUSTER.replace("v1", "v1beta1");
    let bundle = &places[&format!("PATCH {cluster}/{NAME}")][0];
    assert_eq!(
        (&bundle["apiVersion"], &bundle["spec"]["trustBundle"]),
        (&json!("certificates.k8s.io/v1beta1"), &json!("pem 2"))
    );
    assert_eq!(places[&patch(MINTMARK)].len(), 2);
    assert!(
        kubernetes.asked(CLUSTER).is_empty(),
        "what is not there is not asked for"
    );
}

#[tokio::test]
async fn what_is_refused_is_offered_again_as_it_is_then_while_others_go_on() {
    for status in [403, 404, 409] {
        let kubernetes = Kubernetes::start().await;
        kubernetes.put(NODES, named("", "n1", 50));
        kubernetes.spoil(&object(MINTMARK), status);
        let watching = publishing(&kubernetes, &["mintmark", "shop"], false).await;
        let cluster = watching.synced().await;
        watching.roll.publish(text(1));
        kubernetes.asked_times(&object(MINTMARK), 1).await;
        kubernetes.told(1).await;
        cluster.tell(Write::Event(Event {
            about: About::from(&*cluster.node("n1").unwrap()),
            is_warning: true,
            reason: "Test",
            note: "a".into(),
        }));
        kubernetes.told(2).await;
        watching.roll.publish(text(2));
        // It is tried again by itself.
        kubernetes.asked_times(&object(MINTMARK), 2).await;
        let metrics = watching.metrics.encode().unwrap();
        assert!(
            metrics.contains("test_kubernetes_writes_total{cluster=\"prod\",result=\"refused\"} "),
            "{metrics}"
        );
        kubernetes.unspoil(&object(MINTMARK));
        let places = by_place(kubernetes.told(4).await);
        let told = &places[&patch(MINTMARK)];
        assert!(told.len() == 1 && is_of(2, &told[0]), "{status}: {told:?}");
        assert_eq!(places[&patch(SHOP)].len(), 2);
    }
}

#[tokio::test]
async fn a_place_that_cannot_be_watched_is_written_all_the_same_and_holds_nobody_up() {
    let kubernetes = Kubernetes::start().await;
    kubernetes.spoil(MINTMARK, 403);
    let watching = publishing(&kubernetes, &["mintmark"], false).await;
    watching.synced().await;
    watching.roll.publish(text(1));
    assert!(is_of(1, &kubernetes.told(1).await[0].1));
    assert_eq!(watching.roll.not_synced(), None);
    watching.roll.publish(text(2));
    assert!(is_of(2, &kubernetes.told(2).await[1].1));
}

#[tokio::test]
async fn a_server_publishes_its_own_bundle_in_every_cluster_and_each_change_of_it() {
    let kubernetes = [Kubernetes::start().await, Kubernetes::start().await];
    kubernetes[0].has("certificates.k8s.io/v1", &["clustertrustbundles"]);
    let world = World::with(|config: &mut Config| {
        config.kubernetes.cluster_trust_bundle = true;
        config.kubernetes.bundle_namespaces = vec!["mintmark".into()];
        for (name, kubernetes) in ["east", "west"].into_iter().zip(&kubernetes) {
            let cluster = ClusterSection {
                kubeconfig: kubernetes.kubeconfig(),
                service_accounts: vec!["mintmark:mintmark-attestor".into()],
                bundle_namespaces: if name == "west" { vec!["shop".into()] } else { vec![] },
                ..ClusterSection::default()
            };
            config.kubernetes.clusters.insert(name.into(), cluster);
        }
    })
    .await;
    let check = |told: Vec<(String, Value)>, expected: [&str; 2]| {
        let bundle = world.server.bundle();
        let places = by_place(told);
        let paths: Vec<_> = places.keys().map(String::as_str).collect();
        assert_eq!(paths, expected.map(patch));
        for (path, bodies) in &places {
            let body = bodies.last().unwrap();
            let is_config_map = path.contains("configmaps");
            let pem = if is_config_map {
                &body["data"]["bundle.pem"]
            } else {
                &body["spec"]["trustBundle"]
            };
            let blocks = pem::parse_many(pem.as_str().unwrap()).unwrap();
            let ders: Vec<_> = blocks.iter().map(pem::Pem::contents).collect();
            assert_eq!(
                ders,
                bundle.x509.iter().map(|authority| &*authority.der).collect::<Vec<_>>()
            );
            assert!(blocks.iter().all(|block| block.tag() == "CERTIFICATE"));
            if is_config_map {
                assert_eq!(body["data"]["bundle.json"], bundle.to_json().unwrap());
            }
        }
    };
    let told = async |times| {
        while_time_passes(&world.clock, async {
            (kubernetes[0].told(times).await, kubernetes[1].told(times).await)
        })
        .await
    };
    let (east, west) = told(2).await;
    check(east, [MINTMARK, CLUSTER]);
    check(west, [MINTMARK, SHOP]);
    let before = world.server.bundle();
    world.server.rooms().authorities.prepare(Kind::X509).await.unwrap();
    assert_eq!(world.server.bundle().x509.len(), before.x509.len() + 1);
    let (east, west) = told(4).await;
    check(east, [MINTMARK, CLUSTER]);
    check(west, [MINTMARK, SHOP]);
    world.shutdown().await;
}
