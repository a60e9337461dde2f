"""Who has taken node A over: it has the attestor's token, and with it the node's SVID and key. It says what it likes, over our link and over SPIRE's API.

The attestor is stopped meanwhile (SIGSTOP), as an intruder would do it: of two that join as one node the last one wins, and the two would take turns. Its liveness probe gives it a minute.
"""

import base64
import json
import subprocess
import textwrap
import time

import certificates
from machine import Machine
from place import ROOT, Failure, run
from proc import Program
from scenarios import pods
from scenarios.world import CLUSTER, NAMESPACE, SERVER_API, SYSTEM, TRUST_DOMAIN

ATTESTOR_COMM = "mintmark-attest"  # the kernel keeps 15 bytes of a name
ANSWER = 30


def in_base64(data):
    return base64.b64encode(data).decode("ascii")


def token_of(world, pod, audience="mintmark", namespace=NAMESPACE, account="default"):
    """A token bound to a pod, as the kubelet of its node would get it."""
    name, uid = pod["metadata"]["name"], pods.uid(pod)
    return world.kubectl("create", "token", account, f"--audience={audience}", "--bound-object-kind=Pod", f"--bound-object-name={name}", f"--bound-object-uid={uid}",
                         namespace=namespace).stdout.strip()


def unbound_token(world, audience, namespace=NAMESPACE, account="default"):
    return world.kubectl("create", "token", account, f"--audience={audience}", namespace=namespace).stdout.strip()


def resigned(world, token, key, **claims):
    """The token with other claims, signed (ES256) by `key`."""
    header, payload, _ = token.split(".")
    said = {**pods.claims(token), **claims}
    payload = base64.urlsafe_b64encode(json.dumps(said).encode("utf-8")).decode("ascii").rstrip("=") if claims else payload
    signed = world.directory / "to-sign"
    signed.write_text(f"{header}.{payload}", encoding="ascii")
    der = subprocess.run(["openssl", "dgst", "-sha256", "-sign", key, signed], capture_output=True, check=True).stdout
    # SEQUENCE of two INTEGERs, each with a leading zero where its first bit is set.
    at, numbers = 2, b""
    for _ in range(2):
        length = der[at + 1]
        numbers += int.from_bytes(der[at + 2:at + 2 + length], "big").to_bytes(32, "big")
        at += 2 + length
    return f"{header}.{payload}.{base64.urlsafe_b64encode(numbers).decode('ascii').rstrip('=')}"


def expired(world, token):
    """The token as it would be an hour after its end: made by the key that makes all of them."""
    now = int(time.time())
    return resigned(world, token, certificates.path("service-accounts", "key"), iat=now - 7200, nbf=now - 7200, exp=now - 3600)


def forged(world, token):
    """The same claims, signed by another key of the same kind."""
    return resigned(world, token, new_key(world, "forger"))


def new_key(world, name):
    path = world.directory / f"{name}.key"
    run("openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", path)
    return path


def signing_request(key):
    done = subprocess.run(["openssl", "req", "-new", "-key", key, "-subj", "/", "-outform", "DER"], capture_output=True, check=True)
    return in_base64(done.stdout)


def public_key(key):
    done = subprocess.run(["openssl", "pkey", "-in", key, "-pubout", "-outform", "DER"], capture_output=True, check=True)
    return in_base64(done.stdout)


def server_api(world, method, request, *options):
    """A call of SPIRE's server API, with its own types; returns (answer, why not)."""
    done = run(world.interop, "server-api", f"--server={SERVER_API}", f"--trust-domain={TRUST_DOMAIN}", f"--bundle={world.bundle}", *options,
               method, json.dumps(request), check=False)
    if done.returncode not in (0, 1):
        raise Failure(f"interop server-api {method}: {done.stderr}")
    return (json.loads(done.stdout.splitlines()[0])["response"], None) if done.returncode == 0 else (None, done.stderr.strip())


def join(world, token, key, cluster=CLUSTER):
    """Attests by k8s_psat, as SPIRE's agents do; returns (answer, why not)."""
    payload = in_base64(json.dumps({"cluster": cluster, "token": token}).encode("utf-8"))
    request = {"params": {"data": {"type": "k8s_psat", "payload": payload}, "params": {"csr": signing_request(key)}}}
    return server_api(world, "agent.v1.Agent/AttestAgent", request)


class Intruder:
    """On a node."""

    def __init__(self, world, node):
        self.world, self.node = world, node
        self.attestor = world.attestor(node)
        self._signal("STOP")
        try:
            self._join()
            self.link = Link(world, self)
        except BaseException:
            self._signal("CONT")
            raise

    def _signal(self, name):
        script = f'for each in /proc/[0-9]*; do if [ "$(cat "$each/comm" 2>/dev/null)" = {ATTESTOR_COMM} ]; then kill -{name} "${{each#/proc/}}" && echo "$each"; fi; done'
        signalled = Machine(self.node).run("sh", "-c", script).stdout.split()
        if len(signalled) != 1:
            raise Failure(f"{len(signalled)} attestors were found on {self.node}, and one was expected")

    def _join(self):
        world = self.world
        self.key, self.cert = new_key(world, "intruder"), world.directory / "intruder.pem"
        token = token_of(world, self.attestor, "mintmark-node", SYSTEM, "mintmark-attestor")
        answer, why = join(world, token, self.key)
        if why:
            raise Failure(f"the attestor's own token of {self.node} does not join: {why}")
        svid = answer["result"]["svid"]
        self.path = svid["id"]["path"]
        blocks = ["\n".join(textwrap.wrap(certificate, 64)) for certificate in svid["cert_chain"]]
        self.cert.write_text("".join(f"-----BEGIN CERTIFICATE-----\n{block}\n-----END CERTIFICATE-----\n" for block in blocks), encoding="ascii")

    def call(self, method, request):
        return server_api(self.world, method, request, f"--cert={self.cert}", f"--key={self.key}")

    def says_hello(self, *claims):
        """A new link, which ends the one before, and in whose Hello these pods are."""
        self.link.close()
        self.link = Link(self.world, self, claims)
        return self.link

    def let_go(self):
        """The attestor may go on, and joins again."""
        self._signal("CONT")

    def close(self):
        self.link.close()
        found = self.world.attestor(self.node)
        if found and pods.uid(found) == pods.uid(self.attestor):
            self.let_go()


def claim(uid, name, namespace=NAMESPACE, account="default"):
    """A pod in a kubelet's words, without its token."""
    return {"pod_uid": uid, "namespace": namespace, "name": name, "service_account": account}


class Link:
    """The node's end of the link, by its .proto files alone."""

    def __init__(self, world, node, pods_of_hello=()):
        command = [world.interop, "link", f"--server={SERVER_API}", f"--trust-domain={TRUST_DOMAIN}", f"--bundle={world.bundle}", f"--cert={node.cert}", f"--key={node.key}",
                   f"--proto={ROOT / 'proto'}"]
        self.program = Program("the intruder's link", command, world.directory / "link.log", stdin=subprocess.PIPE)
        self.world, self.entries, self.judged, self._requests = world, {}, {}, 0
        self._say(hello={"version": "intruder", "pods": list(pods_of_hello)})
        self._until("the node is in step", lambda message: (message.get("update") or {}).get("complete"))

    def _say(self, **message):
        self.program.say(json.dumps(message))

    def _until(self, what, wanted):
        """The next message that is wanted; updates are taken and acknowledged meanwhile."""
        def hear(event):
            message = event.get("message") or {}
            if update := message.get("update"):
                self.entries.update({entry["id"]: entry for entry in update["upserts"]})
                for gone in update["removed_ids"]:
                    self.entries.pop(gone, None)
                self._say(ack={"sequence": update["sequence"]})
            if judged := message.get("pod_judged"):
                self.judged[judged["pod_uid"]] = judged["code"], judged["message"]
            return wanted(message)
        return self.program.event(what, hear, timeout=ANSWER)["message"]

    def pod_up(self, uid, name, token, namespace=NAMESPACE, account="default"):
        """What the server thinks of it: (code, message)."""
        self.judged.pop(uid, None)
        self._say(pod_up={**claim(uid, name, namespace, account), "token": token})
        return self.verdict_on(uid)

    def verdict_on(self, uid):
        """(code, message), once the server has said it."""
        if uid not in self.judged:
            self._until(f"pod {uid} is judged", lambda _: uid in self.judged)
        return self.judged[uid]

    def pod_down(self, uid):
        self._say(pod_down={"pod_uid": uid})

    def entry_of(self, uid):
        """The entry of a pod, once the server has sent it."""
        def found():
            wanted = {"type": "k8s", "value": f"pod-uid:{uid}"}
            return next((entry for entry in self.entries.values() if wanted in entry["selectors"]), None)
        return found() or (self._until(f"an entry of pod {uid} comes", lambda _: found()) and found())

    def entry_is_gone(self, entry_id):
        if entry_id in self.entries:
            self._until(f"entry {entry_id} goes", lambda _: entry_id not in self.entries)

    def sign(self, entry_id):
        """(code, message, certificates) for a key of the intruder's."""
        self._requests += 1
        key = public_key(new_key(self.world, "wanted"))
        self._say(sign={"request_id": self._requests, "keys": [{"entry_id": entry_id, "public_key": key}]})
        signed = self._until(f"an answer about entry {entry_id}", lambda message: (message.get("signed") or {}).get("request_id") == str(self._requests))
        result = signed["signed"]["results"][0]
        return result["code"], result["message"], result["cert_chain"]

    def close(self):
        self.program.kill()
