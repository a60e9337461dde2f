//! How nodes come in.

use mintmark_proto::spire::server::svid::svid_client::SvidClient;
use mintmark_proto::spire::server::svid::{BatchNewX509svidRequest, NewX509svidParams};
use rcgen::KeyPair;

use crate::world::{World, csr, entry};

#[tokio::test]
async fn a_node_joins_with_a_token_and_gets_svids_for_its_workloads() {
    let world = World::new().await;
    let node = world.node().await;
    let entry = world.entry(entry("/w", node.id.path())).await;
    let key = KeyPair::generate().unwrap();
    let params = vec![NewX509svidParams {
        entry_id: entry,
        csr: csr(&key),
    }];
    let answer = SvidClient::new(node.channel.clone())
        .batch_new_x509svid(BatchNewX509svidRequest { params })
        .await;
    let results = answer.unwrap().into_inner().results;
    assert_eq!(results.len(), 1);
    let svid = results[0].svid.as_ref().unwrap();
    assert_eq!(svid.id.as_ref().unwrap().path, "/w");
    assert_eq!(svid.cert_chain.len(), 1);
    world.shutdown().await;
}
