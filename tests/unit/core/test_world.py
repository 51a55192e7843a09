"""What is at an end of a flow: the tables against a plain reading of the same facts, a record at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from podwire_agent.core.cluster import Cluster, Entity, Holdings, Node
from podwire_agent.core.networks import Networks, packed
from podwire_agent.core.services import SEVERAL, Backends, Service, ServiceName, ServicePort, ServiceTable
from podwire_agent.core.world import ExternalNetworks, World
from podwire_agent.model import EndKind, IfIndex, NearBy

ALWAYS = 2**64 - 1
TTL = 10
TCP, UDP = 6, 17

NODES = (
    Node("n1", "z1", (packed("192.0.2.1"), packed("fd00:2::1"))),
    Node("n2", "z2", (packed("192.0.2.2"),)),
    Node("n3", "", ()),
)
WEB = Service(
    ServiceName("shop", "web"),
    (packed("10.96.0.1"), packed("203.0.113.9"), packed("fd00:96::1")),
    (ServicePort(TCP, 80, 30080), ServicePort(TCP, 443)),
    (Backends((packed("10.0.0.1"), packed("10.0.0.2")), TCP, 8080, 80),),
)
DNS = Service(
    ServiceName("kube-system", "dns"),
    (packed("10.96.0.10"),),
    (ServicePort(UDP, 53), ServicePort(TCP, 53)),
    (Backends((packed("10.0.0.3"),), UDP, 5353, 53), Backends((packed("10.0.0.3"),), TCP, 5353, 53)),
)
TWO_PORTS = Service(
    ServiceName("shop", "two"),
    (packed("10.96.0.11"),),
    (ServicePort(TCP, 80), ServicePort(TCP, 443)),
    (Backends((packed("10.0.0.4"),), TCP, 8080, 80), Backends((packed("10.0.0.4"),), TCP, 8080, 443)),
)
WEB_AGAIN = Service(
    ServiceName("shop", "web-headless"),
    (),
    (ServicePort(TCP, 8080),),
    (Backends((packed("10.0.0.1"),), TCP, 8080, 8080),),
)
SERVICES = (WEB, DNS, TWO_PORTS, WEB_AGAIN)
NAMED = (
    ("office", Networks.of(["198.51.100.0/24", "2001:db8::/32", "10.0.0.0/8"])),
    ("vault", Networks.of(["198.51.100.7", "10.96.0.77"])),
)


@dataclass(frozen=True)
class Had:
    """One tenure of pod number `pod`."""

    key: bytes
    pod: int
    start: int
    end: int = ALWAYS
    left: int = ALWAYS


def pods(count: int) -> list[Entity]:
    return [
        Entity(EndKind.POD, "shop", f"p{each}", "Deployment", f"d{each % 3}", f"n{1 + each % 3}", "", f"u{each}")
        for each in range(count)
    ]


def holdings(had: Sequence[Had], width: int) -> Holdings:
    return Holdings(
        np.frombuffer(b"".join(each.key for each in had), np.uint8).reshape(-1, width),
        np.array([each.pod for each in had], np.int32),
        *(np.array([getattr(each, name) for each in had], np.uint64) for name in ("start", "end", "left")),
    )


def cluster(
    had: Sequence[Had] = (), at_node: Sequence[Had] = (), behind: Sequence[Had] = (), *, complete: bool = True
) -> Cluster:
    return Cluster(
        pods=pods(12),
        addresses=holdings(had, 16),
        ports=holdings(at_node, 19),
        interfaces=holdings(behind, 4),
        strange_interfaces=[IfIndex(9)],
        services=ServiceTable(SERVICES),
        service_networks=[each for service in SERVICES for each in service.addresses if each != packed("203.0.113.9")],
        nodes=NODES,
        pod_networks=Networks.of(["10.0.0.0/16", "fd00:1::/64"]),
        here="n1",
        complete=complete,
    )


def world(*had: Had, at_node: Sequence[Had] = (), behind: Sequence[Had] = (), complete: bool = True) -> World:
    return World(cluster(had, at_node, behind, complete=complete), TTL, ExternalNetworks(NAMED))


def port_key(address: str, protocol: int, port: int) -> bytes:
    return packed(address) + bytes([protocol]) + port.to_bytes(2)


def columns(
    asked: Sequence[tuple[bytes, int, int]],
) -> tuple[NDArray[np.uint8], NDArray[np.uint16], NDArray[np.uint8]]:
    return (
        np.frombuffer(b"".join(each[0] for each in asked), np.uint8).reshape(-1, 16),
        np.array([each[1] for each in asked], np.uint16),
        np.array([each[2] for each in asked], np.uint8),
    )


def times(*values: int) -> NDArray[np.uint64]:
    return np.array(values, np.uint64)


def far(found: World, address: str, port: int = 0, protocol: int = TCP, first: int = 100, last: int = 100) -> Entity:
    asked = columns([(packed(address), port, protocol)])
    [index] = found.far(*asked, times(first), times(last))
    return found.entities[int(index)]


def said(entity: Entity) -> tuple[EndKind, str]:
    return entity.kind, entity.name


BY_ADDRESS = {
    "a pod": ("10.0.0.1", 8080, TCP, (EndKind.POD, "p1")),
    "a pod's other address": ("fd00:1::1", 0, TCP, (EndKind.POD, "p1")),
    "a service by address, port and protocol": ("10.96.0.1", 80, TCP, (EndKind.SERVICE, "web")),
    "a load balancer's address": ("203.0.113.9", 443, TCP, (EndKind.SERVICE, "web")),
    "another port of a service's address": ("10.96.0.1", 81, TCP, (EndKind.UNKNOWN, "")),
    "another port of a load balancer's address": ("203.0.113.9", 81, TCP, (EndKind.UNKNOWN, "")),
    "another protocol at a service's address": ("10.96.0.1", 80, UDP, (EndKind.UNKNOWN, "")),
    "a node": ("192.0.2.2", 22, TCP, (EndKind.NODE, "n2")),
    "a node port": ("192.0.2.2", 30080, TCP, (EndKind.SERVICE, "web")),
    "a node port of another protocol": ("192.0.2.2", 30080, UDP, (EndKind.NODE, "n2")),
    "a pod on the host's network by its port": ("192.0.2.1", 9100, TCP, (EndKind.POD, "p2")),
    "the same port of another node": ("192.0.2.2", 9100, TCP, (EndKind.NODE, "n2")),
    "a network with a name": ("198.51.100.1", 443, TCP, (EndKind.EXTERNAL, "office")),
    "the narrower of two with names": ("198.51.100.7", 443, TCP, (EndKind.EXTERNAL, "vault")),
    "an outside IPv6 address": ("2001:db8::1", 443, TCP, (EndKind.EXTERNAL, "office")),
    "outside and without a name": ("8.8.8.8", 53, UDP, (EndKind.EXTERNAL, "")),
    "a pod's address that is not in view, though a wider network has a name": (
        "10.0.77.1",
        80,
        TCP,
        (EndKind.UNKNOWN, ""),
    ),
    "a network with a name within the services'": ("10.96.0.77", 80, TCP, (EndKind.EXTERNAL, "vault")),
    "a service's address that is not in view": ("10.96.0.200", 80, TCP, (EndKind.UNKNOWN, "")),
    "several hosts": ("224.0.0.251", 5353, UDP, (EndKind.UNKNOWN, "")),
    "the same link": ("fe80::1", 0, 58, (EndKind.UNKNOWN, "")),
}


@pytest.mark.parametrize(("address", "port", "protocol", "expected"), BY_ADDRESS.values(), ids=BY_ADDRESS)
def test_at_the_far_end_is(address: str, port: int, protocol: int, expected: tuple[EndKind, str]) -> None:
    had = [Had(packed("10.0.0.1"), 1, 0), Had(packed("fd00:1::1"), 1, 0)]
    found = world(*had, at_node=[Had(port_key("192.0.2.1", TCP, 9100), 2, 0)])
    assert said(far(found, address, port, protocol)) == expected


IN_TIME = {
    "in the time of the former": (50, 99, "p1"),
    "in the time of the later": (120, 130, "p2"),
    "across both": (50, 130, ""),
    "in between, when it was nobody's": (105, 110, ""),
    "from the former's time into that": (90, 105, ""),
    "from that into the later's time": (110, 125, ""),
    "within the time to live of the last": (200, 209, "p2"),
    "beyond it": (200, 211, ""),
    "after it": (300, 310, ""),
    "before anybody had it": (1, 5, ""),
}


@pytest.mark.parametrize(("first", "last", "name"), IN_TIME.values(), ids=IN_TIME)
def test_an_address_that_was_given_again_is_of_whoever_had_it(first: int, last: int, name: str) -> None:
    address = packed("10.0.0.5")
    found = world(Had(address, 2, 120, ALWAYS, 199), Had(address, 1, 10, 100, 150))
    assert far(found, "10.0.0.5", first=first, last=last).name == name


def test_a_port_of_a_node_that_went_from_one_pod_to_another_is_of_each_in_its_time() -> None:
    key = port_key("192.0.2.1", TCP, 9100)
    found = world(at_node=[Had(key, 1, 0, 100, 100), Had(key, 2, 120)])
    kinds = [
        said(far(found, "192.0.2.1", 9100, first=first, last=last)) for first, last in ((1, 99), (90, 130), (130, 140))
    ]
    assert kinds == [(EndKind.POD, "p1"), (EndKind.UNKNOWN, ""), (EndKind.POD, "p2")]


def test_before_all_is_listed_nothing_is_outside_but_what_has_a_name() -> None:
    found = world(complete=False)
    assert said(far(found, "8.8.8.8")) == (EndKind.UNKNOWN, "")
    assert said(far(found, "198.51.100.1")) == (EndKind.EXTERNAL, "office")


def test_without_a_cluster_only_networks_with_names_are_known() -> None:
    found = World(Cluster(), TTL, ExternalNetworks(NAMED))
    assert [said(far(found, each)) for each in ("8.8.8.8", "10.1.1.1", "198.51.100.7")] == [
        (EndKind.UNKNOWN, ""),
        (EndKind.EXTERNAL, "office"),
        (EndKind.EXTERNAL, "vault"),
    ]
    entities, by = found.near(np.array([1], np.uint32), columns([(packed("10.1.1.1"), 0, 0)])[0], times(1), times(2))
    assert (entities.tolist(), by.tolist()) == ([0], [NearBy.NOTHING])


def near(found: World, ifindex: int, address: str, first: int = 100, last: int = 100) -> tuple[str, NearBy]:
    addresses = columns([(packed(address), 0, 0)])[0]
    [entity], [by] = found.near(np.array([ifindex], np.uint32), addresses, times(first), times(last))
    return found.entities[entity].name, NearBy(by)


def interface(index: int, pod: int, start: int = 0, end: int = ALWAYS, left: int = ALWAYS) -> Had:
    return Had(np.uint32(index).tobytes(), pod, start, end, left)


def test_the_near_end_is_the_interfaces_pod_whatever_the_address() -> None:
    found = world(Had(packed("10.0.0.2"), 2, 0), behind=[interface(3, 1)])
    assert near(found, 3, "10.0.0.2") == ("p1", NearBy.INTERFACE)


def test_an_index_that_was_given_again_is_of_each_pod_in_its_time() -> None:
    found = world(behind=[interface(3, 1, 0, 100, 100), interface(3, 2, 120)])
    assert [near(found, 3, "10.9.9.9", *each)[0] for each in ((1, 90), (90, 130), (130, 140))] == ["p1", "", "p2"]


def test_an_interface_that_nothing_is_known_of_is_the_pods_of_this_node_with_the_address() -> None:
    found = world(Had(packed("10.0.0.3"), 3, 0), Had(packed("10.0.0.4"), 4, 0))
    assert near(found, 5, "10.0.0.3") == ("p3", NearBy.ADDRESS)  # p3 is on n1
    assert near(found, 5, "10.0.0.4") == ("", NearBy.NOTHING)  # p4 is on n2
    assert near(found, 5, "10.0.0.9") == ("", NearBy.NOTHING)


def test_an_interface_that_is_no_pods_has_none_at_its_near_end() -> None:
    assert near(world(Had(packed("10.0.0.3"), 3, 0)), 9, "10.0.0.3") == ("", NearBy.NOTHING)


SERVICE_AT = {
    "by its address": ("10.96.0.1", 443, TCP, "web", 443),
    "by IPv6": ("fd00:96::1", 80, TCP, "web", 80),
    "by a node port, with the service's own": ("192.0.2.2", 30080, TCP, "web", 80),
    "not by a pod's port of that number": ("10.0.0.1", 30080, TCP, None, 0),
    "not by another port": ("10.96.0.10", 54, UDP, None, 0),
}


@pytest.mark.parametrize(("address", "port", "protocol", "name", "own"), SERVICE_AT.values(), ids=SERVICE_AT)
def test_a_service_is_found(address: str, port: int, protocol: int, name: str | None, own: int) -> None:
    found = world()
    [index], [number] = found.service_at(*columns([(packed(address), port, protocol)]))
    assert (found.services[index].name if index >= 0 else None, number) == (name, own)


BEHIND = {
    "the only one": ("10.0.0.2", 8080, TCP, "web", 80),
    "by protocol": ("10.0.0.3", 5353, UDP, "dns", 53),
    "one of several": ("10.0.0.1", 8080, TCP, "several", 0),
    "one service by two of its ports": ("10.0.0.4", 8080, TCP, "two", 8080),
    "none": ("10.0.0.2", 80, TCP, "none", 0),
}


@pytest.mark.parametrize(("address", "port", "protocol", "name", "own"), BEHIND.values(), ids=BEHIND)
def test_behind_an_endpoint_is(address: str, port: int, protocol: int, name: str, own: int) -> None:
    found = world()
    asked = columns([(packed(address), port, protocol)])
    [index], [number] = found.service_behind(*asked)
    names = {SEVERAL: "several", -1: "none"}
    assert (names.get(int(index)) or found.services[index].name, number) == (name, own)
    assert found.is_endpoint_port(*asked).tolist() == [name != "none"]


def test_labels_nodes_and_zones_go_with_each_entity() -> None:
    found = world()
    labels = {
        found.entities[at].name or found.entities[at].kind.name: found.workloads[found.workload_of[at]]
        for at in range(len(found.entities))
    }
    shown = {name: (each.namespace, each.name, each.kind) for name, each in labels.items()}
    assert shown["UNKNOWN"] == ("", "", "Unknown")
    assert shown["EXTERNAL"] == ("", "", "External")
    assert shown["office"] == ("", "office", "External")
    assert shown["n1"] == ("", "n1", "Node")
    assert shown["web"] == ("shop", "web", "Service")
    assert shown["p4"] == ("shop", "d1", "Deployment")
    index = {each.name: at for at, each in enumerate(found.entities)}
    assert found.node_of[index["p0"]] == found.node_of[index["n1"]] == found.node_of[index["p3"]]
    assert found.node_of[index["p0"]] != found.node_of[index["p1"]]
    assert found.zone_of[index["n1"]] != found.zone_of[index["n2"]]
    unknown = [index["office"], index["web"], 0, 1]
    assert found.node_of[unknown].tolist() == found.zone_of[[*unknown, index["n3"]]].tolist()[:4] == [-1] * 4
    assert found.kind_of[[0, 1, index["p0"], index["office"]]].tolist() == [0, 4, 1, 4]


def reference(found: Sequence[Had], address: bytes, first: int, last: int) -> str:
    """The pod's name; "" where it is nobody's, or nobody can say."""
    for each in found:
        until = min(each.end, each.left + TTL)
        if each.key == address and each.start < until and each.start <= first and last <= until:
            return f"p{each.pod}"
    return ""


KEYS = [packed(f"10.0.0.{last}") for last in range(1, 5)] + [packed("fd00:1::1"), packed("fd00:1::2")]


@st.composite
def histories(draw: st.DrawFn) -> list[Had]:
    found = []
    for key in KEYS:
        now = draw(st.integers(0, 20))
        for _ in range(draw(st.integers(0, 4))):
            length, gap, left = (draw(st.integers(0, 30)) for _ in range(3))
            found.append(Had(key, draw(st.integers(0, 11)), now, now + length, now + left))
            now += length + gap
        if draw(st.booleans()):
            found.append(Had(key, draw(st.integers(0, 11)), now))
    return draw(st.permutations(found))


@settings(max_examples=100, deadline=None)
@given(
    histories(),
    st.lists(st.tuples(st.sampled_from(KEYS), st.integers(0, 150), st.integers(0, 60)), min_size=1, max_size=60),
)
def test_every_record_is_of_the_pod_that_had_the_address_all_its_time(
    had: list[Had], asked: list[tuple[bytes, int, int]]
) -> None:
    found = world(*had)
    addresses, ports, protocols = columns([(key, 0, 0) for key, _, _ in asked])
    first = times(*(each[1] for each in asked))
    entities = found.far(addresses, ports, protocols, first, first + times(*(each[2] for each in asked)))
    expected = [reference(had, key, begun, begun + length) for key, begun, length in asked]
    assert [found.entities[each].name for each in entities] == expected
    near_names = found.near(np.full(len(asked), 5, np.uint32), addresses, first, first)[0]
    at_once = [reference(had, key, begun, begun) for key, begun, _ in asked]
    here = [name if name in {"p0", "p3", "p6", "p9"} else "" for name in at_once]
    assert [found.entities[each].name for each in near_names] == here


def test_nothing_is_asked_and_nothing_is_answered() -> None:
    found, none = world(), columns([])
    assert found.far(*none, times(), times()).shape == (0,)
    assert found.near(np.zeros(0, np.uint32), none[0], times(), times())[0].shape == (0,)
    assert found.service_behind(*none)[0].shape == (0,)
