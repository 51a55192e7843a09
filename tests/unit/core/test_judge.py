"""Many flows judged at once: what the plain reading says of each."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import pytest

from podwire_agent.core.judge import Judge
from podwire_agent.core.rule_entries import RuleCompiler
from podwire_agent.core.rules import Flow, Rules, View, verdict, verdict_at
from podwire_agent.layout import FLOW_KEY
from podwire_agent.model import Cause, IfIndex, Records
from tests import rule_worlds
from tests.rule_table import CASES, INTERFACE, VIEW, WEB, Case, rules

WORLDS = 120
PACKETS = 500


def judge_of(rules: Rules, view: View) -> Judge:
    compiler = RuleCompiler(rules)
    entries = compiler.compile(view)
    assert entries is not None
    return Judge(compiler, view, entries)


def columns(flows: Sequence[Flow], interface: IfIndex = INTERFACE) -> tuple[Records, np.ndarray]:
    """As layout.FLOW_KEY, and the directions."""
    keys = np.zeros(len(flows), FLOW_KEY)
    for key, flow in zip(keys, flows, strict=True):
        key["src_address"] = np.frombuffer(flow.src_address, "u1")
        key["dst_address"] = np.frombuffer(flow.dst_address, "u1")
        key["src_port"], key["dst_port"], key["protocol"] = flow.src_port, flow.dst_port, flow.protocol
        key["kind"], key["ifindex"] = flow.kind, interface
    return keys, np.array([flow.direction for flow in flows], np.uint32)


def in_words(judge: Judge, verdicts: np.ndarray) -> list[Cause | None]:
    return [judge.cause(each) if each else None for each in verdicts.tolist()]


@pytest.mark.parametrize("case", [case for case in CASES if case.rules.all], ids=lambda case: case.sentence)
def test_what_becomes_of_a_packet(case: Case) -> None:
    judge = judge_of(case.rules, case.view)
    keys, directions = columns([case.flow])
    if judge.decided(keys["ifindex"]).all():
        assert in_words(judge, judge.at_interfaces(keys, directions)) == [case.verdict]
    else:
        assert case.verdict is None


def test_it_agrees_with_the_plain_reading_on_random_flows() -> None:
    chance = random.Random(8)
    seen: set[Cause | None] = set()
    for number in range(WORLDS):
        rules, view, interface = rule_worlds.world(chance, rules=64 if number % 4 == 0 else 6)
        if not rules.all:
            continue
        judge = judge_of(rules, view)
        flows = [rule_worlds.flow(chance) for _ in range(PACKETS)]
        keys, directions = columns(flows, interface)
        known = not rules.ask_whose or interface in view.interfaces
        assert judge.decided(keys["ifindex"]).tolist() == [known] * PACKETS
        if known:
            wanted = [verdict_at(rules, view, flow, interface) for flow in flows]
            assert in_words(judge, judge.at_interfaces(keys, directions)) == wanted
            seen |= set(wanted)
        near = [chance.choice([*view.pods, None]) for _ in flows]
        wanted = [verdict(rules, view, flow, pod) for flow, pod in zip(flows, near, strict=True)]
        assert in_words(judge, judge.at_pods(keys, directions, near)) == wanted
    assert len(seen) > 15


def test_until_the_view_is_complete_nothing_can_be_judged() -> None:
    judge = judge_of(rules("blacklist: [{name: a, cidrs: [10.0.0.0/8]}]"), View(complete=False))
    assert not judge.decided(np.array([1, 2], np.uint32)).any()


def test_no_flows_are_judged_too() -> None:
    judge = judge_of(rules("blacklist: [{name: a, namespaces: [shop]}]"), VIEW)
    keys, directions = columns([])
    assert judge.at_interfaces(keys, directions).tolist() == []
    assert judge.at_pods(keys, directions, []).tolist() == []


def test_the_pod_that_has_an_address_is_found() -> None:
    judge = judge_of(rules("blacklist: [{name: a, namespaces: [shop]}]"), VIEW)
    addresses = np.frombuffer(WEB.addresses[0] + bytes(16), "u1").reshape(2, 16)
    assert judge.pods_at(addresses) == [WEB, None]
