//! The roll against an API server that is slow, silent, busy or takes offence.

use mintmark_runtime::clock::Clock;
use mintmark_server::roll::{About, Event, ObjectKind, Write};
use serde_json::json;

use crate::kubernetes::{Kubernetes, NODES, PODS, named, pod};
use crate::roll::{Watching, id};
use crate::world::{in_time, while_time_passes};

const NOW: i64 = 1_800_000_000;

/// The watch of pods fails, and says why in these words.
async fn pods_fail(watching: &Watching, clock: &Clock, words: &str) {
    while_time_passes(clock, async {
        let says = |failing: &mintmark_server::roll::Failing| failing.kind == "pods" && failing.why.contains(words);
        while !watching.cluster().failing().iter().any(says) {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

async fn pod_comes(watching: &Watching, clock: &Clock, n: u32) {
    let comes = async {
        while watching.cluster().pod(id(n)).is_none() {
            tokio::task::yield_now().await;
        }
    };
    while_time_passes(clock, comes).await;
}

#[tokio::test]
async fn an_api_server_that_never_answers_is_told_so_and_asked_again() {
    let (kubernetes, clock) = (Kubernetes::start().await, Clock::manual(NOW));
    kubernetes.fall_silent();
    kubernetes.put(PODS, pod("shop", "web", 1, "n1"));
    let watching = Watching::start(&kubernetes, &clock).await;
    kubernetes.asked_times(PODS, 1).await;
    pods_fail(&watching, &clock, "nothing came within 60s").await;
    assert!(watching.roll.not_synced().unwrap().contains("nothing came within"));
    kubernetes.mend();
    while_time_passes(&clock, watching.cluster().synced()).await;
    assert!(watching.cluster().pod(id(1)).is_some());
}

#[tokio::test]
async fn a_watch_that_falls_silent_is_taken_up_where_it_was_and_misses_nothing() {
    let (kubernetes, clock) = (Kubernetes::start().await, Clock::manual(NOW));
    kubernetes.put(PODS, pod("shop", "web", 1, "n1"));
    let watching = Watching::start(&kubernetes, &clock).await;
    watching.synced().await;
    kubernetes.fall_silent();
    kubernetes.put(PODS, pod("shop", "late", 2, "n1"));
    kubernetes.delete(PODS, &named("shop", "web", 1));
    pods_fail(&watching, &clock, "nothing came within 150s").await;
    assert!(
        watching.cluster().pod(id(1)).is_some(),
        "what is known stays known meanwhile"
    );
    kubernetes.mend();
    pod_comes(&watching, &clock, 2).await;
    in_time(async {
        while watching.cluster().pod(id(1)).is_some() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let asked = kubernetes.asked(PODS);
    let initial = asked
        .iter()
        .filter(|asked| asked.query.contains_key("sendInitialEvents"));
    assert_eq!(initial.count(), 1, "{asked:?}");
}

#[tokio::test]
async fn an_api_server_that_is_too_busy_is_asked_ever_more_seldom() {
    let (kubernetes, clock) = (Kubernetes::start().await, Clock::manual(NOW));
    kubernetes.break_with(429, Some(1));
    let watching = Watching::start(&kubernetes, &clock).await;
    pods_fail(&watching, &clock, "429").await;
    let began = clock.unix();
    while_time_passes(&clock, async {
        while clock.unix() < began + 300 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    // Every quarter of a second this would be 1,200 times.
    let asked = kubernetes.asked(PODS).len();
    assert!((2..60).contains(&asked), "{asked}");
    kubernetes.mend();
    while_time_passes(&clock, watching.cluster().synced()).await;
    assert!(watching.cluster().failing().is_empty());
}

#[tokio::test]
async fn a_word_that_is_never_taken_keeps_no_other_waiting() {
    let (kubernetes, clock) = (Kubernetes::start().await, Clock::manual(NOW));
    kubernetes.put(NODES, named("", "n1", 50));
    let watching = Watching::start(&kubernetes, &clock).await;
    let cluster = watching.synced().await;
    let path = "/apis/spire.spiffe.io/v1alpha1/clusterspiffeids/web/status";
    kubernetes.spoil(path, 500);
    cluster.tell(Write::Status {
        kind: ObjectKind::ClusterSpiffeId,
        namespace: "".into(),
        name: "web".into(),
        status: json!({}),
    });
    kubernetes.asked_times(path, 1).await;
    let event = Event {
        about: About::from(&*cluster.node("n1").unwrap()),
        is_warning: false,
        reason: "NodeRejoined",
        note: "n".into(),
    };
    cluster.tell(Write::Event(event.clone()));
    while_time_passes(&clock, kubernetes.told(1)).await;
    // What may happen again is told again, and what is only so is not.
    cluster.tell(Write::Event(event.clone()));
    for told in 2..=3 {
        cluster.tell(Write::News(event.clone()));
        while_time_passes(&clock, kubernetes.told(told)).await;
    }
    while_time_passes(&clock, kubernetes.asked_times(path, 3)).await;
    let took = "test_kubernetes_writes_total{cluster=\"prod\",result=\"ok\"} 3";
    while_time_passes(&clock, async {
        while !watching.metrics.encode().unwrap().contains(took) {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(kubernetes.told(3).await.len(), 3);
}
