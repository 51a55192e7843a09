"""Interfaces as netlink tells them: listing, counters, addresses behind, births and deaths, and which are watched."""

from __future__ import annotations

import ipaddress
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from podwire_agent.kernel.addresses import Addresses
from podwire_agent.kernel.cni import CNIS, Role, Selector
from podwire_agent.kernel.events import InterfaceChanges, InterfaceEvents
from podwire_agent.kernel.interfaces import Interfaces
from podwire_agent.model import IfIndex, Interface
from tests.kernel.netns import Host, Pod, eventually, ip


@pytest.fixture
def interfaces(host: Host) -> Iterator[Interfaces]:
    with host.namespace.entered():
        made = Interfaces()
    with made:
        yield made


def named(interfaces: Interfaces, name: str) -> Interface:
    return next(each for each in interfaces.all() if each.name == name)


def index_of(host: Host, pod: Pod) -> IfIndex:
    return IfIndex(host.namespace.index(pod.interface))


def test_a_veth_into_a_pod_tells_its_peer_and_a_bridge_its_kind(host: Host, interfaces: Interfaces) -> None:
    veth = named(interfaces, "veth1")
    assert (veth.kind, veth.up, veth.xdp, veth.qdisc) == ("veth", True, False, "noqueue")
    assert veth.peer_netns_id is not None
    assert veth.peer_index == host.pods[0].namespace.index("eth0")
    assert named(interfaces, "br0").kind == "bridge"
    assert named(interfaces, "lo").kind == ""
    assert interfaces.one(veth.index) == veth


def test_a_veth_within_one_namespace_has_no_foreign_peer(host: Host, interfaces: Interfaces) -> None:
    ip("link add here type veth peer name there", netns=host.namespace.name)
    assert named(interfaces, "here").peer_netns_id is None
    assert named(interfaces, "here").peer_index == named(interfaces, "there").index


def test_an_interface_that_is_not_there_is_none(interfaces: Interfaces) -> None:
    assert interfaces.one(IfIndex(9999)) is None
    assert interfaces.counters(IfIndex(9999)) is None


def test_a_renamed_interface_keeps_its_index(host: Host, interfaces: Interfaces) -> None:
    index = named(interfaces, "veth1").index
    ip("link set veth1 down", "link set veth1 name cali1", "link set cali1 up", netns=host.namespace.name)
    renamed = interfaces.one(index)
    assert renamed is not None
    assert renamed.name == "cali1"


def test_a_qdisc_is_told(host: Host, interfaces: Interfaces) -> None:
    host.namespace.run(
        "tc", "qdisc", "add", "dev", "veth1", "root", "tbf", "rate", "1gbit", "burst", "64k", "limit", "1M"
    )
    assert named(interfaces, "veth1").qdisc == "tbf"


def test_counters_are_those_of_the_kernel(host: Host, interfaces: Interfaces) -> None:
    sender, receiver = host.pods
    with sender.namespace.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        for _ in range(100):
            udp.sendto(bytes(100), (receiver.ipv4, 9))
    host.settle()
    for pod in host.pods:
        counters = interfaces.counters(index_of(host, pod))
        truth = host.namespace.counters(pod.interface)
        assert counters is not None
        assert (counters.received.buffers, counters.received.bytes) == (truth.rx_packets, truth.rx_bytes)
        assert (counters.sent.buffers, counters.sent.bytes) == (truth.tx_packets, truth.tx_bytes)
        assert interfaces.counters_all()[index_of(host, pod)] == counters
    assert host.namespace.counters(sender.interface).rx_packets >= 100


def test_listing_stays_whole_while_interfaces_come_and_go(host: Host, interfaces: Interfaces) -> None:
    stop = threading.Event()

    def churn() -> None:
        while not stop.is_set():
            ip("link add churn type veth peer name churn2", "link del churn")

    churning = host.namespace.start(churn)
    try:
        for _ in range(100):
            listed = [each.name for each in interfaces.all() if not each.name.startswith("churn")]
            assert sorted(listed) == ["br0", "lo", "veth1", "veth2"]
    finally:
        stop.set()
        churning.result(timeout=5)


def test_the_addresses_behind_a_veth_are_those_of_the_pod(host: Host, interfaces: Interfaces) -> None:
    with host.namespace.entered():
        addresses = Addresses()
    with addresses:
        for pod in host.pods:
            behind = addresses.behind(named(interfaces, pod.interface))
            assert behind == frozenset(map(ipaddress.ip_address, (pod.ipv4, pod.ipv6)))
        ip("addr del 10.80.0.1/24 dev eth0", "addr del fd00:80::1/64 dev eth0", netns=host.pods[0].namespace.name)
        assert addresses.behind(named(interfaces, "veth1")) == frozenset()
        ip("link set lo down", netns=host.pods[0].namespace.name)
        ip("addr flush dev lo", netns=host.pods[0].namespace.name)
        assert addresses.behind(named(interfaces, "veth1")) is None, "nothing at all is as good as not allowed to know"
        assert addresses.behind(named(interfaces, "br0")) is None


@pytest.fixture
def events(host: Host) -> Iterator[InterfaceEvents]:
    with host.namespace.entered():
        made = InterfaceEvents()
    with made:
        yield made


def wait_until_seen(events: InterfaceEvents, *, born: IfIndex | None = None, dead: IfIndex | None = None) -> None:
    def seen() -> bool:
        changes = events.wait(1.0)
        return born in changes.changed or dead in changes.removed

    eventually(seen, f"birth of {born} or death of {dead} is told")


def test_a_birth_and_a_death_are_told(host: Host, events: InterfaceEvents) -> None:
    pod = host.add_pod()
    index = index_of(host, pod)
    wait_until_seen(events, born=index)
    host.remove_pod(pod)
    wait_until_seen(events, dead=index)


def test_leaving_a_bridge_is_not_dying(host: Host, events: InterfaceEvents) -> None:
    index = index_of(host, host.pods[0])
    ip("link set veth1 nomaster", netns=host.namespace.name)
    changes = events.wait(1.0)
    assert index in changes.changed
    assert changes.removed == frozenset()


def test_quiet_is_an_empty_answer_after_the_timeout(events: InterfaceEvents) -> None:
    started = time.monotonic()
    assert events.wait(0.05) == InterfaceChanges()
    assert 0.05 <= time.monotonic() - started < 1


def test_another_thread_wakes_a_wait(host: Host, events: InterfaceEvents) -> None:
    waiting = host.namespace.start(lambda: events.wait(60))
    events.wake()
    assert waiting.result(timeout=5) == InterfaceChanges()


def test_a_burst_of_500_births_is_told_without_loss(host: Host, events: InterfaceEvents) -> None:
    ip(*(f"link add b{number} type veth peer name c{number}" for number in range(250)), netns=host.namespace.name)
    changes = events.wait(1.0)
    with host.namespace.entered(), Interfaces() as interfaces:
        born = {each.index for each in interfaces.all() if each.name[0] in "bc" and each.kind == "veth"}
    assert len(born) == 500
    assert changes.changed >= born
    assert not changes.overrun


def test_lost_events_are_told_as_an_overrun(host: Host) -> None:
    with host.namespace.entered():
        small = InterfaceEvents(receive_buffer_bytes=4096)
    with small:
        ip(*(f"link add b{number} type veth peer name c{number}" for number in range(25)), netns=host.namespace.name)
        assert small.wait(1.0).overrun
        assert not small.wait(0.01).overrun, "told once"
        ip("link del b1", netns=host.namespace.name)
        assert len(small.wait(1.0).removed) == 2, "events go on after an overrun"


def veth(name: str = "veth0", kind: str = "veth", peer_netns_id: int | None = 0) -> Interface:
    return Interface(IfIndex(7), name, kind, peer_index=2, peer_netns_id=peer_netns_id)


@pytest.mark.parametrize(
    ("selector", "interface", "role"),
    [
        pytest.param(Selector(), veth(), Role.VETH, id="a veth with a foreign peer is watched"),
        pytest.param(Selector(), veth(peer_netns_id=None), Role.NONE, id="a veth with its peer here is not"),
        pytest.param(Selector(), veth(kind="bridge"), Role.NONE, id="a bridge is not"),
        pytest.param(Selector(), veth(kind=""), Role.NONE, id="hardware is not"),
        pytest.param(Selector(), veth(kind="netkit"), Role.NONE, id="netkit is not"),
        pytest.param(Selector("cali.*"), veth("cali12"), Role.VETH, id="a name that matches is watched"),
        pytest.param(Selector("cali"), veth("cali12"), Role.NONE, id="a name that matches in part is not"),
        pytest.param(Selector("cali.*"), veth("xcali12"), Role.NONE, id="a name that matches later on is not"),
        pytest.param(
            Selector("cali.*"),
            veth("cali12", peer_netns_id=None),
            Role.NONE,
            id="a matching name with its peer here is not",
        ),
        pytest.param(Selector.of_cni("cilium"), veth("lxc1f"), Role.VETH, id="a plugin's name is watched"),
        pytest.param(Selector.of_cni("cilium"), veth("veth1f"), Role.NONE, id="another plugin's is not"),
        pytest.param(
            Selector(host_interfaces=frozenset({"eth0"})),
            veth("eth0", kind=""),
            Role.HOST,
            id="a named host interface is",
        ),
        pytest.param(
            Selector("x", frozenset({"veth0"})), veth("veth0"), Role.HOST, id="being named goes before being a veth"
        ),
    ],
)
def test_selection(selector: Selector, interface: Interface, role: Role) -> None:
    selection = selector.select(interface)
    assert selection.role is role
    assert selection.reason
    assert bool(selection) == (role is not Role.NONE)


@pytest.mark.parametrize(
    ("cni", "name"),
    [
        ("antrea", "coredns--a1b2c3"),
        ("aws-vpc-cni", "eni82111e10a96"),
        ("azure", "azv768e8de"),
        ("bridge", "veth1a2b3c4d"),
        ("calico", "cali82111e10a96"),
        ("canal", "cali82111e10a96"),
        ("cilium", "lxc2f9a1b3c4d5e"),
        ("flannel", "veth1a2b3c4d"),
        ("gke", "gke1a2b3c4d5e6"),
        ("kindnet", "veth1a2b3c4d"),
        ("kube-ovn", "1a2b3c4d5e6f_h"),
        ("kube-ovn", "1a2b3c4d_net1_h"),
        ("kube-router", "veth1a2b3c4d"),
        ("ovn-kubernetes", "1a2b3c4d5e6f7a8"),
        ("weave", "vethwepl1a2b3"),
    ],
)
def test_the_names_that_a_plugin_gives_are_selected(cni: str, name: str) -> None:
    assert Selector.of_cni(cni).select(veth(name)).role is Role.VETH


def test_every_plugin_has_a_source() -> None:
    assert all(cni.source and cni.pattern for cni in CNIS.values())


def test_without_a_capability_addresses_are_unknown_not_none(host: Host) -> None:
    """Asked by a child that has dropped CAP_NET_ADMIN."""
    program = (
        "import sys\n"
        "from podwire_agent.kernel.addresses import Addresses\n"
        "from podwire_agent.kernel.interfaces import Interfaces\n"
        "with Interfaces() as interfaces, Addresses() as addresses:\n"
        "    veth = next(each for each in interfaces.all() if each.name == 'veth1')\n"
        "    assert veth.peer_netns_id is not None\n"
        "    print(addresses.behind(veth), interfaces.counters(veth.index) is not None)\n"
    )
    command = host.namespace.command("setpriv", "--bounding-set=-all", "--inh-caps=-all", sys.executable, "-c", program)
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["None", "True"]
