"""A node: containerd, the kubelet and kube-proxy, in a machine of their own, each where a real node has it.

Nothing is fetched: images are what `images.py` made, and a pod's `imagePullPolicy` must not be Always.
"""

import json

import certificates
from certificates import path
from machine import Machine, wait_for
from place import KUBERNETES_SERVICE, PODS, node_address, node_name, pod_range
from proc import accepts

PAUSE = "mintmark.test/pause:1"
PLUGINS = "/usr/lib/cni"
CONTAINERD = "/run/containerd/containerd.sock"


class Node:
    def __init__(self, number, programs):
        self.number, self.programs = number, programs
        self.name, self.address = node_name(number), node_address(number)
        self.machine = Machine(self.name)

    def start_containerd(self):
        """Its images can be imported when this returns."""
        network = self.machine.path("/var/lib/cni/net.d/10-ptp.conflist")
        network.parent.mkdir(parents=True)
        network.write_text(json.dumps({
            "cniVersion": "1.0.0", "name": "pods", "plugins": [{
                # Not `bridge`: without br_netfilter a service's replies between pods of one bridge are not translated back.
                "type": "ptp",
                "ipam": {"type": "host-local", "ranges": [[{"subnet": pod_range(self.number)}]], "routes": [{"dst": "0.0.0.0/0"}]},
            }],
        }), encoding="utf-8")
        config = self.machine.directory / "containerd.toml"
        config.write_text(f'''version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
[grpc]
address = "{CONTAINERD}"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{PAUSE}"
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{PLUGINS}"
conf_dir = "/var/lib/cni/net.d"
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "overlayfs"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
''', encoding="utf-8")
        # `restrict_oom_score_adj`: root in a virtual machine or a container may lack CAP_SYS_RESOURCE.
        part = self.machine.start("containerd", ["containerd", "--config", config])
        outside = f"/proc/{self.machine.pid}/root{CONTAINERD}"
        wait_for(f"containerd of {self.name} listens", lambda: accepts(outside), of=[part])

    def import_image(self, archive):
        self.machine.run("ctr", "--address", CONTAINERD, "--namespace", "k8s.io", "images", "import", archive)

    def start_kubelet(self):
        """Also kube-proxy. Both want an API server that answers."""
        certificates.make_for_node(self.machine, self.number)
        config = self.machine.directory / "kubelet.json"
        config.write_text(json.dumps({
            "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
            "authentication": {"anonymous": {"enabled": False}, "webhook": {"enabled": True},
                               "x509": {"clientCAFile": str(path("ca"))}},
            "authorization": {"mode": "Webhook"},
            "tlsCertFile": str(path(self.name)), "tlsPrivateKeyFile": str(path(self.name, "key")),
            "containerRuntimeEndpoint": f"unix://{CONTAINERD}",
            "cgroupDriver": "cgroupfs", "failCgroupV1": False, "enforceNodeAllocatable": [], "failSwapOn": False,
            "resolvConf": "",
            "podLogsDir": "/var/log/pods", "volumePluginDir": "/var/lib/kubelet/volumeplugins",
            # The disk is the host's, and is to be as full as the host likes.
            "evictionHard": {"memory.available": "10Mi", "nodefs.available": "1%", "nodefs.inodesFree": "1%", "imagefs.available": "1%"},
            "imageGCHighThresholdPercent": 100, "imageGCLowThresholdPercent": 99,
        }, indent=1), encoding="utf-8")
        (self.machine.path("/var/lib/kubelet/pki")).mkdir(parents=True)
        self.machine.start("kubelet", [
            self.programs / "kubelet", f"--config={config}", f"--kubeconfig={path(self.name, 'kubeconfig')}",
            "--root-dir=/var/lib/kubelet", "--cert-dir=/var/lib/kubelet/pki",
            f"--hostname-override={self.name}", f"--node-ip={self.address}"])
        self.machine.start("kube-proxy", [
            self.programs / "kube-proxy", f"--kubeconfig={path('kube-proxy', 'kubeconfig')}",
            f"--hostname-override={self.name}", "--proxy-mode=nftables", f"--cluster-cidr={PODS}", "--conntrack-max-per-core=0"])

    def wait_until_ready(self, api):
        """The kubelet says so, and kube-proxy has written its rules."""
        def registered():
            node = api.get(f"/api/v1/nodes/{self.name}")
            conditions = node["status"].get("conditions", []) if node else []
            return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)
        wait_for(f"{self.name} is Ready", registered, of=self.machine.parts())
        wait_for(f"kube-proxy of {self.name} has its rules", self._has_services, of=self.machine.parts())

    def _has_services(self):
        """Whether the API server's Service leads somewhere on this node."""
        done = self.machine.run("nft", "list", "map", "ip", "kube-proxy", "service-ips", check=False)
        return done.returncode == 0 and f"{KUBERNETES_SERVICE} . tcp . 443" in done.stdout
