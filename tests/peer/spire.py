"""SPIRE's programs, configured for one machine.

In: a directory and a few choices. Out: a running server, agent or OIDC provider, and the paths to reach it by. The
agent joins any server that speaks SPIRE's API, so it is also the peer of a server that is not SPIRE.
"""

import json

from proc import Failure, accepts, free_port, run, wait_until


def hcl(value, indent=0):
    """Nested dicts as HCL, one attribute a line. A block with a label has the label in its name: `KeyManager "memory"`."""
    lines, pad = [], "  " * indent
    for name, item in value.items():
        if isinstance(item, dict):
            lines += [f"{pad}{name} {{", hcl(item, indent + 1).rstrip("\n"), f"{pad}}}"]
        else:
            lines.append(f"{pad}{name} = {json.dumps(item)}")
    return "\n".join(line for line in lines if line) + "\n"


class Server:
    """spire-server with SQLite and keys in memory, without rate limits, its bundle endpoint on https_spiffe or, with a
    serving certificate, on https_web."""

    def __init__(self, stage, bin_dir, directory, trust_domain, jwt_issuer=None, web_certificate=None, ttls=None,
                 rate_limits=False):
        directory.mkdir(parents=True, exist_ok=True)
        self.bin_dir, self.socket, self.port = bin_dir, directory / "api.sock", free_port()
        self.trust_domain, self.log = trust_domain, directory / "server.log"
        bundle_port = free_port()
        self.bundle_url = f"https://localhost:{bundle_port}/"
        profile = {'profile "https_spiffe"': {}}
        if web_certificate:
            cert, key = web_certificate
            files = {"cert_file_path": str(cert), "key_file_path": str(key), "file_sync_interval": "1h"}
            profile = {'profile "https_web"': {"serving_cert_file": files}}
        server = {
            "bind_address": "127.0.0.1",
            "bind_port": self.port,
            "socket_path": str(self.socket),
            "trust_domain": trust_domain,
            "data_dir": str(directory),
            "log_level": "INFO",
            "federation": {"bundle_endpoint": {"address": "127.0.0.1", "port": bundle_port, **profile}},
            **(ttls or {}),
        }
        if not rate_limits:
            server["ratelimit"] = {"attestation": False, "signing": False}
        if jwt_issuer:
            server["jwt_issuer"] = jwt_issuer
        database = {"database_type": "sqlite3", "connection_string": str(directory / "datastore.sqlite3")}
        plugins = {
            'DataStore "sql"': {"plugin_data": database},
            'NodeAttestor "join_token"': {"plugin_data": {}},
            'KeyManager "memory"': {"plugin_data": {}},
        }
        config = directory / "server.conf"
        config.write_text(hcl({"server": server, "plugins": plugins}))
        self.program = stage.start(
            "spire-server", [bin_dir / "spire-server", "run", "-config", config], self.log)
        wait_until("it listens", lambda: accepts(self.socket) and accepts(("127.0.0.1", self.port)), alive=self.program)

    def cli(self, *args, **kwargs):
        """`spire-server ARGS` at this server's socket; returns the parsed JSON."""
        return cli(self.bin_dir, self.socket, *args, **kwargs)

    def bundle(self, path):
        """Write the trust bundle as PEM and return the path."""
        pem = run(self.bin_dir / "spire-server", "bundle", "show", "-socketPath", self.socket).stdout
        path.write_text(pem)
        return path


def cli(bin_dir, socket, *args, timeout=60, stdin=None):
    """A `spire-server` subcommand with -output json at an admin socket, of SPIRE or of whoever speaks its API."""
    command = [bin_dir / "spire-server", *args, "-socketPath", socket, "-output", "json"]
    done = run(*command, timeout=timeout, stdin=stdin)
    try:
        return json.loads(done.stdout)
    except ValueError as wrong:
        raise Failure(f"spire-server {' '.join(map(str, args))} did not print JSON: {done.stdout[:200]}") from wrong


class Agent:
    """spire-agent, joined by token to a server at 127.0.0.1:port, with the unix attestor."""

    def __init__(self, stage, bin_dir, directory, trust_domain, port, token, bundle=None, sync="1s"):
        directory.mkdir(parents=True, exist_ok=True)
        self.socket, self.log = directory / "agent.sock", directory / "agent.log"
        agent = {
            "data_dir": str(directory),
            "log_level": "INFO",
            "server_address": "127.0.0.1",
            "server_port": str(port),
            "socket_path": str(self.socket),
            "trust_domain": trust_domain,
            "join_token": token,
            "experimental": {"sync_interval": sync},
        }
        if bundle:
            agent["trust_bundle_path"] = str(bundle)
        else:
            agent["insecure_bootstrap"] = True
        plugins = {
            'NodeAttestor "join_token"': {"plugin_data": {}},
            'KeyManager "memory"': {"plugin_data": {}},
            'WorkloadAttestor "unix"': {"plugin_data": {"discover_workload_path": True}},
        }
        config = directory / "agent.conf"
        config.write_text(hcl({"agent": agent, "plugins": plugins}))
        self.program = stage.start("spire-agent", [bin_dir / "spire-agent", "run", "-config", config], self.log)
        wait_until("its Workload API listens", lambda: accepts(self.socket), timeout=60, alive=self.program)


class OidcProvider:
    """oidc-discovery-provider at https://localhost:port, with the keys of the server behind an admin socket."""

    def __init__(self, stage, bin_dir, directory, server_socket, port, web_certificate):
        directory.mkdir(parents=True, exist_ok=True)
        cert, key = web_certificate
        serving = {"cert_file_path": str(cert), "key_file_path": str(key), "addr": f"127.0.0.1:{port}"}
        config = directory / "oidc.conf"
        config.write_text(hcl({
            "log_level": "INFO",
            "domains": ["localhost"],
            "jwt_issuer": f"https://localhost:{port}",
            "jwks_uri": f"https://localhost:{port}/keys",
            "set_key_use": True,
            "server_api": {"address": f"unix://{server_socket}", "poll_interval": "1s"},
            "serving_cert_file": serving,
        }))
        self.issuer = f"https://localhost:{port}"
        self.program = stage.start(
            "oidc-discovery-provider", [bin_dir / "oidc-discovery-provider", "-config", config], directory / "oidc.log")
        wait_until("it listens", lambda: accepts(("127.0.0.1", port)), alive=self.program)
