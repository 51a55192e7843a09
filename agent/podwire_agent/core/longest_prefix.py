"""The narrowest of many networks that covers an address, many addresses at a time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from podwire_agent.core.networks import MAPPED, MAPPED_BITS, prefix_mask
from podwire_agent.layout import PREFIX_KEY
from podwire_agent.model import Records

Strings = NDArray[np.bytes_]
"""Of one length each: numpy compares them as memcmp does."""

_PLACE_BYTES = 17
"""Of a prefix's address and length: what covers a prefix sorts before it."""


class LongestPrefix:
    """An IPv6 network covers no IPv4 address, though mapped ones lie within it: the prefix of all mapped addresses is
    always there, and takes nothing from those around it.
    """

    def __init__(self, listed: Records) -> None:
        """`listed`: layout.PREFIX_KEY, in any order, some perhaps twice."""
        if len(listed):
            listed = np.concatenate([listed, _all_ipv4()])
        self.prefixes = _from_places(np.unique(places_of(listed)))
        """All networks, each once, as layout.PREFIX_KEY, in the order of their places."""
        starts = self.prefixes["address"]["bytes"]
        self._first = as_strings(starts)
        self._last = as_strings(starts | ~prefix_mask(self.prefixes["length"]))
        self.parents, self.depths = _nesting(
            self._first.tolist(), self._last.tolist(), (self.prefixes == _all_ipv4()[0]).tolist()
        )
        """The next larger network around each (-1: none), and from how many around it each takes what they say."""

    def find(self, addresses: Strings) -> NDArray[np.intp]:
        """The index of the narrowest network around each address; -1: none."""
        at = np.searchsorted(self._first, addresses, side="right") - 1
        while (astray := (at >= 0) & (self._last[at] < addresses)).any():
            at[astray] = self.parents[at[astray]]
        return at


def _all_ipv4() -> Records:
    prefix = np.zeros(1, PREFIX_KEY)
    prefix["length"], prefix["address"]["bytes"] = MAPPED_BITS, np.frombuffer(MAPPED + bytes(4), np.uint8)
    return prefix


def as_strings(rows: NDArray[np.uint8]) -> Strings:
    """Shape (n, bytes) -> (n,)."""
    flat: Strings = np.ascontiguousarray(rows).view(f"S{rows.shape[1]}").reshape(len(rows))
    return flat


def places_of(prefixes: Records) -> Strings:
    """layout.PREFIX_KEY -> their addresses and lengths, to be sorted and searched."""
    lengths = prefixes["length"].astype(np.uint8)
    return as_strings(np.concatenate([prefixes["address"]["bytes"], lengths[:, np.newaxis]], axis=1))


def _from_places(places: Strings) -> Records:
    rows = places.view(np.uint8).reshape(-1, _PLACE_BYTES)
    prefixes = np.zeros(len(places), PREFIX_KEY)
    prefixes["length"], prefixes["address"]["bytes"] = rows[:, -1], rows[:, :-1]
    return prefixes


def _nesting(
    first: Sequence[bytes], last: Sequence[bytes], takes_none: Sequence[bool]
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Of networks in the order of their places: the next larger one around each (-1: none), and from how many around
    it each takes what they say.
    """
    parents, depths = np.full(len(first), -1, np.intp), np.zeros(len(first), np.intp)
    around: list[int] = []
    for each, start in enumerate(first):
        while around and last[around[-1]] < start:
            around.pop()
        if around:
            parents[each] = around[-1]
            depths[each] = 0 if takes_none[each] else depths[around[-1]] + 1
        around.append(each)
    return parents, depths
