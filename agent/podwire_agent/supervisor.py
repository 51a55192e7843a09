"""One NetworkMonitor brought up, changed and ended in a thread of its own, so that a bad one never stops the others."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from podwire_agent import ports
from podwire_agent.cleanup import remove_left
from podwire_agent.comparison import Comparison
from podwire_agent.containment import contained
from podwire_agent.errors import PodwireError, SinkClosed
from podwire_agent.ground import Ground
from podwire_agent.kernel.datapath import in_use
from podwire_agent.kernel.watch import Watched
from podwire_agent.model import Edges, MonitorUid, Snapshot
from podwire_agent.monitor import Choose, Look, RunningMonitor
from podwire_agent.rulekeeper import RuleKeeper
from podwire_agent.sinks.outbox import Outbox, OutboxCounters
from podwire_agent.telemetry import MonitorState
from podwire_api import NetworkMonitor, NetworkMonitorSpec

log = logging.getLogger(__name__)

FIRST_RETRY_S = 1.0
LAST_RETRY_S = 30.0
SETTLED_S = 60.0
"""Who has run for so long is no failure any more."""

NOTHING_SENT = OutboxCounters()


class Ending(StrEnum):
    """How a monitor ends."""

    KEEP = "keep"
    """Reported a last time, and left attached for another agent."""
    REMOVE = "remove"
    """Reported a last time, and nothing is left of it."""
    UNDO = "undo"
    """As if it had not been begun."""


@dataclass(frozen=True, slots=True)
class Supervised:
    """What a supervisor works with, the same for all monitors of an agent."""

    ground: Ground
    choose: Choose
    rules: Callable[[NetworkMonitorSpec], RuleKeeper]
    """Of a spec. ResourceError."""
    sink: Callable[[NetworkMonitor], ports.Sink]
    nobody_reads: Callable[[SinkClosed], None]
    """Told when a sink takes no more, in the sink's thread."""
    changed: Callable[[], None]
    """Called after each change of a standing, in the supervisor's thread."""
    patience_s: float
    """How long a sink may take for the last reports before they are given up."""
    look: Look | None = None
    """How one learns what is behind the flows; None: nobody can say."""
    first_decides: bool = False
    """A first attempt that fails is not told nor repeated: whoever waits in `attempted` knows."""


@dataclass(frozen=True, slots=True)
class Standing:
    """How a supervised monitor stands."""

    running: bool = False
    paused: bool = False
    generation: int = 0
    """In force; where there is a failure, the one that was attempted."""
    failure: str = ""
    """Why it does not run as wanted, in words."""
    ending: bool = False
    ended: bool = False
    watched: tuple[Watched, ...] = ()
    notes: tuple[str, ...] = ()
    """What its user should know, though it runs."""
    outbox: OutboxCounters = NOTHING_SENT


class Supervisor:
    """Begins at once. `want` and `end` may be called from any thread; the latest wish counts."""

    def __init__(self, resource: NetworkMonitor, generation: int, common: Supervised) -> None:
        self.uid = MonitorUid(resource.uid)
        self.error: PodwireError | None = None
        """Why the last attempt failed, where that was foreseen."""
        self.taken = True
        """At the end: the sink took the last reports, and nothing failed."""
        self._common = common
        self._changed = threading.Condition()
        self._wanted = (resource, generation)
        self._ending: Ending | None = None
        self._crash: Exception | None = None
        self._standing = Standing()
        self._failures = 0
        self._not_before_s = 0.0
        self._started_s: float | None = None
        self._ran = False
        self._monitor: RunningMonitor | None = None
        self._outbox: Outbox | None = None
        self._sinks: object = None  # of the spec: what the outbox was made for
        self._handed_on = False  # the report that a former one offered last is in it
        self._former: MonitorState | None = None  # the sum of those that ran before
        self._thread = threading.Thread(target=self._run, name=f"monitor {self.uid[:8]}")
        self._thread.start()

    @property
    def name(self) -> str:
        """The resource's."""
        return self._wanted[0].metadata.name

    def want(self, resource: NetworkMonitor, generation: int) -> None:
        """Have it run so from now on."""
        with self._changed:
            if self._wanted == (resource, generation):
                return
            self._wanted = (resource, generation)
            self._not_before_s = 0.0
            self._changed.notify_all()

    def end(self, ending: Ending) -> None:
        """Have it end; see `join`."""
        with self._changed:
            if self._ending is None:
                self._ending = ending
                self._standing = replace(self._standing, ending=True)
            self._changed.notify_all()

    def join(self, timeout_s: float | None = None) -> bool:
        """Until it has ended; False where that takes longer."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def attempted(self) -> None:
        """Until it runs, or an attempt has failed: then this raises its error. PodwireError."""
        with self._changed:
            self._changed.wait_for(lambda: self._standing.running or self._failures)
            if self._standing.running:
                return
            if self.error is not None:
                raise self.error
            raise PodwireError(self._standing.failure)

    def standing(self) -> Standing:
        """Now."""
        with self._changed:
            standing, monitor, outbox = self._standing, self._monitor, self._outbox
        return replace(
            standing,
            watched=() if monitor is None else tuple(monitor.watched()),
            notes=() if monitor is None else monitor.notes(),
            outbox=NOTHING_SENT if outbox is None else outbox.counters,
        )

    def new_flows_per_s(self) -> float:
        """Over the interval of the last report; 0 while it does not run."""
        with self._changed:  # so that it does not end meanwhile
            return 0.0 if self._monitor is None else self._monitor.new_flows_per_s()

    def state(self) -> MonitorState:
        """What a scrape shows: of the one that runs, with what those before it counted. KernelError."""
        with self._changed:  # as above
            monitor, former, outbox = self._monitor, self._former, self._outbox
            if monitor is not None:
                state = monitor.state() if former is None else monitor.state().after(former)
            elif former is not None:
                state = replace(former, scanned=not self._standing.failure)
            else:
                state = MonitorState(name=self._wanted[0].metadata.name, period_s=0.0, scanned=False)
        return state if outbox is None else replace(state, outbox=(outbox.name, outbox.counters))

    def current(self) -> Snapshot | None:
        """What it has to tell now; None where it does not run, or before the first report. KernelError."""
        with self._changed:  # as above
            return None if self._monitor is None else self._monitor.current()

    def comparison(self) -> Comparison | None:
        """Where agents of other nodes are heard; None: it does not run."""
        with self._changed:  # as above
            return None if self._monitor is None else self._monitor.comparison()

    def shown(self) -> tuple[int, Edges] | None:
        """The rows that whoever pulls sees, and a number for `seen`; None: nothing, or it does not run."""
        with self._changed:  # as above
            return None if self._monitor is None else self._monitor.shown()

    def seen(self, scraper: str, number: int) -> None:
        """`scraper`, an address, has got all that `shown` gave with the number."""
        with self._changed:  # as above
            if self._monitor is not None:
                self._monitor.seen(scraper, number)

    def _run(self) -> None:
        while (ending := self._next()) is None:
            try:
                with contained(f"monitor {self.uid}", self.crashed):
                    self._bring_up()
            except PodwireError as error:
                self._failed(str(error))
        with contained(f"ending monitor {self.uid}", self.crashed):
            self._end(ending)
        self._tell(replace(self._standing, running=False, ended=True))

    def _next(self) -> Ending | None:
        """Wait for something to do; None: bring it up, or anew."""
        with self._changed:
            while self._ending is None:
                if self._crash is not None:
                    return None
                wait_s = self._not_before_s - time.monotonic()
                if self._to_do() and wait_s <= 0:
                    return None
                self._changed.wait(wait_s if self._to_do() and wait_s < math.inf else None)
            return self._ending

    def _to_do(self) -> bool:
        return self._monitor is None or self._wanted != (self._monitor.resource, self._standing.generation)

    def _bring_up(self) -> None:
        with self._changed:
            resource, generation = self._wanted
            crash, self._crash = self._crash, None
        if crash is not None:
            self._handed_on = False
            self._drop()
            return  # begun again when it is time
        if self._monitor is not None:
            if _run_alike(self._monitor.resource.spec, resource.spec):
                with self._changed:
                    self._monitor = replace(self._monitor, resource=resource)
                self._tell(replace(self._standing, generation=generation))
                log.info("monitor %s: generation %d changes nothing here", self.name, generation)
                return
            if (monitor := self._taken_out()) is not None:
                self._handed_on = monitor.hand_over()
        try:
            started = self._start(resource)
        except PodwireError as error:
            self.error = error
            self._failed(str(error), generation)
            return
        with self._changed:
            self._monitor = started
            self._started_s, self._ran = time.monotonic(), True
        self._tell(Standing(running=True, paused=resource.spec.paused, generation=generation))
        if generation:
            log.info("monitor %s: generation %d is in force", self.name, generation)

    def _start(self, resource: NetworkMonitor) -> RunningMonitor:
        common, sinks, outbox = self._common, resource.spec.sinks, self._outbox
        if outbox is None or self._sinks != sinks:
            self._handed_on = False
            if outbox is not None:
                outbox.close(common.patience_s)
            outbox = Outbox(common.sink(resource), common.nobody_reads)
            self._outbox, self._sinks = outbox, sinks
        select, rules = common.choose(resource.spec), common.rules(resource.spec)
        return RunningMonitor.start(
            resource, common.ground, outbox, select, rules, self.crashed, common.look, handed_on=self._handed_on
        )

    def _end(self, ending: Ending) -> None:
        monitor = self._taken_out()
        self.taken, taken = False, True
        if monitor is None and ending is Ending.REMOVE:
            monitor = self._revived()
        try:
            if ending is Ending.UNDO:
                if monitor is not None:
                    monitor.abandon(undo=True)
            elif monitor is not None:
                taken = monitor.finish(keep=ending is Ending.KEEP, patience_s=self._common.patience_s)
            elif ending is Ending.REMOVE:
                for line in remove_left(self._common.ground.state, self._common.ground.home, self.uid):
                    log.info("removed %s", line)
            self.taken = taken
        except PodwireError as error:
            self.error = error
            log.error("ending monitor %s: %s", self.uid, error)
        finally:
            if self._outbox is not None:
                self._outbox.close(self._common.patience_s)

    def _revived(self) -> RunningMonitor | None:
        """What one that does not run has counted, to be reported a last time; None where that is nothing, or fails."""
        if not in_use(self._common.ground.home / self.uid):
            return None
        resource, _ = self._wanted
        detached = resource.model_copy(update={"spec": resource.spec.model_copy(update={"paused": True})})
        try:
            return self._start(detached)
        except PodwireError as error:
            log.warning("monitor %s: reporting it a last time: %s; what was not reported is lost", self.uid, error)
            return None

    def _drop(self) -> None:
        """After what nobody foresaw: what it has in memory may be wrong; what is pinned is not."""
        with self._changed:
            monitor, self._monitor = self._monitor, None
        if monitor is not None:
            monitor.abandon()

    def _taken_out(self) -> RunningMonitor | None:
        """The one that runs, for its end; what it counted is remembered."""
        try:
            state = self.state()
        except PodwireError as error:
            log.warning("monitor %s: its counters begin anew: %s", self.uid, error)
            state = None
        with self._changed:
            monitor, self._monitor = self._monitor, None
            self._former = state
        return monitor

    def crashed(self, error: Exception) -> None:
        """Told of what nobody foresaw, in whatever thread: it is begun anew from what is pinned."""
        with self._changed:
            self._crash = error
        self._failed(
            f"an error that nobody foresaw, {type(error).__name__}: {error}; see the agent's log, and report it"
        )

    def _failed(self, words: str, generation: int | None = None) -> None:
        now_s = time.monotonic()
        with self._changed:
            if self._started_s is not None and now_s - self._started_s > SETTLED_S:
                self._failures = 0
            self._started_s = None
            self._failures += 1
            wait_s = min(LAST_RETRY_S, FIRST_RETRY_S * 2 ** min(self._failures - 1, 10))
            if self._common.first_decides and not self._ran:
                wait_s = math.inf
            self._not_before_s = now_s + wait_s
            told = self._standing.failure == words or wait_s == math.inf
        log.log(
            logging.DEBUG if told else logging.ERROR, "monitor %s, tried again in %g s: %s", self.uid, wait_s, words
        )
        generation = self._standing.generation if generation is None else generation
        self._tell(replace(self._standing, running=False, failure=words, generation=generation))

    def _tell(self, standing: Standing) -> None:
        with self._changed:
            self._standing = replace(standing, ending=self._ending is not None)
            self._changed.notify_all()
        self._common.changed()


class Currently:
    """What the monitors of an agent have to tell now: local_api.Current."""

    def __init__(self, supervisors: Callable[[], Iterable[Supervisor]]) -> None:
        self._supervisors = supervisors

    def monitors(self) -> Sequence[str]:
        """Their names."""
        return [each.name for each in self._supervisors()]

    def snapshot(self, monitor: str) -> Snapshot | None:
        """Of the monitor with the name. KernelError."""
        return next((each.current() for each in self._supervisors() if each.name == monitor), None)


def _run_alike(one: NetworkMonitorSpec, other: NetworkMonitorSpec) -> bool:
    """They differ at most in which nodes they mean."""
    return one.model_copy(update={"nodes": None}) == other.model_copy(update={"nodes": None})
