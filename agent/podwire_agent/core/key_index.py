"""Rows found by their keys, many at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Column = NDArray[np.uint64]
"""Shape (n,): one part of a key, for each row."""

ABSENT = -1

_FACTORS = (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9)
"""Odd, and without a pattern: of a key's parts."""
_ROOM = 4
"""Places a key."""


class KeyIndex:
    """A hash table in numpy arrays; a key has one to three parts. Searching sorted keys takes several times as long."""

    def __init__(self, *columns: Column) -> None:
        """The keys of rows 0, 1, ...: each key once, every column of the same length."""
        self._columns = columns
        rows = len(columns[0])
        self._mask = np.uint64((1 << max(3, (rows * _ROOM - 1).bit_length() if rows else 0)) - 1)
        self._rows = np.full(int(self._mask) + 1, ABSENT, np.int32)
        waiting, place = np.arange(rows), self._places(columns)
        while len(waiting):
            at = place[waiting]
            free = self._rows[at] == ABSENT
            self._rows[at[free]] = waiting[free]
            waiting = waiting[self._rows[at] != waiting]  # several wanted one place: the last one has it
            place[waiting] = (place[waiting] + np.uint64(1)) & self._mask

    def find(self, *columns: Column) -> NDArray[np.int32]:
        """The row of each key, or ABSENT."""
        place = self._places(columns)
        found = self._rows[place]
        astray = np.flatnonzero((found != ABSENT) & ~self._equal(found, columns))
        while len(astray):
            place[astray] = (place[astray] + np.uint64(1)) & self._mask
            found[astray] = rows = self._rows[place[astray]]
            equal = self._equal(rows, [column[astray] for column in columns])
            astray = astray[(rows != ABSENT) & ~equal]
        return found

    def _equal(self, rows: NDArray[np.int32], columns: tuple[Column, ...] | list[Column]) -> NDArray[np.bool_]:
        """Of rows that are ABSENT nothing is told."""
        equal = np.ones(len(rows), np.bool_)
        for ours, theirs in zip(self._columns, columns, strict=True):
            if len(ours):
                equal &= ours[rows] == theirs
        return equal

    def _places(self, columns: tuple[Column, ...]) -> NDArray[np.uint64]:
        mixed = np.zeros(len(columns[0]), np.uint64)
        for column, factor in zip(columns, _FACTORS, strict=False):
            mixed ^= column
            mixed *= np.uint64(factor)
            mixed ^= mixed >> np.uint64(29)
        mixed *= np.uint64(_FACTORS[0])
        mixed ^= mixed >> np.uint64(32)
        mixed &= self._mask
        return mixed


def address_columns(addresses: NDArray[np.uint8]) -> tuple[Column, Column]:
    """Shape (n, 16) -> both halves of each address, as keys: not numbers to be compared by size."""
    halves = np.ascontiguousarray(addresses).view(np.uint64)
    return halves[:, 0], halves[:, 1]


def port_column(protocols: NDArray[np.unsignedinteger], ports: NDArray[np.unsignedinteger]) -> Column:
    """Protocol and port (in the machine's order) as one part of a key."""
    column: Column = protocols.astype(np.uint64) << np.uint64(16)
    column |= ports
    return column


def grouped(
    keys: tuple[Column, ...], *within: NDArray[Any]
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]:
    """Rows in groups of one key each, in each group by `within`: their order, the place in that order where each group
    begins, and the group of each place.
    """
    order = np.lexsort((*reversed(within), *keys))
    new = np.zeros(len(order), np.bool_)
    new[:1] = True
    for column in keys:
        ordered = column[order]
        new[1:] |= ordered[1:] != ordered[:-1]
    return order, np.flatnonzero(new), np.cumsum(new) - 1
