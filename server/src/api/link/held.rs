//! What a node holds, as far as this link knows, and what it is to be told.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use mintmark_proto::attestor::{BundleHeld, Hello, Update};
use mintmark_proto::digest;
use mintmark_proto::spire::types;
use prost::Message as _;

use crate::registry::Entry;

/// One update has at most so many items.
const MAX_ITEMS: usize = 500;
/// One update has about so many bytes at most: what the transport needs for the largest message of a stream, it keeps for as long as the stream lives.
pub(super) const MAX_BYTES: usize = 7 << 10;

/// What a node holds, and what it is to be told.
#[derive(Default)]
pub(super) struct Held {
    /// The digest of each entry that it holds.
    entries: HashMap<Arc<str>, u64>,
    /// Entries to look at before the next update: the one set of changed items.
    changed: BTreeSet<Arc<str>>,
    /// Digests from Hello that nothing has.
    withdrawn: Vec<u64>,
    /// Bundles from Hello that do not apply.
    withdrawn_bundles: Vec<String>,
    is_bundle_new: bool,
    is_complete: bool,
}

impl Held {
    /// Compares what the node says it holds with what applies. `own` is the bundle of the trust domain.
    pub(super) fn begin(hello: Hello, current: &[Arc<Entry>], own: &types::Bundle) -> Self {
        let mut theirs: HashSet<u64> = hello.held_identities.into_iter().collect();
        let mut held = Self {
            is_bundle_new: true,
            ..Self::default()
        };
        for entry in current {
            let digest = digest::of(&entry.to_message());
            if theirs.remove(&digest) {
                held.entries.insert(Arc::clone(&entry.id), digest);
            } else {
                held.changed.insert(Arc::clone(&entry.id));
            }
        }
        held.withdrawn = theirs.into_iter().collect();
        for BundleHeld {
            trust_domain,
            sequence,
            digest,
        } in hello.held_bundles
        {
            if trust_domain != own.trust_domain {
                held.withdrawn_bundles.push(trust_domain);
            } else if (sequence, digest) == (own.sequence_number, digest::of(own)) {
                held.is_bundle_new = false;
            }
        }
        held
    }

    /// These entries have changed, or are no longer the node's.
    pub(super) fn changed(&mut self, ids: impl IntoIterator<Item = Arc<str>>) {
        self.changed.extend(ids);
    }

    /// Anything may have changed; these are the node's entries now.
    pub(super) fn all_changed(&mut self, current: &[Arc<Entry>]) {
        self.changed.extend(self.entries.keys().cloned());
        self.changed.extend(current.iter().map(|entry| Arc::clone(&entry.id)));
    }

    /// The own bundle has changed.
    pub(super) fn bundle_changed(&mut self) {
        self.is_bundle_new = true;
    }

    /// How many items wait.
    pub(super) fn waiting(&self) -> usize {
        self.changed.len() + self.withdrawn.len() + self.withdrawn_bundles.len() + usize::from(self.is_bundle_new)
    }

    /// The next update, without its number, if there is something to tell. `look_up` gives those of some entries that are the node's now; `own` is the
    /// bundle of the trust domain as it is now.
    pub(super) fn next(
        &mut self,
        look_up: impl Fn(&[Arc<str>]) -> Vec<Option<Arc<Entry>>>,
        own: impl FnOnce() -> types::Bundle,
    ) -> Option<Update> {
        let mut update = Update::default();
        if std::mem::take(&mut self.is_bundle_new) {
            update.bundles.push(own());
        }
        let mut left = MAX_ITEMS;
        let mut bytes: usize = update.bundles.iter().map(types::Bundle::encoded_len).sum();
        update.removed = take(&mut self.withdrawn, &mut left);
        update.removed_bundles = take(&mut self.withdrawn_bundles, &mut left);
        'sets: while left > 0 && bytes < MAX_BYTES && !self.changed.is_empty() {
            // Looked up in one go, as far as there is room.
            let ids: Vec<_> = self.changed.iter().take(left).cloned().collect();
            for (id, entry) in ids.iter().zip(look_up(&ids)) {
                if bytes >= MAX_BYTES {
                    break 'sets;
                }
                self.changed.remove(id);
                match entry.map(|entry| entry.to_message()) {
                    Some(message) => {
                        let digest = digest::of(&message);
                        if self.entries.insert(Arc::clone(id), digest) == Some(digest) {
                            continue;
                        }
                        bytes += message.encoded_len();
                        update.upserts.push(message);
                    }
                    None if self.entries.remove(id).is_some() => update.removed_ids.push(id.to_string()),
                    None => continue,
                }
                left -= 1;
            }
        }
        let is_first_complete = !self.is_complete && self.waiting() == 0;
        update.complete = is_first_complete;
        self.is_complete |= is_first_complete;
        (is_first_complete || count(&update) > 0).then_some(update)
    }
}

/// How many items are in an update.
pub(super) fn count(update: &Update) -> usize {
    update.upserts.len()
        + update.removed_ids.len()
        + update.removed.len()
        + update.bundles.len()
        + update.removed_bundles.len()
}

fn take<T>(from: &mut Vec<T>, left: &mut usize) -> Vec<T> {
    let taken = from.split_off(from.len().saturating_sub(*left));
    *left -= taken.len();
    taken
}

#[cfg(test)]
mod tests {
    use mintmark_identity::TrustDomain;

    use super::*;

    fn entry(id: &str, hint: &str) -> Arc<Entry> {
        let message = types::Entry {
            id: id.into(),
            spiffe_id: Some(types::Spiffeid {
                trust_domain: "example.org".into(),
                path: format!("/{id}"),
            }),
            parent_id: Some(types::Spiffeid {
                trust_domain: "example.org".into(),
                path: "/spire/agent/x/1".into(),
            }),
            selectors: vec![types::Selector {
                r#type: "unix".into(),
                value: "uid:1".into(),
            }],
            hint: hint.into(),
            ..types::Entry::default()
        };
        Arc::new(Entry::from_message(message, &TrustDomain::parse("example.org").unwrap()).unwrap())
    }

    fn bundle(sequence: u64) -> types::Bundle {
        types::Bundle {
            trust_domain: "example.org".into(),
            sequence_number: sequence,
            ..types::Bundle::default()
        }
    }

    fn digest_of(entry: &Entry) -> u64 {
        digest::of(&entry.to_message())
    }

    /// Takes updates until there is nothing to tell, from `current`.
    fn drain(held: &mut Held, current: &[Arc<Entry>], sequence: u64) -> Vec<Update> {
        let look_up = |ids: &[Arc<str>]| {
            ids.iter()
                .map(|id| current.iter().find(|entry| entry.id == *id).cloned())
                .collect()
        };
        std::iter::from_fn(|| held.next(look_up, || bundle(sequence))).collect()
    }

    fn ids(update: &Update) -> Vec<&str> {
        update.upserts.iter().map(|entry| &*entry.id).collect()
    }

    #[test]
    fn a_new_node_is_told_everything_and_then_that_it_is_in_step() {
        let current = [entry("a", ""), entry("b", "")];
        let mut held = Held::begin(Hello::default(), &current, &bundle(1));
        let updates = drain(&mut held, &current, 1);
        assert_eq!(updates.len(), 1);
        assert_eq!(
            (ids(&updates[0]), updates[0].bundles.len(), updates[0].complete),
            (vec!["a", "b"], 1, true)
        );
        assert_eq!(drain(&mut held, &current, 1), []);
    }

    #[test]
    fn a_node_that_comes_back_is_told_the_difference() {
        let (same, old, new, gone) = (
            entry("same", ""),
            entry("x", "old"),
            entry("x", "new"),
            entry("gone", ""),
        );
        let hello = Hello {
            held_identities: vec![digest_of(&same), digest_of(&old), digest_of(&gone), 7],
            held_bundles: vec![
                BundleHeld {
                    trust_domain: "example.org".into(),
                    sequence: 1,
                    digest: digest::of(&bundle(1)),
                },
                BundleHeld {
                    trust_domain: "gone.test".into(),
                    sequence: 1,
                    digest: 1,
                },
            ],
            ..Hello::default()
        };
        let current = [same.clone(), new];
        let mut held = Held::begin(hello.clone(), &current, &bundle(1));
        let [update] = &drain(&mut held, &current, 1)[..] else {
            panic!("one update")
        };
        let mut removed = update.removed.clone();
        removed.sort_unstable();
        let mut expected = vec![digest_of(&old), digest_of(&gone), 7];
        expected.sort_unstable();
        assert_eq!(
            (ids(update), removed, &update.removed_bundles[..]),
            (vec!["x"], expected, &["gone.test".to_owned()][..])
        );
        assert!(update.complete && update.bundles.is_empty());

        // The same sequence with other content, as after a restore, is told.
        let mut other = bundle(1);
        other.refresh_hint = 5;
        let mut held = Held::begin(hello, &[], &other);
        assert_eq!(held.next(|_| vec![], || other.clone()).unwrap().bundles, [other]);

        // Nothing has changed: that it is in step is told all the same.
        let hello = Hello {
            held_identities: vec![digest_of(&same)],
            ..Hello::default()
        };
        let mut held = Held {
            is_bundle_new: false,
            ..Held::begin(hello, std::slice::from_ref(&same), &bundle(1))
        };
        assert_eq!(
            drain(&mut held, &[same], 1),
            [Update {
                complete: true,
                ..Update::default()
            }]
        );
    }

    #[test]
    fn an_item_that_changes_often_is_told_once_in_its_latest_state() {
        let mut held = Held::begin(Hello::default(), &[], &bundle(1));
        drain(&mut held, &[], 1);
        for _ in 0..3 {
            held.changed([Arc::from("a"), Arc::from("b"), Arc::from("never held")]);
            held.bundle_changed();
        }
        let [update] = &drain(&mut held, &[entry("a", "latest"), entry("b", "")], 9)[..] else {
            panic!("one update")
        };
        assert_eq!(
            (
                ids(update),
                &update.upserts[0].hint[..],
                update.bundles[0].sequence_number
            ),
            (vec!["a", "b"], "latest", 9)
        );
        assert!(update.removed_ids.is_empty() && !update.complete);
        // What is as it was is not told again, what is gone is.
        held.changed([Arc::from("a"), Arc::from("b")]);
        let [update] = &drain(&mut held, &[entry("a", "latest")], 9)[..] else {
            panic!("one update")
        };
        assert_eq!(
            (update.upserts.len(), &update.removed_ids[..]),
            (0, &["b".to_owned()][..])
        );
        held.changed([Arc::from("a")]);
        assert_eq!(drain(&mut held, &[entry("a", "latest")], 9), []);
        held.all_changed(&[entry("c", "")]);
        let [update] = &drain(&mut held, &[entry("c", "")], 9)[..] else {
            panic!("one update")
        };
        assert_eq!(
            (ids(update), &update.removed_ids[..]),
            (vec!["c"], &["a".to_owned()][..])
        );
    }

    #[test]
    fn many_items_come_in_several_updates_and_the_last_says_that_it_is_all() {
        let current: Vec<_> = (0..1201).map(|n| entry(&format!("e{n:04}"), "")).collect();
        let hello = Hello {
            held_identities: (0..700).collect(),
            ..Hello::default()
        };
        let mut held = Held::begin(hello, &current, &bundle(1));
        let updates = drain(&mut held, &current, 1);
        assert_eq!(updates.iter().map(|update| update.upserts.len()).sum::<usize>(), 1201);
        assert_eq!(updates.iter().map(|update| update.removed.len()).sum::<usize>(), 700);
        assert!(updates.iter().all(|update| count(update) <= MAX_ITEMS + 1));
        let complete: Vec<_> = updates.iter().map(|update| update.complete).collect();
        assert!(complete.len() > 10);
        assert!(complete.iter().rev().skip(1).all(|complete| !complete) && complete.last() == Some(&true));
    }

    #[test]
    fn large_items_are_spread_over_updates_by_their_size() {
        let hint = "x".repeat(1024);
        let current: Vec<_> = (0..2000).map(|n| entry(&format!("e{n:04}"), &hint)).collect();
        let mut held = Held::begin(Hello::default(), &current, &bundle(1));
        let updates = drain(&mut held, &current, 1);
        assert_eq!(updates.iter().map(|update| update.upserts.len()).sum::<usize>(), 2000);
        assert!(updates.iter().all(|update| update.encoded_len() < MAX_BYTES + 1400));
    }
}
