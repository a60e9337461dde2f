//! The leaf: what the ledger will say about an issuance.

use bytes::Bytes;
use mintmark_identity::{KeyId, PublicKey, Serial, SpiffeId};
use mintmark_proto::ledger::{Kind, Leaf, Verdict as WireVerdict};
use prost::Message as _;

use super::Refusal;
use crate::attest::{Attested, By};
use crate::mint::Validity;
use crate::verdict::Verdict;

/// The largest leaf that the ledger takes.
const MAX_LEAF: usize = 8_192;
/// What index, serial and digest add, at most.
const LATE_FIELDS: usize = 8 + 22 + 34;

/// What a leaf says before its index is known.
pub(super) struct Draft<'a> {
    pub(super) kind: Kind,
    pub(super) asked: &'a Attested,
    pub(super) verdict: &'a Verdict,
    pub(super) spiffe_id: &'a SpiffeId,
    pub(super) public_key: Option<&'a PublicKey>,
    pub(super) validity: Validity,
    pub(super) key_id: &'a KeyId,
    pub(super) audience: &'a [String],
    pub(super) dns_names: &'a [String],
    pub(super) entry_id: Option<&'a str>,
    pub(super) time_unix_ms: i64,
}

impl Draft<'_> {
    /// The leaf without index, serial and digest.
    ///
    /// # Errors
    /// When it would be too large for the ledger.
    pub(super) fn leaf(self) -> Result<Leaf, Refusal> {
        let (node, author) = match self.asked.by() {
            By::Node(id) => (id.to_string(), String::new()),
            By::Admin(author) => (String::new(), author.as_str().to_owned()),
            By::Server => Default::default(),
        };
        // No policies, no verdict: an absent one says that none was asked.
        let verdict = (self.verdict.epoch != 0).then(|| WireVerdict {
            outcome: "allowed".to_owned(),
            reasons: self.verdict.reasons.iter().map(|reason| reason.to_string()).collect(),
            policy_epoch: self.verdict.epoch,
        });
        let leaf = Leaf {
            time_unix_ms: self.time_unix_ms,
            kind: self.kind.into(),
            spiffe_id: self.spiffe_id.to_string(),
            not_before: self.validity.not_before,
            not_after: self.validity.not_after,
            public_key_sha256: self.public_key.map(|key| sha256(key.spki_der())).unwrap_or_default(),
            key_id: self.key_id.to_string(),
            audience: self.audience.to_vec(),
            entry_id: self.entry_id.unwrap_or_default().to_owned(),
            node,
            witnesses: self.asked.witnesses().wire(),
            author,
            verdict,
            dns_names: self.dns_names.to_vec(),
            ..Leaf::default()
        };
        let size = leaf.encoded_len() + LATE_FIELDS;
        if size > MAX_LEAF {
            Err(Refusal::TooLarge { size, limit: MAX_LEAF })
        } else {
            Ok(leaf)
        }
    }
}

/// Adds what is known only once the log has given an index, and encodes.
pub(super) fn finish(mut leaf: Leaf, serial: Serial, content: &[u8]) -> Vec<u8> {
    leaf.log = serial.log().into();
    leaf.index = serial.index();
    leaf.serial = Bytes::copy_from_slice(serial.as_bytes());
    leaf.content_sha256 = sha256(content);
    leaf.encode_to_vec()
}

fn sha256(content: &[u8]) -> Bytes {
    Bytes::copy_from_slice(ring::digest::digest(&ring::digest::SHA256, content).as_ref())
}
