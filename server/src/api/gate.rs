//! The gate in front of every method: who calls, may they, and how often. Nothing is decoded before it has said yes.
//!
//! For each call it looks up the method's line in [`methods`](super::methods), finds out the [`Caller`], takes one from the caller's bucket, and counts what
//! becomes of the call. What a caller that has been let in may take up is bounded too: in bytes where anyone may call as often as they like, and in time.

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Extensions, Request, Response};
use mintmark_identity::TrustDomain;
use mintmark_runtime::clock::{Clock, TimedOut};
use mintmark_runtime::tls::{ConnectInfo, PeerIdentity};
use tonic::body::Body;
use tonic::transport::server::UdsConnectInfo;
use tonic::{Code, Status};
use tower::{Layer, Service};
use tracing::{Instrument as _, Span};

use super::bounded::Bounded;
use super::caller::{Agent, Allowance, Caller};
use super::limits::{Key, Limits};
use super::methods::{self, Limit, Method, Who};
use super::observe::{Observed, RpcMetrics};
use super::{Rooms, status};
use crate::attest::Nodes;
use crate::registry::{Filter, Registry};

/// A call is answered within this time, or given up: above all one whose request never comes whole, and which holds what has come of it. Of a stream it is the
/// beginning that must come.
const ANSWER: Duration = Duration::from_secs(60);
/// Where anyone may call, and as often as they like, a call has no more bytes: it says which parts of the bundle are wanted.
const MAX_ANYTIME: usize = 1 << 10;
/// And is answered within this time.
const ANSWER_ANYTIME: Duration = Duration::from_secs(5);

/// More entries of one SPIFFE ID than this are not looked through for the one that makes it an administrator's.
const MAX_ENTRIES: usize = 1_000;

/// The gate. A handle.
#[derive(Clone)]
pub struct Gate(Arc<Inner>);

struct Inner {
    table: HashMap<&'static str, Method>,
    trust_domain: TrustDomain,
    clock: Clock,
    registry: Registry,
    nodes: Nodes,
    limits: Limits,
    metrics: RpcMetrics,
    traced: bool,
}

/// The other end of a connection.
enum Peer<'a> {
    Local(&'a UdsConnectInfo),
    Remote(&'a ConnectInfo),
}

impl Gate {
    /// With `traced`, each call is a span.
    pub(super) fn new(rooms: &Rooms, limits: Limits, metrics: RpcMetrics, traced: bool) -> Self {
        Self(Arc::new(Inner {
            table: methods::table(),
            trust_domain: rooms.trust_domain.clone(),
            clock: rooms.clock.clone(),
            registry: rooms.registry.clone(),
            nodes: rooms.nodes.clone(),
            limits,
            metrics,
            traced,
        }))
    }

    /// Lets a call in, with its caller in the extensions, or says why not.
    async fn admit(&self, path: &str, extensions: &mut Extensions) -> Result<Method, Status> {
        let Some(method) = self.0.table.get(path) else {
            return Err(Status::new(
                Code::Unimplemented,
                format!("this server has no method {}", path.trim_start_matches('/')),
            ));
        };
        let (caller, key) = self.identify(method, extensions).await?;
        if let Some(key) = key {
            let allowance = Allowance {
                limits: self.0.limits.clone(),
                limit: method.limit,
                key,
            };
            self.0
                .limits
                .take(method.limit, &allowance.key, 1)
                .await
                .map_err(|over| {
                    let wait = over.retry_after.as_secs() + 1;
                    status::too_fast(
                        format!("rejecting request due to rate limiting: come again in {wait} s"),
                        over.retry_after,
                    )
                })?;
            extensions.insert(allowance);
        }
        extensions.insert(caller);
        Ok(*method)
    }

    async fn identify(&self, method: &Method, extensions: &Extensions) -> Result<(Caller, Option<Key>), Status> {
        let denied = |why: &str| {
            let method = method.path.trim_start_matches('/');
            Err(status::denied(format!(
                "authorization denied for method {method}: {why}"
            )))
        };
        let info = match peer(extensions) {
            Some(Peer::Remote(info)) => info,
            Some(Peer::Local(info)) => {
                let Some(cred) = info.peer_cred else {
                    return denied("the kernel does not say who calls");
                };
                return match method.who {
                    Who::Any | Who::AgentOrAdmin | Who::Local | Who::LocalOrAdmin => Ok((
                        Caller::Local {
                            uid: cred.uid(),
                            pid: cred.pid(),
                        },
                        None,
                    )),
                    Who::Agent => denied("it is for attested agents, on the API's listener"),
                    Who::Downstream => denied("it is for downstream servers, on the API's listener"),
                };
            }
            None => return denied("nobody knows where it comes from"),
        };
        let address = info.remote_addr.map(|addr| Key::address(addr.ip()));
        let Some(peer) = info.peer.as_deref() else {
            return match method.who {
                Who::Any => Ok((
                    Caller::Anyone {
                        id: None,
                        remote: info.remote_addr,
                    },
                    address,
                )),
                Who::Local => denied("it is for the admin socket only"),
                _ => denied("the caller shows no X.509-SVID"),
            };
        };
        match method.who {
            Who::Any => Ok((
                Caller::Anyone {
                    id: Some(peer.spiffe_id.clone()),
                    remote: info.remote_addr,
                },
                address,
            )),
            Who::Agent => self.agent(peer).await,
            Who::AgentOrAdmin if self.has_entry(peer, |entry| entry.admin) => {
                Ok((Caller::Admin(peer.spiffe_id.clone()), address))
            }
            Who::AgentOrAdmin => self.agent(peer).await,
            Who::LocalOrAdmin if self.has_entry(peer, |entry| entry.admin) => {
                Ok((Caller::Admin(peer.spiffe_id.clone()), address))
            }
            Who::LocalOrAdmin => denied(&format!("no entry makes {} an administrator", peer.spiffe_id)),
            Who::Downstream if self.has_entry(peer, |entry| entry.downstream) => {
                Ok((Caller::Downstream(peer.spiffe_id.clone()), address))
            }
            Who::Downstream => denied(&format!("no entry makes {} a downstream server", peer.spiffe_id)),
            Who::Local => denied("it is for the admin socket only"),
        }
    }

    async fn agent(&self, peer: &PeerIdentity) -> Result<(Caller, Option<Key>), Status> {
        let authenticated = self
            .0
            .nodes
            .authenticate(&peer.spiffe_id, &peer.serial, peer.not_after)
            .await;
        let (attested, record) = authenticated.map_err(|error| status::authenticate(error, peer.spiffe_id.as_str()))?;
        Ok((
            Caller::Agent(Box::new(Agent { attested, record })),
            Some(Key::Node(peer.spiffe_id.clone())),
        ))
    }

    /// Whether an entry of the peer's ID that has not ended says so. Entries are ours, and so must the peer be; the connection may have outlived its SVID.
    fn has_entry(&self, peer: &PeerIdentity, says: impl Fn(&crate::registry::Entry) -> bool) -> bool {
        let now = self.0.clock.unix();
        if !peer.spiffe_id.is_in(&self.0.trust_domain) || peer.not_after <= now {
            return false;
        }
        let filter = Filter {
            spiffe_id: Some(peer.spiffe_id.clone()),
            ..Filter::default()
        };
        let (entries, _) = self.0.registry.list(&filter, None, MAX_ENTRIES);
        entries.iter().any(|entry| says(entry) && !entry.is_expired(now))
    }
}

fn too_late(late: TimedOut) -> Status {
    let why = "the request did not come whole, or the server has too much to do";
    status::refused(
        Code::DeadlineExceeded,
        "TOO_LATE",
        format!("the call was given up, {late}: {why}"),
    )
}

fn peer(extensions: &Extensions) -> Option<Peer<'_>> {
    let remote = extensions.get::<ConnectInfo>().map(Peer::Remote);
    remote.or_else(|| extensions.get::<UdsConnectInfo>().map(Peer::Local))
}

impl<S> Layer<S> for Gate {
    type Service = Gated<S>;

    fn layer(&self, inner: S) -> Gated<S> {
        Gated {
            gate: self.clone(),
            inner,
        }
    }
}

/// A service behind the gate.
#[derive(Clone)]
pub struct Gated<S> {
    gate: Gate,
    inner: S,
}

impl<S> Service<Request<Body>> for Gated<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let gate = self.gate.clone();
        // The one that is ready serves; the clone is for the next call.
        let next = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, next);
        let method = method_label(&gate.0.table, request.uri().path());
        let span = match gate.0.traced {
            true => tracing::info_span!(
                "call",
                method,
                caller = tracing::field::Empty,
                code = tracing::field::Empty
            ),
            false => Span::none(),
        };
        let answer = async move {
            let call = gate.0.metrics.begin(method, gate.0.clock.clone());
            let path = request.uri().path().to_owned();
            match gate.admit(&path, request.extensions_mut()).await {
                Ok(method) => {
                    if let Some(caller) = request.extensions().get::<Caller>().filter(|_| gate.0.traced) {
                        Span::current().record("caller", tracing::field::display(caller));
                    }
                    let (request, patience) = match (method.who, method.limit) {
                        (Who::Any, Limit::Unlimited) => {
                            let request = request.map(|body| Bounded::wrap(body, MAX_ANYTIME));
                            (request, ANSWER_ANYTIME)
                        }
                        _ => (request, ANSWER),
                    };
                    match gate.0.clock.timeout(patience, inner.call(request)).await {
                        Ok(response) => Ok(Observed::wrap(response?, call)),
                        Err(late) => {
                            call.done(Code::DeadlineExceeded);
                            Ok(too_late(late).into_http())
                        }
                    }
                }
                Err(status) => {
                    tracing::debug!(method = path, code = ?status.code(), why = status.message(), "call refused");
                    Span::current().record("code", tracing::field::debug(status.code()));
                    call.done(status.code());
                    Ok(status.into_http())
                }
            }
        };
        Box::pin(answer.instrument(span))
    }
}

/// The method's name for metrics; whatever has no line shares one.
fn method_label(table: &HashMap<&'static str, Method>, path: &str) -> &'static str {
    table
        .get(path)
        .map_or("unknown", |method| method.path.trim_start_matches('/'))
}
