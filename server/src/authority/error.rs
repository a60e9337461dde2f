//! What can go wrong with authorities.

use std::time::Duration;

use mintmark_identity::{JwsAlg, KeyId, Ttl};
use mintmark_runtime::crypto::SealError;

use super::{Kind, Slot};
use crate::ledger::LedgerError;
use crate::mint::authority::EncodeError;
use crate::mint::check::CheckError;
use crate::mint::x509::TemplateError;
use crate::store::StoreError;

/// Why an authority could not be made, found or changed.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// No authority of this name.
    #[error("there is no {kind} authority {key_id}: see `mintmark authority {kind} show`")]
    NotFound {
        /// What was asked for.
        kind: Kind,
        /// Its name.
        key_id: KeyId,
    },
    /// It is not where it must be for what was asked.
    #[error("{kind} authority {key_id} is {slot}: only {needed} ones can be {action}")]
    WrongSlot {
        /// What was asked for.
        kind: Kind,
        /// Its name.
        key_id: KeyId,
        /// Where it is.
        slot: Slot,
        /// What was to be done with it.
        action: &'static str,
        /// Which ones that can be done with.
        needed: &'static str,
    },
    /// No name was given, and none is where it must be.
    #[error("no {kind} authority is {needed}, so that none can be {action}")]
    None {
        /// What was asked for.
        kind: Kind,
        /// What was to be done.
        action: &'static str,
        /// Which ones that can be done with.
        needed: &'static str,
    },
    /// So many old ones are still published that no more fit.
    #[error(
        "{count} {kind} authorities are published already: wait until old ones have ended, or taint and revoke them"
    )]
    TooMany {
        /// What was asked for.
        kind: Kind,
        /// How many there are.
        count: usize,
    },
    /// Tokens cannot be signed with this algorithm.
    #[error("tokens cannot be signed with {wanted} here, only with {}: for RS256 set keys.jwt_rs256", have.iter().map(|alg| alg.as_str()).collect::<Vec<_>>().join(", "))]
    Algorithm {
        /// What was asked for.
        wanted: JwsAlg,
        /// What there is.
        have: Vec<JwsAlg>,
    },
    /// A lifetime with which rotation cannot work.
    #[error(
        "ttl.ca = \"{0}\" is too short: an authority must live at least {least} s to be replaced in time",
        least = super::state::MIN_LIFE
    )]
    TooShort(Ttl),
    /// A key to import is unusable.
    #[error(
        "the RSA key in {path} cannot be used: {why}; it must be an unencrypted PEM of 2,048 to 4,096 bits (openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048)"
    )]
    Import {
        /// Its file.
        path: String,
        /// Why not.
        why: String,
    },
    /// A private key in the store does not open.
    #[error(
        "the private key of the active {kind} authority {key_id} does not open: {source}; give the key-encryption key that sealed it, or set keys.manager = \"memory\" for one start, which makes new authorities and keeps verifying what the old ones signed"
    )]
    Sealed {
        /// Whose.
        kind: Kind,
        /// Its name.
        key_id: KeyId,
        /// Why not.
        source: SealError,
    },
    /// What the store holds is not what was written there.
    #[error("the record of the authorities in the store cannot be read: {0}")]
    Record(String),
    /// Somebody else changes the authorities, again and again.
    #[error("the authorities were changed by another replica {0} times while this tried to: try again")]
    Contended(u32),
    /// Somebody else holds the lease.
    #[error("another replica has been changing the authorities for {0:?}: try again, or look at what it is doing")]
    Busy(Duration),
    /// The lease ended while a change was under way.
    #[error(
        "the lease on the authorities was lost before the change was written, so that nothing was changed: try again"
    )]
    LeaseLost,
    /// A key could not be made, loaded or sealed.
    #[error("cannot {action} a key: {why}")]
    Key {
        /// What was attempted.
        action: &'static str,
        /// Why it failed.
        why: String,
    },
    /// An authority's certificate could not be written.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// An authority's certificate is not what was asked for.
    #[error(transparent)]
    Check(#[from] CheckError),
    /// An authority's certificate cannot be a template.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// A signature failed.
    #[error(transparent)]
    Sign(#[from] SignError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The ledger failed.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

/// Why something was not signed, or its signature is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignError {
    /// The check that was shown is another credential's.
    #[error("credential {signed} was to be signed with the check of {checked}")]
    Unchecked {
        /// What was to be signed.
        signed: mintmark_identity::Serial,
        /// What was checked.
        checked: mintmark_identity::Serial,
    },
    /// The key refused.
    #[error("key {0} failed to sign")]
    Failed(KeyId),
    /// The signature does not verify: memory, processor or key is damaged.
    #[error("a signature of key {key_id} does not verify: {why}; memory or processor may be faulty")]
    Wrong {
        /// The key.
        key_id: KeyId,
        /// What the verifier said.
        why: String,
    },
}
