"""Parts that go away while two pods speak, over and over. Their SVIDs live for a minute, so that some fall due meanwhile; no handshake fails."""

import time
from contextlib import contextmanager

import lifecycle
from api import Refused
from place import Failure
from scenarios import pods
from scenarios.rules import Watcher, cluster_rule
from scenarios.world import SERVER, SYSTEM, TRUST_DOMAIN, expect, service_account_id

# How long something is away, in seconds: it is the fault itself, not a wait for something.
OUTAGE = 20
TTL = "60s"
RENEWED = 90
# After the attestor's return, for the object of a pod that has ended.
OBJECT_GOES = 5
DAEMONSET = f"/apis/apps/v1/namespaces/{SYSTEM}/daemonsets/mintmark-attestor"
STATEFULSET = f"/apis/apps/v1/namespaces/{SYSTEM}/statefulsets/mintmark-server"
WITHOUT = "mintmark.test/without-attestor"


@contextmanager
def traffic(world, ttl=TTL):
    """A pod on each node, one of them making twenty new connections a second to the other, besides one that stays. At the end no handshake has failed."""
    spoken = f"spiffe://{TRUST_DOMAIN}/traffic"
    world.apply(cluster_rule("traffic", "/traffic", {"app": "traffic"}, ttl=ttl), namespace=None)
    options = ("--allow-reconnects", "--timeout=60s")
    common = {"labels": {"app": "traffic"}, "restartPolicy": "Never"}
    server = world.start(pods.pod("server", ("/bin/interop", "mtls-server", "--listen=:8443", f"--authorize={spoken}", *options), node=world.nodes[0], **common))
    connect = f"--connect={server['status']['podIP']}:8443"
    world.start(pods.pod("client", ("/bin/interop", "mtls-client", connect, f"--expect={spoken}", "--rate=20", *options), node=world.nodes[1], **common))
    try:
        world.until("the two pods speak", lambda: serials(world, "peer"))
        yield
        world.exec("client", "/bin/busybox", "kill", "-INT", "1")
        phase = world.ended("client")
        seen = world.events_of("client")
        summary = next((event for event in seen if event["event"] == "summary"), None)
        failures = [event["error"] for event in seen if event["event"] == "failure"]
        if phase != "Succeeded" or failures or not summary or summary["handshakes"] < 20:
            raise Failure(f"of the client's handshakes failed {len(failures)}: {failures[:3]}; {summary}")
        world.say(f"{summary['handshakes']} handshakes, {len(summary['own_serials'])} and {len(summary['peer_serials'])} certificates")
        if failed := [event for event in world.events_of("server") if event["event"] == "failure"]:
            raise Failure(f"the server saw handshakes fail: {failed[:3]}")
    finally:
        for name in ("client", "server"):
            world.delete("pod", name)
        world.delete("clusterspiffeid", "traffic")


def serials(world, end):
    return [event["serial"] for event in world.events_of("client") if event["event"] == "svid" and event["end"] == end]


def renewed(world):
    """Both ends have another certificate than now."""
    before = {end: len(serials(world, end)) for end in ("own", "peer")}
    world.until("both ends have a new certificate", lambda: all(len(serials(world, end)) > count for end, count in before.items()), timeout=RENEWED)


def handshakes_go_on_while_the_attestors_are_restarted(world):
    with traffic(world):
        for node in world.nodes:
            before = world.attestor(node)
            world.delete("pod", before["metadata"]["name"], namespace=SYSTEM)
            world.until(f"another attestor is ready on {node}", lambda: (found := world.attestor(node)) and pods.uid(found) != pods.uid(before) and pods.is_ready(found))
        renewed(world)


def a_pods_open_volume_serves_again_after_its_attestor_was_restarted(world):
    """Pods that were there before, by socket and by file."""
    world.start(pods.pod("stays", node=world.nodes[0], attributes={"files": "true"}))
    before = world.attestor(world.nodes[0])
    world.delete("pod", before["metadata"]["name"], namespace=SYSTEM)
    world.until("another attestor is ready", lambda: (found := world.attestor(world.nodes[0])) and pods.uid(found) != pods.uid(before) and pods.is_ready(found))
    expect("what the pod is by its socket", [service_account_id()], pods.ids(world.x509("stays")))
    if "PRIVATE KEY" not in world.exec("stays", "/bin/busybox", "cat", f"{pods.MOUNT}/svid_key.pem").stdout:
        raise Failure("the key's file is gone")
    world.delete("pod", "stays")


def handshakes_go_on_while_the_server_is_away_for_20_seconds(world):
    with traffic(world):
        world.api.merge(STATEFULSET, {"spec": {"replicas": 0}})
        try:
            world.until("the server is gone", lambda: not world.pod(SERVER, SYSTEM))
            time.sleep(OUTAGE)
        finally:
            world.api.merge(STATEFULSET, {"spec": {"replicas": 1}})
        world.ready(SERVER, SYSTEM)
        renewed(world)
    world.start(pods.pod("later", node=world.nodes[0], attributes={"files": "true"}))
    world.delete("pod", "later")


def handshakes_go_on_while_a_kubelet_is_restarted(world):
    with traffic(world):
        for node in world.nodes:
            lifecycle.control_part("restart", f"{node}/kubelet")
        for pod in ("server", "client"):
            world.until(f"the kubelet of {pod} answers again", lambda: answers(world, pod))
        renewed(world)
        for node in world.nodes:
            name = f"fresh-{node}"
            world.start(pods.pod(name, node=node, attributes={"files": "true"}))
            expect(f"what a new pod on {node} is", [service_account_id()], pods.ids(world.x509(name)))
            world.delete("pod", name)


def answers(world, pod):
    """Whether the pod's kubelet hands out its log."""
    try:
        return world.log(pod)
    except Refused:
        return None


def a_stream_stays_open_while_the_server_is_restarted(world):
    """The attestor goes on with what it has: its pods hear nothing of it, not even that something was taken from them for a moment."""
    watchers = [Watcher(world, f"listens-{node}", node, {"app": "listens"}) for node in world.nodes]
    replace_server(world)
    for watcher in watchers:
        in_step(world, watcher)
        watcher.end()


def in_step(world, watcher):
    """The server has heard of the pod again, and what it says now reaches the pod."""
    world.until(f"the server has {watcher.name}'s entry again", lambda: world.entries(pods.uid(watcher.pod)))
    world.apply(cluster_rule("listens", "/heard/{{ .PodMeta.Name }}", {"app": "listens"}), namespace=None)
    try:
        watcher.sees(f"spiffe://{TRUST_DOMAIN}/heard/{watcher.name}")
    finally:
        world.delete("clusterspiffeid", "listens")
    watcher.sees(service_account_id())


def replace_server(world):
    before = pods.uid(world.pod(SERVER, SYSTEM))
    world.delete("pod", SERVER, namespace=SYSTEM)
    world.until("another server is ready", lambda: (found := world.pod(SERVER, SYSTEM)) and pods.uid(found) != before and pods.is_ready(found))


def pods_keep_their_identities_while_server_and_attestors_are_replaced_at_once(world):
    """As an upgrade does: no attestor has a pod's token then, and the server has forgotten which pods were vouched for. Handshakes go on, and who asks anew is answered."""
    with traffic(world, ttl="10m"):
        for workload in ("statefulset/mintmark-server", "daemonset/mintmark-attestor"):
            world.kubectl("rollout", "restart", workload, namespace=SYSTEM)
        for workload in ("statefulset/mintmark-server", "daemonset/mintmark-attestor"):
            world.kubectl("rollout", "status", "--timeout=100s", workload, namespace=SYSTEM)
        for node in world.nodes:
            expect(f"what the pod on {node} is, asked anew", [service_account_id()], pods.ids(world.x509(world.citizen(node))))


@contextmanager
def attestors_can_be_kept_away(world):
    """From nodes that are labelled so. The attestors are replaced for it, before and after."""
    affinity = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchExpressions": [{"key": WITHOUT, "operator": "DoesNotExist"}]}]}}}
    try:
        roll_out(world, affinity)
        yield
    finally:
        for node in world.nodes:
            world.api.merge(f"/api/v1/nodes/{node}", {"metadata": {"labels": {WITHOUT: None}}})
        roll_out(world, None)


def roll_out(world, affinity):
    world.api.merge(DAEMONSET, {"spec": {"template": {"spec": {"affinity": affinity}}}})
    world.kubectl("rollout", "status", "--timeout=100s", "daemonset/mintmark-attestor", namespace=SYSTEM)


def a_pod_deleted_while_its_attestor_restarts_ends_and_its_object_goes_within_5_s_of_its_return(world):
    node = world.nodes[1]
    world.start(pods.pod("crossing", node=node, attributes={"files": "true"}))
    before = world.attestor(node)
    world.delete("pod", before["metadata"]["name"], namespace=SYSTEM, wait=False)
    world.delete("pod", "crossing", wait=False)
    world.until("another attestor is ready", lambda: (found := world.attestor(node)) and pods.uid(found) != pods.uid(before) and pods.is_ready(found))
    took = until_the_object_goes(world, "crossing")
    if took > OBJECT_GOES:
        raise Failure(f"the object of the pod went {took:.1f} s after the attestor was ready, and {OBJECT_GOES} s were promised")


def until_the_object_goes(world, name):
    """Seconds."""
    begun = time.monotonic()
    world.until("the object of the pod goes", lambda: not world.pod(name))
    took = time.monotonic() - begun
    world.say(f"the object went {took:.1f} s after the attestor was ready")
    return took


def a_pod_deleted_while_its_attestor_is_away_for_20_seconds_ends_and_its_object_goes_in_no_longer_than_that(world):
    """A kubelet that could not take a volume away waits before it tries again, twice as long each time: up to as long as the attestor was away."""
    node = world.nodes[0]
    labelled = f"/api/v1/nodes/{node}"
    with attestors_can_be_kept_away(world):
        uid = pods.uid(world.start(pods.pod("stranded", node=node, attributes={"files": "true"})))
        world.api.merge(labelled, {"metadata": {"labels": {WITHOUT: "true"}}})
        world.until("the attestor is away", lambda: not attestors_on(world, node))
        world.delete("pod", "stranded", wait=False)
        left = time.monotonic()
        world.until("the pod's container has ended", lambda: has_ended(world.pod("stranded")))
        time.sleep(OUTAGE)
        if not world.pod("stranded"):
            raise Failure("the pod's object went without the driver: nothing was tested")
        world.until("the entry of the pod is gone, although its node says nothing", lambda: not world.entries(uid))
        world.api.merge(labelled, {"metadata": {"labels": {WITHOUT: None}}})
        world.until("the attestor is ready again", lambda: (found := world.attestor(node)) and pods.is_ready(found))
        away = time.monotonic() - left
        took = until_the_object_goes(world, "stranded")
        if took > away:
            raise Failure(f"the object of the pod went only {took:.1f} s after the attestor was ready again")


def attestors_on(world, node):
    """Also those that are ending."""
    return world.api.get(f"/api/v1/namespaces/{SYSTEM}/pods", labelSelector="app.kubernetes.io/name=mintmark-attestor", fieldSelector=f"spec.nodeName={node}")["items"]


def has_ended(pod):
    statuses = pod["status"].get("containerStatuses", []) if pod else []
    return bool(statuses) and all("terminated" in each["state"] for each in statuses)


PROMISES = [
    handshakes_go_on_while_the_attestors_are_restarted,
    a_pods_open_volume_serves_again_after_its_attestor_was_restarted,
    handshakes_go_on_while_the_server_is_away_for_20_seconds,
    handshakes_go_on_while_a_kubelet_is_restarted,
    a_stream_stays_open_while_the_server_is_restarted,
    pods_keep_their_identities_while_server_and_attestors_are_replaced_at_once,
    a_pod_deleted_while_its_attestor_restarts_ends_and_its_object_goes_within_5_s_of_its_return,
    a_pod_deleted_while_its_attestor_is_away_for_20_seconds_ends_and_its_object_goes_in_no_longer_than_that,
]
