//! X.509-SVIDs are accepted and refused by the standard's rules.

use mintmark_identity::svid::x509::{Authority, Leaf, X509SvidError as E};
use mintmark_identity::{Serial, SpiffeId};
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyUsagePurpose, SanType,
};

use crate::support::{NOW, Signer};

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

pub(crate) fn leaf() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.subject_alt_names = vec![
        uri("spiffe://example.org/a"),
        SanType::DnsName("web".try_into().unwrap()),
    ];
    params.serial_number = Some(Serial::new(3, 4, [5; 11]).unwrap().as_bytes().to_vec().into());
    params.not_before = time::OffsetDateTime::from_unix_timestamp(NOW).unwrap();
    params.not_after = time::OffsetDateTime::from_unix_timestamp(NOW + 3600).unwrap();
    params
}

pub(crate) fn authority() -> CertificateParams {
    let mut params = leaf();
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.extended_key_usages = vec![];
    params.subject_alt_names = vec![uri("spiffe://example.org")];
    params
}

pub(crate) fn der(params: &CertificateParams, signer: &Signer) -> Vec<u8> {
    params.self_signed(signer.pair()).unwrap().der().to_vec()
}

#[test]
fn a_leaf_gives_all_its_fields() {
    let signer = Signer::p256();
    let certificate = der(&leaf(), &signer);
    let leaf = Leaf::parse(&certificate).unwrap();
    assert_eq!(leaf.spiffe_id, SpiffeId::parse("spiffe://example.org/a").unwrap());
    assert_eq!(leaf.dns_names, ["web"]);
    assert_eq!((leaf.not_before, leaf.not_after), (NOW, NOW + 3600));
    assert_eq!(leaf.serial().unwrap(), Serial::new(3, 4, [5; 11]).unwrap());
    assert_eq!(leaf.spki_der, signer.spki_der());
    let at = certificate
        .windows(leaf.tbs_der.len())
        .position(|window| window == leaf.tbs_der);
    assert_eq!(at, Some(4));
}

#[test]
fn what_the_standard_refuses_in_a_leaf_is_refused() {
    type Change = fn(&mut CertificateParams);
    let table: Vec<(&str, Change)> = vec![
        ("must not be a CA", |p| {
            p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)
        }),
        ("digitalSignature must be set", |p| {
            p.key_usages = vec![KeyUsagePurpose::KeyAgreement]
        }),
        ("keyCertSign must not", |p| {
            p.key_usages.push(KeyUsagePurpose::KeyCertSign)
        }),
        ("cRLSign must not", |p| p.key_usages.push(KeyUsagePurpose::CrlSign)),
        ("key usage extension must be there", |p| p.key_usages.clear()),
        ("serverAuth and clientAuth", |p| {
            p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]
        }),
        ("serverAuth and clientAuth", |p| {
            p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth]
        }),
        ("0 URI names", |p| {
            p.subject_alt_names.retain(|name| !matches!(name, SanType::URI(_)))
        }),
        ("2 URI names", |p| {
            p.subject_alt_names.push(uri("spiffe://example.org/b"))
        }),
        ("2 URI names", |p| p.subject_alt_names.push(uri("https://example.org/"))),
        ("must have a path", |p| {
            p.subject_alt_names = vec![uri("spiffe://example.org")]
        }),
        ("does not start with spiffe://", |p| {
            p.subject_alt_names = vec![uri("https://example.org/a")]
        }),
        ("percent-encoding", |p| {
            p.subject_alt_names = vec![uri("spiffe://example.org/%61")]
        }),
        ("critical extension 1.2.3.4", |p| {
            let mut unknown = CustomExtension::from_oid_content(&[1, 2, 3, 4], vec![5, 0]);
            unknown.set_criticality(true);
            p.custom_extensions.push(unknown);
        }),
        ("extension 2.5.29.17 more than once", |p| {
            // A second subject alternative name extension, of spiffe://b/c.
            let mut names = vec![0x30, 14, 0x86, 12];
            names.extend_from_slice(b"spiffe://b/c");
            p.custom_extensions
                .push(CustomExtension::from_oid_content(&[2, 5, 29, 17], names));
        }),
    ];
    let signer = Signer::p256();
    for (problem, change) in table {
        let mut params = leaf();
        change(&mut params);
        let certificate = der(&params, &signer);
        let error = Leaf::parse(&certificate).expect_err(problem).to_string();
        assert!(error.contains(problem), "{problem}: {error}");
    }
    // A subject beside the names, an unknown extension that is not critical, and no extended key usage pass.
    let mut params = leaf();
    params.distinguished_name.push(DnType::OrganizationName, "example");
    params.extended_key_usages.clear();
    params
        .custom_extensions
        .push(CustomExtension::from_oid_content(&[1, 2, 3, 4], vec![5, 0]));
    assert!(Leaf::parse(&der(&params, &signer)).is_ok());
}

#[test]
fn an_authority_is_a_ca_without_a_path() {
    let signer = Signer::p384();
    let certificate = der(&authority(), &signer);
    let parsed = Authority::parse(&certificate).unwrap();
    assert_eq!(parsed.spiffe_id.as_ref().unwrap().as_str(), "spiffe://example.org");
    assert_eq!(parsed.path_len, Some(1));
    assert!(Leaf::parse(&certificate).is_err());

    type Change = fn(&mut CertificateParams);
    let table: Vec<(&str, Change)> = vec![
        ("must be a CA", |p| p.is_ca = IsCa::ExplicitNoCa),
        ("keyCertSign must be set", |p| {
            p.key_usages = vec![KeyUsagePurpose::CrlSign]
        }),
        ("must not have a path", |p| {
            p.subject_alt_names = vec![uri("spiffe://example.org/a")]
        }),
        ("2 URI names", |p| p.subject_alt_names.push(uri("spiffe://example.com"))),
    ];
    for (problem, change) in table {
        let mut params = authority();
        change(&mut params);
        let error = Authority::parse(&der(&params, &signer)).expect_err(problem).to_string();
        assert!(error.contains(problem), "{problem}: {error}");
    }
    let mut params = authority();
    params.subject_alt_names.clear();
    assert_eq!(Authority::parse(&der(&params, &signer)).unwrap().spiffe_id, None);
}

#[test]
fn bytes_that_follow_and_bytes_beyond_the_limit_are_refused() {
    let signer = Signer::p256();
    let certificate = der(&leaf(), &signer);
    let follows = [certificate.clone(), vec![0]].concat();
    assert!(matches!(
        Leaf::parse(&follows),
        Err(E::Malformed {
            what: "bytes follow it"
        })
    ));
    assert!(matches!(
        Leaf::parse(&vec![0x30; 65_537]),
        Err(E::TooLong { length: 65_537 })
    ));
    for end in 0..certificate.len() {
        assert!(Leaf::parse(&certificate[..end]).is_err());
    }
}
