"""The cluster comes, changes and goes.

`up` makes what was asked for out of what is there: nothing, a cluster of another shape, one that has died, or the right one. `down` needs no
record of what was started: it ends whoever is in the cluster's cgroups, and with a machine's first process go its mounts, network and links.
"""

import json
import shutil
from pathlib import Path

import certificates
import cgroups
import images
import needs
import network
import volumes
from api import Api
from control_plane import ControlPlane
from machine import Machine, find_part, machines, parts, wait_for
from node import PAUSE, Node
from place import IMAGES, KUBECONFIG, RUN, locked, need_state, node_name, read_state, say, write_state
from proc import wait_until

SYSCTLS = RUN / "sysctls.json"
# Those of the whole kernel that a kubelet sets.
KUBELET_SETS = ("vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops", "kernel/keys/root_maxkeys",
                "kernel/keys/root_maxbytes")


def up(nodes, version):
    """Returns the kubeconfig's path."""
    needs.root()
    needs.packages()
    programs = needs.programs(version)
    with locked():
        state = read_state()
        if state and state["programs"] == str(programs) and not why_broken():
            if state["nodes"] != nodes:
                resize(state, nodes)
            return KUBECONFIG
        if machines() or cgroups.processes():
            say(f"taking the cluster that is there away: {why_not(state, programs)}")
            clear()
        create(nodes, version, programs)
    return KUBECONFIG


def why_not(state, programs):
    if state is None:
        return "it was not finished"
    return why_broken() or f"it runs {state['programs']}, and {programs} is wanted"


def why_broken():
    """None when everything that was started still runs."""
    for machine in machines():
        if not machine.alive():
            return f"the machine {machine.name} has ended"
    for part in parts():
        if not part.alive():
            return f"{part.name} has ended; {part.said()}"
    return None


def create(nodes, version, programs):
    network.refuse_if_taken()
    save_sysctls()
    control = ControlPlane(programs)
    control.machine.create()
    network.make(control.machine)
    certificates.make()
    control.start()
    say("etcd and the API server are starting")
    images.build(PAUSE, {"/bin/busybox": "/bin/busybox"}, entrypoint=["/bin/busybox", "sleep", "2147483647"])
    made = [prepare(control, number, programs) for number in range(1, nodes + 1)]
    network.route(control.machine, nodes)
    api = control.wait_until_ready()
    say("the API server is ready")
    control.start_controllers()
    finish(control, api, made)
    wait_for("the default service account is there", lambda: api.get("/api/v1/namespaces/default/serviceaccounts/default"),
             of=control.machine.parts())
    write_state({"version": version, "nodes": nodes, "programs": str(programs)})
    say(f"Kubernetes {version} with {nodes} node{'s' if nodes > 1 else ''} is up")


def prepare(control, number, programs):
    """A node as far as it comes without an API server."""
    node = Node(number, programs)
    if node.machine.directory.exists():
        node.machine.destroy()  # of an `up` that did not come to its end
    node.machine.create()
    network.attach(control.machine, node.machine, number)
    node.start_containerd()
    for archive in sorted(IMAGES.glob("*.tar")):
        node.import_image(archive)
    return node


def finish(control, api, nodes):
    for node in nodes:
        node.start_kubelet()
    for node in nodes:
        node.wait_until_ready(api)
        volumes.offer(api, node.number)
        say(f"{node.name} is ready")


def resize(state, nodes):
    """Adds nodes, or takes the last ones away with their pods and volumes. The others stay as they are."""
    control, api, before = ControlPlane(Path(state["programs"])), Api(), state["nodes"]
    for number in range(before, nodes, -1):
        say(f"{node_name(number)} goes")
        remove_node(control, api, number)
        write_state({**state, "nodes": number - 1})
    made = [prepare(control, number, control.programs) for number in range(before + 1, nodes + 1)]
    network.route(control.machine, nodes)
    finish(control, api, made)
    write_state({**state, "nodes": nodes})
    say(f"{nodes} node{'s' if nodes > 1 else ''} now")


def remove_node(control, api, number):
    name = node_name(number)
    Machine(name).destroy()
    network.unroute(control.machine, number)
    api.delete(f"/api/v1/nodes/{name}")
    for pod in api.get("/api/v1/pods", fieldSelector=f"spec.nodeName={name}")["items"]:
        api.delete(f"/api/v1/namespaces/{pod['metadata']['namespace']}/pods/{pod['metadata']['name']}", gracePeriodSeconds=0)
    volumes.withdraw(api, number)


def down():
    needs.root()
    with locked():
        clear()
        RUN.rmdir()


def clear():
    """Everything but RUN itself, which is the lock."""
    cgroups.kill()
    cgroups.remove()
    network.remove()
    wait_until("no mount of the cluster is left", lambda: not mounts_left(), timeout=120)
    restore_sysctls()
    for path in RUN.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def mounts_left():
    return [line.split()[4] for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
            if Path(line.split()[4]).is_relative_to(RUN)]


def save_sysctls():
    found = {name: Path("/proc/sys", name) for name in KUBELET_SETS}
    values = {name: path.read_text(encoding="ascii").strip() for name, path in found.items() if path.exists()}
    SYSCTLS.write_text(json.dumps(values), encoding="ascii")


def restore_sysctls():
    if SYSCTLS.exists():
        for name, value in json.loads(SYSCTLS.read_text(encoding="ascii")).items():
            Path("/proc/sys", name).write_text(value, encoding="ascii")


def image(name, files):
    """An image of local files, on every node."""
    needs.root()
    with locked():
        state = need_state()
        archive, digest = images.build(name, {str(Path(file).absolute()): Path(file) for file in files})
        for number in range(1, state["nodes"] + 1):
            Node(number, Path(state["programs"])).import_image(archive)
    return digest


def status():
    """Prints a line a part; the exit status."""
    need_state()
    for part in parts():
        print(f"{part.name:32} {f'pid {part.pid()}' if part.alive() else 'ended':12} {part.log}")
    broken = why_broken()
    if broken:
        print(broken)
    return 1 if broken else 0


def control_part(verb, name):
    """stop, start or restart."""
    needs.root()
    with locked():
        part = find_part(name)
        if verb != "start":
            part.stop()
        if verb != "stop" and not part.alive():
            part.start()
