//! Callers that mean no good, or do not know better: each is refused with what is wrong, and harms nobody else.

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use mintmark_proto::Bytes;
use mintmark_proto::spire::server::agent::agent_client::AgentClient;
use mintmark_proto::spire::server::bundle::GetBundleRequest;
use mintmark_proto::spire::server::bundle::bundle_client::BundleClient;
use mintmark_proto::spire::server::entry::entry_client::EntryClient;
use mintmark_proto::spire::server::entry::{CountEntriesRequest, GetAuthorizedEntriesRequest};
use mintmark_proto::spire::server::svid::svid_client::SvidClient;
use mintmark_proto::spire::server::svid::{BatchNewX509svidRequest, NewX509svidParams};
use mintmark_proto::spire::types;
use mintmark_runtime::tls::Credential;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tonic::Code;

use crate::svids::batch;
use crate::world::{World, attest, attest_params, csr, entry, in_time};

#[tokio::test]
async fn certificates_of_others_are_refused_in_the_handshake() {
    let world = World::new().await;
    for id in [
        "spiffe://example.org/spire/agent/join_token/a",
        "spiffe://other.org/spire/agent/join_token/a",
        "https://example.org",
    ] {
        let ca_key = KeyPair::generate().unwrap();
        let mut ca = CertificateParams::default();
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = Issuer::new(ca, ca_key);
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(id.try_into().unwrap())];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.is_ca = IsCa::ExplicitNoCa;
        let certificate = params.signed_by(&key, &issuer).unwrap();
        let credential = Credential::empty();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        credential.set(vec![certificate.der().clone()], key).unwrap();
        // With TLS 1.3 the client may think that it is connected until it asks for something.
        let refused = match world.connect(Some(credential)).await {
            Ok(channel) => BundleClient::new(channel)
                .get_bundle(GetBundleRequest::default())
                .await
                .is_err(),
            Err(_) => true,
        };
        assert!(refused, "{id}");
    }
    world.node().await;
    world.shutdown().await;
}

#[tokio::test]
async fn nobody_without_a_name_gets_past_the_gate() {
    let world = World::new().await;
    let channel = world.anonymous().await;
    let count = EntryClient::new(channel.clone())
        .count_entries(CountEntriesRequest::default())
        .await
        .unwrap_err();
    let entries = EntryClient::new(channel.clone())
        .get_authorized_entries(GetAuthorizedEntriesRequest::default())
        .await
        .unwrap_err();
    let svids = SvidClient::new(channel.clone())
        .batch_new_x509svid(BatchNewX509svidRequest::default())
        .await
        .unwrap_err();
    for refused in [count, entries, svids] {
        assert_eq!(refused.code(), Code::PermissionDenied);
        assert!(
            refused.message().contains("authorization denied for method"),
            "{refused}"
        );
    }
    let mut grpc = tonic::client::Grpc::new(channel);
    grpc.ready().await.unwrap();
    let path = http::uri::PathAndQuery::from_static("/no.such.Service/Method");
    let codec = tonic_prost::ProstCodec::<(), ()>::default();
    let refused = grpc.unary(tonic::Request::new(()), path, codec).await.unwrap_err();
    assert_eq!(
        (refused.code(), refused.message()),
        (Code::Unimplemented, "this server has no method no.such.Service/Method")
    );
    world.shutdown().await;
}

#[tokio::test]
async fn bad_signing_requests_are_refused_one_by_one() {
    let world = World::new().await;
    let node = world.node().await;
    let id = world.entry(entry("/w", node.id.path())).await;
    let key = KeyPair::generate().unwrap();
    let good = csr(&key);
    let mut forged = good.to_vec();
    let last = forged.len() - 1;
    forged[last] ^= 1;
    let foreign = {
        let mut params = CertificateParams::default();
        let names = ["spiffe://example.org/other", "spiffe://example.org/another"];
        params.subject_alt_names = names
            .iter()
            .map(|name| SanType::URI((*name).try_into().unwrap()))
            .collect();
        params.custom_extensions = vec![rcgen::CustomExtension::from_oid_content(&[1, 2, 3, 4], vec![5, 0])];
        Bytes::copy_from_slice(params.serialize_request(&key).unwrap().der())
    };
    let p521 = Bytes::from_static(&[0x30, 0x03, 0x02, 0x01, 0x00]);
    let table: [(Bytes, Code, &str); 8] = [
        (good.clone(), Code::Ok, ""),
        (Bytes::new(), Code::InvalidArgument, "missing CSR"),
        (
            Bytes::from_static(b"not a request"),
            Code::InvalidArgument,
            "malformed CSR",
        ),
        (
            vec![0x30; 20 << 10].into(),
            Code::InvalidArgument,
            "bytes are more than 16384",
        ),
        (good.slice(..good.len() - 5), Code::InvalidArgument, "malformed CSR"),
        (forged.into(), Code::InvalidArgument, "invalid CSR signature"),
        (p521, Code::InvalidArgument, "malformed CSR"),
        // What else a request asks for decides nothing: the identity is the entry's.
        (foreign, Code::Ok, ""),
    ];
    let params = table
        .iter()
        .map(|(csr, ..)| NewX509svidParams {
            entry_id: id.clone(),
            csr: csr.clone(),
        })
        .collect();
    let mut client = SvidClient::new(node.channel.clone());
    let results = client
        .batch_new_x509svid(BatchNewX509svidRequest { params })
        .await
        .unwrap()
        .into_inner()
        .results;
    for ((_, code, words), result) in table.iter().zip(&results) {
        let status = result.status.as_ref().unwrap();
        assert_eq!(status.code, i32::from(*code), "{words}: {status:?}");
        assert!(
            *code == Code::Ok || status.message.contains(words),
            "{words}: {status:?}"
        );
        if let Some(svid) = &result.svid {
            let (_, leaf) = x509_parser::parse_x509_certificate(&svid.cert_chain[0]).unwrap();
            let names = leaf.subject_alternative_name().unwrap().unwrap().value;
            assert_eq!(names.general_names.len(), 1, "{names:?}");
            assert_eq!(svid.id.as_ref().unwrap().path, "/w");
        }
    }
    for count in [0, 1001] {
        let params = vec![
            NewX509svidParams {
                entry_id: id.clone(),
                csr: good.clone()
            };
            count
        ];
        let refused = client
            .batch_new_x509svid(BatchNewX509svidRequest { params })
            .await
            .unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    }
    world.shutdown().await;
}

#[tokio::test]
async fn what_is_too_large_is_refused_before_it_is_read() {
    let world = World::new().await;
    let node = world.node().await;
    let huge = Bytes::from(vec![0; 10 << 20]);
    let params = vec![NewX509svidParams {
        entry_id: "e".into(),
        csr: huge.clone(),
    }];
    let refused = SvidClient::new(node.channel.clone())
        .batch_new_x509svid(BatchNewX509svidRequest { params })
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::OutOfRange, "{refused}");
    // Whoever has no name may send less.
    let request = attest_params("join_token", &huge[..1 << 20], &csr(&KeyPair::generate().unwrap()));
    let mut client = AgentClient::new(world.anonymous().await);
    let mut answers = client
        .attest_agent(tokio_stream::iter([request]))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(in_time(answers.message()).await.unwrap_err().code(), Code::OutOfRange);
    let key = KeyPair::generate().unwrap();
    let id = world.entry(entry("/w", node.id.path())).await;
    assert!(
        batch(&node, &[(&id, &key)]).await.unwrap()[0].is_ok(),
        "others are served"
    );
    world.shutdown().await;
}

#[tokio::test]
async fn who_attests_too_often_waits_and_is_then_refused() {
    let world = World::with(|config| {
        config.limits.rate_limit = true;
        config.limits.attest = 2;
    })
    .await;
    let csr = csr(&KeyPair::generate().unwrap());
    // Two are free; those that follow would wait for the clock, which stands: at most five seconds' worth of them.
    for _ in 0..2 {
        let refused = attest(&world, "join_token", b"guess", &csr).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
    }
    let mut waiting: FuturesUnordered<_> = (0..12).map(|_| attest(&world, "join_token", b"guess", &csr)).collect();
    for _ in 0..2 {
        let refused = in_time(waiting.next()).await.unwrap().unwrap_err();
        assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
        assert!(refused.message().contains("come again in"), "{refused}");
    }
    world.clock.advance(std::time::Duration::from_secs(5));
    while let Some(answer) = in_time(waiting.next()).await {
        assert_eq!(answer.unwrap_err().code(), Code::InvalidArgument);
    }
    drop(waiting);
    // Reading the bundle is not attesting.
    BundleClient::new(world.anonymous().await)
        .get_bundle(GetBundleRequest::default())
        .await
        .unwrap();
    world.shutdown().await;
}

/// A call of GetBundle, which anyone may make, with these messages for a request.
async fn get_bundle<S>(world: &World, messages: S) -> Result<types::Bundle, tonic::Status>
where
    S: futures::Stream<Item = types::Selector> + Send + 'static,
{
    let mut grpc = tonic::client::Grpc::new(world.anonymous().await);
    grpc.ready().await.unwrap();
    let path = http::uri::PathAndQuery::from_static("/spire.api.server.bundle.v1.Bundle/GetBundle");
    let codec = tonic_prost::ProstCodec::<types::Selector, types::Bundle>::default();
    let answer = grpc.client_streaming(tonic::Request::new(messages), path, codec).await;
    answer.map(tonic::Response::into_inner)
}

#[tokio::test]
async fn who_has_no_name_cannot_make_the_server_hold_what_they_send() {
    let world = World::new().await;
    // Unknown fields, as far as GetBundle is concerned.
    let of_size = |bytes: usize| types::Selector {
        r#type: String::new(),
        value: "x".repeat(bytes),
    };
    let large = get_bundle(&world, tokio_stream::iter([of_size(1_100)]))
        .await
        .unwrap_err();
    assert_eq!(large.code(), Code::OutOfRange, "{large}");
    // A request that never comes whole is given up.
    let call = get_bundle(&world, futures::stream::pending());
    let pass = async {
        loop {
            tokio::task::yield_now().await;
            world.clock.advance(std::time::Duration::from_secs(1));
        }
    };
    let given_up = in_time(async {
        tokio::select! {
            answer = call => answer.unwrap_err(),
            () = pass => unreachable!(),
        }
    });
    let given_up = given_up.await;
    assert_eq!(given_up.code(), Code::DeadlineExceeded, "{given_up}");
    world.shutdown().await;
}

#[tokio::test]
async fn one_address_cannot_keep_all_others_out() {
    let world = World::with(|config| config.limits.connections = 8).await;
    let api = world.server.api_addr().unwrap();
    let mut silent = Vec::new();
    for _ in 0..20 {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind(([127, 0, 0, 2], 0).into()).unwrap();
        silent.push(socket.connect(api).await.unwrap());
    }
    let refused = || world.server.metrics().encode().unwrap();
    in_time(async {
        while !refused().contains("api_connections_total{result=\"over_source_limit\"} 14") {
            tokio::task::yield_now().await;
        }
    })
    .await;
    world.node().await;
    world.shutdown().await;
}
