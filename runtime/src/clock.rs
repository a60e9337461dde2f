//! Time: the only source of it.
//!
//! In goes nothing but the machine's clocks (or, in a test, what the test says the time is); out come wall-clock
//! time, monotonic time and sleeps. Every part of both programs takes a [`Clock`] and asks it; `clippy.toml` refuses the direct way,
//! so that a test owns time everywhere.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use futures::future::{Either, select};
use tokio::sync::watch;

/// The longest step of a sleep towards a wall-clock time: a machine that was suspended, or whose clock was set, is late by no more than this.
const RECHECK: Duration = Duration::from_secs(30);

/// A handle on time, cheap to clone.
#[derive(Clone, Debug)]
pub struct Clock(Source);

#[derive(Clone, Debug)]
enum Source {
    System,
    Manual(Arc<Manual>),
}

#[derive(Debug)]
struct Manual {
    origin: Instant,
    time: watch::Sender<ManualTime>,
}

#[derive(Clone, Copy, Debug)]
struct ManualTime {
    /// Milliseconds since 1970.
    wall_ms: i64,
    /// Since the clock was made.
    monotonic: Duration,
}

/// A deadline passed before the work was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not done within {0:?}")]
pub struct TimedOut(pub Duration);

impl Clock {
    /// The machine's clocks.
    pub fn system() -> Self {
        Self(Source::System)
    }

    /// A clock that stands at `unix_secs` seconds since 1970 until a test moves it. Its clones move with it.
    pub fn manual(unix_secs: i64) -> Self {
        let time = ManualTime {
            wall_ms: unix_secs.saturating_mul(1000),
            monotonic: Duration::ZERO,
        };
        Self(Source::Manual(Arc::new(Manual {
            origin: system_instant(),
            time: watch::Sender::new(time),
        })))
    }

    /// Moves a manual clock forward, wall clock and monotonic clock, and wakes the sleeps that are due.
    ///
    /// # Panics
    /// On the system clock: only tests move time.
    pub fn advance(&self, by: Duration) {
        self.as_manual().time.send_modify(|time| {
            time.wall_ms = time.wall_ms.saturating_add(as_millis(by));
            time.monotonic = time.monotonic.saturating_add(by);
        });
    }

    /// Sets the wall clock of a manual clock to `unix_secs`, forward or back, as an operator or NTP would: the monotonic clock does not move.
    ///
    /// # Panics
    /// On the system clock: only tests move time.
    pub fn set_unix(&self, unix_secs: i64) {
        self.as_manual()
            .time
            .send_modify(|time| time.wall_ms = unix_secs.saturating_mul(1000));
    }

    /// The wall clock.
    pub fn now(&self) -> SystemTime {
        match &self.0 {
            Source::System => system_now(),
            Source::Manual(manual) => from_unix_ms(manual.time.borrow().wall_ms),
        }
    }

    /// The wall clock in whole seconds since 1970, rounded down.
    pub fn unix(&self) -> i64 {
        self.unix_ms().div_euclid(1000)
    }

    /// The wall clock in milliseconds since 1970, rounded down.
    pub fn unix_ms(&self) -> i64 {
        match &self.0 {
            Source::System => to_unix_ms(system_now()),
            Source::Manual(manual) => manual.time.borrow().wall_ms,
        }
    }

    /// The monotonic clock: for durations, deadlines and back-off, never for what is written down.
    pub fn instant(&self) -> Instant {
        match &self.0 {
            Source::System => system_instant(),
            Source::Manual(manual) => manual.origin + manual.time.borrow().monotonic,
        }
    }

    /// Sleeps for `duration` of the monotonic clock. A sleep of zero is done at once.
    pub async fn sleep(&self, duration: Duration) {
        match &self.0 {
            Source::System => tokio_sleep(duration).await,
            Source::Manual(manual) => {
                let due = manual.time.borrow().monotonic.saturating_add(duration);
                manual.reaches(|time| time.monotonic >= due).await;
            }
        }
    }

    /// Sleeps until the monotonic clock shows `deadline`.
    pub async fn sleep_until(&self, deadline: Instant) {
        self.sleep(deadline.saturating_duration_since(self.instant())).await;
    }

    /// Sleeps until the wall clock shows `unix_secs` seconds since 1970. It looks at the wall clock again at least every 30 s, so that
    /// a suspended machine or a clock that was set delays it by no more than that.
    pub async fn sleep_until_unix(&self, unix_secs: i64) {
        let due = unix_secs.saturating_mul(1000);
        match &self.0 {
            Source::System => {
                while let left @ 1.. = due.saturating_sub(self.unix_ms()) {
                    tokio_sleep(Duration::from_millis(left.unsigned_abs()).min(RECHECK)).await;
                }
            }
            Source::Manual(manual) => manual.reaches(|time| time.wall_ms >= due).await,
        }
    }

    /// Runs `work`, and gives up on it (drops it) after `limit` of the monotonic clock.
    ///
    /// # Errors
    /// [`TimedOut`] when the limit passed first.
    pub async fn timeout<T>(&self, limit: Duration, work: impl Future<Output = T>) -> Result<T, TimedOut> {
        let (work, sleep) = (pin!(work), pin!(self.sleep(limit)));
        match select(work, sleep).await {
            Either::Left((done, _)) => Ok(done),
            Either::Right(((), _)) => Err(TimedOut(limit)),
        }
    }

    fn as_manual(&self) -> &Manual {
        match &self.0 {
            Source::Manual(manual) => manual,
            Source::System => panic!("the system clock is not ours to move"),
        }
    }
}

impl Manual {
    async fn reaches(&self, due: impl FnMut(&ManualTime) -> bool) {
        let mut seen = self.time.subscribe();
        // The sender lives in `self`, so the channel cannot close while this waits.
        let _ = seen.wait_for(due).await;
    }
}

/// Milliseconds since 1970 of a wall-clock time, rounded down.
pub fn to_unix_ms(time: SystemTime) -> i64 {
    match time.duration_since(UNIX_EPOCH) {
        Ok(since) => as_millis(since),
        Err(before) => {
            let before = before.duration();
            -as_millis(before) - i64::from(before.subsec_nanos() % 1_000_000 != 0)
        }
    }
}

/// The wall-clock time of a number of milliseconds since 1970.
pub fn from_unix_ms(unix_ms: i64) -> SystemTime {
    let distance = Duration::from_millis(unix_ms.unsigned_abs());
    if unix_ms < 0 {
        UNIX_EPOCH - distance
    } else {
        UNIX_EPOCH + distance
    }
}

fn as_millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

#[expect(clippy::disallowed_methods, reason = "the clock is where time comes from")]
fn system_now() -> SystemTime {
    SystemTime::now()
}

#[expect(clippy::disallowed_methods, reason = "the clock is where time comes from")]
fn system_instant() -> Instant {
    Instant::now()
}

#[expect(clippy::disallowed_methods, reason = "the clock is where sleeps come from")]
async fn tokio_sleep(duration: Duration) {
    tokio::time::sleep(duration).await;
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn a_manual_clock_moves_only_when_told() {
        let clock = Clock::manual(1_000);
        let (start, other) = (clock.instant(), clock.clone());
        assert_eq!((clock.unix(), clock.unix_ms()), (1_000, 1_000_000));
        other.advance(Duration::from_millis(2_500));
        assert_eq!((clock.unix(), clock.unix_ms()), (1_002, 1_002_500));
        assert_eq!(clock.now(), UNIX_EPOCH + Duration::from_millis(1_002_500));
        assert_eq!(clock.instant() - start, Duration::from_millis(2_500));
        clock.set_unix(10);
        assert_eq!(clock.unix(), 10);
        assert_eq!(clock.instant() - start, Duration::from_millis(2_500));
    }

    #[tokio::test]
    async fn a_sleep_on_a_manual_clock_wakes_when_its_time_has_come() {
        let clock = Clock::manual(0);
        let mut sleep = pin!(clock.sleep(Duration::from_secs(10)));
        assert_eq!(sleep.as_mut().now_or_never(), None);
        clock.advance(Duration::from_secs(9));
        assert_eq!(sleep.as_mut().now_or_never(), None);
        clock.advance(Duration::from_secs(1));
        sleep.await;
    }

    #[tokio::test]
    async fn a_sleep_until_a_wall_clock_time_follows_a_jump() {
        let clock = Clock::manual(0);
        let mut sleep = pin!(clock.sleep_until_unix(3600));
        assert_eq!(sleep.as_mut().now_or_never(), None);
        clock.set_unix(3600);
        sleep.await;
        Clock::system().sleep_until_unix(Clock::system().unix() - 1).await;
    }

    #[tokio::test]
    async fn a_timeout_gives_up_on_what_takes_too_long() {
        let clock = Clock::manual(0);
        assert_eq!(clock.timeout(Duration::from_secs(1), async { 7 }).await, Ok(7));
        let mut never = pin!(clock.timeout(Duration::from_secs(1), std::future::pending::<()>()));
        assert_eq!(never.as_mut().now_or_never(), None);
        clock.advance(Duration::from_secs(1));
        assert_eq!(never.await, Err(TimedOut(Duration::from_secs(1))));
    }

    #[test]
    fn times_before_1970_round_down() {
        for ms in [-1, -1_000, -1_001, 0, 1, 1_732_000_000_123] {
            assert_eq!(to_unix_ms(from_unix_ms(ms)), ms);
        }
        assert_eq!(to_unix_ms(UNIX_EPOCH - Duration::from_nanos(1)), -1);
    }
}
