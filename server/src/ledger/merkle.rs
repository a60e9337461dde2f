//! The Merkle tree of RFC 6962 §2.1: hashes, the right edge of a growing tree, proofs and their verification.
//!
//! No I/O. What is stored where comes in through [`Nodes`]; `verify_*` need nothing but the proof, and are for everyone.

use ring::digest;

/// A SHA-256 hash.
pub type Hash = [u8; 32];

/// The hash of a leaf: `SHA-256(0x00 || leaf)`.
pub fn leaf_hash(leaf: &[u8]) -> Hash {
    hash(&[&[0], leaf])
}

/// The hash of an inner node: `SHA-256(0x01 || left || right)`.
pub fn node_hash(left: &Hash, right: &Hash) -> Hash {
    hash(&[&[1], left, right])
}

/// The root of the tree without leaves: `SHA-256("")`.
pub fn empty_root() -> Hash {
    hash(&[])
}

fn hash(parts: &[&[u8]]) -> Hash {
    let mut context = digest::Context::new(&digest::SHA256);
    for part in parts {
        context.update(part);
    }
    let mut out = [0; 32];
    out.copy_from_slice(context.finish().as_ref());
    out
}

/// The root of a complete subtree over `hashes`, whose number is a power of two.
pub(super) fn fold(hashes: &[Hash]) -> Hash {
    debug_assert!(
        hashes.len().is_power_of_two(),
        "a complete subtree has a power of two of leaves"
    );
    let mut range = Range::default();
    for hash in hashes {
        range.push(*hash, |_, _, _| ());
    }
    range.root()
}

/// The right edge of a growing tree: the roots of its complete subtrees, largest first. Its memory is logarithmic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Range {
    size: u64,
    edge: Vec<Hash>,
}

impl Range {
    /// The number of leaves.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Adds a leaf by its hash. `completed` hears of each subtree that this leaf completes: its level (2^level leaves), its index
    /// among the subtrees of that level, and its root; the leaf itself (level 0) first.
    pub(super) fn push(&mut self, leaf: Hash, completed: impl FnMut(u32, u64, &Hash)) {
        self.push_subtree(0, leaf, completed);
    }

    /// Adds a complete subtree of 2^`level` leaves by its root. The size must be a multiple of 2^`level`.
    pub(super) fn push_subtree(&mut self, level: u32, root: Hash, mut completed: impl FnMut(u32, u64, &Hash)) {
        debug_assert_eq!(
            self.size % (1 << level),
            0,
            "a subtree starts at a multiple of its size"
        );
        let (mut at, mut index, mut node) = (level, self.size >> level, root);
        completed(at, index, &node);
        while index & 1 == 1 {
            let left = self.edge.pop().unwrap_or(node);
            node = node_hash(&left, &node);
            index >>= 1;
            at += 1;
            completed(at, index, &node);
        }
        self.edge.push(node);
        self.size += 1 << level;
    }

    /// The root of the tree.
    pub(super) fn root(&self) -> Hash {
        let mut edge = self.edge.iter().rev();
        let Some(last) = edge.next() else { return empty_root() };
        edge.fold(*last, |right, left| node_hash(left, &right))
    }
}

/// Where the roots of complete subtrees come from.
pub(super) trait Nodes {
    /// Why one could not be had.
    type Error;

    /// The root of the subtree of 2^`level` leaves that is number `index` among those of its level.
    ///
    /// # Errors
    /// Whatever keeps it from being read.
    fn node(&self, level: u32, index: u64) -> Result<Hash, Self::Error>;
}

/// The root of the tree of the first `size` leaves.
pub(super) fn root<N: Nodes>(nodes: &N, size: u64) -> Result<Hash, N::Error> {
    if size == 0 {
        Ok(empty_root())
    } else {
        subtree(nodes, 0, size)
    }
}

/// The audit path of RFC 6962 §2.1.1 for leaf `index` in the tree of `size` leaves; `index < size`.
pub(super) fn inclusion<N: Nodes>(nodes: &N, index: u64, size: u64) -> Result<Vec<Hash>, N::Error> {
    let (mut low, mut high, mut path) = (0, size, Vec::new());
    while high - low > 1 {
        let middle = low + split(high - low);
        if index < middle {
            path.push(subtree(nodes, middle, high)?);
            high = middle;
        } else {
            path.push(subtree(nodes, low, middle)?);
            low = middle;
        }
    }
    path.reverse();
    Ok(path)
}

/// The consistency proof of RFC 6962 §2.1.2 from the tree of `old` leaves to that of `new`; `old <= new`.
pub(super) fn consistency<N: Nodes>(nodes: &N, old: u64, new: u64) -> Result<Vec<Hash>, N::Error> {
    if old == 0 || old == new {
        return Ok(Vec::new());
    }
    let (mut low, mut high, mut path) = (0, new, Vec::new());
    while old != high {
        let middle = low + split(high - low);
        if old <= middle {
            path.push(subtree(nodes, middle, high)?);
            high = middle;
        } else {
            path.push(subtree(nodes, low, middle)?);
            low = middle;
        }
    }
    if low != 0 {
        path.push(subtree(nodes, low, high)?);
    }
    path.reverse();
    Ok(path)
}

/// The Merkle tree hash of the leaves from `low` to `high`, which the tree splits off as one subtree.
fn subtree<N: Nodes>(nodes: &N, low: u64, high: u64) -> Result<Hash, N::Error> {
    let count = high - low;
    if count.is_power_of_two() {
        let level = count.trailing_zeros();
        return nodes.node(level, low >> level);
    }
    let middle = low + split(count);
    Ok(node_hash(&subtree(nodes, low, middle)?, &subtree(nodes, middle, high)?))
}

/// The largest power of two that is smaller than `count`; `count` is at least 2.
fn split(count: u64) -> u64 {
    1 << (63 - (count - 1).leading_zeros())
}

/// Why a proof does not prove.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    /// There is no such entry in a tree of that size, or no such pair of trees.
    #[error("index {index} or size {size} out of range")]
    OutOfRange {
        /// The index, or the older size.
        index: u64,
        /// The size.
        size: u64,
    },
    /// The proof has another number of hashes than it needs.
    #[error("the proof has {got} hashes, not the number that its sizes need")]
    Length {
        /// How many it has.
        got: usize,
    },
    /// The hashes lead to another root.
    #[error("the proof leads to another root")]
    Root,
}

/// Checks that the leaf with hash `leaf` is number `index` in the tree of `size` leaves with root `root` (RFC 9162 §2.1.3.2).
///
/// # Errors
/// [`ProofError`] when the proof does not show it.
pub fn verify_inclusion(leaf: &Hash, index: u64, size: u64, proof: &[Hash], root: &Hash) -> Result<(), ProofError> {
    if index >= size {
        return Err(ProofError::OutOfRange { index, size });
    }
    let wrong_length = ProofError::Length { got: proof.len() };
    let (mut node, mut last, mut hash) = (index, size - 1, *leaf);
    for step in proof {
        if last == 0 {
            return Err(wrong_length);
        }
        if node & 1 == 1 || node == last {
            hash = node_hash(step, &hash);
            while node & 1 == 0 && node != 0 {
                node >>= 1;
                last >>= 1;
            }
        } else {
            hash = node_hash(&hash, step);
        }
        node >>= 1;
        last >>= 1;
    }
    match (last, hash == *root) {
        (0, true) => Ok(()),
        (0, false) => Err(ProofError::Root),
        _ => Err(wrong_length),
    }
}

/// Checks that the tree of `old` leaves is a prefix of the tree of `new` leaves (RFC 9162 §2.1.4.2).
///
/// # Errors
/// [`ProofError`] when the proof does not show it.
pub fn verify_consistency(
    old: u64,
    old_root: &Hash,
    new: u64,
    new_root: &Hash,
    proof: &[Hash],
) -> Result<(), ProofError> {
    let wrong_length = ProofError::Length { got: proof.len() };
    if old > new {
        return Err(ProofError::OutOfRange { index: old, size: new });
    }
    if old == 0 || old == new {
        let same = if old == 0 {
            *old_root == empty_root()
        } else {
            old_root == new_root
        };
        return match (proof.is_empty(), same) {
            (true, true) => Ok(()),
            (true, false) => Err(ProofError::Root),
            (false, _) => Err(wrong_length),
        };
    }
    let mut steps = proof.iter();
    let (mut node, mut last) = (old - 1, new - 1);
    let shared = node.trailing_ones();
    node >>= shared;
    last >>= shared;
    // A complete older tree is itself the first hash.
    let first = if old.is_power_of_two() {
        Some(old_root)
    } else {
        steps.next()
    };
    let Some(first) = first else { return Err(wrong_length) };
    let (mut old_hash, mut new_hash) = (*first, *first);
    for step in steps {
        if last == 0 {
            return Err(wrong_length);
        }
        if node & 1 == 1 || node == last {
            old_hash = node_hash(step, &old_hash);
            new_hash = node_hash(step, &new_hash);
            while node & 1 == 0 && node != 0 {
                node >>= 1;
                last >>= 1;
            }
        } else {
            new_hash = node_hash(&new_hash, step);
        }
        node >>= 1;
        last >>= 1;
    }
    match (last, old_hash == *old_root && new_hash == *new_root) {
        (0, true) => Ok(()),
        (0, false) => Err(ProofError::Root),
        _ => Err(wrong_length),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The definition of RFC 6962 §2.1, word by word.
    fn naive(leaves: &[Vec<u8>]) -> Hash {
        match leaves {
            [] => empty_root(),
            [leaf] => leaf_hash(leaf),
            _ => {
                let mut k = 1;
                while k * 2 < leaves.len() {
                    k *= 2;
                }
                node_hash(&naive(&leaves[..k]), &naive(&leaves[k..]))
            }
        }
    }

    struct Leaves<'a>(&'a [Vec<u8>]);

    impl Nodes for Leaves<'_> {
        type Error = std::convert::Infallible;

        fn node(&self, level: u32, index: u64) -> Result<Hash, Self::Error> {
            let start = usize::try_from(index << level).unwrap();
            Ok(naive(&self.0[start..start + (1 << level)]))
        }
    }

    fn numbered(count: usize) -> Vec<Vec<u8>> {
        (0..count).map(|index| format!("leaf {index}").into_bytes()).collect()
    }

    fn grown(leaves: &[Vec<u8>]) -> Range {
        let mut range = Range::default();
        for leaf in leaves {
            range.push(leaf_hash(leaf), |_, _, _| ());
        }
        range
    }

    #[test]
    fn the_known_roots_of_certificate_transparency_come_out() {
        // The test vectors that the implementations of Certificate Transparency share.
        let leaves: Vec<Vec<u8>> = [
            "",
            "00",
            "10",
            "2021",
            "3031",
            "40414243",
            "5051525354555657",
            "606162636465666768696a6b6c6d6e6f",
        ]
        .iter()
        .map(|text| hex::decode(text).unwrap())
        .collect();
        let roots = [
            "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
            "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
            "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
            "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
            "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
            "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
            "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
        ];
        for (size, root) in (1..).zip(roots) {
            assert_eq!(hex::encode(grown(&leaves[..size]).root()), root, "size {size}");
        }
        assert_eq!(
            hex::encode(empty_root()),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
    }

    #[test]
    fn every_proof_of_small_trees_verifies_and_no_altered_one_does() {
        let leaves = numbered(35);
        for size in 1..=35_u64 {
            let tree = &leaves[..usize::try_from(size).unwrap()];
            let root = naive(tree);
            for (index, leaf) in (0..).zip(tree) {
                let Ok(proof) = inclusion(&Leaves(&leaves), index, size);
                let leaf = leaf_hash(leaf);
                assert_eq!(
                    verify_inclusion(&leaf, index, size, &proof, &root),
                    Ok(()),
                    "{index} in {size}"
                );
                assert!(verify_inclusion(&leaf, index + 1, size, &proof, &root).is_err());
                for wrong in alterations(&proof) {
                    assert!(verify_inclusion(&leaf, index, size, &wrong, &root).is_err());
                }
            }
            for old in 0..=size {
                let old_root = naive(&leaves[..usize::try_from(old).unwrap()]);
                let Ok(proof) = consistency(&Leaves(&leaves), old, size);
                assert_eq!(
                    verify_consistency(old, &old_root, size, &root, &proof),
                    Ok(()),
                    "{old} to {size}"
                );
                assert!(verify_consistency(old, &leaf_hash(b"other"), size, &root, &proof).is_err());
                if old != 0 {
                    assert!(verify_consistency(old, &old_root, size, &leaf_hash(b"other"), &proof).is_err());
                }
                for wrong in alterations(&proof) {
                    assert!(verify_consistency(old, &old_root, size, &root, &wrong).is_err());
                }
            }
        }
    }

    fn alterations(proof: &[Hash]) -> Vec<Vec<Hash>> {
        let mut all: Vec<Vec<Hash>> = (0..proof.len())
            .map(|at| {
                let mut wrong = proof.to_vec();
                wrong[at][at % 32] ^= 1;
                wrong
            })
            .collect();
        all.push([proof, &[[7; 32]]].concat());
        all.extend(proof.split_last().map(|(_, rest)| rest.to_vec()));
        all
    }

    proptest! {
        #[test]
        fn a_grown_tree_has_the_root_of_the_definition(leaves in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..300)) {
            let range = grown(&leaves);
            prop_assert_eq!(range.root(), naive(&leaves));
            prop_assert_eq!(range.size(), leaves.len() as u64);
        }

        #[test]
        fn completed_subtrees_are_told_with_their_place(count in 1_usize..600) {
            let leaves = numbered(count);
            let mut told = Vec::new();
            let mut range = Range::default();
            for leaf in &leaves {
                range.push(leaf_hash(leaf), |level, index, hash| told.push((level, index, *hash)));
            }
            for (level, index, hash) in told {
                let Ok(expected) = Leaves(&leaves).node(level, index);
                prop_assert_eq!(hash, expected);
            }
        }
    }
}
