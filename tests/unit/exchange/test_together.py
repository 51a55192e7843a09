"""Two agents' accounts of loss, over the real exchange: what one has sent and the other has not received."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from podwire_agent.core.loss import COMPARED, Job, Loss
from podwire_agent.core.surroundings import INTERFACE, RECEIVER, Surroundings
from podwire_agent.exchange import identity
from podwire_agent.exchange.client import ExchangeClient
from podwire_agent.layout import FLOW_KEY, FLOW_STATS
from podwire_agent.model import Records
from podwire_agent.statements import WIRE, CutTimes
from tests.unit.exchange.agents import SHOP, Installation, Secret, Shifted, sender, serving, until

pytestmark = pytest.mark.unit

PERIOD_NS = 10**9
FLOWS = 500


@pytest.fixture
def secret(tmp_path: Path) -> Secret:
    secret = Secret(tmp_path / "tls")
    secret.write(Installation().reconcile())
    return secret


class Agent:
    """One node's account, and its node's clocks."""

    def __init__(self, number: int, clock: Shifted) -> None:
        self.clock = clock
        self.number = number
        self.loss = Loss(
            Job(f"node-{number}", f"boot-{number}", 2 * FLOWS, PERIOD_NS, exchange=True, seed=1),
            clock.mono_ns() - 3600 * 10**9,
            threading.Lock(),
        )
        self.sums = {"lost": 0, "compared": 0, "uncompared": 0}

    def flows(self, packets: Any) -> tuple[Records, Records, Records]:
        keys, wires, stats = np.zeros(FLOWS, FLOW_KEY), np.zeros(FLOWS, WIRE), np.zeros(FLOWS, FLOW_STATS)
        for tuples in (keys, wires):
            tuples["src_address"][:, 12:], tuples["dst_address"][:, 12:] = [10, 1, 0, 1], [10, 2, 0, 1]
            tuples["src_port"], tuples["dst_port"], tuples["protocol"] = np.arange(FLOWS), 80, 17
        keys["ifindex"] = 7
        stats["packets"] = packets
        stats["first_mono_ns"] = stats["last_mono_ns"] = self.clock.mono_ns() - 50_000_000
        some = stats["packets"] > 0
        return keys[some], stats[some], wires[some]

    def cut(self) -> CutTimes:
        now = self.clock.mono_ns()
        return CutTimes(self.clock.unix_ns() // PERIOD_NS * PERIOD_NS, now, now)

    def settle(self, answers: Any = ()) -> None:
        interfaces, receivers = np.zeros(1, INTERFACE), np.zeros(1, RECEIVER)
        interfaces["ifindex"] = receivers["ifindex"] = 7
        receivers["address"][0, 12:] = [10, self.number, 0, 1]
        news = self.loss.settle(Surroundings(interfaces, receivers), answers, self.clock.mono_ns())
        for name in self.sums:
            self.sums[name] += int(news[name].sum(dtype=np.uint64))


def test_what_is_lost_between_two_nodes_is_found(secret: Secret, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their clocks differ, and the certificates are renewed meanwhile."""
    monkeypatch.setattr(identity, "LOOK_S", 0.0)
    source, destination = Agent(1, Shifted()), Agent(2, Shifted(mono_s=-1800, wall_s=0.02))
    installation = Installation()
    sent = lost = 0
    with (
        serving(secret, destination.loss, "boot-2", destination.clock) as served,
        ExchangeClient(secret.identity(), lambda _: ("127.0.0.1", served.port), source.clock) as speaker,
    ):
        for tick in range(14):
            packets = np.arange(FLOWS) if tick in {0, 3} else np.zeros(FLOWS, np.int64)
            dropped = packets // 10
            sent, lost = sent + int(packets.sum()), lost + int(dropped.sum())
            if tick in {2, 4}:
                secret.write(installation.reconcile())
            source.loss.sent(
                source.cut(),
                *(flows := source.flows(packets)),
                np.zeros(len(flows[0]), np.int64),
                ["node-2"],
                np.full(len(flows[0]), COMPARED),
            )
            source.settle(speaker.answers(SHOP))
            speaker.post(sender(), source.loss.saved())
            time.sleep(0.12)  # what arrives is cut later
            destination.loss.received(destination.cut(), *destination.flows(packets - dropped))
            destination.settle()
            destination.loss.saved()
            until(lambda: not speaker._busy and not speaker._waiting, "not said")
            assert destination.sums["lost"] <= lost
            assert destination.sums["compared"] + source.sums["uncompared"] <= sent
        assert speaker.state().failures_total == {}
    assert destination.sums == {"lost": lost, "compared": sent, "uncompared": 0}
    assert source.sums == {"lost": 0, "compared": 0, "uncompared": 0}
