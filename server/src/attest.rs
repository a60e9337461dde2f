//! Who is asking, proven how?
//!
//! In: a node's evidence (a join token, a certificate and the proof of its key, a service account token), a pod's ([`PodClaim`]), the SVID at the other end of a connection, the peer of the admin
//! socket. Out: an [`Attested`], which only this room can make and without which `issuance` does nothing; the [`PodEvidence`] that both witnesses of a pod agree on; and the [`Nodes`] that are
//! attested, banned or gone. `api` calls it; it asks `roll` whether what a token says exists.

mod attested;
pub mod join_token;
pub mod k8s_psat;
pub mod nodes;
pub mod pod;
pub mod x509pop;

use mintmark_identity::{Selector, SpiffeId};

pub use attested::{Attested, Author, By, Witness, Witnesses};
pub use nodes::{NodeRecord, NodeRefusal, Nodes};
pub use pod::{PodClaim, PodEvidence, PodRefusal};

/// What a method of this room found out about a node that wants to join. Only they can make one.
#[derive(Debug, Clone)]
pub struct NodeEvidence {
    id: SpiffeId,
    method: &'static str,
    selectors: Vec<Selector>,
    can_reattest: bool,
    consume: Option<Vec<u8>>,
}

impl NodeEvidence {
    /// The ID that the node gets.
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// Whether the same evidence may be brought again.
    pub fn can_reattest(&self) -> bool {
        self.can_reattest
    }
}
