"""PersistentVolumes of type `local`, for the claims of StatefulSets: nothing in the cluster makes volumes by itself.

They have no class, as a claim has without one, and are directories of their node. A volume whose claim was deleted is emptied and offered
again by `offer`.
"""

import shutil

from machine import Machine
from place import node_name

EACH_NODE = 4
DIRECTORY = "/var/lib/volumes"


def names(number):
    return [f"{node_name(number)}-{index}" for index in range(1, EACH_NODE + 1)]


def offer(api, number):
    """A node's volumes: those that are missing, and those that were released."""
    machine = Machine(node_name(number))
    for name in names(number):
        found = api.get(f"/api/v1/persistentvolumes/{name}")
        if found and found["status"].get("phase") not in ("Released", "Failed"):
            continue
        directory = machine.path(f"{DIRECTORY}/{name}")
        if found:
            withdraw_one(api, name)
            shutil.rmtree(directory)
        directory.mkdir(parents=True)
        api.apply(f"/api/v1/persistentvolumes/{name}", {
            "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name},
            "spec": {
                "capacity": {"storage": "100Gi"}, "accessModes": ["ReadWriteOnce"], "persistentVolumeReclaimPolicy": "Retain",
                "local": {"path": f"{DIRECTORY}/{name}"},
                "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
                    {"key": "kubernetes.io/hostname", "operator": "In", "values": [node_name(number)]}]}]}},
            },
        })


def withdraw(api, number):
    for name in names(number):
        withdraw_one(api, name)


def withdraw_one(api, name):
    """Also one that a claim holds: its node is no more."""
    path = f"/api/v1/persistentvolumes/{name}"
    if api.delete(path) and api.get(path):
        api.merge(path, {"metadata": {"finalizers": None}})
