//! The seven methods.

use mintmark_proto::workload::spiffe_workload_api_server::SpiffeWorkloadApi;
use mintmark_proto::workload::{
    JwtBundlesRequest, JwtBundlesResponse, JwtsvidRequest, JwtsvidResponse, ValidateJwtsvidRequest,
    ValidateJwtsvidResponse, WitBundlesRequest, WitBundlesResponse, WitsvidRequest, WitsvidResponse,
    X509BundlesRequest, X509BundlesResponse, X509svidRequest, X509svidResponse,
};
use mintmark_runtime::clock::Clock;
use tokio_util::sync::CancellationToken;
use tonic::codegen::BoxStream;
use tonic::{Extensions, Request, Response, Status};

use super::caller::Caller;
use super::metrics::ServeMetrics;
use super::tokens::{self, JwtBundles, WitBundles, WitSvids};
use super::watch::{Answer, watched};
use super::x509::{X509Bundles, X509Svids};
use crate::keep::Keep;
use crate::peer::Unix;

/// The service. A handle.
#[derive(Clone)]
pub(super) struct Workloads {
    pub(super) keep: Keep,
    pub(super) unix: Unix,
    pub(super) clock: Clock,
    pub(super) metrics: ServeMetrics,
    pub(super) shutdown: CancellationToken,
}

#[tonic::async_trait]
impl SpiffeWorkloadApi for Workloads {
    async fn fetch_x509svid(
        &self,
        request: Request<X509svidRequest>,
    ) -> Result<Response<BoxStream<X509svidResponse>>, Status> {
        self.watch(request.extensions(), X509Svids)
    }

    async fn fetch_x509_bundles(
        &self,
        request: Request<X509BundlesRequest>,
    ) -> Result<Response<BoxStream<X509BundlesResponse>>, Status> {
        self.watch(request.extensions(), X509Bundles)
    }

    async fn fetch_jwtsvid(&self, request: Request<JwtsvidRequest>) -> Result<Response<JwtsvidResponse>, Status> {
        let (_, extensions, request) = request.into_parts();
        let caller = Caller::of(&extensions)?;
        let answer = tokens::jwt_svids(self, &caller, request).await;
        self.metrics.ended("FetchJWTSVID", answer.as_ref().map(drop));
        answer.map(Response::new)
    }

    async fn fetch_jwt_bundles(
        &self,
        request: Request<JwtBundlesRequest>,
    ) -> Result<Response<BoxStream<JwtBundlesResponse>>, Status> {
        self.watch(request.extensions(), JwtBundles)
    }

    async fn validate_jwtsvid(
        &self,
        request: Request<ValidateJwtsvidRequest>,
    ) -> Result<Response<ValidateJwtsvidResponse>, Status> {
        let (_, extensions, request) = request.into_parts();
        let caller = Caller::of(&extensions)?;
        let answer = tokens::validate(self, &caller, request).await;
        self.metrics.ended("ValidateJWTSVID", answer.as_ref().map(drop));
        answer.map(Response::new)
    }

    async fn fetch_witsvid(
        &self,
        request: Request<WitsvidRequest>,
    ) -> Result<Response<BoxStream<WitsvidResponse>>, Status> {
        let (_, extensions, request) = request.into_parts();
        self.watch(&extensions, WitSvids::new(&request.spiffe_id)?)
    }

    async fn fetch_wit_bundles(
        &self,
        request: Request<WitBundlesRequest>,
    ) -> Result<Response<BoxStream<WitBundlesResponse>>, Status> {
        self.watch(request.extensions(), WitBundles)
    }
}

impl Workloads {
    fn watch<A: Answer>(&self, extensions: &Extensions, answer: A) -> Result<Response<BoxStream<A::Message>>, Status> {
        let caller = Caller::of(extensions)?;
        Ok(Response::new(watched(self.clone(), caller, answer)))
    }
}
