//! Which process is at the other end of this socket?
//!
//! In: accepted Unix sockets. Out: the [`Process`] that connected, as the kernel names it, held so that its number cannot be taken over by
//! another unnoticed, and what there is to say about it as selectors. `serve` calls it.
//!
//! A process is held by a pidfd that the kernel gives for the socket itself (`SO_PEERPIDFD`, Linux 6.5). On an older kernel the pidfd is opened by
//! number and the process's start time compared before and after; the [`Evidence`] says which. What is read about a process is read between two looks at
//! the pidfd: as long as the process is alive, its number is its own.
//!
//! The credential is that of the process which called `connect`. A socket that was passed on keeps it, and is of no use once that process has ended. A process
//! that has since become another user, or another program, has to connect anew.

mod names;
mod process;
mod status;
mod stream;
mod unix;

use std::io;

pub use process::{Evidence, Process};
pub use stream::{PeerStats, Peered, incoming};
pub use unix::{Attested, KIND, Needs, Unix, UnixLimits};

/// Why nothing can be said about the process at the other end.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// The kernel gives no process ID, or none that is one.
    #[error(
        "the caller is outside this attestor's PID namespace (its process ID is {0} here), so that nothing can be known about it; run the attestor in the host's PID namespace"
    )]
    OutsideNamespace(i32),
    /// The process has ended.
    #[error("process {0} has ended")]
    Ended(i32),
    /// The process is not who connected.
    #[error("process {pid} connected as {was} and is {is} now: connect again")]
    Changed {
        /// The process.
        pid: i32,
        /// What it was at `connect`.
        was: String,
        /// What it is.
        is: String,
    },
    /// The kernel does not say.
    #[error("cannot {action} of process {pid}: {source}")]
    Io {
        /// What was attempted.
        action: &'static str,
        /// The process; 0 when it is not known yet.
        pid: i32,
        /// Why it failed.
        source: io::Error,
    },
    /// What the kernel says is not understood.
    #[error("/proc/{pid}/status has no usable {field}")]
    Status {
        /// The process.
        pid: i32,
        /// What is missing.
        field: &'static str,
    },
}
