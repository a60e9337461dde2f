//! Accepted sockets with the process behind them.

use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use futures::{Stream, StreamExt};
use mintmark_runtime::metrics::{Counter, Metrics};
use mintmark_runtime::net::{Accepted, LocalStream};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::Connected;

use super::pod::{Pod, PodCaller};
use super::process::Process;
use super::{Evidence, Holder, Peer, PeerError};

/// An accepted socket whose other end is known.
#[derive(Debug)]
pub struct Peered {
    io: Accepted<LocalStream>,
    peer: Arc<Peer>,
    _place: Place,
}

/// Whom the connections of a listener come from.
#[derive(Clone, Debug)]
pub enum Source {
    /// Processes of this node: the kernel says which.
    Processes,
    /// One pod, into which the socket is mounted until the token is cancelled.
    Pod(Arc<Pod>, CancellationToken),
}

/// What became of connections, for metrics. A handle.
#[derive(Clone, Default)]
pub struct PeerStats(Family<Outcome, Counter>);

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Outcome {
    result: &'static str,
}

impl PeerStats {
    /// Registers the counts as `peers` by `result`.
    pub fn register(&self, metrics: &Metrics) {
        metrics.register(
            "peers",
            "Connections to the Workload API by what was found at their other end",
            self.0.clone(),
        );
    }

    fn add(&self, result: &'static str) {
        self.0.get_or_create(&Outcome { result }).inc();
    }
}

/// The connections of `accepted` whose other end is known and for which there is one of `places`. The others are closed, counted and logged.
pub fn incoming(
    accepted: impl Stream<Item = io::Result<Accepted<LocalStream>>> + Send,
    source: Source,
    places: Places,
    stats: PeerStats,
) -> impl Stream<Item = io::Result<Peered>> + Send {
    accepted.filter_map(move |accepted| {
        let peered = accepted.map(|io| {
            let peer = source.peer(io.get_ref()).inspect_err(|error| {
                stats.add("unknown");
                match error {
                    // As processes do that are short-lived, however many there are.
                    PeerError::Ended(_) | PeerError::CallerEnded => {
                        tracing::debug!(%error, "connection closed: its other end is gone")
                    }
                    error => tracing::info!(%error, "connection closed: its other end is not known"),
                }
            });
            let peer = peer.ok()?;
            let place = places.enter(peer.holder()).inspect_err(|over| {
                stats.add("over_user_limit");
                over.tell(&peer);
            });
            let place = place.ok()?;
            stats.add(match peer.evidence() {
                Evidence::PeerPidfd => "pidfd",
                Evidence::StartTime => "start_time",
                Evidence::Mount => "mount",
            });
            Some(Peered {
                io,
                peer: Arc::new(peer),
                _place: place,
            })
        });
        std::future::ready(peered.transpose())
    })
}

impl Source {
    fn peer(&self, socket: &UnixStream) -> Result<Peer, PeerError> {
        match self {
            Self::Processes => Process::of(socket).map(Peer::Process),
            Self::Pod(pod, unmounted) => PodCaller::of(socket, pod, unmounted).map(Peer::Pod),
        }
    }
}

/// How many connections there may be. A handle.
#[derive(Clone, Debug)]
pub struct Places(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    each: usize,
    all: usize,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    all: Count,
    by_holder: HashMap<Holder, Count>,
}

#[derive(Debug, Default)]
struct Count {
    open: usize,
    /// That these are too many has been told: whoever connects in a loop must not fill the log.
    is_told: bool,
}

#[derive(Debug)]
struct Place {
    places: Places,
    holder: Holder,
}

/// There are too many.
#[derive(Debug)]
struct Over {
    /// Of all, and not of one holder.
    is_in_all: bool,
    limit: usize,
    is_news: bool,
}

impl Over {
    fn tell(&self, peer: &Peer) {
        let (holder, limit) = (peer.holder(), self.limit);
        match (self.is_news, self.is_in_all) {
            (false, _) => {}
            (true, false) => tracing::warn!(
                %holder,
                limit,
                "connections are closed: their holder has too many; told once, until it has half of them"
            ),
            (true, true) => tracing::warn!(
                %holder,
                limit,
                "connections are closed: there are too many in all; told once, until there are half of them"
            ),
        }
    }
}

impl Count {
    /// One more, if `limit` allows it. Otherwise, whether that is news.
    fn check(&mut self, limit: usize) -> Result<(), bool> {
        match self.open < limit {
            true => Ok(()),
            false => Err(!std::mem::replace(&mut self.is_told, true)),
        }
    }

    fn leave(&mut self, limit: usize) {
        self.open = self.open.saturating_sub(1);
        self.is_told &= self.open > limit / 2;
    }
}

impl Places {
    /// Up to `each` for each holder, and `all` together.
    pub fn new(each: usize, all: usize) -> Self {
        Self(Arc::new(Inner {
            each,
            all,
            open: Mutex::default(),
        }))
    }

    fn enter(&self, holder: Holder) -> Result<Place, Over> {
        let Inner { each, all, .. } = *self.0;
        let mut open = self.open();
        let over = |is_in_all, limit| {
            move |is_news| Over {
                is_in_all,
                limit,
                is_news,
            }
        };
        if let Some(count) = open.by_holder.get_mut(&holder) {
            count.check(each).map_err(over(false, each))?;
        }
        open.all.check(all).map_err(over(true, all))?;
        open.all.open += 1;
        open.by_holder.entry(holder.clone()).or_default().open += 1;
        Ok(Place {
            places: self.clone(),
            holder,
        })
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.0.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Inner { each, all, .. } = *self.places.0;
        let mut open = self.places.open();
        open.all.leave(all);
        match open.by_holder.get_mut(&self.holder) {
            Some(count) if count.open > 1 => count.leave(each),
            _ => drop(open.by_holder.remove(&self.holder)),
        }
    }
}

impl Connected for Peered {
    type ConnectInfo = Arc<Peer>;

    fn connect_info(&self) -> Arc<Peer> {
        Arc::clone(&self.peer)
    }
}

impl AsyncRead for Peered {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for Peered {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_holder_has_at_most_so_many_connections_and_others_are_not_concerned() {
        let places = Places::new(2, 4);
        let enter = |holder| places.enter(holder);
        let one = || Holder::User(1);
        let held = (enter(one()).unwrap(), enter(one()).unwrap());
        assert!(!enter(one()).unwrap_err().is_in_all);
        let other = enter(Holder::Pod("u".into())).unwrap();
        drop(held.0);
        drop(enter(one()).unwrap());
        drop((held.1, other));
        assert!(places.open().by_holder.is_empty());
    }

    #[test]
    fn all_together_have_no_more_than_so_many_which_is_told_once() {
        let places = Places::new(2, 3);
        let enter = |uid| places.enter(Holder::User(uid));
        let mut held: Vec<_> = (0..3).map(|uid| enter(uid).unwrap()).collect();
        let over = enter(9).unwrap_err();
        assert!(over.is_in_all && over.is_news && over.limit == 3);
        assert!(!enter(8).unwrap_err().is_news);
        held.truncate(1);
        held.extend((1..3).map(|uid| enter(uid).unwrap()));
        assert!(enter(9).unwrap_err().is_news);
        drop(held);
        assert!(enter(9).is_ok());
    }

    #[test]
    fn who_connects_over_the_limit_again_and_again_is_told_of_once() {
        let places = Places::new(4, 100);
        let enter = || places.enter(Holder::User(1));
        let mut open: Vec<_> = (0..4).map(|_| enter().unwrap()).collect();
        let is_news = || enter().unwrap_err().is_news;
        assert!(is_news());
        assert!(!is_news());
        // One that comes and goes at the limit is no end of it.
        open.pop();
        open.push(enter().unwrap());
        assert!(!is_news());
        open.truncate(2);
        open.extend((0..2).map(|_| enter().unwrap()));
        assert!(is_news());
    }
}
