//! The computed entries that there are, and how they come into the index.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::super::entry::Entry;
use super::super::{Memory, Registry};
use super::ComputedEntry;

/// All computed entries, by subject. A handle: every memory that follows the store one after another has the same.
#[derive(Clone, Default)]
pub(in crate::registry) struct Computed(Arc<Mutex<BySubject>>);

type BySubject = HashMap<Arc<str>, Vec<Arc<Entry>>>;

impl Computed {
    fn lock(&self) -> MutexGuard<'_, BySubject> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Memory {
    /// Puts the computed entries into an index that has only the stored ones.
    pub(in crate::registry) fn add_computed(&mut self) {
        let computed = self.computed.clone();
        for entry in computed.lock().values().flatten() {
            self.index.put(Entry::clone(entry));
        }
    }

    fn set_computed(&mut self, subject: &str, entries: Vec<ComputedEntry>) -> bool {
        let computed = self.computed.clone();
        let mut all = computed.lock();
        let before = all.remove(subject).unwrap_or_default();
        let mut changed = false;
        let mut now: Vec<Arc<Entry>> = Vec::with_capacity(entries.len());
        for ComputedEntry(entry) in entries {
            if now.iter().any(|other| other.id == entry.id) {
                continue;
            }
            if let Some(old) = before.iter().find(|old| ***old == entry) {
                now.push(Arc::clone(old));
                continue;
            }
            let (entry, effect) = self.index.put(entry);
            if self.live {
                self.feeds.publish(&entry.id, &effect, &self.index);
            }
            changed = true;
            now.push(entry);
        }
        // Last, so that nobody who is told of changes one by one sees a subject with nothing that only becomes another.
        let gone = before.iter().filter(|old| now.iter().all(|new| new.id != old.id));
        for old in gone {
            self.remove(&old.id);
            changed = true;
        }
        if !now.is_empty() {
            all.insert(subject.into(), now);
        }
        changed
    }
}

impl Registry {
    /// The computed entries of `subject`, such as a pod's UID, are these from now on, and those that it had before and that are not among them are gone. What is
    /// new or changed is pushed to the nodes that it is for. True when anything changed.
    ///
    /// An entry of another subject with the same ID (which only the same two UIDs make) is replaced.
    pub fn set_computed(&self, subject: &str, entries: Vec<ComputedEntry>) -> bool {
        self.0.memory.write(|memory| memory.set_computed(subject, entries))
    }

    /// The subject has no computed entries any more. True when it had some.
    pub fn remove_computed(&self, subject: &str) -> bool {
        self.set_computed(subject, Vec::new())
    }

    /// The computed entries of a subject.
    pub fn computed(&self, subject: &str) -> Vec<Arc<Entry>> {
        let all = self.0.memory.read(|memory| memory.computed.clone());
        let of = all.lock().get(subject).cloned();
        of.unwrap_or_default()
    }

    /// The subjects that have computed entries: who computes them takes away those that he no longer knows.
    pub fn computed_subjects(&self) -> Vec<Arc<str>> {
        let all = self.0.memory.read(|memory| memory.computed.clone());
        all.lock().keys().cloned().collect()
    }
}
