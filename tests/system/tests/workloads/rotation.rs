//! Authorities and SVIDs rotate in seconds.

use std::collections::HashSet;
use std::sync::Arc;

use mintmark_identity::Ttl;
use mintmark_proto::spire::server::localauthority::local_authority_client::LocalAuthorityClient;
use mintmark_proto::spire::server::localauthority::{
    ActivateX509AuthorityRequest, PrepareX509AuthorityRequest, TaintX509AuthorityRequest,
};
use mintmark_server::config::Config;
use spiffe::X509Source;

use crate::world::{DEADLINE, World, next, verify};

fn seconds(config: &mut Config) {
    let ttl = |seconds| Ttl::from_secs(seconds).unwrap();
    config.ttl.x509 = ttl(2);
    config.ttl.jwt = ttl(2);
    config.ttl.ca = ttl(12);
    config.ttl.agent = Some(ttl(4));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_holds_across_three_rotations_with_no_svid_that_its_bundle_does_not_verify() {
    let world = World::new(seconds).await;
    world.own_entry("/web").await;
    let mut contexts = world.contexts().await;
    let source = X509Source::builder()
        .endpoint(format!("unix://{}", world.socket().display()))
        .build()
        .await
        .unwrap();
    let (mut authorities, mut svids) = (HashSet::new(), HashSet::new());
    while authorities.len() < 4 {
        let context = next(&mut contexts).await.unwrap();
        authorities.extend(verify(&context));
        svids.insert(context.svids()[0].cert_chain()[0].as_bytes().to_vec());
        // The source of another client, at any moment, verifies too.
        verify(&source.x509_context().unwrap());
        source.svid().unwrap();
    }
    assert!(svids.len() > 10, "{} SVIDs", svids.len());
    let status = world.node.as_ref().unwrap().status();
    assert_eq!((status.renewals_overdue, status.in_step), (0, true));
    source.shutdown().await;
    world.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_tainted_authority_signed_is_replaced_on_an_open_stream() {
    let world = World::new(|_| {}).await;
    world.own_entry("/web").await;
    let mut contexts = world.contexts().await;
    let first = next(&mut contexts).await.unwrap();
    let old = verify(&first);
    let mut authorities = LocalAuthorityClient::new(world.admin().await);
    let prepared = authorities
        .prepare_x509_authority(PrepareX509AuthorityRequest {})
        .await
        .unwrap()
        .into_inner();
    let authority_id = prepared.prepared_authority.unwrap().authority_id;
    authorities
        .activate_x509_authority(ActivateX509AuthorityRequest { authority_id })
        .await
        .unwrap();
    let state = mintmark_proto::spire::server::localauthority::GetX509AuthorityStateRequest {};
    let state = authorities.get_x509_authority_state(state).await.unwrap().into_inner();
    let authority_id = state.old.unwrap().authority_id;
    authorities
        .taint_x509_authority(TaintX509AuthorityRequest { authority_id })
        .await
        .unwrap();
    let replaced = async {
        loop {
            let context = next(&mut contexts).await.unwrap();
            if verify(&context) != old {
                return Arc::new(context);
            }
        }
    };
    let context = tokio::time::timeout(DEADLINE, replaced)
        .await
        .expect("a new SVID in time");
    assert_ne!(context.svids(), first.svids());
    world.shutdown().await;
}
