//! The reference server: small, correct, and breakable in one way at a time.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    fs,
    path::Path,
    pin::Pin,
    sync::{Arc, atomic::AtomicUsize},
    task::{Context, Poll},
};

use clap::Parser as _;
use conformance::{Options, Outcome, Report};
use mintmark_proto::{WORKLOAD_FILE_DESCRIPTOR_SET, workload::spiffe_workload_api_server::SpiffeWorkloadApiServer};
use prost::Message as _;
use prost_types::{FileDescriptorSet, MethodDescriptorProto};
use serde_json::json;
use tempfile::TempDir;
use tokio::net::{TcpListener, UnixListener};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{
    Request, Status, body::Body, server::NamedService, service::interceptor::InterceptedService, transport::Server,
};

use crate::{
    authority::World,
    breakage::Breakage,
    web,
    workload::{Service, check_header},
};

/// A running reference server.
pub(crate) struct Reference {
    directory: TempDir,
    origin: String,
    world: Arc<World>,
}

impl Reference {
    /// Starts it, whole or broken in one way.
    pub(crate) async fn start(broken: Option<Breakage>, jwt_ttl: i64) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut world = World::new(broken);
        world.jwt_ttl = jwt_ttl;
        let world = Arc::new(world);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (web, ca) = web::start(listener, world.clone()).await;
        fs::write(directory.path().join("ca.pem"), ca).unwrap();
        fs::write(directory.path().join("map.json"), bundle_map(&world)).unwrap();
        for (name, denies) in [("api.sock", false), ("denied.sock", true)] {
            let issuer = web.origin.clone();
            let service = Service {
                world: world.clone(),
                issuer,
                denies,
                streams: AtomicUsize::new(0),
            };
            serve(&directory.path().join(name), service);
        }
        Self {
            origin: web.origin.clone(),
            directory,
            world,
        }
    }

    /// The arguments that point at all of it.
    pub(crate) fn arguments(&self) -> Vec<String> {
        let path = |name: &str| self.directory.path().join(name).display().to_string();
        let bundle = match self.world.broken {
            Some(
                Breakage::EndpointRedirects | Breakage::EndpointRedirectsForGood | Breakage::EndpointRedirectsToHttp,
            ) => "/moved",
            _ => "/",
        };
        let mut arguments = vec![
            "conformance".to_owned(),
            format!("--socket=unix://{}", path("api.sock")),
            format!("--expect-no-identity-socket=unix://{}", path("denied.sock")),
            format!("--bundle-endpoint={}{bundle}", self.endpoint_origin()),
            format!("--bundle-map={}", path("map.json")),
            "--hold=50ms".to_owned(),
        ];
        match self.world.broken {
            Some(Breakage::EndpointSpiffe | Breakage::EndpointSpiffeOther) => {
                arguments.push(format!("--bundle-spiffe-id={}/endpoint", self.world.id()));
            }
            _ => {
                arguments.push(format!("--bundle-ca={}", path("ca.pem")));
                arguments.push(format!("--oidc={}", self.origin));
            }
        }
        // Long enough for a busy machine; only a server that is to be silent is given up on sooner.
        arguments.push(
            if self.world.is(Breakage::StreamSilent) {
                "--timeout=3s"
            } else {
                "--timeout=60s"
            }
            .to_owned(),
        );
        arguments
    }

    fn endpoint_origin(&self) -> String {
        if self.world.is(Breakage::EndpointUserInfo) {
            self.origin.replace("https://", "https://user@")
        } else {
            self.origin.clone()
        }
    }

    /// Runs the suite against it.
    pub(crate) async fn judge(&self, further: &[&str]) -> Report {
        let arguments = self
            .arguments()
            .into_iter()
            .chain(further.iter().map(|a| (*a).to_owned()));
        conformance::run(&Options::try_parse_from(arguments).unwrap())
            .await
            .unwrap()
    }
}

/// The IDs of the lines whose outcome is such.
pub(crate) fn ids(report: &Report, which: impl Fn(&Outcome) -> bool) -> Vec<&'static str> {
    report
        .lines
        .iter()
        .filter(|line| which(&line.outcome))
        .map(|line| line.check.id)
        .collect()
}

fn serve(path: &Path, service: Service) {
    let listener = UnixListener::bind(path).unwrap();
    let world = service.world.clone();
    let workload = Unknown {
        inner: SpiffeWorkloadApiServer::new(service),
        world: world.clone(),
    };
    let router = Server::builder().add_service(workload);
    let header = {
        let world = world.clone();
        move |request: Request<()>| -> Result<Request<()>, Status> {
            if !world.is(Breakage::ReflectionWithoutHeader) {
                check_header(&world, request.metadata())?;
            }
            Ok(request)
        }
    };
    let descriptors = descriptors(&world);
    let reflection =
        || tonic_reflection::server::Builder::configure().register_encoded_file_descriptor_set(&descriptors);
    let router = match world.broken {
        Some(Breakage::NoReflection) => router,
        Some(Breakage::ReflectionOld) => {
            router.add_service(InterceptedService::new(reflection().build_v1alpha().unwrap(), header))
        }
        _ => router.add_service(InterceptedService::new(reflection().build_v1().unwrap(), header)),
    };
    tokio::spawn(router.serve_with_incoming(UnixListenerStream::new(listener)));
}

/// The service, with what it says of methods that it does not have.
#[derive(Clone)]
struct Unknown {
    inner: SpiffeWorkloadApiServer<Service>,
    world: Arc<World>,
}

impl NamedService for Unknown {
    const NAME: &'static str = "SpiffeWorkloadAPI";
}

impl tower::Service<http::Request<Body>> for Unknown {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        if self.world.is(Breakage::UnknownMethodInternal) && request.uri().path().ends_with("NoSuchMethod") {
            return Box::pin(async { Ok(Status::internal("no such method").into_http()) });
        }
        self.inner.call(request)
    }
}

fn descriptors(world: &World) -> Vec<u8> {
    let mut set = FileDescriptorSet::decode(WORKLOAD_FILE_DESCRIPTOR_SET).unwrap();
    if world.is(Breakage::Extended) {
        for service in set.file.iter_mut().flat_map(|file| &mut file.service) {
            let mut method: MethodDescriptorProto = service.method[0].clone();
            method.name = Some("FetchSecrets".into());
            service.method.push(method);
        }
    }
    set.encode_to_vec()
}

fn bundle_map(world: &World) -> String {
    let bundle = json!({ "keys": [world.authority.jwk()], "spiffe_sequence": 1 });
    match world.broken {
        Some(Breakage::MapDuplicate) => {
            format!(r#"{{"trust_domains": {{"a.test": {bundle}, "b.test": {bundle}, "a.test": {bundle}}}}}"#)
        }
        Some(Breakage::MapById) => json!({ "trust_domains": BTreeMap::from([(world.id(), bundle)]) }).to_string(),
        Some(Breakage::MapEmpty) => json!({}).to_string(),
        _ => json!({ "trust_domains": { "reference.test": bundle } }).to_string(),
    }
}
