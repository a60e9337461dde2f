//! Appending, reading, proving.

use super::*;

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
    assert_clean(root.path(), 304);

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
    let serial = Serial::new(1, 300, [7; 11]).unwrap();
    assert_eq!(ledger.find(&serial).unwrap().1.index, 300);
    for other in [
        Serial::new(1, 300, [8; 11]),
        Serial::new(2, 300, [7; 11]),
        Serial::new(1, 314, [7; 11]),
    ] {
        assert!(matches!(ledger.find(&other.unwrap()), Err(LedgerError::NotFound(_))));
    }
    assert!(matches!(reader.leaf(314), Err(LedgerError::NotFound(_))));
    assert!(matches!(reader.prove(5, 315), Err(LedgerError::NotFound(_))));
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

#[tokio::test]
async fn callers_wait_for_room_in_a_full_batch() {
    let root = tempfile::tempdir().unwrap();
    let ledger = open(root.path());
    let calls = futures::future::join_all((0..40).map(|_| append(&ledger, 4096))).await;
    let leaves: usize = calls.into_iter().map(|durable| durable.unwrap().len()).sum();
    assert_eq!(leaves, 40 * 4096);
    ledger.shutdown().await.unwrap();
    assert_clean(root.path(), 40 * 4096);
}

#[tokio::test]
async fn what_cannot_be_a_leaf_is_refused_and_takes_no_index() {
    let root = tempfile::tempdir().unwrap();
    let ledger = open(root.path());
    let one = |bytes: usize| move |_: Slot| vec![(vec![1; bytes], ())];
    assert!(matches!(
        ledger.append(1, one(0)).await,
        Err(LedgerError::LeafSize { size: 0, .. })
    ));
    assert!(matches!(
        ledger.append(1, one(MAX_LEAF + 1)).await,
        Err(LedgerError::LeafSize { size: 8193, .. })
    ));
    assert!(matches!(
        ledger.append(2, one(1)).await,
        Err(LedgerError::Count { announced: 2, got: 1 })
    ));
    assert!(matches!(
        append(&ledger, 4097).await,
        Err(LedgerError::TooMany { count: 4097, .. })
    ));
    assert_eq!(append(&ledger, 1).await.unwrap()[0].index(), 0);
    ledger.append(1, one(MAX_LEAF)).await.unwrap();
    assert_eq!(ledger.reader().leaf(1).unwrap().len(), MAX_LEAF);
    ledger.shutdown().await.unwrap();
}

#[tokio::test]
async fn leaves_of_a_caller_that_went_away_stay() {
    let root = tempfile::tempdir().unwrap();
    let ledger = open(root.path());
    let mut call = Box::pin(append(&ledger, 3));
    // Once polled the leaves are in the batch; whether the call is already done does not matter.
    let _ = futures::poll!(&mut call);
    drop(call);
    assert_eq!(append(&ledger, 1).await.unwrap()[0].index(), 3);
    assert_eq!(ledger.reader().leaf(1).unwrap(), leaf(1));
    ledger.shutdown().await.unwrap();
}

#[tokio::test]
async fn an_encoder_that_panics_harms_nobody_else() {
    use futures::FutureExt as _;
    let root = tempfile::tempdir().unwrap();
    let ledger = open(root.path());
    let panicking = ledger.append(1, |_| -> Vec<(LeafBytes, ())> { panic!("an encoder that panics") });
    assert!(std::panic::AssertUnwindSafe(panicking).catch_unwind().await.is_err());
    assert_eq!(append(&ledger, 1).await.unwrap()[0].index(), 0);
    ledger.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_log_is_open_once_and_of_one_trust_domain() {
    let root = tempfile::tempdir().unwrap();
    let ledger = open(root.path());
    assert!(matches!(
        Ledger::open(root.path(), DOMAIN, settings()),
        Err(LedgerError::InUse(_))
    ));
    assert!(matches!(
        Ledger::create(root.path(), DOMAIN, 1),
        Err(LedgerError::Io { .. })
    ));
    ledger.shutdown().await.unwrap();
    assert!(matches!(
        Ledger::open(root.path(), "other.org", settings()),
        Err(LedgerError::Forked { .. })
    ));
    Ledger::open(root.path(), DOMAIN, settings())
        .unwrap()
        .shutdown()
        .await
        .unwrap();
}

#[tokio::test]
async fn a_new_log_stands_beside_the_old_one_which_stays_readable() {
    let root = tempfile::tempdir().unwrap();
    let old = open(root.path());
    append(&old, 5).await.unwrap();
    old.shutdown().await.unwrap();
    Ledger::create(root.path(), DOMAIN, 7).unwrap();
    let new = Ledger::open(root.path(), DOMAIN, settings()).unwrap();
    assert_eq!((new.number(), Ledger::numbers(root.path()).unwrap()), (7, vec![1, 7]));
    let durable = append(&new, 2).await.unwrap();
    assert_eq!((durable[1].log(), durable[1].index()), (7, 1));
    assert_eq!(Reader::open(root.path(), 1).unwrap().leaf(4).unwrap(), leaf(4));
    assert_eq!(new.reader_of(1).unwrap().leaf(4).unwrap(), leaf(4));
    assert_eq!(
        (new.reader_of(7).unwrap().size(), new.reader_of(2).is_none()),
        (2, true)
    );
    new.shutdown().await.unwrap();
    let report = check(root.path());
    assert!(report.is_sound(), "{report:?}");
    assert_eq!(
        report.logs.iter().map(|log| (log.number, log.size)).collect::<Vec<_>>(),
        [(1, 5), (7, 2)]
    );
}

#[tokio::test]
async fn two_hundred_thousand_leaves_fill_three_segments_and_everything_of_them_proves() {
    let root = tempfile::tempdir().unwrap();
    let ledger = open(root.path());
    fill(&ledger, 70_000).await;
    let (early, _) = ledger.checkpoint();
    fill(&ledger, 200_000).await;
    let (late, _) = ledger.checkpoint();
    ledger.shutdown().await.unwrap();
    assert_clean(root.path(), 200_000);

    let ledger = open(root.path());
    let reader = ledger.reader();
    assert_eq!(reader.root(200_000).unwrap(), late.root);
    let proof = reader.prove_consistency(70_000, 200_000).unwrap();
    assert_eq!(
        verify_consistency(70_000, &early.root, 200_000, &late.root, &proof),
        Ok(())
    );
    for index in [
        0, 255, 256, 65_535, 65_536, 69_999, 131_071, 131_072, 196_607, 196_608, 199_999,
    ] {
        assert_eq!(reader.leaf(index).unwrap(), leaf(index));
        let proof = reader.prove(index, 200_000).unwrap();
        assert_eq!(
            verify_inclusion(&leaf_hash(&leaf(index)), index, 200_000, &proof, &late.root),
            Ok(())
        );
        if index < 70_000 {
            let proof = reader.prove(index, 70_000).unwrap();
            assert_eq!(
                verify_inclusion(&leaf_hash(&leaf(index)), index, 70_000, &proof, &early.root),
                Ok(())
            );
        }
    }
    let leaves = reader.leaves(65_000, 2_000).unwrap();
    assert_eq!(leaves, (65_000..67_000).map(leaf).collect::<Vec<_>>());
    ledger.shutdown().await.unwrap();
}

#[tokio::test]
async fn an_exported_log_is_one_of_c2sp_tlog_tiles() {
    let (root, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let ledger = open(root.path());
    fill(&ledger, 70_000).await;
    ledger.shutdown().await.unwrap();
    let reader = Reader::open(root.path(), 1).unwrap();
    reader.export(out.path()).unwrap();
    let read = |path: &str| std::fs::read(out.path().join(path)).unwrap();

    // The example of the specification: a tree of size 70,000 has 273 full level 0 tiles and a partial one of width 112, one full level
    // 1 tile and a partial one of width 17, and one level 2 tile of width 1.
    let mut level0 = Vec::new();
    for index in 0..=273 {
        let suffix = if index == 273 {
            "273.p/112".to_owned()
        } else {
            format!("{index:03}")
        };
        let (tile, entries) = (
            read(&format!("tile/0/{suffix}")),
            read(&format!("tile/entries/{suffix}")),
        );
        let hashes: Vec<Hash> = frame::entries(&entries).map(leaf_hash).collect();
        assert_eq!(tile, hashes.concat());
        level0.extend(hashes);
    }
    assert_eq!(level0.len(), 70_000);
    let (full, partial, top) = (read("tile/1/000"), read("tile/1/001.p/17"), read("tile/2/000.p/1"));
    assert_eq!((full.len(), partial.len(), top.len()), (8_192, 17 * 32, 32));
    assert_eq!(full[..32], merkle::fold(&level0[..256]));
    assert_eq!(partial[..32], merkle::fold(&level0[65_536..65_792]));
    assert_eq!(top[..], merkle::fold(&level0[..65_536]));

    let mut range = merkle::Range::default();
    level0.iter().for_each(|hash| range.push(*hash, |_, _, _| ()));
    let note = String::from_utf8(read("checkpoint")).unwrap();
    let checkpoint = reader.verifier().open_checkpoint(&note).unwrap();
    assert_eq!((checkpoint.size, checkpoint.root), (70_000, range.root()));

    assert_eq!(reader.resource("tile/0/273.p/112").unwrap(), read("tile/0/273.p/112"));
    for path in [
        "tile/0/273",
        "tile/0/273.p/113",
        "tile/1/001.p/18",
        "tile/2/000",
        "tile/3/000.p/1",
        "tile/63/000.p/1",
        "tile/entries/274.p/1",
        "log",
        "key",
    ] {
        assert!(matches!(reader.resource(path), Err(LedgerError::NotFound(_))), "{path}");
    }
}

#[tokio::test]
async fn a_directory_can_be_verified_while_it_is_written() {
    let root = tempfile::tempdir().unwrap();
    let ledger = open(root.path());
    fill(&ledger, 65_000).await;
    let checking = std::thread::spawn({
        let root = root.path().to_owned();
        move || (0..12).map(|_| check(&root)).collect::<Vec<_>>()
    });
    while !checking.is_finished() {
        append(&ledger, 100).await.unwrap();
    }
    for report in checking.join().unwrap() {
        assert!(report.is_sound(), "{report:?}");
        assert!(report.logs[0].running);
    }
    let size = ledger.reader().size();
    ledger.shutdown().await.unwrap();
    assert_clean(root.path(), size);
}
