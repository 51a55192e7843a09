"""Podwire as it is installed on a test cluster, and what its agents have written of a connection."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from podwire_api.names import API_VERSION, NAMESPACE
from tests.cluster.cluster import Cluster, KubectlError
from tests.cluster.node import Node
from tests.cluster.polling import eventually

MANIFESTS = Path(__file__).resolve().parents[2] / "manifests"
READY_S = 60.0
GONE_S = 10.0
"""Of what a deleted monitor had on a node."""
ROLLED_OUT_S = 120.0


class Installation:
    """Of manifests/, by kubectl."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster

    def install(self) -> None:
        """As a person does, and until an operator leads."""
        self.cluster.kubectl("apply", "-k", str(MANIFESTS))
        self.cluster.kubectl(
            "wait", "--for=condition=Available", "deployment/podwire-operator", f"--namespace={NAMESPACE}",
            "--timeout=60s", timeout_s=70,
        )  # fmt: skip
        eventually(lambda: self.cluster.get("agentpools")["items"], "a pool is made", 30, passing=(KubectlError,))

    def uninstall(self) -> None:
        """As a person does. KubectlError where it hangs."""
        self.cluster.kubectl("delete", "-k", str(MANIFESTS), "--ignore-not-found", timeout_s=120)

    @contextmanager
    def monitor(self, name: str, **spec: Any) -> Iterator[str]:
        """A monitor that is Ready; deleted in the end, until nothing of it is left on any living node."""
        self.cluster.apply(document(name, **spec))
        try:
            self.wait_ready(name)
            yield name
        finally:
            self.remove(name)

    def remove(self, name: str) -> None:
        """The monitor, until nothing of it is left on any living node."""
        found = self.cluster.get("nmon", name, "--ignore-not-found") if self.exists(name) else {}
        if not found:
            return
        uid = found["metadata"]["uid"]
        self.cluster.delete("nmon", name)
        for node in self.cluster.nodes:
            if node.machine.pid and node.ready:
                eventually(partial(untouched, node, uid), f"{name} leaves {node.name}", GONE_S)

    def exists(self, name: str) -> bool:
        """Whether there is such a monitor."""
        return bool(self.cluster.kubectl("get", "nmon", name, "--ignore-not-found", "--output=name"))

    def wait_ready(self, name: str, timeout_s: float = READY_S) -> None:
        """Until it is Ready, as `kubectl wait` has it. KubectlError with the status's words where it is not."""
        try:
            self.cluster.kubectl(
                "wait", "--for=condition=Ready", f"nmon/{name}", f"--timeout={timeout_s:g}s", timeout_s=timeout_s + 10
            )
        except KubectlError as error:
            raise KubectlError(f"{error}\n{json.dumps(self.status(name), indent=1)}") from error

    def status(self, name: str) -> dict[str, Any]:
        """Of a monitor."""
        found: dict[str, Any] = self.cluster.get("nmon", name).get("status", {})
        return found

    def condition(self, name: str, kind: str = "Ready") -> tuple[str, str, str]:
        """Status, reason and message; empty where it is not there."""
        return condition(self.status(name), kind)

    def await_reason(self, name: str, reason: str, timeout_s: float = READY_S) -> str:
        """Until a monitor's Ready has this reason; the message."""
        eventually(
            lambda: self.condition(name)[1] == reason,
            f"{name} is {reason}",
            timeout_s,
            every_s=0.3,
            passing=(KubectlError,),
        )
        return self.condition(name)[2]

    def agents(self) -> dict[str, dict[str, Any]]:
        """The agents' pods by node, but for those that are on their way out."""
        found = self.cluster.get("pods", f"--namespace={NAMESPACE}", "--selector=app.kubernetes.io/name=podwire-agent")[
            "items"
        ]
        return {each["spec"]["nodeName"]: each for each in found if "deletionTimestamp" not in each["metadata"]}

    def agent(self, node: str) -> str:
        """The name of a node's agent's pod."""
        return str(self.agents()[node]["metadata"]["name"])

    def rolled_out(self, pool: str = "default") -> None:
        """Until the pool says so of its present generation."""

        def done() -> bool:
            found = self.cluster.get("agentpool", pool)
            generation = found["metadata"]["generation"]
            return found["status"].get("observedGeneration") == generation and condition(found["status"], "Ready")[
                :2
            ] == ("True", "RolledOut")

        eventually(done, f"pool {pool} is rolled out", ROLLED_OUT_S, every_s=0.5, passing=(KubectlError,))

    def operators(self) -> list[str]:
        """The names of the operators' pods that run."""
        found = self.cluster.get(
            "pods", f"--namespace={NAMESPACE}", "--selector=app.kubernetes.io/name=podwire-operator"
        )["items"]
        return [each["metadata"]["name"] for each in found if "deletionTimestamp" not in each["metadata"]]

    def leader(self) -> str:
        """The pod that holds the Lease; "" where none does."""
        lease = self.cluster.get("lease", "podwire-operator", f"--namespace={NAMESPACE}")
        return str(lease["spec"].get("holderIdentity", ""))


def document(name: str, **spec: Any) -> dict[str, Any]:
    """A monitor that polls each second and writes lines."""
    lines = {"pollingPeriod": "1s", "sinks": [{"name": "lines", "stdout": {}}]}
    return {"apiVersion": API_VERSION, "kind": "NetworkMonitor", "metadata": {"name": name}, "spec": {**lines, **spec}}


def condition(status: dict[str, Any], kind: str) -> tuple[str, str, str]:
    """Status, reason and message; empty where it is not there."""
    for each in status.get("conditions", ()):
        if each["type"] == kind:
            return each["status"], each["reason"], each["message"]
    return "", "", ""


def traces(node: Node, uid: str = "") -> list[str]:
    """What Podwire has on a node, or one monitor of it: filters, links, pins, state.

    The lock file may stay, and the local API's socket is there as long as the agent.
    """
    found = [path for path in node.pins() if f"/podwire/{uid}" in path]
    state = node.exec("sh", "-c", "ls /run/podwire 2>/dev/null || true").split()
    found += [name for name in state if name not in {"lock", "api.sock"} and (not uid or name.startswith(uid))]
    found += [line for line in filters(node) if f"podwire/{uid[:8]}" in line]
    return found


def untouched(node: Node, uid: str = "") -> bool:
    """Whether nothing of Podwire, or of one monitor of it, is on a node."""
    return not traces(node, uid)


def filters(node: Node) -> list[str]:
    """Every line of tc that names a program of ours."""
    script = "for i in $(ls /sys/class/net); do for d in ingress egress; do tc filter show dev $i $d; done; done"
    return [line for line in node.exec("sh", "-c", f"{script} 2>/dev/null || true").splitlines() if "podwire/" in line]


_KEEP_LOGS = """
mkdir -p /var/log/kept
for log in /var/log/pods/podwire-system_podwire-agent-*/agent/*.log; do
    kept=/var/log/kept/$(stat -c %i $log 2>/dev/null || echo none)
    test -e $kept || ln $log $kept 2>/dev/null || true
done
cat /var/log/kept/* 2>/dev/null || true
"""
"""The kubelet removes a pod's logs with the pod: a second name keeps them."""


def lines_of(cluster: Cluster) -> Iterator[dict[str, Any]]:
    """What the agents wrote that is in the nodes' log files now, and what they wrote before and was looked at then."""
    for node in cluster.nodes:
        if not node.machine.pid:
            continue
        for line in node.exec("sh", "-c", _KEEP_LOGS).splitlines():
            *_, said = line.split(" ", 3)
            if said.startswith("{"):
                yield json.loads(said)


class Logs:
    """All that the agents of a cluster have written since this was made, while pods and containers come and go."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._lines: dict[tuple[Any, ...], dict[str, Any]] = {}
        self._ledgers: dict[tuple[Any, ...], dict[str, Any]] = {}
        self.read()

    def read(self) -> None:
        """What is in the nodes' log files now, and in those of pods that are gone but were there at the last read."""
        for line in lines_of(self._cluster):
            self._keep(line)

    def _keep(self, line: dict[str, Any]) -> None:
        if line["type"] == "ledger":
            place = (line["monitor"], line["boot_id"], line["node"], line["interface"], line["direction"])
            if place not in self._ledgers or self._ledgers[place]["time"] < line["time"]:
                self._ledgers[place] = line
        if line["type"] != "flow":
            return
        key = (line["node"], line["boot_id"], line["monitor"], line["sequence"])
        known = self._lines.setdefault(key, line)
        if known is not line:
            same = ("packets", "bytes", "src_address", "dst_address", "src_port", "dst_port", "direction")
            assert all(known[field] == line[field] for field in same), (known, line)

    def counts(self, monitor: str, **fields: Any) -> dict[tuple[str, str], tuple[int, int]]:
        """Packets and bytes by node and direction, of the flow lines that have these values."""
        packets: Counter[tuple[str, str]] = Counter()
        size: Counter[tuple[str, str]] = Counter()
        for line in self._lines.values():
            if line["monitor"] == monitor and all(line.get(key) == value for key, value in fields.items()):
                place = (line["node"], line["direction"])
                packets[place] += line["packets"]
                size[place] += line["bytes"]
        return {place: (packets[place], size[place]) for place in packets}

    def filtered(self, monitor: str) -> dict[tuple[str, str], int]:
        """Packets by node and direction since its attach."""
        packets: Counter[tuple[str, str]] = Counter()
        for line in self._ledgers.values():
            if line["monitor"] == monitor:
                packets[line["node"], line["direction"]] += line["filtered"]["packets"]
        return dict(packets)

    def await_identity(self, monitor: str, timeout_s: float = 15.0) -> None:
        """Until in every account of a monitor what was seen is what became of it. TimeoutError with those that do not.

        That is so as soon as nothing is under way.
        """

        def differ() -> list[dict[str, Any]]:
            self.read()
            return [line for line in self._ledgers.values() if line["monitor"] == monitor and not _adds_up(line)]

        assert any(line["monitor"] == monitor for line in self._ledgers.values())
        eventually(lambda: not differ(), f"the ledgers of {monitor} add up", timeout_s)

    def await_counts(
        self, wanted: dict[tuple[str, str], tuple[int, int]], monitor: str, timeout_s: float = 15.0, **fields: Any
    ) -> None:
        """Until the lines add up to exactly this. AssertionError with what they add up to."""
        deadline_s = time.monotonic() + timeout_s
        while True:
            self.read()
            found = self.counts(monitor, **fields)
            if found == wanted:
                return
            assert time.monotonic() < deadline_s, f"counted {found}, not {wanted}"
            time.sleep(0.3)


def _adds_up(ledger: dict[str, Any]) -> bool:
    classes = ("counted", "filtered", "unsupported", "overflowed")
    return all(ledger["seen"][unit] == sum(ledger[each][unit] for each in classes) for unit in ("packets", "bytes"))
