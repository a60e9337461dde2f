//! The attested nodes: which there are, which SVID each holds, which are banned.
//!
//! They live in the store under `node/`; the memory here changes only through the store's watch. A node's open link holds a [`NodeWatch`] and ends at once when
//! the node is banned, evicted or attests again elsewhere.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use mintmark_identity::{Selector, Selectors, Serial, SpiffeId};
use mintmark_runtime::clock::Clock;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::{Attested, NodeEvidence};
use crate::store::{Cached, Fold, Follower, KeyValue, Store, StoreError, Txn};

const PREFIX: &[u8] = b"node/";

/// One attested node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRecord {
    /// The node's SPIFFE ID.
    pub id: SpiffeId,
    /// How it attested: `join_token`, `x509pop`, …
    pub method: String,
    /// The serial of the SVID that it uses, in hex; empty for a node that has none any more.
    pub serial: String,
    /// The serial of an SVID that it was given and has not used yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_serial: Option<String>,
    /// Unix seconds: the end of the newest SVID.
    pub not_after: i64,
    /// True from `ban` to `delete`: nothing is answered, and it cannot attest again.
    #[serde(default)]
    pub banned: bool,
    /// What the attestation found out about it, as `type:value`.
    #[serde(default)]
    pub selectors: Vec<String>,
    /// True when it may attest again without being evicted first.
    #[serde(default)]
    pub can_reattest: bool,
    /// The version that its agent told.
    #[serde(default)]
    pub version: String,
    /// Unix seconds.
    #[serde(default)]
    pub attested_at: i64,
}

impl NodeRecord {
    /// The selectors of the attestation.
    pub fn selectors(&self) -> Selectors {
        self.selectors
            .iter()
            .filter_map(|text| Selector::parse(text).ok())
            .collect()
    }

    /// The selectors by which aliases find the node: those of the attestation, and its own SPIFFE ID as `spiffe_id:…`.
    pub fn alias_selectors(&self) -> Selectors {
        let own = Selector::new("spiffe_id", self.id.as_str()).ok();
        self.selectors().iter().cloned().chain(own).collect()
    }

    /// Whether it has an SVID that has not ended, and is not banned.
    pub fn is_attested(&self, now: i64) -> bool {
        !self.banned && self.not_after > now
    }
}

/// Why a caller's SVID does not make it a node of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NodeRefusal {
    /// Its SVID has ended.
    #[error("the node's SVID has expired: the node has to attest again")]
    Expired,
    /// There is no such node.
    #[error("the node is not attested: it was evicted or never joined this server")]
    NotAttested,
    /// The node was given a newer SVID than this one.
    #[error("the SVID is not the node's current one: somebody else attested as this node, or this is an old copy")]
    NotActive,
    /// An administrator banned it.
    #[error("the node is banned")]
    Banned,
}

/// Why a node's record was not changed.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// There is no such node.
    #[error("no node {0} is attested")]
    NotFound(SpiffeId),
    /// A banned node stays out until its record is deleted.
    #[error("node {0} is banned: delete it (`mintmark agent evict`) before it may attest again")]
    Banned(SpiffeId),
    /// Another SVID has become the node's meanwhile.
    #[error("node {0} has attested again, or uses a newer SVID: this one is no longer its own")]
    Superseded(SpiffeId),
    /// The evidence was good for one attestation, and that has been.
    #[error("the evidence of this attestation was used by another one at the same time")]
    EvidenceUsed,
    /// The node is known, and its method proves it only once.
    #[error("node {0} is attested already, and its method can do so only once: evict it first")]
    CannotReattest(SpiffeId),
    /// The store did not take it.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Follows one node's record; `None` once it is gone.
pub type NodeWatch = watch::Receiver<Arc<NodeRecord>>;

/// All attested nodes. A handle.
#[derive(Clone)]
pub struct Nodes(Arc<Inner>);

struct Inner {
    store: Store,
    clock: Clock,
    memory: Cached<Memory>,
}

/// Keeps the nodes' memory true, for as long as it runs.
pub type NodesTask = Follower<Memory>;

/// What follows the store: a sender for each node. Dropping it tells the watchers that the node is gone.
#[derive(Default)]
pub struct Memory(BTreeMap<SpiffeId, watch::Sender<Arc<NodeRecord>>>);

impl Fold for Memory {
    fn fresh(&self) -> Self {
        Self::default()
    }

    fn put(&mut self, pair: &KeyValue) {
        let record = match serde_json::from_slice::<NodeRecord>(&pair.value) {
            Ok(record) => Arc::new(record),
            Err(error) => {
                let key = String::from_utf8_lossy(&pair.key);
                tracing::error!(%key, %error, "a node's record in the store cannot be read and is left out");
                return self.delete(&pair.key);
            }
        };
        match self.0.get(&record.id) {
            Some(known) => drop(known.send_replace(record)),
            None => drop(self.0.insert(record.id.clone(), watch::channel(record).0)),
        }
    }

    fn delete(&mut self, key: &Bytes) {
        let id = key.strip_prefix(PREFIX).and_then(|id| std::str::from_utf8(id).ok());
        if let Some(id) = id.and_then(|id| SpiffeId::parse(id).ok()) {
            self.0.remove(&id);
        }
    }
}

impl Nodes {
    /// The nodes in `store`: none until the task runs and [`Nodes::ready`] answers.
    pub fn new(store: Store, clock: Clock) -> (Self, NodesTask) {
        let (memory, follower) = Cached::new(&store, PREFIX, Memory::default());
        (Self(Arc::new(Inner { store, clock, memory })), follower)
    }

    /// Waits until all nodes are in memory.
    ///
    /// # Errors
    /// When the store was closed before.
    pub async fn ready(&self) -> Result<(), StoreError> {
        self.0.memory.wait_applied(0).await
    }

    async fn commit(&self, txn: Txn) -> Result<(), StoreError> {
        let revision = self.0.store.commit(txn).await?;
        self.0.memory.wait_applied(revision).await
    }

    /// The node with this ID.
    pub fn get(&self, id: &SpiffeId) -> Option<Arc<NodeRecord>> {
        self.0
            .memory
            .read(|memory| memory.0.get(id).map(|record| record.borrow().clone()))
    }

    /// Follows the node with this ID: changes of its record, and its end when it is deleted (or, rarely, when the whole memory is read anew).
    pub fn watch(&self, id: &SpiffeId) -> Option<NodeWatch> {
        self.0
            .memory
            .read(|memory| memory.0.get(id).map(watch::Sender::subscribe))
    }

    /// Nodes in the order of their IDs, from the first behind `after`, that `admits` lets through, at most `limit`.
    pub fn list(
        &self,
        after: Option<&SpiffeId>,
        limit: usize,
        admits: impl Fn(&NodeRecord) -> bool,
    ) -> Vec<Arc<NodeRecord>> {
        use std::ops::Bound::{Excluded, Unbounded};
        self.0.memory.read(|memory| {
            let range = memory
                .0
                .range::<SpiffeId, _>((after.map_or(Unbounded, Excluded), Unbounded));
            range
                .map(|(_, record)| record.borrow().clone())
                .filter(|node| admits(node))
                .take(limit)
                .collect()
        })
    }

    /// How many nodes `admits` lets through.
    pub fn count(&self, admits: impl Fn(&NodeRecord) -> bool) -> usize {
        let all = |memory: &Memory| memory.0.values().filter(|record| admits(&record.borrow())).count();
        self.0.memory.read(all)
    }

    /// Is the SVID with this ID, serial and end, whose chain the connection has verified, that of a node in good standing?
    ///
    /// The first use of a renewed SVID makes it the current one, durably, and ends the older one. An end that is later than that of the newest SVID that the
    /// node was given counts as that: whatever the certificate says, none of ours lives longer.
    ///
    /// # Errors
    /// Why it is not; or the store's, which refuses too.
    pub async fn authenticate(
        &self,
        id: &SpiffeId,
        serial: &[u8],
        not_after: i64,
    ) -> Result<(Attested, Arc<NodeRecord>), AuthenticateError> {
        let serial = Serial::from_bytes(serial).map_err(|_| NodeRefusal::NotActive)?.hex();
        let record = self.get(id).ok_or(NodeRefusal::NotAttested)?;
        if record.banned {
            return Err(NodeRefusal::Banned.into());
        }
        if not_after.min(record.not_after) <= self.0.clock.unix() {
            return Err(NodeRefusal::Expired.into());
        }
        if record.next_serial.as_deref() == Some(&serial) {
            // What the store has by now decides: the node may have been banned, or have attested again.
            let promoted = self.change(id, |record| match record.next_serial.take_if(|next| *next == serial) {
                Some(next) => {
                    record.serial = next;
                    Ok(())
                }
                None if record.banned => Err(NodeError::Banned(id.clone())),
                None if record.serial == serial => Ok(()),
                None => Err(NodeError::Superseded(id.clone())),
            });
            let record = promoted.await.map_err(|error| match error {
                NodeError::Store(error) => AuthenticateError::Store(error),
                NodeError::Banned(_) => NodeRefusal::Banned.into(),
                NodeError::Superseded(_) => NodeRefusal::NotActive.into(),
                _ => NodeRefusal::NotAttested.into(),
            })?;
            return Ok((Attested::node(id.clone()), record));
        }
        if record.serial != serial {
            return Err(NodeRefusal::NotActive.into());
        }
        Ok((Attested::node(id.clone()), record))
    }

    /// Whether the evidence lets the node in: a banned node stays out, and so does one that is in and whose method proves it once.
    ///
    /// # Errors
    /// Why it does not.
    pub fn admit(&self, evidence: &NodeEvidence) -> Result<Attested, NodeError> {
        match self.get(&evidence.id) {
            Some(record) if record.banned => Err(NodeError::Banned(evidence.id.clone())),
            Some(_) if !evidence.can_reattest => Err(NodeError::CannotReattest(evidence.id.clone())),
            _ => Ok(Attested::node(evidence.id.clone())),
        }
    }

    /// Records an attestation and the SVID that the node is given for it; gives the record that it takes the place of. Evidence that is good only once is used up in the same transaction.
    ///
    /// # Errors
    /// Somebody else used the evidence first, the node was banned meanwhile, or the store did not take it: the SVID must not be handed out then.
    pub async fn attested(
        &self,
        evidence: NodeEvidence,
        serial: &Serial,
        not_after: i64,
    ) -> Result<Option<NodeRecord>, NodeError> {
        let key = key(&evidence.id);
        let mut txn = Txn::new();
        let old = self.0.store.get(&key).await?;
        txn = match &old {
            Some(old) => txn.expect_revision(key.clone(), old.modified),
            None => txn.expect_absent(key.clone()),
        };
        let old = old.and_then(|old| decode(&old.value));
        if old.as_ref().is_some_and(|old| old.banned) {
            return Err(NodeError::Banned(evidence.id));
        }
        if let Some(used) = evidence.consume {
            txn = txn.expect_present(used.clone()).delete(used);
        }
        let record = NodeRecord {
            id: evidence.id,
            method: evidence.method.to_owned(),
            serial: serial.hex(),
            next_serial: None,
            not_after,
            banned: false,
            selectors: evidence.selectors.iter().map(ToString::to_string).collect(),
            can_reattest: evidence.can_reattest,
            version: String::new(),
            attested_at: self.0.clock.unix(),
        };
        match self.commit(txn.put(key, encode(&record))).await {
            Err(StoreError::Conflict { .. }) => Err(NodeError::EvidenceUsed),
            other => other.map(|_| old).map_err(Into::into),
        }
    }

    /// Notes the SVID that a node was given and has not used yet. `with` is the serial, in hex, of the one that it asked with.
    ///
    /// # Errors
    /// There is no such node, it was banned or has attested again meanwhile, or the store did not take it: the SVID must not be handed out then.
    pub async fn renewed(&self, id: &SpiffeId, with: &str, serial: &Serial, not_after: i64) -> Result<(), NodeError> {
        let serial = serial.hex();
        self.change(id, |record| {
            if record.banned {
                return Err(NodeError::Banned(id.clone()));
            }
            if record.serial != with {
                return Err(NodeError::Superseded(id.clone()));
            }
            record.next_serial = Some(serial.clone());
            record.not_after = not_after;
            Ok(())
        })
        .await
        .map(drop)
    }

    /// Notes the version of its software that a node told, its first 64 characters.
    ///
    /// # Errors
    /// There is no such node, or the store did not take it.
    pub async fn version(&self, id: &SpiffeId, version: &str) -> Result<(), NodeError> {
        let version: String = version.chars().take(64).collect();
        if self.get(id).is_some_and(|record| record.version == version) {
            return Ok(());
        }
        self.change(id, |record| {
            record.version.clone_from(&version);
            Ok(())
        })
        .await
        .map(drop)
    }

    /// Bans a node: its SVID is refused from now on, its links end, and it cannot attest again until it is deleted.
    ///
    /// # Errors
    /// As [`Nodes::version`].
    pub async fn ban(&self, id: &SpiffeId) -> Result<(), NodeError> {
        self.change(id, |record| {
            record.banned = true;
            record.serial.clear();
            record.next_serial = None;
            Ok(())
        })
        .await
        .map(drop)
    }

    /// Deletes a node: its SVID is refused from now on and its links end; it may attest again.
    ///
    /// # Errors
    /// As [`Nodes::version`].
    pub async fn delete(&self, id: &SpiffeId) -> Result<(), NodeError> {
        match self.commit(Txn::new().expect_present(key(id)).delete(key(id))).await {
            Err(StoreError::Conflict { .. }) => Err(NodeError::NotFound(id.clone())),
            other => Ok(other?),
        }
    }

    /// Changes a record as the store has it now, unless `change` says no.
    async fn change(
        &self,
        id: &SpiffeId,
        change: impl Fn(&mut NodeRecord) -> Result<(), NodeError>,
    ) -> Result<Arc<NodeRecord>, NodeError> {
        loop {
            let item = self
                .0
                .store
                .get(&key(id))
                .await?
                .ok_or_else(|| NodeError::NotFound(id.clone()))?;
            let mut record = decode(&item.value).ok_or_else(|| NodeError::NotFound(id.clone()))?;
            change(&mut record)?;
            let txn = Txn::new()
                .expect_revision(key(id), item.modified)
                .put(key(id), encode(&record));
            match self.commit(txn).await {
                Ok(()) => return Ok(Arc::new(record)),
                Err(StoreError::Conflict { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Why a node's SVID was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum AuthenticateError {
    /// The node's own fault.
    #[error(transparent)]
    Refused(#[from] NodeRefusal),
    /// Ours.
    #[error(transparent)]
    Store(#[from] StoreError),
}

fn key(id: &SpiffeId) -> Vec<u8> {
    [PREFIX, id.as_str().as_bytes()].concat()
}

fn encode(record: &NodeRecord) -> Vec<u8> {
    serde_json::to_vec(record).expect("a record of strings and numbers is JSON")
}

fn decode(value: &[u8]) -> Option<NodeRecord> {
    serde_json::from_slice(value).ok()
}

#[cfg(test)]
mod tests;
