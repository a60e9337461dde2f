//! A pod's own socket.

use std::io;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;

use futures::StreamExt as _;
use mintmark_runtime::clock::Clock;
use mintmark_runtime::net::{Limits, ListenerStats, NetError, unix_listener};
use mintmark_runtime::task::Supervisor;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::place::PlaceError;
use crate::peer::{PeerStats, Peered, Places, Pod, Source, incoming};

/// The socket, as pods written for SPIRE look for it.
pub(super) const SOCKET: &str = "spire-agent.sock";
/// The same, as Istio's proxies look for it.
const ALIAS: &str = "socket";
/// Any user of the pod may connect. The way to the socket is open to the pod alone.
const MODE: u32 = 0o777;

/// What the sockets of all pods share. A handle.
#[derive(Clone)]
pub(super) struct Doors {
    /// How many connections one pod, and all pods, may have.
    pub(super) places: Places,
    pub(super) per_pod: usize,
    pub(super) listeners: ListenerStats,
    pub(super) peers: PeerStats,
    pub(super) clock: Clock,
    pub(super) supervisor: Supervisor,
    /// Where connections go.
    pub(super) connections: mpsc::Sender<io::Result<Peered>>,
}

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub(super) enum SocketError {
    #[error(transparent)]
    Listen(#[from] NetError),
    #[error(transparent)]
    Alias(#[from] PlaceError),
}

impl Doors {
    /// Opens the pod's socket in `dir` until `unmounted` is cancelled. Must be called within a runtime.
    pub(super) fn open(&self, dir: &Path, pod: &Arc<Pod>, unmounted: &CancellationToken) -> Result<(), SocketError> {
        let socket = unix_listener(&dir.join(SOCKET), MODE, None)?;
        alias(&dir.join(ALIAS))?;
        let limits = Limits {
            connections: self.per_pod,
            per_source: None,
        };
        let accepted = socket.incoming(limits, self.listeners.clone(), self.clock.clone());
        let source = Source::Pod(Arc::clone(pod), unmounted.clone());
        let accepted = incoming(accepted.boxed(), source, self.places.clone(), self.peers.clone());
        let (connections, unmounted, shutdown) = (self.connections.clone(), unmounted.clone(), self.supervisor.token());
        self.supervisor.spawn("pod-socket", async move {
            let mut accepted = pin!(accepted);
            let pass_on = async {
                while let Some(connection) = accepted.next().await {
                    if connections.send(connection).await.is_err() {
                        return;
                    }
                }
            };
            tokio::select! {
                () = pass_on => {}
                () = unmounted.cancelled() => {}
                () = shutdown.cancelled() => {}
            }
        });
        Ok(())
    }
}

fn alias(path: &Path) -> Result<(), PlaceError> {
    match std::os::unix::fs::symlink(SOCKET, path) {
        Err(source) if source.kind() != io::ErrorKind::AlreadyExists => Err(PlaceError::Io {
            action: "make the link",
            path: PathBuf::from(path),
            source,
        }),
        _ => Ok(()),
    }
}
