"""Pairs of workloads in Prometheus' formats, fast: the client library takes thirty times as long.

A label set is made into text once, and kept as long as its row is shown. Everything else is joined column by column.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from podwire_agent.model import FailureReason, Records, UncomparedReason

PAIR_LABELS = (
    "src_namespace",
    "src_workload",
    "src_kind",
    "dst_namespace",
    "dst_workload",
    "dst_kind",
    "service",
    "server_port",
    "protocol",
    "direction",
    "locality",
)
"""What a row is labelled with beside its monitor, in this order."""

ROWS_A_CHUNK = 2048
"""Of text at once: some 600 KiB."""

MONITORS_KEPT = 8
"""Whose label sets are kept as text: as many as a node serves."""

Labels = tuple[str, ...]
_Texts = dict[tuple[Labels, Labels], str]
"""Names and values of labels to `name="value",...} `."""


@dataclass(frozen=True, slots=True)
class PairColumns:
    """The rows of one monitor, as they are shown. Nothing of it changes while it is rendered."""

    monitor: str
    labels: Sequence[Labels]
    """The values of PAIR_LABELS, a tuple a row; no two are the same."""
    counts: Records
    """(n,) with the fields packets, bytes, lost, compared, connections, retransmits (uint64), uncompared (uint64 by
    UncomparedReason) and failures (uint64 by FailureReason), each since the row's birth; of all monitors alike.
    What has no field is not shown."""
    shown: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)
    """Of uncompared and failures, (n, reasons): which of a row's series there are. All, where it is not said."""


@dataclass(frozen=True, slots=True)
class HistogramColumns:
    """One histogram of one monitor, with its label sets."""

    name: str
    """Ends in _seconds."""
    meaning: str
    monitor: str
    label_names: Labels
    labels: Sequence[Labels]
    """The values of `label_names`, a tuple a row; no two are the same."""
    bounds_s: Sequence[float]
    """Upper bounds of the buckets, rising, without the infinite one."""
    counts: NDArray[np.uint64]
    """(n, len(bounds_s) + 1): what fell into each bucket alone, the infinite one last."""
    sums_s: NDArray[np.float64]
    """(n,) seconds."""


@dataclass(frozen=True, slots=True)
class _Family:
    """A counter of pairs."""

    name: str
    """Without _total."""
    meaning: str
    field: str
    unit: str = ""
    label: str = ""
    """A label beside the pair's, for which the field has a column a value."""
    values: tuple[str, ...] = ()


def _reasons(reasons: Iterable[UncomparedReason | FailureReason]) -> tuple[str, ...]:
    return tuple(reason.name.lower() for reason in sorted(reasons))


FAMILIES = (
    _Family("podwire_flow_bytes", "Bytes on the wire, each in one series", "bytes", unit="bytes"),
    _Family("podwire_flow_packets", "Packets on the wire, each in one series", "packets", unit="packets"),
    _Family("podwire_lost_packets", "Packets that left one pod and did not reach the other", "lost", unit="packets"),
    _Family(
        "podwire_compared_packets", "Packets between pods that were counted at both ends", "compared", unit="packets"
    ),
    _Family(
        "podwire_uncompared_packets",
        "Packets between pods that could not be compared",
        "uncompared",
        unit="packets",
        label="reason",
        values=_reasons(UncomparedReason),
    ),
    _Family("podwire_tcp_connections", "TCP connections that were begun", "connections"),
    _Family(
        "podwire_tcp_connection_failures",
        "TCP connections that failed",
        "failures",
        label="reason",
        values=_reasons(FailureReason),
    ),
    _Family("podwire_tcp_retransmits", "TCP segments that were sent again", "retransmits"),
)


class PairText:
    """Renders page after page. Not for several threads at once."""

    def __init__(self) -> None:
        self._texts: dict[str, _Texts] = {}
        """By monitor, of what was shown of it last."""

    def render(
        self, pairs: Sequence[PairColumns], histograms: Sequence[HistogramColumns], *, openmetrics: bool
    ) -> Iterator[bytes]:
        """Whole families, in chunks of some hundred KiB. What has no rows is left out."""
        former, self._texts = self._texts, self._texts.copy()
        for monitor in {each.monitor for each in pairs} | {each.monitor for each in histograms}:
            self._texts.pop(monitor, None)  # to become the last
            self._texts[monitor] = {}
        while len(self._texts) > MONITORS_KEPT:
            del self._texts[next(iter(self._texts))]
        shown = [(self._labels(former, each.monitor, PAIR_LABELS, each.labels), each) for each in pairs if each.labels]
        measured: dict[str, list[tuple[list[str], HistogramColumns]]] = {}
        for histogram in histograms:
            if histogram.labels:
                labels = self._labels(former, histogram.monitor, histogram.label_names, histogram.labels)
                measured.setdefault(histogram.name, []).append((labels, histogram))
        if shown:
            for family in _counted(shown[0][1]):
                yield _head(family.name, family.meaning, "counter", family.unit, openmetrics=openmetrics)
                for labels, columns in shown:
                    values, chosen = columns.counts[family.field], columns.shown.get(family.field)
                    yield from _counters(family, labels, values, chosen)
        for name, parts in measured.items():
            yield _head(name, parts[0][1].meaning, "histogram", "seconds", openmetrics=openmetrics)
            for labels, histogram in parts:
                yield from _histograms(labels, histogram)

    def _labels(self, former: Mapping[str, _Texts], monitor: str, names: Labels, rows: Sequence[Labels]) -> list[str]:
        """The text of each row's labels up to the number, from what is kept."""
        kept, texts = former.get(monitor, {}), self._texts[monitor]
        found = []
        for values in rows:
            key = (names, values)
            text = kept.get(key)
            if text is None:
                text = _text_of(("monitor", *names), (monitor, *values))
            texts[key] = text
            found.append(text)
        return found


def _counted(columns: PairColumns) -> Iterator[_Family]:
    return (family for family in FAMILIES if family.field in (columns.counts.dtype.names or ()))


def _counters(
    family: _Family, labels: list[str], values: NDArray[np.uint64], chosen: NDArray[np.bool_] | None
) -> Iterator[bytes]:
    """`values`: (n,), or (n, len(family.values)); so is `chosen`, where not all are shown."""
    name = f"{family.name}_total{{"
    if not family.label:
        yield from _lines(name, "", labels, values)
    for place, value in enumerate(family.values):
        first = f'{family.label}="{value}",'
        if chosen is None:
            yield from _lines(name, first, labels, values[:, place])
        else:
            rows = np.flatnonzero(chosen[:, place])
            yield from _lines(name, first, [labels[row] for row in rows.tolist()], values[rows, place])


def _histograms(labels: list[str], columns: HistogramColumns) -> Iterator[bytes]:
    """Row by row, as the formats want a histogram's samples together."""
    bounds = [*(repr(float(bound)) for bound in columns.bounds_s), "+Inf"]
    name = columns.name
    heads = [f'\n{name}_bucket{{le="{bound}",' for bound in bounds]
    for start in range(0, len(labels), ROWS_A_CHUNK):
        rows = slice(start, start + ROWS_A_CHUNK)
        cumulative = np.cumsum(columns.counts[rows], axis=1, dtype=np.uint64).tolist()
        parts = []
        for text, buckets, total_s in zip(labels[rows], cumulative, columns.sums_s[rows].tolist(), strict=True):
            parts += [f"{head}{text}{count}" for head, count in zip(heads, buckets, strict=True)]
            parts.append(f"\n{name}_count{{{text}{buckets[-1]}\n{name}_sum{{{text}{total_s!r}")
        yield "".join([*parts, "\n"])[1:].encode()


def _lines(name: str, first: str, labels: list[str], values: NDArray[np.uint64]) -> Iterator[bytes]:
    """A sample a row: `name` ends in the brace, `first` in a comma."""
    begin = f"{name}{first}"
    between = f"\n{begin}"
    for start in range(0, len(labels), ROWS_A_CHUNK):
        rows = slice(start, start + ROWS_A_CHUNK)
        samples = map(str.__add__, labels[rows], map(str, values[rows].tolist()))
        yield f"{begin}{between.join(samples)}\n".encode()


def _head(name: str, meaning: str, kind: str, unit: str, *, openmetrics: bool) -> bytes:
    """OpenMetrics calls a counter by its name without _total, and tells the unit."""
    shown = name if openmetrics or kind != "counter" else f"{name}_total"
    lines = [f"# HELP {shown} {meaning}", f"# TYPE {shown} {kind}"]
    if openmetrics and unit:
        lines.append(f"# UNIT {shown} {unit}")
    return "".join(f"{line}\n" for line in lines).encode()


def _text_of(names: Iterable[str], values: Iterable[str]) -> str:
    return ",".join(f'{name}="{_escaped(value)}"' for name, value in zip(names, values, strict=True)) + "} "


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
