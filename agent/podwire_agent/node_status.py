"""What an AgentNode tells of the monitors that select its node. Pure, but for remembering when conditions changed."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from podwire_agent.kernel.watch import Watched
from podwire_agent.sinks.outbox import OutboxCounters
from podwire_agent.supervisor import Standing
from podwire_api.agentnode import InterfaceCounts, MonitorOnNode
from podwire_api.conditions import NOTED, ConditionType, MonitorReason, noted
from podwire_api.names import MAX_MONITORS

MESSAGE_CHARACTERS = 1024
"""Of a condition; what is longer is cut."""
SHOWN = 3
"""Interfaces, or lines, that a message names."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """A condition without its times."""

    holds: bool
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Figures:
    """What is counted now and then."""

    pods: int = 0
    flows_per_second: int = 0
    overflowed: int = 0
    lost: int | None = None
    """In the last five minutes; None: nothing was compared."""


@dataclass(frozen=True, slots=True)
class Told:
    """A monitor, as the AgentNode tells of it."""

    name: str
    uid: str
    generation: int
    """The cluster's."""
    attached: Verdict
    sinks: Verdict | None = None
    observed: int = 0
    """The generation that is in force here, or was refused or failed here."""
    watched: tuple[Watched, ...] = ()
    figures: Figures = field(default_factory=Figures)
    passing: bool = False
    """It will soon be otherwise by itself."""


def refused(reason: MonitorReason, lines: Iterable[str]) -> Verdict:
    """It does not run, since the resource says what cannot be done; the lines say what."""
    return Verdict(False, reason, _shortened(lines, "; "))


def too_many(older: Iterable[str]) -> Verdict:
    """The node serves others, which are named."""
    message = f"a node serves {MAX_MONITORS} monitors, the oldest first: here {', '.join(older)}; delete one of them"
    return Verdict(False, MonitorReason.TOO_MANY_MONITORS, message[:MESSAGE_CHARACTERS])


def unsuitable(problems: Iterable[str]) -> Verdict:
    """The node lacks something."""
    return Verdict(False, MonitorReason.KERNEL_UNSUITABLE, _shortened(problems, "; "))


def verdict(standing: Standing) -> Verdict:
    """Of a monitor that has a supervisor."""
    failed = [each for each in standing.watched if each.failure]
    if standing.ending:
        ending = standing.failure or "it is drained and reported a last time, then taken off"
        return Verdict(False, MonitorReason.ATTACHING, _shortened([ending]))
    if standing.failure:
        return Verdict(False, MonitorReason.ATTACH_FAILED, _shortened([standing.failure]))
    if not standing.running:
        return Verdict(False, MonitorReason.ATTACHING, "its programs are being loaded and attached")
    if standing.paused:
        return Verdict(False, MonitorReason.PAUSED, "spec.paused: nothing is attached, the totals stay")
    if failed:
        words = [f"{each.interface.name}: {each.failure}" for each in failed]
        return Verdict(False, MonitorReason.ATTACH_FAILED, _shortened(words, "; "))
    well = f"{len(standing.watched)} interfaces are watched"
    if standing.notes:
        well += NOTED + _shortened(standing.notes)
    return Verdict(True, MonitorReason.ATTACHED, well[:MESSAGE_CHARACTERS])


def is_passing(standing: Standing) -> bool:
    """On its way up or down, with nothing in the way."""
    return not standing.failure and (standing.ending or not standing.running)


class Sinks:
    """Whether reports arrive, judged by what became of the last ones."""

    def __init__(self) -> None:
        self._before: dict[str, tuple[int, int, Verdict]] = {}

    def verdict(self, uid: str, counters: OutboxCounters) -> Verdict:
        """Unreachable once a report was lost, until one arrives again."""
        arrived, lost = counters.sent.reports, counters.failed.reports + counters.dropped.reports
        fine = Verdict(True, MonitorReason.REACHABLE, "reports are handed on")
        before_arrived, before_lost, before = self._before.get(uid, (0, 0, fine))
        if lost > before_lost and arrived <= before_arrived:
            words = counters.last_error or "a report was given up"
            found = Verdict(False, MonitorReason.SINKS_UNREACHABLE, _shortened([words]))
        else:
            found = fine if arrived > before_arrived else before
        self._before[uid] = (arrived, lost, found)
        return found

    def keep(self, uids: Iterable[str]) -> None:
        """Forget the others."""
        self._before = {uid: self._before[uid] for uid in uids if uid in self._before}


class Entries:
    """Makes the entries; remembers since when each condition is as it is."""

    def __init__(self) -> None:
        self._since: dict[tuple[str, str], tuple[bool, str]] = {}

    def of(self, monitors: Iterable[Told], now_unix_ns: int) -> tuple[MonitorOnNode, ...]:
        """In the same order."""
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now_unix_ns // 1_000_000_000))
        since: dict[tuple[str, str], tuple[bool, str]] = {}
        entries = tuple(self._entry(each, now, since) for each in monitors)
        self._since = since
        return entries

    def _entry(self, told: Told, now: str, since: dict[tuple[str, str], tuple[bool, str]]) -> MonitorOnNode:
        verdicts: Mapping[ConditionType, Verdict | None] = {
            ConditionType.DATAPATH_ATTACHED: told.attached,
            ConditionType.SINKS_REACHABLE: told.sinks,
        }
        conditions = []
        for about, found in verdicts.items():
            if found is None:
                continue
            holds, changed = self._since.get((told.uid, about), (not found.holds, now))
            since[told.uid, about] = (found.holds, changed if holds is found.holds else now)
            conditions.append(
                {
                    "type": about,
                    "status": "True" if found.holds else "False",
                    "observedGeneration": told.generation,
                    "lastTransitionTime": since[told.uid, about][1],
                    "reason": found.reason,
                    "message": found.message,
                }
            )
        failed = sum(bool(each.failure) for each in told.watched)
        return MonitorOnNode.model_validate(
            {
                "name": told.name,
                "uid": told.uid,
                "observedGeneration": told.observed,
                "conditions": conditions,
                "interfaces": {"attached": len(told.watched) - failed, "failed": failed},
                "pods": told.figures.pods,
                "flowsPerSecond": told.figures.flows_per_second,
                "overflowed": told.figures.overflowed,
                **({} if told.figures.lost is None else {"lost": told.figures.lost}),
            }
        )


def without_figures(entry: MonitorOnNode) -> MonitorOnNode:
    """What is told at once when it changes: not what is counted, nor the sentences of what is well, but notes."""
    silent = tuple(
        each.model_copy(update={"message": noted(each.message)}) if each.status == "True" else each
        for each in entry.conditions
    )
    interfaces = InterfaceCounts(failed=entry.interfaces.failed)
    figures = {"pods": 0, "flows_per_second": 0, "overflowed": 0}
    return entry.model_copy(update={"interfaces": interfaces, "conditions": silent, **figures})


def _shortened(lines: Iterable[str], between: str = "; ") -> str:
    """The first lines, within MESSAGE_CHARACTERS; how many more there are."""
    words = [" ".join(line.split()) for line in lines]
    more = f"{between}... and {len(words) - SHOWN} more" if len(words) > SHOWN else ""
    return between.join(words[:SHOWN])[: MESSAGE_CHARACTERS - len(more)] + more
