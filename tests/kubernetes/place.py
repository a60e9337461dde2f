"""Where the cluster lives on this machine, what its addresses are, and what is remembered of it.

There is one cluster a machine. All of its files are below RUN, all of its processes below the cgroup TREE, and all of its
addresses in 198.18.0.0/15, which is reserved for tests of networks (RFC 2544) and so is nobody's: a route to it hides nothing.
"""

import fcntl
import json
import os
import stat
import sys
import time
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(HERE.parent / "peer"))

from proc import Failure  # noqa: E402
import proc  # noqa: E402

RUN = Path("/var/tmp/mintmark-cluster")
TREE = "mintmark-cluster"
CERTIFICATES = RUN / "certificates"
KUBECONFIG = RUN / "kubeconfig"
IMAGES = RUN / "images"
STATE = RUN / "state.json"

CONTROL = "control"
CONTROL_ADDRESS, HOST_ADDRESS = "198.18.0.1", "198.18.0.254"
SERVICES, KUBERNETES_SERVICE = "198.18.1.0/24", "198.18.1.1"
PODS = "198.19.0.0/16"
API_PORT = 6443
MAX_NODES = 100


def node_name(number):
    return f"node{number}"


def node_address(number):
    return f"198.18.0.{100 + number}"


def pod_range(number):
    return f"198.19.{number}.0/24"


def read_state():
    """What `up` finished with: version, nodes, programs; None when no cluster was finished."""
    try:
        return json.loads(STATE.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except PermissionError:
        raise Failure(f"{RUN} is root's, and so is the cluster: run this as root") from None


def write_state(state):
    fresh = STATE.with_suffix(".new")
    fresh.write_text(json.dumps(state, indent=1) + "\n", encoding="utf-8")
    fresh.rename(STATE)


def need_state():
    state = read_state()
    if state is None:
        raise Failure("no cluster is up: start one with tests/cluster up")
    return state


def run(*command, timeout=300, **options):
    """As proc.run; a machine that is busy with other things is slow, not broken."""
    return proc.run(*command, timeout=timeout, **options)


@contextmanager
def locked():
    """RUN, made when missing, with nobody else changing the cluster meanwhile. Another caller waits, and says so."""
    while True:
        RUN.mkdir(mode=0o700, exist_ok=True)
        found = RUN.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != 0:
            raise Failure(f"{RUN} is not a directory of root's: move it away")
        lock = os.open(RUN, os.O_RDONLY | os.O_DIRECTORY)
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say("another tests/cluster is at work: waiting for it")
                fcntl.flock(lock, fcntl.LOCK_EX)
            # `down` removes the directory while it holds the lock: then what was locked here is no longer the place.
            if RUN.exists() and os.path.samestat(os.fstat(lock), RUN.stat()):
                yield
                return
        finally:
            os.close(lock)


BEGUN = time.monotonic()


def say(text):
    """A line of progress, with the seconds since the command began."""
    print(f"{time.monotonic() - BEGUN:6.1f} s  {text}", file=sys.stderr, flush=True)
