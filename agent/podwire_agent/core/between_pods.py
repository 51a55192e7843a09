"""Which flows go from pod to pod, as the comparison of both ends is told of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from podwire_agent.core.loss import COMPARED, NOT_BETWEEN_PODS
from podwire_agent.core.talk import Talk
from podwire_agent.core.world import World
from podwire_agent.model import EndKind, Records, UncomparedReason

_ENDS = ("address", "port")


@dataclass(frozen=True, slots=True, eq=False)
class Between:
    """Columns of the flows' length: what core.loss.Loss.sent and received are given."""

    wires: Records
    """TUPLE, in the direction of the packets: as both ends know the flow."""
    nodes: NDArray[np.int32]
    """The receiver's, an index into World.nodes, or NOT_BETWEEN_PODS."""
    reasons: NDArray[np.int8]
    """COMPARED, or the model.UncomparedReason that is known already."""
    arriving: NDArray[np.bool_]
    """Of those to a pod here: it may come from a pod."""


def between_pods(talk: Talk, ends: Records, host: NDArray[np.bool_], world: World) -> Between:
    """Of flows with their core.correlate.ENDS. `host`: seen on the node's own interfaces, which is told of neither."""
    src, dst = np.ascontiguousarray(ends["src"]), np.ascontiguousarray(ends["dst"])
    from_pod = world.has_own_network[src] & ~talk.to_pod & ~host
    to_service = world.kind_of[dst] == EndKind.SERVICE
    nodes = np.full(len(ends), NOT_BETWEEN_PODS, np.int32)
    reasons = np.full(len(ends), COMPARED, np.int8)
    at = np.flatnonzero(from_pod & (world.has_own_network[dst] | to_service))
    nodes[at] = np.where(to_service[at], world.node_of[src[at]], world.node_of[dst[at]])
    reasons[at[to_service[at]]] = UncomparedReason.TRANSLATED
    nowhere = at[nodes[at] < 0]
    nodes[nowhere] = world.node_of[src[nowhere]]
    reasons[nowhere] = UncomparedReason.UNWATCHED
    arriving = talk.to_pod & ~host & (world.kind_of[src] != EndKind.EXTERNAL)
    return Between(_wires(talk), nodes, reasons, arriving)


def _wires(talk: Talk) -> Records:
    translated, wires = talk.translated, talk.seen.copy()
    for is_reply, first, second in ((False, "src", "dst"), (True, "dst", "src")):
        at = np.flatnonzero(translated.found & (translated.is_reply == is_reply))
        for part in _ENDS:
            wires[f"src_{part}"][at] = translated.translated[f"{first}_{part}"][at]
            wires[f"dst_{part}"][at] = translated.translated[f"{second}_{part}"][at]
    return wires
