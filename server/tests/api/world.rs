//! The server under test, and those who talk to it.

use std::path::Path;
use std::time::Duration;

use mintmark_identity::{SpiffeId, TrustDomain};
use mintmark_proto::Bytes;
use mintmark_proto::spire::server::agent::agent_client::AgentClient;
use mintmark_proto::spire::server::agent::{
    AgentX509svidParams, AttestAgentRequest, CreateJoinTokenRequest, attest_agent_request, attest_agent_response,
};
use mintmark_proto::spire::server::entry::BatchCreateEntryRequest;
use mintmark_proto::spire::server::entry::entry_client::EntryClient;
use mintmark_proto::spire::types;
use mintmark_runtime::clock::Clock;
use mintmark_runtime::config::{Listen, ListenPath};
use mintmark_runtime::net::UnixConnector;
use mintmark_runtime::tls::{
    ALPN_H2, Connector, Credential, Expect, SpiffeServerVerifier, TrustAnchors, client_config,
};
use mintmark_server::config::Config;
use mintmark_server::server::{Options, Running, Server, StartError};
use rcgen::{CertificateParams, KeyPair};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tempfile::TempDir;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

/// Nothing in these tests takes this long, unless it never ends.
const DEADLINE: Duration = Duration::from_secs(60);

/// A server on a directory of its own, whose time stands still until a test moves it.
pub(crate) struct World {
    pub(crate) server: Running,
    pub(crate) clock: Clock,
    pub(crate) dir: TempDir,
}

pub(crate) fn trust_domain() -> TrustDomain {
    TrustDomain::parse("example.org").unwrap()
}

pub(crate) fn id_message(path: &str) -> types::Spiffeid {
    types::Spiffeid {
        trust_domain: "example.org".into(),
        path: path.into(),
    }
}

pub(crate) fn selector(text: &str) -> types::Selector {
    let (kind, value) = text.split_once(':').unwrap();
    types::Selector {
        r#type: kind.into(),
        value: value.into(),
    }
}

/// A configuration of a server in `dir` on free loopback ports, without rate limits.
pub(crate) fn config(dir: &Path) -> Config {
    let loopback = Listen::new(([127, 0, 0, 1], 0));
    let mut config = Config::quiet(trust_domain(), dir.join("data"));
    config.listen.api = loopback;
    config.listen.https = loopback;
    config.listen.metrics = loopback;
    config.listen.health = loopback;
    config.listen.admin = ListenPath::new(dir.join("admin.sock"));
    config.limits.rate_limit = false;
    config
}

pub(crate) async fn start(config: Config, clock: Clock) -> Result<Running, StartError> {
    Server::start(
        config,
        clock,
        Options {
            embedded: true,
            ..Options::default()
        },
    )
    .await
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::with(|_| {}).await
    }

    pub(crate) async fn with(change: impl FnOnce(&mut Config)) -> Self {
        mintmark_runtime::crypto::install();
        let dir = tempfile::tempdir().unwrap();
        let clock = Clock::manual(1_800_000_000);
        let mut config = config(dir.path());
        change(&mut config);
        let server = start(config, clock.clone()).await.unwrap();
        Self { server, clock, dir }
    }

    /// A connection to the admin socket.
    pub(crate) async fn admin(&self) -> Channel {
        let connector = UnixConnector::new(self.server.admin_socket().unwrap());
        Endpoint::from_static("http://admin")
            .connect_with_connector(connector)
            .await
            .unwrap()
    }

    /// A connection to the API, whose client shows `credential`.
    pub(crate) async fn connect(&self, credential: Option<Credential>) -> Result<Channel, tonic::transport::Error> {
        let anchors = TrustAnchors::from_bundles([&*self.server.bundle()]).shared();
        let verifier = SpiffeServerVerifier::new(anchors, Expect::Id(SpiffeId::server(&trust_domain())));
        let tls = client_config(verifier, credential, &[ALPN_H2], &self.clock);
        let addr = self.server.api_addr().unwrap();
        let endpoint = Endpoint::from_shared(format!("http://{addr}")).unwrap();
        endpoint
            .connect_with_connector(Connector::new(tls, self.clock.clone()))
            .await
    }

    /// A connection to the API without a certificate.
    pub(crate) async fn anonymous(&self) -> Channel {
        self.connect(None).await.unwrap()
    }

    pub(crate) async fn token(&self) -> String {
        let request = CreateJoinTokenRequest {
            ttl: 600,
            ..Default::default()
        };
        AgentClient::new(self.admin().await)
            .create_join_token(request)
            .await
            .unwrap()
            .into_inner()
            .value
    }

    /// A node that has joined with a token.
    pub(crate) async fn node(&self) -> Node {
        let token = self.token().await;
        Node::join(self, &token).await.unwrap()
    }

    /// Makes an entry on the admin socket; gives its ID.
    pub(crate) async fn entry(&self, entry: types::Entry) -> String {
        let request = BatchCreateEntryRequest {
            entries: vec![entry],
            output_mask: None,
        };
        let response = EntryClient::new(self.admin().await)
            .batch_create_entry(request)
            .await
            .unwrap()
            .into_inner();
        let result = response.results.into_iter().next().unwrap();
        assert_eq!(result.status.as_ref().unwrap().code, 0, "{:?}", result.status);
        result.entry.unwrap().id
    }

    pub(crate) async fn shutdown(self) -> TempDir {
        self.server.shutdown().await;
        self.dir
    }
}

/// An entry for `path` on `parent`.
pub(crate) fn entry(path: &str, parent: &str) -> types::Entry {
    types::Entry {
        spiffe_id: Some(id_message(path)),
        parent_id: Some(id_message(parent)),
        selectors: vec![selector("unix:uid:1000")],
        ..Default::default()
    }
}

/// A CSR for `key`, with nothing in it but the key.
pub(crate) fn csr(key: &KeyPair) -> Bytes {
    let request = CertificateParams::default().serialize_request(key).unwrap();
    Bytes::copy_from_slice(request.der())
}

/// A node with its SVID.
pub(crate) struct Node {
    pub(crate) id: SpiffeId,
    pub(crate) credential: Credential,
    pub(crate) channel: Channel,
    pub(crate) svid: types::X509svid,
}

impl Node {
    /// Joins with a token, as an agent would.
    pub(crate) async fn join(world: &World, token: &str) -> Result<Self, Status> {
        let key = KeyPair::generate().unwrap();
        let svid = attest(world, "join_token", token.as_bytes(), &csr(&key)).await?;
        Ok(Self::with(world, svid, &key).await)
    }

    /// A node that holds this SVID.
    pub(crate) async fn with(world: &World, svid: types::X509svid, key: &KeyPair) -> Self {
        let credential = credential(&svid, key);
        let channel = world.connect(Some(credential.clone())).await.unwrap();
        let id = svid.id.as_ref().unwrap();
        Self {
            id: SpiffeId::new(&trust_domain(), &id.path).unwrap(),
            credential,
            channel,
            svid,
        }
    }
}

pub(crate) fn credential(svid: &types::X509svid, key: &KeyPair) -> Credential {
    let credential = Credential::empty();
    let chain = svid
        .cert_chain
        .iter()
        .map(|der| CertificateDer::from(der.to_vec()))
        .collect();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    credential.set(chain, key).unwrap();
    credential
}

/// The first message of an attestation.
pub(crate) fn attest_params(method: &str, payload: &[u8], csr: &Bytes) -> AttestAgentRequest {
    let params = attest_agent_request::Params {
        data: Some(types::AttestationData {
            r#type: method.into(),
            payload: Bytes::copy_from_slice(payload),
        }),
        params: Some(AgentX509svidParams { csr: csr.clone() }),
    };
    AttestAgentRequest {
        step: Some(attest_agent_request::Step::Params(params)),
    }
}

/// An attestation without a challenge.
pub(crate) async fn attest(
    world: &World,
    method: &str,
    payload: &[u8],
    csr: &Bytes,
) -> Result<types::X509svid, Status> {
    let request = attest_params(method, payload, csr);
    let mut client = AgentClient::new(world.anonymous().await);
    let mut answers = client.attest_agent(tokio_stream::iter([request])).await?.into_inner();
    let answer = in_time(answers.message()).await?.unwrap();
    match answer.step {
        Some(attest_agent_response::Step::Result(result)) => Ok(result.svid.unwrap()),
        other => panic!("{other:?}"),
    }
}

/// What comes of `work`, which must not take for ever.
pub(crate) async fn in_time<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, work).await.expect("it ends in time")
}

/// What comes of `work`, while the server's time passes, a little at each turn of this process: what waits for a time comes to it.
pub(crate) async fn while_time_passes<T>(clock: &Clock, work: impl Future<Output = T>) -> T {
    let passing = async {
        loop {
            clock.advance(Duration::from_millis(2));
            tokio::task::yield_now().await;
        }
    };
    in_time(async {
        tokio::select! {
            done = work => done,
            () = passing => unreachable!(),
        }
    })
    .await
}
