//! What becomes of a node's SVIDs when an administrator, or somebody else with its evidence, is quicker.

use tokio::task::JoinHandle;

use super::*;

const NOW: i64 = 1_800_000_000;

struct World {
    store: Store,
    clock: Clock,
    nodes: Nodes,
    follower: JoinHandle<()>,
}

impl Drop for World {
    fn drop(&mut self) {
        self.follower.abort();
    }
}

impl World {
    async fn on(store: Store) -> Self {
        let clock = Clock::manual(NOW);
        let (nodes, task) = Nodes::new(store.clone(), clock.clone());
        let follower = tokio::spawn(task.run());
        nodes.ready().await.unwrap();
        Self {
            store,
            clock,
            nodes,
            follower,
        }
    }

    /// A node that has attested and has SVID 1, which ends in an hour.
    async fn with_node() -> Self {
        let world = Self::on(Store::memory()).await;
        world.attest(1).await.unwrap();
        world
    }

    async fn attest(&self, number: u64) -> Result<(), NodeError> {
        let evidence = NodeEvidence {
            id: id(),
            method: "x509pop",
            selectors: Vec::new(),
            can_reattest: true,
            consume: None,
        };
        self.nodes
            .attested(evidence, &serial(number), NOW + 3_600)
            .await
            .map(drop)
    }

    /// The node renews the SVID `with`, and gets `number`.
    async fn renew(&self, with: u64, number: u64) -> Result<(), NodeError> {
        let with = serial(with).hex();
        self.nodes.renewed(&id(), &with, &serial(number), NOW + 5_400).await
    }

    async fn refusal(&self, number: u64) -> Option<NodeRefusal> {
        match self
            .nodes
            .authenticate(&id(), serial(number).as_bytes(), NOW + 5_400)
            .await
        {
            Ok(_) => None,
            Err(AuthenticateError::Refused(refusal)) => Some(refusal),
            Err(error) => panic!("{error}"),
        }
    }
}

fn id() -> SpiffeId {
    SpiffeId::parse("spiffe://example.org/spire/agent/x509pop/a").unwrap()
}

fn serial(number: u64) -> Serial {
    Serial::new(1, number, [0; 11]).unwrap()
}

#[tokio::test]
async fn a_node_that_is_banned_while_it_renews_gets_no_svid() {
    let world = World::with_node().await;
    world.nodes.ban(&id()).await.unwrap();
    let late = world.renew(1, 2).await.unwrap_err();
    assert!(matches!(late, NodeError::Banned(_)), "{late}");
    assert_eq!(world.nodes.get(&id()).unwrap().next_serial, None);
}

#[tokio::test]
async fn an_svid_that_is_renewed_while_the_node_attests_anew_does_not_take_its_place() {
    let world = World::with_node().await;
    world.attest(2).await.unwrap();
    let late = world.renew(1, 3).await.unwrap_err();
    assert!(matches!(late, NodeError::Superseded(_)), "{late}");
    assert_eq!(world.refusal(3).await, Some(NodeRefusal::NotActive));
    assert_eq!(world.refusal(2).await, None);
}

#[tokio::test]
async fn the_first_use_of_a_renewed_svid_asks_the_store_whether_it_is_still_the_nodes() {
    for (what, expected) in [("ban", NodeRefusal::Banned), ("attest", NodeRefusal::NotActive)] {
        let world = World::with_node().await;
        world.renew(1, 2).await.unwrap();
        // This server has not heard yet of what another one does.
        world.follower.abort();
        let other = World::on(world.store.clone()).await;
        match what {
            "ban" => other.nodes.ban(&id()).await.unwrap(),
            _ => other.attest(3).await.unwrap(),
        }
        assert_eq!(world.refusal(2).await, Some(expected), "{what}");
    }
}

#[tokio::test]
async fn a_renewed_svid_is_the_nodes_from_its_first_use_on() {
    let world = World::with_node().await;
    world.renew(1, 2).await.unwrap();
    assert_eq!(world.refusal(1).await, None);
    assert_eq!(world.refusal(2).await, None);
    assert_eq!(world.refusal(2).await, None);
    assert_eq!(world.refusal(1).await, Some(NodeRefusal::NotActive));
}

#[tokio::test]
async fn a_certificate_that_claims_to_live_longer_than_any_the_node_was_given_does_not() {
    let world = World::with_node().await;
    // Forged with the key of an authority that was stolen: the node's serial, and a hundred years.
    world.clock.set_unix(NOW + 3_599);
    assert_eq!(world.refusal(1).await, None);
    world.clock.set_unix(NOW + 3_600);
    assert_eq!(world.refusal(1).await, Some(NodeRefusal::Expired));
}

#[tokio::test]
async fn a_version_that_is_cut_is_noted_once() {
    let world = World::with_node().await;
    let long = "v".repeat(200);
    world.nodes.version(&id(), &long).await.unwrap();
    let revision = world.store.revision();
    world.nodes.version(&id(), &long).await.unwrap();
    assert_eq!(world.store.revision(), revision);
    assert_eq!(world.nodes.get(&id()).unwrap().version, long[..64]);
}
