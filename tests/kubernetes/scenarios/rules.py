"""Who says which identity a pod has: the default, rules of the cluster and of tenants, labels, and namespaces that get none. Streams stay open all the while."""

from place import Failure
from scenarios import pods
from scenarios.world import NAMESPACE, TRUST_DOMAIN, expect, service_account_id

IGNORED = "kube-system"


def cluster_rule(name, path, labels, **more):
    return {"apiVersion": "spire.spiffe.io/v1alpha1", "kind": "ClusterSPIFFEID", "metadata": {"name": name}, "spec": {
        "spiffeIDTemplate": f"spiffe://{{{{ .TrustDomain }}}}{path}", "podSelector": {"matchLabels": labels}, **more}}


def tenant_rule(name, path, labels):
    return {"apiVersion": "mintmark.dev/v1alpha1", "kind": "WorkloadIdentity", "metadata": {"name": name}, "spec": {
        "spiffeIDTemplate": f"spiffe://{{{{ .TrustDomain }}}}{path}", "podSelector": {"matchLabels": labels}}}


class Watcher:
    """A pod that watches its SVIDs on one stream."""

    def __init__(self, world, name, node, labels):
        self.world, self.name = world, name
        self.pod = world.start(pods.pod(name, pods.WATCH, labels=labels, node=node))
        self.sees(service_account_id())

    def sees(self, *wanted):
        def look():
            self.runs()
            seen = self.world.events_of(self.name)
            return seen and pods.ids(pods.latest(seen)) == sorted(wanted)
        try:
            self.world.until(f"{self.name} is {' and '.join(wanted)}", look)
        except Failure as failure:
            raise Failure(f"{failure}; the last it saw: {pods.latest(self.world.events_of(self.name))}") from None

    def runs(self):
        """The same container with the same stream: nothing was restarted."""
        found = self.world.pod(self.name)
        same = found and pods.uid(found) == pods.uid(self.pod) and not found["status"]["containerStatuses"][0]["restartCount"] and pods.is_ready(found)
        if not same or any(event["event"] == "stream_error" for event in self.world.events_of(self.name)):
            raise Failure(f"the stream of {self.name} broke:\n{self.world.story(self.name)}")

    def label(self, **labels):
        self.world.api.merge(f"/api/v1/namespaces/{NAMESPACE}/pods/{self.name}", {"metadata": {"labels": labels}})

    def end(self):
        self.runs()
        self.world.delete("pod", self.name)


def a_cluster_rule_changes_an_identity_on_an_open_stream_and_its_removal_changes_it_back(world):
    watcher = Watcher(world, "ruled", world.nodes[0], {"app": "ruled"})
    node = world.api.get(f"/api/v1/nodes/{world.nodes[0]}")["metadata"]["uid"]
    world.apply(cluster_rule("ruled", "/node/{{ .NodeMeta.UID }}/{{ .PodMeta.Name }}", {"app": "ruled"}), namespace=None)
    try:
        watcher.sees(f"spiffe://{TRUST_DOMAIN}/node/{node}/ruled")
        leaf = world.leaf(pods.latest(world.events_of("ruled"))[0]["serial"])
        expect("the witnesses of the new SVID", ["kubelet", "tokenreview"], sorted(leaf["witnesses"]))
        world.apply(cluster_rule("ruled", "/changed/{{ .PodMeta.Name }}", {"app": "ruled"}), namespace=None)
        watcher.sees(f"spiffe://{TRUST_DOMAIN}/changed/ruled")
    finally:
        world.delete("clusterspiffeid", "ruled")
    watcher.sees(service_account_id())
    watcher.end()


def a_tenants_rule_gives_an_identity_below_its_namespace_and_no_other(world):
    watcher = Watcher(world, "tenant", world.nodes[1], {"app": "tenant"})
    try:
        world.apply(tenant_rule("mine", "/ns/{{ .PodMeta.Namespace }}/mine/{{ .PodMeta.Name }}", {"app": "tenant"}))
        watcher.sees(f"spiffe://{TRUST_DOMAIN}/ns/{NAMESPACE}/mine/tenant")
        world.apply(tenant_rule("theirs", "/ns/kube-system/sa/admin", {"app": "tenant"}))
        world.until("the rule that reaches into another namespace says why it gives nothing", lambda: rule_says(world, "theirs"))
        watcher.sees(f"spiffe://{TRUST_DOMAIN}/ns/{NAMESPACE}/mine/tenant")
    finally:
        # In this order: a rule that selects a pod and fails leaves it without the default.
        world.delete("workloadidentity", "theirs")
        world.delete("workloadidentity", "mine")
    watcher.sees(service_account_id())
    watcher.end()


def rule_says(world, name):
    found = world.api.get(f"/apis/mintmark.dev/v1alpha1/namespaces/{NAMESPACE}/workloadidentities/{name}")
    status = (found or {}).get("status") or {}
    return status.get("error") or (status.get("stats") or {}).get("podEntryRenderFailures")


def a_label_that_comes_and_goes_moves_the_identity_with_it(world):
    watcher = Watcher(world, "labelled", world.nodes[1], {"app": "labelled"})
    world.apply(cluster_rule("gold", "/tier/{{ .PodMeta.Labels.tier }}", {"app": "labelled"}, podSelector={
        "matchLabels": {"app": "labelled"}, "matchExpressions": [{"key": "tier", "operator": "Exists"}]}), namespace=None)
    try:
        watcher.label(tier="gold")
        watcher.sees(f"spiffe://{TRUST_DOMAIN}/tier/gold")
        watcher.label(tier="silver")
        watcher.sees(f"spiffe://{TRUST_DOMAIN}/tier/silver")
        watcher.label(tier=None)
        watcher.sees(service_account_id())
    finally:
        world.delete("clusterspiffeid", "gold")
    watcher.end()


def two_rules_give_two_identities(world):
    watcher = Watcher(world, "twice", world.nodes[0], {"app": "twice"})
    world.apply(*[cluster_rule(f"twice-{part}", f"/twice/{part}", {"app": "twice"}, hint=part) for part in ("a", "b")], namespace=None)
    try:
        watcher.sees(f"spiffe://{TRUST_DOMAIN}/twice/a", f"spiffe://{TRUST_DOMAIN}/twice/b")
        expect("the hints", {"a", "b"}, {svid.get("hint") for svid in pods.latest(world.events_of("twice"))})
    finally:
        world.delete("clusterspiffeid", "twice-a")
        world.delete("clusterspiffeid", "twice-b")
    watcher.sees(service_account_id())
    watcher.end()


def a_pod_of_an_ignored_namespace_starts_and_is_refused_with_a_reason(world):
    world.start(pods.pod("ignored", node=world.nodes[0]), namespace=IGNORED)
    try:
        done = world.exec("ignored", "/bin/interop", "x509", "--timeout=15s", namespace=IGNORED, check=False)
        told = done.stdout + done.stderr
        if done.returncode != 1 or "PermissionDenied" not in told or "no identity issued" not in told or "ignore" not in told:
            raise Failure(f"a pod of {IGNORED} was not refused with PermissionDenied, `no identity issued` and that its namespace is ignored ({done.returncode}): {told}")
        uid = pods.uid(world.pod("ignored", IGNORED))
        expect("the entries of the pod", [], world.entries(uid))
        world.until("an Event on the pod says why", lambda: any("ignore" in event["message"] for event in world.told(uid, "IdentityRefused", IGNORED)))
    finally:
        world.delete("pod", "ignored", namespace=IGNORED)


PROMISES = [
    a_cluster_rule_changes_an_identity_on_an_open_stream_and_its_removal_changes_it_back,
    a_tenants_rule_gives_an_identity_below_its_namespace_and_no_other,
    a_label_that_comes_and_goes_moves_the_identity_with_it,
    two_rules_give_two_identities,
    a_pod_of_an_ignored_namespace_starts_and_is_refused_with_a_reason,
]
