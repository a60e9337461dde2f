//! Snapshots, and backups from a directory.

use super::*;
use crate::store::backup;

/// A store that takes snapshots often, with what many transactions left in it.
async fn worn(place: &mut Place) -> Store {
    place.settings.snapshot_after = 64 << 10;
    let store = place.open();
    for round in 0..200_u64 {
        fill(&store, 0..20 + round).await;
        store
            .commit(Txn::new().put("counter", format!("{round}")))
            .await
            .unwrap();
    }
    store.commit(Txn::new().delete("counter")).await.unwrap();
    store
}

#[test]
fn the_journal_is_cut_behind_the_snapshot_before_the_last() {
    run(async {
        let mut place = Place::new();
        let store = worn(&mut place).await;
        let (revision, pairs) = everything(&store).await;
        store.close().await;
        assert!(
            place.metrics.snapshots.get() >= 3,
            "{} snapshots",
            place.metrics.snapshots.get()
        );
        assert_eq!(place.metrics.snapshot_failures.get(), 0);
        assert_eq!(place.files("snapshots").len(), 2, "{:?}", place.files("snapshots"));
        let first = place.files("journal").remove(0);
        assert_ne!(
            first.file_stem().unwrap(),
            "00000000000000000000",
            "the beginning is cut off"
        );

        fs::remove_dir_all(place.index()).unwrap();
        let store = place.open();
        assert_eq!(everything(&store).await, (revision, pairs));
        assert!(
            report(&store).replayed < revision,
            "only what came after the snapshot is replayed"
        );
        store.close().await;
    });
}

#[test]
fn a_damaged_snapshot_is_replaced_by_the_one_before_it_and_a_longer_journal() {
    run(async {
        let mut place = Place::new();
        let store = worn(&mut place).await;
        let (revision, pairs) = everything(&store).await;
        store.close().await;
        let snapshots = place.files("snapshots");
        let newest = fs::read(&snapshots[1]).unwrap();
        for damage in ["flipped", "cut", "empty", "foreign"] {
            match damage {
                "flipped" => flip(&snapshots[1], 1, 1),
                "cut" => fs::write(&snapshots[1], &newest[..newest.len() - 1]).unwrap(),
                "empty" => fs::write(&snapshots[1], b"").unwrap(),
                _ => {
                    fs::copy(place.journal(), &snapshots[1]).unwrap();
                }
            }
            fs::remove_dir_all(place.index()).unwrap();
            let store = place.open();
            assert_eq!(everything(&store).await, (revision, pairs.clone()), "{damage}");
            store.close().await;
        }
        // Without the one before it there is nothing to go on from.
        flip(&snapshots[0], 3, 1);
        fs::remove_dir_all(place.index()).unwrap();
        let error = place.try_open().unwrap_err();
        assert!(
            matches!(&error, StoreError::Damaged { path, .. } if *path == snapshots[1]),
            "{error}"
        );
        // With an index that holds what the journal says, they are not missed.
        fs::write(&snapshots[1], newest).unwrap();
        let store = place.open();
        assert_eq!(everything(&store).await, (revision, pairs));
        store.close().await;
    });
}

#[test]
fn a_directory_is_backed_up_whether_a_server_runs_on_it_or_not() {
    run(async {
        let mut place = Place::new();
        let store = worn(&mut place).await;
        let target = tempfile::tempdir().unwrap();
        let mut expected = everything(&store).await;
        for (running, name) in [(true, "running"), (false, "stopped")] {
            if !running {
                expected.0 = store.commit(Txn::new().put("last", "x")).await.unwrap();
                expected = everything(&store).await;
                store.close().await;
            }
            let file = target.path().join(name);
            assert_eq!(backup(&place.path(), &file).unwrap(), expected.0);
            assert!(
                matches!(backup(&place.path(), &file), Err(StoreError::Io { .. })),
                "never written over"
            );
            let restored = Place::new();
            let report = crate::store::restore(&file, &restored.path()).unwrap();
            assert_eq!(report.revision, expected.0);
            let store = restored.open();
            assert_eq!(everything(&store).await, expected);
            store.close().await;
        }
    });
}

#[test]
fn a_backup_that_is_not_whole_is_refused_and_leaves_the_directory_empty() {
    run(async {
        let place = Place::new();
        let store = place.open();
        fill(&store, 0..50).await;
        let file = place.directory.path().join("backup");
        store.backup(&file).await.unwrap();
        store.close().await;
        let whole = fs::read(&file).unwrap();
        let restored = place.directory.path().join("restored");
        for length in [0, 10, 67, 68, whole.len() / 2, whole.len() - 1] {
            fs::write(&file, &whole[..length]).unwrap();
            let error = crate::store::restore(&file, &restored).unwrap_err();
            assert!(
                matches!(&error, StoreError::Damaged { path, .. } if *path == file),
                "{length} bytes: {error}"
            );
        }
        for byte in (0..whole.len()).step_by(97) {
            let mut bytes = whole.clone();
            bytes[byte] ^= 1;
            fs::write(&file, bytes).unwrap();
            let error = crate::store::restore(&file, &restored).unwrap_err();
            assert!(matches!(&error, StoreError::Damaged { .. }), "byte {byte}: {error}");
        }
        fs::write(&file, whole).unwrap();
        assert_eq!(crate::store::restore(&file, &restored).unwrap().keys, 50);
    });
}
