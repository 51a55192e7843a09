from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
import threading
from dataclasses import replace

import pytest
from rich.console import Console

from podwire_agent.layout import FlowDirection
from podwire_agent.model import Ledger, Traffic
from podwire_agent.sinks.live import LiveTable, accounted, monitor_view, si
from podwire_agent.sinks.naming import AddressTexts
from tests.unit.sinks.snapshots import Flow, later, ledger, many, report, snapshot

LONG = "fd00:1111:2222:3333:4444:5555:6666:7777"
BACK = Flow(src="10.0.0.2", dst="10.0.0.1", src_port=80, dst_port=40000, bytes=50, direction=FlowDirection.TO_POD)


class Terminal:
    """A pseudo-terminal of 80 x 24 whose output a thread collects."""

    def __init__(self) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        self.stream = os.fdopen(slave, "w")
        self._chunks: list[bytes] = []
        self._thread = threading.Thread(target=self._collect)
        self._thread.start()

    def _collect(self) -> None:
        while True:
            try:
                self._chunks.append(os.read(self._master, 65536))
            except OSError:  # EIO: the last writer is gone
                return

    def text(self) -> str:
        """All that was drawn; ends the terminal."""
        self.stream.close()
        self._thread.join()
        os.close(self._master)
        return b"".join(self._chunks).decode()


@pytest.fixture(autouse=True)
def _a_terminal_of_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    for name in ("COLUMNS", "LINES"):
        monkeypatch.delenv(name, raising=False)


def drawn(flows: list[Flow], *ledgers: Ledger, limit: int = 5) -> list[str]:
    console = Console(width=80, height=24, force_terminal=False)
    with console.capture() as captured:
        console.print(monitor_view(snapshot(report(*flows), *ledgers), 2.0, limit, AddressTexts()))
    return [line.rstrip() for line in captured.get().splitlines()]


def test_a_conversation_has_the_rates_of_both_ways() -> None:
    lines = drawn([Flow(bytes=2_420_000, packets=2000), BACK])
    there = next(line.split() for line in lines if "10.0.0.1:40000" in line)
    back = next(line.split() for line in lines if "10.0.0.2:80" in line)
    assert there == ["veth1", "TCP", "10.0.0.1:40000", "→", "1.21", "MB/s", "1.00", "kp/s"]
    assert back == ["10.0.0.2:80", "←", "25", "B/s", "5", "p/s"]
    assert lines[0] == "shop on n1: 1 conversations, 1.00 kp/s, 1.21 MB/s"


def test_long_addresses_stay_whole_and_within_80_columns() -> None:
    lines = drawn([Flow(src=LONG, dst=LONG)])
    assert max(map(len, lines)) <= 80
    start = next(line.index("pod →") for line in lines if "pod →" in line)
    assert f"[{LONG}]:40000" in "".join(line[start:].split("  ")[0] for line in lines)


def test_only_the_busiest_are_shown() -> None:
    lines = drawn([Flow(src_port=port, bytes=port) for port in range(1, 9)], limit=2)
    assert [port for port in range(1, 9) if any(f"10.0.0.1:{port} " in line for line in lines)] == [7, 8]


def test_an_interface_shows_its_account_and_verdict() -> None:
    lines = drawn([], ledger(packets=998), ledger(FlowDirection.TO_POD, packets=18))
    account = next(line.split() for line in lines if line.lstrip().startswith("veth1"))
    assert account == ["veth1", "1.00", "kp", "20", "p", "100", "%", "agrees", "exactly"]


def test_100_percent_is_said_only_of_all() -> None:
    nearly = replace(ledger(packets=10**9), counted=Traffic(10**9 - 1, 1000))
    assert accounted([ledger()]) == "100 %"
    assert accounted([ledger(), nearly]) == "99.99 %"
    assert accounted([replace(ledger(), counted=Traffic(4, 1000))]) == "50.00 %"


@pytest.mark.parametrize(
    ("value", "words"),
    [(0, "0 B/s"), (7, "7 B/s"), (0.5, "0.50 B/s"), (999, "999 B/s"), (999.6, "1.00 kB/s"), (1.21e9, "1.21 GB/s"),
     (12_340, "12.3 kB/s"), (123_456_789, "123 MB/s"), (5e16, "50000 TB/s")],
)  # fmt: skip
def test_rates_have_three_digits(value: float, words: str) -> None:
    assert si(value, "B/s") == words


def test_on_a_terminal_the_table_is_redrawn_and_the_report_follows() -> None:
    terminal = Terminal()
    sink = LiveTable(terminal.stream, period_s=5.0)
    first = snapshot(many(300), ledger())
    sink.send(first)
    sink.send(later(first, 1, report(Flow(bytes=4000))))
    sink.send(replace(later(first, 2, report()), ledgers=(ledger(),), final=True))
    sink.close()
    text = terminal.text()
    assert "300 conversations, 60 p/s" in text
    assert "1 conversations, 10 p/s" in text
    assert text.index("4.00 kB/s") < text.index("Monitor shop on node n1") < text.index("unaccounted 0")
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") > 0


def test_closing_without_a_final_report_gives_the_cursor_back() -> None:
    terminal = Terminal()
    sink = LiveTable(terminal.stream, period_s=5.0)
    sink.send(snapshot(many(3), ledger()))
    sink.close()
    assert terminal.text().endswith("\x1b[?25h")


def test_rich_is_not_imported_by_the_other_sinks() -> None:
    code = "import sys, podwire_agent.sinks.lines, podwire_agent.sinks.report; sys.exit('rich' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
