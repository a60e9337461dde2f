//! Making a new authority: its keys, its certificate, its line in the ledger.

use mintmark_identity::{KeyKind, PublicKey, Serial, TrustDomain};
use mintmark_proto::ledger::{Kind as LeafKind, Leaf};
use mintmark_runtime::clock::Clock;
use mintmark_runtime::crypto::random;
use mintmark_runtime::task::BlockingPool;
use prost::Message as _;

use super::keys::{PrivateKey, key_error};
use super::signer::sign_authority;
use super::state::{Bytes, KeyRecord, Record};
use super::{AuthorityConfig, AuthorityError, CaKey, KeyManager, Kind, Rs256, Slot};
use crate::ledger::Ledger;
use crate::mint::authority::{self as certificate, AuthoritySpec};
use crate::mint::{Validity, check};

/// The largest PEM file that is read for a key to import.
const MAX_PEM: u64 = 64 * 1024;

/// What it takes to make authorities.
pub(super) struct Maker {
    pub(super) ledger: Ledger,
    pub(super) keys: KeyManager,
    pub(super) clock: Clock,
    pub(super) config: AuthorityConfig,
    pub(super) trust_domain: TrustDomain,
    pool: BlockingPool,
}

impl Maker {
    pub(super) fn new(
        ledger: Ledger,
        keys: KeyManager,
        clock: Clock,
        config: AuthorityConfig,
        trust_domain: TrustDomain,
    ) -> Self {
        // RSA keys take long to make; there is never more than one to be made at a time.
        Self {
            ledger,
            keys,
            clock,
            config,
            trust_domain,
            pool: BlockingPool::new("authority-keys", 1, 8),
        }
    }

    /// A new authority that is in no slot of the state yet.
    pub(super) async fn make(&self, kind: Kind) -> Result<Record, AuthorityError> {
        match kind {
            Kind::X509 => self.x509().await,
            Kind::Jwt | Kind::Wit => self.tokens(kind).await,
        }
    }

    async fn x509(&self) -> Result<Record, AuthorityError> {
        let private = PrivateKey::ecdsa(match self.config.ca_key {
            CaKey::P256 => KeyKind::P256,
            CaKey::P384 => KeyKind::P384,
        })?;
        let validity = self.validity();
        let der = self.certificate(&private, validity).await?;
        let record = self.record(Kind::X509, validity, &[private])?;
        Ok(Record {
            certificate: Some(Bytes(der)),
            ..record
        })
    }

    /// Logged, checked and signed as every other certificate.
    async fn certificate(&self, private: &PrivateKey, validity: Validity) -> Result<Vec<u8>, AuthorityError> {
        let spec = AuthoritySpec {
            trust_domain: &self.trust_domain,
            public_key: &private.public,
            validity,
        };
        let now = self.clock.unix_ms();
        let mut failed = None;
        let logged = self.ledger.append(1, |slot| {
            let encoded = Serial::new(slot.log, slot.index(0), random())
                .map_err(|error| key_error("number", error))
                .and_then(|serial| {
                    let unsigned = certificate::encode(&spec, serial)?;
                    Ok((leaf(&spec, serial, unsigned.tbs(), now).encode_to_vec(), unsigned))
                });
            encoded.map_err(|error| failed = Some(error)).ok().into_iter().collect()
        });
        let logged = logged.await;
        if let Some(error) = failed {
            return Err(error);
        }
        let durable = logged?
            .pop()
            .ok_or_else(|| key_error("log", "the ledger gave nothing back"))?;
        let checked = check::authority(&spec, durable.get())?;
        sign_authority(&private.public, private.pkcs8.expose(), durable, checked)
    }

    async fn tokens(&self, kind: Kind) -> Result<Record, AuthorityError> {
        let mut keys = vec![PrivateKey::ecdsa(KeyKind::P256)?];
        if kind == Kind::Jwt {
            keys.extend(self.rsa().await?);
        }
        self.record(kind, self.validity(), &keys)
    }

    async fn rsa(&self) -> Result<Option<PrivateKey>, AuthorityError> {
        let made = match self.config.jwt_rs256.clone() {
            Rs256::Off => return Ok(None),
            Rs256::Made => self.pool.run(PrivateKey::rsa).await,
            Rs256::Imported(path) => self.pool.run(move || import(&path)).await,
        };
        made.map_err(|error| key_error("make", error))?.map(Some)
    }

    fn validity(&self) -> Validity {
        Validity::new(self.clock.unix(), self.config.ttl, None, i64::MIN, i64::MAX)
            .expect("nothing bounds an authority that is its own root")
    }

    fn record(&self, kind: Kind, validity: Validity, keys: &[PrivateKey]) -> Result<Record, AuthorityError> {
        let seal = |key: &PrivateKey| {
            let sealed = self.keys.seal(kind, &key.public.key_id(), key)?;
            Ok::<_, AuthorityError>(KeyRecord {
                public: key.public.clone(),
                sealed: Bytes(sealed),
            })
        };
        Ok(Record {
            kind,
            slot: Slot::Prepared,
            issued_at: self.clock.unix(),
            not_before: validity.not_before,
            not_after: validity.not_after,
            tainted: false,
            sealed_by: self.keys.name().to_owned(),
            certificate: None,
            keys: keys.iter().map(seal).collect::<Result<_, _>>()?,
        })
    }
}

fn import(path: &std::path::Path) -> Result<PrivateKey, AuthorityError> {
    let name = path.display().to_string();
    let refuse = |why: String| AuthorityError::Import {
        path: name.clone(),
        why,
    };
    let bytes = mintmark_runtime::fs::read_limited(path, MAX_PEM).map_err(|error| refuse(error.to_string()))?;
    let pem = zeroize::Zeroizing::new(bytes);
    let pem = std::str::from_utf8(&pem).map_err(|error| refuse(error.to_string()))?;
    PrivateKey::rsa_from_pem(&name, pem)
}

fn leaf(spec: &AuthoritySpec<'_>, serial: Serial, tbs: &[u8], now: i64) -> Leaf {
    Leaf {
        log: serial.log().into(),
        index: serial.index(),
        time_unix_ms: now,
        kind: LeafKind::X509Ca.into(),
        serial: serial.as_bytes().to_vec().into(),
        spiffe_id: spec.trust_domain.id().to_string(),
        not_before: spec.validity.not_before,
        not_after: spec.validity.not_after,
        content_sha256: sha256(tbs),
        public_key_sha256: public_key_sha256(spec.public_key),
        key_id: spec.public_key.key_id().to_string(),
        ..Leaf::default()
    }
}

fn public_key_sha256(key: &PublicKey) -> bytes::Bytes {
    sha256(key.spki_der())
}

fn sha256(content: &[u8]) -> bytes::Bytes {
    bytes::Bytes::copy_from_slice(ring::digest::digest(&ring::digest::SHA256, content).as_ref())
}
