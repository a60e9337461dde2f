//! Two clusters, one issuer: each speaks for its own nodes and pods alone.

use mintmark_runtime::crypto::SecretString;
use mintmark_server::attest::{PodClaim, PodEvidence};
use rcgen::KeyPair;
use serde_json::json;
use tonic::Code;
use tonic_types::StatusExt as _;

use crate::kubernetes::{Kubernetes, NODES, PODS, good, named, pod, token, uid};
use crate::pods::attested;
use crate::psat::{NOW, attestor, configure_as};
use crate::world::{Node, World, attest, csr, in_time, while_time_passes};

const ACCOUNT: &str = "mintmark:mintmark-attestor";

/// An API server with a node, `n1`, that has an attestor and a pod, `web`, and their tokens. All numbers are those of the cluster.
async fn cluster(n: u32) -> (Kubernetes, String, String) {
    let kubernetes = Kubernetes::start().await;
    kubernetes.put(NODES, named("", "n1", n));
    kubernetes.put(PODS, attestor("a", n + 1, "n1"));
    kubernetes.put(PODS, pod("shop", "web", n + 2, "n1"));
    let node = token(&format!("a-{n}"), "mintmark-node", NOW + 600);
    kubernetes.review(&node, good("mintmark-node", ACCOUNT, ("a", n + 1), ("n1", n)));
    let web = token(&format!("web-{n}"), "mintmark", NOW + 600);
    kubernetes.review(&web, good("mintmark", "shop:web", ("web", n + 2), ("n1", n)));
    (kubernetes, node, web)
}

#[tokio::test]
async fn each_of_two_clusters_speaks_for_its_own_nodes_and_pods_alone() {
    let ((east, east_node, east_web), (west, west_node, west_web)) = (cluster(100).await, cluster(200).await);
    let world = World::with(|config| {
        configure_as("east", config, &east);
        configure_as("west", config, &west);
    })
    .await;
    let roll = world.server.rooms().roll.clone();
    for cluster in roll.clusters() {
        in_time(cluster.synced()).await;
    }
    let key = KeyPair::generate().unwrap();
    let join = async |cluster: &str, token: &str| {
        let payload = json!({"cluster": cluster, "token": token}).to_string();
        attest(&world, "k8s_psat", payload.as_bytes(), &csr(&key)).await
    };
    let mut nodes = Vec::new();
    for (cluster, token, n) in [("east", &east_node, 100), ("west", &west_node, 200)] {
        let svid = join(cluster, token).await.unwrap();
        let node = Node::with(&world, svid, &key).await;
        assert_eq!(node.id.path(), format!("/spire/agent/k8s_psat/{cluster}/{}", uid(n)));
        nodes.push(attested(&world, &node).await);
    }
    for (cluster, token) in [("east", &west_node), ("west", &east_node)] {
        let refused = join(cluster, token).await.unwrap_err();
        let reason = refused.get_details_error_info().unwrap().reason;
        assert_eq!(
            (refused.code(), &*reason),
            (Code::PermissionDenied, "K8S_PSAT_TOKEN_NOT_AUTHENTICATED")
        );
    }
    for (asks, token, n, result) in [
        (0, &east_web, 102, Ok("east")),
        (1, &west_web, 202, Ok("west")),
        (0, &west_web, 202, Err("token_not_authenticated")),
        (1, &east_web, 102, Err("token_not_authenticated")),
    ] {
        let claim = PodClaim {
            pod_uid: uid(n),
            namespace: "shop".into(),
            name: "web".into(),
            service_account: "web".into(),
            token: SecretString::new(token.clone()),
        };
        let judged = while_time_passes(&world.clock, PodEvidence::judge(&roll, &nodes[asks], &claim)).await;
        let judged = judged.map(|evidence| evidence.pod().cluster.to_string());
        assert_eq!(judged.as_deref().map_err(|refused| refused.reason()), result);
    }
    // One that is away takes nothing from the other.
    east.break_with(500, None);
    let other = KeyPair::generate().unwrap();
    join("west", &west_node).await.unwrap();
    west.put(PODS, attestor("b", 211, "n1"));
    let b = token("b", "mintmark-node", NOW + 600);
    west.review(&b, good("mintmark-node", ACCOUNT, ("b", 211), ("n1", 200)));
    let payload = json!({"cluster": "west", "token": b}).to_string();
    attest(&world, "k8s_psat", payload.as_bytes(), &csr(&other))
        .await
        .unwrap();
    assert_eq!(roll.cluster("east").unwrap().pods_on("n1").len(), 2);
    world.shutdown().await;
}
