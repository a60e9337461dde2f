//! Who asks, and who vouches for it.

use std::sync::Arc;

use mintmark_identity::SpiffeId;
use mintmark_proto::ledger;

/// Somebody who was attested, and who vouched for what they ask about. Only the room `attest` makes one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attested {
    by: By,
    witnesses: Witnesses,
}

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum By {
    /// A node, by its own SVID or, for that SVID, by its evidence.
    Node(SpiffeId),
    /// An administrator.
    Admin(Author),
    /// This server, for itself.
    Server,
}

/// An administrator as the ledger names them: `uid:0 pid:123` on the admin socket, or a SPIFFE ID. Cut to 256 bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Author(Arc<str>);

/// Who may vouch for the subject of a credential.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Witness {
    /// The node's kubelet: the pod runs there.
    Kubelet = 1,
    /// The API server, by TokenReview of the pod's own bound token.
    TokenReview = 1 << 1,
    /// The API server, by the server's watch of pods.
    Roll = 1 << 2,
    /// The node, by its own SVID and the kernel's word on the caller; or by its evidence, when the SVID is the node's own.
    Node = 1 << 3,
    /// An administrator.
    Admin = 1 << 4,
}

/// A set of witnesses.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Witnesses(u8);

impl Attested {
    /// The node of an SVID that [`Nodes::authenticate`](super::Nodes::authenticate) accepted, or of evidence that [`Nodes::admit`](super::Nodes::admit) accepted.
    pub(super) fn node(id: SpiffeId) -> Self {
        Self {
            by: By::Node(id),
            witnesses: Witness::Node.into(),
        }
    }

    /// A node that asks for a pod on it, and who vouched for the pod.
    pub(super) fn pod(node: SpiffeId, witnesses: Witnesses) -> Self {
        Self {
            by: By::Node(node),
            witnesses,
        }
    }

    /// An administrator at the admin socket, by what the kernel says of the caller.
    pub fn local_admin(uid: u32, pid: Option<i32>) -> Self {
        let author = pid.map_or_else(|| format!("uid:{uid}"), |pid| format!("uid:{uid} pid:{pid}"));
        Self {
            by: By::Admin(Author::new(&author)),
            witnesses: Witness::Admin.into(),
        }
    }

    /// An administrator from afar, by an SVID whose entry says `admin`.
    pub fn remote_admin(id: &SpiffeId) -> Self {
        Self {
            by: By::Admin(Author::new(id.as_str())),
            witnesses: Witness::Admin.into(),
        }
    }

    /// Whoever a test needs.
    #[cfg(test)]
    pub(crate) fn for_test(by: By, witnesses: Witnesses) -> Self {
        Self { by, witnesses }
    }

    /// This server itself, which needs no witness: for its own certificates.
    pub fn server() -> Self {
        Self {
            by: By::Server,
            witnesses: Witnesses::default(),
        }
    }

    /// Who asks.
    pub fn by(&self) -> &By {
        &self.by
    }

    /// Who vouched.
    pub fn witnesses(&self) -> Witnesses {
        self.witnesses
    }
}

impl Author {
    const MAX: usize = 256;

    /// Takes a name for the ledger, cut to what fits.
    pub fn new(name: &str) -> Self {
        let end = (0..=name.len().min(Self::MAX))
            .rev()
            .find(|end| name.is_char_boundary(*end))
            .unwrap_or_default();
        Self(name[..end].into())
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for By {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Node(id) => id.fmt(f),
            Self::Admin(author) => author.fmt(f),
            Self::Server => f.write_str("server"),
        }
    }
}

impl std::fmt::Display for Author {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(&self.0)
    }
}

impl Witness {
    const ALL: [Self; 5] = [Self::Kubelet, Self::TokenReview, Self::Roll, Self::Node, Self::Admin];

    fn wire(self) -> ledger::Witness {
        match self {
            Self::Kubelet => ledger::Witness::Kubelet,
            Self::TokenReview => ledger::Witness::Tokenreview,
            Self::Roll => ledger::Witness::Roll,
            Self::Node => ledger::Witness::Node,
            Self::Admin => ledger::Witness::Admin,
        }
    }
}

impl Witnesses {
    /// With one more.
    #[must_use]
    pub fn with(self, witness: Witness) -> Self {
        Self(self.0 | witness as u8)
    }

    /// The witnesses, in the order of [`Witness`].
    pub fn iter(self) -> impl Iterator<Item = Witness> {
        Witness::ALL
            .into_iter()
            .filter(move |witness| self.0 & *witness as u8 != 0)
    }

    /// As the leaf has them.
    pub(crate) fn wire(self) -> Vec<i32> {
        self.iter().map(|witness| witness.wire().into()).collect()
    }
}

impl FromIterator<Witness> for Witnesses {
    fn from_iter<I: IntoIterator<Item = Witness>>(witnesses: I) -> Self {
        witnesses.into_iter().fold(Self::default(), Self::with)
    }
}

impl From<Witness> for Witnesses {
    fn from(witness: Witness) -> Self {
        Self::default().with(witness)
    }
}

impl std::fmt::Debug for Witnesses {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_author_is_cut_between_characters() {
        let long = "ä".repeat(200);
        assert_eq!(Author::new(&long).as_str(), "ä".repeat(128));
        assert_eq!(Author::new("uid:0 pid:1").as_str(), "uid:0 pid:1");
    }

    #[test]
    fn witnesses_are_a_set() {
        let both: Witnesses = [Witness::TokenReview, Witness::Kubelet, Witness::Kubelet]
            .into_iter()
            .collect();
        assert_eq!(
            both.iter().collect::<Vec<_>>(),
            [Witness::Kubelet, Witness::TokenReview]
        );
        assert_eq!(both.wire(), [1, 2]);
    }
}
