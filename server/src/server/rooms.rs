//! The rooms behind the listeners: opened in order, closed the other way round.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use mintmark_identity::TrustDomain;
use mintmark_runtime::clock::Clock;
use mintmark_runtime::crypto::{Kek, KekAccess};
use mintmark_runtime::fs::{ensure_dir, read_limited};
use mintmark_runtime::health::Health;
use mintmark_runtime::metrics::Metrics;
use mintmark_runtime::task::{BlockingPool, Supervisor};
use mintmark_runtime::tls::Credential;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

use super::{Options, StartError, backup, parent};
use crate::api::Rooms;
use crate::attest::{Nodes, k8s_psat, x509pop};
use crate::authority::{Authorities, AuthorityConfig, KeyManager, Rs256};
use crate::config::{Config, Manager};
use crate::issuance::{IssuanceConfig, Issuer};
use crate::ledger::{self, Ledger};
use crate::registry::rules::Settings;
use crate::registry::{FactsReader, PodIdentities, Registry};
use crate::roll::{ClusterSettings, Publishing, Roll};
use crate::store::Store;
use crate::verdict::Verdicts;

/// The number of a server's first log.
const FIRST_LOG: u16 = 1;
/// More of a file with authorities is not read.
const MAX_PEM: u64 = 1 << 20;

#[expect(clippy::too_many_arguments, reason = "the assembly is where everything meets")]
pub(super) async fn open(
    config: &Config,
    issuer: &str,
    trust_domain: TrustDomain,
    clock: &Clock,
    options: &Options,
    metrics: &Metrics,
    health: &Health,
    doors: &Supervisor,
    house: &Supervisor,
) -> Result<Rooms, StartError> {
    let (started, started_at) = (clock.instant(), clock.unix());
    let x509pop = x509pop_authorities(&config.attest.x509pop_authorities)?;
    let keys = key_manager(config)?;
    let reads = BlockingPool::new("reads", 2, 64);
    let (store, ledger) = open_files(config, &trust_domain, clock, metrics, &reads).await?;
    let opened = async {
        backup::note_log(&store, ledger.number()).await?;
        let authorities = Authorities::start(
            store.clone(),
            ledger.clone(),
            keys,
            clock.clone(),
            authority_config(config),
            trust_domain.clone(),
        )
        .await?;
        // Both follow the store, and end with it.
        let (registry, follow) = Registry::new(store.clone(), clock.clone(), trust_domain.clone());
        house.spawn_critical("registry", follow.run());
        let (nodes, follow) = Nodes::new(store.clone(), clock.clone());
        house.spawn_critical("nodes", follow.run());
        registry.ready().await?;
        nodes.ready().await?;
        let reader = Arc::new(FactsReader::default());
        let roll = Roll::start(clusters(config), Some(reader.clone()), clock, metrics, house).await?;
        let pods = PodIdentities::new(
            registry.clone(),
            roll.clone(),
            reader,
            clock.clone(),
            rules(config, &trust_domain),
            config.kubernetes.status,
        );
        let stop = house.token();
        let follow = pods.clone().run();
        house.spawn_critical("pod-identities", async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = follow => {}
            }
        });
        Ok::<_, StartError>((authorities, registry, nodes, roll, pods))
    };
    let (authorities, registry, nodes, roll, pods) = match opened.await {
        Ok(opened) => opened,
        Err(error) => {
            close_files(&store, &ledger).await;
            return Err(error);
        }
    };
    house.spawn_critical("authorities", authorities.clone().run(house.token()));
    let issuer = Issuer::new(
        ledger.clone(),
        authorities.clone(),
        Verdicts::without_policies(),
        clock.clone(),
        IssuanceConfig {
            trust_domain: trust_domain.clone(),
            x509_ttl: config.ttl.x509,
            jwt_ttl: config.ttl.jwt,
            wit_ttl: config.wit_ttl(),
            jwt_issuer: Some(issuer.to_owned()).filter(|issuer| !issuer.is_empty()),
        },
        metrics,
    );
    Ok(Rooms {
        trust_domain,
        clock: clock.clone(),
        started,
        started_at,
        store,
        store_engine: "sled",
        ledger,
        registry,
        nodes,
        psat: Arc::new(k8s_psat::Clusters::new(roll.clone(), allowed(config))),
        roll,
        pods,
        authorities,
        issuer,
        x509pop,
        agent_ttl: config.agent_ttl(),
        rs256_audiences: rs256_audiences(config),
        credential: Credential::empty(),
        health: health.clone(),
        log: options.log.clone(),
        reads,
        connected: metrics.gauge("nodes_connected", "Nodes that have a link"),
        stop: doors.token(),
    })
}

/// Both check their files, which takes a moment: not on a thread that others wait for.
async fn open_files(
    config: &Config,
    trust_domain: &TrustDomain,
    clock: &Clock,
    metrics: &Metrics,
    pool: &BlockingPool,
) -> Result<(Store, Ledger), StartError> {
    let (store_dir, ledger_dir) = (config.store_dir(), config.ledger_dir());
    let mut settings = ledger::Settings::new(clock.clone());
    settings.retention = config.ledger.retention.as_duration();
    settings.max_size = config.ledger.max_size.0;
    settings.metrics = ledger::Metrics::register(metrics);
    let (metrics, name) = (metrics.clone(), trust_domain.to_string());
    let opened = pool.run(move || {
        ensure_dir(&store_dir, 0o700)?;
        ensure_dir(&ledger_dir, 0o700)?;
        let store = Store::open_sled(&store_dir, &metrics)?;
        let ledger = Ledger::open_or_create(&ledger_dir, &name, FIRST_LOG, settings);
        Ok::<_, StartError>((store, ledger))
    });
    match opened.await?? {
        (store, Ok(ledger)) => Ok((store, ledger)),
        (store, Err(error)) => {
            store.close().await;
            Err(error.into())
        }
    }
}

/// The ledger's last checkpoint is written, then the store is closed.
pub(super) async fn close(rooms: &Rooms) {
    close_files(&rooms.store, &rooms.ledger).await;
}

async fn close_files(store: &Store, ledger: &Ledger) {
    if let Err(error) = ledger.shutdown().await {
        tracing::error!(%error, "the issuance log was not closed well; it opens as after a crash");
    }
    store.close().await;
}

fn key_manager(config: &Config) -> Result<KeyManager, StartError> {
    match config.keys.manager {
        Manager::Memory => Ok(KeyManager::memory()),
        // A configuration that asks for a device was refused.
        Manager::Disk | Manager::Pkcs11 => {
            let path = config.kek_path();
            let is_ours = config.keys.kek.as_os_str().is_empty();
            if let Some(dir) = parent(&path).filter(|_| is_ours) {
                ensure_dir(&dir, 0o700)?;
            }
            // A file that was mounted for us belongs to the volume's group.
            let access = if is_ours {
                KekAccess::Owner
            } else {
                KekAccess::OwnerAndGroup
            };
            Ok(KeyManager::disk(Kek::load_or_create_with(&path, access)?))
        }
    }
}

fn authority_config(config: &Config) -> AuthorityConfig {
    let import = &config.keys.rs256_import;
    AuthorityConfig {
        ttl: config.ttl.ca,
        jwt_rs256: match (config.keys.jwt_rs256, import.as_os_str().is_empty()) {
            (false, _) => Rs256::Off,
            (true, true) => Rs256::Made,
            (true, false) => Rs256::Imported(import.clone()),
        },
        ..AuthorityConfig::default()
    }
}

/// None without a key for them.
fn rs256_audiences(config: &Config) -> Arc<[String]> {
    match config.keys.jwt_rs256 {
        true => config.keys.rs256_audiences.as_slice().into(),
        false => Arc::default(),
    }
}

fn clusters(config: &Config) -> Vec<ClusterSettings> {
    let (everywhere, trust_domain) = (&config.kubernetes.bundle_namespaces, config.trust_domain.as_ref());
    let clusters = config
        .kubernetes
        .clusters
        .iter()
        .map(|(name, cluster)| ClusterSettings {
            name: name.clone(),
            kubeconfig: Some(cluster.kubeconfig.clone()).filter(|path| !path.as_os_str().is_empty()),
            domain: cluster.domain.clone(),
            publish: Publishing {
                namespaces: everywhere.iter().chain(&cluster.bundle_namespaces).cloned().collect(),
                trust_bundle: trust_domain.filter(|_| config.kubernetes.cluster_trust_bundle).cloned(),
            },
        });
    clusters.collect()
}

/// What the rules of each cluster stand on.
fn rules(config: &Config, trust_domain: &TrustDomain) -> BTreeMap<Arc<str>, Settings> {
    let section = &config.kubernetes;
    let clusters = section.clusters.iter().map(|(name, cluster)| {
        let settings = Settings::new(trust_domain, name, &cluster.domain)
            .default_identity(&section.default_identity)
            .ignore_namespaces(&section.ignore_namespaces)
            .class_name(&section.class_name);
        (name.as_str().into(), settings)
    });
    clusters.collect()
}

fn allowed(config: &Config) -> BTreeMap<String, k8s_psat::Allowed> {
    let clusters = config.kubernetes.clusters.iter().map(|(name, cluster)| {
        let allowed = k8s_psat::Allowed {
            service_accounts: cluster.accounts().collect(),
            audiences: cluster.audiences.clone(),
            node_labels: cluster.node_labels.iter().cloned().collect(),
            pod_labels: cluster.pod_labels.iter().cloned().collect(),
        };
        (name.clone(), allowed)
    });
    clusters.collect()
}

fn x509pop_authorities(path: &Path) -> Result<Option<Arc<x509pop::Authorities>>, StartError> {
    if path.as_os_str().is_empty() {
        return Ok(None);
    }
    let refused = |why: String| StartError::X509pop(format!("{}: {why}", path.display()));
    let pem = read_limited(path, MAX_PEM)?;
    let certificates = CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>();
    let certificates = certificates.map_err(|error| refused(error.to_string()))?;
    if certificates.is_empty() {
        return Err(refused("it holds no certificate in PEM form".into()));
    }
    let authorities = x509pop::Authorities::new(certificates).map_err(|error| refused(error.to_string()))?;
    Ok(Some(Arc::new(authorities)))
}
