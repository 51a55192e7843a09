"""The one scheduler of all monitors' cuts: maps are made ahead, all swaps of an instant come before any read."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from functools import partial

from podwire_agent.core.schedule import Cut, cut_number, next_cut
from podwire_agent.errors import PodwireError
from podwire_agent.layout import FlowDirection
from podwire_agent.model import MonitorUid
from podwire_agent.pipeline import Pipeline
from podwire_agent.ports import Clock

log = logging.getLogger(__name__)

AHEAD_NS = 50_000_000
"""How long before a cut its maps are made: making one takes some milliseconds."""


class Cutter:
    """Two threads: one only cuts, on time; one drains, as long as it takes."""

    def __init__(
        self, pipelines: Mapping[MonitorUid, Pipeline], periods_ns: Mapping[MonitorUid, int], clock: Clock
    ) -> None:
        self.failures_total = 0
        """Steps that failed and are tried again at the next tick."""
        self.late_ns = 0
        """How late the last cut was."""
        self.missed_totals = dict.fromkeys(periods_ns, 0)
        """Cuts of each monitor that a stall or a step of the clock left out; their packets came with the next."""
        self._numbers: dict[MonitorUid, int] = {}  # of each monitor's last cut
        self._pipelines = pipelines
        self._periods_ns = periods_ns
        self._clock = clock
        self._stopping = threading.Event()
        self._due: set[MonitorUid] = set()
        self._wanted = threading.Condition()
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
        self._stopping.set()
        with self._wanted:
            self._wanted.notify_all()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()

    def _cut_on_time(self) -> None:
        cut: Cut | None = None
        while True:
            cut = next_cut(self._clock.unix_ns(), self._periods_ns, cut)
            if self._wait_until(cut.at_unix_ns - AHEAD_NS):
                return
            self._each(cut.monitors, "making a map", partial(Pipeline.prepare, direction=cut.direction))
            if self._wait_until(cut.at_unix_ns):
                return
            self.late_ns = self._clock.unix_ns() - cut.at_unix_ns
            self._each(cut.monitors, "cutting", partial(Pipeline.cut, direction=cut.direction))
            self._count_missed(cut)
            if cut.direction is FlowDirection.TO_POD:
                with self._wanted:
                    self._due |= cut.monitors
                    self._wanted.notify_all()

    def _count_missed(self, cut: Cut) -> None:
        if cut.direction is not FlowDirection.FROM_POD:
            return
        for uid in cut.monitors:
            number = cut_number(cut.at_unix_ns, self._periods_ns[uid])
            self.missed_totals[uid] += max(0, number - self._numbers.get(uid, number - 1) - 1)
            self._numbers[uid] = number

    def _drain_when_due(self) -> None:
        while True:
            with self._wanted:
                self._wanted.wait_for(lambda: self._due or self._stopping.is_set())
                if self._stopping.is_set():
                    return
                due, self._due = self._due, set()
            self._each(due, "draining", Pipeline.drain)

    def _wait_until(self, unix_ns: int) -> bool:
        """True when it is time to stop."""
        return self._stopping.wait(max(0, unix_ns - self._clock.unix_ns()) / 1e9)

    def _each(self, monitors: Iterable[MonitorUid], attempt: str, step: Callable[[Pipeline], None]) -> None:
        for uid in monitors:
            try:
                step(self._pipelines[uid])
            except PodwireError as error:
                # Nothing is lost by it: what was cut stays pinned, what was not stays active.
                self.failures_total += 1
                log.error("%s for monitor %s failed, tried again at the next tick: %s", attempt, uid, error)
