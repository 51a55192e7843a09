"""The cluster as last seen: filled by the watches, put right by lists, read by every reconcile."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeVar, cast

from podwire_operator.objects import AgentNode, DaemonSet, Kind, Monitor, Node, Object, Pool
from podwire_operator.placement import Placement, place
from podwire_operator.work import Key, Task

O_ = TypeVar("O_")

MAX_GRAVES = 4096
"""Objects remembered as gone, so that a list that was made before does not bring them back."""

FIGURES_S = 30.0
"""An agent writes its figures at least this often, or every nodes / 20 s where that is longer."""
NODES_A_SECOND = 20
SILENT_AFTER = 3
"""Intervals without a word from an agent until it counts as silent."""


class View:
    """Not safe for threads: one event loop's own. Every change answers with the keys to look at."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` in seconds: other machines' clocks are never compared with ours."""
        self._clock = clock
        self._objects: dict[Kind, dict[str, Object]] = {kind: {} for kind in Kind}
        self._heard: dict[str, float] = {}
        """By node, when its agent's heartbeat last changed."""
        self._graves: dict[str, int] = {}
        """By uid, the version at which it went. One that only lost the label by which it is watched may come back."""
        self._placement: Placement | None = None

    def count(self, kind: Kind) -> int:
        """How many there are."""
        return len(self._objects[kind])

    @property
    def monitors(self) -> Mapping[str, Monitor]:
        """By name."""
        return cast("Mapping[str, Monitor]", self._objects[Kind.MONITOR])

    @property
    def pools(self) -> Mapping[str, Pool]:
        """By name."""
        return cast("Mapping[str, Pool]", self._objects[Kind.POOL])

    @property
    def agent_nodes(self) -> Mapping[str, AgentNode]:
        """By node."""
        return cast("Mapping[str, AgentNode]", self._objects[Kind.AGENT_NODE])

    @property
    def daemon_sets(self) -> Mapping[str, DaemonSet]:
        """By name."""
        return cast("Mapping[str, DaemonSet]", self._objects[Kind.DAEMON_SET])

    @property
    def nodes(self) -> Mapping[str, Node]:
        """By name."""
        return cast("Mapping[str, Node]", self._objects[Kind.NODE])

    @property
    def placement(self) -> Placement:
        """Who runs where now."""
        if self._placement is None:
            pools = (pool for pool in self.pools.values() if not pool.meta.deleted)
            self._placement = place(self.nodes.values(), pools, self.monitors.values())
        return self._placement

    @property
    def figures_s(self) -> float:
        """How often agents write figures."""
        return max(FIGURES_S, len(self.nodes) / NODES_A_SECOND)

    def silent_s(self, node: str) -> float | None:
        """For how long its agent has not been heard of, where that is too long."""
        heard = self._heard.get(node)
        passed_s = self._clock() - heard if heard is not None else 0.0
        return passed_s if passed_s > SILENT_AFTER * self.figures_s else None

    def every_key(self) -> Iterator[Key]:
        """Of every object that is looked at for its own sake, and of DaemonSets whose pool is gone."""
        yield from (Key(Task.MONITOR, name) for name in self.monitors)
        yield from (Key(Task.POOL, name) for name in self._pool_names())

    def put(self, kind: Kind, new: Object) -> set[Key]:
        """It was made or changed. What is older than what is known, or known to be gone, is passed over."""
        meta = new.meta
        old = self._objects[kind].get(meta.name)
        if meta.version <= self._graves.get(meta.uid, -1) or (old is not None and meta.version < old.meta.version):
            return set()
        self._objects[kind][meta.name] = new
        if isinstance(new, AgentNode) and (not isinstance(old, AgentNode) or old.heartbeat != new.heartbeat):
            self._heard[meta.name] = self._clock()
        return self._changed(old, new)

    def drop(self, kind: Kind, name: str, uid: str, version: int) -> set[Key]:
        """It is gone, as of that version."""
        self._graves[uid] = version
        while len(self._graves) > MAX_GRAVES:
            del self._graves[next(iter(self._graves))]
        old = self._objects[kind].get(name)
        if old is None or old.meta.uid != uid:
            return set()
        del self._objects[kind][name]
        if kind is Kind.AGENT_NODE:
            self._heard.pop(name, None)
        return self._changed(old, None)

    def relist(self, kind: Kind, objects: Iterable[Object], version: int) -> set[Key]:
        """All there were at `version`: what is known, not newer, and not among them is gone."""
        keys: set[Key] = set()
        listed = {}
        for each in objects:
            listed[each.meta.uid] = each
            keys |= self.put(kind, each)
        gone = [
            known.meta
            for known in self._objects[kind].values()
            if known.meta.uid not in listed and known.meta.version <= version
        ]
        for meta in gone:
            keys |= self.drop(kind, meta.name, meta.uid, version)
        return keys

    def _changed(self, old: Object | None, new: Object | None) -> set[Key]:
        match new or old:
            case Monitor() as monitor:
                return self._monitor_changed(monitor, *_both(Monitor, old, new))
            case Pool() as pool:
                return self._pool_changed(pool, *_both(Pool, old, new))
            case DaemonSet() as daemon_set:
                return {Key(Task.POOL, daemon_set.pool)}
            case AgentNode():
                return self._agent_changed(*_both(AgentNode, old, new))
            case Node():
                return self._node_changed(*_both(Node, old, new))
        return set()

    def _monitor_changed(self, monitor: Monitor, old: Monitor | None, new: Monitor | None) -> set[Key]:
        if old is not None and new is not None and (old.selector, old.meta.uid) == (new.selector, new.meta.uid):
            return {Key(Task.MONITOR, monitor.meta.name)}
        # Who is served depends on who else is there, and where agents run on all of them.
        return self._rearranged() | {Key(Task.MONITOR, monitor.meta.name)}

    def _pool_changed(self, pool: Pool, old: Pool | None, new: Pool | None) -> set[Key]:
        if (
            old is not None
            and new is not None
            and (old.meta.generation, old.meta.uid, old.meta.deleted)
            == (
                new.meta.generation,
                new.meta.uid,
                new.meta.deleted,
            )
        ):
            return {Key(Task.POOL, pool.meta.name)}
        return self._rearranged() | {Key(Task.POOL, pool.meta.name), Key(Task.POOLS)}

    def _agent_changed(self, old: AgentNode | None, new: AgentNode | None) -> set[Key]:
        before, after = (each.entries if each is not None else {} for each in (old, new))
        alike = old is not None and new is not None and (old.pool, old.detached) == (new.pool, new.detached)
        names = {
            monitor.meta.name
            for monitor in self.monitors.values()
            if not alike or before.get(monitor.meta.uid) != after.get(monitor.meta.uid)
        }
        keys = {Key(Task.MONITOR, name) for name in names}
        if not alike or before.keys() != after.keys():
            keys |= {Key(Task.POOL, each.pool) for each in (old, new) if each is not None and each.pool}
        return keys

    def _node_changed(self, old: Node | None, new: Node | None) -> set[Key]:
        if old is None or new is None or old.place != new.place:
            return self._rearranged()
        return set(self.every_key()) if old.ready != new.ready else set()

    def _rearranged(self) -> set[Key]:
        self._placement = None
        return set(self.every_key())

    def _pool_names(self) -> set[str]:
        return {*self.pools, *(each.pool for each in self.daemon_sets.values())}


def _both(kind: type[O_], old: object, new: object) -> tuple[O_ | None, O_ | None]:
    return (old if isinstance(old, kind) else None), (new if isinstance(new, kind) else None)
