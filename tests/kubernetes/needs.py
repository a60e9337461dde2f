"""What must be there before a cluster can be: root, Debian packages, the programs of Kubernetes.

In: a version. Out: directories of built programs, or a Failure that says exactly what is missing. As a command it installs the packages.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from place import HERE, Failure, run, say

# By a file or command that the package brings.
PACKAGES = {
    "containerd": "containerd", "runc": "runc", "/usr/lib/cni/ptp": "containernetworking-plugins", "ip": "iproute2",
    "iptables": "iptables", "nft": "nftables", "conntrack": "conntrack", "busybox": "busybox-static", "openssl": "openssl",
    "mount": "mount", "nsenter": "util-linux", "hostname": "hostname",
}


def root():
    if os.geteuid() != 0:
        raise Failure("only root can do this: the nodes are network, mount and PID namespaces with containers in them; run it as root")


def packages():
    """Installs the Debian packages that are missing."""
    missing = sorted({package for item, package in PACKAGES.items() if not (Path(item).exists() or shutil.which(item))})
    if not missing:
        return
    if not shutil.which("apt-get"):
        raise Failure(f"missing, and there is no apt-get to install them with: {', '.join(missing)}")
    say(f"installing {' '.join(missing)}")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    run("apt-get", "update", "-qq", env=environment)
    run("apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing, timeout=600, env=environment)


def versions():
    return sorted(path.parent.name for path in (HERE / "control").glob("*/go.mod"))


def programs(version):
    """The directory of etcd, kube-apiserver, …, kubectl of this version, built when it is not there."""
    if version not in versions():
        raise Failure(f"no Kubernetes {version!r} here; there is: {', '.join(versions())}")
    return output_of_build(version)


def helm():
    return output_of_build("helm") / "helm"


def output_of_build(what):
    done = subprocess.run([HERE / "build", what], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        raise Failure(f"tests/kubernetes/build {what} failed; what it said is above")
    return Path(done.stdout.strip().splitlines()[-1])


if __name__ == "__main__":
    try:
        packages()
    except Failure as failure:
        sys.exit(f"needs: {failure}")
