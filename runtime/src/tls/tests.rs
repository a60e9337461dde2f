#![expect(clippy::disallowed_methods, reason = "a test spawns its server beside itself")]

mod fixture;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use rcgen::{CertifiedIssuer, KeyPair, SerialNumber};
use rustls_pki_types::PrivateKeyDer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::clock::{Clock, from_unix_ms};
use crate::net::{Limits, ListenerStats, tcp_connect, tcp_listener};
use fixture::{Ca, NOW, Server, authority_params, call, params};

const LIMIT: Duration = Duration::from_secs(10);

#[tokio::test]
async fn members_of_trusted_domains_are_let_in_by_name_and_others_are_refused() {
    let clock = Clock::manual(NOW);
    let (home, friend, stranger) = (Ca::new("home.test"), Ca::new("friend.test"), Ca::new("stranger.test"));
    // Someone who may sign for its own trust domain only, and tries another's name.
    let forged = Credential::empty();
    let (chain, key) = stranger.issue_as(params("spiffe://home.test/forged"));
    forged.set(chain, key).unwrap();
    let expired = Credential::empty();
    let mut late = params("spiffe://home.test/late");
    late.not_after = from_unix_ms((NOW - 1) * 1000).into();
    let (chain, key) = home.issue_as(late);
    expired.set(chain, key).unwrap();

    let anchors = Ca::anchors(&[&home, &friend]).shared();
    let server = home.credential("/spire/server");
    for (mandatory, client, expected) in [
        (false, Some(home.credential("/a")), Some(Some("spiffe://home.test/a"))),
        (true, Some(home.credential("/a")), Some(Some("spiffe://home.test/a"))),
        (
            true,
            Some(friend.credential("/b")),
            Some(Some("spiffe://friend.test/b")),
        ),
        (true, Some(stranger.credential("/c")), None),
        (false, Some(stranger.credential("/c")), None),
        (false, Some(forged.clone()), None),
        (false, Some(expired.clone()), None),
        (false, None, Some(None)),
        (false, Some(Credential::empty()), Some(None)),
        (true, None, None),
    ] {
        let auth = match mandatory {
            true => ClientAuth::Required(Arc::clone(&anchors)),
            false => ClientAuth::Optional(Arc::clone(&anchors)),
        };
        let mut at = Server::start(&server, auth, TlsLimits::default(), &clock);
        let verifier = SpiffeServerVerifier::new(Arc::clone(&anchors), Expect::Id(home.id("/spire/server")));
        let (info, called) = at.serve(call(at.addr, verifier, client, &clock)).await;
        assert_eq!(called.is_ok(), expected.is_some(), "{expected:?}: {called:?}");
        let peer = info.map(|info| info.peer.map(|peer| peer.spiffe_id.to_string()));
        assert_eq!(peer.as_ref().map(Option::as_deref), expected);
    }
}

#[tokio::test]
async fn an_intermediate_signs_for_its_own_trust_domain_only() {
    let clock = Clock::manual(NOW);
    let home = Ca::new("home.test");
    let anchors = Ca::anchors(&[&home]).shared();
    for (uri, believed) in [
        ("spiffe://home.test", true),
        ("https://ca.home.test", true),
        ("spiffe://other.test", false),
        ("SPIFFE://other.test", false),
        ("spiffe://home.test.evil", false),
    ] {
        let mut between = authority_params(uri);
        between.serial_number = Some(SerialNumber::from_slice(&[5]));
        let key = KeyPair::generate().unwrap();
        let between = CertifiedIssuer::signed_by(between, key, &home.issuer).unwrap();
        let key = KeyPair::generate().unwrap();
        let leaf = params(home.id("/spire/server").as_str())
            .signed_by(&key, &between)
            .unwrap();
        let chain = vec![leaf.der().clone(), between.der().clone()];
        let server = Credential::empty();
        server
            .set(chain, PrivateKeyDer::try_from(key.serialize_der()).unwrap())
            .unwrap();

        let mut at = Server::start(&server, ClientAuth::None, TlsLimits::default(), &clock);
        let verifier = SpiffeServerVerifier::new(Arc::clone(&anchors), Expect::MemberOf(home.trust_domain.clone()));
        let (_, called) = at.serve(call(at.addr, verifier, None, &clock)).await;
        assert_eq!(called.is_ok(), believed, "{uri}: {called:?}");
    }
}

#[tokio::test]
async fn a_client_believes_only_whom_it_expects() {
    let clock = Clock::manual(NOW);
    let (home, other) = (Ca::new("home.test"), Ca::new("other.test"));
    let anchors = Ca::anchors(&[&home, &other]).shared();
    let server = home.credential("/spire/server");
    for (expect, believed) in [
        (Expect::Id(home.id("/spire/server")), true),
        (Expect::MemberOf(home.trust_domain.clone()), true),
        (Expect::Id(home.id("/someone")), false),
        (Expect::Id(other.id("/spire/server")), false),
        (Expect::MemberOf(other.trust_domain.clone()), false),
    ] {
        let mut at = Server::start(&server, ClientAuth::None, TlsLimits::default(), &clock);
        let verifier = SpiffeServerVerifier::new(Arc::clone(&anchors), expect.clone());
        let (_, called) = at.serve(call(at.addr, verifier, None, &clock)).await;
        assert_eq!(called.is_ok(), believed, "{expect:?}");
        if let Err(error) = called {
            let error = error.to_string();
            assert!(
                error.contains("that of spiffe://home.test/spire/server") && error.contains(&expect.to_string()),
                "{error}"
            );
        }
    }
}

#[tokio::test]
async fn both_versions_of_tls_work_and_sessions_are_not_resumed() {
    let clock = Clock::manual(NOW);
    let home = Ca::new("home.test");
    let anchors = Ca::anchors(&[&home]).shared();
    let server = home.credential("/spire/server");
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let auth = ClientAuth::Required(Arc::clone(&anchors));
        let mut at = Server::start(&server, auth, TlsLimits::default(), &clock);
        let verifier = SpiffeServerVerifier::new(Arc::clone(&anchors), Expect::MemberOf(home.trust_domain.clone()));
        // A client that would resume if it were let.
        let config = rustls::ClientConfig::builder_with_details(crate::crypto::provider(), Arc::new(clock.clone()))
            .with_protocol_versions(&[version])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_client_cert_resolver(Arc::new(home.credential("/a")));
        let connector = Connector::new(Arc::new(config), clock.clone());
        for _ in 0..2 {
            let call = async {
                let mut io = connector.connect("127.0.0.1", at.addr.port()).await.unwrap();
                io.read_u8().await.unwrap();
                let tls = io.get_ref().1;
                (tls.protocol_version(), tls.handshake_kind())
            };
            let mut server = Server {
                addr: at.addr,
                stats: at.stats.clone(),
                conns: at.conns,
            };
            let (info, (used, kind)) = server.serve(call).await;
            at.conns = server.conns;
            assert_eq!(used, Some(version.version));
            assert_eq!(kind, Some(rustls::HandshakeKind::Full));
            let peer = info.unwrap().peer.unwrap();
            assert_eq!((&*peer.serial, peer.not_after), (&[1, 2, 3, 4][..], NOW + 3600));
        }
    }
}

#[tokio::test]
async fn a_rotated_certificate_and_a_changed_bundle_count_from_the_next_handshake_on() {
    let clock = Clock::manual(NOW);
    let home = Ca::new("home.test");
    let anchors = Ca::anchors(&[&home]).shared();
    let (server, client) = (home.credential("/spire/server"), home.credential("/one"));
    let auth = ClientAuth::Required(Arc::clone(&anchors));
    let mut at = Server::start(&server, auth, TlsLimits::default(), &clock);
    let verifier = || SpiffeServerVerifier::new(Arc::clone(&anchors), Expect::MemberOf(home.trust_domain.clone()));
    let names = |info: Option<ConnectInfo>| info.map(|info| info.peer.unwrap().spiffe_id.path().to_owned());

    let (addr, v) = (at.addr, verifier());
    let (info, _) = at.serve(call(addr, v, Some(client.clone()), &clock)).await;
    assert_eq!(names(info).as_deref(), Some("/one"));

    let (chain, key) = home.issue("/two");
    client.set(chain, key).unwrap();
    let (chain, key) = home.issue("/spire/server");
    let renewed = chain.clone();
    server.set(chain, key).unwrap();
    let v = verifier();
    let (info, io) = at.serve(call(addr, v, Some(client.clone()), &clock)).await;
    assert_eq!(names(info).as_deref(), Some("/two"));
    assert_eq!(io.unwrap().get_ref().1.peer_certificates(), Some(&renewed[..]));

    // A key that is not the certificate's changes nothing.
    let ((chain, _), (_, key)) = (home.issue("/three"), home.issue("/four"));
    assert!(matches!(client.set(chain, key), Err(TlsError::Credential(_))));

    let v = SpiffeServerVerifier::new(
        Arc::new(anchors.load_full().into()),
        Expect::MemberOf(home.trust_domain.clone()),
    );
    anchors.store(Arc::new(Ca::anchors(&[&Ca::new("home.test")])));
    let (info, called) = at.serve(call(addr, v, Some(client), &clock)).await;
    assert!(info.is_none() && called.is_err());
}

#[tokio::test]
async fn a_handshake_that_takes_too_long_frees_its_slot() {
    let clock = Clock::manual(NOW);
    let home = Ca::new("home.test");
    let anchors = Ca::anchors(&[&home]).shared();
    let limits = TlsLimits {
        handshakes: 1,
        ..TlsLimits::default()
    };
    let mut at = Server::start(&home.credential("/spire/server"), ClientAuth::None, limits, &clock);
    let (addr, stats) = (at.addr, at.stats.clone());

    let silent = tcp_connect(&addr.to_string(), LIMIT, &Clock::system()).await.unwrap();
    let verifier = SpiffeServerVerifier::new(anchors, Expect::Id(home.id("/spire/server")));
    // The second client's own limit is on the system's clock, so that only the server's passes.
    let config = client_config(verifier, None, &[ALPN_H2], &clock);
    let connector = Connector::new(config, Clock::system());
    let second = async {
        let mut io = connector.connect("127.0.0.1", addr.port()).await.unwrap();
        io.read_u8().await.unwrap();
    };
    let second = async {
        let pass = async {
            while stats.count("accepted") == 0 {
                tokio::task::yield_now().await;
            }
            // Not before the handshake has begun to wait.
            tokio::task::yield_now().await;
            assert_eq!((stats.count("accepted"), stats.count("handshake_ok")), (1, 0));
            while stats.count("handshake_timeout") == 0 {
                clock.advance(limits.handshake_timeout);
                tokio::task::yield_now().await;
            }
        };
        tokio::join!(second, pass)
    };
    let (info, _) = at.serve(second).await;
    assert!(info.is_some());
    assert_eq!((stats.count("handshake_timeout"), stats.count("handshake_ok")), (1, 1));
    drop(silent);
}

#[tokio::test]
async fn a_failed_handshake_is_counted_and_concerns_no_other() {
    let clock = Clock::system();
    let home = Ca::new("home.test");
    let mut at = Server::start(
        &home.credential("/spire/server"),
        ClientAuth::None,
        TlsLimits::default(),
        &clock,
    );
    let (addr, stats) = (at.addr, at.stats.clone());
    let calls = async {
        let mut plain = tcp_connect(&addr.to_string(), LIMIT, &clock).await.unwrap();
        plain.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        let _ = plain.read_to_end(&mut Vec::new()).await;
        call(addr, AcceptAny::new(), None, &clock).await.map(drop)
    };
    let (info, called) = at.serve(calls).await;
    assert!(info.is_some() && called.is_ok());
    assert_eq!((stats.count("handshake_failed"), stats.count("handshake_ok")), (1, 1));
}

#[tokio::test]
async fn connections_over_the_limit_are_closed() {
    let clock = Clock::system();
    let home = Ca::new("home.test");
    let connections = Limits {
        connections: 1,
        per_source: None,
    };
    let limits = TlsLimits {
        connections,
        ..TlsLimits::default()
    };
    let mut at = Server::start(&home.credential("/spire/server"), ClientAuth::None, limits, &clock);
    let addr = at.addr;
    let calls = async {
        let first = call(addr, AcceptAny::new(), None, &clock).await;
        first.unwrap()
    };
    let mut first = std::pin::pin!(calls);
    let held = tokio::select! {
        conn = at.conns.next() => {
            let mut conn = conn.unwrap().unwrap();
            conn.write_all(b"!").await.unwrap();
            conn.flush().await.unwrap();
            (first.as_mut().await, conn)
        }
        _ = &mut first => unreachable!("nobody answered"),
    };
    let (info, second) = at.serve(call(addr, AcceptAny::new(), None, &clock)).await;
    assert!(info.is_none() && second.is_err());
    assert_eq!((at.stats.count("over_limit"), at.stats.open()), (1, 1));
    drop(held);
    let (info, third) = at.serve(call(addr, AcceptAny::new(), None, &clock)).await;
    assert!(info.is_some() && third.is_ok());
}

#[tokio::test]
async fn the_first_contact_reports_the_chain_it_was_shown() {
    let clock = Clock::manual(NOW);
    let home = Ca::new("home.test");
    let server = home.credential("/spire/server");
    let mut at = Server::start(&server, ClientAuth::None, TlsLimits::default(), &clock);
    let (addr, any) = (at.addr, AcceptAny::new());
    assert_eq!(any.presented(), None);
    let (_, called) = at.serve(call(addr, any.clone(), None, &clock)).await;
    called.unwrap();
    assert_eq!(any.presented(), server.chain());
}

#[tokio::test]
async fn certificates_in_files_are_read_again_when_they_change() {
    let dir = tempfile::tempdir().unwrap();
    let (cert, key) = (dir.path().join("tls.crt"), dir.path().join("tls.key"));
    let home = Ca::new("home.test");
    let write = |path: &Path, label: &str, der: &[u8]| {
        use base64::Engine as _;
        let text = base64::engine::general_purpose::STANDARD.encode(der);
        let pem = format!("-----BEGIN {label}-----\n{text}\n-----END {label}-----\n");
        crate::fs::write_atomic(path, pem.as_bytes(), 0o600).unwrap();
    };
    let install = |path: &str| {
        let (chain, private) = home.issue(path);
        write(&cert, "CERTIFICATE", &chain[0]);
        write(&key, "PRIVATE KEY", private.secret_der());
        chain
    };
    assert!(matches!(
        PemCredential::load(&cert, &key, Clock::manual(NOW)),
        Err(TlsError::File(_))
    ));
    let first = install("/one");
    let clock = Clock::manual(NOW);
    let credential = PemCredential::load(&cert, &key, clock.clone()).unwrap();

    let serving = crate::http::Serving::new(clock.clone(), tokio_util::sync::CancellationToken::new());
    let listener = tcp_listener(([127, 0, 0, 1], 0).into()).unwrap();
    let port = listener.local_addr().unwrap().port();
    let router = axum::Router::new().route("/", axum::routing::get(|| async { "hello" }));
    tokio::spawn(crate::http::serve_https(listener, credential.clone(), router, serving));
    let shown = || async {
        let any = AcceptAny::new();
        let connector = Connector::new(client_config(any.clone(), None, &[ALPN_HTTP1], &clock), Clock::system());
        let mut io = connector.connect("localhost", port).await.unwrap();
        io.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            .await
            .unwrap();
        let mut answer = String::new();
        io.read_to_string(&mut answer).await.unwrap();
        assert!(answer.ends_with("hello"), "{answer}");
        any.presented().unwrap()
    };
    assert_eq!(shown().await, first);

    // The authority that issued them is in no system's store, and the name is not in them either.
    let roots = dir.path().join("ca.crt");
    write(&roots, "CERTIFICATE", home.issuer.der());
    let connector = |verifier| Connector::new(client_config(verifier, None, &[ALPN_HTTP1], &clock), Clock::system());
    let error = connector(web_verifier(Some(&roots)).unwrap())
        .connect("localhost", port)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("not valid for name"), "{error}");
    assert!(matches!(web_verifier(Some(&key)), Err(TlsError::Pem { .. })));

    let second = install("/two");
    assert_eq!(shown().await, first, "the files are not looked at at every handshake");
    clock.advance(LIMIT);
    assert_eq!(shown().await, second);

    write(&key, "PRIVATE KEY", home.issue("/three").1.secret_der());
    clock.advance(LIMIT);
    assert_eq!(shown().await, second, "a key that does not fit is not used");
    crate::fs::write_atomic(&cert, b"nothing", 0o600).unwrap();
    let error = PemCredential::load(&cert, &key, clock.clone()).unwrap_err().to_string();
    assert!(error.contains("tls.crt holds no certificate"), "{error}");
}

#[tokio::test]
async fn grpc_runs_over_it_and_handlers_know_their_caller() {
    let clock = Clock::manual(NOW);
    let home = Ca::new("home.test");
    let anchors = Ca::anchors(&[&home]).shared();
    let listener = tcp_listener(([127, 0, 0, 1], 0).into()).unwrap();
    let addr = listener.local_addr().unwrap();
    let auth = ClientAuth::Required(Arc::clone(&anchors));
    let config = server_config(Arc::new(home.credential("/spire/server")), auth, &[ALPN_H2], &clock);
    let conns = incoming(
        listener,
        config,
        TlsLimits::default(),
        ListenerStats::default(),
        clock.clone(),
    );

    let (callers, mut called) = tokio::sync::mpsc::unbounded_channel();
    let (_, health) = tonic_health::server::health_reporter();
    let health = tonic::service::interceptor::InterceptedService::new(health, move |request: tonic::Request<()>| {
        let info = request.extensions().get::<ConnectInfo>().unwrap();
        callers.send(info.peer.clone().unwrap().spiffe_id.to_string()).unwrap();
        Ok(request)
    });
    tokio::spawn(
        tonic::transport::Server::builder()
            .add_service(health)
            .serve_with_incoming(conns),
    );

    let client = home.credential("/one");
    let verifier = SpiffeServerVerifier::new(anchors, Expect::Id(home.id("/spire/server")));
    let config = client_config(verifier, Some(client.clone()), &[ALPN_H2], &clock);
    for caller in ["/one", "/two"] {
        let (chain, key) = home.issue(caller);
        client.set(chain, key).unwrap();
        let endpoint = tonic::transport::Endpoint::try_from(format!("https://{addr}")).unwrap();
        let connector = Connector::new(Arc::clone(&config), Clock::system());
        let channel = endpoint.connect_with_connector(connector).await.unwrap();
        let mut health = tonic_health::pb::health_client::HealthClient::new(channel);
        let request = tonic_health::pb::HealthCheckRequest { service: String::new() };
        health.check(request).await.unwrap();
        assert_eq!(called.recv().await.unwrap(), format!("spiffe://home.test{caller}"));
    }
}
