//! Leases: of several servers on one store, one does a job at a time.
//!
//! A lease is a key whose value names its holder and an end. Clocks of servers differ, so the end only says
//! when others may try; what keeps a job exclusive is that its own transactions carry the lease's revision
//! ([`Held::guard`]), which changes when anyone else takes it.

use std::time::Duration;

use bytes::Bytes;
use mintmark_runtime::clock::Clock;
use serde::{Deserialize, Serialize};

use super::{
    Store,
    error::StoreError,
    txn::Txn,
    types::{KeyValue, Revision},
};

/// A lease that this holder may take.
#[derive(Clone, Debug)]
pub struct Lease {
    store: Store,
    clock: Clock,
    key: Bytes,
    holder: String,
    ttl: Duration,
}

/// What became of an attempt to take a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Taken {
    /// It is ours.
    Held(Held),
    /// Someone else has it; a good moment to try again is when it ends.
    HeldBy {
        /// Who.
        holder: String,
        /// Until when, in milliseconds since 1970.
        until_ms: i64,
    },
}

/// A lease in our hands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    key: Bytes,
    revision: Revision,
}

#[derive(Deserialize, Serialize)]
struct Claim {
    holder: String,
    until_ms: i64,
}

impl Lease {
    /// The lease `key`, taken for `ttl` at a time by `holder`: a name that no other process has, now or after
    /// a restart.
    pub fn new(store: &Store, clock: &Clock, key: impl Into<Bytes>, holder: impl Into<String>, ttl: Duration) -> Self {
        Self {
            store: store.clone(),
            clock: clock.clone(),
            key: key.into(),
            holder: holder.into(),
            ttl,
        }
    }

    /// Takes the lease if it is free, has ended, or is ours already; then its time begins anew, and an earlier
    /// [`Held`] of ours no longer counts.
    ///
    /// # Errors
    /// What the store answers; that another was quicker is not an error.
    pub async fn take(&self) -> Result<Taken, StoreError> {
        let now = self.clock.unix_ms();
        let (latest, claim) = self.claim(now);
        let found = self.store.get(&self.key).await?;
        let txn = match &found {
            None => Txn::new().expect_absent(self.key.clone()),
            Some(pair) => {
                if let Some(taken) = self.still_held(pair, now, latest) {
                    return Ok(taken);
                }
                Txn::new().expect_revision(self.key.clone(), pair.modified)
            }
        };
        match self.store.commit(txn.put(self.key.clone(), claim)).await {
            Ok(revision) => Ok(Taken::Held(Held {
                key: self.key.clone(),
                revision,
            })),
            // Another took it since: it is theirs, or free to be tried for again at once.
            Err(StoreError::Conflict { .. }) => {
                let winner = self.store.get(&self.key).await?.and_then(|pair| claim_of(&pair));
                let Claim { holder, until_ms } = winner.unwrap_or(Claim {
                    holder: String::new(),
                    until_ms: now,
                });
                Ok(Taken::HeldBy { holder, until_ms })
            }
            Err(error) => Err(error),
        }
    }

    /// Takes the lease as soon as it is free or has ended; `None` when it was not within `patience`. Whoever gives it
    /// back is noticed at once, whoever crashed with it at its end.
    ///
    /// # Errors
    /// What the store answers.
    pub async fn take_within(&self, patience: Duration) -> Result<Option<Held>, StoreError> {
        let give_up = self.clock.instant() + patience;
        loop {
            let mut changes = self.store.watch(&self.key, self.store.revision());
            let until_ms = match self.take().await? {
                Taken::Held(held) => return Ok(Some(held)),
                Taken::HeldBy { until_ms, .. } => until_ms,
            };
            // Whole seconds, rounded up: at its very end it may be taken.
            let until = until_ms.saturating_add(999).div_euclid(1_000);
            tokio::select! {
                _ = changes.next() => {}
                () = self.clock.sleep_until_unix(until) => {}
                () = self.clock.sleep_until(give_up) => {}
            }
            if self.clock.instant() >= give_up {
                return Ok(None);
            }
        }
    }

    /// Gives a lease back, so that another need not wait for its end; one that was lost already is left alone.
    ///
    /// # Errors
    /// What the store answers.
    pub async fn release(&self, held: Held) -> Result<(), StoreError> {
        match self.store.commit(held.guard(Txn::new()).delete(self.key.clone())).await {
            Ok(_) | Err(StoreError::Conflict { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Our claim from `now` on, and its end.
    fn claim(&self, now: i64) -> (i64, Vec<u8>) {
        let ttl = i64::try_from(self.ttl.as_millis()).unwrap_or(i64::MAX);
        let until_ms = now.saturating_add(ttl);
        let claim = Claim {
            holder: self.holder.clone(),
            until_ms,
        };
        (
            until_ms,
            serde_json::to_vec(&claim).expect("a name and a number are JSON"),
        )
    }

    /// Who has the lease, if it is another and has not ended. A claim that nobody can read is nobody's, and
    /// one that ends after ours would was written by a clock that ran ahead.
    fn still_held(&self, pair: &KeyValue, now: i64, latest: i64) -> Option<Taken> {
        let Claim { holder, until_ms } = claim_of(pair)?;
        let others = holder != self.holder;
        let lasts = until_ms > now && until_ms <= latest;
        (others && lasts).then_some(Taken::HeldBy { holder, until_ms })
    }
}

impl Held {
    /// `txn`, to be committed only if the lease is still ours: what is done under a lease is committed so.
    #[must_use]
    pub fn guard(&self, txn: Txn) -> Txn {
        txn.expect_revision(self.key.clone(), self.revision)
    }
}

fn claim_of(pair: &KeyValue) -> Option<Claim> {
    serde_json::from_slice(&pair.value).ok()
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures::FutureExt as _;

    use super::*;

    const TTL: Duration = Duration::from_secs(30);

    fn two(store: &Store, clock: &Clock) -> [Lease; 2] {
        ["a", "b"].map(|holder| Lease::new(store, clock, "lease/test", holder, TTL))
    }

    async fn held(lease: &Lease) -> Held {
        match lease.take().await.unwrap() {
            Taken::Held(held) => held,
            taken => panic!("{taken:?}"),
        }
    }

    #[tokio::test]
    async fn a_lease_is_with_one_holder_until_it_ends() {
        let (store, clock) = (Store::memory(), Clock::manual(1_000));
        let [a, b] = two(&store, &clock);
        let first = held(&a).await;
        let by_a = Taken::HeldBy {
            holder: "a".to_owned(),
            until_ms: 1_030_000,
        };
        assert_eq!(b.take().await.unwrap(), by_a);
        clock.advance(TTL - Duration::from_millis(1));
        assert_eq!(b.take().await.unwrap(), by_a);
        clock.advance(Duration::from_millis(1));
        held(&b).await;
        let error = store.commit(first.guard(Txn::new()).put("job", "by a")).await;
        assert!(matches!(error, Err(StoreError::Conflict { .. })), "{error:?}");
        assert!(matches!(a.take().await.unwrap(), Taken::HeldBy { holder, .. } if holder == "b"));
    }

    #[tokio::test]
    async fn what_is_done_under_a_lease_that_was_lost_is_refused() {
        let (store, clock) = (Store::memory(), Clock::manual(1_000));
        let [a, b] = two(&store, &clock);
        let lost = held(&a).await;
        store.commit(lost.guard(Txn::new()).put("job", "by a")).await.unwrap();
        clock.advance(TTL);
        let taken = held(&b).await;
        let error = store
            .commit(lost.guard(Txn::new()).put("job", "by a, late"))
            .await
            .unwrap_err();
        assert!(matches!(error, StoreError::Conflict { .. }), "{error}");
        store.commit(taken.guard(Txn::new()).put("job", "by b")).await.unwrap();
        a.release(lost).await.unwrap();
        assert!(
            matches!(a.take().await.unwrap(), Taken::HeldBy { .. }),
            "it is still with b"
        );
    }

    #[tokio::test]
    async fn a_lease_that_is_taken_again_or_given_back_moves_its_end() {
        let (store, clock) = (Store::memory(), Clock::manual(1_000));
        let [a, b] = two(&store, &clock);
        let mut mine = held(&a).await;
        for _ in 0..3 {
            clock.advance(TTL * 2 / 3);
            mine = held(&a).await;
            assert!(matches!(b.take().await.unwrap(), Taken::HeldBy { .. }));
        }
        a.release(mine).await.unwrap();
        held(&b).await;
    }

    #[tokio::test]
    async fn who_waits_for_a_lease_has_it_when_it_is_given_back_or_ends_or_gives_up() {
        let (store, clock) = (Store::memory(), Clock::manual(1_000));
        let [a, b] = two(&store, &clock);
        let mine = held(&a).await;
        let mut waits = pin!(b.take_within(TTL));
        assert!(waits.as_mut().now_or_never().is_none());
        a.release(mine).await.unwrap();
        let given_back = waits.await.unwrap().expect("it was given back");
        b.release(given_back).await.unwrap();

        held(&a).await;
        let mut waits = pin!(b.take_within(TTL * 2));
        assert!(waits.as_mut().now_or_never().is_none());
        clock.advance(TTL);
        let ended = waits.await.unwrap();
        assert!(ended.is_some(), "its holder is gone, and it ended");

        let mut waits = pin!(a.take_within(TTL / 2));
        assert!(waits.as_mut().now_or_never().is_none());
        clock.advance(TTL / 2);
        assert_eq!(waits.await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_claim_from_a_clock_that_runs_ahead_or_that_nobody_can_read_does_not_last() {
        let (store, clock) = (Store::memory(), Clock::manual(1_000));
        let [a, b] = two(&store, &clock);
        store.commit(Txn::new().put("lease/test", "not a claim")).await.unwrap();
        held(&a).await;
        clock.set_unix(500);
        held(&b).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn of_many_who_try_at_once_one_has_it() {
        let (store, clock) = (Store::memory(), Clock::manual(1_000));
        let tries = (0..16).map(|number| {
            let lease = Lease::new(&store, &clock, "lease/test", format!("{number}"), TTL);
            tokio::spawn(async move { lease.take().await.unwrap() })
        });
        let taken = futures::future::join_all(tries).await;
        let held = taken
            .into_iter()
            .filter(|taken| matches!(taken.as_ref().unwrap(), Taken::Held(_)))
            .count();
        assert_eq!(held, 1);
    }
}
