"""Pods of every kind, from their first instruction to after their end."""

import json

from place import Failure, run
from scenarios import pods
from scenarios.credentials import read
from scenarios.world import NAMESPACE, expect, service_account_id

ONCE = ("/bin/interop", "x509", "--timeout=20s")
FILES = {"files": "true"}


def an_init_container_has_the_identity_already(world):
    made = pods.pod("initial", node=world.nodes[0])
    made["spec"]["initContainers"] = [pods.container(ONCE, name="first")]
    world.start(made)
    expect("what the init container saw", [service_account_id()], pods.ids(world.events_of("initial", container="first")))
    world.delete("pod", "initial")


def an_ephemeral_container_has_the_identity_too(world):
    world.start(pods.pod("debugged", node=world.nodes[1]))
    added = {"spec": {"ephemeralContainers": [pods.container(ONCE, name="debugger")]}}
    world.api.merge(f"/api/v1/namespaces/{NAMESPACE}/pods/debugged/ephemeralcontainers", added)

    def status():
        found = world.pod("debugged")["status"].get("ephemeralContainerStatuses", [])
        return found and found[0]["state"].get("terminated")
    ended = world.until("the ephemeral container ends", status)
    expect("its exit code", 0, ended["exitCode"])
    expect("what the ephemeral container saw", [service_account_id()], pods.ids(world.events_of("debugged", container="debugger")))
    world.delete("pod", "debugged")


def a_pod_in_the_nodes_network_is_itself_and_not_the_node(world):
    world.start(pods.pod("hostly", node=world.nodes[0], hostNetwork=True))
    expect("what a hostNetwork pod is", [service_account_id()], pods.ids(world.x509("hostly")))
    world.delete("pod", "hostly")


def pods_with_generated_names_have_identities(world):
    world.apply(pods.of_template("Deployment", "generated", pods.spec()))
    world.kubectl("rollout", "status", "--timeout=60s", "deployment/generated")
    name = of_app(world, "generated")["metadata"]["name"]
    expect("what a Deployment's pod is", [service_account_id()], pods.ids(world.x509(name)))
    world.delete("deployment", "generated")
    made = pods.pod("unused")
    made["metadata"] = {"generateName": "bare-"}
    name = world.kubectl("create", "-f", "-", "-o", "name", stdin=json.dumps(made)).stdout.strip().partition("/")[2]
    world.ready(name)
    expect(f"what {name} is", [service_account_id()], pods.ids(world.x509(name)))
    world.delete("pod", name)


def of_app(world, app):
    return world.api.get(f"/api/v1/namespaces/{NAMESPACE}/pods", labelSelector=f"app={app}")["items"][0]


def a_pod_of_another_service_account_is_that_account(world):
    world.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "payments"}})
    world.start(pods.pod("paying", serviceAccountName="payments"))
    expect("what the pod is", [service_account_id(account="payments")], pods.ids(world.x509("paying")))
    world.delete("pod", "paying")


def a_deleted_pod_loses_its_entries(world):
    uid = pods.uid(world.start(pods.pod("leaving", node=world.nodes[1])))
    entries = world.until("the server computes an entry for the pod", lambda: world.entries(uid))
    expect("its identity", [f"/ns/{NAMESPACE}/sa/default"], [entry["spiffe_id"]["path"] for entry in entries])
    node = world.api.get(f"/api/v1/nodes/{world.nodes[1]}")["metadata"]["uid"]
    expect("its parent", [f"/spire/agent/k8s_psat/kubernetes/{node}"], [entry["parent_id"]["path"] for entry in entries])
    world.delete("pod", "leaving")
    world.until("the entry is gone", lambda: not world.entries(uid))


def a_completed_pod_loses_its_entries_while_its_object_is_there(world):
    world.apply(pods.pod("completed", ONCE, node=world.nodes[0], restartPolicy="Never"))
    expect("how the pod ended", "Succeeded", world.ended("completed"))
    found = world.pod("completed")
    expect("what it saw", [service_account_id()], pods.ids(world.events_of("completed")))
    world.until("its entry is gone", lambda: not world.entries(pods.uid(found)))
    expect("the pod that is still there", pods.uid(found), pods.uid(world.pod("completed")))
    world.delete("pod", "completed")


def a_pod_of_a_stateful_set_that_comes_again_is_another_with_another_key(world):
    world.apply(pods.of_template("StatefulSet", "again", pods.spec(attributes=FILES), serviceName="again"))
    try:
        first = world.ready("again-0")
        key = public_key(world, "again-0")
        world.delete("pod", "again-0")

        def other():
            found = world.pod("again-0")
            return found if found and pods.uid(found) != pods.uid(first) and pods.is_ready(found) else None
        second = world.until("again-0 is there again, and ready", other)
        if public_key(world, "again-0") == key:
            raise Failure("the pod that came again has the key of the one before")
        world.until("the entry of the first pod is gone", lambda: not world.entries(pods.uid(first)))
        if not world.entries(pods.uid(second)):
            raise Failure("the pod that came again has no entry")
    finally:
        world.delete("statefulset", "again")


def public_key(world, pod):
    path = world.directory / "again.pem"
    path.write_text(read(world, pod, "svid.pem"), encoding="ascii")
    return run("openssl", "x509", "-in", path, "-noout", "-pubkey").stdout


PROMISES = [
    an_init_container_has_the_identity_already,
    an_ephemeral_container_has_the_identity_too,
    a_pod_in_the_nodes_network_is_itself_and_not_the_node,
    pods_with_generated_names_have_identities,
    a_pod_of_another_service_account_is_that_account,
    a_deleted_pod_loses_its_entries,
    a_completed_pod_loses_its_entries_while_its_object_is_there,
    a_pod_of_a_stateful_set_that_comes_again_is_another_with_another_key,
]
