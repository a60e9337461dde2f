//! A sum over everything the store holds at a revision, whatever the order: kept beside the journal, and
//! held against the index when it is opened.

use super::types::{KeyValue, Revision};

/// How many keys there are, and the sum of their checksums.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Digest {
    pub(super) keys: u64,
    pub(super) sum: u64,
}

/// A revision, and what the store holds at it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Position {
    pub(super) revision: Revision,
    pub(super) digest: Digest,
}

impl Digest {
    pub(super) fn add(&mut self, pair: &KeyValue) {
        self.add_checksum(checksum(pair));
    }

    /// Adds a pair whose checksum is known.
    pub(super) fn add_checksum(&mut self, checksum: u32) {
        self.keys = self.keys.wrapping_add(1);
        self.sum = self.sum.wrapping_add(spread(checksum));
    }

    pub(super) fn remove(&mut self, pair: &KeyValue) {
        self.keys = self.keys.wrapping_sub(1);
        self.sum = self.sum.wrapping_sub(spread(checksum(pair)));
    }
}

/// CRC32C over key, revisions and value.
pub(super) fn checksum(pair: &KeyValue) -> u32 {
    checksum_of(&pair.key, pair.created, pair.modified, &pair.value)
}

pub(super) fn checksum_of(key: &[u8], created: Revision, modified: Revision, value: &[u8]) -> u32 {
    let crc = crc32c::crc32c(key);
    let crc = crc32c::crc32c_append(crc, &created.to_le_bytes());
    let crc = crc32c::crc32c_append(crc, &modified.to_le_bytes());
    crc32c::crc32c_append(crc, value)
}

/// Spreads a checksum over 64 bits, so that differences of two do not cancel in the sum (the finalizer of
/// `SplitMix64`).
fn spread(checksum: u32) -> u64 {
    let mut x = u64::from(checksum).wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}
