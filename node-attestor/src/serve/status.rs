//! What a caller is told when it gets nothing.

use mintmark_identity::svid::TokenError;
use tonic::{Code, Status};

use crate::keep::{UpstreamError, View};
use crate::peer::{Attested, Peer, PeerError, Pod, Process, Verdict};

/// No more selectors than this are shown.
const SHOWN: usize = 24;

/// The server has not said yet what applies to this node.
pub(super) fn starting() -> Status {
    Status::unavailable(
        "this node is not in step with the server yet; try again (the attestor's /ready and log say what it waits for)",
    )
}

/// The attestor is stopping.
pub(super) fn stopping() -> Status {
    Status::unavailable("the attestor is stopping; connect again")
}

/// No identity is the caller's.
pub(super) fn no_identity(process: &Process, attested: &Attested) -> Status {
    let mut shown: Vec<_> = attested.selectors.iter().take(SHOWN).map(ToString::to_string).collect();
    let more = attested.selectors.len().saturating_sub(SHOWN);
    if more > 0 {
        shown.push(format!("and {more} more"));
    }
    let mut text = format!(
        "no identity issued: no registration entry of this node matches the caller, process {} with selectors {}",
        process.pid(),
        shown.join(", ")
    );
    if !attested.missing.is_empty() {
        text.push_str(&format!(" (could not be found out: {})", attested.missing.join(", ")));
    }
    text.push_str(
        "; ask your platform administrator for an entry whose selectors are all among these (`mintmark entry create`)",
    );
    Status::permission_denied(text)
}

/// Whether any identity is the caller's cannot be said now.
pub(super) fn not_known_now(peer: &Peer, why: &str) -> Status {
    Status::unavailable(format!(
        "what {peer} is could not be found out just now: {why}; try again"
    ))
}

/// No identity is the pod's.
pub(super) fn no_identity_of_pod(pod: &Pod) -> Status {
    match &*pod.verdict().borrow() {
        Verdict::Waiting(why) => {
            let why = why
                .as_deref()
                .unwrap_or("the server has not said yet what it thinks of it");
            Status::unavailable(format!("no identity yet for pod {pod}: {why}; try again"))
        }
        Verdict::Refused { reason, .. } => Status::permission_denied(format!("no identity issued: {reason}")),
        Verdict::Agreed { why_none: Some(why) } => Status::permission_denied(format!(
            "no identity issued: kubelet and API server agree on pod {pod}, but {why}"
        )),
        Verdict::Agreed { why_none: None } => {
            let selectors: Vec<_> = pod.selectors().iter().map(ToString::to_string).collect();
            Status::permission_denied(format!(
                "no identity issued: kubelet and API server agree on pod {pod}, and no identity rule and no entry gives it one (selectors {}); ask your platform administrator for a rule that \
                 selects it",
                selectors.join(", ")
            ))
        }
    }
}

/// The caller has identities, but not the one that it asks for.
pub(super) fn not_that_one(wanted: &str, view: &View) -> Status {
    let ids: Vec<_> = view
        .identities
        .iter()
        .take(SHOWN)
        .map(|seen| seen.identity.spiffe_id.as_str())
        .collect();
    Status::permission_denied(format!("the caller may not be {wanted}; it may be {}", ids.join(", ")))
}

/// The caller has identities, and no SVID of any is there.
pub(super) fn not_signed(problem: Option<&str>) -> Status {
    let why = problem.unwrap_or("it has not been signed yet");
    Status::unavailable(format!("the caller's SVID is not there: {why}; try again"))
}

/// The caller cannot be attested.
pub(super) fn peer(error: &PeerError) -> Status {
    let code = match error {
        PeerError::Ended(_)
        | PeerError::CallerEnded
        | PeerError::Unmounted
        | PeerError::Changed { .. }
        | PeerError::OutsideNamespace(_) => Code::PermissionDenied,
        PeerError::Io { .. } | PeerError::Status { .. } => Code::Unavailable,
    };
    Status::new(code, format!("workload attestation failed: {error}"))
}

/// The server did not give what was asked for.
pub(super) fn upstream(what: &str, error: &UpstreamError) -> Status {
    let code = match error {
        // What the caller asked for cannot be had.
        UpstreamError::Refused {
            code: Code::InvalidArgument,
            ..
        } => Code::InvalidArgument,
        UpstreamError::Refused {
            code: Code::PermissionDenied,
            ..
        } => Code::PermissionDenied,
        _ => Code::Unavailable,
    };
    Status::new(code, format!("{what}: {error}"))
}

/// The token is not valid.
pub(super) fn token(error: &TokenError) -> Status {
    Status::invalid_argument(error.to_string())
}
