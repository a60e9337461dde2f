//! Damaged, lost and foreign files.

use super::*;

const MANY: u64 = 100_000;

#[test]
fn nothing_is_missing_after_the_index_was_deleted_under_100_000_entries() {
    run(async {
        let place = Place::new();
        let store = place.open();
        assert_eq!(report(&store).rebuilt, None);
        let last = fill(&store, 0..MANY).await;
        store.close().await;

        let store = place.open();
        assert_eq!(
            (report(&store).revision, report(&store).keys, report(&store).rebuilt),
            (last, MANY, None)
        );
        holds(&store, MANY).await;
        store.close().await;

        fs::remove_dir_all(place.index()).unwrap();
        let store = place.open();
        assert!(report(&store).rebuilt.is_some());
        assert_eq!((store.revision(), place.metrics.rebuilds.get()), (last, 1));
        holds(&store, MANY).await;
        assert_eq!(store.commit(Txn::new().put("more", "x")).await.unwrap(), last + 1);
        store.close().await;
    });
}

#[test]
fn nothing_is_missing_after_the_index_was_corrupted_under_100_000_entries() {
    run(async {
        let place = Place::new();
        let store = place.open();
        let last = fill(&store, 0..MANY).await;
        store.close().await;
        for round in 0..6 {
            let files: Vec<_> = place.files("index").into_iter().filter(|path| path.is_file()).collect();
            assert!(files.len() >= 2, "sled keeps more than one file: {files:?}");
            for (number, file) in files.iter().enumerate() {
                // All of them, then each alone, then many bytes of the data.
                if round == 0 || round % 3 == number % 3 {
                    flip(file, 1 + 100 * round, round as u64);
                }
            }
            let store = place.open();
            assert_eq!(store.revision(), last, "round {round}");
            holds(&store, MANY).await;
            store.close().await;
        }
        assert!(
            place.metrics.rebuilds.get() >= 3,
            "{} rebuilds",
            place.metrics.rebuilds.get()
        );
        assert!(
            place.path().join("index.damaged").exists(),
            "the last damaged index is kept"
        );
    });
}

#[test]
fn a_snapshot_that_sled_left_unfinished_makes_the_index_again() {
    run(async {
        let place = Place::new();
        let store = place.open();
        fill(&store, 0..100).await;
        store.close().await;
        fs::write(place.index().join("snap.0000000000000BAD.generating"), b"half").unwrap();
        let store = place.open();
        assert!(report(&store).rebuilt.unwrap().contains(".generating"));
        holds(&store, 100).await;
        store.close().await;
    });
}

#[test]
fn an_index_of_another_store_is_not_taken() {
    run(async {
        let (place, other) = (Place::new(), Place::new());
        for (place, count) in [(&place, 100), (&other, 200)] {
            let store = place.open();
            fill(&store, 0..count).await;
            store.close().await;
        }
        fs::remove_dir_all(place.index()).unwrap();
        fs::rename(other.index(), place.index()).unwrap();
        let store = place.open();
        assert!(report(&store).rebuilt.unwrap().contains("another store"));
        holds(&store, 100).await;
        store.close().await;
    });
}

#[test]
fn an_index_that_fails_while_serving_is_made_again() {
    run(async {
        let place = Place::new();
        let store = place.open();
        fill(&store, 0..MANY).await;
        // What is not in sled's cache is read from this file.
        for file in place.files("index").into_iter().filter(|path| path.ends_with("db")) {
            let length = fs::metadata(&file).unwrap().len();
            let zeros = vec![0; usize::try_from(length).unwrap()];
            std::os::unix::fs::FileExt::write_all_at(&fs::File::options().write(true).open(&file).unwrap(), &zeros, 0)
                .unwrap();
        }
        let mut failed = false;
        for number in 0..MANY {
            match store.get(&key(number)).await {
                Ok(pair) => assert_eq!(pair.unwrap().value, value(number)),
                Err(StoreError::Index { .. }) => failed = true,
                Err(error) => panic!("{error}"),
            }
        }
        assert!(failed, "the damage was seen");
        // A commit waits for the writer to have made it again.
        let revision = store.commit(Txn::new().put("more", "x").delete("more2")).await;
        let revision = match revision {
            Err(StoreError::Index { .. }) => store.commit(Txn::new().put("more", "x")).await.unwrap(),
            other => other.unwrap(),
        };
        assert_eq!(revision, 101);
        store.commit(Txn::new().delete("more")).await.unwrap();
        holds(&store, MANY).await;
        assert!(place.metrics.rebuilds.get() >= 1);
        store.close().await;
        let store = place.open();
        assert_eq!((report(&store).rebuilt, report(&store).revision), (None, 102));
        store.close().await;
    });
}

#[test]
fn a_journal_cut_short_anywhere_in_its_last_records_loses_only_what_was_not_acknowledged() {
    run(async {
        let place = Place::new();
        let store = place.open();
        let mut ends = Vec::new();
        for number in 0..5 {
            store
                .commit(Txn::new().put(key(number), format!("{number}")))
                .await
                .unwrap();
            ends.push(fs::metadata(place.journal()).unwrap().len());
        }
        store.close().await;
        let whole = fs::read(place.journal()).unwrap();
        let garbage = [&b""[..], &[0; 40], b"\xf7mmR\x08\0\0\0garbage that no record is"];
        for length in usize::try_from(ends[2]).unwrap()..=whole.len() {
            // The index is lost too: the machine lost power, and it was never synced.
            fs::remove_dir_all(place.index()).unwrap();
            let bytes = [&whole[..length], garbage[length % garbage.len()]].concat();
            fs::write(place.journal(), bytes).unwrap();
            let store = place.open();
            let acknowledged = ends.iter().filter(|end| **end <= length as u64).count() as u64;
            assert_eq!(store.revision(), acknowledged, "{length} bytes");
            for number in 0..5 {
                let found = store.get(&key(number)).await.unwrap();
                assert_eq!(found.is_some(), number < acknowledged, "{length} bytes");
            }
            assert_eq!(
                store.commit(Txn::new().put("more", "x")).await.unwrap(),
                acknowledged + 1
            );
            store.close().await;
            // What was cut off does not come back.
            if length % 8 == 0 {
                let store = place.open();
                assert_eq!((store.revision(), report(&store).torn), (acknowledged + 1, 0));
                store.close().await;
            }
        }
    });
}

#[test]
fn a_journal_that_lost_its_end_is_continued_from_the_index_that_has_it() {
    run(async {
        let place = Place::new();
        let store = place.open();
        fill(&store, 0..500).await;
        let kept = fs::metadata(place.journal()).unwrap().len();
        for number in 500..510 {
            fill(&store, number..number + 1).await;
        }
        store.close().await;
        fs::File::options()
            .write(true)
            .open(place.journal())
            .unwrap()
            .set_len(kept)
            .unwrap();
        for _ in 0..2 {
            let store = place.open();
            assert_eq!((store.revision(), report(&store).keys), (11, 510));
            holds(&store, 510).await;
            store.close().await;
        }
        // What goes on from there does not need the index either.
        fs::remove_dir_all(place.index()).unwrap();
        let store = place.open();
        holds(&store, 510).await;
        assert_eq!(store.commit(Txn::new().put("more", "x")).await.unwrap(), 12);
        store.close().await;
    });
}

#[test]
fn damage_in_the_middle_of_the_journal_is_an_error_that_names_file_and_offset() {
    run(async {
        let place = Place::new();
        let store = place.open();
        let mut ends = vec![fs::metadata(place.journal()).unwrap().len()];
        for number in 0..4 {
            store
                .commit(Txn::new().put(key(number), format!("{number}")))
                .await
                .unwrap();
            ends.push(fs::metadata(place.journal()).unwrap().len());
        }
        store.close().await;
        let whole = fs::read(place.journal()).unwrap();
        let length = usize::try_from(ends[3]).unwrap();
        // Every byte up to the last record but one; after a clean stop also those of the last.
        for byte in 0..usize::try_from(ends[4]).unwrap() {
            let mut bytes = whole.clone();
            bytes[byte] ^= 0x10;
            fs::write(place.journal(), bytes).unwrap();
            let error = place.try_open().unwrap_err();
            let StoreError::Damaged { path, offset, .. } = &error else {
                panic!("byte {byte}: {error}")
            };
            assert_eq!(path, &place.journal());
            let start = ends.iter().rev().find(|end| **end <= byte as u64).copied().unwrap_or(0);
            assert_eq!(*offset, start, "byte {byte} of {length}: {error}");
        }
        fs::write(place.journal(), &whole).unwrap();
        let store = place.open();
        assert_eq!((store.revision(), report(&store).rebuilt), (4, None));
        store.close().await;
    });
}

#[test]
fn a_lost_journal_is_an_error_and_not_an_empty_store() {
    run(async {
        let place = Place::new();
        let store = place.open();
        fill(&store, 0..10).await;
        store.close().await;
        fs::remove_file(place.journal()).unwrap();
        let error = place.try_open().unwrap_err();
        assert!(
            matches!(&error, StoreError::Damaged { why, .. } if why.contains("no journal")),
            "{error}"
        );
    });
}

#[test]
fn a_second_opener_is_refused_with_the_pid_of_the_first() {
    run(async {
        let place = Place::new();
        let store = place.open();
        let error = place.try_open().unwrap_err();
        assert!(
            matches!(&error, StoreError::Locked { pid, .. } if *pid == std::process::id().to_string()),
            "{error}"
        );
        store.close().await;
        place.open().close().await;
    });
}
