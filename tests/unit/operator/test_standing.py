from __future__ import annotations

from typing import Any

import pytest

from podwire_api.conditions import ConditionType, MonitorReason
from podwire_operator import words
from podwire_operator.judge import Figures, Finding, Judgement
from podwire_operator.standing import Change, change, monitor_status, ready_reason

FIRST, LATER = "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"


def judgement(status: str = "True", reason: str = "Attached", message: str = "m", **figures: Any) -> Judgement:
    ready = Finding(ConditionType.READY, status, MonitorReason(reason), message)
    return Judgement((ready,), Figures(**figures))


def stored(**more: Any) -> dict[str, Any]:
    return monitor_status(judgement(**more), {}, 1, FIRST)


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        pytest.param(judgement(), Change.NONE, id="the same"),
        pytest.param(judgement(flows_per_second=5), Change.WORDS, id="a figure"),
        pytest.param(judgement(message="n"), Change.WORDS, id="a sentence"),
        pytest.param(judgement(reason="Paused"), Change.STATE, id="a reason"),
        pytest.param(judgement("False", "Attaching"), Change.STATE, id="a status"),
    ],
)
def test_what_is_worth_a_write(wanted: Judgement, expected: Change) -> None:
    present = stored()
    assert change(present, monitor_status(wanted, present, 1, LATER)) is expected


def test_another_generation_is_a_change_and_no_status_at_all_is_one_too() -> None:
    present = stored()
    assert change(present, monitor_status(judgement(), present, 2, LATER)) is Change.STATE
    assert change({}, present) is Change.STATE


def test_a_conditions_time_changes_with_its_status_alone() -> None:
    present = stored()
    same = monitor_status(judgement(reason="Paused", message="n"), present, 2, LATER)
    assert same["conditions"][0]["lastTransitionTime"] == FIRST
    other = monitor_status(judgement("False", "Attaching"), present, 2, LATER)
    assert other["conditions"][0]["lastTransitionTime"] == LATER
    assert ready_reason(other) == "Attaching"
    assert ready_reason({}) == ""


def test_a_figure_that_does_not_change_the_column_is_not_written() -> None:
    present = stored(flows_per_second=12345, lost=1001, overflowed=999_999)
    wanted = monitor_status(judgement(flows_per_second=12400, lost=1049, overflowed=1_000_000), present, 1, LATER)
    assert change(present, wanted) is Change.NONE
    assert (present["flowsPerSecond"], present["lost"], present["overflowed"]) == (12000, "1000", "1000000")


@pytest.mark.parametrize(
    ("number", "shown"),
    [(0, 0), (7, 7), (99, 99), (100, 100), (104, 100), (105, 110), (1250, 1300), (999, 1000), (12345, 12000)],
)
def test_two_digits(number: int, shown: int) -> None:
    assert words.two_digits(number) == shown


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["n1"], "node n1"),
        (["n1", "n2"], "nodes n1, n2"),
        (["n1", "n2", "n3", "n4"], "nodes n1, n2, n3 and 1 more"),
    ],
)
def test_a_few_nodes_are_named(names: list[str], said: str) -> None:
    assert words.nodes(names) == said


def test_others_words_are_one_line_and_cut() -> None:
    assert words.quoted("a\n  b. ") == "a b"
    assert len(words.quoted("x" * 5000)) == words.MAX_WORDS
