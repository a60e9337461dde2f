//! The gate in front of every call: how many there are of one user or pod, and how much of a call is taken in before anything is known of its caller.
//!
//! A request is small and comes at once. Whoever sends one bit by bit would have the attestor hold what has come of it, and could do so many times over; so only few
//! requests of one may be on their way in at a time, and none for long.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use mintmark_runtime::clock::Clock;
use tonic::Status;
use tonic::body::Body;
use tower::{Layer, Service};

use super::limits::{Place, Streams};
use super::metrics::{ServeMetrics, method_of};
use super::{MAX_MESSAGE, ServeLimits};
use crate::peer::Peer;

/// Requests that are on their way in at once.
const RECEIVING: ServeLimits = ServeLimits {
    streams: 512,
    streams_per_user: 128,
};
/// How long a request may take to come in.
const RECEIVE: Duration = Duration::from_secs(10);
/// What stands before a message.
const FRAME_HEADER: usize = 5;
/// Calls of this service are conversations, of which no end is waited for.
const REFLECTION: &str = "/grpc.reflection.";

/// The gate. A handle.
#[derive(Clone)]
pub(super) struct Admission {
    calls: Streams,
    receiving: Streams,
    clock: Clock,
    metrics: ServeMetrics,
}

impl Admission {
    pub(super) fn new(limits: ServeLimits, clock: Clock, metrics: ServeMetrics) -> Self {
        Self {
            calls: Streams::new(limits, "are under way"),
            receiving: Streams::new(RECEIVING, "are on their way in"),
            clock,
            metrics,
        }
    }

    /// Lets a call in, whole, with its place among those under way.
    async fn admit(&self, request: Request<Body>) -> Result<(Request<Body>, Place), Status> {
        let peer = request.extensions().get::<Arc<Peer>>();
        // Every connection has one: without it, it was not accepted.
        let holder = peer.ok_or_else(|| Status::internal("nobody knows who calls"))?.holder();
        let place = self.calls.enter(holder.clone())?;
        if request.uri().path().starts_with(REFLECTION) {
            return Ok((request, place));
        }
        let _receiving = self.receiving.enter(holder)?;
        let (head, body) = request.into_parts();
        let whole = Limited::new(body, MAX_MESSAGE + FRAME_HEADER).collect();
        let whole = match self.clock.timeout(RECEIVE, whole).await {
            Ok(Ok(whole)) => whole.to_bytes(),
            Ok(Err(error)) if error.is::<LengthLimitError>() => {
                return Err(Status::out_of_range(format!(
                    "a request has at most {MAX_MESSAGE} bytes"
                )));
            }
            Ok(Err(error)) => {
                return Err(Status::cancelled(format!(
                    "the request did not come to its end: {error}"
                )));
            }
            Err(late) => {
                return Err(Status::deadline_exceeded(format!(
                    "the request did not come whole: {late}"
                )));
            }
        };
        Ok((Request::from_parts(head, Body::new(Full::new(whole))), place))
    }
}

impl<S> Layer<S> for Admission {
    type Service = Admitted<S>;

    fn layer(&self, inner: S) -> Admitted<S> {
        Admitted {
            inner,
            admission: self.clone(),
        }
    }
}

/// What stands behind the gate.
#[derive(Clone)]
pub(super) struct Admitted<S> {
    inner: S,
    admission: Admission,
}

impl<S> Service<Request<Body>> for Admitted<S>
where
    S: Service<Request<Body>, Response = Response<Body>> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let next = self.inner.clone();
        // The one that was ready is the one that is called.
        let mut inner = std::mem::replace(&mut self.inner, next);
        let admission = self.admission.clone();
        Box::pin(async move {
            let method = method_of(request.uri().path());
            match admission.admit(request).await {
                Ok((request, place)) => {
                    let answer = inner.call(request).await?;
                    Ok(answer.map(|body| Body::new(Placed { body, _place: place })))
                }
                Err(status) => {
                    admission.metrics.ended(method, Err(&status));
                    Ok(status.into_http())
                }
            }
        })
    }
}

/// An answer that has its place until it is told or nobody listens any more.
struct Placed {
    body: Body,
    _place: Place,
}

impl HttpBody for Placed {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
