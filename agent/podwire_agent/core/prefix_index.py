"""The networks that a set of rules lists, and for each of them what all networks that cover it say.

A *row* is four words, as layout.END_BITS has them: the rules of the blacklist whose described end it may be, those of
the whitelist, and both again for the peer. Bit n of a word stands for rule n of its list.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from podwire_agent.core.networks import MAPPED, MAPPED_BITS, prefix_mask
from podwire_agent.layout import PREFIX_KEY, FlowLimit
from podwire_agent.model import Records

Words = NDArray[np.uint64]
"""Shape (n, ROW_WORDS): a row each."""

Strings = NDArray[np.bytes_]
"""Of one length each: numpy compares them as memcmp does."""

ROW_WORDS = 2 * int(FlowLimit.RULE_LISTS)
EXACT = 128
"""The length of a network of one address."""

_PLACE_BYTES = 17
"""Of a prefix's address and length: what covers a prefix sorts before it."""


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """Networks that one field of some rules' ends lists."""

    prefixes: Records
    """layout.PREFIX_KEY, each once."""
    row: tuple[int, ...]
    """Those ends."""


class PrefixIndex:
    """An IPv6 network covers no IPv4 address, though mapped ones lie within it: the prefix of all mapped addresses is
    always there, and takes nothing from those around it.
    """

    def __init__(self, fields: Sequence[tuple[Sequence[Source], tuple[int, ...]]]) -> None:
        """`fields`: for each field that lists networks its sources, and the row of the ends that do not use it.

        An end that uses several fields wants an address that is in a network of each.
        """
        self.elsewhere = np.bitwise_and.reduce(np.array([unused for _, unused in fields], np.uint64))
        """The row of an address in no network at all."""
        listed = [source.prefixes for sources, _ in fields for source in sources]
        if listed:
            listed.append(_all_ipv4())
        places = np.unique(_places(np.concatenate([np.zeros(0, PREFIX_KEY), *listed])))
        self.prefixes = _from_places(places)
        """All networks, each once, as layout.PREFIX_KEY."""
        starts = self.prefixes["address"]["bytes"]
        self._first = as_strings(starts)
        self._last = as_strings(starts | ~prefix_mask(self.prefixes["length"]))
        self._parents, depths = _nesting(self._first.tolist(), self._last.tolist(), self._is_all_ipv4().tolist())
        self.rows = np.full((len(places), ROW_WORDS), ~np.uint64(0))
        """Of each prefix, by all that cover it."""
        for sources, unused in fields:
            self.rows &= self._union(places, sources, depths) | np.array(unused, np.uint64)

    def covering(self, addresses: Strings) -> Words:
        """The row of each address."""
        if not len(self.rows):
            return np.tile(self.elsewhere, (len(addresses), 1))
        at = np.searchsorted(self._first, addresses, side="right") - 1
        while (astray := (at >= 0) & (self._last[at] < addresses)).any():
            at[astray] = self._parents[at[astray]]
        found: Words = np.where(at[:, np.newaxis] >= 0, self.rows[at], self.elsewhere)
        return found

    def _union(self, places: Strings, sources: Sequence[Source], depths: NDArray[np.intp]) -> Words:
        words = np.zeros((len(places), ROW_WORDS), np.uint64)
        for source in sources:
            words[np.searchsorted(places, _places(source.prefixes))] |= np.array(source.row, np.uint64)
        for level in _levels(depths):
            words[level] |= words[self._parents[level]]
        return words

    def _is_all_ipv4(self) -> NDArray[np.bool_]:
        is_it: NDArray[np.bool_] = self.prefixes == _all_ipv4()[0]
        return is_it


def as_strings(rows: NDArray[np.uint8]) -> Strings:
    """Shape (n, bytes) -> (n,)."""
    flat: Strings = np.ascontiguousarray(rows).view(f"S{rows.shape[1]}").reshape(len(rows))
    return flat


def _all_ipv4() -> Records:
    prefix = np.zeros(1, PREFIX_KEY)
    prefix["length"], prefix["address"]["bytes"] = MAPPED_BITS, np.frombuffer(MAPPED + bytes(4), np.uint8)
    return prefix


def _places(prefixes: Records) -> Strings:
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


def _levels(depths: NDArray[np.intp]) -> Iterator[NDArray[np.intp]]:
    """The prefixes that take from one, those that take from two, and so on."""
    order = np.argsort(depths, kind="stable")
    bounds = np.searchsorted(depths[order], np.arange(1, depths.max(initial=0) + 2))
    for start, end in pairwise(bounds.tolist()):
        yield order[start:end]
