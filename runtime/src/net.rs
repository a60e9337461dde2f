//! Sockets: listeners that are ours alone, accept loops that neither spin nor drown, connections with deadlines.
//!
//! In come addresses, paths and limits; out come streams of [accepted connections](Accepted), each of which holds its place in the listener's
//! limits until it is dropped. Every door of both programs listens through here.
#![allow(clippy::disallowed_methods, reason = "this is where sockets are made")]

mod accept;
mod connect;
mod local;
mod unix;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::net::{TcpListener, TcpSocket};

pub use accept::{Accepted, Limits, Listener, ListenerStats, Permit, accept, incoming};
pub use connect::{ConnectError, UnixConnector, tcp_connect, unix_connect};
pub use local::LocalStream;
pub use unix::{MAX_UNIX_PATH, UnixSocket, unix_listener};

/// Connections that may wait in the kernel for us to accept them; `net.core.somaxconn` may lower it.
const BACKLOG: u32 = 4096;

/// Why a listener could not be made.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// The operating system refused a TCP address.
    #[error("cannot listen on {addr}: {source}{}", tcp_hint(source))]
    Tcp {
        /// The address.
        addr: SocketAddr,
        /// Why it failed.
        source: io::Error,
    },
    /// The operating system refused a step of making a Unix socket.
    #[error("cannot {action} {path}: {source}")]
    Unix {
        /// What was attempted.
        action: &'static str,
        /// The path.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The kernel keeps no longer paths of sockets.
    #[error(
        "socket path {path} has {length} bytes, and a socket's path has at most {MAX_UNIX_PATH}; use a shorter directory"
    )]
    PathTooLong {
        /// The path.
        path: PathBuf,
        /// Its length.
        length: usize,
    },
    /// A symbolic link where a socket or its directory must be.
    #[error("{path} is a symbolic link, which whoever made it can point elsewhere; name the socket's place itself")]
    Symlink {
        /// The link.
        path: PathBuf,
    },
    /// The directory for the socket is missing, or not one.
    #[error("{path} is not a directory, so there can be no socket in it")]
    NotADirectory {
        /// What should be the directory.
        path: PathBuf,
    },
    /// Something that is not a socket is in the socket's place.
    #[error("{path} exists and is not a socket; it is left as it is, so remove it or use another path")]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// Another process listens there.
    #[error("another process answers on socket {path}; stop it, or use another path")]
    InUse {
        /// The path.
        path: PathBuf,
    },
    /// There is no such group.
    #[error("there is no group {0} for the socket")]
    Group(String),
}

fn tcp_hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => "; another process listens there: stop it, or configure another port",
        io::ErrorKind::PermissionDenied => "; ports below 1024 need CAP_NET_BIND_SERVICE",
        io::ErrorKind::AddrNotAvailable => "; no interface of this machine has that address",
        _ => "",
    }
}

/// Listens on a TCP address; `[::]` takes IPv4 too, unless the system says otherwise.
///
/// # Errors
/// [`NetError::Tcp`] with the address.
pub fn tcp_listener(addr: SocketAddr) -> Result<TcpListener, NetError> {
    let listen = || {
        let socket = if addr.is_ipv4() {
            TcpSocket::new_v4()?
        } else {
            TcpSocket::new_v6()?
        };
        // So that a restart does not wait for the old connections' TIME_WAIT.
        socket.set_reuseaddr(true)?;
        socket.bind(addr)?;
        socket.listen(BACKLOG)
    };
    listen().map_err(|source| NetError::Tcp { addr, source })
}

/// Raises this process's limit of open files as far as it may, and says how far that is.
///
/// # Errors
/// When the limit can be neither read nor raised; it is then as it was.
pub fn raise_nofile_limit() -> io::Result<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    Ok(hard)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_port_in_use_is_named_with_what_to_do() {
        let first = tcp_listener(([127, 0, 0, 1], 0).into()).unwrap();
        let addr = first.local_addr().unwrap();
        let error = tcp_listener(addr).unwrap_err().to_string();
        assert!(
            error.contains(&addr.to_string()) && error.contains("another process listens"),
            "{error}"
        );
    }

    #[test]
    fn the_limit_of_open_files_is_raised_to_what_is_allowed() {
        let limit = raise_nofile_limit().unwrap();
        assert_eq!(getrlimit(Resource::RLIMIT_NOFILE).unwrap().0, limit);
    }
}
