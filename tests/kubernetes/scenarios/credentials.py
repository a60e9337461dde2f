"""What a pod gets: X.509-SVIDs, JWT-SVIDs and files, on two witnesses, to clients of others."""

from place import Failure, run
from scenarios import pods
from scenarios.world import expect, service_account_id

AWS = "sts.amazonaws.com"
FILES = {"files": "true", "audiences": f"aws={AWS},b"}


def a_pod_on_each_node_gets_the_identity_of_its_service_account(world):
    for node in world.nodes:
        svids = world.x509(world.citizen(node))
        expect(f"what go-spiffe gets in the pod on {node}", [service_account_id()], pods.ids(svids))


def the_ledger_names_kubelet_and_tokenreview_as_witnesses(world):
    for node in world.nodes:
        svid = world.x509(world.citizen(node))[0]
        leaf = world.leaf(svid["serial"])
        expect(f"the witnesses of {svid['serial']}", ["kubelet", "tokenreview"], sorted(leaf["witnesses"]))
        expect(f"the identity of {svid['serial']} in the ledger", svid["spiffe_id"], leaf["spiffe_id"])


def two_pods_on_two_nodes_speak_mutual_tls(world):
    server = world.start(pods.pod("mtls-server", ("/bin/interop", "mtls-server", "--listen=:8443", f"--authorize={service_account_id()}"),
                                  node=world.nodes[0]))
    client = world.citizen(world.nodes[1])
    done = world.exec(client, "/bin/interop", "mtls-client", f"--connect={server['status']['podIP']}:8443", f"--expect={service_account_id()}", "--for=3s")
    summary = pods.events(done.stdout)[-1]
    expect("handshakes that failed", 0, summary["failures"])
    if summary["handshakes"] < 5 or set(summary["own_serials"]) & set(summary["peer_serials"]):
        raise Failure(f"the two pods did not speak as two: {summary}")
    world.delete("pod", "mtls-server")


def another_identity_is_refused_by_a_peer_that_expects_this_one(world):
    server = world.start(pods.pod("mtls-strict", ("/bin/interop", "mtls-server", "--listen=:8443", "--authorize=spiffe://mintmark.test/ns/identity/sa/other"),
                                  node=world.nodes[0]))
    done = world.exec(world.citizen(world.nodes[1]), "/bin/interop", "mtls-client", f"--connect={server['status']['podIP']}:8443",
                      f"--expect={service_account_id()}", "--for=2s", check=False)
    if done.returncode != 1 or "handshake" not in done.stderr:
        raise Failure(f"the client was let in, or failed otherwise ({done.returncode}): {done.stderr}")
    world.delete("pod", "mtls-strict")


def a_pod_gets_a_jwt_svid_for_its_audience(world):
    for node in world.nodes:
        token = world.exec(world.citizen(node), "/bin/mintmark", "fetch", "jwt", "--audience", "orders").stdout.strip()
        claims = pods.claims(token)
        expect(f"the token's subject on {node}", service_account_id(), claims["sub"])
        expect(f"the token's audience on {node}", ["orders"], [claims["aud"]] if isinstance(claims["aud"], str) else claims["aud"])
        leaf = world.leaf(claims["jti"])
        expect(f"the witnesses of {claims['jti']}", ["kubelet", "tokenreview"], sorted(leaf["witnesses"]))
        # Two validators accept it, and refuse it for another audience and with another signature.
        world.exec(world.citizen(node), "/bin/interop", "jwt", "--audience=orders")


def files_are_there_before_the_first_instruction(world):
    """The container's first command fails when one is missing."""
    wanted = " ".join(f"{pods.MOUNT}/{name}" for name in ("svid.pem", "svid_key.pem", "bundle.pem", "jwt_aws", "jwt_b", "spire-agent.sock", "socket"))
    script = f'for file in {wanted}; do [ -e "$file" ] || {{ echo "$file is missing"; exit 9; }}; done'
    made = [pods.pod(f"early-{node}", ("/bin/busybox", "sh", "-c", script), node=node, attributes=FILES, restartPolicy="Never") for node in world.nodes]
    world.apply(*made)
    for node in world.nodes:
        if world.ended(f"early-{node}") != "Succeeded":
            raise Failure(f"on {node} a file was not there:\n{world.story(f'early-{node}')}")
        world.delete("pod", f"early-{node}")


def files_verify_and_fit_together(world):
    user = {"runAsUser": 1000, "runAsGroup": 1000, "fsGroup": 1234}
    world.start(pods.pod("files", attributes=FILES, node=world.nodes[0], securityContext=user))
    verify(world, "files", "svid.pem", "svid_key.pem", "bundle.pem")
    for name, audience in (("jwt_aws", AWS), ("jwt_b", "b")):
        token = read(world, "files", name)
        expect(f"the subject in {name}", service_account_id(), pods.claims(token)["sub"])
        # The server's word, by the Workload API.
        world.exec("files", "/bin/mintmark", "validate", "jwt", "--audience", audience, "--svid", token)
    leaf = world.leaf(pods.claims(read(world, "files", "jwt_aws"))["jti"])
    expect("the witnesses of a token in a file", ["kubelet", "tokenreview"], sorted(leaf["witnesses"]))


def files_belong_to_the_pods_group_and_to_nobody_else(world):
    for name in ("svid.pem", "svid_key.pem", "bundle.pem", "jwt_aws", "jwt_b"):
        expect(f"owner, group and mode of {name}", "0:1234 640", status_of(world, "files", name))
    done = world.exec("files", "/bin/busybox", "touch", f"{pods.MOUNT}/mine", check=False)
    if done.returncode == 0 or "Read-only" not in done.stderr:
        raise Failure(f"the pod could write into its volume: {done.stdout}{done.stderr}")
    kind = world.exec("files", "/bin/busybox", "stat", "-f", "-c", "%T", f"{pods.MOUNT}/..data/").stdout.strip()
    expect("the file system of the files", "tmpfs", kind)
    world.delete("pod", "files")
    # Without fsGroup they are root's alone.
    world.start(pods.pod("closed", attributes=FILES, node=world.nodes[0], securityContext={"runAsUser": 1000, "runAsGroup": 1000}))
    expect("owner, group and mode without fsGroup", "0:0 640", status_of(world, "closed", "svid_key.pem"))
    done = world.exec("closed", "/bin/busybox", "cat", f"{pods.MOUNT}/svid_key.pem", check=False)
    if done.returncode == 0 or "Permission denied" not in done.stderr:
        raise Failure(f"user 1000 could read the key of a pod without fsGroup: {done.stderr}")
    world.delete("pod", "closed")


def the_layout_tls_is_what_tls_secrets_look_like(world):
    world.start(pods.pod("files-tls", attributes={"files": "true", "layout": "tls"}, node=world.nodes[1]))
    verify(world, "files-tls", "tls.crt", "tls.key", "ca.crt")
    names = set(world.exec("files-tls", "/bin/busybox", "ls", pods.MOUNT).stdout.split())
    if unwanted := names & {"svid.pem", "svid_key.pem", "bundle.pem"}:
        raise Failure(f"in layout tls there are also {', '.join(sorted(unwanted))}")
    world.delete("pod", "files-tls")


def verify(world, pod, chain, key, bundle):
    """By openssl, outside."""
    paths = {}
    for name in (chain, key, bundle):
        paths[name] = world.directory / name
        paths[name].write_text(read(world, pod, name), encoding="ascii")
    run("openssl", "verify", "-CAfile", paths[bundle], "-untrusted", paths[chain], paths[chain])
    certified = run("openssl", "x509", "-in", paths[chain], "-noout", "-pubkey").stdout
    expect(f"the public key of {key}", certified, run("openssl", "pkey", "-in", paths[key], "-pubout").stdout)
    names = run("openssl", "x509", "-in", paths[chain], "-noout", "-ext", "subjectAltName").stdout
    if f"URI:{service_account_id()}" not in names:
        raise Failure(f"{chain} does not name {service_account_id()}: {names}")
    serial = run("openssl", "x509", "-in", paths[chain], "-noout", "-serial").stdout.strip().partition("=")[2]
    expect(f"the witnesses of {chain}", ["kubelet", "tokenreview"], sorted(world.leaf(serial)["witnesses"]))
    paths[key].unlink()


def read(world, pod, name):
    return world.exec(pod, "/bin/busybox", "cat", f"{pods.MOUNT}/{name}").stdout


def status_of(world, pod, name):
    return world.exec(pod, "/bin/busybox", "stat", "-L", "-c", "%u:%g %a", f"{pods.MOUNT}/{name}").stdout.strip()


PROMISES = [
    a_pod_on_each_node_gets_the_identity_of_its_service_account,
    the_ledger_names_kubelet_and_tokenreview_as_witnesses,
    two_pods_on_two_nodes_speak_mutual_tls,
    another_identity_is_refused_by_a_peer_that_expects_this_one,
    a_pod_gets_a_jwt_svid_for_its_audience,
    files_are_there_before_the_first_instruction,
    files_verify_and_fit_together,
    files_belong_to_the_pods_group_and_to_nobody_else,
    the_layout_tls_is_what_tls_secrets_look_like,
]
