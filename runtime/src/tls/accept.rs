//! Handshakes beside the accept loop.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::{Stream, stream};
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

use super::PeerIdentity;
use super::verify::in_words;
use crate::clock::Clock;
use crate::net::{Accepted, Limits, Listener, ListenerStats, accept};

/// How much a TLS listener takes on at once.
#[derive(Clone, Copy, Debug)]
pub struct TlsLimits {
    /// Of connections, those in their handshake included.
    pub connections: Limits,
    /// How many handshakes run at once; when that many do, connections wait in the kernel.
    pub handshakes: usize,
    /// How long a handshake may take.
    pub handshake_timeout: Duration,
}

impl Default for TlsLimits {
    /// 10,000 connections, 1,024 handshakes, 10 s.
    fn default() -> Self {
        Self {
            connections: Limits::default(),
            handshakes: 1024,
            handshake_timeout: Duration::from_secs(10),
        }
    }
}

/// A connection after its handshake.
#[derive(Debug)]
pub struct Conn {
    io: TlsStream<Accepted<TcpStream>>,
    info: ConnectInfo,
}

/// Who is at the other end; tonic puts it into each request's extensions.
#[derive(Clone, Debug)]
pub struct ConnectInfo {
    /// Where the connection comes from.
    pub remote_addr: Option<SocketAddr>,
    /// Who the client is, if it showed a certificate.
    pub peer: Option<Arc<PeerIdentity>>,
}

impl Conn {
    /// Who is at the other end.
    pub fn info(&self) -> &ConnectInfo {
        &self.info
    }
}

/// The connections of `listener` after their handshakes, which run beside each other and beside the accept loop. One that fails or takes too long is
/// closed, counted and logged, and concerns no other. The stream never ends and never gives an error; dropping it stops the handshakes under way.
pub fn incoming<L>(
    listener: L,
    config: Arc<ServerConfig>,
    limits: TlsLimits,
    stats: ListenerStats,
    clock: Clock,
) -> impl Stream<Item = io::Result<Conn>> + Send
where
    L: Listener<Io = TcpStream>,
{
    let acceptor = accept(listener, limits.connections, stats.clone(), clock.clone());
    let shaker = Shaker {
        tls: TlsAcceptor::from(config),
        limit: limits.handshake_timeout,
        stats,
        clock,
    };
    let state = (acceptor, shaker, JoinSet::new());
    stream::unfold(state, move |(mut acceptor, shaker, mut handshakes)| async move {
        loop {
            tokio::select! {
                accepted = acceptor.next(), if handshakes.len() < limits.handshakes.max(1) => {
                    handshakes.spawn(shaker.clone().shake(accepted));
                }
                // A handshake that panicked is one that failed; the panic was printed.
                Some(done) = handshakes.join_next() => if let Ok(Some(conn)) = done {
                    return Some((Ok(conn), (acceptor, shaker, handshakes)));
                },
            }
        }
    })
}

#[derive(Clone)]
struct Shaker {
    tls: TlsAcceptor,
    limit: Duration,
    stats: ListenerStats,
    clock: Clock,
}

impl Shaker {
    async fn shake(self, accepted: Accepted<TcpStream>) -> Option<Conn> {
        let remote = accepted.remote();
        match self.clock.timeout(self.limit, self.tls.accept(accepted)).await {
            Ok(Ok(io)) => match peer_of(&io) {
                Ok(peer) => {
                    self.stats.add("handshake_ok");
                    return Some(Conn {
                        io,
                        info: ConnectInfo {
                            remote_addr: remote,
                            peer,
                        },
                    });
                }
                Err(error) => {
                    self.stats.add("handshake_failed");
                    tracing::warn!(?remote, error, "a verified client certificate cannot be read");
                }
            },
            Ok(Err(error)) => {
                self.stats.add("handshake_failed");
                tracing::info!(?remote, error = %in_words(error), "TLS handshake failed");
            }
            Err(_) => {
                self.stats.add("handshake_timeout");
                tracing::info!(?remote, limit = ?self.limit, "TLS handshake took too long");
            }
        }
        None
    }
}

fn peer_of<S>(io: &TlsStream<S>) -> Result<Option<Arc<PeerIdentity>>, String> {
    let Some([leaf, ..]) = io.get_ref().1.peer_certificates() else {
        return Ok(None);
    };
    // The bytes that the verifier judged, and by the same parser.
    let peer = PeerIdentity::of(leaf.clone().into_owned()).map_err(|error| error.to_string())?;
    Ok(Some(Arc::new(peer)))
}

impl Connected for Conn {
    type ConnectInfo = ConnectInfo;

    fn connect_info(&self) -> ConnectInfo {
        self.info.clone()
    }
}

impl AsyncRead for Conn {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for Conn {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}
