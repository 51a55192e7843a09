"""One scheduler for monitors that come, go and change their periods."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from podwire_agent.clock import SystemClock
from podwire_agent.cutter import Cutter
from podwire_agent.errors import KernelError
from podwire_agent.layout import FlowDirection
from podwire_agent.model import MonitorUid

A, B = MonitorUid("a"), MonitorUid("b")
FAST_NS = 100_000_000
SLOW_NS = 3_600_000_000_000


class Diary:
    """What was done to each, in order."""

    def __init__(self) -> None:
        self.entries: list[tuple[str, str]] = []
        self.changed = threading.Condition()

    def note(self, who: str, what: str) -> None:
        with self.changed:
            self.entries.append((who, what))
            self.changed.notify_all()

    def of(self, who: str) -> list[str]:
        return [what for name, what in self.entries if name == who]

    def wait(self, holds: Callable[[], bool], timeout_s: float = 5.0) -> bool:
        with self.changed:
            return self.changed.wait_for(holds, timeout_s)


class Pipeline:
    """Writes down what it is told; fails as it is told to."""

    def __init__(self, name: str, diary: Diary) -> None:
        self.name = name
        self.diary = diary
        self.error: Exception | None = None
        self.slow = threading.Event()
        self.slow.set()

    def prepare(self, direction: FlowDirection) -> None:
        self.diary.note(self.name, f"prepare {direction.name}")

    def cut(self, direction: FlowDirection) -> None:
        self.diary.note(self.name, f"cut {direction.name}")

    def drain(self) -> None:
        self.diary.note(self.name, "drain")
        self.slow.wait(5)
        if self.error is not None:
            raise self.error
        self.diary.note(self.name, "drained")


@pytest.fixture
def diary() -> Diary:
    return Diary()


@pytest.fixture
def cutter() -> Iterator[Cutter]:
    made = Cutter(SystemClock())
    made.start()
    yield made
    made.stop()


def add(cutter: Cutter, uid: MonitorUid, pipeline: Pipeline, period_ns: int = FAST_NS) -> list[Exception]:
    """The errors that its supervisor is told of."""
    crashes: list[Exception] = []
    cutter.add(uid, pipeline, period_ns, crashes.append)
    return crashes


def test_a_monitor_that_comes_later_does_not_wait_for_the_long_period_of_another(cutter: Cutter, diary: Diary) -> None:
    add(cutter, A, Pipeline("a", diary), SLOW_NS)
    add(cutter, B, Pipeline("b", diary))
    assert diary.wait(lambda: diary.of("b").count("drained") >= 2)
    assert diary.of("a") == []
    steps = [each for each in diary.of("b") if not each.startswith(("prepare", "drained"))]
    first = steps.index("cut FROM_POD")
    assert steps[first : first + 3] == ["cut FROM_POD", "cut TO_POD", "drain"]


def test_all_swaps_of_an_instant_come_before_any_read(cutter: Cutter, diary: Diary) -> None:
    for uid in (A, B):
        add(cutter, uid, Pipeline(uid, diary))
    assert diary.wait(lambda: all(diary.of(uid).count("drain") >= 3 for uid in (A, B)))
    cuts = [entry for entry in diary.entries if entry[1] == "cut TO_POD" or entry[1] == "drain"]
    begun = next(number for number, entry in enumerate(cuts) if {each[0] for each in cuts[: number + 1]} == {A, B})
    for number in range(begun, len(cuts) - 1):
        who, what = cuts[number]
        if what == "cut TO_POD" and cuts[number - 1][1] != "cut TO_POD" and cuts[number + 1][1] != "cut TO_POD":
            pytest.fail(f"{who} was cut alone: {cuts[max(0, number - 3) : number + 3]}")


def test_nothing_is_done_to_a_monitor_that_was_taken_out(cutter: Cutter, diary: Diary) -> None:
    pipeline = Pipeline("a", diary)
    add(cutter, A, pipeline)
    pipeline.slow.clear()
    assert diary.wait(lambda: "drain" in diary.of("a"))
    remover = threading.Thread(target=cutter.remove, args=[A])
    remover.start()
    remover.join(0.1)
    assert remover.is_alive()  # the drain is under way
    pipeline.slow.set()
    remover.join(5)
    assert not remover.is_alive()
    done = len(diary.entries)
    assert not diary.wait(lambda: len(diary.entries) > done, 3 * FAST_NS / 1e9)


def test_one_that_comes_back_with_another_period_is_cut_by_that_one(cutter: Cutter, diary: Diary) -> None:
    pipeline = Pipeline("a", diary)
    add(cutter, A, pipeline, SLOW_NS)
    cutter.remove(A)
    add(cutter, A, pipeline)
    assert diary.wait(lambda: diary.of("a").count("drained") >= 2)


def test_a_failure_is_tried_again_and_a_crash_ends_that_monitor_alone(cutter: Cutter, diary: Diary) -> None:
    failing, crashing, good = Pipeline("f", diary), Pipeline("c", diary), Pipeline("g", diary)
    failing.error, crashing.error = KernelError("no room"), RuntimeError("nobody foresaw")
    crashes = {
        name: add(cutter, MonitorUid(name), each) for name, each in (("f", failing), ("c", crashing), ("g", good))
    }
    assert diary.wait(lambda: diary.of("g").count("drained") >= 3 and diary.of("f").count("drain") >= 3)
    assert diary.of("c").count("drain") == 1
    assert [len(crashes[name]) for name in ("f", "c", "g")] == [0, 1, 0]
    assert cutter.failures_total >= 2


def test_it_ends_while_it_waits_for_an_hour_or_for_a_monitor() -> None:
    for pipelines in ([], [Pipeline("a", Diary())]):
        cutter = Cutter(SystemClock())
        cutter.start()
        for pipeline in pipelines:
            add(cutter, A, pipeline, SLOW_NS)
        began_s = time.monotonic()
        cutter.stop()
        assert time.monotonic() - began_s < 1
