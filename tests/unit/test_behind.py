"""Which pod is behind an interface: known late, never, or after all."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field

import pytest

from podwire_agent.behind import DOUBT_S, KEPT_S, LATE_S, NOW_S, SOON_S, YOUNG_S, PodsBehind
from podwire_agent.kernel.addresses import Address, Addresses
from podwire_agent.kernel.interfaces import Interfaces
from podwire_agent.kube.objects import Pod, address_bytes
from podwire_agent.kube.pods import PodStore
from podwire_agent.model import IfIndex, Interface


class Clock:
    now_s = 1000.0

    def unix_ns(self) -> int:
        return int(self.now_s * 1e9)

    mono_ns = unix_ns


class Node(Interfaces, Addresses):
    """Interfaces that are there, and the addresses behind them."""

    def __init__(self) -> None:
        self.there: dict[IfIndex, Interface] = {}
        self.addresses: dict[IfIndex, str | None] = {}

    def one(self, index: IfIndex) -> Interface | None:
        return self.there.get(index)

    def behind(self, interface: Interface) -> frozenset[Address] | None:
        address = self.addresses.get(interface.index, "")
        return None if address is None else frozenset([ipaddress.ip_address(address)] if address else [])


@dataclass
class Scene:
    clock: Clock = field(default_factory=Clock)
    node: Node = field(default_factory=Node)

    def __post_init__(self) -> None:
        self.pods = PodStore("n1", self.clock)
        self.behind = PodsBehind(self.pods, "n1", self.clock, self.node, self.node)

    def veth(self, index: int, address: str | None = "", netns: int = 0) -> Interface:
        made = Interface(IfIndex(index), f"veth{index}", "veth", peer_index=2, peer_netns_id=netns or index)
        self.node.there[made.index] = made
        self.node.addresses[made.index] = address
        return made

    def pod(self, name: str, address: str, node: str = "n1", *, host_network: bool = False) -> None:
        made = Pod(name, "default", name, node, "Running", host_network, (address_bytes(address),), "", "", (), False)
        self.pods.put(name, made)

    def look(self, *interfaces: Interface, after_s: float = 0.0, known: bool = True) -> tuple[bool, float]:
        self.clock.now_s += after_s
        return self.behind.look(interfaces, pods_known=known)

    def look_with(self, host: Interface, *interfaces: Interface) -> None:
        self.behind.look(interfaces, pods_known=True, hosts=[host])


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_pods_are_counted_once_however_many_interfaces_they_have(scene: Scene) -> None:
    scene.pod("a", "10.0.0.1")
    scene.pod("b", "10.0.0.2")
    veths = [scene.veth(1, "10.0.0.1"), scene.veth(2, "10.0.0.2"), scene.veth(3, "192.0.2.7", netns=1)]
    scene.look(*veths)
    assert scene.behind.behind(veths) == 2
    assert scene.behind.behind(veths[:1]) == 1
    scene.pods.discard("b")
    assert scene.behind.behind(veths) == 1


def test_whose_an_interface_is_is_known_as_long_as_it_is_there(scene: Scene) -> None:
    scene.pod("a", "10.0.0.1")
    veth, young, host = scene.veth(1, "10.0.0.1"), scene.veth(2), scene.veth(3)
    scene.behind.look([veth, young], pods_known=True, hosts=[host])
    pod = scene.pods.get("a")
    assert scene.behind.known == {veth.index: pod, host.index: None}
    before = scene.behind.known
    scene.look_with(host, veth, young)
    assert scene.behind.known is before
    scene.pods.discard("a")
    scene.look_with(host, veth, young)
    assert scene.behind.known[veth.index] == pod


def test_a_monitor_that_is_brought_up_anew_finds_known_what_it_watched(scene: Scene) -> None:
    scene.pod("a", "10.0.0.1")
    veth = scene.veth(1, "10.0.0.1")
    scene.look(veth)
    scene.look(after_s=KEPT_S - 1)
    assert veth.index in scene.behind.known
    scene.look(after_s=2)
    assert scene.behind.known == {}


def test_a_namespace_number_that_is_given_again_means_another_pod(scene: Scene) -> None:
    scene.pod("a", "10.0.0.1")
    scene.look(scene.veth(1, "10.0.0.1", netns=7))
    later = scene.veth(2, netns=7)
    scene.look(later)
    assert later.index not in scene.behind.known


def test_a_pod_whose_address_comes_late_is_known_as_soon_as_it_is_told(scene: Scene) -> None:
    veth = scene.veth(1, "10.0.0.1")
    scene.look(veth)
    scene.look(veth, after_s=YOUNG_S)
    scene.pod("a", "10.0.0.1")
    scene.look(veth, after_s=SOON_S / 10)
    assert veth.index in scene.behind.known


def test_an_address_that_comes_a_moment_later_is_looked_for_soon(scene: Scene) -> None:
    veth = scene.veth(1)
    changed, wait_s = scene.look(veth)
    assert (changed, wait_s) == (False, NOW_S)
    scene.node.addresses[veth.index] = "10.0.0.1"
    scene.pod("a", "10.0.0.1")
    assert scene.look(veth, after_s=NOW_S) == (False, LATE_S)
    assert scene.behind.behind([veth]) == 1


def test_what_is_no_pods_after_a_minute_is_strange_until_it_is_one(scene: Scene) -> None:
    veth = scene.veth(1, "172.17.0.2")
    scene.look(veth)
    assert scene.look(veth, after_s=DOUBT_S - 1) == (False, SOON_S)
    assert not scene.behind.is_strange(veth)
    assert scene.look(veth, after_s=2) == (True, LATE_S)
    assert scene.behind.is_strange(veth)
    scene.pod("a", "172.17.0.2")
    assert scene.look(after_s=LATE_S)[0]  # it is not watched any more
    assert not scene.behind.is_strange(veth)


@pytest.mark.parametrize(
    ("address", "known"),
    [
        pytest.param("172.17.0.2", False, id="the pods are not in view"),
        pytest.param(None, True, id="the addresses cannot be known"),
    ],
)
def test_nothing_is_strange_while(address: str | None, known: bool, scene: Scene) -> None:
    veth = scene.veth(1, address)
    for _ in range(5):
        assert not scene.look(veth, after_s=DOUBT_S, known=known)[0]
    assert not scene.behind.is_strange(veth)


@pytest.mark.parametrize(
    ("node", "host_network"),
    [pytest.param("n2", False, id="a pod of another node"), pytest.param("n1", True, id="a pod on the host's network")],
)
def test_no_pod_of_this_node_is(node: str, host_network: bool, scene: Scene) -> None:
    scene.pod("a", "10.0.0.1", node, host_network=host_network)
    veth = scene.veth(1, "10.0.0.1")
    scene.look(veth)
    assert scene.look(veth, after_s=DOUBT_S + 1)[0]


def test_a_later_interface_with_the_same_index_is_another(scene: Scene) -> None:
    veth = scene.veth(1, "172.17.0.2")
    scene.look(veth)
    scene.look(veth, after_s=DOUBT_S + 1)
    again = scene.veth(1, "172.17.0.3", netns=7)
    assert not scene.behind.is_strange(again)
    scene.look(again)
    assert not scene.behind.is_strange(again)


def test_a_strange_one_that_is_gone_is_forgotten(scene: Scene) -> None:
    veth = scene.veth(1, "172.17.0.2")
    scene.look(veth)
    scene.look(veth, after_s=DOUBT_S + 1)
    del scene.node.there[veth.index]
    scene.look(after_s=LATE_S + 1)
    assert not scene.behind.is_strange(veth)
