"""What rules refer to changes in storms: they are renewed at once after a rest, which is as long as the work was.

The thread's loop runs here, in a time of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from types import SimpleNamespace
from typing import Any, cast

import pytest

from podwire_agent import births
from podwire_agent.births import LONGEST_GAP_S, RENEW_GAP_S, Births, rest_s
from podwire_agent.errors import KernelError
from podwire_agent.kernel.events import InterfaceChanges
from podwire_agent.model import MonitorUid

PERIOD_S = 60.0
MS = 10**6


class Time:
    """A clock, and events that come when the test wants them: waiting makes the time pass."""

    def __init__(self) -> None:
        self.now_ns = 0
        self.births: Births
        self._woken = False
        self._planned: list[tuple[int, Callable[[], None]]] = []

    def mono_ns(self) -> int:
        return self.now_ns

    def unix_ns(self) -> int:
        return self.now_ns

    def wake(self) -> None:
        self._woken = True

    def plan(self, at_s: float, action: Callable[[], None]) -> None:
        self._planned.append((int(at_s * 1e9), action))
        self._planned.sort(key=lambda each: each[0])

    def wait(self, timeout_s: float) -> InterfaceChanges:
        until_ns = self.now_ns + int(timeout_s * 1e9)
        while not self._woken and self._planned and self._planned[0][0] <= until_ns:
            at_ns, action = self._planned.pop(0)
            self.now_ns = max(self.now_ns, at_ns)
            action()
        if not self._woken:
            self.now_ns = max(self.now_ns, until_ns)
        self._woken = False
        return InterfaceChanges()


class Scene:
    """One monitor whose renewals take `took_s`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, took_s: float = 0.0) -> None:
        self.time = Time()
        monkeypatch.setattr(births, "InterfaceEvents", lambda: self.time)
        self.births = Births(self.time)
        self.took_s = took_s
        self.renewed_s: list[float] = []
        self.fails = False
        self.scans = 0
        watch = SimpleNamespace(changes=0, change=lambda *_: None, scan=self._scan)
        uid = MonitorUid("one")
        self.births.add(uid, cast(Any, watch), self._renew, int(PERIOD_S * 1e9), self._crashed)
        self.time.plan(0.9, self.renewed_s.clear)  # the first, after what was there before

    def run(self, until_s: float) -> list[float]:
        """When it was renewed; from 1 s on it has rested."""
        self.time.plan(until_s, lambda: setattr(self.births, "_stopping", True))
        self.time.plan(until_s, self.time.wake)
        self.births._run()
        return [round(each, 3) for each in self.renewed_s]

    def change_at(self, *times_s: float) -> None:
        for each in times_s:
            self.time.plan(each, self.births.renew_soon)

    def _renew(self) -> None:
        self.renewed_s.append(self.time.now_ns / 1e9)
        self.time.now_ns += int(self.took_s * 1e9)
        if self.fails:
            raise KernelError("no room")

    def _scan(self) -> None:
        self.scans += 1

    def _crashed(self, error: Exception) -> None:
        raise error


def test_a_change_after_a_rest_is_in_force_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(monkeypatch)
    scene.change_at(2.0, 5.0)
    assert scene.run(10) == [2.0, 5.0]
    assert scene.scans == 0


def test_what_changes_while_it_rests_is_in_force_at_the_end_of_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(monkeypatch)
    scene.change_at(2.0, 2.05, 2.1, 2.2)
    assert scene.run(10) == [2.0, 2.0 + RENEW_GAP_S]


@pytest.mark.parametrize("took_s", [0.0, 0.01, 0.03, 0.1, 0.25, 0.5])
def test_a_storm_takes_a_small_share_of_the_time_and_no_change_waits_for_long(
    monkeypatch: pytest.MonkeyPatch, took_s: float
) -> None:
    scene = Scene(monkeypatch, took_s)
    changes = [2 + 0.01 * number for number in range(2000)]
    scene.change_at(*changes)
    renewed = scene.run(30)
    gaps = [later - earlier for earlier, later in pairwise(renewed)]
    assert round(min(gaps), 3) >= RENEW_GAP_S
    share = took_s * len(gaps) / sum(gaps)
    assert share <= (0.05 if took_s <= LONGEST_GAP_S / births.RESTS else 0.34)
    in_force = [min(at for at in renewed if at >= change) + took_s - change for change in changes]
    assert max(in_force) <= 2.0


def test_a_longer_renewal_rests_for_longer() -> None:
    assert rest_s(0.0) == RENEW_GAP_S
    assert rest_s(0.04) == pytest.approx(0.04 * births.RESTS)
    assert rest_s(0.1) == LONGEST_GAP_S
    assert rest_s(1.0) == 2.0


def test_a_renewal_that_fails_is_tried_again_with_the_next_scan(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(monkeypatch)
    scene.change_at(2.0)
    scene.time.plan(1.0, lambda: setattr(scene, "fails", True))
    scene.time.plan(3.0, lambda: setattr(scene, "fails", False))
    assert scene.run(70) == [2.0, PERIOD_S]
    assert scene.scans == 1


def test_without_a_change_it_is_renewed_with_each_scan_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Scene(monkeypatch).run(3 * PERIOD_S + 1) == [PERIOD_S, 2 * PERIOD_S, 3 * PERIOD_S]


def test_a_monitor_that_left_is_not_renewed(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(monkeypatch)
    scene.time.plan(1.5, lambda: scene.births.remove(MonitorUid("one")))
    scene.change_at(2.0)
    assert scene.run(10) == []
