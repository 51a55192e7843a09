"""The one scheduler of all monitors' cuts: maps are made ahead, all swaps of an instant come before any read."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from podwire_agent.containment import Crashed, contained
from podwire_agent.core.schedule import Cut, cut_number, next_cut
from podwire_agent.errors import PodwireError
from podwire_agent.layout import FlowDirection
from podwire_agent.model import MonitorUid
from podwire_agent.ports import Clock

log = logging.getLogger(__name__)

AHEAD_NS = 50_000_000
"""How long before a cut its maps are made: making one takes some milliseconds."""


class Ticked(Protocol):
    """A pipeline, as far as it is told the time."""

    def prepare(self, direction: FlowDirection) -> None:
        """Ahead of a cut."""

    def cut(self, direction: FlowDirection) -> None:
        """On time."""

    def drain(self) -> None:
        """After both directions were cut."""


@dataclass(slots=True)
class _Entry:
    """One monitor."""

    uid: MonitorUid
    pipeline: Ticked
    period_ns: int
    crashed: Crashed
    number: int | None = None
    """Of its last cut."""
    missed_total: int = 0
    cutting: threading.Lock = field(default_factory=threading.Lock)
    """Held while it is prepared or cut."""
    draining: threading.Lock = field(default_factory=threading.Lock)
    """Held while it is drained."""
    leaving: bool = False
    """Nothing more is begun for it."""

    def end(self, error: Exception) -> None:
        """What it has in memory may be wrong: nothing of it is written any more."""
        self.leaving = True
        self.crashed(error)


class Cutter:
    """Two threads: one only cuts, on time; one drains, as long as it takes. Monitors come and go meanwhile."""

    def __init__(self, clock: Clock) -> None:
        self.failures_total = 0
        """Steps that failed and are tried again at the next tick."""
        self.late_ns = 0
        """How late the last cut was."""
        self._clock = clock
        self._changed = threading.Condition()
        self._entries: dict[MonitorUid, _Entry] = {}
        self._version = 0  # grows with every coming and going
        self._stopping = False
        self._due: set[MonitorUid] = set()
        self._threads = [
            threading.Thread(target=self._cut_on_time, name="cuts"),
            threading.Thread(target=self._drain_when_due, name="drains"),
        ]

    def start(self) -> None:
        """Begin with the next multiple of the periods."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """No further cut; returns once the drain under way has ended."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()

    def add(self, uid: MonitorUid, pipeline: Ticked, period_ns: int, crashed: Crashed) -> None:
        """From the next multiple of its period on, cut and drain this one too."""
        with self._changed:
            self._entries[uid] = _Entry(uid, pipeline, period_ns, crashed)
            self._version += 1
            self._changed.notify_all()

    def remove(self, uid: MonitorUid) -> None:
        """Leave it alone; on return nothing of it is under way. Not from a thread of the cutter's own."""
        with self._changed:
            entry = self._entries.pop(uid, None)
            self._due.discard(uid)
            self._version += 1
            self._changed.notify_all()
        if entry is not None:
            entry.leaving = True
            with entry.cutting, entry.draining:
                pass

    def missed_total(self, uid: MonitorUid) -> int:
        """Cuts of it that a stall or a step of the clock left out; their packets came with the next."""
        with self._changed:
            entry = self._entries.get(uid)
            return 0 if entry is None else entry.missed_total

    def _cut_on_time(self) -> None:
        last: Cut | None = None
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._entries or self._stopping)
                if self._stopping:
                    return
                periods_ns = {uid: entry.period_ns for uid, entry in self._entries.items()}
                version = self._version
            cut = next_cut(self._clock.unix_ns(), periods_ns, last)
            if self._interrupted(cut.at_unix_ns - AHEAD_NS, version):
                continue
            self._each(cut.monitors, "making a map", partial(_prepare, cut.direction))
            if self._interrupted(cut.at_unix_ns, version):
                continue  # the map that was made is there for the cut that comes instead
            last = cut
            self.late_ns = self._clock.unix_ns() - cut.at_unix_ns
            self._each(cut.monitors, "cutting", partial(_cut, cut.direction))
            self._count_missed(cut)
            if cut.direction is FlowDirection.TO_POD:
                with self._changed:
                    self._due |= cut.monitors & self._entries.keys()
                    self._changed.notify_all()

    def _count_missed(self, cut: Cut) -> None:
        if cut.direction is not FlowDirection.FROM_POD:
            return
        for entry in self._among(cut.monitors):
            number = cut_number(cut.at_unix_ns, entry.period_ns)
            if entry.number is not None:
                entry.missed_total += max(0, number - entry.number - 1)
            entry.number = number

    def _drain_when_due(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._due or self._stopping)
                if self._stopping:
                    return
                due, self._due = self._due, set()
            for entry in self._among(due):
                with entry.draining:
                    self._do(entry, "draining", _drain)

    def _interrupted(self, unix_ns: int, version: int) -> bool:
        """True where monitors came or went, or it is time to stop, before the instant; False at the instant."""

        def otherwise() -> bool:
            return self._stopping or self._version != version

        with self._changed:
            return self._changed.wait_for(otherwise, max(0, unix_ns - self._clock.unix_ns()) / 1e9)

    def _among(self, monitors: Iterable[MonitorUid]) -> list[_Entry]:
        with self._changed:
            return [self._entries[uid] for uid in monitors if uid in self._entries]

    def _each(self, monitors: Iterable[MonitorUid], attempt: str, step: Callable[[Ticked], None]) -> None:
        for entry in self._among(monitors):
            with entry.cutting:
                self._do(entry, attempt, step)

    def _do(self, entry: _Entry, attempt: str, step: Callable[[Ticked], None]) -> None:
        if entry.leaving:
            return
        try:
            with contained(f"{attempt} for monitor {entry.uid}", entry.end):
                step(entry.pipeline)
        except PodwireError as error:
            # Nothing is lost by it: what was cut stays pinned, what was not stays active.
            self.failures_total += 1
            log.error("%s for monitor %s failed, tried again at the next tick: %s", attempt, entry.uid, error)


def _prepare(direction: FlowDirection, pipeline: Ticked) -> None:
    pipeline.prepare(direction)


def _cut(direction: FlowDirection, pipeline: Ticked) -> None:
    pipeline.cut(direction)


def _drain(pipeline: Ticked) -> None:
    pipeline.drain()
