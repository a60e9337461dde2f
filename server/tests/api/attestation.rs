//! How nodes come in, renew, and are kept out.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use mintmark_proto::spire::server::agent::agent_client::AgentClient;
use mintmark_proto::spire::server::agent::{
    AgentX509svidParams, AttestAgentRequest, BanAgentRequest, CountAgentsRequest, CreateJoinTokenRequest,
    DeleteAgentRequest, GetAgentRequest, ListAgentsRequest, PostStatusRequest, RenewAgentRequest, attest_agent_request,
    attest_agent_response, list_agents_request,
};
use mintmark_proto::spire::server::entry::GetAuthorizedEntriesRequest;
use mintmark_proto::spire::server::entry::entry_client::EntryClient;
use mintmark_proto::spire::types::{self, permission_denied_details::Reason};
use prost::Message as _;
use rcgen::{CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use tonic::{Code, Status};

use crate::world::{Node, World, attest, attest_params, csr, entry, id_message, in_time};

/// What SPIRE's agents read from a refusal.
fn reason(status: &Status) -> Option<Reason> {
    let whole = tonic_types::pb::Status::decode(status.details()).unwrap();
    if whole.details.is_empty() {
        return None;
    }
    assert_eq!((whole.code, &*whole.message), (status.code().into(), status.message()));
    let any = whole.details.first()?;
    assert_eq!(
        any.type_url,
        "type.googleapis.com/spire.api.types.PermissionDeniedDetails"
    );
    types::PermissionDeniedDetails::decode(&*any.value)
        .unwrap()
        .reason
        .try_into()
        .ok()
}

async fn authorized(node: &Node) -> Result<Vec<types::Entry>, Status> {
    let request = GetAuthorizedEntriesRequest::default();
    let answer = EntryClient::new(node.channel.clone())
        .get_authorized_entries(request)
        .await;
    answer.map(|answer| answer.into_inner().entries)
}

async fn renew(node: &Node, key: &KeyPair) -> Result<types::X509svid, Status> {
    let request = RenewAgentRequest {
        params: Some(AgentX509svidParams { csr: csr(key) }),
    };
    let answer = AgentClient::new(node.channel.clone()).renew_agent(request).await;
    answer.map(|answer| answer.into_inner().svid.unwrap())
}

fn agent(node: &Node) -> Option<types::Spiffeid> {
    Some(id_message(node.id.path()))
}

#[tokio::test]
async fn a_token_lets_one_node_in_once() {
    let world = World::new().await;
    let token = world.token().await;
    let node = Node::join(&world, &token).await.unwrap();
    assert_eq!(node.id.path(), format!("/spire/agent/join_token/{token}"));
    assert_eq!(node.svid.expires_at, 1_800_000_000 + 3600);
    let again = Node::join(&world, &token).await.err().unwrap();
    assert_eq!(again.code(), Code::InvalidArgument);
    assert!(again.message().contains("unknown, used or expired"), "{again}");

    let raced = world.token().await;
    let (first, second) = tokio::join!(Node::join(&world, &raced), Node::join(&world, &raced));
    assert!(first.is_ok() != second.is_ok());

    let late = world.token().await;
    world.clock.advance(Duration::from_secs(600));
    let late = Node::join(&world, &late).await.err().unwrap();
    assert_eq!(late.code(), Code::InvalidArgument);
    world.shutdown().await;
}

#[tokio::test]
async fn a_renewed_svid_ends_the_older_one_when_it_is_first_used() {
    let world = World::new().await;
    let node = world.node().await;
    let key = KeyPair::generate().unwrap();
    // The server's part of the handshake is over when it answers; its deadline must not see the clock move.
    authorized(&node).await.unwrap();
    world.clock.advance(Duration::from_secs(1800));
    let svid = renew(&node, &key).await.unwrap();
    assert_eq!(svid.expires_at, 1_800_000_000 + 1800 + 3600);
    authorized(&node).await.unwrap();
    let renewed = Node::with(&world, svid, &key).await;
    authorized(&renewed).await.unwrap();
    let refused = authorized(&node).await.unwrap_err();
    assert_eq!(
        (refused.code(), reason(&refused)),
        (Code::PermissionDenied, Some(Reason::AgentNotActive))
    );
    authorized(&renewed).await.unwrap();
    world.shutdown().await;
}

#[tokio::test]
async fn an_svid_that_has_ended_makes_no_node_of_an_open_connection() {
    let world = World::new().await;
    let node = world.node().await;
    authorized(&node).await.unwrap();
    world.clock.advance(Duration::from_secs(3601));
    let refused = authorized(&node).await.unwrap_err();
    assert_eq!(
        (refused.code(), reason(&refused)),
        (Code::PermissionDenied, Some(Reason::AgentExpired))
    );
    // With TLS 1.3 a client may think that it is connected until it asks for something.
    if let Ok(channel) = world.connect(Some(node.credential.clone())).await {
        let refused = authorized(&Node { channel, ..node }).await.unwrap_err();
        assert_eq!(
            reason(&refused),
            None,
            "refused in the handshake, not by the API: {refused}"
        );
    }
    world.shutdown().await;
}

#[tokio::test]
async fn a_banned_node_is_refused_at_once_and_learns_why() {
    let world = World::new().await;
    let node = world.node().await;
    authorized(&node).await.unwrap();
    let mut admin = AgentClient::new(world.admin().await);
    admin.ban_agent(BanAgentRequest { id: agent(&node) }).await.unwrap();
    let refused = authorized(&node).await.unwrap_err();
    assert_eq!(
        (refused.code(), reason(&refused)),
        (Code::PermissionDenied, Some(Reason::AgentBanned))
    );
    let shown = admin
        .get_agent(GetAgentRequest {
            id: agent(&node),
            output_mask: None,
        })
        .await
        .unwrap()
        .into_inner();
    assert!(shown.banned);
    admin
        .delete_agent(DeleteAgentRequest { id: agent(&node) })
        .await
        .unwrap();
    let refused = authorized(&node).await.unwrap_err();
    assert_eq!(
        (refused.code(), reason(&refused)),
        (Code::PermissionDenied, Some(Reason::AgentNotAttested))
    );
    let gone = admin
        .delete_agent(DeleteAgentRequest { id: agent(&node) })
        .await
        .unwrap_err();
    assert_eq!((gone.code(), gone.message()), (Code::NotFound, "agent not found"));
    world.shutdown().await;
}

#[tokio::test]
async fn an_alias_of_a_token_reaches_the_node_and_goes_with_it() {
    let world = World::new().await;
    let mut admin = AgentClient::new(world.admin().await);
    let request = CreateJoinTokenRequest {
        ttl: 60,
        agent_id: Some(id_message("/edge")),
        ..Default::default()
    };
    let token = admin.create_join_token(request).await.unwrap().into_inner();
    assert_eq!(token.expires_at, 1_800_000_060);
    let node = Node::join(&world, &token.value).await.unwrap();
    let id = world.entry(entry("/w", "/edge")).await;
    let paths = |entries: Vec<types::Entry>| -> Vec<_> {
        entries
            .into_iter()
            .map(|entry| (entry.spiffe_id.unwrap().path, entry.id == id))
            .collect::<std::collections::BTreeSet<_>>()
            .into_iter()
            .collect()
    };
    let found = paths(authorized(&node).await.unwrap());
    assert_eq!(found, [("/edge".to_owned(), false), ("/w".to_owned(), true)]);
    admin
        .delete_agent(DeleteAgentRequest { id: agent(&node) })
        .await
        .unwrap();
    assert_eq!(world.server.rooms().registry.len(), 1);
    for (ttl, agent_id) in [
        (0, None),
        (-5, None),
        (60, Some(id_message("/spire/agent/x"))),
        (60, Some(id_message(""))),
    ] {
        let request = CreateJoinTokenRequest {
            ttl,
            agent_id,
            ..Default::default()
        };
        let refused = admin.create_join_token(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    }
    world.shutdown().await;
}

#[tokio::test]
async fn nodes_are_listed_by_filter_and_page() {
    let world = World::new().await;
    let nodes = [world.node().await, world.node().await, world.node().await];
    let mut admin = AgentClient::new(world.admin().await);
    AgentClient::new(nodes[0].channel.clone())
        .post_status(PostStatusRequest {
            agent_version: "1.15.3".into(),
            ..Default::default()
        })
        .await
        .unwrap();
    let (mut seen, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = ListAgentsRequest {
            page_size: 2,
            page_token,
            ..Default::default()
        };
        let page = admin.list_agents(request).await.unwrap().into_inner();
        assert!(page.agents.len() <= 2);
        seen.extend(page.agents);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(seen.len(), 3);
    let first = seen.iter().find(|agent| agent.id == self::agent(&nodes[0])).unwrap();
    assert_eq!(
        (&*first.attestation_type, &*first.agent_version, first.can_reattest),
        ("join_token", "1.15.3", false)
    );
    assert_eq!(first.x509svid_serial_number.len(), 40);
    admin.ban_agent(BanAgentRequest { id: agent(&nodes[1]) }).await.unwrap();
    let filter = list_agents_request::Filter {
        by_banned: Some(true),
        ..Default::default()
    };
    let mask = types::AgentMask {
        banned: true,
        ..Default::default()
    };
    let request = ListAgentsRequest {
        filter: Some(filter),
        output_mask: Some(mask),
        ..Default::default()
    };
    let banned = admin.list_agents(request).await.unwrap().into_inner().agents;
    assert_eq!(
        banned,
        [types::Agent {
            id: agent(&nodes[1]),
            banned: true,
            ..Default::default()
        }]
    );
    assert_eq!(
        admin
            .count_agents(CountAgentsRequest::default())
            .await
            .unwrap()
            .into_inner()
            .count,
        3
    );
    world.shutdown().await;
}

struct Machine {
    leaf: Vec<u8>,
    key: KeyPair,
}

fn machine(issuer: &Issuer<'_, KeyPair>) -> Machine {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    let leaf = params.signed_by(&key, issuer).unwrap().der().to_vec();
    Machine { leaf, key }
}

fn authority() -> (Issuer<'static, KeyPair>, String) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let pem = params.self_signed(&key).unwrap().pem();
    (Issuer::new(params, key), pem)
}

/// Answers the challenge with `signer`'s key.
async fn pop(world: &World, machine: &Machine, signer: &Machine, key: &KeyPair) -> Result<types::X509svid, Status> {
    let payload = serde_json::json!({ "certificates": [BASE64.encode(&machine.leaf)] }).to_string();
    let (requests, outgoing) = tokio::sync::mpsc::channel(2);
    requests
        .send(attest_params("x509pop", payload.as_bytes(), &csr(key)))
        .await
        .unwrap();
    let mut client = AgentClient::new(world.anonymous().await);
    let outgoing = tokio_stream::wrappers::ReceiverStream::new(outgoing);
    let mut answers = client.attest_agent(outgoing).await?.into_inner();
    let challenge = match in_time(answers.message()).await?.unwrap().step {
        Some(attest_agent_response::Step::Challenge(challenge)) => challenge,
        other => panic!("{other:?}"),
    };
    let challenge: serde_json::Value = serde_json::from_slice(&challenge).unwrap();
    let theirs = BASE64
        .decode(challenge["ecdsa_signature"]["nonce"].as_str().unwrap())
        .unwrap();
    let random = SystemRandom::new();
    let pair =
        EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, signer.key.serialized_der(), &random).unwrap();
    let signature = pair.sign(&random, &[theirs.as_slice(), &[7; 32]].concat()).unwrap();
    let (r, s) = signature.as_ref().split_at(32);
    let answer = serde_json::json!({
        "ecdsa_signature": { "nonce": BASE64.encode([7; 32]), "r": BASE64.encode(r), "s": BASE64.encode(s) }
    });
    let step = attest_agent_request::Step::ChallengeResponse(answer.to_string().into_bytes().into());
    requests.send(AttestAgentRequest { step: Some(step) }).await.unwrap();
    match in_time(answers.message()).await?.unwrap().step {
        Some(attest_agent_response::Step::Result(result)) => {
            assert!(result.reattestable);
            Ok(result.svid.unwrap())
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_node_with_a_certificate_of_a_configured_authority_joins_as_often_as_it_likes() {
    let (issuer, pem) = authority();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), pem).unwrap();
    let world = World::with(|config| config.attest.x509pop_authorities = file.path().into()).await;
    let (owner, thief) = (machine(&issuer), machine(&issuer));
    let key = KeyPair::generate().unwrap();
    let node = Node::with(&world, pop(&world, &owner, &owner, &key).await.unwrap(), &key).await;
    assert!(node.id.path().starts_with("/spire/agent/x509pop/"));
    authorized(&node).await.unwrap();
    let must_reattest = renew(&node, &key).await.unwrap_err();
    assert_eq!(reason(&must_reattest), Some(Reason::AgentMustReattest));
    // It attests anew, and only the newest SVID is the node's.
    let again = Node::with(&world, pop(&world, &owner, &owner, &key).await.unwrap(), &key).await;
    authorized(&again).await.unwrap();
    assert_eq!(
        reason(&authorized(&node).await.unwrap_err()),
        Some(Reason::AgentNotActive)
    );
    let stolen = pop(&world, &owner, &thief, &key).await.unwrap_err();
    assert_eq!(stolen.code(), Code::PermissionDenied, "{stolen}");
    // A ban outlasts a new attestation.
    AgentClient::new(world.admin().await)
        .ban_agent(BanAgentRequest { id: agent(&node) })
        .await
        .unwrap();
    let banned = pop(&world, &owner, &owner, &key).await.unwrap_err();
    assert_eq!(
        (banned.code(), reason(&banned)),
        (Code::PermissionDenied, Some(Reason::AgentBanned))
    );
    world.shutdown().await;
}

#[tokio::test]
async fn a_node_that_does_not_say_what_it_is_is_told_what_is_missing() {
    let world = World::new().await;
    let good = csr(&KeyPair::generate().unwrap());
    for (method, payload, csr, code, words) in [
        (
            "",
            "x",
            good.clone(),
            Code::InvalidArgument,
            "missing attestation data type",
        ),
        (
            "join_token",
            "",
            good.clone(),
            Code::InvalidArgument,
            "missing attestation data payload",
        ),
        (
            "join_token",
            "x",
            Default::default(),
            Code::InvalidArgument,
            "missing CSR",
        ),
        (
            "join_token",
            "guess",
            good.clone(),
            Code::InvalidArgument,
            "the join token is unknown",
        ),
        (
            "aws_iid",
            "x",
            good.clone(),
            Code::FailedPrecondition,
            "this server has join_token, k8s_psat and x509pop",
        ),
        (
            "k8s_psat",
            "x",
            good.clone(),
            Code::FailedPrecondition,
            "[kubernetes.clusters.NAME]",
        ),
        ("x509pop", "x", good, Code::FailedPrecondition, "x509pop_authorities"),
    ] {
        let refused = attest(&world, method, payload.as_bytes(), &csr).await.unwrap_err();
        assert_eq!(refused.code(), code, "{method}: {refused}");
        assert!(refused.message().contains(words), "{method}: {refused}");
    }
    let mut client = AgentClient::new(world.anonymous().await);
    let mut answers = client.attest_agent(tokio_stream::empty()).await.unwrap().into_inner();
    assert_eq!(
        in_time(answers.message()).await.unwrap_err().code(),
        Code::InvalidArgument
    );
    // Nothing of all that used a token up or made a node.
    assert!(world.server.rooms().nodes.list(None, 10, |_| true).is_empty());
    world.shutdown().await;
}
