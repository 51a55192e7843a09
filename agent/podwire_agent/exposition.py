"""The agent's metrics in Prometheus' formats.

Apart from what is exposed, since the client library takes 3 MB and 30 ms: it is loaded with the first scrape.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields

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

from podwire_agent.model import Traffic
from podwire_agent.sinks.naming import DIRECTIONS
from podwire_agent.telemetry import AgentState, ClusterState, MonitorState, StepTimes


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
        yield from _steps(self._step_times)
        yield from _ledger(state.monitors)
        yield _filtered(state.monitors)
        yield from _datapath(state.monitors)
        yield from _sinks(state.monitors)
        yield from _cluster(state.cluster)

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


def _cluster(cluster: ClusterState | None) -> Iterator[Metric]:
    monitors = GaugeMetricFamily(
        "podwire_agent_monitors", "Monitors that select this node, by the reason in their status", labels=["reason"]
    )
    stale = GaugeMetricFamily("podwire_agent_view_stale_seconds", "For how long changes may have been missed")
    pods = GaugeMetricFamily("podwire_agent_view_pods", "Pods of the cluster that the agent knows")
    writes = CounterMetricFamily("podwire_agent_status_writes_total", "Writes of the AgentNode", labels=["outcome"])
    errors = CounterMetricFamily("podwire_agent_api_errors_total", "Requests that the API server refused or left")
    if cluster is not None:
        for reason, number in cluster.monitors.items():
            monitors.add_metric([reason], number)
        stale.add_metric([], cluster.stale_s)
        pods.add_metric([], cluster.pods)
        writes.add_metric(["done"], cluster.status_writes_total)
        writes.add_metric(["failed"], cluster.status_failures_total)
        errors.add_metric([], cluster.api_errors_total)
    yield from (monitors, stale, pods, writes, errors)
