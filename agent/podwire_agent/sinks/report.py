"""The closing report in plain text, 80 columns: the largest conversations, and every interface's account."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest
from textwrap import wrap
from typing import TextIO

import numpy as np

from podwire_agent.errors import SinkClosed
from podwire_agent.layout import FlowDirection
from podwire_agent.model import Buffers, Ledger, MonitorUid, Records, Snapshot, Traffic
from podwire_agent.sinks.conversations import CONVERSATION, conversations, in_words, largest, merge
from podwire_agent.sinks.naming import REASONS, AddressTexts, interface_name
from podwire_agent.sinks.verdict import Agreement, judge

WIDTH = 80
CONVERSATIONS_SHOWN = 10
CONVERSATIONS_KEPT = 65536
"""Of a monitor's whole run, the largest; what falls out is counted."""


class History:
    """The conversations of one monitor over its whole run, within a bound."""

    def __init__(self, limit: int = CONVERSATIONS_KEPT) -> None:
        self.forgotten = 0
        """Times a conversation fell out to make room."""
        self.rows: Records = np.zeros(0, CONVERSATION)
        self._limit = limit

    def add(self, flows: Records) -> None:
        """A report's flows."""
        rows = merge(np.concatenate([self.rows, conversations(flows)]))
        self.forgotten += max(0, len(rows) - self._limit)
        self.rows = largest(rows, self._limit)


class ClosingReport:
    """Writes nothing until a monitor's final report. Serves several monitors; call from one thread."""

    def __init__(self, stream: TextIO, name: str = "report") -> None:
        self.name = name
        self._stream = stream
        self._histories: dict[MonitorUid, History] = {}

    def send(self, snapshot: Snapshot) -> None:
        """Remember; on the final one write the report."""
        history = self._histories.setdefault(snapshot.monitor_uid, History())
        history.add(snapshot.flows)
        if not snapshot.final:
            return
        try:
            self._stream.write(closing_report(snapshot, history))
            self._stream.flush()
        except OSError as error:
            raise SinkClosed(
                f"sink {self.name}: writing the closing report failed: {error.strerror}; "
                "run again with a reader that stays"
            ) from error

    def close(self) -> None:
        """The stream stays the caller's."""


def closing_report(snapshot: Snapshot, history: History) -> str:
    """Lines of at most WIDTH characters, however the interfaces are called."""
    lines = [f"Monitor {snapshot.monitor} on node {snapshot.node}", ""]
    lines += _largest_conversations(snapshot, history)
    for pair in _pairs(snapshot.ledgers):
        lines += ["", *_account(pair)]
    lines += ["", *_conclusion(snapshot.ledgers)]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _largest_conversations(snapshot: Snapshot, history: History) -> Iterator[str]:
    if not len(history.rows):
        yield "No conversation was seen."
        return
    shown = largest(history.rows, CONVERSATIONS_SHOWN)
    fell_out = f"; {history.forgotten:,} small ones fell out" if history.forgotten else ""
    yield f"The {len(shown)} largest of {len(history.rows):,} conversations{fell_out}"
    yield f"{'interface':<15} {'':<8} {'pod ->, peer ->':<25}{'packets':>12}{'bytes':>18}"
    for row in in_words(shown, AddressTexts()):
        name = interface_name(row.ifindex, snapshot.interface_names)
        yield _direction(f"{name[:15]:<15} {row.protocol[:8]:<8} {row.pod}", row.sent)
        yield _direction(f"{'':<24} {row.peer}", row.received)


def _direction(what: str, traffic: Traffic) -> str:
    figures = f"{traffic.packets:>12,}{traffic.bytes:>18,}"
    if len(what) + len(figures) <= WIDTH:
        return what + figures.rjust(WIDTH - len(what))
    return f"{what}\n{figures:>{WIDTH}}"


def _pairs(ledgers: Iterable[Ledger]) -> Iterator[list[Ledger]]:
    """The directions of an interface together, FROM_POD first; an interface that came again stands alone."""
    groups: dict[tuple[int, bool], list[Ledger]] = {}
    for ledger in ledgers:
        groups.setdefault((int(ledger.ifindex), ledger.gone), []).append(ledger)
    for group in groups.values():
        yield sorted(group, key=lambda ledger: ledger.direction)


def _account(pair: Sequence[Ledger]) -> list[str]:
    gone = ", gone" if pair[0].gone else ""
    titles = {FlowDirection.FROM_POD: "from the pod", FlowDirection.TO_POD: "to the pod"}
    lines = [
        f"{pair[0].interface} (ifindex {pair[0].ifindex}{gone})",
        " " * 18 + "".join(f"{titles[ledger.direction]:>31}" for ledger in pair),
        _cells("", [("packets", "bytes")] * len(pair)),
        _traffic("seen", [ledger.cells.seen for ledger in pair]),
        _traffic("  counted", [ledger.counted for ledger in pair]),
        _traffic("  filtered", [ledger.cells.filtered for ledger in pair]),
        _traffic("  unsupported", [ledger.unsupported for ledger in pair]),
    ]
    for reason, cells in enumerate(zip_longest(*(ledger.cells.unsupported for ledger in pair), fillvalue=Traffic())):
        if any(cell.packets for cell in cells):
            lines.append(_traffic(f"   {REASONS[reason].replace('_', ' ')}", cells))
    lines += [
        _traffic("  overflowed", [ledger.cells.overflowed for ledger in pair]),
        _traffic("  unaccounted", [ledger.unaccounted for ledger in pair]),
    ]
    if any(ledger.cells.estimated.packets for ledger in pair):
        lines.append(_traffic("bytes estimated", [ledger.cells.estimated for ledger in pair]))
    lines += [
        _cells("", [("buffers", "bytes")] * len(pair)),
        _buffers("before attach", [ledger.before_attach[0] for ledger in pair]),
    ]
    if any(low != high for low, high in (ledger.before_attach for ledger in pair)):
        lines.append(_buffers("  at most", [ledger.before_attach[1] for ledger in pair]))
    lines += [
        _buffers("seen", [ledger.cells.buffers for ledger in pair]),
        _buffers("own counter", [ledger.counter for ledger in pair]),
    ]
    for ledger in pair:
        verdict = f"{titles[ledger.direction]}: {_verdict(ledger)}"
        lines += wrap(verdict, WIDTH, initial_indent="  ", subsequent_indent="    ")
    return lines


def _verdict(ledger: Ledger) -> str:
    missing = ledger.unaccounted
    account = "unaccounted 0" if missing == Traffic() else f"unaccounted {missing.packets:,} packets"
    return f"{judge(ledger).words}; {account}"


def _conclusion(ledgers: Sequence[Ledger]) -> Iterator[str]:
    seen = sum((ledger.cells.seen for ledger in ledgers), Traffic())
    missing = sum((ledger.unaccounted for ledger in ledgers), Traffic())
    verdicts = [judge(ledger).agreement for ledger in ledgers]
    interfaces = len({ledger.ifindex for ledger in ledgers})
    yield f"In all: {interfaces} interfaces, seen {seen.packets:,} packets, {seen.bytes:,} bytes,"
    yield f"        unaccounted {missing.packets:,} packets, {missing.bytes:,} bytes"
    agreed = verdicts.count(Agreement.EXACT) + verdicts.count(Agreement.WITHIN)
    yield (
        f"        own counters of {len(verdicts)} directions: {agreed} agree, "
        f"{verdicts.count(Agreement.DIFFERS)} differ, {verdicts.count(Agreement.UNVERIFIABLE)} not verifiable"
    )


def _traffic(label: str, cells: Iterable[Traffic]) -> str:
    return _cells(label, [(f"{cell.packets:,}", f"{cell.bytes:,}") for cell in cells])


def _buffers(label: str, cells: Iterable[Buffers | None]) -> str:
    return _cells(label, [("gone", "") if cell is None else (f"{cell.buffers:,}", f"{cell.bytes:,}") for cell in cells])


def _cells(label: str, columns: Iterable[tuple[str, str]]) -> str:
    return f"{label:<18}" + "".join(f"{left:>13}{right:>18}" for left, right in columns)
