//! What survives a restart, and what must not.

use super::*;

#[tokio::test]
async fn a_restart_without_the_server_serves_what_was_sealed() {
    let dir = tempfile::tempdir().unwrap();
    let sealer = Sealer::from_file(&dir.path().join("kek")).unwrap();
    let cache = Cache::new(dir.path().join("cache"), sealer);
    let test = Test::new(LIMITS);
    let node = mintmark_identity::SpiffeId::parse("spiffe://example.org/spire/agent/x/1").unwrap();
    let own = test.server.authority.lock().unwrap().clone();
    test.bundle(1, &[&own], &[]);
    test.apply(vec![entry("a", "/a", "unix:uid:1")], &[]);
    let before = test.until(&["unix:uid:1"], has_svids).await;
    test.keep.save(&cache, &node).unwrap();
    let bytes = std::fs::read(dir.path().join("cache")).unwrap();
    let key = &before.identities[0].x509.as_ref().unwrap().key;
    assert!(
        !bytes
            .windows(32)
            .any(|window| key.windows(32).any(|part| part == window)),
        "the key is not sealed"
    );

    let after = Test::new(LIMITS);
    after.mood(Mood::IsGone);
    assert_eq!(*after.keep.readiness().borrow(), Readiness::Fresh);
    assert_eq!(after.keep.load(&cache, &node).unwrap(), Some(1));
    assert_eq!(*after.keep.readiness().borrow(), Readiness::Cached);
    let view = after.view(&["unix:uid:1"]);
    let (was, is) = (
        before.identities[0].x509.as_ref().unwrap(),
        view.identities[0].x509.as_ref().unwrap(),
    );
    assert_eq!(
        (&was.chain, &was.key, was.not_after),
        (&is.chain, &is.key, is.not_after)
    );
    assert_eq!(after.keep.held(), test.keep.held());
    // It is renewed when it would have been.
    after.mood(Mood::Signs);
    after.pass(TTL * 5 / 8).await;
    after.until(&["unix:uid:1"], |view| not_after(view) > NOW + TTL).await;

    let other = mintmark_identity::SpiffeId::parse("spiffe://example.org/spire/agent/x/2").unwrap();
    assert!(Test::new(LIMITS).keep.load(&cache, &other).is_err());
    let kek = Sealer::from_file(&dir.path().join("another")).unwrap();
    assert!(
        Test::new(LIMITS)
            .keep
            .load(&Cache::new(dir.path().join("cache"), kek), &node)
            .is_err()
    );
    let missing = Cache::new(
        dir.path().join("missing"),
        Sealer::from_file(&dir.path().join("kek")).unwrap(),
    );
    assert_eq!(Test::new(LIMITS).keep.load(&missing, &node).unwrap(), None);
}

#[tokio::test]
async fn what_a_tainted_authority_signed_is_renewed_also_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::new(
        dir.path().join("cache"),
        Sealer::from_file(&dir.path().join("kek")).unwrap(),
    );
    let node = mintmark_identity::SpiffeId::parse("spiffe://example.org/spire/agent/x/1").unwrap();
    let (test, after) = (Test::new(LIMITS), Test::new(LIMITS));
    let (old, new) = (
        test.server.authority.lock().unwrap().clone(),
        after.server.authority.lock().unwrap().clone(),
    );
    test.bundle(1, &[&old, &new], &[]);
    test.apply(vec![entry("a", "/a", "unix:uid:1")], &[]);
    test.until(&["unix:uid:1"], has_svids).await;
    // The run ends before what it holds could be renewed.
    test.mood(Mood::IsGone);
    test.bundle(2, &[&old, &new], &[&old]);
    test.keep.save(&cache, &node).unwrap();
    after.keep.load(&cache, &node).unwrap();
    after
        .until(&["unix:uid:1"], |view| {
            view.identities[0].x509.as_ref().is_some_and(|svid| svid.generation > 1)
        })
        .await;
}

#[tokio::test]
async fn what_a_banned_node_held_is_not_there_for_its_next_run_either() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::new(
        dir.path().join("cache"),
        Sealer::from_file(&dir.path().join("kek")).unwrap(),
    );
    let node = mintmark_identity::SpiffeId::parse("spiffe://example.org/spire/agent/x/1").unwrap();
    let before = Test::new(LIMITS);
    before.apply(vec![entry("a", "/a", "unix:uid:1")], &[]);
    before.until(&["unix:uid:1"], has_svids).await;
    before.keep.save(&cache, &node).unwrap();
    // The next run is told so before it is told anything else.
    let test = Test::new(LIMITS);
    assert_eq!(test.keep.load(&cache, &node).unwrap(), Some(1));
    let id = node.clone();
    let cached = test
        .keep
        .clone()
        .run_cache(cache.clone(), move || Some(id.clone()), test.shutdown.clone());
    tokio::spawn(cached);
    test.pass(1).await;
    test.keep.forget();
    test.pass(5).await;
    assert_eq!(Test::new(LIMITS).keep.load(&cache, &node).unwrap(), Some(0));
}
