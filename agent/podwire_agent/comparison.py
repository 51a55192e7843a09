"""Both ends of one monitor's flows, compared: core.loss fed with what is drained, its words carried to other agents."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from podwire_agent.core import loss
from podwire_agent.core.between_pods import Between
from podwire_agent.core.judge import Judge
from podwire_agent.core.surroundings import INTERFACE, RECEIVER, InForce, Surroundings
from podwire_agent.core.world import World
from podwire_agent.layout import FlowDirection, RuleVerdict
from podwire_agent.model import IfIndex, Records
from podwire_agent.ports import Clock
from podwire_agent.statements import Answer, CutTimes, Envelope, Statements, Statuses

LATELY_NS = 5 * 60 * 10**9
"""What a status calls lost."""

RULES_KEPT = 4
"""Sets of rules that are remembered: what was counted under one is asked about some periods later."""


class Channel(Protocol):
    """To the agents of other nodes, for one monitor. Never waits for them."""

    def post(self, statements: Sequence[Statements]) -> None:
        """Say these."""

    def answers(self) -> Sequence[Answer]:
        """That have come since the last time."""

    def close(self) -> None:
        """There is no more to say."""


@dataclass(frozen=True, slots=True, eq=False)
class Here:
    """The node at a drain."""

    interfaces: Mapping[IfIndex, tuple[int, tuple[int, int]]]
    """Pods' interfaces that are watched: since when (CLOCK_MONOTONIC), and the packets of each direction that found no
    room in the map."""
    receivers: Mapping[bytes, IfIndex]
    """The addresses of the pods behind them."""
    judge: Judge | None
    """Of the rules in force; None: there are none."""


class Comparison:
    """`take` may be called from any thread; the rest from the one that drains."""

    def __init__(self, job: loss.Job, clock: Clock, channel: Channel | None) -> None:
        """`channel`: None where only this node's own pods are compared."""
        self._job = job
        self._clock = clock
        self._channel = channel
        self._lock = threading.Lock()
        self._loss = loss.Loss(job, clock.mono_ns(), self._lock)
        self._rules: deque[InForce] = deque(maxlen=RULES_KEPT)
        self._judge: Judge | None = None
        self._looked_mono_ns = clock.mono_ns()
        self._found: deque[tuple[int, int, int]] = deque()  # when, how many were lost, how many compared

    def restore(self, sections: Mapping[str, Any]) -> None:
        """Go on from what `sections` gave; anew where there is nothing. LookupError, TypeError, ValueError."""
        self._loss = loss.Loss.restore(sections, self._job, self._clock.mono_ns(), self._lock)

    def sections(self) -> dict[str, Any]:
        """A copy of everything, for a checkpoint."""
        return self._loss.sections()

    @property
    def word(self) -> Callable[[NDArray[np.uint8], NDArray[np.int32], Sequence[str]], NDArray[np.bool_]]:
        """Whether other agents count what goes to addresses of their nodes' pods, by their last word."""
        return self._loss.covers.of

    def enter(
        self, direction: FlowDirection, flows: Records, between: Between, world: World, cut: CutTimes | None
    ) -> None:
        """core.table.REPORT of one direction's epoch, which ended with `cut`; None: nobody knows when that was.

        Of each epoch, also where nothing came: that a flow has not arrived is known once its epoch is.
        """
        if direction is FlowDirection.FROM_POD:
            names = world.nodes or (self._job.node,)
            self._loss.sent(cut, flows["key"], flows, between.wires, between.nodes, names, between.reasons)
            return
        at = between.arriving
        self._loss.received(cut, flows["key"][at], flows[at], between.wires[at])

    def settle(self, here: Here) -> Records:
        """After the epochs, before the checkpoint: core.surroundings.LOSS, what came to be known."""
        now_mono_ns = self._clock.mono_ns()
        answers = () if self._channel is None else self._channel.answers()
        found = self._loss.settle(self._surroundings(here, now_mono_ns), answers, now_mono_ns)
        lost, compared = (int(found[name].sum(dtype=np.uint64)) for name in ("lost", "compared"))
        with self._lock:
            if lost or compared:
                self._found.append((now_mono_ns, lost, compared))
            while self._found and self._found[0][0] < now_mono_ns - LATELY_NS:
                self._found.popleft()
        return found

    def saved(self) -> None:
        """What `sections` gave is in a checkpoint: say what is to be said."""
        statements = self._loss.saved()
        if self._channel is not None:
            self._channel.post(statements)

    def close(self) -> None:
        """The monitor ends."""
        if self._channel is not None:
            self._channel.close()

    @property
    def visible(self) -> bool:
        """Whether what goes to the pods of this node can be seen."""
        return self._loss.visible

    def take(self, envelope: Envelope, records: Records, now_mono_ns: int) -> Statuses:
        """Statements of another node's agent."""
        return self._loss.take(envelope, records, now_mono_ns)

    def state(self) -> loss.LossState:
        """Figures for metrics. From any thread."""
        return self._loss.state()

    def lost_lately(self) -> int | None:
        """Packets, in the last five minutes; None: nothing was compared. From any thread."""
        with self._lock:
            return sum(lost for _, lost, _ in self._found) if self._found else None

    def _surroundings(self, here: Here, now_mono_ns: int) -> Surroundings:
        if here.judge is not self._judge:
            # They came into force after the last look: what was counted from then on may have been judged by them.
            accepts = _everything if here.judge is None else partial(_accepted, here.judge)
            self._rules.append(InForce(self._looked_mono_ns, accepts))
            self._judge = here.judge
        self._looked_mono_ns = now_mono_ns
        interfaces = np.zeros(len(here.interfaces), INTERFACE)
        for row, (index, (since_mono_ns, overflowed)) in zip(interfaces, here.interfaces.items(), strict=True):
            row["ifindex"], row["since_mono_ns"], row["overflowed"] = index, since_mono_ns, overflowed
        receivers = np.zeros(len(here.receivers), RECEIVER)
        if len(receivers):
            receivers["address"] = np.frombuffer(b"".join(here.receivers), np.uint8).reshape(-1, 16)
            receivers["ifindex"] = list(here.receivers.values())
        return Surroundings(interfaces, receivers, tuple(self._rules))


def _everything(keys: Records) -> NDArray[np.bool_]:
    return np.ones(len(keys), np.bool_)


def _accepted(judge: Judge, keys: Records) -> NDArray[np.bool_]:
    """At the interfaces where they arrive; while nobody knows whose one is, all of it is measured."""
    accepted = np.ones(len(keys), np.bool_)
    at = np.flatnonzero(judge.decided(keys["ifindex"]))
    if len(at):
        directions = np.full(len(at), FlowDirection.TO_POD, np.uint32)
        accepted[at] = judge.at_interfaces(keys[at], directions) == RuleVerdict.MEASURED
    return accepted
