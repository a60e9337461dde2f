//! `mintmark`: the one command of Mintmark, for administrators, for workloads and for the curious.
//!
//! In come arguments and the environment; out come text for people or JSON for scripts on standard output, the reason on standard error when something was
//! refused, and the exit status: 0 for done, 1 for refused or not found, 2 for wrong usage.
//!
//! | module | its one question |
//! |---|---|
//! | [`args`] | what was typed? |
//! | [`command`] | one module a command: what is asked of whom, and what is told of the answer? |
//! | [`client`] | how do we reach the attestor's or the server's socket, and what is to be said when we do not? |
//! | [`output`] | how does an answer look, to people and to scripts? |
//! | [`dev`] | a whole Mintmark in this process |
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "tests"))]
#![allow(
    unreachable_pub,
    reason = "a binary exports nothing: `pub` means for its other modules"
)]

mod args;
mod client;
mod command;
mod context;
mod dev;
mod failure;
mod output;

use std::process::ExitCode;

use clap::Parser as _;

use crate::args::Cli;
use crate::command::Command;
use crate::context::Context;
use crate::failure::Failure;

fn main() -> ExitCode {
    mintmark_runtime::crypto::install();
    // Wrong usage ends here, with status 2.
    let cli = Cli::parse();
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

fn run(cli: Cli) -> Result<(), Failure> {
    // Most commands ask one question and end; `dev` is two programs.
    let mut builder = match cli.command {
        Command::Dev(_) => tokio::runtime::Builder::new_multi_thread(),
        _ => tokio::runtime::Builder::new_current_thread(),
    };
    let runtime = builder
        .enable_all()
        .build()
        .map_err(|error| Failure::Refused(format!("cannot start: {error}")))?;
    let globals = cli.globals.or_environment(|name| std::env::var(name).ok())?;
    let context = Context::new(globals);
    runtime.block_on(command::run(cli.command, &context))
}
