//! The command line. Every count and every time has a bound.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum, value_parser};

/// Loads a server with SPIRE's server API v1, or Mintmark's node link, and measures what that costs the server.
///
/// Only loopback servers, and only those whose data is on a real disk.
#[derive(Parser, Debug)]
#[command(name = "mintmark-bench", version)]
pub(crate) struct Options {
    #[command(flatten)]
    pub(crate) target: Target,
    /// How the report is printed
    #[arg(long, value_enum, default_value_t = Output::Text, global = true)]
    pub(crate) output: Output,
    #[command(subcommand)]
    pub(crate) load: Load,
}

/// The server.
#[derive(Args, Debug)]
pub(crate) struct Target {
    /// What the report calls it
    #[arg(long, value_name = "NAME", default_value = "server")]
    pub(crate) label: String,
    /// Its API
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:8081", value_parser = loopback)]
    pub(crate) server: SocketAddr,
    /// Its admin socket
    #[arg(long, value_name = "PATH", default_value = "/run/mintmark/server/api.sock")]
    pub(crate) admin_socket: PathBuf,
    /// Its process ID, whose CPU time and memory are read (not needed by `million`, which starts it)
    #[arg(long, value_name = "PID", value_parser = value_parser!(u32).range(1..))]
    pub(crate) pid: Option<u32>,
    /// Where its data is: must be a real disk
    #[arg(long, value_name = "DIR", default_value = "/var/lib/mintmark/server")]
    pub(crate) data_dir: PathBuf,
    /// Its Prometheus metrics (http://IP:PORT/metrics), for leaves per fsync
    #[arg(long, value_name = "IP:PORT", value_parser = loopback)]
    pub(crate) metrics: Option<SocketAddr>,
}

/// How a report is printed.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Output {
    /// A line a figure.
    Text,
    /// One JSON object.
    Json,
}

/// What is measured.
#[derive(Subcommand, Debug)]
pub(crate) enum Load {
    /// BatchNewX509SVID: many certificate signing requests a call
    X509Batch(X509Batch),
    /// X.509-SVIDs through the node link of Mintmark: public keys from many connected nodes
    X509Link(X509Link),
    /// NewJWTSVID: a new audience each
    Jwt(Jwt),
    /// BatchCreateEntry by one caller
    Entries(Entries),
    /// From an entry's creation to where it shows
    Propagation(Propagation),
    /// Memory and CPU of connected nodes that do nothing
    Idle(Idle),
    /// Memory and CPU of a node (--pid) with workloads that hold their streams open; needs root, to be several users
    Node(Node),
    /// Many entries: restart, ready, memory, look-up
    Million(Million),
    /// Issue until the server is gone, and write down every credential that came: for the soak
    Record(Record),
    /// Ask the server's ledger for every serial of a record
    Logged(Logged),
    /// What this machine's core and disk can do: signatures, verifications, fsyncs
    Yardstick,
    /// One workload of `node`
    #[command(hide = true)]
    Workload(Workload),
}

/// For how long, and how hard.
#[derive(Args, Debug, Clone)]
pub(crate) struct Pace {
    /// How long is measured
    #[arg(long, value_name = "S", default_value_t = 10, value_parser = value_parser!(u64).range(1..=3600))]
    seconds: u64,
    /// How long the load runs before that
    #[arg(long, value_name = "S", default_value_t = 2, value_parser = value_parser!(u64).range(0..=600))]
    warm_up: u64,
    /// Start this many calls a second, whatever the answers do (default: as many as are answered)
    #[arg(long, value_name = "CALLS", value_parser = positive)]
    pub(crate) rate: Option<f64>,
    /// Verify one credential of so many
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = value_parser!(u64).range(1..))]
    pub(crate) sample: u64,
}

impl Pace {
    pub(crate) fn window(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }

    pub(crate) fn warm_up(&self) -> Duration {
        Duration::from_secs(self.warm_up)
    }
}

#[derive(Args, Debug)]
pub(crate) struct X509Batch {
    /// Agents, each with its own connection
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = value_parser!(u32).range(1..=1000))]
    pub(crate) nodes: u32,
    /// Entries, spread over the agents
    #[arg(long, value_name = "M", default_value_t = 500, value_parser = value_parser!(u32).range(1..=1_000_000))]
    pub(crate) identities: u32,
    /// Requests in one call
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = value_parser!(u32).range(1..=1000))]
    pub(crate) batch: u32,
    /// Calls in flight
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = value_parser!(u32).range(1..=10_000))]
    pub(crate) in_flight: u32,
    /// Signing requests that are made beforehand and used in turn
    #[arg(long, value_name = "N", default_value_t = 2000, value_parser = value_parser!(u32).range(1..=100_000))]
    pub(crate) ring: u32,
    #[command(flatten)]
    pub(crate) pace: Pace,
}

#[derive(Args, Debug)]
pub(crate) struct X509Link {
    /// Nodes, each with its own link
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = value_parser!(u32).range(1..=10_000))]
    pub(crate) nodes: u32,
    /// Entries, spread over the nodes
    #[arg(long, value_name = "M", default_value_t = 10_000, value_parser = value_parser!(u32).range(1..=1_000_000))]
    pub(crate) identities: u32,
    /// Keys in one message
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = value_parser!(u32).range(1..=1000))]
    pub(crate) keys: u32,
    /// Messages in flight, at most one a node
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = value_parser!(u32).range(1..=10_000))]
    pub(crate) in_flight: u32,
    /// Public keys that are made beforehand and used in turn
    #[arg(long, value_name = "N", default_value_t = 2000, value_parser = value_parser!(u32).range(1..=100_000))]
    pub(crate) ring: u32,
    #[command(flatten)]
    pub(crate) pace: Pace,
}

#[derive(Args, Debug)]
pub(crate) struct Jwt {
    /// Agents, each with its own connection
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = value_parser!(u32).range(1..=1000))]
    pub(crate) nodes: u32,
    /// Entries, spread over the agents
    #[arg(long, value_name = "M", default_value_t = 500, value_parser = value_parser!(u32).range(1..=1_000_000))]
    pub(crate) identities: u32,
    /// Calls in flight
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = value_parser!(u32).range(1..=10_000))]
    pub(crate) in_flight: u32,
    #[command(flatten)]
    pub(crate) pace: Pace,
}

#[derive(Args, Debug)]
pub(crate) struct Entries {
    /// Entries in one call
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = value_parser!(u32).range(1..=1000))]
    pub(crate) batch: u32,
    /// Stop when so many entries were made in all, warm-up included
    #[arg(long, value_name = "N", default_value_t = 1_000_000, value_parser = value_parser!(u64).range(1..=2_000_000))]
    pub(crate) limit: u64,
    #[command(flatten)]
    pub(crate) pace: Pace,
}

#[derive(Args, Debug)]
pub(crate) struct Propagation {
    /// Where the entry is looked for
    #[arg(long, value_enum, default_value_t = Where::Api)]
    pub(crate) at: Where,
    /// How often
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = value_parser!(u32).range(1..=10_000))]
    pub(crate) rounds: u32,
    /// How long one may take
    #[arg(long, value_name = "S", default_value_t = 60, value_parser = value_parser!(u64).range(1..=600))]
    pub(crate) patience: u64,
    /// Idle nodes on the link meanwhile (Mintmark)
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = value_parser!(u32).range(0..=10_000))]
    pub(crate) nodes: u32,
    /// With `--at workload`: the node's Workload API
    #[arg(long, value_name = "PATH", required_if_eq("at", "workload"))]
    pub(crate) workload_socket: Option<PathBuf>,
    /// With `--at workload`: the node's SPIFFE ID, the parent of the entries
    #[arg(long, value_name = "SPIFFE_ID", required_if_eq("at", "workload"))]
    pub(crate) node_id: Option<String>,
}

/// Where an entry shows.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Where {
    /// In GetAuthorizedEntries of an agent.
    Api,
    /// As an Update on the node link of Mintmark.
    Link,
    /// As an X.509-SVID on an open stream of a workload, through a whole node.
    Workload,
}

#[derive(Args, Debug)]
pub(crate) struct Idle {
    /// Nodes on the link; 0 measures the process as it is, whatever it is
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = value_parser!(u32).range(0..=10_000))]
    pub(crate) nodes: u32,
    /// How long is measured
    #[arg(long, value_name = "S", default_value_t = 30, value_parser = value_parser!(u64).range(1..=3600))]
    pub(crate) seconds: u64,
    /// How long it is left alone before that
    #[arg(long, value_name = "S", default_value_t = 5, value_parser = value_parser!(u64).range(0..=600))]
    pub(crate) settle: u64,
}

#[derive(Args, Debug)]
pub(crate) struct Node {
    /// Workloads, each a process of a user of its own
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = value_parser!(u32).range(1..=1000))]
    pub(crate) workloads: u32,
    /// The node's Workload API, open to every user
    #[arg(long, value_name = "PATH")]
    pub(crate) workload_socket: PathBuf,
    /// The node's SPIFFE ID, the parent of the entries
    #[arg(long, value_name = "SPIFFE_ID")]
    pub(crate) node_id: String,
    /// How long it may take until each has its SVID
    #[arg(long, value_name = "S", default_value_t = 120, value_parser = value_parser!(u64).range(1..=600))]
    pub(crate) patience: u64,
    /// How long is measured
    #[arg(long, value_name = "S", default_value_t = 30, value_parser = value_parser!(u64).range(1..=3600))]
    pub(crate) seconds: u64,
    /// How long it is left alone before that
    #[arg(long, value_name = "S", default_value_t = 5, value_parser = value_parser!(u64).range(0..=600))]
    pub(crate) settle: u64,
}

#[derive(Args, Debug)]
pub(crate) struct Record {
    /// A directory for what came: `certificates-N.pem` and `serials.txt`
    #[arg(long, value_name = "DIR")]
    pub(crate) into: PathBuf,
    /// Say so (`{"event":"loaded"}`) when so many credentials have come
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = value_parser!(u64).range(1..=10_000_000))]
    pub(crate) enough: u64,
    /// Give up when the server is not gone by then
    #[arg(long, value_name = "S", default_value_t = 120, value_parser = value_parser!(u64).range(1..=3600))]
    pub(crate) patience: u64,
    /// Agents, and as many nodes on the link
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = value_parser!(u32).range(1..=100))]
    pub(crate) nodes: u32,
}

#[derive(Args, Debug)]
pub(crate) struct Logged {
    /// What `record` wrote
    #[arg(long, value_name = "DIR")]
    pub(crate) from: PathBuf,
}

#[derive(Args, Debug)]
pub(crate) struct Workload {
    /// The node's Workload API
    pub(crate) socket: PathBuf,
}

#[derive(Args, Debug)]
pub(crate) struct Million {
    /// How many entries
    #[arg(long, value_name = "N", default_value_t = 1_000_000, value_parser = value_parser!(u32).range(1000..=2_000_000))]
    pub(crate) entries: u32,
    /// Entries of the node that looks its own up
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = value_parser!(u32).range(1..=900))]
    pub(crate) own: u32,
    /// Where the server says that it is ready (http://IP:PORT/ready); without it, it is ready when its API answers
    #[arg(long, value_name = "IP:PORT", value_parser = loopback)]
    pub(crate) ready: Option<SocketAddr>,
    /// How long a start may take
    #[arg(long, value_name = "S", default_value_t = 300, value_parser = value_parser!(u64).range(1..=3600))]
    pub(crate) patience: u64,
    /// Where what the server says goes (default: nowhere)
    #[arg(long, value_name = "FILE")]
    pub(crate) server_log: Option<PathBuf>,
    /// The server's command line; it is started and stopped here
    #[arg(required = true, trailing_var_arg = true, value_name = "COMMAND")]
    pub(crate) command: Vec<String>,
}

fn loopback(text: &str) -> Result<SocketAddr, String> {
    let address: SocketAddr = text
        .parse()
        .map_err(|_| "expected an IP address and a port, as 127.0.0.1:8081")?;
    if address.ip().is_loopback() {
        Ok(address)
    } else {
        Err("only servers on loopback addresses are loaded".into())
    }
}

fn positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if rate.is_finite() && (0.01..=1e6).contains(&rate) => Ok(rate),
        _ => Err("expected calls a second, from 0.01 to 1000000".into()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Options::command().debug_assert();
    }

    #[test]
    fn a_server_that_is_not_on_loopback_is_refused() {
        assert!(loopback("127.0.0.1:8081").is_ok());
        assert!(loopback("[::1]:8081").is_ok());
        assert!(loopback("192.0.2.1:8081").is_err());
    }
}
