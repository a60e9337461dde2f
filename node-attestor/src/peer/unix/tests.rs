use std::os::unix::fs::PermissionsExt;
use std::pin::Pin;
use std::process::{Child, Command, Stdio};

use futures::{Stream, StreamExt};
use mintmark_runtime::net::{Accepted, Limits, unix_listener};
use tokio::net::UnixStream;

use super::*;

type Incoming = Pin<Box<dyn Stream<Item = std::io::Result<Accepted<UnixStream>>> + Send>>;

/// A socket that anybody may connect to.
struct Door {
    dir: tempfile::TempDir,
    incoming: Incoming,
}

/// A process that did something, connected, and waits; it ends when this is dropped.
struct Caller {
    child: Child,
    process: Process,
    _io: Accepted<UnixStream>,
}

impl Drop for Caller {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Door {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let socket = unix_listener(&dir.path().join("s"), 0o777, None).unwrap();
        let incoming = socket.incoming(Limits::default(), Default::default(), Clock::system());
        Self {
            dir,
            incoming: Box::pin(incoming),
        }
    }

    /// A Python process that runs `before`, connects, then waits for a line and runs `then`.
    async fn caller(&mut self, before: &str, then: &str) -> Caller {
        let script = format!(
            "import os,socket,sys\n{before}\ns=socket.socket(socket.AF_UNIX)\ns.connect(sys.argv[1])\nsys.stdin.readline()\n{then}\nprint('done',flush=True)\nsys.stdin.read()"
        );
        let mut command = Command::new("python3");
        command
            .args(["-c", &script])
            .arg(self.dir.path().join("s"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let child = command.spawn().unwrap();
        let io = self.incoming.next().await.unwrap().unwrap();
        Caller {
            child,
            process: Process::of(io.get_ref()).unwrap(),
            _io: io,
        }
    }
}

impl Caller {
    /// Lets the process go on, and waits for its line.
    fn go_on(&mut self) {
        use std::io::{BufRead as _, Write as _};
        self.child.stdin.as_mut().unwrap().write_all(b"go\n").unwrap();
        let mut line = String::new();
        std::io::BufReader::new(self.child.stdout.as_mut().unwrap())
            .read_line(&mut line)
            .unwrap();
    }
}

fn attestor(program_bytes: u64) -> Unix {
    Unix::new(
        UnixLimits { program_bytes },
        BlockingPool::new("attest", 1, 8),
        Clock::system(),
    )
}

const ALL: Needs = Needs {
    names: true,
    digests: true,
};

fn needs_root() {
    assert!(
        nix::unistd::geteuid().is_root(),
        "this test makes processes of other users: run it as root"
    );
}

#[tokio::test]
async fn a_process_of_another_user_has_the_selectors_that_spire_gives_it() {
    needs_root();
    let mut door = Door::new();
    let caller = door
        .caller("os.setgroups([0,54321]); os.setgid(23456); os.setuid(12345)", "")
        .await;
    let attested = attestor(1 << 30).attest(&caller.process, ALL).await.unwrap();
    let program = std::fs::canonicalize(format!("/proc/{}/exe", caller.process.pid())).unwrap();
    let digest = hex::encode(ring::digest::digest(&SHA256, &std::fs::read(&program).unwrap()));
    let expected = [
        "unix:gid:23456".to_owned(),
        format!("unix:path:{}", program.display()),
        format!("unix:sha256:{digest}"),
        "unix:supplementary_gid:0".to_owned(),
        "unix:supplementary_gid:54321".to_owned(),
        "unix:supplementary_group:root".to_owned(),
        "unix:uid:12345".to_owned(),
    ];
    let found: Vec<_> = attested.selectors.iter().map(ToString::to_string).collect();
    assert_eq!(found, expected);
    assert_eq!(attested.missing, [""; 0]);

    // What nobody asks about is not found out; what was read once is remembered.
    let unix = attestor(1 << 30);
    let plain = unix.attest(&caller.process, Needs::default()).await.unwrap();
    assert!(
        !plain
            .selectors
            .iter()
            .any(|one| one.value().starts_with("sha256") || one.value().contains("group:"))
    );
    unix.attest(&caller.process, ALL).await.unwrap();
    assert_eq!(unix.digests.known().len(), 1);
    unix.attest(&caller.process, ALL).await.unwrap();
    assert_eq!(unix.digests.known().len(), 1);
}

#[tokio::test]
async fn names_of_user_and_group_are_found() {
    let mut door = Door::new();
    let caller = door.caller("", "").await;
    let attested = attestor(1 << 30).attest(&caller.process, ALL).await.unwrap();
    let user = nix::unistd::User::from_uid(nix::unistd::geteuid())
        .unwrap()
        .unwrap()
        .name;
    assert!(
        attested
            .selectors
            .contains(&Selector::parse(&format!("unix:user:{user}")).unwrap()),
        "{attested:?}"
    );
}

#[tokio::test]
async fn a_program_beyond_the_limit_has_no_digest_and_the_reason_is_told() {
    let mut door = Door::new();
    let caller = door.caller("", "").await;
    let attested = attestor(1000).attest(&caller.process, ALL).await.unwrap();
    assert!(!attested.selectors.iter().any(|one| one.value().starts_with("sha256")));
    assert!(attested.missing[0].contains("at most 1000"), "{:?}", attested.missing);
}

#[tokio::test]
async fn a_process_that_has_become_someone_else_is_refused() {
    needs_root();
    let mut door = Door::new();
    let unix = attestor(1 << 30);
    for (then, expected) in [
        (
            "os.setuid(12345)",
            "connected as user 0, group 0 and is user 12345, group 0 now: connect again",
        ),
        ("os.setgid(12345)", "group 12345 now"),
        (
            "os.set_inheritable(s.fileno(), True); os.execv('/bin/sh', ['sh', '-c', 'echo done; read x'])",
            "another one now",
        ),
    ] {
        let mut caller = door.caller("", then).await;
        unix.attest(&caller.process, ALL).await.unwrap();
        caller.go_on();
        let error = unix.attest(&caller.process, ALL).await.unwrap_err().to_string();
        assert!(error.contains(expected), "{then}: {error}");
    }
}

#[tokio::test]
async fn a_process_that_has_ended_is_nobody() {
    let mut door = Door::new();
    let mut caller = door.caller("", "").await;
    caller.child.kill().unwrap();
    caller.process.ended().await;
    assert!(matches!(
        attestor(1 << 30).attest(&caller.process, ALL).await,
        Err(PeerError::Ended(_))
    ));
}
