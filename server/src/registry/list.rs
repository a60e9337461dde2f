//! Which entries an administrator's filter lets through.

use std::collections::HashSet;
use std::hash::Hash;
use std::sync::Arc;

use mintmark_identity::{Selectors, SpiffeId, TrustDomain};

use super::entry::Entry;
use super::index::Index;

/// How the set of something that is listed must relate to the filter's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Match {
    /// The same.
    Exact,
    /// Its own is part of the filter's.
    Subset,
    /// The filter's is part of its own.
    Superset,
    /// They share something.
    Any,
}

/// Conditions that an entry must all meet; the default lets everything through.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Has this SPIFFE ID.
    pub spiffe_id: Option<SpiffeId>,
    /// Has this parent.
    pub parent_id: Option<SpiffeId>,
    /// Its selectors relate to these.
    pub selectors: Option<(Selectors, Match)>,
    /// The trust domains it federates with relate to these.
    pub federates_with: Option<(Vec<TrustDomain>, Match)>,
    /// Has this hint.
    pub hint: Option<String>,
    /// Is a downstream entry, or is none.
    pub downstream: Option<bool>,
}

impl Filter {
    fn admits(&self, entry: &Entry) -> bool {
        let selectors = |(wanted, how): &(Selectors, Match)| how.relates(entry.selectors.iter(), wanted.iter());
        let federates = |(wanted, how): &(Vec<TrustDomain>, Match)| how.relates(&entry.federates_with, wanted);
        self.spiffe_id.as_ref().is_none_or(|id| entry.spiffe_id == *id)
            && self.parent_id.as_ref().is_none_or(|id| entry.parent_id == *id)
            && self.hint.as_ref().is_none_or(|hint| *entry.hint == **hint)
            && self.downstream.is_none_or(|downstream| entry.downstream == downstream)
            && self.selectors.as_ref().is_none_or(selectors)
            && self.federates_with.as_ref().is_none_or(federates)
    }
}

impl Match {
    /// Whether what something has relates so to what is wanted.
    pub fn relates<T: Eq + Hash>(self, have: impl IntoIterator<Item = T>, wanted: impl IntoIterator<Item = T>) -> bool {
        let (have, wanted): (HashSet<T>, HashSet<T>) = (have.into_iter().collect(), wanted.into_iter().collect());
        match self {
            Self::Exact => have == wanted,
            Self::Subset => have.is_subset(&wanted),
            Self::Superset => have.is_superset(&wanted),
            Self::Any => !have.is_disjoint(&wanted),
        }
    }
}

/// The entries that `filter` lets through, in the order of their IDs, from the first behind `after`.
pub(super) fn matching<'a>(
    index: &'a Index,
    filter: &'a Filter,
    after: Option<&'a str>,
) -> Box<dyn Iterator<Item = &'a Arc<Entry>> + 'a> {
    let behind = move |entry: &&Arc<Entry>| after.is_none_or(|after| *entry.id > *after);
    let mut group: Vec<&Arc<Entry>> = match (&filter.spiffe_id, &filter.parent_id) {
        (Some(id), _) => index.with_spiffe_id(id).filter(behind).collect(),
        (None, Some(parent)) => index.with_parent(parent).filter(behind).collect(),
        (None, None) => return Box::new(index.after(after).filter(|entry| filter.admits(entry))),
    };
    group.sort_unstable_by(|a, b| a.id.cmp(&b.id));
    Box::new(group.into_iter().filter(|entry| filter.admits(entry)))
}
