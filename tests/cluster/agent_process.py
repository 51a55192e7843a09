"""The agent as a process of its own in a network namespace, against an API server without kubelets: tests play them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from typing import Any

from podwire_api.names import AGENT_NODES, API_VERSION, MONITORS, NAMESPACE, POOLS
from tests.cluster.api_server import PORT, ApiServer
from tests.kernel.netns import Host, Pod, eventually, ip
from tests.kernel.running import ROOT, Agent, Node, environment, node

RESOURCES = f"/apis/{API_VERSION}"
NODES = "/api/v1/nodes"
PODS = "/api/v1/namespaces/default/pods"

_serial = count(1)


class ClusterNode:
    """A node whose pods are namespaces behind veths, and where the agent runs again and again."""

    def __init__(self, server: ApiServer, host: Host, place: Node, name: str, address: str) -> None:
        self.server = server
        self.host = host
        self.place = place
        self.name = name
        self.kubeconfig = place.directory / "kubeconfig"
        self._made: list[str] = []
        _write_kubeconfig(self.kubeconfig, server)
        self.address = address

    @property
    def pods(self) -> tuple[Pod, Pod]:
        """The two that are there from the beginning."""
        first, second, *_ = self.host.pods
        return first, second

    def start(
        self, *options: str, before: Sequence[str] = (), bpffs: Path | None = None, kubeconfig: bool = True
    ) -> Agent:
        """Start an agent; `before`: what runs it. It listens in the node's namespace, with metrics open to all."""
        place = self.place
        lines = place.directory / f"lines-{len(place.agents):03}"
        errors = place.directory / f"errors-{len(place.agents):03}"
        command = place.namespace.command(
            *(*before, sys.executable, "-m", "podwire_agent.cli", "run", "--node", self.name),
            *(("--kubeconfig", str(self.kubeconfig)) if kubeconfig else ()),
            *("--state-dir", str(place.directory / "state")),
            *("--bpffs", str(bpffs or place.bpffs), "--metrics", "127.0.0.1:9435", "--metrics-auth", "none", *options),
        )
        with lines.open("wb") as out, errors.open("wb") as err:
            process = subprocess.Popen(command, stdout=out, stderr=err, cwd=ROOT, env=environment())
        place.agents.append(Agent(process, errors, lines))
        return place.agents[-1]

    def started(self, *options: str) -> Agent:
        """One that has attached for all there is to serve."""
        agent = self.start(*options)
        agent.ready(20)
        return agent

    def start_as_pod(self, token: str) -> Agent:
        """As in a pod: a service account's files, and nothing read from a kubeconfig."""
        (self.place.directory / "token").write_text(token)
        account = "/run/secrets/kubernetes.io/serviceaccount"
        lines = (
            f"mount -t tmpfs none /run && mkdir -p {account} && cp {self.place.directory}/token {account}/token"
            f' && cp {self.server.authority.certificate} {account}/ca.crt && exec "$@"'
        )
        place = {"KUBERNETES_SERVICE_HOST": self.server.host, "KUBERNETES_SERVICE_PORT": str(PORT)}
        settings = [f"{name}={value}" for name, value in place.items()]
        return self.start(before=("unshare", "--mount", "sh", "-c", lines, "sh", "env", *settings), kubeconfig=False)

    def make_monitor(self, name: str, **spec: Any) -> str:
        """Polled every second, with lines on stdout, watching the pods by name; its path."""
        spec = {
            "pollingPeriod": "1s",
            "interfaces": {"vethPattern": "veth.*"},
            "sinks": [{"name": "lines", "stdout": {}}],
            **spec,
        }
        made = {"apiVersion": API_VERSION, "kind": "NetworkMonitor", "metadata": {"name": name}, "spec": spec}
        self.server.make(f"{RESOURCES}/{MONITORS}", **made)
        return self._remembered(f"{RESOURCES}/{MONITORS}/{name}")

    def make_pod(self, name: str, pod: Pod) -> str:
        """The Pod object of a namespace; its path."""
        container = {"name": "c", "image": "localhost/none:1"}
        self.server.make(PODS, metadata={"name": name}, spec={"nodeName": self.name, "containers": [container]})
        addresses = [{"ip": pod.ipv4}, {"ip": pod.ipv6}]
        status = {"phase": "Running", "podIP": pod.ipv4, "podIPs": addresses}
        self.server.patch(f"{PODS}/{name}/status", status=status)
        return self._remembered(f"{PODS}/{name}")

    def delete(self, path: str) -> None:
        """Delete what was made."""
        self.server.connection().request("DELETE", path, query={"gracePeriodSeconds": "0"})
        self._made.remove(path)

    def status(self) -> dict[str, Any]:
        """Of the AgentNode; empty where there is none."""
        path = f"{RESOURCES}/{AGENT_NODES}/{self.name}"
        found: dict[str, Any] = self.server.get(path).get("status", {}) if self.server.answers(path) else {}
        return found

    def entry(self, monitor: str) -> dict[str, Any]:
        """What the AgentNode tells of a monitor; empty where that is nothing."""
        return next((each for each in self.status().get("monitors", ()) if each["name"] == monitor), {})

    def reason(self, monitor: str) -> str:
        """Of DatapathAttached; "" where the AgentNode does not tell."""
        conditions = self.entry(monitor).get("conditions", ())
        return next((each["reason"] for each in conditions if each["type"] == "DatapathAttached"), "")

    def await_reason(self, monitor: str, reason: str, timeout_s: float = 15.0) -> dict[str, Any]:
        """The entry, once DatapathAttached has this reason for the present generation."""

        def told() -> dict[str, Any] | None:
            present = self.server.get(f"{RESOURCES}/{MONITORS}/{monitor}")["metadata"]["generation"]
            entry = self.entry(monitor)
            holds = self.reason(monitor) == reason and entry.get("observedGeneration") == present
            return entry if holds else None

        found = eventually(told, f"{monitor} is {reason} on {self.name}", timeout_s)
        assert found is not None
        return found

    def get(self, path: str) -> tuple[int, str]:
        """Of the agent's endpoints: status and body; 0 where it does not listen."""
        port = 9435 if path.startswith("/metrics") else 9437
        curl = self.place.namespace.command("curl", "-s", "-w", "\n%{http_code}", f"http://127.0.0.1:{port}{path}")
        done = subprocess.run(curl, check=False, capture_output=True, text=True)
        body, _, code = done.stdout.rpartition("\n")
        return int(code or 0), body

    def close(self) -> None:
        """Delete all that was made."""
        for path in self._made:
            if self.server.answers(path):
                self.server.connection().request("DELETE", path, query={"gracePeriodSeconds": "0"})

    def _remembered(self, path: str) -> str:
        self._made.append(path)
        return path


@contextmanager
def cluster_node(server: ApiServer, pods: int = 2, **labels: str) -> Iterator[ClusterNode]:
    """A node that reaches the API server by a macvlan (a veth would be taken for a pod's), and its Node object."""
    number = next(_serial)
    name, address = f"node-{number}", f"198.18.0.{number}"
    with ExitStack() as stack:
        host = stack.enter_context(Host(pods=pods))
        link = f"pwm{os.getpid()}"
        ip(f"link add link {server.uplink.interface} name {link} type macvlan mode bridge")
        ip(f"link set {link} netns {host.namespace.name} name api")
        ip(
            f"address add {address}/32 dev api",
            "link set api up",
            f"route add {server.host}/32 dev api",
            netns=host.namespace.name,
        )
        server.machine.ip(f"route replace {address}/32 dev uplink")
        place = stack.enter_context(node(host.namespace))
        place.monitor = "shop"
        server.make(NODES, metadata={"name": name, "labels": labels})
        stack.callback(server.delete, f"{NODES}/{name}")
        made = ClusterNode(server, host, place, name, address)
        stack.callback(made.close)
        host.settle()
        yield made


def make_pool(server: ApiServer, **spec: Any) -> str:
    """AgentPool default, and the namespace of the agents; its path."""
    if not server.answers(f"/api/v1/namespaces/{NAMESPACE}"):
        server.make("/api/v1/namespaces", metadata={"name": NAMESPACE})
    pool = {"apiVersion": API_VERSION, "kind": "AgentPool", "metadata": {"name": "default"}, "spec": spec}
    server.make(f"{RESOURCES}/{POOLS}", **pool)
    return f"{RESOURCES}/{POOLS}/default"


def make_daemon_set(server: ApiServer) -> str:
    """What says that an agent will follow; its path."""
    labels = {"app": "agent"}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "localhost/none:1"}]}}
    path = f"/apis/apps/v1/namespaces/{NAMESPACE}/daemonsets"
    server.make(
        path,
        metadata={"name": "podwire-agent-default"},
        spec={"selector": {"matchLabels": labels}, "template": template},
    )
    return f"{path}/podwire-agent-default"


def _write_kubeconfig(path: Path, server: ApiServer) -> None:
    files = {name: str(server.directory / name) for name in ("ca.crt", "admin.crt", "admin.key")}
    cluster = {"server": f"https://{server.host}:{PORT}", "certificate-authority": files["ca.crt"]}
    user = {"client-certificate": files["admin.crt"], "client-key": files["admin.key"]}
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": cluster}],
        "users": [{"name": "admin", "user": user}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "admin"}}],
        "current-context": "c",
    }
    path.write_text(json.dumps(document))
