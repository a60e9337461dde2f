//! Why a credential was not issued.

use std::sync::Arc;

use mintmark_identity::dns::DnsNameError;
use mintmark_identity::{JwsAlg, SpiffeId, TrustDomain};

use crate::authority::{Kind, SignError};
use crate::ledger::LedgerError;
use crate::mint::check::CheckError;

/// Why a credential was not issued. Nothing was signed then.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Refusal {
    /// Another trust domain's identity.
    #[error("{spiffe_id} is not an identity of this server's trust domain {trust_domain}")]
    TrustDomain {
        /// What was asked for.
        spiffe_id: SpiffeId,
        /// Ours.
        trust_domain: TrustDomain,
    },
    /// The trust domain's own ID, which only authorities have.
    #[error("{0} has no path: only authorities have such an identity (X509-SVID §3.1)")]
    Root(SpiffeId),
    /// An identity under `/spire` for somebody else than its owner.
    #[error("{0} is reserved for servers and nodes: nobody else may have it")]
    Reserved(SpiffeId),
    /// A DNS name that may not stand in a credential.
    #[error(transparent)]
    DnsName(#[from] DnsNameError),
    /// IP addresses for somebody else than the server.
    #[error("IP addresses may stand only in the server's own certificate, not in that of {0}")]
    IpAddress(SpiffeId),
    /// No audience, too many, or one that is empty or too long.
    #[error("the audience of a JWT-SVID {0}")]
    Audience(String),
    /// The leaf would be too large for the log.
    #[error(
        "the identity, its names and audiences take {size} bytes in the log, {limit} are possible: use fewer or shorter ones"
    )]
    TooLarge {
        /// What it would take.
        size: usize,
        /// What is possible.
        limit: usize,
    },
    /// More orders than one call takes.
    #[error("{count} credentials in one call, {limit} are possible: split it")]
    TooMany {
        /// How many came.
        count: usize,
        /// How many are possible.
        limit: usize,
    },
    /// No key signs with this algorithm.
    #[error("JWT-SVIDs are not signed with {wanted} here: for RS256 set keys.jwt_rs256")]
    Algorithm {
        /// What was asked for.
        wanted: JwsAlg,
    },
    /// The policies say no.
    #[error("the policies refuse {spiffe_id}: {}", reasons.join("; "))]
    Verdict {
        /// What was asked for.
        spiffe_id: SpiffeId,
        /// Why.
        reasons: Arc<[Box<str>]>,
    },
    /// The active authority has ended or not begun.
    #[error(
        "the active {kind} authority is not valid now (from {not_before} to {not_after}, it is {now}): a new one is being made, try again; if this stays, look at the server's clock"
    )]
    Authority {
        /// Which.
        kind: Kind,
        /// From when on it is valid.
        not_before: i64,
        /// Until when it is valid.
        not_after: i64,
        /// The time now.
        now: i64,
    },
    /// The log did not take it.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// What was encoded is not what was asked for: a defect of ours.
    #[error(transparent)]
    Check(#[from] CheckError),
    /// It was not signed.
    #[error(transparent)]
    Sign(#[from] SignError),
    /// A signature was wrong; nothing is signed until a restart.
    #[error("nothing is signed until the server is restarted: {0}")]
    Halted(Arc<str>),
}

impl Refusal {
    /// Its name in metrics and audit lines.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::TrustDomain { .. } => "trust_domain",
            Self::Root(_) => "root",
            Self::Reserved(_) => "reserved",
            Self::DnsName(_) => "dns_name",
            Self::IpAddress(_) => "ip_address",
            Self::Audience(_) => "audience",
            Self::TooLarge { .. } => "too_large",
            Self::TooMany { .. } => "too_many",
            Self::Algorithm { .. } => "algorithm",
            Self::Verdict { .. } => "verdict",
            Self::Authority { .. } => "authority",
            Self::Ledger(_) => "ledger",
            Self::Check(_) => "check",
            Self::Sign(_) => "sign",
            Self::Halted(_) => "halted",
        }
    }

    /// Whether whoever asked is at fault, so that asking again the same way is of no use.
    pub fn is_callers_fault(&self) -> bool {
        match self {
            Self::TrustDomain { .. }
            | Self::Root(_)
            | Self::Reserved(_)
            | Self::DnsName(_)
            | Self::IpAddress(_)
            | Self::Audience(_)
            | Self::TooLarge { .. }
            | Self::TooMany { .. }
            | Self::Algorithm { .. }
            | Self::Verdict { .. } => true,
            Self::Authority { .. } | Self::Ledger(_) | Self::Check(_) | Self::Sign(_) | Self::Halted(_) => false,
        }
    }
}
