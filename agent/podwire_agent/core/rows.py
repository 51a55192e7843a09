"""The rows of one monitor: workload to workload, cumulative, within a bound, and exact in their sums.

A row is admitted only where there is room, the largest first, and stays until it is idle. What arrives while a row is
out goes to `other`, for ever: nothing that was once shown in one series is ever moved to another, so that each series
only rises. A row that is idle leaves with its total; what comes later begins a new row at 0.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from podwire_agent.core.labels import Labeller
from podwire_agent.core.questions import World
from podwire_agent.core.table import convert
from podwire_agent.model import (
    OTHER,
    Edges,
    FailureReason,
    Labels,
    Locality,
    Placed,
    Records,
    Role,
    UncomparedReason,
)

_OF_TRAFFIC = [
    ("packets", "u8"),
    ("bytes", "u8"),
]
_OF_TCP = [
    ("connections", "u8"),
    ("failures", "u8", (len(FailureReason),)),
    ("retransmits", "u8"),
]
_OF_COMPARISON = [
    ("lost", "u8"),
    ("compared", "u8"),
    ("uncompared", "u8", (len(UncomparedReason),)),
]
COUNTS = np.dtype(_OF_TRAFFIC + _OF_TCP + _OF_COMPARISON)
"""What a row counts. packets and bytes on the wire; lost, compared and uncompared in packets."""

ROW = np.dtype(
    [
        ("born_mono_ns", "i8"),
        ("born_unix_ns", "i8"),
        ("last_mono_ns", "i8"),
        ("birth", "u8"),
        ("changed", "u8"),
        ("role_by", "u1"),
        ("joined_by", "u1"),
        ("near_by", "u1"),
        ("held", "u1"),
        ("zero", "u1", (4,)),
    ]
)
"""A row beside its counts. birth, changed: the turn in which it was first shown, and in which what is shown changed
last. held: it is shown at 0 still."""

IDLE_NS = 15 * 60 * 10**9
"""A row without traffic for so long leaves."""

HOLD_NS = 2 * 60 * 10**9
"""The longest that a new row is shown at 0, and that one that has left may not come back."""

_TCP_COLUMN = np.dtype(_OF_TRAFFIC).itemsize // 8
_COMPARISON_COLUMN = np.dtype(_OF_TRAFFIC + _OF_TCP).itemsize // 8
_WIDTH = COUNTS.itemsize // 8
_TOTAL, _OFFERED, _REPORTED = range(3)


class RowTable:
    """Exact modulo 2^64. Each drain is a turn: turn(), then add() as often as needed, then sections() and shown().

    At any time rows + other + left = all that was added; `other` is the first row, and is always there.
    """

    def __init__(self, max_rows: int, now_mono_ns: int, now_unix_ns: int) -> None:
        """`max_rows`: beside `other`."""
        self.max_rows = max_rows
        self.turned_away = 0
        """Groups of flows that went to `other`."""
        self.came: Records = np.zeros(len(Placed), COUNTS)
        """All that was added, by model.Placed."""
        self.left: Records = np.zeros(1, COUNTS)
        """The totals of the rows that have left."""
        self._number = 0  # of this turn
        self._seen: int | None = None
        self._labels: list[Labels] = []
        self._texts: list[str] = []  # the labels as the checkpoint has them
        self._slots: dict[Labels, int] = {}
        self._rows: Records = np.zeros(0, ROW)
        self._counts = np.zeros((0, 3, _WIDTH), np.uint64)
        self._gone: dict[Labels, tuple[int, int]] = {}  # the turn in which it left, and when
        self._labeller = Labeller()
        self._admit([OTHER], now_mono_ns, now_unix_ns)

    @classmethod
    def restore(cls, sections: Mapping[str, Any], max_rows: int) -> Self:
        """The table that gave `sections()`, also where that was of an older layout. LookupError, TypeError, ValueError.

        Where `max_rows` is fewer than there are, those stay until they are idle.
        """
        table = cls(max_rows, 0, 0)
        table._rows = convert(sections["rows"], ROW).copy()
        table._counts = _matrix(convert(sections["row_counts"], COUNTS)).copy()
        labels = [_labels(each) for each in json.loads(sections["row_labels"].tobytes())]
        if not len(labels) == len(table._rows) == len(table._counts) or labels[:1] != [OTHER]:
            raise ValueError("the rows and their labels do not belong together")
        table._name(labels)
        sums = convert(sections["row_sums"], COUNTS)
        table.left, table.came[: len(sums) - 1] = sums[:1].copy(), sums[1:]
        book = sections["row_book"]
        table._number, table.turned_away = book["number"], book["turned_away"]
        table._gone = {_labels(each): (number, mono_ns) for each, number, mono_ns in book["gone"]}
        return table

    def sections(self) -> dict[str, Any]:
        """A copy of everything, for a checkpoint."""
        texts = f"[{','.join(self._texts)}]".encode()
        return {
            "rows": self._rows.copy(),
            "row_counts": self._counts.copy().view(COUNTS)[..., 0],
            "row_labels": np.frombuffer(texts, [("byte", "u1")]),
            "row_sums": np.concatenate([self.left, self.came]),
            "row_book": {
                "number": self._number,
                "turned_away": self.turned_away,
                "gone": [[labels, *when] for labels, when in self._gone.items()],
            },
        }

    def __len__(self) -> int:
        """Without `other`."""
        return len(self._labels) - 1

    def turn(self, now_mono_ns: int, seen: int | None) -> int:
        """Begin a drain: show what was held, let idle rows leave; how many left.

        `seen`: the turn that everybody who looks has seen (core.pull.Scrapers.seen); None: nobody looks.
        """
        self._number += 1
        self._seen = seen
        rows = self._rows
        free: NDArray[np.bool_] = now_mono_ns - rows["born_mono_ns"] >= HOLD_NS
        if seen is not None:
            free |= rows["birth"] <= seen
        free &= rows["held"] != 0
        rows["held"][free] = 0
        rows["changed"][free] = self._number
        self._gone = {labels: when for labels, when in self._gone.items() if not self._may_return(when, now_mono_ns)}
        idle = (now_mono_ns - rows["last_mono_ns"] >= IDLE_NS) & (rows["held"] == 0)
        if seen is not None:
            idle &= rows["changed"] <= seen
        idle &= (self._counts[:, _TOTAL] == self._counts[:, _REPORTED]).all(axis=1)
        idle[0] = False
        return self._drop(idle, now_mono_ns)

    def add(self, ends: Records, counts: Records, world: World, now_mono_ns: int, now_unix_ns: int) -> None:
        """Enter core.correlate.ENDS (n,) and records (n,) with any of COUNTS' fields, as core.table.REPORT has.

        Packets and bytes are entered where the row is ours (Placed.ROW), what is told of TCP connections where the flow
        `tells_tcp`. What was lost, compared or not compared is entered wherever the flow is in some row: whoever
        compared tells of it.
        """
        columns = _columns(counts)
        for column, values in columns.items():
            np.add.at(_matrix(self.came)[:, column], ends["placed"], values)
        highest = Placed.ELSEWHERE if any(column >= _TCP_COLUMN for column in columns) else Placed.ROW
        chosen = np.flatnonzero(ends["placed"] <= highest)
        if not len(chosen) or not columns:
            return
        ends = ends[chosen]
        elsewhere, silent = ends["placed"] == Placed.ELSEWHERE, ends["tells_tcp"] == 0
        groups = self._labeller.group(ends, world)
        sums = np.zeros((len(groups.labels), _WIDTH), np.uint64)
        for column, values in columns.items():
            ours = values[chosen]
            if column < _TCP_COLUMN:
                ours[elsewhere] = 0
            elif column < _COMPARISON_COLUMN:
                ours[silent] = 0
            sums[:, column] = groups.sums(ours)
        some = np.flatnonzero(sums.any(axis=1))
        sums = sums[some]
        slots = self._slots_of([groups.labels[i] for i in some.tolist()], sums, now_mono_ns, now_unix_ns)
        for column in columns:
            np.add.at(self._counts[:, _TOTAL, column], slots, sums[:, column])
        for name in ("role_by", "joined_by", "near_by"):
            np.maximum.at(self._rows[name], slots, groups.largest(ends[name])[some])
        self._rows["last_mono_ns"][slots] = now_mono_ns
        self._rows["changed"][slots] = self._number

    def offer(self) -> int:
        """Put everything unreported into a report, until confirm(); how many rows it has."""
        self._counts[:, _OFFERED] = self._counts[:, _TOTAL]
        return len(self._outstanding())

    def offered(self, sequence: int) -> Edges:
        """The report under way: the same rows in the same order with the same counts until confirm()."""
        changed = self._outstanding()
        counts = self._counts[changed, _OFFERED] - self._counts[changed, _REPORTED]
        return self._edges(changed, counts, sequence=sequence)

    def confirm(self) -> None:
        """The report under way has arrived."""
        self._counts[:, _REPORTED] = self._counts[:, _OFFERED]

    def totals(self) -> Edges:
        """Every row since it began, `other` first."""
        everything = np.arange(len(self._rows))
        since = self._rows["born_unix_ns"].copy()
        return self._edges(everything, self._counts[:, _TOTAL].copy(), since_unix_ns=since)

    def shown(self) -> tuple[int, Edges]:
        """The number of this turn, and totals() with what is held at 0: for who pulls, once it is in a checkpoint."""
        edges = self.totals()
        edges.counts[self._rows["held"] != 0] = 0
        return self._number, edges

    def _edges(self, slots: NDArray[np.intp], counts: NDArray[np.uint64], **rest: Any) -> Edges:
        rows = self._rows[slots]
        return Edges(
            [self._labels[slot] for slot in slots.tolist()],
            counts.view(COUNTS)[:, 0],
            rows["role_by"],
            rows["joined_by"],
            rows["near_by"],
            **rest,
        )

    def _outstanding(self) -> NDArray[np.intp]:
        return np.flatnonzero((self._counts[:, _OFFERED] != self._counts[:, _REPORTED]).any(axis=1))

    def _slots_of(
        self, labels_of: Sequence[Labels], sums: NDArray[np.uint64], now_mono_ns: int, now_unix_ns: int
    ) -> NDArray[np.intp]:
        """The row of each group; the first, `other`, where it gets none."""
        known = self._slots
        fresh: dict[Labels, int] = {}
        for labels, size in zip(labels_of, sums[:, 1].tolist(), strict=True):
            if labels not in known and labels not in self._gone:
                fresh[labels] = fresh.get(labels, 0) + size
        room = max(0, self.max_rows - len(self))
        self._admit(sorted(fresh, key=lambda labels: (-fresh[labels], labels))[:room], now_mono_ns, now_unix_ns)
        slots = np.array([known.get(labels, 0) for labels in labels_of], np.intp)
        self.turned_away += int(np.count_nonzero(slots == 0))
        return slots

    def _admit(self, labels: Sequence[Labels], now_mono_ns: int, now_unix_ns: int) -> None:
        if not labels:
            return
        rows = np.zeros(len(labels), ROW)
        rows["born_mono_ns"] = rows["last_mono_ns"] = now_mono_ns
        rows["born_unix_ns"] = now_unix_ns
        rows["birth"] = rows["changed"] = self._number
        rows["held"] = 1
        self._rows = np.concatenate([self._rows, rows])
        self._counts = np.concatenate([self._counts, np.zeros((len(labels), 3, _WIDTH), np.uint64)])
        self._name([*self._labels, *labels])

    def _name(self, labels: list[Labels]) -> None:
        self._texts += [json.dumps(each) for each in labels[len(self._texts) :]]
        self._slots.update((labels[slot], slot) for slot in range(len(self._labels), len(labels)))
        self._labels = labels

    def _may_return(self, when: tuple[int, int], now_mono_ns: int) -> bool:
        """Everybody who looks has seen it gone."""
        number, mono_ns = when
        return (self._seen is not None and number <= self._seen) or now_mono_ns - mono_ns >= HOLD_NS

    def _drop(self, leaving: NDArray[np.bool_], now_mono_ns: int) -> int:
        slots = np.flatnonzero(leaving)
        if len(slots):
            _matrix(self.left)[0] += self._counts[slots, _TOTAL].sum(0, np.uint64)
            self._gone |= {self._labels[slot]: (self._number, now_mono_ns) for slot in slots.tolist()}
            kept = np.flatnonzero(~leaving)
            self._rows, self._counts = self._rows[kept], self._counts[kept]
            self._texts = [self._texts[slot] for slot in kept.tolist()]
            labels, self._labels, self._slots = [self._labels[slot] for slot in kept.tolist()], [], {}
            self._name(labels)
        return len(slots)


def _columns(counts: Records) -> dict[int, NDArray[np.uint64]]:
    """Of records with any of COUNTS' fields, what is not 0 throughout, by its place in COUNTS."""
    columns, place = {}, 0
    for name in COUNTS.names or ():
        width = int(np.prod(COUNTS[name].shape, dtype=np.intp))
        if name in (counts.dtype.names or ()):
            for part, column in enumerate(counts[name].reshape(len(counts), width).T):
                values = np.ascontiguousarray(column, np.uint64)
                if values.any():
                    columns[place + part] = values
        place += width
    return columns


def _matrix(counts: Records) -> NDArray[np.uint64]:
    """COUNTS (n, ...) -> (n, ..., columns), the same memory where it is contiguous."""
    whole = np.ascontiguousarray(counts)
    return whole.view(np.uint64).reshape(*counts.shape, _WIDTH)


def _labels(values: Iterable[Any]) -> Labels:
    """What JSON made of them."""
    labels = Labels(*values)
    return labels._replace(direction=Role(labels.direction), locality=Locality(labels.locality))
