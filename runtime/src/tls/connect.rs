//! The client's side.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::verify::in_words;
use crate::clock::Clock;
use crate::net::{ConnectError, tcp_connect};

/// How long connecting, handshake included, may take unless told otherwise.
const DEFAULT_LIMIT: Duration = Duration::from_secs(10);

/// Connects with TLS: for `Endpoint::connect_with_connector`. The configuration's credential is asked at each handshake, so that a client certificate is
/// renewed without a restart. HTTP/2 keep-alive and the like are set on the `Endpoint`.
#[derive(Clone)]
pub struct Connector {
    config: Arc<ClientConfig>,
    limit: Duration,
    clock: Clock,
}

impl Connector {
    /// A connector with this configuration, from [`client_config`](super::client_config).
    pub fn new(config: Arc<ClientConfig>, clock: Clock) -> Self {
        Self {
            config,
            limit: DEFAULT_LIMIT,
            clock,
        }
    }

    /// As this one, with another limit than 10 s on connecting.
    #[must_use]
    pub fn with_limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Connects to `host` (a name or an IP address) at `port`.
    ///
    /// # Errors
    /// When there is no connection, or the other side is not whom the configuration expects.
    pub async fn connect(&self, host: &str, port: u16) -> Result<TlsStream<TcpStream>, ConnectError> {
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let target = if host.contains(':') {
            format!("[{host}]:{port}")
        } else {
            format!("{host}:{port}")
        };
        let name = ServerName::try_from(host)
            .map_err(|_| ConnectError::NoHost(target.clone()))?
            .to_owned();
        let connect = async {
            let io = tcp_connect(&target, self.limit, &self.clock).await?;
            let tls = TlsConnector::from(Arc::clone(&self.config)).connect(name, io).await;
            tls.map_err(|error| ConnectError::Handshake {
                target: target.clone(),
                source: in_words(error),
            })
        };
        let timed_out = |_| ConnectError::TimedOut {
            target: target.clone(),
            limit: self.limit,
        };
        self.clock.timeout(self.limit, connect).await.map_err(timed_out)?
    }
}

impl tower::Service<Uri> for Connector {
    type Response = TokioIo<TlsStream<TcpStream>>;
    type Error = ConnectError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, ConnectError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connector = self.clone();
        Box::pin(async move {
            let host = uri.host().ok_or_else(|| ConnectError::NoHost(uri.to_string()))?;
            connector
                .connect(host, uri.port_u16().unwrap_or(443))
                .await
                .map(TokioIo::new)
        })
    }
}
