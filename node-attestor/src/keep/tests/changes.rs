//! Races: entries, bundles and keys that change while somebody holds, wants or fetches what they are for.

use super::*;

/// An entry whose X.509-SVID is not made before anybody asks.
fn lazy(id: &str, hint: &str) -> types::Entry {
    let additional = types::entry::AdditionalAttributes {
        disable_x509_svid_prefetch: true,
        ..Default::default()
    };
    types::Entry {
        additional_attributes: Some(additional),
        hint: hint.into(),
        ..entry(id, &format!("/{id}"), "unix:uid:1")
    }
}

#[tokio::test]
async fn what_only_changes_keeps_its_svid_and_is_still_wanted() {
    let test = Test::new(LIMITS);
    let (old, new) = (lazy("a", "old"), lazy("a", "new"));
    test.apply(vec![old.clone()], &[]);
    let mut demand = test.keep.demand(Kind::X509);
    demand.set([Arc::from("a")]);
    let before = test.until(&["unix:uid:1"], has_svids).await;
    // As after a time without a link: the digest of its old state is gone, and its new state comes.
    test.keep.apply(&Update {
        removed: vec![mintmark_proto::digest::of(&old)],
        upserts: vec![new],
        ..Update::default()
    });
    let view = test.view(&["unix:uid:1"]);
    assert_eq!(&*view.identities[0].hint, "new");
    let generation = |view: &View| view.identities[0].x509.as_ref().map(|svid| svid.generation);
    assert_eq!(generation(&view), generation(&before));
    test.pass(TTL * 3 / 4).await;
    test.until(&["unix:uid:1"], |view| not_after(view) > NOW + TTL).await;
}

#[tokio::test]
async fn who_wants_an_svid_still_does_when_its_entry_was_away_for_a_moment() {
    let test = Test::new(LIMITS);
    let (mut x509, mut wit) = (test.keep.demand(Kind::X509), test.keep.demand(Kind::Wit));
    test.apply(vec![lazy("a", "")], &[]);
    x509.set([Arc::from("a")]);
    wit.set([Arc::from("a")]);
    let has_both = |view: &View| {
        view.identities
            .iter()
            .any(|seen| seen.x509.is_some() && seen.wit.is_some())
    };
    test.until(&["unix:uid:1"], has_both).await;
    // Nobody has looked in between, so that nobody says anew what is wanted.
    test.apply(vec![], &["a"]);
    test.apply(vec![lazy("a", "")], &[]);
    test.until(&["unix:uid:1"], has_both).await;
    test.keep.forget();
    test.apply(vec![lazy("a", "")], &[]);
    test.until(&["unix:uid:1"], has_both).await;
    // What nobody wants any more while it is away is not wanted when it is back.
    test.apply(vec![], &["a"]);
    drop((x509, wit));
    let asked = test.messages().len();
    test.apply(vec![lazy("a", "")], &[]);
    test.pass(2).await;
    assert_eq!(test.messages().len(), asked);
}

#[tokio::test]
async fn an_empty_bundle_of_our_own_is_refused_and_that_of_a_friend_revokes_all_of_it() {
    let test = Test::new(LIMITS);
    let (own, friend) = (Authority::new("example.org"), Authority::new("friend.test"));
    test.bundle(1, &[&own], &[]);
    test.bundle(1, &[&friend], &[]);
    let empty = |authority: &Authority| types::Bundle {
        trust_domain: authority.trust_domain.to_string(),
        sequence_number: 2,
        ..types::Bundle::default()
    };
    let refused = test.keep.apply(&Update {
        bundles: vec![empty(&own), empty(&friend)],
        ..Update::default()
    });
    assert_eq!(refused.len(), 1);
    assert!(
        refused[0].to_string().contains("example.org") && refused[0].to_string().contains("no X.509 authority"),
        "{refused:?}"
    );
    assert_eq!(test.keep.own_bundle().unwrap().x509.len(), 1);
    let mut federated = entry("a", "/a", "unix:uid:1");
    federated.federates_with = vec!["friend.test".into()];
    test.apply(vec![federated], &[]);
    assert!(
        test.view(&["unix:uid:1"])
            .bundle(&friend.trust_domain)
            .unwrap()
            .x509
            .is_empty()
    );
}

#[tokio::test]
async fn a_token_whose_key_was_tainted_while_it_was_on_its_way_is_not_given_again() {
    let test = Test::new(LIMITS);
    let own = test.server.authority.lock().unwrap().clone();
    test.bundle(1, &[&own], &[]);
    test.apply(vec![entry("a", "/a", "unix:uid:1")], &[]);
    let identity = test.view(&["unix:uid:1"]).identities[0].identity.clone();
    let audience = ["x".to_owned()];
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    *test.server.gate.lock().unwrap() = Some(gate.clone());
    let taint = async {
        while test.server.tokens.load(Ordering::Relaxed) == 0 {
            tokio::task::yield_now().await;
        }
        test.bundle(2, &[&own], &[&own]);
        gate.add_permits(1);
    };
    let (first, ()) = tokio::join!(test.keep.jwt(&identity, &audience), taint);
    first.unwrap();
    gate.add_permits(1);
    test.keep.jwt(&identity, &audience).await.unwrap();
    assert_eq!(test.server.tokens.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn a_token_for_very_long_audiences_is_given_and_not_remembered() {
    let test = Test::new(LIMITS);
    test.apply(vec![entry("a", "/a", "unix:uid:1")], &[]);
    let identity = test.view(&["unix:uid:1"]).identities[0].identity.clone();
    let long: Vec<_> = ["x", "y", "z"].map(|name| name.repeat(2000)).into();
    test.keep.jwt(&identity, &long).await.unwrap();
    assert_eq!(test.keep.summary().jwt_svids, 0);
    test.keep.jwt(&identity, &long[..2]).await.unwrap();
    assert_eq!(test.keep.summary().jwt_svids, 1);
}
