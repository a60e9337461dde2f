//! What a node holds, as far as the server knows, and what to send so that it holds what applies.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use mintmark_proto::attestor::{BundleHeld, Update};
use mintmark_proto::digest;
use mintmark_proto::spire::types;

use crate::registry::Entry;

/// So many items go in one Update, so that no message grows past what a node takes.
const ITEMS: usize = 500;

/// A node's state as it will be once it has applied everything that was sent.
#[derive(Default)]
pub(super) struct Held {
    entries: HashMap<Arc<str>, u64>,
    own_bundle: Option<u64>,
}

impl Held {
    /// Reads Hello against what applies: what the node holds already is noted, the rest of what it holds goes, the rest of what applies comes. The last Update says
    /// `complete`.
    pub(super) fn begin(
        &mut self,
        held_identities: Vec<u64>,
        held_bundles: Vec<BundleHeld>,
        entries: &[Arc<Entry>],
        bundle: types::Bundle,
    ) -> VecDeque<Update> {
        let mut gone: HashSet<u64> = held_identities.into_iter().collect();
        let mut upserts = Vec::new();
        for entry in entries {
            let message = entry.to_message();
            let digest = digest::of(&message);
            self.entries.insert(entry.id.clone(), digest);
            if !gone.remove(&digest) {
                upserts.push(message);
            }
        }
        let mut updates = in_parts(upserts, Vec::new());
        let last = last_of(&mut updates);
        last.removed = gone.into_iter().collect();
        let digest = digest::of(&bundle);
        let is_own = |held: &&BundleHeld| held.trust_domain == bundle.trust_domain;
        if !held_bundles
            .iter()
            .find(is_own)
            .is_some_and(|held| held.digest == digest)
        {
            last.bundles.push(bundle.clone());
        }
        self.own_bundle = Some(digest);
        last.removed_bundles = held_bundles
            .iter()
            .filter(|held| !is_own(held))
            .map(|held| held.trust_domain.clone())
            .collect();
        last.complete = true;
        updates
    }

    /// What to send when these are all of the node's entries.
    pub(super) fn all(&mut self, entries: &[Arc<Entry>]) -> VecDeque<Update> {
        let ids: HashSet<&Arc<str>> = entries.iter().map(|entry| &entry.id).collect();
        let gone: Vec<Arc<str>> = self.entries.keys().filter(|id| !ids.contains(id)).cloned().collect();
        let changes = gone.into_iter().map(|id| (id, None));
        let changes = changes.chain(entries.iter().map(|entry| (entry.id.clone(), Some(entry.clone()))));
        self.some(changes.collect())
    }

    /// What to send when of these entries some are the node's, and some no longer.
    pub(super) fn some(&mut self, changes: Vec<(Arc<str>, Option<Arc<Entry>>)>) -> VecDeque<Update> {
        let (mut upserts, mut removed) = (Vec::new(), Vec::new());
        for (id, entry) in changes {
            match entry {
                Some(entry) => {
                    let message = entry.to_message();
                    let digest = digest::of(&message);
                    if self.entries.insert(id, digest) != Some(digest) {
                        upserts.push(message);
                    }
                }
                None => {
                    if self.entries.remove(&id).is_some() {
                        removed.push(id.to_string());
                    }
                }
            }
        }
        in_parts(upserts, removed)
    }

    /// What to send when this is the trust bundle.
    pub(super) fn bundle(&mut self, bundle: types::Bundle) -> Option<Update> {
        let digest = digest::of(&bundle);
        let is_news = self.own_bundle.replace(digest) != Some(digest);
        is_news.then(|| Update {
            bundles: vec![bundle],
            ..Update::default()
        })
    }
}

fn in_parts(upserts: Vec<types::Entry>, removed: Vec<String>) -> VecDeque<Update> {
    let mut updates = VecDeque::new();
    let (mut upserts, mut removed) = (upserts.into_iter().peekable(), removed.into_iter().peekable());
    while upserts.peek().is_some() || removed.peek().is_some() {
        updates.push_back(Update {
            removed_ids: removed.by_ref().take(ITEMS).collect(),
            upserts: upserts.by_ref().take(ITEMS).collect(),
            ..Update::default()
        });
    }
    updates
}

fn last_of(updates: &mut VecDeque<Update>) -> &mut Update {
    if updates.is_empty() {
        updates.push_back(Update::default());
    }
    updates.back_mut().expect("one was just put in")
}

#[cfg(test)]
mod tests {
    use super::*;
    use mintmark_identity::TrustDomain;

    fn entry(id: &str, revision: i64) -> Arc<Entry> {
        let td = TrustDomain::parse("example.org").unwrap();
        let spiffe_id = |path: &str| {
            Some(types::Spiffeid {
                trust_domain: td.to_string(),
                path: path.to_owned(),
            })
        };
        let message = types::Entry {
            id: id.to_owned(),
            spiffe_id: spiffe_id("/w"),
            parent_id: spiffe_id("/n"),
            selectors: vec![types::Selector {
                r#type: "unix".into(),
                value: "uid:1".into(),
            }],
            revision_number: revision,
            ..Default::default()
        };
        Arc::new(Entry::from_message(message, &td).unwrap())
    }

    fn bundle(sequence: u64) -> types::Bundle {
        types::Bundle {
            trust_domain: "example.org".into(),
            sequence_number: sequence,
            ..Default::default()
        }
    }

    fn digest_of(entry: &Entry) -> u64 {
        digest::of(&entry.to_message())
    }

    #[test]
    fn a_node_that_comes_back_gets_the_exact_difference() {
        let (kept, changed, new) = (entry("kept", 0), entry("changed", 2), entry("new", 0));
        let mut held = Held::default();
        let stale = [digest_of(&entry("changed", 1)), digest_of(&entry("gone", 0))];
        let hello = vec![digest_of(&kept), stale[0], stale[1]];
        let bundles = vec![
            BundleHeld {
                trust_domain: "example.org".into(),
                sequence: 1,
                digest: digest::of(&bundle(1)),
            },
            BundleHeld {
                trust_domain: "left.org".into(),
                sequence: 1,
                digest: 1,
            },
        ];
        let updates = held.begin(hello, bundles, &[kept.clone(), changed.clone(), new], bundle(1));
        let [update] = &*Vec::from(updates) else {
            panic!("one update is enough")
        };
        let ids: Vec<_> = update.upserts.iter().map(|entry| &*entry.id).collect();
        assert_eq!(ids, ["changed", "new"]);
        assert_eq!(update.removed.iter().collect::<HashSet<_>>(), stale.iter().collect());
        assert!(update.bundles.is_empty() && update.complete);
        assert_eq!(update.removed_bundles, ["left.org"]);
    }

    #[test]
    fn a_node_that_is_in_step_gets_an_empty_update_that_says_so() {
        let kept = entry("kept", 0);
        let own = BundleHeld {
            trust_domain: "example.org".into(),
            sequence: 1,
            digest: digest::of(&bundle(1)),
        };
        let updates = Held::default().begin(vec![digest_of(&kept)], vec![own], &[kept], bundle(1));
        assert_eq!(
            Vec::from(updates),
            [Update {
                complete: true,
                ..Update::default()
            }]
        );
    }

    #[test]
    fn what_was_sent_is_not_sent_again() {
        let mut held = Held::default();
        let (a, b) = (entry("a", 0), entry("b", 0));
        held.begin(vec![], vec![], &[a.clone()], bundle(1));
        let changes = vec![
            (a.id.clone(), Some(a.clone())),
            (b.id.clone(), Some(b)),
            ("c".into(), None),
        ];
        let updates = held.some(changes);
        assert_eq!(updates.len(), 1);
        assert_eq!(updates[0].upserts.len(), 1);
        assert!(updates[0].removed_ids.is_empty());
        let updates = held.all(&[a]);
        assert_eq!(updates[0].removed_ids, ["b"]);
        assert!(held.bundle(bundle(1)).is_none());
        assert!(held.bundle(bundle(2)).is_some());
    }

    #[test]
    fn a_thousand_entries_come_in_parts_and_only_the_last_says_complete() {
        let entries: Vec<_> = (0..1_200).map(|n| entry(&format!("e{n}"), 0)).collect();
        let updates = Held::default().begin(vec![], vec![], &entries, bundle(1));
        let complete: Vec<_> = updates.iter().map(|update| update.complete).collect();
        assert_eq!(complete, [false, false, true]);
        assert!(updates.iter().all(|update| update.upserts.len() <= ITEMS));
    }
}
