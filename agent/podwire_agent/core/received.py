"""The destination's side of the comparison: what arrived here, what was said to have been sent, and the difference.

lost = max(lost, S - D) since a base that both ends share (core/bases.py). D is of a cut that came so much later than S
that everything sent had arrived: packets still on their way can make the difference too small, never too large. For a
flow in a pause it is exact. A statement is kept until there is such a cut.

What the source says it has handed over is accounted for here, as compared or uncompared, once: the row remembers how
much of it was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from podwire_agent.core.bases import NO_TIME, Counts, Ends, Mask, Times
from podwire_agent.core.judging import BROKEN, COMPARABLE, judge
from podwire_agent.core.keyed import NOWHERE, KeyedRows, Slots, joined, raw
from podwire_agent.core.notes import NOTE, notes_of
from podwire_agent.core.surroundings import DESTINATION_IDLE_NS, LOSS, PAUSE_NS, SOURCE_IDLE_NS, UNSETTLED_NS, InForce
from podwire_agent.core.watched import Span, Watched
from podwire_agent.layout import FLOW_KEY, FlowDirection
from podwire_agent.model import Records, UncomparedReason
from podwire_agent.statements import SETTLED, WIRE, Envelope, Status, Statuses

RECEIVED = np.dtype(
    [
        ("wire", WIRE),
        ("ifindex", "u4"),
        ("key", FLOW_KEY),
        ("packets", "u8"),
        ("first_mono_ns", "u8"),
        ("last_mono_ns", "u8"),
        ("gap_packets", "u8"),
        ("gap_from_mono_ns", "u8"),
        ("gap_to_mono_ns", "u8"),
        ("rest_packets", "u8"),
        ("rest_from_mono_ns", "u8"),
        ("rest_to_mono_ns", "u8"),
    ]
)
"""A flow that arrives here; `gap`: its last silence of half a PAUSE_NS or more, as STATEMENT has it of the source's;
`rest`: its last one of half of SOURCE_IDLE_NS or more, after which the source may begin a new incarnation. The tuple
and the interface identify it."""

HELD = np.dtype(
    [
        ("wire", WIRE),
        ("first_mono_ns", "u8"),
        ("ifindex", "u4"),
        ("state", "u1"),
        ("reason", "u1"),
        ("zero", "u1", (2,)),
        ("cut_mono_ns", "u8"),
        ("heard_mono_ns", "u8"),
        ("changed", "u8"),
        ("packets", "u8"),
        ("uncompared", "u8"),
        ("told", "u8"),
        ("settled", "u8"),
        ("accounted", "u8"),
        ("compared", "u8"),
        ("lost", "u8"),
        ("lost_before", "u8"),
        ("base_packets", "u8"),
        ("base_received", "u8"),
        ("base_mono_ns", "i8"),
        ("checked_mono_ns", "i8"),
    ]
)
"""An incarnation of a flow that a source made statements of. state: judging.UNJUDGED and the others; packets: the
newest statement that was compared; told: handed over; settled: of these, the source knows that they are accounted for;
accounted: counted here; base_*: where the comparison begins, lost_before what was found lost until then; cut: the
newest statement's, by the source's clock; changed: the drain that last changed it; checked: when it was last compared.
The tuple and the first packet's time identify it."""

CHUNK = 8192
"""Flows that are compared at once: each needs a kilobyte meanwhile."""

HELD_WORDS = (WIRE.itemsize + 8) // 4
RECEIVED_WORDS = (WIRE.itemsize + 4) // 4


class Received:
    """Of one monitor: at most `limit` flows that arrive, and as many that statements were made of."""

    def __init__(self, limit: int, seed: int) -> None:
        self.flows = KeyedRows(RECEIVED, RECEIVED_WORDS, limit, seed)
        self.held = KeyedRows(HELD, HELD_WORDS, limit, seed)
        self.forgotten_mono_ns = 0
        """Packets of flows that were forgotten came before this."""
        self.cut_mono_ns = NO_TIME
        """All that arrived before this is in `flows`."""
        self.drain = 1
        """The one that is to come."""
        self.saved_drain = 0
        """The last one that is in a checkpoint."""
        self.dropped_statements = 0
        """For want of room; they are made again."""
        self._notes: list[Records] = []

    def restore(self, flows: Records, held: Records, account: Mapping[str, int]) -> None:
        """As a checkpoint has them, with `account()`."""
        self.flows.replace(flows)
        self.held.replace(held)
        self.forgotten_mono_ns, self.cut_mono_ns = account["forgotten"], account["cut"]
        self.drain = account["drain"] + 1
        self.saved_drain = account["drain"]

    def account(self) -> dict[str, int]:
        """What a checkpoint holds beside the tables."""
        return {"forgotten": self.forgotten_mono_ns, "cut": self.cut_mono_ns, "drain": self.drain - 1}

    def fold(self, keys: Records, stats: Records, wires: Records) -> None:
        """Enter flows of an epoch."""
        slots, fresh = self.flows.ensure(_identities(wires, keys["ifindex"]))
        rows = self.flows.rows
        rows["first_mono_ns"][fresh] = np.iinfo(np.uint64).max
        kept = slots != NOWHERE
        if not kept.all():
            self.forgotten_mono_ns = max(self.forgotten_mono_ns, int(stats["last_mono_ns"][~kept].max()))
            slots, stats, keys = slots[kept], stats[kept], keys[kept]
        first = np.full(len(rows), np.iinfo(np.uint64).max, np.uint64)
        np.minimum.at(first, slots, stats["first_mono_ns"])
        touched = np.unique(slots)
        last = rows["last_mono_ns"][touched]
        for name, least_ns in (("gap", PAUSE_NS // 2), ("rest", SOURCE_IDLE_NS // 2)):
            at = touched[(last > 0) & (first[touched] >= last + np.uint64(least_ns))]
            rows[f"{name}_packets"][at] = rows["packets"][at]
            rows[f"{name}_from_mono_ns"][at] = rows["last_mono_ns"][at]
            rows[f"{name}_to_mono_ns"][at] = first[at]
        rows["first_mono_ns"][touched] = np.minimum(rows["first_mono_ns"][touched], first[touched])
        np.maximum.at(rows["last_mono_ns"], slots, stats["last_mono_ns"])
        np.add.at(rows["packets"], slots, stats["packets"])
        raw(rows["key"])[slots] = raw(keys)

    def take(self, envelope: Envelope, records: Records, watched: Watched, now_mono_ns: int) -> Statuses:
        """Statements of one source: keep what is needed, and say what becomes of each."""
        words = self.held.words_of(records)
        slots = self.held.find(words)
        ifindexes = watched.behind(records["wire"]["dst_address"])
        fresh_enough = records["first_mono_ns"].astype(np.int64) + envelope.offset_ns > (
            watched.looked_mono_ns - PAUSE_NS
        )
        statuses = np.full(len(records), Status.TAKEN, np.uint8)
        nobody = ifindexes == 0
        statuses[nobody] = Status.UNWATCHED
        statuses[nobody & fresh_enough] = Status.LATER
        wanted = np.flatnonzero((slots == NOWHERE) & (statuses == Status.TAKEN))
        made, fresh = self.held.ensure(words[wanted])
        slots[wanted] = made
        statuses[wanted[made == NOWHERE]] = Status.OVERFLOW
        known = np.flatnonzero(slots != NOWHERE)
        _, leaders = np.unique(slots[known], return_index=True)
        repeated = np.ones(len(known), np.bool_)
        repeated[leaders] = False
        statuses[known[repeated]] = Status.AMBIGUOUS
        known = known[~repeated]
        self._begin(fresh, wanted, made, records)
        self._note(slots[known], records[known], ifindexes[known], envelope, now_mono_ns)
        statuses[self._settled(slots, records, statuses)] |= SETTLED
        return statuses

    def hand_over(self, records: Records) -> None:
        """What `take` has taken is handed over: said of flows whose source is here."""
        slots = self.held.find(self.held.words_of(records))
        known = slots != NOWHERE
        rows = self.held.rows
        rows["told"][slots[known]] = np.maximum(rows["told"][slots[known]], records["handed"][known])

    def settle(self, watched: Watched, rules: Sequence[InForce], now_mono_ns: int) -> Records:
        """Compare what can be; LOSS."""
        if not self._notes:
            self.drain += 1
            return np.empty(0, LOSS)
        notes = joined(self._notes, NOTE)
        due = notes["due_mono_ns"] <= self.cut_mono_ns
        kept = notes[~due][-self.held.limit :]
        self.dropped_statements += int(np.count_nonzero(~due)) - len(kept)
        self._notes = [kept] if len(kept) else []
        newest_first = np.flatnonzero(due)[::-1]
        slots, first = np.unique(self.held.find(self.held.words_of(notes)[newest_first]), return_index=True)
        newest = newest_first[first]  # it stands for the others
        said = (slots != NOWHERE) & (notes["packets"][newest] >= self.held.rows["packets"][slots])
        slots, newest = slots[said], newest[said]
        parts = []
        for begin in range(0, len(slots), CHUNK):
            part = slice(begin, begin + CHUNK)
            parts.append(self._compare(slots[part], raw(notes)[newest[part]].view(NOTE), watched, rules, now_mono_ns))
        self.drain += 1
        return joined(parts, LOSS)

    def saved(self) -> None:
        """All but what was taken since the last `settle` is in a checkpoint."""
        self.saved_drain = self.drain - 1

    def forget(self, now_mono_ns: int) -> None:
        """Drop what no source asks about any more, and flows that are idle and that nobody asked about."""
        before = max(0, now_mono_ns - DESTINATION_IDLE_NS)
        self._forget_held(before, now_mono_ns)
        rows = self.flows.rows
        old = rows["last_mono_ns"] < before
        excess = len(rows) - self.flows.limit * 7 // 8
        if not old.any() and excess <= 0:
            return
        asked = self.flows.find(_identities(self.held.rows["wire"], self.held.rows["ifindex"]))
        free = np.ones(len(rows), np.bool_)
        free[asked[asked != NOWHERE]] = False
        old &= free
        if excess > 0:
            candidates = np.flatnonzero(free)
            oldest_first = candidates[np.argsort(rows["last_mono_ns"][candidates], kind="stable")]
            old[oldest_first[:excess]] = True
        if old.any():
            self.forgotten_mono_ns = max(self.forgotten_mono_ns, int(rows["last_mono_ns"][old].max()))
            self.flows.drop(old)

    def _forget_held(self, quiet_before: int, now_mono_ns: int) -> None:
        rows = self.held.rows
        agreed = (rows["settled"] == rows["accounted"]) & (
            _less(rows["packets"], rows["uncompared"]) == rows["settled"]
        )
        quiet = rows["heard_mono_ns"] < quiet_before
        dropped = quiet & (agreed | (rows["heard_mono_ns"] < max(0, now_mono_ns - UNSETTLED_NS)))
        excess = len(rows) - int(np.count_nonzero(dropped)) - self.held.limit * 7 // 8
        if excess > 0:
            candidates = np.flatnonzero(quiet & ~dropped)
            dropped[candidates[np.argsort(rows["heard_mono_ns"][candidates], kind="stable")[:excess]]] = True
        if (dropped & ~agreed).any():
            self.forgotten_mono_ns = max(self.forgotten_mono_ns, now_mono_ns)  # of none of them the start is known
        self.held.drop(dropped)

    def _begin(self, fresh: Slots, wanted: Slots, made: Slots, records: Records) -> None:
        """New rows: of what was handed over, that is accounted for which the source knows to be."""
        _, first = np.unique(made[made != NOWHERE], return_index=True)
        settled = records["settled"][wanted[made != NOWHERE][first]]
        rows = self.held.rows
        rows["accounted"][fresh] = rows["told"][fresh] = settled
        # A row that was forgotten: what it said of the time before must not be said again.
        again = fresh[settled > 0]
        rows["state"][again], rows["reason"][again] = BROKEN, UncomparedReason.NO_START
        rows["base_mono_ns"][fresh] = NO_TIME
        rows["changed"][fresh] = self.drain

    def _note(
        self, slots: Slots, records: Records, ifindexes: NDArray[np.uint32], envelope: Envelope, now_mono_ns: int
    ) -> None:
        rows = self.held.rows
        for name, said in (("told", "handed"), ("settled", "settled")):
            rows[name][slots] = np.maximum(rows[name][slots], records[said])
        newer = envelope.cut_mono_ns >= rows["cut_mono_ns"][slots]
        at = slots[newer]
        rows["cut_mono_ns"][at] = envelope.cut_mono_ns
        rows["uncompared"][at] = np.maximum(rows["uncompared"][at], records["uncompared"][newer])
        rows["heard_mono_ns"][slots] = now_mono_ns
        moved = (ifindexes > 0) & (rows["ifindex"][slots] != ifindexes)
        elsewhere = slots[moved & (rows["ifindex"][slots] > 0)]
        rows["state"][elsewhere], rows["reason"][elsewhere] = BROKEN, UncomparedReason.NO_START
        rows["ifindex"][slots[moved]] = ifindexes[moved]
        if len(slots):
            self._notes.append(notes_of(records, envelope))

    def _settled(self, slots: Slots, records: Records, statuses: Statuses) -> Mask:
        """Whether all that was said is in a checkpoint of ours; a row that is not there has nothing to be said of."""
        settled: Mask = (slots == NOWHERE) & (statuses != Status.LATER)
        known = np.flatnonzero(slots != NOWHERE)
        rows = self.held.rows[slots[known]]
        done = (rows["changed"] <= self.saved_drain) & (rows["accounted"] == records["handed"][known])
        done &= (rows["packets"] == records["packets"][known]) | (statuses[known] != Status.TAKEN)
        settled[known] = done
        return settled

    def _compare(
        self, slots: Slots, notes: Records, watched: Watched, rules: Sequence[InForce], now_mono_ns: int
    ) -> Records:
        rows = raw(self.held.rows)[slots].view(HELD)
        former = rows.copy()
        former_reason = np.where(rows["state"] == BROKEN, rows["reason"], UncomparedReason.NO_START)
        arrived, keys = self._arrived(rows, notes)
        span = watched.of(rows["ifindex"], FlowDirection.TO_POD)
        ends = self._ends(notes, arrived, span)
        judge(rows, ends, keys, span, rules)
        comparable = rows["state"] == COMPARABLE
        rows["packets"] = notes["packets"]
        sent = rows["packets"] - rows["base_packets"]
        received = ends.received - np.minimum(rows["base_received"], ends.received)
        missing = np.where(comparable, _less(sent, received), np.uint64(0)).astype(np.uint64)
        handed = np.minimum(rows["told"], _less(rows["packets"], rows["uncompared"]))
        news = _less(handed, rows["accounted"])
        behind_base = _less(handed + rows["uncompared"], rows["base_packets"])
        compared = np.where(comparable, np.minimum(news, behind_base), np.uint64(0)).astype(np.uint64)
        rows["accounted"] += news
        rows["compared"] += compared
        lost = np.where(comparable, rows["lost_before"] + missing, np.uint64(0)).astype(np.uint64)
        lost = _less(np.minimum(lost, rows["compared"]), rows["lost"])
        rows["lost"] += lost
        changed = (_all_words(rows) != _all_words(former)).any(axis=1)
        rows["changed"][changed] = self.drain  # a repeat leaves it as it was, and settled
        rows["checked_mono_ns"] = now_mono_ns
        raw(self.held.rows)[slots] = raw(rows)
        reasons = np.where(comparable, former_reason, rows["reason"])
        return _told(keys, lost, compared, news - compared, reasons)

    def _arrived(self, rows: Records, notes: Records) -> tuple[Records, Records]:
        """RECEIVED of each flow, all zero where nothing came; and its key, as it is or would be seen here."""
        at = self.flows.find(_identities(notes["wire"], rows["ifindex"]))
        some, none = np.flatnonzero(at != NOWHERE), np.flatnonzero(at == NOWHERE)
        arrived = np.zeros(len(rows), RECEIVED)
        raw(arrived)[some] = raw(self.flows.rows)[at[some]]
        keys = np.zeros(len(rows), FLOW_KEY)
        raw(keys)[some] = raw(arrived["key"])[some]
        for name in ("src_address", "dst_address", "src_port", "dst_port", "protocol"):
            keys[name][none] = notes["wire"][name][none]
        keys["ifindex"][none] = rows["ifindex"][none]
        return arrived, keys

    def _ends(self, notes: Records, arrived: Records, span: Span) -> Ends:
        some = arrived["packets"] > 0
        gap, rest = arrived["gap_to_mono_ns"] > 0, arrived["rest_to_mono_ns"] > 0

        def time_of(name: str, there: Mask, otherwise: int) -> Times:
            return np.where(there, arrived[name].astype(np.int64), otherwise)

        return Ends(
            first=notes["first_here_ns"],
            last=notes["last_mono_ns"],
            cut=notes["cut_mono_ns"],
            valid_from=notes["valid_from_mono_ns"],
            packets=notes["packets"],
            pause_packets=notes["pause_packets"],
            pause_from=notes["pause_from_mono_ns"],
            pause_to=notes["pause_to_mono_ns"],
            error=notes["error_ns"],
            arrival=notes["arrival_ns"],
            received=arrived["packets"],
            received_first=time_of("first_mono_ns", some, self.cut_mono_ns),
            received_last=time_of("last_mono_ns", some, NO_TIME),
            gap_packets=arrived["gap_packets"],
            gap_from=time_of("gap_from_mono_ns", gap, NO_TIME),
            gap_to=time_of("gap_to_mono_ns", gap, NO_TIME),
            rest_packets=arrived["rest_packets"],
            rest_from=time_of("rest_from_mono_ns", rest, NO_TIME),
            rest_to=time_of("rest_to_mono_ns", rest, NO_TIME),
            received_cut=np.full(len(notes), self.cut_mono_ns, np.int64),
            floor=np.maximum(span.since, span.overflowed),
            forgotten=np.full(len(notes), self.forgotten_mono_ns, np.int64),
        )


def _told(keys: Records, lost: Counts, compared: Counts, uncompared: Counts, reasons: NDArray[np.integer]) -> Records:
    """LOSS of those flows of which there is news."""
    some = np.flatnonzero((lost > 0) | (compared > 0) | (uncompared > 0))
    loss = np.zeros(len(some), LOSS)
    raw(loss["key"])[:] = raw(keys)[some]
    loss["direction"] = FlowDirection.TO_POD
    loss["lost"], loss["compared"] = lost[some], compared[some]
    loss["uncompared"][np.arange(len(some)), reasons[some]] = uncompared[some]
    return loss


def _identities(wires: Records, ifindexes: NDArray[np.uint32]) -> NDArray[np.uint32]:
    words = np.empty((len(wires), RECEIVED_WORDS), np.uint32)
    words[:, :-1] = np.ascontiguousarray(wires).view(np.uint32).reshape(len(wires), RECEIVED_WORDS - 1)
    words[:, -1] = ifindexes
    return words


def _less(these: Counts, those: Counts) -> Counts:
    """The difference, or 0 where it would be below that."""
    difference: Counts = np.maximum(these, those) - those
    return difference


def _all_words(rows: Records) -> NDArray[np.uint32]:
    return rows.view(np.uint32).reshape(len(rows), rows.dtype.itemsize // 4)
