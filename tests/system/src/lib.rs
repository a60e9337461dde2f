//! What the system tests stand on: the real programs as child processes, a whole Mintmark of one's own, and other people's tools.
//!
//! In: a command line. Out: what it printed, line by line, and the certainty that it is gone afterwards. Nothing here sleeps: each wait is for an event, with
//! a deadline, and fails with what the programs said. The tests themselves are in `tests/it`.
#![allow(
    clippy::disallowed_methods,
    reason = "the harness has threads and deadlines of its own, and is not a program of ours"
)]
#![allow(clippy::missing_panics_doc, reason = "a test that cannot go on panics")]

mod binaries;
mod dev;
mod grpc;
mod program;

pub use binaries::{binary, interop};
pub use dev::Dev;
pub use grpc::{Channel, channel, workload_request};
pub use program::{Done, Program, eventually, run};
