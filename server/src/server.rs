//! The assembly: one configuration becomes one running server.
//!
//! In: a [`Config`] and a clock. Out: a [`Running`] server, which tells where it listens and can be shut down. The binary starts one, `mintmark dev` starts one beside
//! an attestor, tests start as many as they like.
//!
//! ```text
//! data directory locked ─► store ─► ledger ─► keys ─► authorities ─► registry, nodes, roll ─► issuer ─► own SVID ─► listeners
//! ```
//! It is shut down the other way round: listeners first, so that what was begun is answered; the ledger and the store last.

mod backup;
mod listeners;
mod own_svid;
mod rooms;
mod watch;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use mintmark_identity::{Bundle, TrustDomain};
use mintmark_runtime::clock::Clock;
use mintmark_runtime::crypto::SealError;
use mintmark_runtime::fs::{DirLock, FsError, LockError, ensure_dir};
use mintmark_runtime::health::Health;
use mintmark_runtime::metrics::Metrics;
use mintmark_runtime::net::{NetError, raise_nofile_limit};
use mintmark_runtime::task::{PoolError, Stop, Supervisor, TaskFailure, shutdown_signal};
use mintmark_runtime::telemetry::LogHandle;
use mintmark_runtime::tls::TlsError;

use crate::api::methods::Undeclared;
use crate::api::{Api, Rooms};
use crate::attest::x509pop::PopError;
use crate::authority::AuthorityError;
use crate::config::{Config, InvalidConfig};
use crate::issuance::Refusal;
use crate::ledger::LedgerError;
use crate::roll::RollError;
use crate::store::StoreError;

pub use backup::{BackupError, Restored, backup, restore};

/// The prefix of every metric.
const METRICS: &str = "mintmark_server";
/// How long calls under way may go on at shutdown.
const DRAIN: Duration = Duration::from_secs(5);
/// How long the tasks behind the listeners may take to end after that.
const SETTLE: Duration = Duration::from_secs(5);

/// Starts servers.
pub struct Server;

/// What is not the operator's to say.
#[derive(Default)]
pub struct Options {
    /// The log of this process, if the server may change its level.
    pub log: Option<LogHandle>,
    /// The server is a guest in this process: it does not end it, whatever happens.
    pub embedded: bool,
    /// The issuer of JWT-SVIDs is the address of the `https` listener, where nobody configured another: for `dev`, whose port is not known before.
    pub issuer_is_https_address: bool,
}

/// Why a server does not start. Nothing of it is left running.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] InvalidConfig),
    /// The data directory cannot be made.
    #[error(transparent)]
    Directory(#[from] FsError),
    /// Another server has the data directory.
    #[error(transparent)]
    Locked(#[from] LockError),
    /// The store cannot be opened.
    #[error("cannot open the store: {0}")]
    Store(#[from] StoreError),
    /// The issuance log cannot be opened.
    #[error("cannot open the issuance log: {0}")]
    Ledger(#[from] LedgerError),
    /// The key-encryption key cannot be had.
    #[error(transparent)]
    Keys(#[from] SealError),
    /// The authorities cannot be had.
    #[error(transparent)]
    Authorities(#[from] AuthorityError),
    /// The authorities of the nodes' certificates cannot be read.
    #[error("cannot read the authorities for x509pop: {0}")]
    X509pop(String),
    /// A Kubernetes cluster cannot be watched.
    #[error(transparent)]
    Kubernetes(#[from] RollError),
    /// The server gets no certificate of its own.
    #[error("cannot issue the server's own SVID: {0}")]
    OwnSvid(String),
    /// A certificate cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A listener cannot be opened.
    #[error(transparent)]
    Net(#[from] NetError),
    /// A served method has no line in the table: a defect of ours.
    #[error(transparent)]
    Undeclared(#[from] Undeclared),
    /// Something panicked while it was opened.
    #[error(transparent)]
    Pool(#[from] PoolError),
}

impl From<PopError> for StartError {
    fn from(error: PopError) -> Self {
        Self::X509pop(error.to_string())
    }
}

impl From<Refusal> for StartError {
    fn from(refusal: Refusal) -> Self {
        Self::OwnSvid(refusal.to_string())
    }
}

/// A server that runs.
pub struct Running {
    rooms: Rooms,
    issuer: String,
    metrics: Metrics,
    addresses: listeners::Addresses,
    /// The listeners: they stop first.
    doors: Supervisor,
    /// What the listeners stand before.
    house: Supervisor,
    _lock: DirLock,
}

impl Server {
    /// Starts a server. When this returns, it listens and issues.
    ///
    /// # Errors
    /// Why it does not.
    pub async fn start(config: Config, clock: Clock, options: Options) -> Result<Running, StartError> {
        for warning in config.check()? {
            tracing::warn!("{warning}");
        }
        let trust_domain = config
            .trust_domain
            .clone()
            .expect("a checked configuration has a trust domain");
        match raise_nofile_limit() {
            Ok(limit) => tracing::debug!(limit, "open files"),
            Err(error) => tracing::warn!(%error, "the limit of open files cannot be raised"),
        }
        ensure_dir(&config.data_dir, 0o700)?;
        let lock = DirLock::acquire(&config.data_dir)?;

        let metrics = Metrics::new(METRICS);
        let health = Health::new();
        let (doors, house) = (
            Supervisor::embedded(),
            if options.embedded {
                Supervisor::embedded()
            } else {
                Supervisor::new()
            },
        );
        // Listeners first: a port that is taken is found out before anything is written, and the issuer may be an address.
        let sockets = listeners::bind(&config)?;
        let issuer = match (
            &*config.jwt_issuer,
            options.issuer_is_https_address,
            sockets.https_addr(),
        ) {
            ("", true, Some(addr)) => format!("https://{addr}"),
            _ => config.issuer().unwrap_or_default(),
        };
        let started = async {
            let rooms = rooms::open(
                &config,
                &issuer,
                trust_domain,
                &clock,
                &options,
                &metrics,
                &health,
                &doors,
                &house,
            )
            .await?;
            let result = Self::open_doors(&config, &issuer, &rooms, sockets, &metrics, &health, &doors, &house).await;
            if result.is_err() {
                rooms::close(&rooms).await;
            }
            result.map(|addresses| (rooms, addresses))
        };
        match started.await {
            Ok((rooms, addresses)) => {
                let running = Running {
                    rooms,
                    issuer,
                    metrics,
                    addresses,
                    doors,
                    house,
                    _lock: lock,
                };
                running.log_start();
                Ok(running)
            }
            Err(error) => {
                doors.shutdown(SETTLE).await;
                house.shutdown(SETTLE).await;
                Err(error)
            }
        }
    }

    #[expect(clippy::too_many_arguments, reason = "the assembly is where everything meets")]
    async fn open_doors(
        config: &Config,
        issuer: &str,
        rooms: &Rooms,
        sockets: listeners::Sockets,
        metrics: &Metrics,
        health: &Health,
        doors: &Supervisor,
        house: &Supervisor,
    ) -> Result<listeners::Addresses, StartError> {
        let names = own_svid::Names::of(config, issuer, &sockets);
        let own = own_svid::OwnSvid::issue(rooms.clone(), names).await?;
        house.spawn_critical("own-svid", own.run(house.token()));
        let anchors = watch::anchors(rooms, house);
        watch::publish(rooms, house);
        watch::health(rooms, health);
        watch::metrics(rooms, metrics);
        let api = Api::new(
            rooms.clone(),
            config.limits.clone(),
            !config.log.otlp.is_empty(),
            metrics,
        );
        let context = listeners::Context {
            config,
            issuer,
            rooms,
            metrics,
            health,
            anchors,
            doors,
        };
        listeners::open(sockets, &api, &context)
    }
}

impl Running {
    /// Where the API listens.
    pub fn api_addr(&self) -> Option<SocketAddr> {
        self.addresses.api
    }

    /// Where the bundle and OIDC documents are.
    pub fn https_addr(&self) -> Option<SocketAddr> {
        self.addresses.https
    }

    /// Where the metrics are.
    pub fn metrics_addr(&self) -> Option<SocketAddr> {
        self.addresses.metrics
    }

    /// Where `/live` and `/ready` are.
    pub fn health_addr(&self) -> Option<SocketAddr> {
        self.addresses.health
    }

    /// The admin socket.
    pub fn admin_socket(&self) -> Option<&Path> {
        self.addresses.admin.as_deref()
    }

    /// The trust domain.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.rooms.trust_domain
    }

    /// The trust bundle as it is now.
    pub fn bundle(&self) -> Arc<Bundle> {
        self.rooms.authorities.bundle()
    }

    /// The `iss` of JWT-SVIDs.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// The metrics.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// The rooms, for tests and for guests in this process.
    pub fn rooms(&self) -> &Rooms {
        &self.rooms
    }

    /// Waits until the server stops by itself: because a task without which it is of no use ended.
    pub async fn stopped(&self) -> Option<TaskFailure> {
        let stop = tokio::select! {
            stop = self.house.stopped() => stop,
            stop = self.doors.stopped() => stop,
        };
        match stop {
            Stop::Failed(failure) => Some(failure),
            Stop::Asked => None,
        }
    }

    /// Serves until SIGINT, SIGTERM or a failure, then shuts down.
    ///
    /// # Errors
    /// The task that failed.
    pub async fn wait(self) -> Result<(), TaskFailure> {
        let failure = tokio::select! {
            failure = self.stopped() => failure,
            signal = shutdown_signal() => {
                tracing::info!(signal, "shutting down");
                None
            }
        };
        self.shutdown().await;
        failure.map_or(Ok(()), Err)
    }

    /// Takes no more calls, answers those under way, closes the ledger with a last checkpoint and then the store, and lets the data directory go.
    pub async fn shutdown(self) {
        self.doors.shutdown(DRAIN).await;
        // What follows the store ends when it is closed.
        tokio::join!(self.house.shutdown(SETTLE), rooms::close(&self.rooms));
        tracing::info!("the server has stopped");
    }

    fn log_start(&self) {
        let show = |addr: Option<SocketAddr>| addr.map_or_else(|| "off".to_owned(), |addr| addr.to_string());
        tracing::info!(
            trust_domain = %self.rooms.trust_domain,
            version = env!("CARGO_PKG_VERSION"),
            api = show(self.addresses.api),
            admin = self.addresses.admin.as_ref().map_or("off".into(), |path| path.display().to_string()),
            https = show(self.addresses.https),
            metrics = show(self.addresses.metrics),
            health = show(self.addresses.health),
            issuer = self.issuer,
            "the server is ready"
        );
    }
}

/// The parent directory of a file, if it names one.
fn parent(path: &Path) -> Option<PathBuf> {
    path.parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .map(Path::to_owned)
}
