//! The one thread that writes: it holds conditions against the state, gives out revisions, and makes a
//! group of transactions durable at once. The next group is what was queued while the last was written.

use std::{collections::BTreeMap, sync::Arc, thread};

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use super::{
    error::{Expectation, StoreError},
    history::Committed,
    local::Shared,
    txn::Txn,
    types::{Change, Event, KeyValue, Revision},
};

/// The most transactions and bytes that are made durable at once.
const GROUP_TXNS: usize = 1024;
const GROUP_BYTES: usize = 16 << 20;

/// What the writer is asked.
pub(super) enum Request {
    Commit { txn: Txn, reply: Reply },
    Close { done: oneshot::Sender<()> },
}

type Reply = oneshot::Sender<Result<Revision, StoreError>>;

/// The one thread that writes.
pub(super) struct Writer {
    shared: Arc<Shared>,
    revision: Revision,
}

/// Transactions that become durable together, and the state that they make over the index.
#[derive(Default)]
struct Group {
    commits: Vec<Committed>,
    overlay: BTreeMap<Bytes, Option<KeyValue>>,
    answers: Vec<(Reply, Result<Revision, StoreError>)>,
    bytes: usize,
}

impl Writer {
    pub(super) fn new(shared: Arc<Shared>, revision: Revision) -> Self {
        Self { shared, revision }
    }

    /// Starts the thread; it ends when it is asked to, or when no handle is left.
    pub(super) fn spawn(mut self, mut requests: mpsc::Receiver<Request>) {
        let run = move || {
            let done = self.run(&mut requests);
            self.shared.close();
            drop(requests);
            if let Some(done) = done {
                let _ = done.send(());
            }
        };
        thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(run)
            .expect("a thread can be started");
    }

    fn run(&mut self, requests: &mut mpsc::Receiver<Request>) -> Option<oneshot::Sender<()>> {
        while let Some(mut request) = requests.blocking_recv() {
            let mut group = Group::default();
            let close = loop {
                match request {
                    Request::Close { done } => break Some(done),
                    Request::Commit { txn, reply } => self.accept(&mut group, txn, reply),
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
            if close.is_some() {
                return close;
            }
        }
        None
    }

    /// Decides on one transaction, on top of those already in the group.
    fn accept(&self, group: &mut Group, txn: Txn, reply: Reply) {
        let revision = self.revision + group.commits.len() as Revision + 1;
        let answer = match self.events(group, &txn, revision) {
            Ok(events) if events.is_empty() => Ok(revision - 1),
            Ok(events) => {
                group.bytes += txn.size();
                for event in &events {
                    group.overlay.insert(event.key.clone(), event.pair().cloned());
                }
                group.commits.push(Committed { revision, events });
                Ok(revision)
            }
            Err(error) => Err(error),
        };
        group.answers.push((reply, answer));
    }

    /// What `txn` does as `revision`, if its conditions hold.
    fn events(&self, group: &Group, txn: &Txn, revision: Revision) -> Result<Vec<Event>, StoreError> {
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
        let mut events = Vec::with_capacity(txn.changes.len());
        for (key, value) in &txn.changes {
            let old = self.look_up(group, key)?;
            let change = match value {
                Some(value) => Change::Put(KeyValue {
                    key: key.clone(),
                    value: value.clone(),
                    created: old.map_or(revision, |old| old.created),
                    modified: revision,
                }),
                None if old.is_none() => continue,
                None => Change::Delete,
            };
            events.push(Event {
                key: key.clone(),
                change,
                revision,
            });
        }
        Ok(events)
    }

    fn look_up(&self, group: &Group, key: &Bytes) -> Result<Option<KeyValue>, StoreError> {
        match group.overlay.get(key) {
            Some(pair) => Ok(pair.clone()),
            None => self.shared.read(|index, _| index.get(key)),
        }
    }

    /// Makes the group visible, and answers its callers.
    fn finish(&mut self, group: Group) {
        let outcome = self.publish(group.commits);
        for (reply, answer) in group.answers {
            // A caller that went away does not hear the answer.
            let _ = reply.send(outcome.clone().and(answer));
        }
    }

    fn publish(&mut self, commits: Vec<Committed>) -> Result<(), StoreError> {
        let Some(last) = commits.last().map(|committed| committed.revision) else {
            return Ok(());
        };
        let mut events = commits.iter().flat_map(|committed| &committed.events);
        self.shared
            .write(last, |index| index.apply(last, &mut events))
            .map_err(|error| StoreError::Index { why: error.0 })?;
        self.revision = last;
        self.shared.history.push(commits);
        Ok(())
    }
}
