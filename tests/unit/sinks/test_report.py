from __future__ import annotations

import io
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from podwire_agent.errors import SinkClosed
from podwire_agent.layout import FlowDirection
from podwire_agent.model import Buffers, IfIndex, Ledger, Traffic
from podwire_agent.sinks.report import WIDTH, ClosingReport
from tests.unit.sinks.snapshots import Flow, later, ledger, many, report, snapshot

LONG = "fd00:1111:2222:3333:4444:5555:6666:7777"


def written(*ledgers: Ledger) -> str:
    stream = io.StringIO()
    sink = ClosingReport(stream)
    first = snapshot(report(Flow(bytes=10**9), Flow(src=LONG, dst=LONG)))
    sink.send(first)
    assert not stream.getvalue()
    second = later(first, 5, report(Flow(bytes=5)))
    sink.send(replace(second, ledgers=ledgers, final=True))
    sink.close()
    return stream.getvalue()


def line_with(text: str, start: str) -> list[str]:
    return next(line.split() for line in text.splitlines() if line.strip().startswith(start))


def test_only_the_final_report_is_written_and_it_tells_the_whole_run() -> None:
    text = written(ledger())
    assert "Monitor shop on node n1" in text
    assert line_with(text, "veth1           TCP      10.0.0.1:40000")[-2:] == ["20", "1,000,000,005"]


def test_an_account_shows_every_class_of_both_directions() -> None:
    text = written(ledger(FlowDirection.TO_POD, packets=7, bytes_=700), ledger())
    assert line_with(text, "seen") == ["seen", "12", "1,084", "9", "784"]
    assert line_with(text, "counted") == ["counted", "10", "1,000", "7", "700"]
    assert line_with(text, "filtered") == ["filtered", "0", "0", "0", "0"]
    assert line_with(text, "unsupported") == ["unsupported", "2", "84", "2", "84"]
    assert line_with(text, "arp") == ["arp", "2", "84", "2", "84"]
    assert line_with(text, "overflowed") == ["overflowed", "0", "0", "0", "0"]
    assert line_with(text, "before attach") == ["before", "attach", "2", "200", "2", "200"]
    assert line_with(text, "own counter") == ["own", "counter", "14", "1,284", "11", "984"]
    assert "from the pod: agrees exactly; unaccounted 0\n" in text
    assert "to the pod: agrees exactly; unaccounted 0\n" in text
    assert "own counters of 2 directions: 2 agree, 0 differ, 0 not verifiable" in text


def test_an_attach_under_traffic_shows_both_bounds() -> None:
    text = written(replace(ledger(), before_attach=(Buffers(1, 100), Buffers(2, 200))))
    assert line_with(text, "before attach") == ["before", "attach", "1", "100"]
    assert line_with(text, "at most") == ["at", "most", "2", "200"]


def test_what_is_missing_and_what_differs_is_said() -> None:
    text = written(replace(ledger(), counted=Traffic(9, 900), counter=Buffers(15, 1300)))
    assert "from the pod: differs by +1 buffers, +16 bytes; unaccounted 1 packets" in text
    assert "unaccounted 1 packets, 100 bytes" in text
    assert "0 agree, 1 differ, 0 not verifiable" in text


def test_an_interface_that_is_gone_has_no_counter() -> None:
    text = written(replace(ledger(), counter=None, gone=True))
    assert "veth1 (ifindex 7, gone)" in text
    assert line_with(text, "own counter") == ["own", "counter", "gone"]
    assert "not verifiable: the interface is gone" in text


def test_no_line_is_wider_than_a_terminal() -> None:
    wide = replace(
        ledger(packets=10**9, bytes_=10**12, name="cali0123456789a"),
        unverifiable="a long story " * 12,
        ifindex=IfIndex(9),
    )
    text = written(wide, replace(wide, direction=FlowDirection.TO_POD))
    assert max(map(len, text.splitlines())) <= WIDTH
    assert f"[{LONG}]:40000" in text


def test_a_run_without_traffic_says_so() -> None:
    stream = io.StringIO()
    ClosingReport(stream).send(snapshot(final=True))
    assert "No conversation was seen." in stream.getvalue()


def test_more_conversations_than_are_shown_are_counted() -> None:
    stream = io.StringIO()
    ClosingReport(stream).send(replace(snapshot(many(500)), final=True))
    assert "The 10 largest of 500 conversations" in stream.getvalue()


def test_a_stream_that_cannot_be_written_ends_the_sink_in_words() -> None:
    full = Path("/dev/full").open("w")  # noqa: SIM115 closing it fails too
    with pytest.raises(SinkClosed, match="closing report failed: No space left"):
        ClosingReport(full).send(replace(snapshot(), final=True))
    with suppress(OSError):
        full.close()
