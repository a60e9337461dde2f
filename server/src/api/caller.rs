//! Who calls: found out by [`gate`](super::gate) before a handler runs, and carried in the request's extensions.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use mintmark_identity::SpiffeId;
use mintmark_proto::spire::types;
use tonic::{Extensions, Status};

use super::limits::{Key, Limits};
use super::methods::Limit;
use super::status;
use crate::attest::{Attested, NodeRecord};

/// Who calls. The gate lets a call through only when this is who the method is for.
#[derive(Debug, Clone)]
pub enum Caller {
    /// A process on the admin socket, as the kernel names it.
    Local {
        /// Its user.
        uid: u32,
        /// Its process.
        pid: Option<i32>,
    },
    /// An attested node in good standing.
    Agent(Box<Agent>),
    /// Who has an SVID whose entry says `admin`.
    Admin(SpiffeId),
    /// Who has an SVID whose entry says `downstream`.
    Downstream(SpiffeId),
    /// Anyone else, for methods that are for anyone.
    Anyone {
        /// The SVID's ID, where one was shown.
        id: Option<SpiffeId>,
        /// From where.
        remote: Option<SocketAddr>,
    },
}

/// An attested node in good standing.
#[derive(Debug, Clone)]
pub struct Agent {
    /// The proof, for `issuance`.
    pub attested: Attested,
    /// What is known of it.
    pub record: Arc<NodeRecord>,
}

/// The caller's bucket for the method's limit. The gate has taken one already.
#[derive(Clone)]
pub(super) struct Allowance {
    pub(super) limits: Limits,
    pub(super) limit: Limit,
    pub(super) key: Key,
}

impl Allowance {
    /// Takes for `count` items in all, after waiting for them if need be.
    pub(super) async fn take_all(&self, count: usize) -> Result<(), Status> {
        let more = self.limits.take(self.limit, &self.key, count.saturating_sub(1)).await;
        more.map_err(|over| {
            let message = format!(
                "rejecting request due to rate limiting: {count} items are more than this caller may ask for now; send fewer, or come again in {} s",
                over.retry_after.as_secs() + 1
            );
            status::too_fast(message, over.retry_after)
        })
    }
}

impl Caller {
    /// Who the gate said it is.
    pub(super) fn of(extensions: &Extensions) -> Result<&Self, Status> {
        // A call that did not come through the gate is an error of ours.
        extensions
            .get()
            .ok_or_else(|| status::internal("unknown caller", "the call did not pass the gate"))
    }

    /// The node that calls.
    pub(super) fn agent(extensions: &Extensions) -> Result<&Agent, Status> {
        match Self::of(extensions)? {
            Self::Agent(agent) => Ok(agent),
            other => {
                let reason = types::permission_denied_details::Reason::AgentNotAttested;
                Err(status::agent_denied(
                    reason,
                    format!("{other} is not an attested agent"),
                ))
            }
        }
    }

    /// An administrator, as the ledger records one.
    pub(super) fn admin(extensions: &Extensions) -> Result<Attested, Status> {
        match Self::of(extensions)? {
            Self::Local { uid, pid } => Ok(Attested::local_admin(*uid, *pid)),
            Self::Admin(id) => Ok(Attested::remote_admin(id)),
            other => Err(status::denied(format!("{other} is not an administrator"))),
        }
    }
}

/// Writes down what an administrator did. Called for every change, whether it succeeded or not.
pub(super) fn audit(
    extensions: &Extensions,
    action: &'static str,
    object: impl fmt::Display,
    outcome: Result<(), &Status>,
) {
    let by = extensions.get::<Caller>().map(ToString::to_string).unwrap_or_default();
    match outcome {
        Ok(()) => tracing::info!(target: "mintmark_server::audit", by, action, %object, "done"),
        Err(status) => {
            tracing::warn!(target: "mintmark_server::audit", by, action, %object, code = ?status.code(), why = status.message(), "refused");
        }
    }
}

/// Names the first few of many, for the audit line.
pub(super) fn named<T: fmt::Display>(items: impl IntoIterator<Item = T>) -> String {
    const SHOWN: usize = 20;
    let mut items = items.into_iter();
    let mut text = items
        .by_ref()
        .take(SHOWN)
        .map(|item| item.to_string())
        .collect::<Vec<_>>()
        .join(", ");
    let more = items.count();
    if more > 0 {
        text.push_str(&format!(" and {more} more"));
    }
    text
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local { uid, pid: Some(pid) } => write!(f, "uid:{uid} pid:{pid}"),
            Self::Local { uid, pid: None } => write!(f, "uid:{uid}"),
            Self::Agent(agent) => agent.record.id.fmt(f),
            Self::Admin(id) | Self::Downstream(id) | Self::Anyone { id: Some(id), .. } => id.fmt(f),
            Self::Anyone {
                id: None,
                remote: Some(remote),
            } => write!(f, "an unauthenticated caller at {remote}"),
            Self::Anyone { id: None, remote: None } => f.write_str("an unauthenticated caller"),
        }
    }
}
