"""Which flows the comparison of both ends is told of, under which name, and what is known of them already."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from podwire_agent.core.between_pods import Between, between_pods
from podwire_agent.core.correlate import ends_of
from podwire_agent.core.coverage import Coverage
from podwire_agent.core.covers import Covers
from podwire_agent.core.loss import COMPARED, NOT_BETWEEN_PODS
from podwire_agent.core.networks import packed
from podwire_agent.core.questions import Vantage
from podwire_agent.core.table import REPORT
from podwire_agent.core.talk import Talk
from podwire_agent.core.translation_table import TranslationTable
from podwire_agent.core.translations import Translations
from podwire_agent.layout import FlowDirection
from podwire_agent.model import CONNECTION, TUPLE, Records, UncomparedReason
from tests.unit.core.test_world import TCP, Had, world

FROM_POD, TO_POD = FlowDirection
CLIENT, HERE, THERE, SERVICE = "10.0.0.1", "10.0.0.4", "10.0.0.2", "10.96.0.1"
"""p0 and p3 of n1, p1 of n2; and the service `web`, whose pods are p0 and p1."""
CLIENT_IF, HERE_IF, HOST_IF = 5, 6, 2
WORLD = world(
    *(Had(packed(address), pod, 0) for address, pod in ((CLIENT, 0), (HERE, 3), (THERE, 1))),
    behind=[Had(CLIENT_IF.to_bytes(4, "little"), 0, 0), Had(HERE_IF.to_bytes(4, "little"), 3, 0)],
)

Way = tuple[str, int, str, int]
"""Source, its port, destination, its port."""


def tuple_of(way: Way) -> Records:
    found = np.zeros(1, TUPLE)
    src, src_port, dst, dst_port = way
    found["src_address"], found["dst_address"] = (np.frombuffer(packed(each), np.uint8) for each in (src, dst))
    found["src_port"], found["dst_port"], found["protocol"] = src_port, dst_port, TCP
    return found


def told(direction: FlowDirection, ifindex: int, way: Way, translations: Translations | None = None) -> Between:
    flows = np.zeros(1, REPORT)
    for name in ("src_address", "dst_address", "src_port", "dst_port", "protocol"):
        flows["key"][name] = tuple_of(way)[name]
    flows["key"]["ifindex"], flows["direction"] = ifindex, direction
    flows["first_mono_ns"] = flows["last_mono_ns"] = 10**9
    talk = Talk.of(flows, translations or Translations.none())
    covers = Coverage(WORLD, ("n1", "n2"), ("u0", "u3"), None, Covers.everything().of, hosts=True)
    vantage = Vantage("n1", frozenset({HOST_IF}))
    ends = ends_of(talk, flows, WORLD, covers, vantage)
    return between_pods(talk, ends, vantage.on_host(np.array([ifindex], np.uint32)), WORLD)


def receiver(found: Between) -> str:
    """The node's name; "": it is not told of."""
    node = int(found.nodes[0])
    return "" if node == NOT_BETWEEN_PODS else WORLD.nodes[node]


SENT: dict[str, tuple[int, Way, str, int]] = {
    "to a pod of this node": (CLIENT_IF, (CLIENT, 4000, HERE, 80), "n1", COMPARED),
    "to a pod of another node": (CLIENT_IF, (CLIENT, 4000, THERE, 80), "n2", COMPARED),
    "to a service, and nobody knows to which pod": (
        CLIENT_IF,
        (CLIENT, 4000, SERVICE, 80),
        "n1",
        UncomparedReason.TRANSLATED,
    ),
    "to the outside": (CLIENT_IF, (CLIENT, 4000, "203.0.113.50", 80), "", COMPARED),
    "to a node": (CLIENT_IF, (CLIENT, 4000, "192.0.2.2", 80), "", COMPARED),
    "out of the node's own interface": (HOST_IF, (CLIENT, 4000, THERE, 80), "", COMPARED),
}


@pytest.mark.parametrize(("ifindex", "way", "node", "reason"), SENT.values(), ids=SENT)
def test_what_a_pod_sends(ifindex: int, way: Way, node: str, reason: int) -> None:
    found = told(FROM_POD, ifindex, way)
    assert (receiver(found), int(found.reasons[0])) == (node, reason)
    assert not found.arriving[0]


@pytest.mark.parametrize(
    ("ifindex", "src", "may_be_a_pods"),
    [(HERE_IF, CLIENT, True), (HERE_IF, THERE, True), (HERE_IF, "192.0.2.2", True), (HERE_IF, "203.0.113.50", False),
     (HOST_IF, CLIENT, False)],
)  # fmt: skip
def test_what_arrives_may_come_from_a_pod(ifindex: int, src: str, *, may_be_a_pods: bool) -> None:
    found = told(TO_POD, ifindex, (src, 4000, HERE, 80))
    assert bool(found.arriving[0]) is may_be_a_pods
    assert receiver(found) == ""


def translated(original: Way, seen_by_the_server: Way) -> Translations:
    begun = np.zeros(1, CONNECTION)
    begun["original"], begun["translated"] = tuple_of(original), tuple_of(seen_by_the_server)
    table = TranslationTable(1)
    table.replace(begun, 0, 1)
    return table.snapshot(2)


FORMS: Sequence[Any] = [
    pytest.param(FROM_POD, CLIENT_IF, (CLIENT, 4000, SERVICE, 80), False, id="as the client sends"),
    pytest.param(TO_POD, HERE_IF, (CLIENT, 4000, HERE, 8080), False, id="as the server receives"),
    pytest.param(FROM_POD, HERE_IF, (HERE, 8080, CLIENT, 4000), True, id="as the server answers"),
    pytest.param(TO_POD, CLIENT_IF, (SERVICE, 80, CLIENT, 4000), True, id="as the client is answered"),
]


@pytest.mark.parametrize(("direction", "ifindex", "way", "is_answer"), FORMS)
def test_both_ends_know_a_translated_flow_by_one_name(
    direction: FlowDirection, ifindex: int, way: Way, *, is_answer: bool
) -> None:
    server_side = (CLIENT, 4000, HERE, 8080)
    found = told(direction, ifindex, way, translated((CLIENT, 4000, SERVICE, 80), server_side))
    name = (*server_side[2:], *server_side[:2]) if is_answer else server_side
    assert found.wires.tobytes() == tuple_of(name).tobytes()
    assert int(found.reasons[0]) == COMPARED
    assert receiver(found) == ("n1" if direction is FROM_POD else "")
