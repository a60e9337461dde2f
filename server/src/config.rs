//! What the operator wants: the configuration of `mintmark-server`.
//!
//! In: one TOML file and the environment, by [`mintmark_runtime::config`]. Out: a [`Config`], checked. `server` and the binary call it; the other rooms are given
//! what they need of it, `api` its section of limits whole.
//!
//! Every key of the documented configuration is here from the first release. One whose feature comes later is accepted and does nothing.

mod lint;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use mintmark_identity::{TrustDomain, Ttl};
use mintmark_runtime::config::{ByteSize, ConfigError, Listen, ListenPath, Loaded};
use mintmark_runtime::telemetry::LogConfig;
use serde::{Deserialize, Serialize};

/// The configuration. Everything has a default except the trust domain.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The trust domain that this server issues for.
    pub trust_domain: Option<TrustDomain>,
    /// Where the store, the ledger and the keys live.
    pub data_dir: PathBuf,
    /// `iss` of JWT-SVIDs and the base of the OIDC documents; `https://oidc-discovery.<trust domain>` when empty.
    pub jwt_issuer: String,
    /// Where it listens.
    pub listen: ListenSection,
    /// The certificate of the `https` listener.
    pub https: HttpsSection,
    /// Which engine keeps the state.
    pub store: StoreSection,
    /// Where private keys live.
    pub keys: KeysSection,
    /// Lifetimes.
    pub ttl: TtlSection,
    /// The issuance log.
    pub ledger: LedgerSection,
    /// What callers may use up.
    pub limits: LimitsSection,
    /// How nodes prove what they are.
    pub attest: AttestSection,
    /// The clusters whose nodes and pods get identities.
    pub kubernetes: KubernetesSection,
    /// The log.
    pub log: LogConfig,
}

/// `[listen]`: an empty string switches a listener off.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct ListenSection {
    /// SPIRE's server API and the attestor link.
    pub api: Listen,
    /// The admin socket.
    pub admin: ListenPath,
    /// The group whose members may use the admin socket, by name or number; only root and the server's own user when empty.
    pub admin_group: String,
    /// Bundle and OIDC documents.
    pub https: Listen,
    /// The bundle over `https_spiffe`; comes later.
    pub federation: Listen,
    /// Admission webhooks; comes later.
    pub webhook: Listen,
    /// The console; comes later.
    pub console: Listen,
    /// `/metrics`.
    pub metrics: Listen,
    /// `/live` and `/ready`.
    pub health: Listen,
    /// DNS names of the server's own certificate, beside the machine's name and `localhost`.
    pub dns_names: Vec<String>,
}

/// `[https]`: both or none.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct HttpsSection {
    /// PEM file with the chain.
    pub certificate: PathBuf,
    /// PEM file with the private key.
    pub key: PathBuf,
}

/// `[store]`.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct StoreSection {
    /// Which engine.
    pub engine: Engine,
}

/// Which engine keeps the state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Engine {
    /// Embedded: one server.
    #[default]
    Sled,
    /// Several servers; comes later.
    Etcd,
}

/// `[keys]`.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct KeysSection {
    /// Where private keys live.
    pub manager: Manager,
    /// The file with the key-encryption key, 32 bytes; made at `<data_dir>/keys/kek` when empty.
    pub kek: PathBuf,
    /// Also make an RSA key, for the JWT-SVIDs of [`KeysSection::rs256_audiences`].
    pub jwt_rs256: bool,
    /// The audiences whose JWT-SVIDs are signed with RS256, as some take nothing else; `*` for all.
    pub rs256_audiences: Vec<String>,
    /// A PEM file with the RSA key to use for RS256 instead of one of our own.
    pub rs256_import: PathBuf,
}

/// Where private keys live.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Manager {
    /// In the store, sealed under the key-encryption key.
    #[default]
    Disk,
    /// In the store, sealed under a key that this process forgets.
    Memory,
    /// In a device; comes later.
    Pkcs11,
}

/// `[ttl]`.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct TtlSection {
    /// X.509-SVIDs.
    pub x509: Ttl,
    /// JWT-SVIDs.
    pub jwt: Ttl,
    /// X.509 authorities and signing keys.
    pub ca: Ttl,
    /// Nodes' own X.509-SVIDs; as `x509` when not set.
    pub agent: Option<Ttl>,
    /// WIT-SVIDs; as `x509` when not set.
    pub wit: Option<Ttl>,
}

/// `[ledger]`: whichever comes first.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct LedgerSection {
    /// How long leaves are kept.
    pub retention: Ttl,
    /// How many bytes of leaves are kept.
    pub max_size: ByteSize,
}

/// `[limits]`.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimitsSection {
    /// False switches every rate limit off, for measurements.
    pub rate_limit: bool,
    /// Attestations a second from one address.
    pub attest: u32,
    /// Credentials signed a second for one caller.
    pub signing: u32,
    /// Keys published a second by one caller.
    pub push_key: u32,
    /// Status reports a second from one caller.
    pub post_status: u32,
    /// Open connections to the API.
    pub connections: usize,
    /// Calls at a time on one connection.
    pub streams: u32,
    /// The largest message that is taken.
    pub message_size: ByteSize,
}

/// `[attest]`.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct AttestSection {
    /// PEM file with the authorities of the nodes' certificates; without it no node joins by `x509pop`.
    pub x509pop_authorities: PathBuf,
}

/// `[kubernetes]`.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct KubernetesSection {
    /// The identity of pods that no rule matches; none when empty.
    pub default_identity: String,
    /// Namespaces whose pods get none.
    pub ignore_namespaces: Vec<String>,
    /// Of SPIRE's kinds, only objects with this `className`; all when empty.
    pub class_name: String,
    /// Write what became of each rule into its status: false beside a SPIRE that does.
    pub status: bool,
    /// Namespaces of every cluster that get the trust bundle as ConfigMap; where the server is a pod, its own does without being named.
    pub bundle_namespaces: Vec<String>,
    /// Whether every cluster that has ClusterTrustBundles gets the trust bundle as one.
    pub cluster_trust_bundle: bool,
    /// Clusters by name.
    pub clusters: BTreeMap<String, ClusterSection>,
}

/// `[kubernetes.clusters.NAME]`. The name is part of the cluster's nodes' SPIFFE IDs.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClusterSection {
    /// The kubeconfig; in-cluster when empty.
    pub kubeconfig: PathBuf,
    /// `namespace:name` of the service accounts that attestors and SPIRE's agents may run as.
    pub service_accounts: Vec<String>,
    /// The audiences of their tokens: one of them suffices.
    pub audiences: Vec<String>,
    /// The domain of the cluster's services' names.
    pub domain: String,
    /// The nodes' labels that become selectors of the node.
    pub node_labels: Vec<String>,
    /// The attestors' pods' labels that become selectors of the node.
    pub pod_labels: Vec<String>,
    /// Further namespaces of this cluster that get the trust bundle as ConfigMap.
    pub bundle_namespaces: Vec<String>,
}

impl ClusterSection {
    /// Namespace and name of the service accounts; those that are not in form are left out, and [`Config::check`] refuses them.
    pub fn accounts(&self) -> impl Iterator<Item = (String, String)> {
        let parts = self
            .service_accounts
            .iter()
            .filter_map(|account| account.split_once(':'));
        parts.map(|(namespace, name)| (namespace.to_owned(), name.to_owned()))
    }
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

    /// What speaks against this configuration: errors, with which it cannot be used, as an error; else warnings.
    ///
    /// # Errors
    /// When it cannot be used.
    pub fn check(&self) -> Result<Vec<String>, InvalidConfig> {
        let findings = lint::check(self);
        match findings.errors.is_empty() {
            true => Ok(findings.warnings),
            false => Err(InvalidConfig::Values(findings.errors)),
        }
    }

    /// The configuration of a server for `trust_domain` in `data_dir` that listens nowhere.
    pub fn quiet(trust_domain: TrustDomain, data_dir: PathBuf) -> Self {
        let off = Listen::off();
        Self {
            trust_domain: Some(trust_domain),
            data_dir,
            listen: ListenSection {
                api: off,
                admin: ListenPath::off(),
                https: off,
                webhook: off,
                console: off,
                metrics: off,
                health: off,
                ..ListenSection::default()
            },
            ..Self::default()
        }
    }

    /// The whole configuration as TOML, defaults filled in. It holds no secret, only the paths of files that do.
    pub fn effective(&self) -> String {
        let mut filled = self.clone();
        filled.ttl.agent = Some(self.agent_ttl());
        filled.ttl.wit = Some(self.wit_ttl());
        filled.jwt_issuer = self.issuer().unwrap_or_default();
        filled.keys.kek = self.kek_path();
        toml::to_string(&filled).unwrap_or_else(|error| format!("# {error}\n"))
    }

    /// Lifetime of nodes' own SVIDs.
    pub fn agent_ttl(&self) -> Ttl {
        self.ttl.agent.unwrap_or(self.ttl.x509)
    }

    /// Lifetime of WIT-SVIDs.
    pub fn wit_ttl(&self) -> Ttl {
        self.ttl.wit.unwrap_or(self.ttl.x509)
    }

    /// The issuer of JWT-SVIDs: the configured one, or the one made from the trust domain.
    pub fn issuer(&self) -> Option<String> {
        match (&*self.jwt_issuer, &self.trust_domain) {
            ("", Some(trust_domain)) => Some(format!("https://oidc-discovery.{trust_domain}")),
            ("", None) => None,
            (issuer, _) => Some(issuer.trim_end_matches('/').to_owned()),
        }
    }

    /// Where the key-encryption key is.
    pub fn kek_path(&self) -> PathBuf {
        match self.keys.kek.as_os_str().is_empty() {
            true => self.data_dir.join("keys").join("kek"),
            false => self.keys.kek.clone(),
        }
    }

    /// Where the store is.
    pub fn store_dir(&self) -> PathBuf {
        self.data_dir.join("store")
    }

    /// Where the issuance log is.
    pub fn ledger_dir(&self) -> PathBuf {
        self.data_dir.join("ledger")
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            trust_domain: None,
            data_dir: "/var/lib/mintmark/server".into(),
            jwt_issuer: String::new(),
            listen: ListenSection::default(),
            https: HttpsSection::default(),
            store: StoreSection::default(),
            keys: KeysSection::default(),
            ttl: TtlSection::default(),
            ledger: LedgerSection::default(),
            limits: LimitsSection::default(),
            attest: AttestSection::default(),
            kubernetes: KubernetesSection::default(),
            log: LogConfig::default(),
        }
    }
}

impl Default for ListenSection {
    fn default() -> Self {
        let any = |port| Listen::new(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)));
        let loopback = |port| Listen::new(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        Self {
            api: any(8081),
            admin: ListenPath::new("/run/mintmark/server/api.sock"),
            admin_group: String::new(),
            https: any(8443),
            federation: Listen::off(),
            webhook: any(9443),
            console: loopback(8080),
            metrics: loopback(9090),
            health: any(8082),
            dns_names: Vec::new(),
        }
    }
}

impl Default for KeysSection {
    fn default() -> Self {
        Self {
            manager: Manager::default(),
            kek: PathBuf::new(),
            jwt_rs256: false,
            // Microsoft Entra documents RS256 alone.
            rs256_audiences: vec!["api://AzureADTokenExchange".into()],
            rs256_import: PathBuf::new(),
        }
    }
}

impl Default for TtlSection {
    fn default() -> Self {
        Self {
            x509: Ttl::constant(3600),
            jwt: Ttl::constant(300),
            ca: Ttl::constant(24 * 3600),
            agent: None,
            wit: None,
        }
    }
}

impl Default for LedgerSection {
    fn default() -> Self {
        Self {
            retention: Ttl::constant(30 * 24 * 3600),
            max_size: ByteSize(50 << 30),
        }
    }
}

impl Default for LimitsSection {
    fn default() -> Self {
        Self {
            rate_limit: true,
            attest: 1,
            signing: 500,
            push_key: 500,
            post_status: 10,
            connections: 20_000,
            streams: 1_000,
            message_size: ByteSize(4 << 20),
        }
    }
}

impl Default for ClusterSection {
    fn default() -> Self {
        Self {
            kubeconfig: PathBuf::new(),
            service_accounts: Vec::new(),
            audiences: ["spire-server", "mintmark-node"].map(Into::into).into(),
            domain: "cluster.local".into(),
            node_labels: Vec::new(),
            pod_labels: Vec::new(),
            bundle_namespaces: Vec::new(),
        }
    }
}

impl Default for KubernetesSection {
    fn default() -> Self {
        let identity = "spiffe://{{ .TrustDomain }}/ns/{{ .PodMeta.Namespace }}/sa/{{ .PodSpec.ServiceAccountName }}";
        Self {
            default_identity: identity.into(),
            ignore_namespaces: ["kube-system", "kube-public", "mintmark"].map(Into::into).into(),
            class_name: String::new(),
            status: true,
            bundle_namespaces: Vec::new(),
            cluster_trust_bundle: false,
            clusters: BTreeMap::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use mintmark_runtime::config::Schema;

    use super::*;

    fn load(text: &str, env: &[(&str, &str)]) -> Result<Loaded<Config>, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("server.toml");
        mintmark_runtime::fs::write_new(&path, text.as_bytes(), 0o600).unwrap();
        let env = env
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Config::load(Some(&path), env).map_err(|error| error.to_string())
    }

    /// The configuration of INTERFACES.md, with another value for each key.
    const EVERY_KEY: &str = r#"
        trust_domain = "example.org"
        data_dir = "/d"
        jwt_issuer = "https://issuer.example.org"
        [listen]
        api = "0.0.0.0:1"
        admin = "/run/a.sock"
        https = "0.0.0.0:2"
        federation = "0.0.0.0:3"
        webhook = "0.0.0.0:4"
        console = "127.0.0.1:5"
        metrics = "127.0.0.1:6"
        health = "0.0.0.0:7"
        [https]
        certificate = "/c.pem"
        key = "/k.pem"
        [store]
        engine = "sled"
        [keys]
        manager = "memory"
        [ttl]
        x509 = "2h"
        jwt = "6m"
        ca = "48h"
        [ledger]
        retention = "31d"
        max_size = "51GiB"
        [limits]
        rate_limit = false
        [kubernetes]
        default_identity = ""
        ignore_namespaces = ["a"]
        class_name = "mintmark"
        status = false
        bundle_namespaces = ["b"]
        cluster_trust_bundle = true
        [kubernetes.clusters.one]
        kubeconfig = "/kubeconfig"
        service_accounts = ["mintmark:mintmark-attestor"]
        bundle_namespaces = ["c", "d"]
    "#;

    #[test]
    fn every_documented_key_is_accepted_and_means_what_it_says() {
        let value = load(EVERY_KEY, &[]).unwrap().value;
        let warnings = value.check().unwrap();
        assert_eq!(value.trust_domain.as_ref().unwrap().as_str(), "example.org");
        assert_eq!(value.data_dir, Path::new("/d"));
        assert_eq!(value.issuer().unwrap(), "https://issuer.example.org");
        assert_eq!(value.listen.api.to_string(), "0.0.0.0:1");
        assert_eq!(value.listen.admin.path(), Some(Path::new("/run/a.sock")));
        assert_eq!(value.listen.federation.to_string(), "0.0.0.0:3");
        assert_eq!(value.keys.manager, Manager::Memory);
        assert_eq!(value.ttl.ca.as_secs(), 48 * 3600);
        assert_eq!(value.ledger.max_size, ByteSize(51 << 30));
        assert!(!value.limits.rate_limit);
        let (kubernetes, one) = (&value.kubernetes, &value.kubernetes.clusters["one"]);
        assert_eq!(one.kubeconfig, Path::new("/kubeconfig"));
        assert!(kubernetes.cluster_trust_bundle);
        assert_eq!(
            (&*kubernetes.bundle_namespaces, &*one.bundle_namespaces),
            (&["b".into()][..], &["c".into(), "d".into()][..])
        );
        assert!(
            warnings.iter().any(|warning| warning.contains("memory")),
            "{warnings:?}"
        );
    }

    #[test]
    fn a_trust_domain_is_all_that_is_needed() {
        let value = load("trust_domain = \"example.org\"", &[]).unwrap().value;
        assert_eq!(value.issuer().unwrap(), "https://oidc-discovery.example.org");
        assert_eq!(value.kek_path(), Path::new("/var/lib/mintmark/server/keys/kek"));
        assert_eq!(value.agent_ttl(), value.ttl.x509);
        let error = load("", &[]).unwrap_err();
        assert!(error.contains("trust_domain"), "{error}");
    }

    #[test]
    fn what_kubernetes_injects_does_no_harm_and_a_slip_is_named() {
        let env = [
            ("MINTMARK_SERVER_SERVICE_HOST", "10.0.0.1"),
            ("MINTMARK_SERVER_PORT", "tcp://10.0.0.1:8081"),
            ("MINTMARK_CONFIG_TTL__X509", "30m"),
        ];
        let loaded = load("trust_domain = \"example.org\"", &env).unwrap();
        assert_eq!((loaded.value.ttl.x509.as_secs(), loaded.warnings.len()), (1800, 0));
        let error = load("trust_domian = \"example.org\"", &[]).unwrap_err();
        assert!(error.contains("did you mean \"trust_domain\"?"), "{error}");
        let error = load("trust_domain = \"Not A Domain\"", &[]).unwrap_err();
        assert!(error.contains("trust_domain"), "{error}");
    }

    #[test]
    fn the_effective_configuration_is_itself_a_configuration() {
        let value = load(EVERY_KEY, &[]).unwrap().value;
        let again = load(&value.effective(), &[]).unwrap().value;
        assert_eq!(again.effective(), value.effective());
    }

    #[test]
    fn the_reference_names_every_key_with_its_default() {
        let reference = include_str!("../../docs/reference/configuration.md");
        let (_, rest) = reference.split_once("## mintmark-server\n").unwrap();
        let (example, _) = rest.split_once("```toml").unwrap().1.split_once("```").unwrap();
        let example = example.replace("<data_dir>", "/var/lib/mintmark/server");
        let documented = load(&example, &[]).unwrap().value;
        let default = load("trust_domain = \"example.org\"", &[]).unwrap().value;
        assert_eq!(documented.effective(), default.effective());
        for key in Schema::of::<Config>().keys() {
            let name = key.rsplit('.').next().unwrap_or(&key);
            let is_shown = example.contains(&format!("\n{name} = ")) || example.contains(&format!("\n[{key}]"));
            let is_told = reference.contains(&format!("`{key}`")) || reference.contains(&format!("`{name}`"));
            assert!(is_shown || is_told, "{key} is not in docs/reference/configuration.md");
        }
    }

    #[test]
    fn the_reference_names_every_key_of_a_cluster_with_its_default() {
        let reference = include_str!("../../docs/reference/configuration.md");
        let (_, rest) = reference.split_once("### Kubernetes clusters\n").unwrap();
        let (example, _) = rest.split_once("```toml").unwrap().1.split_once("```").unwrap();
        let value = load(&format!("trust_domain = \"example.org\"\n{example}"), &[])
            .unwrap()
            .value;
        let documented = &value.kubernetes.clusters["prod"];
        let default = ClusterSection {
            service_accounts: vec!["mintmark:mintmark-attestor".into()],
            ..ClusterSection::default()
        };
        assert_eq!(toml::to_string(documented).unwrap(), toml::to_string(&default).unwrap());
        for key in Schema::of::<ClusterSection>().keys() {
            assert!(
                example.contains(&format!("\n{key} = ")),
                "{key} is not in docs/reference/configuration.md"
            );
        }
    }
}
