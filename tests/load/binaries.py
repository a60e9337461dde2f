"""The programs that are measured and soaked.

In: MINTMARK_BENCH, MINTMARK_SERVER, MINTMARK_ATTESTOR, MINTMARK, paths of binaries. Out: all four, and those that are not named built in
the release profile, which is the one that is tested.
"""

import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NAMES = {"bench": "mintmark-bench", "server": "mintmark-server", "attestor": "mintmark-attestor", "cli": "mintmark"}


def binaries():
    """Paths by short name."""
    target = Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target")
    found = {name: os.environ.get(binary.upper().replace("-", "_")) for name, binary in NAMES.items()}
    if not all(found.values()):
        packages = [part for binary in NAMES.values() for part in ("-p", binary)]
        subprocess.run(["cargo", "build", "--release", "--locked", "--bins", *packages], cwd=ROOT, check=True)
    return {name: Path(path or target / "release" / NAMES[name]).resolve() for name, path in found.items()}
