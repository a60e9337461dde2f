//! Signing requests of openssl and rcgen.

use mintmark_identity::{Csr, CsrError, KeyKind};
use rcgen::{CertificateParams, SanType};

use crate::support::Signer;

pub(crate) fn request(signer: &Signer, uris: &[&str]) -> Vec<u8> {
    let mut params = CertificateParams::new(["web.example.org".to_owned()]).unwrap();
    for uri in uris {
        params.subject_alt_names.push(SanType::URI((*uri).try_into().unwrap()));
    }
    params.serialize_request(signer.pair()).unwrap().der().to_vec()
}

#[test]
fn a_request_of_each_kind_of_key_is_read_and_its_signature_checked() {
    for (signer, kind) in [
        (Signer::p256(), KeyKind::P256),
        (Signer::p384(), KeyKind::P384),
        (Signer::rsa(), KeyKind::Rsa),
    ] {
        let csr = Csr::parse(&request(&signer, &["spiffe://example.org/a"])).unwrap();
        assert_eq!(csr.public_key(), &signer.public_key());
        assert_eq!(csr.public_key().kind(), kind);
        assert_eq!(csr.dns_names(), ["web.example.org"]);
        assert_eq!(csr.spiffe_id().unwrap().unwrap().as_str(), "spiffe://example.org/a");
        csr.verify_signature().unwrap();
    }
}

#[test]
fn a_request_by_another_key_is_refused() {
    let (one, other) = (Signer::p256(), Signer::p256());
    let mut der = request(&one, &[]);
    let (mine, theirs) = (one.spki_der(), other.spki_der());
    let at = der.windows(mine.len()).position(|window| window == mine).unwrap();
    der[at..at + theirs.len()].copy_from_slice(&theirs);
    let csr = Csr::parse(&der).unwrap();
    assert_eq!(csr.public_key(), &other.public_key());
    assert_eq!(csr.verify_signature(), Err(CsrError::Signature));
    assert_eq!(csr.spiffe_id(), Ok(None));
}

#[test]
fn what_is_not_a_request_is_refused_by_name() {
    let signer = Signer::p256();
    let der = request(&signer, &[]);
    assert!(matches!(Csr::parse(&[]), Err(CsrError::Malformed { .. })));
    assert!(matches!(
        Csr::parse(&[der.clone(), vec![0]].concat()),
        Err(CsrError::Malformed { .. })
    ));
    assert!(matches!(
        Csr::parse(&vec![0; (16 << 10) + 1]),
        Err(CsrError::TooLong { .. })
    ));
    let several = Csr::parse(&request(&signer, &["spiffe://a/b", "spiffe://a/c"])).unwrap();
    assert_eq!(several.spiffe_id(), Err(CsrError::SeveralUris { count: 2 }));
    let foreign = Csr::parse(&request(&signer, &["https://example.org/"])).unwrap();
    assert!(matches!(foreign.spiffe_id(), Err(CsrError::SpiffeId(_))));

    let edwards = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let request = CertificateParams::default().serialize_request(&edwards).unwrap();
    let error = Csr::parse(request.der()).unwrap_err();
    assert!(error.to_string().contains("Ed25519 keys are not accepted"), "{error}");
}

#[test]
fn requests_of_openssl_are_judged_by_their_signature() {
    let expected = [
        ("unknown-extension", ""),
        ("sha384", ""),
        (
            "sha512",
            "signed with ECDSA with SHA-512 and a P-256 key, which is not accepted",
        ),
        ("sha1", "signed with ECDSA with SHA-1, which is not accepted"),
        ("rsa-sha512", ""),
        ("rsa-sha1", "signed with RSA with SHA-1, which is not accepted"),
        ("pss", ""),
        ("pss-sha384", ""),
        ("rsa1024", "an RSA key of 1024 bits is not accepted"),
    ];
    let requests = include_str!("../data/requests.txt");
    assert_eq!(requests.lines().count(), expected.len());
    for (line, (name, problem)) in requests.lines().zip(expected) {
        let (request, der) = line.split_once(' ').unwrap();
        assert_eq!(request, name);
        let judged = Csr::parse(&hex::decode(der).unwrap()).and_then(|csr| csr.verify_signature().map(|()| csr));
        match judged {
            Ok(csr) => {
                assert_eq!(problem, "", "{name}");
                assert_eq!(csr.uris().is_empty(), name != "unknown-extension");
            }
            Err(error) => {
                let error = error.to_string();
                assert!(!problem.is_empty() && error.contains(problem), "{name}: {error}");
            }
        }
    }
}
