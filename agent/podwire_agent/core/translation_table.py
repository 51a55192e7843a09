"""Keeps the kernel's translated connections, as it tells of them, and for a while after their end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from podwire_agent.core.translations import (
    LIFE,
    ONGOING_NS,
    ORIGINAL,
    Flags,
    Index,
    Indexes,
    Translations,
    TupleHash,
    keyed_hash,
    words_of,
)
from podwire_agent.model import TUPLE, Records

LIMIT = 262_144
"""Lives kept, of 128 bytes each: what the kernel's own table holds on a machine of 8 GiB and more."""

KEEP_NS = 60_000_000_000
"""How long after its end a connection is still found: a flow is asked for with the drain that follows its packets."""

_SMALLEST = 1024
"""Rows that there is room for at least, and that are given up together."""

_KEY = 44
"""Bytes of a tuple and its zone."""


@dataclass(slots=True)
class _Known:
    """The connections that a batch of changes is about."""

    words: NDArray[np.uint64]
    """Of their original tuples."""
    zones: NDArray[np.uint16]
    latest: Indexes
    """The life of each that began last, -1: none is known."""


class TranslationTable:
    """One thread at a time. What it has given out as Translations never changes."""

    def __init__(
        self,
        seed: int,
        limit: int = LIMIT,
        keep_ns: int = KEEP_NS,
        make_hash: Callable[[int], TupleHash] = keyed_hash,
    ) -> None:
        """`seed`: a secret of this process. `keep_ns`: at least from one drain to the next."""
        self.limit = limit
        self.keep_ns = keep_ns
        self.dropped_total = 0
        """Connections that there was no room for: not taken, or forgotten early after their end."""
        self._hash = make_hash(seed)
        self._lives: Records = np.zeros(_SMALLEST, LIFE)
        self._ends = np.zeros(_SMALLEST, np.uint64)
        self._count = 0
        self._index = Index.empty()
        self._complete_mono_ns = 0
        """Until when everything that began was told, before something may last have been missed."""

    def __len__(self) -> int:
        return self._count

    @property
    def ongoing(self) -> int:
        """Lives that have not ended."""
        return int(np.count_nonzero(self._ends[: self._count] == ONGOING_NS))

    def change(self, changes: Records) -> None:
        """CONNECTION, in the order in which they were told."""
        if not len(changes):
            return
        groups, ranks, known = self._known(changes)
        for rank in range(int(ranks.max()) + 1):
            now = np.flatnonzero(ranks == rank)
            ended = changes["ended"][now] != 0
            self._end(changes[now[ended]], groups[now[ended]], known)
            self._begin(changes[now[~ended]], groups[now[~ended]], known)

    def replace(self, listing: Records, after_mono_ns: int, until_mono_ns: int) -> None:
        """All that the kernel holds, as CONNECTION, after something may have been missed.

        What is new in it began after `after_mono_ns`; what is not in it ended before `until_mono_ns`.
        """
        before = self._count
        self._complete_mono_ns = after_mono_ns
        listing = listing.copy()
        listing["after_mono_ns"], listing["until_mono_ns"], listing["ended"] = after_mono_ns, until_mono_ns, 0
        going_on = self._ends[:before] == ONGOING_NS
        if len(listing):
            groups, ranks, known = self._known(listing)
            once = np.flatnonzero(ranks == 0)
            slots = known.latest[groups[once]]
            there = slots >= 0
            same = _translated(self._lives[slots[there]]) == _translated(listing[once[there]])
            going_on[slots[there][same.all(axis=1)]] = False
        self._ends[:before][going_on] = until_mono_ns
        if len(listing):
            self._begin(listing[once], groups[once], known)

    def snapshot(self, now_mono_ns: int) -> Translations:
        """What is known now."""
        expired = self._ends[: self._count] < max(0, now_mono_ns - self.keep_ns)
        count = int(np.count_nonzero(expired))
        if count > max(_SMALLEST, self._count // 4):
            self._keep(~expired)
        ends = self._ends[: self._count].copy()
        return Translations(self._lives[: self._count], ends, self._index, self._hash)

    def _known(self, changes: Records) -> tuple[Indexes, Indexes, _Known]:
        """Which connection each change is about, how many changes of it came before, and the connections."""
        words = words_of(changes["original"])
        keys = np.zeros((len(changes), _KEY), np.uint8)
        keys[:, : TUPLE.itemsize] = words.view(np.uint8)
        keys[:, TUPLE.itemsize : TUPLE.itemsize + 2] = (
            np.ascontiguousarray(changes["zone"]).view(np.uint8).reshape(-1, 2)
        )
        _, first, groups = np.unique(keys.view(f"V{_KEY}").ravel(), return_index=True, return_inverse=True)
        order = np.argsort(groups, kind="stable")
        starts = np.searchsorted(groups[order], np.arange(len(first)))
        ranks = np.empty(len(changes), np.intp)
        ranks[order] = np.arange(len(changes)) - starts[groups[order]]
        known = _Known(words[first], changes["zone"][first], np.full(len(first), -1, np.intp))
        self._find(known)
        return groups, ranks, known

    def _find(self, known: _Known) -> None:
        hashes = self._hash(known.words)
        index = self._index
        positions = index.last(hashes)
        asked = np.flatnonzero(positions >= 0)
        while len(asked):
            slots, of_form = index.look(positions[asked], ORIGINAL)
            lives = self._lives[slots]
            found = of_form & (words_of(lives["original"]) == known.words[asked]).all(axis=1)
            found &= lives["zone"] == known.zones[asked]
            known.latest[asked[found]] = slots[found]
            # Another form or zone, or another tuple of the same hash: the one before may be it.
            asked = asked[~found]
            asked = asked[index.repeated[positions[asked]]]
            positions[asked] -= 1

    def _begin(self, changes: Records, groups: Indexes, known: _Known) -> None:
        """At most one change of each connection."""
        slots = known.latest[groups]
        there = np.flatnonzero(slots >= 0)
        same = _translated(self._lives[slots[there]]) == _translated(changes[there])
        ongoing = self._ends[slots[there]] == ONGOING_NS
        # The same tuple begins again only after its end, be that untold or told with it.
        followed = ~(ongoing & same.all(axis=1))
        former = slots[there[followed]]
        self._ends[former] = np.minimum(self._ends[former], changes["until_mono_ns"][there[followed]])
        new = np.ones(len(changes), np.bool_)
        new[there[~followed]] = False
        self._append(changes[new], groups[new], known, np.uint64(ONGOING_NS))

    def _end(self, changes: Records, groups: Indexes, known: _Known) -> None:
        """At most one change of each connection."""
        slots = known.latest[groups]
        there = slots >= 0
        ongoing = np.zeros(len(changes), np.bool_)
        ongoing[there] = self._ends[slots[there]] == ONGOING_NS
        self._ends[slots[ongoing]] = changes["until_mono_ns"][ongoing]
        # Its beginning was missed, which its end makes good.
        unknown = changes[~there].copy()
        ends = unknown["until_mono_ns"].copy()
        unknown["after_mono_ns"] = self._complete_mono_ns
        self._append(unknown, groups[~there], known, ends)

    def _append(self, changes: Records, groups: Indexes, known: _Known, ends: NDArray[np.uint64] | np.uint64) -> None:
        if self._count + len(changes) > self.limit:
            self._make_room(len(changes), int(changes["until_mono_ns"].max()), known)
        fitting = min(len(changes), self.limit - self._count)
        self.dropped_total += len(changes) - fitting
        if not fitting:
            return
        changes, groups = changes[:fitting], groups[:fitting]
        first, end = self._count, self._count + fitting
        if end > len(self._lives):
            self._resize(end)
        lives = self._lives[first:end]
        for name in ("original", "translated", "zone"):
            lives[name] = changes[name]
        lives["start_mono_ns"] = changes["after_mono_ns"]
        self._ends[first:end] = ends[:fitting] if isinstance(ends, np.ndarray) else ends
        original, translated = (self._hash(words_of(lives[form])) for form in ("original", "translated"))
        self._index = self._index.added(original, translated, first)
        known.latest[groups] = np.arange(first, end)
        self._count = end

    def _resize(self, wanted: int) -> None:
        """New memory: what was given out stays as it is."""
        size = min(max(wanted, 2 * len(self._lives)), max(self.limit, _SMALLEST))
        lives, ends = np.zeros(size, LIFE), np.zeros(size, np.uint64)
        lives[: self._count], ends[: self._count] = self._lives[: self._count], self._ends[: self._count]
        self._lives, self._ends = lives, ends

    def _make_room(self, wanted: int, now_mono_ns: int, known: _Known) -> None:
        """Forget what is kept no longer, and where that is not enough what ended first: much at once, since it costs
        a copy of everything.
        """
        ends = self._ends[: self._count]
        expired = int(np.count_nonzero(ends < max(0, now_mono_ns - self.keep_ns)))
        ended = int(np.count_nonzero(ends != ONGOING_NS))
        count = max(expired, min(ended, max(wanted, self.limit // 16)))
        if count <= self.limit // 64:
            return
        self.dropped_total += count - expired
        kept = np.ones(self._count, np.bool_)
        kept[np.argsort(ends, kind="stable")[:count]] = False
        numbers = np.where(kept, np.cumsum(kept) - 1, -1)
        there = known.latest >= 0
        known.latest[there] = numbers[known.latest[there]]
        self._keep(kept)

    def _keep(self, kept: Flags) -> None:
        count = int(np.count_nonzero(kept))
        size = min(max(2 * count, _SMALLEST), max(self.limit, _SMALLEST))
        lives, ends = np.zeros(size, LIFE), np.zeros(size, np.uint64)
        lives[:count], ends[:count] = self._lives[: self._count][kept], self._ends[: self._count][kept]
        self._lives, self._ends, self._count = lives, ends, count
        self._index = self._index.kept(kept)


def _translated(records: Records) -> NDArray[np.uint64]:
    """Their translated tuples as words."""
    return words_of(records["translated"])
