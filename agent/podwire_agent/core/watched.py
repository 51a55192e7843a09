"""What was watched here, from when to when, and which pod's addresses are behind it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from podwire_agent.core.keyed import NOWHERE, KeyedRows
from podwire_agent.core.surroundings import RECEIVER, Surroundings
from podwire_agent.layout import FlowDirection
from podwire_agent.model import Records

Times = NDArray[np.int64]
"""Monotonic, ns."""

NEVER_NS = np.iinfo(np.int64).max // 4
"""Later than all that happens."""

GONE_NS = 120_000_000_000
"""How long an interface that is gone is remembered: statements about its last packets are still to come."""

SPAN = np.dtype(
    [
        ("ifindex", "u4"),
        ("zero", "u4"),
        ("since_mono_ns", "i8"),
        ("until_mono_ns", "i8"),
        ("overflowed", "u8", (2,)),
        ("overflowed_mono_ns", "i8", (2,)),
    ]
)
"""An interface: watched without a gap from `since` on, at least `until`; packets of each direction that found no room,
and when that was last noticed."""

INTERFACES_KEPT = 8192
ADDRESSES_KEPT = 16384


@dataclass(frozen=True, slots=True, eq=False)
class Span:
    """Of the interfaces that were asked for, in that order."""

    since: Times
    until: Times
    """NEVER_NS while it is there."""
    overflowed: Times


class Watched:
    """Of one monitor."""

    def __init__(self, began_mono_ns: int, seed: int) -> None:
        """`began`: nothing is known of the time before."""
        self.spans: Records = np.empty(0, SPAN)
        self.looked_mono_ns = 0
        """When it was last brought up to date; 0: not since the agent's start."""
        self.began_mono_ns = began_mono_ns
        self.present_mono_ns = 0
        """When what is in `spans` was last there, also as a former agent saw it."""
        self._seed = seed
        self._receivers = self._empty()

    def look(self, surroundings: Surroundings, now_mono_ns: int) -> None:
        """As the node is now."""
        given = surroundings.interfaces[:INTERFACES_KEPT]
        given = given[np.argsort(given["ifindex"], kind="stable")]
        present = np.zeros(len(given), SPAN)
        for name in ("ifindex", "since_mono_ns", "overflowed"):
            present[name] = given[name]
        present["since_mono_ns"] = np.maximum(present["since_mono_ns"], self.began_mono_ns)
        present["until_mono_ns"] = NEVER_NS
        former = self.spans
        at, known = _places(former, present["ifindex"])
        known &= former["since_mono_ns"][at] == present["since_mono_ns"] if len(former) else False
        before = np.zeros((len(present), 2), np.uint64)
        before[known] = former["overflowed"][at[known]]
        present["overflowed_mono_ns"][known] = former["overflowed_mono_ns"][at[known]]
        present["overflowed_mono_ns"][present["overflowed"] != before] = now_mono_ns
        gone = former[~np.isin(former["ifindex"], present["ifindex"])]
        # It was there when it was last looked for.
        gone["until_mono_ns"] = np.minimum(gone["until_mono_ns"], self.present_mono_ns)
        gone = gone[gone["until_mono_ns"] > now_mono_ns - GONE_NS]
        spans = np.concatenate([present, gone])[:INTERFACES_KEPT]
        self.spans = spans[np.argsort(spans["ifindex"], kind="stable")]
        self._receivers = self._empty()
        if surroundings.visible:
            slots, _ = self._receivers.ensure(self._receivers.words_of(surroundings.receivers))
            found = slots != NOWHERE
            self._receivers.rows["ifindex"][slots[found]] = surroundings.receivers["ifindex"][found]
        self.looked_mono_ns = self.present_mono_ns = now_mono_ns

    def of(self, ifindexes: NDArray[np.uint32], direction: FlowDirection) -> Span:
        """When each was watched; what is not known never was."""
        at, known = _places(self.spans, ifindexes)
        since = np.full(len(ifindexes), NEVER_NS, np.int64)
        until = np.zeros(len(ifindexes), np.int64)
        overflowed = np.zeros(len(ifindexes), np.int64)
        at = at[known]
        since[known] = self.spans["since_mono_ns"][at]
        until[known] = self.spans["until_mono_ns"][at]
        overflowed[known] = self.spans["overflowed_mono_ns"][at, direction]
        return Span(since, until, overflowed)

    def behind(self, addresses: NDArray[np.uint8]) -> NDArray[np.uint32]:
        """(n, 16) -> the interface of each receiver; 0: none that is watched."""
        wanted = np.zeros(len(addresses), RECEIVER)
        wanted["address"] = addresses
        slots = self._receivers.find(self._receivers.words_of(wanted))
        ifindexes = np.zeros(len(addresses), np.uint32)
        found = slots != NOWHERE
        ifindexes[found] = self._receivers.rows["ifindex"][slots[found]]
        return ifindexes

    def _empty(self) -> KeyedRows:
        return KeyedRows(RECEIVER, 4, ADDRESSES_KEPT, self._seed)


def _places(spans: Records, ifindexes: NDArray[np.uint32]) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """Where each is in the spans, and whether it is."""
    if not len(spans):
        return np.zeros(len(ifindexes), np.intp), np.zeros(len(ifindexes), np.bool_)
    at = np.minimum(np.searchsorted(spans["ifindex"], ifindexes), len(spans) - 1)
    return at, spans["ifindex"][at] == ifindexes
