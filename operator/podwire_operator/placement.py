"""Who runs where, purely: which pool's agent a node gets, which monitors select it, and which of them it serves."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from podwire_api.agentpool import Toleration
from podwire_api.selection import selects, served
from podwire_operator.objects import Monitor, Node, Pool, Taint

_KEPT_OFF_BY = frozenset({"NoSchedule", "NoExecute"})

_GIVEN_TO_DAEMON_SETS = frozenset(
    f"node.kubernetes.io/{name}"
    for name in (
        "not-ready",
        "unreachable",
        "disk-pressure",
        "memory-pressure",
        "pid-pressure",
        "unschedulable",
        "network-unavailable",
    )
)
"""Taints that every DaemonSet's pods tolerate, the last one with the host's network: a cordoned node keeps its agent.
"""


@dataclass(frozen=True, slots=True)
class Placement:
    """All of it, for one state of the cluster. Nodes are in the order of their names."""

    owner: Mapping[str, str]
    """Of a node, the pool: the eldest that selects it, by creation time, then uid."""
    barred: Mapping[str, Taint]
    """Nodes whose pool's agents do not tolerate this taint."""
    contested: Mapping[str, tuple[tuple[str, str], ...]]
    """By pool, the nodes it selects that an elder pool has: node and elder pool."""
    selected: Mapping[str, tuple[str, ...]]
    """By monitor's uid, the nodes it selects."""
    crowded: Mapping[str, frozenset[str]]
    """By monitor's uid, those of them that serve as many older monitors as they can."""

    def desired(self, uid: str) -> tuple[str, ...]:
        """The nodes where an agent should serve the monitor: it selects them, and their pool's agents can run there."""
        return tuple(name for name in self.selected.get(uid, ()) if name in self.owner and name not in self.barred)


def elders_first(pools: Iterable[Pool]) -> list[Pool]:
    """In the order in which they get nodes."""
    return sorted(pools, key=lambda pool: (pool.meta.created, pool.meta.uid))


def place(nodes: Iterable[Node], pools: Iterable[Pool], monitors: Iterable[Monitor]) -> Placement:
    """Nodes that the same monitors select are looked at once: the cost is nodes times distinct selectors."""
    by_age = elders_first(pools)
    monitors = list(monitors)
    selectors = {frozenset(monitor.selector.items()) for monitor in monitors}
    owner: dict[str, str] = {}
    barred: dict[str, Taint] = {}
    contested: dict[str, list[tuple[str, str]]] = defaultdict(list)
    selected: dict[str, list[str]] = defaultdict(list)
    crowded: dict[str, set[str]] = defaultdict(set)
    answers: dict[frozenset[frozenset[tuple[str, str]]], tuple[list[str], frozenset[str]]] = {}
    for node in sorted(nodes, key=lambda each: each.meta.name):
        name = node.meta.name
        if rivals := [pool for pool in by_age if selects(pool.selector, node.labels)]:
            own = rivals[0]
            owner[name] = own.meta.name
            if (taint := keeps_off(own, node)) is not None:
                barred[name] = taint
            for pool in rivals[1:]:
                contested[pool.meta.name].append((name, own.meta.name))
        matching = frozenset(each for each in selectors if each <= node.labels.items())
        if matching not in answers:
            answers[matching] = _served(monitors, matching)
        selecting, serving = answers[matching]
        for uid in selecting:
            selected[uid].append(name)
            if uid not in serving:
                crowded[uid].add(name)
    return Placement(
        owner=owner,
        barred=barred,
        contested={name: tuple(found) for name, found in contested.items()},
        selected={uid: tuple(found) for uid, found in selected.items()},
        crowded={uid: frozenset(found) for uid, found in crowded.items()},
    )


def _served(
    monitors: list[Monitor], matching: frozenset[frozenset[tuple[str, str]]]
) -> tuple[list[str], frozenset[str]]:
    """UIDs of the monitors with one of these selectors, and those of them that a node serves."""
    found = [monitor.meta for monitor in monitors if frozenset(monitor.selector.items()) in matching]
    return [meta.uid for meta in found], frozenset(served((meta.created, meta.uid) for meta in found))


def keeps_off(pool: Pool, node: Node) -> Taint | None:
    """The node's first taint that the pool's agents do not tolerate."""
    tolerations = pool.spec.tolerations if pool.spec is not None else (Toleration(operator="Exists"),)
    for taint in node.taints:
        keeps_off_others = taint.effect in _KEPT_OFF_BY and taint.key not in _GIVEN_TO_DAEMON_SETS
        if keeps_off_others and not any(_tolerates(each, taint) for each in tolerations):
            return taint
    return None


def _tolerates(toleration: Toleration, taint: Taint) -> bool:
    if toleration.effect not in {None, taint.effect}:
        return False
    if toleration.key is None:
        return toleration.operator == "Exists"
    if toleration.key != taint.key:
        return False
    return toleration.operator == "Exists" or (toleration.value or "") == taint.value
