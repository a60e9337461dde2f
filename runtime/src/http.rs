//! HTTP servers for routers of axum: health, metrics, OIDC documents, bundles, webhooks.
//!
//! In come accepted connections (plain or TLS), a router and limits; every request is bounded in headers, body and time, every connection in
//! age and in how long it is of no use. Whoever has an HTTP door calls [`serve_http`], [`serve_https`], or [`serve`] with connections of its own.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, HttpBody};
use axum::extract::{DefaultBodyLimit, Request};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use futures::{Stream, StreamExt};
use http::StatusCode;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use rustls::server::ResolvesServerCert;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::Connected;
use tower::ServiceExt;

use crate::clock::Clock;
use crate::net::{Limits, ListenerStats, incoming};
use crate::tls::{self, ALPN_H2, ALPN_HTTP1, ClientAuth, TlsLimits};

/// What one client may take up.
#[derive(Clone, Copy, Debug)]
pub struct HttpLimits {
    /// How long the headers of a request may take.
    pub header_timeout: Duration,
    /// Bytes of headers.
    pub header_bytes: u32,
    /// Bytes of a request's body.
    pub body_bytes: usize,
    /// How long a request may take, body and answer included.
    pub request_timeout: Duration,
    /// How long a connection may be without a new request before it is asked to end; the first one comes within `header_timeout`. Longer than a request takes.
    pub idle: Duration,
    /// How long a connection lives before it is asked to end after the requests under way.
    pub max_age: Duration,
    /// Requests at once on an HTTP/2 connection.
    pub streams: u32,
    /// How long requests under way may go on at shutdown.
    pub drain: Duration,
}

impl Default for HttpLimits {
    /// For documents: 10 s and 16 KiB of headers, 1 MiB of body, 30 s a request, 1 min between requests, 10 min a connection, 64 requests at once, 5 s at
    /// shutdown.
    fn default() -> Self {
        Self {
            header_timeout: Duration::from_secs(10),
            header_bytes: 16 << 10,
            body_bytes: 1 << 20,
            request_timeout: Duration::from_secs(30),
            idle: Duration::from_secs(60),
            max_age: Duration::from_secs(600),
            streams: 64,
            drain: Duration::from_secs(5),
        }
    }
}

/// What a server needs besides its router.
#[derive(Clone)]
pub struct Serving {
    /// Of each connection and request.
    pub limits: HttpLimits,
    /// Of the listener.
    pub connections: TlsLimits,
    /// Where connections are counted.
    pub stats: ListenerStats,
    /// The time.
    pub clock: Clock,
    /// Ends the server.
    pub shutdown: CancellationToken,
}

impl Serving {
    /// With the default limits, and at most 1,024 connections.
    pub fn new(clock: Clock, shutdown: CancellationToken) -> Self {
        let connections = Limits {
            connections: 1024,
            ..Limits::default()
        };
        Self {
            limits: HttpLimits::default(),
            connections: TlsLimits {
                connections,
                ..TlsLimits::default()
            },
            stats: ListenerStats::default(),
            clock,
            shutdown,
        }
    }
}

/// Serves HTTP/1.1 and HTTP/2 without TLS until shutdown.
pub async fn serve_http(listener: TcpListener, router: Router, serving: Serving) {
    let connections = incoming(
        listener,
        serving.connections.connections,
        serving.stats.clone(),
        serving.clock.clone(),
    );
    serve(connections, router, serving).await;
}

/// Serves HTTPS, without client certificates, until shutdown: HTTP/1.1 and HTTP/2. `credential` is asked for its certificate at each handshake.
pub async fn serve_https(
    listener: TcpListener,
    credential: Arc<dyn ResolvesServerCert>,
    router: Router,
    serving: Serving,
) {
    let config = tls::server_config(credential, ClientAuth::None, &[ALPN_H2, ALPN_HTTP1], &serving.clock);
    let connections = tls::incoming(
        listener,
        config,
        serving.connections,
        serving.stats.clone(),
        serving.clock.clone(),
    );
    serve(connections, router, serving).await;
}

/// Serves these connections until shutdown. The connection's [`Connected::ConnectInfo`] is in each request's extensions.
pub async fn serve<Io>(connections: impl Stream<Item = io::Result<Io>>, router: Router, serving: Serving)
where
    Io: Connected + AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let router = bounded(router, &serving);
    let mut connections = std::pin::pin!(connections);
    let mut open = JoinSet::new();
    loop {
        tokio::select! {
            () = serving.shutdown.cancelled() => break,
            next = connections.next() => match next {
                Some(Ok(io)) => drop(open.spawn(connection(io, router.clone(), serving.clone()))),
                Some(Err(error)) => tracing::warn!(%error, "cannot accept a connection"),
                None => break,
            },
            Some(_) = open.join_next() => {}
        }
    }
    // Each connection ends by itself, in the time it has for that.
    while open.join_next().await.is_some() {}
}

async fn connection<Io>(io: Io, router: Router, serving: Serving)
where
    Io: Connected + AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let Serving {
        limits,
        clock,
        shutdown,
        ..
    } = serving;
    let info = io.connect_info();
    let requests = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&requests);
    let service = router.map_request(move |mut request: http::Request<hyper::body::Incoming>| {
        counted.fetch_add(1, Ordering::Relaxed);
        request.extensions_mut().insert(info.clone());
        request.map(Body::new)
    });

    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .max_buf_size((limits.header_bytes as usize).max(8 << 10));
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.streams)
        .max_header_list_size(limits.header_bytes)
        .keep_alive_interval(limits.header_timeout)
        .keep_alive_timeout(limits.header_timeout);
    let conn = builder
        .serve_connection(TokioIo::new(io), TowerToHyperService::new(service))
        .into_owned();
    let mut conn = std::pin::pin!(conn);

    let drain = tokio::select! {
        // What goes wrong on a connection is the client's to see.
        _ = conn.as_mut() => return,
        () = shutdown.cancelled() => limits.drain,
        () = clock.sleep(limits.max_age) => limits.request_timeout,
        () = unused(&requests, limits, &clock) => limits.request_timeout,
    };
    if requests.load(Ordering::Relaxed) == 0 {
        return;
    }
    conn.as_mut().graceful_shutdown();
    let _ = clock.timeout(drain, conn).await;
}

/// Returns when a connection has been without a new request for too long: it takes a place that others may need.
async fn unused(requests: &AtomicU64, limits: HttpLimits, clock: &Clock) {
    let (mut before, mut patience) = (0, limits.header_timeout);
    loop {
        clock.sleep(patience).await;
        let now = requests.load(Ordering::Relaxed);
        if now == before {
            return;
        }
        (before, patience) = (now, limits.idle);
    }
}

/// The router with the limits of body and time on each request.
fn bounded(router: Router, serving: &Serving) -> Router {
    let (limits, clock) = (serving.limits, serving.clock.clone());
    router
        .layer(DefaultBodyLimit::max(limits.body_bytes))
        .layer(from_fn(move |request: Request, next: Next| {
            let clock = clock.clone();
            async move {
                if request.body().size_hint().lower() > limits.body_bytes as u64 {
                    return (StatusCode::PAYLOAD_TOO_LARGE, "the request's body is too large\n").into_response();
                }
                let answer = clock.timeout(limits.request_timeout, next.run(request)).await;
                answer.unwrap_or_else(|_| too_slow())
            }
        }))
}

fn too_slow() -> Response {
    (StatusCode::REQUEST_TIMEOUT, "the request took too long\n").into_response()
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use axum::routing::{get, post};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::task::JoinHandle;

    use super::*;
    use crate::net::{tcp_connect, tcp_listener};

    fn start(router: Router, serving: Serving) -> (SocketAddr, JoinHandle<()>) {
        let listener = tcp_listener(([127, 0, 0, 1], 0).into()).unwrap();
        let addr = listener.local_addr().unwrap();
        #[expect(clippy::disallowed_methods, reason = "tests")]
        let server = tokio::spawn(serve_http(listener, router, serving));
        (addr, server)
    }

    async fn ask(addr: SocketAddr, request: &str) -> String {
        let clock = Clock::system();
        let limit = Duration::from_secs(10);
        let mut io = tcp_connect(&addr.to_string(), limit, &clock).await.unwrap();
        io.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        clock
            .timeout(limit, io.read_to_string(&mut answer))
            .await
            .unwrap()
            .unwrap();
        answer
    }

    #[tokio::test]
    async fn a_router_is_served_until_shutdown_and_requests_know_where_they_come_from() {
        let remote = |request: Request| async move {
            let info = request.extensions().get::<tonic::transport::server::TcpConnectInfo>();
            info.unwrap().remote_addr().unwrap().ip().to_string()
        };
        let shutdown = CancellationToken::new();
        let serving = Serving::new(Clock::system(), shutdown.clone());
        let (addr, server) = start(Router::new().route("/", get(remote)), serving);
        let answer = ask(addr, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
        assert!(
            answer.starts_with("HTTP/1.1 200") && answer.ends_with("127.0.0.1"),
            "{answer}"
        );
        shutdown.cancel();
        server.await.unwrap();
    }

    #[tokio::test]
    async fn what_is_too_large_is_refused() {
        let mut serving = Serving::new(Clock::system(), CancellationToken::new());
        serving.limits.body_bytes = 10;
        let (addr, _) = start(
            Router::new().route("/", post(|body: String| async move { body })),
            serving,
        );
        let post = |body: &str| {
            let length = body.len();
            format!("POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}")
        };
        assert!(ask(addr, &post("0123456789")).await.starts_with("HTTP/1.1 200"));
        assert!(ask(addr, &post("0123456789a")).await.starts_with("HTTP/1.1 413"));
        let chunked = "POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n\
                       b\r\n0123456789a\r\n0\r\n\r\n";
        assert!(ask(addr, chunked).await.starts_with("HTTP/1.1 413"));
        let header = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(64 << 10));
        assert!(ask(addr, &header).await.starts_with("HTTP/1.1 431"));
    }

    #[tokio::test]
    async fn a_request_that_takes_too_long_is_answered_so() {
        let clock = Clock::manual(0);
        let serving = Serving::new(clock.clone(), CancellationToken::new());
        let limit = serving.limits.request_timeout;
        let begun = Arc::new(tokio::sync::Notify::new());
        let slow = {
            let begun = Arc::clone(&begun);
            get(move || async move {
                begun.notify_one();
                std::future::pending::<()>().await;
            })
        };
        let (addr, _) = start(Router::new().route("/", slow), serving);
        let answer = ask(addr, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        let pass = async {
            begun.notified().await;
            clock.advance(limit);
        };
        let (answer, ()) = tokio::join!(answer, pass);
        assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    }

    #[tokio::test]
    async fn a_connection_that_asks_nothing_frees_its_place() {
        let (clock, system) = (Clock::manual(0), Clock::system());
        let mut serving = Serving::new(clock.clone(), CancellationToken::new());
        // Longer than this test takes: hyper has a clock of its own.
        serving.limits.header_timeout = Duration::from_secs(3600);
        serving.limits.idle = Duration::from_secs(7200);
        serving.limits.max_age = Duration::from_secs(1 << 30);
        let stats = serving.stats.clone();
        let (addr, _) = start(Router::new().route("/", get(|| async { "here" })), serving);
        let limit = Duration::from_secs(10);
        let addr = addr.to_string();
        let connect = || tcp_connect(&addr, limit, &system);
        // One says nothing at all, the other asks once and then no more.
        let (mut silent, mut once) = (connect().await.unwrap(), connect().await.unwrap());
        once.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        let mut answer = [0; 12];
        once.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200");
        while stats.open() < 2 {
            tokio::task::yield_now().await;
        }
        for (io, left) in [(&mut silent, 1), (&mut once, 0)] {
            let mut rest = Vec::new();
            let read = system.timeout(limit, io.read_to_end(&mut rest));
            let pass = async {
                // Not all at once: the time that a connection has begins when it is accepted.
                while stats.open() > left {
                    tokio::task::yield_now().await;
                    clock.advance(Duration::from_secs(60));
                }
            };
            let (read, ()) = tokio::join!(read, pass);
            read.unwrap().unwrap();
        }
        let passed = clock.unix();
        assert!((3_600 + 7_200..1 << 30).contains(&passed), "{passed}");
    }
}
