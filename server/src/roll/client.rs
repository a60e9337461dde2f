//! The client of one cluster's API server: from a kubeconfig, or from where this process runs.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

use super::{ClusterSettings, RollError};

/// How long connecting may take.
const CONNECT: Duration = Duration::from_secs(10);

pub(super) async fn connect(settings: &ClusterSettings) -> Result<Client, RollError> {
    let opened = open(settings.kubeconfig.as_deref()).await;
    opened.map_err(|(from, why)| RollError::Client {
        cluster: settings.name.clone(),
        from,
        why,
    })
}

/// A client, or from where it was to be made and why it cannot be.
pub(super) async fn open(kubeconfig: Option<&Path>) -> Result<Client, (String, String)> {
    let refused = |why: String| {
        let from = match kubeconfig {
            Some(path) => path.display().to_string(),
            None => "the service account of this server's pod".into(),
        };
        (from, why)
    };
    let mut config = match kubeconfig {
        Some(path) => {
            let kubeconfig = Kubeconfig::read_from(path).map_err(|error| refused(error.to_string()))?;
            let clusters = kubeconfig.clusters.iter().filter_map(|named| named.cluster.as_ref());
            let has_proxy = clusters.into_iter().any(|cluster| cluster.proxy_url.is_some());
            let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await;
            let mut config = config.map_err(|error| refused(error.to_string()))?;
            if !has_proxy {
                // The environment's proxy leads out of the house, where API servers are not.
                config.proxy_url = None;
            }
            config
        }
        None => Config::incluster().map_err(|error| refused(error.to_string()))?,
    };
    if config.accept_invalid_certs || !is_protected(&config.cluster_url) {
        return Err(refused(
            "whoever stands on the way to the API server could say which pods exist: use https, and no `insecure-skip-tls-verify`".into(),
        ));
    }
    config.connect_timeout = Some(CONNECT);
    // The watches wait by themselves between tries, and a review has a deadline.
    config.default_retry = false;
    Client::try_from(config).map_err(|error| refused(error.to_string()))
}

/// Encrypted, or within this machine.
fn is_protected(url: &http::Uri) -> bool {
    let host = url.host().unwrap_or_default().trim_matches(['[', ']']);
    url.scheme() == Some(&http::uri::Scheme::HTTPS)
        || host == "localhost"
        || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}
