//! Retention.

use std::fs;
use std::time::Duration;

use super::*;

const SEGMENTS: u64 = 3;

/// A ledger whose first segments are older than the retention.
async fn pruned(root: &Path, retention: Duration) -> (Checkpoint, Checkpoint) {
    let clock = Clock::manual(1_700_000_000);
    let settings = Settings {
        retention,
        ..Settings::new(clock.clone())
    };
    let ledger = Ledger::open_or_create(root, DOMAIN, 1, settings).unwrap();
    fill(&ledger, 2 * SEGMENT).await;
    let early = ledger.checkpoint().0;
    clock.advance(Duration::from_secs(3600));
    fill(&ledger, SEGMENTS * SEGMENT + 100).await;
    let late = ledger.checkpoint().0;
    ledger.shutdown().await.unwrap();
    (early, late)
}

#[tokio::test]
async fn what_is_too_old_goes_and_what_remains_proves() {
    let root = tempfile::tempdir().unwrap();
    let (early, late) = pruned(root.path(), Duration::from_secs(1800)).await;
    assert_clean(root.path(), late.size);
    let ledger = open(root.path());
    let reader = ledger.reader();
    let minimum = 2 * SEGMENT;
    assert_eq!(reader.minimum(), minimum);
    assert!(!root.path().join("1/0000000000.leaves").exists() && !root.path().join("1/0000000001.hashes").exists());
    for gone in [0, SEGMENT, minimum - 1] {
        let refused = reader.leaf(gone);
        assert!(
            matches!(refused, Err(LedgerError::Pruned { index, minimum: told }) if (index, told) == (gone, minimum))
        );
        assert!(matches!(reader.prove(gone, late.size), Err(LedgerError::Pruned { .. })));
    }
    assert!(matches!(reader.tile(0, 511, 256), Err(LedgerError::Pruned { .. })));
    assert!(matches!(reader.tile(1, 1, 256), Err(LedgerError::Pruned { .. })));
    assert!(matches!(reader.entries(511, 256), Err(LedgerError::Pruned { .. })));
    assert_eq!(
        (
            reader.tile(0, 512, 256).unwrap().len(),
            reader.tile(2, 0, 3).unwrap().len()
        ),
        (8_192, 96)
    );
    for index in [
        minimum,
        minimum + 1,
        SEGMENTS * SEGMENT - 1,
        SEGMENTS * SEGMENT,
        late.size - 1,
    ] {
        let proof = reader.prove(index, late.size).unwrap();
        assert_eq!(
            verify_inclusion(&leaf_hash(&leaf(index)), index, late.size, &proof, &late.root),
            Ok(())
        );
    }
    // From the minimum index on, every tree is consistent with every later one.
    for old in [minimum, minimum + 1, minimum + 777, late.size] {
        let proof = reader.prove_consistency(old, late.size).unwrap();
        assert_eq!(
            verify_consistency(old, &reader.root(old).unwrap(), late.size, &late.root, &proof),
            Ok(())
        );
    }
    assert_eq!(reader.root(early.size).unwrap(), early.root);
    append(&ledger, 1).await.unwrap();
    ledger.shutdown().await.unwrap();
    assert_clean(root.path(), late.size + 1);

    let out = tempfile::tempdir().unwrap();
    Reader::open(root.path(), 1).unwrap().export(out.path()).unwrap();
    assert!(!out.path().join("tile/0/511").exists() && out.path().join("tile/0/512").exists());
}

#[tokio::test]
async fn a_clock_that_is_set_ahead_prunes_nothing() {
    let root = tempfile::tempdir().unwrap();
    let clock = Clock::manual(1_700_000_000);
    let settings = Settings {
        retention: Duration::from_secs(1800),
        ..Settings::new(clock.clone())
    };
    let ledger = Ledger::open_or_create(root.path(), DOMAIN, 1, settings).unwrap();
    fill(&ledger, SEGMENT).await;
    clock.set_unix(1_800_000_000);
    fill(&ledger, 2 * SEGMENT).await;
    clock.set_unix(1_700_000_000);
    fill(&ledger, 2 * SEGMENT + 1).await;
    assert_eq!(ledger.reader().minimum(), 0);
    // Time that has really passed counts.
    clock.advance(Duration::from_secs(1801));
    fill(&ledger, 3 * SEGMENT).await;
    ledger.shutdown().await.unwrap();
    assert_eq!(open(root.path()).reader().minimum(), SEGMENT);
}

#[tokio::test]
async fn the_roots_and_the_minimum_index_of_a_pruned_log_are_covered() {
    let root = tempfile::tempdir().unwrap();
    let (_, late) = pruned(root.path(), Duration::from_secs(1800)).await;
    for name in ["roots", "minimum"] {
        let path = root.path().join("1").join(name);
        let bytes = fs::read(&path).unwrap();
        // Each byte of the two roots whose segments are gone; elsewhere some.
        for at in (0..bytes.len()).filter(|at| at % 7 == 0 || at % 32 == 31) {
            let mut wrong = bytes.clone();
            wrong[at] ^= 1;
            fs::write(&path, &wrong).unwrap();
            assert!(!check(root.path()).is_sound(), "{name} byte {at}");
        }
        fs::write(&path, &bytes).unwrap();
    }
    assert_clean(root.path(), late.size);
}

#[tokio::test]
async fn what_is_young_enough_stays() {
    let root = tempfile::tempdir().unwrap();
    pruned(root.path(), Duration::from_secs(7200)).await;
    assert_eq!(Reader::open(root.path(), 1).unwrap().minimum(), 0);
    let forever = tempfile::tempdir().unwrap();
    pruned(forever.path(), Duration::MAX).await;
    assert_eq!(Reader::open(forever.path(), 1).unwrap().minimum(), 0);
}

#[tokio::test]
async fn the_oldest_go_before_the_maximum_size_is_passed() {
    let root = tempfile::tempdir().unwrap();
    let max_size = 16 << 20;
    let settings = Settings { max_size, ..settings() };
    let ledger = Ledger::open_or_create(root.path(), DOMAIN, 1, settings).unwrap();
    while ledger.reader().size() < 6 * SEGMENT {
        append(&ledger, 4096).await.unwrap();
        let used: u64 = fs::read_dir(root.path().join("1"))
            .unwrap()
            .filter_map(|entry| Some(entry.ok()?.metadata().ok()?.len()))
            .sum();
        // Some kilobytes of checkpoints and keys are not counted.
        assert!(used <= max_size + 8_192, "{used} bytes");
    }
    assert!(ledger.reader().minimum() >= 2 * SEGMENT);
    assert!(ledger.state().free_bytes <= max_size);
    ledger.shutdown().await.unwrap();
    assert_clean(root.path(), 6 * SEGMENT);
}

#[tokio::test]
async fn a_maximum_size_that_one_segment_fills_refuses_and_says_what_to_do() {
    let root = tempfile::tempdir().unwrap();
    let ledger = Ledger::open_or_create(
        root.path(),
        DOMAIN,
        1,
        Settings {
            max_size: 100_000,
            ..settings()
        },
    )
    .unwrap();
    let mut refused = None;
    for _ in 0..10 {
        refused = append(&ledger, 1000).await.err().or(refused);
    }
    let refused = refused.unwrap();
    assert!(matches!(refused, LedgerError::Full { .. }));
    assert!(refused.to_string().contains("raise ledger.max_size"), "{refused}");
    let size = ledger.reader().size();
    ledger.shutdown().await.unwrap();
    let ledger = open(root.path());
    assert_eq!(append(&ledger, 1).await.unwrap()[0].index(), size);
    ledger.shutdown().await.unwrap();
    assert_clean(root.path(), size + 1);
}

#[tokio::test]
async fn a_pruning_that_a_crash_interrupted_is_finished_at_the_next_start() {
    let root = tempfile::tempdir().unwrap();
    let kept = tempfile::tempdir().unwrap();
    for name in ["0000000000.leaves", "0000000000.hashes"] {
        let ledger = open(kept.path());
        fill(&ledger, SEGMENT).await;
        ledger.shutdown().await.unwrap();
        assert!(kept.path().join("1").join(name).exists());
    }
    let (_, late) = pruned(root.path(), Duration::from_secs(1800)).await;
    // The minimum index was published, the files were not yet removed.
    for name in ["0000000000.leaves", "0000000000.hashes"] {
        fs::copy(kept.path().join("1").join(name), root.path().join("1").join(name)).unwrap();
    }
    let report = check(root.path());
    assert!(report.is_sound() && report.logs[0].notes.len() == 2, "{report:?}");
    open(root.path()).shutdown().await.unwrap();
    assert_clean(root.path(), late.size);
}

#[tokio::test]
async fn hashes_that_are_missing_are_made_again() {
    let root = tempfile::tempdir().unwrap();
    let ledger = open(root.path());
    fill(&ledger, 2 * SEGMENT + 9).await;
    ledger.shutdown().await.unwrap();
    let path = root.path().join("1/0000000001.hashes");
    let bytes = fs::read(&path).unwrap();
    fs::remove_file(&path).unwrap();
    let ledger = open(root.path());
    assert_eq!(fs::read(&path).unwrap(), bytes);
    ledger.shutdown().await.unwrap();
    // A crash between the last leaf of a segment and its seal.
    fs::remove_file(&path).unwrap();
    let roots = root.path().join("1/roots");
    let all = fs::read(&roots).unwrap();
    fs::write(&roots, &all[..40]).unwrap();
    assert!(check(root.path()).is_sound());
    open(root.path()).shutdown().await.unwrap();
    assert_eq!((fs::read(&path).unwrap(), fs::read(&roots).unwrap()), (bytes, all));
    assert_clean(root.path(), 2 * SEGMENT + 9);
}

#[tokio::test]
async fn an_older_log_is_settled_and_pruned_first() {
    let root = tempfile::tempdir().unwrap();
    let checkpoint = root.path().join("1/checkpoint");
    let old = open(root.path());
    let empty = fs::read(&checkpoint).unwrap();
    fill(&old, 2 * SEGMENT + 9).await;
    old.shutdown().await.unwrap();
    // It was not stopped cleanly before the backup was taken.
    fs::write(&checkpoint, empty).unwrap();
    Ledger::create(root.path(), DOMAIN, 2).unwrap();
    let new = Ledger::open(
        root.path(),
        DOMAIN,
        Settings {
            max_size: 12 << 20,
            ..settings()
        },
    )
    .unwrap();
    assert_eq!(new.reader_of(1).unwrap().checkpoint().unwrap().0.size, 2 * SEGMENT + 9);
    fill(&new, SEGMENT + 9).await;
    new.shutdown().await.unwrap();
    assert!(Reader::open(root.path(), 1).unwrap().minimum() >= SEGMENT);
    assert_eq!(Reader::open(root.path(), 2).unwrap().minimum(), 0);
    assert_clean(root.path(), SEGMENT + 9);
    assert_eq!(check(root.path()).logs[0].notes, Vec::<String>::new());
}
