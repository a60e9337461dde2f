//! Credentials through all rooms, judged by other people's verifiers.

use std::sync::Arc;

use mintmark_identity::{PublicKey, SpiffeId, TrustDomain, Ttl};
use mintmark_proto::ledger::{Kind as LeafKind, Leaf};
use mintmark_runtime::clock::Clock;
use mintmark_runtime::metrics::Metrics as Registry;
use prost::Message as _;
use rcgen::PublicKeyData as _;
use rustls_pki_types::{CertificateDer, UnixTime};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::*;
use crate::attest::{Attested, By, Witness};
use crate::authority::{Authorities, AuthorityConfig, KeyManager};
use crate::ledger::{Ledger, Settings};
use crate::store::Store;
use crate::verdict::Verdicts;

/// A server's rooms over a log on disk.
struct House {
    _dir: tempfile::TempDir,
    clock: Clock,
    ledger: Ledger,
    authorities: Authorities,
    issuer: Issuer,
    registry: Registry,
}

const NOW: i64 = 1_800_000_000;

impl House {
    async fn new() -> Self {
        Self::with(AuthorityConfig::default()).await
    }

    async fn with(config: AuthorityConfig) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let clock = Clock::manual(NOW);
        let ledger = Ledger::open_or_create(dir.path(), "example.org", 1, Settings::new(clock.clone())).unwrap();
        let trust_domain = TrustDomain::parse("example.org").unwrap();
        let keys = KeyManager::memory();
        let authorities = Authorities::start(
            Store::memory(),
            ledger.clone(),
            keys,
            clock.clone(),
            config,
            trust_domain.clone(),
        )
        .await
        .unwrap();
        let registry = Registry::new("mintmark_server");
        let config = IssuanceConfig {
            jwt_issuer: Some("https://issuer.test".into()),
            ..IssuanceConfig::new(trust_domain)
        };
        let issuer = Issuer::new(
            ledger.clone(),
            authorities.clone(),
            Verdicts::without_policies(),
            clock.clone(),
            config,
            &registry,
        );
        Self {
            _dir: dir,
            clock,
            ledger,
            authorities,
            issuer,
            registry,
        }
    }

    fn leaf(&self, index: u64) -> Leaf {
        Leaf::decode(&*self.ledger.reader().leaf(index).unwrap()).unwrap()
    }
}

fn id(path: &str) -> SpiffeId {
    SpiffeId::parse(&format!("spiffe://example.org{path}")).unwrap()
}

fn key() -> PublicKey {
    PublicKey::from_spki_der(&rcgen::KeyPair::generate().unwrap().subject_public_key_info()).unwrap()
}

fn node() -> Attested {
    Attested::for_test(By::Node(id("/spire/agent/join_token/a")), Witness::Node.into())
}

/// Verifies a leaf as webpki does, against the roots of a bundle.
fn verify(bundle: &mintmark_identity::Bundle, leaf: &[u8], now: i64) -> Result<(), webpki::Error> {
    let roots: Vec<_> = bundle
        .x509
        .iter()
        .map(|root| CertificateDer::from(root.der.to_vec()))
        .collect();
    let anchors: Vec<_> = roots
        .iter()
        .map(|root| webpki::anchor_from_trusted_cert(root).unwrap())
        .collect();
    let leaf = CertificateDer::from(leaf.to_vec());
    let time = UnixTime::since_unix_epoch(std::time::Duration::from_secs(now.try_into().unwrap()));
    for usage in [webpki::KeyUsage::client_auth(), webpki::KeyUsage::server_auth()] {
        webpki::EndEntityCert::try_from(&leaf)?.verify_for_usage(
            webpki::ALL_VERIFICATION_ALGS,
            &anchors,
            &[],
            time,
            usage,
            None,
            None,
        )?;
    }
    Ok(())
}

#[tokio::test]
async fn an_x509_svid_is_in_the_ledger_and_verifies_against_the_bundle() {
    let house = House::new().await;
    let mut order = X509Order::new(id("/web"), key());
    order.dns_names = Arc::from(["web.example.org".to_owned()]);
    order.entry_id = Some("entry-1".into());
    let svid = house
        .issuer
        .x509(&node(), vec![order.clone()])
        .await
        .swap_remove(0)
        .unwrap();
    assert_eq!((svid.not_before, svid.not_after), (NOW - 10, NOW + 3_600));
    verify(&house.authorities.bundle(), &svid.chain[0], NOW).unwrap();

    let (_, certificate) = X509Certificate::from_der(&svid.chain[0]).unwrap();
    assert_eq!(certificate.raw_serial(), svid.serial.as_bytes());
    assert_eq!(certificate.public_key().raw, order.public_key.spki_der());

    let leaf = house.leaf(svid.serial.index());
    let digest = |bytes: &[u8]| ring::digest::digest(&ring::digest::SHA256, bytes).as_ref().to_vec();
    assert_eq!(leaf.kind(), LeafKind::X509Svid);
    assert_eq!(leaf.serial, svid.serial.as_bytes().to_vec());
    assert_eq!(leaf.content_sha256, digest(certificate.tbs_certificate.as_ref()));
    assert_eq!(leaf.public_key_sha256, digest(order.public_key.spki_der()));
    assert_eq!(
        (&*leaf.spiffe_id, &*leaf.entry_id),
        ("spiffe://example.org/web", "entry-1")
    );
    assert_eq!(
        (&*leaf.node, leaf.witnesses),
        ("spiffe://example.org/spire/agent/join_token/a", vec![4])
    );
    assert_eq!(
        (leaf.not_before, leaf.not_after, leaf.dns_names),
        (NOW - 10, NOW + 3_600, vec!["web.example.org".to_owned()])
    );
    assert_eq!(leaf.key_id, house.authorities.x509().key_id().as_str());
}

#[tokio::test]
async fn a_batch_costs_one_call_and_is_answered_in_order() {
    let house = House::new().await;
    let before = house.ledger.reader().size();
    let mut orders: Vec<_> = (0..100)
        .map(|n| X509Order::new(id(&format!("/w/{n}")), key()))
        .collect();
    orders[3].spiffe_id = SpiffeId::parse("spiffe://other.org/w/3").unwrap();
    orders[7].dns_names = Arc::from(["UPPER.org".to_owned()]);
    let answers = house.issuer.x509(&node(), orders.clone()).await;
    assert_eq!(answers.len(), 100);
    for (nth, (answer, order)) in answers.into_iter().zip(orders).enumerate() {
        match (nth, answer) {
            (3, Err(refusal)) => assert_eq!(refusal.reason(), "trust_domain"),
            (7, Err(refusal)) => assert_eq!(refusal.reason(), "dns_name"),
            (_, Ok(svid)) => {
                assert_eq!(svid.spiffe_id, order.spiffe_id);
                verify(&house.authorities.bundle(), &svid.chain[0], NOW).unwrap();
            }
            (_, Err(refusal)) => panic!("{nth}: {refusal}"),
        }
    }
    assert_eq!(house.ledger.reader().size(), before + 98);
    let metrics = house.registry.encode().unwrap();
    assert!(
        metrics.contains(r#"mintmark_server_issuances_total{kind="x509",result="issued",reason=""} 98"#),
        "{metrics}"
    );
    assert!(
        metrics.contains(r#"mintmark_server_issuances_total{kind="x509",result="refused",reason="dns_name"} 1"#),
        "{metrics}"
    );
}

#[tokio::test]
async fn a_credential_is_shortened_to_its_authoritys_end() {
    let house = House::with(AuthorityConfig {
        ca_ttl: Ttl::constant(60),
        ..AuthorityConfig::default()
    })
    .await;
    let svid = house
        .issuer
        .x509(&node(), vec![X509Order::new(id("/web"), key())])
        .await
        .swap_remove(0)
        .unwrap();
    assert_eq!(svid.not_after, house.authorities.x509().not_after());
    assert_eq!(svid.capped, Some(crate::mint::Capped::Authority));
    house.clock.advance(std::time::Duration::from_secs(60));
    let refusal = house
        .issuer
        .x509(&node(), vec![X509Order::new(id("/web"), key())])
        .await
        .swap_remove(0)
        .unwrap_err();
    assert_eq!(refusal.reason(), "authority");
}
