//! A whole Mintmark of a test's own.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::{Done, Program, binary, run};

/// `mintmark dev` in a directory, and how to reach it. It ends with this.
pub struct Dev {
    /// The process.
    pub program: Program,
    /// Where it keeps everything.
    pub dir: PathBuf,
    /// The Workload API, as a URI.
    pub socket: String,
    /// The admin socket.
    pub admin_socket: PathBuf,
    /// The OIDC issuer.
    pub issuer: String,
    /// What it printed.
    pub story: String,
}

impl Dev {
    /// Starts it in `<dir>/mintmark`, and returns when it serves.
    pub fn start(dir: &TempDir, args: &[&str]) -> Self {
        Self::start_in(&dir.path().join("mintmark"), args)
    }

    /// Starts it in `dir`, and returns when it serves.
    pub fn start_in(dir: &Path, args: &[&str]) -> Self {
        let mut command = Command::new(binary("mintmark"));
        command.arg("dev").arg("--dir").arg(dir).args(args);
        // Of the environment nothing that leads elsewhere.
        command
            .env_remove("SPIFFE_ENDPOINT_SOCKET")
            .env_remove("MINTMARK_ADMIN_SOCKET");
        let program = Program::start("mintmark dev", &mut command);
        let mut story = String::new();
        program.line("it serves", |line| {
            story += &format!("{line}\n");
            line.starts_with("OIDC issuer: ")
        });
        let last: Vec<_> = story.lines().rev().take(3).collect();
        let value = |line: usize, prefix: &str| {
            let value = last.get(line).and_then(|line| line.strip_prefix(prefix));
            value
                .unwrap_or_else(|| panic!("its last lines are not as they should be:\n{story}"))
                .to_owned()
        };
        Self {
            socket: value(2, "export SPIFFE_ENDPOINT_SOCKET="),
            admin_socket: value(1, "export MINTMARK_ADMIN_SOCKET=").into(),
            issuer: value(0, "OIDC issuer: "),
            dir: dir.canonicalize().expect("the directory is there"),
            program,
            story,
        }
    }

    /// The `mintmark` command with this one's sockets.
    pub fn command(&self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Command {
        let mut command = Command::new(binary("mintmark"));
        command.args(args);
        command
            .env("SPIFFE_ENDPOINT_SOCKET", &self.socket)
            .env("MINTMARK_ADMIN_SOCKET", &self.admin_socket);
        command
    }

    /// Runs a command of `mintmark`.
    pub fn mintmark(&self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Done {
        run(&mut self.command(args), b"")
    }

    /// The path of the Workload API's socket.
    pub fn socket_path(&self) -> PathBuf {
        self.socket.strip_prefix("unix://").expect("it is a Unix socket").into()
    }

    /// The server's data directory.
    pub fn server_data(&self) -> PathBuf {
        self.dir.join("server")
    }

    /// The authorities, in PEM, for the documents' certificate.
    pub fn bundle(&self) -> PathBuf {
        self.dir.join("bundle.pem")
    }

    /// Stops it as Ctrl-C does.
    pub fn interrupt(self) -> Done {
        self.program.stop(Signal::SIGINT)
    }
}
