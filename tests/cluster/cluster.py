"""A Kubernetes cluster of two nodes on this machine, in namespaces of its own."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from podwire_agent.errors import ClusterError
from podwire_agent.kube.connection import Connection
from tests.cluster.addresses import CONTROL_PLANE, MACHINES, PODS, of_node, of_pods
from tests.cluster.api_server import ApiServer
from tests.cluster.audit import Request
from tests.cluster.binaries import program
from tests.cluster.machine import Program
from tests.cluster.node import Node
from tests.cluster.polling import eventually
from tests.cluster.workplace import Workplace

NODES = 2
READY_S = 60.0
SETTLED_S = 150.0
"""For nodes to be Ready after anything at all: a kubelet that found no API server comes back slowly."""
KUBECTL_S = 60.0
NODE_GRACE_S = 20
"""After so long without a sign of life a node is no longer Ready. Kubernetes' default is 50."""


class KubectlError(Exception):
    """kubectl failed; the message is what it said."""


@contextmanager
def two_nodes(logs: Path, archives: Sequence[Path] = ()) -> Iterator[Cluster]:
    """A cluster that is up, with the images of these docker archives on both nodes.

    `logs` takes the logs of all its programs and the audit log, and is not removed. MachineError, BinariesError.
    """
    with ExitStack() as stack:
        made = Cluster(stack.enter_context(Workplace()), logs)
        made.bring_up(stack, archives)
        yield made


class Cluster:
    """A cluster that is up, see `two_nodes`. All of its programs can be killed and started again.

    api, controllers, scheduler: the control plane; nodes: node-1, node-2.
    """

    def __init__(self, workplace: Workplace, logs: Path) -> None:
        self.workplace = workplace
        self.logs = logs
        control = workplace.directory / "control-plane"
        control.mkdir()
        self.api = ApiServer(control, logs / "control-plane", CONTROL_PLANE[0], ("--etcd-compaction-interval=5m",))
        authority = self.api.authority
        self.controllers = self._controlling(
            "kube-controller-manager",
            "--use-service-account-credentials",
            f"--service-account-private-key-file={control}/accounts.key",
            f"--root-ca-file={authority.certificate}",
            f"--cluster-cidr={','.join(PODS)}",
            "--allocate-node-cidrs=false",
            f"--node-monitor-grace-period={NODE_GRACE_S}s",
            "--node-monitor-period=2s",
        )
        self.scheduler = self._controlling("kube-scheduler")
        authority.issue("admin", "admin", "system:masters")
        self.kubeconfig = authority.kubeconfig("admin", self.api.url)
        self.nodes = tuple(self._node(number) for number in range(1, NODES + 1))

    def bring_up(self, stack: ExitStack, archives: Sequence[Path]) -> None:
        """Until both nodes are Ready; `stack` ends it."""
        self.api.prepare(stack)
        self._connect()
        for node in self.nodes:
            stack.enter_context(node)
        self.api.server.start()  # which takes longest
        for node in self.nodes:
            node.wait_until_containers()
        imports = [node.importing(archives) for node in self.nodes]
        self.api.wait_until_ready()
        self.controllers.start()
        self.scheduler.start()
        for node in self.nodes:
            node.join()
        for node, importing in zip(self.nodes, imports, strict=True):
            node.wait_until_ready()
            node.imported(importing)
        account = "/api/v1/namespaces/default/serviceaccounts/default"  # no pod can be made without
        self.controllers.wait_until(lambda: self.api.answers(account), "service accounts are made", READY_S)

    def node(self, name: str | int) -> Node:
        """By name or number: "node-1", 1."""
        return next(node for node in self.nodes if name in {node.name, node.number})

    def kubectl(self, *argv: str, stdin: str | None = None, timeout_s: float = KUBECTL_S) -> str:
        """What kubectl prints, as the administrator. KubectlError where it fails."""
        command = [program("kubectl"), f"--kubeconfig={self.kubeconfig}", *argv]
        done = subprocess.run(command, check=False, input=stdin, capture_output=True, text=True, timeout=timeout_s)
        if done.returncode:
            raise KubectlError(f"kubectl {' '.join(argv)}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout

    def get(self, *argv: str) -> Any:
        """`kubectl get ... -o json`, decoded. KubectlError."""
        return json.loads(self.kubectl("get", *argv, "--output=json"))

    def apply(self, *documents: Any, server_side: bool = False) -> str:
        """`kubectl apply` of documents, and what it printed. KubectlError."""
        options = ["--server-side"] if server_side else []
        everything = json.dumps({"apiVersion": "v1", "kind": "List", "items": documents})
        return self.kubectl("apply", *options, "--filename=-", stdin=everything)

    def delete(self, *argv: str) -> None:
        """`kubectl delete`, of what may be gone; returns when it is. KubectlError."""
        self.kubectl("delete", "--ignore-not-found", *argv)

    def exec(self, pod: str, *argv: str, namespace: str = "default", stdin: str | None = None) -> str:
        """The output of a command in a pod. KubectlError where it fails."""
        options = [f"--namespace={namespace}", *(["--stdin"] if stdin is not None else [])]
        return self.kubectl("exec", *options, pod, "--", *argv, stdin=stdin)

    def log(self, pod: str, *options: str, namespace: str = "default") -> str:
        """What a pod has written; options of `kubectl logs`. KubectlError."""
        return self.kubectl("logs", f"--namespace={namespace}", pod, *options)

    def run_pod(
        self, name: str, node: str, *argv: str, image: str, labels: dict[str, str] | None = None
    ) -> dict[str, Any]:
        """A pod of one container on a node, as the API server has it when it is Ready."""
        container = {"name": "main", "image": image, "command": [*argv]}
        spec = {"nodeName": node, "containers": [container], "terminationGracePeriodSeconds": 0}
        metadata = {"name": name, "labels": {"app": name} | (labels or {})}
        self.apply({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
        self.kubectl("wait", "--for=condition=Ready", f"pod/{name}", "--timeout=60s")
        made: dict[str, Any] = self.get("pod", name)
        return made

    def connection(self, token: Path | str | None = None) -> Connection:
        """For requests of one's own: as the administrator, or with a token."""
        return self.api.connection(token)

    def audit(self) -> Iterator[Request]:
        """What was asked and answered so far, but for what the cluster's own parts ask."""
        return self.api.audit()

    def load(self, *archives: Path) -> None:
        """Give images to all nodes. MachineError."""
        for node, importing in [(node, node.importing(archives)) for node in self.nodes]:
            node.imported(importing)

    def settle(self) -> None:
        """All of its own parts run, and both nodes are Ready, whatever was done to them."""
        for part in (self.api.etcd, self.api.server, self.controllers, self.scheduler):
            if not part.running:
                part.start()
        self.api.wait_until_ready()
        for node in self.nodes:
            node.plug() if node.machine.pid else node.revive()
            for part in node.programs:
                if not part.running:
                    part.start()
        eventually(
            lambda: all(node.ready for node in self.nodes), "both nodes are Ready", SETTLED_S, passing=(ClusterError,)
        )

    def _controlling(self, name: str, *options: str) -> Program:
        """A part of the control plane that asks the API server."""
        self.api.authority.issue(name, f"system:{name}")
        return self.api.machine.program(
            name,
            program(name),
            f"--kubeconfig={self.api.authority.kubeconfig(name, self.api.inner_url)}",
            "--bind-address=127.0.0.1",
            "--leader-elect=false",
            *options,
        )

    def _node(self, number: int) -> Node:
        name = f"node-{number}"
        place, cgroup = self.workplace.directory / name, self.workplace.cgroup(name)
        return Node(number, self.api, place, self.logs / name, cgroup)

    def _connect(self) -> None:
        """The wire between the machines, and the ways from the API server to pods."""
        bits = [network.partition("/")[2] for network in MACHINES]
        numbers = range(1, NODES + 1)
        self.api.machine.ip(
            "link add wire type veth peer name wire-end",
            "link set wire up",
            "link set wire-end up",
            "link add link wire name eth0 type macvlan mode bridge",
            *(
                f"address add {address}/{length} dev eth0 nodad"
                for address, length in zip(CONTROL_PLANE, bits, strict=True)
            ),
            "link set eth0 up",
            *(
                f"route add {pods} via {node}"
                for number in numbers
                for pods, node in zip(of_pods(number), of_node(number), strict=True)
            ),
        )
