//! With the feature `otlp`: the program sends each call as a span to a collector, which is here a small one that speaks OTLP/gRPC (opentelemetry-proto, `TraceService`).

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::Path;
use std::pin::Pin;
use std::process::{Child, Command};
use std::time::Duration;

use axum::Router;
use mintmark_proto::spire::server::entry::CountEntriesRequest;
use mintmark_proto::spire::server::entry::entry_client::EntryClient;
use mintmark_runtime::clock::Clock;
use mintmark_runtime::http::{Serving, serve_http};
use mintmark_runtime::net::{UnixConnector, tcp_listener};
use prost::Message;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::server::{Grpc, UnaryService};
use tonic::transport::{Channel, Endpoint};
use tonic_prost::ProstCodec;

/// Nothing here takes this long, unless it never ends.
const DEADLINE: Duration = Duration::from_secs(90);
const EXPORT: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";

// What is needed of ExportTraceServiceRequest, by its field numbers.
#[derive(Clone, PartialEq, Message)]
struct Export {
    #[prost(message, repeated, tag = "1")]
    resources: Vec<ResourceSpans>,
}

#[derive(Clone, PartialEq, Message)]
struct ResourceSpans {
    #[prost(message, repeated, tag = "2")]
    scopes: Vec<ScopeSpans>,
}

#[derive(Clone, PartialEq, Message)]
struct ScopeSpans {
    #[prost(message, repeated, tag = "2")]
    spans: Vec<Span>,
}

#[derive(Clone, PartialEq, Message)]
struct Span {
    #[prost(string, tag = "5")]
    name: String,
    #[prost(fixed64, tag = "7")]
    start: u64,
    #[prost(fixed64, tag = "8")]
    end: u64,
    #[prost(message, repeated, tag = "9")]
    attributes: Vec<Attribute>,
}

#[derive(Clone, PartialEq, Message)]
struct Attribute {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(message, optional, tag = "2")]
    value: Option<AnyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct AnyValue {
    #[prost(string, optional, tag = "1")]
    text: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
struct Taken {}

impl Span {
    fn attributes(&self) -> BTreeMap<&str, &str> {
        self.attributes
            .iter()
            .filter_map(|one| Some((one.key.as_str(), one.value.as_ref()?.text.as_deref()?)))
            .collect()
    }
}

struct Collector(mpsc::UnboundedSender<Span>);

impl UnaryService<Export> for Collector {
    type Response = Taken;
    type Future = Pin<Box<dyn Future<Output = Result<tonic::Response<Taken>, tonic::Status>> + Send>>;

    fn call(&mut self, request: tonic::Request<Export>) -> Self::Future {
        let scopes = request.into_inner().resources.into_iter().flat_map(|one| one.scopes);
        for span in scopes.flat_map(|one| one.spans) {
            let _ = self.0.send(span);
        }
        Box::pin(std::future::ready(Ok(tonic::Response::new(Taken {}))))
    }
}

/// A collector, and the spans that it is sent.
fn collector(shutdown: CancellationToken) -> (String, mpsc::UnboundedReceiver<Span>) {
    let (tell, spans) = mpsc::unbounded_channel();
    let export = tower::service_fn(move |request: axum::extract::Request| {
        let collector = Collector(tell.clone());
        async move {
            let mut grpc = Grpc::new(ProstCodec::<Taken, Export>::default());
            Ok::<_, Infallible>(grpc.unary(collector, request).await)
        }
    });
    let listener = tcp_listener(([127, 0, 0, 1], 0).into()).unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let router = Router::new().route_service(EXPORT, export);
    #[expect(clippy::disallowed_methods, reason = "a test serves beside itself")]
    tokio::spawn(serve_http(listener, router, Serving::new(Clock::system(), shutdown)));
    (endpoint, spans)
}

/// The program, which ends with this.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(dir: &Path, endpoint: &str) -> Server {
    let config = format!(
        "trust_domain = \"example.org\"\ndata_dir = \"{dir}/data\"\n[listen]\napi = \"\"\nhttps = \"\"\nmetrics = \"\"\nhealth = \"\"\n\
         admin = \"{dir}/api.sock\"\n[log]\notlp = \"{endpoint}\"\n",
        dir = dir.display()
    );
    let file = dir.join("server.toml");
    mintmark_runtime::fs::write_new(&file, config.as_bytes(), 0o600).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_mintmark-server"));
    command.args(["run", "--config"]).arg(file);
    Server(command.spawn().unwrap())
}

async fn connect(socket: &Path) -> Channel {
    let clock = Clock::system();
    loop {
        let endpoint = Endpoint::from_static("http://server");
        match endpoint.connect_with_connector(UnixConnector::new(socket)).await {
            Ok(channel) => return channel,
            // Nobody announces that it listens.
            Err(_) => clock.sleep(Duration::from_millis(20)).await,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_is_a_span_at_the_collector() {
    let dir = tempfile::tempdir().unwrap();
    let shutdown = CancellationToken::new();
    let (endpoint, mut spans) = collector(shutdown.clone());
    let mut server = start(dir.path(), &endpoint);
    let clock = Clock::system();
    let channel = clock
        .timeout(DEADLINE, connect(&dir.path().join("api.sock")))
        .await
        .unwrap();
    EntryClient::new(channel)
        .count_entries(CountEntriesRequest::default())
        .await
        .unwrap();
    // What waits is sent when the program ends, if it has not been before.
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(i32::try_from(server.0.id()).unwrap()),
        nix::sys::signal::Signal::SIGTERM,
    )
    .unwrap();
    let call = async {
        loop {
            let span = spans.recv().await.unwrap();
            if span
                .attributes()
                .get("method")
                .is_some_and(|method| method.ends_with("/CountEntries"))
            {
                return span;
            }
        }
    };
    let call = clock.timeout(DEADLINE, call).await.expect("the span of the call");
    assert_eq!(call.name, "call");
    assert!(call.attributes()["caller"].contains("uid"), "{:?}", call.attributes());
    assert!(call.start > 0 && call.end >= call.start);
    assert!(server.0.wait().unwrap().success());
    shutdown.cancel();
}
