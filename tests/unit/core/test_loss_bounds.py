"""What is not compared at once, and that everything is bounded and forgotten."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from podwire_agent.core.loss import COMPARED, NOT_BETWEEN_PODS, Job, Loss
from podwire_agent.core.received import HELD, RECEIVED
from podwire_agent.core.sent import SENT
from podwire_agent.core.surroundings import INTERFACE, LOSS, RECEIVER, Surroundings
from podwire_agent.layout import FLOW_KEY, FLOW_STATS, FlowDirection, FlowKind
from podwire_agent.model import Records, UncomparedReason
from podwire_agent.statements import SETTLED, STATEMENT, WIRE, CutTimes, Envelope, Status
from tests.unit.core import loss_world
from tests.unit.core.loss_world import MS, S, World, traffic

pytestmark = pytest.mark.unit

NOTHING = Surroundings(np.zeros(0, INTERFACE), np.zeros(0, RECEIVER))
START = 10**12


def loss(limit: int = 64) -> Loss:
    return Loss(Job("here", "boot", limit, 5 * S, exchange=True, seed=1), 1)


def flows(count: int, packets: int = 7) -> tuple[Records, Records, Records]:
    keys, wires, stats = np.zeros(count, FLOW_KEY), np.zeros(count, WIRE), np.zeros(count, FLOW_STATS)
    for tuples in (keys, wires):
        tuples["src_port"], tuples["protocol"] = np.arange(count), 17
        tuples["dst_address"][:, 12:] = [10, 2, 0, 1]
    keys["ifindex"] = 7
    stats["packets"] = packets
    stats["first_mono_ns"] = stats["last_mono_ns"] = START
    return keys, stats, wires


def cut(at: int, late: int = 0) -> CutTimes:
    return CutTimes(at + late, at + late, at + late)


def uncompared(news: Records) -> dict[str, int]:
    sums = news["uncompared"].sum(axis=0, dtype=np.uint64)
    return {reason.name: int(sums[reason]) for reason in UncomparedReason if sums[reason]}


def send(each: Loss, count: int, nodes: Any = 0, reasons: Any = COMPARED, kind: int = FlowKind.FLOW_WHOLE) -> None:
    keys, stats, wires = flows(count)
    keys["kind"] = kind
    each.sent(cut(START), keys, stats, wires, np.full(count, nodes), ["there"], np.full(count, reasons))


@pytest.mark.parametrize("reason", list(UncomparedReason))
def test_what_cannot_be_compared_is_counted_at_once_with_its_reason(reason: UncomparedReason) -> None:
    each = loss()
    send(each, 3, reasons=reason)
    news = each.settle(NOTHING, [], START)
    assert uncompared(news) == {reason.name: 21}
    assert news.dtype == LOSS
    assert news["direction"].tolist() == [FlowDirection.FROM_POD] * 3
    assert news["key"]["src_port"].tolist() == [0, 1, 2]
    assert each.saved() == []
    assert len(each.settle(NOTHING, [], START)) == 0


def test_later_fragments_are_uncompared() -> None:
    each = loss()
    send(each, 2, kind=FlowKind.FLOW_LATER_FRAGMENT)
    assert uncompared(each.settle(NOTHING, [], START)) == {"FRAGMENT": 14}


def test_what_is_not_between_pods_is_none_of_it() -> None:
    each = loss()
    send(each, 2, nodes=NOT_BETWEEN_PODS)
    assert len(each.settle(NOTHING, [], START)) == 0


def test_flows_beyond_the_limit_are_uncompared() -> None:
    each = loss(limit=64)
    send(each, 70)
    assert uncompared(each.settle(NOTHING, [], START)) == {"OVERFLOW": 42}
    (statements,) = each.saved()
    assert (statements.node, len(statements.records)) == ("there", 64)


def test_a_late_cut_is_not_stated_and_counted() -> None:
    each = loss()
    keys, stats, wires = flows(1)
    each.sent(cut(START, 21 * MS), keys, stats, wires, np.zeros(1, np.int64), ["there"], np.full(1, COMPARED))
    each.settle(NOTHING, [], START)
    assert each.saved() == []
    assert each.state().skipped_windows_total == 1


def test_a_destination_without_room_says_so_and_one_that_names_a_flow_twice_is_told() -> None:
    each = loss(limit=4)
    receivers, interfaces = np.zeros(1, RECEIVER), np.zeros(1, INTERFACE)
    receivers["address"][0, 12:], receivers["ifindex"] = [10, 2, 0, 1], 7
    interfaces["ifindex"] = 7
    each.settle(Surroundings(interfaces, receivers), [], START)
    records = np.zeros(6, STATEMENT)
    records["wire"] = flows(6)[2]
    records["packets"] = 1
    statuses = each.take(Envelope("there", "boot", START), records, START)
    assert sorted(statuses.tolist()) == [Status.TAKEN] * 4 + [Status.OVERFLOW | SETTLED] * 2
    twice = records[np.flatnonzero(statuses == Status.TAKEN)[[0, 0]]]
    assert each.take(Envelope("there", "boot", START), twice, START).tolist() == [Status.TAKEN, Status.AMBIGUOUS]


def test_everything_is_forgotten_in_the_end() -> None:
    world = World(3, 2)
    for number in range(40):
        begin = int(world.random.uniform(1, 60)) * S
        traffic(world, number, number % 2, number // 2 % 2, begin, begin + 2 * S, 0.1)
    world.run(300 * S)
    for node in world.nodes:
        state = node.loss.state()
        assert (state.sent_flows, state.received_flows, state.held_flows) == (0, 0, 0)


def test_tables_smaller_than_the_traffic_make_no_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss_world, "LIMIT", 6)
    world = World(4, 2)
    for number in range(40):
        begin = int(world.random.uniform(1, 100)) * S
        traffic(world, number, number % 2, number // 2 % 2, begin, begin + 20 * S, 0.1)
    world.run(260 * S)  # never_more is checked at each step
    accounts = [world.account(flow) for flow in world.flows]
    assert all(account.all == len(flow.sent) for account, flow in zip(accounts, world.flows, strict=True))
    assert sum(account.uncompared[UncomparedReason.OVERFLOW] for account in accounts) > 0


def test_records_are_aligned() -> None:
    """numpy is several times slower where they are not; docs/concepts/loss.md has the sizes."""
    for dtype in (SENT, RECEIVED, HELD, STATEMENT):
        for name in dtype.names or ():
            fields: Any = dtype.fields
            kind, offset = fields[name][:2]
            assert offset % 8 == 0 or kind.itemsize % 8, name
        assert dtype.itemsize % 8 == 0
    assert (SENT.itemsize, RECEIVED.itemsize + HELD.itemsize, STATEMENT.itemsize) == (184, 336, 120)
