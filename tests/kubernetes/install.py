"""Our images and our chart, on the cluster that is up.

The chart says which images it wants: it is rendered, and each image in it whose name is known here is made of the release binaries under the
very reference that the chart uses. So nothing of the chart's values is repeated here, but for those without which it cannot work in this cluster.
"""

import os
import re
import subprocess
from pathlib import Path

import images
import needs
import volumes
from api import Api
from node import Node
from place import HERE, KUBECONFIG, ROOT, RUN, Failure, locked, need_state, run, say

CHART = ROOT / "deploy" / "chart"
VALUES = HERE / "values.yaml"
RELEASE = NAMESPACE = "mintmark"
PROGRAMS = ("mintmark-server", "mintmark-attestor", "mintmark")
# What is in an image, by the last part of its name; the first is the entry point.
CONTENTS = {
    "mintmark-server": ("mintmark-server", "mintmark"),
    "mintmark-attestor": ("mintmark-attestor",),
    "mintmark": PROGRAMS,
}
READY = ("statefulset/mintmark-server", "daemonset/mintmark-attestor")


def install(arguments):
    """`helm upgrade --install`, and returns when the server and every attestor are ready."""
    needs.root()
    state = need_state()
    if not (CHART / "Chart.yaml").exists():
        raise Failure(f"there is no chart to install: {CHART.relative_to(ROOT)}/Chart.yaml is missing")
    arguments = ["--values", VALUES, *arguments]
    helm, kubectl = needs.helm(), Path(state["programs"]) / "kubectl"
    rendered = run(helm, "template", RELEASE, CHART, "--namespace", NAMESPACE, *arguments, env=environment())
    binaries = release_binaries()
    with locked():
        changed = [bring(name, binaries, state) for name in wanted(rendered.stdout)]
        for number in range(1, state["nodes"] + 1):
            volumes.offer(Api(), number)
    installed = run(kubectl, "get", "--namespace", NAMESPACE, "--ignore-not-found", "--output=name", *READY, env=environment(), check=False)
    say("installing the chart")
    call(helm, "upgrade", "--install", RELEASE, CHART, "--namespace", NAMESPACE, "--create-namespace", *arguments)
    for workload in READY:
        # Its template may be the same while the image of that name is another.
        if any(changed) and workload.split("/")[1] in installed.stdout:
            call(kubectl, "rollout", "restart", "--namespace", NAMESPACE, workload)
    for workload in READY:
        call(kubectl, "rollout", "status", "--namespace", NAMESPACE, "--timeout=300s", workload)


def wanted(manifests):
    """The references of images that are made here."""
    found = sorted(set(re.findall(r"^\s*(?:- )?image:\s*[\"']?([^\s\"']+)", manifests, re.MULTILINE)))
    known = [reference for reference in found if short(reference) in CONTENTS]
    if not known:
        raise Failure(f"the chart asks for no image that is made here ({', '.join(CONTENTS)}), but for: {', '.join(found) or 'none'}")
    return known


def short(reference):
    return reference.rpartition("/")[2].partition(":")[0]


def bring(reference, binaries, state):
    """The image on every node; true when it is another than before."""
    files = {f"/usr/local/bin/{program}": binaries[program] for program in CONTENTS[short(reference)]}
    archive, digest = images.build(reference, files)
    mark = archive.with_suffix(".digest")
    if mark.exists() and mark.read_text(encoding="ascii") == digest:
        return False
    say(f"{reference} goes to every node")
    for number in range(1, state["nodes"] + 1):
        Node(number, Path(state["programs"])).import_image(archive)
    mark.write_text(digest, encoding="ascii")
    return True


def release_binaries():
    """Paths by name: those that the environment names (MINTMARK_SERVER, MINTMARK_ATTESTOR, MINTMARK), cargo's otherwise."""
    target = Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target")
    found = {name: os.environ.get(name.upper().replace("-", "_")) for name in PROGRAMS}
    if not all(found.values()):
        bins = [word for name in PROGRAMS for word in ("--bin", name)]
        subprocess.run(["cargo", "build", "--release", "--locked", "--workspace", *bins], cwd=ROOT, check=True)
    return {name: Path(path or target / "release" / name).resolve() for name, path in found.items()}


def environment():
    """For kubectl and Helm: this cluster, reached without a proxy, and nothing kept elsewhere."""
    inherited = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    return {**inherited, "KUBECONFIG": str(KUBECONFIG), "KUBECACHEDIR": str(RUN / "kubectl-cache"),
            **{f"HELM_{kind}_HOME": str(RUN / "helm" / kind.lower()) for kind in ("CACHE", "CONFIG", "DATA")}}


def call(*command):
    """With what it prints on standard error, as progress."""
    done = subprocess.run([str(word) for word in command], env=environment(), stdout=2, check=False)
    if done.returncode != 0:
        raise Failure(f"{Path(command[0]).name} {' '.join(map(str, command[1:3]))} failed with {done.returncode}")
