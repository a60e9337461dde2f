//! Credentials through all rooms, judged by other people's verifiers.

use mintmark_identity::{Bundle, PublicKey, SpiffeId, TrustDomain};
use mintmark_proto::ledger::Leaf;
use mintmark_runtime::clock::Clock;
use mintmark_runtime::metrics::Metrics as Registry;
use prost::Message as _;
use rcgen::PublicKeyData as _;
use rustls_pki_types::{CertificateDer, UnixTime};

use super::*;
use crate::attest::{Attested, By, Witness};
use crate::authority::{Authorities, AuthorityConfig, KeyManager};
use crate::ledger::{Ledger, Settings};
use crate::store::Store;
use crate::verdict::Verdicts;

mod refusals;
mod rotation;
mod tokens;
mod x509;

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
fn verify(bundle: &Bundle, leaf: &[u8], now: i64) -> Result<(), webpki::Error> {
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
