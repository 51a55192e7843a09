"""Our programs on real veths: attached, replaced under traffic, beside others' programs, and taken off again."""

from __future__ import annotations

import itertools
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from podwire_agent.errors import InterfaceGone
from podwire_agent.kernel import tcx
from podwire_agent.kernel.interfaces import Interfaces
from podwire_agent.kernel.loader import LibbpfLoader, Loaded
from podwire_agent.kernel.objects import Map, Program, UpdateFlag
from podwire_agent.kernel.tc import Owner, TrafficControl, remove_defunct_links
from podwire_agent.kernel.tcx import TcxLink
from podwire_agent.kernel.verifiable import why_not
from podwire_agent.layout import LEDGER, LEDGER_KEY, FlowDirection
from podwire_agent.model import AttachKind, HookPoint, IfIndex, Interface, MonitorUid
from tests.kernel.netns import Host, ip
from tools.compile_bpf import compile_object


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the objects of others' programs are, compiled."""
    target = tmp_path_factory.mktemp("programs")
    for source in (Path(__file__).parent / "programs").glob("*.bpf.c"):
        compile_object(source, target / source.with_suffix(".o").name)
    return target


@dataclass
class Monitor:
    """One monitor's programs, and the cells that they count in. No flow map: every frame overflows, all are seen."""

    loaded: Loaded
    ledgers: Map
    owner: Owner
    objects: Path
    stack: ExitStack = field(default_factory=ExitStack)

    def program(self, hook: HookPoint) -> Program:
        return self.loaded.programs[f"veth_{hook}"]

    def again(self) -> Monitor:
        """The same monitor restarted: other programs, the same cells."""
        loaded = self.stack.enter_context(LibbpfLoader(self.objects).load({"ledgers": self.ledgers.fd}))
        return Monitor(loaded, self.ledgers, self.owner, self.objects, self.stack)

    def watch(self, index: IfIndex) -> None:
        for direction in FlowDirection:
            key = np.array([(index, direction)], LEDGER_KEY)
            self.ledgers.update(key, np.zeros(self.ledgers.copies, LEDGER), UpdateFlag.NOEXIST)

    def buffers(self, index: IfIndex, hook: HookPoint) -> int:
        direction = FlowDirection.FROM_POD if hook is HookPoint.INGRESS else FlowDirection.TO_POD
        cells = self.ledgers.lookup(np.array([(index, direction)], LEDGER_KEY))
        assert cells is not None
        return int(cells["buffers"].sum())


def make_monitor(objects: Path, home: Path, uid: str, slot: int, stack: ExitStack) -> Monitor:
    loaded = stack.enter_context(LibbpfLoader(objects).load({}))
    for fd in loaded.maps.values():
        stack.callback(os.close, fd)
    ledgers = stack.enter_context(Map(os.dup(loaded.maps["ledgers"]), LEDGER_KEY, LEDGER, per_cpu=True))
    pins = home / uid
    pins.mkdir()
    return Monitor(loaded, ledgers, Owner(MonitorUid(uid), slot, pins), objects, stack)


@pytest.fixture
def monitor(objects: dict[str, Path], tmp_bpffs: Path) -> Iterator[Monitor]:
    with ExitStack() as stack:
        yield make_monitor(objects["flow.bpf.o"], tmp_bpffs, "aaaaaaaa-1111", 1, stack)


@pytest.fixture
def second(objects: dict[str, Path], tmp_bpffs: Path) -> Iterator[Monitor]:
    with ExitStack() as stack:
        yield make_monitor(objects["flow.bpf.o"], tmp_bpffs, "bbbbbbbb-2222", 2, stack)


@pytest.fixture
def foreign(programs: Path) -> Iterator[Loaded]:
    with LibbpfLoader(programs / "foreign.bpf.o").load({}) as loaded:
        yield loaded


@pytest.fixture
def control(host: Host) -> Iterator[TrafficControl]:
    with host.namespace.entered():
        made = TrafficControl()
        with made:
            yield made


def veth(host: Host, name: str = "veth1") -> Interface:
    with host.namespace.entered(), Interfaces() as interfaces:
        return next(each for each in interfaces.all() if each.name == name)


def send(host: Host, frames: int = 200) -> None:
    """UDP from pod 1 to pod 2 and back."""
    one, two = host.pods
    for sender, receiver in ((one, two), (two, one)):
        with sender.namespace.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
            for _ in range(frames):
                udp.sendto(bytes(64), (receiver.ipv4, 9))
    host.settle()


def moved(host: Host, name: str, hook: HookPoint) -> int:
    counters = host.namespace.counters(name)
    return counters.rx_packets if hook is HookPoint.INGRESS else counters.tx_packets


def add_foreign(host: Host, foreign: Loaded, program: str, hook: HookPoint, priority: int, home: Path) -> None:
    pin = home / "foreign" / program
    pin.parent.mkdir(exist_ok=True)
    if not pin.exists():
        foreign.programs[program].pin(pin)
    if "clsact" not in host.namespace.run("tc", "qdisc", "show", "dev", "veth1"):
        host.namespace.run("tc", "qdisc", "add", "dev", "veth1", "clsact")
    where = ["dev", "veth1", str(hook), "prio", str(priority)]
    host.namespace.run("tc", "filter", "add", *where, "bpf", "da", "object-pinned", str(pin))


def filters(host: Host, hook: HookPoint) -> str:
    return host.namespace.run("tc", "filter", "show", "dev", "veth1", str(hook))


def test_both_hooks_see_every_frame_and_the_qdisc_is_ours_to_add(
    host: Host, control: TrafficControl, monitor: Monitor
) -> None:
    interface = veth(host)
    monitor.watch(interface.index)
    before = {hook: moved(host, "veth1", hook) for hook in HookPoint}
    for hook in HookPoint:
        attached = control.attach(interface, hook, monitor.program(hook), monitor.owner)
        assert (attached.kind, attached.priority, attached.note, attached.hidden_by) == (AttachKind.CLSACT, 1, "", "")
    send(host)
    for hook in HookPoint:
        assert monitor.buffers(interface.index, hook) == moved(host, "veth1", hook) - before[hook] >= 200
    assert why_not(interface, ()) == {}
    assert control.holds(interface.index, monitor.owner)


def test_attaching_again_changes_nothing(host: Host, control: TrafficControl, monitor: Monitor) -> None:
    interface = veth(host)
    first = control.attach(interface, HookPoint.INGRESS, monitor.program(HookPoint.INGRESS), monitor.owner)
    shown = filters(host, HookPoint.INGRESS)
    assert control.attach(interface, HookPoint.INGRESS, monitor.program(HookPoint.INGRESS), monitor.owner) == first
    assert filters(host, HookPoint.INGRESS) == shown


def test_after_the_qdisc_was_deleted_by_somebody_the_programs_are_put_back(
    host: Host, control: TrafficControl, monitor: Monitor
) -> None:
    interface = veth(host)
    for hook in HookPoint:
        control.attach(interface, hook, monitor.program(hook), monitor.owner)
    host.namespace.run("tc", "qdisc", "del", "dev", "veth1", "clsact")
    assert not control.holds(interface.index, monitor.owner)
    for hook in HookPoint:
        assert not control.detach(interface.index, hook, monitor.owner)
        assert control.attach(interface, hook, monitor.program(hook), monitor.owner).kind is AttachKind.CLSACT


def replace_under_traffic(host: Host, control: TrafficControl, monitor: Monitor, interface: Interface) -> None:
    """At least 100 replacements at both hooks while more than 1000 frames pass: each is counted once."""
    restarted = monitor.again()
    before = {hook: moved(host, "veth1", hook) - monitor.buffers(interface.index, hook) for hook in HookPoint}
    stop = threading.Event()

    def traffic() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
            while not stop.is_set():
                udp.sendto(bytes(64), (host.pods[1].ipv4, 9))

    sending = host.pods[0].namespace.start(traffic)
    with host.pods[1].namespace.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind((host.pods[1].ipv4, 9))
        try:
            deadline_s = time.monotonic() + 30
            for turn in itertools.count():
                if turn >= 100 and monitor.buffers(interface.index, HookPoint.INGRESS) > 1000:
                    break
                assert time.monotonic() < deadline_s
                current = restarted if turn % 2 == 0 else monitor
                for hook in HookPoint:
                    control.attach(interface, hook, current.program(hook), monitor.owner)
        finally:
            stop.set()
            sending.result(timeout=5)
    send(host)
    for hook in HookPoint:
        assert monitor.buffers(interface.index, hook) == moved(host, "veth1", hook) - before[hook]
    assert monitor.buffers(interface.index, HookPoint.INGRESS) > 1000


def test_replacing_the_filter_under_traffic_loses_and_doubles_nothing(
    host: Host, control: TrafficControl, monitor: Monitor
) -> None:
    interface = veth(host)
    monitor.watch(interface.index)
    for hook in HookPoint:
        control.attach(interface, hook, monitor.program(hook), monitor.owner)
    replace_under_traffic(host, control, monitor, interface)
    assert filters(host, HookPoint.INGRESS).count("podwire/") == 1


def test_replacing_the_program_of_a_tcx_link_under_traffic_loses_and_doubles_nothing(
    host: Host, control: TrafficControl, monitor: Monitor, foreign: Loaded, tmp_bpffs: Path
) -> None:
    interface = veth(host)
    monitor.watch(interface.index)
    for hook in HookPoint:
        add_foreign(host, foreign, "answer_ok", hook, 1, tmp_bpffs)
        assert control.attach(interface, hook, monitor.program(hook), monitor.owner).kind is AttachKind.TCX
    replace_under_traffic(host, control, monitor, interface)


@pytest.mark.parametrize("answer", ["answer_ok", "answer_shot", "answer_unspec"])
def test_a_foreign_filter_before_ours_does_not_hide_the_frames(
    answer: str, host: Host, control: TrafficControl, monitor: Monitor, foreign: Loaded, tmp_bpffs: Path
) -> None:
    interface = veth(host)
    monitor.watch(interface.index)
    add_foreign(host, foreign, answer, HookPoint.INGRESS, 1, tmp_bpffs)
    before = moved(host, "veth1", HookPoint.INGRESS)
    attached = control.attach(interface, HookPoint.INGRESS, monitor.program(HookPoint.INGRESS), monitor.owner)
    assert attached.kind is AttachKind.TCX
    assert answer in attached.note
    assert attached.hidden_by == ""
    send(host)
    assert monitor.buffers(interface.index, HookPoint.INGRESS) == moved(host, "veth1", HookPoint.INGRESS) - before
    others = control.foreign(interface.index, HookPoint.INGRESS, tmp_bpffs)
    assert len(others) == 1
    assert answer in others[0]


@pytest.mark.parametrize("answer", ["answer_ok", "answer_shot", "answer_unspec"])
def test_a_foreign_filter_after_ours_still_decides(
    answer: str, host: Host, control: TrafficControl, monitor: Monitor, foreign: Loaded, tmp_bpffs: Path
) -> None:
    interface = veth(host)
    monitor.watch(interface.index)
    attached = control.attach(interface, HookPoint.INGRESS, monitor.program(HookPoint.INGRESS), monitor.owner)
    assert (attached.kind, attached.priority) == (AttachKind.CLSACT, 1)
    add_foreign(host, foreign, answer, HookPoint.INGRESS, 7, tmp_bpffs)
    before = moved(host, "veth1", HookPoint.INGRESS)
    through = moved(host, "veth2", HookPoint.EGRESS)
    send(host)
    assert monitor.buffers(interface.index, HookPoint.INGRESS) == moved(host, "veth1", HookPoint.INGRESS) - before
    passed = moved(host, "veth2", HookPoint.EGRESS) - through
    assert passed == 0 if answer == "answer_shot" else passed >= 200
    assert control.attach(interface, HookPoint.INGRESS, monitor.program(HookPoint.INGRESS), monitor.owner) == attached
    assert len(control.foreign(interface.index, HookPoint.INGRESS, tmp_bpffs)) == 1


def test_a_foreign_tcx_program_that_comes_first_is_told(
    host: Host, control: TrafficControl, monitor: Monitor, foreign: Loaded
) -> None:
    interface = veth(host)
    hook, program = HookPoint.INGRESS, monitor.program(HookPoint.INGRESS)
    assert control.attach(interface, hook, program, monitor.owner).hidden_by == ""
    intruder = foreign.programs["answer_ok"]
    with TcxLink.create(interface.index, hook, intruder.fd) as link:
        attached = control.attach(interface, hook, program, monitor.owner)
        assert attached.hidden_by == f"the TCX program {intruder.id()}"
        assert intruder.id() in (tcx.programs(interface.index, hook) or [])
        assert attached.hidden_by in why_not(interface, [attached])[hook]
        link.detach()
    assert control.attach(interface, hook, program, monitor.owner).hidden_by == ""


def test_beside_a_foreign_tcx_program_ours_comes_before_it(
    host: Host, control: TrafficControl, monitor: Monitor, foreign: Loaded
) -> None:
    interface = veth(host)
    monitor.watch(interface.index)
    hook = HookPoint.INGRESS
    intruder = foreign.programs["answer_ok"]
    with TcxLink.create(interface.index, hook, intruder.fd):
        before = moved(host, "veth1", hook)
        attached = control.attach(interface, hook, monitor.program(hook), monitor.owner)
        assert (attached.kind, attached.hidden_by) == (AttachKind.TCX, "")
        send(host)
        assert monitor.buffers(interface.index, hook) == moved(host, "veth1", hook) - before
        assert tcx.programs(interface.index, hook) == [monitor.program(hook).id(), intruder.id()]


def test_on_an_ingress_qdisc_nothing_for_egress_lands_on_ingress(
    host: Host, control: TrafficControl, monitor: Monitor
) -> None:
    host.namespace.run("tc", "qdisc", "add", "dev", "veth1", "ingress")
    interface = veth(host)
    monitor.watch(interface.index)
    before = {hook: moved(host, "veth1", hook) for hook in HookPoint}
    kinds = {}
    for hook in HookPoint:
        kinds[hook] = control.attach(interface, hook, monitor.program(hook), monitor.owner).kind
    assert kinds == {HookPoint.INGRESS: AttachKind.CLSACT, HookPoint.EGRESS: AttachKind.TCX}
    send(host)
    for hook in HookPoint:
        assert monitor.buffers(interface.index, hook) == moved(host, "veth1", hook) - before[hook]
    assert len(control.ours(interface.index)) == 1
    for hook in HookPoint:
        assert control.detach(interface.index, hook, monitor.owner)
    assert "ingress" in host.namespace.run("tc", "qdisc", "show", "dev", "veth1")


def test_two_monitors_on_one_veth_both_see_every_frame(
    host: Host, control: TrafficControl, monitor: Monitor, second: Monitor
) -> None:
    interface = veth(host)
    before = {hook: moved(host, "veth1", hook) for hook in HookPoint}
    for each in (monitor, second):
        each.watch(interface.index)
        for hook in HookPoint:
            attached = control.attach(interface, hook, each.program(hook), each.owner)
            assert (attached.priority, attached.hidden_by) == (1, "")
    send(host)
    for hook in HookPoint:
        seen = moved(host, "veth1", hook) - before[hook]
        assert (monitor.buffers(interface.index, hook), second.buffers(interface.index, hook)) == (seen, seen)
        assert control.foreign(interface.index, hook, monitor.owner.pins.parent) == []


def test_detaching_takes_off_ours_and_nothing_else(
    host: Host, control: TrafficControl, monitor: Monitor, second: Monitor, foreign: Loaded, tmp_bpffs: Path
) -> None:
    interface = veth(host)
    for hook in HookPoint:
        for each in (monitor, second):
            control.attach(interface, hook, each.program(hook), each.owner)
        add_foreign(host, foreign, "answer_unspec", hook, 5, tmp_bpffs)
    for hook in HookPoint:
        assert control.detach(interface.index, hook, monitor.owner)
        assert not control.detach(interface.index, hook, monitor.owner), "there is nothing left to take off"
        shown = filters(host, hook)
        assert monitor.owner.name not in shown
        assert second.owner.name in shown
        assert "answer_unspec" in shown
    assert not control.holds(interface.index, monitor.owner)
    assert control.holds(interface.index, second.owner)
    for hook, filter_ in control.ours(interface.index):
        assert control.remove(interface.index, hook, filter_)
    assert control.ours(interface.index) == []
    assert "answer_unspec" in filters(host, HookPoint.INGRESS)


def test_a_tcx_link_outlives_the_agent_and_is_taken_over_from_its_pin(
    host: Host, control: TrafficControl, monitor: Monitor, foreign: Loaded, tmp_bpffs: Path
) -> None:
    interface, hook = veth(host), HookPoint.INGRESS
    add_foreign(host, foreign, "answer_ok", hook, 1, tmp_bpffs)
    control.attach(interface, hook, monitor.program(hook), monitor.owner)
    restarted = monitor.again()
    with host.namespace.entered(), TrafficControl() as another:
        assert another.attach(interface, hook, restarted.program(hook), monitor.owner).kind is AttachKind.TCX
        assert tcx.programs(interface.index, hook) == [restarted.program(hook).id()]
        assert another.holds(interface.index, monitor.owner)
        assert another.detach(interface.index, hook, monitor.owner)
    assert tcx.programs(interface.index, hook) == []
    assert not monitor.owner.link_pin(interface.index, hook).exists()


def test_the_pin_of_a_link_whose_interface_is_gone_is_dropped(
    host: Host, control: TrafficControl, monitor: Monitor, foreign: Loaded, tmp_bpffs: Path
) -> None:
    interface, hook = veth(host), HookPoint.INGRESS
    add_foreign(host, foreign, "answer_ok", hook, 1, tmp_bpffs)
    control.attach(interface, hook, monitor.program(hook), monitor.owner)
    assert remove_defunct_links(monitor.owner) == 0
    host.remove_pod(host.pods[0])
    assert remove_defunct_links(monitor.owner) == 1
    assert list(monitor.owner.pins.iterdir()) == []


def test_a_defunct_pin_does_not_stand_in_the_way_of_a_reused_index(
    host: Host, control: TrafficControl, monitor: Monitor, foreign: Loaded, tmp_bpffs: Path
) -> None:
    interface, hook = veth(host), HookPoint.INGRESS
    add_foreign(host, foreign, "answer_ok", hook, 1, tmp_bpffs)
    control.attach(interface, hook, monitor.program(hook), monitor.owner)
    host.remove_pod(host.pods[0])
    ip(f"link add veth1 index {interface.index} type veth peer name x", netns=host.namespace.name)
    assert control.attach(veth(host), hook, monitor.program(hook), monitor.owner).kind is AttachKind.CLSACT
    assert not monitor.owner.link_pin(interface.index, hook).exists()


@pytest.mark.parametrize("hook", list(HookPoint))
def test_an_interface_that_went_away_is_no_failure(
    hook: HookPoint, host: Host, control: TrafficControl, monitor: Monitor
) -> None:
    interface = veth(host)
    control.attach(interface, hook, monitor.program(hook), monitor.owner)
    host.remove_pod(host.pods[0])
    with pytest.raises(InterfaceGone):
        control.attach(interface, hook, monitor.program(hook), monitor.owner)
    assert not control.detach(interface.index, hook, monitor.owner)


@pytest.mark.parametrize(
    ("change", "hook", "word"),
    [
        pytest.param(("ethtool", "-K", "veth1", "gro", "on"), HookPoint.INGRESS, "GRO", id="GRO at the host end"),
        pytest.param(("ethtool", "-K", "veth1", "tso", "off"), HookPoint.EGRESS, "split", id="no TSO at the host end"),
        pytest.param(
            ("ethtool", "-K", "veth1", "tx-udp-segmentation", "off"),
            HookPoint.EGRESS,
            "split",
            id="no UDP segmentation",
        ),
        pytest.param(
            ("tc", "qdisc", "add", "dev", "veth1", "root", "tbf", "rate", "1gbit", "burst", "64k", "limit", "1M"),
            HookPoint.EGRESS,
            "tbf",
            id="a qdisc that may drop",
        ),
    ],
)
def test_what_makes_the_counters_differ_is_told(
    change: tuple[str, ...], hook: HookPoint, word: str, host: Host
) -> None:
    with host.namespace.entered():
        assert why_not(veth(host), ()) == {}
        host.namespace.run(*change)
        reasons = why_not(veth(host), ())
    assert list(reasons) == [hook]
    assert word in reasons[hook]


def test_an_xdp_program_makes_the_counters_differ(host: Host, programs: Path, tmp_bpffs: Path) -> None:
    with LibbpfLoader(programs / "xdp.bpf.o").load({}) as loaded:
        loaded.programs["pass"].pin(tmp_bpffs / "pass")
    host.namespace.run("ip", "link", "set", "dev", "veth1", "xdpgeneric", "pinned", str(tmp_bpffs / "pass"))
    assert veth(host).xdp
    with host.namespace.entered():
        assert "XDP" in why_not(veth(host), ())[HookPoint.INGRESS]
    host.namespace.run("ip", "link", "set", "dev", "veth1", "xdpgeneric", "off")
    assert not veth(host).xdp
