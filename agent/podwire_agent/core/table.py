"""The flows of one monitor, both directions, cumulative over epochs.

An epoch's map holds what one polling period added. The table adds these up flow by flow, remembers how
much of each flow has been reported, and forgets flows that are idle, so that it stays within a bound.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from podwire_agent.layout import FLOW_KEY, FLOW_STATS, FlowDirection
from podwire_agent.model import Records, Traffic

Words = NDArray[np.uint32]
"""Shape (flows, IDENTITY_WORDS): what tells one flow from another, a row a flow."""

WordHash = Callable[[Words, int], NDArray[np.uint64]]
"""(identities, seed) -> a 64-bit hash for each."""

REPORT = np.dtype(
    [
        ("key", FLOW_KEY),
        ("direction", "u4"),
        ("packets", "u8"),
        ("bytes", "u8"),
        ("first_mono_ns", "u8"),
        ("last_mono_ns", "u8"),
        ("seen_syn", "u1"),
        ("seen_syn_ack", "u1"),
        ("seen_fin", "u1"),
        ("seen_rst", "u1"),
        ("estimated", "u1"),
        ("zero", "u1", (3,)),
    ]
)
"""A flow in a report. packets and bytes are of the report's interval; first and last, the TCP flags and
`estimated` are of the flow since the table knows it. direction: layout.FlowDirection. No unnamed padding,
and every u8 aligned: numpy is several times slower where it is not."""

FLOW_ROW = np.dtype(
    [
        *REPORT.descr,
        ("offered_packets", "u8"),
        ("offered_bytes", "u8"),
        ("reported_packets", "u8"),
        ("reported_bytes", "u8"),
    ]
)
"""A flow in the table: as REPORT, with packets and bytes cumulative, how much of them was offered in a report, and
how much is known to have arrived: reported <= offered <= cumulative."""

IDENTITY_WORDS = (FLOW_KEY.itemsize + 4) // 4

_ADDED = ("packets", "bytes", "offered_packets", "offered_bytes", "reported_packets", "reported_bytes")
_LARGEST = ("last_mono_ns", "seen_syn", "seen_syn_ack", "seen_fin", "seen_rst", "estimated")


def hash_words(words: Words, seed: int) -> NDArray[np.uint64]:
    """Multiply-shift (Dietzfelbinger 1996), twice for 2 x 32 bits.

    Strongly universal: whoever does not know the seed cannot choose flows that collide, and no two flows
    collide under every seed, so that trying the next one ends.
    """
    draw = random.Random(seed)
    upper = np.full(len(words), draw.getrandbits(64), np.uint64)
    lower = np.full(len(words), draw.getrandbits(64), np.uint64)
    for column in words.T:
        wide = column.astype(np.uint64)
        upper += wide * np.uint64(draw.getrandbits(64))
        lower += wide * np.uint64(draw.getrandbits(64))
    return (upper & np.uint64(0xFFFFFFFF_00000000)) | (lower >> np.uint64(32))


def convert(rows: Records, dtype: np.dtype[np.void]) -> Records:
    """`rows` in another layout: fields of the same name copied (nested ones too), new fields zero.

    Of an array field whose length changed the common part is copied. `rows` itself where nothing changes.
    ValueError where a field is an array in one layout only.
    """
    if rows.dtype == dtype:
        return rows
    converted = np.zeros(rows.shape, dtype)
    _copy_fields(rows, converted)
    return converted


def _copy_fields(source: Records, target: Records) -> None:
    for name in set(target.dtype.names or ()) & set(source.dtype.names or ()):
        common = tuple(slice(min(lengths)) for lengths in zip(source[name].shape, target[name].shape, strict=True))
        if target[name].dtype.names:
            _copy_fields(source[name][common], target[name][common])
        else:
            target[name][common] = source[name][common]


@dataclass(frozen=True, slots=True)
class _Groups:
    """Incoming records grouped by flow, flows in the order of their hashes."""

    order: NDArray[np.intp]
    """Incoming records, those of one flow side by side."""
    starts: NDArray[np.intp]
    """Where in `order` each flow begins."""
    slots: NDArray[np.intp]
    """The row of each flow; flows not yet in the table are numbered on from its end."""
    fresh: NDArray[np.intp]
    """The first incoming record of each flow not yet in the table, in the order they came."""
    fresh_hashes: NDArray[np.uint64]
    fresh_slots: NDArray[np.intp]
    fresh_positions: NDArray[np.intp]
    """Where each fresh hash belongs among the table's sorted ones."""


class FlowTable:
    """Exact modulo 2^64. Rows keep the order in which their flows first came, also across restore()."""

    def __init__(self, limit: int, seed: int, word_hash: WordHash = hash_words) -> None:
        """`limit`: rows to keep at most, as far as they are reported. `seed`: a secret of this process."""
        self.limit = limit
        self.evicted = 0
        """Rows that had to go for want of room, before they were idle."""
        self.added = 0
        """Flows that were not in the table when they came."""
        self._seed = seed
        self._word_hash = word_hash
        self._rows: Records = np.zeros(0, FLOW_ROW)
        self._hashes = np.zeros(0, np.uint64)  # sorted, no two alike
        self._slots = np.zeros(0, np.intp)  # the row of each hash

    @classmethod
    def restore(cls, rows: Records, limit: int, seed: int, word_hash: WordHash = hash_words) -> Self:
        """The table that gave `rows()`, also where that was of an older layout."""
        table = cls(limit, seed, word_hash)
        rows = convert(rows, FLOW_ROW)
        table._merge(_words_of_rows(rows), rows)
        table.added = 0
        return table

    def __len__(self) -> int:
        return len(self._rows)

    def fold(self, direction: FlowDirection, keys: Records, stats: Records) -> Records:
        """Add what a frozen map held: layout.FLOW_KEY and FLOW_STATS, same length; a key may come twice.

        REPORT of what came, a row a flow: counts and times are of the frozen map, the TCP flags and `estimated` of
        the flow since the table knows it.
        """
        stats = convert(stats, FLOW_STATS)
        groups = self._merge(_words_of_keys(convert(keys, FLOW_KEY), direction), stats)
        return np.zeros(0, REPORT) if groups is None else self._came(groups, stats)

    def add(self, rows: Records) -> Records:
        """Add the flows that another table gave up by `take`: FLOW_ROW, nothing of them offered yet; see fold()."""
        groups = self._merge(_words_of_rows(rows), rows)
        return np.zeros(0, REPORT) if groups is None else self._came(groups, rows)

    def take(self, taken: NDArray[np.bool_]) -> Records:
        """Give these rows up, of `rows()`: they are the caller's."""
        rows = self._rows[taken]
        self._drop(taken)
        return rows

    def offer(self) -> int:
        """Put everything unreported into a report, until confirm(); how many flows it has."""
        self._rows["offered_packets"] = self._rows["packets"]
        self._rows["offered_bytes"] = self._rows["bytes"]
        return int(np.count_nonzero(self._outstanding()))

    def offered(self) -> Records:
        """The report under way, REPORT; empty where there is none.

        The same flows in the same order with the same counts until confirm(), whatever is folded meanwhile;
        last_mono_ns and the flags may be later ones.
        """
        changed = np.flatnonzero(self._outstanding())
        report = np.empty(len(changed), REPORT)
        for name in REPORT.names or ():
            report[name] = self._rows[name][changed]
        for name in ("packets", "bytes"):
            report[name] = self._rows[f"offered_{name}"][changed] - self._rows[f"reported_{name}"][changed]
        return report

    def confirm(self) -> None:
        """The report under way has arrived."""
        self._rows["reported_packets"] = self._rows["offered_packets"]
        self._rows["reported_bytes"] = self._rows["offered_bytes"]

    def discard(self) -> Traffic:
        """Give up what is not in the report under way: it will not be reported; how much that is."""
        lost = []
        for name in ("packets", "bytes"):
            unoffered = self._rows[name] - self._rows[f"offered_{name}"]
            self._rows[f"offered_{name}"] += unoffered
            self._rows[f"reported_{name}"] += unoffered
            lost.append(int(unoffered.sum(dtype=np.uint64)))
        return Traffic(*lost)

    def expire(self, now_mono_ns: int, idle_ns: int) -> int:
        """Drop the reported flows whose last packet is older than `idle_ns`; how many."""
        idle = self._rows["last_mono_ns"] < max(0, now_mono_ns - idle_ns)
        return self._drop(idle & ~self._unreported())

    def over_limit(self) -> bool:
        """More rows than the limit: report, then evict()."""
        return len(self._rows) > self.limit

    def evict(self) -> int:
        """Drop the reported flows that were idle longest until the table is within its limit; how many.

        A flow with something unreported is never dropped, so that the table may still be over it.
        """
        excess = max(0, len(self._rows) - self.limit)
        reported = np.flatnonzero(~self._unreported())
        oldest_first = np.argsort(self._rows["last_mono_ns"][reported], kind="stable")
        evicted = np.zeros(len(self._rows), np.bool_)
        evicted[reported[oldest_first[:excess]]] = True
        count = self._drop(evicted)
        self.evicted += count
        return count

    def rows(self) -> Records:
        """All rows, FLOW_ROW, for restore(): a view, good until the table is changed."""
        return self._rows[:]

    def _unreported(self) -> NDArray[np.bool_]:
        rows = self._rows
        changed: NDArray[np.bool_] = rows["packets"] != rows["reported_packets"]
        changed |= rows["bytes"] != rows["reported_bytes"]
        return changed

    def _outstanding(self) -> NDArray[np.bool_]:
        rows = self._rows
        changed: NDArray[np.bool_] = rows["offered_packets"] != rows["reported_packets"]
        changed |= rows["offered_bytes"] != rows["reported_bytes"]
        return changed

    def _merge(self, words: Words, counts: Records) -> _Groups | None:
        """Add `counts` (any dtype with fields of FLOW_ROW) to the flows that `words` identify; None without any."""
        if not len(words):
            return None
        while (groups := self._group(words)) is None:
            self._rehash()
        self._append(words[groups.fresh], groups)
        slots = groups.slots
        for name in _ADDED:
            if name in (counts.dtype.names or ()):
                self._rows[name][slots] += np.add.reduceat(counts[name][groups.order], groups.starts)
        for name in _LARGEST:
            column = self._rows[name]
            column[slots] = np.maximum(column[slots], np.maximum.reduceat(counts[name][groups.order], groups.starts))
        first = self._rows["first_mono_ns"]
        earliest = np.minimum.reduceat(counts["first_mono_ns"][groups.order], groups.starts)
        first[slots] = np.minimum(first[slots], earliest)
        return groups

    def _came(self, groups: _Groups, stats: Records) -> Records:
        came = np.empty(len(groups.slots), REPORT)
        for name in REPORT.names or ():
            came[name] = self._rows[name][groups.slots]
        of_the_map = dict.fromkeys(("packets", "bytes"), np.add)
        for name, join in (of_the_map | {"first_mono_ns": np.minimum, "last_mono_ns": np.maximum}).items():
            came[name] = join.reduceat(stats[name][groups.order], groups.starts)
        return came

    def _group(self, words: Words) -> _Groups | None:
        """None: two different flows have the same hash."""
        hashes = self._word_hash(words, self._seed)
        order = np.argsort(hashes)
        hashes = hashes[order]
        starts = np.flatnonzero(np.concatenate(([True], hashes[1:] != hashes[:-1])))
        leaders = np.minimum.reduceat(order, starts)
        if len(starts) < len(words):
            leader_of_each = np.repeat(leaders, np.diff(starts, append=len(words)))
            if not np.array_equal(words[order], words[leader_of_each]):
                return None
        hashes = hashes[starts]
        positions = np.searchsorted(self._hashes, hashes)
        known = positions < len(self._hashes)
        known[known] = self._hashes[positions[known]] == hashes[known]
        slots = np.empty(len(starts), np.intp)
        slots[known] = self._slots[positions[known]]
        if not np.array_equal(_words_of_rows(self._rows)[slots[known]], words[leaders[known]]):
            return None
        # Numbered in the order they came, not of their hashes: the same epoch folded again after a crash,
        # under another seed, gives the same rows and so the same report.
        came = np.argsort(leaders[~known])
        fresh_slots = np.empty(len(came), np.intp)
        fresh_slots[came] = np.arange(len(self._rows), len(self._rows) + len(came))
        slots[~known] = fresh_slots
        return _Groups(order, starts, slots, leaders[~known][came], hashes[~known], fresh_slots, positions[~known])

    def _append(self, words: Words, groups: _Groups) -> None:
        if not len(words):
            return
        former = len(self._rows)
        self.added += len(words)
        # In place: no second copy of a large table. np.concatenate would also turn the ports to the host's byte
        # order. No view of the rows outlives a method, so the check for references is not needed.
        self._rows.resize(former + len(words), refcheck=False)
        _words_of_rows(self._rows)[former:] = words
        self._rows["first_mono_ns"][former:] = np.iinfo(np.uint64).max
        self._hashes = np.insert(self._hashes, groups.fresh_positions, groups.fresh_hashes)
        self._slots = np.insert(self._slots, groups.fresh_positions, groups.fresh_slots)

    def _rehash(self) -> None:
        """Index the rows under the next seed that tells them all apart."""
        while True:
            self._seed += 1
            hashes = self._word_hash(_words_of_rows(self._rows), self._seed)
            self._slots = np.argsort(hashes)
            self._hashes = hashes[self._slots]
            if np.all(self._hashes[1:] != self._hashes[:-1]):
                return

    def _drop(self, dropped: NDArray[np.bool_]) -> int:
        count = int(np.count_nonzero(dropped))
        if count:
            kept = ~dropped
            new_slots = np.cumsum(kept) - 1
            self._rows = self._rows[kept]
            kept_hashes = kept[self._slots]
            self._hashes = self._hashes[kept_hashes]
            self._slots = new_slots[self._slots[kept_hashes]]
        return count


def _words_of_keys(keys: Records, direction: FlowDirection) -> Words:
    words = np.empty((len(keys), IDENTITY_WORDS), np.uint32)
    words[:, :-1] = np.ascontiguousarray(keys).view(np.uint32).reshape(len(keys), IDENTITY_WORDS - 1)
    words[:, -1] = direction
    return words


def _words_of_rows(rows: Records) -> Words:
    """A view: key and direction are the first fields of a row."""
    return rows.view(np.uint32).reshape(len(rows), FLOW_ROW.itemsize // 4)[:, :IDENTITY_WORDS]
