//! Accepted sockets with the process behind them.

use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use futures::{Stream, StreamExt};
use mintmark_runtime::metrics::{Counter, Metrics};
use mintmark_runtime::net::Accepted;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tonic::transport::server::Connected;

use super::PeerError;
use super::process::Process;

/// An accepted socket whose other end is known.
#[derive(Debug)]
pub struct Peered {
    io: Accepted<UnixStream>,
    process: Arc<Process>,
    _place: Place,
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

/// The connections of `accepted` whose other end is known, each user having at most `per_user` at once. The others are closed, counted and logged.
pub fn incoming(
    accepted: impl Stream<Item = io::Result<Accepted<UnixStream>>> + Send,
    per_user: usize,
    stats: PeerStats,
) -> impl Stream<Item = io::Result<Peered>> + Send {
    let users = Arc::new(Users::default());
    accepted.filter_map(move |accepted| {
        let peered = accepted.map(|io| {
            let process = Process::of(io.get_ref()).inspect_err(|error| {
                stats.add("unknown");
                match error {
                    // As processes do that are short-lived, however many there are.
                    PeerError::Ended(_) => tracing::debug!(%error, "connection closed: its other end is gone"),
                    error => tracing::info!(%error, "connection closed: its other end is not known"),
                }
            });
            let process = process.ok()?;
            let place = users.enter(process.uid(), per_user).inspect_err(|over| {
                stats.add("over_user_limit");
                if over.is_news {
                    tracing::warn!(
                        uid = process.uid(),
                        limit = per_user,
                        "connections are closed: their user has too many; told once, until it has half of them"
                    );
                }
            });
            let place = place.ok()?;
            stats.add(match process.evidence() {
                super::Evidence::PeerPidfd => "pidfd",
                super::Evidence::StartTime => "start_time",
            });
            Some(Peered {
                io,
                process: Arc::new(process),
                _place: place,
            })
        });
        std::future::ready(peered.transpose())
    })
}

/// How many connections each user has.
#[derive(Debug, Default)]
struct Users(Mutex<HashMap<u32, Open>>);

#[derive(Debug, Default)]
struct Open {
    count: usize,
    /// That it has too many has been told: whoever connects in a loop must not fill the log.
    is_told: bool,
}

#[derive(Debug)]
struct Place {
    users: Arc<Users>,
    uid: u32,
    limit: usize,
}

/// The user has too many.
#[derive(Debug)]
struct Over {
    is_news: bool,
}

impl Users {
    fn enter(self: &Arc<Self>, uid: u32, limit: usize) -> Result<Place, Over> {
        let mut users = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let open = users.entry(uid).or_default();
        if open.count >= limit {
            let is_news = !std::mem::replace(&mut open.is_told, true);
            return Err(Over { is_news });
        }
        open.count += 1;
        Ok(Place {
            users: Arc::clone(self),
            uid,
            limit,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut users = self.users.0.lock().unwrap_or_else(PoisonError::into_inner);
        match users.get_mut(&self.uid) {
            Some(open) if open.count > 1 => {
                open.count -= 1;
                open.is_told &= open.count > self.limit / 2;
            }
            _ => drop(users.remove(&self.uid)),
        }
    }
}

impl Connected for Peered {
    type ConnectInfo = Arc<Process>;

    fn connect_info(&self) -> Arc<Process> {
        Arc::clone(&self.process)
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
    fn a_user_has_at_most_so_many_connections_and_others_are_not_concerned() {
        let users = Arc::new(Users::default());
        let (one, two) = (users.enter(1, 2).unwrap(), users.enter(1, 2).unwrap());
        assert!(users.enter(1, 2).is_err());
        let other = users.enter(2, 2).unwrap();
        drop(one);
        drop(users.enter(1, 2).unwrap());
        drop((two, other));
        assert!(users.0.lock().unwrap().is_empty());
    }

    #[test]
    fn who_connects_over_the_limit_again_and_again_is_told_of_once() {
        let users = Arc::new(Users::default());
        let mut open: Vec<_> = (0..4).map(|_| users.enter(1, 4).unwrap()).collect();
        let is_news = || users.enter(1, 4).unwrap_err().is_news;
        assert!(is_news());
        assert!(!is_news());
        // One that comes and goes at the limit is no end of it.
        open.pop();
        open.push(users.enter(1, 4).unwrap());
        assert!(!is_news());
        open.truncate(2);
        open.extend((0..2).map(|_| users.enter(1, 4).unwrap()));
        assert!(is_news());
    }
}
