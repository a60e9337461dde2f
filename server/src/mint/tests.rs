//! The encoders against rcgen, and the check against damage.

use std::net::IpAddr;

use mintmark_identity::{JwsAlg, KeyId, PublicKey, Serial, SpiffeId, TrustDomain};
use proptest::prelude::*;
use rcgen::string::Ia5String;
use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair,
    KeyUsagePurpose, PublicKeyData, SanType, SerialNumber, SubjectPublicKeyInfo,
};
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::authority::{self, AuthoritySpec};
use super::jws::{self, JwsTemplate, JwtSpec, TokenType, UnsignedJws, WitSpec};
use super::x509::{self, SignatureAlgorithm, Template, UnsignedX509, X509Spec};
use super::{Validity, check};

/// An authority made by rcgen alone.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    template: Template,
}

impl Authority {
    fn new(algorithm: SignatureAlgorithm) -> Self {
        let key = KeyPair::generate_for(match algorithm {
            SignatureAlgorithm::EcdsaP256 => &rcgen::PKCS_ECDSA_P256_SHA256,
            SignatureAlgorithm::EcdsaP384 => &rcgen::PKCS_ECDSA_P384_SHA384,
        })
        .unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "Mintmark");
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.not_before = OffsetDateTime::from_unix_timestamp(0).unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let template = Template::new(certificate.der(), algorithm).unwrap();
        Self {
            issuer: Issuer::new(params, key),
            template,
        }
    }

    /// The same certificate as the encoder's, by rcgen.
    fn by_rcgen(&self, spec: &X509Spec<'_>, serial: Serial) -> Vec<u8> {
        let at = |unix| OffsetDateTime::from_unix_timestamp(unix).unwrap();
        let mut params = CertificateParams::default();
        params.not_before = at(spec.validity.not_before);
        params.not_after = at(spec.validity.not_after);
        params.serial_number = Some(SerialNumber::from_slice(serial.as_bytes()));
        params.subject_alt_names = vec![SanType::URI(Ia5String::try_from(spec.spiffe_id.as_str()).unwrap())];
        let dns = spec
            .dns_names
            .iter()
            .map(|name| SanType::DnsName(Ia5String::try_from(name.as_str()).unwrap()));
        params
            .subject_alt_names
            .extend(dns.chain(spec.ip_addresses.iter().copied().map(SanType::IpAddress)));
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "Mintmark");
        if let Some(name) = spec.dns_names.first().filter(|name| name.len() <= 64) {
            params.distinguished_name.push(DnType::CommonName, name.as_str());
        }
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        if spec.public_key.kind() == mintmark_identity::KeyKind::Rsa {
            params.key_usages.push(KeyUsagePurpose::KeyEncipherment);
        }
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        params.key_identifier_method = KeyIdMethod::PreSpecified(spec.public_key.subject_key_id().to_vec());
        let public = SubjectPublicKeyInfo::from_der(spec.public_key.spki_der()).unwrap();
        let certificate = params.signed_by(&public, &self.issuer).unwrap();
        let (_, parsed) = X509Certificate::from_der(certificate.der()).unwrap();
        parsed.tbs_certificate.as_ref().to_vec()
    }
}

/// One key of each kind; made once, since RSA keys take long.
fn keys() -> &'static [PublicKey] {
    static KEYS: std::sync::OnceLock<Vec<PublicKey>> = std::sync::OnceLock::new();
    KEYS.get_or_init(|| {
        let ecdsa = [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384];
        let mut keys: Vec<_> = ecdsa
            .into_iter()
            .map(|kind| KeyPair::generate_for(kind).unwrap().subject_public_key_info())
            .collect();
        let rsa = rsa::RsaPrivateKey::new(&mut rand::rngs::OsRng, 2_048)
            .unwrap()
            .to_public_key();
        keys.push(rsa::pkcs8::EncodePublicKey::to_public_key_der(&rsa).unwrap().into_vec());
        keys.iter()
            .map(|spki| PublicKey::from_spki_der(spki).unwrap())
            .collect()
    })
}

fn validity(not_before: i64, life: i64) -> Validity {
    Validity {
        not_before,
        not_after: not_before + life,
    }
}

fn serial(index: u64) -> Serial {
    Serial::new(7, index, *b"random bits").unwrap()
}

fn spiffe_ids() -> impl Strategy<Value = SpiffeId> {
    (
        "[a-z0-9][a-z0-9.-]{0,60}",
        prop::collection::vec("[a-zA-Z0-9_-]{1,60}", 1..30),
    )
        .prop_map(|(domain, path)| {
            SpiffeId::new(&TrustDomain::parse(&domain).unwrap(), &format!("/{}", path.join("/"))).unwrap()
        })
}

fn dns_names() -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec("[a-z0-9]([a-z0-9-]{0,40}[a-z0-9])?(\\.[a-z]{1,20}){0,4}", 0..6)
}

proptest! {
    #[test]
    fn a_certificate_is_byte_for_byte_what_rcgen_makes_of_the_same_order_and_passes_the_check(
        spiffe_id in spiffe_ids(), dns_names in dns_names(), ip_addresses in prop::collection::vec(any::<IpAddr>(), 0..3),
        key in 0_usize..3, p384: bool, not_before in 0_i64..4_000_000_000, life in 1_i64..1_000_000_000, index in 0..=Serial::MAX_INDEX,
    ) {
        let authority = Authority::new(if p384 { SignatureAlgorithm::EcdsaP384 } else { SignatureAlgorithm::EcdsaP256 });
        let spec = X509Spec {
            spiffe_id: &spiffe_id, public_key: &keys()[key], dns_names: &dns_names, ip_addresses: &ip_addresses,
            validity: validity(not_before, life),
        };
        let unsigned = x509::encode(&authority.template, &spec, serial(index));
        prop_assert_eq!(unsigned.tbs(), authority.by_rcgen(&spec, serial(index)));
        let checked = check::x509(&authority.template, &spec, &unsigned).unwrap();
        prop_assert_eq!(checked.serial(), serial(index));
    }

    #[test]
    fn tokens_pass_the_check(
        spiffe_id in spiffe_ids(), audience in prop::collection::vec("\\PC{1,40}", 1..5), issuer in prop::option::of("https://[a-z/]{1,30}"),
        key in 0_usize..3, issued_at in 0_i64..4_000_000_000, life in 1_i64..1_000_000, index in 0..=Serial::MAX_INDEX,
    ) {
        let key_id = keys()[0].key_id();
        let expires_at = issued_at + life;
        let template = JwsTemplate::new(TokenType::Jwt, JwsAlg::Es256, key_id.clone());
        let spec = JwtSpec { spiffe_id: &spiffe_id, audience: &audience, issuer: issuer.as_deref(), issued_at, expires_at };
        let unsigned = jws::encode_jwt(&template, &spec, serial(index));
        prop_assert_eq!(check::jwt(&template, &spec, &unsigned).unwrap().serial(), serial(index));

        let template = JwsTemplate::new(TokenType::Wit, JwsAlg::Es256, key_id);
        let spec = WitSpec { spiffe_id: &spiffe_id, public_key: &keys()[key], issued_at, expires_at };
        let unsigned = jws::encode_wit(&template, &spec, serial(index));
        prop_assert_eq!(check::wit(&template, &spec, &unsigned).unwrap().serial(), serial(index));
    }
}

fn id(text: &str) -> SpiffeId {
    SpiffeId::parse(text).unwrap()
}

#[test]
fn no_bit_of_a_certificate_can_change_unseen() {
    let authority = Authority::new(SignatureAlgorithm::EcdsaP256);
    let (spiffe_id, dns_names) = (id("spiffe://example.org/a"), ["db.example.org".to_owned()]);
    let spec = X509Spec {
        spiffe_id: &spiffe_id,
        public_key: &keys()[0],
        dns_names: &dns_names,
        ip_addresses: &[],
        validity: validity(1_700_000_000, 3_600),
    };
    let unsigned = x509::encode(&authority.template, &spec, serial(1));
    for at in 0..unsigned.tbs.len() {
        for bit in 0..8 {
            let mut tbs = unsigned.tbs.clone();
            tbs[at] ^= 1 << bit;
            let damaged = UnsignedX509 {
                tbs,
                serial: unsigned.serial,
            };
            assert!(
                check::x509(&authority.template, &spec, &damaged).is_err(),
                "bit {bit} of byte {at}"
            );
        }
    }
    let longer = UnsignedX509 {
        tbs: [&*unsigned.tbs, b"\0"].concat(),
        serial: unsigned.serial,
    };
    assert!(check::x509(&authority.template, &spec, &longer).is_err());
}

#[test]
fn no_bit_of_an_authority_certificate_can_change_unseen() {
    let trust_domain = TrustDomain::parse("example.org").unwrap();
    for public_key in &keys()[..2] {
        let spec = AuthoritySpec {
            trust_domain: &trust_domain,
            public_key,
            validity: validity(1_700_000_000, 86_400),
        };
        let unsigned = authority::encode(&spec, serial(1)).unwrap();
        assert_eq!(check::authority(&spec, &unsigned).unwrap().serial(), serial(1));
        for at in 0..unsigned.tbs.len() {
            let mut tbs = unsigned.tbs.clone();
            tbs[at] ^= 1;
            let damaged = UnsignedX509 {
                tbs,
                serial: unsigned.serial,
            };
            assert!(check::authority(&spec, &damaged).is_err(), "byte {at}");
        }
    }
}

#[test]
fn a_certificate_that_breaks_a_rule_is_named_with_the_rule() {
    let authority = Authority::new(SignatureAlgorithm::EcdsaP256);
    let (workload, root) = (id("spiffe://example.org/a"), id("spiffe://example.org"));
    let good = X509Spec {
        spiffe_id: &workload,
        public_key: &keys()[0],
        dns_names: &[],
        ip_addresses: &[],
        validity: validity(1_700_000_000, 3_600),
    };
    let wildcard = ["a.*.org".to_owned()];
    let long = validity(1_700_000_000, 80_000_000_000);
    let broken = [
        (
            X509Spec {
                spiffe_id: &root,
                ..good
            },
            "X509-SVID §3.1",
        ),
        (
            X509Spec {
                dns_names: &wildcard,
                ..good
            },
            "RFC 5280 §4.2.1.6",
        ),
        (X509Spec { validity: long, ..good }, "RFC 5280 §6.1.3"),
        (
            X509Spec {
                validity: validity(1_700_000_000, 0),
                ..good
            },
            "the order",
        ),
    ];
    for (spec, rule) in broken {
        let unsigned = x509::encode(&authority.template, &spec, serial(1));
        assert_eq!(
            check::x509(&authority.template, &spec, &unsigned).unwrap_err().rule,
            rule
        );
    }
    let unsigned = x509::encode(&authority.template, &good, serial(1));
    let other = X509Spec {
        public_key: &keys()[1],
        ..good
    };
    assert_eq!(
        check::x509(&authority.template, &other, &unsigned).unwrap_err().rule,
        "the order"
    );
    let other = Authority::new(SignatureAlgorithm::EcdsaP256);
    assert!(check::x509(&other.template, &good, &unsigned).is_err());
}

#[test]
fn a_token_that_breaks_a_rule_is_named_with_the_rule() {
    use base64::Engine as _;
    let encode = |part: &str| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(part);
    let template = JwsTemplate::new(TokenType::Jwt, JwsAlg::Es256, KeyId::parse("k1").unwrap());
    let (spiffe_id, audience) = (id("spiffe://example.org/a"), ["b".to_owned()]);
    let spec = JwtSpec {
        spiffe_id: &spiffe_id,
        audience: &audience,
        issuer: None,
        issued_at: 10,
        expires_at: 20,
    };
    let header = r#"{"alg":"ES256","kid":"k1","typ":"JWT"}"#;
    let jti = serial(1).jti();
    let claims = format!(r#"{{"aud":["b"],"exp":20,"iat":10,"jti":"{jti}","sub":"spiffe://example.org/a"}}"#);
    let check = |header: &str, claims: &str| {
        let signing_input = format!("{}.{}", encode(header), encode(claims));
        check::jwt(
            &template,
            &spec,
            &UnsignedJws {
                signing_input,
                jti: serial(1),
            },
        )
        .map_err(|error| error.rule)
    };
    assert_eq!(check(header, &claims).unwrap().serial(), serial(1));
    assert_eq!(
        jws::encode_jwt(&template, &spec, serial(1)).signing_input(),
        format!("{}.{}", encode(header), encode(&claims)).as_bytes()
    );
    let headers = [
        (r#"{"alg":"none","kid":"k1","typ":"JWT"}"#, "JWT-SVID §2.1"),
        (r#"{"alg":"ES256","kid":"k2","typ":"JWT"}"#, "JWT-SVID §2.2"),
        (r#"{"alg":"ES256","kid":"k1","typ":"wit+jwt"}"#, "JWT-SVID §2.3"),
        (r#"{"alg":"ES256","kid":"k1","typ":"JWT","jku":"x"}"#, "JWT-SVID §2"),
        (r#"{"alg":"ES256","alg":"ES256","kid":"k1","typ":"JWT"}"#, "JWT-SVID §2"),
        (r#"{"alg":"ES256","typ":"JWT"}"#, "JWT-SVID §2"),
    ];
    for (header, rule) in headers {
        assert_eq!(check(header, &claims).unwrap_err(), rule, "{header}");
    }
    let bodies = [
        (claims.replace(r#""aud":["b"]"#, r#""aud":[]"#), "JWT-SVID §3.2"),
        (claims.replace(r#""aud":["b"]"#, r#""aud":["c"]"#), "the order"),
        (claims.replace(r#""aud":["b"],"#, ""), "RFC 7519 §7.1"),
        (claims.replace(r#""exp":20,"#, ""), "RFC 7519 §7.1"),
        (claims.replace(r#""exp":20"#, r#""exp":21"#), "JWT-SVID §3.3"),
        (claims.replace("example.org/a", "example.org/b"), "JWT-SVID §3.1"),
        (claims.replace(&jti, "x"), "the order"),
        (claims.replace('{', r#"{"admin":true,"#), "RFC 7519 §7.1"),
    ];
    for (claims, rule) in bodies {
        assert_eq!(check(header, &claims).unwrap_err(), rule, "{claims}");
    }
}

#[test]
fn a_wit_svid_has_no_audience_and_its_key_with_the_algorithm() {
    use base64::Engine as _;
    let template = JwsTemplate::new(TokenType::Wit, JwsAlg::Es256, KeyId::parse("k1").unwrap());
    let spiffe_id = id("spiffe://example.org/a");
    for (key, (kty, alg)) in keys().iter().zip([("EC", "ES256"), ("EC", "ES384"), ("RSA", "RS256")]) {
        let spec = WitSpec {
            spiffe_id: &spiffe_id,
            public_key: key,
            issued_at: 10,
            expires_at: 20,
        };
        let unsigned = jws::encode_wit(&template, &spec, serial(1));
        let input = std::str::from_utf8(unsigned.signing_input()).unwrap();
        let (header, claims) = input.split_once('.').unwrap();
        let decode = |part: &str| -> serde_json::Value {
            serde_json::from_slice(&base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
        };
        assert_eq!(
            decode(header),
            serde_json::json!({"alg": "ES256", "kid": "k1", "typ": "wit+jwt"})
        );
        let claims = decode(claims);
        let names: Vec<_> = claims.as_object().unwrap().keys().cloned().collect();
        assert_eq!(names, ["cnf", "exp", "iat", "jti", "sub"]);
        assert_eq!(
            (
                claims["cnf"]["jwk"]["kty"].as_str(),
                claims["cnf"]["jwk"]["alg"].as_str()
            ),
            (Some(kty), Some(alg))
        );
        let other = keys().iter().find(|other| *other != key).unwrap();
        let other = WitSpec {
            public_key: other,
            ..spec
        };
        assert_eq!(
            check::wit(&template, &other, &unsigned).unwrap_err().rule,
            "WIT-SVID §3"
        );
    }
}
