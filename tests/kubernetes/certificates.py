"""The cluster's certificate authority and what it vouches for, made by openssl in the cluster's directory.

Files NAME.pem and NAME.key; `ca` is the authority, `service-accounts` a bare key pair. Nodes get theirs when they are made. The API server is
known to extension API servers by an authority of its own, `front-proxy-ca`, so that nobody else's certificate passes for it.
"""

import base64
import json

from place import API_PORT, CERTIFICATES, CONTROL_ADDRESS, KUBECONFIG, KUBERNETES_SERVICE, node_address, run

SERVICE_NAMES = [f"DNS:{name}" for name in ("kubernetes", "kubernetes.default", "kubernetes.default.svc",
                                            "kubernetes.default.svc.cluster.local", "localhost")]
CLIENTS = {  # name: (common name, organisation)
    "admin": ("admin", "system:masters"),
    "kube-controller-manager": ("system:kube-controller-manager", None),
    "kube-scheduler": ("system:kube-scheduler", None),
    "kube-proxy": ("system:kube-proxy", None),
    "to-kubelets": ("kube-apiserver-to-kubelets", "system:masters"),
}
CURVE = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")


def path(name, kind="pem"):
    return CERTIFICATES / f"{name}.{kind}"


def make():
    CERTIFICATES.mkdir(mode=0o700, exist_ok=True)
    authority("ca", "mintmark test cluster")
    authority("front-proxy-ca", "mintmark test cluster front proxy")
    run("openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", path("service-accounts", "key"))
    run("openssl", "ec", "-in", path("service-accounts", "key"), "-pubout", "-out", path("service-accounts"))
    issue("kube-apiserver", "kube-apiserver", usage="serverAuth",
          names=[*SERVICE_NAMES, *(f"IP:{address}" for address in (CONTROL_ADDRESS, KUBERNETES_SERVICE, "127.0.0.1"))])
    issue("front-proxy", "front-proxy", by="front-proxy-ca")
    for name, (common_name, organisation) in CLIENTS.items():
        issue(name, common_name, organisation)
    for name in ("admin", "kube-controller-manager", "kube-scheduler", "kube-proxy"):
        kubeconfig(KUBECONFIG if name == "admin" else path(name, "kubeconfig"), name)


def make_for_node(node, number):
    """One certificate for both directions, as the kubelet has it."""
    issue(node.name, f"system:node:{node.name}", "system:nodes", usage="clientAuth,serverAuth",
          names=[f"DNS:{node.name}", f"IP:{node_address(number)}"])
    kubeconfig(path(node.name, "kubeconfig"), node.name)


def authority(name, common_name):
    run("openssl", "req", "-x509", *CURVE, "-keyout", path(name, "key"), "-out", path(name), "-days", "3650",
        "-subj", f"/CN={common_name}", "-addext", "keyUsage=critical,keyCertSign,cRLSign,digitalSignature")


def issue(name, common_name, organisation=None, usage="clientAuth", names=(), by="ca"):
    subject = f"/O={organisation}/CN={common_name}" if organisation else f"/CN={common_name}"
    lines = ["basicConstraints=critical,CA:FALSE", "keyUsage=critical,digitalSignature", f"extendedKeyUsage={usage}",
             "authorityKeyIdentifier=keyid", *([f"subjectAltName={','.join(names)}"] if names else [])]
    path(name, "ext").write_text("\n".join(lines) + "\n", encoding="ascii")
    run("openssl", "req", *CURVE, "-keyout", path(name, "key"), "-out", path(name, "csr"), "-subj", subject)
    run("openssl", "x509", "-req", "-in", path(name, "csr"), "-CA", path(by), "-CAkey", path(by, "key"), "-CAcreateserial",
        "-days", "3650", "-extfile", path(name, "ext"), "-out", path(name))
    for done in ("csr", "ext"):
        path(name, done).unlink()


def kubeconfig(file, name):
    """With the client certificate inside, so that the file can be copied; JSON is YAML too."""
    cluster = {"server": f"https://{CONTROL_ADDRESS}:{API_PORT}", "certificate-authority-data": in_base64(path("ca"))}
    user = {"client-certificate-data": in_base64(path(name)), "client-key-data": in_base64(path(name, "key"))}
    file.write_text(json.dumps({
        "apiVersion": "v1", "kind": "Config", "current-context": "mintmark-test",
        "clusters": [{"name": "mintmark-test", "cluster": cluster}],
        "users": [{"name": name, "user": user}],
        "contexts": [{"name": "mintmark-test", "context": {"cluster": "mintmark-test", "user": name}}],
    }, indent=1) + "\n", encoding="utf-8")
    file.chmod(0o600)


def in_base64(file):
    return base64.b64encode(file.read_bytes()).decode("ascii")
