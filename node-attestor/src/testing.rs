//! Helpers of tests: an authority that signs as the server does, and entries.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use mintmark_identity::{SpiffeId, TrustDomain};
use mintmark_proto::attestor::{KeyBinding, SignResult};
use mintmark_proto::spire::types;
use mintmark_runtime::clock::{Clock, from_unix_ms};
use mintmark_runtime::tls::Credential;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, SanType, SerialNumber, SubjectPublicKeyInfo,
};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::sync::{Semaphore, watch};
use tonic::Code;

use crate::keep::{NewKey, Upstream, UpstreamError};

/// When the tests with a manual clock take place.
pub(crate) const NOW: i64 = 1_800_000_000;

/// The life of an X.509-SVID that [`Script`] signs.
pub(crate) const TTL: i64 = 3200;

static SERIAL: AtomicU64 = AtomicU64::new(1);

/// Everything that signs in one trust domain.
pub(crate) struct Authority {
    pub(crate) trust_domain: TrustDomain,
    issuer: CertifiedIssuer<'static, KeyPair>,
    token_key: NewKey,
    key_id: String,
}

impl Authority {
    pub(crate) fn new(trust_domain: &str) -> Self {
        let number = SERIAL.fetch_add(1, Ordering::Relaxed);
        let mut params = params(&format!("spiffe://{trust_domain}"), 1_600_000_000, 4_000_000_000);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.extended_key_usages.clear();
        Self {
            issuer: CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap(),
            trust_domain: TrustDomain::parse(trust_domain).unwrap(),
            token_key: NewKey::generate(),
            key_id: format!("key-{number}"),
        }
    }

    pub(crate) fn id(&self, path: &str) -> SpiffeId {
        SpiffeId::new(&self.trust_domain, path).unwrap()
    }

    pub(crate) fn der(&self) -> Bytes {
        Bytes::copy_from_slice(self.issuer.der())
    }

    pub(crate) fn pem(&self) -> String {
        self.issuer.pem()
    }

    pub(crate) fn leaf_pem(&self, path: &str) -> String {
        let key = KeyPair::generate().unwrap();
        params(self.id(path).as_str(), NOW, NOW + 60)
            .signed_by(&key, &self.issuer)
            .unwrap()
            .pem()
    }

    /// A certificate for a public key.
    pub(crate) fn svid(&self, id: &str, spki: &[u8], not_before: i64, not_after: i64) -> Bytes {
        let key = SubjectPublicKeyInfo::from_der(spki).unwrap();
        Bytes::copy_from_slice(
            params(id, not_before, not_after)
                .signed_by(&key, &self.issuer)
                .unwrap()
                .der(),
        )
    }

    /// What a program of this trust domain shows.
    pub(crate) fn credential(&self, path: &str, not_before: i64, not_after: i64) -> Credential {
        let key = NewKey::generate();
        let der = self.svid(self.id(path).as_str(), &key.spki, not_before, not_after);
        let credential = Credential::empty();
        let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.pkcs8.to_vec()));
        credential.set(vec![der.to_vec().into()], private).unwrap();
        credential
    }

    /// Answers one key of a link.
    pub(crate) fn sign(&self, binding: &KeyBinding, id: &str, now: i64, ttl: i64) -> SignResult {
        SignResult {
            entry_id: binding.entry_id.clone(),
            cert_chain: vec![self.svid(id, &binding.public_key, now - 1, now + ttl)],
            expires_at: now + ttl,
            ..SignResult::default()
        }
    }

    pub(crate) fn jwt(&self, id: &str, audience: &[String], now: i64, ttl: i64) -> String {
        let claims = serde_json::json!({ "sub": id, "aud": audience, "iat": now, "exp": now + ttl, "jti": SERIAL.fetch_add(1, Ordering::Relaxed).to_string() });
        self.token("JWT", &claims)
    }

    pub(crate) fn wit(&self, id: &str, spki: &[u8], now: i64, ttl: i64) -> String {
        let jwk = mintmark_identity::jwk::Jwk::from_spki(spki)
            .unwrap()
            .with_algorithm(mintmark_identity::JwsAlg::Es256);
        let claims = serde_json::json!({ "sub": id, "cnf": { "jwk": jwk }, "iat": now, "exp": now + ttl });
        self.token("wit+jwt", &claims)
    }

    fn token(&self, typ: &str, claims: &serde_json::Value) -> String {
        let header = serde_json::json!({ "alg": "ES256", "kid": self.key_id, "typ": typ });
        let part = |json: &serde_json::Value| URL_SAFE_NO_PAD.encode(json.to_string());
        let signed = format!("{}.{}", part(&header), part(claims));
        let random = SystemRandom::new();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &self.token_key.pkcs8, &random).unwrap();
        let signature = pair.sign(&random, signed.as_bytes()).unwrap();
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    /// The bundle of these authorities of one trust domain; `tainted` are to be replaced.
    pub(crate) fn bundle(sequence: u64, authorities: &[&Self], tainted: &[&Self]) -> types::Bundle {
        let is_tainted = |one: &&&Self| tainted.iter().any(|other| std::ptr::eq(*other, **one));
        types::Bundle {
            trust_domain: authorities[0].trust_domain.to_string(),
            sequence_number: sequence,
            refresh_hint: 60,
            x509_authorities: authorities
                .iter()
                .map(|one| types::X509Certificate {
                    asn1: one.der(),
                    tainted: is_tainted(&one),
                })
                .collect(),
            jwt_authorities: authorities
                .iter()
                .map(|one| types::JwtKey {
                    public_key: one.token_key.spki.clone(),
                    key_id: one.key_id.clone(),
                    expires_at: 0,
                    tainted: is_tainted(&one),
                })
                .collect(),
            wit_authorities: authorities
                .iter()
                .map(|one| types::WitKey {
                    public_key: one.token_key.spki.clone(),
                    key_id: format!("{}-wit", one.key_id),
                    expires_at: 0,
                    tainted: is_tainted(&one),
                })
                .collect(),
        }
    }
}

fn params(uri: &str, not_before: i64, not_after: i64) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let number = SERIAL.fetch_add(1, Ordering::Relaxed);
    params
        .distinguished_name
        .push(DnType::CommonName, format!("{uri} {number}"));
    params.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())];
    params.serial_number = Some(SerialNumber::from_slice(
        &SERIAL.fetch_add(1, Ordering::Relaxed).to_be_bytes(),
    ));
    params.not_before = from_unix_ms(not_before * 1000).into();
    params.not_after = from_unix_ms(not_after * 1000).into();
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    params
}

/// An entry for whoever has `selector`.
pub(crate) fn entry(id: &str, path: &str, selector: &str) -> types::Entry {
    let (kind, value) = selector.split_once(':').unwrap();
    types::Entry {
        id: id.into(),
        spiffe_id: Some(types::Spiffeid {
            trust_domain: "example.org".into(),
            path: path.into(),
        }),
        parent_id: Some(types::Spiffeid {
            trust_domain: "example.org".into(),
            path: "/spire/agent/x/1".into(),
        }),
        selectors: vec![types::Selector {
            r#type: kind.into(),
            value: value.into(),
        }],
        ..types::Entry::default()
    }
}

/// What the server does.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Mood {
    Signs,
    Refuses(Code),
    IsGone,
}

/// A server that does what the test says.
pub(crate) struct Script {
    pub(crate) authority: Mutex<Arc<Authority>>,
    pub(crate) clock: Clock,
    pub(crate) mood: Mutex<Mood>,
    pub(crate) up: watch::Sender<bool>,
    /// How many keys each message had.
    pub(crate) messages: Mutex<Vec<usize>>,
    pub(crate) tokens: AtomicUsize,
    /// Where there is one, JWT-SVIDs are signed and then wait for a permit.
    pub(crate) gate: Mutex<Option<Arc<Semaphore>>>,
}

impl Script {
    /// A server that signs, with `authority`.
    pub(crate) fn new(authority: Authority, clock: Clock) -> Self {
        Self {
            authority: Mutex::new(Arc::new(authority)),
            clock,
            mood: Mutex::new(Mood::Signs),
            up: watch::Sender::new(true),
            messages: Mutex::default(),
            tokens: AtomicUsize::new(0),
            gate: Mutex::default(),
        }
    }

    fn check(&self) -> Result<(), UpstreamError> {
        match *self.mood.lock().unwrap() {
            Mood::Signs => Ok(()),
            Mood::Refuses(code) => Err(UpstreamError::Refused {
                code,
                message: "the test says no".into(),
            }),
            Mood::IsGone => Err(UpstreamError::Down(None)),
        }
    }

    fn id(entry: &str) -> String {
        format!("spiffe://example.org/{entry}")
    }
}

#[async_trait]
impl Upstream for Script {
    fn is_up(&self) -> watch::Receiver<bool> {
        self.up.subscribe()
    }

    async fn x509(&self, keys: Vec<KeyBinding>) -> Result<Vec<SignResult>, UpstreamError> {
        self.messages.lock().unwrap().push(keys.len());
        let authority = self.authority.lock().unwrap().clone();
        let sign = |key: &KeyBinding| match self.check() {
            Ok(()) => Ok(authority.sign(key, &Self::id(&key.entry_id), self.clock.unix(), TTL)),
            Err(UpstreamError::Refused { code, message }) => {
                let code = u32::try_from(i32::from(code)).unwrap();
                Ok(SignResult {
                    entry_id: key.entry_id.clone(),
                    code,
                    message,
                    ..SignResult::default()
                })
            }
            Err(error) => Err(error),
        };
        keys.iter().map(sign).collect()
    }

    async fn jwt(&self, entry_id: &str, audience: Vec<String>) -> Result<types::Jwtsvid, UpstreamError> {
        self.tokens.fetch_add(1, Ordering::Relaxed);
        self.check()?;
        let authority = self.authority.lock().unwrap().clone();
        let token = authority.jwt(&Self::id(entry_id), &audience, self.clock.unix(), 300);
        let gate = self.gate.lock().unwrap().clone();
        if let Some(gate) = gate {
            gate.acquire().await.unwrap().forget();
        }
        Ok(types::Jwtsvid {
            token,
            ..types::Jwtsvid::default()
        })
    }

    async fn wit(
        &self,
        keys: Vec<(String, Bytes)>,
    ) -> Result<Vec<Result<types::Witsvid, UpstreamError>>, UpstreamError> {
        let authority = self.authority.lock().unwrap().clone();
        let sign = |(entry, spki): &(String, Bytes)| {
            self.check()?;
            let token = authority.wit(&Self::id(entry), spki, self.clock.unix(), 300);
            Ok(types::Witsvid {
                token,
                ..types::Witsvid::default()
            })
        };
        Ok(keys.iter().map(sign).collect())
    }
}
