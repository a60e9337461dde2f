//! The lease under which authorities are changed, so that two replicas do not both make the same next one.
//!
//! What is done under it is committed only while it is held ([`Held::guard`]).

use std::time::Duration;

use mintmark_runtime::clock::Clock;
use mintmark_runtime::crypto::random;

use super::AuthorityError;
use crate::store::{Held, Lease, Store, Taken};

const KEY: &[u8] = b"lease/authority";
/// Long enough to make authorities, an RSA key included; not much longer, since after a crash others wait for its end.
const DURATION: Duration = Duration::from_secs(10);
/// How long an administrator's change waits for it, in seconds.
pub(super) const PATIENCE: i64 = 30;

/// This process's hand on the lease.
#[derive(Debug)]
pub(super) struct Turn {
    store: Store,
    clock: Clock,
    lease: Lease,
}

impl Turn {
    pub(super) fn new(store: &Store, clock: &Clock) -> Self {
        let holder = hex::encode(random::<16>());
        let lease = Lease::new(store, clock, KEY, holder, DURATION);
        Self {
            store: store.clone(),
            clock: clock.clone(),
            lease,
        }
    }

    /// Takes the lease unless another replica has it.
    pub(super) async fn try_take(&self) -> Result<Option<Held>, AuthorityError> {
        match self.lease.take().await? {
            Taken::Held(held) => Ok(Some(held)),
            Taken::HeldBy { .. } => Ok(None),
        }
    }

    /// Takes the lease as soon as it is free; `None` when it was not within `patience` seconds.
    pub(super) async fn take(&self, patience: i64) -> Result<Option<Held>, AuthorityError> {
        let give_up = self.clock.unix() + patience;
        loop {
            let mut changes = self.store.watch(KEY, self.store.revision());
            let until_ms = match self.lease.take().await? {
                Taken::Held(held) => return Ok(Some(held)),
                Taken::HeldBy { until_ms, .. } => until_ms,
            };
            // Whole seconds, rounded up: at its very end it may be taken.
            let until = until_ms.saturating_add(999).div_euclid(1_000);
            tokio::select! {
                _ = changes.next() => {}
                () = self.clock.sleep_until_unix(until.min(give_up)) => {}
            }
            if self.clock.unix() >= give_up {
                return Ok(None);
            }
        }
    }

    /// Gives the lease back.
    pub(super) async fn give_back(&self, held: Held) -> Result<(), AuthorityError> {
        Ok(self.lease.release(held).await?)
    }
}
