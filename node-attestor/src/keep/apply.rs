//! What the server says that this node holds.

use std::collections::HashSet;
use std::sync::Arc;

use mintmark_identity::{Bundle, TrustDomain};
use mintmark_proto::attestor::{BundleHeld, Update};
use mintmark_proto::spire::types;

use super::bundles::HeldBundle;
use super::identity::Identity;
use super::state::{Kind, State};
use super::{Keep, Readiness};

/// An item of an update that was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} {name:?} is left out: {why}")]
pub struct Refused {
    what: &'static str,
    name: String,
    why: String,
}

impl Keep {
    /// Holds what an update says, and gives what of it was refused. An item that is both removed and put is held all the while: what only changes keeps its SVID and
    /// is still wanted by whoever wanted it.
    pub fn apply(&self, update: &Update) -> Vec<Refused> {
        let now = self.0.clock.unix_ms();
        let mut refused = Vec::new();
        let mut state = self.state();
        let put: HashSet<&str> = update.upserts.iter().map(|entry| &*entry.id).collect();
        let mut changed = false;
        for id in update.removed_ids.iter().filter(|id| !put.contains(id.as_str())) {
            changed |= state.remove(id);
        }
        for entry in &update.upserts {
            match Identity::from_message(entry, &self.0.trust_domain) {
                Ok(identity) => changed |= state.put(identity, now),
                Err(why) => {
                    changed |= state.remove(&entry.id);
                    refused.push(Refused {
                        what: "entry",
                        name: entry.id.clone(),
                        why,
                    });
                }
            }
        }
        changed |= remove_digests(&mut state, &update.removed, &put);
        changed |= remove_bundles(&mut state, &update.removed_bundles);
        let own_changed = update
            .bundles
            .iter()
            .fold(false, |own_changed, message| match self.held_bundle(message) {
                Ok(held) => {
                    let trust_domain = held.bundle.trust_domain.clone();
                    let is_own = trust_domain == self.0.trust_domain;
                    let same = state
                        .bundles
                        .get(&trust_domain)
                        .is_some_and(|known| known.digest == held.digest);
                    changed |= !same;
                    if !same {
                        state.bundles.insert(trust_domain, Arc::new(held));
                    }
                    own_changed | (is_own && !same)
                }
                Err(why) => {
                    refused.push(Refused {
                        what: "bundle",
                        name: message.trust_domain.clone(),
                        why,
                    });
                    own_changed
                }
            });
        if own_changed {
            self.replace_unsound(&mut state, now);
        }
        if changed {
            state.note_needs();
        }
        drop(state);
        if changed {
            self.0
                .jwt
                .keep_only(|id, shape, key_id| self.is_sound_jwt(id, shape, key_id));
            self.changed();
            self.0.due.notify_one();
        }
        if update.complete {
            self.0
                .readiness
                .send_if_modified(|readiness| std::mem::replace(readiness, Readiness::InStep) != Readiness::InStep);
        }
        refused
    }

    /// Holds nothing any more, as the server does not want this node: that is what applies, and what an earlier run left is not kept for the next either.
    pub fn forget(&self) {
        self.state().clear();
        self.0.jwt.keep_only(|_, _, _| false);
        self.changed();
        self.0.readiness.send_if_modified(|readiness| {
            let was_cached = *readiness == Readiness::Cached;
            if was_cached {
                *readiness = Readiness::InStep;
            }
            was_cached
        });
    }

    /// Takes a bundle as the server sends it. One of a federated trust domain may be empty, for all of it is revoked then; by an empty one of our own
    /// nobody could recognise the server again, which would have no SVID to say so with.
    fn held_bundle(&self, message: &types::Bundle) -> Result<HeldBundle, String> {
        let held = HeldBundle::from_message(message)?;
        match held.bundle.trust_domain == self.0.trust_domain && held.bundle.x509.is_empty() {
            true => Err("it is that of our own trust domain and has no X.509 authority".into()),
            false => Ok(held),
        }
    }

    /// What is held, as a link begins with it.
    pub fn held(&self) -> (Vec<u64>, Vec<BundleHeld>) {
        let state = self.state();
        let bundles = state.bundles.iter().map(|(trust_domain, held)| BundleHeld {
            trust_domain: trust_domain.to_string(),
            sequence: held.bundle.sequence,
            digest: held.digest,
        });
        (
            state.items().map(|item| item.identity.digest).collect(),
            bundles.collect(),
        )
    }

    /// The bundle of our own trust domain.
    pub fn own_bundle(&self) -> Option<Bundle> {
        let state = self.state();
        state.bundles.get(&self.0.trust_domain).map(|held| held.bundle.clone())
    }

    /// Whether an SVID that this authority signed may stay; so it is, too, while the bundle is not known.
    pub fn is_sound(&self, authority: &[u8]) -> bool {
        let state = self.state();
        let own = state.bundles.get(&self.0.trust_domain);
        own.is_none_or(|own| own.is_sound(authority))
    }

    /// Brings forward the renewal of every SVID that an authority signed which is tainted or gone.
    pub(super) fn replace_unsound(&self, state: &mut State, now: i64) {
        let Some(own) = state.bundles.get(&self.0.trust_domain).cloned() else {
            return;
        };
        let unsound = state.items().flat_map(|item| {
            let x509 = item
                .x509
                .as_ref()
                .and_then(|svid| svid.authority.as_deref())
                .is_some_and(|one| !own.is_sound(one));
            let wit = item.wit.as_ref().is_some_and(|svid| !own.is_sound_wit(&svid.key_id));
            let kinds = [x509.then_some(Kind::X509), wit.then_some(Kind::Wit)];
            kinds
                .into_iter()
                .flatten()
                .map(|kind| (Arc::clone(&item.identity.id), kind))
        });
        let unsound: Vec<_> = unsound.collect();
        if !unsound.is_empty() {
            tracing::info!(
                svids = unsound.len(),
                "renewing what a tainted or removed authority signed"
            );
        }
        for (id, kind) in unsound {
            state.renew_now(&id, kind, now);
        }
    }

    /// Whether a JWT-SVID may stay: its entry is as it was when it was signed, and its key is in the bundle and not tainted.
    pub(super) fn is_sound_jwt(&self, id: &str, shape: u64, key_id: &mintmark_identity::KeyId) -> bool {
        let state = self.state();
        let same = state.get(id).is_some_and(|item| item.identity.shape == shape);
        same && state
            .bundles
            .get(&self.0.trust_domain)
            .is_none_or(|own| own.is_sound_jwt(key_id))
    }
}

/// Removes what is named by digests, but for what has just been `put`.
fn remove_digests(state: &mut State, digests: &[u64], put: &HashSet<&str>) -> bool {
    if digests.is_empty() {
        return false;
    }
    let digests: HashSet<u64> = digests.iter().copied().collect();
    let gone = state
        .items()
        .filter(|item| digests.contains(&item.identity.digest) && !put.contains(&*item.identity.id));
    let gone: Vec<_> = gone.map(|item| Arc::clone(&item.identity.id)).collect();
    gone.iter().fold(false, |changed, id| changed | state.remove(id))
}

fn remove_bundles(state: &mut State, names: &[String]) -> bool {
    names.iter().fold(false, |changed, name| {
        let gone = TrustDomain::parse_name_or_id(name)
            .ok()
            .and_then(|name| state.bundles.remove(&name));
        changed | gone.is_some()
    })
}
