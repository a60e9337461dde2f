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
//!
//! A socket that was mounted into one pod is different: whoever comes through it is that [`Pod`], and nothing is asked of the kernel but whether the caller has ended. Each
//! listener says by its [`Source`] which of the two its connections are.

mod handle;
mod names;
mod pod;
mod process;
mod status;
mod stream;
mod unix;

use std::fmt;
use std::io;
use std::sync::Arc;

pub use pod::{KIND as POD_KIND, Pod, PodCaller, PodInfo, Verdict};
pub use process::{Evidence, Process};
pub use stream::{PeerStats, Peered, Places, Source, incoming};
pub use unix::{Attested, KIND, Needs, Unix, UnixLimits};

/// Who is at the other end.
#[derive(Debug)]
pub enum Peer {
    /// A process of this node, as the kernel names it.
    Process(Process),
    /// A pod, as the kubelet named it when it had this socket mounted.
    Pod(PodCaller),
}

/// To whom connections and calls are counted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Holder {
    /// A user of this machine.
    User(u32),
    /// A pod, by its UID.
    Pod(Arc<str>),
}

impl Peer {
    /// Whether it is still there.
    ///
    /// # Errors
    /// When it is not, or the kernel does not say.
    pub fn check_alive(&self) -> Result<(), PeerError> {
        match self {
            Self::Process(process) => process.check_alive(),
            Self::Pod(caller) => caller.check_alive(),
        }
    }

    /// Waits until it is not there any more. Cancel safe.
    pub async fn ended(&self) {
        match self {
            Self::Process(process) => process.ended().await,
            Self::Pod(caller) => caller.ended().await,
        }
    }

    /// To whom its connections and calls are counted.
    pub fn holder(&self) -> Holder {
        match self {
            Self::Process(process) => Holder::User(process.uid()),
            Self::Pod(caller) => Holder::Pod(caller.pod().info().uid.as_str().into()),
        }
    }

    /// How it is known.
    pub fn evidence(&self) -> Evidence {
        match self {
            Self::Process(process) => process.evidence(),
            Self::Pod(_) => Evidence::Mount,
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process(process) => write!(f, "process {} of user {}", process.pid(), process.uid()),
            Self::Pod(caller) => write!(f, "pod {}", caller.pod()),
        }
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(uid) => write!(f, "user {uid}"),
            Self::Pod(uid) => write!(f, "pod {uid}"),
        }
    }
}

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
    /// The process that came through a pod's socket has ended.
    #[error("the process that connected has ended")]
    CallerEnded,
    /// The pod's volume, and the socket in it, is not mounted any more.
    #[error("the volume with this socket is not mounted into the pod any more")]
    Unmounted,
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
