"""Packets that left a pod and did not reach another: one monitor's account of it, as source and as destination.

Fed with every epoch, it keeps cumulative counts of the flows between pods (core/sent.py, core/received.py) and compares
them: of flows within the node by itself, of others through statements that their source's agent makes to the
destination's. What comes out are the differences since the last time, flow by flow. compared + uncompared, of both
agents together, is all that was seen at the source, each packet once.

In the order of a drain: `sent` and `received` for each epoch, `settle`, a checkpoint with `sections`, `saved`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from podwire_agent.core.covers import WORD, Covers, Words
from podwire_agent.core.keyed import joined
from podwire_agent.core.received import HELD, RECEIVED, Received
from podwire_agent.core.sent import SENT, Sent
from podwire_agent.core.surroundings import LATE_NS, LOSS, Surroundings
from podwire_agent.core.table import convert
from podwire_agent.core.uncompared import Uncompared
from podwire_agent.core.watched import SPAN, Watched
from podwire_agent.layout import FlowDirection, FlowKind
from podwire_agent.model import Records, UncomparedReason
from podwire_agent.statements import SETTLED, Answer, CutTimes, Envelope, Statements, Status, Statuses

COMPARED = -1
"""In place of an UncomparedReason: the flow is to be compared."""
NOT_BETWEEN_PODS = -1
"""In place of a node: the flow is none of ours."""


@dataclass(frozen=True, slots=True)
class Job:
    """What it has to know of its monitor."""

    node: str
    boot_id: str
    limit: int
    """Flows in each of its three tables."""
    period_ns: int
    exchange: bool
    """Whether agents of other nodes are asked."""
    seed: int
    """Of the tables' hash: a secret of this process."""


@dataclass(frozen=True, slots=True)
class LossState:
    """Figures for metrics."""

    sent_flows: int
    received_flows: int
    held_flows: int
    skipped_windows_total: int
    """Cuts that came too late to be stated."""
    dropped_statements_total: int
    given_up_packets_total: int


class Loss:
    """`take` and `covers` may be called from any thread; the rest from the one that drains."""

    def __init__(self, job: Job, began_mono_ns: int, lock: AbstractContextManager[object] | None = None) -> None:
        """`began`: what was counted before is not known here. `lock`: held while it is looked at or changed."""
        self._job = job
        self._lock = lock or nullcontext()
        self._visible = True
        self._sent = Sent(job.limit, job.seed)
        self._received = Received(job.limit, job.seed)
        self._watched = Watched(began_mono_ns, job.seed)
        self._words = Words()
        self._news = Uncompared(FlowDirection.FROM_POD)
        self._cut: CutTimes | None = None  # of the last epoch that was sent; None: not known
        self._over_mono_ns = 0  # when a cut that is known was over
        self._skipped_windows_total = 0
        self._here = self._sent.index_of(job.node, began_mono_ns)

    @classmethod
    def restore(
        cls,
        sections: Mapping[str, Any],
        job: Job,
        began_mono_ns: int,
        lock: AbstractContextManager[object] | None = None,
    ) -> Self:
        """As `sections` gave it; anew where there are none. LookupError, TypeError."""
        loss = cls(job, began_mono_ns, lock)
        if "loss" not in sections:
            return loss
        account = sections["loss"]
        loss._watched.began_mono_ns = account["began"]
        loss._watched.present_mono_ns = account["present"]
        loss._watched.spans = convert(sections["loss_watched"], SPAN)
        loss._sent.restore(convert(sections["loss_sent"], SENT), account["peers"])
        loss._received.restore(
            convert(sections["loss_received"], RECEIVED), convert(sections["loss_held"], HELD), account["received"]
        )
        loss._words.restore(convert(sections["loss_words"], WORD), account["invisible"], account["word_nodes"])
        loss._here = loss._sent.index_of(job.node, began_mono_ns)
        return loss

    def sections(self) -> dict[str, Any]:
        """A copy of everything, for a checkpoint."""
        with self._lock:
            denied, invisible, word_nodes = self._words.sections()
            return {
                "loss": {
                    "began": self._watched.began_mono_ns,
                    "present": self._watched.present_mono_ns,
                    "peers": [[peer.name, peer.boot_id, peer.heard_mono_ns] for peer in self._sent.peers],
                    "received": self._received.account(),
                    "invisible": invisible,
                    "word_nodes": word_nodes,
                },
                "loss_watched": self._watched.spans,
                "loss_sent": self._sent.flows.rows,
                "loss_received": self._received.flows.rows,
                "loss_held": self._received.held.rows.copy(),
                "loss_words": denied,
            }

    @property
    def covers(self) -> Covers:
        """The last words of the other agents."""
        return self._words.covers

    @property
    def visible(self) -> bool:
        """Whether what goes to the pods of this node can be seen."""
        return self._visible

    def sent(
        self,
        cut: CutTimes | None,
        keys: Records,
        stats: Records,
        wires: Records,
        nodes: NDArray[np.integer],
        names: Sequence[str],
        reasons: NDArray[np.integer],
    ) -> None:
        """An epoch of FROM_POD. `cut`: its end; None where that is not known.

        FLOW_KEY and FLOW_STATS as they were read, the tuples after translation (WIRE), the receiver's node as an index
        into `names` or NOT_BETWEEN_PODS, and COMPARED or why not (UncomparedReason), each (n,).
        """
        with self._lock:
            between = nodes != NOT_BETWEEN_PODS
            fragment = between & (keys["kind"] != FlowKind.FLOW_WHOLE)
            given = between & ~fragment & (reasons != COMPARED)
            self._news.add(keys[fragment], stats["packets"][fragment], UncomparedReason.FRAGMENT)
            for reason in UncomparedReason:
                which = given & (reasons == reason)
                self._news.add(keys[which], stats["packets"][which], reason)
            asked = np.flatnonzero(between & ~fragment & ~given)
            now_mono_ns = cut.ended_mono_ns if cut is not None else self._over_mono_ns
            ours = {int(each): self._sent.index_of(names[each], now_mono_ns) for each in np.unique(nodes[asked])}
            indexes = np.array([ours.get(each, -1) for each in range(len(names))], np.int64)[nodes[asked]]
            known = indexes >= 0
            at = asked[known]
            kept = np.zeros(len(asked), np.bool_)
            kept[known] = self._sent.fold(keys[at], stats[at], wires[at], indexes[known])
            left = asked[~kept]
            self._news.add(keys[left], stats["packets"][left], UncomparedReason.OVERFLOW)
            self._cut = cut
            if cut is not None:
                self._over_mono_ns = cut.ended_mono_ns

    def received(self, cut: CutTimes | None, keys: Records, stats: Records, wires: Records) -> None:
        """An epoch of TO_POD, as `sent`; without flows that cannot come from a pod."""
        with self._lock:
            whole = keys["kind"] == FlowKind.FLOW_WHOLE
            self._received.fold(keys[whole], stats[whole], wires[whole])
            if cut is not None:
                self._received.cut_mono_ns = cut.begun_mono_ns

    def settle(self, surroundings: Surroundings, answers: Iterable[Answer], now_mono_ns: int) -> Records:
        """After the epochs, before the checkpoint: what came to be known. LOSS; a flow may come more than once."""
        answers = list(answers)
        with self._lock:
            self._watched.look(surroundings, now_mono_ns)
            self._visible = surroundings.visible
            counts, self._news = self._news, Uncompared(FlowDirection.FROM_POD)
            self._sent.take_answers(answers, now_mono_ns, counts)
            for answer in answers:
                self._hear(answer)
            self._settle_here(now_mono_ns, counts)
            self._sent.despair(now_mono_ns, self._here, counts, exchange=self._job.exchange)
            arrived = self._received.settle(self._watched, surroundings.rules, now_mono_ns)
            self._sent.forget(now_mono_ns)
            self._received.forget(now_mono_ns)
            return joined([counts.records(), arrived], LOSS)

    def saved(self) -> list[Statements]:
        """After the checkpoint: what is to be said to other nodes' agents. The next ones stand for these."""
        with self._lock:
            self._received.saved()
            if self._cut is None or not self._job.exchange:
                return []
            if self._cut.late_ns(self._job.period_ns) > LATE_NS:
                self._skipped_windows_total += 1
                return []
            return self._sent.statements(self._cut, self._watched, here=self._here)

    def take(self, envelope: Envelope, records: Records, now_mono_ns: int) -> Statuses:
        """Statements of another node's source: STATEMENT (n,) -> Status of each, with SETTLED or without."""
        with self._lock:
            return self._received.take(envelope, records, self._watched, now_mono_ns)

    def state(self) -> LossState:
        """Figures for metrics."""
        with self._lock:
            return LossState(
                sent_flows=len(self._sent.flows),
                received_flows=len(self._received.flows),
                held_flows=len(self._received.held),
                skipped_windows_total=self._skipped_windows_total,
                dropped_statements_total=self._received.dropped_statements,
                given_up_packets_total=self._sent.given_up_packets,
            )

    def _settle_here(self, now_mono_ns: int, counts: Uncompared) -> None:
        """Flows within the node: both ends are in one checkpoint, so all is said at once."""
        slots = self._sent.local(self._here)
        if not len(slots):
            return
        envelope = Envelope(self._job.node, self._job.boot_id, self._over_mono_ns)
        records = self._sent.records(slots, self._watched)
        statuses = self._received.take(envelope, records, self._watched, now_mono_ns)
        self._sent.agree(slots, records, statuses, now_mono_ns, counts)
        self._received.hand_over(self._sent.records(slots, self._watched))

    def _hear(self, answer: Answer) -> None:
        """An agent's word on whether it watches."""
        addresses = answer.statements.records["wire"]["dst_address"]
        outcome = answer.statuses & np.uint8(SETTLED - 1)
        self._words.hear(
            answer.statements.node,
            visible=answer.visible,
            watched=addresses[outcome == Status.TAKEN],
            unwatched=addresses[outcome == Status.UNWATCHED],
        )
