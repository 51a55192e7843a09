"""One monitor's drains become rows, with both ends of the flows within the node compared; over a crash too."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from podwire_agent.comparison import Comparison, Here
from podwire_agent.core import loss
from podwire_agent.core.books import Came
from podwire_agent.core.coverage import Coverage
from podwire_agent.core.networks import packed
from podwire_agent.core.questions import Vantage
from podwire_agent.core.table import REPORT
from podwire_agent.core.translations import Translations
from podwire_agent.correlation import Correlation, Sight
from podwire_agent.layout import FlowDirection
from podwire_agent.model import IfIndex, Records, UncomparedReason
from podwire_agent.statements import CutTimes
from tests.unit.core.test_world import TCP, Had, world

S = 10**9
CLIENT, SERVER, FAR = "10.0.0.1", "10.0.0.4", "10.0.0.2"
"""p0 and p3 of n1, behind interfaces 5 and 6; p1 of n2."""
WORLD = world(
    *(Had(packed(address), pod, 0) for address, pod in ((CLIENT, 0), (SERVER, 3), (FAR, 1))),
    behind=[Had((5).to_bytes(4, "little"), 0, 0), Had((6).to_bytes(4, "little"), 3, 0)],
)
WATCHED = {IfIndex(5): (S, (0, 0)), IfIndex(6): (S, (0, 0))}
HERE = Here(WATCHED, {packed(CLIENT): IfIndex(5), packed(SERVER): IfIndex(6)}, None)


@dataclass
class Clock:
    now_ns: int = 100 * S

    def unix_ns(self) -> int:
        return self.now_ns + 10**18

    def mono_ns(self) -> int:
        return self.now_ns


@dataclass
class Monitor:
    """A Correlation, and the checkpoint it was last saved in."""

    clock: Clock = field(default_factory=Clock)
    saved: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.correlation = self._made()
        self.drain()  # it was here before the traffic

    def drain(self, *came: Came) -> None:
        self.correlation.enter(came, HERE)
        self.saved = deepcopy(self.correlation.sections())  # as it is on disk
        self.correlation.saved()

    def crash(self) -> None:
        """What is not in the checkpoint is forgotten."""
        self.correlation = self._made()
        self.correlation.restore(self.saved)

    def row(self, dst_workload: str = "d0") -> dict[str, Any]:
        """The only one to that workload."""
        edges = self.correlation.totals()
        [at] = [index for index, labels in enumerate(edges.labels) if labels.dst_workload == dst_workload]
        return {name: edges.counts[name][at].tolist() for name in edges.counts.dtype.names or ()}

    def _made(self) -> Correlation:
        job = loss.Job(node="n1", boot_id="b", limit=1024, period_ns=S, exchange=False, seed=7)
        comparison = Comparison(job, self.clock, None)
        return Correlation(lambda: self._look(comparison), 100, self.clock, comparison)

    def _look(self, comparison: Comparison) -> Sight:
        covers = Coverage(WORLD, ("n1", "n2"), ("u0", "u3"), None, comparison.word, hosts=False)
        return Sight(WORLD, Translations.none(), covers, Vantage("n1", backends=WORLD))


def flow(direction: FlowDirection, ifindex: int, dst: str, packets: int, at_ns: int) -> Records:
    """From the client, begun by its SYN."""
    flows = np.zeros(1, REPORT)
    key = flows["key"]
    key["src_address"] = np.frombuffer(packed(CLIENT), np.uint8)
    key["dst_address"] = np.frombuffer(packed(dst), np.uint8)
    key["src_port"], key["dst_port"], key["protocol"], key["ifindex"] = 40000, 8080, TCP, ifindex
    flows["direction"], flows["packets"], flows["bytes"] = direction, packets, 100 * packets
    flows["first_mono_ns"] = flows["last_mono_ns"] = at_ns
    flows["seen_syn"] = 1
    return flows


def epoch(monitor: Monitor, sent: int, arrived: int, dst: str = SERVER) -> tuple[Came, ...]:
    """Both directions of one, in which the client has sent so many packets."""
    clock = monitor.clock
    at_ns = clock.now_ns + S // 2
    clock.now_ns += S
    first = CutTimes(clock.unix_ns(), clock.mono_ns(), clock.mono_ns())
    clock.now_ns += S // 10
    second = CutTimes(clock.unix_ns(), clock.mono_ns(), clock.mono_ns())
    clock.now_ns += S // 100
    there = flow(FlowDirection.TO_POD, 6, dst, arrived, at_ns)[: 1 if arrived else 0]
    return (
        Came(flow(FlowDirection.FROM_POD, 5, dst, sent, at_ns), FlowDirection.FROM_POD, first),
        Came(there, FlowDirection.TO_POD, second),
    )


def test_what_arrives_is_the_row_and_the_difference_is_lost() -> None:
    monitor = Monitor()
    monitor.drain(*epoch(monitor, 10, 8))
    monitor.drain(*epoch(monitor, 5, 5))
    row = monitor.row()
    assert (row["packets"], row["bytes"], row["compared"], row["lost"]) == (13, 1300, 15, 2)
    assert sum(row["uncompared"]) == 0
    assert monitor.correlation.state().lost_lately == 2


def test_of_a_flow_that_never_arrives_all_is_lost() -> None:
    monitor = Monitor()
    monitor.drain(*epoch(monitor, 7, 0))
    monitor.drain(*epoch(monitor, 1, 0))
    row = monitor.row()
    assert (row["packets"], row["compared"], row["lost"]) == (0, 8, 8)


def test_a_crash_repeats_a_drain_and_nothing_is_counted_twice() -> None:
    monitor = Monitor()
    monitor.drain(*epoch(monitor, 10, 8))
    came = epoch(monitor, 10, 9)
    monitor.correlation.enter(came, HERE)  # and is killed before the checkpoint
    monitor.crash()
    monitor.drain(*came)
    row = monitor.row()
    assert (row["packets"], row["compared"], row["lost"]) == (17, 20, 3)


def test_what_was_held_back_is_compared_when_it_is_counted_and_is_in_the_row_when_it_is_judged() -> None:
    monitor = Monitor()
    sent, arrived = epoch(monitor, 10, 10)
    held = replace(arrived, in_flows=False)
    monitor.drain(sent, held)
    edges = monitor.correlation.totals()
    assert not edges.counts["packets"].any()
    monitor.clock.now_ns += S
    monitor.drain(Came(arrived.flows, epoch=None))
    row = monitor.row()
    assert (row["packets"], row["compared"], row["lost"]) == (10, 10, 0)


def test_without_the_exchange_what_goes_to_another_node_is_uncompared() -> None:
    monitor = Monitor()
    monitor.drain(*epoch(monitor, 10, 0, FAR))
    found = monitor.row("d1")
    assert found["packets"] == 0  # they are in a row of the other node's agent
    assert found["uncompared"][UncomparedReason.UNREACHABLE] == 10
    assert monitor.correlation.state().lost_lately is None
