//! `docs/reference/metrics.md` is what the programs serve.

use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;

use system::{Dev, Program, binary, eventually};

const INTRODUCTION: &str = "# Metrics

Generated from what the programs serve; `UPDATE_DOCS=1 cargo test --release -p system --test it reference` writes it anew. What asks for action is in
[operate](../operate/README.md).

In Prometheus' text format, at `/metrics` of `listen.metrics`: `127.0.0.1:9090` (server), `127.0.0.1:9092` (attestor). A histogram `x` is `x_bucket`, `x_sum` and `x_count`. No label holds a SPIFFE ID, a pod or a serial.
";

#[test]
fn every_metric_is_in_the_reference_as_it_is_served() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("server.toml");
    let text = format!(
        "trust_domain = \"example.org\"\ndata_dir = {:?}\n[listen]\nadmin = {:?}\napi = \"127.0.0.1:0\"\nhttps = \"127.0.0.1:0\"\n\
         metrics = \"127.0.0.1:0\"\nhealth = \"127.0.0.1:0\"\n",
        dir.path().join("server"),
        dir.path().join("admin.sock")
    );
    std::fs::write(&config, text).unwrap();
    let server = Program::start(
        "mintmark-server",
        Command::new(binary("mintmark-server"))
            .args(["run", "--config"])
            .arg(&config),
    );
    let mut address = None;
    eventually("the server says where its metrics are", || {
        let said = server.said();
        let found = said.split_once("metrics=\"").and_then(|(_, rest)| rest.split_once('"'));
        address = found.map(|(address, _)| address.to_owned());
        address.is_some()
    });
    let of_server = families(&address.unwrap());
    let dev = Dev::start(&dir, &[]);
    let state: serde_json::Value = serde_json::from_slice(&std::fs::read(dev.dir.join("dev.json")).unwrap()).unwrap();
    let of_attestor = families(&format!("127.0.0.1:{}", state["ports"]["attestor_metrics"]));

    let expected = format!(
        "{INTRODUCTION}\n## mintmark-server\n\n{}\n## mintmark-attestor\n\n{}",
        table(&of_server),
        table(&of_attestor)
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
