//! How long a credential lives.

use mintmark_identity::Ttl;

/// The longest that a start of validity is set back for clocks that lag.
const MAX_BACKDATE: i64 = 10;

/// From when to when a credential is valid, in seconds since 1970, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// The first second.
    pub not_before: i64,
    /// The last second.
    pub not_after: i64,
}

impl Validity {
    /// The validity of a credential that is made at `now` for `ttl`, under a cap by the verdict, by an authority that
    /// is valid from `authority_start` to `authority_end`. Its start is set back by a tenth of the lifetime, 10 s at
    /// most, for verifiers whose clocks lag. `None` when the authority has ended, ends this very second, or begins only
    /// later.
    pub fn new(now: i64, ttl: Ttl, cap: Option<Ttl>, authority_start: i64, authority_end: i64) -> Option<Self> {
        let granted = cap.map_or(ttl, |cap| cap.min(ttl));
        let not_after = now.saturating_add(granted.as_secs_i64()).min(authority_end);
        if not_after <= now || now < authority_start {
            return None;
        }
        let backdate = ((not_after - now) / 10).min(MAX_BACKDATE);
        Some(Self {
            not_before: (now - backdate).max(authority_start),
            not_after,
        })
    }

    /// The same with another start: a token's `iat` is the second in which it is made.
    #[must_use]
    pub fn starting(self, not_before: i64) -> Self {
        Self { not_before, ..self }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ttl(secs: u64) -> Ttl {
        Ttl::from_secs(secs).unwrap()
    }

    #[test]
    fn the_start_is_set_back_by_a_tenth_and_ten_seconds_at_most() {
        for (secs, backdate) in [(3_600, 10), (100, 10), (99, 9), (30, 3), (9, 0)] {
            let validity = Validity::new(1_000_000, ttl(secs), None, 0, i64::MAX).unwrap();
            assert_eq!(validity.not_before, 1_000_000 - backdate, "{secs}");
        }
    }

    #[test]
    fn an_authority_that_has_ended_or_not_begun_gives_nothing() {
        assert_eq!(Validity::new(1_000, ttl(60), None, 0, 1_000), None);
        assert_eq!(Validity::new(1_000, ttl(60), None, 0, 999), None);
        assert_eq!(Validity::new(1_000, ttl(60), None, 1_001, i64::MAX), None);
        assert_eq!(Validity::new(1_000, ttl(60), None, 0, 1_001).unwrap().not_after, 1_001);
    }

    proptest! {
        #[test]
        fn no_credential_outlives_what_was_asked_or_capped_or_its_authority(
            now in 0_i64..4_000_000_000, asked in 1_u64..10_000_000, cap in proptest::option::of(1_u64..10_000_000),
            start in -1_000_i64..=0, end in -100_i64..10_000_000,
        ) {
            let (start, end) = (now + start, now + end);
            match Validity::new(now, ttl(asked), cap.map(ttl), start, end) {
                None => prop_assert!(end <= now),
                Some(validity) => {
                    let lived = validity.not_after - now;
                    let most = asked.min(cap.unwrap_or(asked)).min(u64::try_from(end - now).unwrap());
                    prop_assert_eq!(lived, i64::try_from(most).unwrap());
                    prop_assert!(lived >= 1 && validity.not_before >= start && validity.not_before <= now);
                }
            }
        }
    }
}
