#![expect(clippy::disallowed_methods, reason = "a test spawns what it tests beside itself")]

mod overload;
mod unsure;

use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use hyper_util::rt::TokioIo;
use mintmark_identity::TrustDomain;
use mintmark_identity::svid::x509::Leaf;
use mintmark_proto::attestor::Update;
use mintmark_proto::spire::types;
use mintmark_proto::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use mintmark_proto::workload::{
    JwtBundlesRequest, JwtsvidRequest, ValidateJwtsvidRequest, WitBundlesRequest, WitsvidRequest, X509BundlesRequest,
    X509svidRequest, X509svidResponse,
};
use mintmark_runtime::net::{Limits, UnixConnector, unix_listener};
use mintmark_runtime::task::BlockingPool;
use mintmark_runtime::tls::Credential;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Streaming};

use super::*;
use crate::keep::{KeepLimits, Upstream};
use crate::peer::{self, PeerStats, Places, Source, UnixLimits};
use crate::testing::{Authority, Mood, NOW, Script, entry};

/// Nothing in these tests takes this long, unless it never ends.
const DEADLINE: Duration = Duration::from_secs(60);
/// Set for a test that this program runs as another process.
const SOCKET: &str = "SERVE_TEST_SOCKET";

/// An attestor without a link, whose server does what the test says.
struct World {
    dir: tempfile::TempDir,
    server: Arc<Script>,
    keep: Keep,
    /// What finds out about callers what takes time.
    pool: BlockingPool,
    shutdown: CancellationToken,
}

impl World {
    fn new() -> Self {
        Self::with(ServeLimits {
            streams: 100,
            streams_per_user: 50,
        })
    }

    fn with(limits: ServeLimits) -> Self {
        let (clock, metrics, shutdown) = (Clock::manual(NOW), Metrics::new("test"), CancellationToken::new());
        let server = Arc::new(Script::new(Authority::new("example.org"), clock.clone()));
        let upstream: Arc<dyn Upstream> = server.clone();
        let keep_limits = KeepLimits {
            prefetch: 100,
            jwt_cache: 100,
        };
        let keep = Keep::new(
            TrustDomain::parse("example.org").unwrap(),
            clock.clone(),
            upstream,
            keep_limits,
        );
        tokio::spawn(keep.clone().run(shutdown.clone()));

        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let socket = unix_listener(&dir.path().join("api.sock"), 0o777, None).unwrap();
        let accepted = socket
            .incoming(Limits::default(), Default::default(), clock.clone())
            .boxed();
        let places = Places::new(100, 1000);
        let connections = peer::incoming(accepted, Source::Processes, places, PeerStats::default()).boxed();
        let pool = BlockingPool::new("attest", 1, 16);
        let unix = Unix::new(UnixLimits { program_bytes: 1 << 30 }, pool.clone(), clock.clone());
        let serve = Serve::new(keep.clone(), unix, limits, clock, &metrics, shutdown.clone());
        tokio::spawn(serve.run(connections));
        Self {
            dir,
            server,
            keep,
            pool,
            shutdown,
        }
    }

    /// As [`World::new`], in step with a server that has these entries and the bundles of its own and these foreign authorities.
    fn in_step(entries: Vec<types::Entry>, foreign: &[&Authority]) -> Self {
        let world = Self::new();
        let mut bundles = vec![Authority::bundle(1, &[&world.authority()], &[])];
        bundles.extend(foreign.iter().map(|authority| Authority::bundle(1, &[authority], &[])));
        world.apply(Update {
            upserts: entries,
            bundles,
            complete: true,
            ..Update::default()
        });
        world
    }

    fn authority(&self) -> Arc<Authority> {
        self.server.authority.lock().unwrap().clone()
    }

    fn apply(&self, update: Update) {
        assert_eq!(self.keep.apply(&update), []);
    }

    fn put(&self, entry: types::Entry) {
        self.apply(Update {
            upserts: vec![entry],
            ..Update::default()
        });
    }

    fn remove(&self, id: &str) {
        self.apply(Update {
            removed_ids: vec![id.into()],
            ..Update::default()
        });
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("api.sock")
    }

    async fn client(&self) -> Client {
        Client::connect(&self.socket()).await
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

/// A client of the Workload API that sends the security header.
#[derive(Clone)]
struct Client(SpiffeWorkloadApiClient<Channel>);

impl Client {
    async fn connect(socket: &Path) -> Self {
        let channel = Endpoint::from_static("http://workload")
            .connect_with_connector(UnixConnector::new(socket))
            .await;
        Self(SpiffeWorkloadApiClient::new(channel.unwrap()))
    }

    fn request<T>(message: T) -> Request<T> {
        let mut request = Request::new(message);
        request
            .metadata_mut()
            .insert(SECURITY_HEADER, MetadataValue::from_static("true"));
        request
    }

    async fn x509(&mut self) -> Streaming<X509svidResponse> {
        self.0
            .fetch_x509svid(Self::request(X509svidRequest {}))
            .await
            .unwrap()
            .into_inner()
    }

    async fn jwt(&mut self, audience: &[&str], spiffe_id: &str) -> Result<Vec<(String, String)>, Status> {
        let audience = audience.iter().map(ToString::to_string).collect();
        let request = JwtsvidRequest {
            audience,
            spiffe_id: spiffe_id.into(),
        };
        let svids = self.0.fetch_jwtsvid(Self::request(request)).await?.into_inner().svids;
        Ok(svids.into_iter().map(|svid| (svid.spiffe_id, svid.svid)).collect())
    }

    async fn validate(&mut self, audience: &str, svid: &str) -> Result<prost_types::Struct, Status> {
        let request = ValidateJwtsvidRequest {
            audience: audience.into(),
            svid: svid.into(),
        };
        Ok(self
            .0
            .validate_jwtsvid(Self::request(request))
            .await?
            .into_inner()
            .claims
            .unwrap())
    }
}

async fn next<T>(stream: &mut Streaming<T>) -> Result<T, Status> {
    let message = tokio::time::timeout(DEADLINE, stream.message())
        .await
        .expect("a message in time")?;
    Ok(message.expect("a stream that goes on"))
}

fn ids(response: &X509svidResponse) -> Vec<&str> {
    response.svids.iter().map(|svid| svid.spiffe_id.as_str()).collect()
}

fn own_uid() -> String {
    format!("unix:uid:{}", nix::unistd::geteuid())
}

#[test]
fn the_descriptors_for_reflection_decode() {
    let builder = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(WORKLOAD_FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET);
    assert!(builder.build_v1().is_ok());
}

#[tokio::test]
async fn a_call_without_the_security_header_is_refused_and_health_needs_none() {
    let world = World::in_step(vec![entry("a", "/a", &own_uid())], &[]);
    let mut client = world.client().await;
    let mut refused = vec![client.0.fetch_x509svid(X509svidRequest {}).await.err().unwrap()];
    let mut wrong = Request::new(X509BundlesRequest {});
    wrong
        .metadata_mut()
        .insert(SECURITY_HEADER, MetadataValue::from_static("yes"));
    refused.push(client.0.fetch_x509_bundles(wrong).await.err().unwrap());
    refused.push(client.0.fetch_jwtsvid(JwtsvidRequest::default()).await.err().unwrap());
    refused.push(
        client
            .0
            .validate_jwtsvid(ValidateJwtsvidRequest::default())
            .await
            .err()
            .unwrap(),
    );
    for status in refused {
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().contains("workload.spiffe.io: true"), "{status}");
    }
    let channel = Endpoint::from_static("http://w")
        .connect_with_connector(UnixConnector::new(world.socket()))
        .await
        .unwrap();
    let mut health = tonic_health::pb::health_client::HealthClient::new(channel);
    let request = tonic_health::pb::HealthCheckRequest {
        service: "SpiffeWorkloadAPI".into(),
    };
    let status = health.check(request).await.unwrap().into_inner().status;
    assert_eq!(
        status,
        tonic_health::pb::health_check_response::ServingStatus::Serving as i32
    );
}

#[tokio::test]
async fn the_health_service_says_whether_there_is_a_link() {
    use tonic_health::pb::health_check_response::ServingStatus;
    let world = World::in_step(vec![], &[]);
    let channel = Endpoint::from_static("http://w")
        .connect_with_connector(UnixConnector::new(world.socket()))
        .await
        .unwrap();
    let mut health = tonic_health::pb::health_client::HealthClient::new(channel);
    let request = tonic_health::pb::HealthCheckRequest { service: LINK.into() };
    let mut told = health.watch(request).await.unwrap().into_inner();
    for (up, expected) in [(true, ServingStatus::Serving), (false, ServingStatus::NotServing)] {
        world.server.up.send_replace(up);
        while next(&mut told).await.unwrap().status() != expected {}
    }
}

#[tokio::test]
async fn until_the_server_has_said_what_applies_callers_are_told_to_try_again() {
    let world = World::new();
    let mut client = world.client().await;
    let status = next(&mut client.x509().await).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(client.jwt(&["x"], "").await.unwrap_err().code(), Code::Unavailable);
}

#[tokio::test]
async fn an_svid_of_another_identity_than_the_entrys_is_not_served() {
    // What the scripted server signs is named by the entry's ID.
    let world = World::in_step(vec![entry("b", "/first", &own_uid())], &[]);
    let mut client = world.client().await;
    let status = next(&mut client.x509().await).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains("makes no sense"), "{status}");
}

#[tokio::test]
async fn the_message_is_as_the_standard_says() {
    let friend = Authority::new("friend.test");
    let mut first = types::Entry {
        created_at: 1,
        hint: "h".into(),
        ..entry("first", "/first", &own_uid())
    };
    first.federates_with = vec!["friend.test".into()];
    let second = types::Entry {
        created_at: 2,
        ..entry("another", "/another", &own_uid())
    };
    let world = World::in_step(
        vec![second, first, entry("third", "/third", "unix:uid:999999")],
        &[&friend, &Authority::new("other.test")],
    );
    let mut client = world.client().await;
    let response = next(&mut client.x509().await).await.unwrap();
    assert_eq!(
        ids(&response),
        ["spiffe://example.org/first", "spiffe://example.org/another"]
    );
    assert_eq!((&*response.svids[0].hint, &*response.svids[1].hint), ("h", ""));
    for svid in &response.svids {
        assert_eq!(svid.bundle, world.authority().der());
        let leaf = Leaf::parse(&svid.x509_svid).unwrap();
        assert_eq!(leaf.spiffe_id.as_str(), svid.spiffe_id);
        let chain = vec![CertificateDer::from(svid.x509_svid.to_vec())];
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(svid.x509_svid_key.to_vec()));
        Credential::empty().set(chain, key).unwrap();
    }
    assert_ne!(response.svids[0].x509_svid_key, response.svids[1].x509_svid_key);
    let federated: Vec<_> = response.federated_bundles.iter().collect();
    assert_eq!(federated, [(&"spiffe://friend.test".to_owned(), &friend.der())]);

    let mut bundles = client
        .0
        .fetch_x509_bundles(Client::request(X509BundlesRequest {}))
        .await
        .unwrap()
        .into_inner();
    let bundles = next(&mut bundles).await.unwrap().bundles;
    assert_eq!(
        bundles.keys().collect::<Vec<_>>(),
        ["spiffe://example.org", "spiffe://friend.test"]
    );
    assert_eq!(bundles["spiffe://example.org"], world.authority().der());
    let mut jwt = client
        .0
        .fetch_jwt_bundles(Client::request(JwtBundlesRequest {}))
        .await
        .unwrap()
        .into_inner();
    let jwt = next(&mut jwt).await.unwrap().bundles;
    let mut wit = client
        .0
        .fetch_wit_bundles(Client::request(WitBundlesRequest {}))
        .await
        .unwrap()
        .into_inner();
    let wit = next(&mut wit).await.unwrap().bundles;
    for (trust_domain, set) in jwt
        .iter()
        .map(|(td, set)| (td, &set[..]))
        .chain(wit.iter().map(|(td, set)| (td, set.as_bytes())))
    {
        let set: serde_json::Value = serde_json::from_slice(set).unwrap();
        assert_eq!(set["keys"].as_array().unwrap().len(), 1, "{trust_domain}");
        assert!(set["keys"][0]["kid"].is_string());
    }
    assert_eq!((jwt.len(), wit.len()), (2, 2));
}

#[tokio::test]
async fn a_stream_is_told_of_what_changes_for_it_and_of_nothing_else() {
    let world = World::in_step(vec![entry("a", "/a", &own_uid())], &[]);
    let mut client = world.client().await;
    let mut stream = client.x509().await;
    let first = next(&mut stream).await.unwrap();
    assert_eq!(ids(&first), ["spiffe://example.org/a"]);
    // Neither somebody else's entry nor one of the same content is news: the next message is about the third change.
    world.put(entry("x", "/x", "unix:uid:999999"));
    world.put(entry("a", "/a", &own_uid()));
    world.put(entry("b", "/b", &own_uid()));
    let response = next(&mut stream).await.unwrap();
    assert_eq!(ids(&response), ["spiffe://example.org/a", "spiffe://example.org/b"]);
    assert_eq!(response.svids[0].x509_svid, first.svids[0].x509_svid);
    world.remove("a");
    assert_eq!(ids(&next(&mut stream).await.unwrap()), ["spiffe://example.org/b"]);

    // A new authority comes into the bundle, and what the old one signed is replaced when it is tainted.
    let (old, new) = (world.authority(), Arc::new(Authority::new("example.org")));
    world.apply(Update {
        bundles: vec![Authority::bundle(2, &[&old, &new], &[])],
        ..Update::default()
    });
    let response = next(&mut stream).await.unwrap();
    assert_eq!(response.svids[0].bundle, [old.der(), new.der()].concat());
    *world.server.authority.lock().unwrap() = new.clone();
    let before = response.svids[0].x509_svid.clone();
    world.apply(Update {
        bundles: vec![Authority::bundle(3, &[&old, &new], &[&old])],
        ..Update::default()
    });
    let mut response = next(&mut stream).await.unwrap();
    while response.svids[0].x509_svid == before {
        response = next(&mut stream).await.unwrap();
    }

    // The last identity goes: the caller is told to drop everything.
    world.remove("b");
    let status = next(&mut stream).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    assert!(stream.message().await.unwrap().is_none());
}

#[tokio::test]
async fn who_has_no_identity_is_told_what_it_is_and_what_to_do() {
    let world = World::in_step(
        vec![entry("a", "/a", "unix:uid:999999"), entry("b", "/b", "unix:uid:999998")],
        &[],
    );
    let mut client = world.client().await;
    let status = next(&mut client.x509().await).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    let user = nix::unistd::User::from_uid(nix::unistd::geteuid())
        .unwrap()
        .unwrap()
        .name;
    for expected in [
        "no identity issued",
        &own_uid(),
        "unix:gid:",
        &format!("unix:user:{user}"),
        "unix:path:/",
        "mintmark entry create",
    ] {
        assert!(status.message().contains(expected), "{expected}: {status}");
    }
    for status in [
        client.jwt(&["x"], "").await.unwrap_err(),
        client.validate("x", "a.b.c").await.unwrap_err(),
        client
            .0
            .fetch_x509_bundles(Client::request(X509BundlesRequest {}))
            .await
            .unwrap()
            .into_inner()
            .message()
            .await
            .unwrap_err(),
    ] {
        assert_eq!(status.code(), Code::PermissionDenied);
    }
}

#[tokio::test]
async fn jwt_svids_are_for_the_callers_identities_and_validated_by_the_bundles_it_sees() {
    let friend = Authority::new("friend.test");
    let mut a = entry("a", "/a", &own_uid());
    a.federates_with = vec!["friend.test".into()];
    let world = World::in_step(
        vec![
            a,
            types::Entry {
                created_at: 9,
                ..entry("b", "/b", &own_uid())
            },
        ],
        &[&friend],
    );
    let mut client = world.client().await;
    for audience in [&[][..], &[""], &["x", ""]] {
        assert_eq!(
            client.jwt(audience, "").await.unwrap_err().code(),
            Code::InvalidArgument
        );
    }
    assert_eq!(
        client.jwt(&["x".repeat(3000).as_str()], "").await.unwrap_err().code(),
        Code::InvalidArgument
    );
    assert_eq!(
        client.jwt(&["x"], "not an id").await.unwrap_err().code(),
        Code::InvalidArgument
    );
    let refused = client.jwt(&["x"], "spiffe://example.org/other").await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert!(refused.message().contains("spiffe://example.org/a"), "{refused}");

    let svids = client.jwt(&["x"], "").await.unwrap();
    let ids: Vec<_> = svids.iter().map(|(id, _)| id.as_str()).collect();
    assert_eq!(ids, ["spiffe://example.org/a", "spiffe://example.org/b"]);
    assert_eq!(client.jwt(&["x"], "spiffe://example.org/b").await.unwrap(), svids[1..]);

    let claims = client.validate("x", &svids[0].1).await.unwrap();
    let text = |name: &str| claims.fields[name].kind.clone().unwrap();
    assert_eq!(
        text("sub"),
        prost_types::value::Kind::StringValue("spiffe://example.org/a".into())
    );
    assert!(matches!(text("aud"), prost_types::value::Kind::ListValue(_)));
    assert!(matches!(text("exp"), prost_types::value::Kind::NumberValue(_)));
    let theirs = friend.jwt("spiffe://friend.test/w", &["x".to_owned()], NOW, 60);
    client.validate("x", &theirs).await.unwrap();

    let stranger = Authority::new("stranger.test").jwt("spiffe://stranger.test/w", &["x".to_owned()], NOW, 60);
    let forged = Authority::new("example.org").jwt("spiffe://example.org/a", &["x".to_owned()], NOW, 60);
    let expired = world
        .authority()
        .jwt("spiffe://example.org/a", &["x".to_owned()], NOW - 100, 60);
    let (_, rest) = svids[0].1.split_once('.').unwrap();
    let none = format!("eyJhbGciOiJub25lIn0.{rest}");
    for (audience, token, expected) in [
        ("", &*svids[0].1, "audience must be specified"),
        ("x", "", "svid must be specified"),
        ("y", &svids[0].1, "not for"),
        ("x", "abc", "compact form"),
        ("x", &none, "none"),
        ("x", &stranger, "no bundle of trust domain stranger.test"),
        ("x", &forged, "not in the bundle"),
        ("x", &expired, "expired"),
    ] {
        let status = client.validate(audience, token).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        assert!(status.message().contains(expected), "{expected}: {status}");
        assert!(token.is_empty() || token.len() < 20 || !status.message().contains(token));
    }
}

#[tokio::test]
async fn jwt_svids_that_the_server_does_not_give_are_unavailable_or_refused_as_it_says() {
    let world = World::in_step(vec![entry("a", "/a", &own_uid())], &[]);
    let mut client = world.client().await;
    for (mood, code) in [
        (Mood::IsGone, Code::Unavailable),
        (Mood::Refuses(Code::PermissionDenied), Code::PermissionDenied),
        (Mood::Refuses(Code::InvalidArgument), Code::InvalidArgument),
        (Mood::Refuses(Code::Internal), Code::Unavailable),
    ] {
        *world.server.mood.lock().unwrap() = mood;
        assert_eq!(client.jwt(&["x"], "").await.unwrap_err().code(), code);
    }
}

#[tokio::test]
async fn wit_svids_come_with_their_private_keys_and_are_told_anew_when_they_change() {
    let world = World::in_step(vec![entry("a", "/a", &own_uid())], &[]);
    let mut client = world.client().await;
    let fetch = |spiffe_id: &str| {
        Client::request(WitsvidRequest {
            spiffe_id: spiffe_id.into(),
        })
    };
    let mut stream = client.0.fetch_witsvid(fetch("")).await.unwrap().into_inner();
    let svid = next(&mut stream).await.unwrap().svids.remove(0);
    let token = mintmark_identity::svid::wit::Token::parse(&svid.wit_svid).unwrap();
    assert_eq!(token.subject().as_str(), svid.spiffe_id);
    let key: serde_json::Value = serde_json::from_str(&svid.wit_svid_key).unwrap();
    assert!(key["d"].is_string() && key["kty"] == "EC" && key["alg"] == "ES256");
    let mut one = client
        .0
        .fetch_witsvid(fetch("spiffe://example.org/a"))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(next(&mut one).await.unwrap().svids[0].wit_svid, svid.wit_svid);
    let mut other = client
        .0
        .fetch_witsvid(fetch("spiffe://example.org/x"))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(next(&mut other).await.unwrap_err().code(), Code::PermissionDenied);
    assert_eq!(
        client.0.fetch_witsvid(fetch("x")).await.unwrap_err().code(),
        Code::InvalidArgument
    );
    world.put(entry("b", "/b", &own_uid()));
    assert_eq!(next(&mut stream).await.unwrap().svids.len(), 2);
    assert_eq!(world.keep.summary().workloads, 2);
}

#[tokio::test]
async fn a_svid_that_cannot_be_had_is_unavailable_with_the_reason_and_comes_when_it_can() {
    let world = World::new();
    *world.server.mood.lock().unwrap() = Mood::Refuses(Code::PermissionDenied);
    let own = Authority::bundle(1, &[&world.authority()], &[]);
    world.apply(Update {
        upserts: vec![entry("a", "/a", &own_uid())],
        bundles: vec![own],
        complete: true,
        ..Update::default()
    });
    let mut client = world.client().await;
    let status = next(&mut client.x509().await).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains("the test says no"), "{status}");
    *world.server.mood.lock().unwrap() = Mood::Signs;
    world.server.up.send_replace(true);
    assert_eq!(next(&mut client.x509().await).await.unwrap().svids.len(), 1);
}

#[tokio::test]
async fn a_user_with_too_many_calls_is_shed_and_streams_end_when_the_attestor_stops() {
    let world = World::with(ServeLimits {
        streams: 10,
        streams_per_user: 2,
    });
    let own = Authority::bundle(1, &[&world.authority()], &[]);
    world.apply(Update {
        upserts: vec![entry("a", "/a", &own_uid())],
        bundles: vec![own],
        complete: true,
        ..Update::default()
    });
    let mut client = world.client().await;
    let (mut one, two) = (client.x509().await, client.x509().await);
    next(&mut one).await.unwrap();
    let status = client
        .0
        .fetch_x509svid(Client::request(X509svidRequest {}))
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains("2 calls of user"), "{status}");
    drop(two);
    while world.keep.summary().workloads > 1 {
        tokio::task::yield_now().await;
    }
    next(&mut client.x509().await).await.unwrap();
    world.shutdown.cancel();
    assert_eq!(next(&mut one).await.unwrap_err().code(), Code::Unavailable);
}

#[tokio::test]
async fn a_message_that_is_too_large_is_refused() {
    let world = World::in_step(vec![entry("a", "/a", &own_uid())], &[]);
    let mut client = world.client().await;
    assert!(client.validate("x", &"x".repeat(MAX_MESSAGE)).await.is_err());
    assert_eq!(
        client.validate("x", &"x".repeat(100_000)).await.unwrap_err().code(),
        Code::InvalidArgument
    );
}

/// Runs this program's test `as_another_process` as another user, and gives what it printed.
async fn as_user(uid: u32, gid: u32, world: &World, arguments: &str) -> String {
    assert!(
        nix::unistd::geteuid().is_root(),
        "this test makes processes of other users: run it as root"
    );
    let program = world.dir.path().join("test");
    if !program.exists() {
        std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let mut command = Command::new(program);
    command
        .args(["--exact", "serve::tests::as_another_process", "--nocapture"])
        .env(SOCKET, world.socket())
        .env("SERVE_TEST_ARGUMENTS", arguments)
        .current_dir("/")
        .uid(uid)
        .gid(gid)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let output = tokio::task::spawn_blocking(move || command.output().unwrap())
        .await
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    text.lines()
        .find_map(|line| line.split_once("ANSWER ").map(|(_, answer)| answer.to_owned()))
        .unwrap_or(text)
}

/// Not a test of its own: what [`as_user`] runs.
#[tokio::test]
async fn as_another_process() {
    let Ok(socket) = std::env::var(SOCKET) else { return };
    let mut client = Client::connect(Path::new(&socket)).await;
    let answer = match next(&mut client.x509().await).await {
        Ok(response) => ids(&response).join(" "),
        Err(status) => format!("{:?}: {}", status.code(), status.message()),
    };
    #[expect(clippy::print_stdout, reason = "the answer to the test that runs this")]
    {
        println!("\nANSWER {answer}");
    }
}

#[tokio::test]
async fn a_process_gets_what_fits_its_user_group_and_program_and_nothing_of_another() {
    let world = World::in_step(vec![], &[]);
    // The program does not exist yet when its digest is asked for: the first caller makes it.
    assert!(
        as_user(12345, 23456, &world, "")
            .await
            .starts_with("PermissionDenied: no identity issued")
    );
    let program = world.dir.path().join("test");
    let digest = hex::encode(ring::digest::digest(
        &ring::digest::SHA256,
        &std::fs::read(&program).unwrap(),
    ));
    for (id, selector) in [
        ("uid", "unix:uid:12345".to_owned()),
        ("gid", "unix:gid:23456".to_owned()),
        ("other", "unix:uid:54321".to_owned()),
        ("path", format!("unix:path:{}", program.display())),
        ("sha256", format!("unix:sha256:{digest}")),
        ("wrong", format!("unix:sha256:{}", digest.replace(['0', '1'], "2"))),
    ] {
        world.put(entry(id, &format!("/{id}"), &selector));
    }
    let mut both = entry("both", "/both", "unix:uid:12345");
    both.selectors.push(types::Selector {
        r#type: "unix".into(),
        value: "gid:1".into(),
    });
    world.put(both);
    let found = as_user(12345, 23456, &world, "").await;
    let names: Vec<_> = found.split(' ').map(|id| id.rsplit('/').next().unwrap()).collect();
    assert_eq!(names, ["gid", "path", "sha256", "uid"]);
    let found = as_user(54321, 1, &world, "").await;
    let names: Vec<_> = found.split(' ').map(|id| id.rsplit('/').next().unwrap()).collect();
    assert_eq!(names, ["other", "path", "sha256"]);
}

/// Connects as a process of its own, and gives the socket to us.
fn borrowed_socket(world: &World) -> (std::process::Child, std::os::unix::net::UnixStream) {
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    let script = "import socket,sys\ns=socket.socket(socket.AF_UNIX)\ns.connect(sys.argv[1])\nsocket.send_fds(socket.socket(fileno=0),[b'x'],[s.fileno()])\nsys.stdout.write('k')\nsys.stdout.flush()\nimport time\ntime.sleep(600)";
    let mut child = Command::new("python3")
        .args(["-c", script])
        .arg(world.socket())
        .stdin(std::os::fd::OwnedFd::from(theirs))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut byte = [0];
    child.stdout.as_mut().unwrap().read_exact(&mut byte).unwrap();
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut buffer = [0];
    recvmsg(
        &ours,
        &mut [io::IoSliceMut::new(&mut buffer)],
        &mut ancillary,
        RecvFlags::empty(),
    )
    .unwrap();
    let fd = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    (child, fd.unwrap().into())
}

#[tokio::test]
async fn a_socket_that_was_passed_on_is_of_no_use_once_who_connected_has_ended() {
    let world = World::in_step(vec![entry("a", "/a", &own_uid())], &[]);
    let (mut child, socket) = borrowed_socket(&world);
    socket.set_nonblocking(true).unwrap();
    let mut socket = Some(TokioIo::new(tokio::net::UnixStream::from_std(socket).unwrap()));
    let connect = tower::service_fn(move |_| std::future::ready(socket.take().ok_or_else(|| io::Error::other("used"))));
    let channel = Endpoint::from_static("http://workload")
        .connect_with_connector(connect)
        .await
        .unwrap();
    let mut client = Client(SpiffeWorkloadApiClient::new(channel));
    let mut stream = client.x509().await;
    next(&mut stream).await.unwrap();
    child.kill().unwrap();
    // It is a zombie now, whose number is still taken, and the socket is open here.
    let status = next(&mut stream).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    assert!(status.message().contains("has ended"), "{status}");
    assert_eq!(client.jwt(&["x"], "").await.unwrap_err().code(), Code::PermissionDenied);
    child.wait().unwrap();
    assert_eq!(client.jwt(&["x"], "").await.unwrap_err().code(), Code::PermissionDenied);
}

/// Sends bytes of its own to the socket, and waits until the attestor has closed it or answered.
fn hostile(world: &World, bytes: &[u8]) {
    use std::io::Write as _;
    let mut socket = std::os::unix::net::UnixStream::connect(world.socket()).unwrap();
    // The attestor may hang up before all is sent.
    let _ = socket.write_all(bytes);
    let _ = socket.shutdown(std::net::Shutdown::Write);
    let mut answer = Vec::new();
    let _ = socket.read_to_end(&mut answer);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_grpc_harms_nobody_else() {
    let world = World::in_step(vec![entry("a", "/a", &own_uid())], &[]);
    let mut client = world.client().await;
    let mut stream = client.x509().await;
    next(&mut stream).await.unwrap();
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    let huge_frame = [0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1];
    let junk = [0xa5; 100_000];
    let cases: Vec<Vec<u8>> = vec![
        vec![],
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
        junk.to_vec(),
        preface.to_vec(),
        [&preface[..], &junk].concat(),
        [&preface[..], &settings, &huge_frame].concat(),
        [
            &preface[..],
            &settings,
            &[0, 0, 4, 1, 5, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff],
        ]
        .concat(),
    ];
    for bytes in cases {
        tokio::task::block_in_place(|| hostile(&world, &bytes));
    }
    // A message that is no message.
    let mut grpc = tonic::client::Grpc::new(
        Endpoint::from_static("http://w")
            .connect_with_connector(UnixConnector::new(world.socket()))
            .await
            .unwrap(),
    );
    grpc.ready().await.unwrap();
    let path = http::uri::PathAndQuery::from_static("/SpiffeWorkloadAPI/FetchJWTSVID");
    let codec = tonic_prost::ProstCodec::<X509svidResponse, prost_types::Any>::default();
    let nonsense = X509svidResponse {
        crl: vec![bytes::Bytes::from_static(b"\xff\xff\xff")],
        ..X509svidResponse::default()
    };
    let refused: Result<tonic::Response<prost_types::Any>, _> =
        grpc.unary(Client::request(nonsense), path, codec).await;
    assert!(refused.is_err());
    world.put(entry("b", "/b", &own_uid()));
    assert_eq!(next(&mut stream).await.unwrap().svids.len(), 2);
}
