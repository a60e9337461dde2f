//! The trust bundle in a cluster: in some namespaces as ConfigMap, for the whole cluster as ClusterTrustBundle where the API server has that.
//!
//! In: the bundle as text, from `trust`. Out: words to the queue. Each place is watched by its one name, and told again when it is not what it should be: because the bundle is
//! another, or because somebody changed or deleted it. Nothing is asked at intervals. `roll` alone uses it.
//!
//! ```text
//! bundle ═▶ keeper of a place ── differs? ──▶ queue ══ server-side apply ══▶ API server
//!                 ▲                                                             ║
//!                 └──────────────── copy, in the index ◀═ watch of one name ════╝
//! ```

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::header;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::APIResourceList;
use kube::Client;
use mintmark_identity::TrustDomain;
use mintmark_runtime::task::Backoff;
use serde_json::{Value, json};
use tokio::sync::watch as channel;

use super::facts::Uid;
use super::index::{Copy, Index};
use super::metrics::RollMetrics;
use super::watch::{Source, Standing, Watch, in_full};
use super::write::{COMPONENT, RETRY, Write};
use super::{ACCOUNTS, Inner};

/// The ConfigMap's name.
pub(super) const NAME: &str = "mintmark-bundle";
/// Its keys.
pub(super) const KEYS: (&str, &str) = ("bundle.pem", "bundle.json");
/// Who signs what a ClusterTrustBundle of ours is for.
const SIGNER: &str = "mintmark.dev/spiffe";
/// The service account with which our ConfigMaps go.
const OWNER: &str = "mintmark-server";
/// Whoever changes a place again and again is answered no more often.
const PAUSE: Duration = Duration::from_secs(1);
/// Discovery takes no longer.
const DEADLINE: Duration = Duration::from_secs(10);

/// The trust bundle, as it is written.
#[derive(PartialEq, Eq)]
pub struct BundleText {
    /// The X.509 authorities as PEM.
    pub pem: String,
    /// The SPIFFE bundle document.
    pub json: String,
}

impl fmt::Debug for BundleText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BundleText").finish_non_exhaustive()
    }
}

/// Where in a cluster the trust bundle is published, beside the namespace of this server's own pod.
#[derive(Clone, Debug, Default)]
pub struct Publishing {
    /// In these namespaces, as ConfigMap.
    pub namespaces: Vec<String>,
    /// For the whole cluster, as ClusterTrustBundle of this trust domain.
    pub trust_bundle: Option<TrustDomain>,
}

/// One place of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Place {
    /// The ConfigMap in this namespace.
    Namespace(Arc<str>),
    /// The ClusterTrustBundle of this name.
    Cluster(Arc<str>),
}

/// The word that a place is to hold the bundle.
#[derive(Clone, Debug, PartialEq)]
pub struct Placed {
    place: Place,
    /// Of the API.
    version: &'static str,
    /// The service account with which it goes.
    owner: Option<Uid>,
    text: Arc<BundleText>,
}

/// The places in a cluster; `own` is the namespace of this server's pod, if it is one of that cluster.
pub(super) fn places(publish: &Publishing, own: Option<&str>) -> Vec<Place> {
    let wanted = publish.namespaces.iter().map(String::as_str);
    let namespaces: BTreeSet<_> = own.into_iter().chain(wanted).collect();
    let namespaces = namespaces.into_iter().map(|name| Place::Namespace(name.into()));
    let cluster = publish.trust_bundle.as_ref();
    let cluster = cluster.map(|name| Place::Cluster(format!("{}:{name}", SIGNER.replace('/', ":")).into()));
    namespaces.chain(cluster).collect()
}

impl Place {
    /// As in metrics and in the log.
    fn kind(&self) -> &'static str {
        match self {
            Self::Namespace(_) => "configmaps",
            Self::Cluster(_) => "clustertrustbundles",
        }
    }

    /// The object's name.
    pub(super) fn name(&self) -> &str {
        match self {
            Self::Namespace(_) => NAME,
            Self::Cluster(name) => name,
        }
    }

    fn path(&self, version: &str) -> String {
        match self {
            Self::Namespace(namespace) => format!("/api/{version}/namespaces/{namespace}/configmaps"),
            Self::Cluster(_) => format!("/apis/certificates.k8s.io/{version}/clustertrustbundles"),
        }
    }

    /// What has no namespace cannot go with a service account.
    fn owner(&self, index: &Index) -> Option<Uid> {
        let Self::Namespace(namespace) = self else { return None };
        let account = index.accounts.get(&(Arc::clone(namespace), Arc::from(OWNER)))?;
        Some(account.uid)
    }

    fn holds(&self, copy: &Copy, text: &BundleText, owner: Option<Uid>) -> bool {
        let is_owned = owner.is_none_or(|owner| copy.owners.contains(&owner));
        let is_whole = matches!(self, Self::Cluster(_)) || copy.json == text.json;
        is_owned && is_whole && copy.pem == text.pem
    }
}

impl fmt::Display for Placed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Namespace(namespace) => write!(f, "ConfigMap {namespace}/{NAME}"),
            Place::Cluster(name) => write!(f, "ClusterTrustBundle {name}"),
        }
    }
}

impl Placed {
    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    pub(super) fn request(&self) -> (http::request::Builder, Value) {
        let (version, name, text) = (self.version, self.place.name(), &self.text);
        let mut metadata = json!({
            "name": name,
            "labels": {"app.kubernetes.io/managed-by": COMPONENT, "app.kubernetes.io/part-of": "mintmark"},
        });
        let owners = self
            .owner
            .map(|uid| json!([{"apiVersion": "v1", "kind": "ServiceAccount", "name": OWNER, "uid": uid.to_string()}]));
        if let Some(owners) = owners {
            metadata["ownerReferences"] = owners;
        }
        let body = match &self.place {
            Place::Namespace(_) => json!({
                "apiVersion": version, "kind": "ConfigMap", "metadata": metadata,
                "data": {KEYS.0: text.pem, KEYS.1: text.json},
            }),
            Place::Cluster(_) => json!({
                "apiVersion": format!("certificates.k8s.io/{version}"), "kind": "ClusterTrustBundle", "metadata": metadata,
                "spec": {"signerName": SIGNER, "trustBundle": text.pem},
            }),
        };
        // These fields are ours, whoever wrote them last.
        let path = format!(
            "{}/{name}?fieldManager={COMPONENT}&force=true",
            self.place.path(version)
        );
        let request = http::Request::patch(path);
        (
            request.header(header::CONTENT_TYPE, "application/apply-patch+yaml"),
            body,
        )
    }
}

/// Keeps the bundle in one place.
pub(super) struct Keeper {
    pub(super) place: Place,
    pub(super) cluster: Arc<Inner>,
    pub(super) client: Client,
    pub(super) metrics: RollMetrics,
}

impl Keeper {
    pub(super) async fn run(self) -> Infallible {
        let mut wanted = self.cluster.bundle.subscribe();
        loop {
            let text = wanted.borrow_and_update().clone();
            tokio::select! {
                never = self.hold(text) => match never {},
                () = another(&mut wanted) => {}
            }
        }
    }

    /// Until there is another one.
    async fn hold(&self, text: Option<Arc<BundleText>>) -> Infallible {
        let Some(text) = text else {
            return std::future::pending().await;
        };
        let Some(version) = self.version().await else {
            tracing::info!(cluster = %self.cluster.name, "the API server has no ClusterTrustBundles; it is asked again when the bundle changes");
            return std::future::pending().await;
        };
        let (clock, name) = (&self.cluster.clock, self.place.kind());
        // Not one of the roll's: that a place cannot be watched keeps nobody from anything.
        let standing = Arc::new(Standing::new(name, clock));
        let watch = Watch {
            kind: self.place.clone(),
            source: Source {
                name,
                path: self.place.path(version),
                is_metadata: false,
                only: Some(self.place.name().to_owned()),
            },
            client: self.client.clone(),
            clock: clock.clone(),
            cluster: Arc::clone(&self.cluster),
            standing: Arc::clone(&standing),
            metrics: self.metrics.kind(&self.cluster.name, name),
        };
        tokio::select! {
            never = watch.keep() => match never {},
            never = self.compare(&standing, version, &text) => match never {},
        }
    }

    /// Tells the place what it is to hold, once for each way in which it is seen to differ.
    async fn compare(&self, standing: &Standing, version: &'static str, text: &Arc<BundleText>) -> Infallible {
        let (cluster, place) = (&self.cluster, &self.place);
        let accounts = cluster.standing(ACCOUNTS);
        // What cannot be read may yet be written.
        let is_known = |standing: &Standing| standing.is_synced() || standing.failing().is_some();
        cluster.until(|_| is_known(standing) && is_known(&accounts)).await;
        let look = |index: &Index| (standing.is_synced(), index.copy(place), place.owner(index));
        let mut told = None;
        loop {
            let seen = cluster.read(look);
            let (_, copy, owner) = &seen;
            if copy.as_ref().is_some_and(|copy| place.holds(copy, text, *owner)) {
                told = None;
            } else if told.as_ref() != Some(&seen) {
                cluster.writer.tell(Write::Bundle(Placed {
                    place: place.clone(),
                    version,
                    owner: *owner,
                    text: Arc::clone(text),
                }));
                told = Some(seen.clone());
                cluster.clock.sleep(PAUSE).await;
            }
            cluster.until(|index| look(index) != seen).await;
        }
    }

    /// Of the API of its place, if there is one.
    async fn version(&self) -> Option<&'static str> {
        if matches!(self.place, Place::Namespace(_)) {
            return Some("v1");
        }
        let mut backoff = Backoff::new(RETRY.0, RETRY.1);
        loop {
            match self.discover().await {
                Ok(version) => return version,
                Err(why) if backoff.failures() == 0 => {
                    tracing::warn!(cluster = %self.cluster.name, why, "cannot find out whether the API server has ClusterTrustBundles; again later");
                }
                Err(_) => {}
            }
            self.cluster.clock.sleep(backoff.next_wait()).await;
        }
    }

    async fn discover(&self) -> Result<Option<&'static str>, String> {
        for version in ["v1", "v1beta1"] {
            let request = http::Request::get(format!("/apis/certificates.k8s.io/{version}")).body(Vec::new());
            let request = request.map_err(|error| error.to_string())?;
            let answer = self.client.request::<APIResourceList>(request);
            match self.cluster.clock.timeout(DEADLINE, answer).await {
                Err(late) => return Err(late.to_string()),
                Ok(Err(kube::Error::Api(status))) if status.code == 404 => {}
                Ok(Err(error)) => return Err(in_full(&error)),
                Ok(Ok(list)) => {
                    let mut kinds = list.resources.iter();
                    if kinds.any(|kind| kind.name == self.place.kind()) {
                        return Ok(Some(version));
                    }
                }
            }
        }
        Ok(None)
    }
}

async fn another(wanted: &mut channel::Receiver<Option<Arc<BundleText>>>) {
    // The sender lives in the cluster, which the keeper holds.
    let _ = wanted.changed().await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_publishes_in_its_own_namespace_unasked_and_in_each_place_once() {
        let publish = Publishing {
            namespaces: vec!["shop".into(), "mintmark".into(), "shop".into()],
            trust_bundle: Some(TrustDomain::parse("example.org").unwrap()),
        };
        let shop = Place::Namespace("shop".into());
        let mint = Place::Namespace("mintmark".into());
        let all = Place::Cluster("mintmark.dev:spiffe:example.org".into());
        assert_eq!(places(&publish, Some("mintmark")), [mint.clone(), shop, all]);
        assert_eq!(places(&Publishing::default(), Some("mintmark")), [mint]);
        assert_eq!(places(&Publishing::default(), None), []);
    }
}
