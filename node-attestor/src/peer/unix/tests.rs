use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::pin::Pin;
use std::process::{Child, Command, Stdio};

use futures::{Stream, StreamExt};
use mintmark_runtime::net::{Accepted, Limits, LocalStream, unix_listener};

use super::*;

type Incoming = Pin<Box<dyn Stream<Item = io::Result<Accepted<LocalStream>>> + Send>>;

/// A socket that anybody may connect to.
struct Door {
    dir: tempfile::TempDir,
    incoming: Incoming,
}

/// A process that did something, connected, and waits; it ends when this is dropped.
struct Caller {
    child: Child,
    process: Process,
    _io: Accepted<LocalStream>,
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
        io::BufReader::new(self.child.stdout.as_mut().unwrap())
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

/// A program of its own that runs; it ends when this is dropped.
struct Running {
    dir: tempfile::TempDir,
    child: Child,
}

impl Running {
    fn new(name: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join(name);
        std::fs::copy("/bin/sleep", &program).unwrap();
        let child = Command::new(program).arg("600").spawn().unwrap();
        Self { dir, child }
    }

    fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap()
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_program_that_was_replaced_keeps_its_path_and_a_name_makes_none() {
    for name in ["program", "program (deleted)"] {
        let running = Running::new(name);
        let (path, shown) = (running.path(name), || program_path(running.pid()).unwrap().unwrap());
        assert_eq!(Path::new(&shown()), path);
        // As a package manager does it.
        std::fs::copy("/bin/true", running.path("new")).unwrap();
        std::fs::rename(running.path("new"), &path).unwrap();
        assert_eq!(Path::new(&shown()), path);
    }
    // One that has another name still is not that of its old one.
    let running = Running::new("program");
    std::fs::hard_link(running.path("program"), running.path("other")).unwrap();
    std::fs::remove_file(running.path("program")).unwrap();
    assert!(
        program_path(running.pid())
            .unwrap()
            .unwrap()
            .ends_with("program (deleted)")
    );
}

#[tokio::test]
async fn a_program_that_was_changed_just_now_is_read_each_time() {
    let running = Running::new("program");
    let now = Clock::system().unix();
    for (at, remembered) in [(now, 0), (now + 60, 1)] {
        let unix = Unix::new(
            UnixLimits { program_bytes: 1 << 30 },
            BlockingPool::new("attest", 1, 8),
            Clock::manual(at),
        );
        let found = unix.digests.of(running.pid()).await;
        let found = found.map_err(|unknown| unknown.why).unwrap();
        let expected = ring::digest::digest(&SHA256, &std::fs::read(running.path("program")).unwrap());
        assert_eq!(found, expected.as_ref());
        assert_eq!(unix.digests.known().len(), remembered, "{at}");
    }
}

#[tokio::test]
async fn many_who_ask_at_once_are_all_found_out() {
    let mut door = Door::new();
    let caller = door.caller("", "").await;
    // Fewer threads and places than there are who ask.
    let unix = Unix::new(
        UnixLimits { program_bytes: 1 << 30 },
        BlockingPool::new("attest", 1, 1),
        Clock::system(),
    );
    let all = futures::future::join_all((0..50).map(|_| unix.attest(&caller.process, ALL))).await;
    for attested in all {
        let attested = attested.unwrap();
        assert!(
            attested.is_sure && attested.missing.is_empty(),
            "{:?}",
            attested.missing
        );
        let values: Vec<_> = attested.selectors.iter().map(|one| one.value()).collect();
        for kind in ["sha256:", "user:"] {
            assert!(values.iter().any(|value| value.starts_with(kind)), "{kind}: {values:?}");
        }
    }
    assert!(unix.turns.0.lock().unwrap().len() <= 1);
}

#[tokio::test]
async fn the_callers_of_one_user_wait_for_each_other_and_for_nobody_else() {
    let turns = Turns::default();
    let first = turns.take(1).await;
    let mut second = std::pin::pin!(turns.take(1));
    assert!(futures::poll!(&mut second).is_pending());
    drop(turns.take(2).await);
    assert!(futures::poll!(&mut second).is_pending());
    drop(first);
    drop(second.await);
    drop(turns.take(3).await);
    assert_eq!(turns.0.lock().unwrap().len(), 1);
}
