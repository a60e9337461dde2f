//! `docs/reference/metrics.md` is what the programs serve.

use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;

use mintmark_proto::csi::NodeUnpublishVolumeRequest;
use mintmark_proto::csi::node_client::NodeClient;
use mintmark_runtime::net::UnixConnector;
use tonic::transport::Endpoint;

use system::{Program, binary, eventually, run};

const INTRODUCTION: &str = "# Metrics

Generated from what the programs serve; `UPDATE_DOCS=1 cargo test --release -p system --test it reference` writes it anew. What asks for action is in
[operate](../operate/README.md).

In Prometheus' text format, at `/metrics` of `listen.metrics`: `127.0.0.1:9090` (server), `127.0.0.1:9092` (attestor). A histogram `x` is `x_bucket`, `x_sum` and `x_count`. No label holds a SPIFFE ID, a pod or a serial.
";

#[test]
fn every_metric_is_in_the_reference_as_it_is_served() {
    let dir = tempfile::tempdir().unwrap();
    // Not below the directory of a socket that others may mount.
    let volumes = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let start = |program: &str, config: String| {
        let file = path(&format!("{program}.toml"));
        std::fs::write(&file, config).unwrap();
        Program::start(
            program,
            Command::new(binary(program)).args(["run", "--config"]).arg(&file),
        )
    };
    let mintmark = |args: &[&str]| {
        let mut command = Command::new(binary("mintmark"));
        command
            .args(args)
            .env("MINTMARK_ADMIN_SOCKET", path("admin.sock"))
            .env("SPIFFE_ENDPOINT_SOCKET", path("workload.sock"));
        run(&mut command, b"")
    };
    let any = "127.0.0.1:0";
    // A cluster whose API server does not answer.
    let kubeconfig = "{apiVersion: v1, kind: Config, current-context: c, clusters: [{name: c, cluster: {server: 'https://127.0.0.1:1'}}], \
                      users: [{name: c, user: {}}], contexts: [{name: c, context: {cluster: c, user: c}}]}";
    std::fs::write(path("kubeconfig"), kubeconfig).unwrap();
    let server = start(
        "mintmark-server",
        format!(
            "trust_domain = \"example.org\"\ndata_dir = {:?}\n\
             [listen]\nadmin = {:?}\napi = {any:?}\nhttps = {any:?}\nmetrics = {any:?}\nhealth = {any:?}\n\
             [kubernetes.clusters.prod]\nkubeconfig = {:?}\nservice_accounts = [\"mintmark:mintmark-attestor\"]\n",
            path("server"),
            path("admin.sock"),
            path("kubeconfig")
        ),
    );
    let address = |listener: &str| {
        let mut address = String::new();
        eventually("the server says where it listens", || {
            let said = server.said();
            let told = said
                .split_once(&format!(" {listener}=\""))
                .and_then(|(_, rest)| rest.split_once('"'));
            address = told.map_or_else(String::new, |(address, _)| address.to_owned());
            !address.is_empty()
        });
        address
    };
    let (api, of_server) = (address("api"), address("metrics"));
    std::fs::write(path("bundle.pem"), mintmark(&["bundle", "show"]).ok().stdout).unwrap();
    let token = mintmark(&["token", "create"]).ok().line().to_owned();
    let of_attestor = TcpListener::bind(any).unwrap().local_addr().unwrap().to_string();
    let attestor = start(
        "mintmark-attestor",
        format!(
            "trust_domain = \"example.org\"\ndata_dir = {:?}\nserver = {api:?}\ntrust_bundle = {:?}\n\
             [listen]\nworkload = {:?}\nmetrics = {of_attestor:?}\nhealth = {any:?}\n[join]\ntoken = {token:?}\n\
             [csi]\nenabled = true\nnode_name = \"node\"\nkubelet_dir = {:?}\ndir = {:?}\n",
            path("attestor"),
            path("bundle.pem"),
            path("workload.sock"),
            path("kubelet"),
            volumes.path()
        ),
    );
    eventually("the node joins", || attestor.said().contains("in step with the server"));
    // A metric with labels is served once something was counted.
    mintmark(&["fetch", "x509"]).refused(1, "no identity issued");
    unpublish(&path("kubelet/plugins/csi.mintmark.dev/csi.sock"));
    for listener in ["https", "health"] {
        drop(TcpStream::connect(address(listener)).unwrap());
    }
    let mut served = Vec::new();
    // Connections are counted when they are taken up.
    eventually("all listeners have counted", || {
        served = families(&of_server);
        ["https", "health", "metrics"].iter().all(|listener| {
            let name = format!("mintmark_server_{listener}_connections");
            served.iter().any(|[known, ..]| *known == name)
        })
    });
    let mut of_node = Vec::new();
    eventually("the node has counted the call", || {
        of_node = families(&of_attestor);
        of_node
            .iter()
            .any(|[known, ..]| known == "mintmark_attestor_workload_calls")
    });

    let expected = format!(
        "{INTRODUCTION}\n## mintmark-server\n\n{}\n## mintmark-attestor\n\n{}",
        table(&served),
        table(&of_node)
    );
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference/metrics.md");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, &expected).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == expected,
        "docs/reference/metrics.md is not what is served: UPDATE_DOCS=1 cargo test --release -p system --test it reference writes it anew"
    );
}

/// Asks the driver, as the kubelet would, to take away a volume that there is not: the call is counted.
fn unpublish(socket: &Path) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let asked = runtime.block_on(async {
        let connector = UnixConnector::new(socket);
        let channel = Endpoint::from_static("http://localhost")
            .connect_with_connector(connector)
            .await
            .unwrap();
        NodeClient::new(channel)
            .node_unpublish_volume(NodeUnpublishVolumeRequest::default())
            .await
    });
    assert_eq!(asked.unwrap_err().code(), tonic::Code::InvalidArgument);
}

/// Name, type and description of what is served at an address.
fn families(address: &str) -> Vec<[String; 3]> {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(
        stream,
        "GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let mut found: Vec<[String; 3]> = Vec::new();
    for line in answer.lines() {
        if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|line| line.split_once(' ')) {
            found.push([name.to_owned(), String::new(), help.to_owned()]);
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|line| line.split_once(' '))
            && let Some(last) = found.last_mut().filter(|last| last[0] == name)
        {
            kind.clone_into(&mut last[1]);
        }
    }
    assert!(found.len() > 10, "{answer}");
    found.sort();
    found
}

fn table(families: &[[String; 3]]) -> String {
    let mut text = "| metric | type | what |\n|---|---|---|\n".to_owned();
    for [name, kind, help] in families {
        let suffix = if kind == "counter" { "_total" } else { "" };
        let _ = writeln!(text, "| `{name}{suffix}` | {kind} | {} |", help.trim_end_matches('.'));
    }
    text
}
