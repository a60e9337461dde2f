//! What a caller is told when something is refused: the one place where errors of the rooms become gRPC statuses.
//!
//! What is the caller's fault is told in full, with a stable reason in `google.rpc.ErrorInfo`. What is ours goes to the log under an id; the caller gets the id.

use std::collections::HashMap;
use std::fmt::Display;
use std::time::Duration;

use mintmark_proto::spire::types::{self, permission_denied_details::Reason};
use prost::{Message as _, Name as _};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::attest::NodeRefusal;
use crate::attest::join_token::TokenError;
use crate::attest::k8s_psat::PsatError;
use crate::attest::nodes::{AuthenticateError, NodeError};
use crate::attest::x509pop::PopError;
use crate::authority::AuthorityError;
use crate::issuance::Refusal;
use crate::ledger::LedgerError;
use crate::registry::EntryError;
use crate::store::StoreError;

/// The `domain` of our reasons.
const DOMAIN: &str = "mintmark.dev";

/// A status with a reason that programs can read.
pub(super) fn refused(code: Code, reason: &str, message: impl Into<String>) -> Status {
    let details = ErrorDetails::with_error_info(reason, DOMAIN, HashMap::new());
    Status::with_error_details(code, message, details)
}

/// The request is not as it must be.
pub(super) fn invalid(message: impl Into<String>) -> Status {
    refused(Code::InvalidArgument, "INVALID_ARGUMENT", message)
}

/// The request is not as it must be, because of `why`; in SPIRE's form, `what: why`.
pub(super) fn malformed(what: &str, why: impl Display) -> Status {
    invalid(format!("{what}: {why}"))
}

/// There is no such thing.
pub(super) fn not_found(message: impl Into<String>) -> Status {
    refused(Code::NotFound, "NOT_FOUND", message)
}

/// Our own fault: to the log under an id, which the caller gets.
pub(super) fn internal(what: &str, error: impl Display) -> Status {
    let id = hex::encode(mintmark_runtime::crypto::random::<6>());
    tracing::error!(error_id = %id, %error, "{what}");
    refused(
        Code::Internal,
        "INTERNAL",
        format!("{what}: see the server's log for error {id}"),
    )
}

/// It cannot be done now, but later. The room whose fault it is has logged and counted it.
pub(super) fn unavailable(what: &str, why: &str) -> Status {
    refused(Code::Unavailable, "UNAVAILABLE", format!("{what}: {why}"))
}

/// The caller is too fast.
pub(super) fn too_fast(message: String, retry_after: Duration) -> Status {
    let mut details = ErrorDetails::with_error_info("RATE_LIMITED", DOMAIN, HashMap::new());
    details.set_retry_info(Some(retry_after));
    Status::with_error_details(Code::ResourceExhausted, message, details)
}

/// The caller may not.
pub(super) fn denied(message: impl Into<String>) -> Status {
    refused(Code::PermissionDenied, "PERMISSION_DENIED", message)
}

/// The node may not, and its agent is told what to do about it: SPIRE's agents act on the reason.
pub(super) fn agent_denied(reason: Reason, message: impl Into<String>) -> Status {
    let message = message.into();
    let details = types::PermissionDeniedDetails { reason: reason.into() };
    let any = prost_types::Any {
        type_url: format!("type.googleapis.com/{}", types::PermissionDeniedDetails::full_name()),
        value: details.encode_to_vec(),
    };
    let whole = tonic_types::pb::Status {
        code: Code::PermissionDenied.into(),
        message: message.clone(),
        details: vec![any],
    };
    Status::with_details(Code::PermissionDenied, message, whole.encode_to_vec().into())
}

/// The result of one item of a batch, when all is well.
pub(super) fn ok() -> types::Status {
    types::Status {
        code: Code::Ok.into(),
        message: "OK".into(),
    }
}

/// The result of one item of a batch.
pub(super) fn item(status: &Status) -> types::Status {
    types::Status {
        code: status.code().into(),
        message: status.message().to_owned(),
    }
}

/// What became of an entry.
pub(super) fn entry(what: &str, error: EntryError) -> Status {
    match error {
        EntryError::Similar(_) => refused(Code::AlreadyExists, "ALREADY_EXISTS", "similar entry already exists"),
        EntryError::IdTaken(_) => refused(Code::AlreadyExists, "ALREADY_EXISTS", format!("{what}: {error}")),
        EntryError::NotFound(_) => not_found("entry not found"),
        EntryError::Computed(_) => refused(Code::FailedPrecondition, "COMPUTED", error.to_string()),
        EntryError::Invalid(why) => malformed("failed to convert entry", why),
        EntryError::TooMany(_) | EntryError::TooLarge(_) => invalid(error.to_string()),
        EntryError::Store(why) => store(what, why),
    }
}

/// What the store said.
pub(super) fn store(what: &str, error: StoreError) -> Status {
    match error {
        StoreError::Full { .. } => unavailable(what, "the server's store has no room left; nothing was changed"),
        StoreError::Closed => unavailable(what, "the server is stopping"),
        error => internal(what, error),
    }
}

/// Why a caller is no node.
pub(super) fn authenticate(error: AuthenticateError, id: &str) -> Status {
    match error {
        AuthenticateError::Refused(refusal) => {
            let reason = match refusal {
                NodeRefusal::Expired => Reason::AgentExpired,
                NodeRefusal::NotAttested => Reason::AgentNotAttested,
                NodeRefusal::NotActive => Reason::AgentNotActive,
                NodeRefusal::Banned => Reason::AgentBanned,
            };
            agent_denied(reason, format!("agent {id}: {refusal}"))
        }
        AuthenticateError::Store(error) => store("unable to look up agent information", error),
    }
}

/// Why a node's record is not changed.
pub(super) fn node(what: &str, error: NodeError) -> Status {
    match error {
        NodeError::NotFound(_) => not_found("agent not found"),
        NodeError::Banned(_) => agent_denied(Reason::AgentBanned, format!("{what}: agent is banned: {error}")),
        NodeError::Superseded(_) => agent_denied(Reason::AgentNotActive, format!("{what}: {error}")),
        NodeError::EvidenceUsed => malformed("failed to attest", error),
        NodeError::CannotReattest(_) => refused(
            Code::PermissionDenied,
            "CANNOT_REATTEST",
            format!("failed to attest: {error}"),
        ),
        NodeError::Store(error) => store(what, error),
    }
}

/// Why a join token is no good, or is not made.
pub(super) fn token(what: &str, error: TokenError) -> Status {
    match error {
        TokenError::Store(error) => store(what, error),
        TokenError::Exists => refused(Code::AlreadyExists, "ALREADY_EXISTS", format!("{what}: {error}")),
        error => malformed(what, error),
    }
}

/// Why a certificate makes no node.
pub(super) fn pop(error: PopError) -> Status {
    let code = match error {
        PopError::NotConfigured => Code::FailedPrecondition,
        PopError::Malformed { .. } => Code::InvalidArgument,
        PopError::Untrusted(_) | PopError::Key(_) | PopError::WrongAnswer => Code::PermissionDenied,
    };
    refused(code, "X509POP_REFUSED", format!("failed to attest: {error}"))
}

/// Why a service account token makes no node.
pub(super) fn psat(error: PsatError) -> Status {
    let code = match &error {
        PsatError::NotConfigured => Code::FailedPrecondition,
        PsatError::Malformed(_) | PsatError::UnknownCluster(_) => Code::InvalidArgument,
        PsatError::NotListed(_) => Code::Unavailable,
        PsatError::Review(review) if review.is_ours() => Code::Unavailable,
        PsatError::Id(_) => Code::Internal,
        _ => Code::PermissionDenied,
    };
    let reason = format!("K8S_PSAT_{}", error.reason().to_ascii_uppercase());
    refused(code, &reason, format!("failed to attest: {error}"))
}

/// Why an authority is not changed. SPIRE answers INVALID_ARGUMENT to a wrong name.
pub(super) fn authority(what: &str, error: AuthorityError) -> Status {
    match error {
        AuthorityError::NotFound { .. } | AuthorityError::WrongSlot { .. } | AuthorityError::None { .. } => {
            malformed(what, error)
        }
        AuthorityError::TooMany { .. } => refused(
            Code::FailedPrecondition,
            "TOO_MANY_AUTHORITIES",
            format!("{what}: {error}"),
        ),
        AuthorityError::Contended(_) | AuthorityError::Busy(_) | AuthorityError::LeaseLost => {
            refused(Code::Aborted, "CONTENDED", format!("{what}: {error}"))
        }
        AuthorityError::Store(error) => store(what, error),
        AuthorityError::Ledger(error) => ledger(what, error),
        error => internal(what, error),
    }
}

/// Why a credential is not issued.
pub(super) fn refusal(what: &str, refusal: &Refusal) -> Status {
    let reason = refusal.reason().to_ascii_uppercase();
    match refusal {
        Refusal::Verdict { .. } => refused(Code::PermissionDenied, &reason, format!("{what}: {refusal}")),
        refusal if refusal.is_callers_fault() => refused(Code::InvalidArgument, &reason, format!("{what}: {refusal}")),
        Refusal::Ledger(error) => ledger(what, error.clone()),
        Refusal::Authority { .. } => unavailable(what, &refusal.to_string()),
        Refusal::Halted(_) => unavailable(
            what,
            "a signature of this server was wrong, and nothing is signed until it is restarted",
        ),
        refusal => internal(what, refusal),
    }
}

/// What the ledger said.
pub(super) fn ledger(what: &str, error: LedgerError) -> Status {
    match error {
        LedgerError::NotFound(_) => not_found(format!("{what}: {error}")),
        LedgerError::Pruned { .. } => refused(Code::OutOfRange, "PRUNED", format!("{what}: {error}")),
        LedgerError::TooMany { .. } | LedgerError::LeafSize { .. } => malformed(what, error),
        LedgerError::Full { .. } => unavailable(
            what,
            "the issuance log has no room left, and nothing is issued until there is",
        ),
        LedgerError::Stopped(_) => unavailable(
            what,
            "the issuance log failed to write, and nothing is issued until the server is restarted",
        ),
        LedgerError::Closed => unavailable(what, "the server is stopping"),
        error => internal(what, error),
    }
}
