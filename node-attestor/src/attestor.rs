//! The rooms put together: one running attestor.
//!
//! In: a [`Config`] and the time. Out: [`Running`], which serves workloads until it is told to stop. The binary and `mintmark dev` call it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use mintmark_identity::SpiffeId;
use mintmark_runtime::clock::Clock;
use mintmark_runtime::config::Listen;
use mintmark_runtime::crypto::SealError;
use mintmark_runtime::fs::{DirLock, FsError, LockError, ensure_dir};
use mintmark_runtime::health::Health;
use mintmark_runtime::http::{Serving, serve_http};
use mintmark_runtime::metrics::Metrics;
use mintmark_runtime::net::{Limits, ListenerStats, NetError, tcp_listener, unix_listener};
use mintmark_runtime::task::{BlockingPool, Stop, Supervisor};

use crate::config::{Config, InvalidConfig, JoinMethod};
use crate::join::{BootstrapError, Certificate, Join, JoinError, Method, PopError, Projected, Settings, Trust};
use crate::keep::{Cache, Keep, KeepLimits, Readiness, Sealer, Summary, register};
use crate::link::{self, Link};
use crate::mount::{self, MountError, MountSettings, Parts, Pods, Registered};
use crate::peer::{self, PeerStats, Places, Source, Unix, UnixLimits};
use crate::serve::{Serve, ServeLimits};

/// The file of the sealed cache in `data_dir`.
const CACHE: &str = "cache";
/// Threads that read programs and ask the name service.
const POOL_THREADS: usize = 2;
/// What waits for them.
const POOL_QUEUE: usize = 256;
/// Connections to health or metrics from one address at a time: nobody else's probe is to find no place.
const FROM_ONE_SOURCE: usize = 64;

/// Starts attestors.
pub struct Attestor;

/// An attestor that runs. It ends when it is told to, or when this is dropped with the runtime.
pub struct Running {
    sockets: Vec<PathBuf>,
    metrics_addr: Option<SocketAddr>,
    health_addr: Option<SocketAddr>,
    supervisor: Supervisor,
    keep: Keep,
    link: Link,
    sealed_by: Option<String>,
    metrics: Metrics,
    _lock: DirLock,
}

/// How an attestor is.
#[derive(Clone, Debug)]
pub struct Status {
    /// The node, once it has an SVID.
    pub node: Option<SpiffeId>,
    /// How the link to the server is.
    pub link: String,
    /// Whether the server has said in this run what applies to this node.
    pub in_step: bool,
    /// Identities that apply to this node.
    pub identities: usize,
    /// Streams of workloads that are open.
    pub workloads: usize,
    /// X.509-SVIDs held.
    pub svids: usize,
    /// X.509-SVIDs past the time at which they should have been renewed.
    pub renewals_overdue: usize,
    /// The least remaining life of an X.509-SVID that is held, seconds.
    pub min_remaining: Option<i64>,
    /// Which key seals what survives a restart; none when nothing does.
    pub sealed_by: Option<String>,
}

/// Why an attestor did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration.
    #[error(transparent)]
    Config(#[from] InvalidConfig),
    /// The data directory.
    #[error("data_dir: {0}")]
    DataDir(FsError),
    /// The directory of a socket.
    #[error("listen.workload: {0}")]
    SocketDir(FsError),
    /// Another attestor has the data directory.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The key that seals.
    #[error("keep.key: {0}")]
    Key(#[from] SealError),
    /// The trust bundle.
    #[error(transparent)]
    Trust(#[from] BootstrapError),
    /// The certificate to join with.
    #[error(transparent)]
    Pop(#[from] PopError),
    /// What an earlier run left.
    #[error(transparent)]
    Join(Box<JoinError>),
    /// A listener.
    #[error(transparent)]
    Listen(#[from] NetError),
    /// The volumes of pods.
    #[error(transparent)]
    Mount(#[from] MountError),
}

impl From<JoinError> for StartError {
    fn from(error: JoinError) -> Self {
        Self::Join(Box::new(error))
    }
}

impl Attestor {
    /// Starts an attestor: it listens when this returns, joins and connects by itself, and serves as soon as it knows what applies. Must be called within a runtime.
    ///
    /// # Errors
    /// When the configuration, the data directory or a listener cannot be used. A server that cannot be reached is no error.
    pub async fn start(config: Config, clock: Clock) -> Result<Running, StartError> {
        Self::start_under(config, clock, Supervisor::embedded()).await
    }

    /// As [`Attestor::start`], with tasks under `supervisor`.
    ///
    /// # Errors
    /// As [`Attestor::start`].
    pub async fn start_under(config: Config, clock: Clock, supervisor: Supervisor) -> Result<Running, StartError> {
        for warning in config.check()? {
            tracing::warn!("{warning}");
        }
        mintmark_runtime::crypto::install();
        ensure_dir(&config.data_dir, 0o700).map_err(StartError::DataDir)?;
        let lock = DirLock::acquire(&config.data_dir)?;
        let metrics = Metrics::new("mintmark_attestor");
        let sealer = config
            .keep
            .sealed
            .then(|| Sealer::from_file(&config.keep.key))
            .transpose()?;
        let sealed_by = sealer.as_ref().map(|sealer| sealer.name().to_owned());
        let cache = sealer
            .clone()
            .map(|sealer| Cache::new(config.data_dir.join(CACHE), sealer));

        let join = Join::new(settings(&config, sealer)?, clock.clone())?;
        let pods = Pods::default();
        let link = Link::new(join.clone(), pods.clone(), clock.clone(), &metrics);
        let limits = KeepLimits {
            prefetch: config.keep.prefetch,
            jwt_cache: config.keep.jwt_cache,
        };
        let trust_domain = config
            .trust_domain
            .clone()
            .expect("a checked configuration has a trust domain");
        let keep = Keep::new(trust_domain, clock.clone(), Arc::new(link.clone()), limits);
        register(&keep, &metrics);
        if let (Some(cache), Some(node)) = (&cache, join.node()) {
            restore(&keep, cache, &node.id);
        }

        let shutdown = supervisor.token();
        let serve_limits = ServeLimits {
            streams: config.limits.streams,
            streams_per_user: config.limits.streams_per_user,
        };
        let pool = BlockingPool::new("attest", POOL_THREADS, POOL_QUEUE);
        let unix = Unix::new(
            UnixLimits {
                program_bytes: config.attest.program_size.0,
            },
            pool,
            clock.clone(),
        );
        let serve = Serve::new(
            keep.clone(),
            unix,
            serve_limits,
            clock.clone(),
            &metrics,
            shutdown.clone(),
        );
        let peers = PeerStats::default();
        peers.register(&metrics);
        let (mut connections, sockets) = listen(&config, &peers, &metrics, &clock)?;
        let mut registered = None;
        if config.csi.enabled {
            let parts = Parts {
                keep: keep.clone(),
                pods,
                peers,
                clock: clock.clone(),
                supervisor: &supervisor,
                metrics: &metrics,
            };
            let (of_pods, taken) = mount::start(mount_settings(&config), parts)?;
            connections = stream::select(connections, of_pods).boxed();
            registered = Some(taken);
        }
        let health = health(&keep, &link, registered);
        let http = |listen: Listen, router| http(listen, router, &clock, &supervisor);
        let metrics_addr = http(config.listen.metrics, metrics.router())?;
        let health_addr = http(config.listen.health, health.router())?;

        supervisor.spawn_critical("serve", async move {
            if let Err(error) = serve.run(connections).await {
                tracing::error!(%error, "the Workload API ended");
            }
        });
        supervisor.spawn_critical("renewal", keep.clone().run(shutdown.clone()));
        supervisor.spawn_critical("session", link::run(link.clone(), keep.clone(), supervisor.clone()));
        if let Some(cache) = cache {
            let node = link.clone();
            supervisor.spawn_critical("cache", keep.clone().run_cache(cache, move || node.node(), shutdown));
        }
        for socket in &sockets {
            tracing::info!(socket = %socket.display(), "serving the Workload API");
        }
        Ok(Running {
            sockets,
            metrics_addr,
            health_addr,
            supervisor,
            keep,
            link,
            sealed_by,
            metrics,
            _lock: lock,
        })
    }
}

impl Running {
    /// Where the Workload API listens.
    pub fn workload_sockets(&self) -> &[PathBuf] {
        &self.sockets
    }

    /// Where `/metrics` listens.
    pub fn metrics_addr(&self) -> Option<SocketAddr> {
        self.metrics_addr
    }

    /// Where `/live` and `/ready` listen.
    pub fn health_addr(&self) -> Option<SocketAddr> {
        self.health_addr
    }

    /// The attestor's metrics.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// How it is.
    pub fn status(&self) -> Status {
        let Summary {
            identities,
            workloads,
            x509_svids,
            renewals_overdue,
            min_remaining,
            ..
        } = self.keep.summary();
        Status {
            node: self.link.node(),
            link: self.link.state().borrow().to_string(),
            in_step: *self.keep.readiness().borrow() == Readiness::InStep,
            identities,
            workloads,
            svids: x509_svids,
            renewals_overdue,
            min_remaining,
            sealed_by: self.sealed_by.clone(),
        }
    }

    /// Waits until the server has said what applies to this node. Cancel safe.
    pub async fn in_step(&self) {
        let mut readiness = self.keep.readiness();
        // It cannot end before `self` does.
        let _ = readiness.wait_for(|readiness| *readiness == Readiness::InStep).await;
    }

    /// Waits until it stops, and says why. Cancel safe.
    pub async fn stopped(&self) -> Stop {
        self.supervisor.stopped().await
    }

    /// Stops it within `grace`: streams of workloads end, and the socket files are removed.
    pub async fn shutdown(self, grace: Duration) {
        self.supervisor.shutdown(grace).await;
    }
}

fn settings(config: &Config, sealer: Option<Sealer>) -> Result<Settings, StartError> {
    let trust_domain = config
        .trust_domain
        .clone()
        .expect("a checked configuration has a trust domain");
    let trust = match (config.trust_bundle.as_os_str().is_empty(), config.insecure_bootstrap) {
        (false, _) => Trust::from_file(&config.trust_bundle, &trust_domain)?,
        (true, true) => Trust::FirstUse,
        (true, false) => Trust::Nobody,
    };
    let join = &config.join;
    let method = match join.method {
        JoinMethod::X509pop => {
            let intermediates = Some(&*join.intermediates).filter(|path| !path.as_os_str().is_empty());
            Method::X509pop(Certificate::load(&join.certificate, intermediates, &join.key)?)
        }
        JoinMethod::K8sPsat => {
            let path = Some(join.token_path.clone()).filter(|path| !path.as_os_str().is_empty());
            Method::K8sPsat(Projected::new(join.cluster.clone(), path))
        }
        JoinMethod::JoinToken => Method::JoinToken(join.token.expose().to_owned().into()),
    };
    Ok(Settings {
        trust_domain,
        server: config.server.clone(),
        trust,
        method,
        data_dir: config.data_dir.clone(),
        sealer,
    })
}

/// Takes up what an earlier run held. What cannot be used is left aside: it is only a cache.
fn restore(keep: &Keep, cache: &Cache, node: &SpiffeId) {
    keep.set_node(node);
    match keep.load(cache, node) {
        Ok(Some(svids)) => tracing::info!(
            svids,
            "holding what an earlier run left, until the server says otherwise"
        ),
        Ok(None) => {}
        Err(error) => tracing::warn!(%error, "what an earlier run left is not used"),
    }
}

type Connections = BoxStream<'static, std::io::Result<peer::Peered>>;

fn listen(
    config: &Config,
    peers: &PeerStats,
    metrics: &Metrics,
    clock: &Clock,
) -> Result<(Connections, Vec<PathBuf>), StartError> {
    let limits = Limits {
        connections: config.limits.connections,
        per_source: None,
    };
    let listener = ListenerStats::default();
    listener.register(metrics, "workload");
    let mut sockets = Vec::new();
    let mut accepted = Vec::new();
    for path in config.listen.workload.as_slice() {
        if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
            ensure_dir(dir, 0o755).map_err(StartError::SocketDir)?;
        }
        // Any local process may connect: what it gets depends on what it is.
        let socket = unix_listener(path, 0o777, None)?;
        sockets.push(path.clone());
        accepted.push(socket.incoming(limits, listener.clone(), clock.clone()).boxed());
    }
    let accepted: BoxStream<'static, _> = match accepted.is_empty() {
        true => stream::pending().boxed(),
        false => stream::select_all(accepted).boxed(),
    };
    // Each listener has its own bound of all connections.
    let places = Places::new(config.limits.connections_per_user, usize::MAX);
    let connections = peer::incoming(accepted, Source::Processes, places, peers.clone());
    Ok((connections.boxed(), sockets))
}

fn mount_settings(config: &Config) -> MountSettings {
    let (csi, limits) = (&config.csi, &config.limits);
    MountSettings {
        drivers: csi.drivers.as_slice().to_vec(),
        node: csi.node_name.clone(),
        kubelet_dir: csi.kubelet_dir.clone(),
        dir: csi.dir.clone(),
        data_dir: config.data_dir.clone(),
        patience: csi.files_timeout.as_duration(),
        connections: limits.connections,
        connections_per_pod: limits.connections_per_user,
    }
}

fn health(keep: &Keep, link: &Link, registered: Option<Registered>) -> Health {
    let health = Health::new();
    if let Some(registered) = registered {
        health.readiness_fn("csi", move || registered.check());
    }
    let (readiness, state) = (keep.readiness(), link.state());
    health.readiness_fn("identities", move || match *readiness.borrow() {
        Readiness::Fresh => Err(format!(
            "nothing is known of this node's identities yet; the link is {}",
            *state.borrow()
        )),
        Readiness::Cached | Readiness::InStep => Ok(()),
    });
    let keep = keep.clone();
    health.readiness_fn("svids", move || {
        let summary = keep.summary();
        match summary.min_remaining {
            None if summary.missing > 0 => Err(format!("{} X.509-SVIDs are wanted and none is there", summary.missing)),
            _ => Ok(()),
        }
    });
    health
}

fn http(
    listen: Listen,
    router: axum::Router,
    clock: &Clock,
    supervisor: &Supervisor,
) -> Result<Option<SocketAddr>, StartError> {
    let Some(addr) = listen.addr() else { return Ok(None) };
    let listener = tcp_listener(addr)?;
    let bound = listener.local_addr().map_err(|source| NetError::Tcp { addr, source })?;
    let mut serving = Serving::new(clock.clone(), supervisor.token());
    serving.connections.connections.per_source = Some(FROM_ONE_SOURCE);
    supervisor.spawn_critical("http", serve_http(listener, router, serving));
    Ok(Some(bound))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::disallowed_methods, reason = "a test calls what it tests")]

    use std::path::Path;

    use mintmark_identity::TrustDomain;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpSocket;

    use super::*;

    fn config(dir: &Path) -> Config {
        let trust_domain = TrustDomain::parse("example.org").unwrap();
        // Nobody listens on port 1.
        let mut config = Config::quiet(
            trust_domain,
            dir.join("data"),
            "127.0.0.1:1".into(),
            dir.join("run/api.sock"),
        );
        config.listen.health = Listen::new(([127, 0, 0, 1], 0));
        config.insecure_bootstrap = true;
        config.join.token = String::from("token").into();
        config
    }

    async fn refused(config: Config) -> String {
        let started = Attestor::start(config, Clock::system()).await;
        started.err().expect("it does not start").to_string()
    }

    #[tokio::test]
    async fn it_starts_without_its_server_and_is_alone_in_its_directory() {
        let dir = tempfile::tempdir().unwrap();
        let running = Attestor::start(config(dir.path()), Clock::system()).await.unwrap();
        assert_eq!(running.workload_sockets(), [dir.path().join("run/api.sock")]);
        assert!(running.health_addr().unwrap().port() > 0 && running.metrics_addr().is_none());
        let mut state = running.link.state();
        let down = state.wait_for(|state| matches!(state, link::LinkState::Down(_)));
        assert!(down.await.unwrap().to_string().contains("127.0.0.1:1"));
        let status = running.status();
        assert_eq!((status.node, status.in_step, status.sealed_by), (None, false, None));
        let metrics = running.metrics().encode().unwrap();
        for name in ["link_up 0", "renewals_overdue 0", "svid_min_remaining_seconds 0"] {
            assert!(metrics.contains(&format!("mintmark_attestor_{name}")), "{metrics}");
        }

        let mut second = config(dir.path());
        second.listen.workload = vec![dir.path().join("other.sock")].into();
        let error = refused(second).await;
        assert!(error.contains(&std::process::id().to_string()), "{error}");
        running.shutdown(Duration::from_secs(10)).await;
        assert!(!dir.path().join("run/api.sock").exists());
        let again = Attestor::start(config(dir.path()), Clock::system()).await.unwrap();
        again.shutdown(Duration::from_secs(10)).await;
    }

    #[tokio::test]
    async fn who_takes_all_it_can_of_health_leaves_room_for_others() {
        let dir = tempfile::tempdir().unwrap();
        let running = Attestor::start(config(dir.path()), Clock::system()).await.unwrap();
        let addr = running.health_addr().unwrap();
        // Every address of 127.0.0.0/8 is this machine's, and a source of its own.
        let ask = async |from: [u8; 4]| {
            let socket = TcpSocket::new_v4().ok()?;
            socket.bind((from, 0).into()).ok()?;
            let mut io = socket.connect(addr).await.ok()?;
            io.write_all(b"GET /live HTTP/1.1\r\nHost: a\r\n\r\n").await.ok()?;
            let mut answer = [0; 12];
            io.read_exact(&mut answer).await.ok()?;
            Some((io, answer))
        };
        let mut held = Vec::new();
        while let Some(connection) = ask([127, 0, 0, 1]).await {
            held.push(connection);
        }
        let other = ask([127, 0, 0, 2]).await.map(|(_, answer)| answer);
        assert_eq!((held.len(), other.as_ref()), (FROM_ONE_SOURCE, Some(b"HTTP/1.1 200")));
        running.shutdown(Duration::from_secs(10)).await;
    }

    #[tokio::test]
    async fn with_volumes_it_offers_itself_to_the_kubelet_and_is_ready_when_that_has_taken_it() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = config(dir.path());
        config.csi.enabled = true;
        config.csi.node_name = "node-a".into();
        config.csi.kubelet_dir = dir.path().join("kubelet");
        config.csi.dir = dir.path().join("csi");
        let running = Attestor::start(config, Clock::system()).await.unwrap();
        let sockets = [mount::driver_socket, mount::registration_socket]
            .map(|socket| socket(&dir.path().join("kubelet"), "csi.mintmark.dev"));
        assert!(sockets.iter().all(|socket| socket.exists()));
        let mut health = tokio::net::TcpStream::connect(running.health_addr().unwrap())
            .await
            .unwrap();
        health.write_all(b"GET /ready HTTP/1.0\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        health.read_to_string(&mut answer).await.unwrap();
        assert!(
            answer.contains("\"csi\":\"the kubelet has not taken driver csi.mintmark.dev yet"),
            "{answer}"
        );
        running.shutdown(Duration::from_secs(10)).await;
        assert!(!sockets.iter().any(|socket| socket.exists()));
    }

    #[tokio::test]
    async fn what_cannot_be_used_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("link.sock");
        std::os::unix::fs::symlink("/tmp/elsewhere", &link).unwrap();
        let mut symlink = config(dir.path());
        symlink.listen.workload = vec![link].into();
        let linked = dir.path().join("linked");
        std::os::unix::fs::symlink(dir.path(), &linked).unwrap();
        let mut symlink_dir = config(dir.path());
        symlink_dir.listen.workload = vec![linked.join("api.sock")].into();
        let mut unreadable = config(dir.path());
        unreadable.trust_bundle = dir.path().join("missing.pem");
        let mut no_server = config(dir.path());
        no_server.server = "nowhere".into();
        let mut no_certificate = config(dir.path());
        no_certificate.join.method = JoinMethod::X509pop;
        no_certificate.join.certificate = dir.path().join("missing.pem");
        no_certificate.join.key = dir.path().join("missing.pem");
        let mut short_key = config(dir.path());
        short_key.keep.sealed = true;
        short_key.keep.key = dir.path().join("kek");
        mintmark_runtime::fs::write_new(&short_key.keep.key, b"short", 0o600).unwrap();
        for (config, expected) in [
            (symlink, "symbolic link"),
            (symlink_dir, "listen.workload: "),
            (unreadable, "missing.pem"),
            (no_server, "not a host and port"),
            (no_certificate, "missing.pem"),
            (short_key, "5 bytes"),
        ] {
            let error = refused(config).await;
            assert!(error.contains(expected), "{error}");
        }
    }
}
