//! What the roll of a large cluster costs: `cargo bench -p mintmark-server --bench roll [-- PODS]`, 200,000 pods unless told otherwise.
//!
//! An API server in this process streams pods as a real one does, about 5 KB of JSON each, made as they are sent. Printed are the time until everything is listed, the memory that it takes, and how many
//! changes a second are followed; both sides share the machine's cores.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark has nobody to report to, and prints its figures"
)]
#![allow(clippy::disallowed_methods, reason = "it is its own server, in real time")]

use std::convert::Infallible;
use std::fmt::Write as _;
use std::time::Instant;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::response::Response;
use futures::StreamExt as _;
use futures::stream;
use mintmark_runtime::clock::Clock;
use mintmark_runtime::metrics::Metrics;
use mintmark_runtime::task::Supervisor;
use mintmark_server::roll::{ClusterSettings, Publishing, Roll, Uid};

const NODE: usize = 100;
const TEAM: usize = 40;
const CHANGES: usize = 100_000;
const CHUNK: usize = 64;

fn main() {
    // `cargo bench` adds flags of its own.
    let pods = std::env::args().find_map(|arg| arg.parse().ok()).unwrap_or(200_000);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(run(pods));
}

async fn run(pods: usize) {
    mintmark_runtime::crypto::install();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let (go, wait) = tokio::sync::watch::channel(false);
    let router = Router::new().fallback(answer).with_state((pods, wait));
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    let dir = tempfile::tempdir().unwrap();
    let kubeconfig = dir.path().join("kubeconfig");
    let text = format!(
        "{{apiVersion: v1, kind: Config, current-context: c, clusters: [{{name: c, cluster: {{server: 'http://{addr}'}}}}], \
         users: [{{name: c, user: {{}}}}], contexts: [{{name: c, context: {{cluster: c, user: c}}}}]}}"
    );
    std::fs::write(&kubeconfig, text).unwrap();
    let (supervisor, metrics) = (Supervisor::embedded(), Metrics::new("bench"));
    let settings = ClusterSettings {
        name: "bench".into(),
        kubeconfig: Some(kubeconfig),
        domain: "cluster.local".into(),
        publish: Publishing::default(),
    };
    let (before, began) = (resident(), Instant::now());
    let roll = Roll::start(vec![settings], None, &Clock::system(), &metrics, &supervisor)
        .await
        .unwrap();
    let cluster = roll.cluster("bench").unwrap();
    cluster.synced().await;
    let listed = began.elapsed().as_secs_f64();
    let held = cluster.pods().len();
    assert_eq!(held, pods);
    let size = event("ADDED", 0, 0).len();
    println!("{pods} pods of {size} bytes of JSON: listed in {listed:.1} s");
    let grown = resident() - before;
    println!(
        "memory: {:.0} MiB more than before, {:.0} bytes a pod",
        grown / 1048576.0,
        grown / pods as f64
    );

    let began = Instant::now();
    go.send(true).unwrap();
    let last = Uid::parse(&uid((CHANGES - 1) % pods)).unwrap();
    let mut feed = roll.subscribe();
    loop {
        feed.changed().await;
        feed.take();
        let pod = cluster.pod(last).unwrap();
        if pod
            .meta
            .labels
            .get("change")
            .is_some_and(|change| **change == *CHANGES.to_string())
        {
            break;
        }
    }
    let followed = CHANGES as f64 / began.elapsed().as_secs_f64();
    println!("{CHANGES} changes followed at {followed:.0} a second");
    let grown = resident() - before;
    println!("memory after them: {:.0} MiB more than before", grown / 1048576.0);
    supervisor.token().cancel();
}

/// Resident bytes of this process.
fn resident() -> f64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split(' ').nth(1).unwrap().parse::<f64>().unwrap() * 4096.0
}

async fn answer(
    State((pods, mut wait)): State<(usize, tokio::sync::watch::Receiver<bool>)>,
    request: Request,
) -> Response {
    let is_pods = request.uri().path() == "/api/v1/pods";
    let count = if is_pods { pods } else { 0 };
    let initial = stream::iter((0..count).step_by(CHUNK)).map(move |from| {
        let lines = (from..count.min(from + CHUNK)).flat_map(|n| event("ADDED", n, 0));
        Bytes::from_iter(lines)
    });
    let end = "{\"type\":\"BOOKMARK\",\"object\":{\"kind\":\"Pod\",\"apiVersion\":\"v1\",\"metadata\":{\"resourceVersion\":\"9\",\"annotations\":{\"k8s.io/initial-events-end\":\"true\"}}}}\n";
    let end = stream::iter([Bytes::from_static(end.as_bytes())]);
    let hold = stream::once(async move {
        // The other kinds never change.
        if !is_pods || wait.wait_for(|go| *go).await.is_err() {
            std::future::pending::<()>().await;
        }
        Bytes::new()
    });
    let changes = stream::iter((0..CHANGES).step_by(CHUNK)).map(move |from| {
        let lines = (from..CHANGES.min(from + CHUNK)).flat_map(|n| event("MODIFIED", n % pods, n + 1));
        Bytes::from_iter(lines)
    });
    let all = initial.chain(end).chain(hold).chain(changes).chain(stream::pending());
    Response::new(Body::from_stream(all.map(Ok::<_, Infallible>)))
}

fn uid(n: usize) -> String {
    format!("00000000-0000-4000-8000-{n:012}")
}

/// A pod as the API server sends one: of a Deployment, with a sidecar, volumes, probes, conditions and managed fields.
fn event(kind: &str, n: usize, change: usize) -> Vec<u8> {
    let (team, node, owner) = (n % TEAM, n / NODE, n / 20);
    let mut managed = String::new();
    for (manager, subresource) in [("kube-controller-manager", ""), ("kubelet", "status")] {
        write!(
            managed,
            r#"{{"manager":"{manager}","operation":"Update","apiVersion":"v1","time":"2026-11-24T10:00:00Z","fieldsType":"FieldsV1","subresource":"{subresource}","fieldsV1":{{"f:metadata":{{"f:generateName":{{}},"f:labels":{{".":{{}},"f:app":{{}},"f:team":{{}},"f:pod-template-hash":{{}}}},"f:ownerReferences":{{".":{{}},"k:{{\"uid\":\"x\"}}":{{}}}}}},"f:spec":{{"f:containers":{{"k:{{\"name\":\"app\"}}":{{".":{{}},"f:image":{{}},"f:imagePullPolicy":{{}},"f:name":{{}},"f:resources":{{}},"f:terminationMessagePath":{{}},"f:terminationMessagePolicy":{{}}}}}},"f:dnsPolicy":{{}},"f:enableServiceLinks":{{}},"f:restartPolicy":{{}},"f:schedulerName":{{}},"f:securityContext":{{}},"f:terminationGracePeriodSeconds":{{}}}}}}}},"#
        )
        .unwrap();
    }
    managed.pop();
    let container = |name: &str| {
        format!(
            r#"{{"name":"{name}","image":"registry.example.org/team-{team}/{name}:1.{team}.0","env":[{{"name":"POD_IP","valueFrom":{{"fieldRef":{{"apiVersion":"v1","fieldPath":"status.podIP"}}}}}},{{"name":"LEVEL","value":"info"}}],"resources":{{"limits":{{"cpu":"1","memory":"512Mi"}},"requests":{{"cpu":"100m","memory":"128Mi"}}}},"volumeMounts":[{{"name":"spiffe","mountPath":"/spiffe-workload-api","readOnly":true}},{{"name":"kube-api-access-x","readOnly":true,"mountPath":"/var/run/secrets/kubernetes.io/serviceaccount"}}],"livenessProbe":{{"httpGet":{{"path":"/live","port":8080,"scheme":"HTTP"}},"timeoutSeconds":1,"periodSeconds":10}},"terminationMessagePath":"/dev/termination-log","terminationMessagePolicy":"File","imagePullPolicy":"IfNotPresent","securityContext":{{"allowPrivilegeEscalation":false,"capabilities":{{"drop":["ALL"]}}}}}}"#
        )
    };
    let status = |name: &str| {
        format!(
            r#"{{"name":"{name}","state":{{"running":{{"startedAt":"2026-11-24T10:00:05Z"}}}},"lastState":{{}},"ready":true,"restartCount":0,"image":"registry.example.org/team-{team}/{name}:1.{team}.0","imageID":"registry.example.org/team-{team}/{name}@sha256:{team:064x}","containerID":"containerd://{n:060x}{}","started":true}}"#,
            &name[..3]
        )
    };
    format!(
        r#"{{"type":"{kind}","object":{{"kind":"Pod","apiVersion":"v1","metadata":{{"name":"service-{owner}-7d9c6b5f4-{n:05}","generateName":"service-{owner}-7d9c6b5f4-","namespace":"team-{team}","uid":"{}","resourceVersion":"{}","creationTimestamp":"2026-11-24T10:00:00Z","labels":{{"app":"service-{owner}","app.kubernetes.io/instance":"service-{owner}","change":"{change}","pod-template-hash":"7d9c6b5f4","team":"team-{team}","version":"v1"}},"annotations":{{"cni.projectcalico.org/podIP":"10.{}.{}.{}/32","prometheus.io/scrape":"true"}},"ownerReferences":[{{"apiVersion":"apps/v1","kind":"ReplicaSet","name":"service-{owner}-7d9c6b5f4","uid":"10000000-0000-4000-8000-{owner:012}","controller":true,"blockOwnerDeletion":true}}],"managedFields":[{managed}]}},"spec":{{"volumes":[{{"name":"spiffe","csi":{{"driver":"csi.mintmark.dev","readOnly":true}}}},{{"name":"kube-api-access-x","projected":{{"sources":[{{"serviceAccountToken":{{"expirationSeconds":3607,"path":"token"}}}}],"defaultMode":420}}}}],"containers":[{},{}],"restartPolicy":"Always","terminationGracePeriodSeconds":30,"dnsPolicy":"ClusterFirst","serviceAccountName":"service-{owner}","serviceAccount":"service-{owner}","nodeName":"node-{node}","securityContext":{{}},"schedulerName":"default-scheduler","tolerations":[{{"key":"node.kubernetes.io/not-ready","operator":"Exists","effect":"NoExecute","tolerationSeconds":300}}],"priority":0,"enableServiceLinks":true,"preemptionPolicy":"PreemptLowerPriority"}},"status":{{"phase":"Running","conditions":[{{"type":"Ready","status":"True","lastProbeTime":null,"lastTransitionTime":"2026-11-24T10:00:06Z"}}],"hostIP":"10.200.{}.{}","podIP":"10.{}.{}.{}","startTime":"2026-11-24T10:00:00Z","containerStatuses":[{},{}],"qosClass":"Burstable"}}}}}}
"#,
        uid(n),
        n + change + 10,
        n >> 16,
        n >> 8 & 255,
        n & 255,
        container("app"),
        container("proxy"),
        node >> 8,
        node & 255,
        n >> 16,
        n >> 8 & 255,
        n & 255,
        status("app"),
        status("proxy"),
    )
    .into_bytes()
}
