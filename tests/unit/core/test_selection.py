"""What is kept from view to view is what would be made of the last one alone."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np

from podwire_agent.core.rule_entries import RuleCompiler
from podwire_agent.core.rules import View, selecting_nobody
from podwire_agent.model import RuleEntries
from tests import rule_worlds

WORLDS = 60
CHANGES = 12


def changed(view: View, chance: random.Random) -> View:
    """Some of another world's in its place; the rest are the same objects."""
    _, other, _ = rule_worlds.world(chance)
    match chance.randrange(6):
        case 0:
            return replace(view, namespaces=other.namespaces)
        case 1:
            return View(complete=False)
        case 2:
            return replace(view, networks=other.networks)
        case 3:
            kept = [each for each in view.services if chance.random() < 0.7]
            names = {each.full_name for each in kept}
            return replace(view, services=[*kept, *(each for each in other.services if each.full_name not in names)])
        case _:
            kept_pods = [each for each in view.pods if chance.random() < 0.7]
            return replace(view, pods=[*kept_pods, *other.pods][:8], interfaces=other.interfaces)


def assert_alike(found: RuleEntries | None, wanted: RuleEntries | None) -> None:
    assert found is not None
    assert wanted is not None
    assert np.array_equal(found.settings, wanted.settings)
    for name in ("interfaces", "addresses", "prefixes", "ports", "protocols"):
        one, other = getattr(found, name), getattr(wanted, name)
        assert np.array_equal(one.keys, other.keys), name
        assert np.array_equal(one.values, other.values), name


def test_entries_made_from_changes_are_those_made_anew() -> None:
    chance = random.Random(7)
    for number in range(WORLDS):
        rules, view, _ = rule_worlds.world(chance, rules=64 if number % 10 == 0 else 6)
        if not rules.all:
            continue
        compiler = RuleCompiler(rules)
        for _ in range(CHANGES):
            assert_alike(compiler.compile(view), RuleCompiler(rules).compile(view))
            if view.complete:
                assert compiler.selecting_nobody() == selecting_nobody(rules, view)
            view = changed(view, chance)
