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

from podwire_agent.core.longest_prefix import LongestPrefix, Strings, places_of
from podwire_agent.layout import PREFIX_KEY, FlowLimit
from podwire_agent.model import Records

Words = NDArray[np.uint64]
"""Shape (n, ROW_WORDS): a row each."""

ROW_WORDS = 2 * int(FlowLimit.RULE_LISTS)
EXACT = 128
"""The length of a network of one address."""


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """Networks that one field of some rules' ends lists."""

    prefixes: Records
    """layout.PREFIX_KEY, each once."""
    row: tuple[int, ...]
    """Those ends."""


class PrefixIndex:
    """An IPv6 network covers no IPv4 address, though mapped ones lie within it: see LongestPrefix."""

    def __init__(self, fields: Sequence[tuple[Sequence[Source], tuple[int, ...]]]) -> None:
        """`fields`: for each field that lists networks its sources, and the row of the ends that do not use it.

        An end that uses several fields wants an address that is in a network of each.
        """
        self.elsewhere = np.bitwise_and.reduce(np.array([unused for _, unused in fields], np.uint64))
        """The row of an address in no network at all."""
        listed = [source.prefixes for sources, _ in fields for source in sources]
        self._longest = LongestPrefix(np.concatenate([np.zeros(0, PREFIX_KEY), *listed]))
        self.prefixes = self._longest.prefixes
        """All networks, each once, as layout.PREFIX_KEY."""
        self.rows = np.full((len(self.prefixes), ROW_WORDS), ~np.uint64(0))
        """Of each prefix, by all that cover it."""
        places = places_of(self.prefixes)
        for sources, unused in fields:
            self.rows &= self._union(places, sources) | np.array(unused, np.uint64)

    def covering(self, addresses: Strings) -> Words:
        """The row of each address."""
        if not len(self.rows):
            return np.tile(self.elsewhere, (len(addresses), 1))
        at = self._longest.find(addresses)
        found: Words = np.where(at[:, np.newaxis] >= 0, self.rows[at], self.elsewhere)
        return found

    def _union(self, places: Strings, sources: Sequence[Source]) -> Words:
        words = np.zeros((len(places), ROW_WORDS), np.uint64)
        for source in sources:
            words[np.searchsorted(places, places_of(source.prefixes))] |= np.array(source.row, np.uint64)
        for level in _levels(self._longest.depths):
            words[level] |= words[self._longest.parents[level]]
        return words


def _levels(depths: NDArray[np.intp]) -> Iterator[NDArray[np.intp]]:
    """The prefixes that take from one, those that take from two, and so on."""
    order = np.argsort(depths, kind="stable")
    bounds = np.searchsorted(depths[order], np.arange(1, depths.max(initial=0) + 2))
    for start, end in pairwise(bounds.tolist()):
        yield order[start:end]
