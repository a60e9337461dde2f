//! The CSI driver: what the kubelet calls.

use std::path::PathBuf;

use mintmark_proto::csi::identity_server::Identity;
use mintmark_proto::csi::node_server::Node;
use mintmark_proto::csi::node_service_capability::{Rpc, Type, rpc};
use mintmark_proto::csi::{
    GetPluginCapabilitiesRequest, GetPluginCapabilitiesResponse, GetPluginInfoRequest, GetPluginInfoResponse,
    NodeGetCapabilitiesRequest, NodeGetCapabilitiesResponse, NodeGetInfoRequest, NodeGetInfoResponse,
    NodePublishVolumeRequest, NodePublishVolumeResponse, NodeServiceCapability, NodeUnpublishVolumeRequest,
    NodeUnpublishVolumeResponse, ProbeRequest, ProbeResponse,
};
use tonic::{Code, Request, Response, Status};

use super::request::{RequestError, Spec, check_id, target};
use super::volumes::{VolumeError, Volumes};

/// One driver by its name. A handle.
#[derive(Clone)]
pub(super) struct Driver {
    pub(super) name: String,
    pub(super) kubelet_dir: PathBuf,
    pub(super) volumes: Volumes,
}

#[tonic::async_trait]
impl Identity for Driver {
    async fn get_plugin_info(
        &self,
        _: Request<GetPluginInfoRequest>,
    ) -> Result<Response<GetPluginInfoResponse>, Status> {
        Ok(Response::new(GetPluginInfoResponse {
            name: self.name.clone(),
            vendor_version: env!("CARGO_PKG_VERSION").into(),
        }))
    }

    async fn get_plugin_capabilities(
        &self,
        _: Request<GetPluginCapabilitiesRequest>,
    ) -> Result<Response<GetPluginCapabilitiesResponse>, Status> {
        Ok(Response::new(GetPluginCapabilitiesResponse {}))
    }

    async fn probe(&self, _: Request<ProbeRequest>) -> Result<Response<ProbeResponse>, Status> {
        Ok(Response::new(ProbeResponse { ready: Some(true) }))
    }
}

#[tonic::async_trait]
impl Node for Driver {
    async fn node_publish_volume(
        &self,
        request: Request<NodePublishVolumeRequest>,
    ) -> Result<Response<NodePublishVolumeResponse>, Status> {
        let publish = async {
            let (spec, token) = Spec::read(&self.name, request.into_inner(), &self.kubelet_dir)?;
            self.volumes.publish(spec, token).await
        };
        self.answer("NodePublishVolume", publish.await)?;
        Ok(Response::new(NodePublishVolumeResponse {}))
    }

    async fn node_unpublish_volume(
        &self,
        request: Request<NodeUnpublishVolumeRequest>,
    ) -> Result<Response<NodeUnpublishVolumeResponse>, Status> {
        let NodeUnpublishVolumeRequest { volume_id, target_path } = request.into_inner();
        let unpublish = async {
            check_id(&volume_id)?;
            let (path, _) = target(&target_path, &self.kubelet_dir)?;
            self.volumes.unpublish(&self.name, &volume_id, path).await
        };
        self.answer("NodeUnpublishVolume", unpublish.await)?;
        Ok(Response::new(NodeUnpublishVolumeResponse {}))
    }

    async fn node_get_capabilities(
        &self,
        _: Request<NodeGetCapabilitiesRequest>,
    ) -> Result<Response<NodeGetCapabilitiesResponse>, Status> {
        // So that the kubelet tells the group instead of changing owners itself, which it does not do for read-only volumes.
        let mount_group = NodeServiceCapability {
            r#type: Some(Type::Rpc(Rpc {
                r#type: rpc::Type::VolumeMountGroup.into(),
            })),
        };
        Ok(Response::new(NodeGetCapabilitiesResponse {
            capabilities: vec![mount_group],
        }))
    }

    async fn node_get_info(&self, _: Request<NodeGetInfoRequest>) -> Result<Response<NodeGetInfoResponse>, Status> {
        Ok(Response::new(NodeGetInfoResponse {
            node_id: self.volumes.0.node.clone(),
            max_volumes_per_node: 0,
        }))
    }
}

impl Driver {
    /// Counts and logs how a call went, and says it in gRPC.
    fn answer(&self, method: &'static str, outcome: Result<(), VolumeError>) -> Result<(), Status> {
        let status = outcome.map_err(|error| status(&error));
        let code = status.as_ref().map_or_else(Status::code, |()| Code::Ok);
        self.volumes.0.metrics.called(method, code);
        status.inspect_err(|status| match status.code() {
            Code::Aborted => {}
            _ => tracing::warn!(driver = self.name, method, ?code, "{}", status.message()),
        })
    }
}

/// The codes of the CSI specification.
fn status(error: &VolumeError) -> Status {
    let code = match error {
        VolumeError::Request(RequestError::Invalid(_)) => Code::InvalidArgument,
        VolumeError::Request(RequestError::Cluster(_)) => Code::FailedPrecondition,
        VolumeError::Busy => Code::Aborted,
        VolumeError::Differs => Code::AlreadyExists,
        VolumeError::NotYet(_) | VolumeError::Stopping => Code::Unavailable,
        VolumeError::Refused { code, .. } => *code,
        VolumeError::Place(_) | VolumeError::Socket(_) | VolumeError::Record(_) | VolumeError::Pool(_) => {
            Code::Internal
        }
    };
    Status::new(code, error.to_string())
}
