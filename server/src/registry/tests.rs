//! The registry's promises, on a store in memory.

mod computed;

use std::collections::HashSet;
use std::time::Duration;

use mintmark_identity::Selector;
use proptest::prelude::*;

use super::*;

mod writers;

struct World {
    registry: Registry,
    clock: Clock,
    trust_domain: TrustDomain,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for World {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl World {
    async fn new() -> Self {
        Self::on(Store::memory()).await
    }

    async fn on(store: Store) -> Self {
        let clock = Clock::manual(1_800_000_000);
        let trust_domain = TrustDomain::parse("example.org").unwrap();
        let (registry, task) = Registry::new(store, clock.clone(), trust_domain.clone());
        let task = tokio::spawn(task.run());
        registry.ready().await.unwrap();
        Self {
            registry,
            clock,
            trust_domain,
            task,
        }
    }

    fn id(&self, path: &str) -> SpiffeId {
        SpiffeId::new(&self.trust_domain, path).unwrap()
    }

    fn message(&self, path: &str, parent: &str, selectors: &[&str]) -> types::Entry {
        let selector = |text: &&str| entry::selector_message(&Selector::parse(text).unwrap());
        types::Entry {
            spiffe_id: Some(entry::id_message(&self.id(path))),
            parent_id: Some(entry::id_message(&self.id(parent))),
            selectors: selectors.iter().map(selector).collect(),
            ..Default::default()
        }
    }

    async fn create_one(&self, path: &str, parent: &str, selectors: &[&str]) -> Result<Arc<Entry>, EntryError> {
        self.create_message(self.message(path, parent, selectors)).await
    }

    async fn create_message(&self, message: types::Entry) -> Result<Arc<Entry>, EntryError> {
        let entry = Entry::from_message(message, &self.trust_domain);
        self.registry.create(vec![entry]).await.unwrap().pop().unwrap()
    }

    fn authorized(&self, node: &str, selectors: &[&str]) -> Vec<String> {
        let selectors = selectors.iter().map(|text| Selector::parse(text).unwrap()).collect();
        let entries = self.registry.authorized(&self.id(node), &selectors);
        let mut paths: Vec<_> = entries.iter().map(|entry| entry.spiffe_id.path().to_owned()).collect();
        paths.sort();
        paths
    }

    fn follow(&self, node: &str, selectors: &[&str]) -> NodeFeed {
        let selectors = selectors.iter().map(|text| Selector::parse(text).unwrap()).collect();
        self.registry.subscribe(&self.id(node), &selectors)
    }
}

/// Waits for the news, but not for ever.
async fn news(feed: &mut NodeFeed) -> Dirty {
    tokio::time::timeout(Duration::from_secs(10), feed.changed())
        .await
        .expect("news within ten seconds");
    feed.take()
}

#[tokio::test]
async fn a_node_gets_its_children_their_children_and_those_of_its_aliases() {
    let world = World::new().await;
    for (path, parent, selector) in [
        ("/own", "/node/a", "unix:uid:1"),
        ("/below-own", "/own", "unix:uid:2"),
        ("/group", "/spire/server", "k8s_psat:cluster:x"),
        ("/of-group", "/group", "unix:uid:3"),
        ("/other", "/node/b", "unix:uid:4"),
        ("/unmatched-group", "/spire/server", "k8s_psat:cluster:y"),
        ("/of-unmatched", "/unmatched-group", "unix:uid:5"),
    ] {
        world.create_one(path, parent, &[selector]).await.unwrap();
    }
    assert_eq!(
        world.authorized("/node/a", &["k8s_psat:cluster:x"]),
        ["/below-own", "/of-group", "/own"]
    );
    assert_eq!(world.authorized("/node/a", &[]), ["/below-own", "/own"]);
    assert_eq!(world.authorized("/node/c", &[]), Vec::<String>::new());
}

#[tokio::test]
async fn an_alias_wants_all_of_its_selectors() {
    let world = World::new().await;
    world
        .create_one("/group", "/spire/server", &["n:a:1", "n:b:2"])
        .await
        .unwrap();
    world.create_one("/w", "/group", &["unix:uid:1"]).await.unwrap();
    assert_eq!(world.authorized("/node/a", &["n:a:1"]), Vec::<String>::new());
    assert_eq!(world.authorized("/node/a", &["n:b:2"]), Vec::<String>::new());
    assert_eq!(world.authorized("/node/a", &["n:a:1", "n:b:2", "n:c:3"]), ["/w"]);
}

#[tokio::test]
async fn entries_that_are_parents_of_each_other_do_not_go_in_circles() {
    let world = World::new().await;
    world.create_one("/x", "/y", &["unix:uid:1"]).await.unwrap();
    world.create_one("/y", "/x", &["unix:uid:1"]).await.unwrap();
    world.create_one("/x", "/node/a", &["unix:uid:2"]).await.unwrap();
    assert_eq!(world.authorized("/node/a", &[]), ["/x", "/x", "/y"]);
}

#[tokio::test]
async fn a_change_reaches_those_whom_it_concerns_and_nobody_else() {
    let world = World::new().await;
    let (mut a, mut b) = (world.follow("/node/a", &[]), world.follow("/node/b", &[]));
    assert_eq!(news(&mut a).await, Dirty::All);
    assert_eq!(news(&mut b).await, Dirty::All);
    let entry = world.create_one("/w", "/node/a", &["unix:uid:1"]).await.unwrap();
    assert_eq!(news(&mut a).await, Dirty::Some([entry.id.clone()].into()));
    world.registry.delete(&[entry.id.to_string()]).await.unwrap();
    assert_eq!(news(&mut a).await, Dirty::Some([entry.id.clone()].into()));
    assert_eq!(b.take(), Dirty::Some([].into()));
}

#[tokio::test]
async fn a_new_alias_or_a_first_child_moves_the_reach() {
    let world = World::new().await;
    let mut feed = world.follow("/node/a", &["n:a:1"]);
    news(&mut feed).await;
    world.create_one("/group", "/spire/server", &["n:a:1"]).await.unwrap();
    assert_eq!(news(&mut feed).await, Dirty::All);
    let in_group = world.create_one("/w", "/group", &["unix:uid:1"]).await.unwrap();
    assert_eq!(news(&mut feed).await, Dirty::Some([in_group.id.clone()].into()));
    world.create_one("/below", "/w", &["unix:uid:2"]).await.unwrap();
    assert_eq!(news(&mut feed).await, Dirty::All);
    let second = world.create_one("/below-too", "/w", &["unix:uid:3"]).await.unwrap();
    assert_eq!(news(&mut feed).await, Dirty::Some([second.id.clone()].into()));
}

#[tokio::test]
async fn the_same_identity_is_not_created_twice_not_even_within_one_batch() {
    let world = World::new().await;
    let message = world.message("/w", "/node/a", &["unix:uid:1", "unix:gid:2"]);
    let mut twisted = message.clone();
    twisted.selectors.reverse();
    let parse = |message: &types::Entry| Entry::from_message(message.clone(), &world.trust_domain);
    let batch = world
        .registry
        .create(vec![parse(&message), parse(&twisted)])
        .await
        .unwrap();
    assert!(batch[0].is_ok());
    assert!(matches!(&batch[1], Err(EntryError::Similar(twin)) if twin.id == batch[0].as_ref().unwrap().id));
    assert!(matches!(
        world.create_message(twisted).await,
        Err(EntryError::Similar(_))
    ));
    assert_eq!(world.registry.len(), 1);
}

#[tokio::test]
async fn two_servers_on_one_store_do_not_create_the_same_identity_either() {
    let store = Store::memory();
    let (one, two) = (World::on(store.clone()).await, World::on(store).await);
    for n in 0..20 {
        let path = format!("/w{n}");
        let (a, b) = tokio::join!(
            one.create_one(&path, "/node/a", &["unix:uid:1"]),
            two.create_one(&path, "/node/a", &["unix:uid:1"])
        );
        assert!(a.is_ok() != b.is_ok(), "{a:?} {b:?}");
    }
    assert_eq!(one.registry.count(&Filter::default()), 20);
}

#[tokio::test]
async fn an_update_raises_the_revision_and_keeps_what_it_does_not_change() {
    let world = World::new().await;
    let entry = world.create_one("/w", "/node/a", &["unix:uid:1"]).await.unwrap();
    let with_hint = |mut message: types::Entry| {
        message.hint = "internal".into();
        message
    };
    let updated = world
        .registry
        .update(vec![(entry.id.to_string(), with_hint)])
        .await
        .unwrap()
        .pop()
        .unwrap()
        .unwrap();
    assert_eq!(
        (updated.revision, &*updated.hint, updated.created_at),
        (1, "internal", entry.created_at)
    );
    assert_eq!(world.registry.get(&entry.id).unwrap(), updated);
    let missing = world
        .registry
        .update(vec![("nobody".into(), with_hint)])
        .await
        .unwrap()
        .pop()
        .unwrap();
    assert!(matches!(missing, Err(EntryError::NotFound(_))));
}

#[tokio::test]
async fn an_entry_whose_time_is_over_is_nobodys_and_is_removed() {
    let world = World::new().await;
    let mut message = world.message("/w", "/node/a", &["unix:uid:1"]);
    message.expires_at = 1_800_000_010;
    let mut feed = world.follow("/node/a", &[]);
    news(&mut feed).await;
    world.create_message(message).await.unwrap();
    news(&mut feed).await;
    assert_eq!(world.authorized("/node/a", &[]), ["/w"]);
    world.clock.advance(Duration::from_secs(10));
    assert_eq!(world.authorized("/node/a", &[]), Vec::<String>::new());
    news(&mut feed).await;
    assert!(world.registry.is_empty());
}

#[tokio::test]
async fn bad_entries_are_named_for_what_is_wrong_with_them() {
    let world = World::new().await;
    let good = world.message("/w", "/node/a", &["unix:uid:1"]);
    let with = |change: &dyn Fn(&mut types::Entry)| {
        let mut message = good.clone();
        change(&mut message);
        Entry::from_message(message, &world.trust_domain).unwrap_err().field
    };
    assert_eq!(with(&|m| m.spiffe_id = None), "spiffe_id");
    assert_eq!(
        with(&|m| m.spiffe_id.as_mut().unwrap().path = String::new()),
        "spiffe_id"
    );
    assert_eq!(
        with(&|m| m.spiffe_id.as_mut().unwrap().trust_domain = "other.org".into()),
        "spiffe_id"
    );
    assert_eq!(
        with(&|m| m.parent_id.as_mut().unwrap().path = "/a/../b".into()),
        "parent_id"
    );
    assert_eq!(with(&|m| m.selectors.clear()), "selectors");
    assert_eq!(
        with(&|m| m.selectors = vec![m.selectors[0].clone(); 10_000]),
        "selectors"
    );
    assert_eq!(with(&|m| m.selectors[0].r#type = "a:b".into()), "selectors");
    assert_eq!(with(&|m| m.x509_svid_ttl = -1), "x509_svid_ttl");
    assert_eq!(with(&|m| m.jwt_svid_ttl = i32::MAX), "jwt_svid_ttl");
    assert_eq!(with(&|m| m.expires_at = -5), "expires_at");
    assert_eq!(with(&|m| m.dns_names = vec!["no spaces".into()]), "dns_names");
    // What could not be issued is not registered.
    for names in [["-a.b", "c"], ["A.org", "c"], ["a_b", "c"], ["*.a.org", "b.a.org"]] {
        assert_eq!(
            with(&|m| m.dns_names = names.map(Into::into).into()),
            "dns_names",
            "{names:?}"
        );
    }
    assert_eq!(with(&|m| m.hint = "h".repeat(1025)), "hint");
    assert_eq!(with(&|m| m.id = "slash/".into()), "id");
    assert_eq!(
        with(&|m| m.federates_with = vec!["example.org".into()]),
        "federates_with"
    );
}

#[tokio::test]
async fn pages_follow_each_other_without_a_gap() {
    let world = World::new().await;
    for n in 0..25 {
        world
            .create_one(
                &format!("/w{n}"),
                if n % 2 == 0 { "/node/a" } else { "/node/b" },
                &["unix:uid:1"],
            )
            .await
            .unwrap();
    }
    for (filter, expected) in [
        (Filter::default(), 25),
        (
            Filter {
                parent_id: Some(world.id("/node/a")),
                ..Filter::default()
            },
            13,
        ),
    ] {
        let (mut seen, mut after) = (std::collections::BTreeSet::new(), None::<Arc<str>>);
        loop {
            let (page, next) = world.registry.list(&filter, after.as_deref(), 4);
            assert!(page.len() <= 4);
            seen.extend(page.iter().map(|entry| entry.id.clone()));
            after = next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(seen.len(), expected);
    }
}

#[derive(Debug, Clone)]
enum Step {
    Put {
        id: usize,
        path: usize,
        parent: usize,
        selector: usize,
    },
    Remove {
        id: usize,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let put = (0..12usize, 0..6usize, 0..8usize, 0..3usize).prop_map(|(id, path, parent, selector)| Step::Put {
        id,
        path,
        parent,
        selector,
    });
    let step = prop_oneof![4 => put, 1 => (0..12usize).prop_map(|id| Step::Remove { id })];
    proptest::collection::vec(step, 1..60)
}

proptest! {
    /// Whatever comes and goes, in whichever order: the index gives what a scan of all entries would, and everybody whose entries changed was told.
    #[test]
    fn the_index_agrees_with_a_scan_and_the_feeds_miss_nothing(steps in steps()) {
        let td = TrustDomain::parse("example.org").unwrap();
        let server = SpiffeId::server(&td);
        let id = |n: usize| match n {
            0 => server.clone(),
            1 => SpiffeId::new(&td, "/node").unwrap(),
            n => SpiffeId::new(&td, &format!("/p{n}")).unwrap(),
        };
        let node = id(1);
        let own: Selectors = [Selector::parse("n:0").unwrap(), Selector::parse("n:1").unwrap()].into_iter().collect();
        let mut index = Index::new(server.clone());
        let mut plain: std::collections::BTreeMap<String, Arc<Entry>> = Default::default();
        let feeds = Feeds::default();
        let mut feed = feeds.add(node.clone(), own.clone(), index.reach(&node, &own, feed::ALL));
        feed.take();
        let mut known = scan(&plain, &server, &node, &own);
        for step in steps {
            let (key, effect) = match step {
                Step::Put { id: n, path, parent, selector } => {
                    let message = types::Entry {
                        id: format!("e{n}"),
                        spiffe_id: Some(entry::id_message(&id(path + 2))),
                        parent_id: Some(entry::id_message(&id(parent))),
                        selectors: vec![types::Selector { r#type: "n".into(), value: selector.to_string() }],
                        ..Default::default()
                    };
                    let (entry, effect) = index.put(Entry::from_message(message, &td).unwrap());
                    plain.insert(format!("e{n}"), entry.clone());
                    (entry.id.clone(), effect)
                }
                Step::Remove { id: n } => {
                    plain.remove(&format!("e{n}"));
                    (format!("e{n}").into(), index.remove(&format!("e{n}")))
                }
            };
            feeds.publish(&key, &effect, &index);
            let reach = index.reach(&node, &own, feed::ALL);
            let by_index: std::collections::BTreeMap<_, _> = index.within(&reach).map(|e| (e.id.to_string(), e.clone())).collect();
            let by_scan = scan(&plain, &server, &node, &own);
            prop_assert_eq!(&by_index, &by_scan);
            match feed.take() {
                Dirty::All => {}
                Dirty::Some(told) => {
                    let ids = by_scan.keys().chain(known.keys());
                    for id in ids.filter(|id| by_scan.get(*id) != known.get(*id)) {
                        prop_assert!(told.contains(id.as_str()), "nobody was told of {}", id);
                    }
                }
            }
            known = by_scan;
        }
    }
}

/// What is a node's, found the slow way.
fn scan(
    entries: &std::collections::BTreeMap<String, Arc<Entry>>,
    server: &SpiffeId,
    node: &SpiffeId,
    selectors: &Selectors,
) -> std::collections::BTreeMap<String, Arc<Entry>> {
    let aliases = entries
        .values()
        .filter(|e| e.parent_id == *server && e.selectors.is_subset(selectors));
    let mut reach: HashSet<SpiffeId> = aliases.map(|e| e.spiffe_id.clone()).chain([node.clone()]).collect();
    loop {
        let more: Vec<_> = entries
            .values()
            .filter(|e| reach.contains(&e.parent_id))
            .map(|e| e.spiffe_id.clone())
            .collect();
        let before = reach.len();
        reach.extend(more);
        if reach.len() == before {
            break;
        }
    }
    entries
        .iter()
        .filter(|(_, e)| reach.contains(&e.parent_id))
        .map(|(id, e)| (id.clone(), e.clone()))
        .collect()
}
