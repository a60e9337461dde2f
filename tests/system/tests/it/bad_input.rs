//! Nonsense, at every door that a stranger can reach: each gets a reason that names it, and nobody else is harmed.

use std::process::Command;

use mintmark_proto::Bytes;
use mintmark_proto::spire::server::svid::svid_client::SvidClient;
use mintmark_proto::spire::server::svid::{MintJwtsvidRequest, MintX509svidRequest};
use mintmark_proto::spire::types::Spiffeid;
use mintmark_proto::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use mintmark_proto::workload::{JwtsvidRequest, ValidateJwtsvidRequest, X509svidRequest};
use system::{Dev, binary, channel, run, workload_request};
use tonic::{Code, Status};

const NODE: &str = "spiffe://dev.mintmark.test/node/dev";

#[test]
fn the_command_line_names_what_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let dev = Dev::start(&dir, &[]);
    let long_id = format!("spiffe://dev.mintmark.test/{}", "a".repeat(2049 - 27));
    let id = "spiffe://dev.mintmark.test/a";
    let admin_socket = dev.admin_socket.to_str().unwrap();
    let entry = |more: &[&'static str]| [&["entry", "create", "--parent-id", NODE], more].concat();
    let table: &[(&[&str], i32, &str)] = &[
        // Wrong usage: nobody is asked.
        (&[], 2, "Usage"),
        (&["frobnicate"], 2, "frobnicate"),
        (&["entry", "create"], 2, "--spiffe-id"),
        (
            &entry(&["--spiffe-id", "http://a/b", "--selector", "unix:uid:0"]),
            2,
            "http://a/b",
        ),
        (
            &entry(&["--spiffe-id", "spiffe://de v/b", "--selector", "unix:uid:0"]),
            2,
            "spiffe://de v/b",
        ),
        (
            &entry(&["--spiffe-id", "spiffe://a/b/../c", "--selector", "unix:uid:0"]),
            2,
            "spiffe://a/b/../c",
        ),
        (
            &[
                "entry",
                "create",
                "--parent-id",
                NODE,
                "--spiffe-id",
                &long_id,
                "--selector",
                "unix:uid:0",
            ],
            2,
            "2048",
        ),
        (&entry(&["--spiffe-id", id, "--selector", "unix"]), 2, "unix"),
        (
            &entry(&["--spiffe-id", id, "--selector", "unix:uid:0", "--x509-ttl", "soon"]),
            2,
            "soon",
        ),
        (
            &entry(&[
                "--spiffe-id",
                id,
                "--selector",
                "unix:uid:0",
                "--expires-at",
                "tomorrow",
            ]),
            2,
            "tomorrow",
        ),
        (&["entry", "update", "--entry-id", "a"], 2, "nothing to change"),
        (&["fetch", "jwt"], 2, "--audience"),
        (&["ledger", "show", "4x"], 2, "4x"),
        (&["--socket", "http://a", "fetch", "x509"], 2, "http://a"),
        (&["--server", "nowhere", "entry", "list"], 2, "nowhere"),
        (&["dev", "--trust-domain", "Not A Name"], 2, "Not A Name"),
        (&["dev", "--log", "mintmark=nonsense"], 2, "mintmark=nonsense"),
        (&["completions", "tcsh"], 2, "tcsh"),
        (&["--timeout", "0s", "version"], 2, "0s"),
        // Refused, with the reason.
        (
            &entry(&["--spiffe-id", "spiffe://elsewhere.test/b", "--selector", "unix:uid:0"]),
            1,
            "elsewhere.test",
        ),
        (
            &entry(&[
                "--spiffe-id",
                "spiffe://dev.mintmark.test/spire/server",
                "--selector",
                "unix:uid:0",
            ]),
            1,
            "/spire/",
        ),
        (
            &entry(&["--spiffe-id", id, "--selector", "unix:uid:0", "--dns", "bad..example"]),
            1,
            "bad..example",
        ),
        (&["entry", "show", "--entry-id", "no-such-entry"], 1, "not found"),
        (&["entry", "delete", "--entry-id", "no-such-entry"], 1, "not found"),
        (
            &["entry", "update", "--entry-id", "no-such-entry", "--hint", "a"],
            1,
            "not found",
        ),
        (&["entry", "create", "--data", "/no/such/file"], 1, "/no/such/file"),
        (
            &[
                "agent",
                "show",
                "--spiffe-id",
                "spiffe://dev.mintmark.test/spire/agent/join_token/none",
            ],
            1,
            "not found",
        ),
        (
            &["agent", "ban", "--spiffe-id", "spiffe://dev.mintmark.test/not/a/node"],
            1,
            "/not/a/node",
        ),
        (&["token", "create", "--token", "short"], 1, "16 to 255"),
        (
            &["authority", "x509", "activate", "--authority-id", "none"],
            1,
            "activate an authority",
        ),
        (&["bundle", "delete", "--id", "unknown.test"], 1, "not found"),
        (&["authority", "x509", "revoke"], 2, "--authority-id"),
        (&["federation", "list"], 1, "does not have it"),
        // The two sockets are easily swapped.
        (
            &["--admin-socket", &dev.socket, "entry", "list"],
            1,
            "the other program's socket",
        ),
        (
            &["--socket", admin_socket, "fetch", "x509"],
            1,
            "the other program's socket",
        ),
        (
            &["bundle", "set", "--id", "other.test", "--path", "/dev/null"],
            1,
            "CERTIFICATE",
        ),
        (
            &["mint", "x509", "--spiffe-id", "spiffe://elsewhere.test/a"],
            1,
            "elsewhere.test",
        ),
        (
            &[
                "mint",
                "jwt",
                "--spiffe-id",
                "spiffe://dev.mintmark.test/spire/server",
                "--audience",
                "a",
            ],
            1,
            "mint a JWT-SVID",
        ),
        (
            &["validate", "jwt", "--audience", "a", "--svid", "not.a.token"],
            1,
            "accept the JWT-SVID",
        ),
        (
            &[
                "fetch",
                "jwt",
                "--audience",
                "a",
                "--spiffe-id",
                "spiffe://dev.mintmark.test/not/mine",
            ],
            1,
            "permission denied",
        ),
        (&["ledger", "show", "123456"], 1, "123456"),
        (
            &["--socket", "/no/such/socket", "fetch", "x509"],
            1,
            "is the attestor running",
        ),
        (
            &["--admin-socket", "/no/such/socket", "entry", "list"],
            1,
            "is the server running",
        ),
        (
            &["--admin-socket", "/etc/hostname", "entry", "list"],
            1,
            "/etc/hostname",
        ),
        (
            &["--socket", "tcp://127.0.0.1:1", "fetch", "x509"],
            1,
            "tcp://127.0.0.1:1",
        ),
    ];
    let wrong: Vec<_> = table
        .iter()
        .map(|(args, status, why)| (dev.mintmark(*args), *status, *why))
        .filter(|(done, status, why)| done.status != *status || !done.stderr.contains(why))
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    let listed = dev.mintmark(["entry", "list", "--output", "json"]).ok().json();
    assert_eq!(
        listed["entries"].as_array().unwrap().len(),
        2,
        "none of that left an entry"
    );
    dev.mintmark(["fetch", "x509"]).ok();
}

#[test]
fn a_file_of_entries_is_refused_whole_or_answered_one_by_one() {
    let dir = tempfile::tempdir().unwrap();
    let dev = Dev::start(&dir, &[]);
    let create = |json: &str| run(&mut dev.command(["entry", "create", "--data", "-"]), json.as_bytes());
    create("").refused(1, "standard input");
    create("{\"entries\": [{}]}").refused(1, "spiffe_id");
    let entry = |id: &str, selector: &str| {
        format!(
            r#"{{"spiffe_id": "{id}", "parent_id": "{NODE}", "selectors": [{{"type": "unix", "value": "{selector}"}}]}}"#
        )
    };
    let many_selectors: Vec<_> = (0..100_000)
        .map(|n| format!(r#"{{"type": "unix", "value": "uid:{n}"}}"#))
        .collect();
    let huge = format!(
        r#"{{"spiffe_id": "spiffe://dev.mintmark.test/huge", "parent_id": "{NODE}", "selectors": [{}]}}"#,
        many_selectors.join(",")
    );
    create(&format!(r#"{{"entries": [{huge}]}}"#)).refused(1, "selectors");
    let good = entry("spiffe://dev.mintmark.test/good", "uid:4711");
    let bad = entry("spiffe://elsewhere.test/bad", "uid:4712");
    let mixed = create(&format!(r#"{{"entries": [{good}, {bad}]}}"#)).refused(1, "spiffe://elsewhere.test/bad");
    assert!(mixed.stdout.contains("spiffe://dev.mintmark.test/good"), "{mixed:?}");
}

#[test]
fn strangers_at_the_sockets_get_a_status_and_harm_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let dev = Dev::start(&dir, &[]);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut workload = SpiffeWorkloadApiClient::new(channel(&dev.socket_path()).await);
        let without_header = workload.fetch_x509svid(X509svidRequest {}).await.unwrap_err();
        is(&without_header, Code::InvalidArgument, "header");
        let nobody = JwtsvidRequest::default();
        is(&workload.fetch_jwtsvid(workload_request(nobody)).await.unwrap_err(), Code::InvalidArgument, "audience");
        let forged = [
            ("", "a"),
            ("a.b.c", "a"),
            // `alg: none`, with everything else right.
            ("eyJhbGciOiJub25lIn0.eyJzdWIiOiJzcGlmZmU6Ly9kZXYubWludG1hcmsudGVzdC9hIiwiYXVkIjpbImEiXSwiZXhwIjo5OTk5OTk5OTk5fQ.", "a"),
            // No kid.
            ("eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJzcGlmZmU6Ly9kZXYubWludG1hcmsudGVzdC9hIiwiYXVkIjpbImEiXSwiZXhwIjo5OTk5OTk5OTk5fQ.AAAA", "a"),
        ];
        for (svid, audience) in forged {
            let request = ValidateJwtsvidRequest {
                audience: audience.into(),
                svid: svid.into(),
            };
            let status = workload.validate_jwtsvid(workload_request(request)).await.unwrap_err();
            is(&status, Code::InvalidArgument, "");
        }
        let oversized = ValidateJwtsvidRequest {
            audience: "a".into(),
            svid: "x".repeat(10 << 20),
        };
        let status = workload.validate_jwtsvid(workload_request(oversized)).await.unwrap_err();
        assert!(matches!(status.code(), Code::OutOfRange | Code::ResourceExhausted | Code::InvalidArgument), "{status}");

        let mut svids = SvidClient::new(channel(&dev.admin_socket).await);
        for (csr, why) in [(Bytes::new(), ""), (Bytes::from_static(b"no CSR"), ""), (csr_of("spiffe://elsewhere.test/a"), "elsewhere.test"), (csr_of("https://a"), "")] {
            let status = svids.mint_x509svid(MintX509svidRequest { csr, ttl: 0 }).await.unwrap_err();
            is(&status, Code::InvalidArgument, why);
        }
        let request = MintX509svidRequest {
            csr: vec![0x30; 10 << 20].into(),
            ttl: 0,
        };
        let status = svids.mint_x509svid(request).await.unwrap_err();
        assert!(matches!(status.code(), Code::OutOfRange | Code::ResourceExhausted | Code::InvalidArgument), "{status}");
        let request = MintX509svidRequest {
            csr: csr_of("spiffe://dev.mintmark.test/a"),
            ttl: -1,
        };
        is(&svids.mint_x509svid(request).await.unwrap_err(), Code::InvalidArgument, "TTL");
        for (id, audience) in [(None, vec!["a".to_owned()]), (Some("/a/../b"), vec!["a".to_owned()]), (Some("/a"), vec![])] {
            let id = id.map(|path| Spiffeid {
                trust_domain: "dev.mintmark.test".into(),
                path: path.into(),
            });
            let request = MintJwtsvidRequest { id, audience, ttl: 0 };
            is(&svids.mint_jwtsvid(request).await.unwrap_err(), Code::InvalidArgument, "");
        }

        // Bytes that are no HTTP/2, and connections that say nothing.
        use std::io::Write as _;
        let mut silent = Vec::new();
        for _ in 0..100 {
            silent.push(std::os::unix::net::UnixStream::connect(dev.socket_path()).unwrap());
            let mut noise = std::os::unix::net::UnixStream::connect(&dev.admin_socket).unwrap();
            noise.write_all(&[0xff; 4096]).unwrap();
        }
        workload.fetch_x509svid(workload_request(X509svidRequest {})).await.unwrap();
        drop(silent);
    });
    dev.mintmark(["fetch", "x509"]).ok();
    assert!(!dev.program.said().contains("panicked"), "{}", dev.program.said());
}

#[test]
fn a_join_token_is_good_once() {
    let dir = tempfile::tempdir().unwrap();
    let dev = Dev::start(&dir, &[]);
    let state: serde_json::Value = serde_json::from_slice(&std::fs::read(dev.dir.join("dev.json")).unwrap()).unwrap();
    let token = dev.mintmark(["token", "create", "--output", "json"]).ok().json()["value"]
        .as_str()
        .unwrap()
        .to_owned();
    let attestor = |name: &str| {
        let data = dir.path().join(name);
        let config = dir.path().join(format!("{name}.toml"));
        let socket = dir.path().join(format!("{name}.sock"));
        let text = format!(
            "trust_domain = \"dev.mintmark.test\"\ndata_dir = {data:?}\nserver = \"127.0.0.1:{}\"\ntrust_bundle = {:?}\n\
             [listen]\nworkload = {socket:?}\nmetrics = \"\"\nhealth = \"\"\n[join]\ntoken = \"{token}\"\n[log]\nfilter = \"info\"\n",
            state["ports"]["api"],
            dev.bundle()
        );
        std::fs::write(&config, text).unwrap();
        let mut command = Command::new(binary("mintmark-attestor"));
        command.args(["run", "--config"]).arg(config);
        system::Program::start(name, &mut command)
    };
    let _first = attestor("first");
    let joined = || {
        dev.mintmark(["agent", "list", "--output", "json"]).ok().json()["agents"]
            .as_array()
            .unwrap()
            .len()
    };
    system::eventually("the first node joins", || joined() == 2);
    let second = attestor("second");
    system::eventually("the second node is refused", || second.said().contains("join token"));
    assert_eq!(joined(), 2);
}

fn is(status: &Status, code: Code, why: &str) {
    assert!(
        status.code() == code && status.message().contains(why),
        "expected {code:?} with {why:?}: {status:?}"
    );
}

fn csr_of(id: &str) -> Bytes {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.subject_alt_names = vec![rcgen::SanType::URI(id.try_into().unwrap())];
    params.serialize_request(&key).unwrap().der().to_vec().into()
}
