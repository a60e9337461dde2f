//! A disk that is full.

use std::sync::atomic::Ordering;

use super::*;

#[test]
fn a_full_disk_refuses_commits_tears_nothing_and_they_resume() {
    run(async {
        let place = Place::new();
        let settings = place.settings;
        let local = Local::open(&place.path(), settings, Retention::default(), place.metrics.clone()).unwrap();
        let faults = local.faults();
        let store = Store {
            engine: Arc::new(local),
        };
        fill(&store, 0..10).await;
        let mut watch = store.watch(b"", 1);
        for times in [1, 3] {
            faults.full.store(times, Ordering::Release);
            let length = fs::metadata(place.journal()).unwrap().len();
            for _ in 0..times {
                let error = store.commit(Txn::new().put("a", "x")).await.unwrap_err();
                let StoreError::Full { path, .. } = &error else {
                    panic!("{error}")
                };
                assert_eq!(path, &place.journal());
                assert_eq!(
                    fs::metadata(place.journal()).unwrap().len(),
                    length,
                    "nothing is left of it"
                );
                assert_eq!((store.revision(), store.get(b"a").await.unwrap()), (1, None));
                holds(&store, 10).await;
            }
        }
        assert_eq!(store.commit(Txn::new().put("a", "x")).await.unwrap(), 2);
        assert_eq!(watch.next().await.unwrap().revision, 2);
        assert_eq!(place.metrics.failures.get(), 4);
        store.close().await;
        let store = place.open();
        assert_eq!(
            (store.revision(), report(&store).torn, report(&store).rebuilt),
            (2, 0, None)
        );
        store.close().await;
    });
}

#[test]
fn commits_are_refused_before_the_last_bytes_are_used() {
    run(async {
        let mut place = Place::new();
        place.settings.reserve = u64::MAX;
        let store = place.open();
        let error = store.commit(Txn::new().put("a", "x")).await.unwrap_err();
        assert!(
            matches!(&error, StoreError::Full { path, .. } if *path == place.path().join("journal")),
            "{error}"
        );
        assert!(error.to_string().contains("are free"), "{error}");
        // Conditions alone need no space.
        assert_eq!(store.commit(Txn::new().expect_absent("a")).await.unwrap(), 0);
        store.close().await;
    });
}
