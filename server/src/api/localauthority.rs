//! `spire.api.server.localauthority.v1.LocalAuthority`: the administration of the keys that sign.

use std::future::Future;

use mintmark_identity::KeyId;
use mintmark_proto::spire::server::localauthority::{self as api, AuthorityState, local_authority_server};
use tonic::{Code, Extensions, Request, Response, Status};

use super::Rooms;
use super::caller::audit;
use super::status::{self, invalid, malformed};
use crate::authority::{AuthorityError, AuthorityInfo, Kind, Slot};

/// The service.
pub(super) struct LocalAuthorityService {
    pub(super) rooms: Rooms,
}

#[tonic::async_trait]
impl local_authority_server::LocalAuthority for LocalAuthorityService {
    async fn get_jwt_authority_state(
        &self,
        _: Request<api::GetJwtAuthorityStateRequest>,
    ) -> Result<Response<api::GetJwtAuthorityStateResponse>, Status> {
        let (active, prepared, old) = self.states(Kind::Jwt);
        Ok(Response::new(api::GetJwtAuthorityStateResponse {
            active,
            prepared,
            old,
        }))
    }

    async fn prepare_jwt_authority(
        &self,
        request: Request<api::PrepareJwtAuthorityRequest>,
    ) -> Result<Response<api::PrepareJwtAuthorityResponse>, Status> {
        let prepared = self.rooms.authorities.prepare(Kind::Jwt);
        let prepared_authority = Some(change(request.extensions(), Kind::Jwt, "prepare", prepared).await?);
        Ok(Response::new(api::PrepareJwtAuthorityResponse { prepared_authority }))
    }

    async fn activate_jwt_authority(
        &self,
        request: Request<api::ActivateJwtAuthorityRequest>,
    ) -> Result<Response<api::ActivateJwtAuthorityResponse>, Status> {
        let id = key_id(&request.get_ref().authority_id)?;
        let activated = self.rooms.authorities.activate(Kind::Jwt, Some(&id));
        let activated_authority = Some(change(request.extensions(), Kind::Jwt, "activate", activated).await?);
        Ok(Response::new(api::ActivateJwtAuthorityResponse { activated_authority }))
    }

    async fn taint_jwt_authority(
        &self,
        request: Request<api::TaintJwtAuthorityRequest>,
    ) -> Result<Response<api::TaintJwtAuthorityResponse>, Status> {
        let id = key_id(&request.get_ref().authority_id)?;
        let tainted = self.rooms.authorities.taint(Kind::Jwt, Some(&id));
        let tainted_authority = Some(change(request.extensions(), Kind::Jwt, "taint", tainted).await?);
        Ok(Response::new(api::TaintJwtAuthorityResponse { tainted_authority }))
    }

    async fn revoke_jwt_authority(
        &self,
        request: Request<api::RevokeJwtAuthorityRequest>,
    ) -> Result<Response<api::RevokeJwtAuthorityResponse>, Status> {
        let id = key_id(&request.get_ref().authority_id)?;
        let revoked = self.rooms.authorities.revoke(Kind::Jwt, Some(&id));
        let revoked_authority = Some(change(request.extensions(), Kind::Jwt, "revoke", revoked).await?);
        Ok(Response::new(api::RevokeJwtAuthorityResponse { revoked_authority }))
    }

    async fn get_x509_authority_state(
        &self,
        _: Request<api::GetX509AuthorityStateRequest>,
    ) -> Result<Response<api::GetX509AuthorityStateResponse>, Status> {
        let (active, prepared, old) = self.states(Kind::X509);
        Ok(Response::new(api::GetX509AuthorityStateResponse {
            active,
            prepared,
            old,
        }))
    }

    async fn prepare_x509_authority(
        &self,
        request: Request<api::PrepareX509AuthorityRequest>,
    ) -> Result<Response<api::PrepareX509AuthorityResponse>, Status> {
        let prepared = self.rooms.authorities.prepare(Kind::X509);
        let prepared_authority = Some(change(request.extensions(), Kind::X509, "prepare", prepared).await?);
        Ok(Response::new(api::PrepareX509AuthorityResponse { prepared_authority }))
    }

    async fn activate_x509_authority(
        &self,
        request: Request<api::ActivateX509AuthorityRequest>,
    ) -> Result<Response<api::ActivateX509AuthorityResponse>, Status> {
        let id = key_id(&request.get_ref().authority_id)?;
        let activated = self.rooms.authorities.activate(Kind::X509, Some(&id));
        let activated_authority = Some(change(request.extensions(), Kind::X509, "activate", activated).await?);
        Ok(Response::new(api::ActivateX509AuthorityResponse {
            activated_authority,
        }))
    }

    async fn taint_x509_authority(
        &self,
        request: Request<api::TaintX509AuthorityRequest>,
    ) -> Result<Response<api::TaintX509AuthorityResponse>, Status> {
        let id = key_id(&request.get_ref().authority_id)?;
        let tainted = self.rooms.authorities.taint(Kind::X509, Some(&id));
        let tainted_authority = Some(change(request.extensions(), Kind::X509, "taint", tainted).await?);
        Ok(Response::new(api::TaintX509AuthorityResponse { tainted_authority }))
    }

    async fn revoke_x509_authority(
        &self,
        request: Request<api::RevokeX509AuthorityRequest>,
    ) -> Result<Response<api::RevokeX509AuthorityResponse>, Status> {
        let id = key_id(&request.get_ref().authority_id)?;
        let revoked = self.rooms.authorities.revoke(Kind::X509, Some(&id));
        let revoked_authority = Some(change(request.extensions(), Kind::X509, "revoke", revoked).await?);
        Ok(Response::new(api::RevokeX509AuthorityResponse { revoked_authority }))
    }

    async fn get_wit_authority_state(
        &self,
        _: Request<api::GetWitAuthorityStateRequest>,
    ) -> Result<Response<api::GetWitAuthorityStateResponse>, Status> {
        let (active, prepared, old) = self.states(Kind::Wit);
        Ok(Response::new(api::GetWitAuthorityStateResponse {
            active,
            prepared,
            old,
        }))
    }

    async fn prepare_wit_authority(
        &self,
        request: Request<api::PrepareWitAuthorityRequest>,
    ) -> Result<Response<api::PrepareWitAuthorityResponse>, Status> {
        let prepared = self.rooms.authorities.prepare(Kind::Wit);
        let prepared_authority = Some(change(request.extensions(), Kind::Wit, "prepare", prepared).await?);
        Ok(Response::new(api::PrepareWitAuthorityResponse { prepared_authority }))
    }

    async fn activate_wit_authority(
        &self,
        request: Request<api::ActivateWitAuthorityRequest>,
    ) -> Result<Response<api::ActivateWitAuthorityResponse>, Status> {
        let id = key_id(&request.get_ref().authority_id)?;
        let activated = self.rooms.authorities.activate(Kind::Wit, Some(&id));
        let activated_authority = Some(change(request.extensions(), Kind::Wit, "activate", activated).await?);
        Ok(Response::new(api::ActivateWitAuthorityResponse { activated_authority }))
    }

    async fn taint_wit_authority(
        &self,
        request: Request<api::TaintWitAuthorityRequest>,
    ) -> Result<Response<api::TaintWitAuthorityResponse>, Status> {
        let id = key_id(&request.get_ref().authority_id)?;
        let tainted = self.rooms.authorities.taint(Kind::Wit, Some(&id));
        let tainted_authority = Some(change(request.extensions(), Kind::Wit, "taint", tainted).await?);
        Ok(Response::new(api::TaintWitAuthorityResponse { tainted_authority }))
    }

    async fn revoke_wit_authority(
        &self,
        request: Request<api::RevokeWitAuthorityRequest>,
    ) -> Result<Response<api::RevokeWitAuthorityResponse>, Status> {
        let id = key_id(&request.get_ref().authority_id)?;
        let revoked = self.rooms.authorities.revoke(Kind::Wit, Some(&id));
        let revoked_authority = Some(change(request.extensions(), Kind::Wit, "revoke", revoked).await?);
        Ok(Response::new(api::RevokeWitAuthorityResponse { revoked_authority }))
    }

    async fn taint_x509_upstream_authority(
        &self,
        _: Request<api::TaintX509UpstreamAuthorityRequest>,
    ) -> Result<Response<api::TaintX509UpstreamAuthorityResponse>, Status> {
        Err(no_upstream())
    }

    async fn revoke_x509_upstream_authority(
        &self,
        _: Request<api::RevokeX509UpstreamAuthorityRequest>,
    ) -> Result<Response<api::RevokeX509UpstreamAuthorityResponse>, Status> {
        Err(no_upstream())
    }
}

type States = (Option<AuthorityState>, Option<AuthorityState>, Option<AuthorityState>);

impl LocalAuthorityService {
    /// The active one, the prepared one, and the newest of the old ones.
    fn states(&self, kind: Kind) -> States {
        let authorities = self.rooms.authorities.list(kind);
        let first = |slot: Slot| authorities.iter().find(|info| info.slot == slot).map(state);
        (first(Slot::Active), first(Slot::Prepared), first(Slot::Old))
    }
}

async fn change(
    extensions: &Extensions,
    kind: Kind,
    action: &'static str,
    changed: impl Future<Output = Result<AuthorityInfo, AuthorityError>> + Send,
) -> Result<AuthorityState, Status> {
    let what = format!("failed to {action} {kind} authority");
    let changed = changed.await.map_err(|error| status::authority(&what, error));
    let object = changed
        .as_ref()
        .map_or_else(|_| kind.to_string(), |info| format!("{kind} {}", info.key_id));
    audit(extensions, audit_name(action), object, changed.as_ref().map(drop));
    changed.map(|info| state(&info))
}

fn audit_name(action: &str) -> &'static str {
    match action {
        "prepare" => "prepare authority",
        "activate" => "activate authority",
        "taint" => "taint authority",
        _ => "revoke authority",
    }
}

fn state(info: &AuthorityInfo) -> AuthorityState {
    AuthorityState {
        authority_id: info.key_id.to_string(),
        expires_at: info.not_after,
        // Our authorities are their own roots.
        upstream_authority_subject_key_id: String::new(),
    }
}

fn key_id(text: &str) -> Result<KeyId, Status> {
    match text {
        "" => Err(invalid("no authority ID provided")),
        text => KeyId::parse(text).map_err(|error| malformed("invalid authority ID", error)),
    }
}

fn no_upstream() -> Status {
    status::refused(
        Code::FailedPrecondition,
        "NO_UPSTREAM_AUTHORITY",
        "upstream authority is not configured",
    )
}
