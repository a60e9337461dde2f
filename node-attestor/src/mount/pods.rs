//! The pods into which volumes of ours are mounted, and what the server is to be told of them.
//!
//! `mount` says which there are, and `link` tells the server: for each pod that is news the latest state, not each event, so that a link that was away for long has no more to say than how
//! things are now. What the server thinks of a pod comes back here.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mintmark_identity::SelectorError;
use mintmark_proto::attestor::{PodDown, PodJudged, PodUp, from_node};
use mintmark_runtime::crypto::SecretString;
use tokio::sync::Notify;
use tonic::Code;

use super::state::Key;
use crate::peer::{Pod, PodInfo, Verdict};

/// So many pods that are gone are remembered for a link that is away; the server finds out about the others by itself.
const MAX_GONE: usize = 4096;
/// So many pods are in one Hello.
const MAX_STANDING: usize = 1_000;
/// No longer reason is kept.
const MAX_REASON: usize = 1024;

/// The pods. A handle.
#[derive(Clone, Default)]
pub struct Pods(Arc<Inner>);

#[derive(Default)]
struct Inner {
    state: Mutex<State>,
    /// Told when there is something to be said.
    news: Notify,
}

#[derive(Default)]
struct State {
    mounted: BTreeMap<Arc<str>, Mounted>,
    /// UIDs of pods of which the server is to be told; of those that are not mounted, that they are gone.
    news: BTreeSet<Arc<str>>,
}

struct Mounted {
    pod: Arc<Pod>,
    volumes: BTreeSet<Key>,
    /// None after a restart, until the kubelet brings one.
    token: Option<SecretString>,
}

impl Pods {
    /// A volume is mounted into a pod of node `node`, or is asked for again: with the pod's token, unless it was found after a restart.
    pub(super) fn up(
        &self,
        key: Key,
        info: &PodInfo,
        node: &str,
        token: Option<SecretString>,
    ) -> Result<Arc<Pod>, SelectorError> {
        let uid: Arc<str> = info.uid.as_str().into();
        let mut state = self.state();
        let State { mounted, news } = &mut *state;
        let is_new = !mounted.contains_key(&uid);
        let mounted = match mounted.entry(Arc::clone(&uid)) {
            Entry::Occupied(mounted) => mounted.into_mut(),
            Entry::Vacant(place) => place.insert(Mounted {
                pod: Arc::new(Pod::new(info.clone(), node)?),
                volumes: BTreeSet::new(),
                token: None,
            }),
        };
        mounted.volumes.insert(key);
        let has = |token: &SecretString| {
            mounted
                .token
                .as_ref()
                .is_some_and(|held| held.expose() == token.expose())
        };
        let brings_token = token.as_ref().is_some_and(|token| !has(token));
        if brings_token {
            mounted.token = token;
        }
        let pod = Arc::clone(&mounted.pod);
        // What spoke against it may have changed since.
        let refused = match &*pod.verdict().borrow() {
            Verdict::Refused { reason, .. } => Some(Arc::clone(reason)),
            _ => None,
        };
        if let Some(reason) = &refused {
            let why = format!("the server is asked again, after it refused: {reason}");
            pod.judge(Verdict::Waiting(Some(why.into())));
        }
        if is_new || brings_token || refused.is_some() {
            news.insert(uid);
            drop(state);
            self.0.news.notify_one();
        }
        Ok(pod)
    }

    /// A volume is not mounted any more; with its last one, the pod is gone.
    pub(super) fn down(&self, key: Key, uid: &str) {
        let mut state = self.state();
        let Some(mounted) = state.mounted.get_mut(uid) else {
            return;
        };
        mounted.volumes.remove(&key);
        if !mounted.volumes.is_empty() {
            return;
        }
        state.mounted.remove(uid);
        if state.news.len() <= state.mounted.len() + MAX_GONE {
            state.news.insert(uid.into());
        } else {
            state.news.remove(uid);
        }
        drop(state);
        self.0.news.notify_one();
    }

    /// Takes what the server thinks of a pod. One that is gone meanwhile is passed over.
    pub fn judged(&self, judged: PodJudged) {
        let Some(pod) = self
            .state()
            .mounted
            .get(judged.pod_uid.as_str())
            .map(|mounted| Arc::clone(&mounted.pod))
        else {
            return;
        };
        let reason: Arc<str> = judged.message.chars().take(MAX_REASON).collect::<String>().into();
        let code = i32::try_from(judged.code).map_or(Code::Unknown, Code::from);
        let verdict = match code {
            Code::Ok => Verdict::Agreed {
                why_none: Some(reason).filter(|reason| !reason.is_empty()),
            },
            Code::Unavailable | Code::ResourceExhausted => Verdict::Waiting(Some(reason)),
            code => Verdict::Refused { code, reason },
        };
        match &verdict {
            Verdict::Agreed { why_none } => tracing::debug!(%pod, ?why_none, "kubelet and API server agree on the pod"),
            Verdict::Waiting(why) => tracing::debug!(%pod, ?why, "the server cannot say yet what it thinks of the pod"),
            Verdict::Refused { code, reason } => tracing::warn!(%pod, ?code, %reason, "the server refuses the pod"),
        }
        pod.judge(verdict);
    }

    /// A new stream begins: these pods are to be in its Hello, and the server is told of the others as soon as it has begun.
    pub fn standing(&self) -> Vec<PodUp> {
        let mut state = self.state();
        let State { mounted, news } = &mut *state;
        let mut standing = Vec::new();
        for (uid, Mounted { pod, token, .. }) in mounted {
            let is_standing = match &*pod.verdict().borrow() {
                Verdict::Agreed { .. } => true,
                // Found after a restart.
                Verdict::Waiting(_) => token.is_none(),
                Verdict::Refused { .. } => false,
            };
            match is_standing && standing.len() < MAX_STANDING {
                true => standing.push(up(uid, pod, None)),
                false => drop(news.insert(Arc::clone(uid))),
            }
        }
        drop(state);
        self.0.news.notify_one();
        standing
    }

    /// The next thing to tell the server. Cancel safe.
    pub async fn news(&self) -> from_node::Message {
        loop {
            let mut told = pin!(self.0.news.notified());
            told.as_mut().enable();
            if let Some(message) = self.next() {
                return message;
            }
            told.await;
        }
    }

    /// How many pods there are.
    pub fn count(&self) -> usize {
        self.state().mounted.len()
    }

    fn next(&self) -> Option<from_node::Message> {
        let mut state = self.state();
        let uid = state.news.pop_first()?;
        let Some(Mounted { pod, token, .. }) = state.mounted.get(&uid) else {
            let pod_uid = uid.to_string();
            return Some(from_node::Message::PodDown(PodDown { pod_uid }));
        };
        Some(from_node::Message::PodUp(up(&uid, pod, token.as_ref())))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change is made whole under the lock by code that does not panic halfway.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn up(uid: &str, pod: &Pod, token: Option<&SecretString>) -> PodUp {
    let PodInfo {
        namespace,
        name,
        service_account,
        ..
    } = pod.info().clone();
    PodUp {
        pod_uid: uid.to_owned(),
        namespace,
        name,
        service_account,
        token: token.map_or_else(String::new, |token| token.expose().to_owned()),
    }
}

#[cfg(test)]
impl Pods {
    /// As the driver has it: a volume is mounted into the pod `n/p`.
    pub(crate) fn mount(&self, volume: &str, uid: &str, token: Option<&str>) -> Arc<Pod> {
        let info = PodInfo {
            uid: uid.into(),
            namespace: "n".into(),
            name: "p".into(),
            service_account: "s".into(),
        };
        let token = token.map(|token| token.to_owned().into());
        self.up(Key::new("d", volume), &info, "node", token).unwrap()
    }

    /// And gone.
    pub(crate) fn unmount(&self, volume: &str, uid: &str) {
        self.down(Key::new("d", volume), uid);
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    fn next(pods: &Pods) -> Option<String> {
        let message = pods.news().now_or_never()?;
        Some(match message {
            from_node::Message::PodUp(up) => format!("up {} {}", up.pod_uid, up.token),
            from_node::Message::PodDown(down) => format!("down {}", down.pod_uid),
            other => format!("{other:?}"),
        })
    }

    fn judged(pods: &Pods, uid: &str, code: Code, message: &str) {
        pods.judged(PodJudged {
            pod_uid: uid.into(),
            code: code as u32,
            message: message.into(),
        });
    }

    #[test]
    fn the_server_is_told_the_latest_of_each_pod_once_and_again_on_a_new_stream() {
        let pods = Pods::default();
        pods.mount("a", "1", Some("t0"));
        pods.mount("a", "1", Some("t1"));
        assert_eq!(next(&pods).unwrap(), "up 1 t1");
        // The same token brings nothing new, nor does another volume of the pod.
        pods.mount("a", "1", Some("t1"));
        pods.mount("b", "1", Some("t1"));
        assert_eq!(next(&pods), None);
        pods.mount("c", "2", None);
        assert_eq!(next(&pods).unwrap(), "up 2 ");
        // On a new stream, Hello says which pods are there: those on which there was agreement, and those that were found after a restart.
        pods.mount("d", "3", Some("t3"));
        judged(&pods, "1", Code::Ok, "");
        let standing: Vec<_> = pods.standing().into_iter().map(|up| (up.pod_uid, up.token)).collect();
        assert_eq!(standing, [("1".into(), String::new()), ("2".into(), String::new())]);
        assert_eq!((next(&pods).unwrap(), next(&pods)), ("up 3 t3".into(), None));
        pods.unmount("d", "3");
        assert_eq!(next(&pods).unwrap(), "down 3");

        pods.unmount("a", "1");
        assert_eq!((next(&pods), pods.count()), (None, 2));
        pods.unmount("b", "1");
        pods.unmount("b", "1");
        assert_eq!(
            (next(&pods).unwrap(), next(&pods), pods.count()),
            ("down 1".into(), None, 1)
        );
        // One that came and went while nobody listened is only gone.
        pods.mount("e", "3", Some("t"));
        pods.unmount("e", "3");
        assert_eq!((next(&pods).unwrap(), next(&pods)), ("down 3".into(), None));
    }

    #[test]
    fn a_verdict_is_kept_with_its_reason_and_a_refused_pod_is_asked_about_again() {
        let pods = Pods::default();
        let pod = pods.mount("a", "1", Some("t"));
        next(&pods);
        judged(&pods, "1", Code::Unavailable, "the API server is away");
        assert_eq!(
            *pod.verdict().borrow(),
            Verdict::Waiting(Some("the API server is away".into()))
        );
        judged(&pods, "1", Code::Ok, "");
        assert_eq!(*pod.verdict().borrow(), Verdict::Agreed { why_none: None });
        pods.mount("a", "1", Some("t"));
        assert_eq!(next(&pods), None);
        judged(&pods, "1", Code::PermissionDenied, "no such pod");
        assert!(matches!(&*pod.verdict().borrow(), Verdict::Refused { reason, .. } if &**reason == "no such pod"));
        pods.mount("a", "1", Some("t"));
        assert_eq!(next(&pods).unwrap(), "up 1 t");
        assert!(matches!(&*pod.verdict().borrow(), Verdict::Waiting(Some(why)) if why.contains("no such pod")));
        judged(&pods, "gone", Code::Ok, "");
    }

    #[test]
    fn pods_that_are_gone_do_not_pile_up_while_the_link_is_away() {
        let pods = Pods::default();
        for n in 0..MAX_GONE + 10 {
            pods.mount("a", &n.to_string(), Some("t"));
            pods.unmount("a", &n.to_string());
        }
        assert!(pods.state().news.len() <= MAX_GONE + 1);
    }
}
