//! What was typed: the options that every command has, and the commands.

#[cfg(test)]
mod reference;
mod values;

use std::path::PathBuf;

use clap::{Args, Parser};
use mintmark_identity::{SpiffeId, Ttl};

use crate::command::Command;

pub use values::{Expiry, HostPort, Seconds, SocketPath, WorkloadSocket};

/// Where the attestor's socket is unless told otherwise.
pub const DEFAULT_SOCKET: &str = "unix:///run/mintmark/agent/api.sock";
/// Where the server's admin socket is unless told otherwise.
pub const DEFAULT_ADMIN_SOCKET: &str = "/run/mintmark/server/api.sock";

const EXAMPLES: &str = "\
Begin here:
  mintmark dev                               # a whole Mintmark on this machine
  mintmark fetch x509 --write /tmp/svid      # an X.509-SVID for the process that asks
  mintmark fetch jwt --audience test         # a JWT-SVID
  mintmark status                            # who is at the other end of the sockets, and how they are
  mintmark entry create --help               # how to give a workload an identity

Exit status: 0 done, 1 refused or not found (with the reason on standard error), 2 wrong usage.";

/// SPIFFE workload identity, logged before it is signed.
///
/// Commands for workloads (fetch, validate) speak to the attestor's Workload API socket; commands for administrators (entry, agent, token, bundle,
/// federation, authority, mint, ledger, log-level) speak to the server's admin socket, or from afar to its API with an admin SVID.
#[derive(Debug, Parser)]
#[command(name = "mintmark", version, after_help = EXAMPLES, arg_required_else_help = true, max_term_width = 120)]
pub struct Cli {
    /// The options that every command has.
    #[command(flatten)]
    pub globals: Globals,
    /// The command.
    #[command(subcommand)]
    pub command: Command,
}

/// The options that every command has.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Global options")]
pub struct Globals {
    /// The Workload API socket: unix:///path, a path, or tcp://IP:PORT [default: unix:///run/mintmark/agent/api.sock]
    #[arg(
        long,
        global = true,
        env = "SPIFFE_ENDPOINT_SOCKET",
        hide_env_values = true,
        value_name = "SOCKET"
    )]
    pub socket: Option<WorkloadSocket>,

    /// The server's admin socket [default: /run/mintmark/server/api.sock]
    #[arg(
        long,
        global = true,
        env = "MINTMARK_ADMIN_SOCKET",
        hide_env_values = true,
        value_name = "PATH"
    )]
    pub admin_socket: Option<SocketPath>,

    /// Ask the server at this address instead, with an admin SVID from the Workload API socket
    #[arg(long, global = true, value_name = "HOST:PORT", conflicts_with = "admin_socket")]
    pub server: Option<HostPort>,

    /// With --server: which of our SVIDs to show; the first one unless given
    #[arg(long, global = true, value_name = "SPIFFE-ID", requires = "server")]
    pub r#as: Option<SpiffeId>,

    /// How to print: text for people, json for scripts
    #[arg(long, global = true, value_enum, default_value_t = Format::Text, value_name = "FORMAT", hide_possible_values = true)]
    pub output: Format,

    /// How long to wait for an answer
    #[arg(long, global = true, default_value = "30s", value_name = "TIME")]
    pub timeout: Ttl,
}

/// How to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people.
    Text,
    /// For scripts.
    Json,
}

impl Globals {
    /// The Workload API socket that was named, or the default one.
    pub fn workload_socket(&self) -> WorkloadSocket {
        self.socket
            .clone()
            .unwrap_or_else(|| DEFAULT_SOCKET.parse().expect("the default is a socket, as a test says"))
    }

    /// The admin socket that was named, or the default one.
    pub fn admin_socket(&self) -> PathBuf {
        self.admin_socket
            .as_ref()
            .map_or_else(|| DEFAULT_ADMIN_SOCKET.into(), |path| path.0.clone())
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
        let globals = Cli::parse_from(["mintmark", "version"]).globals;
        assert_eq!(globals.workload_socket().to_string(), DEFAULT_SOCKET);
    }

    #[test]
    fn every_command_teaches_by_example() {
        fn check(command: &clap::Command, path: &str) {
            for sub in command.get_subcommands() {
                let path = format!("{path} {}", sub.get_name());
                assert!(sub.get_about().is_some(), "{path} says not what it does");
                if sub.has_subcommands() {
                    check(sub, &path);
                } else if sub.get_name() != "help" {
                    let examples = sub.get_after_help().map(ToString::to_string).unwrap_or_default();
                    assert!(examples.contains(&path), "{path} has no example of itself");
                }
            }
        }
        check(&Cli::command(), "mintmark");
    }
}
