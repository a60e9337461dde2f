//! What every engine must do: each function here is run against each engine.

use std::time::Duration;

use bytes::Bytes;

use super::{Change, Expectation, Store, StoreError, Txn};

macro_rules! conformance {
    ($($name:ident),+ $(,)?) => {
        mod memory {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name(super::Store::memory()).await;
            })+
        }
    };
}

conformance![
    a_put_is_read_back_with_its_revisions,
    a_watch_delivers_every_revision_in_order
];

async fn a_put_is_read_back_with_its_revisions(store: Store) {
    assert_eq!(store.revision(), 0);
    assert_eq!(store.commit(Txn::new().put("a", "1").put("b", "1")).await.unwrap(), 1);
    assert_eq!(store.commit(Txn::new().put("a", "2")).await.unwrap(), 2);
    let pair = store.get(b"a").await.unwrap().unwrap();
    assert_eq!((pair.value, pair.created, pair.modified), (Bytes::from("2"), 1, 2));
    let error = store
        .commit(Txn::new().expect_absent("b").put("c", "1"))
        .await
        .unwrap_err();
    assert!(
        matches!(
            error,
            StoreError::Conflict {
                expected: Expectation::Absent,
                found: Some(1),
                ..
            }
        ),
        "{error}"
    );
    let (revision, pairs) = store.range(b"", None, 10).await.unwrap();
    assert_eq!((revision, pairs.len()), (2, 2));
}

async fn a_watch_delivers_every_revision_in_order(store: Store) {
    let mut watch = store.watch(b"a", 0);
    store.commit(Txn::new().put("a1", "1").put("b", "1")).await.unwrap();
    store.commit(Txn::new().delete("a1")).await.unwrap();
    let first = watch.next().await.unwrap();
    assert_eq!((first.revision, first.events.len()), (1, 1));
    let second = tokio::time::timeout(Duration::from_secs(10), watch.next())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        (second.revision, &second.events.first().unwrap().change),
        (2, &Change::Delete)
    );
}
