//! The reference trust domain: who signs, and every document it signs, with the faults that documents can have.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType, SerialNumber,
};
use ring::{
    hmac,
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _},
};
use serde_json::{Value, json};

use crate::breakage::Breakage;

/// Everything that the reference server serves, made at its start.
pub(crate) struct World {
    pub(crate) broken: Option<Breakage>,
    pub(crate) trust_domain: String,
    pub(crate) ids: [String; 2],
    pub(crate) authority: Authority,
    pub(crate) friend: Authority,
    pub(crate) jwt: TokenKey,
    pub(crate) wit: TokenKey,
    /// A key that nobody publishes.
    pub(crate) unknown: TokenKey,
    pub(crate) jwt_ttl: i64,
}

impl World {
    pub(crate) fn new(broken: Option<Breakage>) -> Self {
        let trust_domain = match broken {
            Some(Breakage::IdWithUpperCaseTrustDomain) => "Reference.test".to_owned(),
            Some(Breakage::IdWithLongTrustDomain) => "r".repeat(256),
            _ => "reference.test".to_owned(),
        };
        let first = match broken {
            Some(Breakage::IdWithQuery) => "first?second".to_owned(),
            Some(Breakage::IdWithEmptySegment) => "first//x".to_owned(),
            Some(Breakage::IdTooLong) => "f".repeat(2048),
            _ => "first".to_owned(),
        };
        Self {
            broken,
            ids: [
                format!("spiffe://{trust_domain}/{first}"),
                format!("spiffe://{trust_domain}/second"),
            ],
            authority: Authority::new(&trust_domain, broken),
            friend: Authority::new("friend.test", None),
            trust_domain,
            jwt: TokenKey::new("jwt-1"),
            wit: TokenKey::new(if broken == Some(Breakage::EndpointSharedKid) {
                "jwt-1"
            } else {
                "wit-1"
            }),
            unknown: TokenKey::new("unknown"),
            jwt_ttl: 300,
        }
    }

    pub(crate) fn is(&self, breakage: Breakage) -> bool {
        self.broken == Some(breakage)
    }

    /// The trust domain as an ID.
    pub(crate) fn id(&self) -> String {
        format!("spiffe://{}", self.trust_domain)
    }

    /// A leaf for an identity: the chain and the PKCS#8 key.
    pub(crate) fn leaf(&self, id: &str) -> (Vec<u8>, Vec<u8>) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.serial_number = Some(SerialNumber::from(7_u64));
        let now = rcgen_now();
        (params.not_before, params.not_after) = (now - days(1), now + days(1));
        params.subject_alt_names = vec![uri(id)];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.is_ca = IsCa::ExplicitNoCa;
        self.spoil_leaf(&mut params, id);
        let issuer = match self.broken {
            // Same name, another key.
            Some(Breakage::ForeignAuthority) => Authority::new(&self.trust_domain, None).issuer(),
            _ => self.authority.issuer(),
        };
        let chain = params.signed_by(&key, &issuer).unwrap().der().to_vec();
        let key = if self.is(Breakage::WrongKey) {
            KeyPair::generate().unwrap()
        } else {
            key
        };
        let pkcs8 = key.serialize_der();
        match self.broken {
            Some(Breakage::PemChain) => (pem("CERTIFICATE", chain), pkcs8),
            Some(Breakage::PemKey) => (chain, pem("PRIVATE KEY", pkcs8)),
            Some(Breakage::Sec1Key) => (chain, sec1(&pkcs8)),
            _ => (chain, pkcs8),
        }
    }

    fn spoil_leaf(&self, params: &mut CertificateParams, id: &str) {
        match self.broken {
            Some(Breakage::TwoUriSans) => params.subject_alt_names.push(uri(&format!("{id}/other"))),
            Some(Breakage::NoUriSan) => {
                params.subject_alt_names = vec![SanType::DnsName("reference.test".try_into().unwrap())]
            }
            Some(Breakage::RootPathLeaf) => params.subject_alt_names = vec![uri(&self.id())],
            Some(Breakage::UncriticalSan) => {
                params.subject_alt_names.clear();
                let name = [&[0x86, u8::try_from(id.len()).unwrap()], id.as_bytes()].concat();
                let names = [&[0x30, u8::try_from(name.len()).unwrap()], &name[..]].concat();
                params
                    .custom_extensions
                    .push(CustomExtension::from_oid_content(&[2, 5, 29, 17], names));
            }
            Some(Breakage::NoDigitalSignature) => params.key_usages = vec![KeyUsagePurpose::KeyEncipherment],
            Some(Breakage::KeyCertSignOnLeaf) => params.key_usages.push(KeyUsagePurpose::KeyCertSign),
            Some(Breakage::NoKeyUsage) => params.key_usages.clear(),
            Some(Breakage::UncriticalKeyUsage) => {
                params.key_usages.clear();
                params
                    .custom_extensions
                    .push(CustomExtension::from_oid_content(&[2, 5, 29, 15], vec![3, 2, 7, 0x80]));
            }
            Some(Breakage::LeafIsAuthority) => params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained),
            Some(Breakage::OnlyServerAuth) => params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth],
            Some(Breakage::NoExtendedUsage) => params.extended_key_usages.clear(),
            Some(Breakage::ExpiredLeaf) => params.not_after = rcgen_now() - days(1) / 2,
            _ => {}
        }
    }

    /// A JWT-SVID.
    pub(crate) fn jwt(&self, id: &str, audience: &[String], issuer: &str) -> String {
        let now = now();
        let mut header = json!({ "alg": "ES256", "kid": self.jwt.kid, "typ": "JWT" });
        let mut claims = json!({
            "sub": id, "aud": audience, "exp": now + self.jwt_ttl, "iat": now, "nbf": now, "iss": issuer, "jti": "1",
        });
        match self.broken {
            Some(Breakage::JwtNoKid) => remove(&mut header, "kid"),
            Some(Breakage::JwtUnknownKid) => header["kid"] = json!("lost"),
            Some(Breakage::JwtAlgNone) => header["alg"] = json!("none"),
            Some(Breakage::JwtAlgHmac) => header["alg"] = json!("HS256"),
            Some(Breakage::JwtExtraHeader) => header["jku"] = json!("https://reference.test/keys"),
            Some(Breakage::JwtTyp) => header["typ"] = json!("at+jwt"),
            Some(Breakage::JwtNoAudience) => remove(&mut claims, "aud"),
            Some(Breakage::JwtMoreAudience) => claims["aud"].as_array_mut().unwrap().push(json!("everybody")),
            Some(Breakage::JwtNoExpiry) => remove(&mut claims, "exp"),
            Some(Breakage::JwtExpired) => claims["exp"] = json!(now - 3600),
            Some(Breakage::JwtNotYet) => claims["nbf"] = json!(now + 3600),
            Some(Breakage::JwtNoSubject) => remove(&mut claims, "sub"),
            Some(Breakage::JwtNoIssuer) => remove(&mut claims, "iss"),
            _ => {}
        }
        let message = message(&header, &claims);
        match self.broken {
            Some(Breakage::JwtAlgNone) => format!("{message}."),
            Some(Breakage::JwtAlgHmac) => {
                let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, b"secret"), message.as_bytes());
                format!("{message}.{}", encode(tag.as_ref()))
            }
            Some(Breakage::JwtInJson) => {
                let (protected, payload) = message.split_once('.').unwrap();
                let signature = self.jwt.sign(&message);
                json!({ "protected": protected, "payload": payload, "signature": signature }).to_string()
            }
            _ => format!("{message}.{}", self.jwt.sign(&message)),
        }
    }

    /// A WIT-SVID and its private JWK.
    pub(crate) fn wit(&self, id: &str) -> (String, String) {
        let holder = TokenKey::new("holder");
        let mut header = json!({ "alg": "ES256", "kid": self.wit.kid, "typ": "wit+jwt" });
        let mut jwk = holder.public_jwk(None);
        jwk["alg"] = json!("ES256");
        let mut private = holder.public_jwk(None);
        private["d"] = json!(encode(&holder.d));
        let mut claims = json!({ "sub": id, "exp": now() + 3600, "iat": now(), "jti": "1", "cnf": { "jwk": jwk } });
        match self.broken {
            Some(Breakage::WitTyp) => header["typ"] = json!("JWT"),
            Some(Breakage::WitNoKid) => remove(&mut header, "kid"),
            Some(Breakage::WitExtraHeader) => header["x"] = json!(1),
            Some(Breakage::WitWithAudience) => claims["aud"] = json!("somebody"),
            Some(Breakage::WitNoCnf) => remove(&mut claims, "cnf"),
            Some(Breakage::WitCnfNoAlg) => remove(&mut claims["cnf"]["jwk"], "alg"),
            Some(Breakage::WitCnfPrivate) => claims["cnf"]["jwk"]["d"] = private["d"].clone(),
            Some(Breakage::WitExpired) => claims["exp"] = json!(now() - 1),
            Some(Breakage::WitIssuer) => claims["iss"] = json!("https://oidc.reference.test"),
            Some(Breakage::WitWrongKey) => private["d"] = json!(encode(&TokenKey::new("other").d)),
            Some(Breakage::WitPublicKeyOnly) => remove(&mut private, "d"),
            _ => {}
        }
        let message = message(&header, &claims);
        let signer = if self.is(Breakage::WitForeignSignature) {
            &self.unknown
        } else {
            &self.wit
        };
        (format!("{message}.{}", signer.sign(&message)), private.to_string())
    }
}

/// A certificate authority.
pub(crate) struct Authority {
    key: Vec<u8>,
    name: String,
    pub(crate) der: Vec<u8>,
    /// The uncompressed point of its key.
    pub(crate) point: Vec<u8>,
}

impl Authority {
    fn new(trust_domain: &str, broken: Option<Breakage>) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut name = format!("authority of {trust_domain}");
        name.truncate(60);
        let mut params = Self::params(&name);
        params.subject_alt_names = vec![uri(&format!("spiffe://{trust_domain}"))];
        match broken {
            Some(Breakage::AuthorityWithoutCertSign) => params.key_usages = vec![KeyUsagePurpose::CrlSign],
            Some(Breakage::AuthorityIsNoCa) => params.is_ca = IsCa::ExplicitNoCa,
            Some(Breakage::AuthorityWithPath) => {
                params.subject_alt_names = vec![uri(&format!("spiffe://{trust_domain}/ca"))]
            }
            Some(Breakage::AuthorityWithoutId) => params.subject_alt_names.clear(),
            Some(Breakage::ConstrainedElsewhere) => params.custom_extensions.push(permitted("friend.test")),
            Some(Breakage::ConstrainedHere) => params.custom_extensions.push(permitted(trust_domain)),
            _ => {}
        }
        let der = match broken {
            Some(Breakage::EndpointIssuedAuthority) => {
                let root = KeyPair::generate().unwrap();
                params
                    .signed_by(&key, &Issuer::new(Self::params("a root elsewhere"), root))
                    .unwrap()
                    .der()
                    .to_vec()
            }
            _ => params.self_signed(&key).unwrap().der().to_vec(),
        };
        Self {
            point: key.public_key_raw().to_vec(),
            key: key.serialize_der(),
            name,
            der,
        }
    }

    fn params(name: &str) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.serial_number = Some(SerialNumber::from(1_u64));
        let now = rcgen_now();
        (params.not_before, params.not_after) = (now - days(2), now + days(2));
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params
    }

    /// Signs as it should, whatever its certificate says.
    fn issuer(&self) -> Issuer<'static, KeyPair> {
        Issuer::new(
            Self::params(&self.name),
            KeyPair::try_from(self.key.as_slice()).unwrap(),
        )
    }

    /// Its SPIFFE bundle entry.
    pub(crate) fn jwk(&self) -> Value {
        use base64::engine::general_purpose::STANDARD;
        let mut jwk = point_jwk(&self.point);
        jwk["use"] = json!("x509-svid");
        jwk["x5c"] = json!([STANDARD.encode(&self.der)]);
        jwk
    }
}

/// A P-256 key for tokens.
pub(crate) struct TokenKey {
    pub(crate) kid: String,
    pub(crate) point: Vec<u8>,
    d: Vec<u8>,
    key: EcdsaKeyPair,
}

impl TokenKey {
    pub(crate) fn new(kid: &str) -> Self {
        let random = SystemRandom::new();
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref(), &random).unwrap();
        // RFC 5915: the private key is the one octet string of 32 bytes.
        let start = pkcs8.as_ref().windows(2).position(|w| w == [0x04, 0x20]).unwrap() + 2;
        let d = pkcs8.as_ref()[start..start + 32].to_vec();
        Self {
            kid: kid.into(),
            point: key.public_key().as_ref().to_vec(),
            d,
            key,
        }
    }

    /// The signature of a message, base64url.
    pub(crate) fn sign(&self, message: &str) -> String {
        encode(self.key.sign(&SystemRandom::new(), message.as_bytes()).unwrap())
    }

    /// The public JWK, with `use` and `kid` where a use is given.
    pub(crate) fn public_jwk(&self, used: Option<&str>) -> Value {
        let mut jwk = point_jwk(&self.point);
        if let Some(used) = used {
            jwk["use"] = json!(used);
            jwk["kid"] = json!(self.kid);
        }
        jwk
    }

    /// The private part, for servers that leak it.
    pub(crate) fn private(&self) -> Value {
        json!(encode(&self.d))
    }
}

pub(crate) fn point_jwk(point: &[u8]) -> Value {
    json!({ "kty": "EC", "crv": "P-256", "x": encode(&point[1..33]), "y": encode(&point[33..]) })
}

pub(crate) fn remove(object: &mut Value, member: &str) {
    object.as_object_mut().unwrap().remove(member);
}

pub(crate) fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

pub(crate) fn now() -> i64 {
    rcgen_now().unix_timestamp()
}

pub(crate) fn pem(tag: &str, der: Vec<u8>) -> Vec<u8> {
    pem::encode(&pem::Pem::new(tag, der)).into_bytes()
}

fn message(header: &Value, claims: &Value) -> String {
    format!("{}.{}", encode(header.to_string()), encode(claims.to_string()))
}

fn uri(id: &str) -> SanType {
    SanType::URI(id.try_into().unwrap())
}

/// The inner EC key of a PKCS#8 document: its last octet string.
fn sec1(pkcs8: &[u8]) -> Vec<u8> {
    let start = pkcs8.windows(3).position(|w| w == [0x30, 0x6B, 0x02]).unwrap();
    pkcs8[start..].to_vec()
}

/// Name constraints that permit URIs of one host.
fn permitted(host: &str) -> CustomExtension {
    let wrap = |tag: u8, content: &[u8]| [&[tag, u8::try_from(content.len()).unwrap()], content].concat();
    let subtree = wrap(0x30, &wrap(0x86, host.as_bytes()));
    CustomExtension::from_oid_content(&[2, 5, 29, 30], wrap(0x30, &wrap(0xA0, &subtree)))
}

fn rcgen_now() -> time::OffsetDateTime {
    std::time::SystemTime::now().into()
}

fn days(n: i64) -> time::Duration {
    time::Duration::days(n)
}
