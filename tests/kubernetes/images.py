"""Images without a registry and without a daemon: OCI archives (image-layout 1.0.0 in a tar) of one layer, made of local files.

A file keeps its path, also where a link led to it; an ELF program that is linked dynamically brings its loader and its libraries, as
`ldd` finds them here. What a program opens by name at run time (dlopen, an interpreter behind #!) is not found and must be named.
Archives stay in the cluster's directory, so that a node that comes later has them too.
"""

import hashlib
import io
import json
import os
import platform
import re
import stat
import tarfile
from pathlib import Path

from place import IMAGES, Failure, run

ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}


class WrongName(Failure):
    """Not NAME:TAG."""


def full_name(name):
    """As the container runtime spells it: with a registry, and `library/` where it has no other folder."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9._/:-]*:[A-Za-z0-9_][A-Za-z0-9._-]*", name) or "/" in name.rpartition(":")[2]:
        raise WrongName(f"{name!r} is no name of an image: NAME:TAG is wanted, as example/tool:1")
    first, slash, _ = name.partition("/")
    if not slash:
        return f"docker.io/library/{name}"
    return name if "." in first or ":" in first or first == "localhost" else f"docker.io/{name}"


def with_libraries(files):
    """{path in the image: file here} of what was named and of what that needs."""
    found = {}
    for target, source in files.items():
        if not source.is_file():
            raise Failure(f"{source} cannot go into an image: it is {'a directory' if source.is_dir() else 'not there'}")
        found[target] = source
        for library in libraries(source):
            found.setdefault(library, Path(library))
    return found


def libraries(file):
    """The loader and the libraries of an ELF file, as absolute paths; none when it is static or not ELF."""
    with open(file, "rb") as opened:
        if opened.read(4) != b"\x7fELF":
            return []
    done = run("ldd", file, check=False, env={**os.environ, "LC_ALL": "C"})
    if missing := re.findall(r"(\S+) => not found", done.stdout):
        raise Failure(f"{file} needs {', '.join(missing)}, which this machine does not have")
    return re.findall(r"(?:=> |^\s*)(/\S+) \(0x", done.stdout, re.MULTILINE)


def build(name, files, entrypoint=None):
    """Writes the archive of image `name` and returns (its path, its digest). `files` is {path in the image: file here}; the first is the
    entry point unless told otherwise. The same files give the same digest."""
    full, files = full_name(name), {os.path.normpath(target): Path(source) for target, source in files.items()}
    machine = platform.machine()
    IMAGES.mkdir(exist_ok=True)
    target = IMAGES / (re.sub(r"[^A-Za-z0-9.-]", "_", full) + ".tar")
    scratch = target.with_suffix(".layer")
    write_layer(scratch, with_libraries(files))
    with open(scratch, "rb") as layer:
        layer_digest = hashlib.file_digest(layer, "sha256").hexdigest()
    config = encode({
        "architecture": ARCHITECTURE.get(machine, machine), "os": "linux",
        "config": {"Entrypoint": entrypoint or [next(iter(files))], "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer_digest}"]},
    })
    manifest = encode({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": described("config", config),
        "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": f"sha256:{layer_digest}", "size": scratch.stat().st_size}],
    })
    index = encode({"schemaVersion": 2, "manifests": [
        {**described("manifest", manifest), "annotations": {"io.containerd.image.name": full}}]})
    fresh = target.with_suffix(".new")
    with tarfile.open(fresh, "w") as archive:
        for path, content in (("oci-layout", encode({"imageLayoutVersion": "1.0.0"})), ("index.json", index),
                              (blob(config), config), (blob(manifest), manifest)):
            entry = tarfile.TarInfo(path)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
        archive.add(scratch, f"blobs/sha256/{layer_digest}")
    scratch.unlink()
    fresh.rename(target)
    return target, f"sha256:{hashlib.sha256(manifest).hexdigest()}"


def write_layer(path, files):
    """Root's files, readable by all, without times: what they are is all that counts. /tmp is for everyone."""
    with tarfile.open(path, "w") as layer:
        made = set()
        for target in sorted(files):
            for parent in reversed(Path(target).parents[:-1]):
                if parent not in made:
                    made.add(parent)
                    directory(layer, parent, 0o755)
            entry = tarfile.TarInfo(target.lstrip("/"))
            status = files[target].stat()
            entry.size, entry.mode = status.st_size, 0o755 if status.st_mode & stat.S_IXUSR else 0o644
            with open(files[target], "rb") as content:
                layer.addfile(entry, content)
        if Path("/tmp") not in made:
            directory(layer, Path("/tmp"), 0o1777)


def directory(layer, path, mode):
    entry = tarfile.TarInfo(str(path).lstrip("/"))
    entry.type, entry.mode = tarfile.DIRTYPE, mode
    layer.addfile(entry)


def encode(value):
    return json.dumps(value, sort_keys=True).encode("utf-8")


def described(kind, content):
    return {"mediaType": f"application/vnd.oci.image.{kind}.v1+json", "digest": f"sha256:{hashlib.sha256(content).hexdigest()}",
            "size": len(content)}


def blob(content):
    return f"blobs/sha256/{hashlib.sha256(content).hexdigest()}"
