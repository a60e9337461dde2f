//! Slots, restarts, replicas.

use std::time::Duration;

use mintmark_proto::ledger::{Kind as LeafKind, Leaf};
use mintmark_runtime::crypto::Kek;
use mintmark_runtime::task::Supervisor;
use prost::Message as _;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::*;
use crate::ledger::Settings;
use crate::store::Taken;

const NOW: i64 = 1_800_000_000;

/// What survives a restart.
struct Ground {
    _dir: tempfile::TempDir,
    store: Store,
    ledger: Ledger,
    clock: Clock,
    config: AuthorityConfig,
}

impl Ground {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let clock = Clock::manual(NOW);
        let ledger = Ledger::open_or_create(dir.path(), "example.org", 1, Settings::new(clock.clone())).unwrap();
        let config = AuthorityConfig {
            ttl: Ttl::constant(600),
            ..AuthorityConfig::default()
        };
        Self {
            _dir: dir,
            store: Store::memory(),
            ledger,
            clock,
            config,
        }
    }

    async fn try_start(&self, keys: KeyManager) -> Result<Authorities, AuthorityError> {
        let trust_domain = TrustDomain::parse("example.org").unwrap();
        Authorities::start(
            self.store.clone(),
            self.ledger.clone(),
            keys,
            self.clock.clone(),
            self.config.clone(),
            trust_domain,
        )
        .await
    }

    async fn start(&self, keys: KeyManager) -> Authorities {
        self.try_start(keys).await.unwrap()
    }

    async fn start_error(&self) -> String {
        self.try_start(disk(1)).await.unwrap_err().to_string()
    }

    fn authority_leaves(&self) -> usize {
        let leaves = self.ledger.reader().leaves(0, self.ledger.reader().size()).unwrap();
        leaves
            .iter()
            .filter(|leaf| Leaf::decode(&***leaf).unwrap().kind() == LeafKind::X509Ca)
            .count()
    }
}

fn disk(byte: u8) -> KeyManager {
    KeyManager::disk(Kek::from_bytes(&[byte; 32]))
}

fn slots(authorities: &Authorities, kind: Kind) -> Vec<(Slot, bool)> {
    authorities
        .list(kind)
        .iter()
        .map(|info| (info.slot, info.tainted))
        .collect()
}

#[tokio::test]
async fn an_authority_is_an_svid_itself_and_in_the_ledger() {
    let ground = Ground::new();
    let authorities = ground.start(KeyManager::memory()).await;
    let bundle = authorities.bundle();
    let (_, certificate) = X509Certificate::from_der(&bundle.x509[0].der).unwrap();
    certificate.verify_signature(None).unwrap();
    let leaf = Leaf::decode(&*ground.ledger.reader().leaf(0).unwrap()).unwrap();
    assert_eq!(
        (leaf.kind(), &*leaf.spiffe_id),
        (LeafKind::X509Ca, "spiffe://example.org")
    );
    assert_eq!(leaf.serial, certificate.raw_serial());
    assert_eq!(leaf.key_id, authorities.x509().key_id().as_str());
    assert_eq!((bundle.sequence, bundle.refresh_hint), (1, Some(60)));
    assert_eq!((bundle.x509.len(), bundle.jwt.len(), bundle.wit.len()), (1, 1, 1));
    assert_eq!(bundle.jwt[0].key_id, *authorities.jws(None).unwrap().key_id());
    assert_eq!(bundle.wit[0].key_id, *authorities.wit().key_id());
}

#[tokio::test]
async fn an_authority_is_prepared_activated_tainted_and_revoked_in_this_order() {
    let ground = Ground::new();
    let authorities = ground.start(KeyManager::memory()).await;
    let mut word = authorities.watch_bundle();
    for kind in Kind::ALL {
        let first = authorities.list(kind)[0].clone();
        assert!(matches!(
            authorities.activate(kind, None).await,
            Err(AuthorityError::None { .. })
        ));
        assert!(matches!(
            authorities.taint(kind, None).await,
            Err(AuthorityError::None { .. })
        ));
        assert!(matches!(
            authorities.taint(kind, Some(&first.key_id)).await,
            Err(AuthorityError::WrongSlot { slot: Slot::Active, .. })
        ));

        let replaced = authorities.prepare(kind).await.unwrap();
        let prepared = authorities.prepare(kind).await.unwrap();
        assert_ne!(replaced.key_id, prepared.key_id);
        assert!(matches!(
            authorities.activate(kind, Some(&replaced.key_id)).await,
            Err(AuthorityError::NotFound { .. })
        ));
        assert!(matches!(
            authorities.taint(kind, Some(&prepared.key_id)).await,
            Err(AuthorityError::WrongSlot {
                slot: Slot::Prepared,
                ..
            })
        ));
        assert_eq!(
            slots(&authorities, kind),
            [(Slot::Active, false), (Slot::Prepared, false)]
        );
        assert!(word.has_changed().unwrap());
        word.mark_unchanged();

        let active = authorities.activate(kind, Some(&prepared.key_id)).await.unwrap();
        assert_eq!((active.slot, &active.key_id), (Slot::Active, &prepared.key_id));
        assert_eq!(slots(&authorities, kind), [(Slot::Active, false), (Slot::Old, false)]);
        assert!(!word.has_changed().unwrap(), "who signs does not change the bundle");

        assert!(matches!(
            authorities.revoke(kind, Some(&first.key_id)).await,
            Err(AuthorityError::WrongSlot { slot: Slot::Old, .. })
        ));
        let sequence = authorities.bundle().sequence;
        authorities.taint(kind, Some(&first.key_id)).await.unwrap();
        assert_eq!(slots(&authorities, kind), [(Slot::Active, false), (Slot::Old, true)]);
        assert_eq!(authorities.bundle().sequence, sequence + 1);
        let bundle = authorities.bundle();
        let tainted: Vec<bool> = match kind {
            Kind::X509 => bundle.x509.iter().map(|authority| authority.tainted).collect(),
            Kind::Jwt => bundle.jwt.iter().map(|authority| authority.tainted).collect(),
            Kind::Wit => bundle.wit.iter().map(|authority| authority.tainted).collect(),
        };
        assert_eq!(tainted, [true, false]);
        authorities.revoke(kind, Some(&first.key_id)).await.unwrap();
        assert_eq!(slots(&authorities, kind), [(Slot::Active, false)]);
        assert_eq!(*authorities.watch_bundle().borrow(), authorities.bundle());
        word.mark_unchanged();
    }
    let text = authorities.activate(Kind::Jwt, None).await.unwrap_err().to_string();
    assert_eq!(text, "no jwt authority is prepared, so that none can be activated");
}

#[tokio::test]
async fn disk_keeps_the_authorities_over_a_restart() {
    let ground = Ground::new();
    let before = ground.start(disk(1)).await;
    before.prepare(Kind::X509).await.unwrap();
    let after = ground.start(disk(1)).await;
    assert_eq!(*after.bundle(), *before.bundle());
    assert_eq!(after.x509().key_id(), before.x509().key_id());
    assert_eq!(after.jws(None).unwrap().key_id(), before.jws(None).unwrap().key_id());
    assert_eq!(after.wit().key_id(), before.wit().key_id());
    assert_eq!(ground.authority_leaves(), 2);
}

#[tokio::test]
async fn memory_forgets_and_what_it_signed_is_still_verified() {
    let ground = Ground::new();
    let before = ground.start(KeyManager::memory()).await;
    let after = ground.start(KeyManager::memory()).await;
    for kind in Kind::ALL {
        assert_eq!(slots(&after, kind), [(Slot::Active, false), (Slot::Old, false)]);
    }
    assert!(
        after
            .bundle()
            .x509
            .iter()
            .any(|authority| authority.der == before.bundle().x509[0].der)
    );
    assert_ne!(after.x509().key_id(), before.x509().key_id());
    // From memory to disk and back: what cannot be opened is replaced.
    let kept = ground.start(disk(1)).await;
    assert_ne!(kept.x509().key_id(), after.x509().key_id());
    let again = ground.start(disk(1)).await;
    assert_eq!(kept.x509().key_id(), again.x509().key_id());
}

#[tokio::test]
async fn another_key_encryption_key_does_not_start_and_says_what_would_help() {
    let ground = Ground::new();
    ground.start(disk(1)).await;
    let error = ground.try_start(disk(2)).await.unwrap_err();
    assert!(
        matches!(error, AuthorityError::Sealed { kind: Kind::X509, .. }),
        "{error}"
    );
    assert!(error.to_string().contains("keys.manager = \"memory\""), "{error}");
}

#[tokio::test]
async fn the_store_holds_no_private_key_in_the_open() {
    let ground = Ground::new();
    let authorities = ground.start(disk(1)).await;
    let record = ground.store.get(snapshot::KEY).await.unwrap().unwrap().value;
    let state = state::State::decode(&record).unwrap();
    for kind in Kind::ALL {
        for key in state.of(kind).flat_map(|record| &record.keys) {
            let private = disk(1).open(kind, &key.public.key_id(), &key.sealed.0).unwrap();
            assert!(
                !key.sealed
                    .0
                    .windows(16)
                    .any(|window| private.expose().windows(16).any(|secret| secret == window))
            );
            assert!(
                disk(1)
                    .open(Kind::ALL[(kind as usize + 1) % 3], &key.public.key_id(), &key.sealed.0)
                    .is_err(),
                "sealed for its kind"
            );
        }
    }
    assert!(!format!("{authorities:?}").contains("sealed"));
}

#[tokio::test]
async fn a_server_that_was_away_for_long_begins_anew() {
    let ground = Ground::new();
    let before = ground.start(disk(1)).await;
    ground.clock.advance(Duration::from_secs(599));
    assert_eq!(ground.start(disk(1)).await.x509().key_id(), before.x509().key_id());
    ground.clock.advance(Duration::from_secs(1));
    let after = ground.start(disk(1)).await;
    assert_ne!(after.x509().key_id(), before.x509().key_id());
    assert_eq!(slots(&after, Kind::X509), [(Slot::Active, false), (Slot::Old, false)]);
    ground.clock.advance(Duration::from_secs(100));
    after.shared.rotate().await.unwrap();
    assert_eq!(
        slots(&after, Kind::X509),
        [(Slot::Active, false)],
        "what ended is pruned"
    );
}

#[tokio::test]
async fn a_clock_that_jumps_back_or_far_ahead_gets_new_authorities_when_it_is_noticed() {
    let ground = Ground::new();
    let authorities = ground.start(disk(1)).await;
    let supervisor = Supervisor::embedded();
    supervisor.spawn("rotation", authorities.clone().run(supervisor.token()));
    authorities.settled().await;
    for jump in [-100_000, 100_000] {
        let before = authorities.x509();
        ground.clock.set_unix(ground.clock.unix() + jump);
        authorities.nudge();
        authorities.settled().await;
        assert_ne!(authorities.x509().key_id(), before.key_id());
        assert!(
            authorities.x509().not_before() <= ground.clock.unix()
                && ground.clock.unix() < authorities.x509().not_after()
        );
    }
    supervisor.shutdown(Duration::from_secs(10)).await;
}

#[tokio::test]
async fn what_was_made_by_hand_does_not_keep_rotation_from_making_more() {
    let ground = Ground::new();
    let authorities = ground.start(disk(1)).await;
    let refused = loop {
        match authorities.prepare(Kind::Wit).await {
            Ok(prepared) => drop(authorities.activate(Kind::Wit, Some(&prepared.key_id)).await.unwrap()),
            Err(error) => break error,
        }
    };
    assert!(
        matches!(refused, AuthorityError::TooMany { count: 32, .. }),
        "{refused}"
    );
    let supervisor = Supervisor::embedded();
    supervisor.spawn("rotation", authorities.clone().run(supervisor.token()));
    let before = authorities.wit();
    for seconds in [300, 250] {
        ground.clock.advance(Duration::from_secs(seconds));
        authorities.settled().await;
    }
    assert_ne!(authorities.wit().key_id(), before.key_id());
    supervisor.shutdown(Duration::from_secs(10)).await;
}

#[tokio::test]
async fn metrics_show_the_seconds_until_an_authority_ends() {
    let ground = Ground::new();
    let authorities = ground.start(disk(1)).await;
    let metrics = mintmark_runtime::metrics::Metrics::new("mintmark_server");
    authorities.register(&metrics);
    ground.clock.advance(Duration::from_secs(100));
    authorities.prepare(Kind::Jwt).await.unwrap();
    let text = metrics.encode().unwrap();
    for line in [
        r#"mintmark_server_authority_expiry_seconds{kind="x509",state="active"} 500"#,
        r#"mintmark_server_authority_expiry_seconds{kind="jwt",state="prepared"} 600"#,
        "mintmark_server_bundle_sequence 2",
    ] {
        assert!(text.contains(line), "{line} is not in {text}");
    }
}

#[tokio::test]
async fn lives_that_are_too_short_are_refused() {
    let mut ground = Ground::new();
    ground.config.ttl = Ttl::constant(5);
    let error = ground.start_error().await;
    assert!(error.starts_with("ttl.ca = \"5s\" is too short"), "{error}");
}

#[tokio::test]
async fn a_key_to_import_must_be_a_sound_rsa_key() {
    let mut ground = Ground::new();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("key.pem");
    ground.config.jwt_rs256 = Rs256::Imported(path.clone());
    assert!(ground.start_error().await.contains("No such file"));
    mintmark_runtime::fs::write_atomic(&path, b"not a key", 0o600).unwrap();
    assert!(ground.start_error().await.contains("must be an unencrypted PEM"));
    let weak = [
        "genpkey",
        "-quiet",
        "-algorithm",
        "RSA",
        "-pkeyopt",
        "rsa_keygen_bits:1024",
        "-out",
    ];
    assert!(
        std::process::Command::new("openssl")
            .args(weak)
            .arg(&path)
            .status()
            .unwrap()
            .success()
    );
    assert!(ground.start_error().await.contains("it has 1024 bits"));
    let traditional = ["genrsa", "-traditional", "-out"];
    assert!(
        std::process::Command::new("openssl")
            .args(traditional)
            .arg(&path)
            .arg("2048")
            .output()
            .unwrap()
            .status
            .success()
    );
    assert!(
        std::fs::read_to_string(&path)
            .unwrap()
            .contains("BEGIN RSA PRIVATE KEY")
    );
    let authorities = ground.start(disk(1)).await;
    let algorithms: Vec<_> = authorities.list(Kind::Jwt)[0]
        .token_keys
        .iter()
        .map(|(algorithm, _)| *algorithm)
        .collect();
    assert_eq!(algorithms, [JwsAlg::Es256, JwsAlg::Rs256]);
    // The same key in the next authority is one key in the bundle, which lasts as long as the last that has it.
    authorities.prepare(Kind::Jwt).await.unwrap();
    assert_eq!(authorities.bundle().jwt.len(), 3);
}

#[tokio::test]
async fn an_rsa_key_is_made_when_rs256_is_switched_on() {
    let mut ground = Ground::new();
    let before = ground.start(disk(1)).await;
    assert!(matches!(
        before.jws(Some(JwsAlg::Rs256)),
        Err(AuthorityError::Algorithm { .. })
    ));
    ground.config.jwt_rs256 = Rs256::Made;
    let after = ground.start(disk(1)).await;
    assert_eq!(after.jws(Some(JwsAlg::Rs256)).unwrap().algorithm(), JwsAlg::Rs256);
    assert_eq!(slots(&after, Kind::Jwt), [(Slot::Active, false), (Slot::Old, false)]);
    assert_eq!(slots(&after, Kind::X509), [(Slot::Active, false)]);
}

#[tokio::test]
async fn a_start_does_not_wait_for_the_lease_of_one_that_crashed() {
    let ground = Ground::new();
    let crashed = snapshot::lease(&ground.store, &ground.clock).take().await.unwrap();
    assert!(matches!(crashed, Taken::Held(_)), "{crashed:?}");
    let start = ground.start(disk(1));
    let time_passes = async {
        loop {
            tokio::task::yield_now().await;
            // Not up to the lease's end.
            if ground.clock.unix() < NOW + 3 {
                ground.clock.advance(Duration::from_millis(1));
            }
        }
    };
    tokio::select! {
        authorities = start => assert_eq!(slots(&authorities, Kind::X509), [(Slot::Active, false)]),
        () = time_passes => unreachable!("it has no end"),
    }
}

#[tokio::test]
async fn two_servers_on_one_store_start_and_rotate_as_one() {
    let mut ground = Ground::new();
    ground.config.ttl = Ttl::constant(24);
    let (one, two) = tokio::join!(ground.start(disk(1)), ground.start(disk(1)));
    let supervisor = Supervisor::embedded();
    supervisor.spawn("one", one.clone().run(supervisor.token()));
    supervisor.spawn("two", two.clone().run(supervisor.token()));
    let mut signers = Vec::new();
    for _ in 0..100 {
        one.settled().await;
        two.settled().await;
        let mut published = (one.watch_bundle(), two.watch_bundle());
        published.0.mark_unchanged();
        assert_eq!(one.bundle(), two.bundle());
        for kind in Kind::ALL {
            assert_eq!(one.list(kind), two.list(kind));
        }
        if signers.last() != Some(one.x509().key_id()) {
            signers.push(one.x509().key_id().clone());
        }
        assert_eq!(one.x509().key_id(), two.x509().key_id());
        ground.clock.advance(Duration::from_secs(1));
    }
    assert!(signers.len() >= 5, "{}", signers.len());
    let prepared = one
        .list(Kind::X509)
        .iter()
        .filter(|info| info.slot == Slot::Prepared)
        .count();
    assert_eq!(
        ground.authority_leaves(),
        signers.len() + prepared,
        "none was made twice"
    );
    supervisor.shutdown(Duration::from_secs(10)).await;
}
