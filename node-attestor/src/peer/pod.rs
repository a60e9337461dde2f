//! Pods, and the callers that come through a pod's own socket.
//!
//! The kubelet has named the pod when it had the socket mounted into it, and nobody else can reach that socket: it is the evidence. The kernel's word on
//! the process counts for nothing there, since it is in another PID and user namespace, or another kernel's; a pidfd, where there is one, only tells that the caller has ended.
//!
//! | selector | of |
//! |---|---|
//! | `k8s:pod-uid:UID` | the pod; the only one until both witnesses agree |
//! | `k8s:pod-name:NAME`, `k8s:ns:NAMESPACE`, `k8s:sa:SERVICE ACCOUNT` | what the pod is |
//! | `k8s:node-name:NAME` | this node |

use std::os::fd::AsFd;
use std::sync::Arc;

use mintmark_identity::{Selector, SelectorError, Selectors};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::Code;

use super::PeerError;
use super::handle::{Given, Handle, of_socket};

/// The kind of these selectors.
pub const KIND: &str = "k8s";

/// What a pod is, as the kubelet says.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct PodInfo {
    /// Its UID.
    pub uid: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The service account that it runs as.
    pub service_account: String,
}

/// A pod of this node into which a volume of ours is mounted.
#[derive(Debug)]
pub struct Pod {
    info: PodInfo,
    /// What it has by its UID alone, and what it has in all.
    selectors: [Selectors; 2],
    verdict: watch::Sender<Verdict>,
}

/// What is known of the second witness.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The server has not said yet, or cannot say now, for this reason.
    Waiting(Option<Arc<str>>),
    /// The API server agrees with the kubelet.
    Agreed {
        /// Why no rule gives the pod an identity, if none does: known when the witnesses were heard, and of interest while it has none.
        why_none: Option<Arc<str>>,
    },
    /// It does not, or the pod may have no identity.
    Refused {
        /// How.
        code: Code,
        /// Why, for whoever runs the workload.
        reason: Arc<str>,
    },
}

/// Someone who called through a pod's own socket.
#[derive(Debug)]
pub struct PodCaller {
    pod: Arc<Pod>,
    handle: Option<Handle>,
    /// Cancelled when the volume is not mounted any more.
    unmounted: CancellationToken,
}

impl Pod {
    /// A pod of the node `node`, of which the server has not said anything yet.
    ///
    /// # Errors
    /// When what it is cannot be said as selectors.
    pub fn new(info: PodInfo, node: &str) -> Result<Self, SelectorError> {
        let selector = |what: &str, value: &str| Selector::new(KIND, &format!("{what}:{value}"));
        let by_uid = selector("pod-uid", &info.uid)?;
        let all = [
            Ok(by_uid.clone()),
            selector("pod-name", &info.name),
            selector("ns", &info.namespace),
            selector("sa", &info.service_account),
            selector("node-name", node),
        ];
        Ok(Self {
            selectors: [
                [by_uid].into_iter().collect(),
                all.into_iter().collect::<Result<_, _>>()?,
            ],
            info,
            verdict: watch::Sender::new(Verdict::Waiting(None)),
        })
    }

    /// What it is.
    pub fn info(&self) -> &PodInfo {
        &self.info
    }

    /// What is known of the second witness, and how that changes.
    pub fn verdict(&self) -> watch::Receiver<Verdict> {
        self.verdict.subscribe()
    }

    /// Takes what the server said.
    pub fn judge(&self, verdict: Verdict) {
        self.verdict
            .send_if_modified(|old| std::mem::replace(old, verdict.clone()) != verdict);
    }

    /// What its callers are, by what both witnesses have said so far. An identity that names the pod by its UID was computed by a server that asked both; any other one waits until they agree.
    pub fn selectors(&self) -> Selectors {
        match &*self.verdict.borrow() {
            Verdict::Waiting(_) => self.selectors[0].clone(),
            Verdict::Agreed { .. } => self.selectors[1].clone(),
            Verdict::Refused { .. } => Selectors::default(),
        }
    }
}

impl std::fmt::Display for Pod {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let PodInfo {
            namespace, name, uid, ..
        } = &self.info;
        write!(f, "{namespace}/{name} ({uid})")
    }
}

impl PodCaller {
    /// Who connected `socket`, which is a connection of the pod's own socket. Must be called within a runtime.
    ///
    /// # Errors
    /// When the process has ended already, or the kernel does not say.
    pub(super) fn of(socket: &impl AsFd, pod: &Arc<Pod>, unmounted: &CancellationToken) -> Result<Self, PeerError> {
        let failed = |action| move |source| PeerError::Io { action, pid: 0, source };
        let handle = match of_socket(socket).map_err(failed("get a handle"))? {
            Given::Handle(pidfd) => Some(Handle::watch(pidfd).map_err(failed("watch the end"))?),
            Given::TooOld => None,
            Given::Ended => return Err(PeerError::CallerEnded),
        };
        Ok(Self {
            pod: Arc::clone(pod),
            handle,
            unmounted: unmounted.clone(),
        })
    }

    /// Its pod.
    pub fn pod(&self) -> &Arc<Pod> {
        &self.pod
    }

    /// Whether it is still there, and the volume too.
    ///
    /// # Errors
    /// When it is not, or the kernel does not say.
    pub fn check_alive(&self) -> Result<(), PeerError> {
        if self.unmounted.is_cancelled() {
            return Err(PeerError::Unmounted);
        }
        let ended = self.handle.as_ref().map_or(Ok(false), Handle::has_ended);
        match ended {
            Ok(false) => Ok(()),
            Ok(true) => Err(PeerError::CallerEnded),
            Err(source) => Err(PeerError::Io {
                action: "look at the handle",
                pid: 0,
                source,
            }),
        }
    }

    /// Waits until it is not there any more. Cancel safe.
    pub async fn ended(&self) {
        let ended = async {
            match &self.handle {
                Some(handle) => handle.ended().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = ended => {}
            () = self.unmounted.cancelled() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader};
    use std::os::unix::net::UnixStream;
    use std::process::{Command, Stdio};

    use super::*;

    fn pod() -> Arc<Pod> {
        let info = PodInfo {
            uid: "u1".into(),
            namespace: "shop".into(),
            name: "cart-0".into(),
            service_account: "cart".into(),
        };
        Arc::new(Pod::new(info, "node-a").unwrap())
    }

    #[test]
    fn a_pod_is_its_uid_alone_until_both_witnesses_agree_and_nothing_when_they_do_not() {
        let pod = pod();
        assert_eq!(pod.selectors(), Selectors::parse(["k8s:pod-uid:u1"]).unwrap());
        pod.judge(Verdict::Agreed { why_none: None });
        let all = [
            "k8s:pod-uid:u1",
            "k8s:ns:shop",
            "k8s:pod-name:cart-0",
            "k8s:sa:cart",
            "k8s:node-name:node-a",
        ];
        assert_eq!(pod.selectors(), Selectors::parse(all).unwrap());
        pod.judge(Verdict::Refused {
            code: Code::PermissionDenied,
            reason: "no such pod".into(),
        });
        assert!(pod.selectors().is_empty());
    }

    /// Set in the process that has a PID namespace of its own: where its socket is to be.
    const INSIDE: &str = "POD_TEST_SOCKET";

    /// An attestor that is not in the host's PID namespace, and a caller that is outside.
    #[tokio::test]
    async fn a_caller_outside_the_pid_namespace_is_the_pod_and_its_end_is_noticed() {
        if let Some(path) = std::env::var_os(INSIDE) {
            return listens(path.as_ref()).await;
        }
        assert!(
            nix::unistd::geteuid().is_root(),
            "this test makes a PID namespace, which only root may: run it as root"
        );
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let name = "peer::pod::tests::a_caller_outside_the_pid_namespace_is_the_pod_and_its_end_is_noticed";
        let mut attestor = Command::new("unshare")
            .args(["--pid", "--fork"])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", name, "--nocapture"])
            .env(INSIDE, &path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(attestor.stdout.take().unwrap())
            .lines()
            .map(Result::unwrap);
        assert!(lines.any(|line| line.contains("listens")));
        let script = "import socket,sys; s=socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); sys.stdin.read()";
        let mut client = Command::new("python3");
        client.args(["-c", script]).arg(&path).stdin(Stdio::piped());
        let mut client = client.spawn().unwrap();
        assert!(lines.any(|line| line.contains("is known")));
        client.kill().unwrap();
        assert!(lines.any(|line| line.contains("has ended")));
        client.wait().unwrap();
        assert!(attestor.wait().unwrap().success());
    }

    #[expect(clippy::print_stdout, reason = "how the two processes of a test speak")]
    async fn listens(path: &std::path::Path) {
        let socket = mintmark_runtime::net::unix_listener(path, 0o600, None).unwrap();
        let clock = mintmark_runtime::clock::Clock::system();
        let mut acceptor = socket.acceptor(Default::default(), Default::default(), clock);
        println!("listens");
        let accepted = acceptor.next().await;
        let by_kernel = super::super::Process::of(accepted.get_ref());
        assert!(
            matches!(by_kernel, Err(PeerError::OutsideNamespace(0))),
            "{by_kernel:?}"
        );
        let caller = PodCaller::of(accepted.get_ref(), &pod(), &CancellationToken::new()).unwrap();
        assert!(caller.handle.is_some());
        caller.check_alive().unwrap();
        println!("is known");
        caller.ended().await;
        assert!(matches!(caller.check_alive(), Err(PeerError::CallerEnded)));
        println!("has ended");
    }

    #[tokio::test]
    async fn a_caller_is_gone_when_the_volume_is() {
        let (one, _two) = UnixStream::pair().unwrap();
        let unmounted = CancellationToken::new();
        let caller = PodCaller::of(&one, &pod(), &unmounted).unwrap();
        caller.check_alive().unwrap();
        unmounted.cancel();
        caller.ended().await;
        assert!(matches!(caller.check_alive(), Err(PeerError::Unmounted)));
    }
}
