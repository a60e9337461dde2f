//! What `verify` tells.

use super::super::error::LedgerError;
use super::super::merkle::Hash;
use super::super::note::{Checkpoint, VerifierKey};

/// What [`verify`](super::verify) found.
#[derive(Clone, Debug)]
pub struct Report {
    /// One for each log, by number.
    pub logs: Vec<LogReport>,
    /// What is unfinished beside the logs and passes.
    pub notes: Vec<String>,
    /// What is wrong beside the logs.
    pub problem: Option<LedgerError>,
}

impl Report {
    /// Whether nothing is wrong.
    pub fn is_sound(&self) -> bool {
        self.first_problem().is_none()
    }

    /// The first problem, with file and offset.
    pub fn first_problem(&self) -> Option<&LedgerError> {
        self.logs
            .iter()
            .find_map(|log| log.problem.as_ref())
            .or(self.problem.as_ref())
    }
}

/// What [`verify`](super::verify) found in one log.
#[derive(Clone, Debug)]
pub struct LogReport {
    /// The log's number.
    pub number: u16,
    /// Whether a server has it open.
    pub running: bool,
    /// The log's key under its origin, once it could be read.
    pub verifier: Option<VerifierKey>,
    /// The last checkpoint, once its signature was verified.
    pub checkpoint: Option<Checkpoint>,
    /// The index of the first leaf that was not pruned.
    pub minimum: u64,
    /// Leaves that are there, the pruned ones included.
    pub size: u64,
    /// The root of the tree of these leaves.
    pub root: Hash,
    /// What is unfinished and passes.
    pub notes: Vec<String>,
    /// The first problem.
    pub problem: Option<LedgerError>,
}
