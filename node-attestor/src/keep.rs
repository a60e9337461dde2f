//! Which keys and SVIDs do I hold, when do they rotate, what survives a restart?
//!
//! In: what the server says that this node holds ([`Keep::apply`], from `link`), and an [`Upstream`] that signs. Out: for a caller's selectors, the
//! identities that are its own with keys, SVIDs and bundles ([`Keep::view`], [`Keep::jwt`]), and a signal whenever any of that changes ([`Keep::changes`]), for `serve`.
//!
//! Keys are born here and never leave but to the workload whose they are. An SVID is renewed at half of its life, with an offset that is fixed for each node, in
//! steps of a 32nd: what falls due in one step goes up in one message. The old SVID is kept while renewal fails, until its end. An SVID whose authority is tainted or
//! gone is renewed at once. What the server withdraws is dropped at once, and its keys are wiped.
//!
//! ```text
//! link ──apply──► state ◄──results── renewal ──sign──► Upstream (link)
//!                   │ changes
//!                   └──► serve (view, jwt)
//! ```

mod apply;
mod bundles;
mod cache;
mod identity;
mod keys;
mod renewal;
mod slot;
mod state;
mod summary;
mod tokens;
mod upstream;
mod view;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mintmark_identity::TrustDomain;
use mintmark_runtime::clock::Clock;
use tokio::sync::{Notify, watch};

use state::State;

pub use apply::Refused;
pub use bundles::HeldBundle;
pub(crate) use bundles::bundle as bundle_of;
pub use cache::{Cache, CacheError, Sealer};
pub use identity::Identity;
pub use keys::{NewKey, SecretText};
pub(crate) use slot::signer;
pub use slot::{WitSvid, X509Svid};
pub use state::Kind;
pub use summary::{Summary, register};
pub use tokens::JwtSvid;
pub use upstream::{Upstream, UpstreamError};
pub use view::{Demand, Seen, View};

/// What this node may hold at most.
#[derive(Clone, Copy, Debug)]
pub struct KeepLimits {
    /// X.509-SVIDs that are held ready although nobody asked; more identities get theirs when they are asked for.
    pub prefetch: usize,
    /// JWT-SVIDs that are remembered.
    pub jwt_cache: usize,
}

/// Whether what is held can be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Readiness {
    /// Nothing is known yet.
    Fresh,
    /// What an earlier run left is served, until the server says otherwise.
    Cached,
    /// The server has said what applies, in this run.
    InStep,
}

/// What this node holds. A handle.
#[derive(Clone)]
pub struct Keep(Arc<Inner>);

struct Inner {
    trust_domain: TrustDomain,
    clock: Clock,
    upstream: Arc<dyn Upstream>,
    state: Mutex<State>,
    /// Counts changes of what callers see.
    version: watch::Sender<u64>,
    readiness: watch::Sender<Readiness>,
    /// Wakes the renewal task when something else is due first.
    due: Notify,
    jwt: tokens::Tokens,
    /// Streams of workloads that are open.
    workloads: AtomicUsize,
}

impl Keep {
    /// Holds nothing yet.
    pub fn new(trust_domain: TrustDomain, clock: Clock, upstream: Arc<dyn Upstream>, limits: KeepLimits) -> Self {
        Self(Arc::new(Inner {
            state: Mutex::new(State::new(limits.prefetch)),
            jwt: tokens::Tokens::new(limits.jwt_cache),
            trust_domain,
            clock,
            upstream,
            version: watch::Sender::new(0),
            readiness: watch::Sender::new(Readiness::Fresh),
            due: Notify::new(),
            workloads: AtomicUsize::new(0),
        }))
    }

    /// A number that changes whenever what callers see may have changed.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.0.version.subscribe()
    }

    /// Whether what is held can be served.
    pub fn readiness(&self) -> watch::Receiver<Readiness> {
        self.0.readiness.subscribe()
    }

    /// Whether there is a link to the server.
    pub fn is_up(&self) -> watch::Receiver<bool> {
        self.0.upstream.is_up()
    }

    /// A workload has opened a stream; it is counted until this is dropped.
    pub fn workload(&self) -> Workload {
        self.0.workloads.fetch_add(1, Ordering::Relaxed);
        Workload(self.clone())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change of the state is made whole under the lock by code that does not panic halfway.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn changed(&self) {
        self.0.version.send_modify(|version| *version = version.wrapping_add(1));
    }
}

/// An open stream of a workload.
pub struct Workload(Keep);

impl Drop for Workload {
    fn drop(&mut self) {
        self.0.0.workloads.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
