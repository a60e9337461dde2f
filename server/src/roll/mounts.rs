//! Which pods mount a CSI driver? Asked once, by the check before uninstalling: without the driver the kubelet can end none of them. No roll is needed for it.

use std::path::Path;
use std::time::Duration;

use kube::Client;
use kube::core::Request;
use kube::core::params::ListParams;
use mintmark_runtime::clock::Clock;

use super::watch::in_full;
use super::{client, wire};

/// So many pods are named.
const NAMED: usize = 20;
/// Pods on a page.
const PAGE: u32 = 500;
/// A page takes no longer.
const DEADLINE: Duration = Duration::from_secs(30);
/// A list that was too old to go on with is begun so often.
const TIMES: u32 = 3;

/// The pods that mount a driver and have not ended.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Mounting {
    /// `namespace/name` of the first 20.
    pub pods: Vec<String>,
    /// How many more there are.
    pub more: usize,
}

/// Why nobody knows.
#[derive(Debug, thiserror::Error)]
pub enum MountingError {
    /// There is nothing to ask with.
    #[error("cannot make a client for the API server from {from}: {why}")]
    Client {
        /// The kubeconfig.
        from: String,
        /// What is wrong.
        why: String,
    },
    /// The API server does not say.
    #[error("cannot list pods, so that nobody knows whether some mount the driver: {why}")]
    List {
        /// What it says instead.
        why: String,
    },
}

/// The pods that mount one of `drivers`, in the cluster of this kubeconfig; without one, in that of this process' pod.
///
/// # Errors
/// When the API server cannot be asked, or refuses.
pub async fn mounting(kubeconfig: Option<&Path>, drivers: &[String], clock: &Clock) -> Result<Mounting, MountingError> {
    let opened = client::open(kubeconfig).await;
    let client = opened.map_err(|(from, why)| MountingError::Client { from, why })?;
    let mut times = 0;
    loop {
        times += 1;
        match list(&client, drivers, clock).await {
            Ok(found) => return Ok(found),
            Err(kube::Error::Api(status)) if status.code == 410 && times < TIMES => {}
            Err(error) => {
                let why = in_full(&error);
                return Err(MountingError::List { why });
            }
        }
    }
}

async fn list(client: &Client, drivers: &[String], clock: &Clock) -> Result<Mounting, kube::Error> {
    let mut found = Mounting::default();
    let mut params = ListParams::default().limit(PAGE);
    loop {
        let request = Request::new("/api/v1/pods").list(&params);
        let request = request.map_err(kube::Error::BuildRequest)?;
        let page = clock.timeout(DEADLINE, client.request::<wire::List<wire::Pod>>(request));
        let page = page.await.map_err(|late| kube::Error::Service(Box::new(late)))??;
        for pod in page.items.unwrap_or_default() {
            if !mounts(&pod, drivers) {
                continue;
            }
            if found.pods.len() == NAMED {
                found.more += 1;
                continue;
            }
            let wire::Meta { namespace, name, .. } = pod.metadata;
            found.pods.push(format!("{namespace}/{name}"));
        }
        if page.metadata.next.is_empty() {
            return Ok(found);
        }
        params.continue_token = Some(page.metadata.next);
    }
}

fn mounts(pod: &wire::Pod, drivers: &[String]) -> bool {
    let has_ended = matches!(&*pod.status.phase, "Succeeded" | "Failed");
    let mut volumes = pod
        .spec
        .volumes
        .iter()
        .flatten()
        .filter_map(|volume| volume.csi.as_ref());
    !has_ended && volumes.any(|csi| drivers.contains(&csi.driver))
}
