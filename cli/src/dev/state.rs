//! What the next start in the same directory should know.

use std::path::Path;

use mintmark_identity::TrustDomain;
use mintmark_runtime::fs::{read_limited, write_atomic};
use mintmark_runtime::net::tcp_listener;
use mintmark_server::server::Running as RunningServer;
use serde::{Deserialize, Serialize};

use crate::failure::{Failure, refused};

const MAX_FILE: u64 = 64 << 10;

/// The trust domain, and the ports: whoever was told an address finds the same there again.
#[derive(Debug, Serialize, Deserialize)]
pub struct State {
    pub trust_domain: TrustDomain,
    pub ports: Ports,
}

/// Loopback ports; 0 for any that is free.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Ports {
    pub api: u16,
    pub https: u16,
    pub server_metrics: u16,
    pub attestor_metrics: u16,
}

impl State {
    /// Of what runs now.
    pub fn of(trust_domain: &TrustDomain, server: &RunningServer, attestor: &mintmark_attestor::Running) -> Self {
        let port = |addr: Option<std::net::SocketAddr>| addr.map_or(0, |addr| addr.port());
        Self {
            trust_domain: trust_domain.clone(),
            ports: Ports {
                api: port(server.api_addr()),
                https: port(server.https_addr()),
                server_metrics: port(server.metrics_addr()),
                attestor_metrics: port(attestor.metrics_addr()),
            },
        }
    }

    /// That of an earlier start, if there was one.
    pub fn read(path: &Path) -> Result<Option<Self>, Failure> {
        if !path.exists() {
            return Ok(None);
        }
        let bytes = read_limited(path, MAX_FILE).map_err(refused)?;
        let state = serde_json::from_slice(&bytes).map_err(|error| {
            Failure::Refused(format!(
                "{} is damaged: {error}; remove it, and its --trust-domain must be told again",
                path.display()
            ))
        })?;
        Ok(Some(state))
    }

    pub fn write(&self, path: &Path) -> Result<(), Failure> {
        let mut text = serde_json::to_vec_pretty(self).map_err(refused)?;
        text.push(b'\n');
        write_atomic(path, &text, 0o644).map_err(refused)
    }
}

impl Ports {
    /// Those that are free, and 0 for the others.
    pub fn free(self) -> Self {
        let free = |port: u16| match port {
            0 => 0,
            port => tcp_listener(([127, 0, 0, 1], port).into()).map_or(0, |_| port),
        };
        Self {
            api: free(self.api),
            https: free(self.https),
            server_metrics: free(self.server_metrics),
            attestor_metrics: free(self.attestor_metrics),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_port_that_is_taken_is_given_up_and_the_others_are_kept() {
        let taken = tcp_listener(([127, 0, 0, 1], 0).into()).unwrap();
        let taken_port = taken.local_addr().unwrap().port();
        let free_port = {
            let probe = tcp_listener(([127, 0, 0, 1], 0).into()).unwrap();
            probe.local_addr().unwrap().port()
        };
        let ports = Ports {
            api: taken_port,
            https: free_port,
            ..Ports::default()
        };
        let ports = ports.free();
        assert_eq!((ports.api, ports.https, ports.server_metrics), (0, free_port, 0));
    }

    #[test]
    fn what_was_written_is_read_and_what_is_damaged_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("dev.json");
        assert!(State::read(&path).unwrap().is_none());
        let state = State {
            trust_domain: TrustDomain::parse("a.test").unwrap(),
            ports: Ports {
                api: 1,
                ..Ports::default()
            },
        };
        state.write(&path).unwrap();
        let read = State::read(&path).unwrap().unwrap();
        assert_eq!((read.trust_domain.as_str(), read.ports.api), ("a.test", 1));
        write_atomic(&path, b"{", 0o644).unwrap();
        assert!(State::read(&path).unwrap_err().to_string().contains("dev.json"));
    }
}
