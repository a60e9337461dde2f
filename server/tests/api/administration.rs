//! What only administrators do: keys, the log, the ledger's proofs.

use mintmark_proto::admin::admin_client::AdminClient;
use mintmark_proto::admin::{
    CheckpointRequest, ProveConsistencyRequest, ProveLeafRequest, ShowLeavesRequest, StatusRequest, authority,
    prove_leaf_request, show_leaves_request,
};
use mintmark_proto::spire::server::bundle::bundle_client::BundleClient;
use mintmark_proto::spire::server::bundle::{CountBundlesRequest, GetBundleRequest, GetFederatedBundleRequest};
use mintmark_proto::spire::server::debug::GetInfoRequest;
use mintmark_proto::spire::server::debug::debug_client::DebugClient;
use mintmark_proto::spire::server::localauthority::local_authority_client::LocalAuthorityClient;
use mintmark_proto::spire::server::localauthority::{self as api, AuthorityState};
use mintmark_proto::spire::server::logger::GetLoggerRequest;
use mintmark_proto::spire::server::logger::logger_client::LoggerClient;
use mintmark_proto::spire::server::svid::BatchNewX509svidRequest;
use mintmark_proto::spire::server::svid::svid_client::SvidClient;
use mintmark_proto::spire::types;
use mintmark_server::ledger::{Hash, leaf_hash, verify_consistency, verify_inclusion};
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

use crate::world::{World, entry, in_time};

#[tokio::test]
async fn status_tells_what_the_server_is_and_what_needs_attention() {
    let world = World::new().await;
    world.node().await;
    world.entry(entry("/w", "/node")).await;
    let status = AdminClient::new(world.admin().await)
        .status(StatusRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!((&*status.trust_domain, status.entries), ("example.org", 1));
    assert_eq!((status.started_at, status.nodes.unwrap().attested), (1_800_000_000, 1));
    let kinds: Vec<_> = status
        .authorities
        .iter()
        .map(|info| (info.kind(), info.state()))
        .collect();
    assert_eq!(
        kinds,
        [authority::Kind::X509, authority::Kind::Jwt, authority::Kind::Wit]
            .map(|kind| (kind, authority::State::Active))
    );
    assert_eq!(status.store.unwrap().engine, "sled");
    let ledger = status.ledger.unwrap();
    assert_eq!((ledger.log, &*ledger.halted_reason, ledger.min_index), (1, "", 0));
    assert!(
        ledger.size >= 3 && ledger.free_bytes > 0 && ledger.bytes > 0,
        "{ledger:?}"
    );
    let codes: Vec<_> = status.attention.iter().map(|attention| &*attention.code).collect();
    assert!(codes.iter().all(|code| *code == "ledger_nearly_full"), "{codes:?}");
    world.shutdown().await;
}

#[tokio::test]
async fn the_ledger_proves_what_it_holds() {
    let world = World::new().await;
    let mut admin = AdminClient::new(world.admin().await);
    let hash = |bytes: &[u8]| -> Hash { bytes.try_into().unwrap() };
    let before = admin
        .checkpoint(CheckpointRequest {})
        .await
        .unwrap()
        .into_inner()
        .checkpoint;
    let verifier = world.server.rooms().ledger.reader().verifier().clone();
    let before = verifier.open_checkpoint(&before).unwrap();
    world.node().await;

    let last = ShowLeavesRequest {
        which: Some(show_leaves_request::Which::Last(2)),
    };
    let leaves = admin.show_leaves(last).await.unwrap().into_inner().leaves;
    assert!(leaves[0].index > leaves[1].index, "the newest first");
    let node = leaves[0].leaf.clone().unwrap();
    assert!(
        node.spiffe_id.contains("/spire/agent/join_token/"),
        "{}",
        node.spiffe_id
    );
    let by_serial = ShowLeavesRequest {
        which: Some(show_leaves_request::Which::Serial(node.serial.clone())),
    };
    assert_eq!(
        admin.show_leaves(by_serial).await.unwrap().into_inner().leaves,
        leaves[..1]
    );

    let request = ProveLeafRequest {
        which: Some(prove_leaf_request::Which::Serial(node.serial)),
    };
    let proof = admin.prove_leaf(request).await.unwrap().into_inner();
    let after = verifier.open_checkpoint(&proof.checkpoint).unwrap();
    let path: Vec<_> = proof.proof.iter().map(|bytes| hash(bytes)).collect();
    verify_inclusion(&leaf_hash(&proof.leaf), proof.index, after.size, &path, &after.root).unwrap();
    let request = ProveConsistencyRequest {
        from: before.size,
        to: after.size,
    };
    let consistency = admin.prove_consistency(request).await.unwrap().into_inner();
    let path: Vec<_> = consistency.proof.iter().map(|bytes| hash(bytes)).collect();
    verify_consistency(before.size, &before.root, after.size, &after.root, &path).unwrap();

    let no_such = ShowLeavesRequest {
        which: Some(show_leaves_request::Which::Index(1_000_000)),
    };
    assert_eq!(admin.show_leaves(no_such).await.unwrap_err().code(), Code::NotFound);
    let forged = ShowLeavesRequest {
        which: Some(show_leaves_request::Which::Serial(vec![1; 20].into())),
    };
    assert_eq!(admin.show_leaves(forged).await.unwrap_err().code(), Code::NotFound);
    for which in [None, Some(show_leaves_request::Which::Serial(vec![1; 3].into()))] {
        assert_eq!(
            admin.show_leaves(ShowLeavesRequest { which }).await.unwrap_err().code(),
            Code::InvalidArgument
        );
    }
    for (from, to) in [(0, 1), (3, 2), (1, 1_000_000)] {
        let refused = admin
            .prove_consistency(ProveConsistencyRequest { from, to })
            .await
            .unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{from} {to}");
    }
    world.shutdown().await;
}

#[tokio::test]
async fn authorities_are_prepared_activated_tainted_and_revoked() {
    let world = World::new().await;
    let mut client = LocalAuthorityClient::new(world.admin().await);
    let id = |state: Option<AuthorityState>| state.unwrap().authority_id;
    let state = client
        .get_x509_authority_state(api::GetX509AuthorityStateRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!((state.prepared, state.old), (None, None));
    let first = id(state.active);
    let prepared = client
        .prepare_x509_authority(api::PrepareX509AuthorityRequest {})
        .await
        .unwrap()
        .into_inner();
    let second = id(prepared.prepared_authority);

    let activate = |authority_id: &str| api::ActivateX509AuthorityRequest {
        authority_id: authority_id.into(),
    };
    for (wrong, words) in [
        ("", "no authority ID provided"),
        ("0000", "0000"),
        ("not an id!", "invalid authority ID"),
        (&*first, "active"),
    ] {
        let refused = client.activate_x509_authority(activate(wrong)).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{wrong}: {refused}");
        assert!(refused.message().contains(words), "{wrong}: {refused}");
    }
    let tainted = api::TaintX509AuthorityRequest {
        authority_id: first.clone(),
    };
    assert_eq!(
        client.taint_x509_authority(tainted.clone()).await.unwrap_err().code(),
        Code::InvalidArgument
    );
    client.activate_x509_authority(activate(&second)).await.unwrap();
    let revoked = api::RevokeX509AuthorityRequest {
        authority_id: first.clone(),
    };
    assert_eq!(
        client.revoke_x509_authority(revoked.clone()).await.unwrap_err().code(),
        Code::InvalidArgument
    );
    client.taint_x509_authority(tainted).await.unwrap();
    let bundle = BundleClient::new(world.admin().await)
        .get_bundle(GetBundleRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        bundle
            .x509_authorities
            .iter()
            .filter(|authority| authority.tainted)
            .count(),
        1
    );
    assert_eq!(
        id(client
            .revoke_x509_authority(revoked)
            .await
            .unwrap()
            .into_inner()
            .revoked_authority),
        first
    );
    let state = client
        .get_x509_authority_state(api::GetX509AuthorityStateRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!((id(state.active), state.old), (second, None));

    let jwt = id(client
        .prepare_jwt_authority(api::PrepareJwtAuthorityRequest {})
        .await
        .unwrap()
        .into_inner()
        .prepared_authority);
    let activated = client
        .activate_jwt_authority(api::ActivateJwtAuthorityRequest {
            authority_id: jwt.clone(),
        })
        .await;
    assert_eq!(id(activated.unwrap().into_inner().activated_authority), jwt);
    client
        .prepare_wit_authority(api::PrepareWitAuthorityRequest {})
        .await
        .unwrap();
    let upstream = client
        .taint_x509_upstream_authority(api::TaintX509UpstreamAuthorityRequest::default())
        .await
        .unwrap_err();
    assert_eq!(upstream.code(), Code::FailedPrecondition);
    world.shutdown().await;
}

#[tokio::test]
async fn the_bundle_is_anyones_and_federated_ones_are_none_yet() {
    let world = World::new().await;
    let mut anyone = BundleClient::new(world.anonymous().await);
    let bundle = anyone
        .get_bundle(GetBundleRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (
            &*bundle.trust_domain,
            bundle.x509_authorities.len(),
            bundle.jwt_authorities.len()
        ),
        ("example.org", 1, 1)
    );
    let mask = types::BundleMask {
        sequence_number: true,
        ..Default::default()
    };
    let masked = anyone
        .get_bundle(GetBundleRequest {
            output_mask: Some(mask),
        })
        .await
        .unwrap()
        .into_inner();
    let expected = types::Bundle {
        trust_domain: "example.org".into(),
        sequence_number: bundle.sequence_number,
        ..Default::default()
    };
    assert_eq!(masked, expected);
    let mut admin = BundleClient::new(world.admin().await);
    assert_eq!(
        admin
            .count_bundles(CountBundlesRequest {})
            .await
            .unwrap()
            .into_inner()
            .count,
        1
    );
    for (name, code) in [
        ("other.org", Code::NotFound),
        ("example.org", Code::InvalidArgument),
        ("Not A Domain", Code::InvalidArgument),
    ] {
        let request = GetFederatedBundleRequest {
            trust_domain: name.into(),
            output_mask: None,
        };
        assert_eq!(
            admin.get_federated_bundle(request).await.unwrap_err().code(),
            code,
            "{name}"
        );
    }
    world.shutdown().await;
}

#[tokio::test]
async fn the_admin_socket_has_debug_health_and_reflection_and_is_no_node() {
    let world = World::new().await;
    let channel = world.admin().await;
    let info = DebugClient::new(channel.clone())
        .get_info(GetInfoRequest {})
        .await
        .unwrap()
        .into_inner();
    let paths: Vec<_> = info
        .svid_chain
        .iter()
        .map(|cert| cert.id.as_ref().map(|id| &*id.path))
        .collect();
    assert_eq!(paths, [Some("/spire/server"), Some("")]);
    let health = HealthClient::new(channel.clone())
        .check(HealthCheckRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(health.status, 1);
    let mut reflection = ServerReflectionClient::new(channel.clone());
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut answers = reflection
        .server_reflection_info(tokio_stream::iter([request]))
        .await
        .unwrap()
        .into_inner();
    let names = match in_time(answers.message()).await.unwrap().unwrap().message_response {
        Some(MessageResponse::ListServicesResponse(list)) => {
            list.service.into_iter().map(|service| service.name).collect::<Vec<_>>()
        }
        other => panic!("{other:?}"),
    };
    for name in ["spire.api.server.entry.v1.Entry", "mintmark.admin.v1.Admin"] {
        assert!(names.iter().any(|found| found == name), "{names:?}");
    }
    let refused = SvidClient::new(channel.clone())
        .batch_new_x509svid(BatchNewX509svidRequest::default())
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    let logger = LoggerClient::new(channel)
        .get_logger(GetLoggerRequest {})
        .await
        .unwrap_err();
    assert_eq!(
        logger.code(),
        Code::FailedPrecondition,
        "the log is this test's, not the server's"
    );
    world.shutdown().await;
}
