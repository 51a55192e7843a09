"""Rows found by the words at their beginning: what the flow table does for one dtype, for any, and within a bound."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from podwire_agent.core.table import WordHash, hash_words
from podwire_agent.model import Records

Slots = NDArray[np.intp]

NOWHERE = -1


class KeyedRows:
    """At most `limit` rows of `dtype`, each identified by its first `words` 32-bit words."""

    def __init__(
        self, dtype: np.dtype[np.void], words: int, limit: int, seed: int, word_hash: WordHash = hash_words
    ) -> None:
        self.rows: Records = np.empty(0, dtype)
        self.limit = limit
        self._words = words
        self._seed = seed
        self._word_hash = word_hash
        self._hashes = np.empty(0, np.uint64)  # sorted
        self._slots = np.empty(0, np.intp)  # the row of each

    def __len__(self) -> int:
        return len(self.rows)

    def replace(self, rows: Records) -> None:
        """Have exactly these, each identity once."""
        self.rows = rows.copy()
        self._index()

    def words_of(self, records: Records) -> NDArray[np.uint32]:
        """(n, words) of records whose dtype begins as the rows do."""
        flat = np.ascontiguousarray(records).view(np.uint32).reshape(len(records), records.dtype.itemsize // 4)
        return flat[:, : self._words]

    def find(self, words: NDArray[np.uint32]) -> Slots:
        """The row of each, or NOWHERE."""
        slots = np.full(len(words), NOWHERE, np.intp)
        if not len(words) or not len(self.rows):
            return slots
        hashes = self._word_hash(words, self._seed)
        positions = np.searchsorted(self._hashes, hashes)
        candidates = np.flatnonzero(positions < len(self._hashes))
        candidates = candidates[self._hashes[positions[candidates]] == hashes[candidates]]
        found = self._slots[positions[candidates]]
        same = (self._mine()[found] == words[candidates]).all(axis=1)
        slots[candidates[same]] = found[same]
        return slots

    def ensure(self, words: NDArray[np.uint32]) -> tuple[Slots, Slots]:
        """The row of each, made where there is none; and the new rows, zero but for their identity.

        NOWHERE for those that found no room.
        """
        slots = self.find(words)
        missing = np.flatnonzero(slots == NOWHERE)
        if not len(missing):
            return slots, np.empty(0, np.intp)
        _, leaders, inverse = np.unique(
            np.ascontiguousarray(words[missing]).view(f"V{4 * self._words}").ravel(),
            return_index=True,
            return_inverse=True,
        )
        room = max(0, self.limit - len(self.rows))
        admitted = min(len(leaders), room)
        # In the order they came: a run again after a crash makes the same rows.
        rank = np.empty(len(leaders), np.intp)
        rank[np.argsort(leaders)] = np.arange(len(leaders))
        fresh = len(self.rows) + rank
        fresh[rank >= admitted] = NOWHERE
        slots[missing] = fresh[inverse]
        first = len(self.rows)
        if admitted:
            self._append(words[missing[np.sort(leaders)[:admitted]]])
        return slots, np.arange(first, first + admitted, dtype=np.intp)

    def drop(self, dropped: NDArray[np.bool_]) -> int:
        """Forget the rows of a mask; how many."""
        count = int(np.count_nonzero(dropped))
        if count:
            kept = ~dropped
            new_slots = np.cumsum(kept) - 1
            self.rows = self.rows[kept]
            kept_hashes = kept[self._slots]
            self._hashes = self._hashes[kept_hashes]
            self._slots = new_slots[self._slots[kept_hashes]]
        return count

    def _mine(self) -> NDArray[np.uint32]:
        return self.words_of(self.rows)

    def _append(self, words: NDArray[np.uint32]) -> None:
        former = len(self.rows)
        self.rows.resize(former + len(words), refcheck=False)  # in place, and the new ones zero
        self._mine()[former:] = words
        hashes = self._word_hash(words, self._seed)
        order = np.argsort(hashes)
        hashes = hashes[order]
        positions = np.searchsorted(self._hashes, hashes)
        again = positions < len(self._hashes)
        again[again] = self._hashes[positions[again]] == hashes[again]
        if again.any() or np.any(hashes[1:] == hashes[:-1]):
            self._seed += 1
            self._index()
            return
        self._hashes = np.insert(self._hashes, positions, hashes)
        self._slots = np.insert(self._slots, positions, former + order)

    def _index(self) -> None:
        """Under the next seed that tells all rows apart."""
        while True:
            hashes = self._word_hash(self._mine(), self._seed)
            self._slots = np.argsort(hashes)
            self._hashes = hashes[self._slots]
            if np.all(self._hashes[1:] != self._hashes[:-1]):
                return
            self._seed += 1


def joined(parts: Sequence[Records], dtype: np.dtype[np.void]) -> Records:
    """One after the other. np.concatenate would turn the ports to the host's byte order."""
    whole = np.empty(sum(map(len, parts)), dtype)
    at = 0
    for part in parts:
        raw(whole)[at : at + len(part)] = raw(part)
        at += len(part)
    return whole


def raw(records: Records) -> Records:
    """The same without its fields: numpy copies records many times faster when it need not look at them."""
    return records.view(f"V{records.dtype.itemsize}")
