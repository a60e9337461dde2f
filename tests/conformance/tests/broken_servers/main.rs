//! The suite must be able to fail: a reference server that keeps every rule is broken in one way after another, and for
//! each breakage exactly the checks fail that are about it.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests")]

mod authority;
mod breakage;
mod reference;
mod table;
mod web;
mod workload;

use std::{os::unix::fs::MetadataExt as _, process::Command};

use breakage::Breakage::{TwoUriSans, ValidatesExpired};
use conformance::{CHECKS, Outcome};
use reference::{Reference, ids};
use table::*;

/// What there is nothing to look at for on the whole server.
const SKIPPED: [&str; 4] = ["X5-6", "JW-9c", "FD-5a", "FD-5b"];

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_server_passes_everything() {
    let report = Reference::start(None, 300).await.judge(&[]).await;
    assert_eq!(
        ids(&report, |o| matches!(o, Outcome::Fail(_) | Outcome::Warn(_))),
        Vec::<&str>::new(),
        "{}",
        report.text()
    );
    assert_eq!(
        ids(&report, |o| matches!(o, Outcome::Skip(_))),
        SKIPPED,
        "{}",
        report.text()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn spiffe_ids_that_break_a_rule_fail_its_check() {
    broken(SPIFFE_IDS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_that_break_a_rule_fail_its_check() {
    broken(CERTIFICATES).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn jwt_svids_that_break_a_rule_fail_its_check() {
    broken(JWT_SVIDS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wit_svids_that_break_a_rule_fail_its_check() {
    broken(WIT_SVIDS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_that_break_a_rule_fail_its_check() {
    broken(ENDPOINTS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn workload_apis_that_break_a_rule_fail_its_check() {
    broken(WORKLOAD_APIS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bundle_documents_that_break_a_rule_fail_its_check() {
    broken(BUNDLE_DOCUMENTS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bundle_servers_that_break_a_rule_fail_its_check() {
    broken(BUNDLE_SERVERS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn oidc_issuers_that_break_a_rule_fail_its_check() {
    broken(OIDC_ISSUERS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_token_is_seen_to_be_refused_or_accepted() {
    let wait = ["--only=JW-9c,JW-6", "--wait-for-expiry=10s", "--expiry-leeway=0s"];
    let (whole, broken) = tokio::join!(Reference::start(None, 5), Reference::start(Some(ValidatesExpired), 5));
    let (whole, broken) = tokio::join!(whole.judge(&wait), broken.judge(&wait));
    assert_eq!(
        ids(&whole, |o| *o == Outcome::Pass),
        ["JW-6", "JW-9c"],
        "{}",
        whole.text()
    );
    assert_eq!(
        ids(&broken, |o| matches!(o, Outcome::Fail(_))),
        ["JW-9c"],
        "{}",
        broken.text()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_ends_with_a_count_and_the_status_it_promises() {
    for (broken, status, closing) in [
        (None, 0, " passed, 0 failed, 4 skipped"),
        (Some(TwoUriSans), 1, " passed, 1 failed, 4 skipped"),
    ] {
        let server = Reference::start(broken, 300).await;
        let junit = tempfile::NamedTempFile::new().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_conformance"));
        command
            .args(&server.arguments()[1..])
            .arg("--junit")
            .arg(junit.path())
            .env_remove("SPIFFE_ENDPOINT_SOCKET");
        let output = tokio::task::spawn_blocking(move || command.output().unwrap())
            .await
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(status), "{text}");
        assert!(text.lines().last().unwrap().ends_with(closing), "{text}");
        let xml = std::fs::read_to_string(junit.path()).unwrap();
        assert!(xml.contains(&format!("failures=\"{status}\"")), "{xml}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_who_gets_an_identity_against_expectation_is_named() {
    let server = Reference::start(None, 300).await;
    let uid = std::fs::metadata("/proc/self").unwrap().uid();
    let mut command = Command::new(env!("CARGO_BIN_EXE_conformance"));
    command
        .arg(&server.arguments()[1])
        .arg(format!("--expect-no-identity-uid={uid}"))
        .arg("--only=EP-4a");
    let output = tokio::task::spawn_blocking(move || command.output().unwrap())
        .await
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        text.contains(&format!("FetchX509SVID as user {uid} gives 2 SVIDs")),
        "{text}"
    );
    assert!(text.ends_with("0 passed, 1 failed, 0 skipped\n"), "{text}");
}

#[test]
fn wrong_usage_is_told_apart_from_a_failed_check() {
    for (arguments, status) in [
        (&[][..], 2),
        (&["--socket", "/no/scheme"], 2),
        (&["--socket", "unix:///nowhere/api.sock", "--only", "X5-99"], 2),
        (&["--socket", "unix:///nowhere/api.sock", "--nonsense"], 2),
        (&["--socket", "unix:///nowhere/api.sock"], 1),
        (&["--list"], 0),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_conformance"));
        let output = command
            .args(arguments)
            .env_remove("SPIFFE_ENDPOINT_SOCKET")
            .output()
            .unwrap();
        assert_eq!(
            output.status.code(),
            Some(status),
            "{arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

#[test]
fn every_check_has_a_breakage_that_it_catches() {
    let caught = |id: &str| {
        ALL.iter()
            .copied()
            .flatten()
            .any(|(_, fails, warns)| fails.contains(&id) || warns.contains(&id))
    };
    // The expired token has a test of its own.
    let never: Vec<_> = CHECKS
        .iter()
        .map(|check| check.id)
        .filter(|id| !caught(id) && *id != "JW-9c")
        .collect();
    assert_eq!(never, Vec::<&str>::new());
}

/// Breaks a server in each way and compares what fails and warns. What a fault hides may be skipped.
async fn broken(rows: &[Row]) {
    let mut wrong = String::new();
    for (breakage, fails, warns) in rows {
        let report = Reference::start(Some(*breakage), 300).await.judge(&[]).await;
        let failed = ids(&report, |o| matches!(o, Outcome::Fail(_)));
        let warned = ids(&report, |o| matches!(o, Outcome::Warn(_)));
        if failed != in_order(fails) || warned != in_order(warns) {
            let told: String = report
                .text()
                .lines()
                .filter(|l| l.starts_with("FAIL") || l.starts_with("WARN"))
                .map(|l| format!("    {l}\n"))
                .collect();
            wrong.push_str(&format!(
                "{breakage:?}: expected to fail {fails:?} and warn {warns:?}, but\n{told}"
            ));
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

/// IDs in the order of the report.
fn in_order(wanted: &[&'static str]) -> Vec<&'static str> {
    let known: Vec<_> = CHECKS
        .iter()
        .map(|check| check.id)
        .filter(|id| wanted.contains(id))
        .collect();
    assert_eq!(known.len(), wanted.len(), "unknown check among {wanted:?}");
    known
}
