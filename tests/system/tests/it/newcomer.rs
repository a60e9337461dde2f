//! What a newcomer does with `mintmark dev`, and what strangers say of the credentials.

use std::path::Path;
use std::process::Command;

use mintmark_identity::Serial;
use serde_json::Value;
use system::{Dev, Program, binary, interop, run};

const TRUST_DOMAIN: &str = "dev.mintmark.test";

fn user() -> String {
    let uid = nix::unistd::getuid();
    let user = nix::unistd::User::from_uid(uid).ok().flatten();
    user.map_or_else(|| uid.to_string(), |user| user.name)
}

fn user_id() -> String {
    format!("spiffe://{TRUST_DOMAIN}/user/{}", user())
}

fn fetch_x509(dev: &Dev, dir: &Path) -> Value {
    let fetched = dev.mintmark(
        ["fetch", "x509", "--output", "json", "--write"]
            .map(std::ffi::OsStr::new)
            .into_iter()
            .chain([dir.as_os_str()]),
    );
    fetched.ok().json()["svids"][0].clone()
}

#[test]
fn dev_ends_with_an_svid_that_openssl_and_go_spiffe_accept_and_that_the_ledger_has() {
    let dir = tempfile::tempdir().unwrap();
    let dev = Dev::start(&dir, &[]);
    for told in [&user_id(), "fetch x509", "ledger show", "leaf "] {
        assert!(dev.story.contains(told), "it does not speak of {told}:\n{}", dev.story);
    }

    let svids = dir.path().join("svids");
    let svid = fetch_x509(&dev, &svids);
    assert_eq!(svid["spiffe_id"], user_id());
    let (cert, key, ca) = (
        svids.join("svid.0.pem"),
        svids.join("svid.0.key"),
        svids.join("bundle.0.pem"),
    );
    let verified = run(
        Command::new("openssl")
            .args(["verify", "-x509_strict", "-CAfile"])
            .arg(&ca)
            .arg("-untrusted")
            .arg(&cert)
            .arg(&cert),
        b"",
    );
    assert!(verified.ok().stdout.contains(": OK"));
    let expected = user_id();
    run(
        Command::new(interop())
            .args(["verify", "--expect", &expected, "--bundle"])
            .arg(&ca)
            .arg("--cert")
            .arg(&cert)
            .arg("--key")
            .arg(&key),
        b"",
    )
    .ok();
    for (command, args) in [("x509", &[][..]), ("jwt", &["--audience", "a,b"]), ("wit", &[])] {
        run(
            Command::new(interop())
                .arg(command)
                .args(args)
                .args(["--socket", &dev.socket]),
            b"",
        )
        .ok();
    }

    // The ledger has it, and tells who vouched.
    let printed = run(
        Command::new("openssl")
            .args(["x509", "-noout", "-serial", "-in"])
            .arg(&cert),
        b"",
    )
    .ok();
    let serial = printed.line().strip_prefix("serial=").unwrap().to_owned();
    assert_eq!(svid["serial"], serial);
    let leaf = dev
        .mintmark(["ledger", "show", &serial, "--output", "json"])
        .ok()
        .json();
    assert_eq!(
        (&leaf["serial"], &leaf["spiffe_id"], &leaf["kind"]),
        (&serial.into(), &user_id().into(), &"x509_svid".into())
    );
    assert_eq!(leaf["witnesses"], serde_json::json!(["node"]));
    assert_eq!(leaf["not_after"], svid["not_after"]);
    let data = dev.server_data();
    let data = data.to_str().unwrap();
    let (cert, ca) = (cert.to_str().unwrap(), ca.to_str().unwrap());
    dev.mintmark(["ledger", "verify", "--cert", cert, "--cert", ca]).ok();
    dev.mintmark(["ledger", "verify", "--data", data, "--cert", cert, "--cert", ca])
        .ok();
    assert_eq!(dev.interrupt().status, 0);
    let verified = run(
        Command::new(binary("mintmark")).args(["ledger", "verify", "--data", data, "--cert", cert, "--output", "json"]),
        b"",
    );
    let verified = verified.ok().json();
    assert_eq!(
        (&verified["sound"], &verified["logs"][0]["notes"]),
        (&true.into(), &serde_json::json!([])),
        "after a clean stop nothing is unfinished"
    );
}

#[test]
fn a_jwt_validates_through_the_oidc_documents_with_another_library_and_is_in_the_ledger() {
    let dir = tempfile::tempdir().unwrap();
    let dev = Dev::start(&dir, &["--trust-domain", "example.org"]);
    let fetched = dev.mintmark(["fetch", "jwt", "--audience", "relying-party"]).ok();
    let token = fetched.line().to_owned();
    let oidc = run(
        Command::new(interop())
            .args([
                "oidc",
                "--issuer",
                &dev.issuer,
                "--audience",
                "relying-party",
                "--token",
                "-",
                "--ca",
            ])
            .arg(dev.bundle()),
        token.as_bytes(),
    );
    let seen = oidc.ok().stdout;
    let seen: Value = seen
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .find(|line| line["event"] == "token")
        .unwrap();
    assert_eq!(seen["subject"], format!("spiffe://example.org/user/{}", user()));

    let jti = seen["jti"].as_str().unwrap();
    let leaf = dev.mintmark(["ledger", "show", jti, "--output", "json"]).ok().json();
    assert_eq!(
        (&leaf["jti"], &leaf["kind"], &leaf["audience"][0]),
        (&jti.into(), &"jwt_svid".into(), &"relying-party".into())
    );
    assert_eq!(leaf["serial"], Serial::from_jti(jti).unwrap().hex());

    let valid = dev
        .mintmark([
            "validate",
            "jwt",
            "--audience",
            "relying-party",
            "--svid",
            &token,
            "--output",
            "json",
        ])
        .ok()
        .json();
    assert_eq!(valid["claims"]["jti"], jti);
    dev.mintmark(["validate", "jwt", "--audience", "somebody-else", "--svid", &token])
        .refused(1, "audience");
}

#[test]
fn a_wit_and_its_key_are_fetched() {
    let dir = tempfile::tempdir().unwrap();
    let dev = Dev::start(&dir, &[]);
    let token = dev.mintmark(["fetch", "wit"]).ok();
    assert_eq!(token.line().split('.').count(), 3);
    let out = dir.path().join("wit");
    dev.mintmark(["fetch", "wit", "--write", out.to_str().unwrap()]).ok();
    let key: Value = serde_json::from_slice(&std::fs::read(out.join("wit.0.key")).unwrap()).unwrap();
    assert_eq!((&key["kty"], key["d"].is_string()), (&"EC".into(), true));
    let bundle = dev.mintmark(["fetch", "bundle", "wit", "--output", "json"]).ok().json();
    assert_eq!(bundle["bundles"][0]["wit"]["keys"][0]["use"], "wit-svid");
}

#[test]
fn a_second_start_goes_on_with_the_same_authorities_and_addresses() {
    let dir = tempfile::tempdir().unwrap();
    let entries = |dev: &Dev| {
        let listed = dev.mintmark(["entry", "list", "--output", "json"]).ok().json();
        listed["entries"].as_array().unwrap().clone()
    };
    let told = |dev: &Dev| {
        let mut all = Vec::new();
        for kind in ["x509", "jwt", "wit"] {
            let shown = dev
                .mintmark(["authority", kind, "show", "--output", "json"])
                .ok()
                .json();
            all.push(shown["active"]["authority_id"].as_str().unwrap().to_owned());
        }
        all.extend([dev.issuer.clone(), dev.socket.clone()]);
        all.push(dev.mintmark(["agent", "list", "--output", "json"]).ok().json()["agents"][0]["id"].to_string());
        let mut names: Vec<_> = entries(dev)
            .iter()
            .map(|entry| entry["spiffe_id"].to_string())
            .collect();
        names.sort();
        names.dedup();
        all.extend(names);
        all
    };
    let first = Dev::start(&dir, &["--trust-domain", "kept.test"]);
    let svid = fetch_x509(&first, &dir.path().join("svids"));
    let before = told(&first);
    assert_eq!(first.interrupt().status, 0);

    // The trust domain is that of the directory.
    let second = Dev::start(&dir, &[]);
    assert_eq!(told(&second), before);
    assert!(second.story.contains("kept from the last start"));
    let serial = svid["serial"].as_str().unwrap();
    second.mintmark(["ledger", "show", serial]).ok();
    let count = entries(&second).len();
    second.interrupt();
    let third = Dev::start(&dir, &[]);
    assert_eq!(entries(&third).len(), count, "entries pile up from start to start");
    let dir = third.dir.to_str().unwrap().to_owned();
    third.interrupt();
    let other = run(
        Command::new(binary("mintmark")).args(["dev", "--dir", &dir, "--trust-domain", "other.test"]),
        b"",
    );
    other.refused(1, "belongs to trust domain kept.test");
}

#[test]
fn a_second_one_in_the_same_directory_is_refused_with_the_first_ones_pid() {
    let dir = tempfile::tempdir().unwrap();
    let dev = Dev::start(&dir, &[]);
    let second = run(
        Command::new(binary("mintmark")).args(["dev", "--dir"]).arg(&dev.dir),
        b"",
    );
    second.refused(1, &format!("process {}", dev.program.pid()));
    // Two in two directories do not meet.
    let other = tempfile::tempdir().unwrap();
    let other = Dev::start(&other, &[]);
    assert_ne!(other.issuer, dev.issuer);
    dev.mintmark(["fetch", "x509"]).ok();
}

#[test]
fn sockets_with_a_long_path_go_to_a_short_one() {
    let dir = tempfile::tempdir().unwrap();
    let long = dir.path().join("long".repeat(30));
    let dev = Dev::start_in(&long, &[]);
    assert!(dev.socket_path().as_os_str().len() <= 100 && dev.admin_socket.as_os_str().len() <= 100);
    dev.mintmark(["fetch", "x509"]).ok();
    let sockets = dev.socket_path().parent().unwrap().to_owned();
    dev.interrupt();
    std::fs::remove_dir(sockets).expect("nothing is left in it");
}

#[test]
fn a_user_without_an_entry_gets_nothing_and_is_told_what_to_do() {
    if !nix::unistd::getuid().is_root() {
        // Only root can be somebody else; CI is root.
        assert!(std::env::var_os("CI").is_none(), "this test needs root");
        return;
    }
    let dir = tempfile::Builder::new()
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .tempdir()
        .unwrap();
    let dev = Dev::start(&dir, &[]);
    // The program may be where nobody else may look.
    let copy = dir.path().join("mintmark-copy");
    std::fs::copy(binary("mintmark"), &copy).unwrap();
    let as_nobody = |args: &[&str]| {
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
            .arg(&copy)
            .args(args);
        command
            .env("SPIFFE_ENDPOINT_SOCKET", &dev.socket)
            .env("MINTMARK_ADMIN_SOCKET", &dev.admin_socket);
        command
    };
    let refused = run(&mut as_nobody(&["fetch", "x509"]), b"").refused(1, "permission denied");
    assert!(
        refused.stderr.contains("unix:uid:65534") && refused.stderr.contains("entry create"),
        "{refused:?}"
    );
    run(&mut as_nobody(&["entry", "list"]), b"").refused(1, "use sudo");

    // An entry reaches a stream that is open, by push.
    let watching = Program::start(
        "fetch",
        &mut dev.command(["fetch", "x509", "--watch", "--output", "json"]),
    );
    watching.event("its identity", |svids| svids["svids"][0]["spiffe_id"] == user_id());
    let id = format!("spiffe://{TRUST_DOMAIN}/second");
    let selector = format!("unix:uid:{}", nix::unistd::getuid());
    let created = dev.mintmark([
        "entry",
        "create",
        "--output",
        "json",
        "--spiffe-id",
        &id,
        "--parent-id",
        "spiffe://dev.mintmark.test/node/dev",
        "--selector",
        &selector,
    ]);
    let created = created.ok().json();
    watching.event("the second identity", |svids| {
        svids["svids"]
            .as_array()
            .unwrap()
            .iter()
            .any(|svid| svid["spiffe_id"] == *id)
    });
    let nobody = format!("spiffe://{TRUST_DOMAIN}/nobody");
    dev.mintmark([
        "entry",
        "create",
        "--spiffe-id",
        &nobody,
        "--parent-id",
        "spiffe://dev.mintmark.test/node/dev",
        "--selector",
        "unix:uid:65534",
    ])
    .ok();
    let fetched = run(&mut as_nobody(&["fetch", "x509", "--output", "json"]), b"")
        .ok()
        .json();
    assert_eq!(fetched["svids"][0]["spiffe_id"], nobody);

    // And it is gone when the entry is.
    let entry_id = created["results"][0]["entry"]["id"].as_str().unwrap();
    dev.mintmark(["entry", "delete", "--entry-id", entry_id]).ok();
    watching.event("the first identity alone", |svids| {
        svids["svids"].as_array().unwrap().len() == 1
    });
}
