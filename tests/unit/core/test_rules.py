"""The plain reading of rules, by the table that the program is held to as well."""

from __future__ import annotations

import pytest

from podwire_agent.core.rules import selecting_nobody, verdict_at
from podwire_agent.model import RuleListName
from tests.rule_table import CASES, INTERFACE, VIEW, Case, documented, rules


def test_the_table_is_long_and_its_sentences_differ() -> None:
    assert len(CASES) >= 80
    assert len(documented()) >= 20
    assert len({case.sentence for case in CASES}) == len(CASES)


def test_rules_that_ask_for_nobody_in_view_are_told() -> None:
    lists = (
        "blacklist: [{name: a, namespaces: [absent]}, {name: b, namespaces: [shop]}, {name: c, cidrs: [192.0.2.1]}],"
        "whitelist: [{name: d, services: [data/absent]}, {name: e, peer: {podSelector: {matchLabels: {app: none}}}},"
        " {name: f, services: [default/kubernetes]}, {name: g, podSelector: {}}]"
    )
    assert selecting_nobody(rules(lists), VIEW) == [
        (RuleListName.BLACKLIST, "a"),
        (RuleListName.WHITELIST, "d"),
        (RuleListName.WHITELIST, "e"),
    ]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.sentence)
def test_what_becomes_of_a_packet(case: Case) -> None:
    assert verdict_at(case.rules, case.view, case.flow, INTERFACE) == case.verdict
