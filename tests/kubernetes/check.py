"""Whether the cluster does what the tests need of it: pods on every node, their logs, exec, network, services, volumes and mounts.

In: a cluster that is up. Out: nothing, or a Failure that says what did not hold. What it makes is in a namespace of its own, which goes.
"""

import json
import urllib.request

import install
import lifecycle
from api import Api
from machine import Machine
from place import KUBERNETES_SERVICE, Failure, need_state, node_name, run

NAMESPACE = "cluster-check"
IMAGE = "mintmark.test/busybox:1"
SERVE = """
echo "begun on $NODE"
busybox mkdir /tmp/www
echo "$NODE" >/tmp/www/index.html
exec busybox httpd -f -p 8080 -h /tmp/www
"""
# The answer's last line from an address and a port; the shell's own network, as the static busybox cannot look up names, not even numbers.
HEAR = r"exec 3<>/dev/tcp/$0/$1 && printf 'GET / HTTP/1.0\r\n\r\n' >&3 && busybox timeout 30 busybox tail -n 1 <&3"
CONNECT = "exec 3<>/dev/tcp/$0/$1"
KEEP = "echo kept >/data/file && exec busybox sleep 3600"
MOUNT = "busybox mkdir -p /kubelet/plugins/check && busybox mount -t tmpfs check /kubelet/plugins/check && exec busybox sleep 3600"


def check():
    state = need_state()
    nodes = [node_name(number) for number in range(1, state["nodes"] + 1)]
    lifecycle.image(IMAGE, ["/bin/busybox", "/bin/bash"])
    apply(state, [{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}])
    try:
        apply(state, [service(), *map(probe, nodes), keeper(), mounter(nodes[-1])])
        kubectl(state, "rollout", "status", "--timeout=300s", "statefulset/keeper")
        kubectl(state, "wait", "--for=condition=Ready", "pod", "--all", "--timeout=300s")
        network(state, nodes)
        volumes_and_mounts(state, nodes)
    finally:
        kubectl(state, "delete", "namespace", NAMESPACE, "--timeout=300s")


def network(state, nodes):
    addresses = {name: Api().get(f"/api/v1/namespaces/{NAMESPACE}/pods/probe-{name}")["status"]["podIP"] for name in nodes}
    cluster_ip = Api().get(f"/api/v1/namespaces/{NAMESPACE}/services/probe")["spec"]["clusterIP"]
    for node in nodes:
        expect(f"the log of the pod on {node}", f"begun on {node}", kubectl(state, "logs", f"probe-{node}").strip())
        inside = ("exec", f"probe-{node}", "--", "/bin/bash", "-c")
        for other, address in addresses.items():
            answer = kubectl(state, *inside, HEAR, address, "8080").strip()
            expect(f"what the pod on {node} hears from the one on {other}", other, answer)
        answer = kubectl(state, *inside, HEAR, cluster_ip, "80").strip()
        expect(f"what the pod on {node} hears from the service", nodes, answer)
        kubectl(state, *inside, CONNECT, KUBERNETES_SERVICE, "443")
        expect(f"what the host hears from the pod on {node}", node, ask(f"http://{addresses[node]}:8080/"))
    expect("what the host hears from the service", nodes, ask(f"http://{cluster_ip}/"))
    # As it calls a webhook.
    answer = kubectl(state, "get", "--raw", f"/api/v1/namespaces/{NAMESPACE}/services/probe/proxy/").strip()
    expect("what the API server hears from the service", nodes, answer)


def volumes_and_mounts(state, nodes):
    owner = kubectl(state, "exec", "keeper-0", "--", "/bin/busybox", "stat", "-c", "%u:%g", "/data/file").strip()
    expect("the owner of a file in the volume of a pod with fsGroup", "1000:1234", owner)
    mounts = Machine(nodes[-1]).run("cat", "/proc/1/mountinfo").stdout
    if "/var/lib/kubelet/plugins/check" not in mounts:
        raise Failure(f"a mount that a pod made with Bidirectional propagation is not seen on {nodes[-1]}")


def expect(what, wanted, found):
    if found not in (wanted if isinstance(wanted, list) else [wanted]):
        raise Failure(f"{what} is {found!r}, and {wanted!r} was expected")


def ask(url):
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=30) as answer:
            return answer.read().decode("utf-8").strip()
    except OSError as wrong:
        return f"{url}: {wrong}"


def kubectl(state, *words, stdin=None):
    command = [f"{state['programs']}/kubectl", "--namespace", NAMESPACE, *words]
    return run(*command, env=install.environment(), stdin=stdin, timeout=320).stdout


def apply(state, objects):
    kubectl(state, "apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))


def container(script, **more):
    return {"name": "main", "image": IMAGE, "command": ["/bin/busybox", "sh", "-c", script],
            "env": [{"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}], **more}


def service():
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "probe"},
            "spec": {"selector": {"app": "probe"}, "ports": [{"port": 80, "targetPort": 8080}]}}


def probe(node):
    ready = {"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 1}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": f"probe-{node}", "labels": {"app": "probe"}},
            "spec": {"nodeSelector": {"kubernetes.io/hostname": node}, "terminationGracePeriodSeconds": 0,
                     "containers": [container(SERVE, readinessProbe=ready)]}}


def keeper():
    """A StatefulSet with a claim, as a user who is not root."""
    claim = {"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}
    pod = {"terminationGracePeriodSeconds": 0, "securityContext": {"runAsUser": 1000, "runAsGroup": 1000, "fsGroup": 1234},
           "containers": [container(KEEP, volumeMounts=[{"name": "data", "mountPath": "/data"}])]}
    return {"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "keeper"},
            "spec": {"serviceName": "keeper", "selector": {"matchLabels": {"app": "keeper"}}, "volumeClaimTemplates": [claim],
                     "template": {"metadata": {"labels": {"app": "keeper"}}, "spec": pod}}}


def mounter(node):
    """A privileged pod that mounts something below the kubelet's directory, as a CSI driver does."""
    mount = {"name": "kubelet", "mountPath": "/kubelet", "mountPropagation": "Bidirectional"}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "mounter"},
            "spec": {"nodeSelector": {"kubernetes.io/hostname": node}, "terminationGracePeriodSeconds": 0,
                     "volumes": [{"name": "kubelet", "hostPath": {"path": "/var/lib/kubelet"}}],
                     "containers": [container(MOUNT, volumeMounts=[mount], securityContext={"privileged": True})]}}
