"""A node of a test cluster: a machine with containerd, kubelet and kube-proxy, to be killed and revived."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from tests.cluster.addresses import MACHINES, PODS, SERVICES, of_interface, of_node, of_pods
from tests.cluster.api_server import ApiServer
from tests.cluster.binaries import cni_plugins, program
from tests.cluster.machine import Machine, MachineError, Program

PAUSE = "localhost/podwire-test-pause:1"
READY_S = 60.0
IMPORT_S = 120.0
BPFFS = "/sys/fs/bpf"
_SOCKET = "/run/containerd/containerd.sock"

# The kubelet sets these for the whole kernel; on a node it finds files of the node's own in their place.
OWN_SYSCTLS = (
    "kernel/keys/root_maxbytes",
    "kernel/keys/root_maxkeys",
    "kernel/panic",
    "kernel/panic_on_oops",
    "vm/overcommit_memory",
    "vm/panic_on_oom",
)

_OWN = f"""
mount -t tmpfs -o mode=0755 tmpfs /run
mkdir /run/cgroup /run/sysctl
mount --rbind /sys/fs/cgroup /run/cgroup
mount -t sysfs sysfs /sys
mount --move /run/cgroup /sys/fs/cgroup
mount -t bpf bpf /sys/fs/bpf
for key in {" ".join(OWN_SYSCTLS)}; do
    test -e /proc/sys/$key || continue
    own=/run/sysctl/$(echo $key | tr / .)
    cat /proc/sys/$key >$own
    mount --bind $own /proc/sys/$key
done
mount -t tmpfs tmpfs /var/log
"""
"""A node's own /run, /sys (that of its network), bpffs, kernel settings and logs."""


class Node:
    """Context manager. Its disk, in `directory`, outlives a power failure."""

    def __init__(self, number: int, api: ApiServer, directory: Path, logs: Path, cgroup: str) -> None:
        self.number = number
        self.name = f"node-{number}"
        self.api = api
        self.directory = directory
        self.addresses = of_node(number)
        self.pod_ranges = of_pods(number)
        self._files = directory / "configuration"
        disk = directory / "disk"
        for place in (self._files, disk / "new", disk / "work"):
            place.mkdir(parents=True)
        # The host's /var/lib with what this node writes there aside; images need a file system that is no overlay.
        overlay = f"lowerdir=/var/lib,upperdir={disk}/new,workdir={disk}/work"
        self.machine = Machine(self.name, logs, f"{_OWN}mount -t overlay -o {overlay} overlay /var/lib")
        self.containerd = self.machine.program("containerd", "containerd", f"--config={self._files}/containerd.toml")
        self.kubelet = self.machine.program(
            "kubelet",
            program("kubelet"),
            f"--config={self._files}/kubelet.json",
            f"--kubeconfig={api.directory}/{self.name}.kubeconfig",
            f"--hostname-override={self.name}",
            f"--node-ip={','.join(self.addresses)}",
        )
        self.proxy = self.machine.program("kube-proxy", program("kube-proxy"), f"--config={self._files}/proxy.json")
        self._configure(cgroup)

    def __enter__(self) -> Self:
        self.power_on()
        return self

    def __exit__(self, *exception: object) -> None:
        self.kill()

    def power_on(self) -> None:
        """The machine, its network and containerd, which is on its way."""
        self.machine.power_on()
        # No veth, as a node's own interface is none: agents would take it for a pod's.
        link = f"link add link wire name eth0 address {of_interface(self.number)} netns {self.machine.pid}"
        self.api.machine.ip(f"{link} type macvlan mode bridge")
        v4, v6 = self.addresses
        others = [number for number in range(1, 10) if number != self.number]
        self.machine.ip(
            f"address add {v4}/{MACHINES[0].split('/')[1]} dev eth0",
            f"address add {v6}/{MACHINES[1].split('/')[1]} dev eth0 nodad",
            "link set eth0 up",
            # Only there to be routed before kube-proxy's rules give these another destination.
            *(f"route add {services} dev eth0" for services in SERVICES),
            *(
                f"route add {pods} via {node}"
                for other in others
                for pods, node in zip(of_pods(other), of_node(other), strict=True)
            ),
        )
        self.containerd.start()

    def join(self) -> None:
        """The kubelet and kube-proxy, on their way."""
        self.kubelet.start()
        self.proxy.start()

    def kill(self) -> None:
        """All that runs on it is dead at once, and its network gone."""
        self.machine.power_off()

    def revive(self) -> None:
        """Boot it again, with the disk it had; returns when the API server has it as Ready."""
        self.power_on()
        self.wait_until_containers()
        self.join()
        self.wait_until_ready()

    def unplug(self) -> None:
        """Nothing goes from or to other machines; its pods go on."""
        self.machine.ip("link set eth0 type macvlan mode private")

    def plug(self) -> None:
        """Undo `unplug`."""
        self.machine.ip("link set eth0 type macvlan mode bridge")

    def exec(self, *argv: str, stdin: str | None = None) -> str:
        """The output of a command in the node's namespaces. MachineError where it fails."""
        return self.machine.run(*argv, stdin=stdin)

    def pins(self) -> list[str]:
        """Paths below its bpffs, but for the two that the kernel makes itself."""
        found = self.exec("find", BPFFS, "-mindepth", "1").splitlines()
        return sorted(path for path in found if not path.endswith(".debug"))

    def wait_until_containers(self) -> None:
        """Returns when containerd answers."""
        self.containerd.wait_until(lambda: self._answers("version"), "answers", READY_S)

    def wait_until_ready(self) -> None:
        """Returns when the API server has it as Ready, and Services work."""
        self.kubelet.wait_until(lambda: self.ready, f"{self.name} is Ready", READY_S)
        probe = ["curl", "--silent", "--fail", "--output", "/dev/null", "http://127.0.0.1:10256/healthz"]
        self.proxy.wait_until(lambda: _succeeds(self.machine.command(*probe)), "healthy", READY_S)

    @property
    def ready(self) -> bool:
        """As the API server has it."""
        path = f"/api/v1/nodes/{self.name}"
        if not self.api.answers(path):
            return False
        conditions = self.api.get(path)["status"].get("conditions", [])
        return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)

    def importing(self, archives: Sequence[Path]) -> subprocess.Popen[str]:
        """Take images from docker archives, on its way; see `imported`."""
        lines = "\n".join(f"ctr --namespace k8s.io images import {archive}" for archive in archives)
        command = self.machine.command("sh", "-ec", lines)
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    def imported(self, importing: subprocess.Popen[str]) -> None:
        """Returns when that has ended. MachineError where it failed."""
        _, said = importing.communicate(timeout=IMPORT_S)
        if importing.returncode:
            raise MachineError(f"{self.name} cannot import images: {said.strip()}")

    def tag(self, image: str, name: str) -> None:
        """Another name for an image that it has. MachineError."""
        self.exec("ctr", "--namespace", "k8s.io", "images", "tag", "--force", image, name)

    @property
    def programs(self) -> tuple[Program, ...]:
        """All of its own."""
        return self.containerd, self.kubelet, self.proxy

    def _answers(self, *argv: str) -> bool:
        return _succeeds(self.machine.command("ctr", *argv))

    def _configure(self, cgroup: str) -> None:
        self.api.authority.issue(self.name, f"system:node:{self.name}", "system:nodes", [self.name, *self.addresses])
        self.api.authority.kubeconfig(self.name, self.api.inner_url)
        self.api.authority.issue(f"{self.name}-proxy", "system:kube-proxy")
        proxy = self.api.authority.kubeconfig(f"{self.name}-proxy", self.api.inner_url)
        plugins = cni_plugins()
        assert plugins is not None
        (self._files / "containerd.toml").write_text(
            f"""version = 2
root = "{self.directory}/containerd"
state = "/run/containerd"
[grpc]
  address = "{_SOCKET}"
[plugins."io.containerd.internal.v1.opt"]
  path = "{self.directory}/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE}"
  stream_server_address = "127.0.0.1"
  disable_apparmor = true
  # A process that may not lower its own score cannot give a container a lower one.
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{plugins}"
    conf_dir = "{self._files}/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
    SystemdCgroup = false
"""
        )
        (self._files / "resolv.conf").write_text("nameserver 127.0.0.1\n")
        (self._files / "cni").mkdir()
        self._write("cni/10-bridge.conflist", self._network())
        self._write("kubelet.json", self._kubelet(cgroup))
        self._write("proxy.json", self._proxy(proxy))

    def _write(self, name: str, document: object) -> None:
        (self._files / name).write_text(json.dumps(document, indent=1))

    def _network(self) -> object:
        bridge = {
            "type": "bridge",
            "bridge": "cni0",
            "isDefaultGateway": True,
            "hairpinMode": True,
            "ipam": {"type": "host-local", "ranges": [[{"subnet": subnet}] for subnet in self.pod_ranges]},
        }
        return {"cniVersion": "1.0.0", "name": "pods", "plugins": [bridge]}

    def _kubelet(self, cgroup: str) -> object:
        authority, issued = self.api.authority.certificate, self.api.directory / self.name
        return {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": "0.0.0.0",  # noqa: S104 (of a machine that only its cluster reaches)
            "healthzBindAddress": "127.0.0.1",
            "tlsCertFile": f"{issued}.crt",
            "tlsPrivateKeyFile": f"{issued}.key",
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": f"{authority}"},
            },
            "authorization": {"mode": "Webhook"},
            "containerRuntimeEndpoint": f"unix://{_SOCKET}",
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": cgroup,
            "failCgroupV1": False,
            "failSwapOn": False,
            "makeIPTablesUtilChains": False,
            "resolvConf": f"{self._files}/resolv.conf",
            # Renewed every quarter of it: the controllers see sooner than usual that a node is dead.
            "nodeLeaseDurationSeconds": 12,
            # What is imported cannot be pulled again, and the disk is this host's.
            "imageGCHighThresholdPercent": 100,
            "imageGCLowThresholdPercent": 99,
            "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        }

    def _proxy(self, kubeconfig: Path) -> object:
        return {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "mode": "nftables",
            "hostnameOverride": self.name,
            "bindAddress": self.addresses[0],
            "healthzBindAddress": "127.0.0.1:10256",
            "metricsBindAddress": "127.0.0.1:10249",
            "clientConnection": {"kubeconfig": str(kubeconfig)},
            "clusterCIDR": ",".join(PODS),
            # Only the first network namespace of a kernel may set these.
            "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        }


def _succeeds(command: Sequence[str]) -> bool:
    return subprocess.run(command, check=False, capture_output=True).returncode == 0
