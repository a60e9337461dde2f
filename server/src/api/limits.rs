//! How often a caller may: a bucket for each caller and kind of limit, in memory that is bounded.
//!
//! A caller that is too fast waits, as SPIRE lets it, up to [`PATIENCE`]; one that would wait longer is refused and told when to come again.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use mintmark_identity::SpiffeId;
use mintmark_runtime::clock::Clock;
use mintmark_runtime::metrics::Gauge;

use super::methods::Limit;
use crate::config::LimitsSection;

/// A call is held back no longer than this.
const PATIENCE: Duration = Duration::from_secs(5);
/// So many addresses have a bucket of their own; the others share one for each limit. Nodes, of which there are no more than have attested, always have theirs.
const MAX_ADDRESSES: usize = 20_000;
/// When there are so many buckets of nodes, those that are full are dropped.
const MANY_NODES: usize = 20_000;

/// Whose bucket it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Key {
    /// A node.
    Node(SpiffeId),
    /// An address; of IPv6 the network, as one host has all of it.
    Address(IpAddr),
    /// Whoever came when [`MAX_ADDRESSES`] had a bucket.
    Others,
}

impl Key {
    /// The bucket of an address.
    pub(super) fn address(address: IpAddr) -> Self {
        Self::Address(match address.to_canonical() {
            IpAddr::V6(address) => Ipv6Addr::from(u128::from(address) & !u128::from(u64::MAX)).into(),
            v4 @ IpAddr::V4(_) => v4,
        })
    }
}

/// The limits of a server. A handle.
#[derive(Clone)]
pub(super) struct Limits(Arc<Inner>);

struct Inner {
    clock: Clock,
    section: LimitsSection,
    buckets: Mutex<Buckets>,
    callers: Gauge,
}

/// When each bucket will be full again. Those whom nobody knows cannot take the place of nodes.
#[derive(Default)]
struct Buckets {
    nodes: HashMap<(Limit, Key), Instant>,
    /// Nodes are looked through again when there are more than this.
    many: usize,
    addresses: HashMap<(Limit, Key), Instant>,
}

impl Buckets {
    fn of(&mut self, limit: Limit, key: &Key, now: Instant) -> &mut Instant {
        let mut slot = (limit, key.clone());
        if matches!(key, Key::Node(_)) {
            if self.nodes.len() >= self.many.max(MANY_NODES) {
                self.nodes.retain(|_, full_at| *full_at > now);
                self.many = 2 * self.nodes.len();
            }
            return self.nodes.entry(slot).or_insert(now);
        }
        let addresses = &mut self.addresses;
        if !addresses.contains_key(&slot) && addresses.len() >= MAX_ADDRESSES {
            addresses.retain(|_, full_at| *full_at > now);
            if addresses.len() >= MAX_ADDRESSES {
                slot.1 = Key::Others;
            }
        }
        addresses.entry(slot).or_insert(now)
    }

    fn len(&self) -> usize {
        self.nodes.len() + self.addresses.len()
    }
}

/// A caller is over its limit; it may come again after this long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TooFast {
    pub(super) retry_after: Duration,
}

impl Limits {
    /// `callers` tells how many have a bucket.
    pub(super) fn new(clock: Clock, section: LimitsSection, callers: Gauge) -> Self {
        let buckets = Mutex::default();
        Self(Arc::new(Inner {
            clock,
            section,
            buckets,
            callers,
        }))
    }

    /// Takes `count` from the caller's bucket, after waiting for them to be there if need be.
    pub(super) async fn take(&self, limit: Limit, key: &Key, count: usize) -> Result<(), TooFast> {
        let wait = self.reserve(limit, key, count)?;
        if !wait.is_zero() {
            self.0.clock.sleep(wait).await;
        }
        Ok(())
    }

    /// Generic cell rate algorithm: the bucket is the time at which it will be full again.
    fn reserve(&self, limit: Limit, key: &Key, count: usize) -> Result<Duration, TooFast> {
        let section = &self.0.section;
        let rate = match limit {
            Limit::Attest => section.attest,
            Limit::Sign => section.signing,
            Limit::PushKey => section.push_key,
            Limit::PostStatus => section.post_status,
            Limit::Unlimited => return Ok(Duration::ZERO),
        };
        if !section.rate_limit || count == 0 {
            return Ok(Duration::ZERO);
        }
        let each = Duration::from_secs(1) / rate.max(1);
        let cost = each.saturating_mul(u32::try_from(count).unwrap_or(u32::MAX));
        let now = self.0.clock.instant();
        let mut buckets = self.0.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let full_at = buckets.of(limit, key, now);
        let after = (*full_at).max(now) + cost;
        // A bucket holds one second's worth; what a single call takes beyond that is waited for.
        let wait = after
            .saturating_duration_since(now)
            .saturating_sub(Duration::from_secs(1));
        if wait > PATIENCE {
            return Err(TooFast {
                retry_after: wait - PATIENCE,
            });
        }
        *full_at = after;
        self.0.callers.set(i64::try_from(buckets.len()).unwrap_or(i64::MAX));
        Ok(wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> (Limits, Clock) {
        let clock = Clock::manual(0);
        (
            Limits::new(clock.clone(), LimitsSection::default(), Gauge::default()),
            clock,
        )
    }

    fn address(text: &str) -> Key {
        Key::address(text.parse().unwrap())
    }

    #[test]
    fn a_caller_that_is_too_fast_waits_and_one_that_is_much_too_fast_is_refused() {
        let (limits, clock) = limits();
        let key = address("10.0.0.1");
        let waits: Vec<_> = (0..6)
            .map(|_| limits.reserve(Limit::Attest, &key, 1).unwrap().as_secs())
            .collect();
        assert_eq!(waits, [0, 1, 2, 3, 4, 5]);
        let refused = limits.reserve(Limit::Attest, &key, 1).unwrap_err();
        assert_eq!(
            refused,
            TooFast {
                retry_after: Duration::from_secs(1)
            }
        );
        assert_eq!(
            limits.reserve(Limit::Attest, &address("10.0.0.2"), 1),
            Ok(Duration::ZERO)
        );
        clock.advance(Duration::from_secs(6));
        assert_eq!(limits.reserve(Limit::Attest, &key, 1), Ok(Duration::ZERO));
    }

    #[test]
    fn a_batch_counts_as_many_as_it_holds() {
        let (limits, clock) = limits();
        let key = address("10.0.0.1");
        assert_eq!(limits.reserve(Limit::Sign, &key, 500), Ok(Duration::ZERO));
        assert_eq!(limits.reserve(Limit::Sign, &key, 1_000), Ok(Duration::from_secs(2)));
        clock.advance(Duration::from_secs(4));
        assert_eq!(limits.reserve(Limit::Sign, &key, 500), Ok(Duration::ZERO));
        assert_eq!(limits.reserve(Limit::Unlimited, &key, 1_000_000), Ok(Duration::ZERO));
    }

    #[test]
    fn one_host_does_not_get_a_bucket_for_each_of_its_addresses() {
        assert_eq!(address("2001:db8::1"), address("2001:db8::ffff:1"));
        assert_ne!(address("2001:db8::1"), address("2001:db8:0:1::1"));
        assert_eq!(address("::ffff:10.0.0.1"), address("10.0.0.1"));
    }

    #[test]
    fn the_memory_for_buckets_is_bounded() {
        let (limits, clock) = limits();
        for n in 0..MAX_ADDRESSES + 100 {
            let key = Key::Address(IpAddr::from((u128::try_from(n).unwrap() << 64).to_be_bytes()));
            let _ = limits.reserve(Limit::Attest, &key, 1);
        }
        assert_eq!(limits.0.callers.get(), i64::try_from(MAX_ADDRESSES + 1).unwrap());
        // All these take nothing from nodes, which do not share with each other either.
        for node in ["a", "b"] {
            let id = format!("spiffe://example.org/spire/agent/x509pop/{node}");
            let node = Key::Node(SpiffeId::parse(&id).unwrap());
            assert_eq!(limits.reserve(Limit::Sign, &node, 500), Ok(Duration::ZERO), "{id}");
        }
        clock.advance(Duration::from_secs(200));
        assert_eq!(
            limits.reserve(Limit::Attest, &address("10.0.0.1"), 1),
            Ok(Duration::ZERO)
        );
        assert_eq!(limits.0.callers.get(), 3);
    }

    #[test]
    fn the_switch_turns_all_of_them_off() {
        let section = LimitsSection {
            rate_limit: false,
            ..LimitsSection::default()
        };
        let limits = Limits::new(Clock::manual(0), section, Gauge::default());
        for _ in 0..100 {
            assert_eq!(
                limits.reserve(Limit::Attest, &address("10.0.0.1"), 100),
                Ok(Duration::ZERO)
            );
        }
    }
}
