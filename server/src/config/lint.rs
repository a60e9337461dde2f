//! What speaks against a configuration.

use mintmark_identity::{SpiffeId, Ttl};

use super::{ClusterSection, Config, Engine, Manager};

/// An SVID shorter than this is renewed more often than a fleet can bear.
const SHORT: u64 = 60;
/// Beyond this, cloud providers and SPIFFE libraries begin to refuse JWT-SVIDs.
const LONG_JWT: u64 = 24 * 3600;
/// Longer X.509-SVIDs than this are no longer short-lived.
const LONG_X509: u64 = 30 * 24 * 3600;
/// AWS takes no longer `iss` (botocore's `iam` model, CreateOpenIDConnectProvider).
const LONG_ISSUER: usize = 255;

/// What was found.
#[derive(Default)]
pub(super) struct Findings {
    /// With these it cannot be used.
    pub(super) errors: Vec<String>,
    /// With these it can, but should it?
    pub(super) warnings: Vec<String>,
}

pub(super) fn check(config: &Config) -> Findings {
    let mut found = Findings::default();
    values(config, &mut found.errors);
    later(config, &mut found.errors);
    limits(config, &mut found.errors);
    issuer(config, &mut found);
    for namespace in &config.kubernetes.bundle_namespaces {
        if !is_name(namespace) {
            let text = format!("key \"kubernetes.bundle_namespaces\": {namespace:?} is no name of a namespace");
            found.errors.push(text);
        }
    }
    for (name, cluster) in &config.kubernetes.clusters {
        self::cluster(config, name, cluster, &mut found);
    }
    lifetimes(config, &mut found);
    if config.keys.manager == Manager::Memory {
        let text = "keys.manager = \"memory\": the authorities are lost when this server stops, and everything they signed with them";
        found.warnings.push(text.into());
    }
    if !config.limits.rate_limit {
        found
            .warnings
            .push("limits.rate_limit = false: no caller is held back; this is for measurements".into());
    }
    found
}

fn values(config: &Config, errors: &mut Vec<String>) {
    if config.trust_domain.is_none() {
        errors.push("key \"trust_domain\" is missing: name the trust domain that this server issues for, such as \"example.org\"".into());
    }
    let is_empty = |path: &std::path::Path| path.as_os_str().is_empty();
    if is_empty(&config.data_dir) {
        errors.push("key \"data_dir\" is empty: it needs a directory".into());
    }
    if is_empty(&config.https.certificate) != is_empty(&config.https.key) {
        errors.push("keys \"https.certificate\" and \"https.key\" belong together: set both, or neither for a certificate of our own authority".into());
    }
    if !is_empty(&config.keys.rs256_import) && !config.keys.jwt_rs256 {
        errors.push(
            "key \"keys.rs256_import\" names an RSA key that would not be used: set keys.jwt_rs256 = true".into(),
        );
    }
}

/// Values of keys that are accepted, whose feature is not there, and without which the server would do something else than asked.
fn later(config: &Config, errors: &mut Vec<String>) {
    if config.store.engine == Engine::Etcd {
        errors.push("store.engine = \"etcd\" is not there yet: use \"sled\"".into());
    }
    if config.keys.manager == Manager::Pkcs11 {
        errors.push("keys.manager = \"pkcs11\" is not there yet: use \"disk\"".into());
    }
}

fn limits(config: &Config, errors: &mut Vec<String>) {
    let limits = &config.limits;
    let rates = [
        ("attest", u64::from(limits.attest)),
        ("signing", limits.signing.into()),
        ("push_key", limits.push_key.into()),
        ("post_status", limits.post_status.into()),
        ("connections", limits.connections.try_into().unwrap_or(u64::MAX)),
        ("streams", limits.streams.into()),
    ];
    for (key, _) in rates.iter().filter(|(_, value)| *value == 0) {
        errors.push(format!(
            "key \"limits.{key}\" is 0, which would let nobody in: it must be at least 1"
        ));
    }
    if !(64 << 10..=256 << 20).contains(&limits.message_size.0) {
        let text = format!(
            "key \"limits.message_size\" is {}: it must be between 64KiB and 256MiB",
            limits.message_size
        );
        errors.push(text);
    }
}

fn cluster(config: &Config, name: &str, cluster: &ClusterSection, found: &mut Findings) {
    let key = format!("kubernetes.clusters.{name}");
    let mut refuse = |why: String| found.errors.push(format!("key \"{key}\": {why}"));
    let in_id = config
        .trust_domain
        .as_ref()
        .map(|td| SpiffeId::new(td, &format!("/{name}")));
    if name.contains('/') || matches!(in_id, Some(Err(_))) {
        refuse("the name becomes part of SPIFFE IDs, and may have letters, digits, `.`, `-` and `_`".into());
    }
    if cluster.service_accounts.is_empty() {
        refuse("`service_accounts` is empty, so that no node may join: name the one that attestors run as, such as \"mintmark:mintmark-attestor\"".into());
    }
    for namespace in &cluster.bundle_namespaces {
        if !is_name(namespace) {
            refuse(format!(
                "{namespace:?} in `bundle_namespaces` is no name of a namespace"
            ));
        }
    }
    for account in &cluster.service_accounts {
        if !account
            .split_once(':')
            .is_some_and(|(namespace, name)| is_name(namespace) && is_name(name))
        {
            refuse(format!("service account {account:?} is not namespace:name"));
        }
    }
    if cluster.audiences.iter().all(String::is_empty) {
        refuse("`audiences` is empty: a token without one would be good everywhere".into());
    }
    for door in ["mintmark", "mintmark-admin"] {
        if cluster.audiences.iter().any(|audience| audience == door) {
            refuse(format!(
                "audience {door:?} is that of other tokens, none of which makes a node"
            ));
        }
    }
    if !cluster.domain.is_empty() && !is_name(&cluster.domain) {
        refuse(format!(
            "domain {:?} is no DNS name, such as \"cluster.local\"",
            cluster.domain
        ));
    }
}

/// Of something in Kubernetes.
fn is_name(text: &str) -> bool {
    let legal = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.');
    !text.is_empty() && text.bytes().all(legal)
}

fn issuer(config: &Config, found: &mut Findings) {
    let Some(issuer) = config.issuer() else { return };
    let Some(rest) = issuer.strip_prefix("https://") else {
        found
            .errors
            .push(format!("key \"jwt_issuer\": {issuer:?} does not begin with https://"));
        return;
    };
    let host = rest.split('/').next().unwrap_or_default();
    let legal = |c: char| c.is_ascii_graphic() && !"\"<>\\^`{|}?#@".contains(c);
    if host.is_empty() || !rest.chars().all(legal) {
        found.errors.push(format!(
            "key \"jwt_issuer\": {issuer:?} is not an https URL without user, query and fragment"
        ));
    } else if host.contains(':') && !config.jwt_issuer.is_empty() {
        found.warnings.push(format!(
            "jwt_issuer = {issuer:?} has a port: AWS takes no issuer with one"
        ));
    }
    if issuer.len() > LONG_ISSUER {
        found.warnings.push(format!(
            "jwt_issuer has {} bytes: AWS takes at most {LONG_ISSUER}",
            issuer.len()
        ));
    }
}

fn lifetimes(config: &Config, found: &mut Findings) {
    let ca = config.ttl.ca;
    let ttls = [
        ("x509", config.ttl.x509),
        ("agent", config.agent_ttl()),
        ("wit", config.wit_ttl()),
        ("jwt", config.ttl.jwt),
    ];
    for (key, ttl) in ttls {
        if ttl > ca {
            found.errors.push(format!(
                "ttl.{key} = \"{ttl}\" is longer than ttl.ca = \"{ca}\": no credential outlives what signs it"
            ));
        } else if ttl.as_secs() > ca.as_secs() / 6 {
            // An authority is active from 1/2 before its end at the earliest, until 1/6 before it.
            found.warnings.push(format!(
                "ttl.{key} = \"{ttl}\" is more than a sixth of ttl.ca = \"{ca}\": shortly before an authority is replaced its SVIDs are cut short; \
                 make ttl.ca at least \"{}\"",
                at_least(ttl)
            ));
        }
    }
    for (key, ttl) in &ttls[..3] {
        if ttl.as_secs() < SHORT {
            found.warnings.push(format!(
                "ttl.{key} = \"{ttl}\" is very short: every holder renews twice in that time"
            ));
        } else if ttl.as_secs() > LONG_X509 {
            found.warnings.push(format!(
                "ttl.{key} = \"{ttl}\" is long: nothing but its end takes such an SVID back"
            ));
        }
    }
    if config.ttl.jwt.as_secs() < 10 {
        found.warnings.push(format!(
            "ttl.jwt = \"{}\" is very short: a clock that is a little behind refuses such tokens",
            config.ttl.jwt
        ));
    } else if config.ttl.jwt.as_secs() > LONG_JWT {
        found.warnings.push(format!(
            "ttl.jwt = \"{}\" is long: whoever copies such a token can use it that long",
            config.ttl.jwt
        ));
    }
    if config.ledger.retention < ca {
        found.warnings.push(format!(
            "ledger.retention = \"{}\" is shorter than ttl.ca = \"{ca}\": credentials may outlive their record",
            config.ledger.retention
        ));
    }
    if config.ledger.max_size.0 < 64 << 20 {
        found.errors.push(format!(
            "ledger.max_size = \"{}\" is too small: it must be at least 64MiB",
            config.ledger.max_size
        ));
    }
}

fn at_least(ttl: Ttl) -> Ttl {
    Ttl::from_secs(ttl.as_secs().saturating_mul(6)).unwrap_or(ttl)
}

#[cfg(test)]
mod tests {
    use super::*;
    use mintmark_identity::TrustDomain;

    impl Findings {
        fn is_clean(&self) {
            assert_eq!((&self.errors, &self.warnings), (&vec![], &vec![]));
        }
    }

    fn with(change: impl FnOnce(&mut Config)) -> Findings {
        let mut config = Config {
            trust_domain: Some(TrustDomain::parse("example.org").unwrap()),
            ..Config::default()
        };
        change(&mut config);
        check(&config)
    }

    #[test]
    fn the_defaults_are_beyond_reproach() {
        with(|_| {}).is_clean();
    }

    #[test]
    fn what_cannot_work_is_an_error_that_names_the_key() {
        type Change = fn(&mut Config);
        let add = |c: &mut Config, name: &str, change: fn(&mut ClusterSection)| {
            let mut cluster = ClusterSection {
                service_accounts: vec!["mintmark:mintmark-attestor".into()],
                ..ClusterSection::default()
            };
            change(&mut cluster);
            c.kubernetes.clusters.insert(name.to_owned(), cluster);
        };
        with(|c| add(c, "prod-1.eu", |_| {})).is_clean();
        for (words, name, change) in [
            ("part of SPIFFE IDs", "a b", (|_| {}) as fn(&mut ClusterSection)),
            ("part of SPIFFE IDs", "a/b", |_| {}),
            ("part of SPIFFE IDs", "..", |_| {}),
            ("`service_accounts` is empty", "a", |c| c.service_accounts.clear()),
            ("\"spire\" is not namespace:name", "a", |c| {
                c.service_accounts = vec!["spire".into()]
            }),
            ("\"a:b:c\" is not", "a", |c| c.service_accounts = vec!["a:b:c".into()]),
            ("`audiences` is empty", "a", |c| c.audiences.clear()),
            ("audience \"mintmark\"", "a", |c| c.audiences.push("mintmark".into())),
            ("\"B\" in `bundle_namespaces`", "a", |c| {
                c.bundle_namespaces = vec!["B".into()]
            }),
            ("domain \"Cluster Local\"", "a", |c| c.domain = "Cluster Local".into()),
        ] {
            let found = with(|c| add(c, name, change));
            assert!(
                found.errors.iter().any(|error| error.contains(words)),
                "{words}: {:?}",
                found.errors
            );
        }
        let table: [(&str, Change); 11] = [
            ("kubernetes.bundle_namespaces", |c| {
                c.kubernetes.bundle_namespaces = vec!["a/b".into()]
            }),
            ("ttl.x509", |c| c.ttl.x509 = Ttl::parse("25h").unwrap()),
            ("ttl.jwt", |c| c.ttl.jwt = Ttl::parse("2d").unwrap()),
            ("https.key", |c| c.https.certificate = "/c".into()),
            ("keys.jwt_rs256", |c| c.keys.rs256_import = "/k".into()),
            ("etcd", |c| c.store.engine = Engine::Etcd),
            ("pkcs11", |c| c.keys.manager = Manager::Pkcs11),
            ("jwt_issuer", |c| c.jwt_issuer = "http://a".into()),
            ("jwt_issuer", |c| c.jwt_issuer = "https://a?b".into()),
            ("limits.signing", |c| c.limits.signing = 0),
            ("ledger.max_size", |c| c.ledger.max_size.0 = 1),
        ];
        for (key, change) in table {
            let found = with(change);
            assert!(
                found.errors.iter().any(|error| error.contains(key)),
                "{key}: {:?}",
                found.errors
            );
        }
    }

    #[test]
    fn what_is_unwise_is_a_warning() {
        type Change = fn(&mut Config);
        let table: [(&str, Change); 6] = [
            ("sixth", |c| c.ttl.x509 = Ttl::parse("5h").unwrap()),
            ("ttl.x509 = \"5s\"", |c| c.ttl.x509 = Ttl::parse("5s").unwrap()),
            ("ttl.jwt = \"2s\"", |c| c.ttl.jwt = Ttl::parse("2s").unwrap()),
            ("retention", |c| c.ledger.retention = Ttl::parse("1h").unwrap()),
            ("memory", |c| c.keys.manager = Manager::Memory),
            ("port", |c| c.jwt_issuer = "https://a.example:8443".into()),
        ];
        for (word, change) in table {
            let found = with(change);
            assert!(
                found.warnings.iter().any(|warning| warning.contains(word)),
                "{word}: {:?}",
                found.warnings
            );
        }
    }
}
