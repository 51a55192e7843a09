"""The live table on a terminal: who talks to whom now, and whether all of it is accounted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TextIO

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from podwire_agent.errors import SinkClosed
from podwire_agent.layout import FlowDirection
from podwire_agent.model import Ledger, MonitorUid, Snapshot, Traffic
from podwire_agent.sinks.conversations import conversations, in_words, largest
from podwire_agent.sinks.naming import AddressTexts, interface_name
from podwire_agent.sinks.report import History, closing_report
from podwire_agent.sinks.verdict import judge

ARROWS = {FlowDirection.FROM_POD: "→", FlowDirection.TO_POD: "←"}
INTERFACES_SHOWN = 8
LINES_A_CONVERSATION = 2
LINES_AROUND = 9
"""Titles, headings and rules of both tables."""


class LiveTable:
    """Redraws at each report; the final one ends the table and prints the closing report below it.

    Serves several monitors; call from one thread. Import this module only where somebody looks at a
    terminal: rich takes 3 MB.
    """

    def __init__(self, stream: TextIO, period_s: float, name: str = "live") -> None:
        """`period_s`: the usual time between reports; the first one has no other measure."""
        self.name = name
        self._stream = stream
        self._period_s = period_s
        self._console = Console(file=stream)
        self._live = Live(console=self._console, auto_refresh=False, vertical_overflow="crop")
        self._texts = AddressTexts()
        self._histories: dict[MonitorUid, History] = {}
        self._reported_unix_ns: dict[MonitorUid, int] = {}
        self._shown: dict[MonitorUid, RenderableType] = {}

    def send(self, snapshot: Snapshot) -> None:
        """Draw; a terminal that is gone raises SinkClosed."""
        history = self._histories.setdefault(snapshot.monitor_uid, History())
        history.add(snapshot.flows)
        before = self._reported_unix_ns.get(snapshot.monitor_uid)
        self._reported_unix_ns[snapshot.monitor_uid] = snapshot.time_unix_ns
        elapsed_s = self._period_s if before is None else max(0.001, (snapshot.time_unix_ns - before) / 1e9)
        try:
            if snapshot.final:
                self._live.stop()
                self._stream.write("\n" + closing_report(snapshot, history))
                self._stream.flush()
                return
            rows = self._console.height // (len(self._shown) or 1) - LINES_AROUND
            rows -= min(len(snapshot.ledgers) // 2, INTERFACES_SHOWN)
            self._shown[snapshot.monitor_uid] = monitor_view(
                snapshot, elapsed_s, max(1, rows // LINES_A_CONVERSATION), self._texts
            )
            self._live.start()
            self._live.update(Group(*self._shown.values()), refresh=True)
        except OSError as error:
            raise SinkClosed(
                f"sink {self.name}: drawing on the terminal failed: {error.strerror}; "
                "run again in a terminal, or with a stdout sink"
            ) from error

    def close(self) -> None:
        """Leave the terminal as it was: the cursor is shown again."""
        self._live.stop()


def monitor_view(snapshot: Snapshot, elapsed_s: float, limit: int, texts: AddressTexts) -> RenderableType:
    """One monitor's two tables, readable in 80 columns; at most `limit` conversations."""
    return Group(_busiest(snapshot, elapsed_s, limit, texts), _accounts(snapshot))


def si(value: float, unit: str) -> str:
    """Three digits and a prefix of powers of 1000: "1.21 GB/s"."""
    prefixes = ["", "k", "M", "G", "T"]
    while value >= 999.5 and len(prefixes) > 1:
        value /= 1000
        prefixes.pop(0)
    prefix = prefixes[0]
    digits = 0 if value >= 99.95 or (not prefix and value == int(value)) else 1 if value >= 9.995 else 2
    return f"{value:.{digits}f} {prefix}{unit}"


def _busiest(snapshot: Snapshot, elapsed_s: float, limit: int, texts: AddressTexts) -> Table:

    rows = conversations(snapshot.flows)
    packets, octets = (int(snapshot.flows[field].sum()) for field in ("packets", "bytes"))
    title = (
        f"{snapshot.monitor} on {snapshot.node}: {len(rows):,} conversations, "
        f"{si(packets / elapsed_s, 'p/s')}, {si(octets / elapsed_s, 'B/s')}"
    )
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, expand=True)
    table.add_column("interface", no_wrap=True, overflow="ellipsis", max_width=15)
    table.add_column("protocol", no_wrap=True)
    table.add_column("pod →, peer ←", overflow="fold", ratio=1)
    table.add_column("bytes", justify="right", no_wrap=True)
    table.add_column("packets", justify="right", no_wrap=True)
    for row in in_words(largest(rows, limit), texts):
        name = Text(interface_name(row.ifindex, snapshot.interface_names))
        table.add_row(name, row.protocol, Text(row.pod), *_rates("→", row.sent, elapsed_s))
        table.add_row("", "", Text(row.peer), *_rates("←", row.received, elapsed_s))
    return table


def _rates(arrow: str, traffic: Traffic, elapsed_s: float) -> tuple[str, str]:
    return f"{arrow} {si(traffic.bytes / elapsed_s, 'B/s')}", si(traffic.packets / elapsed_s, "p/s")


def _accounts(snapshot: Snapshot) -> Table:

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, expand=True)
    table.add_column("account", no_wrap=True, overflow="ellipsis", max_width=15)
    for arrow in ARROWS.values():
        table.add_column(f"{arrow} seen", justify="right", no_wrap=True)
    table.add_column("accounted\nso far", justify="right", no_wrap=True)
    table.add_column("own counter", overflow="fold", ratio=1)
    interfaces: dict[int, list[Ledger]] = {}
    for ledger in snapshot.ledgers:
        if not ledger.gone:
            interfaces.setdefault(int(ledger.ifindex), []).append(ledger)
    busiest = sorted(interfaces.values(), key=lambda pair: -_seen(pair).packets)
    for pair in busiest[:INTERFACES_SHOWN]:
        seen = {ledger.direction: ledger.cells.seen.packets for ledger in pair}
        table.add_row(
            Text(pair[0].interface),
            *(si(seen.get(direction, 0), "p") for direction in ARROWS),
            accounted(pair),
            Text("\n".join(_verdicts(pair))),
        )
    if len(busiest) > INTERFACES_SHOWN:
        table.caption = f"and {len(busiest) - INTERFACES_SHOWN} more interfaces"
    return table


def accounted(pair: list[Ledger]) -> str:
    """Says 100 % only where it is all. Less while packets wait to be read, and after the end where some are missing."""
    seen = _seen(pair)
    missing = sum((abs(ledger.unaccounted.packets) for ledger in pair), 0)
    if not missing and all(ledger.unaccounted == Traffic() for ledger in pair):
        return "100 %"
    return f"{min(99.99, 100 - 100 * missing / max(1, seen.packets)):.2f} %"


def _verdicts(pair: list[Ledger]) -> Iterator[str]:
    words = {ledger.direction: judge(ledger).words for ledger in pair}
    if len(set(words.values())) == 1:
        yield next(iter(words.values()))
        return
    for direction, word in words.items():
        yield f"{ARROWS[direction]} {word}"


def _seen(pair: list[Ledger]) -> Traffic:
    return sum((ledger.cells.seen for ledger in pair), Traffic())
