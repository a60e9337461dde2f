"""What is measured: a SPIRE server with its agent, and Mintmark's server with its attestor, each as it is shipped.

In: the directory of the binaries. Out: a running server, and what mintmark-bench needs to know of it. Both are on the same disk,
with their defaults, but for rate limits, which would be measured instead; SPIRE has SQLite and keys in memory.
"""

import json
import sys
import urllib.error
import urllib.request
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "peer"))

from issuer import toml  # noqa: E402
from proc import accepts, free_port, run, wait_until  # noqa: E402
import spire  # noqa: E402


class Spire:
    """spire-server, and spire-agent on request."""

    label, agent_label = "spire", "spire-agent"

    def __init__(self, stage, binaries, directory):
        self.stage, self.binaries, self.directory = stage, binaries["spire"], directory
        self.server = spire.Server(stage, self.binaries, directory / "server", "spire.bench.test")
        self.api, self.admin = f"127.0.0.1:{self.server.port}", self.server.socket
        self.pid, self.data_dir = self.server.program.process.pid, directory / "server"
        self.metrics = None

    def start(self):
        return self

    def start_node(self):
        """The agent, with its default of a look at the server every 5 s; returns its pid, socket and SPIFFE ID."""
        token = self.server.cli("token", "generate")["value"]
        bundle = self.server.bundle(self.directory / "bundle.pem")
        node_id = f"spiffe://spire.bench.test/spire/agent/join_token/{token}"
        # An agent without any entry never serves: the entry is for a user that runs nothing.
        self.server.cli("entry", "create", "-parentID", node_id, "-spiffeID", "spiffe://spire.bench.test/first",
                        "-selector", "unix:uid:4000000000")
        agent = spire.Agent(self.stage, self.binaries, self.directory / "agent", "spire.bench.test", self.server.port, token,
                            bundle, sync="5s")
        return agent.program.process.pid, agent.socket, node_id


class Mintmark:
    """mintmark-server, and mintmark-attestor on request."""

    label, agent_label = "mintmark", "mintmark-attestor"

    def __init__(self, stage, binaries, directory):
        self.stage, self.binaries, self.directory = stage, binaries, directory
        directory.mkdir(parents=True, exist_ok=True)
        self.log = directory / "server.log"
        ports = {name: free_port() for name in ("api", "https", "metrics", "health")}
        self.config, self.data_dir = directory / "server.toml", directory / "data"
        self.data_dir.mkdir(exist_ok=True)
        self.api, self.admin = f"127.0.0.1:{ports['api']}", directory / "admin.sock"
        self.metrics, self.health = f"127.0.0.1:{ports['metrics']}", f"127.0.0.1:{ports['health']}"
        self.config.write_text(toml({
            "trust_domain": "mintmark.bench.test",
            "data_dir": str(self.data_dir),
            "listen": {
                "api": self.api, "admin": str(self.admin), "https": f"127.0.0.1:{ports['https']}",
                "metrics": self.metrics, "health": self.health, "webhook": "", "console": "",
            },
            "limits": {"rate_limit": False},
        }))
        self.command = [binaries["server"], "run", "--config", self.config]
        self.program, self.pid = None, None

    def start(self):
        self.program = self.stage.start("mintmark-server", self.command, self.log)
        wait_until("it is ready", lambda: answers(f"http://{self.health}/ready"), alive=self.program)
        self.pid = self.program.process.pid
        return self

    def start_node(self):
        """The attestor; returns its pid, socket and SPIFFE ID."""
        token = self.cli("token", "create")["value"]
        health, socket = f"127.0.0.1:{free_port()}", self.directory / "workload.sock"
        config = self.directory / "attestor.toml"
        config.write_text(toml({
            "trust_domain": "mintmark.bench.test",
            "data_dir": str(self.directory / "attestor"),
            "server": self.api,
            "insecure_bootstrap": True,
            "listen": {"workload": str(socket), "metrics": "", "health": health},
            "join": {"method": "join_token", "token": token},
        }))
        (self.directory / "attestor").mkdir()
        program = self.stage.start(
            "mintmark-attestor", [self.binaries["attestor"], "run", "--config", config], self.directory / "attestor.log")
        wait_until("its Workload API listens", lambda: accepts(socket), alive=program)
        return program.process.pid, socket, f"spiffe://mintmark.bench.test/spire/agent/join_token/{token}"

    def cli(self, *args):
        done = run(self.binaries["cli"], *args, "--admin-socket", self.admin, "--output", "json")
        return json.loads(done.stdout)


def answers(url):
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return response.status == 200
    except (urllib.error.URLError, OSError):
        return False
