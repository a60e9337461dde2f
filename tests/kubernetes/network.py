"""The network between the machines, and the host's way in.

    host ── mintmark0 198.18.0.254 ─┐
    control: bridge, 198.18.0.1 ────┼── node1 198.18.0.101 ── pods 198.19.1.0/24, each at a veth of the CNI plugin `ptp`
                                    └── node2 198.18.0.102 ── pods 198.19.2.0/24

The bridge is inside the control machine, so that the host has one link and some routes more, and nothing that filters on the host is in
the way. Services (198.18.1.0/24) are kube-proxy's, on the nodes; the host reaches them through node1, which hides the host's address.
"""

import json

from place import CONTROL_ADDRESS, HOST_ADDRESS, PODS, SERVICES, Failure, node_address, node_name, pod_range, run
from machine import Machine
from proc import wait_until

HOST_LINK = "mintmark0"
BRIDGE = "machines"


def ip(commands, machine=None):
    """`ip` commands, one a line, on the host or inside a machine."""
    command = ["ip", "-batch", "-"]
    run(*(machine.entering(*command) if machine else command), stdin="\n".join(commands) + "\n")


def make(control):
    """The bridge, and the host's link to it."""
    ip([f"link add {BRIDGE} type bridge", f"address add {CONTROL_ADDRESS}/24 dev {BRIDGE}", f"link set {BRIDGE} up"], control)
    ip([f"link add {HOST_LINK} type veth peer name host netns {control.pid}",
        f"address add {HOST_ADDRESS}/24 dev {HOST_LINK}", f"link set {HOST_LINK} up"])
    ip([f"link set host master {BRIDGE}", "link set host up"], control)


def attach(control, node, number):
    """A node's cable. The other end's name is the node's: `ip link set node1 down` in the control machine cuts it off."""
    # Of a node of that name that has just gone: the kernel takes its end away a moment later.
    control.run("ip", "link", "delete", node.name, check=False)
    run("ip", "link", "add", node.name, "netns", control.pid, "type", "veth", "peer", "name", "eth0", "netns", node.pid)
    ip([f"link set {node.name} master {BRIDGE}", f"link set {node.name} up"], control)
    ip([f"address add {node_address(number)}/24 dev eth0", "link set eth0 up"], node)
    node.run("sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward")


def route(control, count):
    """Everyone's way to the pods of every node, and the host's to the services."""
    def ways(own=None):
        return [f"route replace {pod_range(number)} via {node_address(number)}"
                for number in range(1, count + 1) if number != own]
    ip(ways(), control)
    ip([*ways(), f"route replace {SERVICES} via {node_address(1)}"])
    for number in range(1, count + 1):
        ip(ways(own=number), Machine(node_name(number)))


def unroute(control, number):
    """Forgets the pods of a node that is no more, whose routes on other nodes are replaced when it comes back."""
    for machine in (control, None):
        ip([f"route del {pod_range(number)}"], machine)


def refuse_if_taken():
    """Another network of these addresses on the host would be cut off."""
    for network in (PODS, SERVICES, f"{CONTROL_ADDRESS}/24"):
        found = json.loads(run("ip", "-json", "route", "show", "root", network).stdout or "[]")
        others = [way for way in found if way.get("dev") != HOST_LINK]
        if others:
            raise Failure(f"the host has a route to {others[0]['dst']} by {others[0].get('dev')}, which the cluster needs for itself")


def remove():
    """The host's link, and its routes with it. The kernel does it too when the control machine has ended, but in its own time."""
    def gone():
        return run("ip", "link", "delete", HOST_LINK, check=False).returncode != 0
    wait_until("the host's link to the cluster is gone", gone, timeout=120, interval=0.02)
