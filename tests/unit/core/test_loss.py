from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest

from podwire_agent.core.surroundings import InForce
from podwire_agent.layout import FlowDirection
from podwire_agent.model import Records, UncomparedReason
from tests.unit.core.loss_world import MS, PERIOD_NS, Flow, S, World, traffic

pytestmark = pytest.mark.unit

END = 120 * S
QUIET = 40 * S


def busy(world: World, end: int = END, flows: int = 16) -> None:
    nodes = len(world.nodes)
    for number in range(flows):
        src, dst = number % nodes, (number // 2) % nodes
        begin = int(world.random.uniform(S, end / 2))
        traffic(
            world,
            number,
            src,
            dst,
            begin,
            int(world.random.uniform(begin + S, end)),
            float(world.random.choice([0, 0.01, 0.3, 1])),
        )


def exact(world: World, flow: Flow) -> None:
    account = world.account(flow)
    assert account.lost == len(flow.gone), (flow.number, account)
    assert account.compared == len(flow.sent), (flow.number, account)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("clocks_ms", [0, 2, 20, 50, -50])
def test_what_was_lost_is_found_and_never_more(seed: int, clocks_ms: float) -> None:
    world = World(seed, clocks_ms)
    busy(world)
    world.run(END + QUIET)
    for flow in world.flows:
        exact(world, flow)


def all_accounted(world: World, flow: Flow) -> None:
    account = world.account(flow)
    assert account.all == len(flow.sent), (flow.number, account, len(flow.sent))


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("step", ["settled", "saved", "said"])
def test_kills_at_any_step_of_either_side_change_nothing_in_the_end(seed: int, step: str) -> None:
    world = World(seed, 5)
    world.answer_lost, world.repeated = 0.2, 0.2
    busy(world)
    for _ in range(8):
        node, k = int(world.random.integers(2)), int(world.random.integers(2, 24))
        world.kill_after(node, k, step)
        down = int(world.random.choice([S, 12 * S]))
        world.at(k * PERIOD_NS + 6 * S + down, world.nodes[node].revive)
    world.run(END + 2 * QUIET)
    for flow in world.flows:
        exact(world, flow)


@pytest.mark.parametrize("seed", range(2))
def test_kills_between_the_steps_and_messages_on_their_way(seed: int) -> None:
    world = World(seed, 2)
    world.answer_lost = 0.3
    busy(world)
    for _ in range(12):
        node = int(world.random.integers(2))
        t = int(world.random.uniform(10 * S, END))
        world.at(t, world.nodes[node].killed)
        world.at(t + int(world.random.exponential(3 * S)), world.nodes[node].revive)
    world.run(END + 2 * QUIET)
    for flow in world.flows:
        exact(world, flow)


@pytest.mark.parametrize("seed", range(2))
def test_an_exchange_that_is_cut_for_30_s_loses_nothing(seed: int) -> None:
    world = World(seed, 2)
    busy(world)
    world.at(60 * S, lambda _: setattr(world, "linked", False))
    world.at(90 * S, lambda _: setattr(world, "linked", True))
    world.run(END + QUIET)
    for flow in world.flows:
        exact(world, flow)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("away", [80, 400])
def test_an_exchange_that_is_cut_for_long_makes_packets_uncompared_each_once(seed: int, away: int) -> None:
    world = World(seed, 2)
    world.answer_lost = 0.3
    end = (away + 150) * S
    busy(world, end)
    world.at(60 * S, lambda _: setattr(world, "linked", False))
    world.at((60 + away) * S, lambda _: setattr(world, "linked", True))
    world.run(end + 2 * QUIET)
    for flow in world.flows:
        all_accounted(world, flow)
        account = world.account(flow)
        if not sum(account.uncompared):
            exact(world, flow)
    assert any(sum(world.account(flow).uncompared) for flow in world.flows)


@pytest.mark.parametrize("seed", range(2))
def test_a_peer_that_is_dead_for_ever_costs_nothing_but_uncompared(seed: int) -> None:
    world = World(seed, 2)
    busy(world)
    world.at(50 * S, world.nodes[1].killed)
    world.run(END + 3 * QUIET)
    for flow in world.flows:
        if flow.src == 0:
            account = world.account(flow, durable=True)
            if flow.dst == 1 and flow.sent[0] > 60 * S:
                assert account.uncompared[UncomparedReason.UNREACHABLE] == len(flow.sent)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("clocks_ms", [-500, 500, 150])
def test_clocks_too_far_apart_make_packets_uncompared(seed: int, clocks_ms: float) -> None:
    world = World(seed, clocks_ms)
    busy(world)
    world.run(END + QUIET)
    for flow in world.flows:
        if flow.src == flow.dst:
            exact(world, flow)
        else:
            account = world.account(flow)
            assert account.uncompared[UncomparedReason.CLOCK] == len(flow.sent)


@pytest.mark.parametrize("seed", range(2))
def test_a_wall_clock_that_steps_makes_no_loss(seed: int) -> None:
    world = World(seed, 0)
    busy(world)
    for k in range(1, 8):
        world.at(
            k * 20 * S, lambda _: setattr(world.nodes[1], "wall_offset", int(world.random.integers(-400, 400)) * MS)
        )
    world.run(END + QUIET)
    for flow in world.flows:
        all_accounted(world, flow)


@pytest.mark.parametrize("attached", [[0, 60], [60, 0], [60, 60]])
@pytest.mark.parametrize("seed", range(2))
def test_an_end_that_was_attached_late_compares_from_a_common_pause_on(seed: int, attached: list[int]) -> None:
    world = World(seed, 3, attached=[each * S for each in attached])
    for number in range(12):
        traffic(world, number, number % 2, number // 2 % 2, S, END, 0.05)
    world.run(END + QUIET)
    some = 0
    for flow in world.flows:
        account = world.account(flow)
        counted = int(np.count_nonzero(flow.sent >= attached[flow.src] * S))
        assert account.all == counted
        gone = int(np.count_nonzero(flow.gone >= max(attached[flow.src], attached[flow.dst]) * S))
        assert account.lost <= gone
        some += account.compared > 0
        if max(attached[flow.src], attached[flow.dst]):
            assert account.uncompared[UncomparedReason.NO_START] > 0 or account.compared == counted
    assert some > 6


@pytest.mark.parametrize("seed", range(2))
def test_a_connection_that_is_denied_is_lost_packets(seed: int) -> None:
    world = World(seed, 3)
    for number in range(2):
        traffic(world, number, number % 2, number // 2, int(world.random.uniform(2, 60)) * S, END, 1.0)
    world.run(END + QUIET)
    for flow in world.flows:
        exact(world, flow)
        assert world.account(flow).lost == len(flow.sent)


@pytest.mark.parametrize("gap", [45, 70, 130, 290, 320, 500])
@pytest.mark.parametrize("seed", range(2))
def test_a_flow_that_comes_back_after_a_long_pause(seed: int, gap: int) -> None:
    world = World(seed, 3)
    for number in range(8):
        first = traffic(world, number, number % 2, number // 2 % 2, 2 * S, 30 * S, 0.1)
        world.flows.pop()
        second = traffic(world, number, number % 2, number // 2 % 2, (30 + gap) * S, (70 + gap) * S, float(number < 4))
        world.flows.pop()
        sent, arrived = (np.concatenate([getattr(first, n), getattr(second, n)]) for n in ("sent", "arrived"))
        world.flows.append(Flow(number, first.src, first.dst, sent, arrived))
    world.run((70 + gap) * S + QUIET)
    for flow in world.flows:
        exact(world, flow)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("node", [0, 1])
def test_a_reboot_begins_anew_without_false_loss(seed: int, node: int) -> None:
    world = World(seed, 3)
    for number in range(8):
        traffic(world, number, number % 2, number // 2 % 2, S, END, 0.05)
    world.at(80 * S, lambda t: world.nodes[node].reboot(t, 10 * S))
    world.at(91 * S, world.nodes[node].start)
    world.run(END + QUIET)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("direction", list(FlowDirection))
def test_packets_that_found_no_room_make_no_loss(seed: int, direction: FlowDirection) -> None:
    world = World(seed, 3)
    for number in range(8):
        traffic(world, number, number % 2, 1 - number % 2, S, END, 0.05)
    spans = [(30 * S, 33 * S), (81 * S, 82 * S)]

    def counted(flow: Flow, where: FlowDirection, times: Any) -> Any:
        out = np.zeros(len(times), np.bool_)
        for begin, end in spans:
            out |= (times >= begin) & (times < end) & (where is direction)
        if out.any():
            world.nodes[flow.src if where is FlowDirection.FROM_POD else flow.dst].overflowed[where] += int(out.sum())
        return ~out

    world.counted = counted
    world.run(END + QUIET)
    for flow in world.flows:
        account = world.account(flow)
        if direction is FlowDirection.TO_POD:
            assert account.all == len(flow.sent)
    overflowed = sum(world.account(flow).uncompared[UncomparedReason.OVERFLOW] for flow in world.flows)
    assert overflowed > 0 or direction is FlowDirection.FROM_POD


def everything(keys: Records) -> Any:
    return np.ones(len(keys), np.bool_)


def even(keys: Records) -> Any:
    return keys["src_port"] % 2 == 0


def filter_odd(world: World, begin: int, end: int, skew: int) -> None:
    """Flows with an odd number are filtered for a while; at node 1 later by `skew`."""

    def counted(flow: Flow, where: FlowDirection, times: Any) -> Any:
        shift = skew * (flow.src if where is FlowDirection.FROM_POD else flow.dst)
        return even(flow.key(0))[0] | (times < begin + shift) | (times >= end + shift)

    for node in world.nodes:
        node.rules = [InForce(node.mono(0), everything)]
        for at, accepts in ((begin, even), (end, everything)):
            shifted = at + skew * node.index
            world.at(shifted, partial(node.enforce, InForce(node.mono(shifted), accepts)))
    world.counted = counted


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("skew_ms", [-900, -100, 100, 900])
def test_rules_that_change_at_two_ends_at_different_times_make_no_loss(seed: int, skew_ms: int) -> None:
    world = World(seed, 3)
    for number in range(8):
        traffic(world, number, number // 2 % 2, 1 - number // 2 % 2, S, END, 0.05)
    begin, end, skew = 40 * S, 70 * S, skew_ms * MS
    filter_odd(world, begin, end, skew)
    world.run(END + QUIET)
    for flow in world.flows:
        if flow.number % 2 == 0:
            exact(world, flow)
            continue
        shift = skew * flow.src
        account = world.account(flow)
        assert account.all == int(np.count_nonzero((flow.sent < begin + shift) | (flow.sent >= end + shift)))
        first, last = min(begin, begin + skew), min(end, end + skew)
        assert account.lost <= int(np.count_nonzero((flow.gone < first) | (flow.gone >= last)))


@pytest.mark.parametrize("seed", range(2))
def test_a_receiver_that_goes_is_compared_to_its_end(seed: int) -> None:
    world = World(seed, 3)
    for number in range(2):
        traffic(world, number, number % 2, 1, S, END // 2, 0.1)
    world.at(END // 2 + S, lambda t: setattr(world.nodes[1], "detached", t))
    world.run(END)
    for flow in world.flows:
        account = world.account(flow)
        assert account.all == len(flow.sent)
        if flow.arrived[-1] >= 0:
            exact(world, flow)


@pytest.mark.parametrize("seed", range(2))
def test_a_receiver_that_nobody_watches_is_unwatched_and_not_covered(seed: int) -> None:
    world = World(seed, 3)
    for number in range(2):
        traffic(world, number, 0, 1, 30 * S, END, 0.1)
    world.nodes[1].detached = 0
    world.run(END + QUIET)
    for flow in world.flows:
        assert world.account(flow).uncompared[UncomparedReason.UNWATCHED] == len(flow.sent)
    addresses = np.array([[0] * 12 + [10, node, 0, 1] for node in (1, 1, 0)], np.uint8)
    covers = world.nodes[0].loss.covers
    assert covers.of(addresses, np.array([0, 1, -1]), ["node-1", "another"]).tolist() == [False, True, True]


def test_without_the_exchange_what_goes_to_other_nodes_is_uncompared() -> None:
    world = World(1, 0)
    for node in world.nodes:
        node.exchange = False
        node.start(0)
    busy(world)
    world.run(END + QUIET)
    for flow in world.flows:
        if flow.src == flow.dst:
            exact(world, flow)
        else:
            assert world.account(flow).uncompared[UncomparedReason.UNREACHABLE] == len(flow.sent)


def test_a_flow_that_never_pauses_is_found_to_lose_what_exceeds_that_on_its_way() -> None:
    world = World(1, 2)
    world.late = 0
    sent = np.arange(S, END, MS // 2, dtype=np.int64)
    arrived = sent + 300_000
    arrived[world.random.random(len(sent)) < 0.02] = -1
    flow = Flow(0, 0, 1, sent, arrived)
    world.flows.append(flow)
    world.run(100 * S)
    gone = int(np.searchsorted(flow.gone, 85 * S))
    assert gone - 260 < world.account(flow).lost  # what passes in 130 ms at 2000 a second


@pytest.mark.parametrize("away", [100, 200, 400])
def test_what_was_lost_before_a_long_silence_of_the_source_is_not_counted_again(away: int) -> None:
    """Both agree on the flow when the exchange is cut; it goes on meanwhile, and the destination may forget."""
    world = World(1, 2)
    world.late = 0
    begin, back = 60 * S, (60 + away) * S
    times = [np.arange(2 * S, 20 * S, 10 * MS), np.arange(begin + 5 * S, back + 20 * S, 100 * MS)]
    sent = np.concatenate(times).astype(np.int64)
    arrived = sent + MS
    arrived[(sent < 20 * S) & (np.arange(len(sent)) % 2 == 0)] = -1
    world.flows.append(Flow(0, 0, 1, sent, arrived))
    world.at(begin, lambda _: setattr(world, "linked", False))
    world.at(back, lambda _: setattr(world, "linked", True))
    world.run(back + 60 * S)
    all_accounted(world, world.flows[0])
    assert world.account(world.flows[0]).lost == len(world.flows[0].gone)
