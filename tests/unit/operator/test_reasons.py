"""docs/reference/reasons.md has every reason, each with its meaning and what to do."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from podwire_api.conditions import MonitorReason, PoolReason
from podwire_operator import judge, judge_pool
from podwire_operator.events import GOOD, PASSING

PAGE = (Path(__file__).parents[3] / "docs" / "reference" / "reasons.md").read_text()


def rows(heading: str) -> dict[str, list[str]]:
    """The rows of the table under a heading, by reason."""
    section = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    lines = re.findall(r"^\| `(\w+)` \| (.+) \|$", section, re.MULTILINE)
    assert len(lines) == len({reason for reason, _ in lines})
    return {reason: [cell.strip() for cell in rest.split(" | ")] for reason, rest in lines}


@pytest.mark.parametrize(
    ("heading", "reasons"), [("NetworkMonitor", set(MonitorReason)), ("AgentPool", set(PoolReason))]
)
def test_the_page_has_the_reasons_that_there_are(heading: str, reasons: set[str]) -> None:
    found = rows(heading)
    assert set(found) == reasons
    assert all(len(cells) == 3 and all(cells) for cells in found.values())


def test_the_page_says_which_reasons_wait_for_a_person() -> None:
    for heading, stalled in (("NetworkMonitor", judge.STALLED), ("AgentPool", judge_pool.STALLED)):
        said = {reason for reason, cells in rows(heading).items() if cells[0] == "Stalled"}
        assert said == set(stalled)


def test_every_state_of_a_node_is_a_reason_with_a_sentence() -> None:
    for state in judge.NodeState:
        assert MonitorReason(state.value)
        assert state in judge._SENTENCES or state is judge.NodeState.ATTACHED


def test_events_are_for_reasons_that_exist() -> None:
    known = {*MonitorReason, *PoolReason}
    assert known >= GOOD
    assert known >= PASSING
    assert not GOOD & PASSING
