"""Node A is in an intruder's hands, and nothing of node B's can be had with it, nor anything for a pod that is not there. Each attempt is refused with a reason of its own, which is named here."""

import uuid

import certificates
from place import Failure
from scenarios import pods
from scenarios.intruder import Intruder, claim, expired, forged, join, new_key, resigned, server_api, signing_request, token_of, unbound_token
from scenarios.world import NAMESPACE, SYSTEM, expect, service_account_id

PERMISSION_DENIED, INVALID_ARGUMENT, UNAUTHENTICATED, NOT_FOUND = 7, 3, 16, 5
NOT_YOURS = "entry not found or not authorized"
REFUSALS = (PERMISSION_DENIED, INVALID_ARGUMENT, UNAUTHENTICATED, NOT_FOUND)


def intruder(world):
    """One for all of these; close ends it."""
    if not hasattr(world, "intruder"):
        # On it, without a volume of ours: the intruder needs none to speak of a pod.
        world.plain = world.start(pods.plain_pod("plain", world.nodes[0]))
        world.theirs = world.pod(world.citizen(world.nodes[1]))
        world.their_entry = world.until("the pod on node B has an entry", lambda: world.entries(pods.uid(world.theirs)))[0]["id"]
        world.intruder = Intruder(world, world.nodes[0])
    return world.intruder


def close(world):
    if hasattr(world, "intruder"):
        world.intruder.close()
        del world.intruder
        world.until("the attestor on node A is ready again", lambda: (found := world.attestor(world.nodes[0])) and pods.is_ready(found))


def refused(what, told, *words):
    """`told` is (code, message)."""
    code, message = told[:2]
    if code not in REFUSALS or not all(word in message for word in words):
        raise Failure(f"{what} was answered with code {code}, {message!r}; a refusal ({REFUSALS}) was expected that says {' and '.join(map(repr, words))}")


def denied(what, told, *words):
    """`told` is (answer, why not) of SPIRE's API."""
    answer, why = told
    if why is None or not all(word in why for word in words):
        raise Failure(f"{what} was answered with {answer or why!r}; a refusal was expected that says {' and '.join(map(repr, words))}")


def up(world, pod, token, **claims):
    said = {"uid": pods.uid(pod), "name": pod["metadata"]["name"], **claims}
    return intruder(world).link.pod_up(said.pop("uid"), said.pop("name"), token, **said)


# What it can do: be the node that it has. Without this, refusals would prove nothing.

def the_intruder_is_node_a_and_gets_what_node_a_gets(world):
    link = intruder(world).link
    node = world.api.get(f"/api/v1/nodes/{world.nodes[0]}")["metadata"]["uid"]
    expect("who the intruder is", f"/spire/agent/k8s_psat/kubernetes/{node}", intruder(world).path)
    expect("the verdict on a pod of node A with its own token", (0, ""), up(world, world.plain, token_of(world, world.plain)))
    entry = link.entry_of(pods.uid(world.plain))
    code, message, chain = link.sign(entry["id"])
    expect("the answer to a signature for it", (0, "", True), (code, message, bool(chain)))


# Over our link.

def a_token_of_another_nodes_pod_is_refused(world):
    refused("node B's pod with its own token", up(world, world.theirs, token_of(world, world.theirs)), "is on node", "asks for it")


def another_nodes_pod_with_a_token_of_an_own_pod_is_refused(world):
    refused("node B's pod with node A's token", up(world, world.theirs, token_of(world, world.plain)), "the witnesses disagree", "the pod's UID")


def a_pod_that_does_not_exist_is_refused(world):
    ghost = str(uuid.uuid4())
    refused("a pod that is not there", up(world, world.plain, token_of(world, world.plain), uid=ghost, name="ghost"), "the witnesses disagree", ghost)


def a_token_of_a_deleted_pod_is_refused(world):
    brief = world.start(pods.plain_pod("brief", world.nodes[0]))
    token = token_of(world, brief)
    world.delete("pod", "brief")
    refused("a deleted pod", up(world, brief, token), "the API server does not accept the token")


def a_pod_as_another_service_account_is_refused(world):
    refused("a pod as another service account", up(world, world.plain, token_of(world, world.plain), account="admin"), "the witnesses disagree", "service account", "admin")
    refused("a pod as one of another namespace", up(world, world.plain, token_of(world, world.plain), namespace="default"), "the witnesses disagree", "namespace")


def a_token_for_another_door_is_refused(world):
    for audience in ("mintmark-node", "spire-server", "mintmark-admin", "https://kubernetes.default.svc"):
        refused(f"a token for {audience}", up(world, world.plain, token_of(world, world.plain, audience)), "the token is made for the audiences", audience)


def an_expired_token_is_refused(world):
    refused("an expired token", up(world, world.plain, expired(world, token_of(world, world.plain))), "the token has expired")


def a_forged_token_is_refused(world):
    refused("a forged token", up(world, world.plain, forged(world, token_of(world, world.plain))), "the API server does not accept the token")
    # The tool that forges makes good tokens with the cluster's own key.
    good = resigned(world, token_of(world, world.plain), certificates.path("service-accounts", "key"))
    expect("the verdict on a token that is signed anew by the cluster's key", (0, ""), up(world, world.plain, good))


def an_unbound_token_is_refused(world):
    refused("an unbound token", up(world, world.plain, unbound_token(world, "mintmark")), "the token is not bound to a pod")


def what_is_no_token_is_refused(world):
    refused("nonsense", up(world, world.plain, "nonsense"), "no service account token")
    refused("a token that is too long", up(world, world.plain, "e" * 20_000), "no service account token")
    refused("what is no UID", up(world, world.plain, token_of(world, world.plain), uid="../../etc"), "malformed", "UID")


# Without a token the second witness is the API server's watch, and it knows the pods of node A alone to be there.

def without_a_token_no_pod_but_an_own_one_is_believed(world):
    refused("node B's pod without a token", up(world, world.theirs, ""), "is on node", "asks for it")
    ghost = str(uuid.uuid4())
    refused("a pod that is not there, without a token", up(world, world.plain, "", uid=ghost, name="ghost"), "there is no pod of UID", ghost)
    refused("an own pod as another service account, without a token", up(world, world.plain, "", account="admin"), "the witnesses disagree", "service account", "admin")
    refused("an own pod under another name, without a token", up(world, world.plain, "", name="other"), "the witnesses disagree", "the pod's name")


def what_hello_says_of_pods_is_believed_no_more_than_that(world):
    ghost, theirs, plain = str(uuid.uuid4()), pods.uid(world.theirs), pods.uid(world.plain)
    link = intruder(world).says_hello(claim(theirs, world.theirs["metadata"]["name"]), claim(ghost, "ghost"), claim(plain, "plain"))
    refused("node B's pod in Hello", link.verdict_on(theirs), "is on node", "asks for it")
    refused("a pod that is not there, in Hello", link.verdict_on(ghost), "there is no pod of UID", ghost)
    expect("the verdict on an own pod in Hello", (0, ""), link.verdict_on(plain))
    if theirs in str(link.entries) or ghost in str(link.entries):
        raise Failure("Hello brought entries of pods that are not node A's")
    link = intruder(world).says_hello(claim(plain, "plain", account="admin"))
    refused("an own pod as another service account, in Hello", link.verdict_on(plain), "the witnesses disagree", "service account", "admin")
    refused("a signature for node B's entry after Hello", link.sign(world.their_entry), NOT_YOURS)


def the_entries_of_another_nodes_pods_are_not_signed(world):
    link = intruder(world).link
    if pods.uid(world.theirs) in str(link.entries):
        raise Failure("node A was sent an entry of node B's pod")
    code, message, chain = link.sign(world.their_entry)
    refused("a signature for node B's entry", (code, message), NOT_YOURS)
    expect("certificates for node B's entry", [], chain)


def a_node_cannot_take_another_nodes_pod_away(world):
    link = intruder(world).link
    link.pod_down(pods.uid(world.theirs))
    # The answer to this comes after the other was heard.
    up(world, world.plain, token_of(world, world.plain))
    expect("the entries of node B's pod", [world.their_entry], [entry["id"] for entry in world.entries(pods.uid(world.theirs))])
    expect("what node B's pod is", [service_account_id()], pods.ids(world.x509(world.theirs["metadata"]["name"])))


def a_deleted_pod_is_not_signed_for_any_more(world):
    link = intruder(world).link
    gone = world.start(pods.plain_pod("gone", world.nodes[0]))
    token = token_of(world, gone)
    expect("the verdict on the pod while it is there", (0, ""), up(world, gone, token))
    entry = link.entry_of(pods.uid(gone))["id"]
    expect("the answer to a signature while it is there", 0, link.sign(entry)[0])
    world.delete("pod", "gone")
    link.entry_is_gone(entry)
    code, message, chain = link.sign(entry)
    refused("a renewal for a deleted pod", (code, message), NOT_YOURS)
    expect("certificates for a deleted pod", [], chain)
    # Nor can the node call it up again: what the API server said of the token a moment ago is still believed, and there is no such pod in its watch.
    refused("the deleted pod, again", up(world, gone, token), "there is no pod of UID", pods.uid(gone))


# Over SPIRE's API.

def spires_api_shows_a_node_its_own_entries_alone(world):
    answer, why = intruder(world).call("entry.v1.Entry/GetAuthorizedEntries", {})
    if why:
        raise Failure(f"GetAuthorizedEntries was refused: {why}")
    parents = {entry["parent_id"]["path"] for entry in answer.get("entries", [])}
    expect("the parents of the entries that node A is shown", {intruder(world).path}, parents)
    if pods.uid(world.theirs) in str(answer):
        raise Failure("node A is shown an entry of node B's pod")


def spires_api_signs_no_x509_svid_of_another_nodes_pod(world):
    request = {"params": [{"entry_id": world.their_entry, "csr": signing_request(new_key(world, "wanted"))}]}
    answer, why = intruder(world).call("svid.v1.SVID/BatchNewX509SVID", request)
    if why:
        raise Failure(f"BatchNewX509SVID was refused as a whole: {why}")
    result = answer["results"][0]
    refused("BatchNewX509SVID with node B's entry", (result["status"].get("code", 0), result["status"].get("message", "")), NOT_YOURS)
    expect("an SVID beside the refusal", None, result.get("svid"))


def spires_api_signs_no_jwt_svid_of_another_nodes_pod(world):
    told = intruder(world).call("svid.v1.SVID/NewJWTSVID", {"entry_id": world.their_entry, "audience": ["orders"]})
    denied("NewJWTSVID with node B's entry", told, NOT_YOURS)


# Becoming another node.

def no_other_token_joins_as_a_node(world):
    intruder(world)
    key = new_key(world, "joiner")
    attestor = world.attestor(world.nodes[1])
    node_token = token_of(world, attestor, "mintmark-node", SYSTEM, "mintmark-attestor")
    denied("a pod's own token", join(world, token_of(world, world.plain), key), "the token is made for the audiences")
    denied("another service account", join(world, token_of(world, world.plain, "mintmark-node"), key), f"{NAMESPACE}:default", "not an allowed service account")
    denied("an unbound token of the attestor's account", join(world, unbound_token(world, "mintmark-node", SYSTEM, "mintmark-attestor"), key), "not bound to a pod")
    denied("an unknown cluster", join(world, node_token, key, cluster="elsewhere"), "not configured for cluster", "elsewhere")
    denied("an expired token", join(world, expired(world, node_token), key), "the token has expired")
    denied("a forged token", join(world, forged(world, node_token), key), "the API server does not accept the token")


def the_kubelets_credential_of_node_a_makes_no_token_of_node_bs_pod(world):
    """Kubernetes' own promise, on which ours stands."""
    intruder(world)
    theirs = world.theirs["metadata"]
    done = world.kubectl(f"--kubeconfig={certificates.path(world.nodes[0], 'kubeconfig')}", "create", "token", "default", "--audience=mintmark", "--bound-object-kind=Pod",
                         f"--bound-object-name={theirs['name']}", f"--bound-object-uid={theirs['uid']}", check=False)
    if done.returncode == 0 or "forbidden" not in done.stderr.lower():
        raise Failure(f"the kubelet of node A got a token of node B's pod, or was refused otherwise: {done.stderr}")


def nobody_at_all_gets_nothing(world):
    """Without a node's SVID."""
    intruder(world)
    denied("GetAuthorizedEntries by nobody", server_api(world, "entry.v1.Entry/GetAuthorizedEntries", {}), "PermissionDenied")
    request = {"params": [{"entry_id": world.their_entry, "csr": signing_request(new_key(world, "wanted"))}]}
    denied("BatchNewX509SVID by nobody", server_api(world, "svid.v1.SVID/BatchNewX509SVID", request), "PermissionDenied")


def the_stolen_svid_is_refused_once_the_attestor_has_joined_again(world):
    """And the node's pods have noticed nothing."""
    thief = intruder(world)
    thief.let_go()
    why = world.until("the stolen SVID is refused", lambda: thief.call("entry.v1.Entry/GetAuthorizedEntries", {})[1])
    denied("the stolen SVID", (None, why), "PermissionDenied")
    expect("what node A's pod is", [service_account_id()], pods.ids(world.x509(world.citizen(world.nodes[0]))))
    world.start(pods.pod("after", node=world.nodes[0], attributes={"files": "true"}))
    expect("what a new pod on node A is", [service_account_id()], pods.ids(world.x509("after")))
    world.delete("pod", "after")


PROMISES = [
    the_intruder_is_node_a_and_gets_what_node_a_gets,
    a_token_of_another_nodes_pod_is_refused,
    another_nodes_pod_with_a_token_of_an_own_pod_is_refused,
    a_pod_that_does_not_exist_is_refused,
    a_token_of_a_deleted_pod_is_refused,
    a_pod_as_another_service_account_is_refused,
    a_token_for_another_door_is_refused,
    an_expired_token_is_refused,
    a_forged_token_is_refused,
    an_unbound_token_is_refused,
    what_is_no_token_is_refused,
    without_a_token_no_pod_but_an_own_one_is_believed,
    what_hello_says_of_pods_is_believed_no_more_than_that,
    the_entries_of_another_nodes_pods_are_not_signed,
    a_node_cannot_take_another_nodes_pod_away,
    a_deleted_pod_is_not_signed_for_any_more,
    spires_api_shows_a_node_its_own_entries_alone,
    spires_api_signs_no_x509_svid_of_another_nodes_pod,
    spires_api_signs_no_jwt_svid_of_another_nodes_pod,
    no_other_token_joins_as_a_node,
    the_kubelets_credential_of_node_a_makes_no_token_of_node_bs_pod,
    nobody_at_all_gets_nothing,
    the_stolen_svid_is_refused_once_the_attestor_has_joined_again,
]
