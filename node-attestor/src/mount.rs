//! Which pod was this socket or file volume mounted into?
//!
//! In: the kubelet's calls, as a CSI driver gets them, each with the pod's name and the pod's own token; what is held, from `keep`. Out: for each volume a socket of the pod's own, whose
//! connections go to `serve` with the pod as their other end; the files that the volume asks for; and for `link`, which pods there are ([`Pods`]), whose answer comes back the same way.
//!
//! The kubelet's word that a volume is mounted into a pod is the first witness. The pod's token goes to the server, which asks the API server: the second. Until both agree, a pod has no
//! other identity than one that names its UID.
//!
//! ```text
//! kubelet ──NodePublishVolume──► driver ─► volumes ─► socket ──connections──► serve
//!                                             │  └──► upkeep ─► files
//!                                             ▼
//!                                           pods ◄──PodUp, PodDown, PodJudged──► link
//! ```

mod contents;
mod driver;
mod metrics;
mod place;
mod pods;
mod registration;
mod request;
mod socket;
mod state;
mod upkeep;
mod volumes;
mod write;

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::Stream;
use mintmark_proto::csi::identity_server::IdentityServer;
use mintmark_proto::csi::node_server::NodeServer;
use mintmark_proto::registration::registration_server::RegistrationServer;
use mintmark_runtime::clock::Clock;
use mintmark_runtime::fs::{FsError, ensure_dir};
use mintmark_runtime::metrics::Metrics;
use mintmark_runtime::net::{Limits, ListenerStats, NetError, UnixSocket, unix_listener};
use mintmark_runtime::task::{BlockingPool, Supervisor};
use nix::unistd::geteuid;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;
use tonic::transport::server::Router;

use crate::keep::Keep;
use crate::peer::{PeerStats, Peered, Places};
use driver::Driver;
use metrics::MountMetrics;
use registration::Registrar;
use socket::{Doors, SOCKET};
use state::{Key, Records};
use volumes::{Inner, State, VolumeError, Volumes};

pub use pods::Pods;
pub use registration::Registered;

/// The largest message of the kubelet: tokens and what a volume's attributes may hold.
const MAX_MESSAGE: usize = 256 << 10;
/// Threads that mount and write.
const POOL_THREADS: usize = 2;
/// What waits for them: a node's pods may all begin at once.
const POOL_QUEUE: usize = 1024;
/// So many new connections wait for the Workload API.
const CONNECTIONS: usize = 64;
/// Connections of the kubelet at once to one socket.
const KUBELETS: usize = 256;

/// What the driver is to do.
#[derive(Clone, Debug)]
pub struct MountSettings {
    /// The drivers' names.
    pub drivers: Vec<String>,
    /// The node's name in Kubernetes.
    pub node: String,
    /// The kubelet's directory.
    pub kubelet_dir: PathBuf,
    /// Where the volumes are, open to nobody else.
    pub dir: PathBuf,
    /// Where it is written down which volumes there are.
    pub data_dir: PathBuf,
    /// How long a volume with files waits for the identity before the kubelet is told to try again.
    pub patience: Duration,
    /// Connections of all pods at once.
    pub connections: usize,
    /// Connections of one pod at once.
    pub connections_per_pod: usize,
}

/// What the driver works with.
pub struct Parts<'a> {
    /// What is held.
    pub keep: Keep,
    /// Tells the server of pods.
    pub pods: Pods,
    /// Counts connections.
    pub peers: PeerStats,
    /// The time.
    pub clock: Clock,
    /// Its tasks.
    pub supervisor: &'a Supervisor,
    /// Its numbers.
    pub metrics: &'a Metrics,
}

/// Why the driver did not start.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// A directory.
    #[error("[csi]: {0}")]
    Dir(#[from] FsError),
    /// The directory of volumes is open to others.
    #[error("[csi]: cannot close {dir} to others: {source}")]
    Open {
        /// The directory.
        dir: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A socket.
    #[error("[csi]: {0}")]
    Listen(#[from] NetError),
    /// What an earlier run left.
    #[error("[csi]: {0}")]
    Restore(String),
}

/// The longest path of a pod's socket below `csi.dir`.
pub(crate) const SOCKET_BELOW: usize = 1 + Key::TEXT + 1 + SOCKET.len();

/// The driver's own socket.
pub(crate) fn driver_socket(kubelet_dir: &Path, driver: &str) -> PathBuf {
    kubelet_dir.join("plugins").join(driver).join("csi.sock")
}

/// The socket by which the kubelet finds the driver.
pub(crate) fn registration_socket(kubelet_dir: &Path, driver: &str) -> PathBuf {
    kubelet_dir.join("plugins_registry").join(format!("{driver}-reg.sock"))
}

/// Takes up the volumes that are there, and serves the kubelet until shutdown: what comes out are the connections of pods, and whether the kubelet has taken the drivers. Must be called
/// within a runtime.
///
/// # Errors
/// When a directory or socket cannot be used.
pub fn start(
    settings: MountSettings,
    parts: Parts<'_>,
) -> Result<(impl Stream<Item = io::Result<Peered>> + Send + use<>, Registered), MountError> {
    let Parts {
        keep,
        pods,
        peers,
        clock,
        supervisor,
        metrics,
    } = parts;
    close_to_others(&settings.dir)?;
    let listeners = ListenerStats::default();
    listeners.register(metrics, "pod");
    let (send, connections) = mpsc::channel(CONNECTIONS);
    let volumes = Volumes(Arc::new(Inner {
        dir: settings.dir,
        node: settings.node,
        patience: settings.patience,
        records: Records::open(settings.data_dir.join("csi"))?,
        pods,
        keep,
        doors: Doors {
            places: Places::new(settings.connections_per_pod, settings.connections),
            per_pod: settings.connections_per_pod,
            listeners,
            peers,
            clock: clock.clone(),
            supervisor: supervisor.clone(),
            connections: send,
        },
        pool: BlockingPool::new("mount", POOL_THREADS, POOL_QUEUE),
        clock: clock.clone(),
        supervisor: supervisor.clone(),
        metrics: MountMetrics::register(metrics),
        state: Mutex::new(State::default()),
    }));
    volumes
        .restore()
        .map_err(|error: VolumeError| MountError::Restore(error.to_string()))?;
    let registered = Registered::default();
    for name in settings.drivers {
        let driver = Driver {
            name,
            kubelet_dir: settings.kubelet_dir.clone(),
            volumes: volumes.clone(),
        };
        serve(driver, &registered, &clock, supervisor)?;
    }
    Ok((ReceiverStream::new(connections), registered))
}

/// Sees to it that nobody else can pass through the directory, also one that was made by whoever mounted it for us: the pods' sockets are in it, and whoever reaches one is that pod.
fn close_to_others(dir: &Path) -> Result<(), MountError> {
    ensure_dir(dir, 0o700)?;
    let closed = std::fs::metadata(dir).and_then(|meta| match meta.uid() == geteuid().as_raw() {
        true => std::fs::set_permissions(dir, Permissions::from_mode(0o700)),
        false => Err(io::Error::other(format!(
            "it belongs to user {}, who could be any pod",
            meta.uid()
        ))),
    });
    closed.map_err(|source| MountError::Open {
        dir: dir.into(),
        source,
    })
}

/// Serves one driver, then makes it known to the kubelet.
fn serve(driver: Driver, registered: &Registered, clock: &Clock, supervisor: &Supervisor) -> Result<(), MountError> {
    let path = driver_socket(&driver.kubelet_dir, &driver.name);
    let waits = format!(
        "the kubelet has not taken driver {} yet; does csi.kubelet_dir = {:?} fit its --root-dir?",
        driver.name,
        driver.kubelet_dir.display()
    );
    registered.set(&driver.name, Err(waits));
    let registrar = Registrar {
        driver: driver.name.clone(),
        endpoint: path.display().to_string(),
        metrics: driver.volumes.0.metrics.clone(),
        registered: registered.clone(),
    };
    registrar.metrics.registered(&driver.name, false);
    let registration = registration_socket(&driver.kubelet_dir, &driver.name);
    let calls = Server::builder()
        .add_service(IdentityServer::new(driver.clone()))
        .add_service(NodeServer::new(driver).max_decoding_message_size(MAX_MESSAGE));
    run(listen(&path)?, calls, clock, supervisor);
    let questions = Server::builder().add_service(RegistrationServer::new(registrar));
    run(listen(&registration)?, questions, clock, supervisor);
    Ok(())
}

/// A socket for the kubelet alone.
fn listen(path: &Path) -> Result<UnixSocket, MountError> {
    if let Some(dir) = path.parent() {
        ensure_dir(dir, 0o755)?;
    }
    Ok(unix_listener(path, 0o600, None)?)
}

fn run(socket: UnixSocket, router: Router, clock: &Clock, supervisor: &Supervisor) {
    let limits = Limits {
        connections: KUBELETS,
        per_source: None,
    };
    let path = socket.path().to_owned();
    let incoming = socket.incoming(limits, ListenerStats::default(), clock.clone());
    let shutdown = supervisor.token().cancelled_owned();
    supervisor.spawn_critical("csi", async move {
        if let Err(error) = router.serve_with_incoming_shutdown(incoming, shutdown).await {
            tracing::error!(socket = %path.display(), %error, "the kubelet is not served any more");
        }
    });
}

#[cfg(test)]
mod tests;
