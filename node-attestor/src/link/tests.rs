//! Against a server that does what the test says, over real TLS.

#![expect(clippy::disallowed_methods, reason = "a test spawns what it tests beside itself")]

mod server;

use std::path::Path;
use std::time::Duration;

use mintmark_identity::{Selectors, TrustDomain};
use mintmark_proto::attestor::{PodJudged, SignResult, Signed, Status as Told, Update, from_node};
use mintmark_runtime::clock::Clock;
use mintmark_runtime::metrics::Metrics;
use mintmark_runtime::task::Supervisor;
use tonic::{Code, Status};

use super::*;
use crate::join::{Certificate, Method, Projected, Refusal, Settings, Trust};
use crate::keep::{Keep, KeepLimits, Readiness, Sealer};
use crate::peer::Verdict;
use crate::testing::{Authority, entry};
use server::{Fake, denied};

/// Nothing in these tests takes this long, unless it never ends.
const DEADLINE: Duration = Duration::from_secs(60);

/// A node under test.
struct Node {
    link: Link,
    keep: Keep,
    pods: Pods,
    supervisor: Supervisor,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.supervisor.token().cancel();
    }
}

fn trust_domain() -> TrustDomain {
    TrustDomain::parse("example.org").unwrap()
}

fn token(token: &str) -> Method {
    Method::JoinToken(token.to_owned().into())
}

fn trust(authority: &Authority) -> Trust {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bundle.pem");
    mintmark_runtime::fs::write_new(&path, authority.pem().as_bytes(), 0o600).unwrap();
    Trust::from_file(&path, &trust_domain()).unwrap()
}

fn settings(fake: &Fake, dir: &Path, method: Method, trust: Trust) -> Settings {
    Settings {
        trust_domain: trust_domain(),
        server: fake.addr.to_string(),
        trust,
        method,
        data_dir: dir.into(),
        sealer: None,
    }
}

fn start(settings: Settings) -> Node {
    let (clock, supervisor) = (Clock::system(), Supervisor::embedded());
    let join = Join::new(settings, clock.clone()).unwrap();
    let pods = Pods::default();
    let link = Link::new(join, pods.clone(), clock.clone(), &Metrics::new("test"));
    let limits = KeepLimits {
        prefetch: 100,
        jwt_cache: 10,
    };
    let keep = Keep::new(trust_domain(), clock, Arc::new(link.clone()), limits);
    supervisor.spawn("renewal", keep.clone().run(supervisor.token()));
    supervisor.spawn("session", run(link.clone(), keep.clone(), supervisor.clone()));
    Node {
        link,
        keep,
        pods,
        supervisor,
    }
}

impl Node {
    async fn until(&self, ready: impl Fn(&LinkState) -> bool) -> LinkState {
        let mut state = self.link.state();
        let state = tokio::time::timeout(DEADLINE, state.wait_for(|state| ready(state))).await;
        state.expect("a state in time").unwrap().clone()
    }

    /// Waits until the link is down, and says why.
    async fn down(&self) -> String {
        self.until(|state| matches!(state, LinkState::Down(_) | LinkState::Banned))
            .await
            .to_string()
    }

    async fn in_step(&self) {
        let mut readiness = self.keep.readiness();
        let wait = readiness.wait_for(|readiness| *readiness == Readiness::InStep);
        tokio::time::timeout(DEADLINE, wait)
            .await
            .expect("in step in time")
            .unwrap();
    }
}

fn first_update(fake: &Fake, entries: Vec<mintmark_proto::spire::types::Entry>) -> Update {
    let bundles = vec![Authority::bundle(1, &[&fake.authority], &[])];
    Update {
        sequence: 1,
        upserts: entries,
        bundles,
        complete: true,
        ..Update::default()
    }
}

#[tokio::test]
async fn a_node_joins_says_what_it_holds_applies_what_it_is_told_and_comes_back_with_it() {
    let (fake, mut arrived) = Fake::start(Authority::new("example.org")).await;
    fake.tokens(&["t1"]);
    let dir = tempfile::tempdir().unwrap();
    let node = start(settings(&fake, dir.path(), token("t1"), trust(&fake.authority)));
    let mut link = arrived.link().await;
    let hello = link.hello().await;
    assert_eq!((hello.held_identities.len(), hello.held_bundles.len()), (0, 0));
    assert_eq!(hello.version, env!("CARGO_PKG_VERSION"));
    let a = entry("a", "/a", "unix:uid:1");
    link.tell(first_update(&fake, vec![a.clone()])).await;
    node.in_step().await;
    assert_eq!(
        node.link.node().unwrap().as_str(),
        "spiffe://example.org/spire/agent/join_token/t1"
    );

    // The key of the identity goes up, and what comes down is held.
    let sign = link.sign().await;
    assert_eq!((sign.keys.len(), &*sign.keys[0].entry_id), (1, "a"));
    let now = Clock::system().unix();
    let results = vec![fake.authority.sign(&sign.keys[0], "spiffe://example.org/a", now, 600)];
    link.answer(Signed {
        request_id: sign.request_id,
        results,
    })
    .await;
    let mut changes = node.keep.changes();
    let seen = || {
        node.keep.view(&Selectors::parse(["unix:uid:1"]).unwrap()).identities[0]
            .x509
            .clone()
    };
    while seen().is_none() {
        changes.changed().await.unwrap();
    }
    assert!(link.acknowledged >= 1);

    // The server goes away, and the node comes back by itself.
    link.end(Status::unavailable("the test ends it")).await;
    let mut link = arrived.link().await;
    let hello = link.hello().await;
    assert_eq!(hello.held_identities, [mintmark_proto::digest::of(&a)]);
    assert_eq!(
        hello.held_bundles[0].digest,
        mintmark_proto::digest::of(&Authority::bundle(1, &[&fake.authority], &[]))
    );
    assert!(seen().is_some());

    // A restart on the same directory needs no token, and knows the server by the bundle that it was told.
    drop(node);
    let node = start(settings(&fake, dir.path(), token(""), Trust::Nobody));
    arrived.link().await.hello().await;
    assert_eq!(
        node.link.node().unwrap().as_str(),
        "spiffe://example.org/spire/agent/join_token/t1"
    );
    assert_eq!(fake.attestations(), 1);
    use std::os::unix::fs::PermissionsExt as _;
    let mode = std::fs::metadata(dir.path().join("node")).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
}

#[tokio::test]
async fn an_entry_that_changed_while_there_was_no_link_is_not_withdrawn_for_a_moment() {
    let (fake, mut arrived) = Fake::start(Authority::new("example.org")).await;
    fake.tokens(&["t1"]);
    let dir = tempfile::tempdir().unwrap();
    let node = start(settings(&fake, dir.path(), token("t1"), trust(&fake.authority)));
    let mut link = arrived.link().await;
    link.hello().await;
    let (a, gone) = (entry("a", "/a", "unix:uid:1"), entry("gone", "/gone", "unix:uid:1"));
    link.tell(first_update(&fake, vec![a.clone(), gone.clone()])).await;
    node.in_step().await;
    link.end(Status::unavailable("the test ends it")).await;

    let mut link = arrived.link().await;
    link.hello().await;
    let ids = || {
        let view = node.keep.view(&Selectors::parse(["unix:uid:1"]).unwrap());
        let ids = view.identities.iter().map(|seen| seen.identity.id.to_string());
        ids.collect::<Vec<_>>()
    };
    // What has changed is more than one update holds: the digests come first.
    let removed = [&a, &gone].map(mintmark_proto::digest::of).to_vec();
    let mut changed = a;
    changed.hint = "new".into();
    link.tell(Update {
        sequence: 1,
        removed,
        ..Update::default()
    })
    .await;
    link.acknowledgement(1).await;
    assert_eq!(ids(), ["a", "gone"]);
    link.tell(Update {
        sequence: 2,
        upserts: vec![changed],
        complete: true,
        ..Update::default()
    })
    .await;
    link.acknowledgement(2).await;
    assert_eq!(ids(), ["a"]);
    // Once in step, what is withdrawn goes at once.
    let removed = node.keep.held().0;
    link.tell(Update {
        sequence: 3,
        removed,
        ..Update::default()
    })
    .await;
    link.acknowledgement(3).await;
    assert_eq!(ids(), [""; 0]);
}

#[tokio::test]
async fn the_nodes_own_svid_is_renewed_at_half_of_its_life_and_the_link_moves_to_it() {
    let (fake, mut arrived) = Fake::start(Authority::new("example.org")).await;
    fake.tokens(&["t1"]);
    fake.set_node_ttl(4);
    let dir = tempfile::tempdir().unwrap();
    let node = start(settings(&fake, dir.path(), token("t1"), trust(&fake.authority)));
    let mut first = arrived.link().await;
    first.hello().await;
    first.tell(first_update(&fake, vec![])).await;
    node.in_step().await;
    fake.set_node_ttl(600);
    let mut second = arrived.link().await;
    second.hello().await;
    assert_ne!(first.serial, second.serial);
    // Kept for a restart before it was used.
    drop(node);
    let node = start(settings(&fake, dir.path(), token(""), Trust::Nobody));
    let mut third = arrived.link().await;
    third.hello().await;
    assert_eq!(second.serial, third.serial);
    drop(node);
}

#[tokio::test]
async fn the_nodes_own_svid_is_replaced_once_its_authority_is_tainted() {
    let (fake, mut arrived) = Fake::start(Authority::new("example.org")).await;
    fake.tokens(&["t1"]);
    let dir = tempfile::tempdir().unwrap();
    let node = start(settings(&fake, dir.path(), token("t1"), trust(&fake.authority)));
    let mut first = arrived.link().await;
    first.hello().await;
    first.tell(first_update(&fake, vec![])).await;
    node.in_step().await;
    let tainted = Update {
        sequence: 2,
        bundles: vec![Authority::bundle(2, &[&fake.authority], &[&fake.authority])],
        ..Update::default()
    };
    first.tell(tainted).await;
    // Long before half of its life, and held for a restart.
    let mut second = arrived.link().await;
    second.hello().await;
    assert_ne!(first.serial, second.serial);
    drop(node);
    let _node = start(settings(&fake, dir.path(), token(""), Trust::Nobody));
    let mut third = arrived.link().await;
    third.hello().await;
    assert_eq!(second.serial, third.serial);
    assert_eq!(fake.attestations(), 1);
}

#[tokio::test]
async fn a_banned_node_holds_nothing_any_more_and_says_why() {
    let (fake, mut arrived) = Fake::start(Authority::new("example.org")).await;
    fake.tokens(&["t1"]);
    let dir = tempfile::tempdir().unwrap();
    let node = start(settings(&fake, dir.path(), token("t1"), trust(&fake.authority)));
    let mut link = arrived.link().await;
    link.hello().await;
    link.tell(first_update(&fake, vec![entry("a", "/a", "unix:uid:1")]))
        .await;
    node.in_step().await;
    assert_eq!(node.keep.summary().identities, 1);
    link.end(denied(Refusal::Banned)).await;
    assert!(node.down().await.contains("banned"));
    assert_eq!(node.keep.summary().identities, 0);
}

#[tokio::test]
async fn an_evicted_node_says_that_its_token_is_used_up_and_joins_with_a_new_one() {
    let (fake, mut arrived) = Fake::start(Authority::new("example.org")).await;
    fake.tokens(&["t1", "t2"]);
    let dir = tempfile::tempdir().unwrap();
    let node = start(settings(&fake, dir.path(), token("t1"), trust(&fake.authority)));
    let mut link = arrived.link().await;
    link.hello().await;
    link.end(denied(Refusal::NotAttested)).await;
    let text = node
        .until(|state| state.to_string().contains("token"))
        .await
        .to_string();
    assert!(
        text.contains("evicted") && text.contains("mintmark token create"),
        "{text}"
    );
    assert_eq!(fake.attestations(), 1);
    drop(node);
    let node = start(settings(&fake, dir.path(), token("t2"), Trust::Nobody));
    arrived.link().await.end(denied(Refusal::NotAttested)).await;
    arrived.link().await.hello().await;
    assert_eq!(
        node.link.node().unwrap().as_str(),
        "spiffe://example.org/spire/agent/join_token/t2"
    );
}

#[tokio::test]
async fn a_token_that_is_not_accepted_is_said_so() {
    let (fake, _arrived) = Fake::start(Authority::new("example.org")).await;
    let dir = tempfile::tempdir().unwrap();
    let node = start(settings(&fake, dir.path(), token("unknown"), trust(&fake.authority)));
    assert!(node.down().await.contains("no such token"));
    assert!(!dir.path().join("node").exists());
    let none = start(settings(
        &fake,
        tempfile::tempdir().unwrap().path(),
        token(""),
        trust(&fake.authority),
    ));
    assert!(none.down().await.contains("no join token is configured"));
}

fn rsa_key() -> String {
    let mut openssl = std::process::Command::new("openssl");
    openssl.args([
        "genpkey",
        "-quiet",
        "-algorithm",
        "RSA",
        "-pkeyopt",
        "rsa_keygen_bits:2048",
    ]);
    String::from_utf8(openssl.output().unwrap().stdout).unwrap()
}

#[tokio::test]
async fn a_node_with_a_certificate_proves_that_it_holds_the_key_and_attests_anew_when_it_must() {
    let (fake, mut arrived) = Fake::start(Authority::new("example.org")).await;
    for algorithm in [
        &rcgen::PKCS_ECDSA_P256_SHA256,
        &rcgen::PKCS_ECDSA_P384_SHA384,
        &rcgen::PKCS_RSA_SHA256,
    ] {
        // ring makes no RSA keys.
        let key = match algorithm == &rcgen::PKCS_RSA_SHA256 {
            true => rcgen::KeyPair::from_pem(&rsa_key()).unwrap(),
            false => rcgen::KeyPair::generate_for(algorithm).unwrap(),
        };
        let certificate = rcgen::CertificateParams::new(vec!["node".to_owned()])
            .unwrap()
            .self_signed(&key)
            .unwrap();
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = dir.path().join(name);
            mintmark_runtime::fs::write_new(&path, text.as_bytes(), 0o600).unwrap();
            path
        };
        let (certificate, key) = (
            file("cert.pem", &certificate.pem()),
            file("key.pem", &key.serialize_pem()),
        );
        let method = Method::X509pop(Certificate::load(&certificate, None, &key).unwrap());
        let before = fake.attestations();
        let node = start(settings(&fake, dir.path(), method, trust(&fake.authority)));
        let mut link = arrived.link().await;
        link.hello().await;
        assert_eq!(
            node.link.node().unwrap().as_str(),
            "spiffe://example.org/spire/agent/x509pop/node"
        );
        link.end(denied(Refusal::Expired)).await;
        arrived.link().await.hello().await;
        assert_eq!(fake.attestations(), before + 2);
    }
}

#[tokio::test]
async fn a_node_of_a_cluster_shows_the_token_that_its_pod_has_now() {
    let (fake, mut arrived) = Fake::start(Authority::new("example.org")).await;
    fake.tokens(&["a.a.a", "b.b.b"]);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("token");
    let write = |token: &str| mintmark_runtime::fs::write_atomic(&path, token.as_bytes(), 0o600).unwrap();
    write("a.a.a\n");
    let method = Method::K8sPsat(Projected::new("prod".into(), Some(path.clone())));
    let node = start(settings(&fake, dir.path(), method, trust(&fake.authority)));
    let mut link = arrived.link().await;
    link.hello().await;
    assert_eq!(
        node.link.node().unwrap().as_str(),
        "spiffe://example.org/spire/agent/k8s_psat/prod/node"
    );
    // The kubelet has replaced the token meanwhile.
    write("b.b.b\n");
    link.end(denied(Refusal::Expired)).await;
    arrived.link().await.hello().await;
    assert_eq!(fake.attestations(), 2);
}

#[tokio::test]
async fn a_key_of_another_certificate_is_refused_before_anything_is_sent() {
    let dir = tempfile::tempdir().unwrap();
    let (one, other) = (rcgen::KeyPair::generate().unwrap(), rcgen::KeyPair::generate().unwrap());
    let certificate = rcgen::CertificateParams::new(vec![])
        .unwrap()
        .self_signed(&one)
        .unwrap();
    let paths = [dir.path().join("cert.pem"), dir.path().join("key.pem")];
    for (path, text) in paths.iter().zip([certificate.pem(), other.serialize_pem()]) {
        mintmark_runtime::fs::write_new(path, text.as_bytes(), 0o600).unwrap();
    }
    let error = Certificate::load(&paths[0], None, &paths[1]).err().unwrap().to_string();
    assert!(error.contains("is not that of the certificate"), "{error}");
    let error = Certificate::load(&paths[1], None, &paths[1]).err().unwrap().to_string();
    assert!(error.contains("no certificate"), "{error}");
}

#[tokio::test]
async fn whoever_is_not_the_server_is_not_talked_to() {
    let ours = Authority::new("example.org");
    for (authority, path, expected) in [
        (Authority::new("example.org"), "/spire/server", "UnknownIssuer"),
        (
            Authority::new("other.test"),
            "/spire/server",
            "no trust anchors for trust domain other.test",
        ),
    ] {
        let (fake, _arrived) = Fake::start_as(authority, path).await;
        let dir = tempfile::tempdir().unwrap();
        let node = start(settings(&fake, dir.path(), token("t1"), trust(&ours)));
        let text = node.down().await;
        assert!(text.contains(expected), "{text}");
        assert_eq!(fake.attestations(), 0);
    }
    let (fake, _arrived) = Fake::start_as(Authority::new("example.org"), "/impostor").await;
    let dir = tempfile::tempdir().unwrap();
    let node = start(settings(&fake, dir.path(), token("t1"), trust(&fake.authority)));
    let text = node.down().await;
    assert!(
        text.contains("that of spiffe://example.org/impostor, expected was spiffe://example.org/spire/server"),
        "{text}"
    );
    let nobody = start(settings(
        &fake,
        tempfile::tempdir().unwrap().path(),
        token("t1"),
        Trust::Nobody,
    ));
    assert!(nobody.down().await.contains("trust_bundle"));
}

#[tokio::test]
async fn trust_on_first_use_is_that_of_the_first_use_only() {
    let (fake, mut arrived) = Fake::start(Authority::new("example.org")).await;
    fake.tokens(&["t1"]);
    let dir = tempfile::tempdir().unwrap();
    let node = start(settings(&fake, dir.path(), token("t1"), Trust::FirstUse));
    arrived.link().await.hello().await;
    drop(node);
    // Another server with another authority, at the next start.
    let (other, _arrived) = Fake::start(Authority::new("example.org")).await;
    let node = start(settings(&other, dir.path(), token("t1"), Trust::FirstUse));
    assert!(node.down().await.contains("UnknownIssuer"));
}

#[tokio::test]
async fn a_server_that_was_set_up_anew_is_found_by_its_new_bundle_and_joined_with_a_new_token() {
    let dir = tempfile::tempdir().unwrap();
    let (old, mut arrived) = Fake::start(Authority::new("example.org")).await;
    old.tokens(&["t1"]);
    let node = start(settings(&old, dir.path(), token("t1"), trust(&old.authority)));
    arrived.link().await.hello().await;
    drop(node);
    let (new, mut arrived) = Fake::start(Authority::new("example.org")).await;
    new.tokens(&["t2"]);
    let node = start(settings(&new, dir.path(), token("t2"), trust(&new.authority)));
    arrived.link().await.hello().await;
    assert_eq!(
        node.link.node().unwrap().as_str(),
        "spiffe://example.org/spire/agent/join_token/t2"
    );
}

#[tokio::test]
async fn the_nodes_key_is_sealed_where_a_key_for_that_is_given() {
    let (fake, mut arrived) = Fake::start(Authority::new("example.org")).await;
    fake.tokens(&["t1"]);
    let (dir, keys) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let sealer = Sealer::from_file(&keys.path().join("kek")).unwrap();
    let sealed = || Settings {
        sealer: Some(sealer.clone()),
        ..settings(&fake, dir.path(), token("t1"), trust(&fake.authority))
    };
    let node = start(sealed());
    arrived.link().await.hello().await;
    drop(node);
    let bytes = std::fs::read(dir.path().join("node")).unwrap();
    assert!(bytes.starts_with(b"MMSB"));
    let _node = start(sealed());
    arrived.link().await.hello().await;
    assert_eq!(fake.attestations(), 1);
    let error = Join::new(settings(&fake, dir.path(), token("t1"), Trust::Nobody), Clock::system())
        .err()
        .unwrap();
    assert!(error.to_string().contains("it is sealed"), "{error}");
}

#[tokio::test]
async fn state_that_cannot_be_used_is_named_with_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let (fake, _arrived) = Fake::start(Authority::new("example.org")).await;
    for bytes in [&b"nonsense"[..], b"", b"MMSB\x01\x01xxxxxxxxxxxxxxxxxxxxxxxxx"] {
        mintmark_runtime::fs::write_atomic(&dir.path().join("node"), bytes, 0o600).unwrap();
        let error = Join::new(settings(&fake, dir.path(), token("t"), Trust::Nobody), Clock::system())
            .err()
            .unwrap();
        assert!(error.to_string().contains("remove it to join as a new node"), "{error}");
    }
}

#[tokio::test]
async fn an_update_out_of_order_ends_the_link_and_an_answer_to_nothing_does_not() {
    let (fake, mut arrived) = Fake::start(Authority::new("example.org")).await;
    fake.tokens(&["t1"]);
    let dir = tempfile::tempdir().unwrap();
    let node = start(settings(&fake, dir.path(), token("t1"), trust(&fake.authority)));
    let mut link = arrived.link().await;
    link.hello().await;
    link.answer(Signed {
        request_id: 99,
        results: vec![SignResult::default()],
    })
    .await;
    link.tell(first_update(&fake, vec![])).await;
    node.in_step().await;
    link.tell(Update {
        sequence: 3,
        ..Update::default()
    })
    .await;
    assert!(node.down().await.contains("update 3 after update 1"));
    arrived.link().await.hello().await;
}

#[tokio::test]
async fn a_refused_key_is_told_with_the_servers_reason_and_how_the_node_is_is_reported() {
    let (fake, mut arrived) = Fake::start(Authority::new("example.org")).await;
    fake.tokens(&["t1"]);
    let dir = tempfile::tempdir().unwrap();
    let node = start(settings(&fake, dir.path(), token("t1"), trust(&fake.authority)));
    let mut link = arrived.link().await;
    link.hello().await;
    link.tell(first_update(&fake, vec![entry("a", "/a", "unix:uid:1")]))
        .await;
    let sign = link.sign().await;
    let refused = SignResult {
        code: Code::PermissionDenied as u32,
        message: "the policy says no".into(),
        ..SignResult::default()
    };
    link.answer(Signed {
        request_id: sign.request_id,
        results: vec![refused],
    })
    .await;
    let mut changes = node.keep.changes();
    let problem = || {
        node.keep.view(&Selectors::parse(["unix:uid:1"]).unwrap()).identities[0]
            .x509_problem
            .clone()
    };
    while problem().is_none() {
        changes.changed().await.unwrap();
    }
    assert!(problem().unwrap().contains("the policy says no"));
    let told = loop {
        if let from_node::Message::Status(told) = link.next().await {
            break told;
        }
    };
    assert_eq!(told, Told::default());
}

#[tokio::test]
async fn the_server_is_told_of_every_pod_with_its_token_and_what_it_thinks_of_it_is_kept() {
    let (fake, mut arrived) = Fake::start(Authority::new("example.org")).await;
    fake.tokens(&["t1"]);
    let dir = tempfile::tempdir().unwrap();
    let node = start(settings(&fake, dir.path(), token("t1"), trust(&fake.authority)));
    let pod = node.pods.mount("volume", "u1", Some("pod token"));
    let mut link = arrived.link().await;
    link.hello().await;
    assert_eq!(link.pod().await, "up u1 n/p s pod token");
    node.pods.mount("volume", "u1", Some("new token"));
    assert_eq!(link.pod().await, "up u1 n/p s new token");

    link.judge(PodJudged {
        pod_uid: "u1".into(),
        ..PodJudged::default()
    })
    .await;
    let mut verdict = pod.verdict();
    let agreed = verdict.wait_for(|verdict| matches!(verdict, Verdict::Agreed { .. }));
    tokio::time::timeout(DEADLINE, agreed)
        .await
        .expect("a verdict in time")
        .unwrap();

    // Nothing survives a stream: the server is told anew, without the token, that the pod is there.
    link.end(Status::unavailable("the test ends it")).await;
    let mut link = arrived.link().await;
    let standing = link.hello().await.pods;
    let [up] = &standing[..] else { panic!("{standing:?}") };
    assert_eq!((&*up.pod_uid, &*up.name, up.token.is_empty()), ("u1", "p", true));
    assert_eq!(*pod.verdict().borrow(), Verdict::Agreed { why_none: None });
    node.pods.unmount("volume", "u1");
    assert_eq!(link.pod().await, "down u1");
}
