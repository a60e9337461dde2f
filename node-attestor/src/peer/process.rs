//! The process that connected.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::PeerCredentials;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::PeerError;
use super::handle::{Given, Handle, of_socket};
use super::status::start_time;

/// The process at the other end of a socket, held for as long as this lives.
#[derive(Debug)]
pub struct Process {
    pid: i32,
    uid: u32,
    gid: u32,
    handle: Handle,
    evidence: Evidence,
    /// Device and inode of its program when it connected; none where we may not look.
    program: Option<(u64, u64)>,
}

/// How well the process is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// The kernel gave a handle on the very process that connected.
    PeerPidfd,
    /// The kernel is too old for that: the handle was opened by number, and the process's start time is the same as before.
    StartTime,
    /// It came through a socket that the kubelet had mounted into one pod.
    Mount,
}

impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PeerPidfd => "SO_PEERPIDFD",
            Self::StartTime => "SO_PEERCRED and start time",
            Self::Mount => "mount",
        })
    }
}

impl Process {
    /// The process that connected `socket`. Must be called within a runtime.
    ///
    /// # Errors
    /// When it is outside our PID namespace, has ended, or the kernel does not say.
    pub fn of(socket: &impl AsFd) -> Result<Self, PeerError> {
        let failed = |action, pid| move |source: io::Error| PeerError::Io { action, pid, source };
        let credentials =
            getsockopt(socket, PeerCredentials).map_err(|errno| failed("read the credentials", 0)(errno.into()))?;
        let pid = credentials.pid();
        if pid <= 0 {
            return Err(PeerError::OutsideNamespace(pid));
        }
        let (pidfd, evidence) = match of_socket(socket).map_err(failed("get a handle", pid))? {
            Given::Handle(pidfd) => (pidfd, Evidence::PeerPidfd),
            Given::TooOld => (by_number(pid)?, Evidence::StartTime),
            Given::Ended => return Err(PeerError::Ended(pid)),
        };
        let handle = Handle::watch(pidfd).map_err(failed("watch the end", pid))?;
        let process = Self {
            pid,
            uid: credentials.uid(),
            gid: credentials.gid(),
            handle,
            evidence,
            program: program(pid),
        };
        process.check_alive()?;
        Ok(process)
    }

    /// Its process ID in our PID namespace.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// The user that it was when it connected.
    pub fn uid(&self) -> u32 {
        self.uid
    }

    /// The group that it was when it connected.
    pub fn gid(&self) -> u32 {
        self.gid
    }

    /// How well it is known.
    pub fn evidence(&self) -> Evidence {
        self.evidence
    }

    /// Device and inode of the program that it ran when it connected.
    pub(super) fn program_at_connect(&self) -> Option<(u64, u64)> {
        self.program
    }

    /// Whether it has not ended. A zombie has.
    ///
    /// # Errors
    /// When it has ended, or the kernel does not say.
    pub fn check_alive(&self) -> Result<(), PeerError> {
        match self.handle.has_ended() {
            Ok(false) => Ok(()),
            Ok(true) => Err(PeerError::Ended(self.pid)),
            Err(source) => Err(PeerError::Io {
                action: "look at the handle",
                pid: self.pid,
                source,
            }),
        }
    }

    /// Waits until it has ended. Cancel safe.
    pub async fn ended(&self) {
        self.handle.ended().await;
    }
}

/// A handle by number, for kernels before 6.5: whoever had the number before and after is the same process.
fn by_number(pid: i32) -> Result<OwnedFd, PeerError> {
    let failed = |action| move |source: io::Error| PeerError::Io { action, pid, source };
    let before = start_time(pid)?;
    let raw = Pid::from_raw(pid).ok_or(PeerError::OutsideNamespace(pid))?;
    let pidfd = pidfd_open(raw, PidfdFlags::empty()).map_err(|errno| failed("open a handle")(errno.into()))?;
    match start_time(pid)? == before {
        true => Ok(pidfd),
        false => Err(PeerError::Ended(pid)),
    }
}

/// Device and inode of the program that runs as `pid`.
pub(super) fn program(pid: i32) -> Option<(u64, u64)> {
    let meta = std::fs::metadata(format!("/proc/{pid}/exe")).ok()?;
    Some((meta.dev(), meta.ino()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;
    use std::process::{Child, Command, Stdio};

    use super::*;

    /// A process that connects to `path` and then waits for its standard input to end.
    fn client(path: &std::path::Path) -> Child {
        let script = "import socket,sys; s=socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); sys.stdin.read()";
        let mut command = Command::new("python3");
        command.args(["-c", script]).arg(path).stdin(Stdio::piped());
        command.spawn().unwrap()
    }

    #[tokio::test]
    async fn the_process_that_connected_is_known_and_its_end_is_noticed_even_as_a_zombie() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let socket = mintmark_runtime::net::unix_listener(&path, 0o600, None).unwrap();
        let mut child = client(&path);
        let limits = mintmark_runtime::net::Limits::default();
        let mut acceptor = socket.acceptor(limits, Default::default(), mintmark_runtime::clock::Clock::system());
        let accepted = acceptor.next().await;
        let process = Process::of(accepted.get_ref()).unwrap();
        assert_eq!(process.pid(), i32::try_from(child.id()).unwrap());
        assert_eq!(process.uid(), nix::unistd::geteuid().as_raw());
        assert_eq!(process.evidence(), Evidence::PeerPidfd);
        process.check_alive().unwrap();

        child.kill().unwrap();
        process.ended().await;
        // Nobody has waited for it: it is a zombie, whose number is still taken.
        assert!(std::fs::exists(format!("/proc/{}", child.id())).unwrap());
        assert!(matches!(process.check_alive(), Err(PeerError::Ended(_))));
        child.wait().unwrap();
        assert!(matches!(process.check_alive(), Err(PeerError::Ended(_))));
        // A connection of one that ended before it was looked at is nobody's.
        assert!(Process::of(accepted.get_ref()).is_err());
    }

    #[tokio::test]
    async fn without_peer_pidfd_a_process_is_held_by_its_number_and_start_time() {
        let (one, _two) = UnixStream::pair().unwrap();
        let process = Process::of(&one).unwrap();
        let by_number = Handle::watch(by_number(process.pid()).unwrap()).unwrap();
        assert!(!by_number.has_ended().unwrap());
        let mut child = Command::new("true").spawn().unwrap();
        child.wait().unwrap();
        assert!(super::by_number(i32::try_from(child.id()).unwrap()).is_err());
    }
}
