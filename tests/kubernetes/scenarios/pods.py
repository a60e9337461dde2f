"""Pods as the scenarios make them, and what is read off them."""

import base64
import json

IMAGE = "mintmark.test/clients:1"
DRIVER = "csi.mintmark.dev"
MOUNT = "/spiffe-workload-api"
SOCKET = f"unix://{MOUNT}/spire-agent.sock"
IDLE = ("/bin/busybox", "sleep", "1000000")
# Prints each SVID as it comes, and when a stream breaks.
WATCH = ("/bin/interop", "x509", "--watch=100000", "--timeout=24h")


def container(command=IDLE, name="main", **more):
    return {"name": name, "image": IMAGE, "imagePullPolicy": "Never", "command": list(command),
            "env": [{"name": "SPIFFE_ENDPOINT_SOCKET", "value": SOCKET}],
            "volumeMounts": [{"name": "spiffe", "mountPath": MOUNT, "readOnly": True}], **more}


def spec(command=IDLE, node=None, attributes=None, **more):
    """Of a pod that mounts our volume."""
    volume = {"driver": DRIVER, "readOnly": True, **({"volumeAttributes": attributes} if attributes else {})}
    return {"terminationGracePeriodSeconds": 1, "enableServiceLinks": False, "containers": [container(command)],
            "volumes": [{"name": "spiffe", "csi": volume}],
            **({"nodeSelector": {"kubernetes.io/hostname": node}} if node else {}), **more}


def pod(name, command=IDLE, labels=None, **more):
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels or {}}, "spec": spec(command, **more)}


def plain_pod(name, node):
    """One that mounts nothing of ours."""
    made = pod(name, node=node)
    made["spec"]["volumes"], made["spec"]["containers"][0]["volumeMounts"] = [], []
    return made


def of_template(kind, name, template_spec, **more):
    """A StatefulSet or a Deployment of one pod."""
    labels = {"app": name}
    return {"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": name},
            "spec": {"selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": template_spec}, **more}}


def is_ready(found):
    return any(each["type"] == "Ready" and each["status"] == "True" for each in found["status"].get("conditions", []))


def uid(found):
    return found["metadata"]["uid"]


def events(text):
    """The JSON lines of an interop program."""
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def latest(seen):
    """The SVIDs of the last answer among the events of `interop x509`."""
    svids = [event for event in seen if event["event"] == "svid"]
    return [event for event in svids if event["update"] == svids[-1]["update"]]


def ids(svids):
    return sorted(svid["spiffe_id"] for svid in svids)


def claims(token):
    """Of a JWT, unverified."""
    payload = token.split(".")[1]
    return json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
