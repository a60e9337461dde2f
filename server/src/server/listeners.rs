//! Where the server listens: bound first, served once everything behind them stands.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use axum::Router;
use mintmark_runtime::fs::ensure_dir;
use mintmark_runtime::health::Health;
use mintmark_runtime::http::{Serving, serve_http, serve_https};
use mintmark_runtime::metrics::Metrics;
use mintmark_runtime::net::{Limits, ListenerStats, UnixSocket, tcp_listener, unix_listener};
use mintmark_runtime::task::Supervisor;
use mintmark_runtime::tls::{self, ALPN_H2, ClientAuth, PemCredential, SharedAnchors, TlsLimits};
use rustls::server::ResolvesServerCert;
use tokio::net::TcpListener;

use super::{StartError, parent};
use crate::api::{Api, Rooms};
use crate::config::Config;
use crate::trust::documents;

/// Connections to the admin socket at a time.
const ADMINS: usize = 256;
/// Connections to any other listener from one address at a time.
const FROM_ONE_SOURCE: usize = 256;

/// Sockets that are bound; what connects waits until they are served.
pub(super) struct Sockets {
    api: Option<TcpListener>,
    admin: Option<UnixSocket>,
    https: Option<TcpListener>,
    metrics: Option<TcpListener>,
    health: Option<TcpListener>,
}

/// Where the server listens; what is switched off has none.
#[derive(Default)]
pub(super) struct Addresses {
    pub(super) api: Option<SocketAddr>,
    pub(super) admin: Option<PathBuf>,
    pub(super) https: Option<SocketAddr>,
    pub(super) metrics: Option<SocketAddr>,
    pub(super) health: Option<SocketAddr>,
}

/// What it takes to serve them.
pub(super) struct Context<'a> {
    pub(super) config: &'a Config,
    pub(super) issuer: &'a str,
    pub(super) rooms: &'a Rooms,
    pub(super) metrics: &'a Metrics,
    pub(super) health: &'a Health,
    pub(super) anchors: SharedAnchors,
    pub(super) doors: &'a Supervisor,
}

pub(super) fn bind(config: &Config) -> Result<Sockets, StartError> {
    let listen = &config.listen;
    let tcp = |addr: Option<SocketAddr>| addr.map(tcp_listener).transpose();
    Ok(Sockets {
        api: tcp(listen.api.addr())?,
        https: tcp(listen.https.addr())?,
        metrics: tcp(listen.metrics.addr())?,
        health: tcp(listen.health.addr())?,
        admin: listen.admin.path().map(|path| admin(config, path)).transpose()?,
    })
}

fn admin(config: &Config, path: &std::path::Path) -> Result<UnixSocket, StartError> {
    if let Some(dir) = parent(path) {
        ensure_dir(&dir, 0o755)?;
    }
    let group = Some(&*config.listen.admin_group).filter(|group| !group.is_empty());
    // Root may always; the kernel keeps everybody else out.
    let mode = if group.is_some() { 0o660 } else { 0o600 };
    Ok(unix_listener(path, mode, group)?)
}

impl Sockets {
    pub(super) fn https_addr(&self) -> Option<SocketAddr> {
        self.https.as_ref().and_then(|socket| socket.local_addr().ok())
    }

    /// The addresses that certificates should be good for.
    pub(super) fn ips(&self) -> impl Iterator<Item = IpAddr> {
        [&self.api, &self.https]
            .into_iter()
            .flatten()
            .filter_map(|socket| Some(socket.local_addr().ok()?.ip()))
    }
}

/// Serves what is bound.
pub(super) fn open(sockets: Sockets, api: &Api, context: &Context<'_>) -> Result<Addresses, StartError> {
    let mut addresses = Addresses::default();
    if let Some(socket) = sockets.api {
        addresses.api = socket.local_addr().ok();
        open_api(socket, api, context)?;
    }
    if let Some(socket) = sockets.admin {
        addresses.admin = Some(socket.path().to_owned());
        open_admin(socket, api, context)?;
    }
    if let Some(socket) = sockets.https {
        addresses.https = socket.local_addr().ok();
        open_https(socket, context)?;
    }
    if let Some(socket) = sockets.metrics {
        addresses.metrics = socket.local_addr().ok();
        open_http("metrics", socket, context.metrics.router(), context);
    }
    if let Some(socket) = sockets.health {
        addresses.health = socket.local_addr().ok();
        open_http("health", socket, context.health.router(), context);
    }
    Ok(addresses)
}

fn open_api(socket: TcpListener, api: &Api, context: &Context<'_>) -> Result<(), StartError> {
    let clock = &context.rooms.clock;
    let auth = ClientAuth::Optional(Arc::clone(&context.anchors));
    let tls = tls::server_config(Arc::new(context.rooms.credential.clone()), auth, &[ALPN_H2], clock);
    let connections = context.config.limits.connections;
    let limits = TlsLimits {
        connections: Limits {
            connections,
            // A fleet behind one gateway has room, and no single address can keep all others out.
            per_source: Some(connections - connections / 4),
        },
        // One in its handshake costs no more than one that is open. With a lower limit, a few that say nothing would make everybody wait.
        handshakes: connections,
        ..TlsLimits::default()
    };
    let incoming = tls::incoming(socket, tls, limits, stats("api", context.metrics), clock.clone());
    let (router, stop) = (api.remote()?, context.doors.token());
    context.doors.spawn_critical("api", async move {
        let served = router
            .serve_with_incoming_shutdown(incoming, stop.cancelled_owned())
            .await;
        if let Err(error) = served {
            tracing::error!(%error, "the API's listener failed");
        }
    });
    Ok(())
}

fn open_admin(socket: UnixSocket, api: &Api, context: &Context<'_>) -> Result<(), StartError> {
    let limits = Limits {
        connections: ADMINS,
        per_source: None,
    };
    let incoming = socket.incoming(limits, stats("admin", context.metrics), context.rooms.clock.clone());
    let (router, stop) = (api.local()?, context.doors.token());
    context.doors.spawn_critical("admin", async move {
        let served = router
            .serve_with_incoming_shutdown(incoming, stop.cancelled_owned())
            .await;
        if let Err(error) = served {
            tracing::error!(%error, "the admin socket failed");
        }
    });
    Ok(())
}

fn open_https(socket: TcpListener, context: &Context<'_>) -> Result<(), StartError> {
    let files = &context.config.https;
    let credential: Arc<dyn ResolvesServerCert> = match files.certificate.as_os_str().is_empty() {
        true => Arc::new(context.rooms.credential.clone()),
        false => PemCredential::load(&files.certificate, &files.key, context.rooms.clock.clone())?,
    };
    let router = documents::router(context.rooms.authorities.clone(), context.issuer);
    let serving = serving("https", context);
    context
        .doors
        .spawn_critical("https", serve_https(socket, credential, router, serving));
    Ok(())
}

fn open_http(name: &'static str, socket: TcpListener, router: Router, context: &Context<'_>) {
    context
        .doors
        .spawn_critical(name, serve_http(socket, router, serving(name, context)));
}

fn serving(name: &str, context: &Context<'_>) -> Serving {
    let mut serving = Serving::new(context.rooms.clock.clone(), context.doors.token());
    serving.stats = stats(name, context.metrics);
    serving.connections.connections.per_source = Some(FROM_ONE_SOURCE);
    serving
}

fn stats(name: &str, metrics: &Metrics) -> ListenerStats {
    let stats = ListenerStats::default();
    stats.register(metrics, name);
    stats
}
