//! Accept loops.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures::{Stream, stream};
use nix::errno::Errno;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::transport::server::Connected;

use crate::clock::Clock;
use crate::metrics::Metrics;

/// How long the loop rests when the machine has no descriptors or memory left.
const PAUSE: Duration = Duration::from_millis(50);
/// At most one line about failures in this time.
const LOG_EVERY: Duration = Duration::from_secs(5);

/// How many connections a listener has at once.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// In all. Those beyond are closed at once, and counted.
    pub connections: usize,
    /// From one source: an IPv4 address or an IPv6 /64 network. `None` for no such limit.
    pub per_source: Option<usize>,
}

impl Default for Limits {
    /// 10,000 connections, from wherever.
    fn default() -> Self {
        Self {
            connections: 10_000,
            per_source: None,
        }
    }
}

/// Something that connections come from.
pub trait Listener: Send + Sync + 'static {
    /// A connection.
    type Io: Send + 'static;

    /// The next connection, and the IP address that it comes from if it has one.
    fn accept(&self) -> impl Future<Output = io::Result<(Self::Io, Option<SocketAddr>)>> + Send;
}

impl Listener for TcpListener {
    type Io = TcpStream;

    async fn accept(&self) -> io::Result<(TcpStream, Option<SocketAddr>)> {
        let (io, remote) = Self::accept(self).await?;
        // A peer that is gone already makes this fail, and is noticed soon enough.
        let _ = io.set_nodelay(true);
        Ok((io, Some(remote)))
    }
}

/// What happened at a listener, for metrics. Clones count together.
#[derive(Clone, Debug, Default)]
pub struct ListenerStats {
    outcomes: Family<Outcome, Counter>,
    open: Gauge,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Outcome {
    result: &'static str,
}

impl ListenerStats {
    /// Registers the counts as `<listener>_connections` by `result`, and `<listener>_connections_open`.
    pub fn register(&self, metrics: &Metrics, listener: &str) {
        let (outcomes, open) = (self.outcomes.clone(), self.open.clone());
        metrics.register(
            &format!("{listener}_connections"),
            "Connections by what became of them",
            outcomes,
        );
        metrics.register(
            &format!("{listener}_connections_open"),
            "Connections that are open",
            open,
        );
    }

    /// How many connections ended up with `result`: `accepted`, `over_limit`, `over_source_limit`, `error`; with TLS also
    /// `handshake_ok`, `handshake_failed` and `handshake_timeout`.
    pub fn count(&self, result: &'static str) -> u64 {
        self.outcomes.get(&Outcome { result }).map_or(0, |count| count.get())
    }

    /// How many connections are open.
    pub fn open(&self) -> i64 {
        self.open.get()
    }

    pub(crate) fn add(&self, result: &'static str) {
        self.outcomes.get_or_create(&Outcome { result }).inc();
    }
}

/// A connection's place in its listener's limits, freed when dropped.
#[derive(Debug)]
pub struct Permit {
    _place: OwnedSemaphorePermit,
    source: Option<(Arc<Sources>, IpAddr)>,
    open: Gauge,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.open.dec();
        if let Some((sources, source)) = &self.source {
            sources.leave(source);
        }
    }
}

/// An accepted connection with its place in the limits.
#[derive(Debug)]
pub struct Accepted<S> {
    io: S,
    remote: Option<SocketAddr>,
    permit: Permit,
}

impl<S> Accepted<S> {
    /// Where it comes from, when that is an IP address.
    pub fn remote(&self) -> Option<SocketAddr> {
        self.remote
    }

    /// The socket.
    pub fn get_ref(&self) -> &S {
        &self.io
    }

    /// The socket and its place, which whoever wraps the socket keeps beside it.
    pub fn into_parts(self) -> (S, Permit) {
        (self.io, self.permit)
    }
}

/// A listener's accept loop with its limits.
pub struct Acceptor<L> {
    listener: L,
    limits: Limits,
    places: Arc<Semaphore>,
    sources: Arc<Sources>,
    stats: ListenerStats,
    clock: Clock,
    quiet_until: Option<Instant>,
}

/// The accept loop of `listener`. Over a limit, connections are closed and counted; when the machine is out of descriptors or memory, the
/// loop rests 50 ms, as trying again at once would only burn a core.
pub fn accept<L: Listener>(listener: L, limits: Limits, stats: ListenerStats, clock: Clock) -> Acceptor<L> {
    Acceptor {
        listener,
        limits,
        places: Arc::new(Semaphore::new(limits.connections.min(Semaphore::MAX_PERMITS))),
        sources: Arc::default(),
        stats,
        clock,
        quiet_until: None,
    }
}

/// As [`accept`], as a stream that never ends and never gives an error, in the form that tonic serves.
pub fn incoming<L: Listener>(
    listener: L,
    limits: Limits,
    stats: ListenerStats,
    clock: Clock,
) -> impl Stream<Item = io::Result<Accepted<L::Io>>> + Send {
    stream::unfold(accept(listener, limits, stats, clock), |mut acceptor| async {
        let accepted = acceptor.next().await;
        Some((Ok(accepted), acceptor))
    })
}

impl<L: Listener> Acceptor<L> {
    /// The next connection within the limits.
    pub async fn next(&mut self) -> Accepted<L::Io> {
        loop {
            match self.listener.accept().await {
                Ok((io, remote)) => match self.admit(remote) {
                    Ok(permit) => return Accepted { io, remote, permit },
                    Err(over) => {
                        drop(io);
                        self.stats.add(over);
                        self.log(|| tracing::warn!(?remote, limit = over, "connection refused"));
                    }
                },
                Err(error) => {
                    self.stats.add("error");
                    self.log(|| tracing::warn!(%error, "cannot accept a connection"));
                    if !concerns_one_connection(&error) {
                        self.clock.sleep(PAUSE).await;
                    }
                }
            }
        }
    }

    fn admit(&self, remote: Option<SocketAddr>) -> Result<Permit, &'static str> {
        let place = Arc::clone(&self.places).try_acquire_owned().map_err(|_| "over_limit")?;
        let source = match (self.limits.per_source, remote) {
            (Some(limit), Some(remote)) => {
                let source = source_of(remote.ip());
                if !self.sources.enter(source, limit) {
                    return Err("over_source_limit");
                }
                Some((Arc::clone(&self.sources), source))
            }
            _ => None,
        };
        self.stats.add("accepted");
        self.stats.open.inc();
        Ok(Permit {
            _place: place,
            source,
            open: self.stats.open.clone(),
        })
    }

    fn log(&mut self, line: impl FnOnce()) {
        let now = self.clock.instant();
        if self.quiet_until.is_none_or(|until| now >= until) {
            self.quiet_until = Some(now + LOG_EVERY);
            line();
        }
    }
}

/// Whether the error is of the one connection that failed, so that the next can be accepted at once (accept(2)).
fn concerns_one_connection(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw);
    let one = [
        Errno::ECONNABORTED,
        Errno::ECONNRESET,
        Errno::EINTR,
        Errno::EPERM,
        Errno::EPROTO,
        Errno::ENETDOWN,
        Errno::ENETUNREACH,
        Errno::EHOSTDOWN,
        Errno::EHOSTUNREACH,
        Errno::ENONET,
        Errno::ENOPROTOOPT,
        Errno::EOPNOTSUPP,
    ];
    errno.is_some_and(|errno| one.contains(&errno))
}

/// How many connections each source has.
#[derive(Debug, Default)]
struct Sources(Mutex<HashMap<IpAddr, usize>>);

impl Sources {
    fn enter(&self, source: IpAddr, limit: usize) -> bool {
        let mut open = self.lock();
        let count = open.get(&source).copied().unwrap_or_default();
        if count >= limit {
            return false;
        }
        open.insert(source, count + 1);
        true
    }

    fn leave(&self, source: &IpAddr) {
        let mut open = self.lock();
        match open.get_mut(source) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(open.remove(source)),
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        // Whole whatever happened to the thread that held the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What counts as one source: whoever has one IPv6 address has its whole /64.
fn source_of(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX)).into(),
        v4 => v4,
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Accepted<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Accepted<S> {
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

impl<S: Connected> Connected for Accepted<S> {
    type ConnectInfo = S::ConnectInfo;

    fn connect_info(&self) -> S::ConnectInfo {
        self.io.connect_info()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::pin::pin;

    use futures::FutureExt;

    use super::*;

    /// Gives what it is told to, then nothing.
    struct Scripted(Mutex<VecDeque<io::Result<SocketAddr>>>);

    impl Scripted {
        fn new(script: impl IntoIterator<Item = io::Result<SocketAddr>>) -> Self {
            Self(Mutex::new(script.into_iter().collect()))
        }
    }

    impl Listener for Scripted {
        type Io = ();

        async fn accept(&self) -> io::Result<((), Option<SocketAddr>)> {
            let next = self.0.lock().unwrap().pop_front();
            match next {
                Some(result) => result.map(|remote| ((), Some(remote))),
                None => std::future::pending().await,
            }
        }
    }

    fn from(ip: &str) -> io::Result<SocketAddr> {
        Ok(SocketAddr::new(ip.parse().unwrap(), 1))
    }

    fn errno(errno: Errno) -> io::Result<SocketAddr> {
        Err(errno.into())
    }

    #[tokio::test]
    async fn the_loop_rests_when_the_machine_has_nothing_left_and_goes_on() {
        for exhausted in [Errno::EMFILE, Errno::ENFILE, Errno::ENOBUFS, Errno::ENOMEM] {
            let (clock, stats) = (Clock::manual(0), ListenerStats::default());
            let listener = Scripted::new([errno(Errno::ECONNABORTED), errno(exhausted), from("192.0.2.1")]);
            let mut acceptor = accept(listener, Limits::default(), stats.clone(), clock.clone());
            let mut next = pin!(acceptor.next());
            assert!(next.as_mut().now_or_never().is_none());
            clock.advance(PAUSE - Duration::from_millis(1));
            assert!(next.as_mut().now_or_never().is_none());
            clock.advance(Duration::from_millis(1));
            assert!(next.await.remote().is_some());
            assert_eq!((stats.count("error"), stats.count("accepted")), (2, 1));
        }
    }

    #[tokio::test]
    async fn connections_over_the_limit_are_closed_and_a_closed_one_frees_its_place() {
        let stats = ListenerStats::default();
        let listener = Scripted::new((0..4).map(|_| from("192.0.2.1")));
        let limits = Limits {
            connections: 2,
            per_source: None,
        };
        let mut acceptor = accept(listener, limits, stats.clone(), Clock::manual(0));
        let (first, second) = (acceptor.next().await, acceptor.next().await);
        assert!(acceptor.next().now_or_never().is_none());
        assert_eq!((stats.count("over_limit"), stats.open()), (2, 2));
        drop(first);
        acceptor.listener.0.lock().unwrap().push_back(from("192.0.2.1"));
        let third = acceptor.next().await;
        assert_eq!(stats.open(), 2);
        drop((second, third));
        assert_eq!(stats.open(), 0);
    }

    #[tokio::test]
    async fn one_source_cannot_take_all_places() {
        let stats = ListenerStats::default();
        let script = [
            "192.0.2.1",
            "::ffff:192.0.2.1",
            "2001:db8::1",
            "2001:db8::2",
            "2001:db8:0:1::1",
        ];
        let limits = Limits {
            connections: 10,
            per_source: Some(1),
        };
        let mut acceptor = accept(Scripted::new(script.map(from)), limits, stats.clone(), Clock::manual(0));
        let mut held = Vec::new();
        for expected in ["192.0.2.1", "2001:db8::1", "2001:db8:0:1::1"] {
            let accepted = acceptor.next().await;
            assert_eq!(accepted.remote().unwrap().ip().to_string(), expected);
            held.push(accepted);
        }
        assert_eq!(stats.count("over_source_limit"), 2);
        held.clear();
        assert!(acceptor.sources.lock().is_empty());
    }
}
