//! What an operator does: entries, nodes, tokens, authorities, from the machine and from afar, by text and by JSON.

use std::process::Command;

use serde_json::{Value, json};
use system::{Dev, binary, eventually, run};

const NODE: &str = "spiffe://dev.mintmark.test/node/dev";

#[test]
fn entries_are_created_changed_listed_and_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let dev = Dev::start(&dir, &[]);
    let web = "spiffe://dev.mintmark.test/web";
    let created = dev
        .mintmark([
            "entry",
            "create",
            "--spiffe-id",
            web,
            "--parent-id",
            NODE,
            "--selector",
            "unix:uid:33",
            "--selector",
            "unix:group:www-data",
            "--x509-ttl",
            "15m",
            "--jwt-ttl",
            "60",
            "--dns",
            "web.dev.mintmark.test",
            "--hint",
            "front",
            "--expires-at",
            "2099-01-01T00:00:00Z",
            "--output",
            "json",
        ])
        .ok()
        .json();
    let result = &created["results"][0];
    assert_eq!(result["status"], json!({"code": 0, "message": "OK"}));
    let entry = &result["entry"];
    assert_eq!(
        entry["spiffe_id"],
        json!({"trust_domain": "dev.mintmark.test", "path": "/web"})
    );
    assert_eq!(
        (&entry["x509_svid_ttl"], &entry["jwt_svid_ttl"], &entry["expires_at"]),
        (&900.into(), &60.into(), &"4070908800".into())
    );
    let id = entry["id"].as_str().unwrap();

    // The same again is refused, and says which one there is.
    dev.mintmark([
        "entry",
        "create",
        "--spiffe-id",
        web,
        "--parent-id",
        NODE,
        "--selector",
        "unix:group:www-data",
        "--selector",
        "unix:uid:33",
    ])
    .refused(1, "already exists");

    dev.mintmark(["entry", "update", "--entry-id", id, "--x509-ttl", "20m", "--admin"])
        .ok();
    let shown = dev
        .mintmark(["entry", "show", "--entry-id", id, "--output", "json"])
        .ok()
        .json();
    let changed = &shown["entries"][0];
    assert_eq!(
        (
            &changed["x509_svid_ttl"],
            &changed["jwt_svid_ttl"],
            &changed["admin"],
            &changed["hint"]
        ),
        (&1200.into(), &60.into(), &true.into(), &"front".into())
    );

    let listed = |args: &[&str]| -> Vec<String> {
        let args = ["entry", "list", "--output", "json"].iter().chain(args);
        let listed = dev.mintmark(args).ok().json();
        listed["entries"]
            .as_array()
            .unwrap()
            .iter()
            .map(|entry| entry["spiffe_id"]["path"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(listed(&["--spiffe-id", web]), ["/web"]);
    assert_eq!(listed(&["--selector", "unix:uid:33"]), ["/web"]);
    assert_eq!(
        listed(&["--selector", "unix:uid:33", "--match-selectors", "exact"]),
        [""; 0]
    );
    assert_eq!(listed(&["--hint", "front", "--parent-id", NODE]), ["/web"]);
    assert!(listed(&[]).len() > 1);
    let table = dev.mintmark(["entry", "list", "--hint", "front"]).ok().stdout;
    assert!(
        table.lines().count() == 2 && table.contains("unix:group:www-data unix:uid:33") && table.contains("x509 20m"),
        "{table}"
    );

    dev.mintmark(["entry", "delete", "--entry-id", id]).ok();
    dev.mintmark(["entry", "show", "--entry-id", id])
        .refused(1, "not found");
    dev.mintmark(["entry", "delete", "--entry-id", id])
        .refused(1, "not found");
}

#[test]
fn what_is_listed_as_json_creates_the_same_elsewhere() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (here, there) = (Dev::start(&here, &[]), Dev::start(&there, &[]));
    let file: Vec<_> = (0..1200)
        .map(|n| json!({"spiffe_id": format!("spiffe://dev.mintmark.test/many/{n}"), "parent_id": NODE, "selectors": [{"type": "unix", "value": format!("uid:{n}")}]}))
        .collect();
    let created = run(
        &mut here.command(["entry", "create", "--data", "-", "--output", "json"]),
        json!({"entries": file}).to_string().as_bytes(),
    );
    assert_eq!(created.ok().json()["results"].as_array().unwrap().len(), 1200);
    let listed = here.mintmark(["entry", "list", "--output", "json"]).ok().stdout;
    // There, some exist already: they are told, the others are made.
    let copied = run(
        &mut there.command(["entry", "create", "--data", "-"]),
        listed.as_bytes(),
    );
    copied.refused(1, "already exists");
    let count = there.mintmark(["entry", "list", "--output", "json"]).ok().json();
    let many = |entry: &&Value| entry["spiffe_id"]["path"].as_str().unwrap().starts_with("/many/");
    assert_eq!(count["entries"].as_array().unwrap().iter().filter(many).count(), 1200);
}

#[test]
fn nodes_are_listed_banned_and_evicted_and_their_workloads_lose_what_they_have() {
    let dir = tempfile::tempdir().unwrap();
    let dev = Dev::start(&dir, &[]);
    let agents = dev.mintmark(["agent", "list", "--output", "json"]).ok().json();
    let agent = &agents["agents"][0];
    assert_eq!(
        (&agent["attestation_type"], &agent["banned"]),
        (&"join_token".into(), &false.into())
    );
    let id = format!("spiffe://dev.mintmark.test{}", agent["id"]["path"].as_str().unwrap());
    let shown = dev
        .mintmark(["agent", "show", "--spiffe-id", &id, "--output", "json"])
        .ok()
        .json();
    assert_eq!(shown["id"], agent["id"]);
    assert_eq!(dev.mintmark(["agent", "count"]).ok().line(), "1 node");
    assert_eq!(
        dev.mintmark(["agent", "ban", "--spiffe-id", &id, "--output", "json"])
            .ok()
            .json(),
        json!({})
    );
    assert_eq!(
        dev.mintmark(["agent", "list", "--banned", "true", "--output", "json"])
            .ok()
            .json()["agents"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    dev.mintmark(["agent", "evict", "--spiffe-id", &id]).ok();
    dev.mintmark(["agent", "show", "--spiffe-id", &id])
        .refused(1, "not found");
    assert_eq!(
        dev.mintmark(["agent", "purge", "--dry-run", "--output", "json"])
            .ok()
            .json(),
        json!({"expired_agents": []})
    );
}

#[test]
fn a_node_of_dev_that_is_evicted_while_it_runs_joins_anew_under_its_name() {
    let dir = tempfile::tempdir().unwrap();
    // Its second start does not need the token that it makes.
    Dev::start(&dir, &[]).interrupt();
    let dev = Dev::start(&dir, &[]);
    let nodes = || dev.mintmark(["agent", "list", "--output", "json"]).ok().json()["agents"].clone();
    let before = nodes()[0]["id"].clone();
    let id = format!("spiffe://dev.mintmark.test{}", before["path"].as_str().unwrap());
    dev.mintmark(["agent", "evict", "--spiffe-id", &id]).ok();
    eventually("the node joins anew", || {
        let now = nodes();
        now[0]["id"].is_object() && now[0]["id"] != before
    });
    eventually("it has its identities", || {
        run(&mut dev.command(["fetch", "x509"]), b"").status == 0
    });
    dev.interrupt();
    let again = Dev::start(&dir, &[]);
    again.mintmark(["fetch", "x509"]).ok();
}

#[test]
fn a_forced_rotation_replaces_the_nodes_own_svid_so_that_it_comes_back_after_the_revocation() {
    let dir = tempfile::tempdir().unwrap();
    let dev = Dev::start(&dir, &[]);
    let node = |dev: &Dev| dev.mintmark(["agent", "list", "--output", "json"]).ok().json()["agents"][0].clone();
    let before = node(&dev);
    let authority = |args: &[&str]| {
        dev.mintmark([&["authority", "x509"], args, &["--output", "json"]].concat())
            .ok()
            .json()
    };
    let old = authority(&["show"])["active"]["authority_id"]
        .as_str()
        .unwrap()
        .to_owned();
    let new = authority(&["prepare"])["prepared_authority"]["authority_id"]
        .as_str()
        .unwrap()
        .to_owned();
    authority(&["activate", "--authority-id", &new]);
    authority(&["taint", "--authority-id", &old]);
    eventually("the node has another SVID", || {
        node(&dev)["x509svid_serial_number"] != before["x509svid_serial_number"]
    });
    authority(&["revoke", "--authority-id", &old]);
    dev.interrupt();
    let again = Dev::start(&dir, &[]);
    assert_eq!(node(&again)["id"], before["id"]);
}

#[test]
fn authorities_are_prepared_activated_tainted_and_revoked_by_hand() {
    let dir = tempfile::tempdir().unwrap();
    let dev = Dev::start(&dir, &[]);
    for kind in ["x509", "jwt", "wit"] {
        let authority = |args: &[&str]| {
            let verb = [&["authority", kind], args, &["--output", "json"]].concat();
            dev.mintmark(verb).ok().json()
        };
        let first = authority(&["show"])["active"]["authority_id"]
            .as_str()
            .unwrap()
            .to_owned();
        let prepared = authority(&["prepare"])["prepared_authority"]["authority_id"]
            .as_str()
            .unwrap()
            .to_owned();
        assert_eq!(
            authority(&["activate", "--authority-id", &prepared])["activated_authority"]["authority_id"],
            prepared
        );
        let now = authority(&["show"]);
        assert_eq!(
            (&now["active"]["authority_id"], &now["old"]["authority_id"]),
            (&prepared.clone().into(), &first.clone().into())
        );
        dev.mintmark(["authority", kind, "taint", "--authority-id", &prepared])
            .refused(1, "active");
        authority(&["taint", "--authority-id", &first]);
        authority(&["revoke", "--authority-id", &first]);
        assert!(
            !dev.mintmark(["bundle", "show", "--output", "json"])
                .ok()
                .stdout
                .contains(&first)
        );
    }
    dev.mintmark(["fetch", "x509"]).ok();
    dev.mintmark(["fetch", "jwt", "--audience", "a"]).ok();
    let status = dev.mintmark(["status", "--output", "json"]).ok().json();
    assert_eq!(status["server"]["trust_domain"], "dev.mintmark.test");
    assert_eq!(status["workload_api"]["health"], "serving");
    assert_eq!(status["workload_api"]["link"], "up");
}

#[test]
fn an_administrator_mints_by_hand_and_the_ledger_names_them() {
    let dir = tempfile::tempdir().unwrap();
    let dev = Dev::start(&dir, &[]);
    let id = "spiffe://dev.mintmark.test/rescue";
    let out = dir.path().join("rescue");
    let minted = dev.mintmark([
        "mint",
        "x509",
        "--spiffe-id",
        id,
        "--ttl",
        "10m",
        "--dns",
        "rescue.dev.mintmark.test",
        "--output",
        "json",
        "--write",
        out.to_str().unwrap(),
    ]);
    let minted = minted.ok().json();
    run(
        Command::new("openssl")
            .args(["verify", "-x509_strict", "-CAfile"])
            .arg(out.join("bundle.pem"))
            .arg(out.join("svid.pem")),
        b"",
    )
    .ok();
    let leaf = dev
        .mintmark(["ledger", "show", minted["serial"].as_str().unwrap(), "--output", "json"])
        .ok()
        .json();
    assert_eq!(
        (&leaf["witnesses"], &leaf["spiffe_id"]),
        (&json!(["admin"]), &id.into())
    );
    let author = leaf["author"].as_str().unwrap();
    assert!(author.contains(&format!("uid:{}", nix::unistd::getuid())), "{author}");

    let token = dev
        .mintmark(["mint", "jwt", "--spiffe-id", id, "--audience", "vault", "--ttl", "2m"])
        .ok();
    dev.mintmark(["validate", "jwt", "--audience", "vault", "--svid", token.line()])
        .ok();
    let json = dev
        .mintmark([
            "mint",
            "jwt",
            "--spiffe-id",
            id,
            "--audience",
            "vault",
            "--output",
            "json",
        ])
        .ok()
        .json();
    assert_eq!(json["svid"]["id"]["path"], "/rescue");
    dev.mintmark(["mint", "x509", "--spiffe-id", "spiffe://elsewhere.test/a"])
        .refused(1, "elsewhere.test");
}

#[test]
fn an_administrator_from_afar_has_an_admin_svid() {
    let dir = tempfile::tempdir().unwrap();
    let dev = Dev::start(&dir, &[]);
    let ports: Value = serde_json::from_slice(&std::fs::read(dev.dir.join("dev.json")).unwrap()).unwrap();
    let server = format!("127.0.0.1:{}", ports["ports"]["api"]);
    let from_afar = |args: &[&str]| {
        let mut command = Command::new(binary("mintmark"));
        command
            .args(["--server", &server])
            .args(args)
            .env("SPIFFE_ENDPOINT_SOCKET", &dev.socket)
            // What was exported for this machine does not stand in the way.
            .env("MINTMARK_ADMIN_SOCKET", &dev.admin_socket);
        run(&mut command, b"")
    };
    // The trust bundle is for everybody, entries are for administrators.
    from_afar(&["bundle", "show"]).ok();
    from_afar(&["entry", "list"]).refused(1, "permission denied");
    let admin = "spiffe://dev.mintmark.test/operator";
    let selector = format!("unix:uid:{}", nix::unistd::getuid());
    dev.mintmark([
        "entry",
        "create",
        "--spiffe-id",
        admin,
        "--parent-id",
        NODE,
        "--selector",
        &selector,
        "--admin",
    ])
    .ok();
    from_afar(&["--as", admin, "entry", "list"]).ok();
    from_afar(&["--as", "spiffe://dev.mintmark.test/stranger", "entry", "list"])
        .refused(1, "and not spiffe://dev.mintmark.test/stranger");
    let status = from_afar(&["--as", admin, "status", "--output", "json"]).ok().json();
    assert_eq!(status["server"]["address"], server);
}

#[test]
fn the_log_level_changes_at_run_time() {
    let dir = tempfile::tempdir().unwrap();
    let dev = Dev::start(&dir, &[]);
    let level = |args: &[&str]| {
        dev.mintmark(["log-level", "--output", "json"].iter().chain(args))
            .ok()
            .json()["current_level"]
            .clone()
    };
    assert_eq!(level(&[]), "WARN");
    assert_eq!(level(&["debug"]), "DEBUG");
    assert_eq!(level(&["reset"]), "WARN");
}
