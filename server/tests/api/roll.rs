//! The roll against an API server that does what the test says.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use mintmark_runtime::clock::Clock;
use mintmark_runtime::metrics::Metrics;
use mintmark_runtime::task::Supervisor;
use mintmark_server::roll::{
    About, Cluster, ClusterSettings, Dirty, Event, Kept, ObjectKind, PodKey, Pods, Publishing, Reader, Roll, RollFeed,
    Uid, Write,
};
use serde_json::json;

use crate::kubernetes::{
    ACCOUNTS, DEFINITIONS, Kubernetes, NAMESPACES, NODES, PODS, SLICES, SPIFFE_IDS, named, pod, uid,
};
use crate::world::in_time;

/// A roll of one cluster, `prod`.
pub(crate) struct Watching {
    pub(crate) roll: Roll,
    pub(crate) metrics: Metrics,
    supervisor: Supervisor,
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.supervisor.token().cancel();
    }
}

pub(crate) fn settings(kubernetes: &Kubernetes) -> ClusterSettings {
    ClusterSettings {
        name: "prod".into(),
        kubeconfig: Some(kubernetes.kubeconfig()),
        domain: "cluster.local".into(),
        publish: Publishing::default(),
    }
}

impl Watching {
    pub(crate) async fn start(kubernetes: &Kubernetes, clock: &Clock) -> Self {
        Self::with(kubernetes, None, clock).await
    }

    async fn with(kubernetes: &Kubernetes, reader: Option<Arc<dyn Reader>>, clock: &Clock) -> Self {
        Self::of(settings(kubernetes), reader, clock).await
    }

    pub(crate) async fn of(settings: ClusterSettings, reader: Option<Arc<dyn Reader>>, clock: &Clock) -> Self {
        mintmark_runtime::crypto::install();
        let (metrics, supervisor) = (Metrics::new("test"), Supervisor::embedded());
        let roll = Roll::start(vec![settings], reader, clock, &metrics, &supervisor).await;
        Self {
            roll: roll.unwrap(),
            metrics,
            supervisor,
        }
    }

    pub(crate) fn cluster(&self) -> &Cluster {
        self.roll.cluster("prod").unwrap()
    }

    pub(crate) async fn synced(&self) -> &Cluster {
        in_time(self.cluster().synced()).await;
        self.cluster()
    }
}

fn key(n: u32) -> PodKey {
    PodKey {
        cluster: "prod".into(),
        uid: id(n),
    }
}

pub(crate) fn id(n: u32) -> Uid {
    Uid::parse(&uid(n)).unwrap()
}

/// Takes what is new until `done` says that it is what was awaited.
async fn until(feed: &mut RollFeed, mut done: impl FnMut(&Dirty) -> bool) {
    in_time(async {
        loop {
            feed.changed().await;
            if done(&feed.take()) {
                return;
            }
        }
    })
    .await;
}

fn has(dirty: &Dirty, n: u32) -> bool {
    matches!(&dirty.pods, Pods::Some(pods) if pods.contains(&key(n)))
}

async fn shop(kubernetes: &Kubernetes) {
    kubernetes.put(NODES, named("", "n1", 50));
    kubernetes.put(NAMESPACES, named("", "shop", 60));
    kubernetes.put(ACCOUNTS, named("shop", "web", 70));
    for n in 1..=5 {
        kubernetes.put(PODS, pod("shop", &format!("web-{n}"), n, "n1"));
    }
}

#[tokio::test]
async fn what_exists_is_listed_and_then_followed() {
    let kubernetes = Kubernetes::start().await;
    shop(&kubernetes).await;
    let watching = Watching::start(&kubernetes, &Clock::system()).await;
    let mut feed = watching.roll.subscribe();
    let cluster = watching.synced().await;
    assert_eq!(watching.roll.not_synced(), None);
    let subject = cluster.subject(id(1)).unwrap();
    assert_eq!(subject.node.unwrap().meta.uid, id(50));
    assert_eq!(
        subject.namespace.unwrap().meta.labels.get("name").unwrap().as_ref(),
        "shop"
    );
    assert_eq!((&*subject.cluster, &*subject.cluster_domain), ("prod", "cluster.local"));
    assert!(subject.services.is_empty());
    assert_eq!(cluster.service_account("shop", "web").unwrap().uid, id(70));
    assert_eq!(
        (cluster.pods_on("n1").len(), cluster.pods_named("shop", "web-2").len()),
        (5, 1)
    );
    assert_eq!(watching.roll.subject(&key(1)).unwrap().pod, cluster.pod(id(1)).unwrap());
    assert!(
        watching
            .roll
            .subject(&PodKey {
                cluster: "other".into(),
                uid: id(1)
            })
            .is_none()
    );

    // To a new listener everything is new; then only what changes.
    feed.take();
    kubernetes.put(PODS, pod("shop", "web-6", 6, ""));
    until(&mut feed, |dirty| has(dirty, 6)).await;
    assert!(cluster.pods_on("n1").iter().all(|pod| pod.meta.uid != id(6)));
    kubernetes.put(PODS, pod("shop", "web-6", 6, "n1"));
    until(&mut feed, |dirty| has(dirty, 6)).await;
    assert_eq!(cluster.pods_on("n1").len(), 6);
    kubernetes.delete(PODS, &named("shop", "web-6", 6));
    until(&mut feed, |dirty| has(dirty, 6)).await;
    assert_eq!(cluster.pod(id(6)), None);

    // A namespace that gets another label concerns the pods in it, a service those behind it.
    let mut namespace = named("", "shop", 60);
    namespace["metadata"]["labels"]["team"] = json!("a");
    kubernetes.put(NAMESPACES, namespace);
    until(&mut feed, |dirty| (1..=5).all(|n| has(dirty, n))).await;
    let mut slice = named("shop", "web-x", 80);
    slice["metadata"]["labels"]["kubernetes.io/service-name"] = json!("web");
    slice["endpoints"] = json!([{"targetRef": {"kind": "Pod", "namespace": "shop", "uid": uid(2)}}]);
    kubernetes.put(SLICES, slice);
    until(&mut feed, |dirty| has(dirty, 2) && !has(dirty, 1)).await;
    assert_eq!(*cluster.subject(id(2)).unwrap().services[0], *"web");

    let text = watching.metrics.encode().unwrap();
    for line in [
        "test_kubernetes_objects{cluster=\"prod\",kind=\"pods\"} 5",
        "test_kubernetes_objects{cluster=\"prod\",kind=\"endpointslices\"} 1",
        "test_kubernetes_sync_age_seconds{cluster=\"prod\",kind=\"pods\"} ",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
    // Nothing is said of what is not defined, as there is nobody to hear of.
    assert!(!text.contains("sync_age_seconds{cluster=\"prod\",kind=\"clusterspiffeids\"}"));
}

#[tokio::test]
async fn a_watch_that_ends_is_taken_up_where_it_was_and_misses_nothing() {
    let kubernetes = Kubernetes::start().await;
    shop(&kubernetes).await;
    let watching = Watching::start(&kubernetes, &Clock::system()).await;
    let cluster = watching.synced().await;
    let mut feed = watching.roll.subscribe();
    feed.take();
    for round in 0..3 {
        let n = 10 + round;
        kubernetes.cut();
        kubernetes.put(PODS, pod("shop", &format!("late-{n}"), n, "n1"));
        kubernetes.put(PODS, pod("shop", &format!("gone-{n}"), n + 10, "n1"));
        kubernetes.delete(PODS, &named("shop", &format!("gone-{n}"), n + 10));
        until(&mut feed, |dirty| has(dirty, n + 10)).await;
        in_time(cluster.pod_within(id(n), std::time::Duration::from_secs(60)))
            .await
            .unwrap();
        // Seen to come, and to go.
        in_time(async {
            while cluster.pod(id(n + 10)).is_some() {
                feed.changed().await;
                feed.take();
            }
        })
        .await;
    }
    let asked = kubernetes.asked(PODS);
    let initial = asked
        .iter()
        .filter(|asked| asked.query.contains_key("sendInitialEvents"));
    assert_eq!(initial.count(), 1, "{asked:?}");
}

#[tokio::test]
async fn what_is_too_old_to_go_on_from_is_listed_anew_and_never_older_than_what_was_seen() {
    let kubernetes = Kubernetes::start().await;
    shop(&kubernetes).await;
    let watching = Watching::start(&kubernetes, &Clock::system()).await;
    let cluster = watching.synced().await;
    let mut feed = watching.roll.subscribe();
    feed.take();
    let seen = kubernetes.asked(PODS).len();
    kubernetes.break_with(503, None);
    kubernetes.asked_times(PODS, seen + 1).await;
    kubernetes.delete(PODS, &named("shop", "web-1", 1));
    kubernetes.put(PODS, pod("shop", "web-9", 9, "n1"));
    kubernetes.compact(PODS);
    kubernetes.mend();
    let mut news = HashSet::new();
    until(&mut feed, |dirty| {
        news.extend([1, 9].into_iter().filter(|n| has(dirty, *n)));
        news.len() == 2
    })
    .await;
    assert_eq!((cluster.pod(id(1)), cluster.pods_on("n1").len()), (None, 5));
    let asked = kubernetes.asked(PODS);
    let again = asked[seen..]
        .iter()
        .find(|asked| asked.query.contains_key("sendInitialEvents"))
        .unwrap();
    assert!(
        again.query["resourceVersion"].parse::<u64>().unwrap() >= 100,
        "{again:?}"
    );
    in_time(async {
        while !cluster.failing().is_empty() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_server_that_does_not_stream_lists_is_asked_for_pages() {
    let kubernetes = Kubernetes::start().await;
    kubernetes.without_streams();
    shop(&kubernetes).await;
    let watching = Watching::start(&kubernetes, &Clock::system()).await;
    let cluster = watching.synced().await;
    assert_eq!(cluster.pods_on("n1").len(), 5);
    let pages = kubernetes
        .asked(PODS)
        .iter()
        .filter(|asked| asked.query.contains_key("limit"))
        .count();
    assert_eq!(pages, 3);
    kubernetes.put(PODS, pod("shop", "web-6", 6, "n1"));
    in_time(cluster.pod_within(id(6), std::time::Duration::from_secs(60)))
        .await
        .unwrap();
}

#[tokio::test]
async fn kinds_of_objects_are_found_when_they_are_defined_and_forgotten_when_they_no_longer_are() {
    let kubernetes = Kubernetes::start().await;
    let watching = Watching::start(&kubernetes, &Clock::system()).await;
    let cluster = watching.synced().await;
    let kind = ObjectKind::ClusterSpiffeId;
    assert!(cluster.objects(kind).is_empty());
    assert!(
        kubernetes.asked(SPIFFE_IDS).is_empty(),
        "what is not defined is not asked for"
    );
    let mut feed = watching.roll.subscribe();
    feed.take();

    // Of other people's definitions nothing is kept.
    kubernetes.define("widgets.example.org");
    let mut object = named("", "web", 90);
    object["spec"] = json!({"spiffeIDTemplate": "spiffe://{{ .TrustDomain }}/web"});
    kubernetes.put(SPIFFE_IDS, object);
    let definition = kubernetes.define("clusterspiffeids.spire.spiffe.io");
    until(&mut feed, |dirty| dirty.objects).await;
    let objects = cluster.objects(kind);
    assert_eq!(
        (objects.len(), &*objects[0].meta.name, objects[0].kind),
        (1, "web", kind)
    );
    assert_eq!(objects[0].spec["spiffeIDTemplate"], "spiffe://{{ .TrustDomain }}/web");
    let text = watching.metrics.encode().unwrap();
    assert!(text.contains("kubernetes_objects{cluster=\"prod\",kind=\"customresourcedefinitions\"} 1"));

    kubernetes.delete(DEFINITIONS, &definition);
    until(&mut feed, |dirty| dirty.objects).await;
    assert!(cluster.objects(kind).is_empty());
}

/// Keeps a pod's image, and its environment once it was told to.
#[derive(Default)]
struct Images {
    wants_all: AtomicBool,
}

impl Reader for Images {
    fn pod(&self, cluster: &str, json: &str) -> Result<Kept, String> {
        assert_eq!(cluster, "prod");
        let pod: serde_json::Value = serde_json::from_str(json).map_err(|error| error.to_string())?;
        let container = &pod["spec"]["containers"][0];
        if container["image"] == "odd" {
            return Err("an odd image".into());
        }
        match self.wants_all.load(Ordering::Relaxed) {
            true => Ok(Kept::new(container.to_string())),
            false => Ok(Kept::new(container["image"].to_string())),
        }
    }

    fn node(&self, _: &str, json: &str) -> Result<Kept, String> {
        Ok(Kept::new(json.contains("\"labels\"")))
    }

    fn namespace(&self, _: &str, json: &str) -> Result<Kept, String> {
        Ok(Kept::new(json.contains("\"labels\"")))
    }
}

#[tokio::test]
async fn a_reader_keeps_what_it_needs_and_reads_again_when_it_needs_more() {
    let kubernetes = Kubernetes::start().await;
    shop(&kubernetes).await;
    let mut odd = pod("shop", "odd", 9, "n1");
    odd["spec"]["containers"][0]["image"] = json!("odd");
    kubernetes.put(PODS, odd);
    let images = Arc::new(Images::default());
    let watching = Watching::with(&kubernetes, Some(images.clone()), &Clock::system()).await;
    let cluster = watching.synced().await;
    let kept = |n: u32| {
        cluster
            .pod(id(n))
            .unwrap()
            .kept
            .as_ref()
            .and_then(|kept| kept.get::<String>())
            .cloned()
    };
    assert_eq!(kept(1).as_deref(), Some("\"app:1\""));
    assert_eq!(cluster.node("n1").unwrap().kept.as_ref().unwrap().get(), Some(&true));
    assert_eq!(
        cluster.namespace("shop").unwrap().kept.as_ref().unwrap().get(),
        Some(&true)
    );
    // What cannot be read exists all the same.
    assert_eq!(kept(9), None);
    let mut feed = watching.roll.subscribe();
    feed.take();
    images.wants_all.store(true, Ordering::Relaxed);
    cluster.read_again();
    let mut news = HashSet::new();
    until(&mut feed, |dirty| {
        news.extend((1..=5).filter(|n| has(dirty, *n)));
        news.len() == 5
    })
    .await;
    assert_eq!(kept(1).unwrap(), json!({"name": "app", "image": "app:1"}).to_string());
    assert_eq!(cluster.pods_on("n1").len(), 6);
}

#[tokio::test]
async fn nothing_is_ready_before_it_is_listed_and_it_says_what_is_missing_and_why() {
    let kubernetes = Kubernetes::start().await;
    kubernetes.break_with(403, None);
    let watching = Watching::start(&kubernetes, &Clock::system()).await;
    kubernetes.asked_times(PODS, 2).await;
    let why = in_time(async {
        loop {
            match watching.roll.not_synced() {
                Some(why) if why.contains("pods (403") => return why,
                _ => tokio::task::yield_now().await,
            }
        }
    })
    .await;
    assert!(
        why.contains("cluster prod") && why.contains("broken by the test"),
        "{why}"
    );
    assert!(!watching.cluster().is_synced());
    kubernetes.mend();
    watching.synced().await;
    assert_eq!(watching.roll.not_synced(), None);
    // What is known stays known while the API server is away.
    shop(&kubernetes).await;
    let one_minute = std::time::Duration::from_secs(60);
    in_time(watching.cluster().pod_within(id(5), one_minute)).await.unwrap();
    let asked = kubernetes.asked(PODS).len();
    kubernetes.break_with(500, None);
    kubernetes.asked_times(PODS, asked + 2).await;
    assert_eq!(watching.cluster().pods_on("n1").len(), 5);
    assert_eq!(watching.roll.not_synced(), None);
}

#[tokio::test]
async fn a_kubeconfig_that_cannot_be_used_is_named_with_its_key() {
    mintmark_runtime::crypto::install();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("kubeconfig");
    let with = |server: &str, cluster: serde_json::Value| {
        let mut cluster = cluster;
        cluster["server"] = server.into();
        json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "c", "cluster": cluster}],
            "users": [{"name": "c", "user": {}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c"}}],
        })
        .to_string()
    };
    for (text, words) in [
        (None, "No such file"),
        (Some("no: [".to_owned()), "parse"),
        (Some(with("http://198.18.0.1:6443", json!({}))), "use https"),
        (
            Some(with(
                "https://198.18.0.1:6443",
                json!({"insecure-skip-tls-verify": true}),
            )),
            "insecure-skip-tls-verify",
        ),
    ] {
        if let Some(text) = text {
            std::fs::write(&path, text).unwrap();
        }
        let settings = ClusterSettings {
            name: "prod".into(),
            kubeconfig: Some(path.clone()),
            domain: String::new(),
            publish: Publishing::default(),
        };
        let supervisor = Supervisor::embedded();
        let error = Roll::start(
            vec![settings],
            None,
            &Clock::system(),
            &Metrics::new("test"),
            &supervisor,
        )
        .await;
        let error = error.err().unwrap().to_string();
        assert!(
            error.contains(words) && error.contains("kubernetes.clusters.prod.kubeconfig"),
            "{error}"
        );
    }
}

#[tokio::test]
async fn a_cluster_is_told_the_latest_word_on_each_thing_once_it_can_be_told() {
    let kubernetes = Kubernetes::start().await;
    shop(&kubernetes).await;
    let watching = Watching::start(&kubernetes, &Clock::system()).await;
    let cluster = watching.synced().await;
    let event = |about: About, note: &str| {
        Write::Event(Event {
            about,
            is_warning: true,
            reason: "IdentityRefused",
            note: note.to_owned(),
        })
    };
    let status = |pods: u32| Write::Status {
        kind: ObjectKind::ClusterSpiffeId,
        namespace: "".into(),
        name: "web".into(),
        status: json!({"stats": {"podsSelected": pods}}),
    };
    let (pod, node) = (cluster.pod(id(1)).unwrap(), cluster.node("n1").unwrap());
    kubernetes.break_with(503, None);
    let events = "/api/v1/namespaces/shop/events";
    cluster.tell(event(About::from(&*pod), &"ä".repeat(1_000)));
    kubernetes.asked_times(events, 1).await;
    for pods in 0..3_000 {
        cluster.tell(status(pods));
    }
    cluster.tell(event(About::from(&*node), "n"));
    kubernetes.mend();
    let told = kubernetes.told(3).await;
    // What could not be said at first goes behind what came meanwhile.
    let word = |path: &str| {
        let mut words = told.iter().filter(|(told, _)| told == path);
        let (_, word) = words.next().unwrap_or_else(|| panic!("{path}: {told:?}"));
        assert!(words.next().is_none(), "{path}: {told:?}");
        word
    };
    word("POST /api/v1/namespaces/default/events");
    let status_word = word("PATCH /apis/spire.spiffe.io/v1alpha1/clusterspiffeids/web/status");
    assert_eq!(*status_word, json!({"status": {"stats": {"podsSelected": 2_999}}}));
    let of_pod = word(&format!("POST {events}"));
    let (note, about) = (of_pod["message"].as_str().unwrap(), &of_pod["involvedObject"]);
    assert_eq!(
        (note.len(), about["uid"].as_str(), about["kind"].as_str()),
        (1_024, Some(&*uid(1)), Some("Pod"))
    );
    // The same again is no news; a new status is.
    cluster.tell(event(About::from(&*pod), "again"));
    cluster.tell(status(7));
    assert_eq!(kubernetes.told(4).await[3].1["status"]["stats"]["podsSelected"], 7);
    let text = watching.metrics.encode().unwrap();
    assert!(
        text.contains("test_kubernetes_writes_total{cluster=\"prod\",result=\"ok\"} "),
        "{text}"
    );
}
