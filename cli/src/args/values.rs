//! Values of options that are written as text.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use mintmark_identity::Ttl;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Where the Workload API is (SPIFFE Workload Endpoint §4).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WorkloadSocket {
    /// A Unix socket.
    Unix(PathBuf),
    /// A TCP address.
    Tcp(SocketAddr),
}

impl FromStr for WorkloadSocket {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(address) = text.strip_prefix("tcp:") {
            let address = address.strip_prefix("//").unwrap_or(address);
            return address.parse().map(Self::Tcp).map_err(|_| {
                format!("\"{address}\" is not an IP address and port; write for instance tcp://127.0.0.1:8000")
            });
        }
        unix_path(text).map(Self::Unix)
    }
}

impl fmt::Display for WorkloadSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp(address) => write!(f, "tcp://{address}"),
        }
    }
}

/// The path of a Unix socket, also written as a `unix:` URI.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocketPath(pub PathBuf);

impl FromStr for SocketPath {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        unix_path(text).map(Self)
    }
}

fn unix_path(text: &str) -> Result<PathBuf, String> {
    let path = match text.strip_prefix("unix:") {
        Some(rest) => {
            let path = rest.strip_prefix("//").unwrap_or(rest);
            if !path.starts_with('/') {
                return Err(format!(
                    "\"{text}\" has no absolute path; write for instance unix:///run/mintmark/agent/api.sock"
                ));
            }
            if path.contains(['?', '#']) {
                return Err(format!(
                    "\"{text}\" has a query or a fragment, which a socket's address must not have"
                ));
            }
            path
        }
        None if text.contains("://") => {
            return Err(format!("\"{text}\" is neither unix:///path nor tcp://IP:PORT"));
        }
        None => text,
    };
    if path.is_empty() || path.contains('\0') {
        return Err(
            "it is empty or holds a zero byte; write for instance unix:///run/mintmark/agent/api.sock".to_owned(),
        );
    }
    Ok(path.into())
}

/// A host and a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPort {
    /// A name or an IP address, without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl FromStr for HostPort {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("\"{text}\" is not a host and port; write for instance mintmark-server:8081 or [::1]:8081");
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let host = bare.unwrap_or(host);
        if host.is_empty() || host.contains('/') || (bare.is_none() && host.contains(':')) {
            return Err(wrong());
        }
        let port = port.parse().ok().filter(|port| *port != 0).ok_or_else(wrong)?;
        Ok(Self {
            host: host.to_owned(),
            port,
        })
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// A lifetime: `1h`, or bare seconds as SPIRE's command line has them. Zero is the server's default.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seconds(pub i32);

impl FromStr for Seconds {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(seconds) = text.parse::<u32>() {
            return i32::try_from(seconds)
                .map(Self)
                .map_err(|_| format!("{text} seconds are too many"));
        }
        Ttl::parse(text)
            .map(|ttl| Self(ttl.as_secs_i32()))
            .map_err(|error| error.to_string())
    }
}

/// A point in time: RFC 3339, or Unix seconds as SPIRE's command line has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expiry(pub i64);

impl FromStr for Expiry {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(seconds) = text.parse::<u32>() {
            return Ok(Self(seconds.into()));
        }
        let parsed = OffsetDateTime::parse(text, &Rfc3339).map(|time| Self(time.unix_timestamp()));
        parsed.map_err(|_| format!("\"{text}\" is no time; write for instance 2027-01-31T12:00:00Z, or Unix seconds"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workload_socket_is_a_uri_or_a_path() {
        for (text, shown) in [
            ("unix:///run/a.sock", "unix:///run/a.sock"),
            ("unix:/run/a.sock", "unix:///run/a.sock"),
            ("/run/a.sock", "unix:///run/a.sock"),
            ("tcp://127.0.0.1:80", "tcp://127.0.0.1:80"),
            ("tcp://[::1]:80", "tcp://[::1]:80"),
        ] {
            assert_eq!(text.parse::<WorkloadSocket>().unwrap().to_string(), shown);
        }
        assert_eq!("a.sock".parse::<SocketPath>().unwrap().0, PathBuf::from("a.sock"));
        for wrong in [
            "",
            "unix://",
            "unix:a.sock",
            "unix:///a?b",
            "tcp://localhost:80",
            "tcp://127.0.0.1",
            "http://a",
            "unix:///a#b",
        ] {
            assert!(wrong.parse::<WorkloadSocket>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_server_is_a_host_and_a_port() {
        for text in ["mintmark-server:8081", "10.0.0.1:8081", "[::1]:8081"] {
            assert_eq!(text.parse::<HostPort>().unwrap().to_string(), text);
        }
        for wrong in [
            "",
            "host",
            ":1",
            "host:0",
            "host:66000",
            "::1:8081",
            "https://host:1",
            "host:",
        ] {
            assert!(wrong.parse::<HostPort>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn lifetimes_and_times_are_taken_in_both_forms() {
        assert_eq!("90".parse(), Ok(Seconds(90)));
        assert_eq!("5m".parse(), Ok(Seconds(300)));
        assert!("-1".parse::<Seconds>().is_err() && "5".repeat(20).parse::<Seconds>().is_err());
        assert_eq!("1800000000".parse(), Ok(Expiry(1_800_000_000)));
        assert_eq!("2027-01-15T08:00:00Z".parse(), Ok(Expiry(1_800_000_000)));
        assert!("tomorrow".parse::<Expiry>().is_err() && "-5".parse::<Expiry>().is_err());
    }
}
