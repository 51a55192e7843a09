"""What the agent tells of itself: its state, its health and its readiness, made when somebody asks."""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from podwire_agent.core.totals import Accounts
from podwire_agent.layout import FlowDirection
from podwire_agent.model import Cause, Traffic
from podwire_agent.sinks.outbox import OutboxCounters

if TYPE_CHECKING:
    from podwire_agent.correlation import RowsState

BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
"""Upper bounds; making a map takes 5 ms, a cut 10, draining 100 000 flows some tens."""

Exposed = tuple[list[tuple[str, float]], float]
"""A histogram: the cumulative count at each upper bound, and the sum in seconds."""

BEGUN = "begun"
DRAINED = "released"

NOTHING = Traffic()

STALLED_PERIODS = 3
STALLED_GRACE_S = 10.0


@dataclass(frozen=True, slots=True)
class TranslationsState:
    """The kernel's translated connections, as far as they are known. `*_total` never falls."""

    connections: int = 0
    dropped_total: int = 0
    overruns_total: int = 0
    failures_total: int = 0


@dataclass(frozen=True, slots=True)
class ExchangeState:
    """Between this agent and those of other nodes. `*_total` never falls."""

    peers: int = 0
    """That have answered."""
    worst_offset_s: float = 0.0
    """Of their clocks, the one that is farthest from ours."""
    requests_total: int = 0
    sent_bytes_total: int = 0
    failures_total: Mapping[str, int] = field(default_factory=dict)
    """Of our requests, by what was answered."""
    refused_total: Mapping[str, int] = field(default_factory=dict)
    """Of theirs, by what was wrong."""


@dataclass(frozen=True, slots=True)
class MonitorState:
    """What one monitor's metrics are made of. `*_total` never falls while the process lives."""

    name: str
    period_s: float
    """From one drain to the next."""
    scanned: bool
    """The first scan of the interfaces is done, and what was found is attached or failed for good."""
    last_drain_unix_s: float = 0.0
    """0: none yet."""
    paused: bool = False
    accounts: Mapping[FlowDirection, Accounts] = field(default_factory=dict)
    filtered: Mapping[Cause, Traffic] = field(default_factory=dict)
    flows: int = 0
    """Rows of the flow table."""
    evicted_flows_total: int = 0
    map_used: Mapping[FlowDirection, int] = field(default_factory=dict)
    """Entries of the epoch drained last."""
    map_capacity: Mapping[FlowDirection, int] = field(default_factory=dict)
    cuts_total: int = 0
    missed_cuts_total: int = 0
    delayed_reports_total: int = 0
    interfaces: Mapping[str, int] = field(default_factory=dict)
    """By attach state."""
    attach_failures_total: int = 0
    discarded: Traffic = NOTHING
    """Counted in the ledger, never reported: the sink was dead and memory ran out."""
    held_flows: int = 0
    """Not reported yet: the rules cannot be asked about them before it is known whose they are."""
    unjudged: Traffic = NOTHING
    """Reported though the rules could not be asked."""
    rows: RowsState | None = None
    """None where nobody can say which workloads talk."""
    outbox: tuple[str, OutboxCounters] | None = None
    """The sink's name and where its reports went."""

    def after(self, former: MonitorState) -> MonitorState:
        """With what was counted by `former`, which this one has followed in the same process."""
        return replace(
            self,
            evicted_flows_total=self.evicted_flows_total + former.evicted_flows_total,
            cuts_total=self.cuts_total + former.cuts_total,
            missed_cuts_total=self.missed_cuts_total + former.missed_cuts_total,
            delayed_reports_total=self.delayed_reports_total + former.delayed_reports_total,
            attach_failures_total=self.attach_failures_total + former.attach_failures_total,
            discarded=self.discarded + former.discarded,
            unjudged=self.unjudged + former.unjudged,
        )


@dataclass(frozen=True, slots=True)
class ClusterState:
    """How the agent stands to its cluster."""

    view: bool = False
    """Monitors, pools and the node were listed."""
    stale_s: float = 0.0
    """For how long changes may have been missed; 0 while the API server is followed."""
    pods: int = 0
    """In view."""
    monitors: Mapping[str, int] = field(default_factory=dict)
    """That select this node, by the reason in their status."""
    problems: tuple[str, ...] = ()
    """What keeps the agent from working here, each with what to do."""
    status_writes_total: int = 0
    status_failures_total: int = 0
    api_errors_total: int = 0
    forgotten_addresses_total: int = 0
    """Of former pods, forgotten sooner than the monitors ask for."""
    translations: TranslationsState = TranslationsState()
    exchange: ExchangeState = ExchangeState()


@dataclass(frozen=True, slots=True)
class EndpointState:
    """What became of those who asked over HTTP, health and metrics together. None of it ever falls."""

    replies: Mapping[int, int] = field(default_factory=dict)
    """By HTTP status."""
    turned_away: int = 0
    """Connections beyond the limits."""
    broken: int = 0
    """Connections that ended before their reply."""
    reviews: Mapping[str, int] = field(default_factory=dict)
    """Questions to the API server about tokens, by what became of them."""


NOBODY_ASKED = EndpointState()


@dataclass(frozen=True, slots=True)
class AgentState:
    """What a scrape shows; made anew for each."""

    version: str
    kernel: str
    loader: str
    started_unix_s: float
    monitors: tuple[MonitorState, ...]
    late_s: float = 0.0
    """How late the last cut was."""
    failures_total: int = 0
    """Steps that failed and were tried again."""
    cluster: ClusterState | None = None
    """None without a cluster."""
    endpoint: EndpointState = NOBODY_ASKED


@dataclass(frozen=True, slots=True)
class Answer:
    """To a probe: yes or no, and why in words, a line a reason."""

    ok: bool
    words: str


def health(state: AgentState, now_unix_s: float) -> Answer:
    """Whether every monitor's drain has moved lately: within three periods and ten seconds."""
    stalled = []
    for monitor in state.monitors:
        if not monitor.scanned:
            continue  # it does not run yet: readiness tells
        limit_s = STALLED_PERIODS * monitor.period_s + STALLED_GRACE_S
        idle_s = now_unix_s - max(monitor.last_drain_unix_s, state.started_unix_s)
        if idle_s > limit_s:
            since = "no drain since the start" if not monitor.last_drain_unix_s else "the last drain was"
            stalled.append(f"monitor {monitor.name}: {since} {idle_s:.0f} s ago; expected every {monitor.period_s:g} s")
    return Answer(False, "\n".join(stalled)) if stalled else Answer(True, "ok")


def readiness(state: AgentState) -> Answer:
    """Whether every monitor has attached for the first time; in a cluster, once the agent knows which there are."""
    waiting: list[str] = []
    if state.cluster is not None:
        waiting += state.cluster.problems
        if not state.cluster.view:
            waiting.append("the API server has not told yet which monitors there are")
    waiting += [
        f"monitor {monitor.name}: the first scan of the interfaces is not done"
        for monitor in state.monitors
        if not (monitor.scanned or monitor.paused)
    ]
    return Answer(False, "\n".join(waiting)) if waiting else Answer(True, "ok")


class StepTimes:
    """A ports.StepObserver: how long each step takes. Safe for threads, which are timed apart.

    A step lasts from the one before it in the same thread; "begun" starts the clock and is no step itself,
    so that waiting between two ticks is nobody's duration.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        """`clock` in seconds."""
        self._clock = clock
        self._lock = threading.Lock()
        self._thread = threading.local()
        self._steps: dict[str, _Histogram] = {}
        self._drains = _Histogram()

    def step(self, name: str) -> None:
        """The step `name` has ended; "begun": the next one begins."""
        now = self._clock()
        before: float | None = getattr(self._thread, "before", None)
        begun: float | None = getattr(self._thread, "begun", None)
        self._thread.before = now
        if name == BEGUN:
            self._thread.begun = now
            return
        if before is None or begun is None:
            return
        with self._lock:
            self._steps.setdefault(str(name), _Histogram()).add(now - before)
            if name == DRAINED:
                self._drains.add(now - begun)

    def histograms(self) -> tuple[dict[str, Exposed], Exposed]:
        """Each step's time, and each drain's: from its beginning until the last map is dropped."""
        with self._lock:
            steps = {name: histogram.exposed() for name, histogram in self._steps.items()}
            return steps, self._drains.exposed()


@dataclass(slots=True)
class _Histogram:
    counts: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS_S) + 1))
    sum_s: float = 0.0

    def add(self, seconds: float) -> None:
        self.counts[bisect_left(BUCKETS_S, seconds)] += 1
        self.sum_s += seconds

    def exposed(self) -> Exposed:
        """Cumulative, as the exposition wants them."""
        buckets, total = [], 0
        for bound, count in zip((*map(str, BUCKETS_S), "+Inf"), self.counts, strict=True):
            total += count
            buckets.append((bound, float(total)))
        return buckets, self.sum_s
