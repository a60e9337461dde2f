//! What strangers read: the bundle and OIDC documents, health and metrics.

use std::net::SocketAddr;
use std::time::Duration;

use mintmark_identity::Bundle;
use mintmark_runtime::net::tcp_connect;
use mintmark_runtime::tls::{ALPN_HTTP1, Connector, client_config, web_verifier};
use mintmark_server::authority::Kind;
use rustls_pki_types::CertificateDer;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use crate::world::{World, in_time, trust_domain};

pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

async fn ask(mut io: impl AsyncRead + AsyncWrite + Unpin, request: &str) -> Answer {
    io.write_all(request.as_bytes()).await.unwrap();
    let mut bytes = Vec::new();
    // Not every server says goodbye on TLS.
    let _ = in_time(io.read_to_end(&mut bytes)).await;
    let text = String::from_utf8(bytes).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer {
        status,
        head: head.to_ascii_lowercase(),
        body: body.to_owned(),
    }
}

/// A request over TLS, whose certificate is verified for 127.0.0.1 by the trust bundle, as a browser would.
pub(crate) async fn https(world: &World, method: &str, path: &str, headers: &str) -> Answer {
    let roots = world.dir.path().join("roots.pem");
    let certificates: Vec<_> = world
        .server
        .bundle()
        .x509
        .iter()
        .map(|root| pem::Pem::new("CERTIFICATE", &*root.der))
        .collect();
    std::fs::write(&roots, pem::encode_many(&certificates)).unwrap();
    let tls = client_config(web_verifier(Some(&roots)).unwrap(), None, &[ALPN_HTTP1], &world.clock);
    let addr = world.server.https_addr().unwrap();
    let io = Connector::new(tls, world.clock.clone())
        .connect("127.0.0.1", addr.port())
        .await
        .unwrap();
    ask(
        io,
        &format!("{method} {path} HTTP/1.1\r\nHost: a\r\n{headers}Connection: close\r\n\r\n"),
    )
    .await
}

pub(crate) async fn get_json(world: &World, path: &str) -> Value {
    let answer = https(world, "GET", path, "").await;
    assert_eq!(answer.status, 200, "{}", answer.head);
    assert!(
        answer.head.contains("content-type: application/json"),
        "{}",
        answer.head
    );
    serde_json::from_str(&answer.body).unwrap()
}

pub(crate) async fn http(world: &World, addr: SocketAddr, path: &str) -> Answer {
    let io = tcp_connect(&addr.to_string(), Duration::from_secs(10), &world.clock)
        .await
        .unwrap();
    ask(
        io,
        &format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"),
    )
    .await
}

#[tokio::test]
async fn strangers_read_the_bundle_and_the_oidc_documents() {
    let world = World::with(|config| config.jwt_issuer = "https://issuer.example.org/tenant".into()).await;
    let bundle = https(&world, "GET", "/", "").await;
    let parsed = Bundle::from_json(&trust_domain(), bundle.body.as_bytes()).unwrap();
    let own = world.server.bundle();
    assert_eq!(
        (parsed.sequence, parsed.x509.len(), parsed.jwt.len()),
        (own.sequence, own.x509.len(), own.jwt.len())
    );
    let document: Value = serde_json::from_str(&bundle.body).unwrap();
    for key in document["keys"].as_array().unwrap() {
        assert!(key.get("alg").is_none(), "no alg in the SPIFFE form: {key}");
    }
    for path in [
        "/.well-known/openid-configuration",
        "/tenant/.well-known/openid-configuration",
    ] {
        let configuration = get_json(&world, path).await;
        assert_eq!(configuration["issuer"], "https://issuer.example.org/tenant");
        assert_eq!(configuration["jwks_uri"], "https://issuer.example.org/tenant/keys");
        assert_eq!(
            configuration["id_token_signing_alg_values_supported"],
            serde_json::json!(["ES256"])
        );
        assert_eq!(
            configuration["response_types_supported"],
            serde_json::json!(["id_token"])
        );
        assert_eq!(configuration["subject_types_supported"], serde_json::json!(["public"]));
    }
    let keys = get_json(&world, "/tenant/keys").await;
    assert_eq!(keys, get_json(&world, "/keys").await);
    assert_eq!(keys["keys"].as_array().unwrap().len(), own.jwt.len());
    world.shutdown().await;
}

#[tokio::test]
async fn documents_may_be_cached_and_are_only_read() {
    let world = World::new().await;
    let answer = https(&world, "GET", "/", "").await;
    let line = |name: &str| {
        answer
            .head
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .unwrap()
            .trim()
            .to_owned()
    };
    assert!(line("cache-control:").starts_with("public, max-age="));
    let etag = line("etag:");
    let same = https(&world, "GET", "/", &format!("If-None-Match: {etag}\r\n")).await;
    assert_eq!((same.status, &*same.body), (304, ""));
    let head = https(&world, "HEAD", "/keys", "").await;
    assert_eq!((head.status, &*head.body), (200, ""));
    for (method, path, status) in [
        ("POST", "/", 405),
        ("DELETE", "/keys", 405),
        ("GET", "/nothing", 404),
        ("GET", "/%2e%2e/etc/passwd", 404),
    ] {
        assert_eq!(https(&world, method, path, "").await.status, status, "{method} {path}");
    }
    world.shutdown().await;
}

/// The chain that the server shows, leaf first.
fn shown(world: &World) -> Vec<CertificateDer<'static>> {
    world.server.rooms().credential.chain().unwrap()
}

/// Waits until the server shows another chain; that takes no time of the clock.
async fn replaced(world: &World, chain: &[CertificateDer<'static>]) {
    in_time(async {
        while shown(world) == chain {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_new_authority_is_published_before_it_signs_and_then_signs_the_servers_own_svid() {
    let world = World::new().await;
    let authorities = &world.server.rooms().authorities;
    let before = get_json(&world, "/").await;
    let first = shown(&world);
    let prepared = authorities.prepare(Kind::X509).await.unwrap();
    let published = get_json(&world, "/").await;
    assert_eq!(
        published["keys"].as_array().unwrap().len(),
        before["keys"].as_array().unwrap().len() + 1
    );
    assert!(published["spiffe_sequence"].as_u64() > before["spiffe_sequence"].as_u64());
    assert_eq!(shown(&world), first, "what is prepared does not sign");
    authorities.activate(Kind::X509, Some(&prepared.key_id)).await.unwrap();
    replaced(&world, &first).await;
    // So the old one can go at once.
    authorities.taint(Kind::X509, None).await.unwrap();
    authorities.revoke(Kind::X509, None).await.unwrap();
    assert_eq!(https(&world, "GET", "/", "").await.status, 200);
    world.node().await;
    world.shutdown().await;
}

#[tokio::test]
async fn the_servers_own_svid_is_valid_again_after_a_jump_of_the_clock() {
    let world = World::new().await;
    for jump in [-1_000_000, 1_000_000] {
        let before = shown(&world);
        world.clock.set_unix(world.clock.unix() + jump);
        // As the next issuance would, which finds that no authority is valid.
        world.server.rooms().authorities.nudge();
        replaced(&world, &before).await;
        assert_eq!(https(&world, "GET", "/", "").await.status, 200, "{jump}");
    }
    world.shutdown().await;
}

#[tokio::test]
async fn the_servers_own_svid_is_replaced_at_half_of_its_life() {
    let world = World::new().await;
    let first = shown(&world);
    world.clock.advance(Duration::from_secs(1801));
    replaced(&world, &first).await;
    world.clock.advance(Duration::from_secs(1800));
    assert_eq!(
        https(&world, "GET", "/", "").await.status,
        200,
        "the first one has ended"
    );
    world.shutdown().await;
}

#[tokio::test]
async fn the_servers_own_svid_is_replaced_when_the_clock_is_set_back_to_before_it_began() {
    let world = World::new().await;
    let first = shown(&world);
    world.clock.advance(Duration::from_secs(1801));
    replaced(&world, &first).await;
    // The authority has begun by then, and signs on: nothing but the clock tells that the SVID has not.
    let second = shown(&world);
    world.clock.set_unix(world.clock.unix() - 1_200);
    world.clock.advance(Duration::from_secs(61));
    replaced(&world, &second).await;
    world.node().await;
    world.shutdown().await;
}

#[tokio::test]
async fn certificates_from_files_are_shown_and_read_again_when_they_change() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str| {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
        params
            .subject_alt_names
            .push(rcgen::SanType::IpAddress([127, 0, 0, 1].into()));
        let certificate = params.self_signed(&key).unwrap();
        std::fs::write(dir.path().join("key.pem"), key.serialize_pem()).unwrap();
        std::fs::write(dir.path().join("cert.pem"), certificate.pem()).unwrap();
        certificate.der().clone()
    };
    let first = write("a.example");
    let world = World::with(|config| {
        config.https.certificate = dir.path().join("cert.pem");
        config.https.key = dir.path().join("key.pem");
    })
    .await;
    let shown = async |world: &World| {
        let verifier = mintmark_runtime::tls::AcceptAny::new();
        let tls = client_config(verifier.clone(), None, &[ALPN_HTTP1], &world.clock);
        let port = world.server.https_addr().unwrap().port();
        drop(
            Connector::new(tls, world.clock.clone())
                .connect("127.0.0.1", port)
                .await
                .unwrap(),
        );
        verifier.presented().unwrap().remove(0)
    };
    assert_eq!(shown(&world).await, first);
    let second = write("b.example");
    world.clock.advance(Duration::from_secs(6));
    assert_eq!(shown(&world).await, second);
    world.shutdown().await;
}

#[tokio::test]
async fn health_and_metrics_say_how_the_server_is() {
    let world = World::new().await;
    world.node().await;
    let health = world.server.health_addr().unwrap();
    for path in ["/live", "/ready"] {
        let answer = http(&world, health, path).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
    }
    let metrics = http(&world, world.server.metrics_addr().unwrap(), "/metrics")
        .await
        .body;
    for line in [
        "mintmark_server_authority_expiry_seconds{kind=\"x509\",state=\"active\"} 86400",
        "mintmark_server_issuance_halted 0",
        "mintmark_server_nodes_attested 1",
        "mintmark_server_nodes_connected 0",
        "mintmark_server_rpc_total{method=\"spire.api.server.agent.v1.Agent/AttestAgent\",code=\"OK\"} 1",
        "mintmark_server_rpc_total{method=\"spire.api.server.agent.v1.Agent/CreateJoinToken\",code=\"OK\"} 1",
    ] {
        assert!(metrics.lines().any(|found| found == line), "{line}\n{metrics}");
    }
    for name in [
        "mintmark_server_issuances_total{",
        "mintmark_server_issuance_seconds_bucket{",
        "mintmark_server_ledger_free_bytes ",
        "mintmark_server_store_keys ",
        "mintmark_server_api_connections_open ",
    ] {
        assert!(metrics.contains(name), "{name}");
    }
    assert!(!metrics.contains("spiffe://"), "{metrics}");
    let rooms = world.server.rooms().clone();
    world.clock.advance(Duration::from_secs(1));
    assert!(rooms.health.not_ready().is_empty());
    // A log that takes nothing more halts issuance, whatever the reason.
    rooms.ledger.shutdown().await.unwrap();
    let halted = http(&world, world.server.metrics_addr().unwrap(), "/metrics")
        .await
        .body;
    assert!(
        halted.lines().any(|line| line == "mintmark_server_issuance_halted 1"),
        "{halted}"
    );
    world.shutdown().await;
    let reasons = rooms.health.not_ready();
    assert!(
        reasons.contains_key("store") && reasons.contains_key("ledger"),
        "{reasons:?}"
    );
}
