//! Connections to others.

use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpStream, UnixStream, lookup_host};

use crate::clock::Clock;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The name has no address.
    #[error("cannot find the address of {target}: {source}")]
    Resolve {
        /// Whom we looked for, as `host:port`.
        target: String,
        /// Why it failed.
        source: io::Error,
    },
    /// None of its addresses takes a connection.
    #[error("cannot connect to {target}: {source}")]
    Connect {
        /// Whom we called.
        target: String,
        /// Why the last address failed.
        source: io::Error,
    },
    /// It took too long.
    #[error("cannot connect to {target} within {limit:?}")]
    TimedOut {
        /// Whom we called.
        target: String,
        /// How long that may take.
        limit: Duration,
    },
    /// TLS could not be agreed on, or the other side is not who it must be.
    #[error("cannot agree on TLS with {target}: {source}")]
    Handshake {
        /// Whom we called.
        target: String,
        /// Why it failed.
        source: io::Error,
    },
    /// The URI says not whom to call.
    #[error("{0} names no host to connect to")]
    NoHost(String),
}

/// Connects to `target`, a `host:port`, trying its addresses one after the other, within `limit` in all. The connection has `TCP_NODELAY` set.
///
/// # Errors
/// When the name has no address, none takes the connection, or it takes too long.
pub async fn tcp_connect(target: &str, limit: Duration, clock: &Clock) -> Result<TcpStream, ConnectError> {
    let connect = async {
        let resolved = lookup_host(target).await;
        let addrs = resolved.map_err(|source| ConnectError::Resolve {
            target: target.into(),
            source,
        })?;
        let mut failed = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for addr in addrs {
            match TcpStream::connect(addr)
                .await
                .and_then(|io| io.set_nodelay(true).map(|()| io))
            {
                Ok(io) => return Ok(io),
                Err(error) => failed = error,
            }
        }
        Err(ConnectError::Connect {
            target: target.into(),
            source: failed,
        })
    };
    let timed_out = |_| ConnectError::TimedOut {
        target: target.into(),
        limit,
    };
    clock.timeout(limit, connect).await.map_err(timed_out)?
}

/// Connects to the Unix socket at `path`.
///
/// # Errors
/// When nobody listens there, or we may not connect.
pub async fn unix_connect(path: &Path) -> Result<UnixStream, ConnectError> {
    let target = || format!("unix:{}", path.display());
    UnixStream::connect(path).await.map_err(|source| ConnectError::Connect {
        target: target(),
        source,
    })
}

/// Connects a gRPC client to a Unix socket: for `Endpoint::connect_with_connector`, whose URI it does not look at.
#[derive(Clone, Debug)]
pub struct UnixConnector {
    path: PathBuf,
}

impl UnixConnector {
    /// A connector to the socket at `path`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }
}

impl tower::Service<Uri> for UnixConnector {
    type Response = TokioIo<UnixStream>;
    type Error = ConnectError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, ConnectError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let path = self.path.clone();
        Box::pin(async move { unix_connect(&path).await.map(TokioIo::new) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::tcp_listener;

    #[tokio::test]
    async fn a_connection_that_fails_says_to_whom() {
        let clock = Clock::system();
        let addr = {
            let listener = tcp_listener(([127, 0, 0, 1], 0).into()).unwrap();
            listener.local_addr().unwrap().to_string()
        };
        let error = tcp_connect(&addr, Duration::from_secs(10), &clock).await.unwrap_err();
        assert!(
            matches!(&error, ConnectError::Connect { target, .. } if *target == addr),
            "{error}"
        );
        let error = tcp_connect("no port", Duration::from_secs(10), &clock)
            .await
            .unwrap_err();
        assert!(matches!(error, ConnectError::Resolve { .. }), "{error}");
        let error = unix_connect(Path::new("/nonexistent/api.sock"))
            .await
            .unwrap_err()
            .to_string();
        assert!(error.contains("unix:/nonexistent/api.sock"), "{error}");
    }
}
