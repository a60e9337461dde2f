//! Where the programs are.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, OnceLock, PoisonError};

/// A program of this workspace, built like the test that asks: beside it, in the profile's folder.
///
/// What is there is used as it is: `cargo build --workspace` (and `tests/run`) brings it up to date. What is missing is built.
pub fn binary(name: &str) -> PathBuf {
    static BUILD: Mutex<()> = Mutex::new(());
    let folder = profile_folder();
    let path = folder.join(name);
    let _one = BUILD.lock().unwrap_or_else(PoisonError::into_inner);
    if !path.exists() {
        let mut build = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        // The whole workspace: so the features of its dependencies are those of every other build.
        build.args(["build", "--workspace", "--bins"]);
        match folder.file_name().and_then(|name| name.to_str()) {
            Some("debug") | None => (),
            Some(profile) => {
                build.args(["--profile", profile]);
            }
        }
        if let Some(target) = folder.parent() {
            build.env("CARGO_TARGET_DIR", target);
        }
        let status = build.current_dir(root()).status().expect("cargo runs");
        assert!(
            status.success() && path.exists(),
            "{} could not be built",
            path.display()
        );
    }
    path
}

/// The program of `tests/interop`: go-spiffe and go-jose. `tests/run` builds it first.
pub fn interop() -> &'static Path {
    static INTEROP: OnceLock<PathBuf> = OnceLock::new();
    INTEROP.get_or_init(|| {
        if let Some(built) = env::var_os("MINTMARK_INTEROP") {
            return built.into();
        }
        let script = root().join("tests/interop/build");
        let built = Command::new(&script).output().expect("tests/interop/build runs");
        let said = String::from_utf8_lossy(&built.stdout);
        let path = said.lines().last().map(PathBuf::from).filter(|path| path.exists());
        path.unwrap_or_else(|| {
            panic!(
                "{} failed: {}",
                script.display(),
                String::from_utf8_lossy(&built.stderr)
            )
        })
    })
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn profile_folder() -> PathBuf {
    let test = env::current_exe().expect("a test has a program");
    let folder = test.parent().and_then(Path::parent);
    folder.expect("tests are in <profile>/deps").to_owned()
}
