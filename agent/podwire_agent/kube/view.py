"""What the agent knows of its cluster: an immutable view of what it is to do, and the pods by address."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, Self

from podwire_agent.kube.connection import Connection
from podwire_agent.kube.monitors import MonitorObject, reader, selecting
from podwire_agent.kube.objects import Kind, Pool, WireMonitor, WirePod, keep_pod, kind
from podwire_agent.kube.places import Node, WireNode, keep_node
from podwire_agent.kube.pods import PodStore
from podwire_agent.kube.reflector import CountedObjects, Objects, Reflector
from podwire_agent.kube.stopping import Stop
from podwire_agent.ports import Clock
from podwire_api.names import API_VERSION, MONITORS, POOLS

MONITORS_PATH = f"/apis/{API_VERSION}/{MONITORS}"
POOLS_PATH = f"/apis/{API_VERSION}/{POOLS}"
NODES_PATH = "/api/v1/nodes"
PODS_PATH = "/api/v1/pods"

NODES_AT_ONCE = 50
"""In a page of a list: a Node tells of the images it has, and is large."""
END_S = 3.0
"""For the watches to end: they are cut, but an answer under way may be slow."""


@dataclass(frozen=True, slots=True)
class ClusterView:
    """The cluster at one moment, as far as it decides what this node's agent does."""

    version: int
    """Grows with each change."""
    monitors: tuple[MonitorObject, ...] = ()
    """The oldest first."""
    pools: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """AgentPools: name to nodeSelector; the oldest first."""
    exchange_ports: Mapping[str, int] = field(default_factory=dict)
    """Of the same: where their agents listen to each other; 0 where it is not said."""
    node_labels: Mapping[str, str] | None = None
    """This node's; None where the cluster has no such Node."""
    node_uid: str = ""
    stale_since_mono_ns: int | None = None
    """Since when changes may have been missed (CLOCK_MONOTONIC); None while the API server is followed."""
    monitors_gone: bool = False
    """The cluster does not know NetworkMonitors (any more)."""
    denied: bool = False
    """The API server refuses us; the rest is as last seen."""

    def selecting(self) -> tuple[MonitorObject, ...]:
        """The monitors that mean this node, where a pool means it too; the oldest first."""
        return selecting(self.monitors, self.pools.values(), self.node_labels)


class ClusterWatch:
    """Context manager: follows the cluster while inside, in threads of its own."""

    def __init__(
        self, connection: Connection, node_name: str, clock: Clock, told: Callable[[], None] = lambda: None
    ) -> None:
        """`told` is called after each change of the view, in a thread of the watches'."""
        self.pods = PodStore(node_name, clock)
        self.nodes = CountedObjects[Node]()
        self.pods_changed: Callable[[], None] = lambda: None
        """Called after each event of the pods, in the thread of their watch."""
        self._told = told
        self._stop = Stop()
        self._changed = threading.Condition()
        self._view: ClusterView | None = None
        self._monitors = Objects[MonitorObject]()
        self._pools = Objects[Pool]()
        self._node_name = node_name
        self._clock = clock
        self._connection = connection
        of_monitors = kind(MONITORS, MONITORS_PATH, WireMonitor, reader(self._monitors.get))
        of_pools = kind(POOLS, POOLS_PATH, Pool, lambda pool: pool)
        of_nodes = kind("nodes", NODES_PATH, WireNode, keep_node, NODES_AT_ONCE)
        self._following_monitors = self._reflector(of_monitors, self._monitors)
        self._following_nodes = self._reflector(of_nodes, self.nodes)
        self._deciding = (
            self._following_monitors,
            self._reflector(of_pools, self._pools),
            self._following_nodes,
        )
        self._following_pods = Reflector(
            connection, kind("pods", PODS_PATH, WirePod, keep_pod), self.pods, clock, self._stop, self._pods_told
        )
        self._threads = [
            threading.Thread(target=each.run, name=f"watch {each.name}", daemon=True)
            for each in (*self._deciding, self._following_pods)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        deadline_mono_ns = self._clock.mono_ns() + int(END_S * 1e9)
        for thread in self._threads:
            thread.join(max(0.0, (deadline_mono_ns - self._clock.mono_ns()) / 1e9))

    @property
    def pods_synced(self) -> bool:
        """All pods were listed once."""
        return self._following_pods.synced

    @property
    def lists_total(self) -> int:
        """Times that a kind was listed."""
        return sum(each.lists_total for each in (*self._deciding, self._following_pods))

    @property
    def pods_stale_since_mono_ns(self) -> int | None:
        """Since when changes of pods may have been missed; None while they are followed."""
        return self._following_pods.stale_since_mono_ns

    @property
    def nodes_synced(self) -> bool:
        """All nodes were listed once."""
        return self._following_nodes.synced

    @property
    def nodes_stale_since_mono_ns(self) -> int | None:
        """Since when changes of nodes may have been missed; None while they are followed."""
        return self._following_nodes.stale_since_mono_ns

    def view(self) -> ClusterView | None:
        """As of now; None until monitors, pools and the node were listed."""
        with self._changed:
            return self._view

    def wait(self, version: int, timeout_s: float) -> ClusterView | None:
        """As soon as the view is newer than `version`, else as it is after `timeout_s`."""
        with self._changed:
            self._changed.wait_for(lambda: self._view is not None and self._view.version > version, timeout_s)
            return self._view

    def _reflector(self, kind: Kind[Any], objects: Objects[Any]) -> Reflector[Any]:
        return Reflector(self._connection, kind, objects, self._clock, self._stop, self._look)

    def _pods_told(self) -> None:
        self.pods_changed()

    def _look(self) -> None:
        """After each change of what decides: a new view where it is another one."""
        with self._changed:
            if not all(each.synced for each in self._deciding):
                return
            former = self._view
            view = self._seen(former.version if former is not None else 0)
            if view == former:
                return
            self._view = replace(view, version=view.version + 1)
            self._changed.notify_all()
        self._told()

    def _seen(self, version: int) -> ClusterView:
        node = next((each for each in self.nodes.all() if each.name == self._node_name), None)
        pools = sorted(self._pools.all(), key=lambda each: (each.metadata.creation_timestamp, each.metadata.uid))
        since = [each.stale_since_mono_ns for each in self._deciding if each.stale_since_mono_ns is not None]
        return ClusterView(
            version=version,
            monitors=tuple(sorted(self._monitors.all(), key=lambda each: (each.created, each.uid))),
            pools={pool.metadata.name: pool.spec.node_selector or {} for pool in pools},
            exchange_ports={pool.metadata.name: pool.spec.exchange.port for pool in pools},
            node_labels=None if node is None else node.label_map(),
            node_uid="" if node is None else node.uid,
            stale_since_mono_ns=min(since, default=None),
            monitors_gone=self._following_monitors.gone,
            denied=any(each.denied for each in self._deciding),
        )
