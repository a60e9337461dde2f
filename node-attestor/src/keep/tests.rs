#![expect(clippy::disallowed_methods, reason = "a test spawns what it tests beside itself")]

mod changes;
mod restart;

use std::sync::atomic::Ordering;
use std::time::Duration;

use mintmark_identity::Selectors;
use mintmark_proto::attestor::Update;
use mintmark_proto::spire::types;
use tokio_util::sync::CancellationToken;
use tonic::Code;

use super::*;
use crate::testing::{Authority, Mood, NOW, Script, entry};

const TTL: i64 = crate::testing::TTL;
const LIMITS: KeepLimits = KeepLimits {
    prefetch: 1000,
    jwt_cache: 4,
};

struct Test {
    clock: Clock,
    server: Arc<Script>,
    keep: Keep,
    shutdown: CancellationToken,
}

impl Drop for Test {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

impl Test {
    fn new(limits: KeepLimits) -> Self {
        let clock = Clock::manual(NOW);
        let server = Arc::new(Script::new(Authority::new("example.org"), clock.clone()));
        let keep = Keep::new(
            TrustDomain::parse("example.org").unwrap(),
            clock.clone(),
            server.clone(),
            limits,
        );
        let shutdown = CancellationToken::new();
        tokio::spawn(keep.clone().run(shutdown.clone()));
        Self {
            clock,
            server,
            keep,
            shutdown,
        }
    }

    fn mood(&self, mood: Mood) {
        *self.server.mood.lock().unwrap() = mood;
    }

    fn apply(&self, upserts: Vec<types::Entry>, removed_ids: &[&str]) {
        let removed_ids = removed_ids.iter().map(ToString::to_string).collect();
        let refused = self.keep.apply(&Update {
            upserts,
            removed_ids,
            complete: true,
            ..Update::default()
        });
        assert_eq!(refused, []);
    }

    fn bundle(&self, sequence: u64, authorities: &[&Authority], tainted: &[&Authority]) {
        let bundles = vec![Authority::bundle(sequence, authorities, tainted)];
        assert_eq!(
            self.keep.apply(&Update {
                bundles,
                ..Update::default()
            }),
            []
        );
    }

    fn view(&self, selectors: &[&str]) -> View {
        self.keep.view(&Selectors::parse(selectors).unwrap())
    }

    /// Waits until `ready` of the view is true; the clock stands meanwhile.
    async fn until(&self, selectors: &[&str], ready: impl Fn(&View) -> bool) -> View {
        let mut changes = self.keep.changes();
        let wait = async {
            loop {
                let view = self.view(selectors);
                if ready(&view) {
                    return view;
                }
                changes.changed().await.unwrap();
            }
        };
        Clock::system()
            .timeout(Duration::from_secs(20), wait)
            .await
            .expect("what was waited for did not happen")
    }

    /// Moves time in steps in which everything that is due can happen.
    async fn pass(&self, seconds: i64) {
        for _ in 0..seconds {
            self.clock.advance(Duration::from_secs(1));
            for _ in 0..20 {
                tokio::task::yield_now().await;
            }
        }
    }

    fn messages(&self) -> Vec<usize> {
        self.server.messages.lock().unwrap().clone()
    }
}

fn has_svids(view: &View) -> bool {
    !view.identities.is_empty() && view.identities.iter().all(|seen| seen.x509.is_some())
}

fn not_after(view: &View) -> i64 {
    view.identities[0].x509.as_ref().unwrap().not_after
}

#[tokio::test]
async fn an_identity_has_its_svid_before_anybody_asks_and_is_seen_by_whom_it_fits() {
    let test = Test::new(LIMITS);
    test.apply(
        vec![
            entry("a", "/a", "unix:uid:1"),
            entry("node", "/node", "spiffe_id:spiffe://example.org/x"),
        ],
        &[],
    );
    let view = test.until(&["unix:uid:1", "unix:gid:1"], has_svids).await;
    assert_eq!(not_after(&view), NOW + TTL);
    assert!(test.view(&["unix:uid:2"]).identities.is_empty());
    // No process can have the other one, and none is made for it.
    assert!(test.view(&["spiffe_id:spiffe://example.org/x"]).identities.is_empty());
    assert_eq!(test.messages(), [1]);
}

#[tokio::test]
async fn what_falls_due_in_one_step_goes_up_in_one_message() {
    let test = Test::new(LIMITS);
    let entries = |from: usize| {
        (from..from + 20)
            .map(|n| entry(&format!("e{n}"), &format!("/e{n}"), "unix:uid:1"))
            .collect()
    };
    test.apply(entries(0), &[]);
    test.until(&["unix:uid:1"], has_svids).await;
    // Half a step later come others, whose renewal is due half a step later.
    test.pass(TTL / 64).await;
    test.apply(entries(20), &[]);
    test.until(&["unix:uid:1"], |view| view.identities.len() == 40 && has_svids(view))
        .await;
    assert_eq!(test.messages(), [20, 20]);
    test.pass(TTL / 2 + TTL / 32).await;
    test.until(&["unix:uid:1"], |view| {
        view.identities
            .iter()
            .all(|seen| seen.x509.as_ref().unwrap().not_after >= NOW + TTL + TTL / 2)
    })
    .await;
    assert_eq!(test.messages(), [20, 20, 40]);
}

#[tokio::test]
async fn the_old_svid_is_kept_while_renewal_fails_and_goes_when_it_ends() {
    let test = Test::new(LIMITS);
    test.apply(vec![entry("a", "/a", "unix:uid:1")], &[]);
    let first = test.until(&["unix:uid:1"], has_svids).await.identities[0]
        .x509
        .clone()
        .unwrap();
    for mood in [
        Mood::IsGone,
        Mood::Refuses(Code::Unavailable),
        Mood::Refuses(Code::PermissionDenied),
    ] {
        test.mood(mood);
        test.pass(TTL / 4).await;
        let seen = test.view(&["unix:uid:1"]).identities[0].clone();
        assert_eq!(seen.x509.unwrap().generation, first.generation);
    }
    assert_eq!(test.keep.summary().renewals_overdue, 1);
    assert!(
        test.view(&["unix:uid:1"]).identities[0]
            .x509_problem
            .as_deref()
            .unwrap()
            .contains("refused")
    );
    test.pass(TTL / 4 + 1).await;
    test.until(&["unix:uid:1"], |view| view.identities[0].x509.is_none())
        .await;
    assert_eq!(test.keep.summary().missing, 1);
    // It comes back as soon as it is signed again; attempts were spread out by now.
    test.mood(Mood::Signs);
    test.server.up.send_replace(true);
    test.until(&["unix:uid:1"], has_svids).await;
}

#[tokio::test]
async fn without_a_link_nothing_is_tried_and_a_new_link_tries_at_once() {
    let test = Test::new(LIMITS);
    test.server.up.send_replace(false);
    test.apply(vec![entry("a", "/a", "unix:uid:1")], &[]);
    test.pass(600).await;
    assert_eq!(test.messages(), [0; 0]);
    test.server.up.send_replace(true);
    test.until(&["unix:uid:1"], has_svids).await;
}

#[tokio::test]
async fn what_a_tainted_or_removed_authority_signed_is_renewed_at_once() {
    let test = Test::new(LIMITS);
    let (old, new) = (
        test.server.authority.lock().unwrap().clone(),
        Arc::new(Authority::new("example.org")),
    );
    test.bundle(1, &[&old], &[]);
    test.apply(
        vec![entry("a", "/a", "unix:uid:1"), entry("b", "/b", "unix:uid:1")],
        &[],
    );
    test.until(&["unix:uid:1"], has_svids).await;
    test.bundle(2, &[&old, &new], &[]);
    assert_eq!(test.messages(), [2]);
    *test.server.authority.lock().unwrap() = new.clone();
    test.bundle(3, &[&old, &new], &[&old]);
    let renewed = |view: &View| {
        view.identities
            .iter()
            .all(|seen| seen.x509.as_ref().unwrap().generation > 2)
    };
    test.until(&["unix:uid:1"], renewed).await;
    assert_eq!(test.messages(), [2, 2]);
    // Neither that they are gone now nor anything else about the old one matters any more.
    test.bundle(4, &[&new], &[]);
    test.pass(2).await;
    assert_eq!(test.messages(), [2, 2]);
    let last = Arc::new(Authority::new("example.org"));
    *test.server.authority.lock().unwrap() = last.clone();
    test.bundle(5, &[&last], &[]);
    test.until(&["unix:uid:1"], |view| {
        view.identities
            .iter()
            .all(|seen| seen.x509.as_ref().unwrap().generation > 4)
    })
    .await;
}

#[tokio::test]
async fn a_removed_identity_is_gone_at_once_and_a_changed_one_is_signed_anew_when_its_svid_changes() {
    let test = Test::new(LIMITS);
    test.apply(
        vec![entry("a", "/a", "unix:uid:1"), entry("b", "/b", "unix:uid:1")],
        &[],
    );
    test.until(&["unix:uid:1"], has_svids).await;
    test.apply(vec![], &["a"]);
    assert_eq!(test.view(&["unix:uid:1"]).identities.len(), 1);
    // Who may have it does not stand in an SVID.
    test.apply(vec![entry("b", "/b", "unix:uid:2")], &[]);
    assert!(test.view(&["unix:uid:1"]).identities.is_empty());
    assert!(has_svids(&test.view(&["unix:uid:2"])));
    test.pass(2).await;
    assert_eq!(test.messages(), [2]);
    let mut named = entry("b", "/b", "unix:uid:2");
    named.dns_names = vec!["b.example.org".into()];
    test.apply(vec![named], &[]);
    // The old one is served until the new one is there.
    assert!(has_svids(&test.view(&["unix:uid:2"])));
    test.until(&["unix:uid:2"], |view| {
        view.identities[0].x509.as_ref().unwrap().generation == 3
    })
    .await;
    // Another identity under the same entry: the old one's SVID is none of it.
    test.mood(Mood::IsGone);
    test.apply(vec![entry("b", "/other", "unix:uid:2")], &[]);
    assert!(test.view(&["unix:uid:2"]).identities[0].x509.is_none());
}

#[tokio::test]
async fn an_svid_that_is_not_held_ready_comes_when_it_is_asked_for_and_goes_when_nobody_wants_it() {
    let test = Test::new(KeepLimits { prefetch: 1, ..LIMITS });
    let mut lazy = entry("lazy", "/lazy", "unix:uid:2");
    lazy.additional_attributes = Some(types::entry::AdditionalAttributes {
        disable_x509_svid_prefetch: true,
        ..Default::default()
    });
    test.apply(
        vec![
            entry("a", "/a", "unix:uid:1"),
            lazy,
            entry("beyond", "/beyond", "unix:uid:3"),
        ],
        &[],
    );
    test.until(&["unix:uid:1"], has_svids).await;
    test.pass(2).await;
    assert_eq!(test.messages(), [1]);
    for (uid, id) in [("unix:uid:2", "lazy"), ("unix:uid:3", "beyond")] {
        let mut demand = test.keep.demand(Kind::X509);
        demand.set([Arc::from(id)]);
        test.until(&[uid], has_svids).await;
        drop(demand);
    }
    test.pass(TTL * 3 / 4).await;
    assert!(has_svids(&test.view(&["unix:uid:1"])));
    assert!(test.view(&["unix:uid:2"]).identities[0].x509.is_none());
    assert!(test.view(&["unix:uid:3"]).identities[0].x509.is_none());
}

#[tokio::test]
async fn the_oldest_identity_comes_first_and_hints_are_unique() {
    let test = Test::new(LIMITS);
    let made = |id: &str, at, hint: &str| types::Entry {
        created_at: at,
        hint: hint.into(),
        ..entry(id, &format!("/{id}"), "unix:uid:1")
    };
    test.apply(
        vec![
            made("c", 3, "internal"),
            made("a", 2, "internal"),
            made("b", 2, "external"),
            made("d", 1, ""),
        ],
        &[],
    );
    let view = test.view(&["unix:uid:1"]);
    let seen: Vec<_> = view
        .identities
        .iter()
        .map(|seen| (&*seen.identity.id, &*seen.hint))
        .collect();
    assert_eq!(seen, [("d", ""), ("a", "internal"), ("b", "external"), ("c", "")]);
}

#[tokio::test]
async fn a_caller_sees_the_bundles_of_its_own_federation_only() {
    let test = Test::new(LIMITS);
    let (own, friend, other) = (
        Authority::new("example.org"),
        Authority::new("friend.test"),
        Authority::new("other.test"),
    );
    test.bundle(1, &[&own], &[]);
    test.bundle(1, &[&friend], &[]);
    test.bundle(1, &[&other], &[]);
    let mut federated = entry("a", "/a", "unix:uid:1");
    federated.federates_with = vec!["friend.test".into(), "unknown.test".into()];
    test.apply(vec![federated], &[]);
    let view = test.view(&["unix:uid:1"]);
    let names: Vec<_> = view
        .bundles()
        .map(|(trust_domain, _)| trust_domain.to_string())
        .collect();
    assert_eq!(names, ["example.org", "friend.test"]);
    assert!(view.bundle(&other.trust_domain).is_none());
}

#[tokio::test]
async fn a_link_begins_with_what_is_held_and_a_difference_by_digest_is_applied() {
    let test = Test::new(LIMITS);
    assert_eq!(test.keep.held(), (vec![], vec![]));
    let (a, b) = (entry("a", "/a", "unix:uid:1"), entry("b", "/b", "unix:uid:1"));
    let own = Authority::new("example.org");
    test.bundle(7, &[&own], &[]);
    test.apply(vec![a.clone(), b.clone()], &[]);
    let (mut identities, bundles) = test.keep.held();
    identities.sort_unstable();
    let mut expected = [mintmark_proto::digest::of(&a), mintmark_proto::digest::of(&b)];
    expected.sort_unstable();
    assert_eq!(identities, expected);
    assert_eq!((bundles.len(), bundles[0].sequence), (1, 7));
    assert_eq!(
        bundles[0].digest,
        mintmark_proto::digest::of(&Authority::bundle(7, &[&own], &[]))
    );
    test.keep.apply(&Update {
        removed: vec![mintmark_proto::digest::of(&a), 12345],
        ..Update::default()
    });
    assert_eq!(test.keep.held().0, [mintmark_proto::digest::of(&b)]);
    // Removals come first: what is in both is held.
    test.apply(vec![a.clone()], &["a", "b", "unknown"]);
    assert_eq!(test.keep.held().0, [mintmark_proto::digest::of(&a)]);
    test.keep.apply(&Update {
        removed_bundles: vec!["example.org".into()],
        ..Update::default()
    });
    assert!(test.keep.held().1.is_empty());
}

#[tokio::test]
async fn an_item_that_is_not_in_form_is_left_out_and_harms_no_other() {
    let test = Test::new(LIMITS);
    let foreign = types::Entry {
        spiffe_id: Some(types::Spiffeid {
            trust_domain: "other.test".into(),
            path: "/x".into(),
        }),
        ..entry("x", "/x", "unix:uid:1")
    };
    let bad_bundle = types::Bundle {
        trust_domain: "Not A Domain".into(),
        ..types::Bundle::default()
    };
    let update = Update {
        upserts: vec![foreign, entry("a", "/a", "unix:uid:1")],
        bundles: vec![bad_bundle],
        ..Update::default()
    };
    let refused: Vec<_> = test.keep.apply(&update).iter().map(ToString::to_string).collect();
    assert_eq!(refused.len(), 2);
    assert!(
        refused[0].contains("other.test") && refused[1].contains("bundle"),
        "{refused:?}"
    );
    test.until(&["unix:uid:1"], has_svids).await;
}

#[tokio::test]
async fn a_jwt_svid_is_used_again_up_to_half_of_its_life_and_falls_back_while_the_server_is_gone() {
    let test = Test::new(LIMITS);
    test.apply(vec![entry("a", "/a", "unix:uid:1")], &[]);
    let identity = test.view(&["unix:uid:1"]).identities[0].identity.clone();
    let audience = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
    let get = async |names: &[&str]| {
        test.keep
            .jwt(&identity, &audience(names))
            .await
            .map(|svid| svid.token.expose().to_owned())
    };
    let first = get(&["x", "y"]).await.unwrap();
    assert_eq!(get(&["y", "x", "y"]).await.unwrap(), first);
    assert_ne!(get(&["x"]).await.unwrap(), first);
    assert_eq!(test.server.tokens.load(Ordering::Relaxed), 2);
    test.clock.advance(Duration::from_secs(151));
    let second = get(&["x", "y"]).await.unwrap();
    assert_ne!(second, first);
    test.clock.advance(Duration::from_secs(200));
    test.mood(Mood::IsGone);
    assert_eq!(get(&["x", "y"]).await.unwrap(), second);
    // A refusal is an answer.
    test.mood(Mood::Refuses(Code::PermissionDenied));
    assert!(get(&["x", "y"]).await.is_err());
    test.mood(Mood::IsGone);
    test.clock.advance(Duration::from_secs(101));
    assert!(get(&["x", "y"]).await.unwrap_err().is_passing());
    // No more is remembered than was allowed.
    test.mood(Mood::Signs);
    for n in 0..20 {
        get(&[&format!("a{n}")]).await.unwrap();
    }
    assert!(test.keep.summary().jwt_svids <= 4);
    test.apply(vec![], &["a"]);
    assert_eq!(test.keep.summary().jwt_svids, 0);
}

#[tokio::test]
async fn a_wit_svid_comes_on_demand_with_its_private_key() {
    let test = Test::new(LIMITS);
    test.apply(vec![entry("a", "/a", "unix:uid:1")], &[]);
    assert!(test.view(&["unix:uid:1"]).identities[0].wit.is_none());
    let mut demand = test.keep.demand(Kind::Wit);
    demand.set([Arc::from("a")]);
    let first = test
        .until(&["unix:uid:1"], |view| view.identities[0].wit.is_some())
        .await
        .identities[0]
        .wit
        .clone()
        .unwrap();
    assert!(first.key.expose().contains("\"d\":"));
    test.pass(200).await;
    let generation = first.generation;
    let renewed = |view: &View| {
        view.identities[0]
            .wit
            .as_ref()
            .is_some_and(|svid| svid.generation > generation)
    };
    test.until(&["unix:uid:1"], renewed).await;
}

#[tokio::test]
async fn a_node_that_is_not_wanted_holds_nothing() {
    let test = Test::new(LIMITS);
    test.apply(vec![entry("a", "/a", "unix:uid:1")], &[]);
    test.until(&["unix:uid:1"], has_svids).await;
    test.keep.forget();
    assert!(test.view(&["unix:uid:1"]).identities.is_empty());
    assert_eq!(test.keep.summary(), Summary::default());
}
