"""Objects as the API server sends them, and what the operator reads of them."""

from __future__ import annotations

import itertools
from typing import Any

from podwire_operator.objects import AgentNode, DaemonSet, Kind, Monitor, Node, Pool, read
from podwire_operator.view import View

_versions = itertools.count(1)


def metadata(name: str, uid: str = "", created: str = "2026-01-01T00:00:00Z", **more: Any) -> dict[str, Any]:
    """With a version of its own, later than those before."""
    given = {"name": name, "uid": uid or f"uid-{name}", "generation": 1, "creationTimestamp": created}
    return {**given, "resourceVersion": str(next(_versions)), **more}


def monitor(name: str = "shop", *, status: Any = None, spec: Any = None, **meta: Any) -> Monitor:
    """Of every node, with a sink."""
    given = {"sinks": [{"name": "lines", "stdout": {}}], **(spec or {})}
    made = read(Kind.MONITOR, {"metadata": metadata(name, **meta), "spec": given, "status": status or {}})
    assert isinstance(made, Monitor)
    return made


def pool(name: str = "default", *, spec: Any = None, status: Any = None, **meta: Any) -> Pool:
    """Of every node."""
    made = read(Kind.POOL, {"metadata": metadata(name, **meta), "spec": spec or {}, "status": status or {}})
    assert isinstance(made, Pool)
    return made


def node(name: str, *, ready: bool = True, taints: Any = (), labels: Any = None, **meta: Any) -> Node:
    """A Node."""
    condition = {"type": "Ready", "status": "True" if ready else "Unknown"}
    made = read(
        Kind.NODE,
        {
            "metadata": metadata(name, labels=labels or {}, **meta),
            "spec": {"taints": list(taints)},
            "status": {"conditions": [condition]},
        },
    )
    assert isinstance(made, Node)
    return made


def entry(name: str = "shop", *, reason: str = "Attached", said: str = "", **more: Any) -> dict[str, Any]:
    """Of an AgentNode; attached, unless a reason says otherwise."""
    status = "True" if reason == "Attached" else "False"
    condition = {"type": "DatapathAttached", "status": status, "reason": reason, "message": said}
    return {
        "name": name,
        "uid": f"uid-{name}",
        "observedGeneration": 1,
        "conditions": [condition],
        "interfaces": {"attached": 1 if reason == "Attached" else 0},
        **more,
    }


def agent(name: str, *entries: Any, heartbeat: str = "t", **status: Any) -> AgentNode:
    """The AgentNode of a node, of pool default."""
    given = {"pool": "default", "version": "0.1.0", "heartbeat": heartbeat, "monitors": list(entries), **status}
    made = read(Kind.AGENT_NODE, {"metadata": metadata(name), "status": given})
    assert isinstance(made, AgentNode)
    return made


def daemon_set(pool: str = "default", *, status: Any = None, spec: Any = None, **meta: Any) -> DaemonSet:
    """A pool's."""
    labels = {"podwire.dev/pool": pool}
    document = {"metadata": metadata(f"podwire-agent-{pool}", labels=labels, **meta), "spec": spec or {}}
    made = read(Kind.DAEMON_SET, {**document, "status": status or {}})
    assert isinstance(made, DaemonSet)
    return made


KINDS = {
    Monitor: Kind.MONITOR,
    Pool: Kind.POOL,
    Node: Kind.NODE,
    AgentNode: Kind.AGENT_NODE,
    DaemonSet: Kind.DAEMON_SET,
}


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        """In seconds."""
        return self.now


def view(*objects: Monitor | Pool | Node | AgentNode | DaemonSet, clock: Clock | None = None) -> View:
    """With all of them."""
    made = View(clock or Clock())
    for each in objects:
        made.put(KINDS[type(each)], each)
    return made
