//! What is to be looked at, and how the result is to be told: the command line.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use clap::{Parser, ValueEnum};

/// Checks a SPIFFE Workload API socket, bundle endpoint and OIDC issuer against the SPIFFE standards.
///
/// Run it as a workload that has at least one identity. Exit status: 0 when nothing failed, 1 when a check failed or
/// an address cannot be used, 2 for wrong usage.
#[derive(Parser, Debug, Clone)]
#[command(name = "conformance", version)]
pub struct Options {
    /// The Workload API: unix:///absolute/path or tcp://IP:port
    #[arg(long, env = "SPIFFE_ENDPOINT_SOCKET", value_name = "ADDRESS")]
    pub socket: Option<Address>,
    /// A Workload API socket on which this process must get no identity
    #[arg(long, value_name = "ADDRESS")]
    pub expect_no_identity_socket: Option<Address>,
    /// A user ID that must get no identity on --socket (needs root)
    #[arg(long, value_name = "UID", requires = "socket")]
    pub expect_no_identity_uid: Option<u32>,
    /// The bundle endpoint: https://host[:port]/path
    #[arg(long, value_name = "URL")]
    pub bundle_endpoint: Option<String>,
    /// PEM file of the authorities that the bundle endpoint and the OIDC issuer are verified with (default: the system's)
    #[arg(long, value_name = "FILE")]
    pub bundle_ca: Option<PathBuf>,
    /// The bundle endpoint is of profile https_spiffe and has this SPIFFE ID
    #[arg(long, value_name = "SPIFFE_ID", conflicts_with_all = ["insecure", "bundle_ca"])]
    pub bundle_spiffe_id: Option<String>,
    /// Do not ask who issued the certificates of the bundle endpoint and the OIDC issuer
    #[arg(long, conflicts_with = "bundle_ca")]
    pub insecure: bool,
    /// A file with a SPIFFE bundle map
    #[arg(long, value_name = "FILE")]
    pub bundle_map: Option<PathBuf>,
    /// The OIDC issuer: https://host[:port][/path]
    #[arg(long, value_name = "URL")]
    pub oidc: Option<String>,
    /// The audience that tokens are asked for
    #[arg(long, value_name = "AUDIENCE", default_value = "spiffe-conformance")]
    pub audience: String,
    /// Run only these checks: an ID, a number, or a group (X5-3, WA-8, JW); may be repeated
    #[arg(long, value_name = "ID", value_delimiter = ',')]
    pub only: Vec<String>,
    /// Leave these checks out; may be repeated
    #[arg(long, value_name = "ID", value_delimiter = ',')]
    pub skip: Vec<String>,
    /// A SHOULD that is not met is a failure
    #[arg(long)]
    pub strict: bool,
    /// How long a call may take
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
    pub timeout: Duration,
    /// How long to wait for the first identity
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = duration)]
    pub wait: Duration,
    /// How long open streams are watched
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = duration)]
    pub hold: Duration,
    /// How long to wait for a JWT-SVID to expire, to see that it is then refused
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = duration)]
    pub wait_for_expiry: Duration,
    /// How long after its exp a JWT-SVID may still be accepted, for clocks that differ
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = duration)]
    pub expiry_leeway: Duration,
    /// How the report is printed
    #[arg(long, value_enum, default_value_t = Output::Text)]
    pub output: Output,
    /// Also write the report as JUnit XML
    #[arg(long, value_name = "FILE")]
    pub junit: Option<PathBuf>,
    /// Print the checks instead of running them
    #[arg(long)]
    pub list: bool,
}

impl Options {
    /// Whether there is anything to look at.
    pub fn has_target(&self) -> bool {
        self.socket.is_some()
            || self.expect_no_identity_socket.is_some()
            || self.bundle_endpoint.is_some()
            || self.bundle_map.is_some()
            || self.oidc.is_some()
    }
}

/// How a report is printed.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// One line a check.
    Text,
    /// One JSON object.
    Json,
}

/// Where a Workload API listens, as `SPIFFE_ENDPOINT_SOCKET` says it (SPIFFE_Workload_Endpoint.md §4, EP-3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// `unix:///absolute/path`
    Unix(PathBuf),
    /// `tcp://IP:port`
    Tcp(SocketAddr),
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            if !Path::new(path).is_absolute() {
                return Err("unix addresses have no authority and an absolute path: unix:///path/to/socket".into());
            }
            if path.contains(['?', '#']) {
                return Err("unix addresses have no query and no fragment: unix:///path/to/socket".into());
            }
            return Ok(Self::Unix(path.into()));
        }
        if let Some(host) = text.strip_prefix("tcp://") {
            let address = host
                .parse()
                .map_err(|_| "tcp addresses are an IP address and a port: tcp://127.0.0.1:8000")?;
            return Ok(Self::Tcp(address));
        }
        Err("expected unix:///path/to/socket or tcp://IP:port".into())
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp(address) => write!(f, "tcp://{address}"),
        }
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("expected a time such as 500ms, 2s or 5m, found {text:?}");
    let digits = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| wrong())?;
    match unit {
        "ms" => Ok(Duration::from_millis(number)),
        "s" => Ok(Duration::from_secs(number)),
        "m" => number.checked_mul(60).map(Duration::from_secs).ok_or_else(wrong),
        _ => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_as_the_endpoint_standard_says() {
        let unix = |p: &str| Ok(Address::Unix(p.into()));
        assert_eq!("unix:///run/a.sock".parse::<Address>(), unix("/run/a.sock"));
        assert_eq!("unix:/run/a.sock".parse::<Address>(), unix("/run/a.sock"));
        assert_eq!(
            "tcp://127.0.0.1:8000".parse::<Address>(),
            Ok(Address::Tcp(([127, 0, 0, 1], 8000).into()))
        );
        for wrong in [
            "",
            "/run/a.sock",
            "unix://run/a.sock",
            "unix:a.sock",
            "unix:///a?b",
            "tcp://localhost:1",
            "tcp://127.0.0.1",
            "tcp://127.0.0.1:1/a",
            "http://127.0.0.1:1",
        ] {
            assert!(wrong.parse::<Address>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_time_has_a_unit() {
        assert_eq!(duration("200ms"), Ok(Duration::from_millis(200)));
        assert_eq!(duration("2s"), Ok(Duration::from_secs(2)));
        assert_eq!(duration("5m"), Ok(Duration::from_secs(300)));
        for wrong in ["", "2", "s", "2h", "-1s", "99999999999999999999s"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }
}
