"""Connections that the kernel translates, and which one a flow belongs to.

A tuple has a life from a connection's beginning to its end, and another one when a client uses its port again. A flow
belongs to the life that covers it, whichever form of the tuple was seen: as the client sends it, as the server
receives it, or the replies of either.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from podwire_agent.model import TUPLE, Records

Words = NDArray[np.uint64]
"""Shape (n, TUPLE_WORDS): a TUPLE a row."""

Hashes = NDArray[np.uint64]
Places = NDArray[np.uint32]
"""Twice a life's number, and one more for its translated tuple."""
Flags = NDArray[np.bool_]
Indexes = NDArray[np.intp]

TupleHash = Callable[[Words], Hashes]
"""A tuple's hash; the one of its replies is the same."""

LIFE = np.dtype(
    [
        ("original", TUPLE),
        ("translated", TUPLE),
        ("start_mono_ns", "u8"),
        ("zone", "u2"),
        ("zero", "u1", (6,)),
    ]
)
"""A translated connection, and the time before which it certainly had not begun (0: nobody saw it begin)."""

ONGOING_NS = 1 << 63
"""The end of a life that goes on."""

SLACK_NS = 50_000_000
"""By how much a flow may lie outside of a life: the program's clock may lag by a tick, 10 ms, and packets wait."""

BLOCK = 8192
"""Tuples looked up at once: what they need in between stays in the processor's caches."""

WALK = 64
"""Lives of one tuple that are looked at, the latest first. What would take more is not found."""

TUPLE_WORDS = TUPLE.itemsize // 8
_LIFE_WORDS = LIFE.itemsize // 8
_START, _ZONE = _LIFE_WORDS - 2, _LIFE_WORDS - 1
_PORTS = 8
"""Where a TUPLE's ports are, among its 32-bit words."""

_SHIFT = np.uint64(32)

FORMS = ORIGINAL, TRANSLATED = np.uint32(0), np.uint32(1)
_FORM_BIT = np.uint32(1)

NONE, SEVERAL = -1, -2
"""Instead of a life: none covers it; lives of different translation do."""


def keyed_hash(seed: int) -> TupleHash:
    """Multiplications by secret factors; whoever does not know the seed cannot choose tuples that collide."""
    draw = random.Random(seed)
    factors = [np.uint64(draw.getrandbits(64) | 1) for _ in range(6)]

    def mix(values: Hashes, factor: np.uint64) -> Hashes:
        values *= factor
        values ^= values >> _SHIFT
        return values

    def end(high: Hashes, low: Hashes, port: Hashes) -> Hashes:
        values = mix(high ^ factors[0], factors[1])
        values ^= low
        values = mix(values, factors[2])
        values ^= port
        return mix(values, factors[3])

    def hash_(words: Words) -> Hashes:
        ports = np.ascontiguousarray(words[:, -1])
        halves = ports.view(np.uint16).reshape(-1, 4)
        sources = end(words[:, 0], words[:, 1], halves[:, 0].astype(np.uint64))
        destinations = end(words[:, 2], words[:, 3], halves[:, 1].astype(np.uint64))
        values = mix(np.minimum(sources, destinations), factors[4])
        values ^= np.maximum(sources, destinations)
        values += halves[:, 2]
        return mix(values, factors[5])

    return hash_


def words_of(tuples: Records) -> Words:
    """TUPLE (n,) as words; a view where they are contiguous.

    np.concatenate and np.where turn ports to the host's byte order: they are turned back.
    """
    tuples = tuples if tuples.dtype == TUPLE else tuples.astype(TUPLE)
    return np.ascontiguousarray(tuples).view(np.uint64).reshape(len(tuples), TUPLE_WORDS)


def nearly_sorting(hashes: Hashes) -> Indexes:
    """An order by the upper 16 bits, a tenth of a sort's time: neighbours are searched for in memory just read."""
    return np.argsort((hashes >> np.uint64(48)).astype(np.uint16), kind="stable")


@dataclass(frozen=True, slots=True, eq=False)
class Index:
    """Lives by the hashes of their tuples, two places for each life.

    Those with the same hash are in the order in which they began, of each form by itself.
    """

    hashes: Hashes
    """Sorted."""
    places: Places
    repeated: Flags
    """Whether the one before has the same hash."""

    @classmethod
    def of(cls, hashes: Hashes, places: Places) -> Self:
        """`hashes`: sorted."""
        repeated = np.zeros(len(hashes), np.bool_)
        np.equal(hashes[1:], hashes[:-1], out=repeated[1:])
        return cls(hashes, places, repeated)

    @classmethod
    def empty(cls) -> Self:
        """Of no life."""
        return cls.of(np.zeros(0, np.uint64), np.zeros(0, np.uint32))

    def added(self, original: Hashes, translated: Hashes, first_slot: int) -> Self:
        """With lives that began later than all before."""
        hashes = np.concatenate([original, translated])
        slots = np.arange(first_slot, first_slot + len(original), dtype=np.uint32)
        places = np.concatenate([slots << _FORM_BIT | form for form in FORMS])
        order = np.argsort(hashes, kind="stable")
        at = np.searchsorted(self.hashes, hashes[order], side="right")
        return self.of(np.insert(self.hashes, at, hashes[order]), np.insert(self.places, at, places[order]))

    def kept(self, kept: Flags) -> Self:
        """Without the lives that are not `kept`; the others are numbered anew."""
        numbers = (np.cumsum(kept) - 1).astype(np.uint32)
        slots = self.places >> _FORM_BIT
        here = kept[slots]
        places = numbers[slots[here]] << _FORM_BIT | self.places[here] & _FORM_BIT
        return self.of(self.hashes[here], places)

    def last(self, hashes: Hashes) -> Indexes:
        """For each hash the last position that has it; -1: none."""
        positions = np.full(len(hashes), NONE, np.intp)
        if not len(self.hashes):
            return positions
        order = nearly_sorting(hashes)
        positions[order] = np.searchsorted(self.hashes, hashes[order], side="right") - 1
        positions[self.hashes[positions] != hashes] = NONE
        return positions

    def look(self, positions: Indexes, form: np.uint32) -> tuple[Indexes, Flags]:
        """The lives there, and whether they are there in that form."""
        places = self.places[positions]
        return (places >> _FORM_BIT).astype(np.intp), places & _FORM_BIT == form


@dataclass(frozen=True, slots=True, eq=False)
class Translated:
    """What became of each tuple that was asked for; all of shape (n,)."""

    found: Flags
    """One translated connection covers it."""
    is_reply: Flags
    """It runs from the server to the client."""
    original: Records
    """TUPLE, client to server, as the client sends it: to a service's address. Where nothing was found, as asked."""
    translated: Records
    """TUPLE, client to server, as the server receives it: from a masqueraded client. Else as asked."""
    dnat: Flags
    """The server's address or port is another."""
    snat: Flags
    """The client's address or port is another."""


class Translations:
    """All lives known at one moment. Immutable; two threads may ask at once."""

    def __init__(
        self,
        lives: Records,
        ends_mono_ns: NDArray[np.uint64],
        index: Index,
        tuple_hash: TupleHash,
    ) -> None:
        """`lives`: LIFE, in the order in which they began."""
        self._rows = lives.view(np.uint64).reshape(len(lives), _LIFE_WORDS)
        self._ends = ends_mono_ns
        self._index = index
        self._hash = tuple_hash

    @classmethod
    def none(cls) -> Self:
        """Where the kernel translates nothing, or cannot be asked."""
        return cls(np.zeros(0, LIFE), np.zeros(0, np.uint64), Index.empty(), keyed_hash(0))

    def __len__(self) -> int:
        return len(self._rows)

    def of(self, tuples: Records, first_mono_ns: NDArray[np.uint64], last_mono_ns: NDArray[np.uint64]) -> Translated:
        """TUPLE as seen, and the times of the first and the last packet: all of shape (n,)."""
        words = words_of(tuples)
        original, translated = words.copy(), words.copy()
        found, is_reply, dnat, snat = (np.zeros(len(words), np.bool_) for _ in range(4))
        for begin in range(0, len(words) if len(self._rows) else 0, BLOCK):
            block = slice(begin, begin + BLOCK)
            slots, replies = self._covering(words[block], first_mono_ns[block], last_mono_ns[block])
            at = np.flatnonzero(slots >= 0)
            if not len(at):
                continue
            rows = self._rows.take(slots[at], axis=0)
            before, after = rows[:, :TUPLE_WORDS], rows[:, TUPLE_WORDS : 2 * TUPLE_WORDS]
            ports = (before[:, -1] ^ after[:, -1]).view(np.uint16).reshape(-1, 4)
            original[block][at], translated[block][at] = before, after
            found[block][at], is_reply[block][at] = True, replies[at]
            snat[block][at] = (before[:, 0] != after[:, 0]) | (before[:, 1] != after[:, 1]) | (ports[:, 0] != 0)
            dnat[block][at] = (before[:, 2] != after[:, 2]) | (before[:, 3] != after[:, 3]) | (ports[:, 1] != 0)
        return Translated(found, is_reply, _tuples(original), _tuples(translated), dnat, snat)

    def _covering(self, words: Words, first: NDArray[np.uint64], last: NDArray[np.uint64]) -> tuple[Indexes, Flags]:
        """The life that covers each, NONE or SEVERAL, and whether it is its reply."""
        slots, is_reply = np.full(len(words), NONE, np.intp), np.zeros(len(words), np.bool_)
        positions = self._index.last(self._hash(words))
        there = np.flatnonzero(positions >= 0)
        _, originals = self._index.look(positions[there], ORIGINAL)
        more = self._index.repeated[positions[there]]
        for form, of_form in ((ORIGINAL, originals), (TRANSLATED, ~originals)):
            asked = there[of_form | more]
            if not len(asked):
                continue
            tuples = words.take(asked, axis=0)  # several times faster than words[asked]
            walk = _Walk(self._rows, self._ends, self._index, form, tuples, first[asked], last[asked])
            chosen = walk.run(positions[asked])
            twice = np.flatnonzero((chosen >= 0) & (slots[asked] >= 0))
            if len(twice):  # a service's address that is also some service's backend
                differ = ~_same_translation(self._rows, chosen[twice], slots[asked[twice]])
                chosen[twice[differ]] = SEVERAL
            told = np.flatnonzero((chosen != NONE) & (slots[asked] != SEVERAL))
            slots[asked[told]] = chosen[told]
            is_reply[asked[told]] = walk.is_reply[told]
        return slots, is_reply


class _Walk:
    """Through the lives of each tuple asked for, in one form, from the latest to the one in which the flow began."""

    def __init__(
        self,
        rows: Words,
        ends: NDArray[np.uint64],
        index: Index,
        form: np.uint32,
        words: Words,
        first: NDArray[np.uint64],
        last: NDArray[np.uint64],
    ) -> None:
        self._rows, self._ends, self._index, self._form = rows, ends, index, form
        self._column = int(form) * TUPLE_WORDS
        self._words, self._reply = words, _reversed(words)
        self._first, self._last = first, last
        self._until, self._from = last + np.uint64(SLACK_NS), first + np.uint64(SLACK_NS)

    def run(self, positions: Indexes) -> Indexes:
        """From these positions of the index on: the life of each, NONE, or SEVERAL."""
        self._begin(*self._index.look(positions, self._form))
        asked = np.arange(len(positions))
        for _ in range(WALK - 1):
            goes_on = np.flatnonzero(self._index.repeated[positions])
            if not len(goes_on):
                break
            asked, positions = asked[goes_on], positions[goes_on] - 1
            self._look(asked, *self._index.look(positions, self._form))
        within = self._covered & (self._last <= self._ends[self._latest] + np.uint64(SLACK_NS))
        within &= self._first <= self._ends[self._earliest] + np.uint64(SLACK_NS)
        found = np.where(within, self._latest, NONE)
        found[within & self._several] = SEVERAL
        return found

    def _begin(self, slots: Indexes, of_form: Flags) -> None:
        """As _look, for all: nearly every tuple has one life only."""
        rows = self._rows.take(slots, axis=0)
        tuples, starts = rows[:, self._column : self._column + TUPLE_WORDS], rows[:, _START]
        forth = _equal(tuples, self._words)
        self.is_reply = _equal(tuples, self._reply) & ~forth
        here = of_form & (forth | self.is_reply) & (starts <= self._until)
        self._latest = np.where(here, slots, NONE)
        self._earliest = self._latest.copy()
        self._covered = here & (starts <= self._from)
        self._several = np.zeros(len(slots), np.bool_)

    def _look(self, asked: Indexes, slots: Indexes, of_form: Flags) -> None:
        rows = self._rows.take(slots, axis=0)
        tuples, starts = rows[:, self._column : self._column + TUPLE_WORDS], rows[:, _START]
        forth = _equal(tuples, self._words.take(asked, axis=0))
        back = _equal(tuples, self._reply.take(asked, axis=0)) & ~forth
        here = np.flatnonzero(of_form & (forth | back) & (starts <= self._until[asked]))
        asked, slots, starts, back = asked[here], slots[here], starts[here], back[here]
        new = self._latest[asked] == NONE
        self._latest[asked[new]] = slots[new]
        self.is_reply[asked[new]] = back[new]
        self._compare(asked[~new], slots[~new])
        reached = ~self._covered[asked]
        self._earliest[asked[reached]] = slots[reached]
        self._covered[asked] |= starts <= self._from[asked]

    def _compare(self, asked: Indexes, slots: Indexes) -> None:
        """Earlier lives, with the latest of each: up to the one in which the flow began, and those that it may have
        begun in as well. That is one of another zone, one that began in the same moment as far as is known, and where
        the flow began by a clock's error too early any.
        """
        latest, earliest = self._latest[asked], self._earliest[asked]
        starts, first = self._rows[earliest, _START], self._first[asked]
        beside = (self._rows[slots, _ZONE] != self._rows[latest, _ZONE]) | (self._rows[slots, _START] >= starts)
        beside |= first < starts
        beside &= self._ends[slots] >= first
        concerned = np.flatnonzero(beside | ~self._covered[asked])
        differ = ~_same_translation(self._rows, slots[concerned], latest[concerned])
        self._several[asked[concerned[differ]]] = True


def _equal(some: Words, others: Words) -> Flags:
    """Row by row."""
    equal: Flags = some[:, 0] == others[:, 0]
    for column in range(1, TUPLE_WORDS):
        equal &= some[:, column] == others[:, column]
    return equal


def _same_translation(rows: Words, some: Indexes, others: Indexes) -> Flags:
    same: Flags = (rows[some, : 2 * TUPLE_WORDS] == rows[others, : 2 * TUPLE_WORDS]).all(axis=1)
    return same


def _reversed(words: Words) -> Words:
    """From the destination to the source."""
    turned = np.empty_like(words)
    turned[:, 0:2], turned[:, 2:4], turned[:, 4] = words[:, 2:4], words[:, 0:2], words[:, 4]
    ports, turned_ports = words.view(np.uint32)[:, _PORTS], turned.view(np.uint32)[:, _PORTS]
    turned_ports[:] = (ports << np.uint32(16)) | (ports >> np.uint32(16))
    return turned


def _tuples(words: Words) -> Records:
    tuples: Records = words.view(TUPLE).reshape(len(words))
    return tuples
