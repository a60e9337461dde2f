//! What every engine must do: each function here is run against each engine.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;
use mintmark_runtime::clock::Clock;
use proptest::{collection::vec, prelude::*, test_runner::TestRunner};
use tempfile::TempDir;

use super::{
    Change, Engine, Expectation, MAX_KEY, MAX_OPERATIONS, MAX_TXN, MAX_VALUE, Retention, Revision, Settings, Store,
    StoreError, Txn, local::Local, metrics::StoreMetrics,
};

/// A store to test, and the directory that it may live in.
pub(super) struct Subject {
    pub(super) store: Store,
    _directory: Option<TempDir>,
}

/// How to make one: of the engine's kind, with the history given.
type Make = fn(Retention) -> Subject;

fn memory(retention: Retention) -> Subject {
    let engine: Arc<dyn Engine> = Arc::new(Local::memory(retention));
    Subject {
        store: Store { engine },
        _directory: None,
    }
}

fn sled(retention: Retention) -> Subject {
    let directory = tempfile::tempdir().unwrap();
    // Snapshots all the time, so that they take part in everything.
    let settings = Settings {
        snapshot_after: 4096,
        ..Settings::default()
    };
    let engine: Arc<dyn Engine> =
        Arc::new(Local::open(directory.path(), settings, retention, StoreMetrics::unread()).unwrap());
    Subject {
        store: Store { engine },
        _directory: Some(directory),
    }
}

macro_rules! conformance {
    ($($name:ident),+ $(,)?) => {
        mod in_memory {
            $(#[test]
            fn $name() {
                super::run(super::$name(super::memory));
            })+
        }

        mod on_sled {
            $(#[test]
            fn $name() {
                super::run(super::$name(super::sled));
            })+
        }
    };
}

conformance![
    a_put_is_read_back_with_its_revisions,
    a_condition_that_fails_changes_nothing_and_says_what_it_found,
    a_key_that_was_deleted_and_put_again_is_a_new_one,
    a_transaction_that_changes_nothing_gets_no_revision,
    a_range_is_what_a_sorted_map_says,
    the_limits_hold_and_what_fits_is_kept,
    handles_that_race_for_a_key_win_one_at_a_time,
    a_watch_delivers_every_revision_in_order_while_many_write,
    a_watch_of_a_prefix_says_how_far_it_is,
    a_watch_that_is_too_far_behind_has_to_list_again,
    a_listing_joined_to_a_watch_is_exact_while_many_write,
    a_closed_store_says_so_and_its_watches_end_after_the_last_event,
    a_backup_holds_one_revision_while_many_write,
];

/// Runs a test on a runtime as the server has one, and gives up on it after a minute.
fn run(test: impl Future<Output = ()> + Send + 'static) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime
        .block_on(async { Clock::system().timeout(std::time::Duration::from_secs(60), test).await })
        .unwrap();
}

fn subject(make: Make) -> Subject {
    make(Retention::default())
}

async fn a_put_is_read_back_with_its_revisions(make: Make) {
    let Subject { store, .. } = &subject(make);
    assert_eq!(store.revision(), 0);
    assert_eq!(store.get(b"a").await.unwrap(), None);
    assert_eq!(store.commit(Txn::new().put("a", "1").put("b", "1")).await.unwrap(), 1);
    assert_eq!(store.commit(Txn::new().put("a", "2")).await.unwrap(), 2);
    assert_eq!(store.revision(), 2);
    let pair = store.get(b"a").await.unwrap().unwrap();
    assert_eq!(
        (pair.key, pair.value, pair.created, pair.modified),
        ("a".into(), "2".into(), 1, 2)
    );
    let pair = store.get(b"b").await.unwrap().unwrap();
    assert_eq!((pair.value, pair.created, pair.modified), ("1".into(), 1, 1));
}

async fn a_condition_that_fails_changes_nothing_and_says_what_it_found(make: Make) {
    let Subject { store, .. } = &subject(make);
    store.commit(Txn::new().put("here", "1")).await.unwrap();
    store.commit(Txn::new().put("here", "2")).await.unwrap();
    let cases = [
        (Txn::new().expect_absent("gone"), None),
        (Txn::new().expect_present("here"), None),
        (Txn::new().expect_revision("here", 2), None),
        (Txn::new().expect_absent("here"), Some((Expectation::Absent, Some(2)))),
        (Txn::new().expect_present("gone"), Some((Expectation::Present, None))),
        (
            Txn::new().expect_revision("here", 1),
            Some((Expectation::At(1), Some(2))),
        ),
        (
            Txn::new().expect_revision("here", 3),
            Some((Expectation::At(3), Some(2))),
        ),
        (Txn::new().expect_revision("gone", 1), Some((Expectation::At(1), None))),
        (
            Txn::new()
                .expect_present("here")
                .expect_absent("here2")
                .expect_present("gone"),
            Some((Expectation::Present, None)),
        ),
    ];
    for (number, (txn, fails)) in cases.into_iter().enumerate() {
        let key = format!("case/{number}");
        let outcome = store.commit(txn.put(key.clone(), "x").put("other", "y")).await;
        let found = match outcome {
            Ok(_) => None,
            Err(StoreError::Conflict { expected, found, .. }) => Some((expected, found)),
            Err(error) => panic!("case {number}: {error}"),
        };
        assert_eq!(found, fails, "case {number}");
        assert_eq!(
            store.get(key.as_bytes()).await.unwrap().is_some(),
            fails.is_none(),
            "case {number}"
        );
    }
    assert_eq!(store.revision(), 5);
}

async fn a_key_that_was_deleted_and_put_again_is_a_new_one(make: Make) {
    let Subject { store, .. } = &subject(make);
    store.commit(Txn::new().put("a", "1")).await.unwrap();
    assert_eq!(
        store
            .commit(Txn::new().expect_revision("a", 1).delete("a"))
            .await
            .unwrap(),
        2
    );
    assert_eq!(store.get(b"a").await.unwrap(), None);
    assert_eq!(
        store.commit(Txn::new().expect_absent("a").put("a", "1")).await.unwrap(),
        3
    );
    let pair = store.get(b"a").await.unwrap().unwrap();
    assert_eq!((pair.created, pair.modified), (3, 3));
}

async fn a_transaction_that_changes_nothing_gets_no_revision(make: Make) {
    let Subject { store, .. } = &subject(make);
    assert_eq!(store.commit(Txn::new()).await.unwrap(), 0);
    store.commit(Txn::new().put("a", "1")).await.unwrap();
    assert_eq!(store.commit(Txn::new().expect_present("a")).await.unwrap(), 1);
    assert_eq!(store.commit(Txn::new().delete("b").delete("c")).await.unwrap(), 1);
    // The same value again is a change all the same: its revision is what others compare.
    assert_eq!(store.commit(Txn::new().put("a", "1").delete("b")).await.unwrap(), 2);
    let mut watch = store.watch(b"", 0);
    assert_eq!(watch.next().await.unwrap().revision, 1);
    let batch = watch.next().await.unwrap();
    assert_eq!((batch.revision, batch.events.len()), (2, 1));
}

async fn a_range_is_what_a_sorted_map_says(make: Make) {
    // Keys of few bytes, so that they share prefixes; the bytes at both ends of the alphabet among them.
    let key = || vec(prop::sample::select(std::vec![0, 1, b'a', b'b', 0xfe, 0xff]), 1..4);
    let change = (key(), proptest::option::weighted(0.7, vec(any::<u8>(), 0..8)));
    let query = (
        vec(prop::sample::select(std::vec![0, b'a', 0xff]), 0..3),
        proptest::option::of(key()),
        0..12_usize,
    );
    let strategy = (vec(vec(change, 0..6), 0..12), vec(query, 1..12));
    let mut runner = TestRunner::new(ProptestConfig::with_cases(48));
    let handle = tokio::runtime::Handle::current();
    let check = move || {
        runner.run(&strategy, |(transactions, queries)| {
            handle.block_on(compare_with_map(
                &make(Retention::default()).store,
                transactions,
                queries,
            ));
            Ok(())
        })
    };
    tokio::task::block_in_place(check).unwrap();
}

type Query = (Vec<u8>, Option<Vec<u8>>, usize);
type Changes = Vec<(Vec<u8>, Option<Vec<u8>>)>;

async fn compare_with_map(store: &Store, transactions: Vec<Changes>, queries: Vec<Query>) {
    let mut map = BTreeMap::new();
    let mut revision = 0;
    for changes in transactions {
        let changes: BTreeMap<Vec<u8>, Option<Vec<u8>>> = changes.into_iter().collect();
        let mut changed = false;
        let mut txn = Txn::new();
        for (key, value) in changes {
            txn = match &value {
                Some(value) => txn.put(key.clone(), value.clone()),
                None => txn.delete(key.clone()),
            };
            changed |= value.is_some() || map.contains_key(&key);
            match value {
                Some(value) => {
                    let created = map.get(&key).map_or(revision + 1, |(_, created, _)| *created);
                    map.insert(key, (value, created, revision + 1));
                }
                None => {
                    map.remove(&key);
                }
            }
        }
        revision += Revision::from(changed);
        assert_eq!(store.commit(txn).await.unwrap(), revision);
    }
    for (prefix, after, limit) in queries {
        let (at, pairs) = store.range(&prefix, after.as_deref(), limit).await.unwrap();
        let expected: Vec<_> = map
            .iter()
            .filter(|(key, _)| key.starts_with(&prefix) && after.as_ref().is_none_or(|after| *key > after))
            .take(limit)
            .map(|(key, (value, created, modified))| (key.clone(), value.clone(), *created, *modified))
            .collect();
        let found: Vec<_> = pairs
            .into_iter()
            .map(|pair| (pair.key.to_vec(), pair.value.to_vec(), pair.created, pair.modified))
            .collect();
        assert_eq!(
            (at, found),
            (revision, expected),
            "prefix {prefix:?} after {after:?} limit {limit}"
        );
    }
}

async fn the_limits_hold_and_what_fits_is_kept(make: Make) {
    let Subject { store, .. } = &subject(make);
    let many = |count: usize| (0..count).fold(Txn::new(), |txn, number| txn.put(format!("{number}"), "x"));
    let large = |count: usize| {
        (0..count).fold(Txn::new(), |txn, number| {
            txn.put(format!("{number}"), std::vec![7; MAX_VALUE - 1])
        })
    };
    let refused = [
        ("empty key", Txn::new().put("", "x")),
        ("long key", Txn::new().put(std::vec![b'k'; MAX_KEY + 1], "x")),
        (
            "long key in a condition",
            Txn::new().expect_absent(std::vec![b'k'; MAX_KEY + 1]),
        ),
        ("long value", Txn::new().put("k", std::vec![0; MAX_VALUE + 1])),
        ("two changes of a key", Txn::new().put("k", "1").delete("k")),
        (
            "two conditions on a key",
            Txn::new().expect_absent("k").expect_present("k"),
        ),
        ("many operations", many(MAX_OPERATIONS + 1)),
        ("many bytes", large(MAX_TXN / MAX_VALUE + 1)),
    ];
    for (what, txn) in refused {
        let error = store.commit(txn).await.unwrap_err();
        assert!(matches!(error, StoreError::Invalid { .. }), "{what}: {error}");
    }
    assert_eq!(store.revision(), 0);
    let (key, value) = (std::vec![0xff; MAX_KEY], Bytes::from(std::vec![3; MAX_VALUE]));
    store.commit(Txn::new().put(key.clone(), value.clone())).await.unwrap();
    assert_eq!(store.get(&key).await.unwrap().unwrap().value, value);
    store.commit(many(MAX_OPERATIONS)).await.unwrap();
    store.commit(large(MAX_TXN / MAX_VALUE)).await.unwrap();
    let (_, pairs) = store.range(b"", None, usize::MAX).await.unwrap();
    assert_eq!(pairs.len(), 1 + MAX_OPERATIONS);
    assert_eq!(store.get(b"0").await.unwrap().unwrap().value.len(), MAX_VALUE - 1);
}

async fn handles_that_race_for_a_key_win_one_at_a_time(make: Make) {
    let Subject { store, .. } = &subject(make);
    let count = |store: Store| async move {
        let mut wins = 0;
        while wins < 50 {
            let old = store.get(b"counter").await.unwrap();
            let txn = match &old {
                None => Txn::new().expect_absent("counter").put("counter", "1"),
                Some(pair) => {
                    let next = std::str::from_utf8(&pair.value).unwrap().parse::<u64>().unwrap() + 1;
                    Txn::new()
                        .expect_revision("counter", pair.modified)
                        .put("counter", next.to_string())
                }
            };
            match store.commit(txn).await {
                Ok(_) => wins += 1,
                Err(StoreError::Conflict { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
    };
    futures::future::join_all((0..4).map(|_| tokio::spawn(count(store.clone())))).await;
    assert_eq!(store.get(b"counter").await.unwrap().unwrap().value, "200");
    assert_eq!(store.revision(), 200);
}

/// Starts `writers` tasks that put and delete under `w/<writer>/` and `shared/`, `rounds` times each.
fn write_much(store: &Store, writers: usize, rounds: usize) -> Vec<tokio::task::JoinHandle<()>> {
    let write = |store: Store, writer: usize| async move {
        for round in 0..rounds {
            let txn = Txn::new()
                .put(format!("w/{writer}/{}", round % 17), format!("{round}"))
                .put(format!("shared/{}", round % 5), format!("{writer}.{round}"));
            let txn = if round % 3 == 0 {
                txn.delete(format!("w/{writer}/{}", (round + 5) % 17))
            } else {
                txn
            };
            store.commit(txn).await.unwrap();
        }
    };
    (0..writers)
        .map(|writer| tokio::spawn(write(store.clone(), writer)))
        .collect()
}

async fn a_watch_delivers_every_revision_in_order_while_many_write(make: Make) {
    let Subject { store, .. } = &subject(make);
    let (mut all, mut some) = (store.watch(b"", 0), store.watch(b"w/1/", 0));
    let writers = write_much(store, 4, 50);
    let (mut state, mut of_one) = (BTreeMap::new(), BTreeMap::new());
    for expected in 1..=200 {
        let batch = all.next().await.unwrap();
        assert_eq!(batch.revision, expected);
        assert!(batch.events.iter().all(|event| event.revision == expected));
        assert!(batch.events.is_sorted_by_key(|event| event.key.clone()));
        assert!(batch.events.len() >= 2);
        fold(&mut state, batch.events);
    }
    let mut last = 0;
    while some.position() < 200 {
        let batch = some.next().await.unwrap();
        assert!(batch.revision > last);
        assert!(batch.events.iter().all(|event| event.key.starts_with(b"w/1/")));
        last = batch.revision;
        fold(&mut of_one, batch.events);
    }
    futures::future::join_all(writers).await;
    let (revision, pairs) = store.range(b"", None, 1000).await.unwrap();
    assert_eq!(revision, 200);
    assert_eq!(pairs, state.into_values().collect::<Vec<_>>());
    let (_, pairs) = store.range(b"w/1/", None, 1000).await.unwrap();
    assert_eq!(pairs, of_one.into_values().collect::<Vec<_>>());
    // A watch that starts later gets the same from there.
    let mut late = store.watch(b"", 150);
    for expected in 151..=200 {
        assert_eq!(late.next().await.unwrap().revision, expected);
    }
}

fn fold(state: &mut BTreeMap<Bytes, super::KeyValue>, events: Vec<super::Event>) {
    for event in events {
        match event.change {
            Change::Put(pair) => state.insert(event.key, pair),
            Change::Delete => state.remove(&event.key),
        };
    }
}

async fn a_watch_of_a_prefix_says_how_far_it_is(make: Make) {
    let Subject { store, .. } = &subject(make);
    let mut watch = store.watch(b"a/", 0);
    store.commit(Txn::new().put("b/1", "x")).await.unwrap();
    let batch = watch.next().await.unwrap();
    assert_eq!((batch.revision, batch.events.len()), (1, 0));
    store.commit(Txn::new().put("a/1", "x")).await.unwrap();
    store.commit(Txn::new().put("b/1", "y")).await.unwrap();
    let batch = watch.next().await.unwrap();
    assert_eq!((batch.revision, batch.events.len()), (2, 1));
    let batch = watch.next().await.unwrap();
    assert_eq!((batch.revision, batch.events.len()), (3, 0));
    assert!(futures::FutureExt::now_or_never(watch.next()).is_none());
}

async fn a_watch_that_is_too_far_behind_has_to_list_again(make: Make) {
    let Subject { store, .. } = &make(Retention {
        events: 20,
        bytes: usize::MAX,
    });
    let mut feed = store.snapshot_then_watch(b"");
    while !matches!(feed.next().await.unwrap(), super::Step::Listed(_)) {}
    let (mut slow, mut quick) = (store.watch(b"", 0), store.watch(b"", 0));
    for number in 1..=100 {
        store
            .commit(Txn::new().put(format!("{}", number % 7), "x"))
            .await
            .unwrap();
        assert_eq!(quick.next().await.unwrap().revision, number);
    }
    let error = slow.next().await.unwrap_err();
    assert!(
        matches!(error, StoreError::Compacted { from: 0, oldest: 80 }),
        "{error}"
    );
    let error = store.watch(b"", 79).next().await.unwrap_err();
    assert!(matches!(error, StoreError::Compacted { from: 79, .. }), "{error}");
    assert_eq!(store.watch(b"", 80).next().await.unwrap().revision, 81);
    assert_eq!(feed.next().await.unwrap(), super::Step::Restart);
    let super::Step::Pairs(pairs) = feed.next().await.unwrap() else {
        panic!("a listing follows")
    };
    assert_eq!(pairs.len(), 7);
    assert_eq!(feed.next().await.unwrap(), super::Step::Listed(100));
}

async fn a_listing_joined_to_a_watch_is_exact_while_many_write(make: Make) {
    // A short history, so that listing falls behind now and then.
    let Subject { store, .. } = &make(Retention {
        events: 200,
        bytes: usize::MAX,
    });
    for number in 0..5 {
        let txn = (0..700).fold(Txn::new(), |txn, key| txn.put(format!("old/{number}/{key}"), "x"));
        store.commit(txn).await.unwrap();
    }
    let writers = write_much(store, 4, 100);
    let mut feeds: Vec<_> = (0..4)
        .map(|_| (store.snapshot_then_watch(b""), BTreeMap::new(), false))
        .collect();
    for (feed, state, listed) in &mut feeds {
        while !*listed || feed.position() < 405 {
            match feed.next().await.unwrap() {
                super::Step::Restart => {
                    state.clear();
                    *listed = false;
                }
                super::Step::Pairs(pairs) => state.extend(pairs.into_iter().map(|pair| (pair.key.clone(), pair))),
                super::Step::Changes(batch) => fold(state, batch.events),
                super::Step::Listed(_) => *listed = true,
            }
        }
    }
    futures::future::join_all(writers).await;
    let (revision, pairs) = store.range(b"", None, usize::MAX).await.unwrap();
    assert_eq!(revision, 405);
    for (_, state, _) in feeds {
        assert_eq!(state.into_values().collect::<Vec<_>>(), pairs);
    }
}

async fn a_closed_store_says_so_and_its_watches_end_after_the_last_event(make: Make) {
    let Subject { store, .. } = &subject(make);
    let mut watch = store.watch(b"", 0);
    let writers = write_much(store, 2, 10);
    futures::future::join_all(writers).await;
    store.close().await;
    let mut seen = BTreeSet::new();
    let error = loop {
        match watch.next().await {
            Ok(batch) => seen.insert(batch.revision),
            Err(error) => break error,
        };
    };
    assert!(matches!(error, StoreError::Closed), "{error}");
    assert_eq!(seen.len(), 20);
    assert!(matches!(
        store.commit(Txn::new().put("a", "1")).await,
        Err(StoreError::Closed)
    ));
    assert!(matches!(store.get(b"a").await, Err(StoreError::Closed)));
    assert!(matches!(store.range(b"", None, 1000).await, Err(StoreError::Closed)));
    store.close().await;
}

async fn a_backup_holds_one_revision_while_many_write(make: Make) {
    let Subject { store, .. } = &subject(make);
    let directory = tempfile::tempdir().unwrap();
    for number in 0..5 {
        let txn = (0..700).fold(Txn::new(), |txn, key| txn.put(format!("old/{number}/{key}"), "x"));
        store.commit(txn).await.unwrap();
    }
    let mut watch = store.watch(b"", store.revision());
    let (_, pairs) = store.range(b"", None, usize::MAX).await.unwrap();
    let mut state: BTreeMap<_, _> = pairs.into_iter().map(|pair| (pair.key.clone(), pair)).collect();
    let writers = write_much(store, 4, 50);
    let file = directory.path().join("backup");
    let revision = store.backup(&file).await.unwrap();
    while watch.position() < revision {
        fold(&mut state, watch.next().await.unwrap().events);
    }
    futures::future::join_all(writers).await;
    assert!(
        matches!(store.backup(&file).await, Err(StoreError::Io { .. })),
        "a backup is never written over"
    );

    let restored = directory.path().join("restored");
    let report = super::restore(&file, &restored).unwrap();
    assert_eq!((report.revision, report.keys), (revision, state.len() as u64));
    let error = super::restore(&file, &restored).unwrap_err();
    assert!(matches!(error, StoreError::NotEmpty { .. }), "{error}");
    let engine = Local::open(
        &restored,
        Settings::default(),
        Retention::default(),
        StoreMetrics::unread(),
    )
    .unwrap();
    assert_eq!(engine.report().unwrap().rebuilt, None);
    let (at, pairs) = engine.range(b"", None, usize::MAX).await.unwrap();
    assert_eq!((at, pairs), (revision, state.into_values().collect::<Vec<_>>()));
    assert_eq!(engine.commit(Txn::new().put("more", "x")).await.unwrap(), revision + 1);
    engine.close().await;
}
