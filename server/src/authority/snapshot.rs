//! The state that all clones share: what is current, and how it is changed.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use mintmark_identity::{Bundle, JwsAlg, KeyId, TrustDomain, Ttl};
use mintmark_runtime::clock::Clock;
use mintmark_runtime::crypto::random;
use tokio::sync::{Mutex, Notify, watch};

use super::make::Maker;
use super::signer::{JwsAuthority, X509Authority};
use super::state::{Due, MIN_LIFE, Record, State};
use super::{AuthorityConfig, AuthorityError, AuthorityInfo, KeyManager, Kind, Rs256, Slot};
use crate::ledger::Ledger;
use crate::mint::jws::TokenType;
use crate::store::{Held, Lease, Revision, Store, StoreError, Taken, Txn};

/// The one record.
pub(super) const KEY: &[u8] = b"authority/state";
/// How often a change is tried again when another replica was faster.
const ATTEMPTS: u32 = 16;
/// Under which authorities are changed, so that two replicas do not both make the same next one.
const LEASE: &[u8] = b"lease/authority";
/// Long enough to make authorities, an RSA key included; not much longer, since after a crash others wait for its end.
const LEASE_TTL: Duration = Duration::from_secs(10);
/// How long an administrator's change waits for the lease.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long the start waits for the lease.
const START_PATIENCE: Duration = Duration::from_secs(2);
/// How often consumers should look for a new bundle, in seconds, unless the authorities' life asks for less.
const REFRESH_HINT: u32 = 300;

/// One consistent view.
pub(super) struct Snapshot {
    /// At which revision of the store.
    pub(super) revision: Revision,
    pub(super) state: State,
    pub(super) x509: Arc<X509Authority>,
    pub(super) jwt: Vec<Arc<JwsAuthority>>,
    pub(super) wit: Arc<JwsAuthority>,
    pub(super) bundle: Arc<Bundle>,
}

pub(super) struct Shared {
    pub(super) store: Store,
    pub(super) clock: Clock,
    maker: Maker,
    refresh_hint: u32,
    current: ArcSwap<Snapshot>,
    bundle: watch::Sender<Arc<Bundle>>,
    /// The X.509 authority that signs.
    signer: watch::Sender<KeyId>,
    /// One change at a time in this process; and views are put in place in order.
    change: Mutex<Lease>,
    place: std::sync::Mutex<()>,
    pub(super) nudged: Notify,
}

impl Shared {
    pub(super) async fn start(
        store: Store,
        ledger: Ledger,
        keys: KeyManager,
        clock: Clock,
        config: AuthorityConfig,
        trust_domain: TrustDomain,
    ) -> Result<Self, AuthorityError> {
        if config.ttl.as_secs() < MIN_LIFE {
            return Err(AuthorityError::TooShort(config.ttl));
        }
        let refresh_hint = refresh_hint(config.ttl);
        let maker = Maker::new(ledger, keys, clock.clone(), config, trust_domain);
        let lease = lease(&store, &clock);
        let (state, revision) = first_state(&store, &maker, &lease).await?;
        let snapshot = build(state, revision, None, &maker, refresh_hint)?;
        Ok(Self {
            bundle: watch::Sender::new(Arc::clone(&snapshot.bundle)),
            signer: watch::Sender::new(snapshot.x509.key_id().clone()),
            current: ArcSwap::from_pointee(snapshot),
            store,
            clock,
            maker,
            refresh_hint,
            change: Mutex::new(lease),
            place: std::sync::Mutex::default(),
            nudged: Notify::new(),
        })
    }

    pub(super) fn current(&self) -> arc_swap::Guard<Arc<Snapshot>> {
        self.current.load()
    }

    pub(super) fn watch_bundle(&self) -> watch::Receiver<Arc<Bundle>> {
        self.bundle.subscribe()
    }

    pub(super) fn watch_signer(&self) -> watch::Receiver<KeyId> {
        self.signer.subscribe()
    }

    pub(super) fn nudge(&self) {
        self.nudged.notify_one();
    }

    pub(super) async fn prepare(&self, kind: Kind) -> Result<AuthorityInfo, AuthorityError> {
        self.current().state.check_room(kind)?;
        let made = self.maker.make(kind).await?;
        self.change(|state| {
            state.check_room(kind)?;
            Ok(state.prepare(made.clone()))
        })
        .await
    }

    pub(super) async fn activate(&self, kind: Kind, key_id: Option<&KeyId>) -> Result<AuthorityInfo, AuthorityError> {
        self.change(|state| state.activate(kind, key_id)).await
    }

    pub(super) async fn taint(&self, kind: Kind, key_id: Option<&KeyId>) -> Result<AuthorityInfo, AuthorityError> {
        self.change(|state| state.taint(kind, key_id)).await
    }

    pub(super) async fn revoke(&self, kind: Kind, key_id: Option<&KeyId>) -> Result<AuthorityInfo, AuthorityError> {
        self.change(|state| state.revoke(kind, key_id)).await
    }

    /// Does what is due. Under the lease, what is due is looked at again: another replica may have done it.
    pub(super) async fn rotate(&self) -> Result<(), AuthorityError> {
        if self.current().state.due(self.clock.unix()).is_empty() {
            return Ok(());
        }
        let lease = self.change.lock().await;
        let Taken::Held(held) = lease.take().await? else {
            // The other one does it; its change comes by the watch.
            return Ok(());
        };
        let done = self.rotate_leased(&held).await;
        release(&lease, held).await;
        done
    }

    async fn rotate_leased(&self, held: &Held) -> Result<(), AuthorityError> {
        self.reload().await?;
        let all_due = self.current().state.due(self.clock.unix());
        for due in all_due {
            tracing::info!(?due, "rotating authorities");
            match due {
                Due::Replace(kind) => {
                    let made = self.maker.make(kind).await?;
                    self.swap(held, |state| Ok(state.prepare(made.clone()))).await?;
                    self.swap(held, |state| state.activate(kind, None)).await?;
                }
                Due::Prepare(kind) => {
                    let made = self.maker.make(kind).await?;
                    self.swap(held, |state| Ok(state.prepare(made.clone()))).await?;
                }
                Due::Activate(kind) => {
                    self.swap(held, |state| state.activate(kind, None)).await?;
                }
                Due::Prune => {
                    let now = self.clock.unix();
                    self.swap(held, |state| Ok(state.prune(now))).await?;
                }
            }
        }
        Ok(())
    }

    /// One change by an administrator, under the lease.
    async fn change<T>(
        &self,
        change: impl FnMut(&mut State) -> Result<T, AuthorityError>,
    ) -> Result<T, AuthorityError> {
        let lease = self.change.lock().await;
        let held = lease.take_within(PATIENCE).await?;
        let held = held.ok_or(AuthorityError::Busy(PATIENCE))?;
        let done = self.swap(&held, change).await;
        release(&lease, held).await;
        done
    }

    /// Reads, changes, and writes unless somebody else has in between; then again. Answers when this process has the
    /// new state.
    async fn swap<T>(
        &self,
        held: &Held,
        mut change: impl FnMut(&mut State) -> Result<T, AuthorityError>,
    ) -> Result<T, AuthorityError> {
        for _ in 0..ATTEMPTS {
            let (before, modified) = self.read().await?;
            let mut after = before.clone();
            let done = change(&mut after)?;
            after.resequence(&before);
            let txn = Txn::new().expect_revision(KEY, modified).put(KEY, after.encode());
            match self.store.commit(held.guard(txn)).await {
                Ok(revision) => {
                    self.put_in_place(after, revision)?;
                    return Ok(done);
                }
                Err(StoreError::Conflict { key, .. }) if key == KEY => {}
                Err(StoreError::Conflict { .. }) => return Err(AuthorityError::LeaseLost),
                Err(error) => return Err(error.into()),
            }
        }
        Err(AuthorityError::Contended(ATTEMPTS))
    }

    async fn read(&self) -> Result<(State, Revision), AuthorityError> {
        let found = self
            .store
            .get(KEY)
            .await?
            .ok_or_else(|| AuthorityError::Record("it is gone".to_owned()))?;
        Ok((State::decode(&found.value)?, found.modified))
    }

    /// Takes over what the store holds now.
    pub(super) async fn reload(&self) -> Result<(), AuthorityError> {
        let (state, revision) = self.read().await?;
        self.put_in_place(state, revision)
    }

    /// Takes over a state, unless what is in place is as new.
    pub(super) fn put_in_place(&self, state: State, revision: Revision) -> Result<(), AuthorityError> {
        let _place = self.place.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let current = self.current.load_full();
        if revision <= current.revision {
            return Ok(());
        }
        let next = build(state, revision, Some(&current), &self.maker, self.refresh_hint)?;
        let bundle = Arc::clone(&next.bundle);
        log_changes(&current, &next);
        // First the bundle: whoever sees a new key sign finds the bundle that has it.
        self.bundle.send_if_modified(|published| {
            let changed = published.sequence != bundle.sequence;
            *published = bundle;
            changed
        });
        let signer = next.x509.key_id().clone();
        self.current.store(Arc::new(next));
        // And whoever hears of another signer is signed for by it.
        self.signer.send_if_modified(|signs| {
            let changed = *signs != signer;
            *signs = signer;
            changed
        });
        Ok(())
    }
}

/// This process's hand on the lease.
pub(super) fn lease(store: &Store, clock: &Clock) -> Lease {
    Lease::new(store, clock, LEASE, hex::encode(random::<16>()), LEASE_TTL)
}

/// What was done under the lease is done, also when the lease cannot be given back.
async fn release(lease: &Lease, held: Held) {
    if let Err(error) = lease.release(held).await {
        tracing::warn!(%error, "the lease on the authorities cannot be given back; other replicas wait for its end");
    }
}

/// The state to begin with: what the store holds, with an active authority of each kind that this process can sign
/// with.
async fn first_state(store: &Store, maker: &Maker, lease: &Lease) -> Result<(State, Revision), AuthorityError> {
    if let Some(found) = store.get(KEY).await? {
        let state = State::decode(&found.value)?;
        if missing(&state, maker)?.is_empty() {
            return Ok((state, found.modified));
        }
    }
    // Somebody who holds the lease for longer than a moment has crashed; compare-and-swap alone is enough then.
    let held = lease.take_within(START_PATIENCE).await?;
    let state = complete(store, maker).await;
    if let Some(held) = held {
        release(lease, held).await;
    }
    state
}

async fn complete(store: &Store, maker: &Maker) -> Result<(State, Revision), AuthorityError> {
    for _ in 0..ATTEMPTS {
        let found = store.get(KEY).await?;
        let before = found
            .as_ref()
            .map_or_else(|| Ok(State::new()), |found| State::decode(&found.value))?;
        let missing = missing(&before, maker)?;
        if let (Some(found), []) = (&found, &*missing) {
            return Ok((before, found.modified));
        }
        let mut after = before.clone();
        after.prune(maker.clock.unix());
        for kind in missing {
            after.prepare(maker.make(kind).await?);
            after.activate(kind, None)?;
        }
        after.resequence(&before);
        let txn = match &found {
            Some(found) => Txn::new().expect_revision(KEY, found.modified),
            None => Txn::new().expect_absent(KEY),
        };
        match store.commit(txn.put(KEY, after.encode())).await {
            Ok(revision) => return Ok((after, revision)),
            Err(StoreError::Conflict { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(AuthorityError::Contended(ATTEMPTS))
}

/// The kinds of which this process has no authority that can sign now.
fn missing(state: &State, maker: &Maker) -> Result<Vec<Kind>, AuthorityError> {
    let mut missing = Vec::new();
    for kind in Kind::ALL {
        if needs_another(kind, state, maker)? {
            missing.push(kind);
        }
    }
    Ok(missing)
}

/// Whether a new authority has to be active before this process can issue: none is valid, its keys are forgotten, or
/// RS256 was switched on.
fn needs_another(kind: Kind, state: &State, maker: &Maker) -> Result<bool, AuthorityError> {
    let Some(active) = state
        .get(kind, Slot::Active)
        .filter(|record| record.is_valid(maker.clock.unix()))
    else {
        return Ok(true);
    };
    let has_rs256 = active
        .keys
        .iter()
        .any(|key| JwsAlg::of(key.public.kind()) == JwsAlg::Rs256);
    if kind == Kind::Jwt && maker.config.jwt_rs256 != Rs256::Off && !has_rs256 {
        return Ok(true);
    }
    for key in &active.keys {
        let key_id = key.public.key_id();
        match maker.keys.open(kind, &key_id, &key.sealed.0) {
            Ok(_) => {}
            Err(_) if maker.keys.forgets(&active.sealed_by) => return Ok(true),
            Err(source) => return Err(AuthorityError::Sealed { kind, key_id, source }),
        }
    }
    Ok(false)
}

/// Loads the keys that sign; those that `previous` has loaded are taken from it.
fn build(
    state: State,
    revision: Revision,
    previous: Option<&Snapshot>,
    maker: &Maker,
    refresh_hint: u32,
) -> Result<Snapshot, AuthorityError> {
    let active = |kind| {
        state
            .get(kind, Slot::Active)
            .ok_or_else(|| AuthorityError::Record(format!("no {kind} authority is active")))
    };
    let (x509, jwt, wit) = (active(Kind::X509)?, active(Kind::Jwt)?, active(Kind::Wit)?);
    let x509 = match previous.filter(|previous| *previous.x509.key_id() == x509.key_id()) {
        Some(previous) => Arc::clone(&previous.x509),
        None => Arc::new(load_x509(x509, maker)?),
    };
    let known: &[Arc<JwsAuthority>] = previous.map_or(&[], |previous| &previous.jwt);
    let jwt = load_tokens(jwt, TokenType::Jwt, known, maker)?;
    let known = previous.map(|previous| Arc::clone(&previous.wit));
    let wit = load_tokens(wit, TokenType::Wit, known.as_slice(), maker)?.swap_remove(0);
    let bundle = match previous.filter(|previous| previous.state.sequence == state.sequence) {
        Some(previous) => Arc::clone(&previous.bundle),
        None => Arc::new(state.bundle(&maker.trust_domain, refresh_hint)),
    };
    Ok(Snapshot {
        revision,
        x509,
        jwt,
        wit,
        bundle,
        state,
    })
}

fn load_x509(record: &Record, maker: &Maker) -> Result<X509Authority, AuthorityError> {
    let (key, certificate) = (&record.keys[0], record.certificate.as_ref());
    let certificate =
        certificate.ok_or_else(|| AuthorityError::Record("an X.509 authority has no certificate".to_owned()))?;
    let key_id = key.public.key_id();
    let private = maker
        .keys
        .open(Kind::X509, &key_id, &key.sealed.0)
        .map_err(|source| AuthorityError::Sealed {
            kind: Kind::X509,
            key_id,
            source,
        })?;
    X509Authority::load(&certificate.0, &key.public, private.expose())
}

fn load_tokens(
    record: &Record,
    token_type: TokenType,
    known: &[Arc<JwsAuthority>],
    maker: &Maker,
) -> Result<Vec<Arc<JwsAuthority>>, AuthorityError> {
    let life = (record.not_before, record.not_after);
    let load = |key: &super::state::KeyRecord| {
        let key_id = key.public.key_id();
        if let Some(known) = known
            .iter()
            .find(|known| *known.key_id() == key_id && known.not_after() == record.not_after)
        {
            return Ok(Arc::clone(known));
        }
        let private =
            maker
                .keys
                .open(record.kind, &key_id, &key.sealed.0)
                .map_err(|source| AuthorityError::Sealed {
                    kind: record.kind,
                    key_id,
                    source,
                })?;
        JwsAuthority::load(token_type, life, &key.public, private.expose()).map(Arc::new)
    };
    record.keys.iter().map(load).collect()
}

fn log_changes(before: &Snapshot, after: &Snapshot) {
    for kind in Kind::ALL {
        let old = before.state.list(kind);
        for info in after.state.list(kind) {
            let known = old
                .iter()
                .find(|old| old.key_id == info.key_id && old.not_after == info.not_after);
            if known.is_none_or(|old| old.slot != info.slot || old.tainted != info.tainted) {
                let (key_id, slot, tainted, not_after) = (&info.key_id, info.slot, info.tainted, info.not_after);
                tracing::info!(%kind, %key_id, %slot, tainted, not_after, sequence = after.state.sequence, "authority changed");
            }
        }
    }
}

/// A tenth of the authorities' life, [`REFRESH_HINT`] at most, in seconds.
fn refresh_hint(ttl: Ttl) -> u32 {
    u32::try_from(ttl.as_secs() / 10).map_or(REFRESH_HINT, |secs| secs.clamp(1, REFRESH_HINT))
}
