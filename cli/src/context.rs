//! What every command gets: where to connect, how to print, how long to wait.

use std::future::Future;
use std::time::Duration;

use mintmark_runtime::clock::Clock;
use tonic::{Response, Status};

use crate::args::Globals;
use crate::client::status_text;
use crate::failure::Failure;
use crate::output::Output;

/// What every command gets.
pub struct Context {
    /// The global options.
    pub globals: Globals,
    /// The time.
    pub clock: Clock,
    /// Where answers go.
    pub out: Output,
}

impl Context {
    /// For one command line.
    pub fn new(globals: Globals) -> Self {
        let out = Output::new(globals.output);
        Self {
            globals,
            clock: Clock::system(),
            out,
        }
    }

    /// Waits for the answer to one call, no longer than `--timeout`. `action` completes "cannot …".
    pub async fn ask<T>(
        &self,
        action: &str,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, Failure> {
        let answered = self.clock.timeout(self.limit(), call).await;
        match answered {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(Failure::Refused(format!("cannot {action}: {}", status_text(&status)))),
            Err(_) => Err(self.late(action)),
        }
    }

    /// How long one answer may take.
    pub fn limit(&self) -> Duration {
        self.globals.timeout.as_duration()
    }

    /// What is said when there was no answer in time.
    pub fn late(&self, action: &str) -> Failure {
        Failure::Refused(format!(
            "cannot {action}: no answer within {}; --timeout gives it longer",
            self.globals.timeout
        ))
    }
}
