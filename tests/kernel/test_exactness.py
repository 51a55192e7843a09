"""Nothing is lost in reading: drained under load, killed at any instant, overflowing, counted flow by flow."""

from __future__ import annotations

import random
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from podwire_agent.core.decode import ledger_cells
from podwire_agent.core.table import FlowTable
from podwire_agent.kernel.datapath import Datapath
from podwire_agent.kernel.interfaces import Interfaces
from podwire_agent.kernel.loader import LibbpfLoader
from podwire_agent.kernel.rotation import release
from podwire_agent.kernel.tc import Owner, TrafficControl
from podwire_agent.layout import FlowDirection
from podwire_agent.model import HookPoint, MonitorUid
from podwire_agent.settings import default_objects
from tests.kernel.netns import Host, Pod, eventually
from tests.kernel.running import Flow, node
from tests.kernel.sending import sending, sent_by

FRAMES = 2_000_000
FLOWS = 20_000


@pytest.fixture
def lone_pod() -> Iterator[tuple[Host, Pod]]:
    """A pod whose host end is in no bridge: nobody answers, nobody forwards."""
    with Host(pods=1) as host:
        host.namespace.run("ip", "link", "set", "veth1", "nomaster")
        host.settle()
        yield host, host.pods[0]


def flows_of_table(rows: Any) -> Counter[Flow]:
    """FLOW_ROW of IPv4 UDP flows -> packets by flow."""
    found: Counter[Flow] = Counter()
    addresses = [".".join(map(str, row)) for row in rows["key"]["src_address"][:, 12:].tolist()]
    for address, packets in zip(addresses, rows["packets"].tolist(), strict=True):
        found[address, "10.200.0.1", 4000, 5000, "UDP"] += packets
    return found


def test_two_million_frames_drained_without_pause_are_all_there_flow_by_flow(
    lone_pod: tuple[Host, Pod], tmp_bpffs: Path
) -> None:
    host, pod = lone_pod
    table = FlowTable(4 * FLOWS, seed=1)
    with (
        host.namespace.entered(),
        Datapath.open(tmp_bpffs, "drained", LibbpfLoader(default_objects() / "flow.bpf.o"), 65_536) as datapath,
        TrafficControl() as control,
        Interfaces() as interfaces,
    ):
        (interface,) = [each for each in interfaces.all() if each.name == "veth1"]
        datapath.open_ledger(interface.index)
        owner = Owner(MonitorUid("drained"), 1, tmp_bpffs / "drained")
        for hook in HookPoint:
            control.attach(interface, hook, datapath.program(False, hook), owner)
        rotation = datapath.rotations[FlowDirection.FROM_POD]
        before = host.namespace.counters("veth1").rx_packets
        drains = 0
        with sending(pod.namespace, FRAMES, FLOWS) as senders:
            running = True
            while running:
                running = any(each.poll() is None for each in senders)
                frozen = rotation.cut(65_536)
                keys, stats = frozen.map.read()
                table.fold(FlowDirection.FROM_POD, keys, stats[:, 0])
                release(frozen)
                drains += 1
        cells = datapath.ledger(interface.index, FlowDirection.FROM_POD)
        assert cells is not None
        seen = ledger_cells(cells)
        for hook in HookPoint:
            control.detach(interface.index, hook, owner)
        datapath.remove()
    assert drains > 20
    assert host.namespace.counters("veth1").rx_packets - before == FRAMES == seen.seen.packets
    assert seen.overflowed.packets == 0
    assert flows_of_table(table.rows()) == sent_by(FRAMES, FLOWS)


def test_an_agent_killed_and_restarted_five_times_at_random_loses_and_doubles_nothing(
    lone_pod: tuple[Host, Pod],
) -> None:
    host, pod = lone_pod
    draw = random.Random(5)
    with node(host.namespace, maxFlows=131_072) as place:
        agent = place.start()
        agent.ready()
        with sending(pod.namespace, FRAMES, FLOWS, rate=160_000) as senders:
            for _ in range(5):
                with pytest.raises(Exception, match="timed out"):
                    agent.process.wait(0.4 + 1.5 * draw.random())
                agent.kill()
                agent = place.start()
                agent.ready()
            for each in senders:
                each.wait()
        host.settle()
        assert agent.stop() == 0, agent.errors.read_text()
        place.identity_holds()
        assert place.flows_of_lines()["from_pod"] == sent_by(FRAMES, FLOWS)
        assert place.pins() == []
        assert place.filters() == ""


@pytest.mark.parametrize("first", range(6))
def test_an_agent_killed_after_any_step_of_a_tick_loses_and_doubles_nothing(
    lone_pod: tuple[Host, Pod], first: int
) -> None:
    """Every sixth of the first 30 steps of its life: those of taking over, and of two ticks."""
    host, pod = lone_pod
    frames, flows = 200_000, 500
    with node(host.namespace) as place:
        agent = place.start()
        agent.ready()
        with sending(pod.namespace, frames, flows, rate=12_500) as senders:  # 16 s: as long as the kills take
            agent.kill()
            for steps in range(first + 1, 31, 6):
                killed = place.start(module="tests.kernel.kill_at", arguments=[str(steps)])
                assert killed.process.wait(20) == -9, killed.errors.read_text()
            agent = place.start()
            agent.ready()
            for each in senders:
                each.wait()
        host.settle()
        assert agent.stop() == 0, agent.errors.read_text()
        place.identity_holds()
        assert place.flows_of_lines()["from_pod"] == sent_by(frames, flows)


def test_more_flows_than_the_map_holds_are_counted_as_overflowed_not_lost(lone_pod: tuple[Host, Pod]) -> None:
    host, pod = lone_pod
    frames, flows = 400_000, 50_000
    with node(host.namespace, maxFlows=65_536, pollingPeriod="5s") as place:
        agent = place.start()
        agent.ready()
        # Four senders with 50 000 flows each, in turn: 200 000 flows in one period.
        with sending(pod.namespace, frames, flows, senders=4) as senders:
            for each in senders:
                each.wait()
        host.settle()
        assert agent.stop() == 0, agent.errors.read_text()
        line = place.last_ledgers()["veth1", "from_pod"]
        assert line["overflowed"]["packets"] > 0
        assert line["counted"]["packets"] + line["overflowed"]["packets"] == frames
        reported = place.flows_of_lines()["from_pod"]
        assert reported.total() == line["counted"]["packets"]
        assert not reported - sent_by(frames, flows, senders=4)


def test_what_an_agent_kept_attached_is_taken_over_by_the_next(lone_pod: tuple[Host, Pod]) -> None:
    host, pod = lone_pod
    with node(host.namespace) as place:
        agent = place.start("--keep")
        agent.ready()
        assert agent.stop() == 0
        assert place.pins() != []
        with sending(pod.namespace, 10_000, 10) as senders:
            for each in senders:
                each.wait()
        agent = place.start()
        agent.ready()
        assert agent.stop() == 0
        place.identity_holds()
        assert place.flows_of_lines()["from_pod"] == sent_by(10_000, 10)
        assert place.pins() == []
        assert np.sum([path.stat().st_size for path in (place.directory / "state").glob("*.checkpoint")]) == 0


def test_a_full_state_directory_delays_and_loses_nothing(lone_pod: tuple[Host, Pod]) -> None:
    host, pod = lone_pod
    frames, flows = 40_000, 2_000
    with node(host.namespace) as place:
        state = place.directory / "state"
        state.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "pw-state", state], check=True)
        try:
            agent = place.start()
            agent.ready()
            with sending(pod.namespace, frames, flows) as senders:
                for each in senders:
                    each.wait()
            eventually(lambda: "make room for it" in agent.errors.read_text(), "the checkpoint does not fit", 10)
            subprocess.run(["mount", "-o", "remount,size=64m", state], check=True)
            with sending(pod.namespace, frames, flows) as senders:
                for each in senders:
                    each.wait()
            host.settle()
            assert agent.stop() == 0, agent.errors.read_text()
        finally:
            subprocess.run(["umount", state], check=True)
        place.identity_holds()
        assert place.flows_of_lines()["from_pod"] == sent_by(frames, flows) + sent_by(frames, flows)
