//! Pods, by two witnesses: what a node says of them, and what makes it believed.

use mintmark_runtime::crypto::SecretString;
use mintmark_server::attest::{Attested, By, PodClaim, PodEvidence, PodRefusal, Witness};
use serde_json::json;

use crate::kubernetes::{ACCOUNTS, PODS, good, named, pod, token, uid};
use crate::psat::{Cluster, NOW};
use crate::roll::id;
use crate::world::{Node, World, in_time, while_time_passes};

/// What the kubelet of a node says of pod `web` in `shop`, and the pod's own token.
fn claim(token: &str) -> PodClaim {
    PodClaim {
        pod_uid: uid(1),
        namespace: "shop".into(),
        name: "web".into(),
        service_account: "web".into(),
        token: SecretString::new(token.to_owned()),
    }
}

pub(crate) async fn attested(world: &World, node: &Node) -> Attested {
    let serial = mintmark_identity::svid::x509::Leaf::parse(&node.svid.cert_chain[0]).unwrap();
    let nodes = &world.server.rooms().nodes;
    let (attested, _) = nodes
        .authenticate(&node.id, serial.certificate.serial, node.svid.expires_at)
        .await
        .unwrap();
    attested
}

async fn judge(cluster: &Cluster, asks: &Attested, claim: &PodClaim) -> Result<PodEvidence, PodRefusal> {
    PodEvidence::judge(&cluster.world.server.rooms().roll, asks, claim).await
}

/// Pod `web` runs on node `n1`.
async fn world() -> (Cluster, Attested, String) {
    let cluster = Cluster::start().await;
    cluster.kubernetes.put(ACCOUNTS, named("shop", "web", 900));
    cluster.kubernetes.put(PODS, pod("shop", "web", 1, "n1"));
    let roll = cluster.world.server.rooms().roll.clone();
    in_time(async {
        let watched = roll.cluster("prod").unwrap();
        let mut feed = roll.subscribe();
        while watched.pod(id(1)).is_none() || watched.service_account("shop", "web").is_none() {
            tokio::select! {
                () = feed.changed() => drop(feed.take()),
                () = tokio::task::yield_now() => {}
            }
        }
    })
    .await;
    let node = cluster.join("n1").await;
    let asks = attested(&cluster.world, &node).await;
    let token = token("web", "mintmark", NOW + 6_000);
    cluster
        .kubernetes
        .review(&token, good("mintmark", "shop:web", ("web", 1), ("n1", 51)));
    (cluster, asks, token)
}

#[tokio::test]
async fn a_pod_that_both_witnesses_vouch_for_is_known_with_both_of_them() {
    let (cluster, asks, token) = world().await;
    let evidence = judge(&cluster, &asks, &claim(&token)).await.unwrap();
    assert_eq!((&*evidence.pod().cluster, evidence.pod().uid), ("prod", id(1)));
    assert_eq!(
        (
            &**evidence.namespace(),
            &**evidence.name(),
            &**evidence.service_account()
        ),
        ("shop", "web", "web")
    );
    let both: Vec<_> = evidence.witnesses().iter().collect();
    assert_eq!(both, [Witness::Kubelet, Witness::TokenReview]);
    let attested = evidence.attested();
    assert_eq!(
        (attested.by(), attested.witnesses()),
        (&By::Node(evidence.node().clone()), evidence.witnesses())
    );
    assert_eq!(attested.by(), asks.by());
    cluster.world.shutdown().await;
}

#[tokio::test]
async fn a_stolen_node_credential_says_nothing_about_pods_that_are_not_there() {
    let (cluster, _, token) = world().await;
    // The thief holds node n2: its SVID, its attestor's token, and a token of a pod of n1.
    let thief = cluster.join("n2").await;
    let thief = attested(&cluster.world, &thief).await;
    let refused = judge(&cluster, &thief, &claim(&token)).await.unwrap_err();
    assert!(
        matches!(&refused, PodRefusal::OtherNode { on, asks, .. } if (*on, *asks) == (id(51), id(52))),
        "{refused}"
    );
    // The attestor's own token is made for another door.
    let refused = judge(&cluster, &thief, &claim(&cluster.token_of("n2")))
        .await
        .unwrap_err();
    assert_eq!(refused.reason(), "token_audience");
    // A pod that does not exist, with a token that the thief made up.
    let mut made_up = claim(&crate::kubernetes::token("made-up", "mintmark", NOW + 600));
    made_up.pod_uid = uid(77);
    let refused = judge(&cluster, &thief, &made_up).await.unwrap_err();
    assert_eq!(refused.reason(), "token_not_authenticated");
    // Nor is anybody believed who is no node of a cluster.
    let by_token = cluster.world.node().await;
    for asks in [
        attested(&cluster.world, &by_token).await,
        Attested::local_admin(0, None),
        Attested::server(),
    ] {
        let refused = judge(&cluster, &asks, &claim(&token)).await.unwrap_err();
        assert_eq!(refused.reason(), "not_a_node_of_a_cluster", "{refused}");
    }
    cluster.world.shutdown().await;
}

#[tokio::test]
async fn witnesses_that_disagree_vouch_for_nobody() {
    let (cluster, asks, good_token) = world().await;
    // What the kubelet says is not what the token says.
    type Change = fn(&mut PodClaim);
    for (what, change) in [
        ("pod's UID", (|c| c.pod_uid = uid(2)) as Change),
        ("pod's name", |c| c.name = "api".into()),
        ("namespace", |c| c.namespace = "bank".into()),
        ("service account", |c| c.service_account = "admin".into()),
    ] {
        let mut claim = claim(&good_token);
        change(&mut claim);
        let refused = judge(&cluster, &asks, &claim).await.unwrap_err();
        assert!(
            matches!(&refused, PodRefusal::KubeletDisagrees { what: found, .. } if *found == what),
            "{refused}"
        );
    }
    for change in [
        (|c| c.pod_uid = "web".into()) as Change,
        |c| c.name = "../web".into(),
        |c| c.namespace = String::new(),
        |c| c.service_account = "a".repeat(300),
        |c| c.token = SecretString::default(),
    ] {
        let mut claim = claim(&good_token);
        change(&mut claim);
        assert_eq!(judge(&cluster, &asks, &claim).await.unwrap_err().reason(), "malformed");
    }
    // What the token says is not what the API server's watch says.
    for (n, (name, namespace, account, node), what) in [
        (11, ("other", "shop", "web", "n1"), "pod's name"),
        (12, ("web", "bank", "web", "n1"), "namespace"),
        (13, ("web", "shop", "admin", "n1"), "service account"),
        (14, ("web", "shop", "web", "n2"), "node"),
    ] {
        let mut known = pod(namespace, name, n, node);
        known["spec"]["serviceAccountName"] = account.into();
        cluster.kubernetes.put(PODS, known);
        let token = token(&format!("t{n}"), "mintmark", NOW + 6_000);
        cluster
            .kubernetes
            .review(&token, good("mintmark", "shop:web", ("web", n), ("n1", 51)));
        let mut claim = claim(&token);
        claim.pod_uid = uid(n);
        let refused = judge(&cluster, &asks, &claim).await.unwrap_err();
        assert!(
            matches!(&refused, PodRefusal::RollDisagrees { what: found, .. } if *found == what),
            "{what}: {refused}"
        );
    }
    // A service account that was made anew under its name.
    let mut status = good("mintmark", "shop:web", ("web", 1), ("n1", 51));
    status["user"]["uid"] = json!(uid(901));
    let stale = token("stale", "mintmark", NOW + 6_000);
    cluster.kubernetes.review(&stale, status);
    let refused = judge(&cluster, &asks, &claim(&stale)).await.unwrap_err();
    assert!(refused.to_string().contains("service account's UID"), "{refused}");
    cluster.world.shutdown().await;
}

#[tokio::test]
async fn a_pod_that_is_gone_over_or_bound_to_nothing_is_nobody() {
    let (cluster, asks, good_token) = world().await;
    let mut over = pod("shop", "web", 21, "n1");
    over["status"]["phase"] = json!("Succeeded");
    cluster.kubernetes.put(PODS, over);
    let unbound = |what: &str| {
        let mut status = good("mintmark", "shop:web", ("web", 1), ("n1", 51));
        let extra = status["user"]["extra"].as_object_mut().unwrap();
        extra.retain(|key, _| !key.contains(what));
        status
    };
    for (n, status, reason) in [
        (21, good("mintmark", "shop:web", ("web", 21), ("n1", 51)), "pod_over"),
        (22, good("mintmark", "shop:web", ("web", 22), ("n1", 51)), "no_pod"),
        (1, unbound("pod-"), "token_not_bound"),
        (1, unbound("node-"), "token_not_bound_to_a_node"),
    ] {
        let token = token(reason, "mintmark", NOW + 6_000);
        cluster.kubernetes.review(&token, status);
        let mut claim = claim(&token);
        claim.pod_uid = uid(n);
        let refused = while_time_passes(&cluster.world.clock, judge(&cluster, &asks, &claim))
            .await
            .unwrap_err();
        assert_eq!(refused.reason(), reason, "{refused}");
        assert!(!refused.is_ours());
    }
    // The pod is deleted while its token is still believed: the roll knows it sooner.
    cluster.kubernetes.put(PODS, pod("shop", "web", 1, "n1"));
    judge(&cluster, &asks, &claim(&good_token)).await.unwrap();
    let roll = cluster.world.server.rooms().roll.clone();
    let mut feed = roll.subscribe();
    cluster.kubernetes.delete(PODS, &named("shop", "web", 1));
    in_time(async {
        while roll.cluster("prod").unwrap().pod(id(1)).is_some() {
            feed.changed().await;
            feed.take();
        }
    })
    .await;
    let last = claim(&good_token);
    let judged = judge(&cluster, &asks, &last);
    let refused = while_time_passes(&cluster.world.clock, judged).await.unwrap_err();
    assert_eq!(refused.reason(), "no_pod");
    // An API server that does not answer refuses too, and says whose fault it is.
    cluster.kubernetes.break_with(500, None);
    let unknown = token("unknown", "mintmark", NOW + 6_000);
    let refused = judge(&cluster, &asks, &claim(&unknown)).await.unwrap_err();
    assert!(refused.is_ours(), "{refused}");
    cluster.world.shutdown().await;
}
