"""Rules through the real program by BPF_PROG_TEST_RUN: its verdicts are those of the plain reading."""

from __future__ import annotations

import random
from collections.abc import Iterable

import numpy as np
import pytest

from podwire_agent import layout
from podwire_agent.core.networks import packed
from podwire_agent.core.rule_entries import RuleCompiler
from podwire_agent.core.rules import End, Flow, Pod, Rule, Rules, View, verdict_at
from podwire_agent.layout import FlowDirection, RuleVerdict
from podwire_agent.model import Cause, IfIndex, Records, RuleListName, Traffic
from tests import rule_worlds
from tests.kernel.datapath_fixtures import LOOPBACK, Datapath
from tests.rule_table import CASES, Case

PROGRAM = {FlowDirection.FROM_POD: "veth_ingress", FlowDirection.TO_POD: "veth_egress"}
ENDS = (packed("10.1.0.1"), packed("10.2.0.1"))
WORLDS = 100
PACKETS = 1000


def key_of(flow: Flow) -> Records:
    """The layout.FLOW_KEY of shape (1,) that it has on the loopback."""
    key = np.zeros(1, layout.FLOW_KEY)
    key["src_address"], key["dst_address"] = (
        np.frombuffer(each, "u1") for each in (flow.src_address, flow.dst_address)
    )
    key["src_port"], key["dst_port"], key["ifindex"] = flow.src_port, flow.dst_port, LOOPBACK
    key["protocol"], key["kind"] = flow.protocol, flow.kind
    return key


def programs_verdicts(datapath: Datapath, flows: Iterable[Flow], blacklist: tuple[str, ...]) -> list[Cause | None]:
    """Of each flow, by where its packet went."""
    found: list[Cause | None] = []
    generation = datapath.rules.generation if datapath.rules.in_force else 0
    for flow in flows:
        key = key_of(flow)
        datapath.programs[PROGRAM[flow.direction]].test_run(rule_worlds.frame(flow))
        known = datapath.verdicts.lookup(key)
        counted = datapath.flow_maps[flow.direction].lookup(key)
        judged = known is not None and known["generation"][0] == generation and known["direction"] == flow.direction
        measured = counted is not None and counted["generation"][0] == generation & 0xFFFF
        assert judged is not measured, flow
        found.append(_cause(int(known["verdict"][0]), blacklist) if judged and known is not None else None)
    return found


def marked(datapath: Datapath) -> set[bool]:
    """Of all flows that were counted, whether user space is to judge them."""
    return {bool(mark) for each in FlowDirection for mark in datapath.flows(LOOPBACK, each)[1]["unjudged"]}


def _cause(verdict: int, blacklist: tuple[str, ...]) -> Cause:
    if verdict == RuleVerdict.NOT_LISTED:
        return Cause(RuleListName.WHITELIST, "")
    return Cause(RuleListName.BLACKLIST, blacklist[verdict - RuleVerdict.FIRST_CAUSE])


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.sentence)
def test_what_becomes_of_a_packet(case: Case, datapath: Datapath) -> None:
    rules = case.rules
    datapath.watch(LOOPBACK)
    datapath.rules.apply(RuleCompiler(rules).compile(case.view))
    names = tuple(rule.name for rule in rules.blacklist)
    assert programs_verdicts(datapath, [case.flow, case.flow], names) == [case.verdict, case.verdict]
    size = len(rule_worlds.frame(case.flow))
    filtered = (0, 0) if case.verdict is None else (2, 2 * size)
    assert datapath.account(LOOPBACK, case.flow.direction).filtered == filtered
    assert datapath.unaccounted(LOOPBACK, case.flow.direction) == (0, 0)
    _, edition = datapath.rules.editions()
    charged = {} if edition is None else {cause: sum_ for cause, sum_ in edition.read().items() if sum_.packets}
    assert charged == ({} if case.verdict is None else {case.verdict: Traffic(*filtered)})


def test_what_is_unjudged_is_marked_until_the_interface_is_known(datapath: Datapath) -> None:
    first, second, third = (Flow(FlowDirection.FROM_POD, *ENDS, protocol=17, dst_port=port) for port in (1, 2, 3))
    compiler = RuleCompiler(Rules((Rule("hush", End(namespaces=frozenset({"quiet"}))),)))
    datapath.watch(LOOPBACK)

    def marks(view: View, *flows: Flow) -> dict[int, bool]:
        datapath.rules.apply(compiler.compile(view))
        for flow in flows:
            datapath.programs["veth_ingress"].test_run(rule_worlds.frame(flow))
        keys, stats = datapath.flows(LOOPBACK, FlowDirection.FROM_POD)
        return dict(zip(keys["dst_port"].tolist(), (stats["unjudged"] != 0).tolist(), strict=True))

    assert marks(View(complete=False), first) == {1: True}
    assert marks(View(), first, second) == {1: True, 2: True}
    known = View(interfaces={IfIndex(LOOPBACK): Pod("shop", {}, ())})
    assert marks(known, first, third) == {1: True, 2: True, 3: False}
    hushed = View(interfaces={IfIndex(LOOPBACK): Pod("quiet", {}, ())})
    assert marks(hushed, first, second, third) == {1: True, 2: True, 3: False}
    assert datapath.account(LOOPBACK, FlowDirection.FROM_POD).filtered[0] == 3
    assert marks(View(), third) == {1: True, 2: True, 3: True}
    assert datapath.unaccounted(LOOPBACK, FlowDirection.FROM_POD) == (0, 0)


def test_the_program_and_the_plain_reading_agree_on_100_000_random_packets(datapath: Datapath) -> None:
    chance = random.Random(6)
    seen: set[Cause | None] = set()
    for number in range(WORLDS):
        rules, view, interface = rule_worlds.world(chance, rules=64 if number % 10 == 0 else 6)
        datapath.forget()
        datapath.watch(LOOPBACK)
        datapath.rules.apply(RuleCompiler(rules).compile(view))
        if not rules.all:
            continue
        flows = list({rule_worlds.flow(chance) for _ in range(PACKETS)})
        names = tuple(rule.name for rule in rules.blacklist)
        wanted = [verdict_at(rules, view, flow, interface) for flow in flows]
        for flow, expected, found in zip(flows, wanted, programs_verdicts(datapath, flows, names), strict=True):
            assert found == expected, (number, flow, rules)
        assert marked(datapath) <= {rules.ask_whose and interface not in view.interfaces}
        seen |= set(wanted)
    assert len(seen) > 12
