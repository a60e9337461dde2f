//! A server and an attestor, and what administrators and workloads do with them.

use std::path::PathBuf;
use std::time::Duration;

use futures::{Stream, StreamExt as _};
use mintmark_attestor::{Attestor, Running as Node};
use mintmark_identity::TrustDomain;
use mintmark_proto::spire::server::agent::CreateJoinTokenRequest;
use mintmark_proto::spire::server::agent::agent_client::AgentClient;
use mintmark_proto::spire::server::entry::entry_client::EntryClient;
use mintmark_proto::spire::server::entry::{BatchCreateEntryRequest, BatchDeleteEntryRequest};
use mintmark_proto::spire::types;
use mintmark_runtime::clock::Clock;
use mintmark_runtime::config::{Listen, ListenPath};
use mintmark_runtime::fs::write_atomic;
use mintmark_runtime::net::UnixConnector;
use mintmark_server::config::Config as ServerConfig;
use mintmark_server::server::{Options, Running as House, Server};
use rustls_pki_types::{CertificateDer, UnixTime};
use spiffe::{WorkloadApiClient, X509Context};
use tempfile::TempDir;
use tonic::transport::{Channel, Endpoint};

/// Nothing in these tests takes this long, unless it never ends.
pub(crate) const DEADLINE: Duration = Duration::from_secs(90);

/// A server and a node of it.
pub(crate) struct World {
    pub(crate) dir: TempDir,
    pub(crate) server: Option<House>,
    pub(crate) node: Option<Node>,
    /// Where the server listens, also after it has gone.
    pub(crate) addr: std::net::SocketAddr,
    change: fn(&mut ServerConfig),
}

pub(crate) fn trust_domain() -> TrustDomain {
    TrustDomain::parse("example.org").unwrap()
}

impl World {
    /// A server whose configuration is changed so, and a node that has joined it and is in step.
    pub(crate) async fn new(change: fn(&mut ServerConfig)) -> Self {
        mintmark_runtime::crypto::install();
        let dir = tempfile::tempdir().unwrap();
        let mut world = Self {
            dir,
            server: None,
            node: None,
            addr: ([127, 0, 0, 1], 0).into(),
            change,
        };
        world.start_server().await;
        let token = world.token().await;
        world.start_node(&token).await;
        world.in_step().await;
        world
    }

    /// Starts the server, where it was if it was before.
    pub(crate) async fn start_server(&mut self) {
        let mut config = ServerConfig::quiet(trust_domain(), self.dir.path().join("server"));
        config.listen.api = Listen::new(self.addr);
        config.listen.admin = ListenPath::new(self.dir.path().join("admin.sock"));
        config.limits.rate_limit = false;
        (self.change)(&mut config);
        let options = Options {
            embedded: true,
            ..Options::default()
        };
        let server = Server::start(config, Clock::system(), options).await.unwrap();
        self.addr = server.api_addr().unwrap();
        write_atomic(
            &self.dir.path().join("bundle.json"),
            server.bundle().to_json().unwrap().as_bytes(),
            0o644,
        )
        .unwrap();
        self.server = Some(server);
    }

    pub(crate) async fn stop_server(&mut self) {
        self.server.take().unwrap().shutdown().await;
    }

    /// Starts the node's attestor, which holds what survives a restart sealed.
    pub(crate) async fn start_node(&mut self, token: &str) {
        let mut config = mintmark_attestor::Config::quiet(
            trust_domain(),
            self.dir.path().join("node"),
            self.addr.to_string(),
            self.socket(),
        );
        config.trust_bundle = self.dir.path().join("bundle.json");
        config.join.token = token.to_owned().into();
        config.keep.sealed = true;
        config.keep.key = self.dir.path().join("node.kek");
        self.node = Some(Attestor::start(config, Clock::system()).await.unwrap());
    }

    pub(crate) async fn stop_node(&mut self) {
        self.node.take().unwrap().shutdown(Duration::from_secs(10)).await;
    }

    pub(crate) async fn in_step(&self) {
        tokio::time::timeout(DEADLINE, self.node.as_ref().unwrap().in_step())
            .await
            .expect("in step in time");
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("workload.sock")
    }

    pub(crate) async fn admin(&self) -> Channel {
        let connector = UnixConnector::new(self.dir.path().join("admin.sock"));
        Endpoint::from_static("http://admin")
            .connect_with_connector(connector)
            .await
            .unwrap()
    }

    async fn token(&self) -> String {
        let request = CreateJoinTokenRequest {
            ttl: 600,
            ..CreateJoinTokenRequest::default()
        };
        AgentClient::new(self.admin().await)
            .create_join_token(request)
            .await
            .unwrap()
            .into_inner()
            .value
    }

    pub(crate) fn node_id(&self) -> types::Spiffeid {
        let id = self.node.as_ref().unwrap().status().node.unwrap();
        types::Spiffeid {
            trust_domain: id.trust_domain().to_string(),
            path: id.path().into(),
        }
    }

    /// Makes an entry of the node for whoever has `selector`; gives its ID.
    pub(crate) async fn entry(&self, path: &str, selector: &str) -> String {
        let (kind, value) = selector.split_once(':').unwrap();
        let entry = types::Entry {
            spiffe_id: Some(types::Spiffeid {
                trust_domain: "example.org".into(),
                path: path.into(),
            }),
            parent_id: Some(self.node_id()),
            selectors: vec![types::Selector {
                r#type: kind.into(),
                value: value.into(),
            }],
            ..types::Entry::default()
        };
        let request = BatchCreateEntryRequest {
            entries: vec![entry],
            output_mask: None,
        };
        let answer = EntryClient::new(self.admin().await)
            .batch_create_entry(request)
            .await
            .unwrap()
            .into_inner();
        answer.results[0].entry.as_ref().unwrap().id.clone()
    }

    /// An entry for this process.
    pub(crate) async fn own_entry(&self, path: &str) -> String {
        self.entry(path, &format!("unix:uid:{}", nix::unistd::geteuid())).await
    }

    pub(crate) async fn delete(&self, id: &str) {
        let request = BatchDeleteEntryRequest { ids: vec![id.into()] };
        EntryClient::new(self.admin().await)
            .batch_delete_entry(request)
            .await
            .unwrap();
    }

    /// A client as a workload has one.
    pub(crate) async fn client(&self) -> WorkloadApiClient {
        WorkloadApiClient::connect_to(format!("unix://{}", self.socket().display()))
            .await
            .unwrap()
    }

    /// All X.509 contexts that a stream brings.
    pub(crate) async fn contexts(&self) -> Contexts {
        Box::pin(self.client().await.stream_x509_contexts().await.unwrap())
    }

    /// The first X.509 context, asked for until there is one.
    pub(crate) async fn context(&self) -> X509Context {
        let client = self.client().await;
        let wait = async {
            loop {
                match client.fetch_x509_context().await {
                    Ok(context) => return context,
                    Err(_) => tokio::task::yield_now().await,
                }
            }
        };
        tokio::time::timeout(DEADLINE, wait).await.expect("an SVID in time")
    }

    pub(crate) async fn shutdown(mut self) {
        if let Some(node) = self.node.take() {
            node.shutdown(Duration::from_secs(10)).await;
        }
        if let Some(server) = self.server.take() {
            server.shutdown().await;
        }
    }
}

type Contexts =
    std::pin::Pin<Box<dyn Stream<Item = Result<X509Context, spiffe::workload_api::error::WorkloadApiError>> + Send>>;

/// The next context of a stream that goes on.
pub(crate) async fn next(contexts: &mut Contexts) -> Result<X509Context, String> {
    let next = tokio::time::timeout(DEADLINE, contexts.next())
        .await
        .expect("a context in time");
    next.expect("a stream that goes on").map_err(|error| error.to_string())
}

/// The SPIFFE IDs of a context.
pub(crate) fn ids(context: &X509Context) -> Vec<String> {
    context
        .svids()
        .iter()
        .map(|svid| svid.spiffe_id().to_string())
        .collect()
}

/// Verifies every SVID of a context by the bundle in it, as of now; gives the key identifiers of the authorities that signed.
pub(crate) fn verify(context: &X509Context) -> Vec<Vec<u8>> {
    let bundle = context
        .bundle_set()
        .get(&spiffe::TrustDomain::new("example.org").unwrap())
        .unwrap();
    let authorities: Vec<_> = bundle
        .authorities()
        .iter()
        .map(|one| CertificateDer::from(one.as_bytes().to_vec()))
        .collect();
    let anchors: Vec<_> = authorities
        .iter()
        .map(|one| webpki::anchor_from_trusted_cert(one).unwrap())
        .collect();
    let now = UnixTime::since_unix_epoch(Duration::from_secs(Clock::system().unix().unsigned_abs()));
    let check = |svid: &std::sync::Arc<spiffe::X509Svid>| {
        let chain: Vec<_> = svid
            .cert_chain()
            .iter()
            .map(|one| CertificateDer::from(one.as_bytes().to_vec()))
            .collect();
        let leaf = webpki::EndEntityCert::try_from(&chain[0]).unwrap();
        let algorithms = mintmark_runtime::crypto::provider().signature_verification_algorithms;
        let usage = webpki::KeyUsage::server_auth();
        leaf.verify_for_usage(algorithms.all, &anchors, &chain[1..], now, usage, None, None)
            .unwrap();
        let parsed = mintmark_identity::svid::x509::Leaf::parse(&chain[0]).unwrap();
        parsed.authority_key_id.unwrap().to_vec()
    };
    context.svids().iter().map(check).collect()
}
