"""Who had a key at a time: keys that are given again belong to whoever had them then."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from podwire_agent.core.key_index import ABSENT, Column, KeyIndex, grouped

CHANGED = -2
"""The record touches a time when the key was another one's, or when nobody can say whose it was."""

Times = NDArray[np.uint64]
"""Shape (n,): CLOCK_MONOTONIC, ns."""

_NEVER = np.uint64((1 << 64) - 1)


class Owners:
    """An immutable table of tenures: of each key's, none begins before the one in front of it has ended."""

    def __init__(
        self, keys: tuple[Column, ...], owners: NDArray[np.int32], starts: Times, ends: Times, lefts: Times
    ) -> None:
        """A row each, in any order. From `starts` to `ends` the key is the owner's, if it is asked for within a time
        to live after it `left`; both are the largest number where there is no such time.
        """
        order, self._first, _ = grouped(keys, starts, ends)
        self._last = np.append(self._first[1:], len(order)) - 1
        self._owners, self._starts, self._ends, self._lefts = (
            column[order] for column in (owners, starts, ends, lefts)
        )
        self._index = KeyIndex(*(column[order][self._first] for column in keys))

    def find(self, keys: tuple[Column, ...], first: Times, last: Times, to_live_ns: int) -> NDArray[np.int32]:
        """The owner of each key during all of [first, last]; ABSENT where it had none; CHANGED."""
        found = self._index.find(*keys)
        asked = np.flatnonzero(found != ABSENT)
        if not len(asked):
            return found
        key, first, last = found[asked], first[asked], last[asked]
        at, oldest = self._last[key], self._first[key]
        while (late := (first < self._starts[at]) & (at > oldest)).any():
            at = at - late
        until = self._until(to_live_ns)
        begun = first >= self._starts[at]
        inside = begun & (last <= until[at]) & (self._starts[at] < until[at])  # one that begins at its end is none
        # Nobody's, if all of it is before the first one's time or, without a next one, after the last one's.
        outside = np.where(begun, (first > until[at]) & (at == self._last[key]), last < self._starts[at])
        found[asked] = np.select([inside, outside], [self._owners[at], ABSENT], CHANGED)
        return found

    def _until(self, to_live_ns: int) -> Times:
        to_live = np.uint64(to_live_ns)
        forgotten = np.where(self._lefts > _NEVER - to_live, _NEVER, self._lefts + to_live)
        return np.minimum(self._ends, forgotten)
