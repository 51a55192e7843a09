"""The agent's metrics in Prometheus' formats.

Apart from what is exposed, since the client library takes 3 MB and 30 ms: it is loaded with the first scrape.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from prometheus_client import ProcessCollector, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.registry import Collector

from podwire_agent.errors import MonitorUnknown
from podwire_agent.model import Traffic
from podwire_agent.negotiation import Format
from podwire_agent.sinks.naming import DIRECTIONS
from podwire_agent.sinks.pair_text import PairText
from podwire_agent.telemetry import (
    AgentState,
    ClusterState,
    EndpointState,
    ExchangeState,
    MonitorState,
    StepTimes,
    TranslationsState,
)

if TYPE_CHECKING:
    from podwire_agent.correlation import RowsState
    from podwire_agent.sinks.pair_text import HistogramColumns, PairColumns

UNITS = ("bytes", "packets", "seconds")
"""A metric whose name ends in one of them has it; OpenMetrics says so in a line of its own."""

_EOF = b"# EOF\n"


def _nothing() -> None:
    """When a page was sent that nobody waits for."""


@dataclass(frozen=True, slots=True)
class Rows:
    """What a page shows of pairs of workloads. The columns do not change any more."""

    pairs: Sequence[PairColumns] = ()
    """One for each monitor."""
    histograms: Sequence[HistogramColumns] = ()
    sent: Callable[[], None] = _nothing
    """Called when the scraper has been sent all of it."""


RowSource = Callable[[str, frozenset[str]], Rows]
"""From the scraper's address and the names of monitors (none: all of them) to what it is shown."""


def no_rows(_scraper: str, _monitors: frozenset[str]) -> Rows:
    """Where no monitor has any."""
    return Rows()


@dataclass(frozen=True, slots=True)
class Page:
    """One answer to a scrape; `chunks` are made while they are read."""

    chunks: Iterator[bytes]
    sent: Callable[[], None]


class Exposition:
    """The whole of /metrics."""

    def __init__(self, state: Callable[[], AgentState], step_times: StepTimes, rows: RowSource = no_rows) -> None:
        """`state` is asked for each page."""
        self._state = state
        self._step_times = step_times
        self._rows = rows
        self._process = ProcessCollector(namespace="podwire_agent", registry=None)
        self._pair_text = PairText()

    def page(self, wanted: Format, monitors: frozenset[str] = frozenset(), scraper: str = "") -> Page:
        """All there is, or what there is of these monitors alone. MonitorUnknown."""
        state = self._state()
        known = {each.name for each in state.monitors}
        if unknown := sorted(monitors - known):
            there = f"there are {', '.join(sorted(known))}" if known else "there is none"
            raise MonitorUnknown(f"no monitor {', '.join(unknown)} on this node: {there}")
        rows = self._rows(scraper, monitors)
        return Page(self._chunks(_Collected(self._families(state), monitors), rows, wanted), rows.sent)

    def _families(self, state: AgentState) -> Iterator[Metric]:
        yield from _families(state, self._step_times)
        yield from self._process.collect()

    def _chunks(self, collected: Collector, rows: Rows, wanted: Format) -> Iterator[bytes]:
        openmetrics = wanted is Format.OPENMETRICS
        if openmetrics:
            text: bytes = generate_openmetrics(collected)  # type: ignore[no-untyped-call]
            yield text.removesuffix(_EOF)
        else:
            yield generate_latest(collected)
        yield from self._pair_text.render(rows.pairs, rows.histograms, openmetrics=openmetrics)
        if openmetrics:
            yield _EOF


class _Collected(Collector):
    """Families with their units; of some monitors alone, where any are named."""

    def __init__(self, families: Iterable[Metric], monitors: frozenset[str]) -> None:
        self._families = families
        self._monitors = monitors

    def collect(self) -> Iterator[Metric]:
        for family in self._families:
            family.unit = next((unit for unit in UNITS if family.name.endswith(f"_{unit}")), "")
            if self._monitors:
                family.samples = [each for each in family.samples if each.labels.get("monitor") in self._monitors]
            if family.samples or not self._monitors:
                yield family


def _families(state: AgentState, step_times: StepTimes) -> Iterator[Metric]:
    info = InfoMetricFamily("podwire_agent", "The agent and what it runs on")
    info.add_metric([], {"version": state.version, "kernel": state.kernel, "loader": state.loader})
    yield info
    yield GaugeMetricFamily("podwire_agent_cut_late_seconds", "How late the last cut was", state.late_s)
    yield CounterMetricFamily(
        "podwire_agent_failures_total", "Steps that failed and were tried again", state.failures_total
    )
    yield from _steps(step_times)
    yield from _ledger(state.monitors)
    yield _filtered(state.monitors)
    yield from _datapath(state.monitors)
    yield from _sinks(state.monitors)
    yield from _rows(state.monitors)
    yield from _cluster(state.cluster)
    if state.cluster is not None:
        yield from _translations(state.cluster.translations)
        yield from _exchange(state.cluster.exchange)
    yield from _endpoint(state.endpoint)


def _steps(step_times: StepTimes) -> Iterator[Metric]:
    steps = HistogramMetricFamily("podwire_agent_step_seconds", "Time a step of a tick took", labels=["step"])
    drains = HistogramMetricFamily(
        "podwire_agent_drain_seconds", "Time to read, fold, checkpoint and drop what was cut"
    )
    by_step, of_drains = step_times.histograms()
    for name, histogram in by_step.items():
        steps.add_metric([name], *histogram)
    drains.add_metric([], *of_drains)
    yield steps
    yield drains


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
    held = GaugeMetricFamily(
        "podwire_agent_held_flows", "Flows not reported before rules can be asked about them", labels=["monitor"]
    )
    for monitor in monitors:
        flows.add_metric([monitor.name], monitor.flows)
        held.add_metric([monitor.name], monitor.held_flows)
        last.add_metric([monitor.name], monitor.last_drain_unix_s)
    yield from (flows, held, last)
    counters: tuple[tuple[str, str, Callable[[MonitorState], int]], ...] = (
        ("cuts", "Epochs ended", lambda monitor: monitor.cuts_total),
        ("missed_cuts", "Cuts left out: stalled, or too many maps waited", lambda monitor: monitor.missed_cuts_total),
        ("delayed_reports", "Reports that waited for the sink", lambda monitor: monitor.delayed_reports_total),
        ("attach_failures", "Attempts to attach that failed", lambda monitor: monitor.attach_failures_total),
        ("evicted_flows", "Flows forgotten to make room", lambda monitor: monitor.evicted_flows_total),
        ("discarded_packets", "Counted, never reported", lambda monitor: monitor.discarded.packets),
        ("discarded_bytes", "Counted, never reported", lambda monitor: monitor.discarded.bytes),
        ("unjudged_packets", "Reported though rules could not be asked", lambda monitor: monitor.unjudged.packets),
        ("unjudged_bytes", "Reported though rules could not be asked", lambda monitor: monitor.unjudged.bytes),
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


def _rows(monitors: Iterable[MonitorState]) -> Iterator[Metric]:
    rows = GaugeMetricFamily("podwire_agent_rows", "Pairs of workloads that have a row", labels=["monitor"])
    compared = GaugeMetricFamily(
        "podwire_agent_compared_flows", "Flows remembered to be compared", labels=["monitor", "end"]
    )
    counters: tuple[tuple[str, str, Callable[[RowsState], int]], ...] = (
        ("turned_away_groups", "Groups of flows without a row, for want of room", lambda each: each.turned_away_total),
        ("late_windows", "Cuts not compared since they came late", lambda each: each.late_windows_total),
        ("dropped_statements", "Other agents' words without room", lambda each: each.dropped_statements_total),
        ("given_up_packets", "Handed to an agent that never said so", lambda each: each.given_up_packets_total),
    )
    known = [(monitor.name, monitor.rows) for monitor in monitors if monitor.rows is not None]
    for name, each in known:
        rows.add_metric([name], each.rows)
        for end, number in each.compared_flows.items():
            compared.add_metric([name, end], number)
    yield from (rows, compared)
    for counter, meaning, value in counters:
        family = CounterMetricFamily(f"podwire_agent_{counter}_total", meaning, labels=["monitor"])
        for name, each in known:
            family.add_metric([name], value(each))
        yield family


def _translations(state: TranslationsState) -> Iterator[Metric]:
    yield GaugeMetricFamily("podwire_agent_translated_connections", "The kernel's that are known", state.connections)
    for name, meaning, value in (
        ("dropped_connections", "Translated connections without room", state.dropped_total),
        ("conntrack_overruns", "Times that conntrack's events were lost", state.overruns_total),
        ("conntrack_failures", "Lists and events of conntrack that failed", state.failures_total),
    ):
        yield CounterMetricFamily(f"podwire_agent_{name}_total", meaning, value)


def _exchange(state: ExchangeState) -> Iterator[Metric]:
    yield GaugeMetricFamily("podwire_agent_exchange_peers", "Agents of other nodes that have answered", state.peers)
    yield GaugeMetricFamily(
        "podwire_agent_exchange_worst_offset_seconds", "Of their clocks, the farthest from ours", state.worst_offset_s
    )
    yield CounterMetricFamily("podwire_agent_exchange_requests_total", "Requests to them", state.requests_total)
    yield CounterMetricFamily("podwire_agent_exchange_sent_bytes_total", "In these requests", state.sent_bytes_total)
    failures = CounterMetricFamily(
        "podwire_agent_exchange_failures_total", "Requests to them that failed", labels=["reason"]
    )
    refused = CounterMetricFamily(
        "podwire_agent_exchange_refused_total", "Requests of theirs that were refused", labels=["reason"]
    )
    for family, by_reason in ((failures, state.failures_total), (refused, state.refused_total)):
        for reason, number in sorted(by_reason.items()):
            family.add_metric([reason], number)
        yield family


def _cluster(cluster: ClusterState | None) -> Iterator[Metric]:
    monitors = GaugeMetricFamily(
        "podwire_agent_monitors", "Monitors that select this node, by the reason in their status", labels=["reason"]
    )
    stale = GaugeMetricFamily("podwire_agent_view_stale_seconds", "For how long changes may have been missed")
    pods = GaugeMetricFamily("podwire_agent_view_pods", "Pods of the cluster that the agent knows")
    writes = CounterMetricFamily("podwire_agent_status_writes_total", "Writes of the AgentNode", labels=["outcome"])
    errors = CounterMetricFamily("podwire_agent_api_errors_total", "Requests that the API server refused or left")
    forgotten = CounterMetricFamily(
        "podwire_agent_forgotten_addresses_total", "Former pods' addresses, forgotten sooner than monitors ask for"
    )
    if cluster is not None:
        for reason, number in cluster.monitors.items():
            monitors.add_metric([reason], number)
        stale.add_metric([], cluster.stale_s)
        pods.add_metric([], cluster.pods)
        writes.add_metric(["done"], cluster.status_writes_total)
        writes.add_metric(["failed"], cluster.status_failures_total)
        errors.add_metric([], cluster.api_errors_total)
        forgotten.add_metric([], cluster.forgotten_addresses_total)
    yield from (monitors, stale, pods, writes, errors, forgotten)


def _endpoint(endpoint: EndpointState) -> Iterator[Metric]:
    replies = CounterMetricFamily(
        "podwire_agent_http_replies_total", "Requests by the status of their reply", labels=["code"]
    )
    unserved = CounterMetricFamily(
        "podwire_agent_http_unserved_total", "Connections that ended without a reply", labels=["reason"]
    )
    reviews = CounterMetricFamily(
        "podwire_agent_token_reviews_total", "Questions about tokens by what became of them", labels=["outcome"]
    )
    for code, number in sorted(endpoint.replies.items()):
        replies.add_metric([str(code)], number)
    unserved.add_metric(["turned_away"], endpoint.turned_away)
    unserved.add_metric(["broken"], endpoint.broken)
    for outcome, number in sorted(endpoint.reviews.items()):
        reviews.add_metric([outcome], number)
    yield from (replies, unserved, reviews)
