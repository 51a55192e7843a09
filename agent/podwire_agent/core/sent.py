"""The source's side of the comparison: what left here for whom, and who accounts for it.

packets = uncompared + handed + pending, flow by flow. Uncompared is what this side has counted as that. Handed is what
the destination has taken upon itself, and accounts for once it is *told* so. The source alone decides, and tells only
what its own checkpoint holds: so each packet is accounted for once, whoever is killed when, and whichever message or
answer is lost. What is pending for too long becomes uncompared.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from podwire_agent.core.keyed import NOWHERE, KeyedRows, Slots, raw
from podwire_agent.core.surroundings import GIVEN_UP_NS, PAUSE_NS, REASON_OF, SOURCE_IDLE_NS, START_NS
from podwire_agent.core.uncompared import Uncompared
from podwire_agent.core.watched import Watched
from podwire_agent.layout import FLOW_KEY, FlowDirection
from podwire_agent.model import Records, UncomparedReason
from podwire_agent.statements import (
    SETTLED,
    STATEMENT,
    UNREACHABLE_NS,
    WIRE,
    Answer,
    CutTimes,
    Statements,
    Status,
    Statuses,
)

SENT = np.dtype(
    [
        ("wire", WIRE),
        ("ifindex", "u4"),
        ("node", "u4"),
        ("key", FLOW_KEY),
        ("seen_syn", "u4"),
        ("packets", "u8"),
        ("uncompared", "u8"),
        ("handed", "u8"),
        ("settled", "u8"),
        ("agreed", "u8"),
        ("first_mono_ns", "u8"),
        ("last_mono_ns", "u8"),
        ("pause_packets", "u8"),
        ("pause_from_mono_ns", "u8"),
        ("pause_to_mono_ns", "u8"),
        ("waiting_since_mono_ns", "u8"),
    ]
)
"""A flow at its source: as STATEMENT, and `node`: an index into the nodes; `key`: as it was seen; `agreed`: of settled,
what the destination is known to have been told; `waiting_since`: the oldest pending packet, 0 where none is. The tuple
and the interface identify it."""

IDENTITY_WORDS = (WIRE.itemsize + 4) // 4

NODES_KEPT = 4096
"""Nodes that flows went to; what goes to a further one is uncompared."""


@dataclass(slots=True)
class Peer:
    """A node that flows go to."""

    name: str
    boot_id: str = ""
    heard_mono_ns: int = 0
    """Its last answer; before the first one, when the node was first sent to."""


class Sent:
    """Of one monitor, at most `limit` flows."""

    def __init__(self, limit: int, seed: int) -> None:
        self.flows = KeyedRows(SENT, IDENTITY_WORDS, limit, seed)
        self.peers: list[Peer] = []
        self.given_up_packets = 0
        """Handed to a destination that was never heard of again: accounted for by nobody."""
        self._indexes: dict[str, int] = {}

    def restore(self, rows: Records, peers: Iterable[Sequence[Any]]) -> None:
        """As a checkpoint has them."""
        self.flows.replace(rows)
        self.peers = [Peer(*each) for each in peers]
        self._indexes = {peer.name: index for index, peer in enumerate(self.peers)}

    def index_of(self, name: str, now_mono_ns: int) -> int:
        """Of a node; NOWHERE where there is no room for another."""
        if name not in self._indexes:
            if len(self.peers) >= NODES_KEPT:
                return NOWHERE
            self._indexes[name] = len(self.peers)
            self.peers.append(Peer(name, heard_mono_ns=now_mono_ns))
        return self._indexes[name]

    def fold(self, keys: Records, stats: Records, wires: Records, nodes: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Enter flows of an epoch, with the node that each goes to; False where there was no room."""
        identities = np.empty((len(keys), IDENTITY_WORDS), np.uint32)
        identities[:, :-1] = np.ascontiguousarray(wires).view(np.uint32).reshape(len(wires), IDENTITY_WORDS - 1)
        identities[:, -1] = keys["ifindex"]
        slots, fresh = self.flows.ensure(identities)
        rows = self.flows.rows
        rows["first_mono_ns"][fresh] = np.iinfo(np.uint64).max
        kept: NDArray[np.bool_] = slots != NOWHERE
        slots, stats = slots[kept], stats[kept]
        first = np.full(len(rows), np.iinfo(np.uint64).max, np.uint64)
        np.minimum.at(first, slots, stats["first_mono_ns"])
        touched = np.unique(slots)
        last = rows["last_mono_ns"][touched]
        paused = (last > 0) & (first[touched] >= last + np.uint64(PAUSE_NS))
        at = touched[paused]
        rows["pause_packets"][at] = rows["packets"][at]
        rows["pause_from_mono_ns"][at] = rows["last_mono_ns"][at]
        rows["pause_to_mono_ns"][at] = first[at]
        rows["first_mono_ns"][touched] = np.minimum(rows["first_mono_ns"][touched], first[touched])
        np.maximum.at(rows["last_mono_ns"], slots, stats["last_mono_ns"])
        np.add.at(rows["packets"], slots, stats["packets"])
        np.maximum.at(rows["seen_syn"], slots, stats["seen_syn"].astype(np.uint32))
        rows["node"][slots] = nodes[kept]
        raw(rows["key"])[slots] = raw(keys)[kept]
        return kept

    def take_answers(self, answers: Iterable[Answer], now_mono_ns: int, counts: Uncompared) -> None:
        """What destinations have said of what was stated."""
        for answer in answers:
            statements = answer.statements
            index = self._indexes.get(statements.node)
            if index is None:
                continue
            self._hear(index, answer.boot_id, now_mono_ns)
            slots = self.flows.find(statements.identities)
            same = slots != NOWHERE
            same[same] = self.flows.rows["first_mono_ns"][slots[same]] == statements.records["first_mono_ns"][same]
            self.agree(slots[same], statements.records[same], answer.statuses[same], now_mono_ns, counts, answer)

    def agree(
        self,
        slots: Slots,
        records: Records,
        statuses: Statuses,
        now_mono_ns: int,
        counts: Uncompared,
        answer: Answer | None = None,
    ) -> None:
        """Enter the statuses of what was stated of the rows `slots`. Without an answer: the destination is here."""
        rows = self.flows.rows
        confirmed = (statuses & SETTLED) != 0
        at = slots[confirmed]
        rows["settled"][at] = np.maximum(rows["settled"][at], records["handed"][confirmed])
        rows["agreed"][slots] = np.maximum(rows["agreed"][slots], records["settled"])
        outcome = statuses & np.uint8(SETTLED - 1)
        done = rows["uncompared"][slots] + rows["handed"][slots]
        open_ = np.where(records["packets"] > done, records["packets"] - done, 0).astype(np.uint64)
        taken = outcome == Status.TAKEN
        if answer is None or answer.clock_fits:
            rows["handed"][slots[taken]] += open_[taken]
        else:
            self._give(slots[taken], open_[taken], UncomparedReason.CLOCK, counts)
        for status, reason in REASON_OF.items():
            refused = outcome == status
            self._give(slots[refused], open_[refused], reason, counts)
        decided = slots[outcome != Status.LATER]
        rows["waiting_since_mono_ns"][decided] = np.where(self._pending()[decided] > 0, now_mono_ns, 0)

    def despair(self, now_mono_ns: int, here: int, counts: Uncompared, *, exchange: bool) -> None:
        """Count what waited for too long. `here`: the index of this node, which needs no exchange."""
        rows = self.flows.rows
        if not len(rows):
            return
        pending = self._pending()
        waiting = rows["waiting_since_mono_ns"]
        waiting[(waiting == 0) & (pending > 0)] = now_mono_ns
        remote = rows["node"] != here
        late = (pending > 0) & (waiting + np.uint64(UNREACHABLE_NS) <= now_mono_ns)
        given = np.flatnonzero(late if exchange else late | (remote & (pending > 0)))
        self._give(given, pending[given], UncomparedReason.UNREACHABLE, counts)
        waiting[given] = 0
        silent = [index for index, peer in enumerate(self.peers) if peer.heard_mono_ns + GIVEN_UP_NS <= now_mono_ns]
        if silent:
            self._give_up(np.isin(rows["node"], silent) & remote)

    def forget(self, now_mono_ns: int) -> None:
        """Drop what is settled and idle; the longest idle of what is settled where room runs out."""
        rows = self.flows.rows
        settled = ~self._unsettled()
        idle = settled & (rows["last_mono_ns"] < max(0, now_mono_ns - SOURCE_IDLE_NS))
        excess = len(rows) - int(np.count_nonzero(idle)) - self.flows.limit * 7 // 8
        if excess > 0:
            quiet = np.flatnonzero(settled & ~idle & (rows["last_mono_ns"] < max(0, now_mono_ns - PAUSE_NS)))
            idle[quiet[np.argsort(rows["last_mono_ns"][quiet], kind="stable")[:excess]]] = True
        self.flows.drop(idle)

    def statements(self, cut: CutTimes, watched: Watched, *, here: int) -> list[Statements]:
        """What is to be said to each other node; each says all, so that a later one may stand for it."""
        rows = self.flows.rows
        remote = (rows["node"] != here) & self._unsettled()
        order = np.flatnonzero(remote)
        order = order[np.argsort(rows["node"][order], kind="stable")]
        starts = np.flatnonzero(np.diff(rows["node"][order], prepend=-1))
        groups = np.split(order, starts[1:]) if len(order) else []
        return [
            Statements(
                self.peers[int(rows["node"][group[0]])].name,
                cut,
                self.flows.words_of(rows)[group],
                self.records(group, watched),
            )
            for group in groups
        ]

    def local(self, here: int) -> Slots:
        """The flows that stay on the node `here`, and of which something is to be said."""
        return np.flatnonzero((self.flows.rows["node"] == here) & self._unsettled())

    def records(self, slots: Slots, watched: Watched) -> Records:
        """STATEMENT of some rows."""
        rows = raw(self.flows.rows)[slots].view(SENT)
        records = np.empty(len(rows), STATEMENT)
        for name in STATEMENT.names or ():
            if name in (SENT.names or ()):
                records[name] = rows[name]
        span = watched.of(rows["ifindex"], FlowDirection.FROM_POD)
        since = np.maximum(span.since, span.overflowed).astype(np.uint64)
        begun = rows["first_mono_ns"] >= since + np.uint64(START_NS)
        begun |= (rows["seen_syn"] > 0) & (rows["first_mono_ns"] >= since)
        records["valid_from_mono_ns"] = np.where(begun, 0, since)
        return records

    def _unsettled(self) -> NDArray[np.bool_]:
        rows = self.flows.rows
        unsettled: NDArray[np.bool_] = (self._pending() > 0) | (rows["settled"] != rows["handed"])
        unsettled |= rows["agreed"] != rows["settled"]
        return unsettled

    def _pending(self) -> NDArray[np.uint64]:
        rows = self.flows.rows
        pending: NDArray[np.uint64] = rows["packets"] - rows["uncompared"] - rows["handed"]
        return pending

    def _give(self, slots: Slots, packets: NDArray[np.uint64], reason: UncomparedReason, counts: Uncompared) -> None:
        """Count as uncompared."""
        self.flows.rows["uncompared"][slots] += packets
        counts.add(self.flows.rows["key"][slots], packets, reason)

    def _hear(self, index: int, boot_id: str, now_mono_ns: int) -> None:
        peer = self.peers[index]
        if peer.boot_id != boot_id:
            if peer.boot_id:  # what it was told is in counts that ended with its boot
                self._give_up(self.flows.rows["node"] == index)
            peer.boot_id = boot_id
        peer.heard_mono_ns = now_mono_ns

    def _give_up(self, which: NDArray[np.bool_]) -> None:
        rows = self.flows.rows
        self.given_up_packets += int((rows["handed"][which] - rows["settled"][which]).sum(dtype=np.uint64))
        rows["settled"][which] = rows["agreed"][which] = rows["handed"][which]
