"""etcd, the API server, the controller manager and the scheduler, in a machine of their own.

The API server reaches webhooks at their pods, not at a Service's address: no kube-proxy runs beside it (`--enable-aggregator-routing`).
"""

from api import Api
from certificates import path
from machine import Machine, wait_for
from place import API_PORT, CONTROL, CONTROL_ADDRESS, SERVICES

ETCD = "http://127.0.0.1:2379"


class ControlPlane:
    def __init__(self, programs):
        self.programs, self.machine = programs, Machine(CONTROL)

    def start(self):
        """etcd and the API server; they are not ready yet."""
        data = self.machine.directory / "lib" / "etcd"
        data.mkdir(mode=0o700)
        peers = "http://127.0.0.1:2380"
        self._start(
            "etcd", "--name=control", "--data-dir=/var/lib/etcd", f"--listen-client-urls={ETCD}", f"--advertise-client-urls={ETCD}",
            f"--listen-peer-urls={peers}", f"--initial-advertise-peer-urls={peers}", f"--initial-cluster=control={peers}",
            "--unsafe-no-fsync", "--log-level=warn")
        self._start(
            "kube-apiserver",
            f"--etcd-servers={ETCD}", f"--advertise-address={CONTROL_ADDRESS}", f"--secure-port={API_PORT}",
            f"--service-cluster-ip-range={SERVICES}",
            f"--client-ca-file={path('ca')}",
            f"--tls-cert-file={path('kube-apiserver')}", f"--tls-private-key-file={path('kube-apiserver', 'key')}",
            f"--kubelet-certificate-authority={path('ca')}",
            f"--kubelet-client-certificate={path('to-kubelets')}", f"--kubelet-client-key={path('to-kubelets', 'key')}",
            "--kubelet-preferred-address-types=InternalIP",  # the names of nodes do not resolve
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={path('service-accounts')}",
            f"--service-account-signing-key-file={path('service-accounts', 'key')}",
            f"--requestheader-client-ca-file={path('front-proxy-ca')}", "--requestheader-allowed-names=front-proxy",
            "--requestheader-username-headers=X-Remote-User", "--requestheader-group-headers=X-Remote-Group",
            "--requestheader-extra-headers-prefix=X-Remote-Extra-",
            f"--proxy-client-cert-file={path('front-proxy')}", f"--proxy-client-key-file={path('front-proxy', 'key')}",
            "--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction",
            "--allow-privileged=true", "--enable-aggregator-routing=true")

    def wait_until_ready(self):
        api = Api()
        wait_for("the API server is ready", api.ready, of=self.machine.parts())
        return api

    def start_controllers(self):
        """What needs an API server that answers."""
        manager, scheduler = path("kube-controller-manager", "kubeconfig"), path("kube-scheduler", "kubeconfig")
        self._start(
            "kube-controller-manager", f"--kubeconfig={manager}", f"--authentication-kubeconfig={manager}",
            f"--authorization-kubeconfig={manager}", "--leader-elect=false", "--use-service-account-credentials",
            f"--root-ca-file={path('ca')}", f"--service-account-private-key-file={path('service-accounts', 'key')}",
            f"--cluster-signing-cert-file={path('ca')}", f"--cluster-signing-key-file={path('ca', 'key')}",
            "--pvclaimbinder-sync-period=1s")
        self._start(
            "kube-scheduler", f"--kubeconfig={scheduler}", f"--authentication-kubeconfig={scheduler}",
            f"--authorization-kubeconfig={scheduler}", "--leader-elect=false")

    def _start(self, program, *options):
        self.machine.start(program, [self.programs / program, *options])
