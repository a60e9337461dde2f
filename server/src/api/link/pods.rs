//! What a node says of the pods that its kubelet has mounted a volume into, and what the server thinks of it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use mintmark_proto::attestor::{PodDown, PodJudged, PodUp};
use mintmark_runtime::crypto::SecretString;
use tonic::{Code, Status};

use super::super::Rooms;
use super::super::methods::Limit;
use super::super::status::{invalid, unavailable};
use super::session::Node;
use crate::attest::{PodClaim, PodEvidence, PodRefusal};
use crate::registry::Given;
use crate::roll::{About, Event, Uid, Write};

/// So many pods are judged at once for one node; when that many are, nothing more is read from it.
pub(super) const MAX_JUDGING: usize = 32;
/// So many pods of one node come in Hello, or are tried again when they could not be judged; a kubelet runs 110 by default.
const MAX_AGAIN: usize = 1_000;
/// The first wait before a pod is judged again, and the longest.
const AGAIN: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(10));
/// What a workload is told has no more bytes than this.
const MAX_MESSAGE: usize = 1_024;

/// Pods of one node that are being judged.
#[derive(Default)]
pub(super) struct Judging {
    /// The number of the latest word about each, by UID as the node has it: what an earlier word came to is of no interest.
    latest: HashMap<String, u64>,
    words: u64,
    /// How many are asked about for the first time.
    first: usize,
}

/// A node's word about a pod, on its way.
pub(super) struct Word {
    claim: Arc<PodClaim>,
    number: u64,
    wait: Option<Duration>,
}

/// What a word came to.
pub(super) struct Judged {
    word: Word,
    answer: PodJudged,
    /// It could not be found out, and may be soon.
    is_open: bool,
}

impl Judging {
    /// True when no more is to be read from the node.
    pub(super) fn is_full(&self) -> bool {
        self.first >= MAX_JUDGING
    }

    /// The node's word about a pod, if there is something to judge.
    pub(super) fn up(&mut self, up: PodUp) -> Word {
        self.words += 1;
        self.first += 1;
        self.latest.insert(up.pod_uid.clone(), self.words);
        Word {
            claim: Arc::new(claim(up)),
            number: self.words,
            wait: None,
        }
    }

    /// The node's pod is down.
    pub(super) fn down(&mut self, rooms: &Rooms, node: &Node, down: &PodDown) {
        self.latest.remove(&down.pod_uid);
        if let Ok(uid) = Uid::parse(&down.pod_uid) {
            rooms.pods.withdraw(&node.id, uid);
        }
    }

    /// What to tell the node, and what to try again.
    pub(super) fn done(&mut self, judged: Judged) -> (Option<PodJudged>, Option<Word>) {
        let Judged { word, answer, is_open } = judged;
        let is_first = word.wait.is_none();
        self.first -= usize::from(is_first);
        if self.latest.get(&answer.pod_uid) != Some(&word.number) {
            return (None, None);
        }
        if !is_open || self.latest.len() > MAX_AGAIN {
            self.latest.remove(&answer.pod_uid);
            return (Some(answer), None);
        }
        let wait = word.wait.map_or(AGAIN.0, |wait| (2 * wait).min(AGAIN.1));
        let again = Word {
            wait: Some(wait),
            ..word
        };
        (is_first.then_some(answer), Some(again))
    }
}

/// Judges a node's word about a pod.
pub(super) async fn judge(rooms: Rooms, node: Arc<Node>, word: Word) -> Judged {
    if let Some(wait) = word.wait {
        rooms.clock.sleep(wait).await;
    }
    let claim = &word.claim;
    if let Some(allowance) = &node.allowance
        && let Err(over) = allowance.limits.take(Limit::Sign, &allowance.key, 1).await
    {
        let why = format!(
            "too many requests for now: again in {} s",
            over.retry_after.as_secs() + 1
        );
        return open(word, Code::ResourceExhausted, &why);
    }
    let evidence = match claim.token.is_empty() {
        true => PodEvidence::judge_standing(&rooms.roll, &node.attested, claim).await,
        false => PodEvidence::judge(&rooms.roll, &node.attested, claim).await,
    };
    match evidence {
        Ok(evidence) => {
            let given = vouch(&rooms, &node, evidence);
            answer(word, 0, given.why_none.map(cut).unwrap_or_default(), false)
        }
        Err(refusal) => refused(&rooms, &node, word, &refusal),
    }
}

/// Judges the pods of Hello, by what is known now; what each is told.
///
/// # Errors
/// When too little is known: to work out the difference now would take away what may be right.
pub(super) fn standing(rooms: &Rooms, node: &Node, pods: Vec<PodUp>) -> Result<Vec<PodJudged>, Status> {
    if pods.len() > MAX_AGAIN {
        return Err(invalid(format!(
            "{} pods in Hello are more than {MAX_AGAIN}",
            pods.len()
        )));
    }
    let judged = pods.into_iter().map(|up| {
        let claim = claim(up);
        let (code, message) = match PodEvidence::standing(&rooms.roll, &node.attested, &claim) {
            Ok(evidence) => (Code::Ok, vouch(rooms, node, evidence).why_none.unwrap_or_default()),
            Err(refusal) if refusal.is_ours() => return Err(unavailable("no link yet", &refusal.to_string())),
            Err(refusal) => {
                tell_refusal(rooms, node, &claim, &refusal);
                (Code::PermissionDenied, refusal.to_string())
            }
        };
        Ok(PodJudged {
            pod_uid: claim.pod_uid,
            code: code as u32,
            message: cut(message),
        })
    });
    judged.collect()
}

fn claim(up: PodUp) -> PodClaim {
    PodClaim {
        pod_uid: up.pod_uid,
        namespace: up.namespace,
        name: up.name,
        service_account: up.service_account,
        token: SecretString::new(up.token),
    }
}

/// The pod has its identities from here on.
fn vouch(rooms: &Rooms, node: &Node, evidence: PodEvidence) -> Given {
    let given = rooms.pods.vouch(evidence.clone());
    tracing::info!(
        node = %node.id,
        pod = %evidence.pod(),
        namespace = &**evidence.namespace(),
        name = &**evidence.name(),
        witnesses = ?evidence.witnesses(),
        identities = given.ids.len(),
        "two witnesses vouch for a pod"
    );
    if let Some(why) = &given.why_none {
        tell_cluster(rooms, &evidence.pod().cluster, evidence.pod().uid, why);
    }
    given
}

fn open(word: Word, code: Code, why: &str) -> Judged {
    answer(word, code as u32, why.to_owned(), true)
}

fn answer(word: Word, code: u32, message: String, is_open: bool) -> Judged {
    let pod_uid = word.claim.pod_uid.clone();
    Judged {
        word,
        answer: PodJudged { pod_uid, code, message },
        is_open,
    }
}

fn refused(rooms: &Rooms, node: &Node, word: Word, refusal: &PodRefusal) -> Judged {
    let claim = &word.claim;
    let uid = Uid::parse(&claim.pod_uid).ok();
    if refusal.is_ours() {
        // What was found out before goes on.
        return match uid.and_then(|uid| rooms.pods.given(&node.id, uid)) {
            Some(given) => answer(word, 0, given.why_none.map(cut).unwrap_or_default(), false),
            None => open(word, Code::Unavailable, &refusal.to_string()),
        };
    }
    tell_refusal(rooms, node, claim, refusal);
    if let Some(uid) = uid {
        rooms.pods.withdraw(&node.id, uid);
    }
    answer(word, Code::PermissionDenied as u32, cut(refusal.to_string()), false)
}

/// A node's word is not believed: the log hears of it, and so does the pod when it is that node's. A node that talks of other nodes' pods writes nothing on them.
fn tell_refusal(rooms: &Rooms, node: &Node, claim: &PodClaim, refusal: &PodRefusal) {
    tracing::warn!(
        node = %node.id,
        pod = claim.pod_uid,
        namespace = claim.namespace,
        name = claim.name,
        reason = refusal.reason(),
        why = %refusal,
        "a node's word for a pod is not believed"
    );
    let (Some((cluster, asks)), Ok(uid)) = (rooms.pods.cluster_of(&node.id), Uid::parse(&claim.pod_uid)) else {
        return;
    };
    let is_on = |pod: &str| cluster.node(pod).is_some_and(|node| node.meta.uid == asks);
    if cluster.pod(uid).is_some_and(|pod| is_on(&pod.node)) {
        tell_cluster(rooms, cluster.name(), uid, &refusal.to_string());
    }
}

/// An Event on the pod: no identity, and why.
fn tell_cluster(rooms: &Rooms, cluster: &str, uid: Uid, why: &str) {
    let Some(cluster) = rooms.roll.cluster(cluster) else {
        return;
    };
    if let Some(pod) = cluster.pod(uid) {
        cluster.tell(Write::Event(Event {
            about: About::from(&*pod),
            is_warning: true,
            reason: "IdentityRefused",
            note: format!("no identity issued: {why}"),
        }));
    }
}

fn cut(mut text: String) -> String {
    if text.len() > MAX_MESSAGE {
        let end = (0..=MAX_MESSAGE).rev().find(|end| text.is_char_boundary(*end));
        text.truncate(end.unwrap_or_default());
        text.push('…');
    }
    text
}
