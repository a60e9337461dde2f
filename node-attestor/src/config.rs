//! What the operator wants: the configuration of `mintmark-attestor`.
//!
//! In: one TOML file and the environment, by [`mintmark_runtime::config`]. Out: a [`Config`], checked. `attestor` and the binary call it.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use mintmark_identity::{TrustDomain, Ttl};
use mintmark_runtime::config::{ByteSize, ConfigError, Listen, Loaded, OneOrMany};
use mintmark_runtime::crypto::SecretString;
use mintmark_runtime::net::MAX_UNIX_PATH;
use mintmark_runtime::telemetry::LogConfig;
use serde::Deserialize;

use crate::mount::{SOCKET_BELOW, driver_socket, registration_socket};

/// The configuration. Everything has a default except the trust domain, the server and how to join.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The trust domain that this node is of.
    pub trust_domain: Option<TrustDomain>,
    /// Where the node's own SVID, its key and the bundle are held.
    pub data_dir: PathBuf,
    /// The server, `host:port`.
    pub server: String,
    /// A file with the bundle by which the server is recognised at the first contact: PEM certificates, or a SPIFFE bundle in JSON.
    pub trust_bundle: PathBuf,
    /// Believe whoever answers first as the server.
    pub insecure_bootstrap: bool,
    /// Where it listens.
    pub listen: ListenSection,
    /// How the node proves what it is.
    pub join: JoinSection,
    /// What is held, and what survives a restart.
    pub keep: KeepSection,
    /// How workloads are attested.
    pub attest: AttestSection,
    /// Volumes of pods.
    pub csi: CsiSection,
    /// What callers may take up.
    pub limits: LimitsSection,
    /// The log.
    pub log: LogConfig,
}

/// `[listen]`: an empty string switches a listener off.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ListenSection {
    /// The Workload API's sockets, one or a list. Any local process may connect; each is attested.
    pub workload: OneOrMany<PathBuf>,
    /// `/metrics`.
    pub metrics: Listen,
    /// `/live` and `/ready`.
    pub health: Listen,
}

/// `[join]`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct JoinSection {
    /// Which way.
    pub method: JoinMethod,
    /// `join_token`: the token. It is good once; the node's SVID is held in `data_dir` after that.
    pub token: SecretString,
    /// `x509pop`: a PEM file with the node's certificate, its intermediates behind it.
    pub certificate: PathBuf,
    /// `x509pop`: a PEM file with the intermediates, where they are not in `certificate`.
    pub intermediates: PathBuf,
    /// `x509pop`: a PEM file with the certificate's key.
    pub key: PathBuf,
    /// `k8s_psat`: the cluster's name in the server's configuration.
    pub cluster: String,
    /// `k8s_psat`: the file with the pod's service account token; at [`TOKEN_PATHS`](crate::join::TOKEN_PATHS) when empty. It is read anew for each attestation.
    pub token_path: PathBuf,
}

/// How a node proves what it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JoinMethod {
    /// By a token that is good once.
    #[default]
    JoinToken,
    /// By a certificate and the possession of its key.
    X509pop,
    /// By the pod's projected service account token.
    K8sPsat,
}

/// `[keep]`.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KeepSection {
    /// Hold identities, SVIDs and keys in `data_dir`, encrypted, so that a restart while the server cannot be reached serves them.
    pub sealed: bool,
    /// The file with the key that encrypts them, 32 bytes, outside of `data_dir`; made when it is missing.
    pub key: PathBuf,
    /// So many X.509-SVIDs are held ready before anybody asks for them; further ones are made when they are asked for.
    pub prefetch: usize,
    /// So many JWT-SVIDs are remembered.
    pub jwt_cache: usize,
}

/// `[attest]`.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AttestSection {
    /// Larger programs have no `unix:sha256` selector.
    pub program_size: ByteSize,
}

/// `[csi]`.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CsiSection {
    /// Be the CSI driver of this node: each pod that mounts a volume of it has a socket of its own there, and files if it asks for them.
    pub enabled: bool,
    /// The drivers' names, one or a list: `csi.mintmark.dev`, and `csi.spiffe.io` for pods that were written for SPIRE.
    pub drivers: OneOrMany<String>,
    /// The node's name in Kubernetes (`spec.nodeName` of the attestor's own pod).
    pub node_name: String,
    /// The kubelet's directory, its `--root-dir`. The attestor must see it at the same path, and mounts must propagate from there to the kubelet.
    pub kubelet_dir: PathBuf,
    /// Where volumes are made. It is open to root alone, mounts must propagate from it to the host, and it has to be the same after a restart.
    pub dir: PathBuf,
    /// How long a volume with files waits for the identity before the kubelet is told to try again.
    pub files_timeout: Ttl,
}

/// `[limits]`.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimitsSection {
    /// Connections to the Workload API at once.
    pub connections: usize,
    /// Connections to the Workload API at once of one user, or of one pod.
    pub connections_per_user: usize,
    /// Calls and streams at once.
    pub streams: usize,
    /// Calls and streams at once of one user, or of one pod.
    pub streams_per_user: usize,
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InvalidConfig {
    /// It cannot be read.
    #[error(transparent)]
    Load(#[from] ConfigError),
    /// Keys have values that do not go, alone or together; each problem is one line.
    #[error("{}", .0.join("\n"))]
    Values(Vec<String>),
}

impl Config {
    /// Reads the configuration: `file` (none: only defaults), over it the environment; and checks it. Its warnings are about how it was read; those about its
    /// values are [`Config::check`]'s, which a start logs.
    ///
    /// # Errors
    /// When it cannot be read, has unknown keys, or values that do not go.
    pub fn load(
        file: Option<&Path>,
        env: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Loaded<Self>, InvalidConfig> {
        let loaded = mintmark_runtime::config::load::<Self>(file, env)?;
        loaded.value.check()?;
        Ok(loaded)
    }

    /// The configuration of a node of `trust_domain` that joins `server` and serves workloads on one socket, and listens nowhere else.
    pub fn quiet(trust_domain: TrustDomain, data_dir: PathBuf, server: String, workload: PathBuf) -> Self {
        let off = Listen::off();
        Self {
            trust_domain: Some(trust_domain),
            data_dir,
            server,
            listen: ListenSection {
                workload: vec![workload].into(),
                metrics: off,
                health: off,
            },
            ..Self::default()
        }
    }

    /// What speaks against this configuration: errors, with which it cannot be used, as an error; else warnings.
    ///
    /// # Errors
    /// When it cannot be used.
    pub fn check(&self) -> Result<Vec<String>, InvalidConfig> {
        let (mut errors, mut warnings) = (Vec::new(), Vec::new());
        let mut refuse = |refused: bool, why: &str| {
            if refused {
                errors.push(why.to_owned());
            }
        };
        let is_empty = |path: &Path| path.as_os_str().is_empty();
        refuse(
            self.trust_domain.is_none(),
            "trust_domain is not set: the trust domain of the server, such as \"example.org\"",
        );
        refuse(
            self.server.is_empty(),
            "server is not set: the server's host and port, such as \"mintmark-server:8081\"",
        );
        refuse(is_empty(&self.data_dir), "data_dir is empty");
        refuse(
            !self.server.is_empty() && !is_host_and_port(&self.server),
            &format!(
                "server: {:?} is not a host and port, such as \"mintmark-server:8081\"",
                self.server
            ),
        );
        match self.join.method {
            // A node that joined before needs no token, so that a missing one is found out when it is needed.
            JoinMethod::JoinToken => {}
            JoinMethod::X509pop => {
                refuse(
                    is_empty(&self.join.certificate),
                    "join.certificate is not set, which join.method = \"x509pop\" needs",
                );
                refuse(
                    is_empty(&self.join.key),
                    "join.key is not set, which join.method = \"x509pop\" needs",
                );
            }
            // Where the token is missing is found out, and told, when it is needed.
            JoinMethod::K8sPsat => refuse(
                self.join.cluster.is_empty(),
                "join.cluster is not set, which join.method = \"k8s_psat\" needs: the cluster's name in the server's [kubernetes.clusters.NAME]",
            ),
        }
        for path in self.listen.workload.as_slice() {
            let length = path.as_os_str().len();
            refuse(
                length > MAX_UNIX_PATH,
                &format!(
                    "listen.workload: socket path {} has {length} bytes, and at most {MAX_UNIX_PATH} are possible",
                    path.display()
                ),
            );
        }
        refuse(
            self.keep.sealed && self.keep.key.starts_with(&self.data_dir),
            "keep.key is in data_dir: whoever copies that directory would have the key with what it seals",
        );
        refuse(
            self.keep.sealed && is_empty(&self.keep.key),
            "keep.key is empty, and keep.sealed needs it",
        );
        for (name, value) in [
            ("limits.connections", self.limits.connections),
            ("limits.connections_per_user", self.limits.connections_per_user),
            ("limits.streams", self.limits.streams),
            ("limits.streams_per_user", self.limits.streams_per_user),
        ] {
            refuse(value == 0, &format!("{name} is 0, with which nobody is served"));
        }
        if self.csi.enabled {
            errors.extend(self.csi_problems());
        }
        match (self.insecure_bootstrap, is_empty(&self.trust_bundle)) {
            (true, true) => {
                warnings.push("insecure_bootstrap: whoever answers the first call is believed to be the server".into());
            }
            (true, false) => warnings.push("insecure_bootstrap does nothing, as trust_bundle is set".into()),
            (false, _) => {}
        }
        if self.listen.workload.as_slice().is_empty() {
            warnings.push("listen.workload is empty: no workload is served".into());
        }
        match errors.is_empty() {
            true => Ok(warnings),
            false => Err(InvalidConfig::Values(errors)),
        }
    }

    /// What speaks against `[csi]` as it is.
    fn csi_problems(&self) -> Vec<String> {
        let csi = &self.csi;
        let mut errors = Vec::new();
        let mut refuse = |refused: bool, why: String| {
            if refused {
                errors.push(why);
            }
        };
        refuse(
            csi.node_name.is_empty(),
            "csi.node_name is not set: the node's name in Kubernetes; in a pod, MINTMARK_CONFIG_CSI__NODE_NAME from spec.nodeName".into(),
        );
        refuse(
            csi.drivers.as_slice().is_empty(),
            "csi.drivers is empty; set csi.enabled = false to serve no volumes".into(),
        );
        for (key, path) in [("csi.kubelet_dir", &csi.kubelet_dir), ("csi.dir", &csi.dir)] {
            refuse(
                !path.is_absolute(),
                format!("{key}: {:?} is not an absolute path", path.display()),
            );
        }
        let sockets = csi.drivers.as_slice().iter().flat_map(|driver| {
            let paths = [driver_socket, registration_socket].map(|socket| socket(&csi.kubelet_dir, driver));
            paths.map(|path| ("csi.kubelet_dir", path.as_os_str().len()))
        });
        let of_pods = ("csi.dir", csi.dir.as_os_str().len() + SOCKET_BELOW);
        for (key, length) in sockets.chain([of_pods]) {
            refuse(
                length > MAX_UNIX_PATH,
                format!(
                    "{key}: a socket in it would have a path of {length} bytes, and at most {MAX_UNIX_PATH} are possible; use a shorter directory"
                ),
            );
        }
        for driver in csi.drivers.as_slice() {
            // The CSI specification, on GetPluginInfoResponse.
            let is_end = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric());
            let is_inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.');
            let is_name = driver.len() <= 63
                && driver.bytes().all(is_inner)
                && is_end(driver.bytes().next())
                && is_end(driver.bytes().last());
            refuse(!is_name, format!("csi.drivers: {driver:?} is not a CSI driver's name"));
        }
        for socket in self.listen.workload.as_slice() {
            let is_reachable = socket.parent().is_some_and(|dir| csi.dir.starts_with(dir));
            refuse(
                is_reachable,
                format!(
                    "csi.dir {} is below the directory of listen.workload {}: whoever mounts that directory would reach the sockets of pods",
                    csi.dir.display(),
                    socket.display()
                ),
            );
        }
        errors
    }
}

/// Whether it is `name:port`, `1.2.3.4:port` or `[::1]:port`.
fn is_host_and_port(server: &str) -> bool {
    let Some((host, port)) = server.rsplit_once(':') else {
        return false;
    };
    let is_host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(address) => address.parse::<Ipv6Addr>().is_ok(),
        None => {
            !host.is_empty()
                && host
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte))
        }
    };
    is_host && port.parse::<u16>().is_ok_and(|port| port > 0)
}

impl Default for Config {
    fn default() -> Self {
        Self {
            trust_domain: None,
            data_dir: "/var/lib/mintmark/attestor".into(),
            server: String::new(),
            trust_bundle: PathBuf::new(),
            insecure_bootstrap: false,
            listen: ListenSection::default(),
            join: JoinSection::default(),
            keep: KeepSection::default(),
            attest: AttestSection::default(),
            csi: CsiSection::default(),
            limits: LimitsSection::default(),
            log: LogConfig::default(),
        }
    }
}

impl Default for ListenSection {
    fn default() -> Self {
        Self {
            workload: vec!["/run/mintmark/agent/api.sock".into()].into(),
            metrics: Listen::new(SocketAddr::from((Ipv4Addr::LOCALHOST, 9092))),
            health: Listen::new(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 8083))),
        }
    }
}

impl Default for KeepSection {
    fn default() -> Self {
        Self {
            sealed: false,
            key: "/etc/mintmark/attestor.kek".into(),
            prefetch: 1000,
            jwt_cache: 1000,
        }
    }
}

impl Default for AttestSection {
    fn default() -> Self {
        Self {
            program_size: ByteSize(512 << 20),
        }
    }
}

impl Default for CsiSection {
    fn default() -> Self {
        Self {
            enabled: false,
            drivers: vec!["csi.mintmark.dev".to_owned()].into(),
            node_name: String::new(),
            kubelet_dir: "/var/lib/kubelet".into(),
            dir: "/run/mintmark/csi".into(),
            files_timeout: Ttl::constant(10),
        }
    }
}

impl Default for LimitsSection {
    fn default() -> Self {
        Self {
            connections: 4096,
            connections_per_user: 2048,
            streams: 16_384,
            streams_per_user: 8192,
        }
    }
}

#[cfg(test)]
mod tests {
    use mintmark_runtime::config::Schema;

    use super::*;

    fn load(text: &str, env: &[(&str, &str)]) -> Result<Loaded<Config>, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("attestor.toml");
        mintmark_runtime::fs::write_new(&path, text.as_bytes(), 0o600).unwrap();
        let env = env
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Config::load(Some(&path), env).map_err(|error| error.to_string())
    }

    /// The configuration of INTERFACES.md.
    const EVERY_KEY: &str = r#"
        trust_domain = "example.org"
        data_dir = "/d"
        server = "mintmark-server:8081"
        trust_bundle = "/etc/mintmark/bundle.pem"
        [listen]
        workload = "/run/a/a.sock"
        metrics = "127.0.0.1:1"
        health = "0.0.0.0:2"
        [join]
        method = "join_token"
        token = "secret"
        [csi]
        enabled = true
        drivers = ["csi.mintmark.dev", "csi.spiffe.io"]
        node_name = "node-a"
        kubelet_dir = "/k"
        dir = "/run/c"
        files_timeout = "3s"
    "#;

    #[test]
    fn every_documented_key_is_accepted_and_means_what_it_says() {
        let Loaded { value, warnings } = load(EVERY_KEY, &[]).unwrap();
        assert_eq!(value.trust_domain.as_ref().unwrap().as_str(), "example.org");
        assert_eq!(
            (value.server.as_str(), value.trust_bundle.to_str()),
            ("mintmark-server:8081", Some("/etc/mintmark/bundle.pem"))
        );
        assert_eq!(value.listen.workload.as_slice(), [Path::new("/run/a/a.sock")]);
        assert_eq!(
            (value.listen.metrics.to_string(), value.listen.health.to_string()),
            ("127.0.0.1:1".into(), "0.0.0.0:2".into())
        );
        assert_eq!(
            (value.join.method, value.join.token.expose()),
            (JoinMethod::JoinToken, "secret")
        );
        assert_eq!(
            (value.csi.drivers.as_slice().len(), value.csi.files_timeout.as_secs()),
            (2, 3)
        );
        assert_eq!((warnings, value.check().unwrap()), (vec![], vec![]));
        assert!(!format!("{value:?}").contains("secret"));
    }

    #[test]
    fn trust_domain_and_server_are_all_that_is_needed() {
        let env = [
            ("MINTMARK_CONFIG_TRUST_DOMAIN", "example.org"),
            ("MINTMARK_CONFIG_SERVER", "s:1"),
        ];
        let value = load("", &env).unwrap().value;
        assert_eq!(
            value.listen.workload.as_slice(),
            [Path::new("/run/mintmark/agent/api.sock")]
        );
        let env = [env[0], env[1], ("MINTMARK_CONFIG_LISTEN__WORKLOAD", "/a,/b")];
        assert_eq!(load("", &env).unwrap().value.listen.workload.as_slice().len(), 2);
    }

    #[test]
    fn a_server_is_a_host_and_a_port() {
        for server in [
            "mintmark-server:8081",
            "a_b.example.org:1",
            "10.0.0.1:8081",
            "[::1]:8081",
        ] {
            assert!(is_host_and_port(server), "{server}");
        }
        for server in [
            "s",
            ":1",
            "s:",
            "s:0",
            "s:99999",
            "[::1:1",
            "::1:1",
            "[s]:1",
            "http://s:80",
            "a@s:1",
            "s s:1",
            "s/x:1",
        ] {
            assert!(!is_host_and_port(server), "{server}");
        }
    }

    #[test]
    fn what_does_not_go_is_named_with_its_remedy() {
        let base = "trust_domain = \"a.test\"\nserver = \"s:1\"\n";
        let long = format!("[listen]\nworkload = \"/{}\"", "x".repeat(110));
        let long_csi = format!(
            "[csi]\nenabled = true\nnode_name = \"n\"\ndir = \"/{}\"",
            "x".repeat(100)
        );
        for (text, expected) in [
            ("", "trust_domain is not set"),
            ("trust_domain = \"a.test\"", "server is not set"),
            (
                "trust_domain = \"a.test\"\nserver = \"s\"",
                "\"s\" is not a host and port",
            ),
            (
                "trust_domain = \"a.test\"\nserver = \"s:99999\"",
                "is not a host and port",
            ),
            ("[join]\nmethod = \"x509pop\"", "join.certificate is not set"),
            ("[join]\nmethod = \"k8s_psat\"", "join.cluster is not set"),
            ("[join]\nmethod = \"magic\"", "join.method"),
            (&long, "111 bytes"),
            (
                "data_dir = \"/d\"\n[keep]\nsealed = true\nkey = \"/d/kek\"",
                "keep.key is in data_dir",
            ),
            ("[limits]\nstreams = 0", "limits.streams is 0"),
            ("[csi]\nenabled = true", "csi.node_name is not set"),
            (
                "[csi]\nenabled = true\nnode_name = \"n\"\ndrivers = \"\"",
                "csi.drivers is empty",
            ),
            (
                "[csi]\nenabled = true\nnode_name = \"n\"\ndrivers = \"-x\"",
                "\"-x\" is not a CSI driver's name",
            ),
            (&long_csi, "would have a path of 151 bytes"),
            (
                "[csi]\nenabled = true\nnode_name = \"n\"\ndir = \"/run/mintmark/agent/csi\"",
                "would reach the sockets of pods",
            ),
            ("[keep]\nseeled = true", "did you mean \"keep.sealed\"?"),
        ] {
            let whole = if text.is_empty() || text.starts_with("trust_domain") {
                text.to_owned()
            } else {
                format!("{base}{text}")
            };
            let error = load(&whole, &[]).unwrap_err();
            assert!(error.contains(expected), "{text:?}: {error}");
        }
        for (text, expected) in [
            ("insecure_bootstrap = true", "is believed to be the server"),
            ("insecure_bootstrap = true\ntrust_bundle = \"/b\"", "does nothing"),
        ] {
            let warnings = load(&format!("{base}{text}"), &[]).unwrap().value.check().unwrap();
            assert!(matches!(&*warnings, [one] if one.contains(expected)), "{warnings:?}");
        }
    }

    #[test]
    fn the_reference_names_every_key_with_its_default() {
        const NEEDED: &str = "trust_domain = \"example.org\"\nserver = \"mintmark-server:8081\"\n\
            trust_bundle = \"/etc/mintmark/bundle.pem\"\njoin.token = \"…\"";
        let reference = include_str!("../../docs/reference/configuration.md");
        let (_, rest) = reference.split_once("## mintmark-attestor\n").unwrap();
        let (example, _) = rest.split_once("```toml").unwrap().1.split_once("```").unwrap();
        let documented = load(example, &[]).unwrap().value;
        let default = load(NEEDED, &[]).unwrap().value;
        assert_eq!(format!("{documented:?}"), format!("{default:?}"));
        for key in Schema::of::<Config>().keys() {
            let name = key.rsplit('.').next().unwrap_or(&key);
            let is_shown = example.contains(&format!("\n{name} = ")) || example.contains(&format!("\n[{key}]"));
            let is_told = reference.contains(&format!("`{key}`")) || reference.contains(&format!("`{name}`"));
            assert!(is_shown || is_told, "{key} is not in docs/reference/configuration.md");
        }
    }
}
