//! What was typed: the options that every command has, and the commands.

#[cfg(test)]
mod documents;
#[cfg(test)]
mod reference;
mod values;

use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Parser};
use mintmark_identity::{SpiffeId, Ttl};

use crate::command::Command;
use crate::failure::Failure;

pub use values::{Expiry, HostPort, Seconds, SocketPath, WorkloadSocket};

/// Where the attestor's socket is unless told otherwise.
pub const DEFAULT_SOCKET: &str = "unix:///run/mintmark/agent/api.sock";
/// Where the server's admin socket is unless told otherwise.
pub const DEFAULT_ADMIN_SOCKET: &str = "/run/mintmark/server/api.sock";
const SOCKET_VARIABLE: &str = "SPIFFE_ENDPOINT_SOCKET";
const ADMIN_SOCKET_VARIABLE: &str = "MINTMARK_ADMIN_SOCKET";

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
    /// The Workload API socket: unix:///path, a path, or tcp://IP:PORT [env: SPIFFE_ENDPOINT_SOCKET] [default: unix:///run/mintmark/agent/api.sock]
    #[arg(long, global = true, value_name = "SOCKET")]
    pub socket: Option<WorkloadSocket>,

    /// The server's admin socket [env: MINTMARK_ADMIN_SOCKET] [default: /run/mintmark/server/api.sock]
    #[arg(long, global = true, value_name = "PATH")]
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
    /// Where no option names a socket, the environment does. Not by the parser: what somebody exported would stand in the way of `--server`, and be shown among the
    /// arguments when something else is wrong.
    ///
    /// # Errors
    /// When a variable holds what is no socket.
    pub fn or_environment(mut self, variable: impl Fn(&str) -> Option<String>) -> Result<Self, Failure> {
        if self.socket.is_none() {
            self.socket = parsed(SOCKET_VARIABLE, &variable)?;
        }
        if self.admin_socket.is_none() && self.server.is_none() {
            self.admin_socket = parsed(ADMIN_SOCKET_VARIABLE, &variable)?;
        }
        Ok(self)
    }

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

/// What a variable says; one that is empty says nothing.
fn parsed<T: FromStr<Err = String>>(
    name: &str,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Option<T>, Failure> {
    let text = variable(name).filter(|text| !text.is_empty());
    text.map(|text| text.parse())
        .transpose()
        .map_err(|why| Failure::Usage(format!("environment variable {name}: {why}")))
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
    fn the_environment_names_a_socket_where_no_option_does() {
        let globals = |arguments: &[&str], variables: &[(&str, &str)]| {
            let globals = Cli::parse_from(["mintmark"].iter().chain(arguments)).globals;
            let variable = |name: &str| {
                let found = variables.iter().find(|(known, _)| *known == name);
                found.map(|(_, text)| (*text).to_owned())
            };
            globals.or_environment(variable).map_err(|failure| failure.to_string())
        };
        let both = [(SOCKET_VARIABLE, "unix:///e"), (ADMIN_SOCKET_VARIABLE, "/e")];
        let named = globals(&["status"], &both).unwrap();
        assert_eq!(
            (named.workload_socket().to_string(), named.admin_socket()),
            ("unix:///e".into(), "/e".into())
        );
        let named = globals(&["status", "--socket", "/o", "--admin-socket", "/o"], &both).unwrap();
        assert_eq!(
            (named.workload_socket().to_string(), named.admin_socket()),
            ("unix:///o".into(), "/o".into())
        );
        // Whoever exported the sockets of `mintmark dev` may still ask another server.
        let named = globals(&["status", "--server", "other:8081"], &both).unwrap();
        assert!(named.admin_socket.is_none() && named.server.is_some());
        let empty = [(SOCKET_VARIABLE, ""), (ADMIN_SOCKET_VARIABLE, "")];
        let named = globals(&["status"], &empty).unwrap();
        assert_eq!(named.workload_socket().to_string(), DEFAULT_SOCKET);
        let error = globals(&["status"], &[(SOCKET_VARIABLE, "http://a")]).unwrap_err();
        assert!(error.contains(SOCKET_VARIABLE) && error.contains("http://a"), "{error}");
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
