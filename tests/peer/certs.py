"""A throw-away web CA and a serving certificate for localhost and 127.0.0.1, made by openssl."""

from proc import run


def make_web_ca(directory):
    """Returns (CA file, certificate file, key file)."""
    ca, ca_key, cert, key, request, extensions = (
        directory / name for name in ("ca.pem", "ca.key", "web.pem", "web.key", "web.csr", "web.ext")
    )
    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    run("openssl", "req", "-x509", *curve, "-keyout", ca_key, "-out", ca, "-days", "2", "-subj", "/CN=test web CA")
    run("openssl", "req", *curve, "-keyout", key, "-out", request, "-subj", "/CN=localhost")
    extensions.write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\nbasicConstraints=critical,CA:FALSE\n")
    run("openssl", "x509", "-req", "-in", request, "-CA", ca, "-CAkey", ca_key, "-CAcreateserial",
        "-days", "2", "-extfile", extensions, "-out", cert)
    return ca, cert, key
