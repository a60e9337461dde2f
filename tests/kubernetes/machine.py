"""A machine of the cluster: a node, or where the control plane runs.

It has its own network, mount, PID, UTS, IPC and cgroup namespaces, so that each node has what it would have alone: /var/lib/kubelet,
/run, a network, processes, a host name and the root of its cgroups. It shares the kernel, the root file system below other paths,
/dev and /tmp. A machine's programs are its parts: each has a log and a record, both in the machine's directory.
"""

import json
import os
import shutil
import signal
import subprocess
from functools import partial
from pathlib import Path

import cgroups
from place import HERE, RUN, Failure, run
from proc import tail, wait_until

# Nothing of the caller's: proxies and ETCD_* would be heeded.
ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}


def machines():
    """All that were made, by name."""
    return [Machine(path.parent.name) for path in sorted(RUN.glob("*/machine.json"))]


def parts():
    return [part for machine in machines() for part in machine.parts()]


def find_machine(name):
    known = {machine.name: machine for machine in machines()}
    if name not in known:
        raise Failure(f"no machine {name!r} in the cluster; it has: {', '.join(known) or 'none'}")
    return known[name]


def find_part(name):
    """A part by its name, as node1/kubelet."""
    known = {part.name: part for part in parts()}
    if name not in known:
        raise Failure(f"no part {name!r} in the cluster; it has: {', '.join(known) or 'none'}")
    return known[name]


class Process:
    """A process of this machine by pid and start, so that a pid that was given away again is not taken for it."""

    def __init__(self, pid, began=None):
        self.pid = pid
        self.began = self._began() if began is None else began

    def _stat(self):
        try:
            text = Path(f"/proc/{self.pid}/stat").read_text(encoding="utf-8", errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            return None
        return text.rpartition(")")[2].split()

    def _began(self):
        fields = self._stat()
        return fields[19] if fields and fields[0] not in "ZX" else None

    def alive(self):
        return self.began is not None and self._began() == self.began

    def child(self):
        """The only child: of `unshare` and of `nsenter`, which stay outside and wait, it is the program itself."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text(encoding="ascii").split()
        return Process(int(children[0])) if children else None


class Machine:
    def __init__(self, name):
        self.name, self.directory = name, RUN / name
        self._record = self.directory / "machine.json"

    def path(self, inside):
        """Where a file of the machine's /var/lib, by its path there, is for everyone else."""
        return self.directory / "lib" / Path(inside).relative_to("/var/lib")

    def create(self):
        for name in ("lib", "log", "parts"):
            (self.directory / name).mkdir(parents=True, exist_ok=True)
        cgroups.make(self.name)
        mounts = [f"{each.point} {each.kind} {each.options}" for each in cgroups.hierarchies()]
        if not any(each.unified for each in cgroups.hierarchies()):
            mounts.insert(0, f"{cgroups.MOUNTS} tmpfs mode=755")
        (self.directory / "cgroups").write_text("\n".join(mounts) + "\n", encoding="utf-8")
        log = self.directory / "machine.log"
        with open(log, "ab") as errors:
            outside = subprocess.Popen(
                ["unshare", "--mount", "--net", "--pid", "--uts", "--ipc", "--cgroup", "--propagation", "slave", "--fork",
                 "--kill-child", str(HERE / "machine-init"), self.name, str(self.directory)],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, start_new_session=True,
                preexec_fn=partial(cgroups.join, self.name, first=True))
        with outside.stdout as answer:
            if answer.readline() != b"ready\n":
                raise Failure(f"the namespaces of {self.name} cannot be made:\n{last_lines(log)}")
        cgroups.settle(self.name)
        first = Process(outside.pid).child()
        self._record.write_text(json.dumps({"pid": first.pid, "began": first.began}), encoding="utf-8")
        return self

    def _first(self):
        return Process(**json.loads(self._record.read_text(encoding="utf-8")))

    def alive(self):
        return self._first().alive()

    @property
    def pid(self):
        """The first process, as the host sees it: its namespaces are the machine's."""
        first = self._first()
        if not first.alive():
            raise Failure(f"the machine {self.name} has ended; tests/cluster up makes the cluster anew")
        return first.pid

    def entering(self, *command):
        """The command line that runs `command` inside."""
        return ["nsenter", "--target", str(self.pid), "--mount", "--net", "--pid", "--uts", "--ipc", "--cgroup", "--wd=/", "--",
                *map(str, command)]

    def run(self, *command, **options):
        return run(*self.entering(*command), **options)

    def start(self, name, command):
        """A program that stays; returns its part."""
        part = Part(self, name)
        part.start([str(word) for word in command])
        return part

    def parts(self):
        return [Part(self, path.stem) for path in sorted((self.directory / "parts").glob("*.json"))]

    def destroy(self):
        cgroups.kill(self.name)
        cgroups.remove(self.name)
        shutil.rmtree(self.directory)


class Part:
    """A program of a machine. `name` is MACHINE/PROGRAM."""

    def __init__(self, machine, program):
        self.machine, self.name = machine, f"{machine.name}/{program}"
        self.log = machine.directory / f"{program}.log"
        self._record = machine.directory / "parts" / f"{program}.json"

    def _read(self):
        return json.loads(self._record.read_text(encoding="utf-8"))

    def start(self, command=None):
        """As it was started before, when no command is given."""
        command = command or self._read()["command"]
        with open(self.log, "ab") as log:
            process = subprocess.Popen(
                self.machine.entering(*command), stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, env=ENVIRONMENT,
                preexec_fn=partial(cgroups.join, self.machine.name))
        outside = Process(process.pid)
        record = {"command": command, "pid": outside.pid, "began": outside.began}
        self._record.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")

    def _outside(self):
        record = self._read()
        return Process(record["pid"], record["began"])

    def alive(self):
        return self._outside().alive()

    def pid(self):
        """The program's, as the host sees it; None when it has ended."""
        outside = self._outside()
        child = outside.child() if outside.alive() else None
        return child.pid if child else None

    def stop(self):
        """Ends it at once: an API server takes a minute over a graceful end."""
        def ended():
            pid = self.pid()
            if pid is not None:
                os.kill(pid, signal.SIGKILL)
            return not self.alive()
        wait_until(f"{self.name} ends", ended, timeout=120)

    def said(self):
        return f"the last lines of {self.name} ({self.log}):\n{last_lines(self.log)}"


def last_lines(log, count=12):
    text = Path(log).read_text(encoding="utf-8", errors="replace") if Path(log).exists() else ""
    return tail(text, count) or "(nothing)"


def wait_for(what, ready, of, timeout=300, interval=0.1):
    """Until `ready()` is true; returns its value. Fails at once when a part has ended, or late, with the last lines of who is to blame:
    `of` are the parts that this depends on."""
    def check():
        value = ready()
        if not value:
            for part in of:
                if not part.alive():
                    raise Failure(f"{part.name} has ended before {what}; {part.said()}")
        return value
    try:
        return wait_until(what, check, timeout=timeout, interval=interval)
    except Failure as failure:
        if not str(failure).startswith("not within"):
            raise
        raise Failure("\n".join([str(failure), *(part.said() for part in of)])) from None
