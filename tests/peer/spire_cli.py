"""SPIRE's command line at the admin socket of the issuer under test: entries, tokens and agents.

What `spire-server` writes, our command must show, and the other way round, in the same JSON.
"""

import json
import os

import spire
import spire_cli_trust
from issuer import spire_binaries, write_bundle
from proc import Failure, run, wait_until
from report import expect, same

OK, INVALID, NOT_FOUND, EXISTS = 0, 3, 5, 6


def check_cli(report, stage, directory, issuer, web, interop):
    directory.mkdir(parents=True, exist_ok=True)
    bench = Bench(stage, directory, issuer, web, interop)
    for title, checks in (
        ("spire-server entry", check_entries),
        ("spire-server token and agent", check_agents),
        ("spire-server bundle and federation", spire_cli_trust.check_trust),
        ("spire-server mint, localauthority and logger", spire_cli_trust.check_keys),
    ):
        with report.section(f"{title} on {issuer.name}"):
            checks(report, bench)


class Bench:
    """SPIRE's CLI, the issuer that it is used on, and a place for files."""

    def __init__(self, stage, directory, issuer, web, interop):
        self.stage, self.directory, self.issuer, self.web, self.interop = stage, directory, issuer, web, interop
        self.bin_dir, self.domain = spire_binaries(), issuer.trust_domain

    def id(self, path):
        return f"spiffe://{self.domain}{path}"

    def cli(self, *args, stdin=None):
        return spire.cli(self.bin_dir, self.issuer.admin, *args, stdin=stdin)

    def plain(self, *args, check=True):
        """A subcommand whose output is not JSON."""
        return run(self.bin_dir / "spire-server", *args, "-socketPath", self.issuer.admin, check=check)

    def refused(self, code, *args):
        """The command must fail, and name this gRPC code."""
        done = self.plain(*args, check=False)
        expect(done.returncode != 0 and f"code = {code} " in done.stderr,
               f"spire-server {' '.join(args)} should be refused with {code}: exit {done.returncode}, "
               f"{done.stdout.strip()} {done.stderr.strip()}")

    def result(self, code, *args, stdin=None):
        """The only result of a batch command, which must have this status code."""
        results = self.cli(*args, stdin=stdin)["results"]
        expect(len(results) == 1, f"{len(results)} results instead of one: {results}")
        status = results[0]["status"]
        expect(status["code"] == code, f"status {status}, not code {code}, for spire-server {' '.join(map(str, args))}")
        return results[0]


def check_entries(report, bench):
    issuer = bench.issuer
    parent, spiffe_id = bench.id("/spire/agent/join_token/none"), bench.id("/app/a")
    everything = ("entry", "create", "-parentID", parent, "-spiffeID", spiffe_id, "-selector", "unix:uid:1",
                  "-selector", "unix:gid:2", "-x509SVIDTTL", "60", "-jwtSVIDTTL", "30", "-dns", "a.test", "-dns",
                  "b.test", "-hint", "first", "-admin", "-downstream", "-entryExpiry", "1999999999")
    with report.check("an entry with every field: created by SPIRE's command, shown alike by ours"):
        made = bench.result(OK, *everything)["entry"]
        expect(made["id"] and int(made["created_at"]) > 0, f"no id or creation time in {made}")
        expect((made["x509_svid_ttl"], made["jwt_svid_ttl"], made["hint"], made["expires_at"], made["dns_names"]) ==
               (60, 30, "first", "1999999999", ["a.test", "b.test"]), f"not what was asked for: {made}")
        same(made, issuer.entry(made["id"]), ("spire-server", issuer.name))
    with report.check("an entry created by our command: shown alike by SPIRE's"):
        issuer.create_entry(bench.id("/app/b"), parent, "unix:uid:3")
        shown = bench.cli("entry", "show", "-spiffeID", bench.id("/app/b"))["entries"]
        expect(len(shown) == 1, f"{len(shown)} entries: {shown}")
        same(shown[0], issuer.entry(shown[0]["id"]), ("spire-server", issuer.name))
    with report.check("a batch from standard input, with an ID of the caller's choice"):
        batch = [{"entry_id": f"chosen-{n}", "parent_id": parent, "spiffe_id": bench.id(f"/batch/{n}"),
                  "selectors": [{"type": "unix", "value": f"uid:{n}"}]} for n in range(3)]
        results = bench.cli("entry", "create", "-data", "-", stdin=json.dumps({"entries": batch}))["results"]
        expect([r["status"]["code"] for r in results] == [OK] * 3, f"{results}")
        expect([r["entry"]["id"] for r in results] == ["chosen-0", "chosen-1", "chosen-2"], f"{results}")
    with report.check("list and count agree"):
        shown = bench.cli("entry", "show")["entries"]
        same(by_id(shown), by_id(issuer.entries()), ("spire-server", issuer.name))
        count = bench.cli("entry", "count")["count"]
        expect(count == len(shown), f"count {count} and {len(shown)} entries")
    with report.check("filters by ID, parent, selectors, hint and downstream"):
        check_filters(bench, parent, spiffe_id)
    with report.check("an update by SPIRE's command counts the revision up and is shown by ours"):
        made = bench.cli("entry", "show", "-spiffeID", spiffe_id)["entries"][0]
        bench.result(OK, "entry", "update", "-entryID", made["id"], "-parentID", parent, "-spiffeID", spiffe_id,
                     "-selector", "unix:uid:9")
        now = issuer.entry(made["id"])
        expect(int(now["revision_number"]) == int(made["revision_number"]) + 1, f"revision {now['revision_number']}")
        expect(now["selectors"] == [{"type": "unix", "value": "uid:9"}] and not now.get("hint"), f"{now}")
    with report.check("the same entry again, a foreign ID, and unknown IDs are refused with SPIRE's codes"):
        again = ("entry", "create", "-parentID", parent, "-spiffeID", bench.id("/app/b"), "-selector", "unix:uid:3")
        bench.result(EXISTS, *again)
        bench.result(INVALID, "entry", "create", "-parentID", parent, "-spiffeID", "spiffe://foreign.test/a",
                     "-selector", "unix:uid:3")
        bench.result(NOT_FOUND, "entry", "delete", "-entryID", "unknown")
        bench.result(NOT_FOUND, "entry", "update", "-entryID", "unknown", "-parentID", parent, "-spiffeID", spiffe_id,
                     "-selector", "unix:uid:9")
        bench.refused("NotFound", "entry", "show", "-entryID", "unknown")
    with report.check("what one command deletes, the other no longer shows"):
        bench.result(OK, "entry", "delete", "-entryID", "chosen-0")
        issuer.delete_entry("chosen-1")
        ours, theirs = issuer.entries(), bench.cli("entry", "show")["entries"]
        same(by_id(theirs), by_id(ours), ("spire-server", issuer.name))
        left = {entry["id"] for entry in ours}
        expect("chosen-2" in left and not left & {"chosen-0", "chosen-1"}, f"left are {sorted(left)}")


def check_filters(bench, parent, spiffe_id):
    def found(*args):
        return sorted(path(e["spiffe_id"]) for e in bench.cli("entry", "show", *args)["entries"])

    for args, wanted in (
        (("-spiffeID", spiffe_id), ["/app/a"]),
        (("-parentID", parent), ["/app/a", "/app/b", "/batch/0", "/batch/1", "/batch/2"]),
        (("-parentID", bench.id("/nobody")), []),
        (("-selector", "unix:uid:1"), ["/app/a", "/batch/1"]),
        (("-selector", "unix:uid:1", "-matchSelectorsOn", "exact"), ["/batch/1"]),
        (("-selector", "unix:uid:1", "-selector", "unix:uid:2", "-matchSelectorsOn", "any"),
         ["/app/a", "/batch/1", "/batch/2"]),
        (("-selector", "unix:uid:1", "-selector", "unix:gid:2", "-matchSelectorsOn", "subset"), ["/app/a", "/batch/1"]),
        (("-hint", "first"), ["/app/a"]),
        (("-downstream",), ["/app/a"]),
    ):
        expect(found(*args) == wanted, f"entry show {' '.join(args)} found {found(*args)}, not {wanted}")


def check_agents(report, bench):
    issuer, alias = bench.issuer, bench.id("/node/alias")
    token = bench.cli("token", "generate", "-ttl", "60", "-spiffeID", alias)
    agent_id = bench.id(f"/spire/agent/join_token/{token['value']}")
    with report.check("a token by SPIRE's command has a value, an end and an alias entry"):
        expect(token["value"] and int(token["expires_at"]) > 0, f"{token}")
        entries = bench.cli("entry", "show", "-spiffeID", alias)["entries"]
        expect(len(entries) == 1 and entries[0]["selectors"] == [{"type": "spiffe_id", "value": agent_id}] and
               path(entries[0]["parent_id"]) == path_of(agent_id), f"{entries}")
    bundle = write_bundle(bench.cli("bundle", "show"), bench.directory / "bundle.pem")
    agent = spire.Agent(bench.stage, bench.bin_dir, bench.directory / "agent", bench.domain, issuer.port,
                        token["value"], bundle)
    with report.check("the agent that joined with it is shown alike"):
        same(bench.cli("agent", "list")["agents"], issuer.agents(), ("spire-server", issuer.name))
        shown = bench.cli("agent", "show", "-spiffeID", agent_id)
        same(shown, issuer.agent(agent_id), ("spire-server", issuer.name))
        expect((shown["attestation_type"], shown["banned"], shown["can_reattest"]) == ("join_token", False, False),
               f"{shown}")
        expect(bench.cli("agent", "count")["count"] == 1, "count is not 1")
        expect(len(bench.cli("agent", "list", "-banned", "true")["agents"]) == 0, "a banned agent is listed")
    with report.check("an entry below the alias serves a workload of that agent"):
        bench.result(OK, "entry", "create", "-parentID", alias, "-spiffeID", bench.id("/app/on-alias"),
                     "-selector", f"unix:uid:{os.getuid()}")

        def served():
            done = run(bench.interop, "x509", "--socket", agent.socket, "--timeout", "2s", check=False)
            return bench.id("/app/on-alias") in done.stdout

        wait_until("the workload has its SVID", served, timeout=30, alive=agent.program)
    with report.check("a banned agent is shown as banned by both, and ends"):
        bench.cli("agent", "ban", "-spiffeID", agent_id)
        shown = bench.cli("agent", "show", "-spiffeID", agent_id)
        expect(shown["banned"], f"{shown}")
        same(shown, issuer.agent(agent_id), ("spire-server", issuer.name))
        wait_until("the agent ends", agent.program.ended, timeout=30)
    with report.check("an evicted agent is gone for both"):
        bench.cli("agent", "evict", "-spiffeID", agent_id)
        expect(bench.cli("agent", "list")["agents"] == [] == issuer.agents(), "an agent is still listed")
        bench.refused("NotFound", "agent", "show", "-spiffeID", agent_id)


def by_id(entries):
    return sorted(entries, key=lambda entry: entry["id"])


def path(spiffe_id):
    return spiffe_id["path"]


def path_of(text):
    return "/" + text.split("/", 3)[3]
