//! The commands, one module each: its arguments, what is asked, what is told.

mod agent;
mod authority;
mod bundle;
mod completions;
mod entry;
mod federation;
mod fetch;
mod files;
mod ledger;
mod log_level;
mod mint;
mod status;
mod token;
mod validate;
mod version;
mod wire;

use clap::Subcommand;

use crate::context::Context;
use crate::dev::{self, Dev};
use crate::failure::Failure;

pub use bundle::trust_domain;
pub use fetch::first as first_message;
pub use wire::{id_message, id_text};

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// A whole Mintmark on this machine: server, attestor, and an identity for you
    #[command(after_help = dev::EXAMPLES)]
    Dev(Dev),
    /// What the other end of the sockets is, and how it is
    #[command(after_help = status::EXAMPLES)]
    Status,
    /// Fetch SVIDs and bundles over the Workload API, as this process
    #[command(subcommand)]
    Fetch(fetch::Fetch),
    /// Validate SVIDs through the Workload API
    #[command(subcommand)]
    Validate(validate::Validate),
    /// Registration entries: which workload gets which identity
    #[command(subcommand)]
    Entry(entry::Entry),
    /// Join tokens, with which nodes join
    #[command(subcommand)]
    Token(token::Token),
    /// Nodes: attestors and agents that have joined
    #[command(subcommand)]
    Agent(agent::Agent),
    /// Trust bundles, our own and federated ones
    #[command(subcommand)]
    Bundle(bundle::Bundle),
    /// Trust domains that we federate with; not served by Mintmark's server yet
    #[command(subcommand)]
    Federation(federation::Federation),
    /// Authorities: the keys that sign, and when they change
    #[command(subcommand)]
    Authority(authority::Authority),
    /// Make one credential by hand; it is in the ledger with you as its author
    #[command(subcommand)]
    Mint(mint::Mint),
    /// The issuance log: what was issued, and proof of it
    #[command(subcommand)]
    Ledger(ledger::Ledger),
    /// Show or change what the server logs, while it runs
    #[command(after_help = log_level::EXAMPLES)]
    LogLevel(log_level::LogLevel),
    /// The version of this program
    #[command(after_help = version::EXAMPLES)]
    Version,
    /// A script that completes this program's arguments in your shell
    #[command(after_help = completions::EXAMPLES)]
    Completions(completions::Completions),
}

/// Runs a command.
pub async fn run(command: Command, context: &Context) -> Result<(), Failure> {
    match command {
        Command::Dev(dev) => dev.run(context).await,
        Command::Status => status::run(context).await,
        Command::Fetch(fetch) => fetch.run(context).await,
        Command::Validate(validate) => validate.run(context).await,
        Command::Entry(entry) => entry.run(context).await,
        Command::Token(token) => token.run(context).await,
        Command::Agent(agent) => agent.run(context).await,
        Command::Bundle(bundle) => bundle.run(context).await,
        Command::Federation(federation) => federation.run(context).await,
        Command::Authority(authority) => authority.run(context).await,
        Command::Mint(mint) => mint.run(context).await,
        Command::Ledger(ledger) => ledger.run(context).await,
        Command::LogLevel(log_level) => log_level.run(context).await,
        Command::Version => version::run(context),
        Command::Completions(completions) => completions.run(context),
    }
}
