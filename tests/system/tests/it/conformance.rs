//! The public conformance suite against our own socket and documents.

use std::process::Command;

use system::{Dev, binary, run};

#[test]
fn the_conformance_suite_passes_strictly() {
    let dir = tempfile::tempdir().unwrap();
    let dev = Dev::start(&dir, &["--jwt-ttl", "5s"]);
    // A second identity with a hint, so that more can be seen.
    let selector = format!("unix:uid:{}", nix::unistd::getuid());
    let second = [
        "--spiffe-id",
        "spiffe://dev.mintmark.test/second",
        "--parent-id",
        "spiffe://dev.mintmark.test/node/dev",
        "--hint",
        "second",
    ];
    dev.mintmark(["entry", "create", "--selector", &selector].iter().chain(&second))
        .ok();
    let mut suite = Command::new(binary("conformance"));
    let endpoint = format!("{}/", dev.issuer);
    suite.args([
        "--socket",
        &dev.socket,
        "--bundle-endpoint",
        &endpoint,
        "--oidc",
        &dev.issuer,
        "--strict",
        "--wait",
        "30s",
        "--bundle-ca",
    ]);
    suite
        .arg(dev.bundle())
        .args(["--wait-for-expiry", "20s", "--expiry-leeway", "10s"]);
    if nix::unistd::getuid().is_root() {
        suite.args(["--expect-no-identity-uid", "65534"]);
    }
    let report = run(&mut suite, b"");
    assert!(report.status == 0, "{}\n{}", report.stdout, report.stderr);
    assert!(
        report.stdout.lines().filter(|line| line.starts_with("PASS")).count() > 70,
        "{}",
        report.stdout
    );
}
