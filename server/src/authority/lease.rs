//! The lease under which authorities are changed, so that two replicas do not both make the same next one.
//!
//! A record in the store with a holder and an end. Whoever holds it past its end has lost it; correctness does not rest on it but on compare-and-swap.

use mintmark_runtime::clock::Clock;
use mintmark_runtime::crypto::random;
use serde::{Deserialize, Serialize};

use super::AuthorityError;
use crate::store::{Store, StoreError, Txn};

const KEY: &[u8] = b"lease/authority";
/// Longer than making all three authorities takes, RSA keys included.
const DURATION: i64 = 30;
/// How long a change waits for the lease at most, in seconds.
const PATIENCE: i64 = 45;

#[derive(Deserialize, Serialize)]
struct Holder {
    holder: String,
    until: i64,
}

/// Who may hold the lease: one server process.
#[derive(Debug)]
pub(super) struct Lease {
    store: Store,
    clock: Clock,
    me: String,
}

impl Lease {
    pub(super) fn new(store: Store, clock: Clock) -> Self {
        Self {
            store,
            clock,
            me: hex::encode(random::<16>()),
        }
    }

    /// Takes the lease; `Some(until)` when another replica holds it until then.
    pub(super) async fn take(&self) -> Result<Option<i64>, AuthorityError> {
        let now = self.clock.unix();
        let mine = Holder {
            holder: self.me.clone(),
            until: now + DURATION,
        };
        let value = serde_json::to_vec(&mine).expect("a name and a number are JSON");
        let found = self.store.get(KEY).await?;
        let txn = match &found {
            None => Txn::new().expect_absent(KEY),
            Some(found) => {
                // A record that does not parse is nobody's. An end further away than any lease lasts was written by a clock that ran ahead.
                let other = serde_json::from_slice::<Holder>(&found.value)
                    .ok()
                    .filter(|other| other.holder != self.me);
                if let Some(other) = other.filter(|other| other.until > now && other.until <= now + DURATION) {
                    return Ok(Some(other.until));
                }
                Txn::new().expect_revision(KEY, found.modified)
            }
        };
        match self.store.commit(txn.put(KEY, value)).await {
            Ok(_) => Ok(None),
            Err(StoreError::Conflict { .. }) => Ok(Some(now + 1)),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes the lease as soon as it is free.
    ///
    /// # Errors
    /// When it was not for long, or the store fails.
    pub(super) async fn take_patiently(&self) -> Result<(), AuthorityError> {
        let give_up = self.clock.unix() + PATIENCE;
        loop {
            let mut changes = self.store.watch(KEY, self.store.revision());
            let Some(until) = self.take().await? else { return Ok(()) };
            tokio::select! {
                _ = changes.next() => {}
                () = self.clock.sleep_until_unix(until.min(give_up)) => {}
            }
            if self.clock.unix() >= give_up {
                return Err(AuthorityError::Busy(PATIENCE));
            }
        }
    }

    /// Gives the lease back, if this process still has it.
    pub(super) async fn give_back(&self) -> Result<(), AuthorityError> {
        let Some(found) = self.store.get(KEY).await? else {
            return Ok(());
        };
        if serde_json::from_slice::<Holder>(&found.value).is_ok_and(|holder| holder.holder == self.me) {
            match self
                .store
                .commit(Txn::new().expect_revision(KEY, found.modified).delete(KEY))
                .await
            {
                Ok(_) | Err(StoreError::Conflict { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}
