//! Computed entries: the nodes' like any other, in no store, changed by nobody but who computes them.

use super::*;

impl World {
    fn computed_entry(&self, path: &str, subject: &str, rule: &str) -> ComputedEntry {
        let message = self.message(path, "/node/a", &[&format!("k8s:pod-uid:{subject}")]);
        let entry = Entry::from_message(message, &self.trust_domain).unwrap();
        ComputedEntry::new(entry, subject, rule)
    }

    fn set(&self, subject: &str, paths: &[&str]) -> bool {
        let entries = paths.iter().enumerate().map(|(number, path)| {
            let rule = format!("rule-{number}");
            self.computed_entry(path, subject, &rule)
        });
        self.registry.set_computed(subject, entries.collect())
    }
}

fn some(ids: &[&str]) -> Dirty {
    Dirty::Some(ids.iter().map(|id| Arc::from(*id)).collect())
}

#[tokio::test]
async fn a_computed_entry_is_its_nodes_from_when_it_is_set_until_it_is_removed() {
    let world = World::new().await;
    assert!(world.set("pod-1", &["/one", "/two"]));
    assert!(world.set("pod-2", &["/three"]));
    assert_eq!(world.authorized("/node/a", &[]), ["/one", "/three", "/two"]);
    assert_eq!(world.authorized("/node/b", &[]), Vec::<String>::new());
    assert_eq!(world.registry.computed("pod-1").len(), 2);
    assert!(!world.set("pod-1", &["/one", "/two"]), "nothing changes");
    assert!(world.set("pod-1", &["/one"]));
    assert_eq!(world.authorized("/node/a", &[]), ["/one", "/three"]);
    assert!(world.registry.remove_computed("pod-1"));
    assert!(!world.registry.remove_computed("pod-1"));
    assert_eq!(world.authorized("/node/a", &[]), ["/three"]);
    let subjects = world.registry.computed_subjects();
    assert_eq!(subjects.iter().map(|one| &**one).collect::<Vec<_>>(), ["pod-2"]);
}

#[tokio::test]
async fn what_changes_is_pushed_to_the_node_and_nothing_else_is() {
    let world = World::new().await;
    let mut feed = world.follow("/node/a", &[]);
    let mut other = world.follow("/node/b", &[]);
    assert_eq!(
        (news(&mut feed).await, news(&mut other).await),
        (Dirty::All, Dirty::All)
    );
    world.set("pod-1", &["/one", "/two"]);
    assert_eq!(news(&mut feed).await, some(&["k8s:pod-1:rule-0", "k8s:pod-1:rule-1"]));
    world.set("pod-1", &["/one", "/changed"]);
    assert_eq!(news(&mut feed).await, some(&["k8s:pod-1:rule-1"]));
    world.set("pod-1", &["/one", "/changed"]);
    world.registry.remove_computed("pod-1");
    assert_eq!(news(&mut feed).await, some(&["k8s:pod-1:rule-0", "k8s:pod-1:rule-1"]));
    assert_eq!(other.take(), Dirty::Some(HashSet::new()));
}

#[tokio::test]
async fn a_computed_entry_is_listed_and_shown_and_never_changed_or_deleted() {
    let world = World::new().await;
    world.set("pod-1", &["/one"]);
    let stored = world.create_one("/stored", "/node/a", &["unix:uid:1"]).await.unwrap();
    let id = "k8s:pod-1:rule-0";
    let (listed, next) = world.registry.list(&Filter::default(), None, 10);
    let mut ids: Vec<_> = listed.iter().map(|entry| &*entry.id).collect();
    ids.sort_unstable();
    let mut wanted = [&*stored.id, id];
    wanted.sort_unstable();
    assert_eq!((ids.as_slice(), next), (wanted.as_slice(), None));
    assert_eq!(world.registry.get(id).unwrap().spiffe_id.path(), "/one");
    let change = |entry: types::Entry| types::Entry {
        hint: "changed".into(),
        ..entry
    };
    let both = vec![(id.to_owned(), change), (stored.id.to_string(), change)];
    let updated = world.registry.update(both).await.unwrap();
    assert!(matches!(&updated[0], Err(EntryError::Computed(found)) if **found == *id));
    assert!(updated[1].is_ok());
    let deleted = world
        .registry
        .delete(&[id.to_owned(), stored.id.to_string()])
        .await
        .unwrap();
    assert!(matches!(&deleted[0], Err(EntryError::Computed(_))));
    assert!(deleted[1].is_ok());
    assert_eq!(world.registry.get(id).unwrap().hint, "".into());
    assert_eq!(
        deleted[0].as_ref().unwrap_err().to_string(),
        "entry k8s:pod-1:rule-0 is computed from a rule of its cluster and cannot be changed here: change the rule"
    );
}

#[tokio::test]
async fn no_entry_of_the_store_can_have_the_id_of_a_computed_one() {
    let world = World::new().await;
    let mut message = world.message("/one", "/node/a", &["unix:uid:1"]);
    message.id = "k8s:pod-1:rule-0".into();
    let error = world.create_message(message).await.unwrap_err();
    assert!(matches!(error, EntryError::Invalid(_)), "{error}");
    // What a computed entry stands for is there: it is not registered a second time.
    world.set("pod-1", &["/one"]);
    let twin = world
        .create_one("/one", "/node/a", &["k8s:pod-uid:pod-1"])
        .await
        .unwrap_err();
    assert!(matches!(twin, EntryError::Similar(found) if &*found.id == "k8s:pod-1:rule-0"));
}

#[tokio::test]
async fn computed_entries_are_in_no_store_and_outlive_a_new_listing_of_it() {
    let store = Store::memory();
    let world = World::on(store.clone()).await;
    world.set("pod-1", &["/one"]);
    world.create_one("/stored", "/node/a", &["unix:uid:1"]).await.unwrap();
    let second = World::on(store).await;
    assert_eq!(second.authorized("/node/a", &[]), ["/stored"]);
    assert_eq!(second.registry.len(), 1);
    // As the follower does when the store has lost its place.
    world.registry.0.memory.write(|memory| {
        let mut fresh = memory.fresh();
        fresh.index.put(
            Entry::from_message(
                world.message("/relisted", "/node/a", &["unix:uid:2"]),
                &world.trust_domain,
            )
            .unwrap(),
        );
        *memory = fresh;
        memory.listed();
    });
    assert_eq!(world.authorized("/node/a", &[]), ["/one", "/relisted"]);
    world.set("pod-1", &["/two"]);
    assert_eq!(world.authorized("/node/a", &[]), ["/relisted", "/two"]);
}

#[tokio::test]
async fn a_computed_entry_can_be_the_parent_of_others() {
    let world = World::new().await;
    world.set("pod-1", &["/one"]);
    world.create_one("/below", "/one", &["unix:uid:1"]).await.unwrap();
    assert_eq!(world.authorized("/node/a", &[]), ["/below", "/one"]);
    let mut feed = world.follow("/node/a", &[]);
    assert_eq!(news(&mut feed).await, Dirty::All);
    world.registry.remove_computed("pod-1");
    assert_eq!(news(&mut feed).await, Dirty::All);
    assert_eq!(world.authorized("/node/a", &[]), Vec::<String>::new());
}

proptest! {
    #[test]
    fn a_node_has_exactly_what_was_set_last(steps in proptest::collection::vec((0..4_u8, proptest::collection::vec(0..5_u8, 0..4)), 0..30)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let world = World::new().await;
            let mut wanted = std::collections::BTreeMap::new();
            for (pod, paths) in steps {
                let paths: Vec<String> = paths.iter().map(|path| format!("/p{pod}-{path}")).collect();
                world.set(&format!("pod-{pod}"), &paths.iter().map(|path| &**path).collect::<Vec<_>>());
                wanted.insert(pod, paths);
            }
            let mut wanted: Vec<String> = wanted.into_values().flatten().collect();
            wanted.sort();
            assert_eq!(world.authorized("/node/a", &[]), wanted);
        });
    }
}
