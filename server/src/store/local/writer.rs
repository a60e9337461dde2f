//! The one thread that writes: it holds conditions against the state, gives out revisions, and makes a
//! group of transactions durable at once. The next group is what was queued while the last was written.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
    thread,
};

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use super::Shared;
use crate::store::{
    digest::{Digest, Position},
    disk::{Disk, codec},
    error::{Expectation, StoreError},
    history::Committed,
    metrics::StoreMetrics,
    txn::Txn,
    types::{Change, Event, KeyValue, Revision},
};

/// The most transactions and bytes that are made durable at once.
const GROUP_TXNS: usize = 1024;
const GROUP_BYTES: usize = 16 << 20;

/// What the writer is asked.
pub(super) enum Request {
    Commit {
        txn: Txn,
        reply: Reply,
    },
    /// To look after the index, which failed a reader.
    Mend,
    Close {
        done: oneshot::Sender<()>,
    },
}

type Reply = oneshot::Sender<Result<Revision, StoreError>>;

/// The one thread that writes.
pub(super) struct Writer {
    shared: Arc<Shared>,
    disk: Option<Disk>,
    /// What is durable; the index is there too, unless it failed.
    position: Position,
    /// Something durable was not told to the history, because the index failed.
    untold: bool,
    metrics: StoreMetrics,
}

/// Transactions that become durable together, and the state that they make over the index.
struct Group {
    commits: Vec<Committed>,
    overlay: BTreeMap<Bytes, Option<KeyValue>>,
    answers: Vec<(Reply, Result<Revision, StoreError>)>,
    bytes: usize,
    to: Position,
}

impl Writer {
    pub(super) fn new(shared: Arc<Shared>, disk: Option<Disk>, position: Position, metrics: StoreMetrics) -> Self {
        Self {
            shared,
            disk,
            position,
            untold: false,
            metrics,
        }
    }

    /// Starts the thread; it ends when it is asked to, or when no handle is left.
    ///
    /// # Panics
    /// When the operating system gives no thread: at start, where nothing is lost yet.
    pub(super) fn spawn(mut self, mut requests: mpsc::Receiver<Request>) {
        let run = move || {
            let done = self.run(&mut requests);
            drop(requests);
            self.shared.close();
            if let Some(disk) = self.disk {
                disk.close(self.position.revision);
            }
            if let Some(done) = done {
                let _ = done.send(());
            }
        };
        thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(run)
            .expect("a thread at start");
    }

    fn run(&mut self, requests: &mut mpsc::Receiver<Request>) -> Option<oneshot::Sender<()>> {
        self.measure(requests);
        while let Some(mut request) = requests.blocking_recv() {
            let index = self.mend_if_needed();
            let mut group = Group::new(self.position);
            let close = loop {
                match request {
                    Request::Close { done } => break Some(done),
                    Request::Commit { txn, reply } => self.accept(&mut group, &txn, &index, reply),
                    Request::Mend => {}
                }
                if group.answers.len() >= GROUP_TXNS || group.bytes >= GROUP_BYTES {
                    break None;
                }
                match requests.try_recv() {
                    Ok(next) => request = next,
                    Err(_) => break None,
                }
            };
            self.finish(group);
            self.measure(requests);
            if close.is_some() {
                return close;
            }
        }
        None
    }

    /// Decides on one transaction, on top of those already in the group.
    fn accept(&self, group: &mut Group, txn: &Txn, index: &Result<(), StoreError>, reply: Reply) {
        let answer = index.clone().and_then(|()| self.decide(group, txn));
        if let Err(StoreError::Conflict { .. }) = answer {
            self.metrics.conflicts.inc();
        }
        group.answers.push((reply, answer));
    }

    fn decide(&self, group: &mut Group, txn: &Txn) -> Result<Revision, StoreError> {
        for (key, expected) in &txn.conditions {
            let found = self.look_up(group, key)?.map(|pair| pair.modified);
            let holds = match expected {
                Expectation::Absent => found.is_none(),
                Expectation::Present => found.is_some(),
                Expectation::At(revision) => found == Some(*revision),
            };
            if !holds {
                return Err(StoreError::Conflict {
                    key: key.clone(),
                    expected: *expected,
                    found,
                });
            }
        }
        let revision = group.to.revision + 1;
        let mut digest = group.to.digest;
        let mut events = Vec::with_capacity(txn.changes.len());
        for (key, value) in &txn.changes {
            let old = self.look_up(group, key)?;
            if value.is_none() && old.is_none() {
                continue;
            }
            let event = event(key, value.as_ref(), old.as_ref(), revision, &mut digest);
            events.push(event);
        }
        if events.is_empty() {
            return Ok(group.to.revision);
        }
        group.push(Committed { revision, events }, digest, txn);
        Ok(revision)
    }

    fn look_up(&self, group: &Group, key: &Bytes) -> Result<Option<KeyValue>, StoreError> {
        match group.overlay.get(key) {
            Some(pair) => Ok(pair.clone()),
            None => self.shared.read(|index, _| index.get(key)),
        }
    }

    /// Makes the group durable and visible, and answers its callers.
    fn finish(&mut self, group: Group) {
        let outcome = self.publish(group.commits, &group.to);
        for (reply, answer) in group.answers {
            // A caller that went away does not hear the answer.
            let _ = reply.send(outcome.clone().and(answer));
        }
        // When it fails, it is tried again, and told to whoever commits next.
        let _ = self.mend_if_needed();
        if let Some(disk) = &mut self.disk {
            disk.tend(&self.position, &self.shared);
        }
    }

    fn publish(&mut self, commits: Vec<Committed>, to: &Position) -> Result<(), StoreError> {
        if commits.is_empty() {
            return Ok(());
        }
        if let Some(disk) = &mut self.disk {
            let payload = codec::encode_group(&commits, to);
            disk.append(&payload)?;
            self.position = *to;
            if let Err(error) = self.shared.apply(to, &commits, || payload) {
                tracing::warn!(%error, "the store's index failed");
                self.untold = true;
                self.mend()?;
                self.untold = false;
            }
        } else {
            self.position = *to;
            let applied = self.shared.apply(to, &commits, || codec::encode_group(&commits, to));
            applied.map_err(|error| StoreError::Index { why: error.0 })?;
        }
        self.metrics.group.observe(commits.len() as f64);
        self.metrics.transactions.inc_by(commits.len() as u64);
        self.shared.history.push(commits);
        Ok(())
    }

    fn mend_if_needed(&mut self) -> Result<(), StoreError> {
        if !self.shared.suspect.load(Ordering::Acquire) {
            return Ok(());
        }
        self.mend()?;
        if std::mem::take(&mut self.untold) {
            self.shared.history.restart(self.position.revision);
        }
        Ok(())
    }

    /// Makes the index again from what is durable.
    fn mend(&mut self) -> Result<(), StoreError> {
        let Some(disk) = &self.disk else { return Ok(()) };
        tracing::warn!("making the store's index again from snapshot and journal; nothing acknowledged is lost");
        self.shared.suspect.store(true, Ordering::Release);
        let (index, position) = disk.rebuild().inspect_err(|error| {
            tracing::error!(%error, "the store's index cannot be made again, trying again at the next commit");
        })?;
        if position != self.position {
            // What was acknowledged must not go away while everyone has seen it.
            let (ends, seen) = (position.revision, self.position.revision);
            let error = disk.damaged(format!("it ends at revision {ends}, but {seen} was acknowledged"));
            tracing::error!(%error, "the store's index cannot be made again");
            return Err(error);
        }
        self.shared.replace(index, position);
        self.shared.suspect.store(false, Ordering::Release);
        Ok(())
    }

    fn measure(&self, requests: &mpsc::Receiver<Request>) {
        self.metrics
            .queue
            .set(i64::try_from(requests.len()).unwrap_or(i64::MAX));
        self.metrics
            .revision
            .set(i64::try_from(self.position.revision).unwrap_or(i64::MAX));
        self.metrics
            .keys
            .set(i64::try_from(self.position.digest.keys).unwrap_or(i64::MAX));
    }
}

impl Group {
    fn new(from: Position) -> Self {
        Self {
            commits: Vec::new(),
            overlay: BTreeMap::new(),
            answers: Vec::new(),
            bytes: 0,
            to: from,
        }
    }

    fn push(&mut self, committed: Committed, digest: Digest, txn: &Txn) {
        /// What an event costs beside its key and value.
        const EVENT: usize = 32;
        self.to = Position {
            revision: committed.revision,
            digest,
        };
        self.bytes += txn.size() + committed.events.len() * EVENT;
        for event in &committed.events {
            self.overlay.insert(event.key.clone(), event.pair().cloned());
        }
        self.commits.push(committed);
    }
}

/// What a change does to a key, and to the sum over all of them.
fn event(key: &Bytes, value: Option<&Bytes>, old: Option<&KeyValue>, revision: Revision, digest: &mut Digest) -> Event {
    if let Some(old) = old {
        digest.remove(old);
    }
    let change = value.map_or(Change::Delete, |value| {
        let created = old.map_or(revision, |old| old.created);
        let pair = KeyValue {
            key: key.clone(),
            value: value.clone(),
            created,
            modified: revision,
        };
        digest.add(&pair);
        Change::Put(pair)
    });
    Event {
        key: key.clone(),
        change,
        revision,
    }
}
