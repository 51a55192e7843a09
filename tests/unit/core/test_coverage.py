"""Where else a monitor counts packets: at pods that are watched here or on nodes that it means, and behind services."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from podwire_agent.core.coverage import Coverage
from podwire_agent.core.networks import packed
from podwire_agent.core.world import World
from podwire_agent.layout import FlowKind
from podwire_agent.model import TUPLE
from tests.unit.core.test_world import ALWAYS, TCP, Had, port_key, world

HOST_POD = 11
"""On its node's network: it has a port there, and no address of its own."""

WORLD = world(
    *(Had(packed(f"10.0.0.{each + 1}"), each, 0) for each in range(6)),
    at_node=[Had(port_key("192.0.2.2", TCP, 9100), HOST_POD, 0)],
)


def entity(name: str) -> int:
    return next(index for index, each in enumerate(WORLD.entities) if each.name == name)


def said_by_nobody(addresses: NDArray[np.uint8], nodes: NDArray[np.int32], names: Sequence[str]) -> NDArray[np.bool_]:
    assert len(addresses) == len(nodes)
    assert set(names) == {"n1", "n2", "n3"}
    return np.ones(len(addresses), np.bool_)


def coverage(
    nodes: Collection[str] = ("n1", "n2", "n3"), watched: Collection[str] = ("u0", "u3"), *, hosts: bool = False
) -> Coverage:
    return Coverage(WORLD, nodes, watched, None, said_by_nobody, hosts=hosts)


def arrives(covers: Coverage, *names: str) -> list[bool]:
    to = np.zeros(len(names), TUPLE)
    kinds = np.full(len(names), FlowKind.FLOW_WHOLE, np.uint8)
    return list(covers.arrives(np.array([entity(name) for name in names], np.int32), to, kinds).tolist())


def leaves(covers: Coverage, *names: str) -> list[bool]:
    tuples = np.zeros(len(names), TUPLE)
    kinds = np.full(len(names), FlowKind.FLOW_WHOLE, np.uint8)
    return list(covers.leaves(np.array([entity(name) for name in names], np.int32), tuples, kinds).tolist())


def test_a_pod_here_is_covered_where_its_interface_is_watched() -> None:
    assert arrives(coverage(), "p0", "p3") == [True, True]
    assert arrives(coverage(watched=("u3",)), "p0", "p3") == [False, True]


def test_a_pod_of_another_node_is_covered_where_the_monitor_means_the_node() -> None:
    assert arrives(coverage(), "p1", "p2") == [True, True]
    assert arrives(coverage(nodes=("n1", "n2")), "p1", "p2") == [True, False]


def test_nobody_else_is_covered_where_it_arrives() -> None:
    assert arrives(coverage(hosts=True), f"p{HOST_POD}", "n2", "") == [False, False, False]


def test_a_service_is_covered_where_all_behind_it_are() -> None:
    assert arrives(coverage(), "web", "dns") == [True, True]
    assert arrives(coverage(nodes=("n1",)), "web", "dns") == [False, False]


def test_the_last_word_of_an_agent_counts() -> None:
    def silent(addresses: NDArray[np.uint8], nodes: NDArray[np.int32], names: Sequence[str]) -> NDArray[np.bool_]:
        assert len(addresses)
        return np.array([names[node] != "n2" for node in nodes.tolist()], np.bool_)

    covers = Coverage(WORLD, ("n1", "n2", "n3"), ("u0", "u3"), None, silent, hosts=False)
    assert arrives(covers, "p0", "p1", "p2") == [True, False, True]


@pytest.mark.parametrize("hosts", [False, True])
def test_what_leaves_a_node_is_counted_there_where_its_own_interfaces_are_watched(*, hosts: bool) -> None:
    covers = coverage(nodes=("n2", "n3"), hosts=hosts)
    assert leaves(covers, "n2", f"p{HOST_POD}", "n1", "p1") == [hosts, hosts, False, True]


def test_a_world_tells_who_has_a_network_of_its_own_and_who_is_behind_a_service() -> None:
    own = {WORLD.entities[index].name for index in np.flatnonzero(WORLD.has_own_network).tolist()}
    assert own == {f"p{each}" for each in range(6)}
    behind = {WORLD.entities[index].name: pods.tolist() for index, pods in WORLD.backends.items()}
    assert behind["web"] == [entity("p0"), entity("p1")]
    assert behind["dns"] == [entity("p2"), entity("p2")]
    assert behind["two"] == [entity("p3"), entity("p3")]


def test_the_only_pod_behind_a_service_is_found() -> None:
    services = [each.name for each in WORLD.services]
    asked = np.array([services.index("dns"), services.index("web"), services.index("dns")], np.int32)
    found = WORLD.only(asked, np.array([53, 80, 80], np.uint16), np.array([17, TCP, TCP], np.uint8))
    assert found.tolist() == [entity("p2"), -1, -1]


def test_a_former_pod_is_behind_no_service() -> None:
    gone: World = world(Had(packed("10.0.0.1"), 0, 0, end=5, left=5), Had(packed("10.0.0.2"), 1, 0, ALWAYS))
    web = next(index for index, each in enumerate(gone.entities) if each.name == "web")
    names = [gone.entities[index].name if index >= 0 else "" for index in gone.backends[web].tolist()]
    assert names == ["", "p1"]
