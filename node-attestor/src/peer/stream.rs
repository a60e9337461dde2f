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
                tracing::info!(%error, "connection closed: its other end is not known");
            });
            let process = process.ok()?;
            let Some(place) = users.enter(process.uid(), per_user) else {
                stats.add("over_user_limit");
                tracing::warn!(
                    uid = process.uid(),
                    limit = per_user,
                    "connection closed: its user has too many"
                );
                return None;
            };
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
struct Users(Mutex<HashMap<u32, usize>>);

#[derive(Debug)]
struct Place {
    users: Arc<Users>,
    uid: u32,
}

impl Users {
    fn enter(self: &Arc<Self>, uid: u32, limit: usize) -> Option<Place> {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.entry(uid).or_default();
        if *count >= limit {
            return None;
        }
        *count += 1;
        Some(Place {
            users: Arc::clone(self),
            uid,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.users.0.lock().unwrap_or_else(PoisonError::into_inner);
        match open.get_mut(&self.uid) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(open.remove(&self.uid)),
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
        assert!(users.enter(1, 2).is_none());
        let other = users.enter(2, 2).unwrap();
        drop(one);
        drop(users.enter(1, 2).unwrap());
        drop((two, other));
        assert!(users.0.lock().unwrap().is_empty());
    }
}
