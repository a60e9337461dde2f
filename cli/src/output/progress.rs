//! What is said while something takes longer than a second, to a person who watches.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use mintmark_runtime::clock::Clock;

/// Before this nothing is said.
const PATIENCE: Duration = Duration::from_secs(1);
/// The line is written no more often than this.
const STEP: Duration = Duration::from_millis(200);

/// One line on standard error that is written over and at last wiped away; silent where nobody watches.
pub struct Progress {
    clock: Clock,
    what: &'static str,
    next: Instant,
    watched: bool,
    shown: bool,
}

impl Progress {
    /// Of something that begins now.
    pub fn new(clock: &Clock, what: &'static str) -> Self {
        Self {
            clock: clock.clone(),
            what,
            next: clock.instant() + PATIENCE,
            watched: io::stderr().is_terminal(),
            shown: false,
        }
    }

    /// So much of so much is done.
    pub fn at(&mut self, done: u64, of: u64) {
        if !self.watched || self.clock.instant() < self.next {
            return;
        }
        self.next = self.clock.instant() + STEP;
        self.shown = true;
        let percent = (u128::from(done) * 100).checked_div(of.into()).unwrap_or(100);
        let _ = write!(io::stderr(), "\r{}: {percent} %", self.what);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.shown {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}
