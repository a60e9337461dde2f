//! A handle on a process, which tells when it ends.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::PeerPidfd;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A pidfd that is watched.
#[derive(Debug)]
pub(super) struct Handle(AsyncFd<OwnedFd>);

/// What the kernel gives for a socket.
pub(super) enum Given {
    /// A handle on the very process that connected.
    Handle(OwnedFd),
    /// Nothing: it is older than `SO_PEERPIDFD`.
    TooOld,
    /// Nothing: the process has ended and been waited for.
    Ended,
}

/// The pidfd that the kernel gives for the process which connected `socket`, in whichever PID namespace that is.
pub(super) fn of_socket(socket: &impl AsFd) -> Result<Given, io::Error> {
    match getsockopt(socket, PeerPidfd) {
        Ok(pidfd) => Ok(Given::Handle(pidfd)),
        Err(Errno::ENOPROTOOPT) => Ok(Given::TooOld),
        // What the kernel says of one that is gone and reaped.
        Err(Errno::EINVAL | Errno::ESRCH | Errno::ENODATA) => Ok(Given::Ended),
        Err(errno) => Err(errno.into()),
    }
}

impl Handle {
    /// Watches a pidfd. Must be called within a runtime.
    ///
    /// The replacement is `unsafe` for types that may close or change their descriptor while it is watched; an `OwnedFd` behind a private field does neither.
    #[expect(deprecated, reason = "sound for an OwnedFd, and this crate has no unsafe code")]
    pub(super) fn watch(pidfd: OwnedFd) -> io::Result<Self> {
        AsyncFd::with_interest(pidfd, Interest::READABLE).map(Self)
    }

    /// Whether the process has ended. A zombie has.
    pub(super) fn has_ended(&self) -> io::Result<bool> {
        let mut fds = [PollFd::new(self.0.get_ref().as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::ZERO) {
            Ok(ready) => Ok(ready > 0),
            Err(Errno::EINTR) => self.has_ended(),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Waits until it has ended. Cancel safe.
    pub(super) async fn ended(&self) {
        // An error can only come from a runtime that is ending.
        let _ = self.0.readable().await;
    }
}
