//! Why the server does not want a node, as it tells its agents.

use mintmark_proto::spire::types::PermissionDeniedDetails;
use mintmark_proto::spire::types::permission_denied_details::Reason;
use prost::{Message as _, Name as _};
use tonic::{Code, Status};
use tonic_types::pb;

/// Why the server does not want a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Its SVID has ended.
    #[error("the node's SVID has ended")]
    Expired,
    /// The server does not know it.
    #[error("the server does not know this node: it was evicted, or the server was set up anew")]
    NotAttested,
    /// Somebody attested as this node since.
    #[error(
        "the node's SVID is not its newest one: somebody else attested as this node, or this is an old copy of its data"
    )]
    NotActive,
    /// It must attest anew to get another SVID.
    #[error("the node has to attest anew")]
    MustReattest,
    /// It was banned.
    #[error("the node is banned; nothing is issued to it until an administrator runs `mintmark agent evict`")]
    Banned,
}

impl Refusal {
    /// The refusal in a status, if it is one.
    pub fn of(status: &Status) -> Option<Self> {
        if status.code() != Code::PermissionDenied {
            return None;
        }
        let whole = pb::Status::decode(status.details()).ok()?;
        let name = PermissionDeniedDetails::full_name();
        let details = whole
            .details
            .iter()
            .find(|any| any.type_url.rsplit('/').next() == Some(&name))?;
        let details = PermissionDeniedDetails::decode(&details.value[..]).ok()?;
        match details.reason() {
            Reason::AgentExpired => Some(Self::Expired),
            Reason::AgentNotAttested => Some(Self::NotAttested),
            Reason::AgentNotActive => Some(Self::NotActive),
            Reason::AgentMustReattest => Some(Self::MustReattest),
            Reason::AgentBanned => Some(Self::Banned),
            _ => None,
        }
    }
}
