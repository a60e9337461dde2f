//! Writers that meet: within one batch, with the clock, and with another server on the same store.

use super::*;

fn hint(hint: &str) -> impl Fn(types::Entry) -> types::Entry {
    move |entry| types::Entry {
        hint: hint.into(),
        ..entry
    }
}

#[tokio::test]
async fn an_entry_that_a_batch_names_twice_is_changed_twice_and_deleted_once() {
    let world = World::new().await;
    let entry = world.create_one("/w", "/node/a", &["unix:uid:1"]).await.unwrap();
    let other = world.create_one("/v", "/node/a", &["unix:uid:1"]).await.unwrap();
    let id = entry.id.to_string();
    let moved = |path: &'static str| {
        let id = world.id(path);
        move |entry: types::Entry| types::Entry {
            spiffe_id: Some(entry::id_message(&id)),
            ..entry
        }
    };
    type Change = Box<dyn Fn(types::Entry) -> types::Entry>;
    let changes: Vec<(String, Change)> = vec![
        (id.clone(), Box::new(moved("/x"))),
        (id.clone(), Box::new(hint("second"))),
        (id.clone(), Box::new(moved("/y"))),
        // What it was called in between is free again.
        (other.id.to_string(), Box::new(moved("/x"))),
    ];
    let batch = world.registry.update(changes).await.unwrap();
    let revisions: Vec<_> = batch.iter().map(|entry| entry.as_ref().unwrap().revision).collect();
    assert_eq!(revisions, [1, 2, 3, 1]);
    let now = world.registry.get(&id).unwrap();
    assert_eq!((now.spiffe_id.path(), &*now.hint, now.revision), ("/y", "second", 3));
    assert_eq!(world.authorized("/node/a", &[]), ["/x", "/y"]);

    let answers = world
        .registry
        .delete(&[id.clone(), id.clone(), "none".into()])
        .await
        .unwrap();
    assert!(answers[0].is_ok());
    assert!(matches!(&answers[1], Err(EntryError::NotFound(again)) if *again == id));
    assert!(matches!(answers[2], Err(EntryError::NotFound(_))));
    assert!(world.registry.get(&id).is_none());
}

#[tokio::test]
async fn an_entry_that_is_too_large_harms_none_of_its_batch() {
    let world = World::new().await;
    let mut large = world.message("/large", "/node/a", &["unix:uid:1"]);
    large.selectors = (0..entry::MAX_SELECTORS)
        .map(|n| entry::selector_message(&Selector::new("env", &format!("{n}{}", "x".repeat(4_000))).unwrap()))
        .collect();
    let small = world.message("/small", "/node/a", &["unix:uid:1"]);
    let entries = [large, small].map(|message| Entry::from_message(message, &world.trust_domain));
    let batch = world.registry.create(entries.into()).await.unwrap();
    assert!(matches!(
        &batch[0],
        Err(EntryError::Invalid(InvalidEntry { field: "selectors", .. }))
    ));
    assert!(batch[1].is_ok());

    // Many that are large are too much for one transaction, and are told so before anything is written.
    let large = |n: usize| {
        let mut message = world.message(&format!("/l{n}"), "/node/a", &["unix:uid:1"]);
        message.selectors = (0..60)
            .map(|n| entry::selector_message(&Selector::new("env", &format!("{n}{}", "x".repeat(4_000))).unwrap()))
            .collect();
        Entry::from_message(message, &world.trust_domain)
    };
    let error = world.registry.create((0..50).map(large).collect()).await.unwrap_err();
    assert!(matches!(error, EntryError::TooLarge(_)), "{error}");
    assert_eq!(world.registry.len(), 1);
}

#[tokio::test]
async fn an_entry_that_is_given_more_time_as_it_ends_stays() {
    let world = World::new().await;
    let mut message = world.message("/w", "/node/a", &["unix:uid:1"]);
    message.expires_at = 1_800_000_010;
    let entry = world.create_message(message).await.unwrap();
    let longer = |entry: types::Entry| types::Entry {
        expires_at: 1_900_000_000,
        ..entry
    };
    // The change waits for a writer, and behind it the removal, which was decided on before the change.
    let writer = world.registry.0.writer.lock().await;
    let mut change = Box::pin(world.registry.update(vec![(entry.id.to_string(), longer)]));
    assert!(futures::poll!(change.as_mut()).is_pending());
    world.clock.advance(Duration::from_secs(10));
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    drop(writer);
    change.await.unwrap().pop().unwrap().unwrap();
    // The removal is behind us when another writer has had its turn.
    world.create_one("/v", "/node/a", &["unix:uid:1"]).await.unwrap();
    assert_eq!(world.authorized("/node/a", &[]), ["/v", "/w"]);
}

#[tokio::test]
async fn what_has_ended_leads_nowhere_even_before_it_is_removed() {
    let world = World::new().await;
    for (path, parent) in [("/group", "/spire/server"), ("/between", "/node/a")] {
        let mut message = world.message(path, parent, &["n:a:1"]);
        message.expires_at = 1_800_000_010;
        world.create_message(message).await.unwrap();
    }
    let of_group = world.create_one("/of-group", "/group", &["unix:uid:1"]).await.unwrap();
    world.create_one("/below", "/between", &["unix:uid:1"]).await.unwrap();
    assert_eq!(
        world.authorized("/node/a", &["n:a:1"]),
        ["/below", "/between", "/of-group"]
    );
    // Nothing is removed while a writer is at work.
    let _writer = world.registry.0.writer.lock().await;
    world.clock.advance(Duration::from_secs(10));
    assert_eq!(world.authorized("/node/a", &["n:a:1"]), Vec::<String>::new());
    let selectors = Selectors::parse(["n:a:1"]).unwrap();
    let one = world
        .registry
        .authorized_entries(&world.id("/node/a"), &selectors, [&*of_group.id]);
    assert_eq!(one, [None]);
}

#[tokio::test]
async fn what_another_server_has_deleted_is_not_brought_back_by_a_change() {
    let store = Store::memory();
    let world = World::on(store.clone()).await;
    let entry = world.create_one("/w", "/node/a", &["unix:uid:1"]).await.unwrap();
    let (slow, task) = Registry::new(store, world.clock.clone(), world.trust_domain.clone());
    let mut follow = Box::pin(task.run());
    tokio::select! {
        ready = slow.ready() => ready.unwrap(),
        () = &mut follow => panic!("it follows the store"),
    }
    // The other server's memory stands still while this one deletes.
    world.registry.delete(&[entry.id.to_string()]).await.unwrap();
    let change = slow.update(vec![(entry.id.to_string(), hint("late"))]);
    let batch = tokio::select! {
        biased;
        batch = change => batch.unwrap(),
        () = &mut follow => panic!("it follows the store"),
    };
    assert!(matches!(batch[0], Err(EntryError::NotFound(_))), "{batch:?}");
    assert!(world.registry.is_empty());
}
