//! The server that is loaded: how it is reached, and what it holds.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result};
use hyper_util::rt::TokioIo;
use mintmark_proto::spire::server::bundle::{GetBundleRequest, bundle_client::BundleClient};
use rustls_pki_types::ServerName;
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;

use crate::{
    check::Anchors,
    options,
    process::Process,
    tls::{self, Credential},
};

/// How long a connection may take; a loaded server of thousands of nodes shakes hands slowly.
const CONNECT_LIMIT: Duration = Duration::from_secs(30);

/// The server, found.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) label: String,
    pub(crate) server: SocketAddr,
    pub(crate) admin: Channel,
    pub(crate) anchors: Arc<Anchors>,
    pub(crate) process: Process,
    pub(crate) metrics: Option<SocketAddr>,
}

impl Target {
    /// Asks the server for its trust bundle: that it answers, and what is to be believed.
    pub(crate) async fn find(options: &options::Target, pid: u32) -> Result<Self> {
        let admin = unix(&options.admin_socket).await?;
        let bundle = BundleClient::new(admin.clone())
            .get_bundle(GetBundleRequest { output_mask: None })
            .await
            .with_context(|| format!("fetch the bundle through {}", options.admin_socket.display()))?
            .into_inner();
        Ok(Self {
            label: options.label.clone(),
            server: options.server,
            admin,
            anchors: Arc::new(Anchors::new(&bundle)?),
            process: Process(pid),
            metrics: options.metrics,
        })
    }

    /// A connection of its own to the API, as an agent with this SVID, or as a stranger.
    pub(crate) async fn connect(&self, credential: Option<Credential>) -> Result<Channel> {
        let config = tls::client(Arc::clone(&self.anchors), credential)?;
        let server = self.server;
        let connector = service_fn(move |_: Uri| {
            let tls = TlsConnector::from(Arc::clone(&config));
            async move {
                let tcp = TcpStream::connect(server).await?;
                tcp.set_nodelay(true)?;
                Ok::<_, std::io::Error>(TokioIo::new(tls.connect(ServerName::from(server.ip()), tcp).await?))
            }
        });
        endpoint(format!("http://{server}"))?
            .connect_with_connector(connector)
            .await
            .with_context(|| format!("connect to {server}"))
    }
}

/// A channel to a Unix socket.
pub(crate) async fn unix(path: &Path) -> Result<Channel> {
    let socket: PathBuf = path.to_owned();
    let connector = service_fn(move |_: Uri| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    endpoint("http://localhost".to_owned())?
        .connect_with_connector(connector)
        .await
        .with_context(|| format!("connect to {}", path.display()))
}

fn endpoint(address: String) -> Result<Endpoint> {
    Ok(Endpoint::from_shared(address)?
        .connect_timeout(CONNECT_LIMIT)
        .tcp_nodelay(true))
}
