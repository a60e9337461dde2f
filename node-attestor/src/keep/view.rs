//! What a caller with certain selectors sees.

use std::collections::BTreeSet;
use std::sync::Arc;

use mintmark_identity::{Selectors, TrustDomain};

use super::Keep;
use super::bundles::HeldBundle;
use super::identity::Identity;
use super::slot::{WitSvid, X509Svid};
use super::state::{Item, Kind};
use crate::peer::Needs;

/// One identity of a caller.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The identity.
    pub identity: Arc<Identity>,
    /// Its hint, unless an older identity of the caller has the same.
    pub hint: Arc<str>,
    /// Its X.509-SVID, if one is held that has not ended.
    pub x509: Option<Arc<X509Svid>>,
    /// Its WIT-SVID, if one is held that has not ended.
    pub wit: Option<Arc<WitSvid>>,
    /// Why the last attempt to get the X.509-SVID failed.
    pub x509_problem: Option<Arc<str>>,
    /// Why the last attempt to get the WIT-SVID failed.
    pub wit_problem: Option<Arc<str>>,
}

/// What a caller sees.
#[derive(Clone, Debug)]
pub struct View {
    /// Its identities, the oldest first.
    pub identities: Vec<Seen>,
    /// The bundle of our own trust domain.
    pub own: Option<Arc<HeldBundle>>,
    /// The bundles of trust domains that any of its identities federates with.
    pub federated: Vec<Arc<HeldBundle>>,
}

impl View {
    /// The own bundle and the others, each with its trust domain.
    pub fn bundles(&self) -> impl Iterator<Item = (&TrustDomain, &Arc<HeldBundle>)> {
        self.own
            .iter()
            .chain(&self.federated)
            .map(|held| (&held.bundle.trust_domain, held))
    }

    /// The bundle of this trust domain, if the caller sees it.
    pub fn bundle(&self, trust_domain: &TrustDomain) -> Option<&Arc<HeldBundle>> {
        self.bundles()
            .find(|(one, _)| *one == trust_domain)
            .map(|(_, held)| held)
    }
}

impl Keep {
    /// What a caller with these selectors sees now.
    pub fn view(&self, selectors: &Selectors) -> View {
        let now = self.0.clock.unix_ms();
        let state = self.state();
        let items = selectors.iter().flat_map(|selector| state.with_selector(selector));
        // The server withdraws what has ended; while it cannot be reached, it ends all the same.
        let applies = |item: &&Item| item.identity.expires_at.is_none_or(|at| at.saturating_mul(1000) > now);
        let mut items: Vec<&Item> = items
            .filter(|item| item.identity.selectors.is_subset(selectors))
            .filter(applies)
            .collect();
        items.sort_unstable_by(|a, b| {
            (a.identity.created_at, &a.identity.id).cmp(&(b.identity.created_at, &b.identity.id))
        });

        let mut hints = BTreeSet::new();
        let identities: Vec<_> = items
            .iter()
            .map(|item| {
                let hint = &item.identity.hint;
                let taken = !hint.is_empty() && !hints.insert(Arc::clone(hint));
                if taken {
                    tracing::debug!(entry = %item.identity.id, "hint left out: an older identity of the caller has the same");
                }
                let holds = |kind| item.life(kind).is_some_and(|life| life.until > now);
                Seen {
                    identity: Arc::clone(&item.identity),
                    hint: if taken { Arc::default() } else { Arc::clone(hint) },
                    x509: item.x509.clone().filter(|_| holds(Kind::X509)),
                    wit: item.wit.clone().filter(|_| holds(Kind::Wit)),
                    x509_problem: item.turn(Kind::X509).problem.clone(),
                    wit_problem: item.turn(Kind::Wit).problem.clone(),
                }
            })
            .collect();
        let wanted: BTreeSet<_> = identities
            .iter()
            .flat_map(|seen| &seen.identity.federates_with)
            .collect();
        let federated = wanted.into_iter().filter(|one| **one != self.0.trust_domain);
        View {
            federated: federated.filter_map(|one| state.bundles.get(one).cloned()).collect(),
            own: state.bundles.get(&self.0.trust_domain).cloned(),
            identities,
        }
    }

    /// What has to be found out about callers, for the identities that there are.
    pub fn needs(&self) -> Needs {
        self.state().needs
    }

    /// Wants SVIDs of this kind, of none at first.
    pub fn demand(&self, kind: Kind) -> Demand {
        Demand {
            keep: self.clone(),
            kind,
            ids: BTreeSet::new(),
        }
    }
}

/// Someone wants SVIDs: they are fetched, and renewed as long as this lives.
pub struct Demand {
    keep: Keep,
    kind: Kind,
    ids: BTreeSet<Arc<str>>,
}

impl Demand {
    /// From now on wants those of these entries, and no others.
    pub fn set(&mut self, entries: impl IntoIterator<Item = Arc<str>>) {
        let ids: BTreeSet<_> = entries.into_iter().collect();
        if ids == self.ids {
            return;
        }
        let now = self.keep.0.clock.unix_ms();
        let mut state = self.keep.state();
        for id in ids.difference(&self.ids) {
            state.add_demand(id, self.kind, now);
        }
        for id in self.ids.difference(&ids) {
            state.end_demand(id, self.kind);
        }
        drop(state);
        self.ids = ids;
        self.keep.0.due.notify_one();
    }
}

impl Drop for Demand {
    fn drop(&mut self) {
        self.set([]);
    }
}
