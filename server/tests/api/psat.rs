//! Nodes of a Kubernetes cluster: who joins, as what, and who does not.

use mintmark_proto::spire::server::agent::agent_client::AgentClient;
use mintmark_proto::spire::server::agent::{BanAgentRequest, GetAgentRequest};
use mintmark_proto::spire::types;
use mintmark_server::config::{ClusterSection, Config};
use rcgen::KeyPair;
use serde_json::{Value, json};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::kubernetes::{ACCOUNTS, Kubernetes, NODES, PODS, REVIEWS, good, named, pod, token, uid};
use crate::world::{Node, World, attest, csr, id_message, in_time, while_time_passes};

pub(crate) const NOW: i64 = 1_800_000_000;
const ACCOUNT: &str = "mintmark:mintmark-attestor";

/// A server that watches a cluster of two nodes, `prod`, with an attestor on each.
pub(crate) struct Cluster {
    pub(crate) world: World,
    pub(crate) kubernetes: Kubernetes,
}

/// An attestor's pod.
pub(crate) fn attestor(name: &str, n: u32, node: &str) -> Value {
    let mut pod = pod("mintmark", name, n, node);
    pod["spec"]["serviceAccountName"] = json!("mintmark-attestor");
    pod["metadata"]["labels"] = json!({"app": "attestor", "pod-template-generation": "1"});
    pod
}

fn configure(config: &mut Config, kubernetes: &Kubernetes) {
    configure_as("prod", config, kubernetes);
}

pub(crate) fn configure_as(name: &str, config: &mut Config, kubernetes: &Kubernetes) {
    let cluster = ClusterSection {
        kubeconfig: kubernetes.kubeconfig(),
        service_accounts: vec![ACCOUNT.into()],
        node_labels: vec!["zone".into()],
        pod_labels: vec!["app".into()],
        ..ClusterSection::default()
    };
    config.kubernetes.clusters.insert(name.into(), cluster);
}

impl Cluster {
    pub(crate) async fn start() -> Self {
        let kubernetes = Kubernetes::start().await;
        for (name, n) in [("n1", 51), ("n2", 52)] {
            let mut node = named("", name, n);
            node["metadata"]["labels"] = json!({"zone": "eu-1", "secret": "no"});
            kubernetes.put(NODES, node);
            kubernetes.put(PODS, attestor(&format!("a-{name}"), n + 50, name));
        }
        kubernetes.put(ACCOUNTS, named("mintmark", "mintmark-attestor", 900));
        let world = World::with(|config| configure(config, &kubernetes)).await;
        let roll = &world.server.rooms().roll;
        in_time(roll.cluster("prod").unwrap().synced()).await;
        Self { world, kubernetes }
    }

    /// A token of the attestor on a node, as the kubelet projects it.
    pub(crate) fn token_of(&self, node: &str) -> String {
        let n = if node == "n1" { 51 } else { 52 };
        let token = token(&format!("attestor-{node}"), "mintmark-node", NOW + 600);
        let status = good("mintmark-node", ACCOUNT, (&format!("a-{node}"), n + 50), (node, n));
        self.kubernetes.review(&token, status);
        token
    }

    pub(crate) async fn join(&self, node: &str) -> Node {
        let key = KeyPair::generate().unwrap();
        let svid = self.attest(&self.token_of(node), &key).await.unwrap();
        Node::with(&self.world, svid, &key).await
    }

    async fn attest(&self, token: &str, key: &KeyPair) -> Result<types::X509svid, Status> {
        let payload = json!({"cluster": "prod", "token": token}).to_string();
        attest(&self.world, "k8s_psat", payload.as_bytes(), &csr(key)).await
    }
}

fn why(status: &Status) -> String {
    let details = status.get_details_error_info().expect("a reason");
    assert_eq!(details.domain, "mintmark.dev");
    details.reason
}

#[tokio::test]
async fn a_node_of_a_cluster_is_named_by_its_uid_and_has_the_selectors_that_spires_agents_have() {
    let cluster = Cluster::start().await;
    let node = cluster.join("n1").await;
    assert_eq!(node.id.path(), format!("/spire/agent/k8s_psat/prod/{}", uid(51)));
    let mut admin = AgentClient::new(cluster.world.admin().await);
    let request = GetAgentRequest {
        id: Some(id_message(node.id.path())),
        output_mask: None,
    };
    let shown = admin.get_agent(request).await.unwrap().into_inner();
    assert_eq!(shown.attestation_type, "k8s_psat");
    assert!(shown.can_reattest);
    let mut selectors: Vec<_> = shown
        .selectors
        .iter()
        .map(|s| format!("{}:{}", s.r#type, s.value))
        .collect();
    selectors.sort();
    let mut expected = [
        "cluster:prod".to_owned(),
        "agent_ns:mintmark".into(),
        "agent_sa:mintmark-attestor".into(),
        "agent_pod_name:a-n1".into(),
        format!("agent_pod_uid:{}", uid(101)),
        "agent_node_ip:198.18.0.2".into(),
        "agent_node_name:n1".into(),
        format!("agent_node_uid:{}", uid(51)),
        "agent_node_label:zone:eu-1".into(),
        "agent_pod_label:app:attestor".into(),
    ]
    .map(|value| format!("k8s_psat:{value}"));
    expected.sort();
    assert_eq!(selectors, expected);
    cluster.world.shutdown().await;
}

#[tokio::test]
async fn of_two_attestors_on_one_node_the_last_to_join_is_the_node() {
    let cluster = Cluster::start().await;
    let authorized = async |node: &Node| {
        use mintmark_proto::spire::server::entry::GetAuthorizedEntriesRequest;
        use mintmark_proto::spire::server::entry::entry_client::EntryClient;
        let mut client = EntryClient::new(node.channel.clone());
        client
            .get_authorized_entries(GetAuthorizedEntriesRequest::default())
            .await
    };
    let first = cluster.join("n1").await;
    authorized(&first).await.unwrap();
    // The pod was replaced, as in an upgrade.
    cluster.kubernetes.put(PODS, attestor("a-new", 110, "n1"));
    let token = token("new", "mintmark-node", NOW + 600);
    let status = good("mintmark-node", ACCOUNT, ("a-new", 110), ("n1", 51));
    cluster.kubernetes.review(&token, status);
    let key = KeyPair::generate().unwrap();
    let second = Node::with(&cluster.world, cluster.attest(&token, &key).await.unwrap(), &key).await;
    assert_eq!(first.id, second.id);
    authorized(&second).await.unwrap();
    cluster.kubernetes.told(1).await;
    let refused = authorized(&first).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert!(refused.message().contains("not the node's current one"), "{refused}");
    let text = cluster.world.server.metrics().encode().unwrap();
    for result in ["joined", "rejoined"] {
        let line = format!("mintmark_server_attestations_total{{method=\"k8s_psat\",result=\"{result}\"}} 1");
        assert!(text.contains(&line), "{line}\n{text}");
    }
    // A third takes over from one whose pod is gone, and then again with the same token.
    cluster.kubernetes.delete(PODS, &named("mintmark", "a-new", 110));
    cluster.kubernetes.put(PODS, attestor("a-third", 111, "n1"));
    let third = crate::kubernetes::token("third", "mintmark-node", NOW + 600);
    let status = good("mintmark-node", ACCOUNT, ("a-third", 111), ("n1", 51));
    cluster.kubernetes.review(&third, status);
    let mut events = Vec::new();
    for told in 2..=3 {
        cluster.attest(&third, &key).await.unwrap();
        events = while_time_passes(&cluster.world.clock, cluster.kubernetes.told(told)).await;
    }
    let before = [("a-new", "a-n1"), ("a-third", "a-new"), ("a-third", "a-third")];
    let words = ["two attestors run on the node", "", "its container was restarted"];
    for (((path, event), (now, before)), words) in events.iter().zip(before).zip(words) {
        assert_eq!(path, "POST /api/v1/namespaces/default/events");
        assert_eq!(event["reason"], "NodeRejoined");
        assert_eq!(event["type"], if words.is_empty() { "Normal" } else { "Warning" });
        let about = &event["involvedObject"];
        assert_eq!(
            (&about["kind"], &about["name"], &about["uid"]),
            (&json!("Node"), &json!("n1"), &json!(uid(51)))
        );
        let note = event["message"].as_str().unwrap();
        let start = format!(
            "pod mintmark/{now} attested as this node, and the SVID that it had by pod mintmark/{before} is refused from now on"
        );
        let rest = note.strip_prefix(&start).unwrap_or_else(|| panic!("{note}"));
        assert!(rest.contains(words) && rest.is_empty() == words.is_empty(), "{note}");
    }
    // A ban outlasts a new token.
    AgentClient::new(cluster.world.admin().await)
        .ban_agent(BanAgentRequest {
            id: Some(id_message(first.id.path())),
        })
        .await
        .unwrap();
    let banned = cluster.attest(&third, &key).await.unwrap_err();
    assert!(banned.message().contains("banned"), "{banned}");
    cluster.world.shutdown().await;
}

#[tokio::test]
async fn each_token_that_makes_no_node_is_refused_for_its_own_reason() {
    let cluster = Cluster::start().await;
    let key = KeyPair::generate().unwrap();
    let attestor = |pod: (&str, u32), node: (&str, u32)| good("mintmark-node", ACCOUNT, pod, node);
    let unbound = |what: &str| {
        let mut status = attestor(("a-n1", 101), ("n1", 51));
        let extra = status["user"]["extra"].as_object_mut().unwrap();
        extra.retain(|key, _| !key.contains(what));
        status
    };
    let mut over = self::attestor("a-over", 120, "n1");
    over["status"]["phase"] = json!("Failed");
    cluster.kubernetes.put(PODS, over);
    cluster.kubernetes.put(PODS, self::attestor("a-lost", 121, "n9"));
    cluster.kubernetes.put(PODS, pod("mintmark", "other", 122, "n1"));
    for (name, status, code, reason) in [
        (
            "stranger",
            good("mintmark-node", "shop:web", ("web", 1), ("n1", 51)),
            Code::PermissionDenied,
            "SERVICE_ACCOUNT_NOT_ALLOWED",
        ),
        ("unbound", unbound("pod-"), Code::PermissionDenied, "TOKEN_NOT_BOUND"),
        (
            "gone",
            attestor(("a-gone", 130), ("n1", 51)),
            Code::PermissionDenied,
            "NO_POD",
        ),
        (
            "renamed",
            attestor(("a-x", 101), ("n1", 51)),
            Code::PermissionDenied,
            "TOKEN_DISAGREES",
        ),
        (
            "account",
            attestor(("other", 122), ("n1", 51)),
            Code::PermissionDenied,
            "TOKEN_DISAGREES",
        ),
        (
            "moved",
            attestor(("a-n1", 101), ("n2", 52)),
            Code::PermissionDenied,
            "TOKEN_DISAGREES",
        ),
        (
            "anew",
            attestor(("a-n1", 101), ("n1", 59)),
            Code::PermissionDenied,
            "TOKEN_DISAGREES",
        ),
        (
            "account-anew",
            {
                let mut status = attestor(("a-n1", 101), ("n1", 51));
                status["user"]["uid"] = json!(uid(901));
                status
            },
            Code::PermissionDenied,
            "TOKEN_DISAGREES",
        ),
        (
            "over",
            attestor(("a-over", 120), ("n1", 51)),
            Code::PermissionDenied,
            "POD_OVER",
        ),
        (
            "lost",
            attestor(("a-lost", 121), ("n9", 59)),
            Code::PermissionDenied,
            "NO_NODE",
        ),
        (
            "audience",
            good("mintmark", ACCOUNT, ("a-n1", 101), ("n1", 51)),
            Code::PermissionDenied,
            "TOKEN_AUDIENCE",
        ),
        (
            "forged",
            json!({"authenticated": false, "error": "signature"}),
            Code::PermissionDenied,
            "TOKEN_NOT_AUTHENTICATED",
        ),
    ] {
        let audience = if name == "audience" {
            "mintmark"
        } else {
            "mintmark-node"
        };
        let token = token(name, audience, NOW + 6_000);
        cluster.kubernetes.review(&token, status);
        let refused = while_time_passes(&cluster.world.clock, cluster.attest(&token, &key))
            .await
            .unwrap_err();
        assert_eq!(
            (refused.code(), why(&refused)),
            (code, format!("K8S_PSAT_{reason}")),
            "{name}: {refused}"
        );
        assert!(!refused.message().contains(&token), "{refused}");
    }
    // A cluster whose tokens name no node has the pod's own, which is what SPIRE goes by.
    let old = token("old", "mintmark-node", NOW + 6_000);
    cluster.kubernetes.review(&old, unbound("node-"));
    let node = cluster.attest(&old, &key).await.unwrap();
    assert_eq!(node.id.unwrap().path, format!("/spire/agent/k8s_psat/prod/{}", uid(51)));

    for (payload, code, reason) in [
        ("{", Code::InvalidArgument, "MALFORMED"),
        ("{\"cluster\":\"prod\"}", Code::InvalidArgument, "MALFORMED"),
        ("{\"token\":\"e30.e30.e30\"}", Code::InvalidArgument, "MALFORMED"),
        (
            "{\"cluster\":\"test\",\"token\":\"e30.e30.e30\"}",
            Code::InvalidArgument,
            "UNKNOWN_CLUSTER",
        ),
        (
            "{\"cluster\":\"prod\",\"token\":\"guess\"}",
            Code::PermissionDenied,
            "TOKEN_MALFORMED",
        ),
    ] {
        let refused = attest(&cluster.world, "k8s_psat", payload.as_bytes(), &csr(&key))
            .await
            .unwrap_err();
        assert_eq!(
            (refused.code(), why(&refused)),
            (code, format!("K8S_PSAT_{reason}")),
            "{payload}: {refused}"
        );
    }
    cluster.kubernetes.break_with(500, None);
    let unanswered = token("unanswered", "mintmark-node", NOW + 6_000);
    let refused = cluster.attest(&unanswered, &key).await.unwrap_err();
    assert_eq!(
        (refused.code(), why(&refused)),
        (Code::Unavailable, "K8S_PSAT_TOKEN_REVIEW_UNAVAILABLE".into())
    );
    cluster.world.shutdown().await;
}

#[tokio::test]
async fn a_pod_that_has_only_just_come_joins_when_it_is_heard_of() {
    let cluster = Cluster::start().await;
    let key = KeyPair::generate().unwrap();
    let token = token("early", "mintmark-node", NOW + 600);
    let status = good("mintmark-node", ACCOUNT, ("a-early", 140), ("n1", 51));
    cluster.kubernetes.review(&token, status);
    let news = async {
        cluster.kubernetes.asked_times(REVIEWS, 1).await;
        cluster.kubernetes.put(PODS, attestor("a-early", 140, "n1"));
    };
    let (joined, ()) = tokio::join!(cluster.attest(&token, &key), news);
    joined.unwrap();

    // The pod is known already, and its binding is not, nor its node.
    cluster.kubernetes.put(PODS, attestor("a-late", 141, ""));
    let roll = cluster.world.server.rooms().roll.clone();
    let watched = roll.cluster("prod").unwrap();
    in_time(watched.pod_within(crate::roll::id(141), std::time::Duration::from_secs(60))).await;
    let token = crate::kubernetes::token("late", "mintmark-node", NOW + 600);
    let status = good("mintmark-node", ACCOUNT, ("a-late", 141), ("n3", 53));
    cluster.kubernetes.review(&token, status);
    let news = async {
        cluster.kubernetes.asked_times(REVIEWS, 2).await;
        cluster.kubernetes.put(PODS, attestor("a-late", 141, "n3"));
        cluster.kubernetes.put(NODES, named("", "n3", 53));
    };
    let (joined, ()) = tokio::join!(cluster.attest(&token, &key), news);
    assert_eq!(
        joined.unwrap().id.unwrap().path,
        format!("/spire/agent/k8s_psat/prod/{}", uid(53))
    );
    cluster.world.shutdown().await;
}

#[tokio::test]
async fn a_server_is_not_ready_before_its_clusters_are_listed() {
    let kubernetes = Kubernetes::start().await;
    kubernetes.break_with(503, None);
    let world = World::with(|config| configure(config, &kubernetes)).await;
    let health = &world.server.rooms().health;
    assert!(health.not_ready()["kubernetes"].contains("cluster prod is not listed yet"));
    kubernetes.mend();
    // The next try is a matter of the server's own time.
    let ready = async {
        while health.not_ready().contains_key("kubernetes") {
            tokio::task::yield_now().await;
        }
    };
    while_time_passes(&world.clock, ready).await;
    world.shutdown().await;
}
