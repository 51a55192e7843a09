"""Packets that were not compared, gathered while flows are looked at, to be told as LOSS."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from podwire_agent.core.keyed import joined, raw
from podwire_agent.core.surroundings import LOSS
from podwire_agent.layout import FlowDirection
from podwire_agent.model import Records, UncomparedReason


class Uncompared:
    """Of flows of one direction."""

    def __init__(self, direction: FlowDirection) -> None:
        self._direction = direction
        self._parts: list[Records] = []

    def add(self, keys: Records, packets: NDArray[np.uint64], reason: UncomparedReason) -> None:
        """FLOW_KEY (n,) and how many of each; none is nothing."""
        some = packets > 0
        if not some.any():
            return
        part = np.zeros(int(np.count_nonzero(some)), LOSS)
        raw(part["key"])[:] = raw(keys)[some]
        part["direction"] = self._direction
        part["uncompared"][:, reason] = packets[some]
        self._parts.append(part)

    def records(self) -> Records:
        """LOSS; a flow may come more than once."""
        return joined(self._parts, LOSS)
