//! What a node can prove with its certificate, and what it cannot.

use super::*;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};

struct Node {
    leaf: CertificateDer<'static>,
    key: rcgen::KeyPair,
}

fn authority() -> (rcgen::Issuer<'static, rcgen::KeyPair>, CertificateDer<'static>) {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let certificate = params.self_signed(&key).unwrap().der().clone();
    (rcgen::Issuer::new(params, key), certificate)
}

fn node(issuer: &rcgen::Issuer<'static, rcgen::KeyPair>, usage: rcgen::KeyUsagePurpose) -> Node {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name.push(rcgen::DnType::CommonName, "node-1");
    params.key_usages = vec![usage];
    let uri = "x509pop://example.org/zone/a/b".try_into().unwrap();
    params.subject_alt_names = vec![rcgen::SanType::URI(uri)];
    let leaf = params.signed_by(&key, issuer).unwrap().der().clone();
    Node { leaf, key }
}

fn payload(node: &Node) -> Vec<u8> {
    serde_json::to_vec(&serde_json::json!({ "certificates": [BASE64.encode(&node.leaf)] })).unwrap()
}

fn answer(node: &Node, challenge: &[u8]) -> Vec<u8> {
    let challenge: Challenge = serde_json::from_slice(challenge).unwrap();
    let theirs = BASE64.decode(challenge.ecdsa_signature.unwrap().nonce).unwrap();
    let random = SystemRandom::new();
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, node.key.serialized_der(), &random).unwrap();
    let signature = pair.sign(&random, &[theirs.as_slice(), &[7; NONCE]].concat()).unwrap();
    let (r, s) = signature.as_ref().split_at(32);
    let part = |bytes| BASE64.encode::<&[u8]>(bytes);
    serde_json::to_vec(
        &serde_json::json!({ "ecdsa_signature": { "nonce": part(&[7; NONCE]), "r": part(r), "s": part(s) } }),
    )
    .unwrap()
}

fn world() -> (Authorities, rcgen::Issuer<'static, rcgen::KeyPair>, Clock, TrustDomain) {
    let (issuer, certificate) = authority();
    let authorities = Authorities::new(vec![certificate]).unwrap();
    (
        authorities,
        issuer,
        Clock::system(),
        TrustDomain::parse("example.org").unwrap(),
    )
}

#[test]
fn a_node_that_holds_the_key_is_named_by_its_certificate() {
    let (authorities, issuer, clock, td) = world();
    let node = node(&issuer, rcgen::KeyUsagePurpose::DigitalSignature);
    for _ in 0..50 {
        // Fifty times, since the numbers of a signature differ in length.
        let attempt = Attempt::begin(Some(&authorities), &clock, &td, &payload(&node)).unwrap();
        let answer = answer(&node, &attempt.challenge());
        let evidence = attempt.finish(&answer).unwrap();
        assert_eq!(
            evidence.id().path(),
            format!("/spire/agent/x509pop/{}", sha1_hex(&node.leaf))
        );
        let selectors: Vec<_> = evidence.selectors.iter().map(ToString::to_string).collect();
        assert!(
            selectors.contains(&"x509pop:subject:cn:node-1".to_owned()),
            "{selectors:?}"
        );
        assert!(selectors.contains(&"x509pop:san:zone:a/b".to_owned()), "{selectors:?}");
        assert!(
            selectors.iter().any(|s| s.starts_with("x509pop:ca:fingerprint:")),
            "{selectors:?}"
        );
    }
}

/// What `openssl` makes of `input`, with the key in a file that it is given the path of.
fn openssl(key: &str, arguments: &[&str], input: &[u8]) -> Vec<u8> {
    use std::io::Write as _;
    use std::process::{Command, Stdio};
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("key.pem");
    mintmark_runtime::fs::write_new(&path, key.as_bytes(), 0o600).unwrap();
    let mut command = Command::new("openssl");
    command
        .args(arguments)
        .arg(path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    child.wait_with_output().unwrap().stdout
}

/// The two numbers of an ECDSA signature in DER.
fn numbers(der: &[u8]) -> [&[u8]; 2] {
    let r = usize::from(der[3]);
    [&der[4..4 + r], &der[6 + r..]]
}

#[test]
fn a_key_on_p384_answers_as_spires_agents_do_or_as_ours_do() {
    let (authorities, issuer, clock, td) = world();
    let mut params = rcgen::CertificateParams::default();
    params.key_usages = vec![rcgen::KeyUsagePurpose::DigitalSignature];
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    let leaf = params.signed_by(&key, &issuer).unwrap().der().clone();
    let node = Node { leaf, key };
    for (digest, holds) in [("-sha256", true), ("-sha384", true), ("-sha512", false)] {
        let attempt = Attempt::begin(Some(&authorities), &clock, &td, &payload(&node)).unwrap();
        let challenge: Challenge = serde_json::from_slice(&attempt.challenge()).unwrap();
        let theirs = BASE64.decode(challenge.ecdsa_signature.unwrap().nonce).unwrap();
        let message = [theirs.as_slice(), &[7; NONCE]].concat();
        let der = openssl(&node.key.serialize_pem(), &["dgst", digest, "-sign"], &message);
        let [r, s] = numbers(&der).map(|number| BASE64.encode(number));
        let answer = serde_json::json!({ "ecdsa_signature": { "nonce": BASE64.encode([7; NONCE]), "r": r, "s": s } });
        let finished = attempt.finish(&serde_json::to_vec(&answer).unwrap());
        assert_eq!(finished.is_ok(), holds, "{digest}");
    }
}

#[test]
fn a_copied_certificate_proves_nothing() {
    let (authorities, issuer, clock, td) = world();
    let (victim, thief) = (
        node(&issuer, rcgen::KeyUsagePurpose::DigitalSignature),
        node(&issuer, rcgen::KeyUsagePurpose::DigitalSignature),
    );
    let attempt = Attempt::begin(Some(&authorities), &clock, &td, &payload(&victim)).unwrap();
    let forged = answer(&thief, &attempt.challenge());
    assert!(matches!(attempt.finish(&forged), Err(PopError::WrongAnswer)));
    let first = Attempt::begin(Some(&authorities), &clock, &td, &payload(&victim)).unwrap();
    let replayed = answer(&victim, &first.challenge());
    let second = Attempt::begin(Some(&authorities), &clock, &td, &payload(&victim)).unwrap();
    assert!(matches!(second.finish(&replayed), Err(PopError::WrongAnswer)));
}

#[test]
fn foreign_certificates_and_wrong_usages_are_refused() {
    let (authorities, issuer, clock, td) = world();
    let (stranger, _) = authority();
    let foreign = node(&stranger, rcgen::KeyUsagePurpose::DigitalSignature);
    let begin = |node: &Node| Attempt::begin(Some(&authorities), &clock, &td, &payload(node)).err();
    assert!(matches!(begin(&foreign), Some(PopError::Untrusted(_))));
    let encipher = node(&issuer, rcgen::KeyUsagePurpose::KeyEncipherment);
    assert!(matches!(begin(&encipher), Some(PopError::Key(_))));
    for bad in [
        &b"{"[..],
        b"{\"certificates\":[]}",
        b"{\"certificates\":[\"!\"]}",
        &vec![b' '; MAX_PAYLOAD + 1],
    ] {
        let error = Attempt::begin(Some(&authorities), &clock, &td, bad).err();
        assert!(matches!(error, Some(PopError::Malformed { .. })), "{error:?}");
    }
    assert!(matches!(
        Attempt::begin(None, &clock, &td, b"{}").err(),
        Some(PopError::NotConfigured)
    ));
}

/// Certificates in the order in which a node sends them.
fn payload_of(chain: &[&CertificateDer<'_>]) -> Vec<u8> {
    let certificates: Vec<_> = chain.iter().map(|der| BASE64.encode(der)).collect();
    serde_json::to_vec(&serde_json::json!({ "certificates": certificates })).unwrap()
}

/// An authority below another one.
fn intermediate(
    name: &str,
    above: &rcgen::Issuer<'static, rcgen::KeyPair>,
    change: impl FnOnce(&mut rcgen::CertificateParams),
) -> (rcgen::Issuer<'static, rcgen::KeyPair>, CertificateDer<'static>) {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    change(&mut params);
    let certificate = params.signed_by(&key, above).unwrap().der().clone();
    (rcgen::Issuer::new(params, key), certificate)
}

#[test]
fn only_the_authorities_that_vouch_for_the_certificate_become_selectors() {
    let (authorities, root, clock, td) = world();
    let (own, own_certificate) = intermediate("own", &root, |_| {});
    let (_, other_certificate) = intermediate("other", &root, |_| {});
    let (_, stranger_certificate) = authority();
    let node = node(&own, rcgen::KeyUsagePurpose::DigitalSignature);
    // The certificates of others are no secret: whoever likes can send them along.
    let chain = payload_of(&[&node.leaf, &other_certificate, &own_certificate, &stranger_certificate]);
    let attempt = Attempt::begin(Some(&authorities), &clock, &td, &chain).unwrap();
    let answer = answer(&node, &attempt.challenge());
    let evidence = attempt.finish(&answer).unwrap();
    let found: Vec<_> = evidence
        .selectors
        .iter()
        .filter_map(|selector| selector.value().strip_prefix("ca:fingerprint:"))
        .collect();
    assert_eq!(found, [sha1_hex(&own_certificate), sha1_hex(&authorities.1[0])]);
}

#[test]
fn a_chain_that_does_not_lead_to_an_authority_now_is_refused() {
    let (authorities, root, clock, td) = world();
    let (own, own_certificate) = intermediate("own", &root, |_| {});
    let (ended, ended_certificate) = intermediate("ended", &root, |params| {
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2021, 1, 1);
    });
    let sign = rcgen::KeyUsagePurpose::DigitalSignature;
    let (node_of_own, node_of_ended) = (node(&own, sign), node(&ended, sign));
    let leaf = |change: &dyn Fn(&mut rcgen::CertificateParams)| {
        let mut params = rcgen::CertificateParams::default();
        params.key_usages = vec![sign];
        change(&mut params);
        let key = rcgen::KeyPair::generate().unwrap();
        params.signed_by(&key, &own).unwrap().der().clone()
    };
    let expired = leaf(&|params| {
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2021, 1, 1);
    });
    let an_authority = leaf(&|params| {
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.key_usages.push(rcgen::KeyUsagePurpose::KeyCertSign);
    });
    let begin =
        |chain: &[&CertificateDer<'_>]| Attempt::begin(Some(&authorities), &clock, &td, &payload_of(chain)).err();
    assert!(begin(&[&node_of_own.leaf, &own_certificate]).is_none());
    for (what, chain) in [
        ("without its intermediate", &[&node_of_own.leaf][..]),
        ("with another's intermediate", &[&node_of_own.leaf, &ended_certificate]),
        (
            "below an intermediate that has ended",
            &[&node_of_ended.leaf, &ended_certificate],
        ),
        ("that has ended", &[&expired, &own_certificate]),
        ("that is an authority's", &[&an_authority, &own_certificate]),
        ("that is the intermediate itself", &[&own_certificate]),
    ] {
        let error = begin(chain);
        assert!(
            matches!(error, Some(PopError::Untrusted(_))),
            "a certificate {what}: {error:?}"
        );
    }
    let many = vec![&own_certificate; MAX_CHAIN + 1];
    assert!(matches!(begin(&many), Some(PopError::Malformed { .. })));
}

#[test]
fn a_key_that_is_neither_ec_nor_rsa_proves_nothing() {
    let (authorities, issuer, clock, td) = world();
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.key_usages = vec![rcgen::KeyUsagePurpose::DigitalSignature];
    let leaf = params.signed_by(&key, &issuer).unwrap().der().clone();
    let error = Attempt::begin(Some(&authorities), &clock, &td, &payload_of(&[&leaf])).err();
    assert!(matches!(error, Some(PopError::Key(_))), "{error:?}");
}
