//! What an issuance costs, part by part and whole: `cargo bench -p mintmark-server --bench issue`.
//!
//! The log is a real one, in the target directory: `append` and what contains it wait for the disk.
#![allow(clippy::unwrap_used, reason = "a benchmark has nobody to report to")]

use std::path::Path;
use std::sync::OnceLock;

use divan::{Bencher, counter::ItemsCount};
use mintmark_identity::{JwsAlg, PublicKey, Serial, SpiffeId, TrustDomain};
use mintmark_runtime::clock::Clock;
use mintmark_runtime::metrics::Metrics;
use mintmark_server::attest::Attested;
use mintmark_server::authority::{Authorities, AuthorityConfig, KeyManager, Rs256};
use mintmark_server::issuance::{IssuanceConfig, Issuer, JwtOrder, WitOrder, X509Order};
use mintmark_server::ledger::{Ledger, Settings};
use mintmark_server::mint::jws::{self, JwtSpec};
use mintmark_server::mint::x509::{self, X509Spec};
use mintmark_server::mint::{Validity, check};
use mintmark_server::store::Store;
use mintmark_server::verdict::Verdicts;
use rcgen::PublicKeyData as _;
use tokio::runtime::Runtime;

fn main() {
    divan::main();
}

struct House {
    _dir: tempfile::TempDir,
    runtime: Runtime,
    ledger: Ledger,
    authorities: Authorities,
    issuer: Issuer,
    key: PublicKey,
    id: SpiffeId,
    now: i64,
}

fn house() -> &'static House {
    static HOUSE: OnceLock<House> = OnceLock::new();
    HOUSE.get_or_init(|| {
        let dir = tempfile::tempdir_in(Path::new(env!("CARGO_TARGET_TMPDIR"))).unwrap();
        let runtime = Runtime::new().unwrap();
        let clock = Clock::system();
        let ledger = Ledger::open_or_create(dir.path(), "example.org", 1, Settings::new(clock.clone())).unwrap();
        let trust_domain = TrustDomain::parse("example.org").unwrap();
        let config = AuthorityConfig {
            jwt_rs256: Rs256::Made,
            ..AuthorityConfig::default()
        };
        let (keys, store) = (KeyManager::memory(), Store::memory());
        let start = Authorities::start(store, ledger.clone(), keys, clock.clone(), config, trust_domain.clone());
        let authorities = runtime.block_on(start).unwrap();
        let config = IssuanceConfig {
            jwt_issuer: Some("https://issuer.example.org".into()),
            ..IssuanceConfig::new(trust_domain)
        };
        let now = clock.unix();
        let verdicts = Verdicts::without_policies();
        let issuer = Issuer::new(
            ledger.clone(),
            authorities.clone(),
            verdicts,
            clock,
            config,
            &Metrics::new("bench"),
        );
        let spki = rcgen::KeyPair::generate().unwrap().subject_public_key_info();
        let key = PublicKey::from_spki_der(&spki).unwrap();
        let id = SpiffeId::parse("spiffe://example.org/ns/payments/sa/checkout").unwrap();
        House {
            _dir: dir,
            runtime,
            ledger,
            authorities,
            issuer,
            key,
            id,
            now,
        }
    })
}

fn spec(house: &House) -> X509Spec<'_> {
    let validity = Validity {
        not_before: house.now,
        not_after: house.now + 3_600,
    };
    X509Spec {
        spiffe_id: &house.id,
        public_key: &house.key,
        dns_names: &[],
        ip_addresses: &[],
        validity,
    }
}

fn serial() -> Serial {
    Serial::new(1, 1, [7; 11]).unwrap()
}

#[divan::bench]
fn x509_encode(bencher: Bencher<'_, '_>) {
    let house = house();
    let authority = house.authorities.x509();
    bencher.bench(|| x509::encode(authority.template(), &spec(house), serial()));
}

#[divan::bench]
fn x509_check(bencher: Bencher<'_, '_>) {
    let house = house();
    let authority = house.authorities.x509();
    let unsigned = x509::encode(authority.template(), &spec(house), serial());
    bencher.bench(|| check::x509(authority.template(), &spec(house), &unsigned).unwrap());
}

#[divan::bench]
fn x509_sign(bencher: Bencher<'_, '_>) {
    let house = house();
    let authority = house.authorities.x509();
    // Only what is in the log can be signed: a thousand at a time.
    let mut logged = Vec::new();
    bencher
        .with_inputs(|| {
            if logged.is_empty() {
                let append = house.ledger.append(1_000, |_| {
                    (0..1_000)
                        .map(|_| (vec![0], x509::encode(authority.template(), &spec(house), serial())))
                        .collect()
                });
                logged = house.runtime.block_on(append).unwrap();
            }
            let durable = logged.pop().unwrap();
            let checked = check::x509(authority.template(), &spec(house), durable.get()).unwrap();
            (durable, checked)
        })
        .bench_local_values(|(durable, checked)| authority.sign(durable, checked).unwrap());
}

#[divan::bench(args = [1, 10, 100])]
fn x509_whole(bencher: Bencher<'_, '_>, batch: usize) {
    let house = house();
    bencher
        .counter(ItemsCount::new(batch))
        .with_inputs(|| vec![X509Order::new(house.id.clone(), house.key.clone()); batch])
        .bench_values(|orders| house.runtime.block_on(house.issuer.x509(&Attested::server(), orders)));
}

#[divan::bench]
fn jwt_encode(bencher: Bencher<'_, '_>) {
    let house = house();
    let authority = house.authorities.jws(None).unwrap();
    let audience = ["api.example.org".to_owned()];
    bencher.bench(|| jws::encode_jwt(authority.template(), &jwt_spec(house, &audience), serial()));
}

#[divan::bench]
fn jwt_check(bencher: Bencher<'_, '_>) {
    let house = house();
    let authority = house.authorities.jws(None).unwrap();
    let audience = ["api.example.org".to_owned()];
    let unsigned = jws::encode_jwt(authority.template(), &jwt_spec(house, &audience), serial());
    bencher.bench(|| check::jwt(authority.template(), &jwt_spec(house, &audience), &unsigned).unwrap());
}

fn jwt_spec<'a>(house: &'a House, audience: &'a [String]) -> JwtSpec<'a> {
    JwtSpec {
        spiffe_id: &house.id,
        audience,
        issuer: Some("https://issuer.example.org"),
        issued_at: house.now,
        expires_at: house.now + 300,
    }
}

#[divan::bench(args = ["ES256", "RS256"])]
fn jwt_whole(bencher: Bencher<'_, '_>, algorithm: &str) {
    let house = house();
    let algorithm = Some(JwsAlg::parse(algorithm).unwrap());
    bencher
        .with_inputs(|| JwtOrder {
            algorithm,
            ..JwtOrder::new(house.id.clone(), vec!["api.example.org".into()])
        })
        .bench_values(|order| {
            house
                .runtime
                .block_on(house.issuer.jwt(&Attested::server(), order))
                .unwrap()
        });
}

#[divan::bench(args = [1, 100])]
fn wit_whole(bencher: Bencher<'_, '_>, batch: usize) {
    let house = house();
    bencher
        .counter(ItemsCount::new(batch))
        .with_inputs(|| vec![WitOrder::new(house.id.clone(), house.key.clone()); batch])
        .bench_values(|orders| house.runtime.block_on(house.issuer.wit(&Attested::server(), orders)));
}

/// As many calls of one credential at once as the argument says: what came while the last fsync ran is one batch.
#[divan::bench(args = [8, 64])]
fn jwt_whole_in_flight(bencher: Bencher<'_, '_>, calls: usize) {
    let house = house();
    bencher.counter(ItemsCount::new(calls)).bench(|| {
        house.runtime.block_on(async {
            let mut running = tokio::task::JoinSet::new();
            for _ in 0..calls {
                let order = JwtOrder::new(house.id.clone(), vec!["api.example.org".into()]);
                running.spawn(async move { house.issuer.jwt(&Attested::server(), order).await.unwrap() });
            }
            running.join_all().await
        })
    });
}
