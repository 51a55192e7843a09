"""The agent's own metrics, its health and its readiness: views of its state, made when somebody asks."""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from podwire_agent.core.totals import Accounts
from podwire_agent.layout import FlowDirection
from podwire_agent.model import Cause, Traffic
from podwire_agent.sinks.naming import DIRECTIONS
from podwire_agent.sinks.outbox import OutboxCounters

BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
"""Upper bounds; making a map takes 5 ms, a cut 10, draining 100 000 flows some tens."""

BEGUN = "begun"
DRAINED = "released"

NOTHING = Traffic()

STALLED_PERIODS = 3
STALLED_GRACE_S = 10.0


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
    outbox: tuple[str, OutboxCounters] | None = None
    """The sink's name and where its reports went."""


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


@dataclass(frozen=True, slots=True)
class Answer:
    """To a probe: yes or no, and why in words, a line a reason."""

    ok: bool
    words: str


def health(state: AgentState, now_unix_s: float) -> Answer:
    """Whether every monitor's drain has moved lately: within three periods and ten seconds."""
    stalled = []
    for monitor in state.monitors:
        limit_s = STALLED_PERIODS * monitor.period_s + STALLED_GRACE_S
        idle_s = now_unix_s - max(monitor.last_drain_unix_s, state.started_unix_s)
        if idle_s > limit_s:
            since = "no drain since the start" if not monitor.last_drain_unix_s else "the last drain was"
            stalled.append(f"monitor {monitor.name}: {since} {idle_s:.0f} s ago; expected every {monitor.period_s:g} s")
    return Answer(False, "\n".join(stalled)) if stalled else Answer(True, "ok")


def readiness(state: AgentState) -> Answer:
    """Whether every monitor has scanned and attached for the first time."""
    waiting = [
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

    def collect(self) -> Iterator[Metric]:
        """Each step's time, and each drain's: from its beginning until the last map is dropped."""
        steps = HistogramMetricFamily("podwire_agent_step_seconds", "Time a step of a tick took", labels=["step"])
        drains = HistogramMetricFamily(
            "podwire_agent_drain_seconds", "Time to read, fold, checkpoint and drop what was cut"
        )
        with self._lock:
            for name, histogram in self._steps.items():
                steps.add_metric([name], *histogram.exposed())
            drains.add_metric([], *self._drains.exposed())
        yield steps
        yield drains


class AgentCollector(Collector):
    """Metrics made from the state at each scrape."""

    def __init__(self, state: Callable[[], AgentState], step_times: StepTimes) -> None:
        self._state = state
        self._step_times = step_times

    def collect(self) -> Iterator[Metric]:
        """All families but those of the process."""
        state = self._state()
        info = InfoMetricFamily("podwire_agent", "The agent and what it runs on")
        info.add_metric([], {"version": state.version, "kernel": state.kernel, "loader": state.loader})
        yield info
        yield GaugeMetricFamily("podwire_agent_cut_late_seconds", "How late the last cut was", state.late_s)
        yield CounterMetricFamily(
            "podwire_agent_failures_total", "Steps that failed and were tried again", state.failures_total
        )
        yield from self._step_times.collect()
        yield from _ledger(state.monitors)
        yield _filtered(state.monitors)
        yield from _datapath(state.monitors)
        yield from _sinks(state.monitors)

    def describe(self) -> Iterable[Metric]:
        """None: registering must not ask for a state that is not there yet."""
        return []


class Exposition:
    """The whole of /metrics."""

    def __init__(self, state: Callable[[], AgentState], step_times: StepTimes) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(AgentCollector(state, step_times))
        ProcessCollector(namespace="podwire_agent", registry=self._registry)

    def render(self, accept: str) -> tuple[bytes, str]:
        """The text and its content type: OpenMetrics where `accept` asks for it, else Prometheus' own."""
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type


@dataclass(slots=True)
class _Histogram:
    counts: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS_S) + 1))
    sum_s: float = 0.0

    def add(self, seconds: float) -> None:
        self.counts[bisect_left(BUCKETS_S, seconds)] += 1
        self.sum_s += seconds

    def exposed(self) -> tuple[list[tuple[str, float]], float]:
        """Cumulative, as the exposition wants them."""
        buckets, total = [], 0
        for bound, count in zip((*map(str, BUCKETS_S), "+Inf"), self.counts, strict=True):
            total += count
            buckets.append((bound, float(total)))
        return buckets, self.sum_s


def _ledger(monitors: Iterable[MonitorState]) -> Iterator[Metric]:
    labels = ["monitor", "direction", "class"]
    packets = CounterMetricFamily("podwire_ledger_packets_total", "Packets on the wire by ledger class", labels=labels)
    octets = CounterMetricFamily("podwire_ledger_bytes_total", "Bytes on the wire by ledger class", labels=labels)
    for monitor in monitors:
        for direction, accounts in monitor.accounts.items():
            for name in (each.name for each in fields(accounts)):
                traffic: Traffic = getattr(accounts, name)
                packets.add_metric([monitor.name, DIRECTIONS[direction], name], traffic.packets)
                octets.add_metric([monitor.name, DIRECTIONS[direction], name], traffic.bytes)
    yield packets
    yield octets


def _filtered(monitors: tuple[MonitorState, ...]) -> Metric:
    packets = CounterMetricFamily(
        "podwire_filtered_packets_total",
        "Filtered packets by the rule they are charged to",
        labels=["monitor", "list", "rule"],
    )
    for monitor in monitors:
        for cause, traffic in monitor.filtered.items():
            packets.add_metric([monitor.name, cause.list, cause.rule], traffic.packets)
    return packets


def _datapath(monitors: tuple[MonitorState, ...]) -> Iterator[Metric]:
    used = GaugeMetricFamily(
        "podwire_agent_map_entries", "Flows in the map drained last", labels=["monitor", "direction"]
    )
    capacity = GaugeMetricFamily(
        "podwire_agent_map_capacity", "Flows the active map has room for", labels=["monitor", "direction"]
    )
    interfaces = GaugeMetricFamily(
        "podwire_agent_interfaces", "Interfaces by attach state", labels=["monitor", "state"]
    )
    for monitor in monitors:
        for direction in monitor.map_used:
            used.add_metric([monitor.name, DIRECTIONS[direction]], monitor.map_used[direction])
        for direction in monitor.map_capacity:
            capacity.add_metric([monitor.name, DIRECTIONS[direction]], monitor.map_capacity[direction])
        for state, number in monitor.interfaces.items():
            interfaces.add_metric([monitor.name, state], number)
    yield from (used, capacity, interfaces)
    flows = GaugeMetricFamily("podwire_agent_flows", "Rows of the flow table", labels=["monitor"])
    last = GaugeMetricFamily("podwire_agent_last_drain_timestamp_seconds", "When it ended", labels=["monitor"])
    for monitor in monitors:
        flows.add_metric([monitor.name], monitor.flows)
        last.add_metric([monitor.name], monitor.last_drain_unix_s)
    yield from (flows, last)
    counters: tuple[tuple[str, str, Callable[[MonitorState], int]], ...] = (
        ("cuts", "Epochs ended", lambda monitor: monitor.cuts_total),
        ("missed_cuts", "Cuts left out: stalled, or too many maps waited", lambda monitor: monitor.missed_cuts_total),
        ("delayed_reports", "Reports that waited for the sink", lambda monitor: monitor.delayed_reports_total),
        ("attach_failures", "Attempts to attach that failed", lambda monitor: monitor.attach_failures_total),
        ("evicted_flows", "Flows forgotten to make room", lambda monitor: monitor.evicted_flows_total),
        ("discarded_packets", "Counted, never reported", lambda monitor: monitor.discarded.packets),
        ("discarded_bytes", "Counted, never reported", lambda monitor: monitor.discarded.bytes),
    )
    for name, meaning, value in counters:
        family = CounterMetricFamily(f"podwire_agent_{name}_total", meaning, labels=["monitor"])
        for monitor in monitors:
            family.add_metric([monitor.name], value(monitor))
        yield family


def _sinks(monitors: Iterable[MonitorState]) -> Iterator[Metric]:
    labels = ["monitor", "sink"]
    outcome = [*labels, "outcome"]
    queued = GaugeMetricFamily("podwire_agent_sink_queued_reports", "Reports not handed on yet", labels=labels)
    reports = CounterMetricFamily("podwire_agent_sink_reports_total", "Reports by what became of them", labels=outcome)
    flows = CounterMetricFamily("podwire_agent_sink_flows_total", "Flow records in these reports", labels=outcome)
    packets = CounterMetricFamily("podwire_agent_sink_packets_total", "Packets in these records", labels=outcome)
    for monitor in monitors:
        if monitor.outbox is None:
            continue
        sink, counters = monitor.outbox
        queued.add_metric([monitor.name, sink], counters.queued)
        for name, tally in (("sent", counters.sent), ("failed", counters.failed), ("dropped", counters.dropped)):
            reports.add_metric([monitor.name, sink, name], tally.reports)
            flows.add_metric([monitor.name, sink, name], tally.flows)
            packets.add_metric([monitor.name, sink, name], tally.packets)
    yield from (queued, reports, flows, packets)
