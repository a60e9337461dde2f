//! A Kubernetes API server that does what the test says: lists, watches from a version, streams lists, reviews tokens, and fails on demand. It keeps everything that it was asked.

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use futures::stream;
use http::{StatusCode, header};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::world::in_time;

pub(crate) const PODS: &str = "/api/v1/pods";
pub(crate) const NODES: &str = "/api/v1/nodes";
pub(crate) const NAMESPACES: &str = "/api/v1/namespaces";
pub(crate) const ACCOUNTS: &str = "/api/v1/serviceaccounts";
pub(crate) const SLICES: &str = "/apis/discovery.k8s.io/v1/endpointslices";
pub(crate) const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
pub(crate) const SPIFFE_IDS: &str = "/apis/spire.spiffe.io/v1alpha1/clusterspiffeids";
pub(crate) const REVIEWS: &str = "/apis/authentication.k8s.io/v1/tokenreviews";

/// The API server. Ends with the test.
pub(crate) struct Kubernetes {
    shared: Arc<Shared>,
    dir: TempDir,
    task: JoinHandle<()>,
}

struct Shared {
    state: Mutex<Script>,
    /// Grows with each change: watches look again.
    changed: watch::Sender<u64>,
}

struct Script {
    version: u64,
    things: HashMap<String, Things>,
    reviews: HashMap<String, Value>,
    asked: Vec<Asked>,
    told: Vec<(String, Value)>,
    /// Answered instead of what was asked, for as long as it is set: status and `Retry-After`.
    broken: Option<(u16, Option<u64>)>,
    /// The same for one path.
    spoilt: HashMap<String, u16>,
    /// Whoever asks waits for an answer, and watches say nothing.
    mute: bool,
    /// What there is in the versions of an API whose kinds are looked up.
    kinds: HashMap<String, Vec<&'static str>>,
    streams: bool,
    /// Watches of an older number end.
    epoch: u64,
}

#[derive(Default)]
struct Things {
    objects: BTreeMap<String, Value>,
    log: Vec<(u64, &'static str, Value)>,
    /// Versions before this one are forgotten.
    oldest: u64,
}

/// One call.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) path: String,
    pub(crate) query: HashMap<String, String>,
}

impl Drop for Kubernetes {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The number as a UID.
pub(crate) fn uid(n: u32) -> String {
    format!("00000000-0000-4000-8000-{n:012}")
}

/// Metadata of an object.
pub(crate) fn named(namespace: &str, name: &str, n: u32) -> Value {
    let mut meta = json!({"name": name, "uid": uid(n), "labels": {"name": name}});
    if !namespace.is_empty() {
        meta["namespace"] = namespace.into();
    }
    json!({"metadata": meta})
}

/// A pod that runs on a node.
pub(crate) fn pod(namespace: &str, name: &str, n: u32, node: &str) -> Value {
    let mut pod = named(namespace, name, n);
    pod["spec"] =
        json!({"nodeName": node, "serviceAccountName": "web", "containers": [{"name": "app", "image": "app:1"}]});
    pod["status"] = json!({"phase": "Running", "hostIP": "198.18.0.2", "podIP": "10.0.0.9"});
    pod
}

/// What TokenReview says of a good token of a pod on a node.
pub(crate) fn good(audience: &str, account: &str, pod: (&str, u32), node: (&str, u32)) -> Value {
    json!({
        "authenticated": true,
        "audiences": [audience],
        "user": {
            "username": format!("system:serviceaccount:{account}"),
            "uid": uid(900),
            "groups": ["system:serviceaccounts"],
            "extra": {
                "authentication.kubernetes.io/pod-name": [pod.0],
                "authentication.kubernetes.io/pod-uid": [uid(pod.1)],
                "authentication.kubernetes.io/node-name": [node.0],
                "authentication.kubernetes.io/node-uid": [uid(node.1)],
                "authentication.kubernetes.io/credential-id": ["JTI=1"],
            },
        },
    })
}

/// A token that says this of itself; its signature is for the API server to judge.
pub(crate) fn token(name: &str, audience: &str, expires_at: i64) -> String {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
    let claims = json!({"sub": name, "aud": [audience], "exp": expires_at});
    format!("e30.{}.{}", BASE64.encode(claims.to_string()), BASE64.encode(name))
}

impl Kubernetes {
    /// An API server that knows nothing.
    pub(crate) async fn start() -> Self {
        let shared = Arc::new(Shared {
            state: Mutex::new(Script {
                version: 100,
                things: HashMap::new(),
                reviews: HashMap::new(),
                asked: Vec::new(),
                told: Vec::new(),
                broken: None,
                spoilt: HashMap::new(),
                mute: false,
                kinds: HashMap::new(),
                streams: true,
                epoch: 0,
            }),
            changed: watch::Sender::new(0),
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let router = Router::new().fallback(answer).with_state(Arc::clone(&shared));
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        let dir = tempfile::tempdir().unwrap();
        let kubeconfig = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": {"server": format!("http://{addr}")}}],
            "users": [{"name": "test", "user": {}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        });
        std::fs::write(dir.path().join("kubeconfig"), kubeconfig.to_string()).unwrap();
        Self { shared, dir, task }
    }

    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.dir.path().join("kubeconfig")
    }

    fn script(&self) -> MutexGuard<'_, Script> {
        self.shared.state.lock().unwrap()
    }

    fn change<T>(&self, change: impl FnOnce(&mut Script) -> T) -> T {
        let done = change(&mut self.script());
        self.shared.changed.send_modify(|version| *version += 1);
        done
    }

    /// Makes an object, or changes it.
    pub(crate) fn put(&self, path: &str, object: Value) {
        self.change(|script| script.put(path, object));
    }

    /// What it has at this path.
    pub(crate) fn objects(&self, path: &str) -> Vec<Value> {
        let script = self.script();
        let things = script.things.get(path).into_iter();
        things.flat_map(|things| things.objects.values()).cloned().collect()
    }

    /// Says of a version of an API, `certificates.k8s.io/v1`, that it has these kinds.
    pub(crate) fn has(&self, api: &str, kinds: &[&'static str]) {
        self.script().kinds.insert(format!("/apis/{api}"), kinds.to_vec());
    }

    /// Deletes an object.
    pub(crate) fn delete(&self, path: &str, object: &Value) {
        self.change(|script| {
            script.version += 1;
            let version = script.version;
            let things = script.things.get_mut(path).unwrap();
            let mut object = things.objects.remove(&key(object)).unwrap();
            object["metadata"]["resourceVersion"] = version.to_string().into();
            things.log.push((version, "DELETED", object));
        });
    }

    /// Defines a kind of objects.
    pub(crate) fn define(&self, name: &str) -> Value {
        let definition = named("", name, 800);
        self.put(DEFINITIONS, definition.clone());
        definition
    }

    /// Ends all watches.
    pub(crate) fn cut(&self) {
        self.change(|script| script.epoch += 1);
    }

    /// Forgets what was: whoever goes on from a version before now is told that it is too old.
    pub(crate) fn compact(&self, path: &str) {
        self.change(|script| {
            let version = script.version;
            let things = script.things.entry(path.to_owned()).or_default();
            things.oldest = version;
            things.log.clear();
        });
    }

    /// Lists come by pages alone.
    pub(crate) fn without_streams(&self) {
        self.script().streams = false;
    }

    /// Answers everything with this status from now on; ends all watches.
    pub(crate) fn break_with(&self, status: u16, retry_after: Option<u64>) {
        self.change(|script| {
            script.broken = Some((status, retry_after));
            script.epoch += 1;
        });
    }

    /// Answers this path with this status from now on.
    pub(crate) fn spoil(&self, path: &str, status: u16) {
        self.script().spoilt.insert(path.to_owned(), status);
    }

    /// Answers what is asked of this path again.
    pub(crate) fn unspoil(&self, path: &str) {
        self.script().spoilt.remove(path);
    }

    /// Says nothing any more, neither to who asks nor to who watches, and breaks no connection.
    pub(crate) fn fall_silent(&self) {
        self.script().mute = true;
    }

    /// Answers again. Whoever was left without an answer gets none.
    pub(crate) fn mend(&self) {
        self.change(|script| (script.broken, script.mute) = (None, false));
    }

    /// Says this of a token.
    pub(crate) fn review(&self, token: &str, status: Value) {
        self.script().reviews.insert(token.to_owned(), status);
    }

    /// What was asked of this path, in order.
    pub(crate) fn asked(&self, path: &str) -> Vec<Asked> {
        let script = self.script();
        script
            .asked
            .iter()
            .filter(|asked| asked.path == path)
            .cloned()
            .collect()
    }

    /// What it was told and took, once it is so much: method and path, and the body.
    pub(crate) async fn told(&self, times: usize) -> Vec<(String, Value)> {
        let mut changed = self.shared.changed.subscribe();
        in_time(changed.wait_for(|_| self.script().told.len() >= times))
            .await
            .unwrap();
        self.script().told.clone()
    }

    /// Waits until this path was asked so many times.
    pub(crate) async fn asked_times(&self, path: &str, times: usize) {
        let mut changed = self.shared.changed.subscribe();
        in_time(changed.wait_for(|_| self.asked(path).len() >= times))
            .await
            .unwrap();
    }
}

impl Script {
    fn put(&mut self, path: &str, mut object: Value) {
        self.version += 1;
        let version = self.version;
        object["metadata"]["resourceVersion"] = version.to_string().into();
        let things = self.things.entry(path.to_owned()).or_default();
        let old = things.objects.insert(key(&object), object.clone());
        let kind = if old.is_some() { "MODIFIED" } else { "ADDED" };
        things.log.push((version, kind, object));
    }

    /// As the API server applies: what is not named stays, and what is as it was is no change.
    fn apply(&mut self, path: &str, object: Value) {
        let (collection, _) = path.rsplit_once('/').unwrap();
        let namespace = path
            .split_once("/namespaces/")
            .map(|(_, rest)| rest.split('/').next().unwrap());
        let mut object = object;
        if let Some(namespace) = namespace {
            object["metadata"]["namespace"] = namespace.into();
        }
        let old = self
            .things
            .get(collection)
            .and_then(|things| things.objects.get(&key(&object)));
        let mut new = old.cloned().unwrap_or_else(|| json!({}));
        merge(&mut new, &object);
        if old != Some(&new) {
            self.put(collection, new);
        }
    }
}

fn merge(into: &mut Value, from: &Value) {
    match (into.as_object_mut(), from.as_object()) {
        (Some(into), Some(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        _ => *into = from.clone(),
    }
}

fn key(object: &Value) -> String {
    let part = |name: &str| object["metadata"][name].as_str().unwrap_or_default().to_owned();
    format!("{}/{}", part("namespace"), part("name"))
}

fn refused(status: u16, message: &str) -> Response {
    let body = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": status, "reason": "Test", "message": message});
    let status = StatusCode::from_u16(status).unwrap();
    (status, [(header::CONTENT_TYPE, "application/json")], body.to_string()).into_response()
}

async fn answer(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let path = request.uri().path().to_owned();
    // Nothing else that is asked here needs escapes.
    let pairs = request.uri().query().unwrap_or_default().split('&');
    let pairs = pairs.filter_map(|pair| pair.split_once('='));
    let query: HashMap<_, _> = pairs
        .map(|(key, value)| (key.to_owned(), value.replace("%3D", "=").replace("%3A", ":")))
        .collect();
    let (broken, mute) = {
        let mut script = shared.state.lock().unwrap();
        let query = query.clone();
        script.asked.push(Asked {
            path: path.clone(),
            query,
        });
        let spoilt = script.spoilt.get(&path).map(|status| (*status, None));
        (script.broken.or(spoilt), script.mute)
    };
    shared.changed.send_modify(|version| *version += 1);
    if mute {
        return std::future::pending().await;
    }
    if let Some((status, retry_after)) = broken {
        let mut response = refused(status, "broken by the test");
        if let Some(seconds) = retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
        }
        return response;
    }
    if path == REVIEWS {
        let body = axum::body::to_bytes(request.into_body(), 1 << 20).await.unwrap();
        return review(&shared, &serde_json::from_slice(&body).unwrap());
    }
    if request.method() != http::Method::GET {
        let told = format!("{} {path}", request.method());
        let is_applied = request
            .headers()
            .get(header::CONTENT_TYPE)
            .is_some_and(|kind| kind == "application/apply-patch+yaml");
        let body = axum::body::to_bytes(request.into_body(), 1 << 20).await.unwrap();
        let body: Value = serde_json::from_slice(&body).unwrap();
        let mut script = shared.state.lock().unwrap();
        if is_applied {
            script.apply(&path, body.clone());
        }
        script.told.push((told, body));
        drop(script);
        shared.changed.send_modify(|version| *version += 1);
        return (StatusCode::CREATED, "{}").into_response();
    }
    if path.starts_with("/apis/certificates.k8s.io/") && path.matches('/').count() == 3 {
        return kinds(&shared, &path);
    }
    let is_metadata = request
        .headers()
        .get(header::ACCEPT)
        .is_some_and(|accept| accept.to_str().unwrap().contains("PartialObjectMetadata"));
    match query.contains_key("watch") {
        true => follow(shared, path, &query, is_metadata),
        false => list(&shared, &path, &query, is_metadata),
    }
}

fn kinds(shared: &Shared, path: &str) -> Response {
    let script = shared.state.lock().unwrap();
    let Some(kinds) = script.kinds.get(path) else {
        return refused(404, "the server could not find the requested resource");
    };
    let kinds: Vec<_> = kinds
        .iter()
        .map(|name| json!({"name": name, "singularName": "", "namespaced": false, "kind": name, "verbs": ["get"]}))
        .collect();
    let version = path.strip_prefix("/apis/").unwrap();
    let list = json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": kinds});
    (StatusCode::OK, list.to_string()).into_response()
}

fn review(shared: &Shared, asked: &Value) -> Response {
    let script = shared.state.lock().unwrap();
    let token = asked["spec"]["token"].as_str().unwrap();
    let unknown = json!({"authenticated": false, "error": "invalid bearer token"});
    let mut status = script.reviews.get(token).cloned().unwrap_or(unknown);
    // As the API server does: what it answers are the audiences that both sides name.
    if let (Some(found), Some(wanted)) = (status["audiences"].as_array(), asked["spec"]["audiences"].as_array()) {
        let both: Vec<_> = found.iter().filter(|one| wanted.contains(one)).cloned().collect();
        status = match both.is_empty() {
            true => json!({"authenticated": false, "error": "token audiences are invalid for the target audiences"}),
            false => {
                status["audiences"] = both.into();
                status
            }
        };
    }
    let answer = json!({"kind": "TokenReview", "apiVersion": "authentication.k8s.io/v1", "spec": asked["spec"], "status": status});
    (StatusCode::CREATED, answer.to_string()).into_response()
}

fn shown(object: &Value, is_metadata: bool) -> Value {
    match is_metadata {
        true => {
            json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"]})
        }
        false => object.clone(),
    }
}

fn is_defined(script: &Script, path: &str) -> bool {
    let Some((group, plural)) = path
        .strip_prefix("/apis/")
        .and_then(|rest| rest.split_once("/v1alpha1/"))
    else {
        return true;
    };
    let definitions = script.things.get(DEFINITIONS);
    definitions.is_some_and(|things| things.objects.contains_key(&format!("/{plural}.{group}")))
}

/// Whether it is of the one name that is asked for.
fn is_selected(query: &HashMap<String, String>, object: &Value) -> bool {
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    query
        .get("fieldSelector")
        .is_none_or(|wanted| *wanted == format!("metadata.name={name}"))
}

fn list(shared: &Shared, path: &str, query: &HashMap<String, String>, is_metadata: bool) -> Response {
    let script = shared.state.lock().unwrap();
    if !is_defined(&script, path) {
        return refused(404, "the server could not find the requested resource");
    }
    // Two on a page, so that small tests have several.
    let from: usize = query.get("continue").map_or(0, |token| token.parse().unwrap());
    let objects: Vec<_> = script
        .things
        .get(path)
        .into_iter()
        .flat_map(|things| things.objects.values())
        .filter(|object| is_selected(query, object))
        .collect();
    let page: Vec<_> = objects
        .iter()
        .skip(from)
        .take(2)
        .map(|object| shown(object, is_metadata))
        .collect();
    let mut metadata = json!({"resourceVersion": script.version.to_string()});
    if from + page.len() < objects.len() {
        metadata["continue"] = (from + page.len()).to_string().into();
    }
    let body = json!({"kind": "List", "apiVersion": "v1", "metadata": metadata, "items": page});
    (StatusCode::OK, body.to_string()).into_response()
}

fn follow(shared: Arc<Shared>, path: String, query: &HashMap<String, String>, is_metadata: bool) -> Response {
    let says = |key: &str| query.get(key).map(String::as_str).unwrap_or_default();
    let initial = says("sendInitialEvents") == "true";
    let (since, epoch, first) = {
        let script = shared.state.lock().unwrap();
        if !is_defined(&script, &path) {
            return refused(404, "the server could not find the requested resource");
        }
        if initial && !script.streams {
            let message = "sendInitialEvents: Forbidden: sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled";
            return refused(422, message);
        }
        let things = script.things.get(&*path);
        let mut first = Vec::new();
        let since = match initial {
            true => {
                assert_eq!(says("resourceVersionMatch"), "NotOlderThan");
                assert_eq!(says("allowWatchBookmarks"), "true");
                for object in things.into_iter().flat_map(|things| things.objects.values()) {
                    if is_selected(query, object) {
                        first.push(event("ADDED", &shown(object, is_metadata)));
                    }
                }
                let end = json!({
                    "kind": "Bookmark", "apiVersion": "v1",
                    "metadata": {"resourceVersion": script.version.to_string(), "annotations": {"k8s.io/initial-events-end": "true"}},
                });
                first.push(event("BOOKMARK", &end));
                script.version
            }
            false => says("resourceVersion").parse().unwrap(),
        };
        if things.is_some_and(|things| since < things.oldest) {
            let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 410, "reason": "Expired", "message": "too old resource version"});
            return (StatusCode::OK, event("ERROR", &status)).into_response();
        }
        (since, script.epoch, first)
    };
    let (changed, query) = (shared.changed.subscribe(), query.clone());
    let start = (shared, changed, path, since, first);
    let events = stream::unfold(start, move |(shared, mut changed, path, since, mut ready)| {
        let query = query.clone();
        async move {
            // Once it has fallen silent a stream never speaks again.
            let mut is_mute = false;
            loop {
                if !ready.is_empty() {
                    let chunk: Vec<u8> = ready.drain(..).flatten().collect();
                    let chunk = Ok::<_, Infallible>(Bytes::from(chunk));
                    return Some((chunk, (shared, changed, path, since, ready)));
                }
                changed.borrow_and_update();
                let next = {
                    let script = shared.state.lock().unwrap();
                    if script.epoch != epoch {
                        return None;
                    }
                    is_mute |= script.mute;
                    let log = script.things.get(&*path).into_iter().flat_map(|things| &things.log);
                    let mut new =
                        log.filter(|(version, _, object)| *version > since && !is_mute && is_selected(&query, object));
                    new.next()
                        .map(|(version, kind, object)| (*version, event(kind, &shown(object, is_metadata))))
                };
                match next {
                    Some((version, event)) => {
                        let chunk = Ok(Bytes::from(event));
                        return Some((chunk, (shared, changed, path, version, ready)));
                    }
                    None => changed.changed().await.ok()?,
                }
            }
        }
    });
    Response::new(Body::from_stream(events))
}

fn event(kind: &str, object: &Value) -> Vec<u8> {
    // The type first, as the API server writes it.
    format!("{{\"type\":\"{kind}\",\"object\":{object}}}\n").into_bytes()
}
