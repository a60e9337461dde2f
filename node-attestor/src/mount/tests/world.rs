//! A node under test: the attestor's rooms around the driver, a kubelet and a server that do what the test says, and a mount namespace of its own.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::future::Future;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use mintmark_identity::TrustDomain;
use mintmark_proto::attestor::{PodJudged, Update, from_node};
use mintmark_proto::csi::identity_client::IdentityClient;
use mintmark_proto::csi::node_client::NodeClient;
use mintmark_proto::csi::volume_capability::{AccessType, MountVolume};
use mintmark_proto::csi::{NodePublishVolumeRequest, NodeUnpublishVolumeRequest, VolumeCapability};
use mintmark_proto::registration::registration_client::RegistrationClient;
use mintmark_proto::registration::{InfoRequest, RegistrationStatus};
use mintmark_proto::spire::types;
use mintmark_proto::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use mintmark_proto::workload::{X509svidRequest, X509svidResponse};
use mintmark_runtime::clock::Clock;
use mintmark_runtime::metrics::Metrics;
use mintmark_runtime::net::UnixConnector;
use mintmark_runtime::task::{BlockingPool, Supervisor};
use rustix::mount::{UnmountFlags, mount_bind_recursive, unmount};
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status, Streaming};

use super::super::{MountSettings, Parts, Pods, Registered, start};
use crate::keep::{Keep, KeepLimits, Upstream};
use crate::peer::{PeerStats, Unix, UnixLimits};
use crate::serve::{Serve, ServeLimits};
use crate::testing::{Authority, NOW, Script, entry};

/// Nothing in these tests takes this long, unless it never ends.
const DEADLINE: Duration = Duration::from_secs(120);
/// Set in the process that has a mount namespace of its own.
const INSIDE: &str = "MOUNT_TEST_INSIDE";
/// How long a publish with files waits, in the node's own time.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// Runs `test` in a process with a mount namespace of its own, so that no mount is left behind whatever happens. `name` is the test's own.
pub(super) fn in_own_namespace<F: Future<Output = ()>>(name: &str, test: impl FnOnce() -> F) {
    if std::env::var_os(INSIDE).is_some() {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build();
        runtime.unwrap().block_on(within(test()));
        return;
    }
    assert!(
        nix::unistd::geteuid().is_root(),
        "this test mounts file systems, which only root may: run it as root"
    );
    let output = Command::new("unshare")
        .args(["--mount", "--propagation", "private"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", &format!("mount::tests::{name}"), "--nocapture"])
        .env(INSIDE, "1")
        .output()
        .unwrap();
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success() && out.contains("1 passed"), "{out}\n{err}");
}

/// What comes in time.
pub(super) async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, work).await.expect("in time")
}

/// A pod of the test.
#[derive(Clone, Copy)]
pub(super) struct TestPod {
    pub(super) uid: &'static str,
    pub(super) name: &'static str,
    pub(super) group: Option<u32>,
    pub(super) token: &'static str,
}

/// A pod like any other.
pub(super) const CART: TestPod = TestPod {
    uid: "6d3b9f1e-0f6c-4c8e-9a45-000000000001",
    name: "cart-0",
    group: None,
    token: "token-of-cart",
};

/// A node.
pub(super) struct World {
    pub(super) root: Arc<tempfile::TempDir>,
    pub(super) clock: Clock,
    pub(super) server: Arc<Script>,
    pub(super) keep: Keep,
    pub(super) pods: Pods,
    pub(super) registered: Registered,
    pub(super) metrics: Metrics,
    supervisor: Supervisor,
}

impl Drop for World {
    fn drop(&mut self) {
        self.supervisor.token().cancel();
    }
}

impl World {
    pub(super) fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        // As the kubelet makes a hostPath: open to everybody.
        std::fs::create_dir(root.path().join("csi")).unwrap();
        let clock = Clock::manual(NOW);
        let server = Script::new(Authority::new("example.org"), clock.clone());
        Self::on(Arc::new(root), clock, Arc::new(server))
    }

    fn on(root: Arc<tempfile::TempDir>, clock: Clock, server: Arc<Script>) -> Self {
        let (metrics, supervisor, pods) = (Metrics::new("test"), Supervisor::embedded(), Pods::default());
        let upstream: Arc<dyn Upstream> = server.clone();
        let limits = KeepLimits {
            prefetch: 100,
            jwt_cache: 100,
        };
        let trust_domain = TrustDomain::parse("example.org").unwrap();
        let keep = Keep::new(trust_domain, clock.clone(), upstream, limits);
        supervisor.spawn("renewal", keep.clone().run(supervisor.token()));
        let settings = MountSettings {
            drivers: vec!["csi.mintmark.dev".into(), "csi.spiffe.io".into()],
            node: "node-a".into(),
            kubelet_dir: root.path().join("kubelet"),
            dir: root.path().join("csi"),
            data_dir: root.path().join("data"),
            patience: PATIENCE,
            connections: 100,
            connections_per_pod: 10,
        };
        let parts = Parts {
            keep: keep.clone(),
            pods: pods.clone(),
            peers: PeerStats::default(),
            clock: clock.clone(),
            supervisor: &supervisor,
            metrics: &metrics,
        };
        let (connections, registered) = start(settings, parts).unwrap();
        let unix = Unix::new(
            UnixLimits { program_bytes: 1 << 20 },
            BlockingPool::new("attest", 1, 16),
            clock.clone(),
        );
        let serve_limits = ServeLimits {
            streams: 100,
            streams_per_user: 50,
        };
        let serve = Serve::new(
            keep.clone(),
            unix,
            serve_limits,
            clock.clone(),
            &metrics,
            supervisor.token(),
        );
        supervisor.spawn("serve", async move {
            serve.run(connections).await.unwrap();
        });
        Self {
            root,
            clock,
            server,
            keep,
            pods,
            registered,
            metrics,
            supervisor,
        }
    }

    /// The attestor ends, as a process does that is told to, and another one starts on the same directories.
    pub(super) async fn restart(self) -> Self {
        let (root, clock, server) = (Arc::clone(&self.root), self.clock.clone(), Arc::clone(&self.server));
        self.supervisor.shutdown(Duration::from_secs(30)).await;
        drop(self);
        Self::on(root, clock, server)
    }

    /// The attestor ends without having tidied up anything: its sockets are left as files that nobody listens on.
    pub(super) async fn crash(self) -> Self {
        let (root, clock, server) = (Arc::clone(&self.root), self.clock.clone(), Arc::clone(&self.server));
        let sockets = self.sockets();
        self.supervisor.shutdown(Duration::from_secs(30)).await;
        drop(self);
        for socket in sockets {
            // The standard library's listener leaves its file behind.
            drop(std::os::unix::net::UnixListener::bind(socket).unwrap());
        }
        Self::on(root, clock, server)
    }

    fn sockets(&self) -> Vec<PathBuf> {
        let dirs = std::fs::read_dir(self.root.path().join("csi")).unwrap();
        dirs.map(|dir| dir.unwrap().path().join(super::super::SOCKET)).collect()
    }

    /// The server says that these entries apply.
    pub(super) fn apply(&self, upserts: Vec<types::Entry>, removed_ids: &[&str]) {
        let authority = self.server.authority.lock().unwrap().clone();
        let refused = self.keep.apply(&Update {
            upserts,
            removed_ids: removed_ids.iter().map(ToString::to_string).collect(),
            bundles: vec![Authority::bundle(1, &[&authority], &[])],
            complete: true,
            ..Update::default()
        });
        assert_eq!(refused, []);
    }

    /// The server has computed an identity for the pod: `spiffe://example.org/<name>`.
    pub(super) fn give(&self, pod: &TestPod) {
        let path = format!("/{}", pod.name);
        self.apply(vec![entry(pod.name, &path, &format!("k8s:pod-uid:{}", pod.uid))], &[]);
    }

    /// The server says what it thinks of the pod.
    pub(super) fn judge(&self, pod: &TestPod, code: Code, message: &str) {
        self.pods.judged(PodJudged {
            pod_uid: pod.uid.into(),
            code: code as u32,
            message: message.into(),
        });
    }

    /// What the server is told next.
    pub(super) async fn news(&self) -> String {
        match within(self.pods.news()).await {
            from_node::Message::PodUp(up) => {
                format!(
                    "up {} {}/{} {} {:?}",
                    up.pod_uid, up.namespace, up.name, up.service_account, up.token
                )
            }
            from_node::Message::PodDown(down) => format!("down {}", down.pod_uid),
            other => format!("{other:?}"),
        }
    }

    /// A kubelet that has found the driver.
    pub(super) async fn kubelet(&self, driver: &str) -> Kubelet {
        let dir = self.root.path().join("kubelet");
        let socket = dir.join(format!("plugins_registry/{driver}-reg.sock"));
        let mut registration = RegistrationClient::new(connect(&socket).await);
        let info = registration.get_info(InfoRequest {}).await.unwrap().into_inner();
        assert_eq!((&*info.r#type, &*info.name), ("CSIPlugin", driver));
        assert_eq!(info.supported_versions, ["1.0.0"]);
        let taken = RegistrationStatus {
            plugin_registered: true,
            error: String::new(),
        };
        registration.notify_registration_status(taken).await.unwrap();
        let channel = connect(Path::new(&info.endpoint)).await;
        Kubelet {
            dir,
            registration,
            identity: IdentityClient::new(channel.clone()),
            node: NodeClient::new(channel),
        }
    }

    /// What is mounted below the test's directory.
    pub(super) fn mounts(&self) -> Vec<String> {
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        let root = self.root.path().to_str().unwrap();
        mounts
            .lines()
            .filter(|line| line.contains(root))
            .map(str::to_owned)
            .collect()
    }

    /// Nothing is left of any volume.
    pub(super) fn assert_nothing_left(&self) {
        assert_eq!(self.mounts(), [""; 0]);
        for dir in ["csi", "data/csi"] {
            let left: Vec<_> = std::fs::read_dir(self.root.path().join(dir)).unwrap().collect();
            assert!(left.is_empty(), "{left:?}");
        }
        assert_eq!(self.pods.count(), 0);
    }
}

async fn connect(socket: &Path) -> Channel {
    let endpoint = Endpoint::from_static("http://test");
    within(endpoint.connect_with_connector(UnixConnector::new(socket)))
        .await
        .unwrap()
}

/// What the kubelet does.
#[derive(Clone)]
pub(super) struct Kubelet {
    dir: PathBuf,
    pub(super) registration: RegistrationClient<Channel>,
    pub(super) identity: IdentityClient<Channel>,
    pub(super) node: NodeClient<Channel>,
}

impl Kubelet {
    /// Where the kubelet wants the pod's volume to be.
    pub(super) fn target(&self, pod: &TestPod) -> PathBuf {
        self.dir
            .join("pods")
            .join(pod.uid)
            .join("volumes/kubernetes.io~csi/spiffe/mount")
    }

    /// The call for the pod's volume with these attributes.
    pub(super) fn request(&self, pod: &TestPod, attributes: &[(&str, &str)]) -> NodePublishVolumeRequest {
        let tokens =
            serde_json::json!({ "mintmark": { "token": pod.token, "expirationTimestamp": "2027-01-15T09:00:00Z" } });
        let mut context: BTreeMap<String, String> = [
            ("pod.name", pod.name),
            ("pod.namespace", "shop"),
            ("pod.uid", pod.uid),
            ("serviceAccount.name", "cart"),
            ("ephemeral", "true"),
            ("serviceAccount.tokens", &tokens.to_string()),
        ]
        .iter()
        .map(|(name, value)| (format!("csi.storage.k8s.io/{name}"), (*value).to_owned()))
        .collect();
        context.extend(attributes.iter().map(|(name, value)| ((*name).into(), (*value).into())));
        let mount = MountVolume {
            volume_mount_group: pod.group.map(|group| group.to_string()).unwrap_or_default(),
            ..MountVolume::default()
        };
        NodePublishVolumeRequest {
            volume_id: format!("csi-{}", pod.uid),
            target_path: self.target(pod).to_str().unwrap().into(),
            volume_capability: Some(VolumeCapability {
                access_type: Some(AccessType::Mount(mount)),
            }),
            readonly: true,
            secrets: BTreeMap::new(),
            volume_context: context,
        }
    }

    pub(super) async fn publish(&self, pod: &TestPod, attributes: &[(&str, &str)]) -> Result<(), Status> {
        // The kubelet makes the directory that the target is in.
        std::fs::create_dir_all(self.target(pod).parent().unwrap()).unwrap();
        let request = self.request(pod, attributes);
        within(self.node.clone().node_publish_volume(request)).await.map(drop)
    }

    pub(super) async fn unpublish(&self, pod: &TestPod) -> Result<(), Status> {
        let request = NodeUnpublishVolumeRequest {
            volume_id: format!("csi-{}", pod.uid),
            target_path: self.target(pod).to_str().unwrap().into(),
        };
        within(self.node.clone().node_unpublish_volume(request)).await.map(drop)
    }
}

/// A container of a pod: it has the volume as it was mounted when it started, and nothing else of the node.
pub(super) struct Container(PathBuf);

impl Drop for Container {
    fn drop(&mut self) {
        unmount(&self.0, UnmountFlags::DETACH).unwrap();
        std::fs::remove_dir(&self.0).unwrap();
    }
}

impl Container {
    /// What the container runtime does with a volume.
    pub(super) fn start(world: &World, kubelet: &Kubelet, pod: &TestPod) -> Self {
        let path = world.root.path().join(pod.name);
        std::fs::create_dir(&path).unwrap();
        mount_bind_recursive(kubelet.target(pod), &path).unwrap();
        Self(path)
    }

    /// A stream of the workload's.
    pub(super) async fn x509(&self) -> Streaming<X509svidResponse> {
        let mut client = SpiffeWorkloadApiClient::new(connect(&self.0.join("socket")).await);
        let mut request = Request::new(X509svidRequest {});
        let header = MetadataValue::from_static("true");
        request.metadata_mut().insert("workload.spiffe.io", header);
        within(client.fetch_x509svid(request)).await.unwrap().into_inner()
    }
}

/// The IDs in the stream's next answer.
pub(super) async fn ids(stream: &mut Streaming<X509svidResponse>) -> Result<Vec<String>, Status> {
    let answer = within(stream.message()).await?;
    let answer = answer.ok_or_else(|| Status::unavailable("the stream has ended"))?;
    Ok(answer.svids.into_iter().map(|svid| svid.spiffe_id).collect())
}

/// The names in a volume that are meant to be seen.
pub(super) fn names(volume: &Path) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(volume)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .filter(|name: &std::ffi::OsString| !OsStr::as_bytes(name).starts_with(b".."))
        .map(|name| name.into_string().unwrap())
        .collect();
    names.sort();
    names
}
