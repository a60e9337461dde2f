"""The cgroups of the cluster: TREE/MACHINE in every hierarchy that the host has.

A machine's processes are put into its cgroup before they enter its cgroup namespace, so that inside the machine the cgroup is the root:
a container's path reads /kubepods/…, as on a node that has the kernel to itself, and two kubelets never see each other's pods. The
tree is also the list of everything that runs: who is in it belongs to the cluster, and nobody else.
"""

import os
import signal
from pathlib import Path

from place import TREE, Failure
from proc import wait_until

MOUNTS = Path("/sys/fs/cgroup")
NAMES = Path("/proc/cgroups")


class Hierarchy:
    """One mounted hierarchy: where, its type (cgroup or cgroup2), and the options that mount it again."""

    def __init__(self, point, kind, options):
        self.point, self.kind, self.options = Path(point), kind, options
        # The controllers are in the second version alone (not beside the first, as in the hybrid layout).
        self.unified = kind == "cgroup2" and self.point == MOUNTS

    def of(self, machine):
        return self.point / TREE / machine

    def home(self, machine):
        """Where a machine's own programs are. With version 2 a cgroup that has controllers for its children has no processes."""
        return self.of(machine) / "init" if self.unified else self.of(machine)


def hierarchies():
    controllers = {line.split()[0] for line in NAMES.read_text(encoding="ascii").splitlines() if not line.startswith("#")}
    found = []
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines():
        before, after = line.split(" - ", 1)
        point, kind, settings = before.split()[4], after.split()[0], after.split()[2]
        if kind == "cgroup2" and Path(point).is_relative_to(MOUNTS):
            found.append(Hierarchy(point, kind, "rw"))
        elif kind == "cgroup" and Path(point).is_relative_to(MOUNTS):
            wanted = [item for item in settings.split(",") if item in controllers or item.startswith("name=")]
            named = any(item.startswith("name=") for item in wanted)
            found.append(Hierarchy(point, kind, ",".join(["none", *wanted] if named else wanted)))
    if not found:
        raise Failure(f"no cgroups are mounted below {MOUNTS}, and a kubelet cannot work without them")
    return found


def make(machine):
    for hierarchy in hierarchies():
        path = hierarchy.point
        for part in (TREE, machine):
            if hierarchy.unified:
                delegate(path)
            parent, path = path, path / part
            path.mkdir(exist_ok=True)
            if (path / "cpuset.cpus").exists() and not hierarchy.unified:
                for name in ("cpuset.cpus", "cpuset.mems"):
                    (path / name).write_text((parent / name).read_text(encoding="ascii"), encoding="ascii")
        hierarchy.home(machine).mkdir(exist_ok=True)


def delegate(path):
    """Gives all controllers of a cgroup of version 2 to its children."""
    for controller in (path / "cgroup.controllers").read_text(encoding="ascii").split():
        (path / "cgroup.subtree_control").write_text(f"+{controller}", encoding="ascii")


def join(machine, first=False):
    """Moves the calling process. The `first` one of a machine goes to what is to be the root of its cgroup namespace."""
    for hierarchy in hierarchies():
        directory = hierarchy.of(machine) if first else hierarchy.home(machine)
        (directory / "cgroup.procs").write_text("0", encoding="ascii")


def settle(machine):
    """After the namespace is made: leaves no process where version 2 allows none."""
    for hierarchy in hierarchies():
        if hierarchy.unified:
            for pid in (hierarchy.of(machine) / "cgroup.procs").read_text(encoding="ascii").split():
                (hierarchy.home(machine) / "cgroup.procs").write_text(pid, encoding="ascii")


def directories(machine=""):
    """All cgroups of a machine, or of the cluster, children before parents."""
    for hierarchy in hierarchies():
        for path, _, _ in os.walk(hierarchy.of(machine), topdown=False):
            yield Path(path)


def processes(machine=""):
    found = set()
    for path in directories(machine):
        try:
            found.update(int(pid) for pid in (path / "cgroup.procs").read_text(encoding="ascii").split())
        except (FileNotFoundError, OSError):
            continue  # it has gone meanwhile
    found.discard(0)  # a process that is not of this PID namespace
    return found


def kill(machine=""):
    """Ends every process, whatever it is doing, and returns when none is left."""
    def none_left():
        left = processes(machine)
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        return not left
    wait_until("the processes of the cluster end", none_left, timeout=120, interval=0.02)


def remove(machine=""):
    def gone():
        for path in directories(machine):
            try:
                path.rmdir()
            except FileNotFoundError:
                pass
            except OSError:
                return False  # the kernel has not yet let the last process go
        return True
    wait_until("the cgroups of the cluster can be removed", gone, timeout=120, interval=0.02)
