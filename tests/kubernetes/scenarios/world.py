"""What every scenario stands on: the cluster with Mintmark in it, an image with clients, and a namespace for pods.

In: a cluster that is up, with the chart installed. Out: pods, what their clients saw, and what the server says about them. A Failure tells what was not as promised.
"""

import json
import shutil
from functools import cached_property
from pathlib import Path

import images
import install
from api import Api
from node import Node
from place import ROOT, Failure, need_state, node_name, run, say
from proc import output_of, wait_until
from scenarios import pods

# As values.yaml has them.
TRUST_DOMAIN = "mintmark.test"
CLUSTER = "kubernetes"
SERVER_API = "198.18.1.10:8081"

NAMESPACE = "identity"
SYSTEM = install.NAMESPACE
SERVER = "mintmark-server-0"
ATTESTOR = "app.kubernetes.io/name=mintmark-attestor"
CITIZEN = {"role": "citizen"}
PATIENCE = 60


class World:
    """Of one run. Pods are in NAMESPACE unless another is named."""

    def __init__(self, directory):
        self.state, self.api, self.directory = need_state(), Api(), Path(directory)
        self.nodes = [node_name(number) for number in range(1, self.state["nodes"] + 1)]
        if len(self.nodes) < 2:
            raise Failure("the scenarios need two nodes: tests/cluster up --nodes 2")
        self.interop = output_of(ROOT / "tests" / "interop" / "build")

    # The cluster.

    def kubectl(self, *words, namespace=NAMESPACE, stdin=None, check=True, timeout=120):
        command = [f"{self.state['programs']}/kubectl", "--namespace", namespace, *words]
        return run(*command, env=install.environment(), stdin=stdin, check=check, timeout=timeout)

    def prepare(self):
        """The image, the namespace, and a pod on each node, which all share."""
        self.clear()
        self._bring_clients()
        self.make_namespace(NAMESPACE)
        self.start(*[pods.pod(self.citizen(node), labels=CITIZEN, node=node) for node in self.nodes])
        say("a pod is ready on each node")

    def clear(self):
        self.delete("namespace", NAMESPACE)

    def tidy(self):
        """After a failure: what it left behind must not fail others."""
        self.kubectl("delete", "deployment,statefulset,workloadidentity", "--all", check=False)
        self.kubectl("delete", "pod", "-l", "role!=citizen", "--wait=false", check=False)
        self.kubectl("delete", "clusterspiffeid", "--all", check=False)

    def say(self, text):
        say(f"        {text}")

    def _bring_clients(self):
        """Busybox, go-spiffe's clients, and our own command."""
        files = {"/bin/busybox": Path(shutil.which("busybox")), "/bin/interop": self.interop, "/bin/mintmark": install.release_binaries()["mintmark"]}
        archive, _ = images.build(pods.IMAGE, files)
        for number in range(1, len(self.nodes) + 1):
            Node(number, Path(self.state["programs"])).import_image(archive)

    def make_namespace(self, name, labels=None):
        self.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels or {}}}, namespace=None)
        self.until(f"the default service account of {name} is there", lambda: self.api.get(f"/api/v1/namespaces/{name}/serviceaccounts/default"))

    def apply(self, *objects, namespace=NAMESPACE):
        placed = ["--namespace", namespace] if namespace else []
        listed = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})
        self.kubectl("apply", *placed, "-f", "-", stdin=listed, namespace=namespace or "default")

    def delete(self, kind, name, namespace=NAMESPACE, wait=True):
        self.kubectl("delete", kind, name, "--ignore-not-found", f"--wait={str(wait).lower()}", "--timeout=100s", namespace=namespace)

    def until(self, what, ready, timeout=PATIENCE):
        return wait_until(what, ready, timeout=timeout, interval=0.1)

    # Pods.

    def pod(self, name, namespace=NAMESPACE):
        return self.api.get(f"/api/v1/namespaces/{namespace}/pods/{name}")

    def start(self, *made, namespace=NAMESPACE):
        """Makes pods and waits until they are ready; returns them, as the API server has them."""
        self.apply(*made, namespace=namespace)
        ready = [self.ready(pod["metadata"]["name"], namespace) for pod in made]
        return ready[0] if len(made) == 1 else ready

    def ready(self, name, namespace=NAMESPACE):
        def look():
            pod = self.pod(name, namespace)
            if pod and pod["status"].get("phase") in ("Failed", "Succeeded"):
                raise Failure(f"pod {name} has ended before it was ready:\n{self.story(name, namespace)}")
            return pod if pod and pods.is_ready(pod) else None
        return self._told(name, namespace, f"pod {name} is ready", look)

    def ended(self, name, namespace=NAMESPACE):
        """The phase in which a pod ends."""
        def look():
            phase = (self.pod(name, namespace) or {"status": {}})["status"].get("phase")
            return phase if phase in ("Failed", "Succeeded") else None
        return self._told(name, namespace, f"pod {name} ends", look)

    def _told(self, name, namespace, what, look):
        try:
            return self.until(what, look)
        except Failure as failure:
            if not str(failure).startswith("not within"):
                raise
            raise Failure(f"{failure}\n{self.story(name, namespace)}") from None

    def story(self, name, namespace=NAMESPACE):
        """What Kubernetes has to say about a pod, and what the pod itself said last."""
        events = self.kubectl("get", "events", f"--field-selector=involvedObject.name={name}", "--sort-by=.lastTimestamp",
                              "-o=custom-columns=REASON:.reason,MESSAGE:.message", namespace=namespace, check=False)
        logs = self.kubectl("logs", name, "--all-containers", "--tail=10", namespace=namespace, check=False)
        return f"its events:\n{events.stdout.strip()}\nits last words:\n{(logs.stdout or logs.stderr).strip()}"

    def told(self, uid, reason, namespace=NAMESPACE):
        """The Events on an object."""
        return self.api.get(f"/api/v1/namespaces/{namespace}/events", fieldSelector=f"involvedObject.uid={uid},reason={reason}")["items"]

    def exec(self, name, *command, namespace=NAMESPACE, check=True, timeout=60):
        return self.kubectl("exec", name, "--", *command, namespace=namespace, check=check, timeout=timeout)

    def log(self, name, container="main", namespace=NAMESPACE):
        return self.api.read(f"/api/v1/namespaces/{namespace}/pods/{name}/log", container=container)

    def events_of(self, name, **where):
        """What an interop program that is a pod's own has printed so far."""
        return pods.events(self.log(name, **where))

    def x509(self, name, namespace=NAMESPACE):
        """The SVIDs that go-spiffe gets in the pod, each verified there."""
        return pods.events(self.exec(name, "/bin/interop", "x509", "--timeout=20s", namespace=namespace).stdout)

    def citizen(self, node):
        """The pod that is on a node all the while."""
        return f"citizen-{node}"

    # The server.

    def mintmark(self, *words, check=True):
        """The command line of an administrator, in the server's pod."""
        return self.kubectl("exec", SERVER, "--", "mintmark", *words, namespace=SYSTEM, check=check)

    def entries(self, uid):
        """The identities that the server computes for a pod, as entries."""
        listed = json.loads(self.mintmark("entry", "list", "--output", "json").stdout)["entries"]
        return [entry for entry in listed if {"type": "k8s", "value": f"pod-uid:{uid}"} in entry["selectors"]]

    def leaf(self, handle):
        return json.loads(self.mintmark("ledger", "show", handle, "--output", "json").stdout)

    @cached_property
    def bundle(self):
        """The trust bundle that the server publishes, as a file."""
        found = self.api.get(f"/api/v1/namespaces/{SYSTEM}/configmaps/mintmark-bundle")
        if not found:
            raise Failure(f"there is no ConfigMap mintmark-bundle in namespace {SYSTEM}")
        path = self.directory / "bundle.pem"
        path.write_text(found["data"]["bundle.pem"], encoding="ascii")
        return path

    def attestor(self, node):
        """The attestor's pod on a node; None while there is none."""
        found = self.api.get(f"/api/v1/namespaces/{SYSTEM}/pods", labelSelector=ATTESTOR, fieldSelector=f"spec.nodeName={node}")["items"]
        alive = [pod for pod in found if not pod["metadata"].get("deletionTimestamp")]
        return alive[0] if alive else None

    def last_words(self):
        """The last lines of the server's log and of each attestor's."""
        names = [SERVER, *(pod["metadata"]["name"] for pod in map(self.attestor, self.nodes) if pod)]
        told = []
        for name in names:
            done = self.kubectl("logs", name, "--tail=12", namespace=SYSTEM, check=False)
            told.append(f"the last lines of {name}:\n{(done.stdout or done.stderr).rstrip()}")
        return "\n".join(told)


def service_account_id(namespace=NAMESPACE, account="default"):
    """The identity of a pod that no rule selects."""
    return f"spiffe://{TRUST_DOMAIN}/ns/{namespace}/sa/{account}"


def expect(what, wanted, found):
    if found != wanted:
        raise Failure(f"{what} is {found!r}, and {wanted!r} was expected")
