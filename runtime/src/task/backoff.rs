//! How long to wait before trying again.

use std::time::Duration;

use crate::crypto::random;

/// Waits that double from try to try up to a cap, with jitter, so that many who failed together do not come back together.
#[derive(Clone, Debug)]
pub struct Backoff {
    base: Duration,
    cap: Duration,
    failures: u32,
}

impl Backoff {
    /// Waits of about `base` at first, and of `cap` at most.
    pub fn new(base: Duration, cap: Duration) -> Self {
        Self { base, cap, failures: 0 }
    }

    /// The wait after one more failure: between half and the whole of what has been reached.
    pub fn next_wait(&mut self) -> Duration {
        let whole = self.base.saturating_mul(1 << self.failures.min(31)).min(self.cap);
        self.failures = self.failures.saturating_add(1);
        let half = whole / 2;
        half + half.mul_f64(f64::from(u32::from_ne_bytes(random())) / f64::from(u32::MAX))
    }

    /// How many failures there were since the last success.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// It worked: the next wait is a short one again.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_cap_and_start_again_after_a_success() {
        let seconds = Duration::from_secs;
        let mut backoff = Backoff::new(seconds(1), seconds(10));
        for whole in [1, 2, 4, 8, 10, 10] {
            let wait = backoff.next_wait();
            assert!(
                wait >= seconds(whole) / 2 && wait <= seconds(whole),
                "{whole}: {wait:?}"
            );
        }
        for _ in 0..100 {
            assert!(backoff.next_wait() <= seconds(10));
        }
        backoff.reset();
        assert!(backoff.next_wait() <= seconds(1));
    }
}
