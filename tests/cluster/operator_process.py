"""The operator as a process of its own, at an API server without kubelets and controllers: tests play their parts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import urllib3

from podwire_api.names import AGENT, AGENT_NODES, API_VERSION, MONITORS, NAMESPACE, OPERATOR, POOLS
from tests.cluster.api_server import ApiServer
from tests.cluster.audit import Request
from tests.cluster.polling import eventually

RESOURCES = f"/apis/{API_VERSION}"
DAEMON_SETS = f"/apis/apps/v1/namespaces/{NAMESPACE}/daemonsets"
NODES = "/api/v1/nodes"
PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"
SECRETS = f"/api/v1/namespaces/{NAMESPACE}/secrets"
LEASE = f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases/{OPERATOR}"
USER = f"system:serviceaccount:{NAMESPACE}:{OPERATOR}"
IMAGE = "localhost/podwire-agent:test"


def monitor_path(name: str) -> str:
    """Of a NetworkMonitor."""
    return f"{RESOURCES}/{MONITORS}/{name}"


def pool_path(name: str) -> str:
    """Of an AgentPool."""
    return f"{RESOURCES}/{POOLS}/{name}"


def daemon_set_path(pool: str) -> str:
    """Of a pool's agents."""
    return f"{DAEMON_SETS}/{AGENT}-{pool}"


class OperatorProcess:
    """Context manager: one replica, as its service account; killed at the end, if it has not ended."""

    def __init__(self, server: ApiServer, name: str = "operator-0") -> None:
        self.name = name
        self._server = server
        self.log = server.directory / f"{name}.log"
        self.kubeconfig = server.directory / f"{name}.kubeconfig"
        self._process: subprocess.Popen[bytes]

    def __enter__(self) -> Self:
        self._write_kubeconfig()
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    @property
    def address(self) -> str:
        """Where its endpoint listens, once it does."""
        return next(
            (f"{line['address']}:{line['port']}" for line in self.lines() if line["message"] == "listening"), ""
        )

    def start(self) -> None:
        """Anew, with a log of its own."""
        command = [sys.executable, "-m", "podwire_operator.cli", "run", f"--kubeconfig={self.kubeconfig}"]
        command += ["--listen=127.0.0.1:0", f"--agent-image={IMAGE}", f"--namespace={NAMESPACE}"]
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(command, stderr=log, env={**os.environ, "POD_NAME": self.name})

    def kill(self) -> None:
        """At once."""
        self._process.kill()
        self._process.wait()

    def terminate(self) -> int:
        """In order; its exit code."""
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(20)

    def stopped(self) -> bool:
        """Whether it has ended by itself."""
        return self._process.poll() is not None

    def suspend(self) -> None:
        """SIGSTOP: it does not know that time passes."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        self._process.send_signal(signal.SIGCONT)

    def lines(self) -> list[dict[str, Any]]:
        """Of its log, so far."""
        return [json.loads(line) for line in self.log.read_text().splitlines(keepends=True) if line.endswith("\n")]

    def leads(self) -> bool:
        """Whether it thinks so."""
        return self.metric("podwire_operator_leader") == 1

    def metric(self, name: str) -> float | None:
        """The value of a series without labels."""
        for line in self.get("/metrics")[1].splitlines():
            if line.startswith(f"{name} "):
                return float(line.split()[1])
        return None

    def get(self, path: str) -> tuple[int, str]:
        """Status and body; 0 where it does not listen."""
        if not self.address:
            return 0, ""
        try:
            answer = urllib3.request("GET", f"http://{self.address}{path}", timeout=2, retries=False)
        except urllib3.exceptions.HTTPError as error:
            return 0, str(error)
        return answer.status, answer.data.decode()

    def _write_kubeconfig(self) -> None:
        account = f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts/{OPERATOR}/token"
        answer = self._server.make(
            account, apiVersion="authentication.k8s.io/v1", kind="TokenRequest", spec={"expirationSeconds": 7200}
        )
        cluster = {"server": self._server.url, "certificate-authority": str(self._server.authority.certificate)}
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "podwire", "cluster": cluster}],
            "users": [{"name": OPERATOR, "user": {"token": answer["status"]["token"]}}],
            "contexts": [{"name": "podwire", "context": {"cluster": "podwire", "user": OPERATOR}}],
            "current-context": "podwire",
        }
        self.kubeconfig.touch(0o600)
        self.kubeconfig.write_text(json.dumps(document))


class Stage:
    """The cluster around the operator, played by hand."""

    def __init__(self, server: ApiServer) -> None:
        self.server = server

    def make_monitor(self, name: str, **spec: Any) -> Any:
        """With a sink."""
        spec = {"sinks": [{"name": "lines", "stdout": {}}], **spec}
        return self.server.make(
            f"{RESOURCES}/{MONITORS}",
            apiVersion=API_VERSION,
            kind="NetworkMonitor",
            metadata={"name": name},
            spec=spec,
        )

    def make_pool(self, name: str, **spec: Any) -> Any:
        """An AgentPool."""
        return self.server.make(
            f"{RESOURCES}/{POOLS}", apiVersion=API_VERSION, kind="AgentPool", metadata={"name": name}, spec=spec
        )

    def make_node(self, name: str, **labels: str) -> None:
        """A Ready one."""
        self.server.make(NODES, metadata={"name": name, "labels": labels})
        self.set_node_ready(name, ready=True)

    def set_node_ready(self, name: str, *, ready: bool) -> None:
        """As its kubelet, or as the node controller does where the kubelet is gone."""
        condition = {"type": "Ready", "status": "True" if ready else "Unknown", "reason": "Test", "message": ""}
        self.server.patch(f"{NODES}/{name}/status", status={"conditions": [condition]})

    def roll_out(self, pool: str, ready: int, desired: int | None = None) -> None:
        """As the DaemonSet's controller."""
        path = daemon_set_path(pool)
        wanted = ready if desired is None else desired
        self.server.patch(
            f"{path}/status",
            status={
                "observedGeneration": self.server.get(path)["metadata"]["generation"],
                "desiredNumberScheduled": wanted,
                "currentNumberScheduled": wanted,
                "updatedNumberScheduled": wanted,
                "numberReady": ready,
                "numberAvailable": ready,
                "numberMisscheduled": 0,
            },
        )

    def report(self, node: str, pool: str, *monitors: str, **more: Any) -> None:
        """As the agent of a node that is attached for these monitors; `more` goes into each entry."""
        entries = []
        for name in monitors:
            metadata = self.server.get(monitor_path(name))["metadata"]
            entries.append(
                {
                    "name": name,
                    "uid": metadata["uid"],
                    "observedGeneration": metadata["generation"],
                    "conditions": [said("DatapathAttached", "True", "Attached", "2 interfaces are watched")],
                    "interfaces": {"attached": 2},
                    "pods": 2,
                    **more,
                }
            )
        path = f"{RESOURCES}/{AGENT_NODES}/{node}"
        if not self.server.answers(path):
            self.server.make(
                f"{RESOURCES}/{AGENT_NODES}", apiVersion=API_VERSION, kind="AgentNode", metadata={"name": node}
            )
        status = {"version": "0.1.0", "pool": pool, "heartbeat": now(), "detached": False, "monitors": entries}
        self.server.patch(f"{path}/status", status=status)

    def delete(self, path: str) -> None:
        """Where it is there."""
        if self.server.answers(path):
            self.server.delete(path)

    def ready(self, path: str) -> dict[str, Any]:
        """The Ready condition."""
        return condition(self.server.get(path), "Ready")

    def await_reason(self, path: str, reason: str, timeout_s: float = 15.0) -> dict[str, Any]:
        """The Ready condition, once it has this reason."""
        ready = eventually(
            lambda: found if (found := self.ready(path)).get("reason") == reason else None,
            f"{path} is {reason}",
            timeout_s,
        )
        assert ready is not None
        return ready

    def edit(self, path: str, **document: Any) -> None:
        """A strategic merge patch, as `kubectl edit` and `kubectl patch` send it."""
        body = json.dumps(document).encode()
        query = {"fieldManager": "kubectl-edit"}
        content_type = "application/strategic-merge-patch+json"
        self.server.connection().request("PATCH", path, query=query, body=body, content_type=content_type)

    def clear(self) -> None:
        """No monitors, no pools but `default` as it was made, no nodes."""
        for plural, keep in ((MONITORS, ""), (POOLS, "default"), (AGENT_NODES, "")):
            for each in self.server.get(f"{RESOURCES}/{plural}")["items"]:
                if each["metadata"]["name"] != keep:
                    self.server.delete(f"{RESOURCES}/{plural}/{each['metadata']['name']}")
        for path in (NODES, PODS):
            for each in self.server.get(path)["items"]:
                query = {"gracePeriodSeconds": "0"}
                self.server.connection().request("DELETE", f"{path}/{each['metadata']['name']}", query=query)
        eventually(lambda: not self.server.get(DAEMON_SETS)["items"], "the DaemonSets are gone", 20)

    def writes(self, since: int = 0) -> list[Request]:
        """What the operator wrote and the server took, without its Lease; `since`: the first so many left out."""
        found = [
            each
            for each in self.server.audit()
            if each.user == USER and each.writes and each.resource != "leases" and each.code < 400
        ]
        return found[since:]


def said(kind: str, status: str, reason: str, message: str) -> dict[str, str]:
    """A condition of an AgentNode's entry."""
    return {"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": now()}


def condition(resource: Any, kind: str) -> dict[str, Any]:
    """Of an object's status; empty where there is none."""
    conditions = resource.get("status", {}).get("conditions", [])
    return next((each for each in conditions if each["type"] == kind), {})


def now() -> str:
    """As the API has times."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def manifests() -> Path:
    """What is installed."""
    return Path(__file__).resolve().parents[2] / "manifests"
