//! TokenReview: the API server's word on a service account's token.
//!
//! In: a token and the audiences of the door at which it was shown. Out: whose it is, which pod and node it is bound to; or a refusal. The token is sent to the API server and nowhere else: it is in no
//! log and no error, and the cache knows its digest.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use kube::Client;
use kube::client::Body;
use mintmark_runtime::clock::Clock;
use mintmark_runtime::task::Backoff;
use ring::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

use super::facts::Uid;
use super::metrics::RollMetrics;
use super::watch::in_full;

/// A longer token is none.
pub const MAX_TOKEN: usize = 16 << 10;
/// An answer is waited for no longer.
const DEADLINE: Duration = Duration::from_secs(5);
/// So many reviews of one cluster are under way at once; the others wait.
const AT_ONCE: usize = 32;
/// A good answer is believed for so many seconds, and never beyond the token's end.
const BELIEVED: i64 = 60;
/// A bad one for so many: it may be that a pod has only just come.
const REFUSED: i64 = 2;
/// So many answers are remembered.
const MAX_CACHED: usize = 20_000;
/// A larger answer is none.
const MAX_ANSWER: usize = 256 << 10;
/// What the API server says about a token is told no further than this.
const MAX_WHY: usize = 256;

const PATH: &str = "/apis/authentication.k8s.io/v1/tokenreviews";
const ACCOUNT: &str = "system:serviceaccount:";
const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";
const NODE_NAME: &str = "authentication.kubernetes.io/node-name";
const NODE_UID: &str = "authentication.kubernetes.io/node-uid";
const CREDENTIAL: &str = "authentication.kubernetes.io/credential-id";

/// What the API server vouches for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reviewed {
    /// The namespace of the service account.
    pub namespace: String,
    /// The service account.
    pub service_account: String,
    /// Its UID.
    pub service_account_uid: Option<Uid>,
    /// The pod that the token is bound to; it ends with it.
    pub pod: Option<Bound>,
    /// The node that the pod was bound to when the token was made.
    pub node: Option<Bound>,
    /// The token's own number, `JTI=…`, as the API server's audit log has it; empty where it has none.
    pub credential_id: String,
}

/// What a token is bound to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bound {
    /// The name.
    pub name: String,
    /// The UID.
    pub uid: Uid,
}

/// Why a token proves nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReviewError {
    /// It cannot be a token.
    #[error("that is no service account token: {0}")]
    Malformed(&'static str),
    /// It was made for another door.
    #[error("the token is made for the audiences {found:?}, and one of {wanted:?} is needed")]
    Audience {
        /// Whom it says it is for.
        found: Vec<String>,
        /// Whom it should be for.
        wanted: Vec<String>,
    },
    /// Its time is over.
    #[error("the token has expired")]
    Expired,
    /// The API server does not accept it: forged, of another cluster, or bound to something that is gone.
    #[error("the API server does not accept the token: {0}")]
    NotAuthenticated(String),
    /// It is somebody else's.
    #[error("the token is not that of a service account, but of {0:?}")]
    NotAServiceAccount(String),
    /// There is no answer.
    #[error("the API server does not review tokens now: {0}")]
    Unavailable(String),
}

impl ReviewError {
    /// A short name for metrics and logs.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Malformed(_) => "token_malformed",
            Self::Audience { .. } => "token_audience",
            Self::Expired => "token_expired",
            Self::NotAuthenticated(_) => "token_not_authenticated",
            Self::NotAServiceAccount(_) => "token_not_of_a_service_account",
            Self::Unavailable(_) => "token_review_unavailable",
        }
    }

    /// Whether it may be another answer in a moment, and is not the token's fault.
    pub fn is_ours(&self) -> bool {
        matches!(self, Self::Unavailable(_))
    }
}

type Answer = Result<Arc<Reviewed>, ReviewError>;

/// Asks one cluster's API server.
pub(super) struct Reviewer {
    cluster: String,
    client: Client,
    clock: Clock,
    metrics: RollMetrics,
    slots: Semaphore,
    cache: Mutex<HashMap<[u8; 32], (i64, Answer)>>,
}

#[derive(Serialize)]
struct Request<'a> {
    #[serde(rename = "apiVersion")]
    api_version: &'static str,
    kind: &'static str,
    spec: Spec<'a>,
}

#[derive(Serialize)]
struct Spec<'a> {
    token: &'a str,
    audiences: &'a [String],
}

#[derive(Deserialize)]
struct Response {
    #[serde(default)]
    status: Status,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Status {
    authenticated: bool,
    user: User,
    audiences: Option<Vec<String>>,
    error: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct User {
    username: String,
    uid: String,
    extra: Option<HashMap<String, Vec<String>>>,
}

/// What a token says of itself. Nobody has verified it: it explains a refusal, and shortens the time for which a good answer is believed.
#[derive(Default, Deserialize)]
struct Claims {
    #[serde(default)]
    exp: Option<i64>,
    #[serde(default)]
    aud: Option<Audiences>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audiences {
    One(String),
    Many(Vec<String>),
}

impl Reviewer {
    pub(super) fn new(cluster: &str, client: Client, clock: Clock, metrics: RollMetrics) -> Self {
        Self {
            cluster: cluster.to_owned(),
            client,
            clock,
            metrics,
            slots: Semaphore::new(AT_ONCE),
            cache: Mutex::default(),
        }
    }

    /// Whose token this is, if it is good at a door of these audiences.
    pub(super) async fn review(&self, token: &str, audiences: &[String]) -> Answer {
        let claims = parse(token)?;
        let key = digest(token, audiences);
        if let Some(answer) = self.cached(&key) {
            self.metrics.reviewed(&self.cluster, "cached");
            return answer;
        }
        let began = self.clock.instant();
        let answer = self.clock.timeout(DEADLINE, self.ask(token, audiences)).await;
        let answer =
            answer.unwrap_or_else(|late| Err(ReviewError::Unavailable(format!("no answer within {:?}", late.0))));
        self.metrics.review_took(&self.cluster, &self.clock, began);
        let now = self.clock.unix();
        let answer = answer
            .and_then(|status| judge(status, audiences))
            .map_err(|error| explain(error, &claims, audiences, now));
        let result = answer.as_ref().map_or_else(ReviewError::reason, |_| "ok");
        self.metrics.reviewed(&self.cluster, result);
        let until = match &answer {
            // A token that does not tell its end is asked about each time.
            Ok(_) => claims.exp.map_or(now, |end| end.min(now + BELIEVED)),
            Err(error) if error.is_ours() => now,
            Err(_) => now + REFUSED,
        };
        self.remember(key, until, answer.clone());
        answer
    }

    async fn ask(&self, token: &str, audiences: &[String]) -> Result<Status, ReviewError> {
        let unavailable = |why: String| ReviewError::Unavailable(why.chars().take(MAX_WHY).collect());
        let _slot = self.slots.acquire().await.expect("nobody closes it");
        let review = Request {
            api_version: "authentication.k8s.io/v1",
            kind: "TokenReview",
            spec: Spec { token, audiences },
        };
        let review = serde_json::to_vec(&review).expect("text is JSON");
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
        loop {
            let request = http::Request::post(PATH)
                .header(http::header::CONTENT_TYPE, "application/json")
                .header(http::header::ACCEPT, "application/json")
                .body(Body::from(review.clone()))
                .expect("the parts are constant");
            // Not by the client's typed call, which would log what it cannot read, and the answer repeats the token.
            let response = self
                .client
                .send(request)
                .await
                .map_err(|error| unavailable(in_full(&error)))?;
            let (parts, body) = response.into_parts();
            let body = axum::body::to_bytes(axum::body::Body::new(body), MAX_ANSWER).await;
            match parts.status.as_u16() {
                200..=299 => {
                    let body = body.map_err(|error| unavailable(in_full(&error)))?;
                    // serde's own words could quote the answer.
                    let parsed: Result<Response, _> = serde_json::from_slice(&body);
                    return parsed
                        .map(|response| response.status)
                        .map_err(|_| unavailable("its answer is no TokenReview".into()));
                }
                429 | 503 | 504 => {
                    let told = parts.headers.get(http::header::RETRY_AFTER);
                    let told = told.and_then(|value| value.to_str().ok()?.parse().ok());
                    self.clock
                        .sleep(told.map_or_else(|| backoff.next_wait(), Duration::from_secs))
                        .await;
                }
                403 => {
                    return Err(unavailable(
                        "it forbids this server to create tokenreviews (authentication.k8s.io)".into(),
                    ));
                }
                code => return Err(unavailable(format!("it answered {code}"))),
            }
        }
    }

    fn cached(&self, key: &[u8; 32]) -> Option<Answer> {
        let now = self.clock.unix();
        let cache = self.cache();
        let (until, answer) = cache.get(key)?;
        (*until > now).then(|| answer.clone())
    }

    fn remember(&self, key: [u8; 32], until: i64, answer: Answer) {
        let now = self.clock.unix();
        if until <= now {
            return;
        }
        let mut cache = self.cache();
        if cache.len() >= MAX_CACHED {
            cache.retain(|_, (until, _)| *until > now);
        }
        if cache.len() < MAX_CACHED {
            cache.insert(key, (until, answer));
        }
    }

    fn cache(&self) -> MutexGuard<'_, HashMap<[u8; 32], (i64, Answer)>> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What was reviewed, if it is good at this door.
fn judge(status: Status, audiences: &[String]) -> Answer {
    if !status.authenticated {
        let why = status.error.chars().take(MAX_WHY).collect();
        return Err(ReviewError::NotAuthenticated(why));
    }
    // An API server that knows nothing of audiences names none, and has checked that the token is for itself.
    let found = status.audiences.unwrap_or_default();
    if !found.iter().any(|audience| audiences.contains(audience)) {
        return Err(ReviewError::Audience {
            found,
            wanted: audiences.to_vec(),
        });
    }
    let User { username, uid, extra } = status.user;
    let account = username.strip_prefix(ACCOUNT).and_then(|rest| rest.split_once(':'));
    let account = account.filter(|(namespace, name)| !namespace.is_empty() && !name.is_empty() && !name.contains(':'));
    let Some((namespace, service_account)) = account else {
        return Err(ReviewError::NotAServiceAccount(
            username.chars().take(MAX_WHY).collect(),
        ));
    };
    let extra = extra.unwrap_or_default();
    let one = |key: &str| match extra.get(key).map(Vec::as_slice) {
        Some([one]) => Some(one.as_str()),
        _ => None,
    };
    let bound = |name: &str, uid: &str| {
        Some(Bound {
            name: one(name)?.to_owned(),
            uid: Uid::parse(one(uid)?).ok()?,
        })
    };
    Ok(Arc::new(Reviewed {
        namespace: namespace.to_owned(),
        service_account: service_account.to_owned(),
        service_account_uid: Uid::parse(&uid).ok(),
        pod: bound(POD_NAME, POD_UID),
        node: bound(NODE_NAME, NODE_UID),
        credential_id: one(CREDENTIAL).unwrap_or_default().to_owned(),
    }))
}

/// A refusal in the words that help most.
fn explain(error: ReviewError, claims: &Claims, wanted: &[String], now: i64) -> ReviewError {
    if !matches!(error, ReviewError::NotAuthenticated(_)) {
        return error;
    }
    let found = match &claims.aud {
        Some(Audiences::One(audience)) => std::slice::from_ref(audience),
        Some(Audiences::Many(audiences)) => audiences,
        None => &[],
    };
    if claims.exp.is_some_and(|end| end <= now) {
        ReviewError::Expired
    } else if !found.is_empty() && !found.iter().any(|audience| wanted.contains(audience)) {
        let found = found
            .iter()
            .take(8)
            .map(|audience| audience.chars().take(MAX_WHY).collect());
        ReviewError::Audience {
            found: found.collect(),
            wanted: wanted.to_vec(),
        }
    } else {
        error
    }
}

/// What a token says of itself, if it has the form of one.
fn parse(token: &str) -> Result<Claims, ReviewError> {
    if token.len() > MAX_TOKEN {
        return Err(ReviewError::Malformed("it is longer than 16 KiB"));
    }
    let is_legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    let parts: Vec<_> = token.split('.').collect();
    let [_, claims, _] = parts[..] else {
        return Err(ReviewError::Malformed("it is not three parts with dots between"));
    };
    if parts.iter().any(|part| part.is_empty() || !part.bytes().all(is_legal)) {
        return Err(ReviewError::Malformed("a part of it is not base64url"));
    }
    let claims = BASE64
        .decode(claims)
        .ok()
        .and_then(|claims| serde_json::from_slice(&claims).ok());
    claims.ok_or(ReviewError::Malformed("its claims are not JSON"))
}

fn digest(token: &str, audiences: &[String]) -> [u8; 32] {
    let mut context = Context::new(&SHA256);
    for audience in audiences {
        context.update(audience.as_bytes());
        context.update(&[0]);
    }
    context.update(&[0]);
    context.update(token.as_bytes());
    let digest = context.finish();
    digest.as_ref().try_into().expect("SHA-256 has 32 bytes")
}
