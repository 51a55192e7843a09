"""Which sink each monitor's reports go to, by what the resources say and where the standard output leads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TextIO

from podwire_agent.model import Snapshot
from podwire_agent.ports import Sink
from podwire_agent.sinks.lines import LinesSink
from podwire_agent.sinks.report import ClosingReport
from podwire_agent.sinks.shared import Shared
from podwire_api import NetworkMonitorSpec


def sinks_for(specs: Sequence[NetworkMonitorSpec], out: TextIO, err: TextIO) -> list[Sink]:
    """A sink for each monitor.

    JSON lines where it has a stdout sink; else people read: a live table on a terminal, and a report at the end. Where
    other monitors write lines to `out`, people read `err`.
    """
    wants_lines = [any(sink.stdout is not None for sink in spec.sinks) for spec in specs]
    lines = Shared(LinesSink(out.fileno()))
    people = Shared(_for_people(specs, err if any(wants_lines) else out))
    return [lines.user() if wanted else people.user() for wanted in wants_lines]


class ContainerOutput:
    """The standard output of a container: JSON lines of the monitors that want them, which come and go."""

    def __init__(self, out: TextIO) -> None:
        self._lines = Shared(LinesSink(out.fileno()))

    def sink(self, spec: NetworkMonitorSpec) -> Sink:
        """For one more outbox; without a stdout sink reports go nowhere, and the metrics tell of the monitor."""
        return self._lines.user() if any(sink.stdout is not None for sink in spec.sinks) else Nowhere()


class Nowhere:
    """The sink of a monitor without any."""

    name = "none"

    def send(self, snapshot: Snapshot) -> None:
        """There is nobody."""

    def close(self) -> None:
        """There is nothing."""


def _for_people(specs: Sequence[NetworkMonitorSpec], stream: TextIO) -> Sink:
    if not stream.isatty():
        return ClosingReport(stream)
    from podwire_agent.sinks.live import LiveTable  # noqa: PLC0415 (rich takes 10 MB: only where somebody looks)

    return LiveTable(stream, max(spec.report_period_ns for spec in specs) / 1e9)
