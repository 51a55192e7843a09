"""The plain reading of rules, by the table that the program is held to as well."""

from __future__ import annotations

import pytest

from podwire_agent.core.rules import verdict_at
from tests.rule_table import CASES, INTERFACE, Case, documented


def test_the_table_is_long_and_its_sentences_differ() -> None:
    assert len(CASES) >= 80
    assert len(documented()) >= 20
    assert len({case.sentence for case in CASES}) == len(CASES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.sentence)
def test_what_becomes_of_a_packet(case: Case) -> None:
    assert verdict_at(case.rules, case.view, case.flow, INTERFACE) == case.verdict
