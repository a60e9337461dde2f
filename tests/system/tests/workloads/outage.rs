//! The server goes away and comes back.

use crate::world::{World, ids, next, verify};

#[tokio::test(flavor = "multi_thread")]
async fn without_the_server_workloads_keep_what_they_have_even_over_a_restart_of_the_attestor() {
    let mut world = World::new(|_| {}).await;
    world.own_entry("/web").await;
    let before = world.context().await;
    world.stop_server().await;
    let during = world.context().await;
    assert_eq!(during.svids(), before.svids());

    world.stop_node().await;
    world.start_node("").await;
    let restarted = world.context().await;
    assert_eq!(restarted.svids(), before.svids());
    verify(&restarted);
    let node = world.node.as_ref().unwrap();
    assert!(!node.status().in_step);
    assert!(node.status().sealed_by.unwrap().contains("node.kek"));
    // What is held is enough to validate by, and not to issue.
    let client = world.client().await;
    assert!(client.fetch_jwt_bundles().await.is_ok());
    assert!(client.fetch_jwt_token(["audience"], None).await.is_err());

    world.start_server().await;
    world.in_step().await;
    let mut contexts = world.contexts().await;
    assert_eq!(next(&mut contexts).await.unwrap().svids(), before.svids());
    world.own_entry("/second").await;
    assert_eq!(ids(&next(&mut contexts).await.unwrap()).len(), 2);
    world.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_server_took_back_during_an_absence_is_gone_when_the_node_returns() {
    let mut world = World::new(|_| {}).await;
    let (gone, kept) = (world.own_entry("/gone").await, world.own_entry("/kept").await);
    let mut contexts = world.contexts().await;
    while ids(&next(&mut contexts).await.unwrap()).len() < 2 {}
    world.stop_node().await;
    world.delete(&gone).await;
    world.start_node("").await;
    world.in_step().await;
    assert_eq!(ids(&world.context().await), ["spiffe://example.org/kept"]);
    world.delete(&kept).await;
    world.shutdown().await;
}
