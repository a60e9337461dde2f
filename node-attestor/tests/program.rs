//! The program as an operator meets it.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::Path;
use std::process::Command;

/// What it says when it is run so, to its end, with status 1.
fn refused(config: &Path, variables: &[(&str, &str)]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mintmark-attestor"));
    command
        .args(["run", "--config"])
        .arg(config)
        .envs(variables.iter().copied());
    let done = command.output().unwrap();
    assert_eq!(done.status.code(), Some(1), "{done:?}");
    String::from_utf8(done.stderr).unwrap()
}

#[test]
fn what_is_wrong_is_told_once() {
    let dir = tempfile::tempdir().unwrap();
    let missing = refused(&dir.path().join("missing.toml"), &[]);
    assert_eq!(missing.matches("No such file").count(), 1, "{missing}");

    let file = dir.path().join("attestor.toml");
    let linked = dir.path().join("linked");
    std::os::unix::fs::symlink(dir.path(), &linked).unwrap();
    let text = format!(
        "trust_domain = \"example.org\"\nserver = \"s:1\"\ninsecure_bootstrap = true\ndata_dir = \"{}\"\n",
        linked.display()
    );
    mintmark_runtime::fs::write_new(&file, text.as_bytes(), 0o600).unwrap();
    let said = refused(&file, &[("MINTMARK_CONFIG_SERVICE_HOST", "10.0.0.1")]);
    for once in [
        "insecure_bootstrap",
        "MINTMARK_CONFIG_SERVICE_HOST",
        "is a symbolic link",
    ] {
        assert_eq!(said.matches(once).count(), 1, "{once}: {said}");
    }
}
