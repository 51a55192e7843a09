from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable

import pytest

from podwire_agent.errors import SinkClosed
from podwire_agent.model import Snapshot
from podwire_agent.sinks.lines import LinesSink
from podwire_agent.sinks.outbox import Outbox, Tally
from tests.unit.sinks.snapshots import Flow, many, report, snapshot

SOON_S = 5.0


class Gate:
    """A sink that hands on only while its gate is open, and fails as it is told."""

    name = "gate"

    def __init__(self, *, is_open: bool = True) -> None:
        self.opened = threading.Event()
        if is_open:
            self.opened.set()
        self.busy = threading.Event()
        self.failure: Callable[[], Exception] | None = None
        self.taken: list[int] = []
        self.closed = threading.Event()

    def send(self, snapshot: Snapshot) -> None:
        self.busy.set()
        if not self.opened.wait(SOON_S):
            raise TimeoutError("the test never opened the gate")
        if self.failure is not None:
            raise self.failure()
        self.taken.append(snapshot.sequence)

    def close(self) -> None:
        self.closed.set()


def numbered(sequence: int, flows: int = 3) -> Snapshot:
    return snapshot(many(flows), sequence=sequence)


def test_reports_arrive_in_order_and_are_counted() -> None:
    sink = Gate()
    with Outbox(sink) as outbox:
        for sequence in range(5):
            outbox.put(numbered(sequence))
            assert outbox.wait(SOON_S)
    assert sink.taken == list(range(5))
    assert sink.closed.is_set()
    assert outbox.counters.sent == Tally(reports=5, flows=15, packets=15)


def test_a_slow_sink_delays_nobody_and_is_not_idle_meanwhile() -> None:
    sink = Gate(is_open=False)
    with Outbox(sink) as outbox:
        began = time.monotonic()
        outbox.put(numbered(1))
        assert sink.busy.wait(SOON_S)
        assert outbox.idle is False
        assert outbox.counters.queued == 1
        assert not outbox.wait(0.01)
        assert time.monotonic() - began < SOON_S
        sink.opened.set()
        assert outbox.wait(SOON_S)
        assert outbox.idle is True


def test_of_reports_that_wait_the_oldest_is_dropped_with_all_that_was_in_it() -> None:
    sink = Gate(is_open=False)
    with Outbox(sink) as outbox:
        outbox.put(numbered(1))
        assert sink.busy.wait(SOON_S)
        outbox.put(numbered(2, flows=7))
        outbox.put(numbered(3))
        assert outbox.counters.queued == 2
        assert outbox.counters.dropped == Tally(1, 7, 7)
        sink.opened.set()
    assert sink.taken == [1, 3]


def test_a_failure_is_counted_and_the_next_report_is_tried(caplog: pytest.LogCaptureFixture) -> None:
    sink = Gate()
    with Outbox(sink) as outbox:
        sink.failure = lambda: ConnectionResetError("peer went away")
        outbox.put(numbered(1))
        assert outbox.wait(SOON_S)
        sink.failure = None
        outbox.put(numbered(2))
    assert sink.taken == [2]
    assert outbox.counters.failed == Tally(1, 3, 3)
    assert outbox.counters.sent == Tally(1, 3, 3)
    assert outbox.counters.last_error == "sink gate: sending a report failed: peer went away"
    assert outbox.counters.last_error in caplog.text


def test_a_closed_sink_is_told_once_and_what_comes_later_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    told: list[SinkClosed] = []
    ended = threading.Event()

    def note(closed: SinkClosed) -> None:
        told.append(closed)
        ended.set()

    read, write = os.pipe()
    os.close(read)
    outbox = Outbox(LinesSink(write), note)
    outbox.put(snapshot(report(Flow())))
    assert ended.wait(SOON_S)
    assert outbox.close(SOON_S)
    outbox.put(numbered(2))
    os.close(write)
    assert outbox.idle
    assert len(told) == 1
    assert outbox.counters.failed.reports == 1
    assert outbox.counters.dropped == Tally(1, 3, 3)
    assert "closed the pipe" in outbox.counters.last_error


def test_closing_hands_on_what_waits_and_then_closes_the_sink() -> None:
    sink = Gate(is_open=False)
    outbox = Outbox(sink)
    outbox.put(numbered(1))
    assert sink.busy.wait(SOON_S)
    outbox.put(numbered(2))
    sink.opened.set()
    assert outbox.close(SOON_S)
    assert sink.taken == [1, 2]
    assert sink.closed.is_set()


def test_closing_gives_up_on_a_sink_that_is_stuck(caplog: pytest.LogCaptureFixture) -> None:
    sink = Gate(is_open=False)
    outbox = Outbox(sink)
    outbox.put(numbered(1))
    assert sink.busy.wait(SOON_S)
    outbox.put(numbered(2))
    assert not outbox.close(0.05)
    assert outbox.counters.dropped == Tally(1, 3, 3)
    assert outbox.counters.queued == 1
    assert "given up" in caplog.text
    sink.opened.set()
    assert outbox.wait(SOON_S)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_unforeseen_error_ends_the_sink_not_the_account() -> None:
    sink = Gate()
    sink.failure = lambda: ZeroDivisionError("a bug")
    outbox = Outbox(sink)
    outbox.put(numbered(1))
    assert outbox.wait(SOON_S)
    assert outbox.close(SOON_S)
    outbox.put(numbered(2))
    counters = outbox.counters
    assert (counters.failed.reports, counters.dropped.reports, counters.queued) == (1, 1, 0)


def put_many(outbox: Outbox) -> None:
    for sequence in range(200):
        outbox.put(numbered(sequence))


def test_every_report_put_by_many_threads_is_in_exactly_one_count() -> None:
    sink = Gate()
    with Outbox(sink) as outbox:
        threads = [threading.Thread(target=put_many, args=(outbox,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    counters = outbox.counters
    assert counters.sent.reports == len(sink.taken)
    assert counters.sent.reports + counters.dropped.reports == 800
    assert counters.sent.flows + counters.dropped.flows == 2400
