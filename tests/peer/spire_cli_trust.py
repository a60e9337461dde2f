"""SPIRE's command line at the admin socket of the issuer under test: bundles, federation, minting and authorities."""

import json
import re

import spire
from issuer import pem
from proc import free_port, run, wait_until
from report import expect, same

OTHER = "other.test"


def check_trust(report, bench):
    issuer = bench.issuer
    with report.check("the bundle is shown alike, and in SPIFFE's format too"):
        shown = bench.cli("bundle", "show")
        same(known(shown), known(issuer.bundle()), ("spire-server", issuer.name))
        document = json.loads(bench.plain("bundle", "show", "-format", "spiffe").stdout)
        uses = [key["use"] for key in document["keys"]]
        expect((uses.count("x509-svid"), uses.count("jwt-svid")) ==
               (len(shown["x509_authorities"]), len(shown["jwt_authorities"])), f"{uses}")
        expect(bench.plain("bundle", "show").stdout.count("BEGIN CERTIFICATE") == len(shown["x509_authorities"]), "PEM")

    other = spire.Server(bench.stage, bench.bin_dir, bench.directory / "other", OTHER)
    foreign = other.bundle(bench.directory / "foreign.pem")
    with report.check("a foreign bundle set by SPIRE's command is shown alike, counted and deleted"):
        bench.cli("bundle", "set", "-id", f"spiffe://{OTHER}", "-path", foreign)
        shown = bench.cli("bundle", "list")["bundles"]
        expect([bundle["trust_domain"] for bundle in shown] == [OTHER], f"{shown}")
        same(shown, issuer.bundles(), ("spire-server", issuer.name))
        expect(pem(shown[0]["x509_authorities"][0]["asn1"]).split() == foreign.read_text().split(), "another one")
        expect(bench.cli("bundle", "count")["count"] == 2, "count is not 2: the own one and the foreign one")
        bench.cli("bundle", "delete", "-id", f"spiffe://{OTHER}")
        expect(bench.cli("bundle", "list")["bundles"] == [], "it is still listed")

    with report.check("a federation relationship is created, shown alike, refreshed and updated"):
        bench.cli("federation", "create", *relationship(OTHER, other.bundle_url), "-trustDomainBundlePath", foreign)
        shown = bench.cli("federation", "list")["federation_relationships"]
        same(shown, issuer.federations(), ("spire-server", issuer.name))
        expect(shown[0]["https_spiffe"]["endpoint_spiffe_id"] == f"spiffe://{OTHER}/spire/server", f"{shown}")
        bench.cli("federation", "refresh", "-id", OTHER)
        fetched = bench.cli("bundle", "list")["bundles"]
        expect(len(fetched) == 1 and fetched[0]["jwt_authorities"],
               f"the refreshed bundle lacks the JWT authorities that only the endpoint knows: {fetched}")
        moved = f"https://localhost:{free_port()}/moved"
        bench.cli("federation", "update", *relationship(OTHER, moved))
        expect(bench.cli("federation", "show", "-trustDomain", OTHER)["bundle_endpoint_url"] == moved, "not updated")
        bench.cli("federation", "delete", "-id", OTHER)
        expect(bench.cli("federation", "list")["federation_relationships"] == [] == issuer.federations(), "not deleted")

    with report.check("SPIRE follows our bundle endpoint over https_spiffe, through a rotation of ours"):
        own = bench.directory / "own.pem"
        own.write_text(bench.plain("bundle", "show").stdout)
        other.cli("federation", "create", *relationship(bench.domain, issuer.federation_url),
                  "-trustDomainBundlePath", own)
        bench.cli("localauthority", "x509", "prepare")
        other.cli("federation", "refresh", "-id", bench.domain)
        theirs = [b for b in other.cli("bundle", "list")["bundles"] if b["trust_domain"] == bench.domain]
        ours = bench.cli("bundle", "show")
        expect(len(theirs) == 1, f"{theirs}")
        same(certificates(theirs[0]), certificates(ours), ("SPIRE", issuer.name))


def relationship(domain, url):
    return ("-trustDomain", domain, "-bundleEndpointURL", url, "-bundleEndpointProfile", "https_spiffe",
            "-endpointSpiffeID", f"spiffe://{domain}/spire/server")


def check_keys(report, bench):
    issuer = bench.issuer
    with report.check("x509 mint writes an SVID that go-spiffe, crypto/x509 and openssl accept"):
        out = bench.directory / "minted"
        out.mkdir()
        bench.plain("x509", "mint", "-spiffeID", bench.id("/minted"), "-dns", "m.test", "-ttl", "5m", "-write", out)
        done = run(bench.interop, "verify", "--bundle", out / "bundle.pem", "--cert", out / "svid.pem",
                   "--key", out / "key.pem", "--expect", bench.id("/minted"))
        minted = json.loads(done.stdout)
        expect(minted["dns_names"] == ["m.test"], f"{minted}")
        run("openssl", "verify", "-x509_strict", "-CAfile", out / "bundle.pem", "-untrusted", out / "svid.pem",
            out / "svid.pem")
    if hasattr(issuer, "leaf"):
        with report.check("what SPIRE's command minted is in our ledger"):
            leaf = issuer.leaf(minted["serial"])
            expect(leaf["spiffe_id"] == bench.id("/minted") and leaf["witnesses"] == ["admin"], f"{leaf}")
    with report.check("jwt mint makes a token that SPIRE's own OIDC provider vouches for"):
        token = bench.cli("jwt", "mint", "-spiffeID", bench.id("/minted"), "-audience", "relying-party",
                          "-ttl", "1m")["svid"]
        expect(token["id"] == {"trust_domain": bench.domain, "path": "/minted"}, f"{token}")
        provider = spire.OidcProvider(bench.stage, bench.bin_dir, bench.directory / "oidc", issuer.admin, free_port(),
                                      bench.web[1:])
        check_token(bench, provider.issuer, token["token"], "--any-issuer")
    if hasattr(issuer, "https"):
        with report.check("and our own issuer too, by discovery"):
            check_token(bench, issuer.https, token["token"])
    for kind in ("x509", "jwt"):
        with report.check(f"localauthority {kind}: prepare, activate, taint, revoke, shown alike at each step"):
            check_authority(bench, kind)
    with report.check("localauthority refuses an unknown authority"):
        bench.refused("InvalidArgument", "localauthority", "x509", "activate", "-authorityID", "unknown")
        bench.refused("InvalidArgument", "localauthority", "jwt", "revoke", "-authorityID", "unknown")
    with report.check("upstreamauthority is refused where there is none"):
        bench.refused("FailedPrecondition", "upstreamauthority", "taint", "-subjectKeyID", "ab" * 20)
    with report.check("the log level is shown, set and reset"):
        launch = bench.cli("logger", "get")["launch_level"]
        expect(bench.cli("logger", "set", "-level", "debug")["current_level"] == "DEBUG", "not set")
        expect(bench.cli("logger", "reset")["current_level"] == launch, "not reset")
    with report.check("healthcheck passes"):
        expect("healthy" in bench.plain("healthcheck").stdout, "no word of health")


def check_token(bench, url, token, *further):
    """The token against the discovery document and the keys at a URL."""
    documents = (bench.interop, "oidc", "--issuer", url, "--ca", bench.web[0])
    wait_until("the issuer serves its documents", lambda: run(*documents, check=False).returncode == 0)
    done = run(*documents, "--token", token, "--audience", "relying-party", *further)
    expect(bench.id("/minted") in done.stdout, done.stdout)


def check_authority(bench, kind):
    issuer = bench.issuer

    def step(verb, *args):
        answer = bench.cli("localauthority", kind, verb, *args)
        same(bench.cli("localauthority", kind, "show"), issuer.authority(kind, "show"), ("spire-server", issuer.name))
        return answer

    fresh = step("prepare")["prepared_authority"]["authority_id"]
    active = issuer.authority(kind, "show")["active"]["authority_id"]
    expect(re.fullmatch(r"[A-Za-z0-9_-]{1,64}", fresh) and fresh != active, f"prepared {fresh}, active {active}")
    expect(step("activate", "-authorityID", fresh)["activated_authority"]["authority_id"] == fresh, "another is active")
    expect(issuer.authority(kind, "show")["old"]["authority_id"] == active, "the old one is not in the old slot")
    expect(step("taint", "-authorityID", active)["tainted_authority"]["authority_id"] == active, "another is tainted")
    tainted = [a.get("key_id", True) for a in bench.cli("bundle", "show")[f"{kind}_authorities"] if a.get("tainted")]
    expect(tainted == [True] if kind == "x509" else tainted == [active], f"tainted in the bundle: {tainted}")
    expect(step("revoke", "-authorityID", active)["revoked_authority"]["authority_id"] == active, "another is revoked")
    left = bench.cli("bundle", "show")[f"{kind}_authorities"]
    expect(not any(a.get("tainted") for a in left), f"the tainted one is still in the bundle: {left}")


def known(bundle):
    """Without what SPIRE 1.13's messages do not have."""
    return {name: value for name, value in bundle.items() if name != "wit_authorities"}


def certificates(bundle):
    return sorted(authority["asn1"] for authority in bundle["x509_authorities"])
