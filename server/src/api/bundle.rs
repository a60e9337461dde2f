//! `spire.api.server.bundle.v1.Bundle`: whom to trust. Our own bundle; those of other trust domains come with federation.

use mintmark_identity::TrustDomain;
use mintmark_proto::spire::server::bundle::{
    BatchDeleteFederatedBundleRequest, BatchDeleteFederatedBundleResponse, CountBundlesRequest, CountBundlesResponse,
    GetBundleRequest, GetFederatedBundleRequest, ListFederatedBundlesRequest, ListFederatedBundlesResponse,
    batch_delete_federated_bundle_response, bundle_server,
};
use mintmark_proto::spire::types;
use tonic::{Request, Response, Status};

use super::Rooms;
use super::convert::{MAX_PAGE, bundle_message, page_size};
use super::status::{self, invalid, malformed};

/// The service.
pub(super) struct BundleService {
    pub(super) rooms: Rooms,
}

#[tonic::async_trait]
impl bundle_server::Bundle for BundleService {
    async fn count_bundles(&self, _: Request<CountBundlesRequest>) -> Result<Response<CountBundlesResponse>, Status> {
        // Our own.
        Ok(Response::new(CountBundlesResponse { count: 1 }))
    }

    async fn get_bundle(&self, request: Request<GetBundleRequest>) -> Result<Response<types::Bundle>, Status> {
        let mask = request.into_inner().output_mask;
        Ok(Response::new(bundle_message(&self.rooms.authorities.bundle(), mask)))
    }

    async fn list_federated_bundles(
        &self,
        request: Request<ListFederatedBundlesRequest>,
    ) -> Result<Response<ListFederatedBundlesResponse>, Status> {
        page_size(request.into_inner().page_size)?;
        Ok(Response::new(ListFederatedBundlesResponse::default()))
    }

    async fn get_federated_bundle(
        &self,
        request: Request<GetFederatedBundleRequest>,
    ) -> Result<Response<types::Bundle>, Status> {
        self.foreign(&request.into_inner().trust_domain)?;
        Err(status::not_found("bundle not found"))
    }

    async fn batch_delete_federated_bundle(
        &self,
        request: Request<BatchDeleteFederatedBundleRequest>,
    ) -> Result<Response<BatchDeleteFederatedBundleResponse>, Status> {
        let names = request.into_inner().trust_domains;
        if names.len() > MAX_PAGE {
            return Err(invalid(format!(
                "{} trust domains in one call are more than {MAX_PAGE}",
                names.len()
            )));
        }
        let results = names.into_iter().map(|name| {
            let why = self
                .foreign(&name)
                .err()
                .unwrap_or_else(|| status::not_found("bundle not found"));
            batch_delete_federated_bundle_response::Result {
                status: Some(status::item(&why)),
                trust_domain: name,
            }
        });
        Ok(Response::new(BatchDeleteFederatedBundleResponse {
            results: results.collect(),
        }))
    }
}

impl BundleService {
    /// Another trust domain than ours.
    fn foreign(&self, name: &str) -> Result<TrustDomain, Status> {
        let trust_domain = TrustDomain::parse_name_or_id(name)
            .map_err(|error| malformed("trust domain argument is not valid", error))?;
        match trust_domain == self.rooms.trust_domain {
            true => Err(invalid(
                "a federated bundle for the server's own trust domain is not allowed",
            )),
            false => Ok(trust_domain),
        }
    }
}
