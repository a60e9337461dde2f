//! What may happen to the record, in any order.

use proptest::prelude::*;

use super::*;
use crate::authority::keys::PrivateKey;

fn record(kind: Kind, issued_at: i64, life: i64) -> Record {
    let public = PrivateKey::ecdsa(mintmark_identity::KeyKind::P256).unwrap().public;
    Record {
        kind,
        slot: Slot::Prepared,
        issued_at,
        not_before: issued_at - life / 10,
        not_after: issued_at + life,
        tainted: false,
        sealed_by: "memory".to_owned(),
        certificate: (kind == Kind::X509).then(|| Bytes(public.spki_der().to_vec())),
        keys: vec![KeyRecord {
            public,
            sealed: Bytes(vec![4]),
        }],
    }
}

fn started(now: i64, life: i64) -> State {
    let mut state = State::new();
    for kind in Kind::ALL {
        state.prepare(record(kind, now, life));
        state.activate(kind, None).unwrap();
    }
    state
}

/// Does what is due, as rotation does.
fn rotate(state: &mut State, now: i64, life: i64) {
    let before = state.clone();
    for due in state.due(now) {
        match due {
            Due::Replace(kind) => {
                state.prepare(record(kind, now, life));
                state.activate(kind, None).unwrap();
            }
            Due::Prepare(kind) => {
                state.prepare(record(kind, now, life));
            }
            Due::Activate(kind) => {
                state.activate(kind, None).unwrap();
            }
            Due::Prune => {
                assert!(state.prune(now));
            }
        }
    }
    state.resequence(&before);
}

#[test]
fn rotation_prepares_at_half_and_activates_with_a_sixth_left() {
    let mut state = started(0, 600);
    assert_eq!(state.next_due(), Some(300));
    assert_eq!(state.due(299), []);
    assert_eq!(state.due(300), Kind::ALL.map(Due::Prepare));
    rotate(&mut state, 300, 600);
    assert_eq!(state.next_due(), Some(500));
    assert_eq!(state.due(499), []);
    rotate(&mut state, 500, 600);
    assert_eq!(state.get(Kind::Jwt, Slot::Active).unwrap().issued_at, 300);
    assert_eq!(state.get(Kind::Jwt, Slot::Old).unwrap().issued_at, 0);
    // The old one stays until its end and a sixth of its life; meanwhile the next one is prepared.
    assert_eq!(state.next_due(), Some(600));
    rotate(&mut state, 600, 600);
    assert_eq!(state.next_due(), Some(700));
    rotate(&mut state, 700, 600);
    assert_eq!(state.get(Kind::Jwt, Slot::Old), None);
}

#[test]
fn one_that_is_prepared_late_is_published_for_a_while_before_it_signs() {
    let mut state = started(0, 600);
    rotate(&mut state, 550, 600);
    assert_eq!(state.due(599), [], "its notice of a sixth of its life is not over");
    assert_eq!(
        state.due(600),
        Kind::ALL.map(Due::Activate),
        "but the active one has ended"
    );
    let mut state = started(0, 600);
    rotate(&mut state, 450, 600);
    assert_eq!(state.due(549), []);
    assert_eq!(state.due(550), Kind::ALL.map(Due::Activate));
}

#[test]
fn no_more_than_32_of_a_kind_are_made_by_hand() {
    let mut state = State::new();
    for at in 0..32 {
        state.check_room(Kind::Jwt).unwrap();
        state.prepare(record(Kind::Jwt, at, 1_000));
        state.activate(Kind::Jwt, None).unwrap();
    }
    assert!(matches!(
        state.check_room(Kind::Jwt),
        Err(AuthorityError::TooMany { count: 32, .. })
    ));
    state.taint(Kind::Jwt, None).unwrap();
    state.revoke(Kind::Jwt, None).unwrap();
    state.check_room(Kind::Jwt).unwrap();
}

#[test]
fn rotation_goes_on_however_many_were_made_and_keeps_the_newest() {
    let mut state = started(0, 1_000_000);
    for at in 1..=200 {
        // As a start does whose key manager has forgotten everything.
        state.prepare(record(Kind::Jwt, at, 1_000_000));
        state.activate(Kind::Jwt, None).unwrap();
    }
    let issued: Vec<_> = state.of(Kind::Jwt).map(|record| record.issued_at).collect();
    assert_eq!(issued, (200 - 127..=200).collect::<Vec<_>>());
    assert_eq!(state.get(Kind::Jwt, Slot::Active).unwrap().issued_at, 200);
    assert!(state.get(Kind::X509, Slot::Active).is_some());
}

#[test]
fn a_record_that_is_not_ours_is_refused() {
    let good = started(0, 600).encode();
    assert_eq!(State::decode(&good).unwrap(), started_from(&good));
    let text = String::from_utf8(good).unwrap();
    for bad in [
        text.replace(r#""format":1"#, r#""format":2"#),
        text.replace(r#""kind":"wit""#, r#""kind":"wat""#),
        text.replace(r#""certificate":"#, r#""certificat":"#),
        text.replace(r#""kind":"x509""#, r#""kind":"jwt""#),
        text.replace(r#""tainted":false"#, r#""tainted":false,"extra":1"#),
        text.replace("MFkw", "MFkx"),
        String::new(),
    ] {
        let error = State::decode(bad.as_bytes()).unwrap_err();
        assert!(matches!(error, AuthorityError::Record(_)), "{error}");
    }
}

fn started_from(json: &[u8]) -> State {
    serde_json::from_slice(json).unwrap()
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Prepare(Kind),
    Activate(Kind),
    Taint(Kind),
    Revoke(Kind),
    Rotate,
}

fn steps() -> impl Strategy<Value = Vec<(Step, i64)>> {
    let kind = || prop::sample::select(&Kind::ALL[..]);
    let step = prop_oneof![
        1 => kind().prop_map(Step::Prepare),
        1 => kind().prop_map(Step::Activate),
        1 => kind().prop_map(Step::Taint),
        1 => kind().prop_map(Step::Revoke),
        3 => Just(Step::Rotate),
    ];
    prop::collection::vec((step, 0_i64..400), 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    #[test]
    fn whatever_happens_there_is_one_active_and_the_sequence_counts_the_bundles(steps in steps(), life in 6_i64..1_000) {
        let mut now = 0;
        let mut state = started(now, life);
        let domain = TrustDomain::parse("example.org").unwrap();
        for (step, later) in steps {
            now += later;
            let before = state.clone();
            match step {
                Step::Prepare(kind) => drop(state.prepare(record(kind, now, life))),
                Step::Activate(kind) => drop(state.activate(kind, None)),
                Step::Taint(kind) => drop(state.taint(kind, None)),
                Step::Revoke(kind) => drop(state.revoke(kind, None)),
                Step::Rotate => rotate(&mut state, now, life),
            }
            state.resequence(&before);
            for kind in Kind::ALL {
                let count = |slot| state.of(kind).filter(|record| record.slot == slot).count();
                prop_assert_eq!(count(Slot::Active), 1);
                prop_assert!(count(Slot::Prepared) <= 1);
                prop_assert!(!state.get(kind, Slot::Active).unwrap().tainted);
            }
            let without_sequence = |state: &State| Bundle { sequence: 0, ..state.bundle(&domain, 60) };
            let same = without_sequence(&before) == without_sequence(&state);
            prop_assert_eq!(same, before.sequence == state.sequence, "{:?} {:?}", before, state);
            prop_assert!(state.sequence >= before.sequence);
            prop_assert_eq!(State::decode(&state.encode()).unwrap(), state.clone());
            if matches!(step, Step::Rotate) {
                rotate(&mut state, now, life);
                prop_assert_eq!(state.due(now), [], "twice is enough");
                prop_assert!(state.next_due().is_some_and(|due| due > now));
                prop_assert!(Kind::ALL.into_iter().all(|kind| state.get(kind, Slot::Active).unwrap().is_valid(now)));
            }
        }
    }
}
