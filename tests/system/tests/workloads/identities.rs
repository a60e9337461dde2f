//! Identities come and go.

use std::time::{Duration, Instant};

use mintmark_proto::spire::server::agent::BanAgentRequest;
use mintmark_proto::spire::server::agent::agent_client::AgentClient;

use crate::world::{DEADLINE, World, ids, next, verify};

#[tokio::test(flavor = "multi_thread")]
async fn a_workload_gets_x509_and_jwt_svids_that_strangers_accept() {
    let world = World::new(|_| {}).await;
    world.own_entry("/web").await;
    let context = world.context().await;
    assert_eq!(ids(&context), ["spiffe://example.org/web"]);
    verify(&context);

    let client = world.client().await;
    let token = client.fetch_jwt_token(["audience"], None).await.unwrap();
    let svid = client.validate_jwt_token("audience", &token).await.unwrap();
    assert_eq!(svid.spiffe_id().to_string(), "spiffe://example.org/web");
    assert!(client.validate_jwt_token("another", &token).await.is_err());
    let bundles = client.fetch_jwt_bundles().await.unwrap();
    assert!(bundles.get(&spiffe::TrustDomain::new("example.org").unwrap()).is_some());
    world.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_entries_reaches_an_open_stream_by_push() {
    let world = World::new(|_| {}).await;
    let first = world.own_entry("/first").await;
    let mut contexts = world.contexts().await;
    assert_eq!(ids(&next(&mut contexts).await.unwrap()), ["spiffe://example.org/first"]);

    let mut took = Vec::new();
    for n in 0..10 {
        let began = Instant::now();
        let id = world.own_entry(&format!("/e{n}")).await;
        let context = next(&mut contexts).await.unwrap();
        took.push(began.elapsed());
        assert!(ids(&context).contains(&format!("spiffe://example.org/e{n}")));
        verify(&context);
        world.delete(&id).await;
        assert_eq!(ids(&next(&mut contexts).await.unwrap()), ["spiffe://example.org/first"]);
    }
    took.sort();
    #[expect(
        clippy::print_stdout,
        reason = "for whoever looks at the times; nothing depends on them"
    )]
    {
        println!(
            "entry created to new SVID on an open stream: median {:?}, worst {:?}",
            took[5], took[9]
        );
    }

    world.delete(&first).await;
    let error = next(&mut contexts).await.unwrap_err();
    assert!(error.contains("ermission") || error.contains("dentity"), "{error}");
    world.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_banned_node_takes_its_workloads_identities_away() {
    let mut world = World::new(|_| {}).await;
    world.own_entry("/web").await;
    let mut contexts = world.contexts().await;
    next(&mut contexts).await.unwrap();
    let id = Some(world.node_id());
    AgentClient::new(world.admin().await)
        .ban_agent(BanAgentRequest { id })
        .await
        .unwrap();
    assert!(next(&mut contexts).await.is_err());
    // So it is after a restart of the node.
    world.stop_node().await;
    world.start_node("").await;
    let node = world.node.as_ref().unwrap();
    let banned = async {
        while !node.status().link.contains("banned") {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(DEADLINE, banned)
        .await
        .expect("the node hears of it in time");
    assert!(world.client().await.fetch_x509_context().await.is_err());
    world.shutdown().await;
}
