//! The record of all authorities in the store, and what may happen to it. Pure: no time but what is given, no I/O.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mintmark_identity::bundle::{JwtAuthority, X509Authority};
use mintmark_identity::{Bundle, JwsAlg, KeyId, PublicKey, TrustDomain};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{AuthorityError, AuthorityInfo, Kind, Slot};

/// The version of the record's form.
const FORMAT: u32 = 1;
/// The shortest life of an authority in seconds: half of it, a sixth of it and the second between them must differ.
pub(super) const MIN_LIFE: u64 = 6;
/// An administrator prepares another authority of a kind only while fewer than this are published, so that the bundle stays small.
const MAX_PUBLISHED: usize = 32;
/// Rotation, and a start that needs new keys, must not wait until old authorities have ended: only of more than this does the oldest give way.
const MAX_KEPT: usize = 128;
/// How long what has ended stays published at most, for verifiers whose clocks lag.
const MAX_GRACE: i64 = 24 * 3_600;
/// How long a prepared authority is published at least before rotation activates it, if its life allows.
const MAX_NOTICE: i64 = 300;

/// All authorities, and the number of the bundle that they make.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct State {
    format: u32,
    /// Grows with every change of the bundle's content.
    pub(super) sequence: u64,
    authorities: Vec<Record>,
}

/// One authority.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Record {
    #[serde(with = "kind_name")]
    pub(super) kind: Kind,
    pub(super) slot: Slot,
    /// When it was made.
    pub(super) issued_at: i64,
    pub(super) not_before: i64,
    pub(super) not_after: i64,
    pub(super) tainted: bool,
    /// The key manager that sealed its keys.
    pub(super) sealed_by: String,
    /// An X.509 authority's own certificate.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(super) certificate: Option<Bytes>,
    /// Its keys, the one it is named by first.
    pub(super) keys: Vec<KeyRecord>,
}

/// One key.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct KeyRecord {
    #[serde(with = "public_key")]
    pub(super) public: PublicKey,
    /// The private key, sealed.
    pub(super) sealed: Bytes,
}

/// Bytes that are base64 in JSON.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Bytes(pub(super) Vec<u8>);

/// What rotation has to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// Nothing of this kind can sign now: make one and activate it at once.
    Replace(Kind),
    /// Make one and publish it.
    Prepare(Kind),
    /// The prepared one takes over.
    Activate(Kind),
    /// Some have ended, long enough ago.
    Prune,
}

impl State {
    pub(super) fn new() -> Self {
        Self {
            format: FORMAT,
            sequence: 0,
            authorities: Vec::new(),
        }
    }

    pub(super) fn decode(json: &[u8]) -> Result<Self, AuthorityError> {
        let state: Self = serde_json::from_slice(json).map_err(|error| AuthorityError::Record(error.to_string()))?;
        if state.format != FORMAT {
            let why = format!("it has format {}, this version knows {FORMAT}", state.format);
            return Err(AuthorityError::Record(why));
        }
        match state
            .authorities
            .iter()
            .find(|record| record.keys.is_empty() || (record.kind == Kind::X509) != record.certificate.is_some())
        {
            Some(record) => Err(AuthorityError::Record(format!(
                "a {} authority lacks its key or certificate",
                record.kind
            ))),
            None => Ok(state),
        }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("the record is made of texts and numbers, which JSON can always write")
    }

    /// The one in a slot; of old ones the newest.
    pub(super) fn get(&self, kind: Kind, slot: Slot) -> Option<&Record> {
        self.of(kind)
            .filter(|record| record.slot == slot)
            .max_by_key(|record| record.issued_at)
    }

    pub(super) fn of(&self, kind: Kind) -> impl Iterator<Item = &Record> {
        self.authorities.iter().filter(move |record| record.kind == kind)
    }

    pub(super) fn list(&self, kind: Kind) -> Vec<AuthorityInfo> {
        let mut records: Vec<_> = self.of(kind).collect();
        records.sort_by_key(|record| (rank(record.slot), std::cmp::Reverse(record.issued_at)));
        records.into_iter().map(Record::info).collect()
    }

    /// Whether an administrator may have another one prepared.
    pub(super) fn check_room(&self, kind: Kind) -> Result<(), AuthorityError> {
        match self.kept(kind) {
            0..MAX_PUBLISHED => Ok(()),
            count => Err(AuthorityError::TooMany { kind, count }),
        }
    }

    fn kept(&self, kind: Kind) -> usize {
        self.of(kind).filter(|record| record.slot != Slot::Prepared).count()
    }

    /// Puts a new one into the prepared slot, in place of what is there. Where there are far too many, the oldest go.
    pub(super) fn prepare(&mut self, record: Record) -> AuthorityInfo {
        let kind = record.kind;
        while self.kept(kind) >= MAX_KEPT {
            let old = self.authorities.iter().enumerate();
            let old = old.filter(|(_, record)| record.kind == kind && record.slot == Slot::Old);
            let Some((oldest, _)) = old.min_by_key(|(_, record)| record.issued_at) else {
                break;
            };
            self.authorities.remove(oldest);
        }
        self.authorities
            .retain(|record| record.kind != kind || record.slot != Slot::Prepared);
        let info = record.info();
        self.authorities.push(Record {
            slot: Slot::Prepared,
            ..record
        });
        AuthorityInfo {
            slot: Slot::Prepared,
            ..info
        }
    }

    /// Makes the prepared one active, and the active one old.
    pub(super) fn activate(&mut self, kind: Kind, key_id: Option<&KeyId>) -> Result<AuthorityInfo, AuthorityError> {
        let prepared = self.find(kind, key_id, "activated", "prepared", |record| {
            record.slot == Slot::Prepared
        })?;
        for (at, record) in self
            .authorities
            .iter_mut()
            .enumerate()
            .filter(|(_, record)| record.kind == kind)
        {
            match record.slot {
                _ if at == prepared => record.slot = Slot::Active,
                Slot::Active => record.slot = Slot::Old,
                _ => {}
            }
        }
        Ok(self.info_at(prepared))
    }

    /// Marks an old one.
    pub(super) fn taint(&mut self, kind: Kind, key_id: Option<&KeyId>) -> Result<AuthorityInfo, AuthorityError> {
        let old = self.find(kind, key_id, "tainted", "old", |record| record.slot == Slot::Old)?;
        if let Some(record) = self.authorities.get_mut(old) {
            record.tainted = true;
        }
        Ok(self.info_at(old))
    }

    /// Removes a tainted one.
    pub(super) fn revoke(&mut self, kind: Kind, key_id: Option<&KeyId>) -> Result<AuthorityInfo, AuthorityError> {
        let tainted = self.find(kind, key_id, "revoked", "tainted old", |record| {
            record.slot == Slot::Old && record.tainted
        })?;
        let info = self.info_at(tainted);
        self.authorities.remove(tainted);
        Ok(info)
    }

    /// Removes what has ended long enough ago; whether there was anything.
    pub(super) fn prune(&mut self, now: i64) -> bool {
        let before = self.authorities.len();
        self.authorities
            .retain(|record| record.slot == Slot::Active || record.pruned_at() > now);
        self.authorities.len() < before
    }

    /// What is to be done now, in this order.
    pub(super) fn due(&self, now: i64) -> Vec<Due> {
        let mut due: Vec<_> = Kind::ALL
            .into_iter()
            .filter_map(|kind| self.due_of(kind, now))
            .collect();
        if self
            .authorities
            .iter()
            .any(|record| record.slot != Slot::Active && record.pruned_at() <= now)
        {
            due.push(Due::Prune);
        }
        due
    }

    fn due_of(&self, kind: Kind, now: i64) -> Option<Due> {
        let prepared = self.get(kind, Slot::Prepared).filter(|record| record.is_valid(now));
        match (
            self.get(kind, Slot::Active).filter(|record| record.is_valid(now)),
            prepared,
        ) {
            (None, Some(_)) => Some(Due::Activate(kind)),
            (None, None) => Some(Due::Replace(kind)),
            (Some(active), Some(prepared)) => (now >= active.replaced_at(prepared)).then_some(Due::Activate(kind)),
            (Some(active), None) => (now >= active.prepared_at()).then_some(Due::Prepare(kind)),
        }
    }

    /// When there will be something to do, if nothing else happens.
    pub(super) fn next_due(&self) -> Option<i64> {
        let rotation = Kind::ALL.into_iter().filter_map(|kind| {
            let active = self.get(kind, Slot::Active)?;
            Some(match self.get(kind, Slot::Prepared) {
                Some(prepared) => active.replaced_at(prepared),
                None => active.prepared_at(),
            })
        });
        let pruning = self
            .authorities
            .iter()
            .filter(|record| record.slot != Slot::Active)
            .map(Record::pruned_at);
        rotation.chain(pruning).min()
    }

    /// Counts the bundle up if it differs from that of `before`.
    pub(super) fn resequence(&mut self, before: &Self) {
        let published = |state: &Self| -> Vec<(Kind, KeyId, bool)> {
            state
                .authorities
                .iter()
                .flat_map(|record| {
                    record
                        .keys
                        .iter()
                        .map(|key| (record.kind, key.public.key_id(), record.tainted))
                })
                .collect()
        };
        let (old, new) = (published(before), published(self));
        self.sequence = if old == new {
            before.sequence
        } else {
            before.sequence + 1
        };
    }

    /// The trust bundle: everything that is prepared, active or old.
    pub(super) fn bundle(&self, trust_domain: &TrustDomain, refresh_hint: u32) -> Bundle {
        let mut bundle = Bundle::new(trust_domain.clone());
        bundle.sequence = self.sequence;
        bundle.refresh_hint = Some(refresh_hint);
        bundle.x509 = self
            .of(Kind::X509)
            .filter_map(|record| {
                Some(X509Authority {
                    der: record.certificate.as_ref()?.0.as_slice().into(),
                    tainted: record.tainted,
                })
            })
            .collect();
        bundle.jwt = self.token_keys(Kind::Jwt);
        bundle.wit = self.token_keys(Kind::Wit);
        bundle
    }

    /// One entry a key, also when an imported key is part of several authorities: then it ends with the last of them,
    /// and is tainted when all are.
    fn token_keys(&self, kind: Kind) -> Vec<JwtAuthority> {
        let mut keys: Vec<JwtAuthority> = Vec::new();
        for (record, key) in self
            .of(kind)
            .flat_map(|record| record.keys.iter().map(move |key| (record, key)))
        {
            let key_id = key.public.key_id();
            match keys.iter_mut().find(|known| known.key_id == key_id) {
                Some(known) => {
                    known.expires_at = known.expires_at.max(record.not_after);
                    known.tainted &= record.tainted;
                }
                None => keys.push(JwtAuthority {
                    key_id,
                    spki_der: key.public.spki_der().into(),
                    expires_at: record.not_after,
                    tainted: record.tainted,
                }),
            }
        }
        keys
    }

    fn find(
        &self,
        kind: Kind,
        key_id: Option<&KeyId>,
        action: &'static str,
        needed: &'static str,
        fits: impl Fn(&Record) -> bool,
    ) -> Result<usize, AuthorityError> {
        let mut of_kind = self
            .authorities
            .iter()
            .enumerate()
            .filter(|(_, record)| record.kind == kind);
        let Some(key_id) = key_id else {
            let newest = of_kind
                .filter(|(_, record)| fits(record))
                .max_by_key(|(_, record)| record.issued_at);
            return newest
                .map(|(at, _)| at)
                .ok_or(AuthorityError::None { kind, action, needed });
        };
        match of_kind.find(|(_, record)| record.key_id() == *key_id) {
            None => Err(AuthorityError::NotFound {
                kind,
                key_id: key_id.clone(),
            }),
            Some((at, record)) if fits(record) => Ok(at),
            Some((_, record)) => Err(AuthorityError::WrongSlot {
                kind,
                key_id: key_id.clone(),
                slot: record.slot,
                action,
                needed,
            }),
        }
    }

    fn info_at(&self, at: usize) -> AuthorityInfo {
        self.authorities[at].info()
    }
}

impl Record {
    /// Its name.
    pub(super) fn key_id(&self) -> KeyId {
        self.keys[0].public.key_id()
    }

    pub(super) fn info(&self) -> AuthorityInfo {
        let token_key = |key: &KeyRecord| (JwsAlg::of(key.public.kind()), key.public.key_id());
        let tokens = if self.kind == Kind::X509 { &[] } else { &*self.keys };
        AuthorityInfo {
            kind: self.kind,
            key_id: self.key_id(),
            slot: self.slot,
            not_before: self.not_before,
            not_after: self.not_after,
            tainted: self.tainted,
            token_keys: tokens.iter().map(token_key).collect(),
        }
    }

    /// Whether something that it signs now would be valid now.
    pub(super) fn is_valid(&self, now: i64) -> bool {
        self.not_before <= now && now < self.not_after
    }

    fn life(&self) -> i64 {
        self.not_after - self.issued_at
    }

    /// When the next one is made: at half of its life.
    fn prepared_at(&self) -> i64 {
        self.issued_at + self.life() / 2
    }

    /// When `next` takes over: with a sixth of its life left, but not before `next` was published for a while, and
    /// never after its end.
    fn replaced_at(&self, next: &Self) -> i64 {
        let planned = self.not_after - (self.life() / 6).max(1);
        let noticed = next.issued_at + (next.life() / 6).min(MAX_NOTICE);
        planned.max(noticed).min(self.not_after)
    }

    /// When nothing that it signed can be valid for anybody any more.
    fn pruned_at(&self) -> i64 {
        self.not_after + (self.life() / 6).clamp(1, MAX_GRACE)
    }
}

fn rank(slot: Slot) -> u8 {
    match slot {
        Slot::Active => 0,
        Slot::Prepared => 1,
        Slot::Old => 2,
    }
}

impl std::fmt::Debug for Record {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} {} {} until {}",
            self.kind,
            self.slot,
            self.key_id(),
            self.not_after
        )
    }
}

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        STANDARD
            .decode(String::deserialize(deserializer)?)
            .map(Self)
            .map_err(serde::de::Error::custom)
    }
}

mod public_key {
    use super::{Bytes, Deserialize, Deserializer, PublicKey, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(key: &PublicKey, serializer: S) -> Result<S::Ok, S::Error> {
        Bytes(key.spki_der().to_vec()).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PublicKey, D::Error> {
        PublicKey::from_spki_der(&Bytes::deserialize(deserializer)?.0).map_err(serde::de::Error::custom)
    }
}

mod kind_name {
    use super::{Deserialize, Deserializer, Kind, Serializer};

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
    pub(super) fn serialize<S: Serializer>(kind: &Kind, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(kind.as_str())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Kind, D::Error> {
        let name = String::deserialize(deserializer)?;
        let known = Kind::ALL.into_iter().find(|kind| kind.as_str() == name);
        known.ok_or_else(|| serde::de::Error::custom(format!("unknown kind of authority {name:?}")))
    }
}

#[cfg(test)]
mod tests;
