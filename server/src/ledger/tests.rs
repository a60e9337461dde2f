//! The ledger as a whole.

use std::path::Path;

use mintmark_runtime::clock::Clock;

use super::*;

pub(super) const DOMAIN: &str = "example.org";

pub(super) fn open(root: &Path) -> Ledger {
    Ledger::open_or_create(root, DOMAIN, 1, Settings::new(Clock::system())).unwrap()
}

/// A leaf that says where it stands.
pub(super) fn leaf(index: u64) -> LeafBytes {
    format!("leaf {index} of log 1").into_bytes()
}

pub(super) async fn append(ledger: &Ledger, count: usize) -> Result<Vec<Durable<u64>>, LedgerError> {
    ledger
        .append(count, |slot| {
            (0..count).map(|nth| (leaf(slot.index(nth)), slot.index(nth))).collect()
        })
        .await
}

#[tokio::test]
async fn appended_leaves_are_there_after_a_restart_and_proofs_verify() {
    let root = tempfile::tempdir().unwrap();
    let ledger = open(root.path());
    for count in [1, 2, 0, 300, 1] {
        let durable = append(&ledger, count).await.unwrap();
        assert_eq!(durable.len(), count);
        assert!(
            durable
                .iter()
                .all(|durable| durable.index() == *durable.get() && durable.log() == 1)
        );
    }
    let (before, note) = ledger.checkpoint();
    assert_eq!(before.size, 304);
    assert_eq!(before.origin, "example.org/mintmark/1");
    assert_eq!(ledger.reader().verifier().open_checkpoint(&note), Ok(before.clone()));
    ledger.shutdown().await.unwrap();

    let ledger = open(root.path());
    append(&ledger, 10).await.unwrap();
    let reader = ledger.reader();
    let (after, _) = ledger.checkpoint();
    let proof = reader.prove_consistency(before.size, after.size).unwrap();
    assert_eq!(
        verify_consistency(before.size, &before.root, after.size, &after.root, &proof),
        Ok(())
    );
    for index in 0..314 {
        let proof = reader.prove(index, after.size).unwrap();
        assert_eq!(reader.leaf(index).unwrap(), leaf(index));
        assert_eq!(
            verify_inclusion(&leaf_hash(&leaf(index)), index, after.size, &proof, &after.root),
            Ok(())
        );
    }
    let (first, last) = reader.last(3).unwrap();
    assert_eq!((first, last), (311, vec![leaf(311), leaf(312), leaf(313)]));
    ledger.shutdown().await.unwrap();
}

#[tokio::test]
async fn many_callers_at_once_share_fsyncs_and_get_distinct_indices() {
    let root = tempfile::tempdir().unwrap();
    let ledger = open(root.path());
    let calls = futures::future::join_all((0..2_000).map(|_| append(&ledger, 1))).await;
    let mut indices: Vec<u64> = calls.into_iter().map(|durable| durable.unwrap()[0].index()).collect();
    indices.sort_unstable();
    assert_eq!(indices, (0..2_000).collect::<Vec<_>>());
    ledger.shutdown().await.unwrap();
    assert!(matches!(append(&ledger, 1).await, Err(LedgerError::Closed)));
}
