//! X.509-SVIDs.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use mintmark_identity::{Serial, Ttl};
use mintmark_proto::ledger::Kind as LeafKind;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::*;
use crate::authority::{CaKey, SignError};
use crate::issuance::form::{Form, X509Form};
use crate::issuance::issuer::{Call, Grant, Inner};
use crate::ledger::Durable;
use crate::mint::Validity;
use crate::mint::x509::UnsignedX509;

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
        ttl: Ttl::constant(60),
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
    house.clock.advance(std::time::Duration::from_secs(60));
    let refusal = house
        .issuer
        .x509(&node(), vec![X509Order::new(id("/web"), key())])
        .await
        .swap_remove(0)
        .unwrap_err();
    assert_eq!(refusal.reason(), "authority");
}

/// Runs openssl and gives what it printed; fails with its complaint.
fn openssl(dir: &std::path::Path, arguments: &[&str]) -> String {
    let run = std::process::Command::new("openssl")
        .current_dir(dir)
        .args(arguments)
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        run.status.success(),
        "openssl {arguments:?}: {}{}",
        text(&run.stdout),
        text(&run.stderr)
    );
    text(&run.stdout)
}

#[tokio::test]
async fn openssl_verifies_an_x509_svid_and_reads_it_as_meant() {
    for ca_key in [CaKey::P256, CaKey::P384] {
        let house = House::with(AuthorityConfig {
            ca_key,
            ..AuthorityConfig::default()
        })
        .await;
        let mut order = X509Order::new(id("/web"), key());
        order.dns_names = Arc::from(["web.example.org".to_owned(), "*.web.example.org".to_owned()]);
        let svid = house.issuer.x509(&node(), vec![order]).await.swap_remove(0).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, der: &[u8]| {
            let pem = pem::encode(&pem::Pem::new("CERTIFICATE", der));
            mintmark_runtime::fs::write_atomic(&dir.path().join(name), pem.as_bytes(), 0o600).unwrap();
        };
        write("root.pem", &house.authorities.bundle().x509[0].der);
        write("leaf.pem", &svid.chain[0]);
        for purpose in ["sslclient", "sslserver"] {
            let at = NOW.to_string();
            let verify = [
                "verify",
                "-x509_strict",
                "-attime",
                &at,
                "-purpose",
                purpose,
                "-CAfile",
                "root.pem",
                "leaf.pem",
            ];
            assert_eq!(openssl(dir.path(), &verify), "leaf.pem: OK\n");
        }
        let text = openssl(dir.path(), &["x509", "-in", "leaf.pem", "-noout", "-text"]);
        for line in [
            "URI:spiffe://example.org/web, DNS:web.example.org, DNS:*.web.example.org",
            "TLS Web Server Authentication, TLS Web Client Authentication",
            "CA:FALSE",
            "Subject: O = Mintmark, CN = web.example.org",
        ] {
            assert!(text.contains(line), "{line} is not in {text}");
        }
        let serial = openssl(dir.path(), &["x509", "-in", "leaf.pem", "-noout", "-serial"]);
        assert_eq!(serial.trim(), format!("serial={}", svid.serial.hex()));
        let root = openssl(dir.path(), &["x509", "-in", "root.pem", "-noout", "-text"]);
        for line in [
            "CA:TRUE",
            "Certificate Sign, CRL Sign",
            "URI:spiffe://example.org\n",
            "Subject: O = Mintmark, serialNumber = 01",
        ] {
            assert!(root.contains(line), "{line} is not in {root}");
        }
    }
}

#[tokio::test]
async fn the_servers_own_certificate_may_have_ip_addresses() {
    let house = House::new().await;
    let mut order = X509Order::new(SpiffeId::server(&house.authorities.bundle().trust_domain), key());
    order.ip_addresses = vec!["127.0.0.1".parse().unwrap(), "::1".parse().unwrap()];
    let svid = house
        .issuer
        .x509(&Attested::server(), vec![order.clone()])
        .await
        .swap_remove(0)
        .unwrap();
    let leaf = CertificateDer::from(svid.chain[0].to_vec());
    let entity = webpki::EndEntityCert::try_from(&leaf).unwrap();
    for name in ["127.0.0.1", "::1"] {
        entity
            .verify_is_valid_for_subject_name(&rustls_pki_types::ServerName::try_from(name).unwrap())
            .unwrap();
    }
    order.spiffe_id = id("/web");
    let refusal = house
        .issuer
        .x509(&node(), vec![order])
        .await
        .swap_remove(0)
        .unwrap_err();
    assert_eq!(refusal.reason(), "ip_address");
}

/// X.509-SVIDs whose signatures are counted when they are verified, and are wrong from the `wrong_from`th time on.
struct Faulty {
    form: X509Form,
    verified: AtomicUsize,
    wrong_from: usize,
}

impl Form for Faulty {
    type Order = X509Order;
    type Unsigned = UnsignedX509;
    type Svid = X509Svid;
    const KIND: &'static str = "x509";

    fn grant(&self, inner: &Inner, call: Call<'_>, order: &X509Order) -> Result<Grant, Refusal> {
        self.form.grant(inner, call, order)
    }

    fn encode(&self, config: &IssuanceConfig, order: &X509Order, validity: Validity, serial: Serial) -> UnsignedX509 {
        self.form.encode(config, order, validity, serial)
    }

    fn content(unsigned: &UnsignedX509) -> &[u8] {
        X509Form::content(unsigned)
    }

    fn sign(
        &self,
        config: &IssuanceConfig,
        order: &X509Order,
        validity: Validity,
        unsigned: Durable<UnsignedX509>,
    ) -> Result<X509Svid, Refusal> {
        self.form.sign(config, order, validity, unsigned)
    }

    fn verify(&self, svid: &X509Svid) -> Result<(), SignError> {
        let mut certificate = svid.chain[0].to_vec();
        if self.verified.fetch_add(1, Ordering::Relaxed) >= self.wrong_from {
            *certificate.last_mut().unwrap() ^= 1;
        }
        self.form.verify(&X509Svid {
            chain: vec![certificate.into()],
            ..svid.clone()
        })
    }

    fn subject(order: &X509Order) -> (&SpiffeId, Option<&str>) {
        X509Form::subject(order)
    }

    fn outcome(svid: &X509Svid) -> (Serial, i64) {
        X509Form::outcome(svid)
    }
}

#[tokio::test]
async fn one_signature_in_1024_is_verified_and_a_wrong_one_stops_everything() {
    let house = House::new().await;
    let form = Faulty {
        form: X509Form(house.authorities.x509()),
        verified: AtomicUsize::new(0),
        wrong_from: 2,
    };
    let orders = vec![X509Order::new(id("/web"), key()); 1_000];
    for _ in 0..2 {
        let answers = house.issuer.issue(&node(), &form, &orders).await;
        assert!(answers.iter().all(Result::is_ok));
    }
    assert_eq!(
        (form.verified.load(Ordering::Relaxed), house.issuer.halted()),
        (2, None)
    );
    let answers = house.issuer.issue(&node(), &form, &orders).await;
    assert_eq!(answers.iter().position(Result::is_err), Some(48), "the 2049th");
    assert!(
        answers[48..]
            .iter()
            .all(|answer| answer.as_ref().is_err_and(|refusal| refusal.reason() == "halted"))
    );

    assert!(house.issuer.halted().unwrap().contains("does not verify"));
    let size = house.ledger.reader().size();
    let refusal = house
        .issuer
        .x509(&node(), orders[..1].to_vec())
        .await
        .swap_remove(0)
        .unwrap_err();
    assert_eq!((refusal.reason(), refusal.is_callers_fault()), ("halted", false));
    let refusal = house
        .issuer
        .jwt(&node(), JwtOrder::new(id("/web"), vec!["a".into()]))
        .await
        .unwrap_err();
    assert_eq!(refusal.reason(), "halted");
    let refusal = house
        .issuer
        .wit(&node(), vec![WitOrder::new(id("/web"), key())])
        .await
        .swap_remove(0)
        .unwrap_err();
    assert_eq!(refusal.reason(), "halted");
    assert_eq!(house.ledger.reader().size(), size, "what is refused is not logged");
    assert!(house.issuer.halted().is_some());
}

#[tokio::test]
async fn a_check_of_another_credential_signs_nothing() {
    let house = House::new().await;
    let authority = house.authorities.x509();
    let order = X509Order::new(id("/web"), key());
    let validity = Validity {
        not_before: NOW,
        not_after: NOW + 60,
    };
    let spec = crate::mint::x509::X509Spec {
        spiffe_id: &order.spiffe_id,
        public_key: &order.public_key,
        dns_names: &[],
        ip_addresses: &[],
        validity,
    };
    let append = house.ledger.append(2, |slot| {
        let encode = |nth| {
            let serial = Serial::new(slot.log, slot.index(nth), [7; 11]).unwrap();
            (vec![0], crate::mint::x509::encode(authority.template(), &spec, serial))
        };
        vec![encode(0), encode(1)]
    });
    let [first, second] = append.await.unwrap().try_into().unwrap();
    let checked = crate::mint::check::x509(authority.template(), &spec, first.get()).unwrap();
    assert!(matches!(
        authority.sign(second, checked),
        Err(SignError::Unchecked { .. })
    ));
}
