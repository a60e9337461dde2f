//! Which identities fit this subject?
//!
//! Registration entries: who may be what, on which node. They live in the store; this room holds them all in memory, in an [`Index`] that the store's watch
//! changes (the writer's own changes too), and answers a writer when its revision has come back. Entries of a node are found by index, never by scan. On Kubernetes
//! there is no entry to be stored for a pod: [`rules`] compute its identities, which stand in the index beside the stored entries ([`ComputedEntry`]).
//!
//! In: entries that `api` has translated; a node's ID and selectors; what is computed. Out: the entries that are a node's, at once ([`Registry::authorized`]) and from then on by
//! push ([`Registry::subscribe`]). `api` and its node link call it.

mod computed;
pub mod entry;
mod feed;
mod index;
mod list;
pub mod pods;
pub mod rules;
pub mod template;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mintmark_identity::{Selectors, SpiffeId, TrustDomain};
use mintmark_proto::spire::types;
use mintmark_runtime::clock::Clock;
use prost::Message as _;
use tokio::sync::{Mutex, Notify};

use crate::store::{Cached, Fold, Follower, KeyValue, MAX_TXN, Revision, Store, StoreError, Txn};
use computed::Computed;
pub use computed::ComputedEntry;
pub use entry::{Entry, InvalidEntry};
use feed::Feeds;
pub use feed::{Dirty, NodeFeed};
use index::Index;
pub use list::{Filter, Match};
pub use pods::{FactsReader, Given, NotVouched, PodIdentities};

const PREFIX: &[u8] = b"entry/";
/// Changed by every transaction that changes entries: what it was decided on is then still so when it is committed, also with two servers on one store. They
/// cannot both make an entry of one identity, and neither changes one that the other has deleted.
const GUARD: &[u8] = b"guard/entries";
/// One call creates, updates or deletes at most this many entries.
pub const MAX_BATCH: usize = 1_000;

/// Why the registry did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum EntryError {
    /// An entry with this SPIFFE ID, parent and selectors is there.
    #[error("an entry for this SPIFFE ID, parent and selectors exists: {}", .0.id)]
    Similar(Arc<Entry>),
    /// An entry with this ID is there.
    #[error("an entry with ID {0} exists")]
    IdTaken(Arc<str>),
    /// No entry has this ID.
    #[error("no entry has ID {0:?}")]
    NotFound(String),
    /// The entry is not as it must be.
    #[error(transparent)]
    Invalid(#[from] InvalidEntry),
    /// The entry is computed.
    #[error("entry {0} is computed from a rule of its cluster and cannot be changed here: change the rule")]
    Computed(Arc<str>),
    /// The call holds too much.
    #[error("a batch of {0} entries is more than {MAX_BATCH}: send several")]
    TooMany(usize),
    /// What the call would write is too much for one transaction.
    #[error("a batch that makes {0} bytes of entries is more than {MAX_TXN}: send several")]
    TooLarge(usize),
    /// The store did not take it.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// One answer for each entry of a batch, in order.
pub type Batch = Vec<Result<Arc<Entry>, EntryError>>;

/// The registration entries. A handle: clones share one memory.
#[derive(Clone)]
pub struct Registry(Arc<Inner>);

struct Inner {
    store: Store,
    clock: Clock,
    trust_domain: TrustDomain,
    memory: Cached<Memory>,
    feeds: Feeds,
    /// One writer at a time in this process; between processes the guard's revision decides.
    writer: Mutex<()>,
    /// Woken when an entry that ends comes in.
    ends: Arc<Notify>,
}

/// Keeps the registry's memory true, for as long as it runs.
#[must_use = "nothing follows the store until it runs"]
pub struct RegistryTask {
    registry: Registry,
    follower: Follower<Memory>,
}

impl RegistryTask {
    /// Follows the store, and removes entries whose time is over, until the store is closed.
    pub async fn run(self) {
        tokio::select! {
            () = self.follower.run() => {}
            () = self.registry.expire() => {}
        }
    }
}

/// What follows the store: the index, and who is told.
struct Memory {
    trust_domain: TrustDomain,
    index: Index,
    feeds: Feeds,
    computed: Computed,
    ends: Arc<Notify>,
    /// False while it is a listing that nobody reads yet.
    live: bool,
}

impl Memory {
    fn decode(&self, value: &[u8]) -> Result<Entry, String> {
        let message = types::Entry::decode(value).map_err(|error| error.to_string())?;
        Entry::from_message(message, &self.trust_domain).map_err(|error| error.to_string())
    }

    fn remove(&mut self, id: &str) {
        let effect = self.index.remove(id);
        if self.live {
            self.feeds.publish(&id.into(), &effect, &self.index);
        }
    }
}

impl Fold for Memory {
    fn fresh(&self) -> Self {
        Self {
            trust_domain: self.trust_domain.clone(),
            index: Index::new(SpiffeId::server(&self.trust_domain)),
            feeds: self.feeds.clone(),
            computed: self.computed.clone(),
            ends: self.ends.clone(),
            live: false,
        }
    }

    fn put(&mut self, pair: &KeyValue) {
        let entry = match self.decode(&pair.value) {
            Ok(entry) => entry,
            Err(why) => {
                let key = String::from_utf8_lossy(&pair.key);
                tracing::error!(%key, why, "an entry in the store cannot be read and is left out");
                return self.delete(&pair.key);
            }
        };
        let (entry, effect) = self.index.put(entry);
        if self.live {
            self.feeds.publish(&entry.id, &effect, &self.index);
            if entry.expires_at.is_some() {
                self.ends.notify_one();
            }
        }
    }

    fn delete(&mut self, key: &Bytes) {
        if let Some(id) = key.strip_prefix(PREFIX).and_then(|id| std::str::from_utf8(id).ok()) {
            self.remove(id);
        }
    }

    fn listed(&mut self) {
        self.add_computed();
        self.live = true;
        self.feeds.look_again(&self.index);
        self.ends.notify_one();
    }
}

impl Registry {
    /// A registry on `store`, empty until its task runs and [`Registry::ready`] answers.
    pub fn new(store: Store, clock: Clock, trust_domain: TrustDomain) -> (Self, RegistryTask) {
        let (feeds, ends) = (Feeds::default(), Arc::new(Notify::new()));
        let empty = Memory {
            trust_domain: trust_domain.clone(),
            index: Index::new(SpiffeId::server(&trust_domain)),
            feeds: feeds.clone(),
            computed: Computed::default(),
            ends: ends.clone(),
            live: true,
        };
        let (memory, follower) = Cached::new(&store, PREFIX, empty);
        let registry = Self(Arc::new(Inner {
            store,
            clock,
            trust_domain,
            memory,
            feeds,
            writer: Mutex::new(()),
            ends,
        }));
        (registry.clone(), RegistryTask { registry, follower })
    }

    /// Waits until all entries are in memory.
    ///
    /// # Errors
    /// When the store was closed before.
    pub async fn ready(&self) -> Result<(), StoreError> {
        self.0.memory.wait_applied(0).await
    }

    async fn expire(&self) {
        loop {
            let now = self.0.clock.unix();
            let (due, next) = self.read(|index| {
                let ends = || index.after(None).filter_map(|entry| Some((entry.expires_at?, entry)));
                let due = ends()
                    .filter(|(at, _)| *at <= now)
                    .map(|(_, entry)| entry.id.to_string());
                (
                    due.take(MAX_BATCH).collect::<Vec<_>>(),
                    ends().map(|(at, _)| at).filter(|at| *at > now).min(),
                )
            });
            if !due.is_empty() {
                // One that was given more time meanwhile stays.
                match self.remove(&due, |entry| entry.is_expired(self.0.clock.unix())).await {
                    Ok(removed) => {
                        let count = removed.iter().filter(|removed| removed.is_ok()).count();
                        tracing::info!(count, "entries whose time was over are removed");
                    }
                    Err(error) => {
                        tracing::warn!(%error, "entries whose time is over could not be removed; trying again in a minute");
                        self.0.clock.sleep(Duration::from_secs(60)).await;
                    }
                }
                continue;
            }
            let next_end = async {
                match next {
                    Some(at) => self.0.clock.sleep_until_unix(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = next_end => {}
                () = self.0.ends.notified() => {}
            }
        }
    }

    fn read<R>(&self, read: impl FnOnce(&Index) -> R) -> R {
        self.0.memory.read(|memory| read(&memory.index))
    }

    /// Creates entries, in one durable transaction. An entry that cannot be is answered by itself and harms none of the others.
    ///
    /// # Errors
    /// For the whole batch: too many, or the store did not take it.
    pub async fn create(&self, entries: Vec<Result<Entry, InvalidEntry>>) -> Result<Batch, EntryError> {
        let now = self.0.clock.unix();
        self.write(entries, |index, taken, entry| {
            let mut entry = entry.clone()?;
            if entry.id.is_empty() {
                entry.id = uuid::Uuid::new_v4().to_string().into();
            }
            entry.revision = 0;
            entry.created_at = now;
            if let Some(twin) = taken.twin(index, &entry) {
                return Err(EntryError::Similar(twin));
            }
            if taken.has_id(&entry.id) || index.get(&entry.id).is_some() {
                return Err(EntryError::IdTaken(entry.id));
            }
            Ok(entry)
        })
        .await
    }

    /// Changes entries: `change` gets the entry with the ID of each pair as the API's message, and gives it back changed; the revision grows by one.
    ///
    /// # Errors
    /// As [`Registry::create`].
    pub async fn update<F>(&self, changes: Vec<(String, F)>) -> Result<Batch, EntryError>
    where
        F: Fn(types::Entry) -> types::Entry,
    {
        self.write(changes, |index, taken, (id, change)| {
            let old = match taken.get(id) {
                Some(old) => old,
                None => stored(index, id)?,
            };
            let mut message = change(old.to_message());
            message.id.clone_from(id);
            let mut entry = Entry::from_message(message, &self.0.trust_domain)?;
            entry.revision = old.revision.saturating_add(1);
            entry.created_at = old.created_at;
            match taken.twin(index, &entry) {
                Some(twin) if twin.id != entry.id => Err(EntryError::Similar(twin)),
                _ => Ok(entry),
            }
        })
        .await
    }

    async fn write<T>(
        &self,
        items: Vec<T>,
        judge: impl Fn(&Index, &Taken, &T) -> Result<Entry, EntryError>,
    ) -> Result<Batch, EntryError> {
        if items.len() > MAX_BATCH {
            return Err(EntryError::TooMany(items.len()));
        }
        let _writer = self.0.writer.lock().await;
        loop {
            let seen = self.in_step().await?;
            let mut taken = Taken::default();
            let batch: Batch = self.read(|index| {
                let judged = items.iter().map(|item| {
                    let entry = Arc::new(judge(index, &taken, item)?);
                    taken.add(&entry, encode(&entry)?);
                    Ok(entry)
                });
                judged.collect()
            });
            if taken.by_id.is_empty() {
                return Ok(batch);
            }
            let mut txn = guarded(seen);
            let mut size = 2 * GUARD.len();
            for (entry, value) in taken.by_id.into_values() {
                let key = key(&entry.id);
                size += key.len() + value.len();
                txn = txn.put(key, value);
            }
            if size > MAX_TXN {
                return Err(EntryError::TooLarge(size));
            }
            if self.commit(txn).await? {
                return Ok(batch);
            }
        }
    }

    /// Deletes entries, in one durable transaction. An ID that is named twice is not there the second time.
    ///
    /// # Errors
    /// As [`Registry::create`].
    pub async fn delete(&self, ids: &[String]) -> Result<Vec<Result<(), EntryError>>, EntryError> {
        self.remove(ids, |_| true).await
    }

    /// Deletes those of the entries that `goes` lets go, as they are by then.
    async fn remove(
        &self,
        ids: &[String],
        goes: impl Fn(&Entry) -> bool,
    ) -> Result<Vec<Result<(), EntryError>>, EntryError> {
        if ids.len() > MAX_BATCH {
            return Err(EntryError::TooMany(ids.len()));
        }
        let _writer = self.0.writer.lock().await;
        loop {
            let seen = self.in_step().await?;
            let mut gone = HashSet::new();
            let answers = self.read(|index| {
                let judge = |id: &String| match stored(index, id)? {
                    entry if goes(entry) && gone.insert(entry.id.clone()) => Ok(()),
                    _ => Err(EntryError::NotFound(id.clone())),
                };
                ids.iter().map(judge).collect()
            });
            if gone.is_empty() {
                return Ok(answers);
            }
            let txn = gone.iter().fold(guarded(seen), |txn, id| txn.delete(key(id)));
            if self.commit(txn).await? {
                return Ok(answers);
            }
        }
    }

    /// Waits until the memory holds every change of entries that was committed by now; gives the revision of the last one.
    async fn in_step(&self) -> Result<Option<Revision>, EntryError> {
        let seen = self.0.store.get(GUARD).await?.map(|guard| guard.modified);
        self.0.memory.wait_applied(seen.unwrap_or_default()).await?;
        Ok(seen)
    }

    /// Commits, and waits until the memory shows it. False when another server was quicker, and everything is to be decided anew.
    async fn commit(&self, txn: Txn) -> Result<bool, EntryError> {
        match self.0.store.commit(txn).await {
            Ok(revision) => {
                self.0.memory.wait_applied(revision).await?;
                Ok(true)
            }
            Err(StoreError::Conflict { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// The entry with this ID.
    pub fn get(&self, id: &str) -> Option<Arc<Entry>> {
        self.read(|index| index.get(id).cloned())
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.read(Index::len)
    }

    /// True when there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many entries `filter` lets through.
    pub fn count(&self, filter: &Filter) -> usize {
        self.read(|index| list::matching(index, filter, None).count())
    }

    /// Entries in the order of their IDs, at most `limit`, from the first behind `after`; and the ID to go on from when there are more.
    pub fn list(&self, filter: &Filter, after: Option<&str>, limit: usize) -> (Vec<Arc<Entry>>, Option<Arc<str>>) {
        let mut found: Vec<_> = self.read(|index| {
            list::matching(index, filter, after)
                .take(limit.saturating_add(1))
                .cloned()
                .collect()
        });
        let more = found.len() > limit;
        found.truncate(limit);
        let next = found.last().filter(|_| more).map(|entry| entry.id.clone());
        (found, next)
    }

    /// The entries that are the node's, in the order of their IDs.
    pub fn authorized(&self, node: &SpiffeId, selectors: &Selectors) -> Vec<Arc<Entry>> {
        let now = self.0.clock.unix();
        let mut entries: Vec<_> = self.read(|index| {
            let reach = index.reach(node, selectors, now);
            index
                .within(&reach)
                .filter(|entry| !entry.is_expired(now))
                .cloned()
                .collect()
        });
        entries.sort_unstable_by(|a, b| a.id.cmp(&b.id));
        entries
    }

    /// Those of the entries with these IDs that are the node's, in the order asked.
    pub fn authorized_entries<'a>(
        &self,
        node: &SpiffeId,
        selectors: &Selectors,
        ids: impl IntoIterator<Item = &'a str>,
    ) -> Vec<Option<Arc<Entry>>> {
        let now = self.0.clock.unix();
        self.read(|index| {
            // Most entries are the node's own children; the whole reach is worked out for the first that is not.
            let mut reach = None;
            let mut is_theirs = |entry: &Entry| {
                let direct = entry.parent_id == *node;
                !entry.is_expired(now)
                    && (direct
                        || reach
                            .get_or_insert_with(|| index.reach(node, selectors, now))
                            .contains(&entry.parent_id))
            };
            ids.into_iter()
                .map(|id| index.get(id).filter(|entry| is_theirs(entry)).cloned())
                .collect()
        })
    }

    /// From now on, tells of every change of the node's entries. Everything is dirty at first.
    pub fn subscribe(&self, node: &SpiffeId, selectors: &Selectors) -> NodeFeed {
        // The reach is worked out and registered under one read, so that no change falls in between.
        self.read(|index| {
            self.0
                .feeds
                .add(node.clone(), selectors.clone(), index.reach(node, selectors, feed::ALL))
        })
    }
}

/// The entry with this ID, which must be one of the store.
fn stored<'i>(index: &'i Index, id: &str) -> Result<&'i Arc<Entry>, EntryError> {
    match index.get(id) {
        Some(entry) if computed::is_computed(id) => Err(EntryError::Computed(entry.id.clone())),
        Some(entry) => Ok(entry),
        None => Err(EntryError::NotFound(id.to_owned())),
    }
}

fn key(id: &str) -> Vec<u8> {
    [PREFIX, id.as_bytes()].concat()
}

/// A transaction that is committed only if no entry has changed since the guard was `seen`.
fn guarded(seen: Option<Revision>) -> Txn {
    let txn = match seen {
        Some(revision) => Txn::new().expect_revision(GUARD, revision),
        None => Txn::new().expect_absent(GUARD),
    };
    txn.put(GUARD, Bytes::new())
}

/// An entry as the store has it.
fn encode(entry: &Entry) -> Result<Vec<u8>, InvalidEntry> {
    let value = entry.to_message().encode_to_vec();
    match value.len() {
        0..=entry::MAX_SIZE => Ok(value),
        size => Err(entry::too_large(size)),
    }
}

/// What one batch has already taken, which the index does not know yet.
#[derive(Default)]
struct Taken {
    by_id: HashMap<Arc<str>, (Arc<Entry>, Vec<u8>)>,
    by_spiffe_id: HashMap<SpiffeId, Vec<Arc<Entry>>>,
}

impl Taken {
    fn add(&mut self, entry: &Arc<Entry>, value: Vec<u8>) {
        if let Some((old, _)) = self.by_id.insert(entry.id.clone(), (entry.clone(), value))
            && let Some(same) = self.by_spiffe_id.get_mut(&old.spiffe_id)
        {
            same.retain(|entry| entry.id != old.id);
        }
        self.by_spiffe_id
            .entry(entry.spiffe_id.clone())
            .or_default()
            .push(entry.clone());
    }

    fn get(&self, id: &str) -> Option<&Arc<Entry>> {
        self.by_id.get(id).map(|(entry, _)| entry)
    }

    fn has_id(&self, id: &str) -> bool {
        self.by_id.contains_key(id)
    }

    fn twin(&self, index: &Index, entry: &Entry) -> Option<Arc<Entry>> {
        let is_twin = |other: &&Arc<Entry>| other.parent_id == entry.parent_id && other.selectors == entry.selectors;
        let here = self
            .by_spiffe_id
            .get(&entry.spiffe_id)
            .into_iter()
            .flatten()
            .find(is_twin);
        here.or_else(|| index.twin(&entry.spiffe_id, &entry.parent_id, &entry.selectors))
            .cloned()
    }
}

#[cfg(test)]
mod tests;
