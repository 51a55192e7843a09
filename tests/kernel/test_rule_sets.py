"""Rules that change: switched whole under traffic, changed in place, taken over from a former agent."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from podwire_agent.core.networks import Networks, packed
from podwire_agent.core.rule_entries import RuleCompiler
from podwire_agent.core.rules import End, Pod, Requirement, Rule, Rules, View, verdict_at
from podwire_agent.errors import KernelError, StateError
from podwire_agent.kernel.datapath import Datapath
from podwire_agent.kernel.interfaces import Interfaces
from podwire_agent.kernel.loader import Loader
from podwire_agent.kernel.objects import Map
from podwire_agent.kernel.rule_sets import RuleSets
from podwire_agent.kernel.tc import Owner, TrafficControl
from podwire_agent.layout import FlowDirection
from podwire_agent.model import Cause, HookPoint, IfIndex, MonitorUid, RuleEntries, RuleListName, Traffic
from tests import rule_worlds
from tests.kernel.datapath_fixtures import LOOPBACK
from tests.kernel.datapath_fixtures import Datapath as Bare
from tests.kernel.netns import Host
from tests.kernel.sending import sending
from tests.kernel.test_rules import programs_verdicts

ENTRIES = 65536
UID = "rules"
SENDERS_NET = Networks.of(["10.0.0.0/15"])
NOBODYS_NET = Networks.of(["192.0.2.0/24"])


def compiled(*blacklist: Rule, whitelist: tuple[Rule, ...] = (), view: View | None = None) -> RuleEntries | None:
    return RuleCompiler(Rules(blacklist, whitelist)).compile(view or View())


def by_blacklist(name: str) -> Cause:
    return Cause(RuleListName.BLACKLIST, name)


def filtered(sets: RuleSets) -> dict[Cause, int]:
    """Packets by cause, of all editions, only what is not 0."""
    former, current = sets.editions()
    total: dict[Cause, int] = {}
    for edition in [*former, *([current] if current else [])]:
        for cause, traffic in edition.read().items():
            total[cause] = total.get(cause, 0) + traffic.packets
    return {cause: packets for cause, packets in total.items() if packets}


@pytest.fixture
def opened(loader: Loader, tmp_bpffs: Path) -> Iterator[Datapath]:
    """A datapath with pins, on no interface."""
    with Datapath.open(tmp_bpffs, UID, loader, ENTRIES) as made:
        yield made


def watch_a_pod(datapath: Datapath, host: Host, pins: Path, stack: ExitStack) -> IfIndex:
    """Attach to the first pod's interface."""
    stack.enter_context(host.namespace.entered())
    control, interfaces = stack.enter_context(TrafficControl()), stack.enter_context(Interfaces())
    [veth] = [each for each in interfaces.all() if each.name == host.pods[0].interface]
    datapath.open_ledger(veth.index)
    for hook in HookPoint:
        control.attach(veth, hook, datapath.program(False, hook), Owner(MonitorUid(UID), 1, pins / UID))
    return veth.index


def test_under_traffic_no_packet_is_judged_by_half_a_set(opened: Datapath, host: Host, tmp_bpffs: Path) -> None:
    """In each set one rule holds for all packets, by address and by port; by the address of one set and the port of the
    other none does.
    """

    def rules(wanted: str) -> RuleEntries | None:
        return compiled(
            *(
                Rule(name, End(cidrs=SENDERS_NET), ports=((5000, 5000),))
                if name == wanted
                else Rule(name, End(cidrs=NOBODYS_NET), ports=((1, 1),))
                for name in ("a", "b")
            )
        )

    sets = [rules("a"), rules("b")]
    frames = 600_000
    switches = 0
    with ExitStack() as stack:
        index = watch_a_pod(opened, host, tmp_bpffs, stack)
        opened.rules.apply(sets[0])
        with sending(host.pods[0].namespace, frames, 300, rate=80_000) as senders:
            while any(each.poll() is None for each in senders):
                switches += 1
                opened.rules.apply(sets[switches % 2])
        host.settle()
        cells = opened.ledger(index, FlowDirection.FROM_POD)
        assert cells is not None
        frozen = opened.rotations[FlowDirection.FROM_POD].cut(ENTRIES)
        keys, _ = frozen.map.read()
    assert switches > 20
    assert int(cells["filtered"]["packets"]) == frames
    assert int(cells["overflowed"]["packets"]) == 0
    assert [key for key in keys if key["protocol"] == 17] == []
    by_name = filtered(opened.rules)
    assert sum(by_name.values()) == frames
    assert set(by_name) == {by_blacklist("a"), by_blacklist("b")}


def test_under_traffic_every_packet_is_either_measured_or_filtered(
    opened: Datapath, host: Host, tmp_bpffs: Path
) -> None:
    frames = 300_000
    halves = [f"10.{sender}.{third}.0/25" for sender in (0, 1) for third in (0, 1)]
    sets = [
        None,
        compiled(Rule("half", End(cidrs=Networks.of(halves)))),
        compiled(whitelist=(Rule("none", ports=((1, 1),)),)),
    ]
    chance = random.Random(2)
    with ExitStack() as stack:
        index = watch_a_pod(opened, host, tmp_bpffs, stack)
        with sending(host.pods[0].namespace, frames, 500, rate=60_000) as senders:
            while any(each.poll() is None for each in senders):
                opened.rules.apply(chance.choice(sets))
        host.settle()
        cells = opened.ledger(index, FlowDirection.FROM_POD)
        assert cells is not None
        _, stats = opened.rotations[FlowDirection.FROM_POD].cut(ENTRIES).map.read()
    counted, dropped = int(stats["packets"].sum()), int(cells["filtered"]["packets"])
    assert int(cells["seen"]["packets"]) == counted + dropped + int(cells["unsupported"]["packets"].sum())
    assert counted > 0
    assert dropped > 0
    assert sum(filtered(opened.rules).values()) == dropped


def pod(number: int, **labels: str) -> Pod:
    return Pod("shop", labels, (packed(f"10.1.0.{number}"),))


def test_pods_that_come_and_go_change_entries_in_place(datapath: Bare) -> None:
    """A thousand networks and a few pods that change: the maps stay, and the verdicts follow."""
    chance = random.Random(3)
    networks = Networks.of(f"172.{n >> 8}.{n & 255}.{n % 7}" for n in range(5000))
    rules = Rules(
        (
            Rule("front", End(pod_query=(Requirement("app", "In", frozenset({"web"})),))),
            Rule("net", End(cidrs=networks)),
        )
    )
    compiler = RuleCompiler(rules)
    datapath.watch(LOOPBACK)
    made: list[set[int]] = []
    for _ in range(40):
        pods = [pod(number, app=chance.choice(("web", "db"))) for number in chance.sample(range(1, 9), 5)]
        view = View(pods=pods, interfaces={IfIndex(LOOPBACK): chance.choice([*pods, None])})
        datapath.rules.apply(compiler.compile(view))
        made.append({filled.map.info().id for half in datapath.rules._halves for filled in half.values()})
        flows = list({rule_worlds.flow(chance) for _ in range(60)})
        wanted = [verdict_at(rules, view, flow, IfIndex(LOOPBACK)) for flow in flows]
        assert programs_verdicts(datapath, flows, ("front", "net")) == wanted
    assert made[2] == made[-1]


def test_a_set_that_the_kernel_refuses_leaves_the_former_one(datapath: Bare, monkeypatch: pytest.MonkeyPatch) -> None:
    datapath.watch(LOOPBACK)
    first = Rules((Rule("tcp", protocols=frozenset({6})),))
    datapath.rules.apply(RuleCompiler(first).compile(View()))
    chance = random.Random(4)
    flows = list({rule_worlds.flow(chance) for _ in range(40)})
    with monkeypatch.context() as patched:
        fill = Map.fill

        def refuse(item: Map, keys: np.ndarray, values: np.ndarray) -> None:
            fill(item, keys[:1], values[:1])
            raise KernelError("no room")

        patched.setattr(Map, "fill", refuse)
        with pytest.raises(KernelError):
            datapath.rules.apply(compiled(Rule("udp", protocols=frozenset({17}), ports=((1, 65535),))))
    wanted = [verdict_at(first, View(), flow, IfIndex(LOOPBACK)) for flow in flows]
    assert programs_verdicts(datapath, flows, ("tcp",)) == wanted
    second = Rules((Rule("udp", protocols=frozenset({17}), ports=((1, 65535),)),))
    datapath.rules.apply(RuleCompiler(second).compile(View()))
    wanted = [verdict_at(second, View(), flow, IfIndex(LOOPBACK)) for flow in flows]
    assert programs_verdicts(datapath, flows, ("udp",)) == wanted


def test_a_successor_finds_rules_and_counts(loader: Loader, tmp_bpffs: Path) -> None:
    udp = rule_worlds.flow(random.Random(9))
    frame = rule_worlds.frame(udp)
    with Datapath.open(tmp_bpffs, UID, loader, ENTRIES) as first:
        first.open_ledger(IfIndex(LOOPBACK))
        for names in (("a",), ("b",), ("b",)):
            first.rules.apply(compiled(*(Rule(name) for name in names)))
            first.program(False, HookPoint.INGRESS).test_run(frame)
        generation = first.rules.generation
    with Datapath.open(tmp_bpffs, UID, loader, ENTRIES) as second:
        assert second.adopted
        assert second.rules.in_force
        second.program(False, HookPoint.INGRESS).test_run(frame)
        assert filtered(second.rules) == {by_blacklist("a"): 1, by_blacklist("b"): 3}
        former, current = second.rules.editions()
        assert [edition.blacklist for edition in former] == [("a",)]
        second.rules.release(former[0])
        assert current is not None
        second.rules.apply(compiled(Rule("b"), whitelist=(Rule("w"),)))
        assert second.rules.generation == generation + 1
        assert second.rules.editions()[1] is current  # the names are the same
        second.program(False, HookPoint.INGRESS).test_run(frame)
        second.rules.apply(None)
        second.program(False, HookPoint.INGRESS).test_run(frame)
        assert filtered(second.rules) == {by_blacklist("b"): 4}
    with Datapath.open(tmp_bpffs, UID, loader, ENTRIES) as third:
        assert not third.rules.in_force
        assert third.rules.generation == generation + 1
        former, current = third.rules.editions()
        assert (len(former), current) == (1, None)
        assert former[0].read()[by_blacklist("b")] == Traffic(4, 4 * len(frame))
        third.rules.release(former[0])
        third.rules.apply(compiled(Rule("c")))
        assert third.rules.generation == generation + 2
        third.remove()


def test_what_was_begun_and_never_in_use_is_dropped(loader: Loader, tmp_bpffs: Path) -> None:
    with Datapath.open(tmp_bpffs, UID, loader, ENTRIES) as first:
        first.rules.apply(compiled(Rule("a")))
        begun = first.rules._make_edition(2, ("b",))
        begun.counters.close()
    with Datapath.open(tmp_bpffs, UID, loader, ENTRIES) as second:
        former, current = second.rules.editions()
        assert former == []
        assert current is not None
        assert current.blacklist == ("a",)
        second.rules.apply(compiled(Rule("b")))
        assert filtered(second.rules) == {}
        second.remove()


def test_rules_whose_pins_are_gone_are_refused_in_words(loader: Loader, tmp_bpffs: Path) -> None:
    with Datapath.open(tmp_bpffs, UID, loader, ENTRIES) as first:
        first.rules.apply(compiled(Rule("a")))
        for pin in tmp_bpffs.rglob("rules-*"):
            pin.unlink()
        with pytest.raises(StateError, match=r"the rules in use are not among the pins"):
            Datapath.open(tmp_bpffs, UID, loader, ENTRIES)
        first.remove()


def test_generations_skip_what_would_mean_no_rules(datapath: Bare) -> None:
    datapath.rules._generation = 0xFFFF
    datapath.rules.apply(compiled(Rule("a")))
    assert datapath.rules.generation == 0x10001
