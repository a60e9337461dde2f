//! What was asked, and may this caller ask it?
//!
//! gRPC on two listeners: SPIRE's server API and the node link for nodes and administrators from afar, over TLS; the same and more for administrators on the
//! machine, on a Unix socket. In: requests. Out: typed questions to the rooms, and their answers; nothing but translation is done here.
//!
//! ```text
//! connection ─► gate (who? may they? how often? counted) ─► service ─► attest, registry, issuance, authority, ledger
//! ```
//!
//! Only `server` calls it.

mod admin;
mod agent;
mod bounded;
mod bundle;
mod caller;
mod convert;
mod debug;
mod entry;
mod gate;
mod health;
mod limits;
mod link;
mod localauthority;
mod logger;
pub mod methods;
mod observe;
mod status;
mod svid;
mod vouched;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::Request;
use mintmark_identity::{TrustDomain, Ttl};
use mintmark_proto::FILE_DESCRIPTOR_SET;
use mintmark_proto::admin::admin_server::AdminServer;
use mintmark_proto::attestor::attestor_server::AttestorServer;
use mintmark_proto::spire::server::{
    agent::agent_server::AgentServer, bundle::bundle_server::BundleServer, debug::debug_server::DebugServer,
    entry::entry_server::EntryServer, localauthority::local_authority_server::LocalAuthorityServer,
    logger::logger_server::LoggerServer, svid::svid_server::SvidServer,
};
use mintmark_runtime::clock::Clock;
use mintmark_runtime::health::Health;
use mintmark_runtime::metrics::{Gauge, Metrics};
use mintmark_runtime::task::BlockingPool;
use mintmark_runtime::telemetry::LogHandle;
use mintmark_runtime::tls::Credential;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::service::RoutesBuilder;
use tonic::transport::Server;
use tonic::transport::server::Router;
use tonic_health::pb::health_server::HealthServer;
use tower::Service;
use tower::layer::util::{Identity, Stack};

use self::limits::Limits;
use self::methods::Undeclared;
use self::observe::{Attestations, RpcMetrics};
use crate::attest::{Nodes, k8s_psat, x509pop};
use crate::authority::Authorities;
use crate::config::LimitsSection;
use crate::issuance::Issuer;
use crate::ledger::Ledger;
use crate::registry::{PodIdentities, Registry};
use crate::roll::Roll;
use crate::store::Store;

pub use self::caller::{Agent, Caller};
pub use self::gate::Gate;

/// A message that a stream needs must come within this time.
const RECEIVE_TIMEOUT: Duration = Duration::from_secs(30);
/// What anyone may send is no larger: an attestation with a chain of certificates.
const MAX_ANYONES_MESSAGE: usize = 512 << 10;
/// An idle connection is asked whether it is still there.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// One that does not answer that is closed.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// So old a connection is asked to go, so that nodes spread over the servers again and everybody is verified again.
const MAX_AGE: Duration = Duration::from_secs(3600);
/// The headers of a call are no larger.
const MAX_HEADERS: u32 = 16 << 10;

/// The rooms that the services stand before. A handle.
#[derive(Clone)]
pub struct Rooms {
    /// The trust domain.
    pub trust_domain: TrustDomain,
    /// The time.
    pub clock: Clock,
    /// When the server started, for how long it is up.
    pub started: Instant,
    /// When the server started, Unix seconds.
    pub started_at: i64,
    /// Where state lives.
    pub store: Store,
    /// The engine's name.
    pub store_engine: &'static str,
    /// The issuance log.
    pub ledger: Ledger,
    /// The entries.
    pub registry: Registry,
    /// The nodes.
    pub nodes: Nodes,
    /// What exists in the Kubernetes clusters.
    pub roll: Roll,
    /// Which identities their pods have.
    pub pods: PodIdentities,
    /// The keys that sign.
    pub authorities: Authorities,
    /// What issues.
    pub issuer: Issuer,
    /// Whose certificates make a node, if any do.
    pub x509pop: Option<Arc<x509pop::Authorities>>,
    /// The clusters whose nodes may join.
    pub psat: Arc<k8s_psat::Clusters>,
    /// The lifetime of nodes' own SVIDs.
    pub agent_ttl: Ttl,
    /// The audiences whose JWT-SVIDs are signed with RS256; `*` for all.
    pub rs256_audiences: Arc<[String]>,
    /// The server's own SVID.
    pub credential: Credential,
    /// How the server is.
    pub health: Health,
    /// The log, where this process is the server's own.
    pub log: Option<LogHandle>,
    /// Threads for reading the issuance log's files.
    pub reads: BlockingPool,
    /// How many nodes have a link.
    pub connected: Gauge,
    /// Cancelled when the server stops: open streams end.
    pub stop: CancellationToken,
}

/// The API of one server: the same gate and limits on both of its listeners.
pub struct Api {
    rooms: Rooms,
    gate: Gate,
    link: link::LinkService,
    attestations: Attestations,
    limits: LimitsSection,
}

/// A listener's services, ready to be served.
pub type Gated = Router<Stack<Gate, Identity>>;

impl Api {
    /// Puts the gate before the rooms. With `traced`, each call is a span.
    pub fn new(rooms: Rooms, limits: LimitsSection, traced: bool, metrics: &Metrics) -> Self {
        let callers = metrics.gauge("rate_limited_callers", "Callers whose rate is being counted");
        let buckets = Limits::new(rooms.clock.clone(), limits.clone(), callers);
        let calls = RpcMetrics::register(metrics);
        let gate = Gate::new(&rooms, buckets, calls, traced);
        let link = link::LinkService::new(rooms.clone(), metrics);
        Self {
            rooms,
            gate,
            link,
            attestations: Attestations::register(metrics),
            limits,
        }
    }

    /// The services for the API's listener.
    ///
    /// # Errors
    /// A method has no line in [`methods`].
    pub fn remote(&self) -> Result<Gated, Undeclared> {
        let mut services = self.services();
        let max = usize::try_from(self.limits.message_size.0).unwrap_or(usize::MAX);
        services.add(AttestorServer::new(self.link.clone()).max_decoding_message_size(max));
        self.serve(services)
    }

    /// The services for the admin socket.
    ///
    /// # Errors
    /// A method has no line in [`methods`].
    pub fn local(&self) -> Result<Gated, Undeclared> {
        let mut services = self.services();
        let launched = self.rooms.log.as_ref().map(LogHandle::filter).unwrap_or_default();
        services.add(DebugServer::new(debug::DebugService {
            rooms: self.rooms.clone(),
        }));
        services.add(LoggerServer::new(logger::LoggerService {
            rooms: self.rooms.clone(),
            launched,
        }));
        services.add(HealthServer::new(health::HealthService {
            rooms: self.rooms.clone(),
        }));
        services.reflect();
        self.serve(services)
    }

    /// What both listeners serve. A service that is added here is served, and its methods need lines in [`methods`].
    fn services(&self) -> Services {
        let rooms = || self.rooms.clone();
        let max = usize::try_from(self.limits.message_size.0).unwrap_or(usize::MAX);
        let mut services = Services::default();
        services.add(
            AgentServer::new(agent::AgentService {
                rooms: rooms(),
                attestations: self.attestations.clone(),
            })
            .max_decoding_message_size(MAX_ANYONES_MESSAGE),
        );
        services.add(
            BundleServer::new(bundle::BundleService { rooms: rooms() }).max_decoding_message_size(MAX_ANYONES_MESSAGE),
        );
        services.add(EntryServer::new(entry::EntryService { rooms: rooms() }).max_decoding_message_size(max));
        services.add(SvidServer::new(svid::SvidService { rooms: rooms() }).max_decoding_message_size(max));
        services.add(
            LocalAuthorityServer::new(localauthority::LocalAuthorityService { rooms: rooms() })
                .max_decoding_message_size(MAX_ANYONES_MESSAGE),
        );
        services.add(
            AdminServer::new(admin::AdminService { rooms: rooms() }).max_decoding_message_size(MAX_ANYONES_MESSAGE),
        );
        services
    }

    fn serve(&self, services: Services) -> Result<Gated, Undeclared> {
        methods::check(&services.names, &methods::table())?;
        let server = Server::builder()
            .http2_keepalive_interval(Some(KEEP_ALIVE))
            .http2_keepalive_timeout(Some(KEEP_ALIVE_TIMEOUT))
            .http2_max_header_list_size(MAX_HEADERS)
            .max_concurrent_streams(self.limits.streams)
            .max_connection_age(MAX_AGE)
            .tcp_nodelay(true);
        Ok(server.layer(self.gate.clone()).add_routes(services.routes.routes()))
    }
}

/// Services, and their names for the check of their methods.
#[derive(Default)]
struct Services {
    routes: RoutesBuilder,
    names: Vec<&'static str>,
}

impl Services {
    fn add<S>(&mut self, service: S)
    where
        S: Service<Request<Body>, Error = Infallible> + NamedService + Clone + Send + Sync + 'static,
        S::Response: axum::response::IntoResponse,
        S::Future: Send + 'static,
    {
        self.names.push(S::NAME);
        self.routes.add_service(service);
    }

    /// Lets clients ask which services there are.
    fn reflect(&mut self) {
        let builder = || {
            let names = self.names.iter().copied();
            let builder = tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET);
            names.fold(builder, |builder, name| builder.with_service_name(name))
        };
        // The descriptors are compiled into this program; that they decode is a test of `methods`.
        if let (Ok(v1), Ok(v1alpha)) = (builder().build_v1(), builder().build_v1alpha()) {
            self.add(v1);
            self.add(v1alpha);
        }
    }
}
