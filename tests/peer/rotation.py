"""A real spire-agent on the issuer under test, workloads that use go-spiffe, and authorities that change under them.

Promises checked: the agent joins with a token and serves our SVIDs; go-spiffe verifies X.509-SVIDs and JWT-SVIDs;
through three authority rotations two workloads keep making mutual TLS handshakes, none of which fails, over streams
that never break; an authority that is revoked leaves the bundle, and traffic goes on.
"""

import shutil

import spire
from issuer import spire_binaries, write_bundle
from proc import Failure, run
from report import expect

ROTATIONS = 3
# spire-agent asks once a second and looks at its own SVID every five: a new authority is at the workloads in a few
# seconds; this is the limit after which it is lost.
ARRIVAL = 45


def check_rotation(report, stage, directory, issuer, interop):
    with report.section(f"spire-agent on {issuer.name}, go-spiffe behind it"):
        setting = join(report, stage, directory, issuer, interop)
        check_workload_api(report, setting)
        check_traffic(report, stage, setting)


class Setting:
    """Two workloads, told apart by the path of their program, and the agent that they ask."""

    def __init__(self, directory, issuer, interop):
        self.issuer, self.directory = issuer, directory
        self.alpha, self.beta = directory / "alpha", directory / "beta"
        for program in (self.alpha, self.beta):
            shutil.copy(interop, program)
        self.alpha_id, self.beta_id = (f"spiffe://{issuer.trust_domain}/{name}" for name in ("alpha", "beta"))
        self.socket = None


def join(report, stage, directory, issuer, interop):
    directory.mkdir(parents=True, exist_ok=True)
    setting = Setting(directory, issuer, interop)
    token = issuer.token()
    agent_id = f"spiffe://{issuer.trust_domain}/spire/agent/join_token/{token}"
    issuer.create_entry(setting.alpha_id, agent_id, f"unix:path:{setting.alpha}")
    issuer.create_entry(setting.beta_id, agent_id, f"unix:path:{setting.beta}")
    bundle = write_bundle(issuer.bundle(), directory / "bundle.pem")
    with report.check("a spire-agent joins with our token and bundle"):
        agent = spire.Agent(
            stage, spire_binaries(), directory / "agent", issuer.trust_domain, issuer.port, token, bundle)
        setting.socket = agent.socket
        ids = [f"spiffe://{a['id']['trust_domain']}{a['id']['path']}" for a in issuer.agents()]
        expect(agent_id in ids, f"{agent_id} is not among the agents {ids}")
    expect(setting.socket, "no agent")
    with report.check("a token joins one agent only"):
        try:
            spire.Agent(stage, spire_binaries(), directory / "second", issuer.trust_domain, issuer.port, token, bundle)
        except Failure as refused:
            expect("attest" in str(refused), f"it ended for another reason: {refused}")
        else:
            raise Failure("a second agent joined with the same token")
    return setting


def check_workload_api(report, setting):
    with report.check("go-spiffe accepts the X.509-SVID of each workload, and openssl its chain"):
        for program, spiffe_id in ((setting.alpha, setting.alpha_id), (setting.beta, setting.beta_id)):
            done = run(program, "x509", "--socket", setting.socket, "--write", setting.directory)
            expect(f'"spiffe_id":"{spiffe_id}"' in done.stdout, f"not {spiffe_id}: {done.stdout}")
            bundle, cert = setting.directory / "bundle.pem", setting.directory / "svid.pem"
            run(program, "verify", "--bundle", bundle, "--cert", cert, "--key", setting.directory / "svid_key.pem",
                "--expect", spiffe_id)
            run("openssl", "verify", "-x509_strict", "-CAfile", bundle, "-untrusted", cert, cert)
    with report.check("go-spiffe accepts the JWT-SVID, offline and by the agent"):
        run(setting.alpha, "jwt", "--socket", setting.socket, "--audience", "before,second")
    with report.check("X.509-SVIDs are renewed on the stream"):
        run(setting.alpha, "x509", "--socket", setting.socket, "--watch", "2", "--timeout", f"{ARRIVAL}s",
            timeout=3 * ARRIVAL)


def check_traffic(report, stage, setting):
    issuer = setting.issuer
    server = stage.start("alpha", [setting.alpha, "mtls-server", "--socket", setting.socket, "--authorize",
                                   setting.beta_id], setting.directory / "alpha.log")
    address = server.event("it listens", lambda e: e["event"] == "listening")["address"]
    client = stage.start("beta", [setting.beta, "mtls-client", "--socket", setting.socket, "--connect", address,
                                  "--expect", setting.alpha_id, "--rate", "20"], setting.directory / "beta.log")
    first = client.event("a handshake", lambda e: e["event"] == "svid" and e["end"] == "peer")["authority"]

    past = [first]
    for n in range(ROTATIONS):
        with report.check(f"rotation {n + 1} of {ROTATIONS} reaches both workloads"):
            past.append(rotate(issuer, server, client))
    with report.check("a JWT authority is rotated too"):
        prepared = authority_id(issuer.authority("jwt", "prepare"))
        run(setting.alpha, "jwt", "--socket", setting.socket, "--audience", "between", "--await-key", prepared)
        issuer.authority("jwt", "activate", prepared)
        done = run(setting.alpha, "jwt", "--socket", setting.socket, "--audience", "after")
        expect(f'"key_id":"{prepared}"' in done.stdout, f"the token is not signed by {prepared}: {done.stdout}")
    with report.check("a tainted and revoked authority leaves the bundle"):
        old = issuer.authority("x509", "show")["old"]["authority_id"]
        expect(old in past, f"the old authority {old} is none of {past}")
        issuer.authority("x509", "taint", old)
        issuer.authority("x509", "revoke", old)
        for program in (server, client):
            program.event(f"a bundle without {old}", lambda e: e["event"] == "bundle" and old not in e["authorities"],
                          ARRIVAL)

    for program, name in ((client, "the client"), (server, "the server")):
        with report.check(f"no handshake failed and no stream broke, says {name}"):
            status = program.stop()
            summary = program.event("its summary", lambda e: e["event"] == "summary", 5)
            expect(status == 0, f"exit status {status}: {program.log_tail()}")
            expect(len(summary["peer_authorities"]) > ROTATIONS,
                   f"only {len(summary['peer_authorities'])} authorities were seen at the other end")
            print(f"        {summary['handshakes']} handshakes, {summary['lines']} lines over one connection, "
                  f"{len(summary['own_serials'])} own SVIDs of {len(summary['own_authorities'])} authorities")


def rotate(issuer, server, client):
    """Prepare, wait until both workloads trust it, activate, wait until both use it."""
    fresh = authority_id(issuer.authority("x509", "prepare"))
    for program in (server, client):
        program.event(f"a bundle with {fresh}", lambda e: e["event"] == "bundle" and fresh in e["authorities"], ARRIVAL)
    issuer.authority("x509", "activate", fresh)
    server.event(f"an own SVID by {fresh}",
                 lambda e: e["event"] == "svid" and e["end"] == "own" and e["authority"] == fresh, ARRIVAL)
    seen = set()

    def both(event):
        if event["event"] == "svid" and event["authority"] == fresh:
            seen.add(event["end"])
        return seen == {"own", "peer"}

    client.event(f"SVIDs by {fresh} at both ends", both, ARRIVAL)
    return fresh


def authority_id(message):
    """The authority that a prepare or activate answered with."""
    for value in message.values():
        if isinstance(value, dict) and value.get("authority_id"):
            return value["authority_id"]
    raise Failure(f"no authority_id in {message}")
