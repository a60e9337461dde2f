"""The issuer under test, and SPIRE in its place as the control.

Both are used through the same few verbs, each by its own command line; so a check that fails with Mintmark and passes
with SPIRE speaks of Mintmark, and one that fails with both speaks of the check.
"""

import base64
import json
import os
import ssl
import textwrap
import urllib.error
import urllib.request
from pathlib import Path

import spire
from proc import Failure, free_port, output_of, run, wait_until


class Mintmark:
    """mintmark-server with the embedded store, driven by `mintmark`."""

    name = "mintmark"

    def __init__(self, stage, directory, web, x509_ttl):
        self.command = Path(required("MINTMARK")).resolve()
        server = Path(os.environ.get("MINTMARK_SERVER") or self.command.with_name("mintmark-server"))
        directory.mkdir(parents=True, exist_ok=True)
        self.trust_domain, self.port = "mintmark.test", free_port()
        self.admin = directory / "admin.sock"
        health, https, federation = free_port(), free_port(), free_port()
        self.https = f"https://localhost:{https}"
        self.federation_url = f"https://localhost:{federation}/"
        config = directory / "server.toml"
        config.write_text(toml({
            "trust_domain": self.trust_domain,
            "data_dir": str(directory / "data"),
            "jwt_issuer": self.https,
            "listen": {
                "api": f"127.0.0.1:{self.port}", "admin": str(self.admin), "https": f"127.0.0.1:{https}",
                "federation": f"127.0.0.1:{federation}", "webhook": "", "console": "", "metrics": "", "health": f"127.0.0.1:{health}",
            },
            "https": {"certificate": str(web[1]), "key": str(web[2])},
            "ttl": {"x509": x509_ttl},
            "limits": {"rate_limit": False},
        }))
        self.program = stage.start("mintmark-server", [server, "run", "--config", config], directory / "server.log")
        wait_until("it is ready", lambda: answers(f"http://127.0.0.1:{health}/ready"), alive=self.program)

    def cli(self, *args, check=True):
        """A `mintmark` subcommand with --output json; returns the parsed JSON."""
        env = {**os.environ, "MINTMARK_ADMIN_SOCKET": str(self.admin)}
        done = run(self.command, *args, "--output", "json", env=env, check=check)
        if not check:
            return done
        try:
            return json.loads(done.stdout) if done.stdout.strip() else {}
        except ValueError as wrong:
            raise Failure(f"mintmark {' '.join(map(str, args))} did not print JSON: {done.stdout[:200]}") from wrong

    def token(self):
        return self.cli("token", "create")["value"]

    def create_entry(self, spiffe_id, parent_id, selector):
        self.cli("entry", "create", "--spiffe-id", spiffe_id, "--parent-id", parent_id, "--selector", selector)

    def entries(self):
        return self.cli("entry", "list")["entries"]

    def entry(self, entry_id):
        return one(self.cli("entry", "show", "--entry-id", entry_id), "entries")

    def delete_entry(self, entry_id):
        self.cli("entry", "delete", "--entry-id", entry_id)

    def agents(self):
        return self.cli("agent", "list")["agents"]

    def agent(self, spiffe_id):
        return one(self.cli("agent", "show", "--spiffe-id", spiffe_id), "agents")

    def bundle(self):
        return self.cli("bundle", "show")

    def bundles(self):
        return self.cli("bundle", "list")["bundles"]

    def federations(self):
        return self.cli("federation", "list")["federation_relationships"]

    def authority(self, kind, verb, authority_id=None):
        return self.cli("authority", kind, verb, *(["--authority-id", authority_id] if authority_id else []))

    def leaf(self, serial):
        """What the ledger says of a serial."""
        return self.cli("ledger", "show", serial)


class Spire:
    """spire-server in its place."""

    name = "spire"

    def __init__(self, stage, directory, web, x509_ttl):
        bin_dir = spire_binaries()
        self.trust_domain = "peer.test"
        ttls = {"default_x509_svid_ttl": x509_ttl, "default_jwt_svid_ttl": "5m"}
        self.server = spire.Server(stage, bin_dir, directory, self.trust_domain, ttls=ttls)
        self.port, self.admin, self.program = self.server.port, self.server.socket, self.server.program
        self.federation_url = self.server.bundle_url

    def token(self):
        return self.server.cli("token", "generate")["value"]

    def create_entry(self, spiffe_id, parent_id, selector):
        self.server.cli("entry", "create", "-spiffeID", spiffe_id, "-parentID", parent_id, "-selector", selector)

    def entries(self):
        return self.server.cli("entry", "show")["entries"]

    def entry(self, entry_id):
        return one(self.server.cli("entry", "show", "-entryID", entry_id), "entries")

    def delete_entry(self, entry_id):
        self.server.cli("entry", "delete", "-entryID", entry_id)

    def agents(self):
        return self.server.cli("agent", "list")["agents"]

    def agent(self, spiffe_id):
        return self.server.cli("agent", "show", "-spiffeID", spiffe_id)

    def bundle(self):
        return self.server.cli("bundle", "show")

    def bundles(self):
        return self.server.cli("bundle", "list")["bundles"]

    def federations(self):
        return self.server.cli("federation", "list")["federation_relationships"]

    def authority(self, kind, verb, authority_id=None):
        return self.server.cli("localauthority", kind, verb, *(["-authorityID", authority_id] if authority_id else []))


def one(message, member):
    """The message, or the only element of its list: a show may answer with either."""
    found = message.get(member, [message])
    if len(found) != 1:
        raise Failure(f"{len(found)} {member} where there should be one")
    return found[0]


def spire_binaries():
    return output_of(Path(__file__).resolve().parent / "build")


def required(variable):
    value = os.environ.get(variable)
    if not value:
        raise Failure(f"{variable} is not set: the path of the {variable.lower()} binary")
    return value


def write_bundle(bundle, path):
    """The X.509 authorities of a bundle message as a PEM file."""
    path.write_text("".join(pem(authority["asn1"]) for authority in bundle["x509_authorities"]))
    return path


def pem(der):
    body = "\n".join(textwrap.wrap(base64.b64encode(base64.b64decode(der)).decode(), 64))
    return f"-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n"


def answers(url, context=None):
    try:
        with urllib.request.urlopen(url, timeout=5, context=context) as response:
            return response.status == 200
    except (urllib.error.URLError, OSError, ssl.SSLError):
        return False


def toml(table, name=""):
    """Nested dicts of strings, numbers and booleans as TOML."""
    plain = {key: value for key, value in table.items() if not isinstance(value, dict)}
    lines = [f"[{name}]"] if name else []
    lines += [f"{key} = {json.dumps(value)}" for key, value in plain.items()]
    text = "\n".join(lines) + "\n"
    for key, value in table.items():
        if isinstance(value, dict):
            text += toml(value, f"{name}.{key}" if name else key)
    return text
