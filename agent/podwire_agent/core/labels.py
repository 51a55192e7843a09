"""From the ends of flows to the labels of rows: grouped by columns, put in words once a group."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from podwire_agent.core.questions import World
from podwire_agent.model import EndKind, Labels, Locality, Records, Role

LABELS_KEPT = 16384
"""About 5 MB, then we begin anew."""

Key = tuple[int, int]
"""The two numbers that tell a group from the others, in one world."""


def localities(
    world: World, outside: NDArray[np.bool_], src: NDArray[np.int32], dst: NDArray[np.int32]
) -> NDArray[np.uint8]:
    """model.Locality of pairs of entities. `outside`: by entity, whether it is not in the cluster."""
    src_node, dst_node = world.node_of[src], world.node_of[dst]
    src_zone, dst_zone = world.zone_of[src], world.zone_of[dst]
    zones = np.where(src_zone == dst_zone, Locality.SAME_ZONE, Locality.CROSS_ZONE)
    found = np.where((src_zone >= 0) & (dst_zone >= 0), zones, Locality.UNKNOWN)
    found = np.where((src_node >= 0) & (src_node == dst_node), Locality.SAME_NODE, found)
    return np.where(outside[src] | outside[dst], Locality.OUTSIDE, found).astype(np.uint8)


class Groups:
    """Flows whose rows have the same labels, side by side."""

    def __init__(self, order: NDArray[np.intp], starts: NDArray[np.intp], labels: Sequence[Labels]) -> None:
        """`order`: flows; `starts`: where in it each group begins; `labels`: of each group, some perhaps alike."""
        self.labels = labels
        self._order = order
        self._starts = starts

    def sums(self, column: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """By group."""
        return np.asarray(np.add.reduceat(column[self._order], self._starts))

    def largest(self, column: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """By group."""
        return np.asarray(np.maximum.reduceat(column[self._order], self._starts))


class Labeller:
    """Keeps the words of the world that it was asked about last."""

    def __init__(self) -> None:
        self._world: World | None = None
        self._outside = np.zeros(0, np.bool_)
        self._known: dict[Key, Labels] = {}

    def group(self, ends: Records, world: World) -> Groups:
        """core.correlate.ENDS (n,), n > 0."""
        if world is not self._world:
            self._world = world
            self._known = {}
            self._outside = np.fromiter(
                (each.kind == EndKind.EXTERNAL for each in world.entities), np.bool_, len(world.entities)
            )
        src, dst = np.ascontiguousarray(ends["src"]), np.ascontiguousarray(ends["dst"])
        pair = _joined((world.workload_of[src], 32), (world.workload_of[dst], 0))
        how = _joined(
            (ends["service"] + 1, 32),  # 0: none
            (ends["server_port"], 16),
            (ends["protocol"], 8),
            (ends["role"], 4),
            (localities(world, self._outside, src, dst), 0),
        )
        order = np.lexsort((how, pair))
        pair, how = pair[order], how[order]
        starts = np.flatnonzero(np.concatenate(([True], (pair[1:] != pair[:-1]) | (how[1:] != how[:-1]))))
        keys = zip(pair[starts].tolist(), how[starts].tolist(), strict=True)
        return Groups(order, starts, [self._known.get(key) or self._in_words(key, world) for key in keys])

    def _in_words(self, key: Key, world: World) -> Labels:
        pair, how = key
        src, dst = world.workloads[pair >> 32], world.workloads[pair & 0xFFFFFFFF]
        service = how >> 32
        if len(self._known) >= LABELS_KEPT:
            self._known.clear()
        labels = self._known[key] = Labels(
            src.namespace,
            src.name,
            src.kind,
            dst.namespace,
            dst.name,
            dst.kind,
            world.services[service - 1].name if service else "",
            how >> 16 & 0xFFFF,
            how >> 8 & 0xFF,
            Role(how >> 4 & 0xF),
            Locality(how & 0xF),
        )
        return labels


def _joined(*parts: tuple[NDArray[np.signedinteger | np.unsignedinteger], int]) -> NDArray[np.uint64]:
    """Numbers side by side in 64 bits, each at its shift."""
    joined = np.zeros(len(parts[0][0]), np.uint64)
    for part, shift in parts:
        joined |= part.astype(np.uint64) << np.uint64(shift)
    return joined
